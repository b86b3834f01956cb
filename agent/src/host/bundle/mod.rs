//! `config.json` of a container: the OCI runtime configuration that stands for what Docker would
//! do with the same image and the same definition. Pure but for what [`HostFacts`] and
//! [`devices`] read.
//!
//! Networks: a container of an `awsvpc` or `none` task joins its monitor's namespace, which is the
//! task's; in bridge mode, and with `disableNetworking`, it gets one of its own; in host mode there
//! is no entry, so it inherits the host's.
//!
//! User namespaces: a task that has one ([`Mapped`]) has it for all its containers, each of which
//! joins it. As with Docker it is refused what would need the host's: `privileged`, the host's network
//! and the host's processes. What we make for a container (its volumes, its files in `/etc`) is
//! mounted with the namespace's maps, so that it has the same owners on disk as without; paths of
//! the host and network file systems are mounted as they are.
//!
//! Seccomp: the annotation [`SECCOMP`] asks the runtime for its built-in profile (Docker's); a
//! privileged container goes without. `linux.seccomp` stays absent, which for a runtime means none.

mod defaults;
pub mod devices;
mod process;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use protocol::monitor::{IdRange, UserMaps};
use protocol::taskdef::{
    ContainerDefinition, CpuArchitecture, NamespaceMode, NetworkMode, TaskDefinition,
};
use serde_json::{Map, Value, json};

use crate::image::{Config, User};
use defaults::{DEVICES, MASKED_PATHS, MASKED_POWERCAP, MOUNTS, READONLY_PATHS, SHARED_MEMORY};
use devices::Device;

/// Annotation with which a container gets the runtime's own seccomp profile.
pub const SECCOMP: &str = "org.lighter.seccomp";
/// ECS's name of the smallest CPU share; the kernel's own minimum.
const MINIMUM_SHARES: u64 = 2;
/// The kernel's largest CPU share.
const MAXIMUM_SHARES: u64 = 262_144;
/// The kernel's largest group in `ping_group_range`.
const MAXIMUM_GROUP: u32 = 2_147_483_647;
/// Option of the terminals' file system, and the group that it names.
const TERMINAL_GROUP: (&str, u32) = ("gid=5", 5);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no command: neither the image {image} nor the container definition has one")]
    NoCommand { image: String },
    #[error("unknown capability {capability}")]
    UnknownCapability { capability: String },
    #[error("the agent itself lacks {capability} and so cannot grant it")]
    NotGrantable { capability: &'static str },
    #[error("device {path}")]
    Device { path: PathBuf, source: std::io::Error },
    #[error("device {path} is neither a character nor a block device nor a directory of them")]
    NotADevice { path: PathBuf },
    #[error("the image {image} is built for {os}/{architecture}, this host runs linux/{host}")]
    Platform { image: String, os: String, architecture: String, host: &'static str },
    #[error(
        "{field} \"task\" is not supported yet: it needs a process that outlives the containers"
    )]
    SharedNamespace { field: &'static str },
    #[error(
        "privileged mode is incompatible with user namespaces (LIGHTER_USERNS_REMAP): run the task on \
         a host without, or without privileged"
    )]
    MappedPrivileged,
    #[error(
        "cannot share the {what} when user namespaces are enabled (LIGHTER_USERNS_REMAP): run \
         the task on a host without, or with another {field}"
    )]
    MappedHost { what: &'static str, field: &'static str },
    #[error(
        "the user namespace of this host's containers (LIGHTER_USERNS_REMAP) has no {what} {id}; give \
         its user a larger range in {file}"
    )]
    NotMapped { what: &'static str, id: u32, file: &'static str },
    #[error("the task definition's runtimePlatform asks for {wanted}, this host runs {host}")]
    Architecture { wanted: &'static str, host: &'static str },
}

/// What the configuration depends on of this host. Read once per agent.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts {
    /// Mask of the capabilities that the agent can grant.
    pub bounding: u64,
    /// The kernel accounts swap, so that a limit on it can be set.
    pub swap: bool,
}

