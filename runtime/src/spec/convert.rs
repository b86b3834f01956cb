//! From the raw configuration to a [`Plan`]: every check, no I/O.
//!
//! What the specification has and this runtime does not do is refused here, by its JSON path.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{Hook, Linux, Process, Spec, scheduling};
use crate::{
    mount::options::PROPAGATION,
    ns::Kind,
    plan::{self, Plan},
    process::{caps, rlimit},
    seccomp,
};

/// Why a configuration is refused; `path` is the JSON path of the offending value.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{path}: required")]
    Missing { path: String },
    #[error("{path}: not supported yet")]
    Unsupported { path: String },
    #[error("{path}: {value:?} {rule}")]
    Invalid { path: String, value: String, rule: String },
}

debug_is_display!(Error);

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Annotation with which a configuration without `linux.seccomp` asks for the built-in profile.
const SECCOMP_ANNOTATION: &str = "org.lighter.seccomp";

pub(super) fn invalid<T>(
    path: impl Into<String>,
    value: impl ToString,
    rule: impl Into<String>,
) -> Result<T> {
    Err(Error::Invalid { path: path.into(), value: value.to_string(), rule: rule.into() })
}

pub(super) fn c_string(path: &str, text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text).or_else(|error| {
        invalid(path, String::from_utf8_lossy(&error.into_vec()), "contains a null byte")
    })
}

pub(super) fn absolute(path: &str, value: &Path) -> Result<CString> {
    if !value.is_absolute() {
        return invalid(path, value.display(), "must be an absolute path");
    }
    if value.components().any(|part| part == std::path::Component::ParentDir) {
        return invalid(path, value.display(), "must not contain \"..\"");
    }
    c_string(path, value.as_os_str().as_bytes())
}

/// Validates a configuration.
///
/// # Errors
/// The first value that is wrong, or that asks for what is not supported.
pub fn plan(spec: Spec) -> Result<Plan> {
    scheduling::version(&spec.oci_version)?;
    for (path, present) in [
        ("vm", spec.vm.is_some()),
        ("windows", spec.windows.is_some()),
        ("solaris", spec.solaris.is_some()),
        ("zos", spec.zos.is_some()),
    ] {
        if present {
            return invalid(path, path, "is not for this platform, which is linux");
        }
    }
    let mut linux = spec.linux.unwrap_or_default();
    let Some(root) = spec.root else { return Err(Error::Missing { path: "root".into() }) };
    if root.path.as_os_str().is_empty() {
        return Err(Error::Missing { path: "root.path".into() });
    }
    let propagation = match linux.rootfs_propagation.as_deref() {
        None | Some("") => None,
        Some(name) => match PROPAGATION.iter().find(|row| row.0 == name) {
            Some(row) => Some(row.1),
            None => return invalid("linux.rootfsPropagation", name, "is not a propagation type"),
        },
    };
    let raw = spec.process.ok_or_else(|| Error::Missing { path: "process".into() })?;
    let process = process("process", &raw)?;
    let namespaces = namespaces(&linux)?;
    let mounts = super::mounts::mounts(&spec.mounts, &linux, &namespaces)?;
    let uts = |path: &str, name: Option<String>| match name {
        Some(name) if !name.is_empty() => {
            if !namespaces.is_new(Kind::Uts) && !namespaces.is_joined(Kind::Uts) {
                return invalid(path, name, "needs a uts namespace in linux.namespaces");
            }
            if name.len() > 64 {
                return invalid(path, name, "is longer than 64 bytes");
            }
            c_string(path, name).map(Some)
        }
        _ => Ok(None),
    };
    let hostname = uts("hostname", spec.hostname)?;
    let domainname = uts("domainname", spec.domainname)?;
    let hooks = spec.hooks.unwrap_or_default();
    for (name, list) in hooks.lists() {
        for (index, hook) in list.iter().enumerate() {
            check_hook(&format!("hooks.{name}[{index}]"), hook)?;
        }
    }
    let paths = |name: &str, list: &[String]| {
        list.iter()
            .enumerate()
            .map(|(index, path)| absolute(&format!("linux.{name}[{index}]"), Path::new(path)))
            .collect::<Result<Vec<_>>>()
    };
    let masked_paths = paths("maskedPaths", &linux.masked_paths)?;
    let readonly_paths = paths("readonlyPaths", &linux.readonly_paths)?;
    if !namespaces.is_new(Kind::Mount) && !namespaces.is_joined(Kind::Mount) {
        // Without another mount namespace these would change the host.
        for (path, present) in [
            ("mounts", !mounts.is_empty()),
            ("linux.devices", !linux.devices.is_empty()),
            ("linux.maskedPaths", !masked_paths.is_empty()),
            ("linux.readonlyPaths", !readonly_paths.is_empty()),
            ("linux.rootfsPropagation", propagation.is_some()),
            ("root.readonly", root.readonly),
        ] {
            if present {
                return invalid(path, path, "needs a mount namespace in linux.namespaces");
            }
        }
    }
    let seccomp = match linux.seccomp.take() {
        Some(profile) => Some(profile),
        None => match spec.annotations.get(SECCOMP_ANNOTATION).map(String::as_str) {
            None => None,
            Some("default") => {
                let names = raw.capabilities.as_ref().map(|sets| sets.bounding.as_slice());
                Some(seccomp::default_profile(|name| {
                    names.is_none_or(|names| names.iter().any(|own| own == name))
                }))
            }
            Some(other) => {
                let path = format!("annotations.{SECCOMP_ANNOTATION}");
                return invalid(path, other, "is not \"default\"");
            }
        },
    };
    Ok(Plan {
        oci_version: spec.oci_version,
        annotations: spec.annotations,
        root: plan::Root { path: root.path, readonly: root.readonly, propagation },
        process,
        hostname,
        domainname,
        mounts,
        devices: devices(&linux)?,
        masked_paths,
        readonly_paths,
        sysctl: sysctl(&linux, &namespaces)?,
        cgroups_path: linux.cgroups_path.take().filter(|path| !path.is_empty()),
        resources: super::resources::resources(linux.resources.take().unwrap_or_default())?,
        seccomp,
        personality: linux.personality.as_ref().map(personality).transpose()?,
        time_offsets: super::linux::time_offsets(&linux.time_offsets, &namespaces)?,
        memory_policy: linux.memory_policy.as_ref().map(super::linux::memory_policy).transpose()?,
        net_devices: super::linux::net_devices(&linux.net_devices, &namespaces)?,
        mount_label: super::linux::mount_label(linux.mount_label.as_deref())?,
        intel_rdt: linux.intel_rdt.take().map(super::linux::intel_rdt).transpose()?,
        uid_map: linux.uid_mappings,
        gid_map: linux.gid_mappings,
        namespaces,
        hooks,
    })
}

