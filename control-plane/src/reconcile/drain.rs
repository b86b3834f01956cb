//! DRAINING instances, as the planners of services see them: what a task's place says of it.
//!
//! A service's task on a DRAINING instance is no longer one to keep: while it is PENDING it is
//! stopped at once, when it is RUNNING it is replaced within the service's percentages, and a
//! DAEMON's is stopped after the others of the instance. Standalone tasks are left alone; draining is
//! done when none runs. What 100/100 makes impossible is said in an event of the service.

use crate::model::{Instance, InstanceStatus};

/// What is true of a task's instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// ACTIVE, and its agent is connected.
    Here,
    /// ACTIVE, its agent is away. That alone moves no task.
    Away,
    /// DRAINING.
    Draining,
    /// Deregistered. Its tasks are being ended (see `lost`).
    Gone,
}

impl Place {
    /// The place of tasks on an instance; `None`: it is not known.
    pub fn new(instance: Option<&Instance>, connected: bool) -> Self {
        match instance.map(|instance| instance.status) {
            Some(InstanceStatus::Active) if connected => Self::Here,
            Some(InstanceStatus::Active) => Self::Away,
            Some(InstanceStatus::Draining) => Self::Draining,
            Some(InstanceStatus::Inactive) | None => Self::Gone,
        }
    }

    /// Whether a task may stay there.
    pub fn keeps_tasks(self) -> bool {
        matches!(self, Self::Here | Self::Away)
    }
}
