//! Id maps of a new user namespace: written by the parent, which has the privilege, into
//! `/proc/<pid>/{uid,gid}_map` (user_namespaces(7)). An ordinary user has it for his own id alone;
//! for the ranges that `/etc/subuid` and `/etc/subgid` give him, newuidmap(1) and newgidmap(1) of
//! his `PATH` write them. And namespaces that exist only for the maps that they give to mounts.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::{env, fs, io};

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::pipe2;

use crate::{
    failpoint, rootless,
    spec::IdMapping,
    sys::{
        self, Errno, OFlag,
        clone::{Clone, spawn},
        cred,
    },
};

/// Why ids are not mapped.
#[derive(thiserror::Error)]
pub enum Error {
    #[error("write /proc/{pid}/{file}")]
    Write { pid: i32, file: &'static str, source: io::Error },
    #[error(
        "{list}: find {name} in PATH, which maps other ids than the user's own; install the package \
         uidmap (Debian) or shadow-utils (Fedora), or map the own id alone"
    )]
    NoProgram { name: &'static str, list: &'static str },
    #[error("run {}", path.display())]
    Run { path: PathBuf, source: io::Error },
    #[error("{list}: {} refuses: {status}: {message}; does {file} give the user these ids?", path.display())]
    Refused {
        path: PathBuf,
        list: &'static str,
        file: &'static str,
        status: ExitStatus,
        message: String,
    },
    #[error("make a user namespace ({what})")]
    Make { what: &'static str, source: io::Error },
}

debug_is_display!(Error);

/// Most lines a map may have.
const MOST: usize = 340;

/// Checks a map's shape; the error is the rule that it breaks.
///
/// # Errors
/// If it is too long, has an empty or overflowing range, or ranges that overlap.
pub fn check(map: &[IdMapping]) -> Result<(), String> {
    if map.len() > MOST {
        return Err(format!("has more than the {MOST} lines the kernel takes"));
    }
    for (index, one) in map.iter().enumerate() {
        let range = |start: u32| Some(start..start.checked_add(one.size)?);
        let (Some(inside), Some(outside)) = (range(one.container_id), range(one.host_id)) else {
            return Err(format!("has a range that exceeds 32 bits (entry {index})"));
        };
        if one.size == 0 {
            return Err(format!("has an empty range (entry {index})"));
        }
        for other in &map[..index] {
            let overlaps = |range: &std::ops::Range<u32>, start: u32| {
                range.start < start.saturating_add(other.size) && start < range.end
            };
            if overlaps(&inside, other.container_id) || overlaps(&outside, other.host_id) {
                return Err(format!("has ranges that overlap (entry {index})"));
            }
        }
    }
    Ok(())
}

/// The id on the host of an id in the container.
pub fn to_host(map: &[IdMapping], id: u32) -> Option<u32> {
    if map.is_empty() {
        return Some(id);
    }
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id)?;
        (offset < range.size).then(|| range.host_id + offset)
    })
}

/// Writes both maps of a process that has just been cloned into a new user namespace.
///
/// # Errors
/// If the kernel refuses a map, or for an ordinary user the program that maps the ids he was given.
pub fn write_maps(pid: i32, uid_map: &[IdMapping], gid_map: &[IdMapping]) -> Result<(), Error> {
    if rootless::is_ordinary_user() {
        return write_as_user(pid, uid_map, gid_map);
    }
    write(pid, "uid_map", &text(uid_map))?;
    match write(pid, "gid_map", &text(gid_map)) {
        // Without CAP_SETGID outside, a map is taken only after setgroups is given up.
        Err(Error::Write { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {
            write(pid, "setgroups", "deny")?;
            write(pid, "gid_map", &text(gid_map))
        }
        other => other,
    }
}

/// The kernel lets a user map nothing but himself; programs with privileges do the rest.
fn write_as_user(pid: i32, uid_map: &[IdMapping], gid_map: &[IdMapping]) -> Result<(), Error> {
    let alone = |map: &[IdMapping], id| matches!(map, [one] if one.size == 1 && one.host_id == id);
    if alone(uid_map, cred::euid()) {
        write(pid, "uid_map", &text(uid_map))?;
    } else {
        ask(&UID_PROGRAM, pid, uid_map)?;
    }
    if alone(gid_map, cred::egid()) {
        write(pid, "setgroups", "deny")?;
        write(pid, "gid_map", &text(gid_map))
    } else {
        ask(&GID_PROGRAM, pid, gid_map)
    }
}

/// A program of the package uidmap: its name, what it reads, and whose map it writes.
struct Program {
    name: &'static str,
    file: &'static str,
    list: &'static str,
}

const UID_PROGRAM: Program =
    Program { name: "newuidmap", file: "/etc/subuid", list: "linux.uidMappings" };
const GID_PROGRAM: Program =
    Program { name: "newgidmap", file: "/etc/subgid", list: "linux.gidMappings" };

fn ask(program: &Program, pid: i32, map: &[IdMapping]) -> Result<(), Error> {
    let Program { name, file, list } = *program;
    let path = find(name).ok_or(Error::NoProgram { name, list })?;
    let numbers = map.iter().flat_map(|one| [one.container_id, one.host_id, one.size]);
    let output = Command::new(&path)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Run { path: path.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = [output.stderr, output.stdout].concat();
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    Err(Error::Refused { path, list, file, status: output.status, message })
}

/// A program in `PATH`. Its relative parts are left out: they would make the directory we are in decide.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).filter(|directory| directory.is_absolute()).find_map(|directory| {
        let file = directory.join(name);
        let text = CString::new(file.as_os_str().as_bytes()).ok()?;
        sys::process::executable(&text).is_ok().then_some(file)
    })
}

