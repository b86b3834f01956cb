//! What placement sees of a cluster: its instances, each with what is left of it.

use std::collections::BTreeMap;

use protocol::taskdef::TransportProtocol;

use super::query::Facts;
use crate::model::{Instance, Reserved};
use crate::state::{Host, Stored, View};

/// An instance as placement sees it. Placing a task on it changes it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    pub instance: &'a Stored<Instance>,
    pub host: &'a Host,
    /// CPU units that are left.
    pub cpu: u64,
    /// MiB that are left.
    pub memory: u64,
    placed_ports: Vec<(TransportProtocol, u16)>,
    placed_groups: BTreeMap<String, u32>,
}

/// The instances of a cluster that are not INACTIVE, in the order of their ids.
pub fn candidates<'a>(view: &'a View, region: &str, cluster: &str) -> Vec<Candidate<'a>> {
    let prefix = Instance::key_of(region, cluster, "");
    let mut hosts = view.hosts().prefix(&prefix).peekable();
    let mut candidates = Vec::new();
    for (key, instance) in view.instances.prefix(&prefix) {
        // Both are in the order of the same keys.
        while hosts.next_if(|(other, _)| *other < key).is_some() {}
        let Some((_, host)) = hosts.next_if(|(other, _)| *other == key) else { continue };
        if instance.is_registered() {
            candidates.push(Candidate::new(instance, host));
        }
    }
    candidates
}

/// What an expression can ask of an instance.
pub fn facts<'a>(instance: &'a Instance, host: &'a Host) -> Facts<'a> {
    Facts {
        agent_connected: host.connected,
        agent_version: instance.version_info.agent_version.as_deref(),
        ec2_instance_id: instance.ec2_instance_id.as_deref(),
        registered_at: instance.registered_at,
        running_tasks: host.running,
        attributes: &instance.attributes,
        groups: &host.groups,
    }
}

impl<'a> Candidate<'a> {
    pub fn new(instance: &'a Stored<Instance>, host: &'a Host) -> Self {
        let left = |all: u32, taken: u64| u64::from(all).saturating_sub(taken);
        Self {
            instance,
            host,
            cpu: left(instance.resources.cpu, host.cpu),
            memory: left(instance.resources.memory, host.memory),
            placed_ports: Vec::new(),
            placed_groups: BTreeMap::new(),
        }
    }

    /// How many tasks of a group are to run on it.
    pub fn in_group(&self, group: &str) -> u32 {
        self.host.in_group(group) + self.placed_groups.get(group).copied().unwrap_or(0)
    }

    /// Whether a port is taken, by a task or from the beginning.
    pub(super) fn is_taken(&self, port: (TransportProtocol, u16)) -> bool {
        let resources = &self.instance.resources;
        let reserved = match port.0 {
            TransportProtocol::Tcp => &resources.ports,
            TransportProtocol::Udp => &resources.ports_udp,
        };
        reserved.contains(&port.1)
            || self.host.ports.binary_search(&port).is_ok()
            || self.placed_ports.contains(&port)
    }

    /// Takes what a task of a group reserves.
    pub fn take(&mut self, reserved: &Reserved, group: &str) {
        self.cpu = self.cpu.saturating_sub(u64::from(reserved.cpu));
        self.memory = self.memory.saturating_sub(u64::from(reserved.memory));
        self.placed_ports.extend(&reserved.ports);
        match self.placed_groups.get_mut(group) {
            Some(count) => *count += 1,
            None => drop(self.placed_groups.insert(group.to_owned(), 1)),
        }
    }

    /// Asks something of it, with the groups of what was placed.
    pub(super) fn asked<T>(&self, question: impl FnOnce(&Facts<'_>) -> T) -> T {
        let facts = facts(self.instance, self.host);
        if self.placed_groups.is_empty() {
            return question(&facts);
        }
        let mut groups = self.host.groups.clone();
        for (group, count) in &self.placed_groups {
            *groups.entry(group.clone()).or_default() += count;
        }
        question(&Facts { groups: &groups, ..facts })
    }
}
