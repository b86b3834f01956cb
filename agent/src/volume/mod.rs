//! Volumes of tasks: which mounts a container gets, and the directories behind them.
//!
//! [`plan()`] decides, purely; [`host`] checks sources on the host, [`task`] makes the task's own
//! directories, [`remove_tree`] takes them away. [`efs`] decides, purely, and [`nfs`] makes the
//! mounts of network file systems. All mounts, these and those that are the runtime's work, are in
//! the monitor's mount namespace, so nothing is mounted on the host and nothing stays after a crash.

pub mod efs;
pub mod host;
pub mod nfs;
pub mod plan;
mod remove;
pub mod task;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use plan::{ImageVolumes, Source, VolumeMount, plan};
pub use remove::remove_tree;

/// What failed about a volume's files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("source {} of the bind mount at {} does not exist on this host", path.display(), destination.display())]
    MissingSource { path: PathBuf, destination: PathBuf },
    #[error("look at source {} of the bind mount at {}", path.display(), destination.display())]
    CheckSource { path: PathBuf, destination: PathBuf, source: io::Error },
    #[error("create volume directory {}", path.display())]
    CreateVolume { path: PathBuf, source: io::Error },
    #[error("read volume directory {}", path.display())]
    ReadVolume { path: PathBuf, source: io::Error },
    #[error("failed to mount the file system {file_system}")]
    PlanEfs { file_system: String, source: efs::Error },
    #[error("failed to mount the file system {file_system} at {place}")]
    MountEfs { file_system: String, place: String, source: nfs::Error },
    #[error("remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
}
