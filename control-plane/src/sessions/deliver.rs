//! What an instance's agent has to be told: the tasks whose `desired` it has not acknowledged, as
//! payloads; and what becomes of those that cannot be told.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use protocol::acs::{self, payload};
use protocol::ecs;
use protocol::taskdef::NetworkMode;
use tokio::time::Instant;
use uuid::Uuid;

use super::admit::Peer;
use super::credentials::{self, Kind};
use crate::model::{Definition, Desired, Entity, StopCode, Task};
use crate::state::{self, Stored, View};

/// Most tasks of a payload.
const TASKS: usize = 10;
/// Most bytes of a payload's tasks; with what is around them a frame stays below its bound.
const BYTES: usize = super::MAX_FRAME - (64 << 10);
/// Most tasks that are sent and not acknowledged; the others wait for acknowledgments.
const WINDOW: usize = 100;

/// A payload without its acknowledgment.
#[derive(Debug)]
struct Sent {
    id: String,
    /// Keys, and what was asked for.
    tasks: Vec<(String, Desired)>,
    at: Instant,
}

/// Payloads without their acknowledgments: [`WINDOW`] tasks at most.
#[derive(Debug, Default)]
pub(super) struct InFlight(Vec<Sent>);

impl InFlight {
    /// Takes out what a message told.
    pub(super) fn acknowledge(&mut self, id: &str) -> Option<Vec<(String, Desired)>> {
        let at = self.0.iter().position(|sent| sent.id == id)?;
        Some(self.0.swap_remove(at).tasks)
    }

    /// Moves tasks out of a message into one of their own, whose id is returned.
    pub(super) fn split(&mut self, id: &str, keys: &[String]) -> Option<String> {
        let sent = self.0.iter_mut().find(|sent| sent.id == id)?;
        let (moved, kept) = sent.tasks.drain(..).partition(|(key, _)| keys.contains(key));
        sent.tasks = kept;
        let (id, at) = (Uuid::new_v4().to_string(), sent.at);
        self.0.push(Sent { id: id.clone(), tasks: moved, at });
        Some(id)
    }

    /// When the oldest is to be sent again.
    pub(super) fn due(&self, resend: Duration) -> Option<Instant> {
        self.0.iter().map(|sent| sent.at + resend).min()
    }

    /// Which payloads to send now, as ids with keys of tasks: those that have waited for too long,
    /// with what still holds of them and under their old ids, and new ones.
    pub(super) fn plan(
        &mut self,
        view: &View,
        instance: &str,
        resend: Duration,
        now: Instant,
    ) -> Vec<(String, Vec<String>)> {
        let holds = |(key, desired): &(String, Desired)| {
            view.tasks.get(key).is_some_and(|task| is_open(task) && task.desired == *desired)
        };
        self.0.retain_mut(|sent| {
            if sent.at + resend <= now {
                sent.tasks.retain(holds);
            }
            !sent.tasks.is_empty()
        });
        let mut payloads = Vec::new();
        for sent in self.0.iter_mut().filter(|sent| sent.at + resend <= now) {
            sent.at = now;
            let keys = sent.tasks.iter().map(|(key, _)| key.clone());
            payloads.push((sent.id.clone(), keys.collect()));
        }
        let told: BTreeSet<_> = self.0.iter().flat_map(|sent| &sent.tasks).cloned().collect();
        let mut new: Vec<_> = view
            .tasks_on(instance)
            .filter(|task| is_open(task))
            .map(|task| (task.key(), task))
            .filter(|(key, task)| !told.contains(&(key.clone(), task.desired)))
            .collect();
        // What is to stop comes first, then the oldest.
        new.sort_by_key(|(_, task)| (task.desired == Desired::Running, task.created_at));
        new.truncate(WINDOW.saturating_sub(told.len()));
        for tasks in new.chunks(TASKS) {
            let id = Uuid::new_v4().to_string();
            let asked = tasks.iter().map(|(key, task)| (key.clone(), task.desired)).collect();
            self.0.push(Sent { id: id.clone(), tasks: asked, at: now });
            payloads.push((id, tasks.iter().map(|(key, _)| key.clone()).collect()));
        }
        payloads
    }
}

/// The agent has something to be told: a task that has ended needs no word any more.
fn is_open(task: &Task) -> bool {
    task.is_live() && task.delivered != Some(task.desired)
}

/// A payload's tasks, and which cannot be sent, with the reason for people.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub(super) tasks: Vec<acs::RawTask>,
    /// Ids of the sets of credentials within.
    pub(super) credentials: Vec<String>,
    pub(super) failed: Vec<(String, String)>,
    /// Those that have no place in this payload.
    pub(super) left: Vec<String>,
}

