//! How a container's process is set up: tables and conversions.

pub mod affinity;
pub mod caps;
pub mod env;
pub mod hooks;
pub mod rlimit;
