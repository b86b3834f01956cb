//! Work in another network namespace.

use std::io;
use std::os::fd::BorrowedFd;

use nix::sched::{CloneFlags, setns};

/// Runs it on a thread of its own, so that the calling one stays in its namespace.
///
/// # Errors
/// If the namespace cannot be entered.
pub(super) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let entered = || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, entered)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

#[cfg(test)]
pub(super) mod testing {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::{AsFd, OwnedFd};

    use nix::sched::{CloneFlags, unshare};

    /// A new one.
    pub(in crate::network) fn netns() -> OwnedFd {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
        })
        .join()
        .unwrap()
    }

    pub(in crate::network) fn inside<T: Send>(
        netns: &OwnedFd,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        super::inside(netns.as_fd(), work).unwrap()
    }
}
