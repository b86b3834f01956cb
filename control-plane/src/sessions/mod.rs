//! The sessions of agents: ACS (tasks, credentials) and TCS (metrics, health) over WebSockets.
//!
//! Each session is one task that owns its socket and everything about the session; nothing else
//! writes to the agent. It is level-triggered: woken by a change of what concerns its instance, by a
//! frame, or by time, it compares what is stored with what the agent has acknowledged, and sends
//! the difference. What the agent acknowledged is stored (`Task::delivered`), so that a session can
//! end at any moment and the next one goes on.
//!
//! An instance has one ACS session. Its record ([`Connection`](crate::model::Connection)) is under
//! the lease of this process; the session that wrote it last is the instance's, and one that finds
//! another's name there tells its agent and ends. This holds across processes.
//!
//! [`Sessions`] is what the sessions of a process share. Frames are bounded ([`MAX_FRAME`]), writes
//! have a time limit, and no queue is between socket and session: an agent that does not read ends
//! its session. Protocol reference: sections 6 (transport), 7 (ACS), 8 (payload), 10 (TCS).

mod acs;
mod admit;
mod connection;
mod credentials;
mod deliver;
mod link;
mod shared;
mod tcs;
mod telemetry;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};

use crate::api::Context;

pub use shared::Sessions;
pub use telemetry::{ContainerSample, InstanceSample, TaskSample};

/// The largest frame that an agent may send, in bytes; that of the telemetry protocol.
pub const MAX_FRAME: usize = 1 << 20;

/// When a session does what.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// Between heartbeats. An agent that hears nothing for a minute closes.
    heartbeat: Duration,
    /// How long a heartbeat may stay without its answer.
    patience: Duration,
    /// How long a payload may, until it is sent again.
    resend: Duration,
    /// Between looks at whether credentials have to be renewed or sent again.
    credentials: Duration,
    /// An agent that publishes nothing for so long is gone.
    silence: Duration,
}

const TIMING: Timing = Timing {
    heartbeat: Duration::from_secs(20),
    patience: Duration::from_secs(30),
    resend: Duration::from_secs(15),
    credentials: Duration::from_secs(60),
    silence: Duration::from_secs(180),
};

/// `GET /acs/ws`: the session over which an agent gets its tasks. The signature has been verified.
pub async fn acs(
    context: Context,
    query: BTreeMap<String, String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    begin_acs(&context, &query, upgrade, TIMING)
}

fn begin_acs(
    context: &Context,
    query: &BTreeMap<String, String>,
    upgrade: WebSocketUpgrade,
    timing: Timing,
) -> Response {
    let version = query.get("protocolVersion").and_then(|version| version.parse().ok());
    let acknowledges = version.unwrap_or(1_u32) >= 2;
    begin(context, query, upgrade, move |peer, socket| acs::run(peer, socket, timing, acknowledges))
}

/// `GET /tcs/ws`: the session over which an agent publishes. The signature has been verified.
pub async fn tcs(
    context: Context,
    query: BTreeMap<String, String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    begin_tcs(&context, &query, upgrade, TIMING)
}

fn begin_tcs(
    context: &Context,
    query: &BTreeMap<String, String>,
    upgrade: WebSocketUpgrade,
    timing: Timing,
) -> Response {
    begin(context, query, upgrade, move |peer, socket| tcs::run(peer, socket, timing))
}

/// Lets an agent in that may have a session, and serves it.
fn begin<F: Future<Output = ()> + Send + 'static>(
    context: &Context,
    query: &BTreeMap<String, String>,
    upgrade: WebSocketUpgrade,
    serve: impl FnOnce(admit::Peer, WebSocket) -> F + Send + 'static,
) -> Response {
    match admit::admit(context, query) {
        Ok(peer) => link::bounded(upgrade).on_upgrade(move |socket| serve(peer, socket)),
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests;
