//! A container's identity, state file, lock and life.
//!
//! ```text
//!            create                start                  the program ends
//!  (none) ──────────▶ created ──────────────▶ running ──────────────────────▶ stopped
//!                        │  kill, or the init dies                               │
//!                        └──────────────────────▶ stopped ◀──────────────────────┘
//!                                                    │ delete
//!                                                    ▼
//!                                                  (none)
//! ```
//!
//! Everything a container leaves on the host hangs from its directory `<root>/<id>`: the state file
//! names the cgroup and the init process (with its start time and the boot, so that a reused pid is
//! never taken for it), and is written before either exists. `delete` with `force` on whatever a
//! killed `create` left therefore finds all of it. Commands that change a container hold a lock on
//! the directory; `state` does not, so that hooks may call it.

mod bundle;
mod checkpoint;
mod criu;
mod delete;
mod error;
mod exec;
pub mod id;
mod inside;
mod lifecycle;
mod limits;
mod processes;
mod service;
mod state;

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use bundle::Bundle;
pub use checkpoint::{Checkpoint, Restore};
pub use criu::Options as CriuOptions;
pub use error::Error;
pub use exec::{Exec, Inherited};
pub use lifecycle::Container;
pub use service::{Listener, Service};
pub(crate) use state::timestamp;
pub use state::{ProcessRecord, Record};

use crate::rootless::Rootless;

/// How to create a container.
#[derive(Debug)]
pub struct Create<'a> {
    /// State root: the directory that holds a directory per container.
    pub root: &'a Path,
    /// Container id, see [`id::Id`].
    pub id: &'a str,
    /// Where the process's standard streams go.
    pub stdio: Stdio,
    /// Descriptors from 3 on that the process inherits.
    pub preserve_fds: u32,
    /// Move the root instead of `pivot_root`, for hosts that run from a ramdisk.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Bring the processes of a checkpoint back instead of making new ones.
    pub restore: Option<&'a Restore<'a>>,
    /// What systemd gave the caller for it.
    pub service: Service,
    /// Whether it may be without cgroups where they are not permitted.
    pub rootless: Rootless,
    /// Have systemd make the cgroup.
    pub systemd_cgroup: bool,
}

/// Standard streams of a container's process.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// These.
    Fds { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    /// A terminal of the container's own; its master comes back in [`Created::terminal`]. Requires
    /// `process.terminal`.
    Terminal,
}

/// A process that was created in a container.
#[derive(Debug)]
pub struct Created {
    /// Its number in the caller's pid namespace.
    pub pid: i32,
    /// Refers to it for as long as it is held.
    pub pidfd: OwnedFd,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Status of the runtime specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Creating,
    Created,
    Running,
    /// Its processes stand still: runc's addition to the specification's statuses.
    Paused,
    Stopped,
}

/// The state document of the runtime specification, with runc's additions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// Number of the init process; 0 when there is none.
    pub pid: i32,
    pub status: Status,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Time of creation, RFC 3339 in UTC.
    pub created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
