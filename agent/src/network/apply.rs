//! The plan against the kernel: the bridge with its sysctls, and the veth pairs.
//!
//! Order of making the bridge, so that a crash in between is recognised and undone:
//! 1. the bridge, without an alias: nothing else has been touched;
//! 2. its alias, which remembers `ip_forward` as found;
//! 3. addresses, sysctls, up.
//!
//! Removal goes backwards and ends with the bridge: as long as it stands there may be more to remove.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::errno::Errno;

use super::netlink::{self, Link, Socket, Veth};
use super::plan::{self, BridgeRecord, Lease, Names, Subnets};
use super::{Error, ipam};

const IP_FORWARD: &str = "net/ipv4/ip_forward";
/// Name of the interface inside a task's or container's namespace.
const INNER: &str = "eth0";
const LOOPBACK: u32 = 1;
/// MTU where no default route tells the uplink's.
const DEFAULT_MTU: u32 = 1500;
/// The least MTU that IPv4 works with (RFC 791); the kernel refuses less.
const LEAST_MTU: u32 = 68;

/// How long an interface may take to become operational (well below a millisecond on an idle host),
/// and how often we look.
const CARRIER_DEADLINE: Duration = Duration::from_secs(5);
const CARRIER_POLL: Duration = Duration::from_micros(100);

/// The bridge as it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bridge {
    index: u32,
    mtu: u32,
}

/// The bridge of these names and what it remembers, if it exists.
pub(super) fn find_bridge(
    socket: &mut Socket,
    names: &Names,
) -> Result<Option<(Link, Option<BridgeRecord>)>, Error> {
    let link = socket.link(&names.bridge)?;
    Ok(link.map(|link| {
        let record = link.alias.as_deref().and_then(BridgeRecord::parse);
        (link, record)
    }))
}

/// Networks the host uses, but for those of the bridge of these names: of its addresses and of its
/// routes. With `attached_only`, routes that lead through a gateway do not count.
pub(super) fn taken(
    socket: &mut Socket,
    bridge: Option<u32>,
    attached_only: bool,
) -> Result<Vec<Ipv4Net>, Error> {
    let mut taken: Vec<Ipv4Net> = socket
        .addresses()?
        .into_iter()
        .filter(|address| Some(address.link) != bridge)
        .map(|address| address.network.trunc())
        .collect();
    taken.extend(
        socket
            .routes()?
            .into_iter()
            .filter(|route| route.destination.prefix_len() > 0)
            .filter(|route| bridge.is_none() || route.link != bridge)
            .filter(|route| !(attached_only && route.gateway.is_some()))
            .map(|route| route.destination),
    );
    Ok(taken)
}

/// Makes the bridge, or completes one that a crash left half made.
pub(super) fn ensure_bridge(
    socket: &mut Socket,
    names: &Names,
    subnets: &Subnets,
) -> Result<Bridge, Error> {
    let name = &names.bridge;
    let links = socket.links()?;
    let existing = links.iter().find(|link| link.name == *name).cloned();
    let index = existing.as_ref().map(|link| link.index);
    let taken = taken(socket, index, true)?;
    for subnet in [subnets.awsvpc, subnets.bridge] {
        if let Some(by) = taken.iter().find(|other| plan::overlap(subnet, **other)) {
            return Err(Error::SubnetTaken { subnet, by: *by });
        }
    }
    let link = match existing {
        Some(link) if link.kind.as_deref() == Some("bridge") => link,
        Some(_) => return Err(Error::NotOurs { name: name.clone() }),
        None => {
            let mtu = uplink_mtu(socket, &links)?;
            let mac = ipam::mac(ipam::gateway(subnets.awsvpc));
            socket.apply(vec![netlink::create_bridge(name, mac, mtu)])?;
            let created = socket.link(name)?;
            created.ok_or_else(|| Error::Vanished { name: name.clone() })?
        }
    };
    let known = link.alias.as_deref().and_then(BridgeRecord::parse);
    let forwarding = match known {
        Some(record) => record.forwarding,
        None => forwarding_before_us(&links)?,
    };
    let alias = names.bridge_alias(&BridgeRecord { forwarding, subnets: *subnets });
    let index = link.index;
    let mut requests = vec![netlink::describe_link(index, name, &alias, None)];
    for subnet in [subnets.awsvpc, subnets.bridge] {
        let address = host_address(ipam::gateway(subnet), subnet)?;
        requests.push(netlink::add_address(index, name, address));
    }
    socket.apply(requests)?;
    // 127.0.0.1 as source and destination on the bridge: published ports reached by loopback.
    write_sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), true)?;
    if !read_sysctl(IP_FORWARD)? {
        write_sysctl(IP_FORWARD, true)?;
    }
    socket.apply(vec![netlink::set_up(index, name)])?;
    Ok(Bridge { index, mtu: link.mtu })
}

