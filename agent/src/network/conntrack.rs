//! Forgetting UDP flows when a published port changes hands.
//!
//! NAT is decided by a flow's first packet, and a UDP flow lasts as long as somebody sends. A client
//! that keeps its socket (an X-Ray SDK does) would go on sending to a container that ended, or
//! into the void if it began before the port was published. So the flows to the port are deleted
//! from connection tracking, and the next packet is judged anew. TCP connections end with their container.
//! Reference: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NlasIterator};
use nix::errno::Errno;
use protocol::taskdef::TransportProtocol;

use super::firewall::Published;
use super::netlink::{Error, Raw, Socket};

const CT_NEW: u16 = 0x100;
const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
/// `struct nfgenmsg`: family IPv4, version 0, no resource.
const HEADER: [u8; 4] = [2, 0, 0, 0];
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const IPPROTO_UDP: u8 = 17;

/// What identifies a flow: the attributes for its deletion, as the kernel gave them.
struct Flow {
    port: u16,
    identity: Vec<u8>,
}

/// Deletes every UDP flow whose client sends to one of these host ports. Failure is only logged: old
/// flows then last until their clients pause for half a minute.
pub(super) fn forget(published: &Published) {
    let ports: Vec<u16> = published
        .keys()
        .filter(|(protocol, _)| *protocol == TransportProtocol::Udp)
        .map(|(_, port)| *port)
        .collect();
    if ports.is_empty() {
        return;
    }
    if let Err(error) = delete(&ports) {
        tracing::warn!(
            ?ports,
            error = &error as &dyn std::error::Error,
            "UDP clients of these ports may reach a former container until they pause"
        );
    }
}

fn delete(ports: &[u16]) -> Result<(), Error> {
    let mut socket = Socket::open_protocol(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let list = Raw { kind: CT_GET, flags: NLM_F_DUMP, answer: CT_NEW, payload: &HEADER };
    let flows = socket.exchange("list tracked connections", &list, parse)?;
    for flow in flows.iter().filter(|flow| ports.contains(&flow.port)) {
        let delete = Raw {
            kind: CT_DELETE,
            flags: NLM_F_ACK,
            answer: CT_NEW,
            payload: &[&HEADER, flow.identity.as_slice()].concat(),
        };
        match socket.exchange("delete a tracked connection", &delete, |_| Ok(None::<()>)) {
            Ok(_) => {}
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A UDP flow; other connections give nothing.
fn parse(payload: &[u8]) -> Result<Option<Flow>, String> {
    let mut flow = None;
    let mut identity = Vec::new();
    for nla in NlasIterator::new(payload.get(HEADER.len()..).unwrap_or_default()) {
        let nla = nla.map_err(|error| error.to_string())?;
        match nla.kind() {
            CTA_TUPLE_ORIG => {
                flow = udp_port(nla.value())?;
                append(&mut identity, CTA_TUPLE_ORIG | NLA_F_NESTED, nla.value());
            }
            kind @ (CTA_ID | CTA_ZONE) => append(&mut identity, kind, nla.value()),
            _ => {}
        }
    }
    Ok(flow.map(|port| Flow { port, identity }))
}

fn udp_port(tuple: &[u8]) -> Result<Option<u16>, String> {
    let (mut protocol, mut port) = (None, None);
    for nla in NlasIterator::new(tuple) {
        let nla = nla.map_err(|error| error.to_string())?;
        if nla.kind() != CTA_TUPLE_PROTO {
            continue;
        }
        for part in NlasIterator::new(nla.value()) {
            let part = part.map_err(|error| error.to_string())?;
            match part.kind() {
                CTA_PROTO_NUM => protocol = part.value().first().copied(),
                CTA_PROTO_DST_PORT => {
                    port = part.value().first_chunk::<2>().map(|raw| u16::from_be_bytes(*raw));
                }
                _ => {}
            }
        }
    }
    Ok(port.filter(|_| protocol == Some(IPPROTO_UDP)))
}

/// An attribute with its header, padded to four bytes. Values come from attributes the kernel sent, so
/// their length fits.
fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}
