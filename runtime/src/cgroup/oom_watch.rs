//! Telling when the kernel's OOM killer strikes in a group: a descriptor to poll, and what it means.
//!
//! cgroup v1: an eventfd that `cgroup.event_control` ties to `memory.oom_control`; the kernel signals it before it
//! chooses whom to kill, and when the group is removed. cgroup v2: `memory.events` itself, which becomes exceptional
//! (`POLLPRI`) when a count in it changes; most changes are no kills, so the count of those is compared.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::fs::OFlags;

use super::dir::gone;
use super::{Cgroup, Error, oom};

/// Watches one group.
#[derive(Debug)]
pub struct OomWatch(Kind);

#[derive(Debug)]
enum Kind {
    V1 {
        signalled: EventFd,
        /// For finding out whether the group is there still.
        control: PathBuf,
    },
    V2 {
        events: OwnedFd,
        path: PathBuf,
        /// Kills that were told of.
        known: u64,
    },
}

impl Cgroup {
    /// Begins to watch; `None` on a host without a memory controller.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>, Error> {
        self.listing()?;
        let Some(dir) = self.dir_of("memory") else { return Ok(None) };
        let file = if self.limits_on_v2() { "memory.events" } else { "memory.oom_control" };
        let path = dir.path.join(file);
        let opened = match dir.open_file(file, OFlags::RDONLY) {
            Ok(opened) => opened,
            // The controller is not enabled for this group.
            Err(source) if self.limits_on_v2() && gone(&source) => return Ok(None),
            Err(source) => return Err(Error::Open { path, source }),
        };
        if self.limits_on_v2() {
            let known = kills(&opened, &path)?.unwrap_or(0);
            return Ok(Some(OomWatch(Kind::V2 { events: opened, path, known })));
        }
        let signalled =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|source| Error::Open { path: path.clone(), source: source.into() })?;
        // The registration outlives the second descriptor.
        let pair = format!("{} {}", signalled.as_fd().as_raw_fd(), opened.as_raw_fd());
        dir.set("cgroup.event_control", &pair)?;
        Ok(Some(OomWatch(Kind::V1 { signalled, control: dir.path.join("cgroup.event_control") })))
    }
}

impl OomWatch {
    /// What to poll for on the descriptor.
    pub fn flags(&self) -> PollFlags {
        match self.0 {
            Kind::V1 { .. } => PollFlags::POLLIN,
            Kind::V2 { .. } => PollFlags::POLLPRI,
        }
    }

    /// Whether the killer struck since the last call; `None` once the group is gone.
    pub fn struck(&mut self) -> Result<Option<bool>, Error> {
        match &mut self.0 {
            // One signal may stand for several kills, as for runc.
            Kind::V1 { signalled, control } => match signalled.read() {
                Ok(_) => Ok(control.exists().then_some(true)),
                Err(_) => Ok(Some(false)),
            },
            Kind::V2 { events, path, known } => {
                let Some(now) = kills(events, path)? else { return Ok(None) };
                let more = now > *known;
                *known = now;
                Ok(Some(more))
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::V1 { signalled, .. } => signalled.as_fd(),
            Kind::V2 { events, .. } => events.as_fd(),
        }
    }
}

/// The count of kills, read from the start, which also makes the descriptor quiet again; `None` once the group is gone.
fn kills(events: &OwnedFd, path: &std::path::Path) -> Result<Option<u64>, Error> {
    let mut text = [0; 1024];
    match rustix::io::pread(events, &mut text, 0) {
        Ok(length) => {
            let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
            oom::count(&text)
                .map(Some)
                .ok_or_else(|| Error::Parse { path: path.to_owned(), reason: "no oom_kill count" })
        }
        Err(rustix::io::Errno::NODEV | rustix::io::Errno::NOENT) => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source: source.into() }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn only_kills_count_on_v2() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"low 0\nhigh 0\nmax 3\noom 0\noom_kill 1\n").unwrap();
        let path = file.path().to_owned();
        let events: OwnedFd = std::fs::File::open(&path).unwrap().into();
        let known = kills(&events, &path).unwrap().unwrap();
        let mut watch = OomWatch(Kind::V2 { events, path: path.clone(), known });
        assert_eq!(watch.struck().unwrap(), Some(false));
        std::fs::write(&path, "max 9\noom 0\noom_kill 1\n").unwrap();
        assert_eq!(watch.struck().unwrap(), Some(false));
        std::fs::write(&path, "max 9\noom 1\noom_kill 3\n").unwrap();
        assert_eq!(watch.struck().unwrap(), Some(true));
        assert_eq!(watch.struck().unwrap(), Some(false));
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(watch.struck().is_err());
    }
}
