//! What a network should look like. Pure: names, subnets and the record that the bridge carries
//! follow from their parameters alone.
//!
//! Everything an agent makes on the host has a name that its suffix determines, so that several
//! agents live on one host and each recognises its own after a crash: the bridge
//! `lighter<suffix>` (`lighter0` without a suffix), the nftables table `lighter_<suffix>`
//! (`lighter`), and veth ends `lt<hash>`, which besides are the bridge's only ports.

use core::net::Ipv4Addr;
use std::fmt;

use ipnet::Ipv4Net;
use protocol::ids::TaskId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ipam;
use protocol::taskdef::TransportProtocol;

/// Beginning of the alias of everything we make.
const ALIAS: &str = "lighter";
/// Where subnets are chosen, best first, and how long their prefix is.
const POOLS: [([u8; 4], u8); 2] = [([10, 144, 0, 0], 12), ([172, 16, 0, 0], 12)];
const PREFIX: u8 = 20;
/// The pair an agent without a suffix takes if it is free: 10.147.0.0/20 and 10.147.16.0/20.
const DEFAULT_PAIR: u32 = 24;

/// The two subnets of an agent. Both live on one bridge; the host has the first address of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnets {
    /// Addresses of awsvpc tasks; routable like an ENI's.
    pub awsvpc: Ipv4Net,
    /// Addresses of bridge-mode containers; from outside only by published ports.
    pub bridge: Ipv4Net,
}

/// An awsvpc task's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLease {
    pub task: TaskId,
    /// From [`Subnets::awsvpc`].
    pub address: Ipv4Addr,
}

/// A bridge-mode container's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLease {
    pub task: TaskId,
    /// Name within the task.
    pub container: String,
    /// From [`Subnets::bridge`].
    pub address: Ipv4Addr,
    pub ports: Vec<PublishedPort>,
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub protocol: TransportProtocol,
    /// Never 0: dynamic ports are chosen before.
    pub host_port: u16,
    pub container_port: u16,
}

/// What one network namespace holds in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lease {
    Task(TaskLease),
    Container(ContainerLease),
}

impl Lease {
    /// The leased address.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Task(lease) => lease.address,
            Self::Container(lease) => lease.address,
        }
    }

    /// The hardware address that goes with it.
    pub fn mac(&self) -> [u8; 6] {
        ipam::mac(self.address())
    }

    /// Ports published on the host.
    pub fn ports(&self) -> &[PublishedPort] {
        match self {
            Self::Task(_) => &[],
            Self::Container(lease) => &lease.ports,
        }
    }

    pub(super) fn subnet(&self, subnets: &Subnets) -> Ipv4Net {
        match self {
            Self::Task(_) => subnets.awsvpc,
            Self::Container(_) => subnets.bridge,
        }
    }

    /// Task id, and container name behind a slash.
    pub(super) fn owner(&self) -> Owner<'_> {
        match self {
            Self::Task(lease) => Owner { task: &lease.task, container: None },
            Self::Container(lease) => {
                Owner { task: &lease.task, container: Some(&lease.container) }
            }
        }
    }
}

/// Prints whose lease it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    task: &'a TaskId,
    container: Option<&'a str>,
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.container {
            Some(container) => write!(f, "{}/{container}", self.task),
            None => write!(f, "{}", self.task),
        }
    }
}

/// The names that one suffix determines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    suffix: String,
    /// The bridge; at most 15 bytes for the suffixes of `Layout`.
    pub bridge: String,
    /// The nftables table.
    pub table: String,
}

impl Names {
    /// `suffix` as `Layout::suffix` gives it.
    pub fn new(suffix: &str) -> Self {
        if suffix.is_empty() {
            Self {
                suffix: String::new(),
                bridge: "lighter0".to_owned(),
                table: "lighter".to_owned(),
            }
        } else {
            Self {
                suffix: suffix.to_owned(),
                bridge: format!("lighter{suffix}"),
                table: format!("lighter_{suffix}"),
            }
        }
    }

