//! `lighter up`, `down` and `status`: the whole system on this host.
//!
//! `up` starts the control plane, makes an access key and a cluster, starts an agent that joins it,
//! and prints the environment with which the `aws` CLI drives it. Each step finds what an earlier
//! `up` did, so it may be repeated, also after it was killed half-way; with `--detach` it returns
//! when a task can be run, without it it watches over both and ends with `down`. `down` ends the
//! control plane, stops this host's tasks and ends the agent. What was created (clusters, task
//! definitions, services) stays and is there again after the next `up`.
//!
//! Who listens on a socket is asked of the kernel (`SO_PEERCRED`), so no file says which process to
//! signal. Owner of `up.json` and `up.lock` in the state directory: whoever holds the lock.

mod control_plane;
mod down;
mod process;
mod settings;
mod start;
mod status;

pub(super) use down::run as down;
pub(super) use start::{Args, run};
pub(super) use status::run as status;