/// Writes the tasks with these keys.
pub(super) fn build(view: &View, peer: &Peer, keys: &[String], now: Timestamp) -> Built {
    let mut built = Built::default();
    let mut bytes = 0;
    for key in keys {
        let Some(task) = view.tasks.get(key) else { continue };
        let written = write(view, peer, task, now, &mut built.credentials);
        match written.and_then(|task| serialize(&task)) {
            Ok(raw) if built.tasks.is_empty() || bytes + raw.0.get().len() <= BYTES => {
                bytes += raw.0.get().len();
                built.tasks.push(raw);
            }
            Ok(_) => built.left.push(key.clone()),
            Err(reason) => built.failed.push((key.clone(), reason)),
        }
    }
    built
}

fn serialize(task: &acs::Task) -> Result<acs::RawTask, String> {
    let raw = serde_json::value::to_raw_value(task)
        .map_err(|error| format!("the task cannot be written for its host: {error}"))?;
    if raw.get().len() > BYTES {
        return Err(format!(
            "the task takes {} bytes on its way to its host, at most {BYTES} are possible; make \
             its definition or its overrides smaller",
            raw.get().len()
        ));
    }
    Ok(acs::RawTask(raw))
}

fn write(
    view: &View,
    peer: &Peer,
    task: &Stored<Task>,
    now: Timestamp,
    credentials: &mut Vec<String>,
) -> Result<acs::Task, String> {
    let arn = task.arn(&peer.account);
    let definition = view.table::<Definition>().get(&task.definition.key(&task.region));
    let Some(definition) = definition else {
        if task.desired == Desired::Stopped {
            // Of a task that it knows an agent reads no more than this.
            return Ok(acs::Task {
                arn: Some(arn),
                task_cluster_arn: Some(peer.cluster_arn.clone()),
                family: Some(task.definition.family.clone()),
                version: Some(task.definition.revision.to_string()),
                desired_status: Some(task.desired.name().to_owned()),
                ..acs::Task::default()
            });
        }
        return Err(format!(
            "the task definition {}:{} does not exist any more",
            task.definition.family, task.definition.revision
        ));
    };
    let starts = task.desired == Desired::Running;
    if starts && definition.definition.network_mode == NetworkMode::Awsvpc {
        let instance = view.instances.get(&peer.key);
        if !instance.is_some_and(|instance| instance.has_attribute(ecs::TASK_NETWORK)) {
            return Err(format!(
                "networkMode awsvpc needs an agent that gives tasks their addresses itself \
                 (attribute {}); this control plane has no network interfaces to attach",
                ecs::TASK_NETWORK
            ));
        }
    }
    let mut set = |kind: Kind| {
        let role = kind.role(task).filter(|_| starts)?;
        let key = credentials::current(view, task, kind, now)?;
        let wire = credentials::wire(key, kind, role, &peer.account);
        credentials.extend(wire.credentials_id.clone());
        Some(wire)
    };
    let (application, execution) = (set(Kind::Application), set(Kind::Execution));
    let containers: Vec<_> = task
        .containers
        .iter()
        .map(|container| task.container_arn(&peer.account, container))
        .collect();
    Ok(payload::task(&payload::TaskInput {
        arn: &arn,
        cluster_arn: &peer.cluster_arn,
        definition: &definition.definition,
        revision: definition.revision,
        desired: task.desired.name(),
        overrides: &task.overrides,
        container_arns: &containers,
        launch_type: task.launch_type.name(),
        service_name: task.service.as_deref(),
        group: &task.group,
        role_credentials: application,
        execution_role_credentials: execution,
        tags: &task.tags,
        elastic_network_interfaces: None,
    }))
}

/// Stores that the agent has acknowledged: of each task only if it is still what was asked for.
pub(super) async fn delivered(
    peer: &Peer,
    tasks: &[(String, Desired)],
) -> Result<(), state::Error> {
    peer.state
        .transact(|view, edit| {
            for (key, desired) in tasks {
                if let Some(before) = view.tasks.get(key)
                    && before.desired == *desired
                    && before.delivered != Some(*desired)
                {
                    let mut task = before.value.clone();
                    task.delivered = Some(*desired);
                    edit.update(before, &task);
                }
            }
            Ok(())
        })
        .await
}

/// Ends tasks that cannot be told to their agent.
pub(super) async fn fail(
    peer: &Peer,
    failed: &[(String, String)],
    now: Timestamp,
) -> Result<(), state::Error> {
    for (key, reason) in failed {
        tracing::warn!(task = %key, %reason, "a task cannot be sent to its instance");
    }
    peer.state
        .transact(|view, edit| {
            for (key, reason) in failed {
                if let Some(before) = view.tasks.get(key)
                    && before.is_live()
                {
                    let mut task = before.value.clone();
                    task.stop(StopCode::TaskFailedToStart, reason.clone(), now);
                    task.end(now);
                    edit.update(before, &task);
                }
            }
            Ok(())
        })
        .await
}
