//! Host ports: the choice of a dynamic one (pure) and the check that a port is free (edge).
//!
//! ECS takes dynamic host ports from the host's ephemeral range
//! (`net.ipv4.ip_local_port_range`), or from 49153 to 65535 if that cannot be read.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use protocol::taskdef::TransportProtocol;

/// Dynamic ports where the host does not tell its ephemeral range.
pub const DEFAULT_RANGE: RangeInclusive<u16> = 49153..=65535;

/// A host port that cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("host port {port}/{} is in use by another program on this host", name(*protocol))]
    InUse { protocol: TransportProtocol, port: u16 },
    #[error("check whether host port {port}/{} is free", name(*protocol))]
    Check { protocol: TransportProtocol, port: u16, source: io::Error },
}

/// `tcp` or `udp`.
pub fn name(protocol: TransportProtocol) -> &'static str {
    match protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
    }
}

/// The host's range of dynamic ports.
pub fn dynamic_range() -> RangeInclusive<u16> {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse_range(&text))
        .unwrap_or(DEFAULT_RANGE)
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (first > 0 && first <= last && numbers.next().is_none()).then_some(first..=last)
}

/// The first port after `last`, around the end of the range, that is not in `used`. A port just
/// given back thus rests as long as possible.
pub fn allocate(
    range: RangeInclusive<u16>,
    protocol: TransportProtocol,
    used: &BTreeSet<(TransportProtocol, u16)>,
    last: Option<u16>,
) -> Option<u16> {
    let (first, end) = range.into_inner();
    let split = match last {
        Some(last) if last >= first && last < end => last + 1,
        _ => first,
    };
    (split..=end).chain(first..split).find(|port| !used.contains(&(protocol, *port)))
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
    use proptest::prelude::*;

    use super::*;
    use TransportProtocol::{Tcp, Udp};

    #[test]
    fn reads_the_kernels_range() {
        assert_eq!(parse_range("32768\t60999\n"), Some(32768..=60999));
        for bad in ["", "1", "x y", "5 4", "0 5", "1 2 3", "1 70000"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn goes_round_the_range_and_tells_protocols_apart() {
        let used = BTreeSet::from([(Tcp, 101), (Udp, 100)]);
        assert_eq!(allocate(100..=102, Tcp, &used, None), Some(100));
        assert_eq!(allocate(100..=102, Udp, &used, None), Some(101));
        assert_eq!(allocate(100..=102, Tcp, &used, Some(100)), Some(102));
        assert_eq!(allocate(100..=102, Tcp, &used, Some(102)), Some(100));
        assert_eq!(allocate(65535..=65535, Tcp, &used, Some(65535)), Some(65535));
        let full = (100..=102).map(|port| (Tcp, port)).collect();
        assert_eq!(allocate(100..=102, Tcp, &full, Some(101)), None);
    }

    proptest! {
        #[test]
        fn finds_a_free_port_exactly_if_there_is_one(
            first in 1u16..200,
            length in 0u16..20,
            taken in proptest::collection::btree_set(1u16..220, 0..40),
            last in proptest::option::of(0u16..=u16::MAX),
        ) {
            let range = first..=first + length;
            let used: BTreeSet<_> = taken.into_iter().map(|port| (Udp, port)).collect();
            let chosen = allocate(range.clone(), Udp, &used, last);
            prop_assert_eq!(chosen.is_some(), range.clone().any(|p| !used.contains(&(Udp, p))));
            if let Some(port) = chosen {
                prop_assert!(range.contains(&port) && !used.contains(&(Udp, port)));
            }
        }
    }

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
}
