//! The connection: found by DiscoverPollEndpoint, signed, watched over, and opened again for ever.
//!
//! The agent closes what has been silent for 1 to 2 minutes, and every connection after 30 to 35
//! minutes. After a normal end it connects again at once, after another with growing pauses (250 ms
//! to 2 min), and after `InactiveInstanceException`, which says that this instance was deregistered,
//! once an hour. Source: protocol reference §6, §7.1, §7.2.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use protocol::acs::{AgentMessage, ServerMessage};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};

use super::manifest::Manifests;
use super::{Context, handle};
use crate::backend::backoff::{self, Schedule};
use crate::backend::discover::{self, ControlPlane};
use crate::backend::socket::{self, Socket};
use crate::host::chain;
use crate::registration::version_info;

const RECONNECT: Schedule = Schedule {
    first: Duration::from_millis(250),
    last: Duration::from_secs(120),
    factor: 1.5,
    jitter: 0.2,
};
/// Before the next attempt of a deregistered instance.
const INACTIVE: Duration = Duration::from_secs(3600);
/// A connection that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(60);
/// One that ended sooner is not opened again at once, however it ended.
const FLEETING: Duration = Duration::from_secs(1);
/// Of one write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(180);

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
enum End {
    #[error("find the control plane's session endpoint")]
    Discover(#[source] discover::Error),
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

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Next {
    pause: Duration,
    /// In a row, from now on.
    failures: u32,
}

/// Decides on the pause after a connection that lasted for a time.
fn next(end: &End, lasted: Duration, failures: u32, random: f64) -> Next {
    if end.is_inactive() {
        return Next { pause: INACTIVE, failures: 0 };
    }
    if matches!(end, End::Normal) && lasted >= FLEETING {
        return Next { pause: Duration::ZERO, failures: 0 };
    }
    let failures = if lasted >= GOOD { 1 } else { failures.saturating_add(1) };
    Next { pause: RECONNECT.pause(failures, random), failures }
}

/// Holds a session for as long as the future lives.
pub async fn run(
    control_plane: ControlPlane,
    context: Context,
    mut manifests: Manifests,
    limits: Limits,
) {
    let mut failures = 0;
    // Credentials are held in memory only: they are asked for once per process.
    let mut send_credentials = true;
    let mut told = false;
    loop {
        let began = Instant::now();
        let mut connected = None;
        let end = match connect(&control_plane, &context, send_credentials).await {
            Ok(socket) => {
                tracing::info!(
                    instance = context.identity.container_instance_arn,
                    "connected to the control plane"
                );
                send_credentials = false;
                told = false;
                connected = Some(Instant::now());
                serve(socket, &context, &mut manifests, limits).await
            }
            Err(end) => end,
        };
        let lasted = connected.map_or(Duration::ZERO, |since| since.elapsed());
        let step = next(&end, lasted, failures, backoff::random());
        failures = step.failures;
        if connected.is_none() {
            control_plane.doubt_endpoints().await;
        }
        let (error, pause) = (chain(&end), step.pause.as_secs_f64());
        if end.is_inactive() {
            tracing::error!(
                error,
                "this instance was deregistered; its tasks run on. `lighter deregister` and a restart of the agent join anew"
            );
        } else if matches!(end, End::Normal) || told {
            tracing::debug!(error, pause, attempt = ?began.elapsed(), "connect again");
        } else {
            // Told once, until it works again.
            tracing::warn!(error, pause, "not connected to the control plane; will try again");
            told = true;
        }
        tokio::time::sleep(step.pause).await;
    }
}

async fn connect(
    control_plane: &ControlPlane,
    context: &Context,
    send_credentials: bool,
) -> Result<Socket, End> {
    let endpoints = control_plane.endpoints(&context.identity).await.map_err(End::Discover)?;
    let version = version_info();
    let query = BTreeMap::from([
        ("agentHash", version.agent_hash.unwrap_or_default()),
        ("agentVersion", version.agent_version.unwrap_or_default()),
        ("clusterArn", context.identity.cluster.clone()),
        ("containerInstanceArn", context.identity.container_instance_arn.clone()),
        ("dockerVersion", version.docker_version.unwrap_or_default()),
        ("protocolVersion", "2".to_owned()),
        ("sendCredentials", send_credentials.to_string()),
        ("seqNum", "1".to_owned()),
    ]);
    socket::connect(control_plane.client(), &endpoints.acs, &query).await.map_err(End::Connect)
}

/// Reads and answers until the connection ends.
async fn serve(
    mut socket: Socket,
    context: &Context,
    manifests: &mut Manifests,
    limits: Limits,
) -> End {
    let replace_at = Instant::now() + between(limits.life);
    loop {
        let patience = between(limits.silence);
        let received = tokio::select! {
            received = tokio::time::timeout(patience, socket.next()) => received,
            () = tokio::time::sleep_until(replace_at) => {
                let frame = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "ConnectionExpired: Reconnect to continue".into(),
                };
                // The connection is given up either way.
                let _ = tokio::time::timeout(Duration::from_secs(5), socket.close(Some(frame))).await;
                return End::Normal;
            }
        };
        let message = match received {
            Err(_elapsed) => return End::Silent(patience),
            Ok(None) => return End::Normal,
            Ok(Some(Err(
                tungstenite::Error::ConnectionClosed
                | tungstenite::Error::AlreadyClosed
                | tungstenite::Error::Protocol(
                    tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
                ),
            ))) => return End::Normal,
            Ok(Some(Err(error))) => return End::Broken(error),
            Ok(Some(Ok(message))) => message,
        };
        let text = match message {
            Message::Text(text) => text,
            Message::Close(frame) => {
                tracing::debug!(?frame, "the control plane closed the session");
                return End::Normal;
            }
            Message::Binary(_) => {
                tracing::info!("the control plane sent a binary message; dropped");
                continue;
            }
            // The library answers pings.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let message = match ServerMessage::parse(&text) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot read a message; dropped");
                continue;
            }
        };
        let outcome = handle(context, manifests, message).await;
        for answer in &outcome.answers {
            if let Err(end) = write(&mut socket, answer).await {
                return end;
            }
        }
        if let Some((kind, message)) = outcome.exception {
            return End::Exception { kind, message };
        }
    }
}

async fn write(socket: &mut Socket, message: &AgentMessage) -> Result<(), End> {
    let text = serde_json::to_string(message).map_err(End::Encode)?;
    match tokio::time::timeout(WRITE_TIMEOUT, socket.send(Message::text(text))).await {
        Ok(sent) => sent.map_err(End::Broken),
        Err(_elapsed) => Err(End::Stuck),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (silent(), Duration::ZERO, 1, (Duration::from_millis(375), 2)),
            (silent(), seconds(59), 1, (Duration::from_millis(375), 2)),
            (silent(), seconds(60), 9, (Duration::from_millis(250), 1)),
            (silent(), Duration::ZERO, 100, (seconds(120), 101)),
            (inactive(), seconds(100), 3, (INACTIVE, 0)),
        ] {
            let found = next(&end, lasted, failures, 0.0);
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
