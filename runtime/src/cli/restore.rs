//! `restore`: brings a container back that `checkpoint` saved; in the foreground the exit code is the
//! process's.

use std::path::{Path, PathBuf};

use super::arguments::{Given, Misuse, Opt};
use super::checkpoint;
use super::console::{self, Proxy};
use super::create::{BUNDLE, CONSOLE_SOCKET, PID_FILE, clean_up, give_back, tell};
use super::{Error, run as foreground};
use crate::container::{Bundle, Container, Create, Restore, Service, Stdio};
use crate::rootless::Rootless;

pub(super) const OPTIONS: &[Opt] = &[
    BUNDLE,
    CONSOLE_SOCKET,
    Opt::switch("detach", "Do not wait for the container's process").short('d'),
    PID_FILE,
    Opt::switch("no-subreaper", foreground::NO_SUBREAPER),
    Opt::switch("no-pivot", "Accepted for runc's callers: CRIU changes the root in its own way"),
    Opt::value("lsm-profile", "TYPE:NAME", "Profile of a Linux security module to restore with"),
    Opt::value("lsm-mount-context", "CONTEXT", "SELinux context of the restored mounts"),
];

#[derive(Debug)]
pub(super) struct Arguments {
    common: checkpoint::Common,
    bundle: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    detach: bool,
    pid_file: Option<PathBuf>,
    lsm_profile: Option<String>,
    lsm_mount_context: Option<String>,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self {
            common: checkpoint::Common::read(given)?,
            bundle: given.path("bundle")?,
            console_socket: given.path("console-socket")?,
            detach: given.is_on("detach"),
            pid_file: given.path("pid-file")?,
            lsm_profile: given.text("lsm-profile")?,
            lsm_mount_context: given.text("lsm-mount-context")?,
        })
    }
}

pub(super) fn run(
    root: &Path,
    systemd_cgroup: bool,
    criu: &Path,
    arguments: Arguments,
) -> Result<u8, Error> {
    let Arguments { common, detach, pid_file, .. } = &arguments;
    common.find_images()?;
    common.make_work()?;
    let bundle = match &arguments.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(Error::CurrentDirectory)?,
    };
    let bundle = Bundle::open(&bundle)?;
    match (bundle.wants_terminal(), &arguments.console_socket) {
        (true, None) if *detach => return Err(console::Error::Required.into()),
        (false, Some(_)) => return Err(console::Error::NotWanted.into()),
        _ => {}
    }
    let socket = arguments.console_socket.as_deref().map(console::connect).transpose()?;
    let restore = Restore {
        options: common.options(criu),
        lsm_profile: arguments.lsm_profile.as_deref(),
        lsm_mount_context: arguments.lsm_mount_context.as_deref(),
    };
    // Before it runs: a signal that comes as soon as it does is for it, and must not end us.
    let signals = if *detach { None } else { Some(foreground::block_signals()?) };
    let create = Create {
        root,
        id: &common.id,
        stdio: Stdio::Inherit,
        preserve_fds: 0,
        no_pivot: false,
        no_new_keyring: false,
        restore: Some(&restore),
        rootless: Rootless::Auto,
        service: Service::default(),
        systemd_cgroup,
    };
    let (mut container, mut created) = Container::create(bundle, create)?;
    let mut terminal = created.terminal.take();
    let begin = || {
        if let Some(socket) = &socket
            && let Some(master) = terminal.take()
        {
            console::send(socket, &master)?;
        }
        tell(&created, None, pid_file.as_deref())?;
        terminal.map(Proxy::new).transpose().map_err(Error::from)
    };
    let proxy = match begin() {
        Ok(proxy) => proxy,
        Err(error) => {
            give_back(container);
            return Err(error);
        }
    };
    let Some(signals) = signals else { return Ok(0) };
    let send = |signal| {
        // It may have ended just now; its end is told by the pidfd.
        if let Err(error) = container.kill(signal, false) {
            log::debug!("forward signal {signal}: {}", super::describe(&error));
        }
    };
    let code = foreground::wait(&send, &created, &signals, proxy, None)?;
    clean_up(&mut container)?;
    Ok(code)
}
