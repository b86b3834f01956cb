//! A container's control group in every hierarchy of the host: cgroup v1, v2 and hybrid.
//!
//! Owns discovery, creation with all limits, joining, freezing, killing, OOM counts and removal. Implements
//! runtime-spec config-linux.md, "Control groups", with the paths of runc's cgroupfs driver: below the root of each
//! mounted hierarchy, whether `cgroupsPath` is absolute or relative.
//!
//! - **v1 or hybrid** (some hierarchy has v1 controllers): limits go to v1 files; the container is in *all* mounted
//!   hierarchies, as with runc, because `/proc/self/cgroup` is an interface. On the v2 mount of a hybrid host the same
//!   path is made too: `cgroup.kill` and `clone3` into the group work there.
//! - **v2**: limits go to v2 files, devices to a BPF program.
//!
//! Promises: a limit that was asked for is applied or is an error that names controller, file and value; a failed
//! `create` removes what it made; removal kills nothing. Refuses paths with `..`. Touches no group it did not make, but
//! for two things without which ours could not exist: `cgroup.subtree_control` of the ancestors on v2, and empty
//! `cpuset.cpus`/`cpuset.mems` of the ancestors on v1 (a group with an empty set can hold no process, so nobody runs
//! there).
//!
//! Where systemd is asked to make the group, `systemd` does that; all else is the same.
//!
//! A `Record` names the directories; it is stored with the container's state and `open` needs nothing else. A create that
//! was killed before its record was stored leaves an empty group, which the next create of the same path replaces.

mod device_bpf;
mod dir;
mod discover;
mod error;
mod freeze;
mod oom;
mod oom_watch;
mod permitted;
mod report;
mod resources;
mod stats;
mod sub;
mod systemd;
mod update;
mod v1;
mod v2;
mod write;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

pub use self::device_bpf::Insn;
use self::device_bpf::Policy;
use self::dir::Dir;
use self::discover::Hierarchies;
pub(crate) use self::discover::unescape;
pub use self::error::Error;
pub use self::oom_watch::OomWatch;
pub use self::permitted::{Permitted, Shown};
pub use self::resources::{
    BlockIo, Cpu, DeviceAccess, DeviceKind, DeviceRule, HugepageLimit, Memory, Network, RdmaLimit,
    Resources, Throttle, WeightDevice, default_device_rules,
};
pub use self::stats::{CpuStats, MemoryStats, PidsStats, Stats};
pub use self::sub::SubGroup;
pub use self::systemd::{Error as SystemdError, Unit};
use self::write::{Fallback, Write};
use crate::sys::bpf;

/// How long a group may stay busy after its last process was killed.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may before it is killed again.
const ROUND: Duration = Duration::from_millis(500);

/// Where a container's group is; stored in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The path below each hierarchy's root, without a leading slash.
    pub path: String,
    /// cgroup v1 directories.
    pub v1: Vec<RecordedDir>,
    /// The cgroup v2 directory.
    pub v2: Option<RecordedDir>,
    /// Made by somebody who may not make groups everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permitted: Option<Permitted>,
    /// The unit, if it is systemd that has the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

impl Record {
    /// Whether v2 governs: there is no v1 hierarchy but named ones, which have no controllers.
    fn limits_on_v2(&self) -> bool {
        let v2 = self.v2.is_some() || self.is_v2_refused();
        v2 && self.v1.iter().all(|dir| dir.controllers.starts_with("name="))
    }
}

/// One directory of a `Record`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDir {
    /// Mount point of the hierarchy.
    pub mount: PathBuf,
    /// Its controllers; empty for cgroup v2.
    pub controllers: String,
}

/// A container's group in every hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    record: Record,
    v1: Vec<Dir>,
    v2: Option<Dir>,
    /// Keeps a new unit of systemd until the container does.
    holder: Option<systemd::Holder>,
}