impl HostFacts {
    /// Reads them. What cannot be read is taken as absent.
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or_default();
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let swap = if unified {
            Path::new("/proc/swaps").exists()
        } else {
            Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        };
        Self { bounding, swap }
    }
}

/// A mount that the task brings: a volume, a tmpfs, one of the files in `/etc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub destination: PathBuf,
    /// `bind` or `tmpfs`
    pub kind: &'static str,
    pub source: PathBuf,
    /// As in an OCI configuration.
    pub options: Vec<String>,
    /// Made by this agent: in a user namespace its owners are the namespace's.
    pub ours: bool,
}

impl Mount {
    /// A file or directory that this agent made, writable or not.
    pub fn ours(source: PathBuf, destination: &str, read_only: bool) -> Self {
        let access = if read_only { "ro" } else { "rw" };
        Self {
            destination: PathBuf::from(destination),
            kind: "bind",
            source,
            options: ["rbind", "rprivate", access].map(str::to_owned).to_vec(),
            ours: true,
        }
    }
}

/// The user namespace of a task.
#[derive(Debug, Clone, Copy)]
pub struct Mapped<'a> {
    pub maps: &'a UserMaps,
    /// Where the monitor finds it.
    pub path: &'a Path,
}

/// What one configuration is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub definition: &'a TaskDefinition,
    pub container: &'a ContainerDefinition,
    pub image: &'a Config,
    pub user: &'a User,
    /// `None`: the host's.
    pub hostname: Option<&'a str>,
    /// What tells the container of its metadata endpoint; stands above its own variables.
    pub endpoint: &'a [(&'static str, String)],
    /// `AWS_REGION`, for a container that has no region of its own.
    pub region: Option<&'a str>,
    /// `linux.cgroupsPath`
    pub cgroup: &'a str,
    pub mounts: &'a [Mount],
    /// `None`: the host's.
    pub user_namespace: Option<Mapped<'a>>,
    pub host: HostFacts,
}

/// The configuration.
///
/// # Errors
/// If image and definition together are no container that this host can run.
pub fn config(input: &Input<'_>) -> Result<Value, Error> {
    check_platform(input)?;
    let container = input.container;
    let mut namespaces = namespaces(input.definition, container)?;
    if let Some(mapped) = &input.user_namespace {
        check_mapped(input, mapped.maps)?;
        namespaces.push(json!({ "type": "user", "path": mapped.path }));
    }
    let capabilities = process::capabilities(container, input.host.bounding)?;
    let devices = if container.privileged {
        devices::of_host()?
    } else {
        devices::of_definition(&container.linux.devices)?
    };
    // Without root, execve would drop them; Docker does not hand them out either.
    let held: &[&str] = if input.user.uid == 0 { &capabilities } else { &[] };
    let mut process = json!({
        "terminal": container.pseudo_terminal,
        "user": {
            "uid": input.user.uid,
            "gid": input.user.gid,
            "additionalGids": input.user.additional_gids,
        },
        "args": process::arguments(container, input.image)?,
        "env": process::environment(input),
        "cwd": process::directory(container, input.image),
        "capabilities": {
            "bounding": capabilities,
            "effective": held,
            "permitted": held,
        },
        "noNewPrivileges": container.no_new_privileges,
    });
    if !container.ulimits.is_empty() {
        process["rlimits"] = container.ulimits.iter().map(rlimit).collect();
    }
    let mut annotations = Map::new();
    if !container.privileged {
        annotations.insert(SECCOMP.to_owned(), "default".into());
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": input.cgroup,
        "resources": resources(container, input.host, &devices),
        "sysctl": sysctls(input),
        "devices": devices.iter().map(Device::node).collect::<Value>(),
    });
    if !container.privileged {
        linux["maskedPaths"] = MASKED_PATHS.iter().chain([&MASKED_POWERCAP]).copied().collect();
        linux["readonlyPaths"] = READONLY_PATHS.into_iter().collect();
    }
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs", "readonly": container.readonly_root_filesystem },
        "process": process,
        "mounts": mounts(input),
        "annotations": annotations,
        "linux": linux,
    });
    if let Some(hostname) = input.hostname {
        config["hostname"] = hostname.into();
    }
    Ok(config)
}

