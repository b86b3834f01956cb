//! Loading a seccomp filter.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// `SECCOMP_FILTER_FLAG_TSYNC`.
pub const FLAG_TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`.
pub const FLAG_LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_TSYNC_ESRCH`: without it, thread synchronisation and a listener exclude each other.
pub const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;

/// Puts the calling thread under a filter, for ever; returns the listener if the flags ask for one.
///
/// One system call, no allocation: may be called in a child that shares or copied a parent's memory. Needs
/// `no_new_privs` or `CAP_SYS_ADMIN` in the thread's user namespace.
pub fn load(instructions: &[libc::sock_filter], flags: u32) -> io::Result<Option<OwnedFd>> {
    let Ok(len) = libc::c_ushort::try_from(instructions.len()) else {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    };
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: `program` describes `instructions`, which outlive the call; the kernel copies them and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::from_ref(&program),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & FLAG_NEW_LISTENER == 0 {
        return if result == 0 {
            Ok(None)
        } else {
            // The id of a thread that could not be brought under the filter; the filter is not in force.
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        };
    }
    let fd = RawFd::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel just returned this descriptor to us, close-on-exec; nobody else knows its number.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}
