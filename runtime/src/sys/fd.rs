//! Descriptors: closing in bulk, passing, and paths that name one.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::{Errno, Result};

/// Closes every descriptor from `first` on but a few. For a cloned child that never drops what the
/// parent owned.
///
/// # Errors
/// Those of close_range(2).
pub fn close_from<const N: usize>(first: u32, kept: [BorrowedFd<'_>; N]) -> Result<()> {
    let close = |from: u32, to: u32| {
        if from > to {
            return Ok(());
        }
        // SAFETY: takes numbers only; by this function's contract no owner of them acts any more.
        let rc = unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        Errno::result(rc).map(drop)
    };
    let mut kept = kept.map(|fd| fd.as_raw_fd().unsigned_abs());
    kept.sort_unstable();
    let mut from = first;
    for number in kept {
        close(from, number.saturating_sub(1))?;
        from = from.max(number.saturating_add(1));
    }
    close(from, u32::MAX)
}

/// Closes descriptors, those with numbers in a row by one call.
pub fn close_all(descriptors: Vec<OwnedFd>) {
    let mut numbers: Vec<RawFd> = descriptors.into_iter().map(OwnedFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for row in numbers.chunk_by(|one, next| one + 1 == *next) {
        let (Some(first), Some(last)) = (row.first(), row.last()) else { continue };
        // SAFETY: takes numbers only; they were owned by what was passed in, and by nobody else.
        let rc = unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) };
        if rc == 0 {
            continue;
        }
        for number in row {
            // SAFETY: as above; before close_range (5.9) nothing was closed.
            drop(unsafe { OwnedFd::from_raw_fd(*number) });
        }
    }
}

static LEFT_BELOW: AtomicI32 = AtomicI32::new(0);

/// Numbers below which a cloned child may leave what it is done with open: few enough for any limit, and
/// for the table of descriptors that every process has.
pub fn room_to_leave() -> RawFd {
    // SAFETY: an all-zero `rlimit` is valid.
    let mut limit: libc::rlimit = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes one `rlimit` to the pointer.
    let rc = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if rc == 0 { RawFd::try_from((limit.rlim_cur / 2).min(64)).unwrap_or(0) } else { 0 }
}

/// From now on this process, a cloned child, leaves descriptors open; [`close_from`] closes them.
pub fn leave_below(number: RawFd) {
    LEFT_BELOW.store(number, Ordering::Relaxed);
}

/// Is done with a descriptor: closes it, or leaves that to the child's [`close_from`], which takes one
/// call for all.
pub fn leave(fd: OwnedFd) {
    if fd.as_raw_fd() < LEFT_BELOW.load(Ordering::Relaxed) {
        let _ = fd.into_raw_fd();
    }
}

