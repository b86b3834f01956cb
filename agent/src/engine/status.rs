//! The status words of the ECS API, derived from the state.

use protocol::taskdef::NetworkMode;

use super::state::{Container, Desired, Image, Life, Resources, Task};

impl Task {
    /// `lastStatus` of DescribeTasks.
    pub fn last_status(&self) -> &'static str {
        if self.times.stopped.is_some() {
            "STOPPED"
        } else if self.desired == Desired::Stopped {
            if self.all_containers_stopped() { "DEPROVISIONING" } else { "STOPPING" }
        } else if self.times.started.is_some() {
            "RUNNING"
        } else if self.definition.network_mode == NetworkMode::Awsvpc
            && matches!(self.resources, Resources::Absent | Resources::Creating { .. })
        {
            "PROVISIONING"
        } else {
            "PENDING"
        }
    }

    /// `desiredStatus` of DescribeTasks.
    pub fn desired_status(&self) -> &'static str {
        match self.desired {
            Desired::Running => "RUNNING",
            Desired::Stopped => "STOPPED",
        }
    }

    /// No process of the task is left.
    pub fn all_containers_stopped(&self) -> bool {
        self.containers.iter().all(|container| container.life.is_stopped())
    }

    /// Every essential container has started; their dependencies held then.
    pub(super) fn essentials_started(&self) -> bool {
        self.containers
            .iter()
            .zip(&self.definition.containers)
            .filter(|(_, definition)| definition.essential)
            .all(|(container, _)| container.started_at.is_some())
    }
}

impl Container {
    /// The agent's known status of the container, in ECS's words.
    pub fn last_status(&self) -> &'static str {
        match (self.life, &self.image) {
            (Life::Stopped { .. }, _) => "STOPPED",
            (Life::Running, _) => "RUNNING",
            (Life::Created | Life::Starting { .. }, _) => "CREATED",
            (Life::Waiting | Life::Creating { .. }, Image::Ready { .. }) => "PULLED",
            (Life::Waiting | Life::Creating { .. }, _) => "PENDING",
        }
    }

    /// The exit code, if it ran and somebody could read it.
    pub fn exit_code(&self) -> Option<i32> {
        match self.life {
            Life::Stopped { exit } => exit.and_then(|exit| exit.code),
            _ => None,
        }
    }
}
