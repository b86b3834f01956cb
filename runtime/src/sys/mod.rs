//! The system calls that need `unsafe`, one thin function each.
//!
//! Everything here, and what is re-exported from `nix` below, neither allocates nor takes a lock, so
//! the child after a clone may call it: strings are C strings that the caller prepared, results are
//! numbers or owned descriptors, failures are an [`Errno`].

pub mod bpf;
pub mod clone;
pub mod cred;
#[cfg(target_arch = "x86_64")]
pub mod entry;
pub mod fd;
pub mod monitor;
pub mod mount;
pub mod net;
pub mod process;
pub mod sched;
pub mod seccomp;
pub mod tty;

pub use nix::errno::Errno;
pub use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
pub use nix::sched::{CloneFlags, setns, unshare};
pub use nix::sys::prctl::{set_dumpable, set_keepcaps, set_no_new_privs};
pub use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat, mknodat, umask};
pub use nix::unistd::{
    UnlinkatFlags, chdir, chroot, fchdir, fchownat, read, setsid, symlinkat, unlinkat, write,
};

/// Result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;
