//! Task-level cgroups: `/<parent>/<task id>` with the task's CPU and memory limit, above the
//! containers' own cgroups, and `/<parent>/monitors` for the monitors themselves.
//!
//! Limits go through `cgroups-rs` under these rules: only the controllers named here are touched,
//! memory is set by its own call and every limit is read back, since the library's `apply` drops
//! errors. Removal is ours: the library's `delete` sleeps 151 ms per busy controller.
//!
//! Limits are Amazon's: CPU units are a quota (1024 units = one CPU per 100 ms period), memory is
//! a hard limit in MiB.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use protocol::ids::TaskId;

/// Period of the CPU quota, in microseconds.
const PERIOD: u64 = 100_000;
/// The kernel's smallest quota, in microseconds.
const MINIMUM_QUOTA: u64 = 1_000;
/// How long a removal waits for a cgroup whose last process is still being torn down.
const BUSY: Duration = Duration::from_secs(5);

/// Why a cgroup is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("create the cgroup {path}")]
    Create { path: String, source: cgroups_rs::fs::error::Error },
    #[error("the host's cgroups lack the controller {controller}, which the task's limit needs")]
    NoController { controller: &'static str },
    #[error("set {what} of the cgroup {path} to {value}")]
    Set { what: &'static str, path: String, value: u64, source: cgroups_rs::fs::error::Error },
    #[error("read {what} of the cgroup {path} back")]
    ReadBack { what: &'static str, path: String, source: cgroups_rs::fs::error::Error },
    #[error("{what} of the cgroup {path} is {found} after {value} was set")]
    NotSet { what: &'static str, path: String, value: u64, found: i64 },
    #[error("read /proc/self/mountinfo")]
    Mounts { source: io::Error },
    #[error("list the cgroup {path}")]
    List { path: PathBuf, source: io::Error },
    #[error("process {pid} in the cgroup {path} does not die of SIGKILL")]
    Alive { path: String, pid: i32 },
    #[error("remove the cgroup {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// Limits of a whole task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// CPU units; 1024 are one CPU.
    pub cpu: Option<u32>,
    /// MiB.
    pub memory: Option<u32>,
}

/// `<parent>/<task id>`, without a leading slash.
pub fn task_path(parent: &str, task: &TaskId) -> String {
    format!("{parent}/{task}")
}

/// `/<parent>/<task id>/<container>`: `linux.cgroupsPath` of a container.
pub fn container_path(parent: &str, task: &TaskId, container: &str) -> String {
    format!("/{parent}/{task}/{container}")
}

/// `/<parent>/monitors`
pub fn monitors_path(parent: &str) -> String {
    format!("/{parent}/monitors")
}

/// Makes the task's cgroup and sets its limits. Repeating it sets them again. Without limits there
/// is nothing to hold, and the runtime makes the directory with the first container.
///
/// # Errors
/// If a limit is not in force; the cgroup may exist then and is removed by [`remove`].
pub fn create(path: &str, limits: Limits) -> Result<(), Error> {
    let mut controllers = Vec::new();
    if limits.cpu.is_some() {
        controllers.push("cpu".to_owned());
    }
    if limits.memory.is_some() {
        controllers.push("memory".to_owned());
    }
    if controllers.is_empty() {
        return Ok(());
    }
    let cgroup = Cgroup::load_with_specified_controllers(hierarchies::auto(), path, controllers);
    cgroup.create().map_err(|source| Error::Create { path: path.to_owned(), source })?;
    if let Some(memory) = limits.memory {
        let controller: &MemController =
            cgroup.controller_of().ok_or(Error::NoController { controller: "memory" })?;
        set_memory(controller, path, u64::from(memory) << 20)?;
    }
    if let Some(cpu) = limits.cpu {
        let controller: &CpuController =
            cgroup.controller_of().ok_or(Error::NoController { controller: "cpu" })?;
        set_cpu(controller, path, cpu)?;
    }
    Ok(())
}

fn set_memory(controller: &MemController, path: &str, bytes: u64) -> Result<(), Error> {
    let what = "the memory limit";
    let set = |source| Error::Set { what, path: path.to_owned(), value: bytes, source };
    let not_set = |found| Error::NotSet { what, path: path.to_owned(), value: bytes, found };
    let limit = i64::try_from(bytes).unwrap_or(i64::MAX);
    controller.set_limit(limit).map_err(set)?;
    // The kernel rounds down to whole pages; a limit of 0 is what the library makes of an error.
    let found = controller.memory_stat().limit_in_bytes;
    let page = 64 * 1024;
    if found <= 0 || found > limit || limit - found >= page { Err(not_set(found)) } else { Ok(()) }
}

fn set_cpu(controller: &CpuController, path: &str, units: u32) -> Result<(), Error> {
    let what = "the CPU quota";
    let quota = (u64::from(units) * PERIOD / 1024).max(MINIMUM_QUOTA);
    let signed = i64::try_from(quota).unwrap_or(i64::MAX);
    controller
        .set_cfs_period(PERIOD)
        .and_then(|()| controller.set_cfs_quota(signed))
        .map_err(|source| Error::Set { what, path: path.to_owned(), value: quota, source })?;
    let found = controller.cfs_quota().map_err(|source| Error::ReadBack {
        what,
        path: path.to_owned(),
        source,
    })?;
    if found == signed {
        Ok(())
    } else {
        Err(Error::NotSet { what, path: path.to_owned(), value: quota, found })
    }
}

/// Removes a cgroup and those below it from every hierarchy, bottom up. One that does not exist is
/// no error. Blocks while the kernel still tears down a last process, for at most [`BUSY`].
///
/// # Errors
/// All that could not be removed: a cgroup with living processes among them.
pub fn remove(path: &str) -> Result<(), Vec<Error>> {
    let mut failures = Vec::new();
    let deadline = Instant::now() + BUSY;
    match mounts() {
        Ok(mounts) => {
            for mount in mounts {
                remove_tree(&mount.join(path.trim_start_matches('/')), deadline, &mut failures);
            }
        }
        Err(error) => failures.push(error),
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

/// Kills every process in a cgroup and those below it, and waits until they are gone, for at most
/// [`BUSY`]. The last resort for containers whose monitor is lost.
///
/// # Errors
/// If a process outlives its SIGKILL, or the cgroups cannot be read.
pub fn kill(path: &str) -> Result<(), Error> {
    let deadline = Instant::now() + BUSY;
    let mut pause = Duration::from_millis(1);
    loop {
        let mut alive = std::collections::BTreeSet::new();
        for mount in mounts()? {
            processes(&mount.join(path.trim_start_matches('/')), &mut alive)?;
        }
        let Some(last) = alive.last() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(Error::Alive { path: path.to_owned(), pid: *last });
        }
        for pid in &alive {
            // It may have died since; its number is not reused while its cgroup lists it, and the
            // instant between is what cgroup v1 leaves us.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(*pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn processes(path: &Path, found: &mut std::collections::BTreeSet<i32>) -> Result<(), Error> {
    match std::fs::read_to_string(path.join("cgroup.procs")) {
        // 0 is a process outside our pid namespace, which we cannot reach.
        Ok(text) => {
            found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A threaded cgroup below a domain has none of its own.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(source) => return Err(Error::List { path: path.to_owned(), source }),
    }
    for child in directories(path)? {
        processes(&child, found)?;
    }
    Ok(())
}

/// Names of the cgroups directly below `path`, in any hierarchy.
///
/// # Errors
/// If the mounts or a directory cannot be read.
pub fn children(path: &str) -> Result<std::collections::BTreeSet<String>, Error> {
    let mut names = std::collections::BTreeSet::new();
    for mount in mounts()? {
        for child in directories(&mount.join(path.trim_start_matches('/')))? {
            if let Some(name) = child.file_name().and_then(|name| name.to_str()) {
                names.insert(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn remove_tree(path: &Path, deadline: Instant, failures: &mut Vec<Error>) {
    match directories(path) {
        Ok(below) => {
            for child in below {
                remove_tree(&child, deadline, failures);
            }
        }
        Err(error) => failures.push(error),
    }
    let mut pause = Duration::from_micros(200);
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(source) => {
                failures.push(Error::Remove { path: path.to_owned(), source });
                return;
            }
        }
    }
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |source| Error::List { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(fail(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        if entry.file_type().map_err(fail)?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Mount points of every cgroup hierarchy, v1, named and v2.
fn mounts() -> Result<Vec<PathBuf>, Error> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|source| Error::Mounts { source })?;
    let mut found: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let kind = filesystem.split(' ').next()?;
            let point = mount.split(' ').nth(4)?;
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
        })
        .collect();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    struct Removed(String);

    impl Drop for Removed {
        fn drop(&mut self) {
            let _ = remove(&self.0);
        }
    }

    #[test]
    fn limits_are_in_force_and_removal_leaves_nothing() {
        let parent = Removed(format!("lighter-test-{}", std::process::id()));
        let task = TaskId::from_random(7);
        let path = task_path(&parent.0, &task);
        create(&path, Limits { cpu: Some(512), memory: Some(64) }).unwrap();
        create(&path, Limits { cpu: Some(256), memory: Some(32) }).unwrap();
        assert!(children(&parent.0).unwrap().contains(task.as_str()));
        let read = |file: &str| {
            mounts()
                .unwrap()
                .iter()
                .find_map(|mount| std::fs::read_to_string(mount.join(&path).join(file)).ok())
        };
        if let Some(limit) = read("memory.limit_in_bytes") {
            assert_eq!(limit.trim(), (32 << 20).to_string());
            assert_eq!(read("cpu.cfs_quota_us").unwrap().trim(), "25000");
        } else {
            assert_eq!(read("memory.max").unwrap().trim(), (32 << 20).to_string());
            assert_eq!(read("cpu.max").unwrap().trim(), "25000 100000");
        }
        remove(&parent.0).unwrap();
        assert!(children(&parent.0).unwrap().is_empty());
        assert!(read("cgroup.procs").is_none());
    }

    #[test]
    fn kill_ends_what_is_inside() {
        let parent = Removed(format!("lighter-test-kill-{}", std::process::id()));
        let path = format!("{}/task", parent.0);
        create(&path, Limits { cpu: None, memory: Some(64) }).unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let joined = mounts()
            .unwrap()
            .iter()
            .filter(|mount| {
                std::fs::write(mount.join(&path).join("cgroup.procs"), child.id().to_string())
                    .is_ok()
            })
            .count();
        assert!(joined > 0);
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        kill(&path).unwrap();
        assert!(!reaper.join().unwrap().success());
        remove(&parent.0).unwrap();
        kill(&path).unwrap();
    }

    #[test]
    fn a_cgroup_that_is_not_there_is_removed_already() {
        remove("lighter-test-never-made/below").unwrap();
    }

    #[test]
    fn a_task_without_limits_makes_nothing() {
        let path = format!("lighter-test-none-{}", std::process::id());
        create(&path, Limits::default()).unwrap();
        assert!(mounts().unwrap().iter().all(|mount| !mount.join(&path).exists()));
    }
}