/// Removes the bridge, its ports and what it remembers; the table must be gone. None is no error.
/// Goes on after failures and returns the first.
pub(super) fn remove_bridge(socket: &mut Socket, names: &Names) -> Result<(), Error> {
    let links = socket.links()?;
    let Some(bridge) = links.iter().find(|link| link.name == names.bridge) else {
        return Ok(());
    };
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(Error::NotOurs { name: names.bridge.clone() });
    }
    let ports = links.iter().filter(|link| link.master == Some(bridge.index));
    let removed = socket
        .apply(ports.map(|port| netlink::delete_link(port.index, &port.name)).collect())
        .map_err(Error::from);
    // Forwarding is one switch for the whole host. Whoever else has a bridge may rely on it by now,
    // another agent of ours among them, and the last of ours restores it.
    let shared = links
        .iter()
        .any(|link| link.index != bridge.index && link.kind.as_deref() == Some("bridge"));
    let record = bridge.alias.as_deref().and_then(BridgeRecord::parse);
    let restored = match record {
        Some(BridgeRecord { forwarding: false, .. }) if !shared => write_sysctl(IP_FORWARD, false),
        _ => Ok(()),
    };
    removed.and(restored)?;
    Ok(socket.apply(vec![netlink::delete_link(bridge.index, &bridge.name)])?)
}

/// Deletes the bridge's ports that belong to no lease and gives it back those that do.
pub(super) fn reconcile_ports<'a>(
    socket: &mut Socket,
    names: &Names,
    bridge: Bridge,
    leases: impl Iterator<Item = &'a Lease>,
) -> Result<(), Error> {
    let wanted: std::collections::BTreeSet<String> =
        leases.map(|lease| names.veth(lease)).collect();
    let mut requests = Vec::new();
    for link in socket.links()? {
        let attached = link.master == Some(bridge.index);
        match (wanted.contains(&link.name), attached) {
            (true, false) => {
                requests.push(netlink::enslave(link.index, &link.name, bridge.index));
            }
            (false, true) => requests.push(netlink::delete_link(link.index, &link.name)),
            (true, true) | (false, false) => {}
        }
    }
    Ok(socket.apply(requests)?)
}

