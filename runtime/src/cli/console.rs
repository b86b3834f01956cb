//! Terminals of containers: handed to whoever listens on `--console-socket`, or joined with our own.

use std::io::{self, IoSlice, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::sys::tty;

/// Why a terminal could not be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the process wants a terminal (process.terminal): give --console-socket")]
    Required,
    #[error("--console-socket is given, but the process wants no terminal (process.terminal)")]
    NotWanted,
    #[error("--console-socket is given without --detach: in the foreground the terminal is ours")]
    Foreground,
    #[error("connect to the socket {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("send a descriptor over the socket")]
    Send(#[source] Errno),
    #[error("put the terminal into raw mode")]
    Raw(#[source] Errno),
    #[error("wait for the terminal")]
    Poll(#[source] Errno),
}

/// Connects before anything is created, so that a wrong path costs nothing.
pub(super) fn connect(path: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(path).map_err(|source| Error::Connect { path: path.to_owned(), source })
}

/// One message: the terminal's name, and its master beside it.
pub(super) fn send(socket: &UnixStream, master: &OwnedFd) -> Result<(), Error> {
    send_named(socket, master, b"/dev/ptmx")
}

/// One message: a name, and a descriptor of the process beside it.
pub(super) fn send_process(path: &Path, pidfd: &OwnedFd) -> Result<(), Error> {
    send_named(&connect(path)?, pidfd, b"pidfd")
}

fn send_named(socket: &UnixStream, descriptor: &OwnedFd, name: &[u8]) -> Result<(), Error> {
    let descriptors = [descriptor.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    let name = [IoSlice::new(name)];
    sendmsg::<()>(socket.as_raw_fd(), &name, &message, MsgFlags::MSG_NOSIGNAL, None)
        .map_err(Error::Send)?;
    Ok(())
}

/// Our own terminal in raw mode, joined with a container's; put back when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    master: OwnedFd,
    before: Option<Termios>,
    input_open: bool,
}

impl Proxy {
    /// Puts standard input into raw mode, if it is a terminal, and takes its size over.
    pub(super) fn new(master: OwnedFd) -> Result<Self, Error> {
        let input = io::stdin();
        let before = tcgetattr(input.as_fd()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            // As runc: line feeds become two characters once, here, and not in the container, whose
            // output may go to a file.
            raw.output_flags |= OutputFlags::OPOST;
            tcsetattr(input.as_fd(), SetArg::TCSANOW, &raw).map_err(Error::Raw)?;
        }
        tty::clear_onlcr(master.as_fd()).map_err(Error::Raw)?;
        let proxy = Self { master, before, input_open: true };
        proxy.resize();
        Ok(proxy)
    }

    /// Gives the container's terminal the size of ours; one that is no terminal has none.
    pub(super) fn resize(&self) {
        if let Ok((rows, columns)) = tty::size(io::stdin().as_fd()) {
            let _ = tty::set_size(self.master.as_fd(), rows, columns);
        }
    }

    pub(super) fn master(&self) -> &OwnedFd {
        &self.master
    }

    /// Whether standard input is still worth waiting for.
    pub(super) fn input_open(&self) -> bool {
        self.input_open
    }

    /// Moves what was typed. At the end of input the container sees Ctrl-D, as a person would type.
    pub(super) fn pump_input(&mut self) {
        let mut buffer = [0; 4096];
        match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(0) => {
                self.input_open = false;
                let _ = nix::unistd::write(&self.master, &[4]);
            }
            Ok(length) => self.write_master(&buffer[..length]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.input_open = false,
        }
    }

    fn write_master(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match nix::unistd::write(&self.master, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::EINTR) => {}
                // The container's end is closed: there is nobody to type to.
                Err(_) => return,
            }
        }
    }

    /// Moves what was printed; false at its end.
    pub(super) fn pump_output(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match nix::unistd::read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::EIO) => false,
            Ok(length) => {
                let mut output = io::stdout().lock();
                output.write_all(&buffer[..length]).and_then(|()| output.flush()).is_ok()
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            Err(_) => false,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, before);
        }
    }
}
