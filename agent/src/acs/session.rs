//! The connection: found by DiscoverPollEndpoint, signed, watched over, and opened again for ever
//! with pauses of 250 ms to 2 min ([`crate::backend::session`]). Every message counts as a sign of
//! life. Source: protocol reference §6, §7.1, §7.2.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::acs::{AgentMessage, ServerMessage};

use super::manifest::Manifests;
use super::{Context, handle};
use crate::backend::backoff::Schedule;
use crate::backend::discover::ControlPlane;
use crate::backend::session::{Attempts, End, Limits, Link};
use crate::backend::socket::{self, Address, Socket};
use crate::error::chain;
use crate::failpoint;
use crate::registration::version_info;

const RECONNECT: Schedule = Schedule {
    first: Duration::from_millis(250),
    last: Duration::from_secs(120),
    factor: 1.5,
    jitter: 0.2,
};

/// Holds a session for as long as the future lives.
pub async fn run(
    control_plane: ControlPlane,
    context: Context,
    mut manifests: Manifests,
    limits: Limits,
) {
    let mut attempts = Attempts::new("ACS", RECONNECT);
    // Credentials are held in memory only: they are asked for once per process.
    let mut send_credentials = true;
    loop {
        let end = match connect(&control_plane, &context, send_credentials).await {
            Ok(socket) => {
                attempts.connected(&context.identity.container_instance_arn);
                send_credentials = false;
                serve(Link::new(socket, limits), &context, &mut manifests).await
            }
            Err(end) => end,
        };
        attempts.pause(&control_plane, &end).await;
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
    let address = Address::new(&endpoints.acs, &query);
    socket::connect(control_plane.client(), &address).await.map_err(End::Connect)
}

/// Reads and answers until the connection ends.
async fn serve(mut link: Link, context: &Context, manifests: &mut Manifests) -> End {
    loop {
        let text = match link.receive().await {
            Ok(text) => text,
            Err(end) => return end,
        };
        match ServerMessage::parse(&text) {
            Ok(message) => {
                let outcome = handle(context, manifests, message).await;
                for answer in &outcome.answers {
                    if let Err(end) = write(&mut link, answer).await {
                        return end;
                    }
                    failpoint::hit("session.answered");
                }
                if let Some((kind, message)) = outcome.exception {
                    return End::Exception { kind, message };
                }
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot read a message; dropped");
            }
        }
        // Now, because handling a message may take its time.
        link.heard();
    }
}

async fn write(link: &mut Link, message: &AgentMessage) -> Result<(), End> {
    link.send(serde_json::to_string(message).map_err(End::Encode)?).await
}
