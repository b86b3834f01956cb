//! Freezing, thawing and killing whole groups.
//!
//! Freezing goes by the v1 freezer where it is mounted and by `cgroup.freeze` (5.2) elsewhere. Killing goes by
//! `cgroup.kill` (5.14), which cannot miss a process that is just forking; without it, and for processes that left the v2
//! group of a hybrid host, the group is frozen so that its list of processes stands still, signalled and thawed.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, kill_process};

use super::dir::{Dir, gone};
use super::{Cgroup, Error, Record, RecordedDir};

impl Record {
    /// Whether the group itself is frozen, not merely one above it: one read, without opening the group. One that is
    /// gone is not.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let of = |dir: &RecordedDir, file: &str| dir.mount.join(&self.path).join(file);
        let freezer = self
            .v1
            .iter()
            .find(|dir| dir.controllers.split(',').any(|controller| controller == "freezer"));
        let path = match (freezer, &self.v2) {
            (Some(dir), _) => of(dir, "freezer.self_freezing"),
            (None, Some(dir)) => of(dir, "cgroup.freeze"),
            (None, None) => return Ok(false),
        };
        match std::fs::read(&path) {
            Ok(text) => Ok(text.first() == Some(&b'1')),
            Err(source) if gone(&source) => Ok(false),
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}

/// How long processes may take to stop.
const DEADLINE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Stops every process, and waits until they stand still. On failure they run again.
    pub fn freeze(&self) -> Result<(), Error> {
        let deadline = Instant::now() + DEADLINE;
        let mut pause = Duration::from_micros(100);
        loop {
            let (dir, state, frozen) = if let Some(dir) = self.freezer() {
                // Written again each round: a process that forked meanwhile is caught only by a new request.
                dir.set("freezer.state", "FROZEN")?;
                let state = dir.read("freezer.state")?;
                let frozen = state.trim() == "FROZEN";
                (dir, state, frozen)
            } else {
                let dir = self.core()?;
                dir.set("cgroup.freeze", "1")?;
                let state = dir.read("cgroup.events")?;
                let frozen = state.lines().any(|line| line == "frozen 1");
                (dir, state, frozen)
            };
            if frozen {
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.thaw()?;
                return Err(Error::Freeze {
                    path: dir.path.clone(),
                    state: state.trim().to_owned(),
                    seconds: DEADLINE.as_secs(),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Lets every process run again.
    pub fn thaw(&self) -> Result<(), Error> {
        match self.freezer() {
            Some(dir) => dir.set("freezer.state", "THAWED"),
            None => self.core()?.set("cgroup.freeze", "0"),
        }
    }

    /// Directory by which other programs may freeze the group.
    pub fn freezer_path(&self) -> Option<&Path> {
        self.freezer().or(self.v2.as_ref()).map(|dir| dir.path.as_path())
    }

    /// Lets the processes of groups below run that were frozen by themselves: the v1 freezer keeps SIGKILL from them.
    pub fn thaw_below(&self) {
        let Some(dir) = self.freezer() else { return };
        if let Err(error) = dir.set_below("freezer.state", "THAWED") {
            log::warn!("thaw below {}: {error}", dir.path.display());
        }
    }

    /// Whether the group is frozen.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match self.freezer() {
            Some(dir) => Ok(dir.read("freezer.state")?.trim() != "THAWED"),
            None => {
                let events = self.core()?.read("cgroup.events")?;
                Ok(events.lines().any(|line| line == "frozen 1"))
            }
        }
    }

    /// Sends a signal to every process of the group. A group that is gone has none.
    ///
    /// For SIGKILL a frozen group is thawed, since a process frozen by the v1 freezer does not die.
    pub fn kill_all(&self, signal: i32) -> Result<(), Error> {
        let Ok(listing) = self.listing() else { return Ok(()) };
        let mut killed = false;
        if signal == libc::SIGKILL
            && let Some(dir) = &self.v2
        {
            match dir.write("cgroup.kill", "1") {
                Ok(()) => killed = true,
                // Older than 5.14, or removed.
                Err(source) if gone(&source) => {}
                Err(source) => {
                    return Err(Error::Write {
                        path: dir.path.join("cgroup.kill"),
                        value: "1".to_owned(),
                        source,
                    });
                }
            }
        }
        if killed && self.v1.is_empty() {
            return Ok(());
        }
        let mut rest = listing.pids_below()?;
        if killed {
            // The kernel is already at these; only what is in the v1 groups alone is left to us.
            if let Some(dir) = &self.v2 {
                let done = dir.pids_below()?;
                rest.retain(|pid| done.binary_search(pid).is_err());
            }
        }
        let result = if rest.is_empty() { Ok(()) } else { self.kill_listed(signal, listing) };
        if signal == libc::SIGKILL
            && let Some(dir) = self.freezer()
        {
            match dir.write("freezer.state", "THAWED") {
                Ok(()) => {}
                Err(source) if gone(&source) => {}
                Err(source) => {
                    return Err(Error::Write {
                        path: dir.path.join("freezer.state"),
                        value: "THAWED".to_owned(),
                        source,
                    });
                }
            }
        }
        result
    }

    /// Freeze, signal, thaw. A group that will not freeze is signalled all the same.
    fn kill_listed(&self, signal: i32, listing: &Dir) -> Result<(), Error> {
        let was_frozen = self.is_frozen().unwrap_or(false);
        if !was_frozen && let Err(error) = self.freeze() {
            log::warn!("signal without freezing: {error}");
        }
        let mut result = listing.pids_below().and_then(|pids| {
            let mut first = Ok(());
            for pid in pids {
                if let Err(error) = send(pid, signal) {
                    first = first.and(Err(error));
                }
            }
            first
        });
        if !was_frozen {
            result = result.and(self.thaw());
        }
        result
    }

    fn freezer(&self) -> Option<&Dir> {
        self.v1.iter().find(|dir| dir.has("freezer"))
    }

    pub(super) fn core(&self) -> Result<&Dir, Error> {
        self.v2.as_ref().ok_or_else(|| self.missing())
    }
}

fn send(pid: i32, signal: i32) -> Result<(), Error> {
    let failed = |source: Errno| Error::Kill { signal, pid, source: source.into() };
    let (Some(target), Some(number)) =
        (Pid::from_raw(pid), rustix::process::Signal::from_named_raw(signal))
    else {
        return Err(failed(Errno::INVAL));
    };
    match kill_process(target, number) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(source) => Err(failed(source)),
    }
}
