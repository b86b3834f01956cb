//! From a definition to a payload's task.

use super::TaskInput;
use crate::acs::Task;

/// The task as an agent gets it.
pub fn task(input: &TaskInput<'_>) -> Task {
    Task { arn: Some(input.arn.to_owned()), ..Task::default() }
}
