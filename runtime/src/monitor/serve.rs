//! Connections to the monitor: datagrams in, datagrams out, never a wait.
//!
//! Only root and the monitor's own user are served. What a client sends is untrusted in form: a
//! datagram that is too long, is not JSON, or has the wrong descriptors gets an answer that says
//! so. A client that does not read is dropped once its outbox is full; it will come back and
//! subscribe, which gives it the full state.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::monitor::{Call, Failure, FailureKind, MAX_DATAGRAM, Message, Outcome, Request};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recvmsg, sendmsg, sockopt,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Messages that may wait for a client that does not read, beyond its socket's buffer.
const OUTBOX: usize = 64;
/// Descriptors that one datagram may bring; `Exec` needs three.
const DESCRIPTORS: usize = 4;
/// Every `kind` of [`Call`], sorted.
const KINDS: [&str; 9] =
    ["create", "delete", "exec", "hello", "kill", "resize", "shutdown", "start", "subscribe"];

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    outbox: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// Gets every event.
    pub(super) subscribed: bool,
}

/// What came from a client.
#[derive(Debug)]
pub(super) enum Incoming {
    Request(Request, Vec<OwnedFd>),
    /// Answer this.
    Refused(u64, Failure),
    Nothing,
    Gone,
}

/// A failure of the form's making.
pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Invalid, message: message.into() }
}

impl Client {
    /// Accepts a connection; `None` if there is none, or none that may be served.
    pub(super) fn accept(listener: BorrowedFd<'_>) -> Option<Self> {
        let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
        let peer = sockopt::socket_peercred(&socket).ok()?.uid;
        if !peer.is_root() && peer != rustix::process::geteuid() {
            return None;
        }
        Some(Self { socket, outbox: VecDeque::new(), subscribed: false })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether messages wait for room in the socket.
    pub(super) fn waiting(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes one datagram.
    pub(super) fn receive(&self) -> Incoming {
        let mut bytes = vec![0; MAX_DATAGRAM];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Incoming::Nothing,
            Err(_) => return Incoming::Gone,
        };
        let descriptors: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        // An empty datagram looks like the end; nobody has reason to send one.
        if received.bytes == 0 {
            return Incoming::Gone;
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Incoming::Refused(
                0,
                invalid(format!("datagram is longer than {MAX_DATAGRAM} bytes")),
            );
        }
        match parse(&bytes[..received.bytes]) {
            Ok(Request { id, call }) => {
                let truncated = received.flags.contains(ReturnFlags::CTRUNC);
                match check_descriptors(&call, descriptors.len(), truncated) {
                    Ok(()) => Incoming::Request(Request { id, call }, descriptors),
                    Err(failure) => Incoming::Refused(id, failure),
                }
            }
            Err((id, failure)) => Incoming::Refused(id, failure),
        }
    }

    /// Sends or queues; `false` if the client must be dropped.
    pub(super) fn send(&mut self, bytes: Vec<u8>, descriptor: Option<OwnedFd>) -> bool {
        self.outbox.push_back((bytes, descriptor));
        self.flush() && self.outbox.len() <= OUTBOX
    }

    /// Sends what waits, as far as it goes; `false` if the client must be dropped.
    pub(super) fn flush(&mut self) -> bool {
        while let Some((bytes, descriptor)) = self.outbox.front() {
            match transmit(self.socket.as_fd(), bytes, descriptor.as_ref()) {
                Ok(()) => {
                    self.outbox.pop_front();
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn transmit(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    if let Some(descriptors) = &descriptors {
        // The space is that of one descriptor.
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).map(|_| ())
}

/// The bytes of a message. One too long for a datagram becomes a failure with the same id.
pub(super) fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() <= MAX_DATAGRAM {
        return Ok(bytes);
    }
    match message {
        Message::Answer { id, .. } => Ok(serde_json::to_vec(&Message::Answer {
            id: *id,
            result: Outcome::Failed(Failure {
                kind: FailureKind::Failed,
                message: format!("the answer is longer than {MAX_DATAGRAM} bytes"),
            }),
        })?),
        Message::Event { .. } => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads a request in steps, so that as much as possible of a bad one is understood.
fn parse(bytes: &[u8]) -> Result<Request, (u64, Failure)> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        id: u64,
        #[serde(borrow)]
        call: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    let malformed =
        |id, error: serde_json::Error| (id, invalid(format!("malformed request: {error}")));
    let envelope: Envelope<'_> =
        serde_json::from_slice(bytes).map_err(|error| malformed(0, error))?;
    let id = envelope.id;
    // Bytes all: every form of input is the parser once more.
    let call = envelope.call.get().as_bytes();
    let kind: Kind = serde_json::from_slice(call).map_err(|error| malformed(id, error))?;
    if KINDS.binary_search(&kind.kind.as_str()).is_err() {
        return Err((
            id,
            Failure {
                kind: FailureKind::Unsupported,
                message: format!("unknown call {:?}", kind.kind),
            },
        ));
    }
    let call: Call = serde_json::from_slice(call).map_err(|error| malformed(id, error))?;
    Ok(Request { id, call })
}

fn check_descriptors(call: &Call, count: usize, truncated: bool) -> Result<(), Failure> {
    let wanted = match call {
        Call::Exec(exec) if !super::held::wants_terminal(&exec.process) => 3,
        Call::Hello { .. }
        | Call::Subscribe
        | Call::Create(_)
        | Call::Start { .. }
        | Call::Kill { .. }
        | Call::Exec(_)
        | Call::Resize { .. }
        | Call::Delete { .. }
        | Call::Shutdown => 0,
    };
    if count == wanted && !truncated {
        Ok(())
    } else {
        Err(invalid(format!("{count} descriptors came with the request, {wanted} are expected")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_sorted_and_known() {
        assert!(KINDS.is_sorted());
        for kind in KINDS {
            let text = format!(r#"{{"id":1,"call":{{"kind":"{kind}"}}}}"#);
            // Either it parses, or a field is missing; never unknown.
            if let Err((id, failure)) = parse(text.as_bytes()) {
                assert_eq!(id, 1);
                assert!(failure.message.contains("missing field"), "{failure:?}");
            }
        }
    }

    #[test]
    fn bad_requests_are_told_apart() {
        let kind = |text: &str| parse(text.as_bytes()).map_err(|(id, f)| (id, f.kind)).err();
        assert_eq!(kind("no json"), Some((0, FailureKind::Invalid)));
        assert_eq!(kind(r#"{"id":-1,"call":{}}"#), Some((0, FailureKind::Invalid)));
        assert_eq!(kind(r#"{"id":7,"call":{}}"#), Some((7, FailureKind::Invalid)));
        assert_eq!(kind(r#"{"id":7,"call":{"kind":"fly"}}"#), Some((7, FailureKind::Unsupported)));
        assert_eq!(kind(r#"{"id":7,"call":{"kind":"start"}}"#), Some((7, FailureKind::Invalid)));
        assert_eq!(kind(r#"{"id":7,"later":1,"call":{"kind":"subscribe","later":2}}"#), None);
    }
}
