//! Processes seen from outside: identity, exit status, clock.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::monitor::ProcessId;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use serde::{Deserialize, Serialize};

use crate::sys::monitor as sys;

/// How a process ended: its code, or 128 plus the signal's number, and the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

impl Ended {
    fn exited(code: i32) -> Self {
        Self { code, signal: None }
    }

    fn killed(signal: i32) -> Self {
        Self { code: 128 + signal, signal: Some(signal) }
    }

    /// From the form `wait(2)` uses.
    fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::exited((status >> 8) & 0xff),
            signal => Self::killed(signal),
        }
    }
}

/// What a look at a child shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Alive,
    Ended(Ended),
    /// Not a child of ours.
    Stranger,
}

/// Looks at a child without reaping it.
pub(crate) fn look(pidfd: impl AsFd) -> Look {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(None) => Look::Alive,
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Look::Ended(Ended::exited(code)),
            (None, Some(signal)) => Look::Ended(Ended::killed(signal)),
            (None, None) => Look::Alive,
        },
        Err(_) => Look::Stranger,
    }
}

/// Reaps a child that has ended. One that is no child is somebody else's to reap.
pub(crate) fn reap(pidfd: impl AsFd) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), options);
}

/// How a process that is no child ended, if the kernel tells (Linux 6.15, once it is reaped).
pub(crate) fn ended_elsewhere(pidfd: impl AsFd) -> Option<Ended> {
    sys::pidfd_exit(pidfd.as_fd()).map(Ended::from_wait_status)
}

/// Reaps children that nobody waits for: processes whose parent ended and who came to us as the
/// subreaper. Stops at the first that `owned` claims, whose status somebody still needs.
pub(crate) fn reap_orphans(owned: impl Fn(i32) -> bool) {
    while let Some(pid) = sys::peek_any() {
        if owned(pid) {
            return;
        }
        let Some(pid) = Pid::from_raw(pid) else { return };
        if waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_err() {
            return;
        }
    }
}

/// Opens a process by number.
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Opens the very process `id`; `None` if it is gone. A zombie is not gone.
pub(crate) fn open_same(id: ProcessId) -> Option<OwnedFd> {
    let pidfd = open(id.pid).ok()?;
    // Compared after opening: a pidfd that refers to a successor has the successor's start time.
    (start_time(id.pid).ok()? == id.start_time).then_some(pidfd)
}

/// Field 22 of `/proc/<pid>/stat`.
pub(crate) fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses, which may hold spaces and parentheses.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The identity of the process with this number.
pub(crate) fn identify(pid: i32) -> io::Result<ProcessId> {
    Ok(ProcessId { pid, start_time: start_time(pid)? })
}

/// Ourselves.
pub(crate) fn myself() -> io::Result<ProcessId> {
    identify(rustix::process::getpid().as_raw_nonzero().get())
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn wait_statuses() {
        assert_eq!(Ended::from_wait_status(0), Ended { code: 0, signal: None });
        assert_eq!(Ended::from_wait_status(7 << 8), Ended { code: 7, signal: None });
        assert_eq!(Ended::from_wait_status(9), Ended { code: 137, signal: Some(9) });
        assert_eq!(Ended::from_wait_status(0x80 | 11), Ended { code: 139, signal: Some(11) });
        assert_eq!(Ended::from_wait_status(34), Ended { code: 162, signal: Some(34) });
    }

    #[test]
    fn a_look_leaves_the_status_for_the_next_one_and_the_pidfd_has_it_after_the_reap() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read x; exit 5"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let id = identify(pid).unwrap();
        let pidfd = open_same(id).unwrap();
        assert!(open_same(ProcessId { start_time: id.start_time + 1, ..id }).is_none());
        assert_eq!(look(&pidfd), Look::Alive);
        drop(child.stdin.take());
        let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        let ended = Ended { code: 5, signal: None };
        assert_eq!(look(&pidfd), Look::Ended(ended));
        assert_eq!(look(&pidfd), Look::Ended(ended));
        reap(&pidfd);
        assert!(child.wait().is_err(), "nothing is left to wait for");
        assert_eq!(look(&pidfd), Look::Stranger);
        // Kernels before 6.15 do not tell.
        assert!(ended_elsewhere(&pidfd).is_none_or(|it| it == ended));
    }
}
