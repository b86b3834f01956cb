//! A session of ACS.
//!
//! In order: the connection's record is written; the manifest is sent; then, at each wake-up, what
//! is due: payloads, credentials, a heartbeat, and the end if the instance is another session's or
//! inactive.

use std::collections::{HashMap, HashSet};

use axum::extract::ws::WebSocket;
use jiff::Timestamp;
use protocol::acs::{
    AgentMessage, Heartbeat, Payload, RoleCredentials, ServerMessage, TaskIdentifier, TaskManifest,
    TaskStopVerification, TaskStopVerificationAck, Text,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Timing;
use super::admit::{INACTIVE, Peer};
use super::connection::{self, Claim};
use super::credentials::{self, Kind};
use super::deliver::{self, InFlight};
use super::link::{self, Link};
use crate::model::{Desired, Entity, Role, StopCode, Task, TaskStatus};
use crate::{failpoint, state};

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error(transparent)]
    Connection(#[from] connection::Error),
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The agent has closed.
    Closed,
    /// Another session is the instance's now.
    Replaced,
    /// The instance is deregistered.
    Inactive,
    /// The agent does not answer.
    Silent,
    /// Its access key was taken away.
    Revoked,
}

struct Session {
    peer: Peer,
    timing: Timing,
    link: Link,
    since: Timestamp,
    /// The agent speaks version 2: it answers heartbeats, or it is gone.
    acknowledges: bool,
    /// The heartbeat without its answer.
    heartbeat: Option<(String, Instant)>,
    next_heartbeat: Instant,
    in_flight: InFlight,
    next_credentials: Instant,
    /// When which set of credentials was sent (by its id), of those not acknowledged.
    sent: HashMap<String, Instant>,
    /// Sets of credentials that the agent has.
    confirmed: HashSet<String>,
    manifest_at: Timestamp,
}

pub(super) async fn run(peer: Peer, socket: WebSocket, timing: Timing, acknowledges: bool) {
    let now = Instant::now();
    let mut session = Session {
        peer,
        timing,
        link: Link::new(socket),
        since: Timestamp::now(),
        acknowledges,
        heartbeat: None,
        next_heartbeat: now + timing.heartbeat,
        in_flight: InFlight::default(),
        next_credentials: now,
        sent: HashMap::new(),
        confirmed: HashSet::new(),
        manifest_at: Timestamp::now(),
    };
    let ended = session.serve().await;
    if let Err(error) = connection::release(&session.peer).await {
        // It vanishes with the lease or is overwritten by the next session.
        tracing::warn!(
            instance = %session.peer.key,
            error = &error as &dyn std::error::Error,
            "a connection's record is left behind"
        );
    }
    match ended {
        Ok(end) => {
            tracing::info!(instance = %session.peer.key, ?end, "an agent's session has ended");
            session.farewell(end).await;
        }
        Err(error) => tracing::info!(
            instance = %session.peer.key,
            error = &error as &dyn std::error::Error,
            "an agent's session has failed"
        ),
    }
}

fn timestamp() -> Option<i64> {
    Some(Timestamp::now().as_millisecond())
}

fn identifier(peer: &Peer, task: &Task) -> TaskIdentifier {
    TaskIdentifier {
        task_arn: Some(task.arn(&peer.account)),
        task_cluster_arn: Some(peer.cluster_arn.clone()),
        desired_status: Some(task.desired.name().to_owned()),
    }
}

impl Session {
    async fn serve(&mut self) -> Result<End, Error> {
        let sleeper = self.peer.state.sessions().sleeper(&self.peer.key);
        if connection::claim(&self.peer, self.since, true).await? == Claim::Nobodys {
            return Ok(End::Inactive);
        }
        tracing::info!(instance = %self.peer.key, "an agent has connected");
        failpoint::hit("session.claimed");
        self.send_manifest().await?;
        failpoint::hit("session.manifest");
        loop {
            if let Some(end) = self.standing().await? {
                return Ok(end);
            }
            self.deliver().await?;
            self.send_credentials().await?;
            if let Some(end) = self.beat().await? {
                return Ok(end);
            }
            let wait = self.next();
            tokio::select! {
                frame = self.link.receive() => match frame? {
                    Some(frame) => self.hear(&frame).await?,
                    None => return Ok(End::Closed),
                },
                () = sleeper.woken() => {}
                () = tokio::time::sleep_until(wait) => {}
            }
        }
    }