/// Docker's conditions (moby `daemon/daemon_unix.go`, `verifyPlatformContainerSettings`), and that the
/// container's user is in the namespace.
fn check_mapped(input: &Input<'_>, maps: &UserMaps) -> Result<(), Error> {
    if input.container.privileged {
        return Err(Error::MappedPrivileged);
    }
    if input.definition.network_mode == NetworkMode::Host {
        return Err(Error::MappedHost { what: "host's network namespace", field: "networkMode" });
    }
    if input.definition.pid_mode == NamespaceMode::Host {
        return Err(Error::MappedHost { what: "host PID namespace", field: "pidMode" });
    }
    let user = input.user;
    if IdRange::outside(&maps.uids, user.uid).is_none() {
        return Err(Error::NotMapped { what: "user", id: user.uid, file: "/etc/subuid" });
    }
    let mut gids = std::iter::once(&user.gid).chain(&user.additional_gids);
    match gids.find(|gid| IdRange::outside(&maps.gids, **gid).is_none()) {
        Some(gid) => Err(Error::NotMapped { what: "group", id: *gid, file: "/etc/subgid" }),
        None => Ok(()),
    }
}

fn check_platform(input: &Input<'_>) -> Result<(), Error> {
    let host = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let wanted = input.definition.cpu_architecture.map(|architecture| match architecture {
        CpuArchitecture::X86_64 => "amd64",
        CpuArchitecture::Arm64 => "arm64",
    });
    if let Some(wanted) = wanted.filter(|wanted| *wanted != host) {
        return Err(Error::Architecture { wanted, host });
    }
    let image = input.image;
    let fits = |found: &str, wanted: &str| found.is_empty() || found == wanted;
    if fits(&image.os, "linux") && fits(&image.architecture, host) {
        return Ok(());
    }
    Err(Error::Platform {
        image: input.container.image.clone(),
        os: image.os.clone(),
        architecture: image.architecture.clone(),
        host,
    })
}

fn namespaces(
    definition: &TaskDefinition,
    container: &ContainerDefinition,
) -> Result<Vec<Value>, Error> {
    let mut kinds = vec!["mount", "cgroup"];
    for (mode, kind, field) in
        [(definition.pid_mode, "pid", "pidMode"), (definition.ipc_mode, "ipc", "ipcMode")]
    {
        match mode {
            NamespaceMode::Private => kinds.push(kind),
            NamespaceMode::Host => {}
            NamespaceMode::Task => return Err(Error::SharedNamespace { field }),
        }
    }
    if definition.network_mode != NetworkMode::Host {
        kinds.push("uts");
    }
    let own = definition.network_mode == NetworkMode::Bridge || container.disable_networking;
    if own {
        kinds.push("network");
    }
    let mut namespaces: Vec<Value> =
        kinds.into_iter().map(|kind| json!({ "type": kind })).collect();
    if !own && definition.network_mode != NetworkMode::Host {
        // By name and not by silence, which to a runtime is the host's: only so are sysctls of the
        // network allowed. The one who opens this path is the monitor.
        namespaces.push(json!({ "type": "network", "path": "/proc/self/ns/net" }));
    }
    Ok(namespaces)
}

fn rlimit(ulimit: &protocol::taskdef::Ulimit) -> Value {
    // -1 is "unlimited", RLIM_INFINITY.
    let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
    json!({
        "type": format!("RLIMIT_{}", ulimit.name.to_ascii_uppercase()),
        "soft": value(ulimit.soft),
        "hard": value(ulimit.hard),
    })
}

