//! `create`: everything but the user's program.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Error, console};
use crate::container::{Bundle, Container, Create, Created, Service, Stdio};
use crate::rootless::Rootless;
use crate::seal;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
}

/// What `create` and `run` share.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Root of the bundle directory; the current directory by default
    #[arg(long, short, value_name = "DIR")]
    pub(super) bundle: Option<PathBuf>,
    /// Unix socket that receives the master of the console's pseudoterminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Unix socket that receives a descriptor of the container's process
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Do not use pivot_root; for a root file system on a ramdisk
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Pass this many descriptors from 3 and $LISTEN_FDS on to the process
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// What the global option says
    #[arg(skip)]
    pub(super) rootless: Rootless,
    /// Name of the container, unique on this host
    #[arg(value_name = "container-id")]
    pub(super) id: String,
}

pub(super) fn run(root: &Path, systemd_cgroup: bool, arguments: Arguments) -> Result<u8, Error> {
    let Arguments { common } = arguments;
    seal::ensure()?;
    let bundle = common.bundle()?;
    let socket = common.console_socket.as_deref().map(console::connect).transpose()?;
    let stdio = match (bundle.wants_terminal(), &socket) {
        (true, Some(_)) => Stdio::Terminal,
        (true, None) => return Err(console::Error::Required.into()),
        (false, Some(_)) => return Err(console::Error::NotWanted.into()),
        (false, None) => Stdio::Inherit,
    };
    let (container, created) = common.create(root, bundle, stdio, systemd_cgroup)?;
    let finish = || {
        if let (Some(socket), Some(master)) = (&socket, &created.terminal) {
            console::send(socket, master)?;
        }
        common.tell(&created)
    };
    match finish() {
        Ok(()) => Ok(0),
        Err(error) => {
            give_back(container);
            Err(error)
        }
    }
}

/// Deletes a container whose creation could not be finished; why it failed matters more than why
/// this does.
pub(super) fn give_back(mut container: Container) {
    if let Err(error) = container.delete(true) {
        log::warn!("{}", super::describe(&error));
    }
}

impl Common {
    pub(super) fn bundle(&self) -> Result<Bundle, Error> {
        Ok(match &self.bundle {
            Some(bundle) => Bundle::open(bundle)?,
            None => Bundle::open(&std::env::current_dir().map_err(Error::CurrentDirectory)?)?,
        })
    }

    pub(super) fn create(
        &self,
        root: &Path,
        bundle: Bundle,
        stdio: Stdio,
        systemd_cgroup: bool,
    ) -> Result<(Container, Created), Error> {
        // Until it executes the user's program, nothing in the container may trace or dump us.
        nix::sys::prctl::set_dumpable(false).map_err(Error::Dumpable)?;
        let service = Service::ours();
        let create = Create {
            root,
            id: &self.id,
            stdio,
            preserve_fds: self.preserve_fds.saturating_add(service.sockets),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            restore: None,
            service,
            rootless: self.rootless,
            systemd_cgroup,
        };
        Ok(Container::create(bundle, create)?)
    }

    /// Tells of the process as was asked for.
    pub(super) fn tell(&self, created: &Created) -> Result<(), Error> {
        tell(created, self.pidfd_socket.as_deref(), self.pid_file.as_deref())
    }
}

/// Sends a descriptor of a process, and writes its number.
pub(super) fn tell(
    created: &Created,
    pidfd_socket: Option<&Path>,
    pid_file: Option<&Path>,
) -> Result<(), Error> {
    if let Some(path) = pidfd_socket {
        console::send_process(path, &created.pidfd)?;
    }
    pid_file.map_or(Ok(()), |path| write_pid(path, created.pid))
}

/// Written beside and renamed, so that a reader never sees half a number.
fn write_pid(path: &Path, pid: i32) -> Result<(), Error> {
    let fail = |source| Error::PidFile { path: path.to_owned(), source };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = std::fs::File::create(&temporary).map_err(fail)?;
    file.write_all(pid.to_string().as_bytes()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)
}
