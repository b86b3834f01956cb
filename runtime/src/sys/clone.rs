//! `clone3`.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{Errno, Result};

/// Not representable in the `c_int` that libc gives its flags.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What the new process does not share.
#[derive(Debug, Clone, Copy)]
pub struct Clone<'a> {
    /// `CLONE_NEW*`, and `CLONE_PARENT` for a sibling instead of a child.
    pub flags: u64,
    /// Directory of the cgroup v2 group in which it begins.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Clones this process and runs `child` with `context` in the copy, which ends with the returned
/// exit code. The caller gets the copy's pid and pidfd.
///
/// The process must have a single thread: no libc fork handler runs, so a lock that another thread
/// holds stays locked in the copy. `child` must neither allocate nor unwind.
///
/// # Errors
/// Those of clone3(2).
pub fn spawn<T>(clone: Clone<'_>, context: &T, child: fn(&T) -> i32) -> Result<(i32, OwnedFd)> {
    let mut pidfd: libc::c_int = -1;

    // SAFETY: `clone_args` is a plain struct of integers for which all zero is valid.
    let mut args: libc::clone_args = unsafe { core::mem::zeroed() };
    args.flags = clone.flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    if clone.flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = clone.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` outlives the call and its size is passed; without CLONE_VM the child has its
    // own copy of the memory and of this stack, so it may go on with the same frame.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
    };
    match Errno::result(pid)? {
        0 => super::process::exit(child(context)),
        pid => {
            // SAFETY: the kernel has just stored a new descriptor there, which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok((i32::try_from(pid).unwrap_or(i32::MAX), pidfd))
        }
    }
}
