//! What a runtime that is a service of systemd hands on to the container, as runc does it: the
//! sockets it was activated with (sd_listen_fds(3)), and a way to say that it is ready (sd_notify(3)).
//!
//! The container's messages arrive at a socket in the container's own directory, which is mounted
//! read-only into it. Of what comes there only readiness is passed on, with the number of the main
//! process as the host sees it; everything else is the container's word, and stays unheard.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::{fs, io};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use crate::{process::hooks::open_directory, spec, sys};

const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the directory is in the container.
const INSIDE: &str = "/run/notify";
/// A longer message is no readiness.
const MESSAGE: usize = 4096;
/// How long systemd may take to read what it is told, in milliseconds; as in runc.
const PATIENCE: u16 = 30_000;

/// What there is to hand on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Service {
    /// Activated sockets, which are the first descriptors from 3 on.
    pub sockets: u32,
    /// Whether somebody waits for the container to be ready.
    pub notify: bool,
}

impl Service {
    /// By the environment that systemd gave us.
    pub fn ours() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let sockets = match number("LISTEN_PID") {
            Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
            _ => 0,
        };
        Self { sockets, notify: host().is_some() }
    }

    /// Variables that tell the process of the sockets.
    fn variables(self) -> Vec<String> {
        if self.sockets == 0 {
            return Vec::new();
        }
        vec![format!("LISTEN_FDS={}", self.sockets), "LISTEN_PID=1".to_owned()]
    }

    /// Adds what the container needs to its configuration.
    pub(super) fn add_to(self, spec: &mut spec::Spec, directory: &Path) {
        let mut variables = self.variables();
        if self.notify {
            spec.mounts.push(spec::Mount {
                destination: INSIDE.into(),
                kind: None,
                source: Some(directory.join(DIRECTORY)),
                options: ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec(),
                uid_mappings: None,
                gid_mappings: None,
            });
            variables.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
        }
        if let Some(process) = &mut spec.process {
            process.env.extend(variables);
        }
    }

    /// Makes what that names in the container's directory.
    pub(super) fn prepare(self, directory: &Path) -> io::Result<()> {
        if self.notify {
            fs::DirBuilder::new().mode(0o755).create(directory.join(DIRECTORY))?;
        }
        Ok(())
    }
}

fn host() -> Option<OsString> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())
}

/// Where a container says that it is ready, and who wants to know.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
    host: OsString,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Opens it for a container that was created with one; nothing where nobody wants to know.
    pub(super) fn open(container: &Path) -> io::Result<Option<Self>> {
        let Some(host) = host() else { return Ok(None) };
        let directory = match open_directory(&container.join(DIRECTORY)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        // Not by its own path, which may be longer than an address.
        let path = sys::fd::FdPath::new(directory.as_fd());
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_c_str().to_bytes())).join(SOCKET);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(&path)?;
        // The container's user may be any.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(Some(Self { socket, host }))
    }

    /// Takes one message; passes it on if it is readiness, and tells whether it was.
    pub(crate) fn pass_on(&self, main: u32) -> io::Result<bool> {
        let mut buffer = [0; MESSAGE];
        let length = self.socket.recv(&mut buffer)?;
        let mut lines = buffer.get(..length).unwrap_or_default().split(|byte| *byte == b'\n');
        let Some(ready) = lines.find(|line| line.starts_with(b"READY=")) else { return Ok(false) };
        let bytes = self.host.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&self.host)?,
        };
        let host = UnixDatagram::unbound()?;
        host.connect_addr(&address)?;
        host.send(&[ready, b"\n"].concat())?;
        host.send(format!("MAINPID={main}\n").as_bytes())?;
        barrier(&host)?;
        Ok(true)
    }

    /// Waits until the container is ready, or that process has ended.
    pub(super) fn wait(&self, process: BorrowedFd<'_>, main: u32) -> io::Result<()> {
        loop {
            let mut watched = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(process, PollFlags::POLLIN),
            ];
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [message, end] = watched;
            if message.any() == Some(true) {
                if self.pass_on(main)? {
                    return Ok(());
                }
            } else if end.any() == Some(true) {
                return Ok(());
            }
        }
    }
}

/// Waits until what was sent has been read: of a sender that is gone systemd cannot tell whose word it
/// was (sd_notify_barrier(3)).
fn barrier(host: &UnixDatagram) -> io::Result<()> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    sys::fd::send(host.as_fd(), b"BARRIER=1", Some(theirs.as_fd()))?;
    drop(theirs);
    let mut watched = [PollFd::new(ours.as_fd(), PollFlags::empty())];
    match poll(&mut watched, PollTimeout::from(PATIENCE)) {
        Ok(0) => log::debug!("nobody has read that the container is ready"),
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_container_gets_socket_and_variables() {
        let mut spec: spec::Spec = serde_json::from_value(
            serde_json::json!({"ociVersion": "1.0.0", "process": {"cwd": "/"}}),
        )
        .unwrap();
        Service { sockets: 2, notify: true }.add_to(&mut spec, Path::new("/run/x/box"));
        let env = spec.process.unwrap().env;
        assert_eq!(env, ["LISTEN_FDS=2", "LISTEN_PID=1", "NOTIFY_SOCKET=/run/notify/notify.sock"]);
        let [mount] = spec.mounts.as_slice() else { panic!("one mount") };
        assert_eq!(mount.source.as_deref(), Some(Path::new("/run/x/box/notify")));
        assert!(Service::default().variables().is_empty());
    }
}
