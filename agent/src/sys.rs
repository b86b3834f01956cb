//! The agent's only unsafe code: where a library leaves a promise to its caller that a type of
//! ours already keeps, and where it has no safe form for what takes no promise.

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

/// Blocks of at least so many bytes are mapped by themselves, and unmapped when they are freed.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 1 << 20;

/// Has the allocator give large blocks back to the kernel as soon as they are freed, always. glibc
/// raises its threshold to the largest block that was ever freed; the next zstd windows of 8 MiB then
/// lie in the threads' heaps and stay there: three pulls at once took 150 MB instead of 73.
/// To be called before there are threads (mallopt(3)).
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number of the allocator, and takes and returns no memory.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_large_block_is_given_back_whatever_was_freed_before() {
        let resident = || -> usize {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
        };
        let block = || std::hint::black_box(vec![1_u8; 8 << 20]);
        return_large_blocks();
        drop(block());
        let second = block();
        let with = resident();
        drop(second);
        assert!(resident() + (7 << 20) < with);
    }
}
