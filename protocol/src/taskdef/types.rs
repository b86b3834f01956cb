//! The validated task definition.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::units;

/// A task definition that keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDefinition {
    pub family: String,
    pub network_mode: NetworkMode,
    /// 1 to 10, in the order of the definition.
    pub containers: Vec<ContainerDefinition>,
    pub volumes: Vec<Volume>,
    /// Task limit in CPU units (1024 = one CPU).
    pub cpu: Option<u32>,
    /// Task limit in MiB.
    pub memory: Option<u32>,
    pub requires_compatibilities: Vec<Compatibility>,
    pub pid_mode: NamespaceMode,
    pub ipc_mode: NamespaceMode,
    pub tags: Vec<(String, String)>,
    /// `runtimePlatform.cpuArchitecture`: the host must have it. `None`: any. The operating system
    /// is always Linux.
    pub cpu_architecture: Option<CpuArchitecture>,
    /// Role whose credentials the task's containers get: an ARN, or a name.
    pub task_role_arn: Option<String>,
    /// Role whose credentials the agent uses for the task: an ARN, or a name.
    pub execution_role_arn: Option<String>,
    /// Expressions of the constraints `memberOf`: a host must match all.
    #[serde(default)] // as older versions kept it
    pub placement_constraints: Vec<String>,
}

impl TaskDefinition {
    /// One with these containers that says nothing else.
    pub fn of(
        family: String,
        network_mode: NetworkMode,
        containers: Vec<ContainerDefinition>,
    ) -> Self {
        Self {
            family,
            network_mode,
            containers,
            volumes: Vec::new(),
            cpu: None,
            memory: None,
            requires_compatibilities: Vec::new(),
            pid_mode: NamespaceMode::Private,
            ipc_mode: NamespaceMode::Private,
            tags: Vec::new(),
            cpu_architecture: None,
            task_role_arn: None,
            execution_role_arn: None,
            placement_constraints: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CpuArchitecture {
    #[serde(rename = "X86_64")]
    X86_64,
    Arm64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    Bridge,
    Host,
    Awsvpc,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Compatibility {
    Ec2,
    Fargate,
    External,
}

/// `pidMode` and `ipcMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceMode {
    /// One namespace per container (the default).
    Private,
    /// The host's.
    Host,
    /// One shared by the task's containers.
    Task,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDefinition {
    pub name: String,
    /// As written; parsed by the image store.
    pub image: String,
    /// `repositoryCredentials`: ARN or name of the secret with the login of the image's registry.
    #[serde(default)] // as older versions kept it
    pub repository_credentials: Option<String>,
    /// CPU units; 0 means the smallest share.
    pub cpu: u32,
    /// Hard limit in MiB.
    pub memory: Option<u32>,
    /// Soft limit in MiB.
    pub memory_reservation: Option<u32>,
    pub port_mappings: Vec<PortMapping>,
    pub essential: bool,
    /// `None`: the image's.
    pub entry_point: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    /// In the definition's order, names unique (the last one given wins).
    pub environment: Vec<(String, String)>,
    pub mount_points: Vec<MountPoint>,
    pub volumes_from: Vec<VolumeFrom>,
    pub depends_on: Vec<Dependency>,
    /// Seconds to wait for this container to reach what its dependents need.
    pub start_timeout: Option<u32>,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout: Option<u32>,
    pub hostname: Option<String>,
    pub user: Option<String>,
    pub working_directory: Option<String>,
    pub disable_networking: bool,
    pub privileged: bool,
    pub readonly_root_filesystem: bool,
    pub dns_servers: Vec<IpAddr>,
    pub dns_search_domains: Vec<String>,
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// From `dockerSecurityOptions`.
    pub no_new_privileges: bool,
    pub interactive: bool,
    pub pseudo_terminal: bool,
    pub docker_labels: BTreeMap<String, String>,
    pub ulimits: Vec<Ulimit>,
    pub log: LogConfiguration,
    /// Sysctls: namespace key and value.
    pub system_controls: Vec<(String, String)>,
    pub linux: LinuxParameters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportProtocol {
    Tcp,
    Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub container_port: u16,
    /// bridge: 0 = dynamic. host and awsvpc: equal to the container port.
    pub host_port: u16,
    pub protocol: TransportProtocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub source_volume: String,
    pub container_path: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFrom {
    pub source_container: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub name: String,
    pub source: VolumeSource,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// `host.sourcePath`: a bind mount of an existing host path.
    Host { source_path: String },
    /// `host: {}` or `dockerVolumeConfiguration` with scope `task`: an empty directory shared by
    /// the task's containers and removed with the task.
    Task,
    /// `efsVolumeConfiguration` without encryption in transit: an NFSv4.1 mount.
    Efs {
        /// `fs-…`
        file_system_id: String,
        /// Absolute; `/` where the definition says nothing.
        root_directory: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub container: String,
    pub condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Condition {
    Start,
    Complete,
    Success,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// As in ECS (`nofile`, `core`, …).
    pub name: String,
    pub soft: i64,
    pub hard: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfiguration {
    pub driver: LogDriver,
    pub options: BTreeMap<String, String>,
}

impl LogConfiguration {
    /// Option `max-size`: bytes after which a log file is rotated. `None`: never.
    pub fn max_size(&self) -> Option<u64> {
        self.options.get("max-size").and_then(|text| units::log_bytes(text))
    }

    /// Option `mode`: the oldest output is dropped where a slow log would make the container wait.
    pub fn non_blocking(&self) -> bool {
        self.options.get("mode").is_some_and(|mode| mode == "non-blocking")
    }

    /// Option `max-buffer-size`, in bytes: output that waits at most, without blocking. `None`: the
    /// default.
    pub fn max_buffer_size(&self) -> Option<u64> {
        self.options.get("max-buffer-size").and_then(|text| units::log_bytes(text))
    }

    /// Option `max-file`: how many log files are kept, at least 1. It matters only with
    /// [`Self::max_size`].
    pub fn max_file(&self) -> u32 {
        self.options.get("max-file").and_then(|text| text.parse().ok()).unwrap_or(1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    JsonFile,
    #[serde(rename = "awslogs")]
    AwsLogs,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxParameters {
    /// Names as Docker takes them, without `CAP_`, or `ALL`.
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub devices: Vec<Device>,
    /// MiB of `/dev/shm`.
    pub shared_memory_size: Option<u32>,
    pub tmpfs: Vec<Tmpfs>,
    /// MiB of swap beyond memory.
    pub max_swap: Option<u32>,
    pub swappiness: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: String,
    pub container_path: String,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    pub container_path: String,
    /// MiB.
    pub size: u32,
    pub mount_options: Vec<String>,
}
