//! Tasks.

use jiff::Timestamp;
use protocol::ecs;
use protocol::taskdef::TransportProtocol;
use serde::{Deserialize, Serialize};

use super::{DefinitionName, Entity};
use crate::state::{Table, View};

/// A task, from its placement until an hour after its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub region: String,
    pub cluster: String,
    /// 32 hexadecimal digits.
    pub id: String,
    pub definition: DefinitionName,
    /// Id of the instance on which it was placed.
    pub instance: String,
    pub launch_type: LaunchType,
    /// `family:<family>`, `service:<name>`, or the caller's.
    pub group: String,
    pub started_by: Option<String>,
    /// Name of the service it belongs to.
    pub service: Option<String>,
    /// Id of the service's deployment that made it (`ecs-svc/<19 digits>`).
    pub deployment: Option<String>,
    /// The caller's, checked; applied where the payload is made.
    pub overrides: ecs::TaskOverride,
    pub reserved: Reserved,
    pub task_role_arn: Option<String>,
    pub execution_role_arn: Option<String>,
    pub network_configuration: Option<ecs::NetworkConfiguration>,
    /// awsvpc: its interface.
    pub interface: Option<TaskInterface>,
    pub desired: Desired,
    pub last: TaskStatus,
    /// In the order of the definition.
    pub containers: Vec<TaskContainer>,
    pub health: Health,
    /// What the agent has acknowledged; the session delivers until it equals `desired`.
    pub delivered: Option<Desired>,
    pub stop_code: Option<StopCode>,
    pub stopped_reason: Option<String>,
    pub created_at: Timestamp,
    pub pull_started_at: Option<Timestamp>,
    pub pull_stopped_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    /// When `desired` became STOPPED.
    pub stopping_at: Option<Timestamp>,
    pub execution_stopped_at: Option<Timestamp>,
    pub stopped_at: Option<Timestamp>,
    /// Protected against scale-in and deployments until then.
    pub protected_until: Option<Timestamp>,
    pub tags: Vec<ecs::Tag>,
    pub enable_execute_command: bool,
    pub platform_version: Option<String>,
    /// Its deployment has counted it, as healthy or as failed. No visible change.
    #[serde(default)]
    pub accounted: bool,
    /// Rises with each visible change.
    pub version: u64,
}

/// `launchType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LaunchType {
    Ec2,
    Fargate,
    External,
}

impl LaunchType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::Fargate => "FARGATE",
            Self::External => "EXTERNAL",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Ec2, Self::Fargate, Self::External].into_iter().find(|kind| kind.name() == text)
    }
}

/// What a task takes of its instance from placement to STOPPED.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// CPU units.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    /// Static host ports.
    pub ports: Vec<(TransportProtocol, u16)>,
}

/// The interface of an awsvpc task, as an attachment in descriptions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInterface {
    /// UUID of the attachment.
    pub attachment: String,
    pub subnet: String,
    /// Known when the host has said so.
    pub private_address: Option<String>,
    pub mac_address: Option<String>,
}

/// `desiredStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Desired {
    Running,
    Stopped,
}

impl Desired {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// `lastStatus`, in the order in which it only ever rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TaskStatus {
    Provisioning,
    Pending,
    Running,
    Stopping,
    Deprovisioning,
    Stopped,
}

impl TaskStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Deprovisioning => "DEPROVISIONING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// A container of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskContainer {
    /// UUID, last part of its ARN.
    pub id: String,
    pub name: String,
    pub image: String,
    pub last: ContainerStatus,
    pub exit_code: Option<i32>,
    pub reason: Option<String>,
    pub runtime_id: Option<String>,
    pub image_digest: Option<String>,
    pub network_bindings: Vec<ecs::NetworkBinding>,
    pub health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ContainerStatus {
    Pending,
    Running,
    Stopped,
}

impl ContainerStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// `healthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    Healthy,
    Unhealthy,
    Unknown,
}

impl Health {
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Unhealthy => "UNHEALTHY",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// `stopCode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCode {
    TaskFailedToStart,
    EssentialContainerExited,
    UserInitiated,
    ServiceSchedulerInitiated,
    InfrastructureHealth,
}

impl StopCode {
    pub fn name(self) -> &'static str {
        match self {
            Self::TaskFailedToStart => "TaskFailedToStart",
            Self::EssentialContainerExited => "EssentialContainerExited",
            Self::UserInitiated => "UserInitiated",
            Self::ServiceSchedulerInitiated => "ServiceSchedulerInitiated",
            Self::InfrastructureHealth => "InfrastructureHealth",
        }
    }
}

impl Task {
    pub fn arn(&self, account: &str) -> String {
        Self::arn_of(&self.region, account, &self.cluster, &self.id)
    }

    pub fn arn_of(region: &str, account: &str, cluster: &str, id: &str) -> String {
        format!("arn:aws:ecs:{region}:{account}:task/{cluster}/{id}")
    }

    /// Of one of its containers.
    pub fn container_arn(&self, account: &str, container: &TaskContainer) -> String {
        format!(
            "arn:aws:ecs:{}:{account}:container/{}/{}/{}",
            self.region, self.cluster, self.id, container.id
        )
    }

    pub fn key_of(region: &str, cluster: &str, id: &str) -> String {
        format!("{}{region}/{cluster}/{id}", Self::PREFIX)
    }

    /// It has not stopped: it holds its reservation.
    pub fn is_live(&self) -> bool {
        self.last != TaskStatus::Stopped
    }

    /// Decides that it is to stop, if nobody has. What the agent needs to know follows from
    /// `desired`.
    pub fn stop(&mut self, code: StopCode, reason: String, now: Timestamp) {
        if self.desired == Desired::Running {
            self.desired = Desired::Stopped;
            self.stopping_at = Some(now);
            self.stop_code = Some(code);
            self.stopped_reason = Some(reason);
            self.version += 1;
        }
    }

    /// It has ended without a word of its agent (its host is gone, or forgot it).
    pub fn end(&mut self, now: Timestamp) {
        if self.is_live() {
            self.last = TaskStatus::Stopped;
            self.stopped_at = Some(now);
            self.execution_stopped_at.get_or_insert(now);
            for container in &mut self.containers {
                container.last = ContainerStatus::Stopped;
            }
            self.version += 1;
        }
    }
}

impl Entity for Task {
    const PREFIX: &'static str = "task/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.cluster, &self.id)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.tasks
    }
}
