//! What a worker leaves with its guardian, and what it asks of it.
//!
//! A socket pair of datagrams in JSON with at most one descriptor each. The guardian's store is a
//! map from key to a note and a descriptor whose meaning only workers know; a new worker is forked
//! from the guardian and so holds all of it from its first instruction. A message that was
//! sent before a worker died still arrives.
//!
//! ```text
//! <container>/stdout  <container>/stderr   read ends of the FIFOs: bytes live while one is open
//! <container>/pty                          master of the container's terminal
//! <container>/exec/<exec>                  a process added to the container, and how it ended
//! ```

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::process::Ended;

/// Longest message: a key holds two names of 255 bytes, the rest is small.
const LONGEST: usize = 4096;
/// How long a worker waits for a guardian that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// From worker to guardian.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// Keep this note, and the descriptor beside it, under `key`.
    Keep { key: String, note: String },
    /// Let go of every key that begins so.
    Forget { prefix: String },
    /// Everything has been taken over; `owned` are the children whose status is wanted. Until this
    /// word, and for these after it, the guardian reaps nothing on its own.
    Ready { owned: Vec<i32> },
    /// How has this child ended? Answered with [`Reply`].
    Look { pid: i32 },
    /// The status of this child is stored.
    Reap { pid: i32 },
    /// The worker ends for good, and so shall the guardian.
    End,
}

/// From guardian to worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    /// `None`: not a child of the guardian, or alive.
    pub(super) ended: Option<Ended>,
}

/// One thing kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) note: String,
    pub(super) descriptor: Option<OwnedFd>,
}

/// The guardian's store.
pub(super) type Store = BTreeMap<String, Kept>;

/// Makes the pair.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((ours, theirs))
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Guardian {
    socket: Option<OwnedFd>,
}

impl Guardian {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket: Some(socket) })
    }

    /// For the event loop: hangs up when the guardian dies.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The guardian is dead: from now on every word is void.
    pub(super) fn lose(&mut self) {
        self.socket = None;
    }

    /// Says a word. A dead guardian hears nothing; that costs the protection against a second
    /// fault, never the work in hand.
    pub(super) fn say(&self, word: &Word, descriptor: Option<BorrowedFd<'_>>) {
        if let Some(socket) = &self.socket {
            let _ = send(socket.as_fd(), word, descriptor, SendFlags::empty());
        }
    }

    /// How a child of the guardian has ended.
    pub(super) fn look(&self, pid: i32) -> Option<Ended> {
        let socket = self.socket.as_ref()?;
        send(socket.as_fd(), &Word::Look { pid }, None, SendFlags::empty()).ok()?;
        let (reply, _) = receive::<Reply>(socket.as_fd(), RecvFlags::empty()).ok()??;
        reply.ended
    }
}

/// Sends one datagram.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    descriptor: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors
        && !control.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one datagram; `None` at the end.
pub(super) fn receive<T: for<'de> Deserialize<'de>>(
    socket: BorrowedFd<'_>,
    flags: RecvFlags,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let count = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?
    .bytes;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    if count == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..count])?, descriptor)))
}
