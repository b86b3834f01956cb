//! Networks of tasks: bridge, veth pairs, addresses, NAT and published ports.
//!
//! [`Network`] owns what this agent has in the host's network namespace. It is made on first use and
//! removed by [`Network::close`] when no lease is left, so a host without awsvpc or bridge tasks
//! is never touched. What a task has in its own namespace ends with that namespace. Which
//! addresses and ports are leased is the caller's state; everything here is repeatable by lease and
//! [`Network::open`] makes the kernel agree with the leases again, whatever a crash left.
//!
//! Pure: [`plan`], [`ipam`], and the choice in [`ports`]. Edges: [`netlink`], [`firewall`], [`dns`],
//! [`endpoint`].
//! Modes `host` and `none` need nothing from here but [`dns`]. IPv6 is off on every interface made
//! here. A host whose own firewall drops forwarded packets (Docker's, firewalld's) must admit the
//! bridge itself: an accept in one table does not overrule a drop in another.

mod apply;
mod conntrack;
pub mod dns;
pub mod endpoint;
pub mod firewall;
pub mod ipam;
pub mod netlink;
mod netns;
pub mod plan;
pub mod ports;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use protocol::taskdef::TransportProtocol;

use firewall::Published;
use netlink::Socket;
pub use plan::{ContainerLease, Lease, Names, PublishedPort, Subnets, TaskLease};

