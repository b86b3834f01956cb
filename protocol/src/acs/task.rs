//! A task in a payload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use crate::ecs::Tag;

/// A task to start or to stop.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Task {
    pub arn: Option<String>,
    pub task_cluster_arn: Option<String>,
    pub family: Option<String>,
    /// The revision, as text.
    pub version: Option<String>,
    /// `RUNNING` or `STOPPED`.
    pub desired_status: Option<String>,
    pub containers: Option<Vec<Container>>,
    pub volumes: Option<Vec<Volume>>,
    /// vCPUs: 0.25 are 256 CPU units. 0 or absent: no limit of the task.
    pub cpu: Option<f64>,
    /// MiB. 0 or absent: no limit of the task.
    pub memory: Option<i64>,
    pub network_mode: Option<String>,
    pub pid_mode: Option<String>,
    pub ipc_mode: Option<String>,
    pub role_credentials: Option<Credentials>,
    pub execution_role_credentials: Option<Credentials>,
    pub elastic_network_interfaces: Option<Value>,
    pub proxy_configuration: Option<Value>,
    pub associations: Option<Value>,
    pub attachments: Option<Value>,
    pub launch_type: Option<String>,
    pub service_name: Option<String>,
    pub group: Option<String>,
    pub enable_fault_injection: Option<bool>,
    pub trusted_execution_configuration: Option<Value>,
    pub overrides: Option<Value>,
    /// Not known to the Amazon agent; it ignores it.
    pub tags: Option<Vec<Tag>>,
}

/// A container of a task.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: Option<String>,
    pub container_arn: Option<String>,
    pub image: Option<String>,
    pub essential: Option<bool>,
    /// CPU units.
    pub cpu: Option<i64>,
    /// Hard limit in MiB; 0: none.
    pub memory: Option<i64>,
    /// Absent: the image's.
    pub command: Option<Vec<String>>,
    /// Absent: the image's.
    pub entry_point: Option<Vec<String>>,
    /// Overrides are merged already.
    pub environment: Option<BTreeMap<String, String>>,
    pub environment_files: Option<Value>,
    pub secrets: Option<Value>,
    /// JSON text or object; its one member `command` replaces `command`.
    pub overrides: Option<Value>,
    pub port_mappings: Option<Vec<PortMapping>>,
    pub mount_points: Option<Vec<MountPoint>>,
    pub volumes_from: Option<Vec<VolumeFrom>>,
    pub links: Option<Vec<String>>,
    pub depends_on: Option<Vec<Dependency>>,
    /// Seconds.
    pub start_timeout: Option<i64>,
    /// Seconds.
    pub stop_timeout: Option<i64>,
    pub restart_policy: Option<Value>,
    /// `docker`: the container's health is checked as `dockerConfig.config` says, and reported.
    pub health_check_type: Option<String>,
    pub docker_config: Option<DockerConfig>,
    pub registry_authentication: Option<RegistryAuthentication>,
    /// `ExecutionRole`: the log driver uses the execution role's credentials.
    pub logs_auth_strategy: Option<String>,
    pub firelens_configuration: Option<Value>,
    pub managed_agents: Option<Value>,
    pub credential_specs: Option<Value>,
    pub linux_parameters: Option<Value>,
    pub privileged: Option<bool>,
}

/// How an image's registry is logged in to.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegistryAuthentication {
    /// `ecr` or `asm`: which of the members counts.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub ecr_auth_data: Option<EcrAuthData>,
    pub asm_auth_data: Option<AsmAuthData>,
}

/// A private registry of Amazon ECR.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EcrAuthData {
    /// The account.
    pub registry_id: Option<String>,
    pub region: Option<String>,
    /// Host of the API, or a URL.
    pub endpoint_override: Option<String>,
    /// Otherwise the host's own credentials.
    pub use_execution_role: Option<bool>,
}

/// A secret of Secrets Manager, which the execution role may read.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AsmAuthData {
    /// ARN or name.
    pub credentials_parameter: Option<String>,
    pub region: Option<String>,
}

/// Docker Engine API `Config` and `HostConfig`, each as JSON text.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DockerConfig {
    /// Least version of the API.
    pub version: Option<String>,
    pub config: Option<String>,
    pub host_config: Option<String>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    pub container_port: Option<i64>,
    /// 0 or absent: dynamic.
    pub host_port: Option<i64>,
    pub container_port_range: Option<String>,
    /// `tcp` (default) or `udp`.
    pub protocol: Option<String>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MountPoint {
    pub source_volume: Option<String>,
    pub container_path: Option<String>,
    pub read_only: Option<bool>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeFrom {
    pub source_container: Option<String>,
    pub read_only: Option<bool>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dependency {
    pub container_name: Option<String>,
    /// `START`, `COMPLETE`, `SUCCESS` or `HEALTHY`.
    pub condition: Option<String>,
}

/// A volume; `type` says which of the members holds it (default `host`).
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    pub name: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub host: Option<HostVolume>,
    pub docker_volume_configuration: Option<Value>,
    pub efs_volume_configuration: Option<Value>,
}

#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostVolume {
    /// Empty or absent: an empty directory of the task's own.
    pub source_path: Option<String>,
}

/// Temporary credentials of a role.
#[skip_serializing_none]
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Credentials {
    pub credentials_id: Option<String>,
    pub role_arn: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    pub session_token: Option<String>,
    /// RFC 3339.
    pub expiration: Option<String>,
    pub credential_scope: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("credentials_id", &self.credentials_id)
            .field("role_arn", &self.role_arn)
            .field("access_key_id", &self.access_key_id)
            .field("expiration", &self.expiration)
            .finish_non_exhaustive()
    }
}
