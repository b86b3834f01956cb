//! The host's `/proc`, told apart from everything else that may lie at its place.
//!
//! Labels and sysctls protect only if they are written where they should be. Who can mount over
//! `/proc` in the runtime's mount namespace, or in one that a container joins, could have them written
//! to a file of his own, or to one that crashes the host (CVE-2025-52881). So the parent opens `/proc`
//! before it joins anything, sees that it is the root of a procfs, and the child opens files below it
//! without crossing into another mount ([`crate::mount::resolve::in_proc`]).

use std::os::fd::{AsFd as _, OwnedFd};

use crate::sys::{Errno, Result as SysResult, fstat, mount};

/// Why there is no `/proc` to write to.
#[derive(thiserror::Error)]
pub enum Error {
    #[error("open /proc")]
    Open(#[source] Errno),
    #[error("/proc is not the root of a proc file system; what is mounted over it?")]
    Other,
}

debug_is_display!(Error);

/// Inode of the root of every procfs.
const ROOT: u64 = 1;

/// Opens `/proc`, `O_PATH`.
///
/// # Errors
/// If it cannot be opened, or is something else.
pub(super) fn open() -> Result<OwnedFd, Error> {
    let proc = mount::open(c"/proc", libc::O_PATH | libc::O_DIRECTORY).map_err(Error::Open)?;
    if is_procfs(&proc).map_err(Error::Open)? { Ok(proc) } else { Err(Error::Other) }
}

fn is_procfs(directory: &OwnedFd) -> SysResult<bool> {
    Ok(mount::file_system(directory.as_fd())? == mount::PROC_SUPER_MAGIC
        && fstat(directory)?.st_ino == ROOT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_root_of_a_procfs_is_proc() {
        assert!(is_procfs(&open().unwrap()).unwrap());
        for other in [c"/proc/self", c"/tmp", c"/sys"] {
            let fd = mount::open(other, libc::O_PATH).unwrap();
            assert!(!is_procfs(&fd).unwrap(), "{other:?}");
        }
    }
}
