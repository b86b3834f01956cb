//! Every variable the agent acts on. Others of Amazon's come with the features they configure.

use std::time::Duration;

use super::duration::parse_duration;
use super::ecs::LOGGING_DRIVERS;

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
    Duration {
        least: Duration,
    },
    /// A JSON object.
    Json,
    /// `first-last`
    PortRange,
    /// An IPv4 network in CIDR notation.
    Subnet,
    /// Go's words for true and false.
    Bool,
    /// A name, an ARN or the like.
    Word,
    /// As [`Self::Word`], and never shown.
    Secret,
    /// Scheme and host.
    Endpoint,
    /// Host, and a port if need be.
    Authority,
    /// A JSON list of ports.
    Ports,
    /// A JSON object of texts.
    Map,
    /// A JSON list of some of these.
    Names(&'static [&'static str]),
    /// A number of MiB.
    Mebibytes,
    Port,
    /// `steady,burst`
    Rate,
    /// A number, at least this.
    Count {
        least: u32,
    },
    /// Names of images.
    References,
    /// How full a disk is.
    Mark,
    /// A user of the host, maybe with a group.
    User,
}

impl Kind {
    /// Whether a value must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Json | Self::Secret)
    }

    /// Whether a text that breaks the rule is of the right form, and says less than the least.
    pub(super) fn is_too_little(self, text: &str) -> bool {
        match self {
            Self::Duration { least } => parse_duration(text).is_ok_and(|given| given < least),
            Self::Count { least } => text.parse().is_ok_and(|given: i64| given < least.into()),
            _ => false,
        }
    }

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
            Self::Bool => "true or false".to_owned(),
            Self::Word => "a text without blanks".to_owned(),
            Self::Secret => "a secret text without blanks".to_owned(),
            Self::Endpoint => "a host, or http(s)://host[:port]".to_owned(),
            Self::Authority => "a host, or host:port".to_owned(),
            Self::Ports => "a JSON list of ports such as [22,80]".to_owned(),
            Self::Map => "a JSON object of texts such as {\"rack\":\"7\"}".to_owned(),
            Self::Names(names) => format!("a JSON list of some of {}", names.join(", ")),
            Self::Mebibytes => "a number of MiB".to_owned(),
            Self::Port => "a port from 1 to 65535".to_owned(),
            Self::Rate => "two numbers of requests such as 40,60, each at least 1".to_owned(),
            Self::Count { least } => format!("a number, at least {least}"),
            Self::References => {
                "names of images with commas between them, such as alpine:3.20,nginx".to_owned()
            }
            Self::User => {
                "default, or a user as name or number, maybe with a group, such as user:group"
                    .to_owned()
            }
            Self::Mark => "a percentage such as 85%, an amount such as 40GB, or off".to_owned(),
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
pub const VARIABLES: [Variable; 55] = [
    variable(
        "AWS_ACCESS_KEY_ID",
        Kind::Word,
        "",
        "Id of the key with which the agent signs its calls. Default: found as the AWS SDKs find theirs (profile, container, instance metadata).",
    ),
    variable(
        "AWS_DEFAULT_REGION",
        Kind::Word,
        "",
        "Region of the cluster; required where there is no instance metadata.",
    ),
    variable(
        "AWS_ENDPOINT_URL_ECR",
        Kind::Endpoint,
        "",
        "Where Amazon ECR is asked for logins. Default: AWS_ENDPOINT_URL of the environment, else \
         Amazon's.",
    ),
    variable(
        "AWS_ENDPOINT_URL_SECRETS_MANAGER",
        Kind::Endpoint,
        "",
        "Where the secrets of repositoryCredentials are. Default: AWS_ENDPOINT_URL of the \
         environment, else Amazon's.",
    ),
    variable(
        "AWS_REGION",
        Kind::Word,
        "",
        "Region of the cluster where AWS_DEFAULT_REGION says nothing.",
    ),
    variable("AWS_SECRET_ACCESS_KEY", Kind::Secret, "", "The key of AWS_ACCESS_KEY_ID."),
    variable(
        "AWS_SESSION_TOKEN",
        Kind::Secret,
        "",
        "Session of the key, where it is a temporary one.",
    ),
    variable(
        "ECS_AUDIT_LOGFILE",
        Kind::Path,
        "",
        "Log of requests for tasks' credentials. Default: /var/log/ecs/audit.log.",
    ),
    variable(
        "ECS_AUDIT_LOGFILE_DISABLED",
        Kind::Bool,
        "false",
        "Keep no log of requests for tasks' credentials.",
    ),
    variable(
        "ECS_AVAILABLE_LOGGING_DRIVERS",
        Kind::Names(&LOGGING_DRIVERS),
        "[\"json-file\",\"awslogs\"]",
        "Log drivers that tasks from the control plane may use on this host; those that the agent does not have are left out.",
    ),
    variable(
        "ECS_BACKEND_HOST",
        Kind::Endpoint,
        "",
        "Control plane that this host joins. Default: Amazon ECS in the region, where ECS_CLUSTER or ECS_EXTERNAL is set; else none.",
    ),
    variable(
        "ECS_CLUSTER",
        Kind::Word,
        "",
        "Name or ARN of the cluster that this host joins. Default: the cluster default, where ECS_BACKEND_HOST or ECS_EXTERNAL is set; else none.",
    ),
    variable(
        "ECS_CONTAINER_INSTANCE_TAGS",
        Kind::Map,
        "{}",
        "Tags of this host's container instance.",
    ),
    variable(
        "ECS_CONTAINER_STOP_TIMEOUT",
        seconds(1),
        "30s",
        "Time between a container's stop signal and SIGKILL where its definition has no stopTimeout.",
    ),
    variable(
        "ECS_DISABLE_IMAGE_CLEANUP",
        Kind::Bool,
        "false",
        "Never remove images by itself, whatever their age and however full the disk is.",
    ),
    variable(
        "ECS_DISABLE_METRICS",
        Kind::Bool,
        "false",
        "Send the control plane no metrics of containers.",
    ),
    variable(
        "ECS_DISABLE_PRIVILEGED",
        Kind::Bool,
        "false",
        "Tell the control plane that privileged containers cannot run here.",
    ),
    variable(
        "ECS_DYNAMIC_HOST_PORT_RANGE",
        Kind::PortRange,
        "",
        "Host ports given to mappings with hostPort 0 in bridge mode. Default: the kernel's \
         net.ipv4.ip_local_port_range.",
    ),
    variable(
        "ECS_ENABLE_TASK_IAM_ROLE",
        Kind::Bool,
        "true",
        "Serve the credentials of tasks' roles to their containers.",
    ),
    variable(
        "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST",
        Kind::Bool,
        "true",
        "The same for tasks in host network mode.",
    ),
    variable(
        "ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP",
        Kind::Bool,
        "false",
        "Also clean up images that no task has used, the smallest first; and let a full disk take those that were loaded from an archive.",
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
        "ECS_EXCLUDE_UNTRACKED_IMAGE",
        Kind::References,
        "",
        "Images that are never cleaned up.",
    ),
    variable(
        "ECS_EXTERNAL",
        Kind::Bool,
        "false",
        "This host is no EC2 instance: never ask the instance metadata service.",
    ),
    variable(
        "ECS_IMAGE_CLEANUP_INTERVAL",
        seconds(600),
        "30m",
        "Time between rounds in which images are cleaned up.",
    ),
    variable(
        "ECS_IMAGE_MINIMUM_CLEANUP_AGE",
        seconds(1),
        "1h",
        "Age, since it was pulled, at which an image that tasks have used is cleaned up.",
    ),
    variable(
        "ECS_IMAGE_PULL_BEHAVIOR",
        Kind::OneOf(&["default", "always", "once", "prefer-cached"]),
        "default",
        "When images of tasks from the control plane are pulled: each time (always), each time but an image that is here will do if its registry fails (default), only where this agent has not pulled it yet (once), or only where it is not here (prefer-cached, with which no image is cleaned up).",
    ),
    variable(
        "ECS_IMAGE_PULL_INACTIVITY_TIMEOUT",
        seconds(60),
        "1m",
        "Time without progress after which a pull fails.",
    ),
    variable("ECS_IMAGE_PULL_TIMEOUT", seconds(1), "2h", "Time after which a pull fails."),
    variable(
        "ECS_INSTANCE_ATTRIBUTES",
        Kind::Map,
        "{}",
        "Attributes of this host's container instance, for placement constraints; sent with the first registration.",
    ),
    variable(
        "ECS_LOGLEVEL",
        Kind::OneOf(&["debug", "info", "warn", "error", "crit", "none"]),
        "info",
        "How much the agent says about itself on standard error.",
    ),
    variable(
        "ECS_MANIFEST_PULL_TIMEOUT",
        seconds(30),
        "1m",
        "Time within which a registry must have said what an image is.",
    ),
    variable(
        "ECS_NUM_IMAGES_DELETE_PER_CYCLE",
        Kind::Count { least: 1 },
        "5",
        "Images that are cleaned up in one round at most.",
    ),
    variable(
        "ECS_RESERVED_MEMORY",
        Kind::Mebibytes,
        "0",
        "Memory of the host that tasks do not get.",
    ),
    variable(
        "ECS_RESERVED_PORTS",
        Kind::Ports,
        "[22,2375,2376,51678,51679]",
        "TCP ports that tasks do not get.",
    ),
    variable("ECS_RESERVED_PORTS_UDP", Kind::Ports, "[]", "UDP ports that tasks do not get."),
    variable(
        "ECS_TASK_METADATA_RPS_LIMIT",
        Kind::Rate,
        "40,60",
        "Requests per second to the task metadata endpoint, in the long run and at once.",
    ),
    variable(
        "LIGHTER_AWSVPC_SUBNET",
        Kind::Subnet,
        "",
        "Network of which awsvpc tasks get their addresses. Default: one that is free on the host.",
    ),
    variable(
        "LIGHTER_AWS_CREDENTIALS",
        Kind::OneOf(&["task", "host"]),
        "task",
        "With what Amazon ECR and AWS Secrets Manager are asked for the logins of registries. task: \
         the credentials of the task's execution role, else those of this file or of the host. host: \
         always those of the host (profile, container or instance role), because the keys and roles \
         of a self-hosted control plane mean nothing to Amazon.",
    ),
    variable(
        "LIGHTER_BRIDGE_SUBNET",
        Kind::Subnet,
        "",
        "Network of which containers in bridge mode get their addresses. Default: one that is \
         free on the host.",
    ),
    variable(
        "LIGHTER_CA_BUNDLE",
        Kind::Path,
        "",
        "PEM file of certificates that are trusted beside the host's, for a control plane with a certificate of its own.",
    ),
    variable(
        "LIGHTER_EFS_ENDPOINT",
        Kind::Authority,
        "",
        "NFS server that EFS volumes are mounted from, whatever their file system. Default: <file system id>.efs.<region>.amazonaws.com.",
    ),
    variable(
        "LIGHTER_IMAGE_DISK_HIGH",
        Kind::Mark,
        "85%",
        "Use of the disk with the images, of its bytes or inodes, above which images that no task needs are removed, the least recently used first. With off, images only go by age.",
    ),
    variable(
        "LIGHTER_IMAGE_DISK_LOW",
        Kind::Mark,
        "75%",
        "Use of the disk down to which images are then removed; below LIGHTER_IMAGE_DISK_HIGH.",
    ),
    variable(
        "LIGHTER_IMAGE_PREPULL",
        Kind::References,
        "",
        "Images that are pulled when the agent starts and never cleaned up.",
    ),
    variable(
        "LIGHTER_IMAGE_PULL_PARALLEL",
        Kind::Count { least: 1 },
        "4",
        "Images that are pulled at the same time, and one more of another registry; others wait.",
    ),
    variable("LIGHTER_INTROSPECTION_PORT", Kind::Port, "51678", "Port of the introspection API."),
    variable(
        "LIGHTER_METADATA_PORT",
        Kind::Port,
        "51679",
        "Port of the host behind 169.254.170.2, for task metadata and credentials.",
    ),
    variable(
        "LIGHTER_REGISTRY_CONFIG_DIR",
        Kind::Path,
        "",
        "Directory with a directory for each registry, as containerd's certs.d: mirrors, certificates and headers in hosts.toml, or Docker's ca.crt, client.cert and client.key. Read at each pull. Default: /etc/lighter/certs.d.",
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
    variable(
        "LIGHTER_SIGNATURE_POLICY",
        Kind::Path,
        "",
        "File that says which images must be signed and by whom, in the format of Podman's \
         /etc/containers/policy.json, which may be given here. Default: no image must be.",
    ),
    variable(
        "LIGHTER_USERNS_REMAP",
        Kind::User,
        "",
        "User whose ranges in /etc/subuid and /etc/subgid are the ids of all containers: their root is \
         then nobody on the host, as with Docker's userns-remap. default is the user lighter. \
         Default: containers have the host's ids.",
    ),
    variable(
        "NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE",
        seconds(1),
        "1h",
        "The same as ECS_IMAGE_MINIMUM_CLEANUP_AGE for images that no task has used, since they were pulled, loaded or used.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_unique_and_documented() {
        assert!(VARIABLES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for variable in VARIABLES {
            assert!(variable.doc.ends_with('.'), "{}", variable.name);
            let prefixes = ["AWS_", "ECS_", "LIGHTER_", "NON_ECS_"];
            assert!(
                prefixes.iter().any(|prefix| variable.name.starts_with(prefix)),
                "{}",
                variable.name
            );
        }
    }
}
