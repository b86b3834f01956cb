//! Starting monitors: the sealed copy of `lighter-runtime`, the listening socket, the process.
//!
//! The copy is made once per agent and every monitor is executed from it, so that its pages are
//! shared and no container can overwrite it through `/proc/<pid>/exe` (CVE-2019-5736).
//!
//! The listening socket becomes the monitor's descriptor 0. Standard input is the one descriptor
//! that a threaded process can hand to one child only without code between fork and exec.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use protocol::monitor::UserMaps;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Error, LOG, SOCKET};

/// Connections that wait for the worker to accept: agent, an `exec` or two, readers of state.
const BACKLOG: i32 = 16;

/// The sealed `lighter-runtime`.
#[derive(Debug)]
pub struct Program {
    sealed: OwnedFd,
}

/// What a monitor is started for.
#[derive(Debug, Clone, Copy)]
pub struct Spawn<'a> {
    /// T
    pub task: &'a Path,
    /// R; exists.
    pub run: &'a Path,
    /// A network namespace of the task's own.
    pub new_network: bool,
    /// A user namespace of the task's own, with these maps.
    pub user_maps: Option<&'a UserMaps>,
    /// Cgroup of the monitor itself, absolute below the cgroup mount.
    pub cgroup: Option<&'a str>,
    /// Take over what an earlier monitor of the run directory left.
    pub adopt: bool,
}

impl Program {
    /// Finds and seals `lighter-runtime`.
    ///
    /// # Errors
    /// If it is nowhere, unreadable, or there is no memory for it.
    pub fn load() -> Result<Self, Error> {
        Self::seal(&locate()?)
    }

    /// Copies `path` into memory that nobody can change any more.
    ///
    /// # Errors
    /// If the file cannot be read or the kernel has no sealable memory files.
    pub fn seal(path: &Path) -> Result<Self, Error> {
        let fail = |source: std::io::Error| Error::Seal { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(fail)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // MFD_EXEC is of Linux 6.3; before it every memory file is executable.
        let sealed = rustix::fs::memfd_create("lighter-runtime", flags | MemfdFlags::EXEC)
            .or_else(|_| rustix::fs::memfd_create("lighter-runtime", flags))
            .map_err(|e| fail(e.into()))?;
        let mut copy = File::from(sealed);
        std::io::copy(&mut file, &mut copy).map_err(fail)?;
        let sealed = OwnedFd::from(copy);
        rustix::fs::fchmod(&sealed, Mode::from_raw_mode(0o755)).map_err(|e| fail(e.into()))?;
        rustix::fs::fcntl_add_seals(
            &sealed,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )
        .map_err(|e| fail(e.into()))?;
        Ok(Self { sealed })
    }

    /// Binds `R/monitor.sock` and starts the monitor behind it. Connecting works from the moment
    /// this returns, also before the monitor runs.
    ///
    /// # Errors
    /// If the socket cannot be bound or the process not be started.
    pub fn spawn(&self, spawn: Spawn<'_>) -> Result<Child, Error> {
        let listener = bind(spawn.run)?;
        let fail = |source: std::io::Error| Error::Spawn { path: spawn.task.to_owned(), source };
        let log =
            File::options().create(true).append(true).open(spawn.run.join(LOG)).map_err(fail)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.sealed.as_raw_fd()));
        command
            .arg0("lighter-runtime")
            .arg("monitor")
            .arg("--task-dir")
            .arg(spawn.task)
            .arg("--run-dir")
            .arg(spawn.run)
            .args(["--listen-fd", "0"])
            .env_clear()
            .envs(std::env::vars_os().filter(|(key, _)| key == "LIGHTER_LOG"))
            .current_dir("/")
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log));
        if spawn.new_network {
            command.arg("--new-network");
        }
        if let Some(maps) = spawn.user_maps {
            let maps = serde_json::to_string(maps).map_err(|error| fail(error.into()))?;
            command.arg("--user-namespace").arg(maps);
        }
        if spawn.adopt {
            command.arg("--adopt");
        }
        if let Some(cgroup) = spawn.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.spawn().map_err(fail)
    }
}

