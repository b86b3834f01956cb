//! Choice of task and container addresses. Pure: which are taken is a parameter.

use core::net::Ipv4Addr;
use std::collections::BTreeSet;

use ipnet::Ipv4Net;

/// The subnet's first host address: the host's end of the bridge, never leased.
pub fn gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// Whether `address` can be leased: inside the subnet, neither its network, its gateway nor its
/// broadcast address.
pub fn leasable(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address > gateway(subnet) && address < subnet.broadcast()
}

/// The first free address after `last`, around the end of the subnet; `None` if all are taken.
/// With the address leased last as `last`, one that was just freed rests as long as possible, so
/// that a peer that still talks to the ended task does not reach a new one.
pub fn allocate(
    subnet: Ipv4Net,
    used: &BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let first = u32::from(gateway(subnet)).checked_add(1)?;
    let end = u32::from(subnet.broadcast());
    let start = match last {
        Some(last) if leasable(subnet, last) => u32::from(last) + 1,
        _ => first,
    };
    (start..end).chain(first..start.min(end)).map(Ipv4Addr::from).find(|a| !used.contains(a))
}

/// The locally administered hardware address `02:42:a:b:c:d` of address a.b.c.d: unique where the
/// address is, and the same after a restart, so that neighbours' caches stay right.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn leases_every_address_once_in_order_and_then_none() {
        let subnet = net("10.1.2.0/29");
        let mut used = BTreeSet::new();
        let mut order = Vec::new();
        while let Some(address) = allocate(subnet, &used, order.last().copied()) {
            used.insert(address);
            order.push(address);
        }
        let wanted: Vec<_> = (2..=6).map(|n| Ipv4Addr::new(10, 1, 2, n)).collect();
        assert_eq!(order, wanted);
    }

    #[test]
    fn a_freed_address_rests_until_the_others_were_used() {
        let subnet = net("10.1.2.0/29");
        let used = BTreeSet::from([addr("10.1.2.2"), addr("10.1.2.4")]);
        assert_eq!(allocate(subnet, &used, Some(addr("10.1.2.4"))), Some(addr("10.1.2.5")));
        assert_eq!(allocate(subnet, &used, Some(addr("10.1.2.6"))), Some(addr("10.1.2.3")));
        assert_eq!(allocate(subnet, &used, Some(addr("192.0.2.1"))), Some(addr("10.1.2.3")));
    }

    #[test]
    fn tiny_subnets_have_no_room() {
        assert_eq!(allocate(net("10.1.2.0/32"), &BTreeSet::new(), None), None);
        assert_eq!(allocate(net("10.1.2.0/31"), &BTreeSet::new(), None), None);
        assert_eq!(allocate(net("10.1.2.0/30"), &BTreeSet::new(), None), Some(addr("10.1.2.2")));
        assert_eq!(allocate(net("255.255.255.255/32"), &BTreeSet::new(), None), None);
    }

    proptest! {
        #[test]
        fn a_lease_is_leasable_and_free(
            base: u32,
            prefix in 20u8..=32,
            used in proptest::collection::btree_set(0u32..64, 0..64),
            last in proptest::option::of(0u32..4096),
        ) {
            let subnet = Ipv4Net::new(Ipv4Addr::from(base), prefix).unwrap().trunc();
            let at = |n: u32| Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(n));
            let used: BTreeSet<_> = used.into_iter().map(at).collect();
            let chosen = allocate(subnet, &used, last.map(at));
            let room = subnet.hosts().any(|a| leasable(subnet, a) && !used.contains(&a));
            prop_assert_eq!(chosen.is_some(), room);
            if let Some(address) = chosen {
                prop_assert!(leasable(subnet, address));
                prop_assert!(!used.contains(&address));
            }
        }
    }
}