    /// The host's end of a lease's veth pair: 14 bytes, from a hash because the kernel allows 15.
    pub fn veth(&self, lease: &Lease) -> String {
        let digest = Sha256::digest(format!("{}:{}", self.suffix, lease.owner()));
        let mut name = String::from("lt");
        for byte in digest.iter().take(6) {
            name.push_str(&format!("{byte:02x}"));
        }
        name
    }

    /// What `ip link` shows for it.
    pub fn veth_alias(&self, lease: &Lease) -> String {
        format!("{ALIAS}:{}:{}", self.suffix, lease.owner())
    }

    /// The bridge's alias with what must be remembered as long as it stands.
    pub fn bridge_alias(&self, record: &BridgeRecord) -> String {
        let BridgeRecord { forwarding, subnets: Subnets { awsvpc, bridge } } = record;
        let forwarding = u8::from(*forwarding);
        format!("{ALIAS}:{}:forwarding={forwarding},awsvpc={awsvpc},bridge={bridge}", self.suffix)
    }
}

/// What the bridge remembers in its alias. It ends with the bridge at the latest at reboot, as does
/// what it describes; a file would outlive both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgeRecord {
    /// Whether the host forwarded packets before any agent asked it to.
    pub forwarding: bool,
    pub subnets: Subnets,
}

