//! The connection: found by DiscoverPollEndpoint, signed, watched over, and opened again for ever
//! with pauses of 1 s to 1 min ([`crate::backend::session`]). Heartbeats and acknowledgements count
//! as signs of life. Each frame is signed as if it were a request of its own ([`frame`]). Source:
//! protocol reference §6, §10.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::TaskId;
use protocol::tcs::{AgentMessage, Metadata, PublishInstanceStatus, PublishMetrics, ServerMessage};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::metrics::{self, Origin};
use super::runtime::Health;
use crate::backend::backoff::Schedule;
use crate::backend::discover::ControlPlane;
use crate::backend::session::{Attempts, End, Limits, Link};
use crate::backend::socket::{self, Address, Socket};
use crate::engine::Task;
use crate::error::chain;
use crate::host::view::Snapshot;
use crate::identity::Identity;
use crate::registration::version_info;
use crate::stats::Stats;

const RECONNECT: Schedule = Schedule {
    first: Duration::from_secs(1),
    last: Duration::from_secs(60),
    factor: 2.0,
    jitter: 0.2,
};

/// What is published.
#[derive(Debug)]
pub struct Context {
    pub identity: Arc<Identity>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// `None`: no metrics are to be published.
    pub stats: Option<Stats>,
    pub health: watch::Receiver<Option<Health>>,
}

/// One open connection.
struct Session<'a> {
    link: Link,
    control_plane: &'a ControlPlane,
    address: Address,
    context: &'a Context,
}

/// Holds a session for as long as the future lives.
pub async fn run(
    control_plane: ControlPlane,
    context: Context,
    limits: Limits,
    interval: Duration,
) {
    let mut attempts = Attempts::new("TCS", RECONNECT);
    // The health that was published last.
    let mut told = None;
    loop {
        let end = match connect(&control_plane, &context).await {
            Ok((address, socket)) => {
                attempts.connected(&context.identity.container_instance_arn);
                let link = Link::new(socket, limits);
                let control_plane = &control_plane;
                let session = Session { link, control_plane, address, context: &context };
                session.serve(interval, &mut told).await
            }
            Err(end) => end,
        };
        attempts.pause(&control_plane, &end).await;
    }
}

async fn connect(
    control_plane: &ControlPlane,
    context: &Context,
) -> Result<(Address, Socket), End> {
    let Context { identity, .. } = context;
    let endpoints = control_plane.endpoints(identity).await.map_err(End::Discover)?;
    let endpoint = endpoints.tcs.ok_or(End::NoEndpoint)?;
    let version = version_info();
    let docker = version.docker_version.unwrap_or_default();
    let query = BTreeMap::from([
        ("agentHash", version.agent_hash.unwrap_or_default()),
        ("agentVersion", version.agent_version.unwrap_or_default()),
        ("cluster", identity.cluster.clone()),
        ("containerInstance", identity.container_instance_arn.clone()),
        // The bare version here.
        ("dockerVersion", docker.trim_start_matches("DockerVersion: ").to_owned()),
    ]);
    let address = Address::new(&endpoint, &query);
    let socket = socket::connect(control_plane.client(), &address).await.map_err(End::Connect)?;
    Ok((address, socket))
}

