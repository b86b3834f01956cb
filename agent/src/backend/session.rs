//! What the sessions of ACS and TCS share: how a connection is watched over, read and written, and
//! when it is opened again (protocol reference §6).
//!
//! A connection on which nothing that counts was heard for 1 to 2 minutes is dead; every connection
//! is replaced after 30 to 35 minutes. After a normal end the next attempt comes at once, after
//! another with growing pauses, and after `InactiveInstanceException`, which says that this instance
//! was deregistered, in an hour.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::backoff::{self, Schedule};
use super::credentials;
use super::discover::{self, ControlPlane};
use super::socket::{self, Socket};
use crate::error::chain;

/// Before the next attempt where none can succeed soon.
const LONG: Duration = Duration::from_secs(3600);
/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// One that ended sooner is not opened again at once, however it ended.
const FLEETING: Duration = Duration::from_secs(1);
/// Of one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(180);
/// Of a farewell.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connections last; tests shorten it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Silence after which a connection is dead, at least and at most.
    pub silence: (Duration, Duration),
    /// When a connection is replaced, at least and at most.
    pub life: (Duration, Duration),
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self { silence: (minutes(1), minutes(2)), life: (minutes(30), minutes(35)) }
    }
}

fn between((least, most): (Duration, Duration)) -> Duration {
    least + most.saturating_sub(least).mul_f64(backoff::random())
}

