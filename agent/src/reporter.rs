//! Tells the control plane what became of its tasks: known ≠ sent → SubmitTaskStateChange → sent.
//!
//! Level-triggered: each look takes the whole snapshot and asks [`report::due`] of every task, so
//! there is no queue that could be lost. Per task one call at a time, in order; at most
//! [`IN_FLIGHT`] in all. What was sent is marked through the owner's inbox, and the task is looked
//! at again once that mark is stored: a crash between repeats the call, which ECS allows. Calls that
//! fail are repeated for ever (1 s to 30 s); InvalidParameterException means that nobody wants the
//! report, which then counts as sent. Source: protocol reference §9.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::ecs::{
    ContainerStateChange, NetworkBinding, NetworkInterface, SubmitTaskStateChangeRequest,
    SubmitTaskStateChangeResponse,
};
use protocol::ids::TaskId;
use protocol::taskdef::TransportProtocol;
use protocol::time::EpochSeconds;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backend::CallError;
use crate::backend::backoff::{self, Schedule};
use crate::backend::discover::ControlPlane;
use crate::credentials::Credentials;
use crate::engine::report::{self, Due, Report};
use crate::engine::{Image, Reported, Task, TaskEvent};
use crate::error::chain;
use crate::failpoint;
use crate::host::view::Snapshot;
use crate::host::{Input, runtime_id};
use crate::identity::Identity;

/// Calls at once.
const IN_FLIGHT: usize = 10;
/// Without anything to wait for, the reporter still looks: a wall clock may have been set back.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Characters of a reason, as the Amazon agent cuts them.
const LONGEST_REASON: usize = 1024;

const RETRIES: Schedule = Schedule {
    first: Duration::from_secs(1),
    last: Duration::from_secs(30),
    factor: 1.3,
    jitter: 0.2,
};

/// What the reporter works with.
#[derive(Debug)]
pub struct Parts {
    pub control_plane: ControlPlane,
    pub identity: watch::Receiver<Option<Arc<Identity>>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub inbox: mpsc::Sender<Input>,
    pub credentials: Credentials,
}

/// What is going on with one task.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// A call is under way.
    calling: bool,
    /// In a row.
    failures: u32,
    /// No call before this.
    not_before: Option<Instant>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Sent, or not wanted, and marked.
    Marked,
    Failed,
    /// The agent ends.
    Closed,
}

/// Runs until the owner ends.
pub async fn run(parts: Parts) {
    let Parts { control_plane, mut identity, mut snapshots, inbox, credentials } = parts;
    let mut turns: HashMap<TaskId, Turn> = HashMap::new();
    let mut calls: JoinSet<Ended> = JoinSet::new();
    let mut called: HashMap<tokio::task::Id, TaskId> = HashMap::new();
    let mut holders = Holders::default();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        if snapshot.ended {
            return;
        }
        holders.look(&snapshot, &credentials);
        turns.retain(|id, _| snapshot.states.contains_key(id));
        let now = Timestamp::now();
        let mut sleep = LONGEST_SLEEP;
        let registered = identity.borrow_and_update().clone();
        for (id, task) in &snapshot.states {
            let Some(identity) = registered.clone() else { break };
            let turn = turns.get(id).copied().unwrap_or_default();
            let rest = turn.not_before.map(|until| until.duration_since(Instant::now()));
            if turn.calling {
                continue;
            }
            match report::due(task, now) {
                Due::Nothing => {}
                Due::At(at) => {
                    let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                    // A millisecond later, so that it is due when the reporter looks.
                    sleep = sleep.min(wait + Duration::from_millis(1));
                }
                Due::Now(_) if rest.is_some_and(|rest| !rest.is_zero()) => {
                    sleep = sleep.min(rest.unwrap_or_default());
                }
                // One that ends makes room and wakes the loop.
                Due::Now(_) if calls.len() >= IN_FLIGHT => {}
                Due::Now(report) => {
                    turns.insert(id.clone(), Turn { calling: true, ..turn });
                    let (control_plane, inbox) = (control_plane.clone(), inbox.clone());
                    let task = Arc::clone(task);
                    let call = calls.spawn(async move {
                        send(&control_plane, &inbox, &identity, &task, &report, turn.failures).await
                    });
                    called.insert(call.id(), id.clone());
                }
            }
        }
        // Held on to, it would make the owner copy all of it at its next change.
        drop(snapshot);
        let ended = tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                None
            }
            changed = identity.changed() => {
                if changed.is_err() {
                    return;
                }
                None
            }
            ended = calls.join_next_with_id(), if !calls.is_empty() => ended,
            () = tokio::time::sleep(sleep) => None,
        };
        let (call, ended) = match ended {
            None => continue,
            Some(Ok((call, ended))) => (call, ended),
            Some(Err(panic)) => (panic.id(), Ended::Failed),
        };
        let Some(id) = called.remove(&call) else { continue };
        match ended {
            Ended::Marked => {
                turns.remove(&id);
            }
            Ended::Failed => {
                let turn = turns.entry(id).or_default();
                turn.calling = false;
                turn.failures = turn.failures.saturating_add(1);
                let pause = RETRIES.pause(turn.failures, backoff::random());
                turn.not_before = Some(Instant::now() + pause);
            }
            Ended::Closed => return,
        }
    }
}