    /// When something is due though nothing happens.
    fn next(&self) -> Instant {
        let answer = self.heartbeat.as_ref().filter(|_| self.acknowledges);
        [
            Some(self.next_heartbeat),
            Some(self.next_credentials),
            answer.map(|(_, at)| *at + self.timing.patience),
            self.in_flight.due(self.timing.resend),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_heartbeat, Instant::min)
    }

    /// Whether the session may go on.
    async fn standing(&mut self) -> Result<Option<End>, Error> {
        let (active, owner, forced) = {
            let view = self.peer.state.view();
            if !self.peer.has_key(&view) {
                return Ok(Some(End::Revoked));
            }
            let connection = view.connections.get(&connection::key(&self.peer));
            // Tasks that were given up without their agent, which may still run them.
            let forced = view.tasks_on(&self.peer.key).any(|task| {
                task.stop_code == Some(StopCode::InfrastructureHealth)
                    && task.last == TaskStatus::Stopped
                    && task.stopped_at > Some(self.manifest_at)
            });
            let owner = connection.map(|connection| connection.session.clone());
            (self.peer.instance(&view).is_some(), owner, forced)
        };
        if !active {
            return Ok(Some(End::Inactive));
        }
        match owner {
            Some(owner) if owner == self.peer.session => {}
            Some(_) => return Ok(Some(End::Replaced)),
            // The lease has expired, e.g. because this process was halted.
            None => match connection::claim(&self.peer, self.since, false).await? {
                Claim::Ours => {}
                Claim::Others => return Ok(Some(End::Replaced)),
                Claim::Nobodys => return Ok(Some(End::Inactive)),
            },
        }
        if forced {
            self.send_manifest().await?;
        }
        Ok(None)
    }

