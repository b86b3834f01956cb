//! What the control plane is to be told of a task: known against sent.
//!
//! ECS knows three statuses of tasks and of containers, PENDING, RUNNING and STOPPED; what lies
//! between them is not reported. A status that was passed before it could be sent is left out, but
//! for a task's RUNNING: from it the control plane takes when the task started. After STOPPED
//! nothing more is said.
//!
//! RUNNING and STOPPED of a task are due at once and carry what is new of its containers. PENDING
//! (with the images' digests) is due only where a task takes its time, so that it never holds up
//! RUNNING; a container that changes alone waits [`BATCH`] for the others. Source: SubmitTaskStateChange
//! and the Amazon agent's event handler.

use jiff::{SignedDuration, Timestamp};

use super::state::{Container, EcsTask, Image, Life, Reported, Sent, Stop, StopCode, Task};
use super::step::ESSENTIAL_EXITED;

/// Seconds that a task may take to run before it is reported PENDING.
const PENDING_AFTER: i64 = 1;
/// Seconds that changes of containers wait for a change of the task.
const BATCH: i64 = 2;

/// One call to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Of the task.
    pub status: Reported,
    /// Why it stopped, where the control plane cannot know.
    pub reason: Option<String>,
    /// By their index in the definition.
    pub containers: Vec<(usize, Reported)>,
    /// When its last container ended.
    pub execution_stopped_at: Option<Timestamp>,
}

impl Report {
    /// What was sent, once it was.
    pub fn sent(&self) -> Sent {
        let mut sent = Sent { task: Some(self.status), containers: Vec::new() };
        for (index, status) in &self.containers {
            if sent.containers.len() <= *index {
                sent.containers.resize(*index + 1, None);
            }
            if let Some(place) = sent.containers.get_mut(*index) {
                *place = Some(*status);
            }
        }
        sent
    }
}

/// Whether something is to be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Nothing, as things are.
    Nothing,
    /// Something, then, unless something else changes before.
    At(Timestamp),
    Now(Report),
}

impl Sent {
    /// Takes over what is further than what stands here.
    pub fn raise(&mut self, other: &Self) {
        self.task = self.task.max(other.task);
        if self.containers.len() < other.containers.len() {
            self.containers.resize(other.containers.len(), None);
        }
        for (here, there) in self.containers.iter_mut().zip(&other.containers) {
            *here = (*here).max(*there);
        }
    }

    fn container(&self, index: usize) -> Option<Reported> {
        self.containers.get(index).copied().flatten()
    }
}

/// Decides what is to be reported of a task now.
pub fn due(task: &Task, now: Timestamp) -> Due {
    let Some(ecs) = &task.ecs else { return Due::Nothing };
    let sent = &ecs.sent;
    if sent.task == Some(Reported::Stopped) {
        return Due::Nothing;
    }
    let stopped = task.times.stopped.is_some();
    if task.times.started.is_some() && sent.task < Some(Reported::Running) {
        let containers = if stopped { started(task, sent) } else { changed(task, sent) };
        return Due::Now(report(Reported::Running, containers));
    }
    if stopped {
        return Due::Now(Report {
            reason: reason(task, ecs),
            execution_stopped_at: task.containers.iter().filter_map(|c| c.stopped_at).max(),
            ..report(Reported::Stopped, changed(task, sent))
        });
    }
    let status = sent.task.unwrap_or(Reported::Pending);
    let mut at: Option<Timestamp> = None;
    let mut wait = |since: Option<Timestamp>, seconds: i64| {
        let due =
            since.and_then(|since| since.checked_add(SignedDuration::from_secs(seconds)).ok());
        at = match (at, due) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    };
    let resolved = |container: &Container| matches!(container.image, Image::Ready { .. });
    if sent.task.is_none() && task.containers.iter().any(resolved) {
        wait(Some(task.times.created), PENDING_AFTER);
    }
    for (index, _) in changed(task, sent) {
        wait(task.containers.get(index).and_then(changed_at), BATCH);
    }
    match at {
        None => Due::Nothing,
        Some(at) if at > now => Due::At(at),
        Some(_) => {
            let mut containers = changed(task, sent);
            if sent.task.is_none() {
                containers.extend(pending(task));
                containers.sort_unstable();
            }
            Due::Now(report(status, containers))
        }
    }
}

fn report(status: Reported, containers: Vec<(usize, Reported)>) -> Report {
    Report { status, reason: None, containers, execution_stopped_at: None }
}

/// Containers that are further than what was sent of them.
fn changed(task: &Task, sent: &Sent) -> Vec<(usize, Reported)> {
    let known = task
        .containers
        .iter()
        .enumerate()
        .filter_map(|(index, container)| known(container).map(|status| (index, status)));
    known.filter(|(index, status)| sent.container(*index) < Some(*status)).collect()
}

/// Of a task that ran and has ended: what was never said to run.
fn started(task: &Task, sent: &Sent) -> Vec<(usize, Reported)> {
    let ran = task.containers.iter().enumerate().filter(|(index, container)| {
        container.started_at.is_some() && sent.container(*index) < Some(Reported::Running)
    });
    ran.map(|(index, _)| (index, Reported::Running)).collect()
}

/// Containers that wait with a resolved image.
fn pending(task: &Task) -> impl Iterator<Item = (usize, Reported)> {
    task.containers
        .iter()
        .enumerate()
        .filter(|(_, container)| {
            known(container).is_none() && matches!(container.image, Image::Ready { .. })
        })
        .map(|(index, _)| (index, Reported::Pending))
}

fn known(container: &Container) -> Option<Reported> {
    match container.life {
        Life::Running => Some(Reported::Running),
        Life::Stopped { .. } => Some(Reported::Stopped),
        Life::Waiting | Life::Creating { .. } | Life::Created | Life::Starting { .. } => None,
    }
}

fn changed_at(container: &Container) -> Option<Timestamp> {
    if container.life.is_stopped() { container.stopped_at } else { container.started_at }
}

/// The reason, unless the control plane gave it or derives it from the containers.
fn reason(task: &Task, ecs: &EcsTask) -> Option<String> {
    let Stop { code, reason, .. } = task.stop.as_ref()?;
    let known_there = match code {
        StopCode::UserInitiated => ecs.stop_requested,
        StopCode::EssentialContainerExited => reason == ESSENTIAL_EXITED,
        StopCode::TaskFailedToStart => false,
    };
    (!known_there).then(|| reason.clone())
}