impl BridgeRecord {
    /// Reads the alias of any agent's bridge.
    pub fn parse(alias: &str) -> Option<Self> {
        let (_, fields) = alias.strip_prefix(ALIAS)?.strip_prefix(':')?.split_once(':')?;
        let mut fields = fields.split(',');
        let mut field = |key: &str| fields.next()?.strip_prefix(key)?.strip_prefix('=');
        let forwarding = match field("forwarding")? {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let awsvpc = field("awsvpc")?.parse().ok()?;
        let bridge = field("bridge")?.parse().ok()?;
        Some(Self { forwarding, subnets: Subnets { awsvpc, bridge } })
    }
}

/// Whether two subnets share an address.
pub fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Chooses what is not configured: a pair of adjacent /20s that no taken network overlaps, else
/// two that are apart. Agents with different suffixes begin their search at different places, so
/// that two started at the same time do not choose the same. `None` if nothing is free.
pub fn choose(
    suffix: &str,
    awsvpc: Option<Ipv4Net>,
    bridge: Option<Ipv4Net>,
    taken: &[Ipv4Net],
) -> Option<Subnets> {
    if let (Some(awsvpc), Some(bridge)) = (awsvpc, bridge) {
        return Some(Subnets { awsvpc, bridge });
    }
    let configured = awsvpc.or(bridge);
    let free = |net: &Ipv4Net| {
        !taken.iter().any(|other| overlap(*net, *other))
            && !configured.is_some_and(|other| overlap(*net, other))
    };
    let candidates = candidates(suffix);
    let pair = candidates
        .chunks_exact(2)
        .find(|pair| pair.iter().all(free))
        .map(|pair| (pair.first().copied(), pair.last().copied()));
    let (first, second) = match pair {
        Some(pair) => pair,
        None => {
            let mut single = candidates.iter().copied().filter(free);
            (single.next(), single.next())
        }
    };
    Some(match (awsvpc, bridge) {
        (Some(awsvpc), _) => Subnets { awsvpc, bridge: first? },
        (None, Some(bridge)) => Subnets { awsvpc: first?, bridge },
        (None, None) => Subnets { awsvpc: first?, bridge: second? },
    })
}

/// Every candidate, pairs together, in the order this suffix tries them.
fn candidates(suffix: &str) -> Vec<Ipv4Net> {
    let mut all = Vec::new();
    for (base, prefix) in POOLS {
        let pairs = 1u32 << (PREFIX - prefix - 1);
        let start = match suffix {
            "" => DEFAULT_PAIR,
            _ => protocol::monitor::crc32(suffix.as_bytes()),
        };
        for step in 0..pairs {
            let pair = start.wrapping_add(step) % pairs;
            for half in 0..2 {
                let slot = pair * 2 + half;
                let address = u32::from_be_bytes(base) | (slot << (32 - PREFIX));
                all.extend(Ipv4Net::new(Ipv4Addr::from(address), PREFIX));
            }
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn lease(task: u128, container: Option<&str>) -> Lease {
        let task = TaskId::from_random(task);
        let address = Ipv4Addr::new(10, 147, 0, 2);
        match container {
            None => Lease::Task(TaskLease { task, address }),
            Some(name) => Lease::Container(ContainerLease {
                task,
                container: name.to_owned(),
                address,
                ports: Vec::new(),
            }),
        }
    }

    #[test]
    fn names_fit_the_kernel_and_differ_by_suffix_task_and_container() {
        let (plain, rooted) = (Names::new(""), Names::new("0a1b2c3d"));
        assert_eq!((plain.bridge.as_str(), plain.table.as_str()), ("lighter0", "lighter"));
        assert_eq!(rooted.bridge, "lighter0a1b2c3d");
        assert!(rooted.bridge.len() <= 15);
        let names = [
            plain.veth(&lease(1, None)),
            rooted.veth(&lease(1, None)),
            plain.veth(&lease(2, None)),
            plain.veth(&lease(1, Some("web"))),
            plain.veth(&lease(1, Some("db"))),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| name.len() <= 15));
    }

    #[test]
    fn the_bridge_record_survives_its_alias() {
        for suffix in ["", "0a1b2c3d"] {
            for forwarding in [false, true] {
                let subnets = choose(suffix, None, None, &[]).unwrap();
                let record = BridgeRecord { forwarding, subnets };
                let alias = Names::new(suffix).bridge_alias(&record);
                assert!(alias.len() < 256);
                assert_eq!(BridgeRecord::parse(&alias), Some(record));
            }
        }
        for foreign in ["", "lighter", "lighter::", "lighter::forwarding=2,awsvpc=,bridge=", "x"] {
            assert_eq!(BridgeRecord::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_default_agent_takes_10_147() {
        let subnets = choose("", None, None, &[net("192.0.2.0/24")]).unwrap();
        assert_eq!(subnets.awsvpc, net("10.147.0.0/20"));
        assert_eq!(subnets.bridge, net("10.147.16.0/20"));
    }

    #[test]
    fn taken_networks_are_avoided_down_to_the_second_pool() {
        let subnets = choose("", None, None, &[net("10.147.4.0/24")]).unwrap();
        assert_eq!(subnets.awsvpc, net("10.147.32.0/20"));
        let subnets = choose("", None, None, &[net("10.0.0.0/8")]).unwrap();
        assert!(net("172.16.0.0/12").contains(&subnets.awsvpc));
        assert_eq!(choose("", None, None, &[net("0.0.0.0/0")]), None);
    }

    #[test]
    fn what_is_configured_stays() {
        let mine = net("10.147.0.0/16");
        let subnets = choose("", Some(mine), None, &[]).unwrap();
        assert_eq!(subnets.awsvpc, mine);
        assert!(!overlap(subnets.bridge, mine));
        let subnets = choose("", None, Some(mine), &[]).unwrap();
        assert_eq!(subnets.bridge, mine);
        assert!(!overlap(subnets.awsvpc, mine));
    }

    proptest! {
        #[test]
        fn chosen_subnets_overlap_nothing(
            suffix in "([0-9a-f]{8})?",
            taken in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..12),
        ) {
            let taken: Vec<_> = taken
                .into_iter()
                .map(|(base, prefix)| Ipv4Net::new(Ipv4Addr::from(base), prefix).unwrap().trunc())
                .collect();
            if let Some(Subnets { awsvpc, bridge }) = choose(&suffix, None, None, &taken) {
                prop_assert!(!overlap(awsvpc, bridge));
                for other in taken {
                    prop_assert!(!overlap(awsvpc, other) && !overlap(bridge, other));
                }
            }
        }
    }
}
