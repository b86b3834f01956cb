//! One connection to a monitor: requests out, answers and events back.
//!
//! A reader task owns the receiving side; callers wait for the answer with their id. When the
//! monitor's end closes, every waiting call fails with [`Error::Gone`] and the event channel ends.
//! Requests may be repeated, so a caller that saw `Gone` asks again on the next connection.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::monitor::{
    Call, Change, ContainerFacts, Fact, MAX_DATAGRAM, Message, Outcome, Request, VERSION,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{Error, SOCKET, spawn};

/// Descriptors beside one datagram at most: stdin, stdout, stderr of an exec.
const MAX_DESCRIPTORS: usize = 3;
/// Events between reader and consumer. When full the reader waits, and answers behind the event
/// with it; the consumer is the task's link, which never waits for a call.
const EVENTS: usize = 64;
/// A monitor that does not answer this long is taken for hung. Creation copies nothing and waits
/// for nobody, but a host under memory pressure is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection. Clones share it; the last one closes it.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _reader: Arc<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    /// `None` once the monitor's end has closed.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
}

#[derive(Debug)]
struct Reply {
    outcome: Outcome,
    descriptors: Vec<OwnedFd>,
}

/// Who answered [`Call::Hello`].
#[derive(Debug, Clone)]
pub struct Hello {
    pub version: u32,
    pub boot_id: String,
    pub guardian: protocol::monitor::ProcessId,
    pub worker: protocol::monitor::ProcessId,
}

impl Client {
    /// Connects to the monitor whose run directory is `run`. The receiver gets every event after
    /// [`Self::subscribe`]; drop it if they are not wanted.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn connect(run: &Path) -> Result<(Self, mpsc::Receiver<Change>), Error> {
        let fail = |e: Errno| Error::Connect { path: run.join(SOCKET), source: e.into() };
        let (_directory, address) = spawn::address(run)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(fail)?;
        rustix::net::connect(&socket, &address).map_err(fail)?;
        let socket = crate::sys::register(socket)
            .map_err(|source| Error::Connect { path: run.join(SOCKET), source })?;
        let shared = Arc::new(Shared {
            socket,
            next: AtomicU64::new(1),
            pending: Mutex::new(Some(HashMap::new())),
        });
        let (sender, events) = mpsc::channel(EVENTS);
        let reader = tokio::spawn(read(Arc::clone(&shared), sender));
        Ok((Self { shared, _reader: Arc::new(AbortOnDropHandle::new(reader)) }, events))
    }

    /// Exchanges versions.
    ///
    /// # Errors
    /// If the monitor does not answer within `patience`.
    pub async fn hello(&self, patience: Duration) -> Result<Hello, Error> {
        let (fact, _) = self.exchange(Call::Hello { version: VERSION }, &[], patience).await?;
        match fact {
            Fact::Hello { version, boot_id, guardian, worker } => {
                Ok(Hello { version, boot_id, guardian, worker })
            }
            _ => Err(Error::Answer { call: "hello" }),
        }
    }

    /// Asks for every event from now on; answers with the containers as they are.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn subscribe(&self) -> Result<Vec<ContainerFacts>, Error> {
        match self.call(Call::Subscribe, &[]).await? {
            (Fact::State { containers, .. }, _) => Ok(containers),
            _ => Err(Error::Answer { call: "subscribe" }),
        }
    }

    /// Makes one request. Descriptors of the answer (a terminal's master) come with the fact.
    ///
    /// # Errors
    /// [`Error::Refused`] is the monitor's own answer; [`Error::Gone`] may be asked again on
    /// another connection.
    pub async fn call(
        &self,
        call: Call,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Fact, Vec<OwnedFd>), Error> {
        self.exchange(call, descriptors, PATIENCE).await
    }

    async fn exchange(
        &self,
        call: Call,
        descriptors: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<(Fact, Vec<OwnedFd>), Error> {
        let name = name(&call);
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let datagram = serde_json::to_vec(&Request { id, call })
            .map_err(|source| Error::Encode { call: name, source })?;
        if datagram.len() > MAX_DATAGRAM {
            return Err(Error::TooLarge { call: name });
        }
        let (sender, receiver) = oneshot::channel();
        match self.pending().as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(Error::Gone { log: String::new() }),
        };
        let _forget = Forget { shared: &self.shared, id };
        let exchange = async {
            self.send(name, &datagram, descriptors).await?;
            receiver.await.map_err(|_closed| Error::Gone { log: String::new() })
        };
        let reply = tokio::time::timeout(patience, exchange)
            .await
            .map_err(|_elapsed| Error::Timeout { call: name, seconds: patience.as_secs() })??;
        match reply.outcome {
            Outcome::Done(fact) => Ok((fact, reply.descriptors)),
            Outcome::Failed(failure) => Err(Error::Refused(failure)),
        }
    }

    /// Whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Reply>>>> {
        self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(
        &self,
        call: &'static str,
        datagram: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let sent = self
            .shared
            .socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty()
                    && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
                {
                    return Err(std::io::ErrorKind::InvalidInput.into());
                }
                rustix::net::sendmsg(
                    socket,
                    &[IoSlice::new(datagram)],
                    &mut ancillary,
                    SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
                )
                .map_err(std::io::Error::from)
            })
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                Err(Error::Gone { log: String::new() })
            }
            Err(source) => Err(Error::Send { call, source }),
        }
    }
}

