//! Hands a seccomp listener to the agent that answers for the filter (config-linux.md, "The
//! Container Process State").

use std::collections::BTreeMap;
use std::io::{IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;

use crate::{container::Status, seccomp, sys::Errno};

/// Why nobody got the listener.
#[derive(thiserror::Error)]
pub enum Error {
    #[error(
        "failed to connect with seccomp agent at linux.seccomp.listenerPath {path}; does it run?"
    )]
    Connect { path: String, source: std::io::Error },
    #[error("send the container process state to linux.seccomp.listenerPath {path}")]
    Send { path: String, source: std::io::Error },
    #[error("write the container process state as JSON")]
    Json(#[from] serde_json::Error),
}

debug_is_display!(Error);

/// How long an agent that does not read may keep us.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the agent is told of the container.
#[derive(Debug, Clone)]
pub struct Handover {
    pub oci_version: String,
    pub id: String,
    pub status: Status,
    /// The container's init; `None` while the process itself becomes it.
    pub init: Option<i32>,
    pub bundle: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: State<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: Status,
    pid: i32,
    bundle: &'a PathBuf,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl Handover {
    /// Sends the descriptor and the state of the process `pid`.
    ///
    /// # Errors
    /// If there is no agent, or it does not take them.
    pub fn send(
        &self,
        listener: &seccomp::Listener,
        pid: i32,
        descriptor: &OwnedFd,
    ) -> Result<(), Error> {
        let bytes = serde_json::to_vec(&ContainerProcessState {
            oci_version: &self.oci_version,
            fds: ["seccompFd"],
            pid,
            metadata: &listener.metadata,
            state: State {
                oci_version: &self.oci_version,
                id: &self.id,
                status: self.status,
                pid: self.init.unwrap_or(pid),
                bundle: &self.bundle,
                annotations: &self.annotations,
            },
        })?;
        let failed = |source| Error::Send { path: listener.path.clone(), source };
        let mut stream = UnixStream::connect(&listener.path)
            .map_err(|source| Error::Connect { path: listener.path.clone(), source })?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        let number = [descriptor.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&number)];
        let sent = loop {
            let vector = [IoSlice::new(&bytes)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(stream.as_raw_fd(), &vector, &rights, flags, None) {
                Err(Errno::EINTR) => {}
                other => break other.map_err(|errno| failed(errno.into()))?,
            }
        };
        stream.write_all(bytes.get(sent..).unwrap_or_default()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_agent_gets_state_and_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent").display().to_string();
        let listener = seccomp::Listener { path: path.clone(), metadata: "m".into() };
        let handover = Handover {
            oci_version: "1.3.0".into(),
            id: "c".into(),
            status: Status::Creating,
            init: None,
            bundle: "/b".into(),
            annotations: BTreeMap::new(),
        };
        let file = std::fs::File::open("/dev/null").unwrap().into();
        let error = handover.send(&listener, 7, &file).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        let agent = UnixListener::bind(path).unwrap();
        handover.send(&listener, 7, &file).unwrap();
        let (mut stream, _) = agent.accept().unwrap();
        let mut first = [0];
        let (length, got) = crate::sys::fd::receive(stream.as_fd(), &mut first).unwrap();
        assert_eq!(length, 1);
        assert!(got.is_some());
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(
            rest,
            r#""ociVersion":"1.3.0","fds":["seccompFd"],"pid":7,"metadata":"m","#.to_owned()
                + r#""state":{"ociVersion":"1.3.0","id":"c","status":"creating","pid":7,"#
                + r#""bundle":"/b"}}"#
        );
    }
}
