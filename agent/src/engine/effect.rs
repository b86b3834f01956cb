//! What the engine wants done.

use protocol::ids::TaskId;

/// Something to do. Its key is (task, action); issuing it twice must be harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub task: TaskId,
    /// Goes back with the result.
    pub generation: u64,
    pub action: Action,
}

/// `container` is the index in the definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Find the image, pulling as the task's policy says → `ImageReady` | `ImageFailed`.
    ResolveImage { container: usize },
    /// Nobody waits for the image any more. No result.
    CancelPull { container: usize },
    /// Directories, cgroup, monitor, network → `ResourcesReady` | `ResourcesFailed`.
    CreateResources,
    /// Bundle, `Create`, bridge network → `Created` | `CreateFailed`.
    CreateContainer { container: usize },
    /// `Start` → `Observed` | `StartFailed`.
    StartContainer { container: usize },
    /// The stop signal (the image's, SIGTERM by default), or SIGKILL to all its processes. The end
    /// is observed.
    Signal { container: usize, kill: bool },
    /// Kill what was created and never started, delete the containers, end the monitor, give back network, cgroup, run directory and
    /// volumes; logs and exit records stay → `Released`, retried until it succeeds.
    Release,
    /// Delete the task's files → `Removed`.
    Remove,
}
