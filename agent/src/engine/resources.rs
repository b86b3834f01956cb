//! Admission: addresses and host ports of a new task.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use protocol::taskdef::{NetworkMode, TransportProtocol};

use super::event::NewTask;
use super::state::{Host, PortLease, Resources, Task};
use crate::network::{ipam, ports};

/// What a task was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    /// awsvpc: the task's address.
    pub(super) address: Option<Ipv4Addr>,
    /// Per container: its address (bridge) and its host ports (bridge, host).
    pub(super) containers: Vec<(Option<Ipv4Addr>, Vec<PortLease>)>,
}

/// Leases what the task needs, or says what is missing. On refusal nothing is leased.
pub(super) fn lease(host: &Host, new: &NewTask) -> Result<Leases, String> {
    let definition = &new.definition;
    let holders = || host.tasks.values().filter(|task| task.resources != Resources::Released);
    let mut addresses: BTreeSet<Ipv4Addr> = holders()
        .flat_map(|task| task.containers.iter().map(|c| c.address).chain([task.address]))
        .flatten()
        .collect();
    let mut used: BTreeSet<(TransportProtocol, u16)> = holders()
        .flat_map(|task| &task.containers)
        .flat_map(|container| &container.ports)
        .map(|lease| (lease.protocol, lease.host_port))
        .collect();

    // Stopped tasks are remembered for a while, and with them what was leased last: it rests longest.
    let mut recent: Vec<&Task> = host.tasks.values().collect();
    recent.sort_by_key(|task| std::cmp::Reverse(task.times.created));
    let mut last_address =
        recent.iter().find_map(|task| task.containers.iter().rev().find_map(|c| c.address));
    let (first_port, end_port) = host.settings.dynamic_ports;
    let mut last_port = recent.iter().find_map(|task| {
        let ports = task.containers.iter().rev().flat_map(|c| c.ports.iter().rev());
        ports.map(|lease| lease.host_port).find(|port| (first_port..=end_port).contains(port))
    });

    let mut leases = Leases::default();
    if definition.network_mode == NetworkMode::Awsvpc {
        let subnet = host.settings.awsvpc_subnet;
        let last = recent.iter().find_map(|task| task.address);
        leases.address = Some(ipam::allocate(subnet, &addresses, last).ok_or_else(|| {
            format!("ResourceInitializationError: no free address in the awsvpc subnet {subnet}; set LIGHTER_AWSVPC_SUBNET to a larger one")
        })?);
    }

    // Fixed ports first, so that a dynamic one never takes a port that a later container names.
    let takes_ports = matches!(definition.network_mode, NetworkMode::Bridge | NetworkMode::Host);
    for container in definition.containers.iter().filter(|_| takes_ports) {
        for mapping in container.port_mappings.iter().filter(|mapping| mapping.host_port != 0) {
            let port = (mapping.protocol, mapping.host_port);
            if new.busy_ports.contains(&port) {
                return Err(format!(
                    "ResourceInitializationError: container {}: host port {}/{} is in use on this host",
                    container.name,
                    mapping.host_port,
                    protocol_name(mapping.protocol),
                ));
            }
            if !used.insert(port) {
                let holder = holders().find(|task| {
                    task.containers
                        .iter()
                        .flat_map(|c| &c.ports)
                        .any(|lease| (lease.protocol, lease.host_port) == port)
                });
                return Err(format!(
                    "ResourceInitializationError: container {}: host port {}/{} is in use by {}",
                    container.name,
                    mapping.host_port,
                    protocol_name(mapping.protocol),
                    holder
                        .map_or_else(|| "this task".to_owned(), |task| format!("task {}", task.id)),
                ));
            }
        }
    }
    for container in &definition.containers {
        let address = if definition.network_mode == NetworkMode::Bridge
            && !container.disable_networking
        {
            let subnet = host.settings.bridge_subnet;
            let address = ipam::allocate(subnet, &addresses, last_address).ok_or_else(|| {
                format!("ResourceInitializationError: no free address in the bridge subnet {subnet}; set LIGHTER_BRIDGE_SUBNET to a larger one")
            })?;
            addresses.insert(address);
            last_address = Some(address);
            Some(address)
        } else {
            None
        };
        let mut container_ports = Vec::new();
        for mapping in container.port_mappings.iter().filter(|_| takes_ports) {
            let host_port = if mapping.host_port == 0 {
                let taken = used.union(&new.busy_ports).copied().collect();
                let port = ports::allocate(first_port..=end_port, mapping.protocol, &taken, last_port)
                    .ok_or_else(|| {
                        format!("ResourceInitializationError: no free dynamic host port in {first_port}-{end_port}")
                    })?;
                used.insert((mapping.protocol, port));
                last_port = Some(port);
                port
            } else {
                mapping.host_port
            };
            container_ports.push(PortLease {
                protocol: mapping.protocol,
                host_port,
                container_port: mapping.container_port,
            });
        }
        leases.containers.push((address, container_ports));
    }
    Ok(leases)
}

fn protocol_name(protocol: TransportProtocol) -> &'static str {
    match protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
    }
}
