//! Definitions and settings for tests.

use std::collections::BTreeMap;

use protocol::taskdef::{ContainerDefinition, LinuxParameters, LogConfiguration, LogDriver};

use crate::engine::Settings;

/// Of a host with few addresses and dynamic ports.
pub(crate) fn settings() -> Settings {
    Settings {
        stop_timeout: 30,
        cleanup_after: 3600,
        awsvpc_subnet: ipnet::Ipv4Net::new_assert([10, 147, 0, 0].into(), 28),
        bridge_subnet: ipnet::Ipv4Net::new_assert([10, 147, 16, 0].into(), 28),
        dynamic_ports: (50_000, 50_003),
        user_maps: None,
    }
}

/// An essential container that asks for nothing.
pub(crate) fn container(name: &str, image: &str) -> ContainerDefinition {
    ContainerDefinition {
        name: name.to_owned(),
        image: image.to_owned(),
        repository_credentials: None,
        cpu: 0,
        memory: None,
        memory_reservation: None,
        port_mappings: Vec::new(),
        essential: true,
        entry_point: None,
        command: None,
        environment: Vec::new(),
        mount_points: Vec::new(),
        volumes_from: Vec::new(),
        depends_on: Vec::new(),
        start_timeout: None,
        stop_timeout: None,
        hostname: None,
        user: None,
        working_directory: None,
        disable_networking: false,
        privileged: false,
        readonly_root_filesystem: false,
        dns_servers: Vec::new(),
        dns_search_domains: Vec::new(),
        extra_hosts: Vec::new(),
        no_new_privileges: false,
        interactive: false,
        pseudo_terminal: false,
        docker_labels: BTreeMap::new(),
        ulimits: Vec::new(),
        log: LogConfiguration { driver: LogDriver::JsonFile, options: BTreeMap::new() },
        system_controls: Vec::new(),
        linux: LinuxParameters::default(),
    }
}