/// What failed about a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("configure the network")]
    Netlink(#[from] netlink::Error),
    #[error("configure the firewall")]
    Firewall(#[from] firewall::Error),
    #[error("every candidate subnet overlaps a network of this host: configure one that is free")]
    NoSubnet,
    #[error("subnet {subnet} overlaps {by}, which this host is attached to: configure another")]
    SubnetTaken { subnet: Ipv4Net, by: Ipv4Net },
    #[error("the awsvpc subnet {awsvpc} and the bridge subnet {bridge} overlap")]
    SubnetsOverlap { awsvpc: Ipv4Net, bridge: Ipv4Net },
    #[error("subnet {subnet} has no room for a gateway and a task: its prefix must be /8 to /29")]
    SubnetSize { subnet: Ipv4Net },
    #[error("address {address} is not in subnet {subnet}")]
    OutsideSubnet { address: Ipv4Addr, subnet: Ipv4Net },
    #[error("host port {port}/{} is already published for {address}", ports::name(*protocol))]
    Published { protocol: TransportProtocol, port: u16, address: Ipv4Addr },
    #[error("interface {name} exists, but is not a bridge of ours: rename or delete it")]
    NotOurs { name: String },
    #[error("interface {name} disappeared while it was being configured")]
    Vanished { name: String },
    #[error("interface {name} has no carrier")]
    NoCarrier { name: String },
    #[error("read {}", path.display())]
    ReadSysctl { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    WriteSysctl { path: PathBuf, source: io::Error },
}

/// What a network is made from.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `Layout::suffix`: tells this agent's host-wide objects from another's.
    pub suffix: String,
    /// `None`: chosen. Give what [`Network::subnets`] said before, so that it stays.
    pub awsvpc_subnet: Option<Ipv4Net>,
    /// Likewise.
    pub bridge_subnet: Option<Ipv4Net>,
}

/// The networks of one agent on this host. All calls block and may come from any thread that is in
/// the host's network namespace.
#[derive(Debug)]
pub struct Network {
    names: Names,
    subnets: Subnets,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The bridge, once it, the sysctls and the table are known to be as planned.
    ready: Option<apply::Bridge>,
    /// By name of the veth.
    leases: BTreeMap<String, Lease>,
    published: Published,
}

impl Network {
    /// Takes over after an earlier agent of the same suffix: veths and published ports of no lease
    /// in `live` are removed, those of leases completed; without leases everything goes. Makes
    /// nothing where nothing is left.
    ///
    /// # Errors
    /// If the configured subnets are unusable, none is free, or the kernel refuses.
    pub fn open(settings: Settings, live: &[Lease]) -> Result<Self, Error> {
        let names = Names::new(&settings.suffix);
        let mut socket = Socket::open()?;
        let found = apply::find_bridge(&mut socket, &names)?;
        let subnets = choose_subnets(&mut socket, &settings, found.as_ref())?;
        let mut state = State::default();
        for lease in live {
            let subnet = lease.subnet(&subnets);
            if !ipam::leasable(subnet, lease.address()) {
                return Err(Error::OutsideSubnet { address: lease.address(), subnet });
            }
            state.published.extend(elements(lease));
            state.leases.insert(names.veth(lease), lease.clone());
        }
        let network = Self { names, subnets, state: Mutex::new(state) };
        if found.is_some() {
            let mut state = network.lock();
            if state.leases.is_empty() {
                network.remove(&mut socket)?;
            } else {
                let bridge = network.ensure(&mut socket, &mut state)?;
                let leases = state.leases.values();
                apply::reconcile_ports(&mut socket, &network.names, bridge, leases)?;
            }
            drop(state);
        }
        Ok(network)
    }

    /// The subnets to lease addresses from; constant, to be stored and given to the next `open`.
    pub fn subnets(&self) -> Subnets {
        self.subnets
    }

    /// Makes bridge and table if they are not there yet. The first attach does the same and waits some
    /// ten milliseconds for it, mostly for `nft`; called beside other work, it need not.
    ///
    /// # Errors
    /// If the kernel refuses, `nft` is missing, or the subnet is meanwhile taken.
    pub fn prepare(&self) -> Result<(), Error> {
        let mut state = self.lock();
        match state.ready {
            Some(_) => Ok(()),
            None => self.ensure(&mut Socket::open()?, &mut state).map(drop),
        }
    }

    /// Gives an awsvpc task's network namespace its interface: `eth0` with the lease's address, a
    /// default route, loopback up. Repeating it completes what is missing. After a failure call
    /// [`Self::detach`].
    ///
    /// # Errors
    /// If the kernel refuses, `nft` is missing, or the subnet is meanwhile taken.
    pub fn attach_task(&self, lease: &TaskLease, netns: BorrowedFd<'_>) -> Result<(), Error> {
        self.attach(&Lease::Task(lease.clone()), netns)
    }

    /// Likewise for the namespace of a bridge-mode container; publishes its ports.
    ///
    /// # Errors
    /// As [`Self::attach_task`], and if another lease has one of the ports.
    pub fn attach_container(
        &self,
        lease: &ContainerLease,
        netns: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        self.attach(&Lease::Container(lease.clone()), netns)
    }

    fn attach(&self, lease: &Lease, netns: BorrowedFd<'_>) -> Result<(), Error> {
        let wanted: Published = elements(lease).collect();
        let bridge = {
            let mut state = self.lock();
            refuse_conflict(&state.published, &wanted)?;
            let bridge = match state.ready {
                Some(bridge) => bridge,
                None => self.ensure(&mut Socket::open()?, &mut state)?,
            };
            state.leases.insert(self.names.veth(lease), lease.clone());
            bridge
        };
        if let Err(error) = apply::attach(&self.names, &self.subnets, bridge, lease, netns) {
            // Perhaps someone removed the bridge; the next attempt looks again.
            self.lock().ready = None;
            return Err(error);
        }
        let mut state = self.lock();
        refuse_conflict(&state.published, &wanted)?;
        let new: Published =
            wanted.into_iter().filter(|(key, _)| !state.published.contains_key(key)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut all = state.published.clone();
        all.extend(new.iter());
        // A refusal mostly means that someone flushed the rule set: set up all of it anew.
        firewall::publish(&self.names, &new)
            .or_else(|_| firewall::replace(&self.names, &self.subnets, &all))?;
        state.published = all;
        drop(state);
        conntrack::forget(&new);
        Ok(())
    }

    /// Gives back what a lease has on the host: published ports and veth. Nothing there is no error.
    /// Goes on after a failure and returns the first.
    ///
    /// # Errors
    /// If the kernel or `nft` refuses.
    pub fn detach(&self, lease: &Lease) -> Result<(), Error> {
        let withdrawn = {
            let mut state = self.lock();
            state.leases.remove(&self.names.veth(lease));
            let mut left = state.published.clone();
            let gone: Published =
                elements(lease).filter(|(key, target)| left.get(key) == Some(target)).collect();
            left.retain(|key, _| !gone.contains_key(key));
            let result = if gone.is_empty() {
                Ok(())
            } else {
                firewall::withdraw(&self.names, &gone)
                    .or_else(|_| firewall::replace(&self.names, &self.subnets, &left))
            };
            if result.is_ok() {
                state.published = left;
                conntrack::forget(&gone);
            }
            result.map_err(Error::from)
        };
        let deleted = apply::detach(&self.names, lease);
        withdrawn.and(deleted)
    }

    /// Removes the bridge and the table and sets forwarding back as it was found. Does nothing while
    /// a lease is left.
    ///
    /// # Errors
    /// If the kernel or `nft` refuses.
    pub fn close(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.leases.is_empty() {
            return Ok(());
        }
        state.ready = None;
        state.published.clear();
        let mut socket = Socket::open()?;
        match apply::find_bridge(&mut socket, &self.names)? {
            Some(_) => self.remove(&mut socket),
            None => Ok(()),
        }
    }

    fn ensure(&self, socket: &mut Socket, state: &mut State) -> Result<apply::Bridge, Error> {
        let made = apply::ensure_bridge(socket, &self.names, &self.subnets).and_then(|bridge| {
            firewall::replace(&self.names, &self.subnets, &state.published)?;
            Ok(bridge)
        });
        match made {
            Ok(bridge) => {
                state.ready = Some(bridge);
                Ok(bridge)
            }
            Err(error) => {
                if state.leases.is_empty() && !matches!(error, Error::NotOurs { .. }) {
                    // The first error says more than one about clearing up after it.
                    let _ = self.remove(socket);
                }
                Err(error)
            }
        }
    }

    /// The table first: while the bridge stands, a later start looks for both.
    fn remove(&self, socket: &mut Socket) -> Result<(), Error> {
        match firewall::remove(&self.names) {
            // Without nft there never was a table.
            Ok(()) | Err(firewall::Error::Missing) => {}
            Err(error) => return Err(error.into()),
        }
        apply::remove_bridge(socket, &self.names)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever the panicking thread left is compared with the kernel on the next failure.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn elements(
    lease: &Lease,
) -> impl Iterator<Item = ((TransportProtocol, u16), (Ipv4Addr, u16))> + '_ {
    lease
        .ports()
        .iter()
        .map(|port| ((port.protocol, port.host_port), (lease.address(), port.container_port)))
}

fn refuse_conflict(published: &Published, wanted: &Published) -> Result<(), Error> {
    for (key, target) in wanted {
        if let Some(other) = published.get(key)
            && other != target
        {
            return Err(Error::Published { protocol: key.0, port: key.1, address: other.0 });
        }
    }
    Ok(())
}

fn choose_subnets(
    socket: &mut Socket,
    settings: &Settings,
    found: Option<&(netlink::Link, Option<plan::BridgeRecord>)>,
) -> Result<Subnets, Error> {
    let recorded = found.and_then(|(_, record)| record.as_ref()).map(|record| record.subnets);
    let awsvpc = settings.awsvpc_subnet.or(recorded.map(|subnets| subnets.awsvpc));
    let bridge = settings.bridge_subnet.or(recorded.map(|subnets| subnets.bridge));
    for subnet in [awsvpc, bridge].into_iter().flatten() {
        if !(8..=29).contains(&subnet.prefix_len()) {
            return Err(Error::SubnetSize { subnet });
        }
    }
    let taken = match (awsvpc, bridge) {
        (Some(_), Some(_)) => Vec::new(),
        _ => apply::taken(socket, found.map(|(link, _)| link.index), false)?,
    };
    let (awsvpc, bridge) = (awsvpc.map(|net| net.trunc()), bridge.map(|net| net.trunc()));
    let subnets = plan::choose(&settings.suffix, awsvpc, bridge, &taken).ok_or(Error::NoSubnet)?;
    let Subnets { awsvpc, bridge } = subnets;
    if plan::overlap(awsvpc, bridge) {
        return Err(Error::SubnetsOverlap { awsvpc, bridge });
    }
    Ok(subnets)
}
