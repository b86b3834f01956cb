//! A blocking netlink socket, and rtnetlink over it.
//!
//! A socket belongs to the network namespace it was opened in, whichever thread uses it later; so
//! [`Socket::open_in`] enters the namespace on a short-lived thread and hands the socket back.
//! Requests go out in batches with one acknowledgement each; a refusal carries the operation, the
//! errno and, from the extended acknowledgement, the kernel's own reason. Answers are read
//! attribute by attribute and only those we use, so that a newer kernel's additions cannot break
//! us. Reference: RFC 3549, rtnetlink(7), `Documentation/userspace-api/netlink/intro.rst`.

mod requests;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::netns;
pub use requests::*;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// Bytes of `struct nlmsghdr`, of `ifinfomsg`, `ifaddrmsg` and `rtmsg`.
const MESSAGE_HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
/// Attribute of an extended acknowledgement that holds the reason in words.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// RFC 2863 operational state "up".
const IF_OPER_UP: u8 = 6;
/// The kernel never sends a larger datagram to a reader that offers this much.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// What a netlink request failed at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("enter the network namespace to open a netlink socket in it")]
    Enter(#[source] io::Error),
    #[error("{operation}: exchange netlink messages with the kernel")]
    Exchange { operation: String, source: io::Error },
    #[error("{operation}: the kernel refused{}", .reason.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused { operation: String, reason: Option<String>, source: io::Error },
    #[error("{operation}: the kernel's answer is malformed: {detail}")]
    Malformed { operation: String, detail: String },
}

impl Error {
    /// The errno with which the kernel refused, if that is what happened.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::Open(_) | Self::Enter(_) | Self::Exchange { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// One change, with the words for its error and the refusal that counts as success.
#[derive(Debug)]
pub struct Request {
    operation: String,
    message: RouteNetlinkMessage,
    flags: u16,
    tolerated: Option<Errno>,
}

impl Request {
    /// Counts this refusal as success: the change was there already, or its object is gone.
    #[must_use]
    pub fn tolerating(mut self, errno: Errno) -> Self {
        self.tolerated = Some(errno);
        self
    }
}

/// An interface, as far as we look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub kind: Option<String>,
    /// Hardware address.
    pub address: Vec<u8>,
    pub mtu: u32,
    /// Index of the bridge (or other upper device) it is a port of.
    pub master: Option<u32>,
    /// Index of the peer, in the peer's namespace, for a veth.
    pub peer: Option<u32>,
    /// Up with carrier, and the kernel has acted on it: queues run, a bridge port forwards.
    pub operational: bool,
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub network: Ipv4Net,
    /// Whoever set it may say so here.
    pub label: String,
}

/// An IPv4 unicast route of any table but `local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Net,
    pub gateway: Option<Ipv4Addr>,
    pub link: Option<u32>,
}

/// A message of another netlink protocol than rtnetlink.
#[derive(Debug)]
pub(super) struct Raw<'a> {
    pub(super) kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub(super) flags: u16,
    /// Type of the answers.
    pub(super) answer: u16,
    pub(super) payload: &'a [u8],
}

