//! `create`: everything but the user's program.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::arguments::{Given, Misuse, Opt, number};
use super::{Error, console};
use crate::container::{Bundle, Container, Create, Created, Service, Stdio};
use crate::rootless::Rootless;
use crate::{container, seal, sys};

pub(super) const BUNDLE: Opt =
    Opt::value("bundle", "DIR", "Root of the bundle directory; the current directory by default")
        .short('b');
pub(super) const CONSOLE_SOCKET: Opt = Opt::value(
    "console-socket",
    "SOCKET",
    "Unix socket that receives the master of the console's pseudoterminal",
);
pub(super) const PID_FILE: Opt = Opt::value("pid-file", "FILE", "File to write the process id to");

/// What `create` and `run` share.
pub(super) const OPTIONS: &[Opt] = &[
    BUNDLE,
    CONSOLE_SOCKET,
    Opt::value(
        "pidfd-socket",
        "SOCKET",
        "Unix socket that receives a descriptor of the container's process",
    ),
    PID_FILE,
    Opt::switch("no-pivot", "Do not use pivot_root; for a root file system on a ramdisk"),
    Opt::switch("no-new-keyring", "Keep the caller's session keyring"),
    Opt::value(
        "preserve-fds",
        "N",
        "Pass this many descriptors from 3 and $LISTEN_FDS on to the process [default: 0]",
    ),
];
pub(super) const WORDS: &[(&str, &str)] =
    &[("<container-id>", "Name of the container, unique on this host")];

/// What `create` and `run` share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) bundle: Option<PathBuf>,
    pub(super) console_socket: Option<PathBuf>,
    pub(super) pidfd_socket: Option<PathBuf>,
    pub(super) pid_file: Option<PathBuf>,
    pub(super) no_pivot: bool,
    pub(super) no_new_keyring: bool,
    pub(super) preserve_fds: u32,
    /// What the global option says.
    pub(super) rootless: Rootless,
    pub(super) id: String,
}

impl Common {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self {
            bundle: given.path("bundle")?,
            console_socket: given.path("console-socket")?,
            pidfd_socket: given.path("pidfd-socket")?,
            pid_file: given.path("pid-file")?,
            no_pivot: given.is_on("no-pivot"),
            no_new_keyring: given.is_on("no-new-keyring"),
            preserve_fds: given.parsed("preserve-fds", number)?.unwrap_or(0),
            rootless: Rootless::default(),
            id: given.id()?,
        })
    }
}

pub(super) fn run(root: &Path, systemd_cgroup: bool, common: Common) -> Result<u8, Error> {
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

/// What a caller means to pass on must be there: otherwise our own would take its numbers, and with
/// them lead out of the container (CVE-2024-21626).
pub(super) fn preserved(count: u32) -> Result<(), Error> {
    for number in 3..count.saturating_add(3) {
        if !sys::fd::is_inherited(number) {
            return Err(Error::Descriptor { number, count });
        }
    }
    Ok(())
}

/// Deletes a container that has ended; another command may have done so before.
pub(super) fn clean_up(container: &mut Container) -> Result<(), Error> {
    match container.delete(true) {
        Err(container::Error::NotFound { id }) => {
            log::debug!("container {id} has been deleted already");
            Ok(())
        }
        other => Ok(other?),
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
        let preserve_fds = self.preserve_fds.saturating_add(service.sockets);
        preserved(preserve_fds)?;
        let create = Create {
            root,
            id: &self.id,
            stdio,
            preserve_fds,
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
    // In a directory that others write to, a link may lie there.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let mut file = std::fs::File::create_new(&temporary).map_err(fail)?;
    file.write_all(pid.to_string().as_bytes()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)
}
