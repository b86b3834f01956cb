//! All decided state of the host. The host loop owns the one value; redb holds it per task.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use protocol::acs::RegistryAuthentication;
use protocol::ids::TaskId;
use protocol::monitor::{Exit, UserMaps};
use protocol::taskdef::{ContainerDefinition, TaskDefinition, TransportProtocol};
use serde::{Deserialize, Serialize};

use crate::api::types::PullPolicy;

/// Everything the engine decides on.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    pub settings: Settings,
    pub tasks: BTreeMap<TaskId, Task>,
    /// Ids that no new task may have though none has them, and since when: of tasks that this host's
    /// commands ran and whose records are gone, so that who asks again does not run them twice.
    pub spent: BTreeMap<TaskId, Timestamp>,
    /// Number of the next effect; results of older effects are stale.
    pub next_generation: u64,
}

impl Host {
    /// A host without tasks.
    pub fn new(settings: Settings) -> Self {
        Self { settings, tasks: BTreeMap::new(), spent: BTreeMap::new(), next_generation: 1 }
    }
}

/// Configuration that decisions need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Seconds between stop signal and SIGKILL where the definition says nothing
    /// (`ECS_CONTAINER_STOP_TIMEOUT`).
    pub stop_timeout: u32,
    /// Seconds a stopped task is kept (`ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION`).
    pub cleanup_after: u32,
    pub awsvpc_subnet: Ipv4Net,
    pub bridge_subnet: Ipv4Net,
    /// Inclusive range of dynamic host ports.
    pub dynamic_ports: (u16, u16),
    /// `LIGHTER_USERNS_REMAP`: maps of the user namespaces of tasks to come; `None`: they have none.
    pub user_maps: Option<UserMaps>,
}

/// One task and everything decided about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub definition: TaskDefinition,
    pub pull: PullPolicy,
    /// Remove the record soon after the task has stopped (`lighter run --rm`).
    pub remove: bool,
    pub desired: Desired,
    pub resources: Resources,
    /// Maps of its user namespace, of the settings under which it was admitted; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_maps: Option<UserMaps>,
    /// In the definition's order.
    pub containers: Vec<Container>,
    /// awsvpc: the task's address, leased from admission until the resources are released.
    pub address: Option<Ipv4Addr>,
    /// Why the task stops or stopped.
    pub stop: Option<Stop>,
    pub times: Times,
    /// Code of the essential container that ended first.
    pub exit_code: Option<i32>,
    /// Someone who has seen the end asked for the record to go.
    pub remove_now: bool,
    /// The record and the files are being removed.
    pub removing: bool,
    /// What the control plane said of it; `None`: it was run on this host.
    #[serde(default)]
    pub ecs: Option<Box<EcsTask>>,
}

/// What a control plane says of a task beside its definition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EcsTask {
    /// Its last part is the task's id.
    pub arn: String,
    pub cluster_arn: String,
    /// Revision of the definition.
    pub version: String,
    pub service_name: Option<String>,
    pub group: Option<String>,
    pub launch_type: Option<String>,
    /// In the definition's order.
    pub container_arns: Vec<Option<String>>,
    /// Id of the task role's credentials, which are held in memory only (`crate::credentials`).
    pub task_credentials: Option<String>,
    /// Ids of before, which containers were created with and go on to ask by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former_task_credentials: Vec<String>,
    /// Id of the execution role's.
    pub execution_credentials: Option<String>,
    /// Containers whose log driver uses the execution role, by index.
    pub logs_by_execution_role: Vec<usize>,
    /// How the registries of the containers' images are logged in to, in the definition's order;
    /// empty: none says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub registry_authentication: Vec<Option<RegistryAuthentication>>,
    /// The control plane asked for its end.
    pub stop_requested: bool,
    /// What it was told.
    pub sent: Sent,
}

