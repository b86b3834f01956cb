//! `restore`: brings a container back that `checkpoint` saved; in the foreground the exit code is the
//! process's.

use std::path::{Path, PathBuf};

use clap::Args;

use super::checkpoint;
use super::console::{self, Proxy};
use super::create::{give_back, tell};
use super::{Error, run as foreground};
use crate::container::{Bundle, Container, Create, Restore, Service, Stdio};
use crate::rootless::Rootless;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    common: checkpoint::Common,
    /// Root of the bundle directory; the current directory by default
    #[arg(long, short, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Unix socket that receives the master of the console's pseudoterminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Do not wait for the container's process
    #[arg(long, short)]
    detach: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Accepted for runc's callers: reparented processes always go to the host's init
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted for runc's callers: CRIU changes the root in its own way
    #[arg(long)]
    no_pivot: bool,
    /// Profile of a Linux security module to restore with
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// SELinux context of the restored mounts
    #[arg(long, value_name = "CONTEXT")]
    lsm_mount_context: Option<String>,
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
    container.delete(true)?;
    Ok(code)
}
