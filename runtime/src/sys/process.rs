//! Processes: exec, exit, limits, signals, pidfds.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr;

use super::{Errno, Result, mount};

/// C strings with the null-terminated array of pointers that `execve` wants.
#[derive(Debug)]
pub struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// Builds the array.
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<*const c_char> =
            strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(ptr::null());
        Self { strings, pointers }
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces the program; returns only on failure.
pub fn execve(program: &CStr, arguments: &CStrings, environment: &CStrings) -> Errno {
    // SAFETY: the program is a C string; the arrays end with null and point to C strings which
    // `CStrings` owns.
    unsafe {
        libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr())
    };
    Errno::last()
}

/// Replaces the program by the one a descriptor refers to; returns only on failure.
pub fn fexecve(program: BorrowedFd<'_>, arguments: &CStrings, environment: &CStrings) -> Errno {
    // SAFETY: the path is a C string, the arrays as in `execve`.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// Mounts of a command's own, from which nothing gets out to the host's.
#[derive(Debug)]
pub struct Apart {
    /// Bound on the second.
    pub root: (CString, CString),
    /// Directories to be opened there, and the numbers of ours that they take.
    pub directories: Vec<(CString, RawFd)>,
    /// Over this one it sends an end of a conversation that it began itself, whose other end takes its
    /// number: to the peer of that, what is open there is open in the same mounts.
    pub socket: RawFd,
}

/// Has a command keep descriptors that are marked to be closed, and begin apart.
pub fn keep_open(command: &mut Command, kept: Vec<RawFd>, apart: Option<Apart>) {
    let prepare = move || {
        for number in &kept {
            // SAFETY: takes numbers only, of descriptors in this copy of the process.
            let rc = unsafe { libc::fcntl(*number, libc::F_SETFD, 0) };
            Errno::result(rc)?;
        }
        // The caller's may be blocked, to be forwarded.
        nix::sys::signal::SigSet::empty().thread_set_mask()?;
        if let Some(apart) = &apart {
            part(apart)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only, without allocating: what it refers to
    // was prepared before.
    unsafe { command.pre_exec(prepare) };
}

fn part(apart: &Apart) -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let replace = |fd: OwnedFd, number| {
        // SAFETY: takes numbers only; what the number stood for is not used by this copy any more.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
    };
    super::unshare(super::CloneFlags::CLONE_NEWNS)?;
    mount::mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None)?;
    let (from, to) = &apart.root;
    mount::mount(Some(from), to, None, libc::MS_REC | libc::MS_BIND, None)?;
    for (path, number) in &apart.directories {
        replace(mount::open(path, libc::O_DIRECTORY)?, *number)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    // SAFETY: the caller keeps it open until the command runs.
    let socket = unsafe { BorrowedFd::borrow_raw(apart.socket) };
    super::fd::send(socket, &[0], Some(theirs.as_fd()))?;
    replace(ours, apart.socket)
}

/// Ends the process without running exit handlers.
pub fn exit(code: i32) -> ! {
    // SAFETY: takes a number; nothing of this process runs afterwards.
    unsafe { libc::_exit(code) }
}

/// Whether the caller may execute the regular file at `path`, by its effective ids.
///
/// # Errors
/// `EACCES` for a directory and for a file without permission, otherwise those of stat(2).
pub fn executable(path: &CStr) -> Result<()> {
    // SAFETY: an all-zero `stat` is valid.
    let mut info: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the path is a C string and the kernel writes one `stat`.
    let rc = unsafe { libc::stat(path.as_ptr(), &raw mut info) };
    Errno::result(rc)?;
    if info.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EACCES);
    }
    // SAFETY: the path is a C string. Raw, as libcs emulate AT_EACCESS; before faccessat2 (5.8) the
    // exec itself finds out.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    match Errno::result(rc) {
        Err(Errno::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// Refers to a process; fails with `ESRCH` if there is none of that number.
///
/// # Errors
/// Those of pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(Errno::result(fd)?).or(Err(Errno::EBADF))?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal.
///
/// # Errors
/// Those of pidfd_send_signal(2); `ESRCH` if the process has been reaped.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo lets the kernel fill it as kill(2) does.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(rc).map(drop)
}

/// Sets both limits of one resource.
///
/// # Errors
/// Those of prlimit(2).
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one `rlimit64`; the null pointer means that the old limit is not asked for.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            ptr::null_mut::<libc::rlimit64>(),
        )
    };
    Errno::result(rc).map(drop)
}