impl Session<'_> {
    /// Publishes and reads until the connection ends.
    async fn serve(mut self, interval: Duration, told: &mut Option<Health>) -> End {
        let _sampling = self.context.stats.as_ref().map(Stats::subscribe);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Writing is no branch: what is begun must be finished.
            let received = tokio::select! {
                received = self.link.receive() => Some(received),
                _ = ticks.tick() => None,
            };
            let done = match received {
                Some(Ok(text)) => {
                    self.hear(&text);
                    Ok(())
                }
                Some(Err(end)) => Err(end),
                None => self.publish(told).await,
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    fn hear(&mut self, text: &str) {
        match ServerMessage::parse(text) {
            Ok(
                ServerMessage::HeartbeatMessage(_)
                | ServerMessage::AckPublishMetric(_)
                | ServerMessage::AckPublishHealth(_)
                | ServerMessage::AckPublishInstanceStatus(_),
            ) => self.link.heard(),
            Ok(ServerMessage::StopTelemetrySessionMessage(text)) => {
                tracing::info!(message = text.message, "the control plane ends the telemetry");
            }
            Ok(
                refusal @ (ServerMessage::ServerException(_)
                | ServerMessage::BadRequestException(_)
                | ServerMessage::ResourceValidationException(_)
                | ServerMessage::InvalidParameterException(_)),
            ) => tracing::warn!(?refusal, "the control plane refuses telemetry"),
            Ok(ServerMessage::Unknown { kind }) => {
                tracing::info!(
                    kind,
                    "the control plane sent telemetry of an unknown type; dropped"
                );
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot read a message; dropped");
            }
        }
    }

    async fn publish(&mut self, told: &mut Option<Health>) -> Result<(), End> {
        for message in self.context.metrics(Timestamp::now()) {
            self.send(&AgentMessage::PublishMetricsRequest(message)).await?;
        }
        let health = self.context.health.borrow().clone();
        let news = health.filter(|new| told.as_ref().is_none_or(|told| told.ill != new.ill));
        if let Some(health) = news {
            let message = self.context.status(&health, Timestamp::now());
            self.send(&AgentMessage::PublishInstanceStatusRequest(message)).await?;
            *told = Some(health);
        }
        Ok(())
    }

    async fn send(&mut self, message: &AgentMessage) -> Result<(), End> {
        let body = serde_json::to_string(message).map_err(End::Encode)?;
        let client = self.control_plane.client();
        let signed = self.address.sign(client, body.as_bytes()).await.map_err(End::Sign)?;
        self.link.send(frame(self.address.host(), signed, &body)).await
    }
}

impl Context {
    /// The messages that are due; none if tasks run of which nothing is known yet.
    fn metrics(&self, now: Timestamp) -> Vec<PublishMetrics> {
        let message_id = Uuid::new_v4().to_string();
        let origin = Origin {
            cluster: &self.identity.cluster,
            container_instance: &self.identity.container_instance_arn,
            message_id: &message_id,
            now,
        };
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let tracked = || snapshot.states.iter().filter(|(_, task)| metrics::is_tracked(task));
        let Some(stats) = self.stats.as_ref().filter(|_| tracked().next().is_some()) else {
            return vec![metrics::idle(&origin)];
        };
        let metric = |(id, task): (&TaskId, &Arc<Task>)| metrics::task(task, &stats.window(id));
        metrics::batch(&origin, tracked().filter_map(metric).collect())
    }

    fn status(&self, health: &Health, now: Timestamp) -> PublishInstanceStatus {
        PublishInstanceStatus {
            metadata: Metadata {
                cluster: Some(self.identity.cluster.clone()),
                container_instance: Some(self.identity.container_instance_arn.clone()),
                request_id: Some(Uuid::new_v4().to_string()),
                ..Metadata::default()
            },
            timestamp: Some(now.into()),
            statuses: vec![health.status()],
        }
    }
}

/// What is written of a message: header lines in their order, an empty line, the envelope.
fn frame(host: &str, signed: Vec<(&'static str, String)>, body: &str) -> String {
    let mut headers: BTreeMap<String, String> =
        signed.into_iter().map(|(name, value)| (canonical(name), value)).collect();
    headers.insert(canonical("host"), host.to_owned());
    let mut frame = String::with_capacity(body.len() + 1024);
    for (name, value) in headers {
        // Writing to a string cannot fail.
        let _ = write!(frame, "{name}: {value}\r\n");
    }
    frame.push_str("\r\n");
    frame.push_str(body);
    frame
}

/// A header's name with capitals, as Amazon's agent writes it.
fn canonical(name: &str) -> String {
    let mut first = true;
    let letter = |letter: char| {
        let written = if first { letter.to_ascii_uppercase() } else { letter };
        first = letter == '-';
        written
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let signed = vec![
            ("x-amz-date", "20260101T000000Z".to_owned()),
            ("x-amz-security-token", "T".to_owned()),
            ("authorization", "AWS4".to_owned()),
        ];
        let frame = frame("h:1", signed, "{}");
        let expected = "Authorization: AWS4\r\nHost: h:1\r\nX-Amz-Date: 20260101T000000Z\r\n\
                        X-Amz-Security-Token: T\r\n\r\n{}";
        assert_eq!(frame, expected);
        let (headers, body) = protocol::tcs::split(&frame);
        assert_eq!((headers.lines().count(), body), (4, "{}"));
    }
}
