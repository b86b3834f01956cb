//! The validated description of a container: what the rest of the crate sees of `config.json`.
//!
//! Made only by [`crate::spec::plan`]; a value of these types asks for nothing that the runtime does
//! not do. Strings that reach the kernel are C strings already. No I/O.

use std::{collections::BTreeMap, ffi::CString, path::PathBuf};

use crate::{
    cgroup::Resources, mount::options::MountOptions, ns::Kind, process::affinity::CpuAffinity,
    seccomp, spec, sys::cred::CapSets,
};

/// A container to be.
#[derive(Debug, Clone)]
pub struct Plan {
    pub oci_version: String,
    pub annotations: BTreeMap<String, String>,
    pub root: Root,
    pub process: Process,
    pub hostname: Option<CString>,
    pub domainname: Option<CString>,
    pub namespaces: Namespaces,
    pub uid_map: Vec<spec::IdMapping>,
    pub gid_map: Vec<spec::IdMapping>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub masked_paths: Vec<CString>,
    pub readonly_paths: Vec<CString>,
    /// File below `/proc/sys` and what to write into it.
    pub sysctl: Vec<(CString, CString)>,
    pub cgroups_path: Option<String>,
    pub resources: Resources,
    pub seccomp: Option<seccomp::Profile>,
    pub personality: Option<u32>,
    pub hooks: spec::Hooks,
}

/// The root file system.
#[derive(Debug, Clone)]
pub struct Root {
    /// As in the configuration: relative to the bundle, or absolute.
    pub path: PathBuf,
    pub readonly: bool,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`, maybe with `MS_REC`; `None` is
    /// recursively slave, as in runc.
    pub propagation: Option<u64>,
}

/// Which namespaces are new, and which are joined.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    /// Union of `CLONE_NEW*`.
    pub new: u64,
    pub joined: Vec<(Kind, PathBuf)>,
}

impl Namespaces {
    /// Whether a new one of this kind is asked for.
    pub fn is_new(&self, kind: Kind) -> bool {
        self.new & kind.flag() != 0
    }

    /// Whether one of this kind is joined.
    pub fn is_joined(&self, kind: Kind) -> bool {
        self.joined.iter().any(|(joined, _)| *joined == kind)
    }
}

/// One entry of `mounts`, in order.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Index in the configuration, for messages.
    pub index: usize,
    /// Absolute path in the container.
    pub destination: CString,
    pub kind: MountKind,
    pub options: MountOptions,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A tree of the host; relative sources are relative to the bundle.
    Bind { source: PathBuf, recursive: bool },
    /// The control groups of the container.
    Cgroup,
    /// Any other file system, by the kernel's name for it.
    FileSystem { kind: CString, source: CString },
}

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute path in the container.
    pub path: CString,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, with the permissions.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A process to run in the container.
#[derive(Debug, Clone)]
pub struct Process {
    pub terminal: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub umask: Option<u32>,
    /// Empty without `capabilities`, as in runc.
    pub capabilities: CapSets,
    pub rlimits: Vec<Rlimit>,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<CString>,
    pub selinux_label: Option<CString>,
    pub oom_score_adj: Option<i32>,
    /// As ioprio_set(2) packs class and level.
    pub io_priority: Option<i32>,
    /// Of processes that are added.
    pub affinity: CpuAffinity,
}

/// Limits of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Name as in the configuration.
    pub name: &'static str,
    /// `RLIMIT_*`.
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}
