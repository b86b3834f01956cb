//! Our terminal between raw and cooked, and the container's beside it.

use std::os::fd::{AsFd as _, BorrowedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::sys::{self, tty};

/// Our terminal in raw mode, until dropped.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Takes over standard input, if it is a terminal.
    pub(super) fn enter() -> Option<Self> {
        let [stdin, ..] = sys::fd::standard();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        // The container's terminal turns no line feed into two characters, so ours has to.
        raw.output_flags |= nix::sys::termios::OutputFlags::OPOST;
        tcsetattr(stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let [stdin, ..] = sys::fd::standard();
        // The terminal may be gone; then it needs no repair.
        let _ = tcsetattr(stdin, SetArg::TCSANOW, &self.before);
    }
}

/// Gives the container's terminal the size of ours.
pub(super) fn copy_size(master: BorrowedFd<'_>) {
    let [stdin, ..] = sys::fd::standard();
    if let Ok((rows, columns)) = tty::size(stdin.as_fd())
        && let Err(errno) = tty::set_size(master, rows, columns)
    {
        log::debug!("resize the container's terminal: {errno}");
    }
}
