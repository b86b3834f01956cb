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
    let Ok(fd) = RawFd::try_from(result) else {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    };
    // SAFETY: the kernel just returned this descriptor to us, close-on-exec; nobody else knows its number.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Whether this kernel knows filter flags; changes nothing.
pub fn knows(flags: u32) -> bool {
    // SAFETY: without a program the kernel refuses before it installs anything: EINVAL for a flag that it does not
    // know, else EFAULT.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::seccomp::{Action, Arch, Profile, Rule, compile, default_profile};

    /// A filter holds for the thread that loads it, so each test has one of its own.
    fn filtered<T: Send + 'static>(
        profile: &Profile,
        then: impl FnOnce(Option<OwnedFd>) -> T + Send + 'static,
    ) -> T {
        let filter = compile(profile, Arch::NATIVE).unwrap();
        std::thread::spawn(move || then(load(&filter.instructions, filter.flags).unwrap()))
            .join()
            .unwrap()
    }

    fn errno_of(number: libc::c_long, first: libc::c_long) -> i32 {
        // SAFETY: called with numbers whose calls take no pointers, or refuse before they follow one.
        let result = unsafe { libc::syscall(number, first, 0, 0, 0, 0, 0) };
        if result < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
    }

    #[test]
    fn the_kernel_takes_docker_s_profile_and_obeys() {
        let got = filtered(&default_profile(|_| false), |listener| {
            assert!(listener.is_none());
            [
                errno_of(libc::SYS_getpid, 0),
                errno_of(libc::SYS_unshare, libc::c_long::from(libc::CLONE_NEWUTS)),
                errno_of(libc::SYS_clone3, 0),
                errno_of(libc::SYS_socket, libc::c_long::from(libc::AF_ALG)),
                errno_of(libc::SYS_socket, libc::c_long::from(libc::AF_VSOCK)),
                errno_of(libc::SYS_personality, 0x0004_0000),
                errno_of(libc::SYS_keyctl, 0),
                errno_of(469, 0),
                errno_of(5000, 0),
            ]
        });
        let (ok, perm, nosys) = (0, libc::EPERM, libc::ENOSYS);
        assert_eq!(got, [ok, perm, nosys, perm, perm, perm, perm, nosys, nosys]);
    }

    #[test]
    fn the_kernel_takes_docker_s_profile_with_every_capability() {
        assert_eq!(filtered(&default_profile(|_| true), |_| errno_of(libc::SYS_unshare, 0)), 0);
    }

    #[test]
    fn a_listener_is_returned() {
        let mut profile = default_profile(|_| true);
        profile.default_action = Action::Allow;
        profile.default_errno_ret = None;
        profile.syscalls = vec![Rule {
            names: vec!["mkdir".into()],
            action: Action::Notify,
            errno_ret: None,
            args: vec![],
        }];
        profile.listener_path = Some("/run/nobody".into());
        let listener = filtered(&profile, |listener| listener.unwrap());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        assert_eq!(link.to_str(), Some("anon_inode:seccomp notify"));
    }

    #[test]
    fn the_kernel_refuses_an_empty_program() {
        assert_eq!(load(&[], 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn flags_are_known_or_not() {
        assert!(knows(FLAG_LOG));
        assert!(!knows(1 << 31));
    }
}
