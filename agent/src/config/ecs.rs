//! What the configuration says about the control plane and about the endpoints that the agent
//! serves, and how those values are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::api::types::PullPolicy;
use crate::volume::efs::Endpoint;

/// Membership in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ecs {
    /// `ECS_CLUSTER`: a name or an ARN; `None`: the control plane's `default`.
    pub cluster: Option<String>,
    /// `ECS_BACKEND_HOST`: scheme and authority, without a slash at the end; `None`: the region's
    /// endpoint of Amazon ECS.
    pub backend_host: Option<String>,
    /// `AWS_DEFAULT_REGION`, else `AWS_REGION`.
    pub region: Option<String>,
    /// `ECS_EXTERNAL`: never asks the instance metadata service.
    pub external: bool,
    /// Keys that stand in the configuration; `None`: the chain of the AWS SDKs finds some.
    pub credentials: Option<StaticCredentials>,
    /// `LIGHTER_AWS_CREDENTIALS`
    pub aws_credentials: AwsCredentials,
    /// `AWS_ENDPOINT_URL_ECR`, as [`Self::backend_host`].
    pub ecr_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_SECRETS_MANAGER`, as [`Self::backend_host`].
    pub secrets_manager_endpoint: Option<String>,
    /// `LIGHTER_CA_BUNDLE`: PEM file of certificates that are trusted beside the host's.
    pub ca_bundle: Option<PathBuf>,
    /// `LIGHTER_EFS_ENDPOINT`: an NFS server in place of Amazon's.
    pub efs_endpoint: Option<Endpoint>,
    /// `ECS_INSTANCE_ATTRIBUTES`
    pub instance_attributes: BTreeMap<String, String>,
    /// `ECS_CONTAINER_INSTANCE_TAGS`
    pub instance_tags: BTreeMap<String, String>,
    /// `ECS_RESERVED_PORTS`
    pub reserved_ports: BTreeSet<u16>,
    /// `ECS_RESERVED_PORTS_UDP`
    pub reserved_ports_udp: BTreeSet<u16>,
    /// `ECS_RESERVED_MEMORY`: MiB that tasks do not get.
    pub reserved_memory: u32,
    /// `ECS_AVAILABLE_LOGGING_DRIVERS`
    pub logging_drivers: BTreeSet<String>,
    /// `ECS_IMAGE_PULL_BEHAVIOR`
    pub image_pull: PullPolicy,
    /// `ECS_DISABLE_METRICS`
    pub disable_metrics: bool,
    /// `ECS_DISABLE_PRIVILEGED`, or `LIGHTER_USERNS_REMAP`, under which no container is privileged.
    pub disable_privileged: bool,
}

impl Ecs {
    /// Whether this host shall join a cluster.
    pub fn joins(&self) -> bool {
        self.cluster.is_some() || self.backend_host.is_some() || self.external
    }
}

/// With what Amazon ECR and Secrets Manager are asked for logins of registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwsCredentials {
    /// The task's execution role's, else the agent's own.
    Task,
    /// The host's: profile, container or instance role.
    Host,
}

/// The agent's own endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// `LIGHTER_INTROSPECTION_PORT`
    pub introspection_port: u16,
    /// `LIGHTER_METADATA_PORT`: task metadata and credentials.
    pub metadata_port: u16,
    /// `ECS_TASK_METADATA_RPS_LIMIT`: requests per second in the long run.
    pub steady_rate: u32,
    /// `ECS_TASK_METADATA_RPS_LIMIT`: requests at once.
    pub burst: u32,
    /// `ECS_ENABLE_TASK_IAM_ROLE`
    pub task_iam_role: bool,
    /// `ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST`
    pub task_iam_role_network_host: bool,
    /// `ECS_AUDIT_LOGFILE`; `None`: the layout's (`var/log/ecs/audit.log` below the root).
    pub audit_log: Option<PathBuf>,
    /// `ECS_AUDIT_LOGFILE_DISABLED`
    pub audit_log_disabled: bool,
}

/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticCredentials {
    pub access_key_id: String,
    /// Secret.
    pub secret_access_key: String,
    /// Secret.
    pub session_token: Option<String>,
}

impl fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticCredentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Log drivers that Docker and ECS know, sorted.
pub(super) const LOGGING_DRIVERS: [&str; 11] = [
    "awsfirelens",
    "awslogs",
    "fluentd",
    "gelf",
    "journald",
    "json-file",
    "logentries",
    "none",
    "splunk",
    "sumologic",
    "syslog",
];

/// As Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `http://` or `https://` with a host, which alone means `https://`.
pub(super) fn endpoint(text: &str) -> Option<String> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: http::Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
    let authority = uri
        .authority()
        .filter(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'))?;
    let bare = uri.path_and_query().is_none_or(|rest| rest.as_str() == "/");
    bare.then(|| format!("{scheme}://{authority}"))
}

/// A word without blanks or control characters, as names, ARNs and regions are.
pub(super) fn word(text: &str) -> Option<String> {
    text.bytes().all(|byte| byte.is_ascii_graphic()).then(|| text.to_owned())
}

/// A JSON list of ports.
pub(super) fn ports(text: &str) -> Option<BTreeSet<u16>> {
    serde_json::from_str(text).ok()
}

/// A JSON object of texts.
pub(super) fn map(text: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(text).ok()
}

/// A JSON list of some of these.
pub(super) fn names(text: &str, known: &[&str]) -> Option<BTreeSet<String>> {
    let names: BTreeSet<String> = serde_json::from_str(text).ok()?;
    names.iter().all(|name| known.contains(&name.as_str())).then_some(names)
}

/// `steady,burst`, both at least 1.
pub(super) fn rate(text: &str) -> Option<(u32, u32)> {
    let (steady, burst) = text.split_once(',')?;
    let steady: u32 = steady.trim().parse().ok()?;
    let burst: u32 = burst.trim().parse().ok()?;
    (steady > 0 && burst > 0).then_some((steady, burst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, expected) in [
            ("http://127.0.0.1:4780", Some("http://127.0.0.1:4780")),
            ("https://ecs.example/", Some("https://ecs.example")),
            ("ecs.example:8443", Some("https://ecs.example:8443")),
            ("[::1]:9", Some("https://[::1]:9")),
            ("ftp://x", None),
            ("http://x/path", None),
            ("http://u:p@x", None),
            ("http://", None),
            ("a b", None),
        ] {
            assert_eq!(endpoint(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn booleans_are_those_of_go() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Some(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Some(false));
        }
        for text in ["yes", "on", "tRUE", "2"] {
            assert_eq!(boolean(text), None);
        }
    }

    #[test]
    fn lists_and_rates() {
        assert_eq!(ports("[22,80]"), Some(BTreeSet::from([22, 80])));
        assert_eq!(ports("[65536]"), None);
        assert_eq!(rate("40, 60"), Some((40, 60)));
        assert_eq!(rate("40"), None);
        assert_eq!(rate("0,1"), None);
        assert_eq!(
            names("[\"none\"]", &LOGGING_DRIVERS),
            Some(BTreeSet::from(["none".to_owned()]))
        );
        assert_eq!(names("[\"telex\"]", &LOGGING_DRIVERS), None);
        assert!(LOGGING_DRIVERS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