/// Raises the hard limit of another process's resource to `hard`, if it is lower.
///
/// # Errors
/// Those of prlimit(2); `EPERM` without `CAP_SYS_RESOURCE`.
pub fn raise_hard_limit(pid: i32, resource: u32, hard: u64) -> Result<()> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let null = ptr::null::<libc::rlimit64>();
    // SAFETY: writes one `rlimit64`; the null pointer means that nothing is set.
    let rc = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, null, &raw mut limit) };
    Errno::result(rc)?;
    if limit.rlim_max >= hard {
        return Ok(());
    }
    limit.rlim_max = hard;
    let null = ptr::null_mut::<libc::rlimit64>();
    // SAFETY: reads one `rlimit64`; the null pointer means that the old limit is not asked for.
    let rc = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, null) };
    Errno::result(rc).map(drop)
}

/// What Rust's start-up does that matters here: opens `/dev/null` for each standard stream that is
/// closed, so that no file gets its number, and has writes to a pipe that nobody reads fail.
pub fn begin() {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the kernel reads and writes as many as are passed, and at once returns.
    unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) };
    for stream in streams {
        if stream.revents & libc::POLLNVAL == 0 {
            continue;
        }
        // SAFETY: the path is a C string; the lowest free number is the stream's, which is nobody's.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } < 0 {
            exit(1);
        }
    }
    // SAFETY: SIG_IGN is no function of ours; it cannot fail for a signal that exists.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Unblocks all signals, and gives SIGPIPE, which [`begin`] ignores, its default again.
///
/// # Errors
/// Those of sigprocmask(2) and sigaction(2).
pub fn reset_signals() -> Result<()> {
    // SAFETY: an all-zero `sigset_t` is a valid, empty set.
    let empty: libc::sigset_t = unsafe { core::mem::zeroed() };
    // SAFETY: reads one set; the null pointer means that the old set is not asked for.
    let rc = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut()) };
    Errno::result(rc)?;
    // SAFETY: SIG_DFL is no function of ours.
    let old = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if old == libc::SIG_ERR { Err(Errno::last()) } else { Ok(()) }
}

/// Gives the process a session keyring of its own, so that it does not see the caller's keys.
///
/// # Errors
/// Those of keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`.
pub fn new_session_keyring() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<c_char>(),
            0,
            0,
            0,
        )
    };
    Errno::result(rc).map(drop)
}

/// Sets the execution domain.
///
/// # Errors
/// Those of personality(2).
pub fn personality(domain: u32) -> Result<()> {
    // SAFETY: takes a number only.
    let rc = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    Errno::result(rc).map(drop)
}

/// Sets from which nodes the thread's memory comes; `nodes` has a bit for each.
///
/// # Errors
/// Those of set_mempolicy(2): `ENOSYS` without NUMA, `EINVAL` for nodes that are not there.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> Result<()> {
    let (pointer, bits) = match nodes {
        [] => (ptr::null(), 0),
        // The kernel takes one bit less than it is told.
        nodes => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the pointer is null or leads to as many bits as the kernel reads.
    let rc = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    Errno::result(rc).map(drop)
}

/// Sets class and level of the I/O priority, as ioprio_set(2) packs them.
///
/// # Errors
/// Those of ioprio_set(2).
pub fn set_io_priority(packed: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: takes numbers only.
    let rc = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, packed) };
    Errno::result(rc).map(drop)
}

/// `sethostname` or `setdomainname`.
///
/// # Errors
/// Those of sethostname(2).
pub fn set_uts_name(domain: bool, name: &CStr) -> Result<()> {
    let bytes = name.to_bytes();
    let call = if domain { libc::SYS_setdomainname } else { libc::SYS_sethostname };
    // SAFETY: the kernel reads the length that is passed, from a C string of that length.
    let rc = unsafe { libc::syscall(call, name.as_ptr(), bytes.len()) };
    Errno::result(rc).map(drop)
}

/// The `CLONE_NEW*` flag of a namespace's descriptor.
///
/// # Errors
/// Those of `NS_GET_NSTYPE`, ioctl_ns(2); `ENOTTY` for a descriptor of anything else.
pub fn namespace_kind(fd: BorrowedFd<'_>) -> Result<i32> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: takes no argument.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    Errno::result(rc)
}

/// The pid namespace that one lies in.
///
/// # Errors
/// Those of `NS_GET_PARENT`, ioctl_ns(2); `EPERM` if that is ours or none that we see.
pub fn parent_namespace(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    const NS_GET_PARENT: u32 = 0xb702;
    // SAFETY: takes no argument.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_PARENT as _) };
    let parent = Errno::result(rc)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}