/// Reaps the guardian when it ends. It lives on if this process ends first.
pub fn reap(mut child: Child) {
    tokio::spawn(async move {
        let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
        else {
            return;
        };
        // The child is ours and not yet waited for, so the number is still its own.
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            && let Ok(pidfd) = crate::sys::register(pidfd)
        {
            let _ = pidfd.readable().await;
        }
        match tokio::task::spawn_blocking(move || child.wait()).await {
            Ok(Ok(status)) if !status.success() => {
                tracing::warn!(pid = pid.as_raw_nonzero().get(), %status, "a monitor's guardian ended");
            }
            _ => {}
        }
    });
}

/// The path of the monitor's socket through the run directory's descriptor: the run directory may
/// lie deeper than the 108 bytes of a socket address.
pub(super) fn address(run: &Path) -> Result<(OwnedFd, SocketAddrUnix), Error> {
    let fail =
        |e: rustix::io::Errno| Error::RunDirectory { path: run.to_owned(), source: e.into() };
    let directory =
        rustix::fs::open(run, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(fail)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
        .map_err(fail)?;
    Ok((directory, address))
}

fn bind(run: &Path) -> Result<OwnedFd, Error> {
    let path = run.join(SOCKET);
    let fail = |e: rustix::io::Errno| Error::Bind { path: path.clone(), source: e.into() };
    let (directory, address) = address(run)?;
    match rustix::fs::unlinkat(&directory, SOCKET, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(fail(e)),
    }
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(fail)?;
    rustix::net::bind(&socket, &address).map_err(fail)?;
    rustix::net::listen(&socket, BACKLOG).map_err(fail)?;
    Ok(socket)
}

/// `LIGHTER_RUNTIME`, else beside this executable, else on PATH.
fn locate() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().unwrap_or_default();
    find(std::env::var_os("LIGHTER_RUNTIME").as_deref(), &own, std::env::var_os("PATH").as_deref())
}

fn find(variable: Option<&OsStr>, own: &Path, search: Option<&OsStr>) -> Result<PathBuf, Error> {
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let beside = own.with_file_name("lighter-runtime");
    if beside.is_file() {
        return Ok(beside);
    }
    search
        .into_iter()
        .flat_map(std::env::split_paths)
        .map(|directory| directory.join("lighter-runtime"))
        .find(|path| path.is_file())
        .ok_or(Error::NoRuntime { beside })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_sought_by_variable_then_beside_then_on_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("bin/lighter");
        let other = directory.path().join("other");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let search = Some(other.as_os_str());
        assert!(matches!(find(None, &own, search), Err(Error::NoRuntime { .. })));
        std::fs::write(other.join("lighter-runtime"), "").unwrap();
        assert_eq!(find(None, &own, search).unwrap(), other.join("lighter-runtime"));
        let beside = own.with_file_name("lighter-runtime");
        std::fs::write(&beside, "").unwrap();
        assert_eq!(find(None, &own, search).unwrap(), beside);
        assert_eq!(find(Some(OsStr::new("/x")), &own, search).unwrap(), Path::new("/x"));
    }

    #[test]
    fn a_sealed_program_runs_and_cannot_be_written() {
        let program = Program::seal(Path::new("/bin/true")).unwrap();
        let refused = rustix::io::write(&program.sealed, b"x").unwrap_err();
        assert_eq!(refused, rustix::io::Errno::PERM);
        let path = format!("/proc/self/fd/{}", program.sealed.as_raw_fd());
        assert!(Command::new(path).status().unwrap().success());
    }

    #[test]
    fn a_socket_is_bound_below_a_path_longer_than_an_address() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("d".repeat(120));
        std::fs::create_dir(&run).unwrap();
        let _listener = bind(&run).unwrap();
        let (_directory, address) = address(&run).unwrap();
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        let _again = bind(&run).unwrap();
    }
}