/// Gives a namespace its interface: veth pair, address, default route, loopback. What is there
/// already stays; what an earlier attempt left for another namespace is replaced.
pub(super) fn attach(
    names: &Names,
    subnets: &Subnets,
    bridge: Bridge,
    lease: &Lease,
    netns: BorrowedFd<'_>,
) -> Result<(), Error> {
    let mut host = Socket::open()?;
    let mut inner = Socket::open_in(netns)?;
    let name = names.veth(lease);
    let subnet = lease.subnet(subnets);
    let veth = Veth {
        name: &name,
        bridge: bridge.index,
        mtu: bridge.mtu,
        inner_name: INNER,
        inner_mac: lease.mac(),
        netns,
    };
    match host.apply(vec![netlink::create_veth(&veth)]) {
        Ok(()) => {}
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            if !is_pair(&mut host, &mut inner, &name, lease)? {
                delete(&mut host, &name)?;
                host.apply(vec![netlink::create_veth(&veth)])?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    let vanished = |name: &str| Error::Vanished { name: name.to_owned() };
    let inside = inner.link(INNER)?.ok_or_else(|| vanished(INNER))?;
    inner.apply(vec![
        netlink::set_up(LOOPBACK, "lo"),
        netlink::silence_ipv6(inside.index, INNER),
        netlink::set_up(inside.index, INNER),
        netlink::add_address(inside.index, INNER, host_address(lease.address(), subnet)?),
        netlink::set_default_route(inside.index, ipam::gateway(subnet)),
    ])?;
    // The carrier comes up with the host's end, when everything inside is settled.
    let outside = inside.peer.ok_or_else(|| vanished(&name))?;
    let alias = names.veth_alias(lease);
    let mut requests = vec![netlink::describe_link(outside, &name, &alias, Some(bridge.index))];
    if !lease.ports().is_empty() {
        requests.push(netlink::set_hairpin(outside, &name));
    }
    requests.push(netlink::set_up(outside, &name));
    host.apply(requests)?;
    // The port forwards first, which gives the bridge its carrier.
    let deadline = Instant::now() + CARRIER_DEADLINE;
    settle(&mut host, &name, deadline)?;
    settle(&mut host, &names.bridge, deadline)?;
    settle(&mut inner, INNER, deadline)
}

/// Waits until an interface passes packets. The kernel acts on a new carrier from a work queue, and
/// drops what is sent before; a lost ARP request would cost a task a whole second.
fn settle(socket: &mut Socket, name: &str, deadline: Instant) -> Result<(), Error> {
    loop {
        match socket.link(name)? {
            Some(link) if link.operational => return Ok(()),
            Some(_) if Instant::now() < deadline => std::thread::sleep(CARRIER_POLL),
            Some(_) => return Err(Error::NoCarrier { name: name.to_owned() }),
            None => return Err(Error::Vanished { name: name.to_owned() }),
        }
    }
}

/// Removes a lease's veth pair; none is no error.
pub(super) fn detach(names: &Names, lease: &Lease) -> Result<(), Error> {
    delete(&mut Socket::open()?, &names.veth(lease))
}

fn delete(socket: &mut Socket, name: &str) -> Result<(), Error> {
    if let Some(link) = socket.link(name)? {
        socket.apply(vec![netlink::delete_link(link.index, name)])?;
    }
    Ok(())
}

/// Whether the host's end and the interface in the namespace are each other's peers.
fn is_pair(
    host: &mut Socket,
    inner: &mut Socket,
    name: &str,
    lease: &Lease,
) -> Result<bool, Error> {
    let (Some(outside), Some(inside)) = (host.link(name)?, inner.link(INNER)?) else {
        return Ok(false);
    };
    Ok(inside.peer == Some(outside.index)
        && outside.peer == Some(inside.index)
        && inside.address == lease.mac())
}

fn host_address(address: Ipv4Addr, subnet: Ipv4Net) -> Result<Ipv4Net, Error> {
    Ipv4Net::new(address, subnet.prefix_len())
        .ok()
        .filter(|_| subnet.contains(&address))
        .ok_or(Error::OutsideSubnet { address, subnet })
}

/// The MTU of the interface that the default route leaves by, so that tasks do not send packets
/// which the host then has to refuse.
fn uplink_mtu(socket: &mut Socket, links: &[Link]) -> Result<u32, Error> {
    let routes = socket.routes()?;
    let uplink = routes.iter().find(|route| route.destination.prefix_len() == 0);
    let index = uplink.and_then(|route| route.link);
    let mtu = links.iter().find(|link| Some(link.index) == index).map(|link| link.mtu);
    Ok(mtu.filter(|mtu| *mtu >= LEAST_MTU).unwrap_or(DEFAULT_MTU))
}

/// Whether the host forwarded before the first agent of ours came: another one's bridge remembers.
fn forwarding_before_us(links: &[Link]) -> Result<bool, Error> {
    let now = read_sysctl(IP_FORWARD)?;
    let first = links
        .iter()
        .filter(|link| link.kind.as_deref() == Some("bridge"))
        .filter_map(|link| link.alias.as_deref().and_then(BridgeRecord::parse))
        .all(|record| record.forwarding);
    Ok(now && first)
}

fn sysctl_path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}

fn read_sysctl(key: &str) -> Result<bool, Error> {
    let path = sysctl_path(key);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(source) => Err(Error::ReadSysctl { path, source }),
    }
}

fn write_sysctl(key: &str, value: bool) -> Result<(), Error> {
    let path = sysctl_path(key);
    let written: io::Result<()> = std::fs::write(&path, if value { "1" } else { "0" });
    written.map_err(|source| Error::WriteSysctl { path, source })
}
