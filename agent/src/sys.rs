//! The agent's only unsafe code: where a library leaves a promise to its caller that a type of
//! ours already keeps.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with tokio's reactor.
///
/// # Errors
/// If the kernel cannot poll it.
pub fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open, be the same file and have the same number until the
    // `AsyncFd` is gone. `OwnedFd` owns it, moves into the `AsyncFd`, never changes its number and
    // closes it only when dropped.
    let registered = unsafe { AsyncFd::register(descriptor) };
    registered.map_err(|failed| failed.into_parts().1)
}