impl Cgroup {
    /// Where the group of a path will be, for whoever wants to store that before it is made.
    pub fn plan(path: &str) -> Result<Record, Error> {
        let path = normalize(path)?;
        let hierarchies = Hierarchies::discover()?;
        let recorded = |hierarchy: &discover::Hierarchy| RecordedDir {
            mount: hierarchy.mount.clone(),
            controllers: hierarchy.controllers.clone(),
        };
        Ok(Record {
            path,
            v1: hierarchies.v1.iter().map(recorded).collect(),
            v2: hierarchies.v2.as_ref().map(recorded),
            permitted: None,
            unit: None,
        })
    }

    /// Makes the group and applies all limits.
    pub fn create(path: &str, resources: &Resources) -> Result<Self, Error> {
        Self::create_planned(Self::plan(path)?, resources)
    }

    /// Makes the group that was planned and applies all limits.
    pub fn create_planned(record: Record, resources: &Resources) -> Result<Self, Error> {
        let v1 = Vec::with_capacity(record.v1.len());
        let mut group = Self { record, v1, v2: None, holder: None };
        match group.make_all(resources) {
            Ok(()) => Ok(group),
            Err(error) => {
                group.settled();
                if let Err(left) = group.destroy() {
                    log::warn!("after a failed creation: {left}");
                }
                Err(error.advise(&group.record))
            }
        }
    }

    fn make_all(&mut self, resources: &Resources) -> Result<(), Error> {
        let unified = self.limits_on_v2();
        let writes =
            if unified { v2::writes(resources, false, 0)? } else { v1::writes(resources, None)? };
        let in_unit = self.start_unit(&writes, &resources.devices)?;
        let make = if in_unit { Dir::adopt } else { Dir::create };
        for hierarchy in &self.record.v1 {
            self.v1.push(make(&hierarchy.controllers, &hierarchy.mount, &self.record.path)?);
        }
        if let Some(hierarchy) = &self.record.v2 {
            self.v2 = Some(make("", &hierarchy.mount, &self.record.path)?);
        }
        if unified {
            if let Some(dir) = &mut self.v2 {
                if in_unit && dir.fresh {
                    // The unit has ended already, or lies elsewhere.
                    return Err(Error::Missing { path: self.record.path.clone() });
                }
                enable_controllers(dir, &self.record.path)?;
            }
        } else if let Some(dir) = self.v1.iter().find(|dir| dir.has("cpuset")) {
            inherit_cpuset(dir)?;
        }
        self.apply(writes)?;
        self.set_devices(&resources.devices, false)
    }

    /// Opens the group that a record names. Directories that are gone are left out.
    pub fn open(record: &Record) -> Result<Self, Error> {
        let path = normalize(&record.path)?;
        let mut v1 = Vec::with_capacity(record.v1.len());
        for known in &record.v1 {
            v1.extend(Dir::open(&known.controllers, &known.mount, &known.mount.join(&path))?);
        }
        let mut v2 = None;
        if let Some(known) = &record.v2 {
            v2 = Dir::open("", &known.mount, &known.mount.join(&path))?;
        }
        let mut group = Self { record: Record { path, ..record.clone() }, v1, v2, holder: None };
        if group.limits_on_v2()
            && let Some(dir) = &mut group.v2
        {
            match available(dir) {
                Ok(controllers) => dir.controllers = controllers.join(","),
                // systemd removes a group when it likes.
                Err(Error::Read { source, .. }) if dir::gone(&source) => group.v2 = None,
                Err(error) => return Err(error),
            }
        }
        Ok(group)
    }

    /// Removes the group of a record while it has no process: `true` if it is gone in every hierarchy, otherwise the
    /// rest is to be opened, killed and destroyed. The usual end, for which nothing need be opened.
    pub fn remove_empty(record: &Record) -> Result<bool, Error> {
        let path = normalize(&record.path)?;
        let mut all = record.v1.iter().chain(&record.v2);
        let gone = all.all(|known| dir::remove_empty(&known.mount, &known.mount.join(&path)));
        if gone {
            Self::stop_unit(record)?;
        }
        Ok(gone)
    }

