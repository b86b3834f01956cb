//! `PayloadMessage`: tasks to start and to stop.
//!
//! Each task is read alone, those to stop first. One that is not known is stored before the message
//! is acknowledged; of one that is, only a stop and newer credentials count. A task that cannot be
//! used is stored as one that has ended, with the reason, so that its end is reported even after a
//! crash; the message is acknowledged then, too. Nothing is acknowledged of a message in which a
//! task has no ARN, or when the store refuses. Source: protocol reference §7.4, §8.

use std::sync::Arc;

use protocol::acs::{self, AgentMessage, Payload, RawTask, RoleCredentialsAck};
use protocol::ids::TaskId;
use protocol::taskdef::{NetworkMode, TaskDefinition};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::manifest::Manifests;
use super::{Context, Error, ack};
use crate::credentials::RoleType;
use crate::engine::{Desired, EcsTask, NewTask, StopCode, Task, TaskEvent};
use crate::error::chain;
use crate::failpoint;
use crate::host::{Input, admit};

/// The Amazon agent's word, spelt as control planes know it.
const UNUSABLE: &str = "UnrecogniedTaskError: Error loading task - ";
const STOPPED: &str = "Task stopped by the control plane";

/// A task as far as it can be read.
#[derive(Debug)]
enum Read {
    Whole(Box<acs::Task>),
    /// With its ARN, if it has one, and why it cannot be used.
    Broken(Option<String>, String),
}

pub(super) async fn handle(
    context: &Context,
    manifests: &mut Manifests,
    message: Payload,
) -> Vec<AgentMessage> {
    let there = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if ![&message.message_id, &message.cluster_arn, &message.container_instance_arn]
        .into_iter()
        .all(there)
    {
        tracing::warn!("a payload without id, cluster or instance; dropped");
        return Vec::new();
    }
    failpoint::hit("payload.before");
    let mut tasks: Vec<Read> = message.tasks.iter().map(read).collect();
    tasks.sort_by_key(|task| match task {
        Read::Whole(task) => task.desired_status.as_deref() != Some("STOPPED"),
        Read::Broken(..) => true,
    });
    let mut answers = vec![ack(
        message.cluster_arn.clone(),
        message.container_instance_arn.clone(),
        message.message_id.clone(),
    )];
    let cluster = message.cluster_arn.as_deref().unwrap_or_default();
    let mut handled = true;
    for task in tasks {
        if let Read::Whole(task) = &task {
            let sets = [&task.role_credentials, &task.execution_role_credentials];
            answers.extend(sets.into_iter().flatten().map(|credentials| {
                AgentMessage::IamRoleCredentialsAckRequest(RoleCredentialsAck {
                    message_id: message.message_id.clone(),
                    credentials_id: credentials.credentials_id.clone(),
                    expiration: credentials.expiration.clone(),
                })
            }));
        }
        match take(context, cluster, task).await {
            Ok(taken) => handled &= taken,
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot store a task of a payload");
                handled = false;
            }
        }
    }
    if let Some(number) = message.seq_num {
        manifests.passed(number);
    }
    failpoint::hit("payload.stored");
    if handled { answers } else { Vec::new() }
}

fn read(raw: &RawTask) -> Read {
    #[derive(Deserialize)]
    struct Named {
        arn: Option<String>,
    }
    match serde_json::from_str::<acs::Task>(raw.0.get()) {
        Ok(task) => Read::Whole(Box::new(task)),
        Err(error) => {
            let named = serde_json::from_str::<Named>(raw.0.get());
            Read::Broken(named.ok().and_then(|named| named.arn), error.to_string())
        }
    }
}

/// Takes one task over. False: it cannot even be named.
async fn take(context: &Context, cluster: &str, task: Read) -> Result<bool, Error> {
    let (task, problem) = match task {
        Read::Whole(task) => (*task, None),
        Read::Broken(arn, problem) => (acs::Task { arn, ..acs::Task::default() }, Some(problem)),
    };
    let Some(arn) = task.arn.clone().filter(|arn| !arn.is_empty()) else {
        tracing::warn!(problem, "a task without ARN; the payload is not acknowledged");
        return Ok(false);
    };
    if let Some(known) = context.find(&arn) {
        return known_task(context, &known, &task).await.map(|()| true);
    }
    new_task(context, cluster, &arn, task, problem).await.map(|()| true)
}

/// Only a stop and newer credentials count.
async fn known_task(context: &Context, known: &Task, task: &acs::Task) -> Result<(), Error> {
    let Some(ecs) = &known.ecs else { return Ok(()) };
    let wants_stop = task.desired_status.as_deref() == Some("STOPPED");
    if wants_stop && !ecs.stop_requested {
        context.ask(known.id.clone(), TaskEvent::StopRequested).await?;
    }
    if known.times.stopped.is_some() {
        return Ok(());
    }
    let (application, execution) = put_credentials(context, &known.id, task);
    let newer = |id: &Option<String>, old: &Option<String>| id.is_some() && id != old;
    if newer(&application, &ecs.task_credentials) || newer(&execution, &ecs.execution_credentials) {
        let event = TaskEvent::Credentials { task: application, execution };
        context.ask(known.id.clone(), event).await?;
    }
    Ok(())
}

