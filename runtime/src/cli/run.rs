//! `run`: create, start, and unless detached wait: signals are passed on, the terminal is copied, and
//! the exit code is the program's.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::{
    Error,
    args::RunArgs,
    create::{connect, finish, hand_out, make, protect, write_pid},
    terminal::{Raw, copy_size},
};
use crate::{
    container::{Container, Created, Stdio},
    sys::{self, process},
};

/// Runs a container; the result is the exit code.
pub(super) fn run(root: &Path, arguments: &RunArgs) -> Result<u8, Error> {
    protect()?;
    let create = &arguments.create;
    let socket = create.console_socket.as_deref().map(connect).transpose()?;
    if socket.is_some() && !arguments.detach {
        return Err(Error::Usage("--console-socket needs --detach".into()));
    }
    let system = |operation| move |source| Error::System { operation, source };
    // Before the container exists, so that no signal is lost in between; its own are reset.
    let signals = if arguments.detach {
        None
    } else {
        let mut set = SigSet::all();
        for fatal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE] {
            set.remove(fatal);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(system("block signals"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Some(SignalFd::with_flags(&set, flags).map_err(system("receive signals"))?)
    };
    let stdio = if socket.is_some() { Stdio::Terminal } else { Stdio::Inherit };
    let (container, created) = make(root, create, stdio)?;
    let handed = match (&created.terminal, &socket) {
        (Some(_), Some(socket)) => hand_out(&created, socket),
        (Some(_), None) if arguments.detach => {
            Err(Error::Usage("process.terminal is true: --detach needs --console-socket".into()))
        }
        _ => Ok(()),
    };
    let mut container = finish(container, handed.and_then(|()| write_pid(create, created.pid)))?;
    if let Err(error) = container.start() {
        return finish(container, Err(error.into())).map(|_| 1);
    }
    let Some(signals) = signals else { return Ok(0) };
    let code = attend(&created, &signals).map_err(system("wait for the container"));
    if !arguments.keep {
        // By force: without a pid namespace others of its processes may be left, as with runc.
        Container::load(root, &create.id)?.delete(true)?;
    }
    code
}

/// Passes signals and terminal bytes on until the program has ended; then returns its code.
fn attend(created: &Created, signals: &SignalFd) -> Result<u8, Errno> {
    let raw = created.terminal.as_ref().and_then(|master| {
        copy_size(master.as_fd());
        Raw::enter()
    });
    let mut terminal = created.terminal.as_ref().map(|master| Terminal {
        master,
        input_open: true,
        output_open: true,
    });
    let [stdin, ..] = sys::fd::standard();
    loop {
        let mut waits = vec![
            PollFd::new(created.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = terminal.as_ref().filter(|terminal| terminal.output_open) {
            waits.push(PollFd::new(terminal.master.as_fd(), PollFlags::POLLIN));
            if terminal.input_open {
                waits.push(PollFd::new(stdin, PollFlags::POLLIN));
            }
        }
        match poll(&mut waits, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ready = |index: usize| {
            waits.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        let (ended, signalled, output, input) = (ready(0), ready(1), ready(2), ready(3));
        if let Some(terminal) = &mut terminal {
            if input {
                terminal.input_open = copy(stdin, terminal.master.as_fd())?;
            }
            if output {
                terminal.output_open = terminal.take()?;
            }
        }
        if signalled {
            forward(created, signals)?;
        }
        if ended {
            if let Some(terminal) = &mut terminal {
                terminal.drain()?;
            }
            drop(raw);
            return exit_code(&created.pidfd);
        }
    }
}

struct Terminal<'a> {
    master: &'a OwnedFd,
    input_open: bool,
    output_open: bool,
}

impl Terminal<'_> {
    /// Copies what there is; `false` when no process has the terminal open any more.
    fn take(&self) -> Result<bool, Errno> {
        let [_, stdout, _] = sys::fd::standard();
        match copy(self.master.as_fd(), stdout) {
            Err(Errno::EIO) => Ok(false),
            other => other,
        }
    }

    /// Copies the rest.
    fn drain(&mut self) -> Result<(), Errno> {
        while self.output_open {
            let mut wait = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wait, PollTimeout::ZERO)? == 0 {
                break;
            }
            self.output_open = self.take()?;
        }
        Ok(())
    }
}

/// Copies once; `false` at the end of the input.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffer = [0; 16 * 1024];
    let count = match nix::unistd::read(from, &mut buffer) {
        Err(Errno::EINTR | Errno::EAGAIN) => return Ok(true),
        other => other?,
    };
    let mut rest = buffer.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(count > 0)
}

fn forward(created: &Created, signals: &SignalFd) -> Result<(), Errno> {
    while let Some(signal) = signals.read_signal()? {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        match number {
            // Ours: children of the runtime, such as hooks.
            libc::SIGCHLD => {}
            libc::SIGWINCH => {
                if let Some(master) = &created.terminal {
                    copy_size(master.as_fd());
                }
            }
            number => match process::pidfd_send_signal(created.pidfd.as_fd(), number) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => log::warn!("pass on signal {number}: {}", io::Error::from(errno)),
            },
        }
    }
    Ok(())
}

/// The program's code, or 128 plus the signal that ended it.
fn exit_code(pidfd: &OwnedFd) -> Result<u8, Errno> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
