//! Host ports: the choice of a dynamic one. Pure; what the host says of its ports is [`host`]'s.
//!
//! ECS takes dynamic host ports from the host's ephemeral range
//! (`net.ipv4.ip_local_port_range`), or from 49153 to 65535 if that cannot be read.

mod host;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use protocol::taskdef::TransportProtocol;

pub use host::{Error, dynamic_range, host_port_free, listening};

/// Dynamic ports where the host does not tell its ephemeral range.
pub const DEFAULT_RANGE: RangeInclusive<u16> = 49153..=65535;

/// `tcp` or `udp`.
pub fn name(protocol: TransportProtocol) -> &'static str {
    match protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
    }
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
}
