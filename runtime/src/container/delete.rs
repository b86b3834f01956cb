//! The end of a container: whatever it has on the host goes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Container, Error, Status, state};
use crate::{
    cgroup::Cgroup,
    failpoint,
    process::hooks::{self, Place},
    rdt,
    sys::{Errno, process},
};

/// How long a killed container usually takes to end at most.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a killed container may take to end.
const DEADLINE: Duration = Duration::from_secs(10);

impl Container {
    /// Removes what the container has on the host. One that was never started is killed first, as runc does it, and with
    /// `force` any.
    ///
    /// # Errors
    /// If it runs or is paused (without `force`), does not end, or something cannot be removed.
    pub fn delete(&mut self, force: bool) -> Result<(), Error> {
        let _lock = self.lock()?;
        let id = || self.record.id.clone();
        // Under the lock nobody is creating it: that create was killed, and its child died with it.
        failpoint::hit("delete-locked");
        let unfinished = self.record.status == Status::Creating;
        let status = if unfinished { Status::Stopped } else { self.status() };
        if status != Status::Stopped {
            if !force && status != Status::Created {
                return Err(Error::WrongStatus { operation: "delete", id: id(), status });
            }
            if let Some(init) = self.init_pidfd() {
                match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(source) => {
                        return Err(Error::Signal { id: id(), signal: libc::SIGKILL, source });
                    }
                }
                self.let_die()?;
                self.wait(&init)?;
            }
            failpoint::hit("delete-killed");
        }
        if let Some(record) = &self.record.cgroup {
            let failed = |source| Error::Cgroup { id: id(), source: Box::new(source) };
            if !Cgroup::remove_empty(record).map_err(failed)? {
                let cgroup = Cgroup::open(record).map_err(failed)?;
                // Without a pid namespace of its own the init's death leaves the others alive.
                cgroup.kill_all(libc::SIGKILL).map_err(failed)?;
                failpoint::hit("delete-emptied");
                cgroup.kill_and_destroy().map_err(failed)?;
            }
        }
        failpoint::hit("delete-cgroup");
        rdt::remove(&self.record.rdt)?;
        if !self.record.hooks.poststop.is_empty() {
            let state = self.document_bytes(Status::Stopped);
            let place = Place::Bundle(&self.record.bundle);
            for hook in &self.record.hooks.poststop {
                // Every one has its turn, and none can stop the removal.
                if let Err(error) = hooks::run(std::slice::from_ref(hook), &state, place) {
                    log::warn!("container {}: poststop: {error}", self.record.id);
                }
            }
        }
        failpoint::hit("delete-hooks");
        state::remove(&self.directory).map_err(|source| Error::File {
            operation: "remove",
            path: self.directory.clone(),
            source,
        })
    }

    fn wait(&self, init: &OwnedFd) -> Result<(), Error> {
        if self.ends_within(init, PATIENCE)? {
            return Ok(());
        }
        // The init of a pid namespace waits for all its processes; one may be held in a group that was
        // frozen by itself.
        self.cgroup()?.thaw_below();
        if self.ends_within(init, DEADLINE)? {
            return Ok(());
        }
        Err(Error::StillAlive { id: self.record.id.clone(), seconds: DEADLINE.as_secs() })
    }

    fn ends_within(&self, init: &OwnedFd, time: Duration) -> Result<bool, Error> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(source) => return Err(Error::Wait { id: self.record.id.clone(), source }),
            }
        }
    }
}