impl EcsTask {
    /// Takes over ids of newer credentials. `created`: how many containers there have been.
    pub(super) fn renew(
        &mut self,
        task: Option<String>,
        execution: Option<String>,
        created: usize,
    ) {
        self.execution_credentials = execution.or(self.execution_credentials.take());
        let Some(new) = task.filter(|new| self.task_credentials.as_ref() != Some(new)) else {
            return;
        };
        // No more ids were told than containers created, or created again after a crash.
        if let Some(old) = self.task_credentials.replace(new)
            && self.former_task_credentials.len() < 2 * created
        {
            self.former_task_credentials.push(old);
        }
    }

    /// Whether a container may have been told this id of the task role's credentials.
    pub fn has_told(&self, id: &str) -> bool {
        let former = self.former_task_credentials.iter();
        self.task_credentials.iter().chain(former).any(|told| told == id)
    }
}

/// What a control plane was told of a task. Only moves forward.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sent {
    pub task: Option<Reported>,
    /// In the definition's order; those that are missing at the end: nothing.
    pub containers: Vec<Option<Reported>>,
}

/// A status that is reported, of a task or of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Reported {
    Pending,
    Running,
    Stopped,
}

impl Reported {
    /// The name in the ECS API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
        }
    }
}

impl Task {
    /// The definition of the container at `index`, which is the same in both lists.
    pub fn container_definition(&self, index: usize) -> Option<&ContainerDefinition> {
        self.definition.containers.get(index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Desired {
    Running,
    Stopped,
}

/// The task's directories, cgroup, monitor and network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resources {
    Absent,
    Creating { generation: u64 },
    Ready,
    Releasing { generation: u64 },
    Released,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its name in the definition, unique in the task.
    pub name: String,
    pub image: Image,
    pub life: Life,
    /// bridge: its address, leased from admission until the task's resources are released.
    pub address: Option<Ipv4Addr>,
    /// bridge and host: ports of the host, leased likewise.
    pub ports: Vec<PortLease>,
    pub pid: Option<i32>,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub stopped_at: Option<Timestamp>,
    /// When the stop signal was sent.
    pub signalled_at: Option<Timestamp>,
    /// SIGKILL was sent.
    pub killed: bool,
    /// Why it failed or stopped, in ECS's words.
    pub reason: Option<String>,
    /// Id of its metadata endpoint (`/v4/<id>`): a UUID that only it is told.
    #[serde(default)]
    pub endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    Unresolved,
    Resolving {
        generation: u64,
    },
    /// `id`: digest of the image configuration; `digest`: by which its registry knows it, if it came
    /// from there.
    Ready {
        id: String,
        #[serde(default)]
        digest: Option<String>,
    },
    Failed,
}

/// How far a container has come. Only moves forward, except that recovery takes an unfinished
/// creation or start back to be issued again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    Waiting,
    Creating {
        generation: u64,
    },
    Created,
    Starting {
        generation: u64,
    },
    Running,
    /// `None`: it never ran. An [`Exit`] without a code: nobody could read it.
    Stopped {
        exit: Option<Exit>,
    },
}

impl Life {
    /// Whether it has ended for good.
    pub fn is_stopped(self) -> bool {
        matches!(self, Self::Stopped { .. })
    }
}

/// A port of the host that belongs to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortLease {
    pub protocol: TransportProtocol,
    pub host_port: u16,
    pub container_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub code: StopCode,
    pub reason: String,
    /// SIGKILL at once, without order.
    pub kill: bool,
    /// Seconds that replace every container's stop timeout.
    pub timeout: Option<u32>,
}

/// `stopCode` of DescribeTasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCode {
    UserInitiated,
    EssentialContainerExited,
    TaskFailedToStart,
}

impl StopCode {
    /// The name in the ECS API.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserInitiated => "UserInitiated",
            Self::EssentialContainerExited => "EssentialContainerExited",
            Self::TaskFailedToStart => "TaskFailedToStart",
        }
    }
}

/// When things happened, named as in DescribeTasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    pub created: Timestamp,
    pub pull_started: Option<Timestamp>,
    pub pull_stopped: Option<Timestamp>,
    pub started: Option<Timestamp>,
    pub stopping: Option<Timestamp>,
    pub stopped: Option<Timestamp>,
}
