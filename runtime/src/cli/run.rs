//! `run`: create, start, wait, delete; in the foreground the exit code is the process's.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::Error;
use super::arguments::{Given, Misuse, Opt};
use super::console::{self, Proxy};
use super::create::{Common, clean_up, give_back};
use crate::container::{Created, Listener, Stdio};
use crate::seal;

pub(super) const OPTIONS: &[Opt] = &[
    Opt::switch("detach", "Do not wait for the container's process").short('d'),
    Opt::switch("keep", "Do not delete the container after it has exited"),
    Opt::switch("no-subreaper", NO_SUBREAPER),
];
pub(super) const NO_SUBREAPER: &str =
    "Accepted for runc's callers: reparented processes always go to the host's init";

#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) common: Common,
    detach: bool,
    keep: bool,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        let common = Common::read(given)?;
        Ok(Self { common, detach: given.is_on("detach"), keep: given.is_on("keep") })
    }
}

pub(super) fn run(root: &Path, systemd_cgroup: bool, arguments: Arguments) -> Result<u8, Error> {
    let Arguments { common, detach, keep } = arguments;
    seal::ensure()?;
    let bundle = common.bundle()?;
    let socket = common.console_socket.as_deref().map(console::connect).transpose()?;
    let stdio = match (bundle.wants_terminal(), &socket) {
        (true, None) if detach => return Err(console::Error::Required.into()),
        (false, Some(_)) => return Err(console::Error::NotWanted.into()),
        (true, _) => Stdio::Terminal,
        (false, None) => Stdio::Inherit,
    };
    let (mut container, mut created) = common.create(root, bundle, stdio, systemd_cgroup)?;

    let mut terminal = created.terminal.take();
    let begin = || {
        // Taken only if there is a socket: without one it stays, for the foreground.
        if let Some(socket) = &socket
            && let Some(master) = terminal.take()
        {
            console::send(socket, &master)?;
        }
        common.tell(&created)?;
        // Blocked only now: the container's process has the caller's own mask.
        let signals = if detach { None } else { Some(block_signals()?) };
        let proxy = if detach { None } else { terminal.map(Proxy::new).transpose()? };
        let listener = container.listener()?;
        container.start()?;
        Ok::<_, Error>((signals, proxy, listener))
    };
    let (signals, proxy, listener) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            give_back(container);
            return Err(error);
        }
    };
    let Some(signals) = signals else {
        if let Some(listener) = listener {
            container.until_ready(&listener);
        }
        return Ok(0);
    };
    let send = |signal| {
        // It may have ended just now; its end is told by the pidfd.
        if let Err(error) = container.kill(signal, false) {
            log::debug!("forward signal {signal}: {}", super::describe(&error));
        }
    };
    let code = wait(&send, &created, &signals, proxy, listener)?;
    if !keep {
        clean_up(&mut container)?;
    }
    // The exit closes them at once.
    let _ = ManuallyDrop::new((container, created, signals));
    Ok(code)
}

pub(super) fn block_signals() -> Result<SignalFd, Error> {
    let all = SigSet::all();
    all.thread_block().map_err(Error::Wait)?;
    SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(Error::Wait)
}

/// Passes signals and the terminal on until the process ends; its exit code, or 128 and the signal.
pub(super) fn wait(
    send: &dyn Fn(i32),
    created: &Created,
    signals: &SignalFd,
    mut proxy: Option<Proxy>,
    mut listener: Option<Listener>,
) -> Result<u8, Error> {
    let mut output_open = true;
    loop {
        let Ready { ended, signalled, printed, typed, told } =
            ready(&created.pidfd, signals, proxy.as_ref(), output_open, listener.as_ref())?;
        if let Some(socket) = listener.take_if(|_| told) {
            match socket.pass_on(std::process::id()) {
                // Heard once: the container is not to keep us, and whoever waits, busy.
                Ok(true) => {}
                Ok(false) => listener = Some(socket),
                Err(error) => log::warn!("tell that the container is ready: {error}"),
            }
        }
        if signalled {
            forward(send, signals, proxy.as_ref());
        }
        if let Some(proxy) = &mut proxy {
            if typed {
                proxy.pump_input();
            }
            if printed {
                output_open = proxy.pump_output();
            }
        }
        // What it printed last is read before its end is told.
        if ended && !printed {
            return reap(&created.pidfd);
        }
    }
}

/// What is to be done.
struct Ready {
    ended: bool,
    signalled: bool,
    printed: bool,
    typed: bool,
    told: bool,
}

/// Waits until something is to be done.
fn ready(
    process: &OwnedFd,
    signals: &SignalFd,
    proxy: Option<&Proxy>,
    output_open: bool,
    listener: Option<&Listener>,
) -> Result<Ready, Error> {
    let stdin = std::io::stdin();
    let mut watched = vec![
        PollFd::new(process.as_fd(), PollFlags::POLLIN),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    let output = proxy.filter(|_| output_open).map(|proxy| {
        watched.push(PollFd::new(proxy.master().as_fd(), PollFlags::POLLIN));
        watched.len() - 1
    });
    let input = proxy.filter(|proxy| proxy.input_open()).map(|_| {
        watched.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        watched.len() - 1
    });
    let words = listener.map(|listener| {
        watched.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        watched.len() - 1
    });
    match poll(&mut watched, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(console::Error::Poll(errno).into()),
    }
    let is_ready = |index: usize| watched.get(index).and_then(PollFd::any).unwrap_or(false);
    Ok(Ready {
        ended: is_ready(0),
        signalled: is_ready(1),
        printed: output.is_some_and(is_ready),
        typed: input.is_some_and(is_ready),
        told: words.is_some_and(is_ready),
    })
}

fn forward(send: &dyn Fn(i32), signals: &SignalFd, proxy: Option<&Proxy>) {
    while let Ok(Some(signal)) = signals.read_signal() {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        match number {
            libc::SIGCHLD | libc::SIGURG => {}
            libc::SIGWINCH if proxy.is_some() => {
                if let Some(proxy) = proxy {
                    proxy.resize();
                }
            }
            number => send(number),
        }
    }
}

pub(super) fn reap(process: &OwnedFd) -> Result<u8, Error> {
    loop {
        match waitid(Id::PIDFd(process.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Ok(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ok(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Wait(errno)),
        }
    }
}
