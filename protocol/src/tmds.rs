//! What a task reads at 169.254.170.2 and a person at the introspection port: the documents of
//! Amazon's agent, names and shapes exactly as there.
//!
//! Versions 2, 3 and 4 of the metadata share their structures: what only version 4 has is optional
//! and stays away in the others. An optional member that is absent is not written. Times are RFC
//! 3339 in UTC.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

/// A task, at `…/task` and `/v2/metadata`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Task {
    pub cluster: String,
    #[serde(rename = "TaskARN")]
    pub task_arn: String,
    pub family: String,
    pub revision: String,
    pub desired_status: String,
    pub known_status: String,
    pub limits: Option<TaskLimits>,
    pub pull_started_at: Option<Timestamp>,
    pub pull_stopped_at: Option<Timestamp>,
    pub execution_stopped_at: Option<Timestamp>,
    pub availability_zone: Option<String>,
    pub task_tags: Option<BTreeMap<String, String>>,
    pub container_instance_tags: Option<BTreeMap<String, String>>,
    /// Version 4, as are all below but the containers.
    pub launch_type: Option<String>,
    pub containers: Vec<Container>,
    #[serde(rename = "VPCID")]
    pub vpc_id: Option<String>,
    pub service_name: Option<String>,
    pub fault_injection_enabled: Option<bool>,
}

/// Limits of a whole task.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskLimits {
    /// vCPUs
    #[serde(rename = "CPU")]
    pub cpu: Option<f64>,
    /// MiB
    #[serde(rename = "Memory")]
    pub memory: Option<u32>,
}

/// A container.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Container {
    pub docker_id: String,
    pub name: String,
    pub docker_name: String,
    pub image: String,
    #[serde(rename = "ImageID")]
    pub image_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub desired_status: String,
    pub known_status: String,
    pub exit_code: Option<i32>,
    pub limits: ContainerLimits,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// `NORMAL`: we have no other containers.
    pub r#type: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Version 4, as are all below but the networks.
    pub log_driver: Option<String>,
    pub log_options: Option<BTreeMap<String, String>>,
    #[serde(rename = "ContainerARN")]
    pub container_arn: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
}

/// Limits of a container.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerLimits {
    /// Shares, at least 2.
    #[serde(rename = "CPU")]
    pub cpu: u32,
    /// MiB
    #[serde(rename = "Memory")]
    pub memory: Option<u32>,
}

/// A port of a container and where the host publishes it.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Port {
    pub container_port: u16,
    /// `tcp` or `udp`
    pub protocol: String,
    pub host_port: Option<u16>,
    /// Version 4.
    pub host_ip: Option<String>,
}

/// A network that a container is in.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Network {
    pub network_mode: String,
    #[serde(rename = "IPv4Addresses", skip_serializing_if = "Vec::is_empty")]
    pub ipv4_addresses: Vec<String>,
    /// Version 4 and awsvpc, as are all below.
    pub attachment_index: Option<u32>,
    #[serde(rename = "MACAddress")]
    pub mac_address: Option<String>,
    #[serde(rename = "IPv4SubnetCIDRBlock")]
    pub ipv4_subnet_cidr_block: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domain_name_servers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domain_name_search_list: Vec<String>,
    #[serde(rename = "PrivateDNSName")]
    pub private_dns_name: Option<String>,
    pub subnet_gateway_ipv4_address: Option<String>,
}

/// A mounted volume.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Volume {
    pub docker_name: Option<String>,
    pub source: Option<String>,
    pub destination: String,
}

/// Credentials of the task's role.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Credentials {
    pub role_arn: String,
    pub access_key_id: String,
    /// Secret.
    pub secret_access_key: String,
    /// Secret.
    pub token: String,
    /// As the control plane gave it, ISO 8601.
    pub expiration: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("role_arn", &self.role_arn).finish_non_exhaustive()
    }
}

/// Why there are no credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialsError {
    /// `NoIdInRequest`, `InvalidIdInRequest`, `CredentialsUninitialized` or `InternalServerError`
    pub code: String,
    pub message: String,
    #[serde(rename = "HTTPErrorCode")]
    pub http_error_code: u16,
}