/// A blocking netlink socket of one network namespace.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// A socket of the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no socket for us.
    pub fn open() -> Result<Self, Error> {
        Self::open_protocol(netlink_sys::protocols::NETLINK_ROUTE)
    }

    /// Likewise for another netlink protocol, which is spoken by [`Self::exchange`] only.
    pub(super) fn open_protocol(protocol: isize) -> Result<Self, Error> {
        let socket = netlink_sys::Socket::new(protocol).map_err(Error::Open)?;
        socket.set_ext_ack(true).map_err(Error::Open)?;
        socket.set_cap_ack(true).map_err(Error::Open)?;
        socket.set_netlink_get_strict_chk(true).map_err(Error::Open)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// A socket of another network namespace. The calling thread stays in its own.
    ///
    /// # Errors
    /// If the namespace cannot be entered or has no socket for us.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        netns::inside(netns, Self::open).map_err(Error::Enter)?
    }

    /// Sends all requests in one datagram and waits for every answer. The kernel carries out each
    /// in order, also those after one that it refused.
    ///
    /// # Errors
    /// The first refusal that its request does not tolerate, after all answers have been read.
    pub fn apply(&mut self, requests: Vec<Request>) -> Result<(), Error> {
        let mut datagram = Vec::new();
        let mut pending = Vec::with_capacity(requests.len());
        for Request { operation, message, flags, tolerated } in requests {
            self.sequence = self.sequence.wrapping_add(1);
            append(&mut datagram, message, NLM_F_REQUEST | NLM_F_ACK | flags, self.sequence);
            pending.push(Some((self.sequence, operation, tolerated)));
        }
        let words = match pending.first() {
            Some(Some((_, operation, _))) => operation.clone(),
            _ => return Ok(()),
        };
        self.send(&words, &datagram)?;
        let mut outcome = Ok(());
        let mut left = pending.len();
        while left > 0 {
            let bytes = self.receive(&words)?;
            for reply in Replies::new(&bytes) {
                let reply = reply.map_err(|detail| malformed(&words, detail))?;
                let Some((_, operation, tolerated)) = pending
                    .iter_mut()
                    .find(|slot| slot.as_ref().is_some_and(|(seq, ..)| *seq == reply.sequence))
                    .and_then(Option::take)
                else {
                    continue;
                };
                left -= 1;
                if reply.kind != NLMSG_ERROR {
                    return Err(malformed(&operation, "no acknowledgement"));
                }
                let refused = reply.refusal(operation);
                if let Err(error) = refused
                    && outcome.is_ok()
                    && error.errno() != tolerated
                {
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Every interface of the namespace.
    ///
    /// # Errors
    /// If the kernel refuses or answers nonsense.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump("list interfaces", RouteNetlinkMessage::GetLink(message), RTM_NEWLINK, parse_link)
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// If the kernel refuses for another reason than that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let operation = format!("look up interface {name}");
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut datagram = Vec::new();
        self.sequence = self.sequence.wrapping_add(1);
        let message = RouteNetlinkMessage::GetLink(message);
        append(&mut datagram, message, NLM_F_REQUEST, self.sequence);
        self.send(&operation, &datagram)?;
        loop {
            let bytes = self.receive(&operation)?;
            for reply in Replies::new(&bytes) {
                let reply = reply.map_err(|detail| malformed(&operation, detail))?;
                if reply.sequence != self.sequence {
                    continue;
                }
                if reply.kind == NLMSG_ERROR {
                    return match reply.refusal(operation) {
                        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
                        Err(error) => Err(error),
                        Ok(()) => Ok(None),
                    };
                }
                return parse_link(reply.payload).map_err(|detail| malformed(&operation, detail));
            }
        }
    }

    /// Every IPv4 address of the namespace.
    ///
    /// # Errors
    /// If the kernel refuses or answers nonsense.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let message = RouteNetlinkMessage::GetAddress(message);
        self.dump("list addresses", message, RTM_NEWADDR, parse_address)
    }

    /// Every IPv4 unicast route of the namespace but those of table `local`.
    ///
    /// # Errors
    /// If the kernel refuses or answers nonsense.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        self.dump("list routes", RouteNetlinkMessage::GetRoute(message), RTM_NEWROUTE, parse_route)
    }

    fn dump<T>(
        &mut self,
        operation: &str,
        message: RouteNetlinkMessage,
        kind: u16,
        parse: impl Fn(&[u8]) -> Result<Option<T>, String>,
    ) -> Result<Vec<T>, Error> {
        let mut datagram = Vec::new();
        self.sequence = self.sequence.wrapping_add(1);
        append(&mut datagram, message, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.send(operation, &datagram)?;
        self.collect(operation, kind, parse)
    }

    /// Sends one message of any protocol and reads the answers of type `answer` up to the end of
    /// the dump or the acknowledgement.
    pub(super) fn exchange<T>(
        &mut self,
        operation: &str,
        message: &Raw<'_>,
        parse: impl Fn(&[u8]) -> Result<Option<T>, String>,
    ) -> Result<Vec<T>, Error> {
        let mut datagram = Vec::new();
        self.append_raw(operation, &mut datagram, message)?;
        self.send(operation, &datagram)?;
        self.collect(operation, message.answer, parse)
    }

    /// Sends messages of any protocol in one datagram and waits until those that ask for an
    /// acknowledgement have theirs; their payloads are not looked at.
    ///
    /// # Errors
    /// The first refusal, after all answers have been read.
    pub(super) fn transact(&mut self, operation: &str, messages: &[Raw<'_>]) -> Result<(), Error> {
        let mut datagram = Vec::new();
        let mut pending = std::collections::BTreeSet::new();
        for message in messages {
            let sequence = self.append_raw(operation, &mut datagram, message)?;
            if message.flags & NLM_F_ACK != 0 {
                pending.insert(sequence);
            }
        }
        self.send(operation, &datagram)?;
        let mut outcome = Ok(());
        while !pending.is_empty() {
            let bytes = self.receive(operation)?;
            for reply in Replies::new(&bytes) {
                let reply = reply.map_err(|detail| malformed(operation, detail))?;
                if reply.kind != NLMSG_ERROR {
                    continue;
                }
                let awaited = pending.remove(&reply.sequence);
                let answer = reply.refusal(operation.to_owned());
                if !awaited && answer.is_err() {
                    // The transaction as a whole was refused: nothing else will be answered.
                    return answer;
                }
                outcome = outcome.and(answer);
            }
        }
        outcome
    }

    /// The sequence number that the message got.
    fn append_raw(
        &mut self,
        operation: &str,
        datagram: &mut Vec<u8>,
        message: &Raw<'_>,
    ) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = MESSAGE_HEADER + message.payload.len();
        let length =
            u32::try_from(length).map_err(|error| malformed(operation, error.to_string()))?;
        datagram.extend(length.to_ne_bytes());
        datagram.extend(message.kind.to_ne_bytes());
        datagram.extend((NLM_F_REQUEST | message.flags).to_ne_bytes());
        datagram.extend(self.sequence.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(message.payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        Ok(self.sequence)
    }

    fn collect<T>(
        &mut self,
        operation: &str,
        kind: u16,
        parse: impl Fn(&[u8]) -> Result<Option<T>, String>,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        loop {
            let bytes = self.receive(operation)?;
            for reply in Replies::new(&bytes) {
                let reply = reply.map_err(|detail| malformed(operation, detail))?;
                if reply.sequence != self.sequence {
                    continue;
                }
                match reply.kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => {
                        reply.refusal(operation.to_owned())?;
                        return Ok(found);
                    }
                    other if other == kind => {
                        let parsed = parse(reply.payload);
                        found.extend(parsed.map_err(|detail| malformed(operation, detail))?);
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&self, operation: &str, datagram: &[u8]) -> Result<(), Error> {
        self.socket
            .send(datagram, 0)
            .map(drop)
            .map_err(|source| Error::Exchange { operation: operation.to_owned(), source })
    }

    fn receive(&self, operation: &str) -> Result<Vec<u8>, Error> {
        loop {
            let mut bytes = Vec::with_capacity(RECEIVE_BUFFER);
            match self.socket.recv(&mut bytes, 0) {
                Ok(_) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Exchange { operation: operation.to_owned(), source });
                }
            }
        }
    }
}

fn malformed(operation: &str, detail: impl Into<String>) -> Error {
    Error::Malformed { operation: operation.to_owned(), detail: detail.into() }
}

fn append(datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(space) = datagram.get_mut(start..) {
        message.serialize(space);
    }
}

struct Reply<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Reply<'_> {
    /// Reads an `NLMSG_ERROR`: errno 0 acknowledges.
    fn refusal(&self, operation: String) -> Result<(), Error> {
        let Some(code) = self.payload.first_chunk::<4>().map(|raw| i32::from_ne_bytes(*raw)) else {
            return Err(malformed(&operation, "short acknowledgement"));
        };
        if code == 0 {
            return Ok(());
        }
        // With NETLINK_CAP_ACK only the header of our request is repeated before the attributes.
        let attributes = self.payload.get(4 + MESSAGE_HEADER..).unwrap_or_default();
        let reason = (self.flags & netlink_packet_core::NLM_F_ACK_TLVS != 0)
            .then(|| {
                NlasIterator::new(attributes)
                    .map_while(Result::ok)
                    .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
                    .map(|nla| text(nla.value()))
            })
            .flatten();
        let source = io::Error::from_raw_os_error(code.saturating_neg());
        Err(Error::Refused { operation, reason, source })
    }
}

struct Replies<'a>(&'a [u8]);

impl<'a> Replies<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Replies<'a> {
    type Item = Result<Reply<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let Some((header, _)) = bytes.split_first_chunk::<MESSAGE_HEADER>() else {
            return Some(Err("short message"));
        };
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let Some(payload) = bytes.get(MESSAGE_HEADER..length) else {
            return Some(Err("wrong length"));
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Reply {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        }))
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or_default()).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk::<4>().map(|raw| u32::from_ne_bytes(*raw))
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|raw| Ipv4Addr::from(*raw))
}