/// Which tasks may hold credentials, to take them when the task ends and when it goes.
#[derive(Debug, Default)]
struct Holders {
    /// Whether it had stopped.
    tasks: HashMap<TaskId, bool>,
}

impl Holders {
    fn look(&mut self, snapshot: &Snapshot, credentials: &Credentials) {
        self.tasks.retain(|id, _| {
            let stays = snapshot.states.contains_key(id);
            if !stays {
                credentials.forget(id);
            }
            stays
        });
        for (id, task) in snapshot.states.iter().filter(|(_, task)| task.ecs.is_some()) {
            let stopped = task.times.stopped.is_some();
            if self.tasks.get(id) == Some(&stopped) {
                continue;
            }
            self.tasks.insert(id.clone(), stopped);
            if stopped {
                credentials.revoke(id);
            }
        }
    }
}

/// Calls and marks.
async fn send(
    control_plane: &ControlPlane,
    inbox: &mpsc::Sender<Input>,
    identity: &Identity,
    task: &Task,
    report: &Report,
    failures: u32,
) -> Ended {
    let Some(request) = request(identity, task, report) else { return Ended::Failed };
    failpoint::hit("report.before");
    let answer: Result<SubmitTaskStateChangeResponse, CallError> =
        control_plane.call("SubmitTaskStateChange", &request).await;
    failpoint::hit("report.sent");
    match answer {
        Ok(_) => {}
        Err(error) if error.api().is_some_and(|e| e.name == "InvalidParameterException") => {
            tracing::warn!(task = %task.id, error = chain(&error), "a report is not wanted; dropped");
        }
        Err(error) => {
            // A control plane that is away is told of once per task, not at each attempt.
            if failures == 0 {
                tracing::warn!(task = %task.id, error = chain(&error), "cannot report a task; will try again");
            } else {
                tracing::debug!(task = %task.id, failures, error = chain(&error), "cannot report a task");
            }
            return Ended::Failed;
        }
    }
    let (reply, answer) = oneshot::channel();
    let event = TaskEvent::Sent(report.sent());
    if inbox.send(Input::Ask { task: task.id.clone(), event, reply }).await.is_err() {
        return Ended::Closed;
    }
    let stored = answer.await;
    failpoint::hit("report.marked");
    match stored {
        Ok(Ok(_)) => Ended::Marked,
        Ok(Err(error)) => {
            tracing::warn!(task = %task.id, error, "cannot remember what was reported");
            Ended::Failed
        }
        Err(_closed) => Ended::Closed,
    }
}

/// The report as the API takes it; `None` for a task of no control plane.
fn request(
    identity: &Identity,
    task: &Task,
    report: &Report,
) -> Option<SubmitTaskStateChangeRequest> {
    let ecs = task.ecs.as_ref()?;
    let containers: Vec<ContainerStateChange> = report
        .containers
        .iter()
        .filter_map(|(index, status)| container(identity, task, *index, *status))
        .collect();
    let cluster = if ecs.cluster_arn.is_empty() { &identity.cluster } else { &ecs.cluster_arn };
    Some(SubmitTaskStateChangeRequest {
        cluster: Some(cluster.clone()),
        task: Some(ecs.arn.clone()),
        status: Some(report.status.name().to_owned()),
        reason: report.reason.as_deref().map(cut),
        containers: Some(containers).filter(|containers| !containers.is_empty()),
        attachments: None,
        managed_agents: None,
        pull_started_at: task.times.pull_started.map(EpochSeconds),
        pull_stopped_at: task.times.pull_stopped.map(EpochSeconds),
        execution_stopped_at: report.execution_stopped_at.map(EpochSeconds),
    })
}

fn container(
    identity: &Identity,
    task: &Task,
    index: usize,
    status: Reported,
) -> Option<ContainerStateChange> {
    let state = task.containers.get(index)?;
    let ran = state.created_at.is_some();
    let stopped = status == Reported::Stopped;
    let digest = match &state.image {
        Image::Ready { digest, .. } => digest.clone(),
        Image::Unresolved | Image::Resolving { .. } | Image::Failed => None,
    };
    let bindings: Vec<NetworkBinding> = state
        .ports
        .iter()
        .filter(|_| status >= Reported::Running && ran)
        .map(|lease| NetworkBinding {
            bind_ip: Some("0.0.0.0".to_owned()),
            container_port: Some(lease.container_port.into()),
            host_port: Some(lease.host_port.into()),
            protocol: Some(
                match lease.protocol {
                    TransportProtocol::Tcp => "tcp",
                    TransportProtocol::Udp => "udp",
                }
                .to_owned(),
            ),
            ..NetworkBinding::default()
        })
        .collect();
    let interface = task.address.filter(|_| identity.reports_task_network).map(|address| {
        vec![NetworkInterface {
            private_ipv4_address: Some(address.to_string()),
            ..NetworkInterface::default()
        }]
    });
    Some(ContainerStateChange {
        container_name: Some(state.name.clone()),
        image_digest: digest,
        runtime_id: ran.then(|| runtime_id(&task.id, &state.name)),
        exit_code: state.exit_code().filter(|_| stopped),
        network_bindings: Some(bindings).filter(|bindings| !bindings.is_empty()),
        network_interfaces: interface,
        reason: state.reason.as_deref().filter(|_| stopped).map(cut),
        status: Some(status.name().to_owned()),
    })
}

fn cut(reason: &str) -> String {
    reason.chars().take(LONGEST_REASON).collect()
}
