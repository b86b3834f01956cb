//! The task monitor: one per task, two processes, parent of the task's containers.
//!
//! ```text
//! agent ──(SEQPACKET, JSON + descriptors)── worker ── container inits, processes added by exec
//!                                             │
//!                                          guardian      parent of the worker, subreaper, keeps descriptors
//! ```
//!
//! Promise: SIGKILL of either process at any moment kills no container and loses no byte of output
//! and no exit code. The wire and the files are described in [`protocol::monitor`].
//!
//! | Module | Owns |
//! |---|---|
//! | `guardian` | set-up, the worker's life, wanted zombies |
//! | `deposit` | the socket between the two and what is kept there |
//! | `worker`, `requests`, `poller` | event loop, containers, connections |
//! | `held`, `configuration` | one container: create, recover, drain, remove |
//! | `spool`, `exits` | output and exit records on disk |
//! | `serve` | datagrams |
//! | `user` | the task's user namespace |
//! | `overlay`, `leaf`, `oom`, `process` | mounts, own cgroup, own OOM score, pidfds |
//!
//! Who reads an exit status: the worker, of its own children; the guardian at the worker's request,
//! of children that an earlier worker left; the kernel through the pidfd (Linux 6.15), of
//! containers that no living process of ours is parent of. In every case the record is durable
//! before the zombie is reaped. Nobody waits for "any" child.

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use protocol::monitor::UserMaps;

use crate::userns;

mod configuration;
mod deposit;
mod exits;
mod guardian;
mod held;
mod journal;
mod leaf;
mod oom;
mod overlay;
mod poller;
mod process;
mod requests;
mod serve;
mod spool;
mod user;
mod worker;

pub use user::mappings;

/// How to run a monitor.
#[derive(Debug, Clone)]
pub struct Options {
    /// Durable directory of the task.
    pub task: PathBuf,
    /// Run directory of the task.
    pub run: PathBuf,
    /// Inherited descriptor of the listening control socket.
    pub listen: RawFd,
    /// Whether the task has a network namespace of its own: the monitor's.
    pub new_network: bool,
    /// The task has a user namespace of its own, with these maps.
    pub user: Option<UserMaps>,
    /// Cgroup for the monitor's processes, from the root of every hierarchy.
    pub cgroup: Option<String>,
    /// Take over containers that an earlier monitor of the run directory left.
    pub adopt: bool,
}

/// Why a monitor could not start or go on.
#[derive(thiserror::Error)]
pub enum Error {
    #[error("take over descriptor {number} given as --listen-fd")]
    Listener { number: RawFd, source: io::Error },
    #[error("descriptor {number} given as --listen-fd is not a listening SOCK_SEQPACKET socket")]
    NotListening { number: RawFd },
    #[error("monitor process {pid} still serves {run}; a second monitor would tear its containers")]
    Served { run: PathBuf, pid: i32 },
    #[error("read the boot id")]
    BootId { source: io::Error },
    #[error("open or create {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("make the task's user namespace")]
    User { source: userns::Error },
    #[error("mount the task's user namespace at {path}")]
    MountUser { path: PathBuf, source: io::Error },
    #[error("enter cgroup {cgroup}")]
    Cgroup { cgroup: String, source: io::Error },
    #[error("cgroup path {cgroup} given as --cgroup is not absolute and plain")]
    CgroupPath { cgroup: String },
    #[error("{step}")]
    Setup { step: &'static str, source: io::Error },
    #[error("write monitor record {path}")]
    Record { path: PathBuf, source: io::Error },
}

debug_is_display!(Error);

/// Runs a monitor until [`protocol::monitor::Call::Shutdown`].
///
/// Forks: returns in the guardian and, when that one's life ends, in the worker. The caller has one
/// thread and nothing to do afterwards but to end the process.
///
/// # Errors
/// If the monitor cannot be set up. Once it serves, failures are answers on the wire.
pub fn run(options: &Options) -> Result<(), Error> {
    guardian::run(options)
}
