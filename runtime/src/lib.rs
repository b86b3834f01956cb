//! OCI container runtime for Linux and the task monitor that is built on it.
//!
//! The process that uses this library must have one thread: a container is cloned with a raw
//! `clone3`, whose child shares nothing with the libc's idea of a fork.
//!
//! ```text
//! config.json → spec (parse) → plan (validated) → launch::prepare (parent: everything that may
//! fail or allocate) → clone3 → launch::child (a list of steps, raw system calls) → execve
//! ```
#![deny(unsafe_code)]

/// `Debug` of an error whose message says it all; 11 kB less than with derived ones.
macro_rules! debug_is_display {
    ($error:ty) => {
        impl std::fmt::Debug for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

pub mod cgroup;
pub mod cli;
pub mod container;
mod failpoint;
pub mod launch;
pub mod monitor;
pub mod mount;
pub mod net;
pub mod ns;
pub mod plan;
pub mod process;
pub mod rdt;
pub mod rootless;
pub mod seal;
pub mod seccomp;
pub mod spec;
#[allow(unsafe_code)] // the one module that wraps system calls
pub mod sys;
pub mod userns;

pub use container::{Container, Create, Created, State, Status, Stdio};
