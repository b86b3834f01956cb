//! `linux.netDevices`: interfaces of the host that become the container's.
//!
//! An interface loses its addresses when it changes its namespace, so they are read before and set
//! again: those that somebody set for good and that hold everywhere, as the specification demands.
//! All by rtnetlink(7), with one socket on each side.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::{
    plan::NetDevice,
    sys::{self, Errno},
};

/// Why an interface cannot be moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("linux.netDevices: open the network namespaces")]
    Namespace(#[source] Errno),
    #[error("linux.netDevices: the interface {name} is not on this host")]
    Missing { name: String },
    #[error("linux.netDevices: move {host} into the container as {name}")]
    Move { host: String, name: String, source: Errno },
    #[error("linux.netDevices: set the addresses of {name} in the container")]
    Address { name: String, source: Errno },
    #[error("linux.netDevices: set {name} up in the container")]
    Up { name: String, source: Errno },
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const IFF_UP: u32 = 1;
/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `ifinfomsg`.
const LINK: usize = 16;
/// Bytes of `ifaddrmsg`.
const ADDRESS: usize = 8;

/// Moves interfaces from our namespace to the one that `target` is open on, and sets them up there.
///
/// # Errors
/// At the first that cannot be moved.
pub fn move_in(devices: &[NetDevice], target: BorrowedFd<'_>) -> Result<(), Error> {
    let host = Route::open().map_err(Error::Namespace)?;
    let inside = Route::open_in(target).map_err(Error::Namespace)?;
    for device in devices {
        move_one(&host, &inside, device, target)?;
    }
    Ok(())
}

fn move_one(
    host: &Route,
    inside: &Route,
    device: &NetDevice,
    target: BorrowedFd<'_>,
) -> Result<(), Error> {
    let name = || device.name.clone();
    let failed = |source| Error::Move { host: device.host.clone(), name: name(), source };
    let index = match host.index(&device.host) {
        Err(Errno::ENODEV) => return Err(Error::Missing { name: device.host.clone() }),
        other => other.map_err(failed)?,
    };
    let addresses = host.addresses(index).map_err(failed)?;
    let mut request = Request::link(RTM_NEWLINK, REQUEST | ACK, index, 0, IFF_UP);
    request.attribute(IFLA_NET_NS_FD, &target.as_raw_fd().to_ne_bytes());
    request.name(&device.name);
    host.ask(request).map_err(failed)?;
    let index = inside.index(&device.name).map_err(failed)?;
    for address in addresses {
        match inside.ask(address.request(index)) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(source) => return Err(Error::Address { name: name(), source }),
        }
    }
    let up = Request::link(RTM_NEWLINK, REQUEST | ACK, index, IFF_UP, IFF_UP);
    inside.ask(up).map(drop).map_err(|source| Error::Up { name: name(), source })
}

/// A message to the kernel.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    fn link(kind: u16, flags: u16, index: u32, value: u32, mask: u32) -> Self {
        let mut fixed = [0; LINK];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..12].copy_from_slice(&value.to_ne_bytes());
        fixed[12..16].copy_from_slice(&mask.to_ne_bytes());
        Self::new(kind, flags, &fixed)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // All values here are shorter than an address or a name.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn name(&mut self, name: &str) {
        self.attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// An address that is to stay.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    /// `IFA_LOCAL`, `IFA_ADDRESS`, `IFA_BROADCAST`, as they were.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Of a message of the kernel's: `None` if it is of another interface, expires, was not set by
    /// anybody, or means something on that link only.
    fn read(body: &[u8], wanted: u32) -> Option<Self> {
        let (fixed, mut rest) = body.split_at_checked(ADDRESS)?;
        let &[family, prefix, flags, scope, a, b, c, d] = fixed else { return None };
        if u32::from_ne_bytes([a, b, c, d]) != wanted || scope != 0 {
            return None;
        }
        let mut flags = u32::from(flags);
        let mut attributes = Vec::new();
        while let Some((kind, value)) = take_attribute(&mut rest) {
            match kind {
                IFA_FLAGS => flags = number(value)?,
                IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => attributes.push((kind, value.to_vec())),
                _ => {}
            }
        }
        (flags & IFA_F_PERMANENT != 0).then_some(Self { family, prefix, attributes })
    }

    fn request(&self, index: u32) -> Request {
        let [a, b, c, d] = index.to_ne_bytes();
        let fixed = [self.family, self.prefix, 0, 0, a, b, c, d];
        let mut request = Request::new(RTM_NEWADDR, REQUEST | ACK | CREATE, &fixed);
        for (kind, value) in &self.attributes {
            request.attribute(*kind, value);
        }
        request
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn short(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn take_attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (length, kind) = (usize::from(short(rest)?), short(rest.get(2..)?)?);
    let value = rest.get(4..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, value))
}