fn write(pid: i32, file: &'static str, text: &str) -> Result<(), Error> {
    // One write: the kernel takes the whole map at once. By std::fs, as /proc here is the host's.
    use std::io::Write as _;
    fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/{file}"))
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(|source| Error::Write { pid, file, source })
}

fn text(map: &[IdMapping]) -> String {
    map.iter().fold(String::new(), |mut text, one| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", one.container_id, one.host_id, one.size);
        text
    })
}

/// A user namespace of these maps and no other use, for the ids of a mount.
///
/// # Errors
/// If it cannot be made, or the kernel refuses a map.
pub fn make(uid_map: &[IdMapping], gid_map: &[IdMapping]) -> Result<OwnedFd, Error> {
    make_and(0, uid_map, gid_map, |pid| open(pid, "user"))
}

/// A user namespace of these maps, and a network namespace that belongs to it.
///
/// # Errors
/// If they cannot be made, or the kernel refuses a map.
pub fn make_with_network(
    uid_map: &[IdMapping],
    gid_map: &[IdMapping],
) -> Result<(OwnedFd, OwnedFd), Error> {
    let open_both = |pid| Ok((open(pid, "user")?, open(pid, "net")?));
    make_and(libc::CLONE_NEWNET as u64, uid_map, gid_map, open_both)
}

fn open(pid: i32, namespace: &str) -> Result<OwnedFd, Error> {
    let file = fs::File::open(format!("/proc/{pid}/ns/{namespace}"));
    file.map(OwnedFd::from).map_err(|source| Error::Make { what: "open it", source })
}

fn make_and<T>(
    further: u64,
    uid_map: &[IdMapping],
    gid_map: &[IdMapping],
    opened: impl FnOnce(i32) -> Result<T, Error>,
) -> Result<T, Error> {
    let failed = |what| move |errno: Errno| Error::Make { what, source: errno.into() };
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    let flags = libc::CLONE_NEWUSER as u64 | further;
    let clone = Clone { flags, cgroup: None, withheld: Some(write.as_fd()) };
    let (pid, pidfd) = spawn(clone, &read, hold).map_err(failed("clone"))?;
    failpoint::hit("user-clone");
    let made = write_maps(pid, uid_map, gid_map).and_then(|()| opened(pid));
    failpoint::hit("user-maps");
    drop(write);
    while waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) == Err(Errno::EINTR) {}
    made
}

/// Keeps the namespace alive until the other end of the pipe is closed; in a clone, so without the
/// heap.
fn hold(read: &OwnedFd) -> i32 {
    while sys::read(read, &mut [0]) == Err(Errno::EINTR) {}
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id, host_id, size }
    }

    #[test]
    fn maps_ids() {
        let map = [range(0, 100_000, 1000), range(5000, 7, 1)];
        assert_eq!(to_host(&map, 0), Some(100_000));
        assert_eq!(to_host(&map, 999), Some(100_999));
        assert_eq!(to_host(&map, 1000), None);
        assert_eq!(to_host(&map, 5000), Some(7));
        assert_eq!(to_host(&[], 12), Some(12));
    }

    #[test]
    fn refuses_what_the_kernel_would() {
        assert!(check(&[range(0, 100_000, 65536)]).is_ok());
        assert!(check(&[range(0, 1, 0)]).is_err());
        assert!(check(&[range(0, u32::MAX, 2)]).is_err());
        assert!(check(&[range(0, 0, 10), range(9, 100, 10)]).is_err());
        assert!(check(&[range(0, 0, 10), range(10, 5, 10)]).is_err());
    }
}
