//! A session of TCS: metrics go to memory, health goes to the tasks' records, each is acknowledged.

use axum::extract::ws::WebSocket;
use jiff::Timestamp;
use protocol::acs::Text;
use protocol::tcs::{self, AgentMessage, Heartbeat, ServerMessage, TaskHealth};
use tokio::time::Instant;

use super::Timing;
use super::admit::Peer;
use super::link::{self, Link};
use crate::model::{Definition, Health, Task};
use crate::state::{self, View};

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    State(#[from] state::Error),
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    /// The instance is deregistered.
    Inactive,
    /// Nothing was published for too long.
    Silent,
    /// The agent's access key was taken away.
    Revoked,
}

pub(super) async fn run(peer: Peer, socket: WebSocket, timing: Timing) {
    let mut link = Link::new(socket);
    let ended = serve(&peer, &mut link, timing).await;
    // A session that took this one's place publishes again within 20 s.
    peer.state.sessions().telemetry.forget(&peer.key);
    let sent = match ended {
        Ok(End::Closed) => return,
        Ok(End::Revoked) => link.close(link::AWAY, "the access key was revoked").await,
        Ok(End::Silent) => link.close(link::AWAY, "nothing was published").await,
        Ok(End::Inactive) => {
            let text = Text { message: Some("The container instance is deregistered.".to_owned()) };
            match link.send(&ServerMessage::StopTelemetrySessionMessage(text)).await {
                Ok(()) => link.close(link::NORMAL, "deregistered").await,
                Err(error) => Err(error),
            }
        }
        Err(error) => {
            tracing::info!(
                instance = %peer.key,
                error = &error as &dyn std::error::Error,
                "a telemetry session has failed"
            );
            return;
        }
    };
    if let Err(error) = sent {
        tracing::debug!(error = &error as &dyn std::error::Error, "no farewell was possible");
    }
}

async fn serve(peer: &Peer, link: &mut Link, timing: Timing) -> Result<End, Error> {
    let sleeper = peer.state.sessions().sleeper(&peer.key);
    let mut heartbeat = Instant::now();
    let mut heard = Instant::now();
    loop {
        let active = {
            let view = peer.state.view();
            if !peer.has_key(&view) {
                return Ok(End::Revoked);
            }
            peer.instance(&view).is_some()
        };
        let now = Instant::now();
        if !active {
            return Ok(End::Inactive);
        }
        if heard + timing.silence <= now {
            return Ok(End::Silent);
        }
        if heartbeat <= now {
            heartbeat = now + timing.heartbeat;
            let beat = Heartbeat { healthy: Some(true) };
            link.send(&ServerMessage::HeartbeatMessage(beat)).await?;
        }
        tokio::select! {
            frame = link.receive() => match frame? {
                Some(frame) => {
                    heard = Instant::now();
                    hear(peer, link, &frame).await?;
                }
                None => return Ok(End::Closed),
            },
            () = sleeper.woken() => {}
            () = tokio::time::sleep_until(heartbeat.min(heard + timing.silence)) => {}
        }
    }
}

async fn hear(peer: &Peer, link: &mut Link, frame: &str) -> Result<(), Error> {
    // The session's signature vouches for its frames: the headers of each are not verified again.
    let (_headers, envelope) = tcs::split(frame);
    let read = AgentMessage::parse(envelope);
    let Some(message) = link::well_formed(&peer.key, read) else { return Ok(()) };
    let answer = match message {
        AgentMessage::PublishMetricsRequest(publish) => {
            let view = peer.state.view();
            let telemetry = &peer.state.sessions().telemetry;
            telemetry.publish(&view, peer, publish.task_metrics, Timestamp::now());
            ServerMessage::AckPublishMetric(Text::default())
        }
        AgentMessage::PublishHealthRequest(publish) => {
            take_health(peer, &publish.tasks).await?;
            ServerMessage::AckPublishHealth(Text::default())
        }
        AgentMessage::PublishInstanceStatusRequest(publish) => {
            for status in publish.statuses.iter().take(8) {
                tracing::info!(
                    instance = %peer.key,
                    check = ?status.kind.as_deref().map(link::shorten),
                    status = ?status.status.as_deref().map(link::shorten),
                    reason = ?status.status_reason.as_deref().map(link::shorten),
                    "an instance reports its own health"
                );
            }
            ServerMessage::AckPublishInstanceStatus(Text::default())
        }
        AgentMessage::Unknown { kind } => {
            tracing::debug!(instance = %peer.key, kind = link::shorten(&kind), "dropped an unknown message");
            return Ok(());
        }
    };
    Ok(link.send(&answer).await?)
}

/// Writes the tasks whose health has changed. Tasks of other instances are not the agent's to judge.
async fn take_health(peer: &Peer, reports: &[TaskHealth]) -> Result<(), state::Error> {
    peer.state
        .transact(|view, edit| {
            let mut seen = std::collections::HashSet::new();
            for report in reports {
                let before = peer.task(view, report.task_arn.as_deref());
                let before = before.filter(|task| task.is_live());
                // One report of a task counts.
                if let Some(before) = before.filter(|task| seen.insert(task.id.clone())) {
                    let mut task = before.value.clone();
                    apply(view, &mut task, report);
                    if task != before.value {
                        task.version += 1;
                        edit.update(before, &task);
                    }
                }
            }
            Ok(())
        })
        .await
}

fn apply(view: &View, task: &mut Task, report: &TaskHealth) {
    let definition = view.table::<Definition>().get(&task.definition.key(&task.region));
    let essential = |name: &str| {
        let containers = definition.iter().flat_map(|definition| &definition.definition.containers);
        containers.filter(|container| container.name == name).all(|container| container.essential)
    };
    let mut checked = Vec::new();
    for of in &report.containers {
        let name = of.container_name.as_deref().unwrap_or_default();
        let health = match of.health_status.as_deref() {
            Some("HEALTHY") => Health::Healthy,
            Some("UNHEALTHY") => Health::Unhealthy,
            _ => Health::Unknown,
        };
        if let Some(container) = task.containers.iter_mut().find(|c| c.name == name) {
            container.health = health;
            if essential(name) {
                checked.push(health);
            }
        }
    }
    // Essential containers count, of those that have a check.
    task.health = if checked.contains(&Health::Unhealthy) {
        Health::Unhealthy
    } else if !checked.is_empty() && checked.iter().all(|health| *health == Health::Healthy) {
        Health::Healthy
    } else {
        Health::Unknown
    };
}
