//! Services.

use std::collections::VecDeque;

use jiff::Timestamp;
use protocol::ecs;
use serde::{Deserialize, Serialize};

use super::{DefinitionName, Entity, LaunchType};
use crate::state::{Table, View};

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub region: String,
    pub cluster: String,
    pub name: String,
    pub status: ServiceStatus,
    pub scheduling: Scheduling,
    /// REPLICA: how many tasks. DAEMON: what the planner last counted.
    pub desired_count: u32,
    pub launch_type: LaunchType,
    /// As asked for: a version or [`LATEST_PLATFORM`]. FARGATE only.
    pub platform_version: Option<String>,
    pub constraints: Vec<ecs::PlacementConstraint>,
    pub strategy: Vec<ecs::PlacementStrategy>,
    pub minimum_healthy_percent: u32,
    pub maximum_percent: u32,
    pub circuit_breaker: Option<CircuitBreaker>,
    pub health_check_grace_period: Option<u32>,
    pub enable_execute_command: bool,
    pub enable_ecs_managed_tags: bool,
    /// `NONE`, `SERVICE` or `TASK_DEFINITION`.
    pub propagate_tags: String,
    pub availability_zone_rebalancing: Option<String>,
    /// Newest first; the first is PRIMARY.
    pub deployments: Vec<Deployment>,
    /// Newest first, 100 at most.
    pub events: VecDeque<Event>,
    pub tags: Vec<ecs::Tag>,
    /// The creating request without its token, SHA-256 in hexadecimal digits.
    pub request: String,
    pub created_at: Timestamp,
    pub created_by: String,
    pub inactive_at: Option<Timestamp>,
    /// What a rollback goes back to.
    #[serde(default)]
    pub last_completed: Option<CompletedDeployment>,
}

/// The deployment that was complete last. It outlives its tasks, which a deployment without a floor
/// stops before the next one is proved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletedDeployment {
    pub id: String,
    pub definition: DefinitionName,
    pub network_configuration: Option<ecs::NetworkConfiguration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ServiceStatus {
    Active,
    Draining,
    Inactive,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheduling {
    Replica,
    Daemon,
}

/// `deploymentCircuitBreaker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CircuitBreaker {
    pub enable: bool,
    pub rollback: bool,
}

/// One definition of a service being rolled out, or replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// `ecs-svc/<19 digits>`
    pub id: String,
    pub status: DeploymentStatus,
    pub definition: DefinitionName,
    pub network_configuration: Option<ecs::NetworkConfiguration>,
    pub rollout: Rollout,
    pub rollout_reason: String,
    /// Tasks that failed since the last that became healthy: stopped by themselves before they were
    /// RUNNING, or, while the rollout is in progress, before they were healthy, or for failed
    /// health checks.
    pub failed_tasks: u32,
    /// Rounds of starts, one after the other, in which tasks stopped before they were RUNNING.
    #[serde(default)]
    pub attempts: u32,
    /// Tasks that cannot start are tried again not before this.
    pub retry_at: Option<Timestamp>,
    /// It has been complete.
    pub completed_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DeploymentStatus {
    Primary,
    Active,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Rollout {
    InProgress,
    Completed,
    Failed,
}

/// What happened to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// UUID.
    pub id: String,
    pub at: Timestamp,
    pub message: String,
}

/// The platform version that stands for the newest.
pub const LATEST_PLATFORM: &str = "LATEST";
/// The newest platform version, and the only one.
pub const PLATFORM: &str = "1.4.0";

impl Service {
    /// The platform version that its tasks have.
    pub fn task_platform_version(&self) -> Option<&str> {
        self.platform_version
            .as_deref()
            .map(|asked| if asked == LATEST_PLATFORM { PLATFORM } else { asked })
    }

    pub fn arn(&self, account: &str) -> String {
        format!("arn:aws:ecs:{}:{account}:service/{}/{}", self.region, self.cluster, self.name)
    }

    pub fn key_of(region: &str, cluster: &str, name: &str) -> String {
        format!("{}{region}/{cluster}/{name}", Self::PREFIX)
    }
}

impl Entity for Service {
    const PREFIX: &'static str = "service/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.cluster, &self.name)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.services
    }
}
