//! What this host offers, in the words of a registration: attributes and resources. Pure.
//!
//! Task definitions are matched against attributes, so each stands here only if it is true of this
//! agent. Those named after Docker are what the Amazon agent calls the same abilities (protocol
//! reference §5.2, §5.3).

use std::collections::{BTreeMap, BTreeSet};

use protocol::ecs::{Attribute, Resource, TASK_NETWORK};

use crate::config::{Ecs, Metadata};

/// Log drivers that this agent has.
pub const LOGGING_DRIVERS: [&str; 2] = ["json-file", "awslogs"];

/// Abilities that every host has, besides those that depend on the configuration.
const ALWAYS: [&str; 20] = [
    "com.amazonaws.ecs.capability.docker-remote-api.1.17",
    "com.amazonaws.ecs.capability.docker-remote-api.1.18",
    "com.amazonaws.ecs.capability.docker-remote-api.1.19",
    "com.amazonaws.ecs.capability.docker-remote-api.1.20",
    "com.amazonaws.ecs.capability.docker-remote-api.1.21",
    "com.amazonaws.ecs.capability.docker-remote-api.1.22",
    "com.amazonaws.ecs.capability.docker-remote-api.1.23",
    "com.amazonaws.ecs.capability.docker-remote-api.1.24",
    "com.amazonaws.ecs.capability.docker-remote-api.1.25",
    "com.amazonaws.ecs.capability.docker-remote-api.1.28",
    "com.amazonaws.ecs.capability.docker-remote-api.1.29",
    "com.amazonaws.ecs.capability.docker-remote-api.1.30",
    "com.amazonaws.ecs.capability.docker-remote-api.1.32",
    "com.amazonaws.ecs.capability.ecr-auth",
    "ecs.capability.container-ordering",
    "ecs.capability.docker-plugin.local",
    "ecs.capability.ecr-endpoint",
    "ecs.capability.execution-role-ecr-pull",
    "ecs.capability.full-sync",
    "ecs.capability.private-registry-authentication.secretsmanager",
];

const TASK_LIMITS: [&str; 2] =
    ["ecs.capability.increased-task-cpu-limit", "ecs.capability.task-cpu-mem-limit"];

/// What the attributes depend on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub ecs: &'a Ecs,
    pub metadata: &'a Metadata,
    /// The kernel can mount NFS.
    pub nfs_client: bool,
    /// This host has no container instance yet.
    pub first: bool,
    /// As `std::env::consts::ARCH` names it.
    pub architecture: &'a str,
}

/// The attributes to register with, sorted by name.
pub fn attributes(facts: &Facts<'_>) -> Vec<Attribute> {
    let Facts { ecs, metadata, nfs_client, first, architecture } = *facts;
    // A control plane that is not Amazon's may leave addresses to its hosts.
    let own = ecs.backend_host.is_some();
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut flag = |name: &str, condition: bool| {
        if condition {
            found.insert(name.to_owned(), None);
        }
    };
    for name in ALWAYS.iter().chain(&TASK_LIMITS) {
        flag(name, true);
    }
    flag("com.amazonaws.ecs.capability.privileged-container", !ecs.disable_privileged);
    flag("com.amazonaws.ecs.capability.task-iam-role", metadata.task_iam_role);
    flag(
        "com.amazonaws.ecs.capability.task-iam-role-network-host",
        metadata.task_iam_role_network_host,
    );
    // Amazon's images for hosts have a client; here a task must not be placed where it cannot run.
    flag("ecs.capability.efs", nfs_client);
    flag("ecs.capability.external", ecs.external);
    // Amazon gives network interfaces, which this agent does not attach.
    flag("ecs.capability.task-eni", own && !ecs.external);
    flag(TASK_NETWORK, true);
    for driver in logging_drivers(ecs) {
        flag(&format!("com.amazonaws.ecs.capability.logging-driver.{driver}"), true);
        flag("ecs.capability.execution-role-awslogs", driver == "awslogs");
    }
    let mut value = |name: &str, value: &str| {
        found.insert(name.to_owned(), Some(value.to_owned()));
    };
    value("ecs.os-type", "linux");
    value("ecs.os-family", "LINUX");
    value("ecs.os-type-detailed", "LINUX");
    if own || ecs.external {
        let architecture = match architecture {
            "aarch64" => "arm64",
            other => other,
        };
        value("ecs.cpu-architecture", architecture);
    }
    if first {
        for (name, value) in &ecs.instance_attributes {
            // What the agent says of itself is not for others to say.
            let value = Some(value.clone()).filter(|value| !value.is_empty());
            found.entry(name.clone()).or_insert(value);
        }
    }
    found
        .into_iter()
        .map(|(name, value)| Attribute { name: Some(name), value, ..Attribute::default() })
        .collect()
}

