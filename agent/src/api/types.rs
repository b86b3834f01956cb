//! What the agent's API socket speaks: JSON bodies of HTTP/1.1 over `<run>/agent.sock`.
//!
//! ```text
//! GET    /v1/agent                      AgentInfo
//! POST   /v1/tasks                      RunTask → TaskView
//! GET    /v1/tasks?all=true             [TaskView]
//! GET    /v1/tasks/{task}               TaskView          task: an id or an unambiguous prefix
//! POST   /v1/tasks/{task}/stop          StopTask → TaskView (at once; watch to see the end)
//! DELETE /v1/tasks/{task}               removes a stopped task and its files
//! GET    /v1/tasks/{task}/watch         JSON lines of TaskView: now, and after each change, until stopped
//! GET    /v1/tasks/{task}/logs?follow&container&since&tail   JSON lines of LogLine
//! GET    /v1/images                     [ImageView]
//! POST   /v1/images/pull                PullImage → JSON lines of PullEvent
//! POST   /v1/images/load?path=…         JSON lines of PullEvent
//! DELETE /v1/images/{reference…}?force  RemovedImage
//! ```
//! A failure is an HTTP status with a [`Failure`] body.

use std::collections::BTreeMap;

use protocol::taskdef::TaskDefinition;
use serde::{Deserialize, Serialize};

use crate::image::{Login, auth};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgentInfo {
    pub version: String,
    pub pid: u32,
    /// Serves only as long as the command that embeds it.
    pub embedded: bool,
    /// The cluster it was configured to join.
    #[serde(default)]
    pub cluster: Option<String>,
    /// ARN of the container instance, once it is registered.
    #[serde(default)]
    pub container_instance: Option<String>,
    /// The log driver `awslogs` ships what tasks write, also of those that name no endpoint.
    #[serde(default)]
    pub ships_logs: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunTask {
    pub definition: TaskDefinition,
    pub pull: PullPolicy,
    /// Remove the task's record and files once it has stopped and its logs are read.
    pub remove: bool,
    /// What the user is logged in with to the registries of the containers' images, by the
    /// containers' names. Never stored.
    #[serde(default)]
    pub logins: BTreeMap<String, GivenLogin>,
}

/// A login that the user of a command has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GivenLogin {
    Login(Login),
    /// Why it could not be had: the failure of a pull that needs it.
    Failed(String),
}

impl GivenLogin {
    /// As a pull takes it.
    ///
    /// # Errors
    /// Why the user's login could not be had.
    pub fn into_login(self) -> Result<Login, auth::Error> {
        match self {
            Self::Login(login) => Ok(login),
            Self::Failed(why) => Err(auth::Error::Given(why)),
        }
    }
}

/// Docker's `--pull`, and what ECS does by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    Always,
    Missing,
    Never,
    /// Always, but an image that is here will do where its registry fails or does not answer.
    Refresh,
}

/// What a host left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deregistered {
    pub container_instance_arn: String,
    pub cluster_arn: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StopTask {
    pub reason: Option<String>,
    /// SIGKILL at once instead of the stop signal.
    #[serde(default)]
    pub kill: bool,
    /// Seconds that replace every container's `stopTimeout`.
    pub timeout: Option<u32>,
}

/// Names as in DescribeTasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    pub task_id: String,
    pub family: String,
    /// PROVISIONING, PENDING, RUNNING, STOPPING, DEPROVISIONING, STOPPED
    pub last_status: String,
    pub desired_status: String,
    pub network_mode: String,
    /// The task's address (awsvpc).
    pub address: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    pub pull_started_at: Option<String>,
    pub pull_stopped_at: Option<String>,
    pub started_at: Option<String>,
    pub stopping_at: Option<String>,
    pub stopped_at: Option<String>,
    pub stop_code: Option<String>,
    pub stopped_reason: Option<String>,
    /// The essential container that ended first: what `lighter run` exits with.
    pub exit_code: Option<i32>,
    pub containers: Vec<ContainerView>,
    /// What the task is doing now, for people: one line per pull in progress.
    pub progress: Vec<PullEvent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerView {
    pub name: String,
    pub image: String,
    pub image_digest: Option<String>,
    pub essential: bool,
    /// Id of the container in the runtime.
    pub runtime_id: String,
    /// PENDING, PULLED, CREATED, RUNNING, STOPPED
    pub last_status: String,
    pub pid: Option<i32>,
    pub exit_code: Option<i32>,
    pub reason: Option<String>,
    pub started_at: Option<String>,
    pub stopped_at: Option<String>,
    pub network_bindings: Vec<NetworkBinding>,
    pub address: Option<String>,
    pub pseudo_terminal: bool,
    pub labels: BTreeMap<String, String>,
    /// Path of the `json-file` log.
    pub log_path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkBinding {
    #[serde(rename = "bindIP")]
    pub bind_ip: String,
    pub container_port: u16,
    pub host_port: u16,
    pub protocol: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub container: String,
    /// `stdout` or `stderr`
    pub stream: String,
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// With its newline, if the container wrote one.
    pub log: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PullImage {
    pub reference: String,
    /// `linux/amd64`; the host's if absent.
    pub platform: Option<String>,
    /// What the user is logged in with to the registry.
    #[serde(default)]
    pub login: Option<GivenLogin>,
}

/// Progress of a pull or load; the last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullEvent {
    Resolving {
        reference: String,
    },
    /// `layer` is a digest; bytes are compressed ones. `done == total` when it is unpacked.
    Layer {
        reference: String,
        layer: String,
        done: u64,
        total: u64,
    },
    Done {
        reference: String,
        digest: String,
    },
    Failed {
        reference: String,
        message: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// `name:tag` forms.
    pub references: Vec<String>,
    /// Digest of the image configuration (Docker's image id).
    pub id: String,
    /// Digest of the manifest.
    pub digest: String,
    pub created: Option<String>,
    /// Bytes unpacked.
    pub size: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemovedImage {
    pub untagged: Vec<String>,
    pub deleted: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The whole chain, colon-separated.
    pub message: String,
}
