//! The only module with `unsafe`: system calls that no safe crate wraps.

pub mod bpf;
pub mod seccomp;
