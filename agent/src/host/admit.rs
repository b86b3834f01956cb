//! What admission of a task needs to know of the host beside the engine's state.

use std::collections::BTreeSet;

use protocol::taskdef::{NetworkMode, TaskDefinition, TransportProtocol};

use crate::network::ports;

/// Ports of the host that something else listens on, as far as the definition can want them.
pub async fn busy_ports(definition: &TaskDefinition) -> BTreeSet<(TransportProtocol, u16)> {
    if !matches!(definition.network_mode, NetworkMode::Bridge | NetworkMode::Host) {
        return BTreeSet::new();
    }
    let mappings: Vec<_> =
        definition.containers.iter().flat_map(|c| c.port_mappings.clone()).collect();
    tokio::task::spawn_blocking(move || {
        let mut busy = BTreeSet::new();
        if mappings.iter().any(|mapping| mapping.host_port == 0) {
            busy.extend(ports::listening());
        }
        for mapping in mappings.iter().filter(|mapping| mapping.host_port != 0) {
            if ports::host_port_free(mapping.protocol, mapping.host_port).is_err() {
                busy.insert((mapping.protocol, mapping.host_port));
            }
        }
        busy
    })
    .await
    .unwrap_or_default()
}
