//! System call filters: from the specification's profile to a program in force.
//!
//! - `profile`: the OCI model (runtime-spec config-linux.md, "Seccomp");
//! - `default`: the profile for containers that bring none, Docker's;
//! - `compile`: profile → classic BPF; pure, and fast enough (tens of microseconds) to need no cache;
//! - `tables`: names and numbers of system calls;
//! - loading is [`crate::sys::seccomp::load`], one system call.

mod compile;
mod default;
mod profile;
mod tables;

pub use self::compile::{Error, Filter, Listener, MAX_INSTRUCTIONS, compile};
pub use self::default::default_profile;
pub use self::profile::{Action, Argument, Flag, Operator, Profile, Rule};
pub use self::tables::Arch;