/// Names of a task's associations of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Associations {
    pub associations: Vec<String>,
}

/// Body of `PUT …/task-protection/v1/state`. A member that is not one of these is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ProtectionRequest {
    pub protection_enabled: bool,
    pub expires_in_minutes: Option<i32>,
}

/// Answer of `…/task-protection/v1/state`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProtectionAnswer {
    #[serde(rename = "requestID")]
    pub request_id: Option<String>,
    pub protection: Option<Protection>,
    pub failure: Option<ProtectionFailure>,
    pub error: Option<ProtectionError>,
}

/// The task's protection from scale-in.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Protection {
    pub protection_enabled: bool,
    pub expiration_date: Option<Timestamp>,
    pub task_arn: String,
}

/// What ECS says against it.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProtectionFailure {
    pub arn: Option<String>,
    pub detail: Option<String>,
    pub reason: Option<String>,
}

/// Why ECS could not be asked.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProtectionError {
    pub arn: Option<String>,
    pub code: String,
    pub message: String,
}

/// Statistics of a container as Docker's API gives them (`GET /containers/ID/stats`).
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    pub read: Timestamp,
    pub preread: Timestamp,
    pub pids_stats: PidsStats,
    pub blkio_stats: BlkioStats,
    pub num_procs: u32,
    pub storage_stats: StorageStats,
    pub cpu_stats: CpuStats,
    pub precpu_stats: CpuStats,
    pub memory_stats: MemoryStats,
    pub name: String,
    pub id: String,
    pub networks: Option<BTreeMap<String, NetworkStats>>,
    /// Version 4.
    pub network_rate_stats: Option<NetworkRateStats>,
}

/// Processes and threads.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsStats {
    pub current: u64,
    pub limit: Option<u64>,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioStats {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
}

/// One counter of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `Read` or `Write`
    pub op: String,
    pub value: u64,
}

/// Always empty on Linux.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStats {}

/// Processor time.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuStats {
    pub cpu_usage: CpuUsage,
    /// Nanoseconds of all CPUs of the host together, idle ones as well.
    pub system_cpu_usage: Option<u64>,
    pub online_cpus: Option<u32>,
    pub throttling_data: ThrottlingData,
}

/// Nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    pub total_usage: u64,
    pub usage_in_kernelmode: u64,
    pub usage_in_usermode: u64,
}

/// How often a CPU quota was used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottlingData {
    pub periods: u64,
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Bytes.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    pub usage: u64,
    pub max_usage: Option<u64>,
    pub stats: BTreeMap<String, u64>,
    pub failcnt: Option<u64>,
    pub limit: u64,
}

/// Counters of one interface since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStats {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Bytes per second between the last two samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRateStats {
    pub rx_bytes_per_sec: f64,
    pub tx_bytes_per_sec: f64,
}

/// The introspection API.
pub mod introspection {
    use super::{Deserialize, Network, Port, Serialize, Timestamp, Volume, skip_serializing_none};

    /// `/`
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    pub struct Commands {
        pub available_commands: Vec<String>,
    }

    /// `/v1/metadata`
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    pub struct Metadata {
        pub cluster: String,
        /// `null` until the host is registered.
        pub container_instance_arn: Option<String>,
        pub version: String,
    }

    /// `/v1/tasks`
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    pub struct Tasks {
        pub tasks: Vec<Task>,
    }

    /// A task, with the statuses that the ECS API knows.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    pub struct Task {
        pub arn: String,
        pub desired_status: String,
        pub known_status: String,
        pub family: String,
        pub version: String,
        pub containers: Vec<Container>,
    }

    /// One of its containers.
    #[skip_serializing_none]
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    pub struct Container {
        pub docker_id: String,
        pub docker_name: String,
        pub name: String,
        pub image: String,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        pub created_at: Option<Timestamp>,
        pub started_at: Option<Timestamp>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub ports: Vec<Port>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub networks: Vec<Network>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub volumes: Vec<Volume>,
    }
}
