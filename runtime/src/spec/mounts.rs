//! `mounts` of the configuration: of which kind each is, and whether its options go together.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use super::{
    Error, IdMapping, Linux, Mount,
    convert::{Result, absolute, c_string, invalid},
};
use crate::{
    mount::options::{Bind, MountOptions},
    ns::Kind,
    plan, userns,
};

/// Validates all mounts.
pub(super) fn mounts(
    raw: &[Mount],
    linux: &Linux,
    namespaces: &plan::Namespaces,
) -> Result<Vec<plan::Mount>> {
    let mut mounts = Vec::with_capacity(raw.len());
    for (index, mount) in raw.iter().enumerate() {
        let at = format!("mounts[{index}]");
        // Relative destinations are an old habit that runc still takes: below the root.
        // In one spelling only, for what is compared with `/proc` and `/dev`.
        let mut destination = PathBuf::from("/");
        for part in mount.destination.components() {
            match part {
                Component::Normal(name) => destination.push(name),
                // By their spelling, as in runc: links are met below the root only.
                Component::ParentDir => drop(destination.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let destination = absolute(&format!("{at}.destination"), &destination)?;
        let mut options = MountOptions::parse(&mount.options).or_else(|error| {
            invalid(format!("{at}.options"), mount.options.join(","), error.to_string())
        })?;
        let kind = mount.kind.as_deref().unwrap_or_default();
        let kind = if options.bind.is_some() || kind == "bind" {
            let Some(source) = &mount.source else {
                return Err(Error::Missing { path: format!("{at}.source") });
            };
            // The kernel would skip them silently, as it does for runc before 1.2.
            if let Some(option) = options.unknown.first() {
                return invalid(format!("{at}.options"), option, "is no option of a bind mount");
            }
            check_proc(&at, &destination)?;
            if options.flags & libc::MS_REMOUNT != 0 {
                // Of the mount that is there, and not of its file system.
                options.flags |= libc::MS_BIND;
                plan::MountKind::FileSystem { kind: c"bind".into(), source: c"none".into() }
            } else {
                let recursive = options.bind == Some(Bind::Recursive);
                plan::MountKind::Bind { source: source.clone(), recursive }
            }
        } else if kind == "cgroup" || kind == "cgroup2" {
            check_proc(&at, &destination)?;
            check_over_proc(&at, &destination)?;
            plan::MountKind::Cgroup
        } else if kind.is_empty() {
            return Err(Error::Missing { path: format!("{at}.type") });
        } else {
            if kind != "proc" {
                check_proc(&at, &destination)?;
                check_over_proc(&at, &destination)?;
            }
            let source = mount.source.as_deref().unwrap_or(Path::new(kind));
            plan::MountKind::FileSystem {
                kind: c_string(&format!("{at}.type"), kind)?,
                source: c_string(&format!("{at}.source"), source.as_os_str().as_bytes())?,
            }
        };
        if options.copy_up && mount.kind.as_deref() != Some("tmpfs") {
            return invalid(format!("{at}.options"), "tmpcopyup", "is for a tmpfs only");
        }
        let id_map = id_map(&at, mount, &options, linux, namespaces)?;
        if id_map.is_some() && !matches!(kind, plan::MountKind::Bind { .. }) {
            return invalid(at, "an id map", "is for bind mounts only");
        }
        mounts.push(plan::Mount { index, destination, kind, options, id_map });
    }
    Ok(mounts)
}

/// The maps of the mount itself, or with `idmap` alone those of the container.
fn id_map(
    at: &str,
    mount: &Mount,
    options: &MountOptions,
    linux: &Linux,
    namespaces: &plan::Namespaces,
) -> Result<Option<plan::IdMap>> {
    let list = |list: &Option<Vec<IdMapping>>| list.clone().unwrap_or_default();
    let (uid, gid) = (list(&mount.uid_mappings), list(&mount.gid_mappings));
    let recursive = options.id_map.unwrap_or(false);
    if uid.is_empty() && gid.is_empty() {
        if options.id_map.is_none() {
            return Ok(None);
        }
        let joined = namespaces.joined.iter().find(|(kind, _)| *kind == Kind::User);
        let owner = if let Some((_, path)) = joined {
            plan::IdMapOwner::Joined(path.clone())
        } else if namespaces.is_new(Kind::User) {
            plan::IdMapOwner::Maps {
                uid: linux.uid_mappings.clone(),
                gid: linux.gid_mappings.clone(),
            }
        } else {
            let option = if recursive { "ridmap" } else { "idmap" };
            let rule = "needs uidMappings and gidMappings, or a user namespace of the container";
            return invalid(format!("{at}.options"), option, rule);
        };
        return Ok(Some(plan::IdMap { owner, recursive }));
    }
    for (name, map) in [("uidMappings", &uid), ("gidMappings", &gid)] {
        let path = format!("{at}.{name}");
        if map.is_empty() {
            return Err(Error::Missing { path });
        }
        userns::check(map).or_else(|rule| invalid(path, map.len(), rule))?;
    }
    Ok(Some(plan::IdMap { owner: plan::IdMapOwner::Maps { uid, gid }, recursive }))
}

/// Nothing may lie over `/proc` but a procfs, and below it only files that change no more than what
/// programs read of the machine: labels and limits are written through it (CVE-2019-16884). The list
/// is runc's.
fn check_proc(at: &str, destination: &CString) -> Result<()> {
    const ALLOWED: [&str; 11] = [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/net/dev",
        "/proc/slabinfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/sys/crypto/fips_enabled",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/uptime",
    ];
    let text = destination.to_string_lossy();
    let clean: std::path::PathBuf = Path::new(text.as_ref()).components().collect();
    // A procfs bound over /proc is examined when it is opened.
    if clean.starts_with("/proc")
        && clean != Path::new("/proc")
        && !ALLOWED.iter().any(|allowed| clean == Path::new(allowed))
    {
        return invalid(format!("{at}.destination"), text, "is inside /proc");
    }
    Ok(())
}

/// Nothing but a procfs may lie on `/proc` itself (CVE-2019-19921).
fn check_over_proc(at: &str, destination: &CString) -> Result<()> {
    let text = destination.to_string_lossy();
    if Path::new(text.as_ref()).components().eq(Path::new("/proc").components()) {
        return invalid(format!("{at}.destination"), text, "takes a mount of type proc only");
    }
    Ok(())
}
