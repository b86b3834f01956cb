//! Pseudo terminals.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use super::{Errno, Result};

/// Opens the other end of a pty master, without a path, and lets it be used.
///
/// # Errors
/// Those of `TIOCSPTLCK` and `TIOCGPTPEER`, ioctl_tty(2).
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let rc = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlock) };
    Errno::result(rc)?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the descriptor is new and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a terminal the controlling one of this session.
///
/// # Errors
/// Those of `TIOCSCTTY`.
pub fn set_controlling(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number by value.
    let rc = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) };
    Errno::result(rc).map(drop)
}

/// Sets the size in characters.
///
/// # Errors
/// Those of `TIOCSWINSZ`.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize`.
    let rc = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) };
    Errno::result(rc).map(drop)
}

/// The size in characters: rows, columns.
///
/// # Errors
/// Those of `TIOCGWINSZ`.
pub fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`.
    let rc = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ as _, &raw mut size) };
    Errno::result(rc)?;
    Ok((size.ws_row, size.ws_col))
}

/// Stops the terminal from turning line feeds into carriage return and line feed, for a reader at
/// the master's end whose own terminal does that.
///
/// # Errors
/// Those of tcgetattr(3) and tcsetattr(3).
pub fn clear_onlcr(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: an all-zero `termios` is valid.
    let mut settings: libc::termios = unsafe { core::mem::zeroed() };
    // SAFETY: writes one `termios`.
    let rc = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) };
    Errno::result(rc)?;
    settings.c_oflag &= !libc::ONLCR;
    // SAFETY: reads one `termios`.
    let rc = unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings) };
    Errno::result(rc).map(drop)
}