/// Whether a number is a descriptor that the caller passed on to this process. Ours are not: they are
/// all marked to be closed by an exec.
pub fn is_inherited(number: u32) -> bool {
    let Ok(number) = RawFd::try_from(number) else { return false };
    // SAFETY: takes numbers only and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Makes `target` another number of `fd`, kept over exec. Nothing may own `target` in Rust's sense:
/// it is one of the standard streams.
///
/// # Errors
/// Those of dup2(2).
pub fn onto_standard(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    if fd.as_raw_fd() == target {
        // SAFETY: takes numbers only; the descriptor is borrowed, so open.
        let rc = unsafe { libc::fcntl(target, libc::F_SETFD, 0) };
        return Errno::result(rc).map(drop);
    }
    // SAFETY: replacing a standard stream breaks no owner, by this function's contract.
    let rc = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    Errno::result(rc).map(drop)
}

/// Standard input, output and error.
pub const fn standard() -> [BorrowedFd<'static>; 3] {
    // SAFETY: the number is not −1, and Rust's start-up opens the standard streams if they are
    // closed; nothing in this crate closes them.
    let stdin = unsafe { BorrowedFd::borrow_raw(0) };
    // SAFETY: as above.
    let stdout = unsafe { BorrowedFd::borrow_raw(1) };
    // SAFETY: as above.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    [stdin, stdout, stderr]
}

/// `/proc/self/fd/<number>` without the heap.
#[derive(Debug)]
pub struct FdPath {
    bytes: [u8; 32],
}

impl FdPath {
    /// The path of an open descriptor.
    pub fn new(fd: BorrowedFd<'_>) -> Self {
        const PREFIX: &[u8] = b"/proc/self/fd/";
        let mut bytes = [0; 32];
        let mut digits = [0_u8; 10];
        let mut length = 0;
        let mut rest = fd.as_raw_fd().unsigned_abs();
        loop {
            digits[length] = b'0' + (rest % 10).to_le_bytes()[0];
            length += 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        bytes[..PREFIX.len()].copy_from_slice(PREFIX);
        for (place, digit) in bytes[PREFIX.len()..].iter_mut().zip(digits[..length].iter().rev()) {
            *place = *digit;
        }
        Self { bytes }
    }

    /// As a C string.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"/proc/self/fd/")
    }
}

/// Receives one message and the descriptor beside it, if there is one. For the parent: allocates.
///
/// # Errors
/// Those of recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut vectors = [std::io::IoSliceMut::new(buffer)];
    let received = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut vectors, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptor = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            for number in numbers {
                // SAFETY: the kernel made the descriptor for this message, and nobody else has seen
                // its number.
                descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((received.bytes, descriptor))
}

/// Sends one message with at most one descriptor beside it.
///
/// # Errors
/// Those of sendmsg(2); a closed peer is `EPIPE`, without a signal.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<()> {
    #[repr(C, align(8))]
    struct Control([u8; 32]);
    let mut control = Control([0; 32]);
    let mut vector =
        libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: an all-zero `msghdr` is valid.
    let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: pure arithmetic.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as _;
        // SAFETY: the header refers to an aligned buffer with room for one control message.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: pure arithmetic.
        let length = unsafe { libc::CMSG_LEN(4) };
        // SAFETY: an all-zero `cmsghdr` is valid; musl's has padding fields, so it is not a literal.
        let mut head: libc::cmsghdr = unsafe { core::mem::zeroed() };
        head.cmsg_len = length as _;
        head.cmsg_level = libc::SOL_SOCKET;
        head.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: `first` points into `control`, which has room for a `cmsghdr` and is aligned.
        unsafe { first.write(head) };
        // SAFETY: `first` is a valid control message header.
        let data = unsafe { libc::CMSG_DATA(first) };
        // SAFETY: CMSG_SPACE(4) bytes were reserved, four of them for the data.
        unsafe { data.cast::<RawFd>().write_unaligned(fd.as_raw_fd()) };
    }
    // SAFETY: header, vector, message and control live on this frame or longer.
    let rc = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    Errno::result(rc).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn closes_rows_and_nothing_else() {
        let pipes: Vec<(OwnedFd, OwnedFd)> = (0..3).map(|_| nix::unistd::pipe().unwrap()).collect();
        let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let closed: Vec<RawFd> = writers.iter().map(|fd| fd.as_raw_fd()).collect();
        close_all(writers);
        for fd in &readers {
            assert_eq!(nix::unistd::read(fd, &mut [0]), Ok(0), "the other end is closed");
        }
        for number in closed {
            assert!(!is_inherited(number.unsigned_abs()));
        }
    }

    #[test]
    fn names_a_descriptor() {
        // SAFETY: the number is only printed, never used as a descriptor.
        let fd = unsafe { BorrowedFd::borrow_raw(1_203_450) };
        assert_eq!(FdPath::new(fd).as_c_str().to_str().unwrap(), "/proc/self/fd/1203450");
        // SAFETY: as above.
        let fd = unsafe { BorrowedFd::borrow_raw(0) };
        assert_eq!(FdPath::new(fd).as_c_str().to_str().unwrap(), "/proc/self/fd/0");
    }
}