    /// Tells the agent why the session ends. It may have gone: nothing depends on it.
    async fn farewell(mut self, end: End) {
        let text = |text: &str| Text { message: Some(text.to_owned()) };
        let (message, code, reason) = match end {
            End::Closed => return,
            End::Replaced => (
                Some(ServerMessage::CloseMessage(text("another session of the instance began"))),
                link::NORMAL,
                "replaced by another session",
            ),
            End::Inactive => (
                Some(ServerMessage::Exception {
                    kind: INACTIVE.to_owned(),
                    message: text("The container instance has been deregistered."),
                }),
                link::NORMAL,
                "deregistered",
            ),
            End::Silent => (None, link::AWAY, "heartbeat unanswered"),
            End::Revoked => (None, link::AWAY, "the access key was revoked"),
        };
        if let Some(message) = message
            && let Err(error) = self.link.send(&message).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "no farewell was possible");
            return;
        }
        if let Err(error) = self.link.close(code, reason).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "no close was possible");
        }
    }

    async fn send_manifest(&mut self) -> Result<(), Error> {
        self.manifest_at = Timestamp::now();
        let manifest = {
            let view = self.peer.state.view();
            let live = view.tasks_on(&self.peer.key).filter(|task| task.is_live());
            TaskManifest {
                message_id: Some(Uuid::new_v4().to_string()),
                cluster_arn: Some(self.peer.cluster_arn.clone()),
                container_instance_arn: Some(self.peer.instance_arn.clone()),
                tasks: live.map(|task| identifier(&self.peer, task)).collect(),
                generated_at: timestamp(),
                // The record of this connection is newer than any payload before.
                timeline: i64::try_from(view.revision).ok(),
            }
        };
        Ok(self.link.send(&ServerMessage::TaskManifestMessage(manifest)).await?)
    }

    /// Sends the payloads that are due.
    async fn deliver(&mut self) -> Result<(), Error> {
        let payloads = {
            let view = self.peer.state.view();
            let (key, resend) = (&self.peer.key, self.timing.resend);
            self.in_flight.plan(&view, key, resend, Instant::now())
        };
        let mut open: Vec<_> = payloads.into_iter().rev().collect();
        while let Some((id, keys)) = open.pop() {
            let left = self.send_payload(&id, &keys).await?;
            if !left.is_empty()
                && let Some(id) = self.in_flight.split(&id, &left)
            {
                open.push((id, left));
            }
        }
        Ok(())
    }

    /// Sends the tasks with these keys; returns those that did not fit in.
    async fn send_payload(&mut self, id: &str, keys: &[String]) -> Result<Vec<String>, Error> {
        let now = Timestamp::now();
        let (account, state) = (&self.peer.account, &self.peer.state);
        let starting: Vec<_> = {
            let view = state.view();
            let starts = |key: &String| {
                view.tasks.get(key).is_some_and(|task| task.desired == Desired::Running)
            };
            keys.iter().filter(|key| starts(key)).cloned().collect()
        };
        let missing = credentials::ensure(state, account, &starting, now).await?;
        let mut failed = missing
            .into_iter()
            .map(|missing| (missing.task, Role::cannot_be_assumed(&missing.role_arn)))
            .collect::<Vec<_>>();
        let keys: Vec<_> =
            keys.iter().filter(|key| !failed.iter().any(|(f, _)| f == *key)).cloned().collect();
        let (built, revision) = {
            let view = state.view();
            (deliver::build(&view, &self.peer, &keys, now), view.revision)
        };
        failed.extend(built.failed);
        if !failed.is_empty() {
            deliver::fail(&self.peer, &failed, now).await?;
        }
        if !built.tasks.is_empty() {
            let sent = Instant::now();
            self.sent.extend(built.credentials.into_iter().map(|id| (id, sent)));
            let payload = Payload {
                message_id: Some(id.to_owned()),
                cluster_arn: Some(self.peer.cluster_arn.clone()),
                container_instance_arn: Some(self.peer.instance_arn.clone()),
                tasks: built.tasks,
                generated_at: timestamp(),
                seq_num: i64::try_from(revision).ok(),
                timeline: i64::try_from(revision).ok(),
            };
            failpoint::hit("payload.before");
            self.link.send(&ServerMessage::PayloadMessage(payload)).await?;
            failpoint::hit("payload.sent");
        }
        Ok(built.left)
    }

    /// Renews credentials, and sends those that the agent has not acknowledged in this session. In
    /// the beginning these are all: an agent keeps none over its restart, and may have missed a
    /// renewal while it was away.
    async fn send_credentials(&mut self) -> Result<(), Error> {
        let at = Instant::now();
        if at < self.next_credentials {
            return Ok(());
        }
        self.next_credentials = at + self.timing.credentials;
        let now = Timestamp::now();
        let with_roles: Vec<_> = {
            let view = self.peer.state.view();
            let known = view.tasks_on(&self.peer.key).filter(|task| {
                let role = Kind::ALL.into_iter().any(|kind| kind.role(task).is_some());
                role && task.is_live() && task.delivered.is_some()
            });
            known.map(|task| task.key()).collect()
        };
        let (state, account) = (&self.peer.state, &self.peer.account);
        for missing in credentials::ensure(state, account, &with_roles, now).await? {
            tracing::warn!(
                task = %missing.task,
                role = %missing.role_arn,
                "credentials cannot be renewed: the role does not exist any more"
            );
        }
        let mut messages = Vec::new();
        let mut present = HashSet::new();
        {
            let view = state.view();
            for task in view.tasks_on(&self.peer.key).filter(|task| task.is_live()) {
                for kind in Kind::ALL {
                    let Some(role) = kind.role(task) else { continue };
                    let Some(set) = credentials::current(&view, task, kind, now) else { continue };
                    let wire = credentials::wire(set, kind, role, account);
                    let Some(id) = wire.credentials_id.clone() else { continue };
                    present.insert(id.clone());
                    let waits = self.sent.get(&id).is_some_and(|sent| {
                        // Those of a payload go with its repetition.
                        at < *sent + self.timing.credentials
                    });
                    if waits || self.confirmed.contains(&id) || task.delivered.is_none() {
                        continue;
                    }
                    self.sent.insert(id, at);
                    messages.push(RoleCredentials {
                        message_id: Some(Uuid::new_v4().to_string()),
                        task_arn: Some(task.arn(account)),
                        task_cluster_arn: Some(self.peer.cluster_arn.clone()),
                        role_type: Some(kind.name().to_owned()),
                        role_credentials: Some(wire),
                    });
                }
            }
        }
        self.sent.retain(|id, _| present.contains(id));
        self.confirmed.retain(|id| present.contains(id));
        for message in messages {
            self.link.send(&ServerMessage::IamRoleCredentialsMessage(message)).await?;
        }
        Ok(())
    }

    /// Sends a heartbeat if it is time; ends the session if the last one was not answered.
    async fn beat(&mut self) -> Result<Option<End>, Error> {
        let now = Instant::now();
        if self.acknowledges
            && let Some((_, at)) = &self.heartbeat
            && *at + self.timing.patience <= now
        {
            return Ok(Some(End::Silent));
        }
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.timing.heartbeat;
            let id = Uuid::new_v4().to_string();
            let heartbeat = Heartbeat { message_id: Some(id.clone()), healthy: Some(true) };
            self.link.send(&ServerMessage::HeartbeatMessage(heartbeat)).await?;
            // The oldest without an answer counts.
            self.heartbeat.get_or_insert((id, now));
        }
        Ok(None)
    }

    async fn hear(&mut self, frame: &str) -> Result<(), Error> {
        let read = AgentMessage::parse(frame);
        let Some(message) = link::well_formed(&self.peer.key, read) else { return Ok(()) };
        match message {
            AgentMessage::AckRequest(ack) => {
                let id = ack.message_id.unwrap_or_default();
                if let Some(tasks) = self.in_flight.acknowledge(&id) {
                    failpoint::hit("ack.before");
                    deliver::delivered(&self.peer, &tasks).await?;
                    failpoint::hit("ack.stored");
                }
            }
            AgentMessage::NackRequest(nack) => tracing::warn!(
                instance = %self.peer.key,
                message = ?nack.message_id.as_deref().map(link::shorten),
                reason = ?nack.reason.as_deref().map(link::shorten),
                "the agent refuses a message"
            ),
            // Whichever it answers: it lives.
            AgentMessage::HeartbeatAckRequest(_) => self.heartbeat = None,
            AgentMessage::IamRoleCredentialsAckRequest(ack) => {
                let id = ack.credentials_id.unwrap_or_default();
                if self.sent.remove(&id).is_some() {
                    self.confirmed.insert(id);
                }
            }
            AgentMessage::TaskStopVerificationMessage(question) => {
                let answer = self.verify(question);
                self.link.send(&ServerMessage::TaskStopVerificationAck(answer)).await?;
            }
            AgentMessage::Unknown { kind } => {
                let kind = link::shorten(&kind);
                tracing::debug!(instance = %self.peer.key, kind, "dropped an unknown message");
            }
        }
        Ok(())
    }

    /// Which of the agent's tasks it shall really stop: those that are not to run here.
    fn verify(&self, question: TaskStopVerification) -> TaskStopVerificationAck {
        let view = self.peer.state.view();
        let peer = &self.peer;
        let runs = |candidate: &TaskIdentifier| {
            peer.task(&view, candidate.task_arn.as_deref())
                .is_some_and(|task| task.desired == Desired::Running && task.is_live())
        };
        TaskStopVerificationAck {
            message_id: question.message_id,
            generated_at: timestamp(),
            stop_tasks: question.stop_candidates.into_iter().filter(|c| !runs(c)).collect(),
        }
    }
}
