//! System calls of the monitor that no crate wraps safely. The monitor's only unsafe code.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a fork we are on.
#[derive(Debug, Clone, Copy)]
pub enum Forked {
    Parent(i32),
    Child,
}

/// Forks. The process must have one thread, which the monitor's design guarantees.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: with one thread no lock can be held by a thread that the child lacks, so the child
    // may call anything; the monitor never starts a thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Takes over the descriptor `number` that the process was started with, and closes every other
/// but the standard streams. Call before anything owns a descriptor.
///
/// What comes back has another number, above the standard streams: `number` may be one of them,
/// which the caller redirects later.
pub fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes no pointer; it fails on a number that is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy == -1 {
        return Err(io::Error::last_os_error());
    }
    let keep = copy.unsigned_abs();
    for (first, last) in [(3, keep - 1), (keep + 1, u32::MAX)] {
        if first <= last {
            // SAFETY: the call takes no pointer; no `OwnedFd` in this process refers to a
            // descriptor in the range, since the caller comes before anything opens one. It fails
            // only before Linux 5.9, where stray descriptors then stay open.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
    // SAFETY: the kernel has just made this descriptor for us, and it is outside what was closed.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Pid of some child that has ended, which stays a zombie.
pub fn peek_any() -> Option<i32> {
    // SAFETY: siginfo_t is plain data for which all zeros is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is a valid siginfo_t that the call may write.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } != 0 {
        return None;
    }
    // SAFETY: after a successful waitid the union holds si_pid; with WNOHANG and no child it is 0.
    let pid = unsafe { info.si_pid() };
    (pid != 0).then_some(pid)
}

/// `struct pidfd_info` of <linux/pidfd.h>, version 0.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

nix::ioctl_readwrite!(pidfd_get_info, 0xFF, 11, PidfdInfo);

/// The wait status of a process that is no child of ours, once it has been reaped (Linux 6.15).
pub fn pidfd_exit(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: `info` has the size that the request's number encodes and may be written; older
    // kernels, and descriptors that are no pidfd, refuse the number.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }.ok()?;
    (info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// Keeps the heap of a process that lives long and does little at the pages it needs.
#[cfg(target_env = "gnu")]
pub fn small_heap() {
    // SAFETY: mallopt takes two numbers and no thread runs beside us.
    unsafe { libc::mallopt(libc::M_TOP_PAD, 0) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, 16 << 10) };
    // SAFETY: as above. Buffers of a page run come from mmap and go back when freed.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 10) };
}

/// Gives free pages of the heap back to the kernel, also those between pages in use.
#[cfg(target_env = "gnu")]
pub fn trim_heap() {
    // SAFETY: malloc_trim takes a number and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such settings.
#[cfg(not(target_env = "gnu"))]
pub fn small_heap() {}

/// Other C libraries have no such call.
#[cfg(not(target_env = "gnu"))]
pub fn trim_heap() {}
