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
//! GET    /v1/image?reference=…          ImageDetail
//! GET    /v1/image/history?reference=…  [HistoryView]
//! POST   /v1/images/pull                PullImage → JSON lines of PullEvent
//! POST   /v1/images/keep                KeepImage → whether that changed anything
//! POST   /v1/images/load?path=…         JSON lines of PullEvent
//! POST   /v1/images/save                SaveImages; the agent writes to the path
//! POST   /v1/images/tag                 TagImage
//! POST   /v1/images/push                PushImage → JSON lines of PushEvent
//! POST   /v1/images/prune               PruneImages → PrunedImages
//! DELETE /v1/images/{reference…}?force  RemovedImage
//! ```
//! A failure is an HTTP status with a [`Failure`] body.

use std::collections::BTreeMap;

use protocol::ids::TaskId;
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
    /// Drawn at random by the caller, who asks again with it where the answer was lost: a task of
    /// this id runs once, and is the answer; of another's id, or one whose record is gone, there is
    /// none (409). The agent draws one otherwise.
    #[serde(default)]
    pub id: Option<TaskId>,
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
    /// Where this agent has not pulled it yet.
    Once,
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
    /// Keep it from being cleaned up.
    #[serde(default)]
    pub keep: bool,
    /// All tags that the registry has of the repository.
    #[serde(default)]
    pub all_tags: bool,
}

/// Keeps the image of a name from being cleaned up, or no longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeepImage {
    pub reference: String,
    pub keep: bool,
}

/// Progress of a pull or load; the last one is `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullEvent {
    Resolving {
        reference: String,
    },
    /// The registry has said what the image is; `digest` is of its manifest or index.
    Resolved {
        reference: String,
        digest: String,
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
    /// `name@digest` forms.
    #[serde(default)]
    pub repo_digests: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Those of its names whose image is kept from cleaning up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
    /// What is wrong with it in the store: it cannot be used until it is pulled again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// An image as `docker image inspect` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageDetail {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    pub created: Option<String>,
    pub docker_version: String,
    pub author: String,
    /// As the image has it: `Env`, `Cmd`, `ExposedPorts`, …
    pub config: serde_json::Value,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    /// Bytes unpacked.
    pub size: u64,
    pub graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: ImageMetadata,
    /// Of the manifest of this platform.
    pub descriptor: ImageDescriptor,
    /// Those of its names whose image is kept from cleaning up; not Docker's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GraphDriver {
    /// `LowerDir`, `UpperDir`: the directories of the layers.
    pub data: BTreeMap<String, String>,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RootFs {
    #[serde(rename = "Type")]
    pub kind: String,
    /// Diff ids, lowest first.
    pub layers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageMetadata {
    /// RFC 3339.
    pub last_tag_time: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDescriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

/// A step of an image's making, the last one first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HistoryView {
    /// The image's for the last step, else `<missing>`.
    pub id: String,
    /// RFC 3339.
    pub created: Option<String>,
    pub created_by: String,
    pub tags: Vec<String>,
    /// Bytes unpacked.
    pub size: u64,
    pub comment: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaveImages {
    pub references: Vec<String>,
    /// An empty file that the agent can open.
    pub path: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PushImage {
    pub reference: String,
    /// All images of the repository.
    #[serde(default)]
    pub all_tags: bool,
    /// What the user is logged in with to the registry.
    #[serde(default)]
    pub login: Option<GivenLogin>,
}

/// Progress of a push; without a `Failed` at the end all has gone well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PushEvent {
    /// `layer` is a diff id, `status` Docker's word for what becomes of it.
    Layer {
        reference: String,
        layer: String,
        status: String,
    },
    /// An image is there. `size` is the manifest's.
    Done {
        reference: String,
        tag: String,
        digest: String,
        size: u64,
    },
    Failed {
        message: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TagImage {
    pub source: String,
    pub target: String,
}

/// Docker's `image prune`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneImages {
    /// Also those with names, if no container needs them.
    pub all: bool,
    /// Only those made before this time, RFC 3339.
    pub until: Option<String>,
    /// `key` or `key=value` that an image has, or has not.
    pub labels: Vec<String>,
    pub without_labels: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PrunedImages {
    pub removed: Vec<RemovedImage>,
    /// Bytes of the files of layers that went.
    pub reclaimed: u64,
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
