//! From a payload's task to the definition that it stands for.

use super::PayloadError;
use crate::acs::Task;
use crate::taskdef::TaskDefinition;

/// The definition that a payload's task stands for.
///
/// # Errors
/// If it holds what is not acted on here, or breaks rules.
pub fn definition(task: &Task) -> Result<TaskDefinition, PayloadError> {
    Err(PayloadError::Malformed {
        member: "arn".to_owned(),
        rule: format!("{:?}", task.arn),
    })
}
