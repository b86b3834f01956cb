//! Dependency order: when a container may start, when it never will, when it may stop.

use jiff::{SignedDuration, Timestamp};
use protocol::taskdef::{Condition, Dependency};

use super::state::{Container, Life, Task};

/// Whether a container's dependencies let it be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    /// Not yet; at the latest decided at this time, if there is one.
    NotYet {
        until: Option<Timestamp>,
    },
    /// Never: the reason, in ECS's words.
    Never(String),
}

/// Decides for the container at `index`.
pub(super) fn readiness(task: &Task, index: usize, now: Timestamp) -> Readiness {
    let Some(definition) = task.container_definition(index) else {
        return Readiness::NotYet { until: None };
    };
    let mut until: Option<Timestamp> = None;
    let mut waiting = false;
    for dependency in &definition.depends_on {
        let Some(position) = position(task, &dependency.container) else { continue };
        let Some(target) = task.containers.get(position) else { continue };
        match holds(dependency, target) {
            Some(true) => {}
            Some(false) => return Readiness::Never(never(dependency, &definition.name, target)),
            None => {
                waiting = true;
                if let Some(deadline) = start_deadline(task, position) {
                    if deadline <= now {
                        return Readiness::Never(format!(
                            "TaskDependencyError: container {} waits for {} to reach {}, which did \
                             not happen within its startTimeout",
                            definition.name,
                            dependency.container,
                            condition_name(dependency.condition),
                        ));
                    }
                    until = Some(until.map_or(deadline, |earlier| earlier.min(deadline)));
                }
            }
        }
    }
    if waiting { Readiness::NotYet { until } } else { Readiness::Ready }
}

/// Whether every container that depends on the one at `index` has ended.
pub(super) fn dependents_stopped(task: &Task, index: usize) -> bool {
    let Some(name) = task.containers.get(index).map(|container| container.name.as_str()) else {
        return true;
    };
    task.definition.containers.iter().zip(&task.containers).all(|(definition, container)| {
        container.life.is_stopped()
            || !definition.depends_on.iter().any(|dependency| dependency.container == name)
    })
}

/// `Some(true)`: holds now and for ever; `Some(false)`: can never hold; `None`: not yet.
fn holds(dependency: &Dependency, target: &Container) -> Option<bool> {
    match (dependency.condition, target.life) {
        (Condition::Start, Life::Running) => Some(true),
        // A container that ran to its end has started; one that never ran cannot any more.
        (Condition::Start, Life::Stopped { exit }) => Some(exit.is_some()),
        (Condition::Complete, Life::Stopped { exit }) => Some(exit.is_some()),
        (Condition::Success, Life::Stopped { exit }) => {
            Some(exit.is_some_and(|exit| exit.code == Some(0)))
        }
        (
            Condition::Start,
            Life::Waiting | Life::Creating { .. } | Life::Created | Life::Starting { .. },
        )
        | (
            Condition::Complete | Condition::Success,
            Life::Waiting
            | Life::Creating { .. }
            | Life::Created
            | Life::Starting { .. }
            | Life::Running,
        ) => None,
    }
}

fn never(dependency: &Dependency, name: &str, target: &Container) -> String {
    let happened = match target.life {
        Life::Stopped { exit: Some(exit) } => match exit.code {
            Some(code) => format!("exited with code {code}"),
            None => "ended with an unknown exit code".to_owned(),
        },
        _ => "could not be started".to_owned(),
    };
    format!(
        "TaskDependencyError: container {name} depends on {} of {}, which {happened}",
        condition_name(dependency.condition),
        dependency.container,
    )
}

fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::Start => "START",
        Condition::Complete => "COMPLETE",
        Condition::Success => "SUCCESS",
    }
}

/// When the dependents of the container at `index` give up on it (`startTimeout`), counted from
/// its creation.
fn start_deadline(task: &Task, index: usize) -> Option<Timestamp> {
    let timeout = task.container_definition(index)?.start_timeout?;
    let created = task.containers.get(index)?.created_at?;
    created.checked_add(SignedDuration::from_secs(timeout.into())).ok()
}

fn position(task: &Task, name: &str) -> Option<usize> {
    task.containers.iter().position(|container| container.name == name)
}