    /// What `open` needs.
    pub fn record(&self) -> Record {
        self.record.clone()
    }

    /// Whether v2 governs.
    fn limits_on_v2(&self) -> bool {
        self.record.limits_on_v2()
    }

    fn dirs(&self) -> impl Iterator<Item = &Dir> {
        self.v1.iter().chain(&self.v2)
    }

    /// The v1 directory of a controller, or the v2 one where v2 governs.
    fn dir_of(&self, controller: &str) -> Option<&Dir> {
        if self.limits_on_v2() {
            self.v2.as_ref()
        } else {
            self.v1.iter().find(|dir| dir.has(controller))
        }
    }

    /// The directory by which this group's processes are listed.
    fn listing(&self) -> Result<&Dir, Error> {
        ["freezer", "pids", "memory", "devices"]
            .into_iter()
            .find_map(|controller| self.v1.iter().find(|dir| dir.has(controller)))
            .or(self.v2.as_ref())
            .or(self.v1.first())
            .ok_or_else(|| self.missing())
    }

    /// Moves a process into the group, in every hierarchy.
    pub fn add_process(&self, pid: i32) -> Result<(), Error> {
        if self.is_refused() {
            return Ok(());
        }
        self.listing()?;
        let pid = pid.to_string();
        self.dirs()
            .try_for_each(|dir| dir.set("cgroup.procs", &pid))
            .map_err(|error| error.advise(&self.record))
    }

    /// The cgroup v2 directory, for `CLONE_INTO_CGROUP`; on hybrid hosts too.
    pub fn v2_dir(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().and_then(|dir| dir.fd().ok())
    }

    /// `tasks` of every cgroup v1 hierarchy, open for writing: a thread that writes `0` joins.
    ///
    /// A thread that moves itself alone needs none of the locks against forks and exits that a move by
    /// `cgroup.procs` takes, and the first taker after a rest waits for an RCU grace period, 10 ms and more.
    pub fn tasks_files(&self) -> Result<Vec<OwnedFd>, Error> {
        self.v1
            .iter()
            .map(|dir| {
                dir.open_file("tasks", OFlags::WRONLY)
                    .map_err(|source| Error::Open { path: dir.path.join("tasks"), source })
            })
            .collect()
    }

