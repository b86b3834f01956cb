//! What the runtime itself does to a container's network namespace: the loopback interface of a new
//! one goes up, and the interfaces of `linux.netDevices` move in. All else (addresses, interfaces of
//! the agent's making) is the agent's or the hooks' work, between create and start.

pub mod devices;

use std::os::fd::{AsFd as _, BorrowedFd};

pub use crate::sys::net::loopback_up;
use crate::sys::{self, CloneFlags, mount};

/// Does something in another network namespace, and comes back.
///
/// # Errors
/// If one of the two cannot be entered; then those of what is to be done.
pub fn within<T>(target: BorrowedFd<'_>, act: impl FnOnce() -> sys::Result<T>) -> sys::Result<T> {
    let own = mount::open(c"/proc/self/ns/net", libc::O_RDONLY)?;
    sys::setns(target, CloneFlags::CLONE_NEWNET)?;
    let done = act();
    sys::setns(own.as_fd(), CloneFlags::CLONE_NEWNET)?;
    done
}