/// Validates a process; `at` is its JSON path.
///
/// # Errors
/// As [`plan()`].
pub fn process(at: &str, raw: &Process) -> Result<plan::Process> {
    let path = |name: &str| format!("{at}.{name}");
    if raw.args.first().is_none_or(String::is_empty) {
        return Err(Error::Missing { path: path("args") });
    }
    let strings = |name: &str, list: &[String]| {
        list.iter()
            .enumerate()
            .map(|(index, text)| c_string(&format!("{at}.{name}[{index}]"), text.as_str()))
            .collect::<Result<Vec<_>>>()
    };
    if raw.user.uid == u32::MAX || raw.user.gid == u32::MAX {
        return invalid(path("user"), u32::MAX, "is not a user or group");
    }
    let mut rlimits: Vec<plan::Rlimit> = Vec::new();
    for (index, limit) in raw.rlimits.iter().enumerate() {
        let at = format!("{at}.rlimits[{index}]");
        let Some((name, resource)) = rlimit::find(&limit.kind) else {
            return invalid(format!("{at}.type"), &limit.kind, "is not a resource limit");
        };
        if rlimits.iter().any(|known| known.resource == resource) {
            return invalid(format!("{at}.type"), &limit.kind, "occurs twice");
        }
        if limit.soft > limit.hard {
            return invalid(format!("{at}.soft"), limit.soft, "is greater than the hard limit");
        }
        rlimits.push(plan::Rlimit { name, resource, soft: limit.soft, hard: limit.hard });
    }
    let label = |name: &str, text: &Option<String>| match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => c_string(&path(name), text).map(Some),
    };
    if raw.oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        let score = raw.oom_score_adj.unwrap_or(0);
        return invalid(path("oomScoreAdj"), score, "is not between -1000 and 1000");
    }
    Ok(plan::Process {
        terminal: raw.terminal,
        console_size: raw.console_size.map(|size| (size.height, size.width)),
        args: strings("args", &raw.args)?,
        env: strings("env", &raw.env)?,
        cwd: absolute(&path("cwd"), Path::new(&raw.cwd))?,
        uid: raw.user.uid,
        gid: raw.user.gid,
        additional_gids: raw.user.additional_gids.clone(),
        umask: raw.user.umask,
        capabilities: raw.capabilities.as_ref().map(caps::sets).unwrap_or_default(),
        rlimits,
        no_new_privileges: raw.no_new_privileges,
        apparmor_profile: label("apparmorProfile", &raw.apparmor_profile)?,
        selinux_label: label("selinuxLabel", &raw.selinux_label)?,
        oom_score_adj: raw.oom_score_adj,
        io_priority: raw
            .io_priority
            .as_ref()
            .map(|raw| scheduling::io_priority(&path("ioPriority"), raw))
            .transpose()?,
        scheduler: raw
            .scheduler
            .as_ref()
            .map(|raw| scheduling::scheduler(&path("scheduler"), raw))
            .transpose()?,
        affinity: raw
            .exec_cpu_affinity
            .as_ref()
            .map(|raw| scheduling::affinity(&path("execCPUAffinity"), raw))
            .transpose()?,
    })
}

