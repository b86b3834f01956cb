//! Which processes a container has: by its cgroup, and where none was permitted by its pid namespace.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use super::{Container, Error};
use crate::{
    cgroup,
    process::status,
    sys::{Errno, fstat, process},
};

impl Container {
    /// Processes of the container, in order.
    ///
    /// # Errors
    /// If it has neither a cgroup nor a pid namespace of its own, or the kernel does not tell.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        let cgroup = self.cgroup()?;
        if cgroup.is_refused() {
            return self.pids_of_namespace();
        }
        match cgroup.pids() {
            // It has ended and its group is gone.
            Err(cgroup::Error::Missing { .. }) => Ok(Vec::new()),
            other => other.map_err(self.of_cgroup()),
        }
    }

    /// Sends a signal to every process of the pid namespace; its end is theirs.
    pub(super) fn kill_namespace(&self, signal: i32) -> Result<(), Error> {
        let failed = |source| Error::Signal { id: self.record.id.clone(), signal, source };
        let pids = if signal == libc::SIGKILL && self.namespace()?.is_some() {
            self.live_init().into_iter().collect()
        } else {
            self.pids_of_namespace()?
        };
        for pid in pids {
            let Ok(target) = process::pidfd_open(pid) else { continue };
            // Looked at after the descriptor was opened: the number may have become another's.
            if !self.namespace()?.is_some_and(|own| is_inside(pid, own)) {
                continue;
            }
            match process::pidfd_send_signal(target.as_fd(), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    fn pids_of_namespace(&self) -> Result<Vec<i32>, Error> {
        let Some(own) = self.namespace()? else { return Ok(Vec::new()) };
        let failed = |source| Error::File { operation: "list", path: "/proc".into(), source };
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if is_inside(pid, own) {
                pids.push(pid);
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Inode of the pid namespace that the container's init is the first of; `None` if that has ended.
    fn namespace(&self) -> Result<Option<u64>, Error> {
        let Some(pid) = self.live_init() else { return Ok(None) };
        let looked = status::own_pid(pid)
            .and_then(|own| Ok((own, std::fs::metadata(format!("/proc/{pid}/ns/pid"))?.ino())));
        if self.live_init().is_none() {
            return Ok(None);
        }
        let path = || format!("/proc/{pid}").into();
        match looked {
            Ok((1, inode)) => Ok(Some(inode)),
            // It may be somebody else's: what lives in it need not be the container's.
            Ok(_) => {
                let refused = self.cgroup()?.pids().err();
                Err(refused.map_or_else(|| Error::Gone { pid }, self.of_cgroup()))
            }
            Err(source) => Err(Error::File { operation: "examine", path: path(), source }),
        }
    }
}

/// Whether a process is in a pid namespace, or in one below it. Those that we may not look at are not ours.
fn is_inside(pid: i32, namespace: u64) -> bool {
    /// As deep as the kernel lets them lie.
    const DEEPEST: usize = 32;
    let Ok(file) = File::open(format!("/proc/{pid}/ns/pid")) else { return false };
    let mut at = OwnedFd::from(file);
    for _ in 0..=DEEPEST {
        if fstat(&at).is_ok_and(|info| info.st_ino == namespace) {
            return true;
        }
        match process::parent_namespace(at.as_fd()) {
            Ok(parent) => at = parent,
            Err(_) => return false,
        }
    }
    false
}