    /// Processes in the group and below it.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        self.listing()?.pids_below()
    }

    /// Removes the group in every hierarchy, leaf first. Kills nothing: with live processes it fails after a deadline.
    /// A directory that is gone is fine; one that cannot be removed does not spare the others.
    pub fn destroy(&self) -> Result<(), Error> {
        self.destroy_until(Instant::now() + REMOVE_DEADLINE)?;
        Self::stop_unit(&self.record)
    }

    fn destroy_until(&self, deadline: Instant) -> Result<(), Error> {
        let mut failed: Vec<Error> =
            self.dirs().filter_map(|dir| dir.remove(deadline).err()).collect();
        match failed.len() {
            0 => Ok(()),
            1 => failed.pop().map_or(Ok(()), Err),
            _ => Err(Error::RemoveMany(failed)),
        }
    }

    /// Kills every process of the group and removes it; again while it is busy, up to a deadline: a process may have
    /// joined after the others were killed, and one in a frozen group below cannot die before that is thawed.
    pub fn kill_and_destroy(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        loop {
            self.kill_all(libc::SIGKILL)?;
            let round = deadline.min(Instant::now() + ROUND);
            match self.destroy_until(round) {
                Err(Error::Stuck { .. } | Error::RemoveMany(_)) if Instant::now() < deadline => {
                    self.thaw_below();
                }
                other => return other.and_then(|()| Self::stop_unit(&self.record)),
            }
        }
    }

    fn apply(&self, writes: Vec<Write>) -> Result<(), Error> {
        for write in writes {
            let Some(dir) = self.target(&write)? else { continue };
            match dir.write(&write.file, &write.value) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => match write.fallback {
                    Fallback::Skip => {}
                    Fallback::Other { ref file, ref value } => dir.set(file, value)?,
                    Fallback::Fail => return Err(self.no_file(dir, &write)),
                },
                Err(source) => {
                    return Err(Error::Write {
                        path: dir.path.join(&*write.file),
                        value: write.value,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// The directory with the file of a write; `None` if the write may be left out where it is missing.
    fn target(&self, write: &Write) -> Result<Option<&Dir>, Error> {
        // The files of the core are there without a controller.
        let core = self.limits_on_v2() && write.controller == "cgroup";
        let dir = self.dir_of(&write.controller);
        match dir.filter(|dir| core || dir.has(&write.controller)) {
            None if write.fallback != Fallback::Skip => {
                let (file, value) = (write.file.to_string(), write.value.clone());
                Err(match self.record.refused(&write.controller) {
                    Some(path) => Error::NotDelegated {
                        file,
                        value,
                        user: crate::sys::cred::euid(),
                        path: path.to_owned(),
                    },
                    None => Error::NoController {
                        controller: write.controller.to_string(),
                        file,
                        value,
                        path: self.dirs().next().map(|dir| dir.path.clone()).unwrap_or_default(),
                    },
                })
            }
            dir => Ok(dir),
        }
    }

    fn no_file(&self, dir: &Dir, write: &Write) -> Error {
        Error::NoFile {
            file: write.file.to_string(),
            value: write.value.clone(),
            path: dir.path.clone(),
        }
    }

    fn set_devices(&self, rules: &[DeviceRule], update: bool) -> Result<(), Error> {
        if rules.is_empty() {
            return Ok(());
        }
        match self.write_devices(rules, update) {
            Err(error)
                if self.record.permitted.is_some()
                    && (error.is_permission() || matches!(error, Error::NoController { .. })) =>
            {
                log::debug!("device rules are left out: {error}");
                Ok(())
            }
            other => other,
        }
    }

    fn write_devices(&self, rules: &[DeviceRule], update: bool) -> Result<(), Error> {
        let policy = Policy::fold(rules)?;
        if self.limits_on_v2() {
            let Some(dir) = &self.v2 else { return Ok(()) };
            return attach_program(dir, &policy);
        }
        let Some(dir) = self.v1.iter().find(|dir| dir.has("devices")) else {
            return Err(Error::NoController {
                controller: "devices".to_owned(),
                file: "devices.deny".to_owned(),
                value: "a".to_owned(),
                path: PathBuf::from(&self.record.path),
            });
        };
        let from = if update { Policy::parse_list(&dir.read("devices.list")?) } else { None };
        // One descriptor serves consecutive lines of the same file.
        let mut open: Option<(&'static str, OwnedFd)> = None;
        for (file, line) in policy.v1_writes(from.as_ref()) {
            let failed = |source: io::Error| Error::Write {
                path: dir.path.join(file),
                value: line.clone(),
                source,
            };
            let fd = match open.take() {
                Some((name, fd)) if name == file => fd,
                _ => dir.open_file(file, OFlags::WRONLY).map_err(failed)?,
            };
            rustix::io::write(&fd, line.as_bytes()).map_err(|errno| failed(errno.into()))?;
            open = Some((file, fd));
        }
        Ok(())
    }
}

/// Loads the policy's program and puts it in the place of the group's present ones, so that at no moment there is none.
fn attach_program(dir: &Dir, policy: &Policy) -> Result<(), Error> {
    let failed = |operation: &'static str| {
        move |source| Error::Devices { operation, path: dir.path.clone(), source }
    };
    let program = bpf::load_device_program(&policy.program()).map_err(failed("load"))?;
    let group = dir.fd().map_err(failed("open"))?;
    let old = bpf::query_device_programs(group).map_err(failed("query"))?;
    if let [only] = old.as_slice() {
        let only = bpf::program_by_id(*only).map_err(failed("open"))?;
        use std::os::fd::AsFd as _;
        return bpf::attach_device_program(group, program.as_fd(), Some(only.as_fd()))
            .map_err(failed("replace"));
    }
    use std::os::fd::AsFd as _;
    bpf::attach_device_program(group, program.as_fd(), None).map_err(failed("attach"))?;
    for id in old {
        let program = bpf::program_by_id(id).map_err(failed("open"))?;
        bpf::detach_device_program(group, program.as_fd()).map_err(failed("detach"))?;
    }
    Ok(())
}

/// The path below a hierarchy's root, without a leading slash.
fn normalize(path: &str) -> Result<String, Error> {
    let refuse = |reason| Err(Error::Path { path: path.to_owned(), reason });
    let mut plain = String::with_capacity(path.len());
    for component in path.split('/') {
        match component {
            "" | "." => continue,
            ".." => return refuse("contains \"..\""),
            name if name.contains(['\0', '\n']) => {
                return refuse("contains a NUL or a line feed");
            }
            _ => {}
        }
        if !plain.is_empty() {
            plain.push('/');
        }
        plain.push_str(component);
    }
    if plain.is_empty() {
        return refuse("names the root of the hierarchy");
    }
    Ok(plain)
}

fn available(dir: &Dir) -> Result<Vec<String>, Error> {
    Ok(dir.read("cgroup.controllers")?.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Makes every controller of the mount's root available in the group, by `cgroup.subtree_control` of its ancestors.
///
/// An ancestor that refuses (it has processes of its own, or its owner delegated less) is not an error here: what is
/// then missing is one as soon as a limit needs it.
fn enable_controllers(dir: &mut Dir, relative: &str) -> Result<(), Error> {
    let Some(root) = Dir::open("", &dir.mount, &dir.mount)? else { return Ok(()) };
    let wanted = available(&root)?;
    let mut have = available(dir)?;
    if have.len() < wanted.len() {
        let all: Vec<String> = wanted.iter().map(|name| format!("+{name}")).collect();
        let mut ancestor: PathBuf = dir.mount.clone();
        let mut components = relative.split('/');
        // The leaf itself keeps its processes: nothing is enabled below it.
        components.next_back();
        for component in std::iter::once("").chain(components) {
            if !component.is_empty() {
                ancestor.push(component);
            }
            let Some(ancestor) = Dir::open("", &dir.mount, &ancestor)? else { break };
            if ancestor.write("cgroup.subtree_control", &all.join(" ")).is_err() {
                for one in &all {
                    if let Err(error) = ancestor.write("cgroup.subtree_control", one) {
                        log::debug!("{one} in {}: {error}", ancestor.path.display());
                    }
                }
            }
        }
        have = available(dir)?;
    }
    dir.controllers = have.join(",");
    Ok(())
}

const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Gives a new v1 cpuset group its parent's processors and nodes: it starts with none and can hold no process so.
fn inherit_cpuset(dir: &Dir) -> Result<(), Error> {
    if dir.fresh {
        let values = cpuset_of(&dir.mount, dir.path.parent().unwrap_or(&dir.mount))?;
        for (file, value) in CPUSET.into_iter().zip(values) {
            dir.set(file, &value)?;
        }
    } else {
        cpuset_of(&dir.mount, &dir.path)?;
    }
    Ok(())
}

/// What the group at `path` has, after it got from its ancestors what it lacked.
fn cpuset_of(mount: &Path, path: &Path) -> Result<[String; 2], Error> {
    let dir = Dir::at("cpuset", mount, path);
    let present = [dir.value(CPUSET[0])?, dir.value(CPUSET[1])?];
    if path == mount || present.iter().all(|value| !value.is_empty()) {
        return Ok(present);
    }
    let above = cpuset_of(mount, path.parent().unwrap_or(mount))?;
    let mut values = present;
    for ((file, value), inherited) in CPUSET.into_iter().zip(&mut values).zip(above) {
        if value.is_empty() {
            dir.set(file, &inherited)?;
            *value = inherited;
        }
    }
    Ok(values)
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
