//! Flags of network interfaces.

use super::{Errno, Result};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// `IFF_UP | IFF_RUNNING` in the type of the field.
const UP_AND_RUNNING: libc::c_short = 0x41;

/// Sets `lo` of the current network namespace up.
///
/// # Errors
/// Those of socket(2) and `SIOCSIFFLAGS`, netdevice(7).
pub fn loopback_up() -> Result<()> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero `ifreq` is valid.
    let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed() as _;
    }
    request.ifr_ifru.ifru_flags = UP_AND_RUNNING;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, whose name is terminated by the zeroes behind it.
    let rc =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    super::fd::leave(socket);
    Errno::result(rc).map(drop)
}
