//! What an agent's report makes of a task's record. Pure.
//!
//! Statuses only rise; a stopped task changes no more. Why a task stopped is the agent's word if it
//! gives one; else it follows from what its containers did:
//!
//! - we asked for it: what was noted then;
//! - it never was RUNNING and something says why: TaskFailedToStart;
//! - else an essential container has exited: EssentialContainerExited.

use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use protocol::ecs;
use protocol::taskdef::TaskDefinition;

use crate::model::{ContainerStatus, Desired, StopCode, Task, TaskContainer, TaskStatus};

/// The longest reason, in characters.
const LONGEST_REASON: usize = 1024;
/// The longest runtime id and digest, in bytes.
const LONGEST_ID: usize = 255;
/// The most bindings of a container.
const MOST_BINDINGS: usize = 100;

/// The task after the report; `None` if it says nothing new. Without its definition, all containers
/// count as essential.
pub(super) fn apply(
    task: &Task,
    definition: Option<&TaskDefinition>,
    change: &ecs::SubmitTaskStateChangeRequest,
    now: Timestamp,
) -> Option<Task> {
    if !task.is_live() {
        return None;
    }
    let mut next = task.clone();
    for change in change.containers.iter().flatten() {
        let name = change.container_name.as_deref().unwrap_or_default();
        if let Some(container) = next.containers.iter_mut().find(|container| container.name == name)
        {
            apply_to_container(container, change);
        }
        if let Some(interface) = &mut next.interface
            && let Some(address) = address(change)
        {
            interface.private_address = Some(address.to_string());
        }
    }
    let first = |known: &mut Option<Timestamp>, said: Option<protocol::time::EpochSeconds>| {
        if let Some(said) = said {
            known.get_or_insert(said.0);
        }
    };
    first(&mut next.pull_started_at, change.pull_started_at);
    first(&mut next.pull_stopped_at, change.pull_stopped_at);
    first(&mut next.execution_stopped_at, change.execution_stopped_at);
    match change.status.as_deref().and_then(status) {
        Some(TaskStatus::Stopped) => stopped(&mut next, definition, change, now),
        Some(status) if status > next.last => {
            next.last = status;
            if status == TaskStatus::Running {
                next.started_at.get_or_insert(now);
            }
        }
        Some(_) | None => {}
    }
    if next == *task {
        return None;
    }
    next.version += 1;
    Some(next)
}

/// The statuses that agents report.
fn status(text: &str) -> Option<TaskStatus> {
    [TaskStatus::Pending, TaskStatus::Running, TaskStatus::Stopped]
        .into_iter()
        .find(|status| status.name() == text)
}

fn apply_to_container(container: &mut TaskContainer, change: &ecs::ContainerStateChange) {
    let statuses = [ContainerStatus::Pending, ContainerStatus::Running, ContainerStatus::Stopped];
    let status = change.status.as_deref();
    if let Some(status) = statuses.into_iter().find(|known| Some(known.name()) == status) {
        container.last = container.last.max(status);
    }
    let id = |text: &Option<String>| {
        text.clone().filter(|text| !text.is_empty() && text.len() <= LONGEST_ID)
    };
    container.runtime_id = id(&change.runtime_id).or(container.runtime_id.take());
    container.image_digest = id(&change.image_digest).or(container.image_digest.take());
    container.exit_code = container.exit_code.or(change.exit_code);
    if container.reason.is_none() {
        container.reason = reason(change.reason.as_deref());
    }
    if let Some(bindings) = change.network_bindings.as_ref().filter(|bindings| !bindings.is_empty())
    {
        container.network_bindings = bindings
            .iter()
            .filter(|binding| is_binding(binding))
            .take(MOST_BINDINGS)
            .cloned()
            .collect();
    }
}

fn reason(text: Option<&str>) -> Option<String> {
    let text: String = text?.chars().take(LONGEST_REASON).collect();
    (!text.is_empty()).then_some(text)
}

/// Whether the binding says what bindings say.
fn is_binding(binding: &ecs::NetworkBinding) -> bool {
    let is_port = |port: Option<i32>| port.is_none_or(|port| (0..=65_535).contains(&port));
    let is_range = |range: &Option<String>| {
        range.as_deref().is_none_or(|range| {
            let mut ends = range.split('-').map(str::parse::<u16>);
            matches!((ends.next(), ends.next(), ends.next()), (Some(Ok(_)), Some(Ok(_)), None))
        })
    };
    binding.bind_ip.as_deref().is_none_or(|ip| ip.parse::<IpAddr>().is_ok())
        && binding.protocol.as_deref().is_none_or(|protocol| ["tcp", "udp"].contains(&protocol))
        && is_port(binding.container_port)
        && is_port(binding.host_port)
        && is_range(&binding.container_port_range)
        && is_range(&binding.host_port_range)
}

/// The address that the host gave to the task.
fn address(change: &ecs::ContainerStateChange) -> Option<Ipv4Addr> {
    let interfaces = change.network_interfaces.iter().flatten();
    let addresses = interfaces.filter_map(|interface| interface.private_ipv4_address.as_deref());
    addresses.filter_map(|text| text.parse().ok()).next()
}

fn stopped(
    task: &mut Task,
    definition: Option<&TaskDefinition>,
    change: &ecs::SubmitTaskStateChangeRequest,
    now: Timestamp,
) {
    for container in &mut task.containers {
        container.last = ContainerStatus::Stopped;
    }
    if task.desired == Desired::Running {
        let (code, text) = why(task, definition, reason(change.reason.as_deref()));
        task.stop_code = Some(code);
        task.stopped_reason = Some(text);
        task.desired = Desired::Stopped;
    }
    let ended = *task.execution_stopped_at.get_or_insert(now);
    // When it began to stop by itself is not said.
    task.stopping_at.get_or_insert(ended);
    task.stopped_at = Some(now);
    task.last = TaskStatus::Stopped;
}

/// Why it stopped by itself.
fn why(
    task: &Task,
    definition: Option<&TaskDefinition>,
    given: Option<String>,
) -> (StopCode, String) {
    let was_running = task.started_at.is_some();
    // Killed for its memory, it did run.
    let kept_from_start = |reason: &&String| !reason.starts_with("OutOfMemoryError");
    let told = given.clone().or_else(|| {
        let mut reasons = task.containers.iter().filter_map(|container| container.reason.as_ref());
        reasons.find(kept_from_start).cloned()
    });
    let essential = |container: &&TaskContainer| {
        let defined = definition.and_then(|definition| {
            definition.containers.iter().find(|defined| defined.name == container.name)
        });
        defined.is_none_or(|defined| defined.essential)
    };
    let exited =
        task.containers.iter().filter(essential).any(|container| container.exit_code.is_some());
    match told {
        Some(reason) if !was_running => (StopCode::TaskFailedToStart, reason),
        None if !was_running && !exited => {
            (StopCode::TaskFailedToStart, "Task failed to start".to_owned())
        }
        _ => (
            StopCode::EssentialContainerExited,
            given.unwrap_or_else(|| "Essential container in task exited".to_owned()),
        ),
    }
}

#[cfg(test)]
mod tests;