/// Type and body of the first message; what follows stays.
fn take_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let (length, kind) = (usize::try_from(number(rest)?).ok()?, short(rest.get(4..)?)?);
    let body = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}

/// A route socket in one namespace.
struct Route(OwnedFd);

impl Route {
    fn open() -> sys::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map(Self)
    }

    /// A socket stays where it was opened.
    fn open_in(target: BorrowedFd<'_>) -> sys::Result<Self> {
        super::within(target, Self::open)
    }

    /// Sends a request: the bodies of the answers.
    fn ask(&self, request: Request) -> sys::Result<Vec<Vec<u8>>> {
        send(self.0.as_raw_fd(), &request.finish(), MsgFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut rest = buffer.get(..length).unwrap_or_default();
            let mut some = false;
            while let Some((kind, body)) = take_message(&mut rest) {
                some = true;
                match kind {
                    NLMSG_ERROR => match number(body).map(u32::cast_signed) {
                        Some(0) => return Ok(answers),
                        Some(errno) => return Err(Errno::from_raw(-errno)),
                        None => return Err(Errno::EPROTO),
                    },
                    NLMSG_DONE => return Ok(answers),
                    _ => answers.push(body.to_vec()),
                }
            }
            if !some {
                return Err(Errno::EPROTO);
            }
        }
    }

    /// Number of an interface; `ENODEV` if there is none of that name.
    fn index(&self, name: &str) -> sys::Result<u32> {
        let mut request = Request::link(RTM_GETLINK, REQUEST | ACK, 0, 0, 0);
        request.name(name);
        let answers = self.ask(request)?;
        answers.first().and_then(|body| number(body.get(4..)?)).ok_or(Errno::ENODEV)
    }

    /// Addresses of an interface that are to move with it.
    fn addresses(&self, index: u32) -> sys::Result<Vec<Address>> {
        let answers = self.ask(Request::new(RTM_GETADDR, REQUEST | DUMP, &[0; ADDRESS]))?;
        Ok(answers.iter().filter_map(|body| Address::read(body, index)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn body(index: u32, scope: u8, flags: u32) -> Vec<u8> {
        let [a, b, c, d] = index.to_ne_bytes();
        let mut request = Request::new(RTM_NEWADDR, 0, &[2, 24, 0, scope, a, b, c, d]);
        request.attribute(IFA_ADDRESS, &[10, 0, 0, 1]);
        request.attribute(IFA_LOCAL, &[10, 0, 0, 1]);
        request.attribute(3, b"eth0\0");
        request.attribute(IFA_FLAGS, &flags.to_ne_bytes());
        request.finish()[HEADER..].to_vec()
    }

    #[test]
    fn only_lasting_global_addresses_move() {
        let address = Address::read(&body(7, 0, IFA_F_PERMANENT), 7).unwrap();
        assert_eq!((address.family, address.prefix, address.attributes.len()), (2, 24, 2));
        assert_eq!(Address::read(&body(8, 0, IFA_F_PERMANENT), 7), None);
        assert_eq!(Address::read(&body(7, 253, IFA_F_PERMANENT), 7), None);
        assert_eq!(Address::read(&body(7, 0, 0), 7), None);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let address = Address::read(&body(7, 0, IFA_F_PERMANENT), 7).unwrap();
        let bytes = address.request(9).finish();
        let mut rest = bytes.as_slice();
        let (kind, body) = take_message(&mut rest).unwrap();
        assert_eq!((kind, rest.len()), (RTM_NEWADDR, 0));
        let mut body = body.to_vec();
        body[2] = 0x80;
        assert_eq!(Address::read(&body, 9), Some(address));
    }

    #[test]
    fn cut_messages_end_the_reading() {
        let bytes = Request::link(RTM_GETLINK, REQUEST, 1, 0, 0).finish();
        for length in 0..bytes.len() {
            assert!(take_message(&mut &bytes[..length]).is_none());
        }
        assert_eq!(Address::read(&[2, 24, 0], 1), None);
    }
}
