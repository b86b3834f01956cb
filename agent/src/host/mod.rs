//! The edge of the engine: the loop that owns all decided state, and the hands that carry out what
//! it decides.
//!
//! ```text
//! API, hands, monitors ──Input──▶ owner ──snapshots──▶ API
//!                                  │ step → commit (one fsync) → effects
//!                                  ▼
//!                                hands: one tokio task per effect; result = Input
//! ```
//!
//! | Task | Owns | In | Out |
//! |---|---|---|---|
//! | [`owner`] | `engine::Host`, the store | [`Input`] | [`view::Snapshot`], effects |
//! | effect ([`run`]) | nothing; repeatable | the task as it was decided | one [`Input`] |
//! | link (`monitor::link`) | a task's connection | calls | reports |
//! | shipper (`logs`) | a container's log | spool | – |
//! | [`collect`] | when images go | snapshots, the disk, pulls | – |
//!
//! SIGKILL between commit and effect: [`recover`] issues the effect again. SIGKILL in an effect:
//! likewise; every effect finds and completes what an earlier attempt left.

pub mod admit;
pub mod bundle;
pub mod collect;
pub mod hands;
pub mod logins;
pub mod owner;
pub mod pulls;
pub mod recover;
mod run;
pub mod view;

use std::sync::Arc;

use protocol::ids::TaskId;
use tokio::sync::oneshot;

use crate::api::types::{PullEvent, TaskView};
use crate::engine::{Event, NewTask, TaskEvent};
use crate::image::Lease;

/// What the owner is told.
#[derive(Debug)]
pub enum Input {
    /// A result or an observation.
    Event(Event),
    /// An image that is resolved; protected until what the event changes is published.
    Resolved { event: Event, lease: Arc<Lease> },
    /// How far a pull is; shown, never stored.
    Progress { task: TaskId, container: usize, event: PullEvent },
    /// Run a task; answered once it is stored. One of its id that is there already is the answer.
    Run { new: Box<NewTask>, reply: oneshot::Sender<Result<TaskView, NotRun>> },
    /// Stop or remove a task; answered once that is stored. `None`: there is no such task.
    Ask { task: TaskId, event: TaskEvent, reply: oneshot::Sender<Result<Option<TaskView>, String>> },
    /// Is the loop well? Answered once it has stored what it had to.
    Ping { reply: oneshot::Sender<Result<(), String>> },
    /// End the loop; tasks live on.
    Shutdown,
}

/// Why a task is not run.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    #[error("store the task: {0}")]
    Unstored(String),
    #[error("task {0} has been run on this host before, and its record is gone or cannot be read")]
    Spent(TaskId),
}

/// Inputs that wait for the owner. When full, hands and API requests wait: the owner never waits
/// for them.
pub const INBOX: usize = 1024;

/// The container's id in the runtime and in exit records. Unique on the host, and a file name even
/// for the longest container name.
pub fn runtime_id(task: &TaskId, container: &str) -> String {
    const LONGEST: usize = 200;
    if container.len() <= LONGEST {
        return format!("{task}-{container}");
    }
    let sum = protocol::monitor::crc32(container.as_bytes());
    // Container names are ASCII; a name that is not keeps its checksum alone.
    format!("{task}-{}-{sum:08x}", container.get(..LONGEST - 9).unwrap_or_default())
}
