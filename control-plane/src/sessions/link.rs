//! An agent's socket: whole text frames, bounded in size and in time.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use protocol::acs::FrameError;
use serde::Serialize;

use super::MAX_FRAME;

/// How long a write may take. An agent that reads slower is gone or hostile.
const WRITE: Duration = Duration::from_secs(10);

/// How long an agent may take to answer a close.
const LINGER: Duration = Duration::from_secs(2);

/// Close code of a session that ends as it should.
pub(super) const NORMAL: u16 = 1000;
/// Close code of a session that this side gives up.
pub(super) const AWAY: u16 = 1001;

/// Why nothing can be sent or received any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("write a message")]
    Write(#[source] serde_json::Error),
    #[error("send to the agent")]
    Send(#[source] axum::Error),
    #[error("receive from the agent")]
    Receive(#[source] axum::Error),
    #[error("the agent has read nothing for {} s", WRITE.as_secs())]
    Slow,
}

/// What the log has of an agent's text: a frame could fill it.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}

/// What a frame says; one that is malformed is dropped.
pub(super) fn well_formed<T>(instance: &str, read: Result<T, FrameError>) -> Option<T> {
    let told = |error: &FrameError| {
        let error = error as &dyn std::error::Error;
        tracing::debug!(instance, error, "dropped a malformed frame");
    };
    read.inspect_err(told).ok()
}

/// Sets the bounds of a socket. Thousands are open and mostly idle: small buffers.
pub(super) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .max_message_size(MAX_FRAME)
        .max_frame_size(MAX_FRAME)
        .read_buffer_size(4 << 10)
        .write_buffer_size(0)
}

/// The socket.
#[derive(Debug)]
pub(super) struct Link(WebSocket);

impl Link {
    pub(super) fn new(socket: WebSocket) -> Self {
        Self(socket)
    }

    /// Sends a message as a text frame.
    pub(super) async fn send(&mut self, message: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(message).map_err(Error::Write)?;
        self.write(Message::text(text)).await
    }

    /// The next text frame; `None` when the agent closes. May be cancelled.
    pub(super) async fn receive(&mut self) -> Result<Option<Utf8Bytes>, Error> {
        loop {
            match self.0.recv().await {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(Message::Text(text))) => return Ok(Some(text)),
                // No agent sends binary frames: dropped, as any frame that is malformed.
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) => return Err(Error::Receive(error)),
            }
        }
    }

    /// Closes with a code and a reason, and waits a moment for the agent to do the same: what it
    /// sent and nobody has read would make the kernel drop what is under way to it.
    pub(super) async fn close(mut self, code: u16, reason: &'static str) -> Result<(), Error> {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        self.write(Message::Close(Some(frame))).await?;
        let closing = async { while let Some(Ok(_)) = self.0.recv().await {} };
        // Who does not close in time is cut off.
        drop(tokio::time::timeout(LINGER, closing).await);
        Ok(())
    }

    async fn write(&mut self, message: Message) -> Result<(), Error> {
        match tokio::time::timeout(WRITE, self.0.send(message)).await {
            Ok(sent) => sent.map_err(Error::Send),
            Err(_elapsed) => Err(Error::Slow),
        }
    }
}
