//! The real binaries as root against real peers. One binary, a module per subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, reason = "figures for people")]

mod architecture;
mod cluster;
mod image;
mod machine;
mod monitor;
mod oci;
mod runtime;
mod task;
