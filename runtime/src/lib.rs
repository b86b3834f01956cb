//! OCI container runtime.

pub mod cgroup;
pub mod seccomp;
#[allow(unsafe_code)]
pub mod sys;
