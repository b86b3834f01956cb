//! Why an operation on a container failed.

use std::io;
use std::path::PathBuf;

use protocol::monitor::FailureKind;

use super::{Status, criu, id};
use crate::{
    cgroup,
    launch::{self, prepare},
    process::hooks,
    rdt, rootless, spec,
    sys::Errno,
};

/// Why an operation on a container failed.
#[derive(thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Id(#[from] id::Invalid),
    #[error("container {id} does not exist")]
    NotFound { id: String },
    #[error("container with id exists already: {id}")]
    Exists { id: String },
    #[error("cannot {operation} container {id}: it is {}", status.name())]
    WrongStatus { operation: &'static str, id: String, status: Status },
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("parse {}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("{}", path.display())]
    Spec { path: PathBuf, source: spec::Error },
    #[error("process")]
    Process(#[source] spec::Error),
    #[error("cgroup of container {id}")]
    Cgroup { id: String, source: Box<cgroup::Error> },
    #[error("container {id} has no cgroup yet")]
    NoCgroup { id: String },
    #[error("prepare container {id}")]
    Prepare { id: String, source: Box<prepare::Error> },
    #[error("container {id}")]
    Launch { id: String, source: Box<launch::Error> },
    #[error("unable to start container process")]
    Exec(#[source] Box<launch::Error>),
    #[error("read the start time of process {pid}: it is gone")]
    Gone { pid: i32 },
    #[error("send signal {signal} to container {id}")]
    Signal { id: String, signal: i32, source: Errno },
    #[error("container {id} did not end within {seconds} s of SIGKILL")]
    StillAlive { id: String, seconds: u64 },
    #[error("wait for the end of container {id}")]
    Wait { id: String, source: Errno },
    #[error("container not running: {id} is {}", status.name())]
    NotRunning { id: String, status: Status },
    #[error("cannot exec in a paused container ({id}); resume it first, or use --ignore-paused")]
    Paused { id: String },
    #[error("container not paused: {id} is {}", status.name())]
    NotPaused { id: String, status: Status },
    #[error("resources")]
    Resources(#[source] spec::Error),
    #[error("resources are not those of the specification's linux.resources")]
    ResourcesForm(#[source] serde_json::Error),
    /// In runc's words, which callers look for.
    #[error("container init was OOM-killed (memory limit too low?)")]
    OutOfMemory,
    #[error(transparent)]
    Rdt(#[from] rdt::Error),
    #[error("checkpoint container {id}")]
    Checkpoint { id: String, source: Box<criu::Error> },
    #[error("restore container {id}")]
    Restore { id: String, source: Box<criu::Error> },
    #[error(transparent)]
    Rootless(#[from] rootless::Refusal),
    #[error("start container {id}: run hooks")]
    Hooks { id: String, source: Box<hooks::Error> },
}

debug_is_display!(Error);

impl Error {
    /// Which of the failures that callers decide on this is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::WrongStatus { .. }
            | Self::NotRunning { .. }
            | Self::NotPaused { .. }
            | Self::Paused { .. } => FailureKind::WrongState,
            Self::Resources(_) | Self::ResourcesForm(_) => FailureKind::Invalid,
            Self::Id(_)
            | Self::Parse { .. }
            | Self::Spec { .. }
            | Self::Process(_)
            | Self::Rootless(_) => FailureKind::Invalid,
            Self::Launch { source, .. } | Self::Exec(source) => match **source {
                launch::Error::Program { errno: Errno::ENOENT | Errno::ENOTDIR, .. } => {
                    FailureKind::CommandNotFound
                }
                launch::Error::Program { .. } => FailureKind::CommandNotExecutable,
                _ => FailureKind::Failed,
            },
            _ => FailureKind::Failed,
        }
    }
}