async fn new_task(
    context: &Context,
    cluster: &str,
    arn: &str,
    task: acs::Task,
    problem: Option<String>,
) -> Result<(), Error> {
    let taken = |id: &TaskId| context.snapshots.borrow().states.contains_key(id);
    let id = task_id(arn).filter(|id| !taken(id));
    let stop = task.desired_status.as_deref() == Some("STOPPED");
    let problem = match (&id, task.desired_status.as_deref()) {
        _ if problem.is_some() => problem,
        (None, _) => Some(format!(
            "{arn} does not end in a task id of 32 hexadecimal digits that is free on this host"
        )),
        (_, Some("RUNNING" | "STOPPED")) => None,
        (_, other) => Some(format!("desiredStatus {other:?} is neither RUNNING nor STOPPED")),
    };
    let definition = match problem {
        Some(problem) => Err(problem),
        None => acs::payload::definition(&task).map_err(|error| chain(&error)),
    };
    let (definition, ended) = match definition {
        Ok(definition) => (definition, stop.then(|| (StopCode::UserInitiated, STOPPED.to_owned()))),
        Err(problem) => {
            tracing::warn!(task = arn, problem, "cannot use a task; it is reported as stopped");
            let reason = format!("{UNUSABLE}{problem}");
            (nothing(&task), Some((StopCode::TaskFailedToStart, reason)))
        }
    };
    let id = id.unwrap_or_else(|| stand_in(arn));
    // Before the task is there, so that what it starts finds them.
    let (application, execution) = match ended {
        Some(_) => (None, None),
        None => put_credentials(context, &id, &task),
    };
    let busy_ports = match ended {
        Some(_) => Default::default(),
        None => admit::busy_ports(&definition).await,
    };
    let given = |name: &str| {
        task.containers.iter().flatten().find(|given| given.name.as_deref() == Some(name))
    };
    let by_execution_role = |name: &str| {
        given(name).is_some_and(|c| c.logs_auth_strategy.as_deref() == Some("ExecutionRole"))
    };
    let authentication = |name: &str| given(name)?.registry_authentication.clone();
    let names = || definition.containers.iter().map(|container| container.name.as_str());
    let ecs = EcsTask {
        arn: arn.to_owned(),
        cluster_arn: task.task_cluster_arn.clone().unwrap_or_else(|| cluster.to_owned()),
        version: task.version.clone().unwrap_or_default(),
        service_name: task.service_name.clone(),
        group: task.group.clone(),
        launch_type: task.launch_type.clone(),
        container_arns: names().map(|name| given(name)?.container_arn.clone()).collect(),
        task_credentials: application,
        execution_credentials: execution,
        logs_by_execution_role: names()
            .enumerate()
            .filter(|(_, name)| by_execution_role(name))
            .map(|(index, _)| index)
            .collect(),
        registry_authentication: if names().any(|name| authentication(name).is_some()) {
            names().map(authentication).collect()
        } else {
            Vec::new()
        },
        stop_requested: stop,
        ..EcsTask::default()
    };
    let endpoints = names().map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let new = Box::new(NewTask {
        id,
        definition,
        pull: context.pull,
        remove: false,
        ecs: Some(Box::new(ecs)),
        ended,
        endpoints,
        busy_ports,
    });
    let (reply, answer) = oneshot::channel();
    context.inbox.send(Input::Run { new, reply }).await.map_err(|_closed| Error::Ending)?;
    let admitted = answer.await.map_err(|_closed| Error::Ending)?;
    admitted.map(|_view| ()).map_err(|error| Error::Refused(chain(&error)))
}

/// Keeps the task's credentials; returns the ids of the task's and of the execution role's.
fn put_credentials(
    context: &Context,
    id: &TaskId,
    task: &acs::Task,
) -> (Option<String>, Option<String>) {
    let put = |role, credentials: &Option<acs::Credentials>| {
        let credentials = credentials.clone()?;
        let named = credentials.credentials_id.clone();
        context.credentials.put(id.clone(), role, credentials);
        named
    };
    (
        put(RoleType::Application, &task.role_credentials),
        put(RoleType::Execution, &task.execution_role_credentials),
    )
}

/// The id of an ARN's task: its last part, in which older ARNs have dashes.
pub(super) fn task_id(arn: &str) -> Option<TaskId> {
    crate::registration::last(arn).replace('-', "").to_ascii_lowercase().parse().ok()
}

/// The id under which a task stands whose ARN ends in none.
pub(super) fn stand_in(arn: &str) -> TaskId {
    let mut bits = 0;
    for byte in Sha256::digest(arn.as_bytes()).iter().take(16) {
        bits = bits << 8 | u128::from(*byte);
    }
    TaskId::from_random(bits)
}

/// The definition of a task that cannot be used.
fn nothing(task: &acs::Task) -> TaskDefinition {
    TaskDefinition::of(task.family.clone().unwrap_or_default(), NetworkMode::None, Vec::new())
}

/// Tasks that the control plane wants to run, by ARN; see [`super::manifest`].
pub(super) fn wanted(snapshot: &crate::host::view::Snapshot) -> Vec<Arc<Task>> {
    let wanted = |task: &&Arc<Task>| task.ecs.is_some() && task.desired == Desired::Running;
    snapshot.states.values().filter(wanted).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_arns() {
        let digits = "0123456789abcdef0123456789abcdef";
        for arn in [
            format!("arn:aws:ecs:r:1:task/c/{digits}"),
            format!("arn:aws:ecs:r:1:task/{digits}"),
            "arn:aws:ecs:r:1:task/01234567-89ab-cdef-0123-456789ABCDEF".to_owned(),
        ] {
            assert_eq!(task_id(&arn).map(String::from).as_deref(), Some(digits), "{arn}");
        }
        assert_eq!(task_id("arn:aws:ecs:r:1:task/c/web"), None);
        assert_ne!(stand_in("a"), stand_in("b"));
        assert_eq!(stand_in("a"), stand_in("a"));
    }
}
