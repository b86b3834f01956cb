//! The OCI runtime's command line on real bundles, as root. `RUNTIME=runc` runs the same tests on the
//! reference, but for those that ask for more.

mod adversity;
mod attacks;
mod cgroup;
mod cgroup_v2;
mod checkpoint;
mod cli;
mod exec;
mod filesystem;
mod hooks;
mod life;
mod mounts;
mod namespaces;
mod observe;
mod process;
mod rootless;
mod scheduling;
mod seccomp;
mod service;
mod systemd;
mod terminal;