fn namespaces(linux: &Linux) -> Result<plan::Namespaces> {
    let mut namespaces = plan::Namespaces::default();
    for (index, namespace) in linux.namespaces.iter().enumerate() {
        let at = format!("linux.namespaces[{index}]");
        let Some(kind) = Kind::parse(&namespace.kind) else {
            return invalid(format!("{at}.type"), &namespace.kind, "is not a namespace");
        };
        if namespaces.is_new(kind) || namespaces.is_joined(kind) {
            return invalid(format!("{at}.type"), &namespace.kind, "occurs twice");
        }
        match &namespace.path {
            Some(path) if !path.as_os_str().is_empty() => {
                if !path.is_absolute() {
                    return invalid(format!("{at}.path"), path.display(), "must be absolute");
                }
                namespaces.joined.push((kind, path.clone()));
            }
            _ => namespaces.new |= kind.flag(),
        }
    }
    namespaces.joined.sort_by_key(|(kind, _)| kind.order());
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if namespaces.is_new(Kind::User) {
        for (path, list) in
            [("linux.uidMappings", &linux.uid_mappings), ("linux.gidMappings", &linux.gid_mappings)]
        {
            if list.is_empty() {
                return Err(Error::Missing { path: path.into() });
            }
            crate::userns::check(list).or_else(|rule| invalid(path, list.len(), rule))?;
        }
    } else if mapped {
        return invalid("linux.uidMappings", "mappings", "need a new user namespace");
    }
    Ok(namespaces)
}

fn devices(linux: &Linux) -> Result<Vec<plan::Device>> {
    let mut devices = Vec::with_capacity(linux.devices.len());
    for (index, device) in linux.devices.iter().enumerate() {
        let at = format!("linux.devices[{index}]");
        let format = match device.kind.as_str() {
            "c" | "u" => libc::S_IFCHR,
            "b" => libc::S_IFBLK,
            "p" => libc::S_IFIFO,
            other => return invalid(format!("{at}.type"), other, "is not one of c, u, b, p"),
        };
        let path = absolute(&format!("{at}.path"), &device.path)?;
        if device.path.file_name().is_none() {
            return invalid(format!("{at}.path"), device.path.display(), "names no file");
        }
        let number = |name: &str, value: i64| {
            u32::try_from(value)
                .or_else(|_| invalid(format!("{at}.{name}"), value, "is no device number"))
        };
        devices.push(plan::Device {
            path,
            mode: format | (device.file_mode.unwrap_or(0o666) & 0o7777),
            major: number("major", device.major)?,
            minor: number("minor", device.minor)?,
            uid: device.uid.unwrap_or(0),
            gid: device.gid.unwrap_or(0),
        });
    }
    Ok(devices)
}

/// Only those sysctls that belong to a namespace of the container's own: all else is the host's.
fn sysctl(linux: &Linux, namespaces: &plan::Namespaces) -> Result<Vec<(CString, CString)>> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let own = |kind| namespaces.is_new(kind) || namespaces.is_joined(kind);
    let mut files = Vec::with_capacity(linux.sysctl.len());
    for (key, value) in &linux.sysctl {
        let at = format!("linux.sysctl.{key}");
        // As sysctl(8): in a name with dots, a slash stands for a dot, and the reverse.
        let slashes = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
        let file: String = key
            .chars()
            .map(|letter| match letter {
                '.' if !slashes => '/',
                '/' if !slashes => '.',
                other => other,
            })
            .collect();
        if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return invalid(at, key, "is not the name of a sysctl");
        }
        let dotted = file.replace('/', ".");
        let needs = if dotted.starts_with("net.") {
            Kind::Network
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            Kind::Ipc
        } else if dotted == "kernel.domainname" {
            Kind::Uts
        } else if dotted == "kernel.hostname" {
            return invalid(at, key, "is set by the key hostname");
        } else {
            return invalid(at, key, "is not in a namespace of its own");
        };
        if !own(needs) {
            return invalid(at, key, format!("needs a {} namespace", needs.name()));
        }
        files.push((c_string(&at, format!("/proc/sys/{file}"))?, c_string(&at, value.as_str())?));
    }
    Ok(files)
}

fn personality(raw: &super::Personality) -> Result<u32> {
    if !raw.flags.is_empty() {
        let flags = raw.flags.join(",");
        return invalid(
            "linux.personality.flags",
            flags,
            "is none: the specification has no flags",
        );
    }
    match raw.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => invalid("linux.personality.domain", other, "is not LINUX or LINUX32"),
    }
}

fn check_hook(at: &str, hook: &Hook) -> Result<()> {
    absolute(&format!("{at}.path"), &hook.path)?;
    if hook.timeout.is_some_and(|seconds| seconds <= 0) {
        let seconds = hook.timeout.unwrap_or(0);
        return invalid(format!("{at}.timeout"), seconds, "is not greater than zero");
    }
    let env = hook.env.as_deref().unwrap_or_default();
    for (name, list) in [("args", hook.args.as_slice()), ("env", env)] {
        for (index, text) in list.iter().enumerate() {
            c_string(&format!("{at}.{name}[{index}]"), text.as_str())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