/// Drivers that are configured and there.
fn logging_drivers(ecs: &Ecs) -> impl Iterator<Item = &'static str> {
    LOGGING_DRIVERS.into_iter().filter(|driver| ecs.logging_drivers.contains(*driver))
}

/// Attributes that were sent and did not come back as they were, by name.
pub fn not_echoed(sent: &[Attribute], answered: &[Attribute]) -> Vec<String> {
    let value = |attribute: &Attribute| attribute.value.clone().unwrap_or_default();
    let answered: BTreeMap<Option<&str>, String> =
        answered.iter().map(|attribute| (attribute.name.as_deref(), value(attribute))).collect();
    sent.iter()
        .filter(|attribute| answered.get(&attribute.name.as_deref()) != Some(&value(attribute)))
        .filter_map(|attribute| attribute.name.clone())
        .collect()
}

/// Memory is reserved that the host does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ECS_RESERVED_MEMORY={reserved} leaves nothing of the host's {total} MiB of memory")]
pub struct NoMemory {
    pub reserved: u32,
    pub total: u64,
}

/// The host's resources. `own_ports`: those that the agent itself serves.
///
/// # Errors
/// If more memory is reserved than there is.
pub fn resources(
    ecs: &Ecs,
    cpus: usize,
    memory_mib: u64,
    own_ports: &[u16],
) -> Result<Vec<Resource>, NoMemory> {
    let left = memory_mib
        .checked_sub(ecs.reserved_memory.into())
        .filter(|left| *left > 0)
        .ok_or(NoMemory { reserved: ecs.reserved_memory, total: memory_mib })?;
    let integer = |name: &str, value: u64| Resource {
        name: Some(name.to_owned()),
        kind: Some("INTEGER".to_owned()),
        // The API counts in 32 bits: 2 PiB of memory, 2 million CPUs.
        integer_value: Some(i32::try_from(value).unwrap_or(i32::MAX)),
        ..Resource::default()
    };
    let set = |name: &str, ports: &BTreeSet<u16>| Resource {
        name: Some(name.to_owned()),
        kind: Some("STRINGSET".to_owned()),
        string_set_value: Some(ports.iter().map(u16::to_string).collect()),
        ..Resource::default()
    };
    let tcp = ecs.reserved_ports.iter().chain(own_ports).copied().collect();
    let units = u64::try_from(cpus).unwrap_or(u64::MAX).saturating_mul(1024);
    Ok(vec![
        integer("CPU", units),
        integer("MEMORY", left),
        set("PORTS", &tcp),
        set("PORTS_UDP", &ecs.reserved_ports_udp),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn config(variables: &[(&str, &str)]) -> Config {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Config::load(std::path::Path::new("/nonexistent"), variables).unwrap().0
    }

    fn facts(config: &Config, first: bool) -> Facts<'_> {
        Facts {
            ecs: &config.ecs,
            metadata: &config.metadata,
            nfs_client: false,
            first,
            architecture: "aarch64",
        }
    }

    fn names(variables: &[(&str, &str)], first: bool) -> Vec<String> {
        let config = config(variables);
        let facts = facts(&config, first);
        attributes(&facts)
            .into_iter()
            .map(|attribute| {
                let name = attribute.name.unwrap();
                attribute.value.map_or(name.clone(), |value| format!("{name}={value}"))
            })
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Configuration; what it adds; what it takes away.
    type Difference<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn attributes_follow_the_configuration() {
        let plain = names(&[], true);
        let differences: [Difference<'_>; 6] = [
            (
                &[("ECS_BACKEND_HOST", "http://x")],
                &["ecs.capability.task-eni", "ecs.cpu-architecture=arm64"],
                &[],
            ),
            (
                &[("ECS_EXTERNAL", "true"), ("ECS_BACKEND_HOST", "http://x")],
                &["ecs.capability.external", "ecs.cpu-architecture=arm64"],
                &[],
            ),
            (
                &[("ECS_DISABLE_PRIVILEGED", "true")],
                &[],
                &["com.amazonaws.ecs.capability.privileged-container"],
            ),
            (
                &[("LIGHTER_USERNS_REMAP", "default")],
                &[],
                &["com.amazonaws.ecs.capability.privileged-container"],
            ),
            (
                &[("ECS_AVAILABLE_LOGGING_DRIVERS", "[\"syslog\"]")],
                &[],
                &[
                    "com.amazonaws.ecs.capability.logging-driver.awslogs",
                    "com.amazonaws.ecs.capability.logging-driver.json-file",
                    "ecs.capability.execution-role-awslogs",
                ],
            ),
            (
                &[(
                    "ECS_INSTANCE_ATTRIBUTES",
                    "{\"rack\":\"7\",\"bare\":\"\",\"ecs.os-type\":\"x\"}",
                )],
                &["bare", "rack=7"],
                &[],
            ),
        ];
        for (variables, more, less) in differences {
            let mut expected: Vec<String> =
                plain.iter().filter(|name| !less.contains(&name.as_str())).cloned().collect();
            expected.extend(more.iter().map(|name| (*name).to_owned()));
            expected.sort();
            assert_eq!(names(variables, true), expected, "{variables:?}");
        }
        let again = names(&[("ECS_INSTANCE_ATTRIBUTES", "{\"rack\":\"7\"}")], false);
        assert_eq!(again, plain, "custom attributes belong to the first registration");
    }

    #[test]
    fn efs_needs_the_kernels_client() {
        let config = config(&[]);
        for nfs_client in [false, true] {
            let facts = Facts { nfs_client, ..facts(&config, true) };
            let mut names = attributes(&facts).into_iter().filter_map(|found| found.name);
            assert_eq!(names.any(|name| name == "ecs.capability.efs"), nfs_client);
        }
    }

    #[test]
    fn an_answer_must_have_what_was_sent() {
        let attribute = |name: &str, value: Option<&str>| Attribute {
            name: Some(name.to_owned()),
            value: value.map(str::to_owned),
            ..Attribute::default()
        };
        let sent = [attribute("a", None), attribute("b", Some("1")), attribute("c", Some("1"))];
        let answered = [
            attribute("c", Some("2")),
            attribute("a", Some("")),
            attribute("b", Some("1")),
            attribute("ecs.availability-zone", Some("x")),
        ];
        assert_eq!(not_echoed(&sent, &answered), ["c"]);
        assert_eq!(not_echoed(&sent, &[]), ["a", "b", "c"]);
    }

    #[test]
    fn resources_leave_out_what_is_reserved() {
        let config = config(&[("ECS_RESERVED_MEMORY", "100"), ("ECS_RESERVED_PORTS", "[22]")]);
        let found = resources(&config.ecs, 2, 1000, &[51678]).unwrap();
        assert_eq!(found[0].integer_value, Some(2048));
        assert_eq!(found[1].integer_value, Some(900));
        assert_eq!(found[2].string_set_value, Some(vec!["22".to_owned(), "51678".to_owned()]));
        assert_eq!(found[3].string_set_value, Some(vec![]));
        assert_eq!(
            resources(&config.ecs, 2, 100, &[]),
            Err(NoMemory { reserved: 100, total: 100 })
        );
    }
}
