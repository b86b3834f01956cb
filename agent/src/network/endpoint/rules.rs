//! The two rules, in nfnetlink's bytes. In nft's language:
//!
//! ```text
//! table ip lighter_endpoint {
//!   chain request {
//!     type filter hook output priority raw;
//!     ip daddr 169.254.170.2 tcp dport 80 tcp dport set 51679
//!   }
//!   chain answer {
//!     type filter hook output priority 300;
//!     ip saddr 169.254.170.2 tcp sport 51679 tcp sport set 80
//!   }
//! }
//! ```

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use crate::network::netlink::{Error, Raw, Socket};

const TABLE: &[u8] = b"lighter_endpoint\0";
const REQUEST: Chain = Chain { name: b"request\0", priority: -300 };
const ANSWER: Chain = Chain { name: b"answer\0", priority: 300 };

const NFNL_BATCH_BEGIN: u16 = 0x10;
const NFNL_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const DELETE_TABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 2;
const NEW_CHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NFPROTO_IPV4: u8 = 2;
const NF_INET_LOCAL_OUT: u32 = 3;
const NLA_F_NESTED: u16 = 0x8000;

const REGISTER: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE_ADDRESS: u32 = 12;
const DESTINATION_ADDRESS: u32 = 16;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
const TCP_CHECKSUM: u32 = 16;
const NFT_META_L4PROTO: u32 = 16;
const NFT_PAYLOAD_CSUM_INET: u32 = 1;
const IPPROTO_TCP: u8 = 6;

#[derive(Debug, Clone, Copy)]
struct Chain {
    name: &'static [u8],
    priority: i32,
}

/// Makes the table with both rules in the calling thread's namespace, in place of one that is there.
pub(super) fn install(address: Ipv4Addr, from: u16, to: u16) -> Result<(), Error> {
    let mut socket = Socket::open_protocol(netlink_sys::protocols::NETLINK_NETFILTER)?;
    match socket.transact("make the endpoint's rules", &raw(&creation(address, from, to))) {
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            let mut batch = creation(address, from, to);
            // Behind the begin of the batch. Deleting waits for the kernel, so not always.
            batch.insert(1, deletion());
            socket.transact("replace the endpoint's rules", &raw(&batch))
        }
        other => other,
    }
}

/// Removes the table; none is no error.
pub(super) fn remove() -> Result<(), Error> {
    let mut socket = Socket::open_protocol(netlink_sys::protocols::NETLINK_NETFILTER)?;
    let batch = [boundary(NFNL_BATCH_BEGIN), deletion(), boundary(NFNL_BATCH_END)];
    match socket.transact("remove the endpoint's rules", &raw(&batch)) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// One message: type, flags, payload.
type Message = (u16, u16, Vec<u8>);

fn raw(batch: &[Message]) -> Vec<Raw<'_>> {
    batch
        .iter()
        .map(|(kind, flags, payload)| Raw { kind: *kind, flags: *flags, answer: 0, payload })
        .collect()
}

fn creation(address: Ipv4Addr, from: u16, to: u16) -> Vec<Message> {
    let table = (NEW_TABLE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message(&[attribute(1, TABLE)]));
    vec![
        boundary(NFNL_BATCH_BEGIN),
        table,
        chain(REQUEST),
        chain(ANSWER),
        rule(REQUEST, address, DESTINATION_ADDRESS, DESTINATION_PORT, (from, to)),
        rule(ANSWER, address, SOURCE_ADDRESS, SOURCE_PORT, (to, from)),
        boundary(NFNL_BATCH_END),
    ]
}

fn deletion() -> Message {
    (DELETE_TABLE, NLM_F_ACK, message(&[attribute(1, TABLE)]))
}

fn boundary(kind: u16) -> Message {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    (kind, 0, vec![0, 0, high, low])
}

fn chain(chain: Chain) -> Message {
    let hook = [
        attribute(1, &NF_INET_LOCAL_OUT.to_be_bytes()),
        attribute(2, &chain.priority.to_be_bytes()),
    ];
    let payload = message(&[
        attribute(1, TABLE),
        attribute(3, chain.name),
        nested(4, &hook),
        attribute(7, b"filter\0"),
    ]);
    (NEW_CHAIN, NLM_F_ACK | NLM_F_CREATE, payload)
}

/// Changes a port of TCP packets with this address.
fn rule(
    chain: Chain,
    address: Ipv4Addr,
    address_at: u32,
    port_at: u32,
    (from, to): (u16, u16),
) -> Message {
    let expressions = [
        load(NETWORK_HEADER, address_at, 4),
        equals(&address.octets()),
        expression(b"meta\0", &[number(2, NFT_META_L4PROTO), number(1, REGISTER)]),
        equals(&[IPPROTO_TCP]),
        load(TRANSPORT_HEADER, port_at, 2),
        equals(&from.to_be_bytes()),
        expression(b"immediate\0", &[number(1, REGISTER), data(2, &to.to_be_bytes())]),
        expression(
            b"payload\0",
            &[
                number(5, REGISTER),
                number(2, TRANSPORT_HEADER),
                number(3, port_at),
                number(4, 2),
                number(6, NFT_PAYLOAD_CSUM_INET),
                number(7, TCP_CHECKSUM),
            ],
        ),
    ];
    let payload =
        message(&[attribute(1, TABLE), attribute(2, chain.name), nested(4, &expressions)]);
    (NEW_RULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND, payload)
}

fn load(header: u32, offset: u32, length: u32) -> Vec<u8> {
    let place = [number(1, REGISTER), number(2, header), number(3, offset), number(4, length)];
    expression(b"payload\0", &place)
}

fn equals(value: &[u8]) -> Vec<u8> {
    expression(b"cmp\0", &[number(1, REGISTER), number(2, 0), data(3, value)])
}

fn expression(name: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, attributes)])
}

fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, value)])
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// `struct nfgenmsg` and attributes.
fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
    [&[NFPROTO_IPV4, 0, 0, 0], attributes.concat().as_slice()].concat()
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &attributes.concat())
}

/// An attribute with its header, padded to four bytes. All lengths are of constants above and far
/// below 64 KiB.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
