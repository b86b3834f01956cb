//! Every variable the agent acts on. Others of Amazon's come with the features they configure.

use std::time::Duration;

/// One variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    pub name: &'static str,
    pub kind: Kind,
    /// As it would be written; empty: none, see `doc`.
    pub default: &'static str,
    /// What it does, for people.
    pub doc: &'static str,
    /// The version that began to act on it.
    pub since: &'static str,
    /// Not taken from `ecs.config`, because it says where that lies.
    pub environment_only: bool,
}

/// What values a variable takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An absolute path.
    Path,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// Go's syntax, at least this much.
    Duration { least: Duration },
    /// A JSON object.
    Json,
    /// `first-last`
    PortRange,
    /// An IPv4 network in CIDR notation.
    Subnet,
}

impl Kind {
    /// The rule, as it ends the sentence "must be …".
    pub fn rule(self) -> String {
        match self {
            Self::Path => "an absolute path".to_owned(),
            Self::OneOf(values) => format!("one of {}", values.join(", ")),
            Self::Duration { least } => {
                format!("a duration such as 90s or 1h30m, at least {}s", least.as_secs())
            }
            Self::Json => "a JSON object".to_owned(),
            Self::PortRange => "a range of ports such as 49153-65535".to_owned(),
            Self::Subnet => "an IPv4 network such as 172.29.0.0/16, /8 to /29".to_owned(),
        }
    }
}

const fn variable(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Variable {
    Variable { name, kind, default, doc, since: "0.1.0", environment_only: false }
}

const fn seconds(least: u64) -> Kind {
    Kind::Duration { least: Duration::from_secs(least) }
}

/// Sorted by name.
pub const VARIABLES: [Variable; 9] = [
    variable(
        "ECS_CONTAINER_STOP_TIMEOUT",
        seconds(1),
        "30s",
        "Time between a container's stop signal and SIGKILL where its definition has no stopTimeout.",
    ),
    variable(
        "ECS_DYNAMIC_HOST_PORT_RANGE",
        Kind::PortRange,
        "",
        "Host ports given to mappings with hostPort 0 in bridge mode. Default: the kernel's \
         net.ipv4.ip_local_port_range.",
    ),
    variable(
        "ECS_ENGINE_AUTH_DATA",
        Kind::Json,
        "",
        "Credentials for private registries, in the format that ECS_ENGINE_AUTH_TYPE names. \
         docker: {\"registry\":{\"username\":\"…\",\"password\":\"…\"}}. \
         dockercfg: {\"registry\":{\"auth\":\"base64 of user:password\"}}.",
    ),
    variable(
        "ECS_ENGINE_AUTH_TYPE",
        Kind::OneOf(&["docker", "dockercfg"]),
        "",
        "Format of ECS_ENGINE_AUTH_DATA.",
    ),
    variable(
        "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION",
        seconds(1),
        "3h",
        "How long a stopped task, its logs and its files are kept.",
    ),
    variable(
        "ECS_LOGLEVEL",
        Kind::OneOf(&["debug", "info", "warn", "error", "crit", "none"]),
        "info",
        "How much the agent says about itself on standard error.",
    ),
    variable(
        "LIGHTER_AWSVPC_SUBNET",
        Kind::Subnet,
        "",
        "Network of which awsvpc tasks get their addresses. Default: one that is free on the host.",
    ),
    variable(
        "LIGHTER_BRIDGE_SUBNET",
        Kind::Subnet,
        "",
        "Network of which containers in bridge mode get their addresses. Default: one that is \
         free on the host.",
    ),
    Variable {
        environment_only: true,
        ..variable(
            "LIGHTER_ROOT",
            Kind::Path,
            "",
            "Directory below which configuration, state and sockets lie, as with --root. \
             Default: /etc/ecs, /var/lib/lighter and /run/lighter.",
        )
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_unique_and_documented() {
        assert!(VARIABLES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for variable in VARIABLES {
            assert!(variable.doc.ends_with('.'), "{}", variable.name);
            assert!(
                variable.name.starts_with("ECS_") || variable.name.starts_with("LIGHTER_"),
                "{}",
                variable.name
            );
        }
    }
}