fn resources(container: &ContainerDefinition, host: HostFacts, devices: &[Device]) -> Value {
    let shares = u64::from(container.cpu).clamp(MINIMUM_SHARES, MAXIMUM_SHARES);
    let bytes = |mebibytes: u32| u64::from(mebibytes) << 20;
    let mut memory = Map::new();
    if let Some(limit) = container.memory {
        memory.insert("limit".to_owned(), bytes(limit).into());
        if host.swap {
            // Memory and swap together: Docker's default is as much swap as memory.
            let swap = container.linux.max_swap.unwrap_or(limit);
            memory.insert("swap".to_owned(), (bytes(limit) + bytes(swap)).into());
        }
    }
    if let Some(reservation) = container.memory_reservation {
        memory.insert("reservation".to_owned(), bytes(reservation).into());
    }
    // ECS ignores it without maxSwap.
    if let (Some(swappiness), Some(_), true) =
        (container.linux.swappiness, container.linux.max_swap, host.swap)
    {
        memory.insert("swappiness".to_owned(), swappiness.into());
    }
    let mut resources = json!({
        "cpu": { "shares": shares },
        "devices": device_rules(container.privileged, devices),
    });
    if !memory.is_empty() {
        resources["memory"] = memory.into();
    }
    resources
}

fn device_rules(privileged: bool, devices: &[Device]) -> Vec<Value> {
    if privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        // Nodes of any device may be made, not opened.
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    for (major, minor) in DEVICES {
        let mut rule = json!({ "allow": true, "type": "c", "major": major, "access": "rwm" });
        if let Some(minor) = minor {
            rule["minor"] = minor.into();
        }
        rules.push(rule);
    }
    rules.extend(devices.iter().map(Device::rule));
    rules
}

fn sysctls(input: &Input<'_>) -> Value {
    let mut values = Map::new();
    if input.definition.network_mode != NetworkMode::Host {
        // Docker's: ports below 1024 and ping need no capability in a network of one's own.
        values.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".into());
        // The kernel takes only groups that the user namespace has.
        let last = input.user_namespace.map_or(MAXIMUM_GROUP, |mapped| {
            let ends = mapped
                .maps
                .gids
                .iter()
                .map(|range| range.inside.saturating_add(range.size.saturating_sub(1)));
            ends.max().unwrap_or_default().min(MAXIMUM_GROUP)
        });
        values.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}").into());
    }
    for (name, value) in &input.container.system_controls {
        values.insert(name.clone(), value.clone().into());
    }
    values.into()
}

fn mounts(input: &Input<'_>) -> Vec<Value> {
    let container = input.container;
    let host_ipc = input.definition.ipc_mode == NamespaceMode::Host;
    let has_terminal_group = input
        .user_namespace
        .is_none_or(|mapped| IdRange::outside(&mapped.maps.gids, TERMINAL_GROUP.1).is_some());
    let own: Vec<&Path> = input.mounts.iter().map(|mount| mount.destination.as_path()).collect();
    let mut mounts: Vec<Value> = MOUNTS
        .iter()
        .filter(|(destination, ..)| !own.contains(&Path::new(destination)))
        .map(|(destination, kind, source, options)| {
            let options: Vec<&str> = options
                .iter()
                .copied()
                .filter(|option| !(container.privileged && *option == "ro"))
                .filter(|option| *option != TERMINAL_GROUP.0 || has_terminal_group)
                .collect();
            match *destination {
                "/dev/mqueue" if host_ipc => host_bind(destination),
                _ => json!({
                    "destination": destination, "type": kind, "source": source, "options": options,
                }),
            }
        })
        .collect();
    if !own.contains(&Path::new("/dev/shm")) {
        let size = container.linux.shared_memory_size.unwrap_or(SHARED_MEMORY);
        mounts.push(if host_ipc {
            host_bind("/dev/shm")
        } else {
            json!({
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", format!("size={size}m")],
            })
        });
    }
    // A mount below another comes after it.
    let mut brought: Vec<&Mount> = input.mounts.iter().collect();
    brought.sort_by_key(|mount| mount.destination.components().count());
    mounts.extend(brought.into_iter().map(|mount| {
        let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        if mount.ours && input.user_namespace.is_some() {
            options.push("idmap");
        }
        json!({
            "destination": mount.destination, "type": mount.kind, "source": mount.source,
            "options": options,
        })
    }));
    mounts
}

/// The host's own, for a container in the host's IPC namespace.
fn host_bind(path: &str) -> Value {
    json!({ "destination": path, "type": "bind", "source": path, "options": ["rbind", "nosuid", "noexec", "nodev"] })
}
