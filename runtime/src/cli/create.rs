//! `create`.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Error, args::CreateArgs};
use crate::{
    container::{Container, Create, Created, Stdio},
    seal, sys,
};

/// Creates a container and hands its terminal out.
pub(super) fn create(root: &Path, arguments: &CreateArgs) -> Result<(), Error> {
    protect()?;
    let socket = arguments.console_socket.as_deref().map(connect).transpose()?;
    let stdio = if socket.is_some() { Stdio::Terminal } else { Stdio::Inherit };
    let (container, created) = make(root, arguments, stdio)?;
    let handed = match (&created.terminal, &socket) {
        (None, _) => Ok(()),
        (Some(_), Some(socket)) => hand_out(&created, socket),
        (Some(_), None) => Err(Error::Usage(
            "process.terminal is true: give --console-socket, or use run in the foreground".into(),
        )),
    };
    finish(container, handed.and_then(|()| write_pid(arguments, created.pid))).map(drop)
}

/// Seals the program and hides our memory and descriptors from the container's processes.
pub(super) fn protect() -> Result<(), Error> {
    seal::ensure().map_err(Error::Seal)?;
    sys::set_dumpable(false)
        .map_err(|source| Error::System { operation: "become non-dumpable", source })
}

/// Creates by the library.
pub(super) fn make(
    root: &Path,
    arguments: &CreateArgs,
    stdio: Stdio,
) -> Result<(Container, Created), Error> {
    Ok(Container::create(Create {
        root,
        id: &arguments.id,
        bundle: &arguments.bundle,
        stdio,
        preserve_fds: arguments.preserve_fds,
        no_pivot: arguments.no_pivot,
        no_new_keyring: arguments.no_new_keyring,
    })?)
}

/// Removes the container if what came after its creation failed.
pub(super) fn finish(container: Container, done: Result<(), Error>) -> Result<Container, Error> {
    match done {
        Ok(()) => Ok(container),
        Err(error) => {
            if let Err(left) = container.delete(true) {
                log::warn!("after a failed creation: {}", super::chain(&left));
            }
            Err(error)
        }
    }
}

pub(super) fn connect(path: &Path) -> Result<UnixStream, Error> {
    UnixStream::connect(path).map_err(|source| Error::File {
        operation: "connect to console socket",
        path: path.to_owned(),
        source,
    })
}

/// Sends the terminal's master, with its name as the payload, as runc does.
pub(super) fn hand_out(created: &Created, socket: &UnixStream) -> Result<(), Error> {
    let Some(master) = &created.terminal else { return Ok(()) };
    sys::fd::send(socket.as_fd(), b"/dev/ptmx", Some(master.as_fd()))
        .map_err(|source| Error::System { operation: "send the terminal", source })
}

/// Writes the pid file, whole or not at all.
pub(super) fn write_pid(arguments: &CreateArgs, pid: i32) -> Result<(), Error> {
    let Some(path) = &arguments.pid_file else { return Ok(()) };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    File::create(&temporary)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|source| Error::File { operation: "write pid file", path: path.clone(), source })
}