/// A connection ended, or there was none.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("find the control plane's session endpoint")]
    Discover(#[source] discover::Error),
    #[error("the control plane names no endpoint for telemetry")]
    NoEndpoint,
    #[error("open the session")]
    Connect(#[source] socket::Error),
    #[error("the control plane was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the session broke")]
    Broken(#[source] tungstenite::Error),
    #[error("the session broke: a message could not be written within {} s", WRITE_TIMEOUT.as_secs())]
    Stuck,
    #[error("write a message")]
    Encode(#[source] serde_json::Error),
    #[error("sign a message")]
    Sign(#[source] credentials::Error),
    #[error("the control plane ended the session: {kind}: {message}")]
    Exception { kind: String, message: String },
    /// Closed as planned, by either side.
    #[error("the session was closed")]
    Normal,
}

impl End {
    /// This instance was deregistered.
    fn is_inactive(&self) -> bool {
        const NAME: &str = "InactiveInstanceException";
        match self {
            Self::Exception { kind, .. } => kind == NAME,
            Self::Connect(socket::Error::Refused { kind, .. }) => kind == NAME,
            _ => false,
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    limits: Limits,
    replace_at: Instant,
    patience: Duration,
    heard_at: Instant,
}

impl Link {
    pub fn new(socket: Socket, limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            socket,
            limits,
            replace_at: now + between(limits.life),
            patience: between(limits.silence),
            heard_at: now,
        }
    }

    /// Something was heard that shows that the peer lives.
    pub fn heard(&mut self) {
        self.patience = between(self.limits.silence);
        self.heard_at = Instant::now();
    }

    /// The next text frame; frames of other kinds are dropped. Cancel safe.
    ///
    /// # Errors
    /// How the connection ended; it is closed then.
    pub async fn receive(&mut self) -> Result<Utf8Bytes, End> {
        loop {
            let received = tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.replace_at) => None,
                received = tokio::time::timeout_at(
                    self.heard_at + self.patience,
                    self.socket.next(),
                ) => Some(received),
            };
            let message = match received {
                None => {
                    self.close().await;
                    return Err(End::Normal);
                }
                Some(Err(_elapsed)) => return Err(End::Silent(self.patience)),
                Some(Ok(None)) => return Err(End::Normal),
                Some(Ok(Some(Err(
                    tungstenite::Error::ConnectionClosed
                    | tungstenite::Error::AlreadyClosed
                    | tungstenite::Error::Protocol(
                        tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                    ),
                )))) => return Err(End::Normal),
                Some(Ok(Some(Err(error)))) => return Err(End::Broken(error)),
                Some(Ok(Some(Ok(message)))) => message,
            };
            match message {
                Message::Text(text) => return Ok(text),
                Message::Close(frame) => {
                    tracing::debug!(?frame, "the control plane closed the session");
                    return Err(End::Normal);
                }
                Message::Binary(_) => {
                    tracing::info!("the control plane sent a binary message; dropped");
                }
                // The library answers pings.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Writes a text frame. Must not be cancelled: the frame could be cut.
    ///
    /// # Errors
    /// If it cannot be written; the connection is of no use then.
    pub async fn send(&mut self, text: String) -> Result<(), End> {
        match tokio::time::timeout(WRITE_TIMEOUT, self.socket.send(Message::text(text))).await {
            Ok(sent) => sent.map_err(End::Broken),
            Err(_elapsed) => Err(End::Stuck),
        }
    }

    async fn close(&mut self) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "ConnectionExpired: Reconnect to continue".into(),
        };
        // The connection is given up either way.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.socket.close(Some(frame))).await;
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Next {
    pause: Duration,
    /// In a row, from now on.
    failures: u32,
}

/// Decides on the pause after a connection that lasted for a time.
fn next(schedule: Schedule, end: &End, lasted: Duration, failures: u32, random: f64) -> Next {
    if end.is_inactive() || matches!(end, End::NoEndpoint) {
        return Next { pause: LONG, failures: 0 };
    }
    if matches!(end, End::Normal) {
        // A control plane that was restarted a few times in a row is not a reason to stay away.
        return if lasted >= FLEETING {
            Next { pause: Duration::ZERO, failures: 0 }
        } else {
            Next { pause: schedule.pause(1, random), failures: 1 }
        };
    }
    let failures = if lasted >= GOOD { 1 } else { failures.saturating_add(1) };
    Next { pause: schedule.pause(failures, random), failures }
}

/// The attempts of one session, one after the other.
#[derive(Debug)]
pub struct Attempts {
    /// `ACS` or `TCS`; for the log.
    session: &'static str,
    schedule: Schedule,
    failures: u32,
    told: bool,
    /// Since when there has been a connection.
    connected: Option<Instant>,
}

impl Attempts {
    pub fn new(session: &'static str, schedule: Schedule) -> Self {
        Self { session, schedule, failures: 0, told: false, connected: None }
    }

    /// The attempt succeeded.
    pub fn connected(&mut self, instance: &str) {
        tracing::info!(session = self.session, instance, "connected to the control plane");
        self.connected = Some(Instant::now());
        self.told = false;
    }

    /// Waits until the next attempt is due. A failure is told once, until it works again.
    pub async fn pause(&mut self, control_plane: &ControlPlane, end: &End) {
        let session = self.session;
        let connected = self.connected.take();
        let lasted = connected.map_or(Duration::ZERO, |since| since.elapsed());
        let step = next(self.schedule, end, lasted, self.failures, backoff::random());
        self.failures = step.failures;
        if connected.is_none() {
            control_plane.doubt_endpoints().await;
        }
        let (error, pause) = (chain(end), step.pause.as_secs_f64());
        if end.is_inactive() {
            tracing::error!(
                session,
                error,
                "this instance was deregistered; its tasks run on. `lighter deregister` and a restart of the agent join anew"
            );
        } else if matches!(end, End::Normal) || self.told {
            tracing::debug!(session, error, pause, "connect again");
        } else {
            tracing::warn!(
                session,
                error,
                pause,
                "not connected to the control plane; will try again"
            );
            self.told = true;
        }
        tokio::time::sleep(step.pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        first: Duration::from_millis(250),
        last: Duration::from_secs(120),
        factor: 1.5,
        jitter: 0.2,
    };

    #[test]
    fn pauses() {
        let seconds = Duration::from_secs;
        let inactive = || End::Exception {
            kind: "InactiveInstanceException".to_owned(),
            message: String::new(),
        };
        let silent = || End::Silent(seconds(60));
        for (end, lasted, failures, expected) in [
            (End::Normal, seconds(5), 7, (Duration::ZERO, 0)),
            (End::Normal, Duration::ZERO, 0, (Duration::from_millis(250), 1)),
            (End::Normal, Duration::ZERO, 7, (Duration::from_millis(250), 1)),
            (silent(), Duration::ZERO, 1, (Duration::from_millis(375), 2)),
            (silent(), seconds(59), 1, (Duration::from_millis(375), 2)),
            (silent(), seconds(60), 9, (Duration::from_millis(250), 1)),
            (silent(), Duration::ZERO, 100, (seconds(120), 101)),
            (inactive(), seconds(100), 3, (LONG, 0)),
            (End::NoEndpoint, Duration::ZERO, 3, (LONG, 0)),
        ] {
            let found = next(SCHEDULE, &end, lasted, failures, 0.0);
            assert_eq!((found.pause, found.failures), expected, "{end:?} {lasted:?}");
        }
        let refused = |kind: &str| {
            End::Connect(socket::Error::Refused {
                endpoint: String::new(),
                status: 400,
                kind: kind.to_owned(),
                message: String::new(),
            })
        };
        assert!(refused("InactiveInstanceException").is_inactive());
        assert!(!refused("InvalidInstanceException").is_inactive());
    }
}