/// A call that was given up no longer waits for its answer.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = pending.as_mut() {
            pending.remove(&self.id);
        }
    }
}

async fn read(shared: Arc<Shared>, events: mpsc::Sender<Change>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match receive(&shared, &mut buffer).await {
            Ok(Some((Message::Answer { id, result }, descriptors))) => {
                let waiting = shared
                    .pending
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .as_mut()
                    .and_then(|pending| pending.remove(&id));
                if let Some(waiting) = waiting {
                    let _ = waiting.send(Reply { outcome: result, descriptors });
                }
            }
            Ok(Some((Message::Event { change, .. }, _))) => {
                // Nobody listens: the connection is for calls only.
                let _ = events.send(change).await;
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "read from a monitor");
                break;
            }
        }
    }
    // Dropping the senders fails every waiting call.
    *shared.pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The next message; `None` when the other end has closed. A datagram of an unknown kind is
/// skipped: a newer monitor may send what this agent does not know.
async fn receive(
    shared: &Shared,
    buffer: &mut [u8],
) -> std::io::Result<Option<(Message, Vec<OwnedFd>)>> {
    loop {
        let (length, descriptors) = shared
            .socket
            .async_io(tokio::io::Interest::READABLE, |socket| {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let received = rustix::net::recvmsg(
                    socket,
                    &mut [IoSliceMut::new(buffer)],
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
                )
                .map_err(std::io::Error::from)?;
                let descriptors: Vec<OwnedFd> = ancillary
                    .drain()
                    .filter_map(|message| match message {
                        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                        _ => None,
                    })
                    .flatten()
                    .collect();
                Ok((received.bytes, descriptors))
            })
            .await
            .or_else(|e| match e.kind() {
                std::io::ErrorKind::ConnectionReset => Ok((0, Vec::new())),
                _ => Err(e),
            })?;
        if length == 0 {
            return Ok(None);
        }
        match serde_json::from_slice(&buffer[..length]) {
            Ok(message) => return Ok(Some((message, descriptors))),
            Err(error) => tracing::debug!(%error, "skip an unknown message of a monitor"),
        }
    }
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Hello { .. } => "hello",
        Call::Subscribe => "subscribe",
        Call::Create(_) => "create",
        Call::Start { .. } => "start",
        Call::Kill { .. } => "kill",
        Call::Exec(_) => "exec",
        Call::Resize { .. } => "resize",
        Call::Delete { .. } => "delete",
        Call::Shutdown => "shutdown",
    }
}
