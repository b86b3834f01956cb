//! Which address a task gets; pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The lowest host address of `subnet` that is free; the first belongs to the gateway.
pub fn allocate(subnet: Ipv4Net, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    subnet.hosts().skip(1).find(|address| !used.contains(address))
}