fn parse_link(payload: &[u8]) -> Result<Option<Link>, String> {
    let index = payload.get(4..8).and_then(number).ok_or("short interface")?;
    let mut link = Link {
        index,
        name: String::new(),
        alias: None,
        kind: None,
        address: Vec::new(),
        mtu: 0,
        master: None,
        peer: None,
        operational: false,
    };
    for nla in NlasIterator::new(payload.get(LINK_HEADER..).unwrap_or_default()) {
        let nla = nla.map_err(|error| error.to_string())?;
        match u32::from(nla.kind()) {
            1 => link.address = nla.value().to_vec(),
            3 => link.name = text(nla.value()),
            4 => link.mtu = number(nla.value()).ok_or("short MTU")?,
            5 => link.peer = number(nla.value()),
            10 => link.master = number(nla.value()),
            16 => link.operational = nla.value() == [IF_OPER_UP],
            18 => {
                link.kind = NlasIterator::new(nla.value())
                    .map_while(Result::ok)
                    .find(|info| info.kind() == 1)
                    .map(|info| text(info.value()));
            }
            20 => link.alias = Some(text(nla.value())),
            _ => {}
        }
    }
    Ok(Some(link))
}

fn parse_address(payload: &[u8]) -> Result<Option<Address>, String> {
    let prefix = *payload.get(1).ok_or("short address")?;
    let link = payload.get(4..8).and_then(number).ok_or("short address")?;
    let mut address = None;
    let mut label = String::new();
    for nla in NlasIterator::new(payload.get(ADDRESS_HEADER..).unwrap_or_default()) {
        let nla = nla.map_err(|error| error.to_string())?;
        // IFA_ADDRESS is the prefix (the peer's on a point-to-point link), IFA_LOCAL our own.
        if nla.kind() == 1 || (nla.kind() == 2 && address.is_none()) {
            address = ipv4(nla.value());
        } else if nla.kind() == 3 {
            label = text(nla.value());
        }
    }
    let Some(address) = address else { return Ok(None) };
    let network = Ipv4Net::new(address, prefix).map_err(|error| error.to_string())?;
    Ok(Some(Address { link, network, label }))
}

fn parse_route(payload: &[u8]) -> Result<Option<Route>, String> {
    let Some([_, prefix, _, _, table, _, _, kind]) = payload.first_chunk::<8>() else {
        return Err("short route".to_owned());
    };
    if *table == 255 || *kind != u8::from(RouteType::Unicast) {
        return Ok(None);
    }
    let mut route = Route { destination: Ipv4Net::default(), gateway: None, link: None };
    let mut destination = Ipv4Addr::UNSPECIFIED;
    for nla in NlasIterator::new(payload.get(ROUTE_HEADER..).unwrap_or_default()) {
        let nla = nla.map_err(|error| error.to_string())?;
        match nla.kind() {
            1 => destination = ipv4(nla.value()).ok_or("short destination")?,
            4 => route.link = number(nla.value()),
            5 => route.gateway = ipv4(nla.value()),
            _ => {}
        }
    }
    route.destination = Ipv4Net::new(destination, *prefix).map_err(|error| error.to_string())?;
    Ok(Some(route))
}
