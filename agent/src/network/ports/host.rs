//! What the host says of its ports.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use protocol::taskdef::TransportProtocol;

use super::{DEFAULT_RANGE, name, parse_range};

/// A host port that cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("host port {port}/{} is in use by another program on this host", name(*protocol))]
    InUse { protocol: TransportProtocol, port: u16 },
    #[error("check whether host port {port}/{} is free", name(*protocol))]
    Check { protocol: TransportProtocol, port: u16, source: io::Error },
}

/// The host's range of dynamic ports.
pub fn dynamic_range() -> RangeInclusive<u16> {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse_range(&text))
        .unwrap_or(DEFAULT_RANGE)
}

/// Ports that something in the host's network listens on (TCP) or is bound to (UDP). What cannot be
/// read is left out: binding a port still says whether it is free.
pub fn listening() -> BTreeSet<(TransportProtocol, u16)> {
    /// State of a listening socket in `/proc/net/tcp`.
    const LISTEN: &str = "0A";
    let mut found = BTreeSet::new();
    for (path, protocol) in [
        ("/proc/net/tcp", TransportProtocol::Tcp),
        ("/proc/net/tcp6", TransportProtocol::Tcp),
        ("/proc/net/udp", TransportProtocol::Udp),
        ("/proc/net/udp6", TransportProtocol::Udp),
    ] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let port = fields.nth(1)?.rsplit_once(':')?.1;
            let state = fields.nth(1)?;
            let counts = protocol == TransportProtocol::Udp || state == LISTEN;
            counts.then(|| u16::from_str_radix(port, 16).ok()).flatten().map(|p| (protocol, p))
        }));
    }
    found
}

/// That nothing on the host, on any of its addresses, listens on the port.
///
/// # Errors
/// [`Error::InUse`] if something does.
pub fn host_port_free(protocol: TransportProtocol, port: u16) -> Result<(), Error> {
    let address = (Ipv4Addr::UNSPECIFIED, port);
    let bound = match protocol {
        TransportProtocol::Tcp => TcpListener::bind(address).map(drop),
        TransportProtocol::Udp => UdpSocket::bind(address).map(drop),
    };
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { protocol, port },
        _ => Error::Check { protocol, port, source },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use TransportProtocol::{Tcp, Udp};

    use super::*;

    #[test]
    fn a_listener_on_any_address_makes_its_port_taken() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let refused = host_port_free(Tcp, port).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("host port {port}/tcp is in use by another program on this host")
        );
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(matches!(host_port_free(Udp, port), Err(Error::InUse { .. })));
        drop(udp);
        host_port_free(Udp, port).unwrap();
    }

    #[test]
    fn the_kernels_tables_tell_what_is_bound() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0)).unwrap();
        let (tcp_port, udp_port) =
            (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
        let listening = listening();
        assert!(listening.contains(&(Tcp, tcp_port)) && listening.contains(&(Udp, udp_port)));
        drop((tcp, udp));
    }
}
