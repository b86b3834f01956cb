//! A task definition as a payload's task, and back.
//!
//! [`task`] is what a control plane sends: the definition with overrides applied, in the members and
//! Docker texts that the Amazon agent reads. [`definition`] is what an agent of ours makes of it: the
//! RegisterTaskDefinition request that it stands for, validated by [`crate::taskdef`], so that a bad
//! payload is refused with the same words as a bad definition.
//!
//! What a payload cannot carry, and what therefore is not the same after both:
//!
//! - the order of environment variables, sysctls and tmpfs mounts: they are maps there, sorted by
//!   name;
//! - `requiresCompatibilities`: the launch type stands for it;
//! - `runtimePlatform` and `placementConstraints`, which placement has heeded;
//! - roles: those of the credentials stand for them;
//! - the environment has [`EXECUTION_ENV`], too.

mod docker;
mod read;
mod texts;
mod write;

use serde_json::Value;

pub use read::definition;
pub use write::task;

use super::Credentials;
use crate::ecs::{Tag, TaskOverride};
use crate::taskdef::{Problems, TaskDefinition};

/// Variable that tells a container where it runs; added where a definition does not set it.
pub const EXECUTION_ENV: &str = "AWS_EXECUTION_ENV";

const MEBIBYTE: i64 = 1 << 20;

/// What a control plane knows of a task it sends.
#[derive(Debug, Clone)]
pub struct TaskInput<'a> {
    pub arn: &'a str,
    pub cluster_arn: &'a str,
    pub definition: &'a TaskDefinition,
    pub revision: u32,
    /// `RUNNING` or `STOPPED`.
    pub desired: &'a str,
    /// Checked where the task was asked for.
    pub overrides: &'a TaskOverride,
    /// In the order of the definition's containers.
    pub container_arns: &'a [String],
    /// `EC2`, `FARGATE` or `EXTERNAL`.
    pub launch_type: &'a str,
    pub service_name: Option<&'a str>,
    pub group: &'a str,
    pub role_credentials: Option<Credentials>,
    pub execution_role_credentials: Option<Credentials>,
    pub tags: &'a [Tag],
    /// awsvpc, for agents that do not give addresses themselves.
    pub elastic_network_interfaces: Option<Value>,
}

/// A payload's task cannot be run here.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is there, and we do not act on it.
    #[error("not supported yet: {member} ({what})")]
    NotSupported { member: String, what: &'static str },
    /// It is no value of what the protocol has there.
    #[error("{member}: {rule}")]
    Malformed { member: String, rule: String },
    /// The text of this member is no JSON, or of another shape than Docker's.
    #[error("{member} cannot be read")]
    Text { member: String, source: serde_json::Error },
    /// The definition it stands for breaks rules.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

#[cfg(test)]
mod tests;
