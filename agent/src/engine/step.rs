//! The one transition function.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use protocol::ids::TaskId;
use protocol::monitor::{ContainerFacts, Exit, Status};

use super::effect::{Action, Effect};
use super::event::{ContainerEvent, Event, NewTask, TaskEvent};
use super::order::{self, Readiness};
use super::resources;
use super::state::{
    Container, Desired, Host, Image, Life, Reported, Resources, Settings, Stop, StopCode, Task,
    Times,
};
use crate::api::types::PullPolicy;

/// Seconds that the record of a task with `remove` stays after its end, so that whoever watches it
/// still sees the end.
const REMOVE_GRACE: u32 = 10;

/// Seconds that the id of a removed task is known: a command that lost its agent has asked the next one
/// long before.
const SPENT: u32 = 600;

/// Seconds that a stopped task of a control plane is kept at most while its end cannot be reported.
const UNREPORTED_LIMIT: u32 = 72 * 3600;
/// The reason of a task whose essential container ended, in ECS's words.
pub(super) const ESSENTIAL_EXITED: &str = "Essential container in task exited";
/// The reason of a task that the control plane stopped, for people on this host.
const STOP_REQUESTED: &str = "Task stopped by the control plane";

/// What a step decided.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// Tasks whose state changed (to be stored) or that are gone from it (to be deleted there), and
    /// ids that are spent, or no longer.
    pub changed: BTreeSet<TaskId>,
    /// To be started once the state is stored.
    pub effects: Vec<Effect>,
}

/// Applies one event.
pub fn step(host: &mut Host, event: Event, now: Timestamp) -> Outcome {
    let mut outcome = Outcome::default();
    match event {
        Event::Run(new) => {
            if host.tasks.contains_key(&new.id) || host.spent.contains_key(&new.id) {
                return outcome;
            }
            let task = admit(host, *new, now);
            let id = task.id.clone();
            host.tasks.insert(id.clone(), task);
            outcome.changed.insert(id.clone());
            settle(host, &id, now, &mut outcome, |_, _| {});
        }
        Event::Task { task, event: TaskEvent::Removed } => {
            if host.tasks.get(&task).is_some_and(|task| task.removing) {
                let removed = host.tasks.remove(&task);
                forget_spent(host, now, &mut outcome);
                if removed.is_some_and(|task| task.ecs.is_none()) {
                    host.spent.insert(task.clone(), now);
                }
                outcome.changed.insert(task);
            }
        }
        Event::Task { task, event } => {
            settle(host, &task, now, &mut outcome, |task, _| apply_task(task, event, now));
        }
        Event::Container { task, container, event } => {
            settle(host, &task, now, &mut outcome, |task, _| {
                apply_container(task, container, event, now);
            });
        }
        Event::Wake => {
            for id in host.tasks.keys().cloned().collect::<Vec<_>>() {
                settle(host, &id, now, &mut outcome, |_, _| {});
            }
        }
        Event::Recovered => {
            for id in host.tasks.keys().cloned().collect::<Vec<_>>() {
                settle(host, &id, now, &mut outcome, forget_work_under_way);
            }
        }
    }
    outcome
}

/// When [`Event::Wake`] is due next, if time alone decides something.
pub fn next_wake(host: &Host, now: Timestamp) -> Option<Timestamp> {
    host.tasks.values().filter_map(|task| task_wake(task, &host.settings, now)).min()
}

/// Changes one task, lets it advance, and notes whether it is another than before.
fn settle(
    host: &mut Host,
    id: &TaskId,
    now: Timestamp,
    outcome: &mut Outcome,
    apply: impl FnOnce(&mut Task, &mut Vec<Action>),
) {
    let Host { settings, tasks, next_generation, .. } = host;
    let Some(task) = tasks.get_mut(id) else { return };
    let before = task.clone();
    let mut again = Vec::new();
    apply(task, &mut again);
    let mut issue = Issue { task: id.clone(), next_generation, effects: &mut outcome.effects };
    for action in again {
        issue.effect(action);
    }
    advance(task, settings, now, &mut issue);
    if *task != before {
        outcome.changed.insert(id.clone());
    }
}

/// Nobody asks any more for what was removed so long ago.
fn forget_spent(host: &mut Host, now: Timestamp, outcome: &mut Outcome) {
    host.spent.retain(|id, since| {
        let is_old = later(*since, SPENT).is_some_and(|until| until <= now);
        if is_old {
            outcome.changed.insert(id.clone());
        }
        !is_old
    });
}

/// Gives effects their generation.
struct Issue<'a> {
    task: TaskId,
    next_generation: &'a mut u64,
    effects: &'a mut Vec<Effect>,
}

impl Issue<'_> {
    fn effect(&mut self, action: Action) -> u64 {
        let generation = *self.next_generation;
        *self.next_generation += 1;
        self.effects.push(Effect { task: self.task.clone(), generation, action });
        generation
    }
}

fn admit(host: &Host, new: NewTask, now: Timestamp) -> Task {
    let leases = match &new.ended {
        Some(_) => Ok(resources::Leases::default()),
        None => resources::lease(host, &new).map_err(|r| (StopCode::TaskFailedToStart, r)),
    };
    let NewTask { id, definition, pull, remove, ecs, endpoints, ended, .. } = new;
    let mut endpoints = endpoints.into_iter();
    let times = Times {
        created: now,
        pull_started: None,
        pull_stopped: None,
        started: None,
        stopping: None,
        stopped: None,
    };
    let containers = definition
        .containers
        .iter()
        .map(|container| Container {
            name: container.name.clone(),
            image: Image::Unresolved,
            life: Life::Waiting,
            address: None,
            ports: Vec::new(),
            pid: None,
            created_at: None,
            started_at: None,
            stopped_at: None,
            signalled_at: None,
            killed: false,
            reason: None,
            endpoint: endpoints.next().unwrap_or_default(),
        })
        .collect();
    let mut task = Task {
        id,
        definition,
        pull,
        remove,
        desired: Desired::Running,
        resources: Resources::Absent,
        user_maps: host.settings.user_maps.clone(),
        containers,
        address: None,
        stop: None,
        times,
        exit_code: None,
        remove_now: false,
        removing: false,
        ecs,
    };
    match ended.map_or(leases, Err) {
        Ok(leases) => {
            task.address = leases.address;
            for (container, (address, ports)) in task.containers.iter_mut().zip(leases.containers) {
                container.address = address;
                container.ports = ports;
            }
        }
        Err((code, reason)) => stop(&mut task, code, reason, now),
    }
    task
}

/// Notes the first reason to stop; a later one changes nothing.
fn stop(task: &mut Task, code: StopCode, reason: String, now: Timestamp) {
    task.desired = Desired::Stopped;
    if task.stop.is_none() {
        task.stop = Some(Stop { code, reason, kill: false, timeout: None });
        task.times.stopping = Some(now);
    }
}

fn apply_task(task: &mut Task, event: TaskEvent, now: Timestamp) {
    match event {
        TaskEvent::Stop { reason, kill, timeout } => {
            let reason = reason.unwrap_or_else(|| "Task stopped by user".to_owned());
            stop(task, StopCode::UserInitiated, reason, now);
            if let Some(stop) = &mut task.stop {
                stop.kill |= kill;
                stop.timeout = timeout.or(stop.timeout);
            }
        }
        TaskEvent::StopRequested => {
            if let Some(ecs) = &mut task.ecs {
                ecs.stop_requested = true;
            }
            stop(task, StopCode::UserInitiated, STOP_REQUESTED.to_owned(), now);
        }
        TaskEvent::Sent(sent) => {
            if let Some(ecs) = &mut task.ecs {
                ecs.sent.raise(&sent);
            }
        }
        TaskEvent::Credentials { task: application, execution } => {
            let created = task.containers.iter().filter(|c| c.life != Life::Waiting).count();
            if let Some(ecs) = &mut task.ecs {
                ecs.renew(application, execution, created);
            }
        }
        TaskEvent::Remove => {
            task.remove_now |= task.times.stopped.is_some();
        }
        TaskEvent::ResourcesReady { generation } => {
            if task.resources == (Resources::Creating { generation }) {
                task.resources = Resources::Ready;
            }
        }
        TaskEvent::ResourcesFailed { generation, reason } => {
            if task.resources == (Resources::Creating { generation }) {
                task.resources = Resources::Ready;
                stop(task, StopCode::TaskFailedToStart, reason, now);
            }
        }
        TaskEvent::Released { generation } => {
            if task.resources == (Resources::Releasing { generation }) {
                task.resources = Resources::Released;
            }
        }
        TaskEvent::Lost { reason } => {
            let ended = Exit { code: None, signal: None, oom_killed: false, at: nanoseconds(now) };
            for container in &mut task.containers {
                let exit = match container.life {
                    Life::Starting { .. } | Life::Running => Some(ended),
                    Life::Creating { .. } | Life::Created | Life::Waiting => None,
                    Life::Stopped { .. } => continue,
                };
                end(container, exit, now);
                container.reason.get_or_insert_with(|| reason.clone());
            }
            stop(task, StopCode::EssentialContainerExited, reason, now);
        }
        TaskEvent::Removed => {}
    }
}

fn apply_container(task: &mut Task, index: usize, event: ContainerEvent, now: Timestamp) {
    let essential = task.container_definition(index).is_some_and(|definition| definition.essential);
    let strict = matches!(task.pull, PullPolicy::Always | PullPolicy::Once);
    let mut unpulled = None;
    let Some(container) = task.containers.get_mut(index) else { return };
    match event {
        ContainerEvent::ImageReady { generation, id, digest } => {
            if container.image == (Image::Resolving { generation }) {
                container.image = Image::Ready { id, digest };
            }
        }
        ContainerEvent::ImageFailed { generation, reason } => {
            if container.image == (Image::Resolving { generation }) {
                container.image = Image::Failed;
                unpulled = strict.then(|| reason.clone());
                fail(container, reason, None, now);
            }
        }
        ContainerEvent::Created { generation, facts } => {
            if container.life == (Life::Creating { generation }) {
                container.life = Life::Created;
                container.pid = facts.pid;
            }
            observe(container, &facts, now);
        }
        ContainerEvent::CreateFailed { generation, reason, exit_code } => {
            if container.life == (Life::Creating { generation }) {
                fail(container, reason, exit_code, now);
            }
        }
        ContainerEvent::StartFailed { generation, reason, exit_code } => {
            if container.life == (Life::Starting { generation }) {
                fail(container, reason, exit_code, now);
            }
        }
        ContainerEvent::Observed(facts) => observe(container, &facts, now),
    }
    // With these policies ECS takes no task for whole whose images are not what was asked for.
    if let Some(reason) = unpulled {
        stop(task, StopCode::TaskFailedToStart, reason, now);
    }
    // The first essential container to end gives the task its exit code, and it alone.
    let ended = task.containers.get(index).and_then(Container::exit_code);
    if essential
        && task.exit_code.is_none()
        && ended.is_some()
        && !earlier_essential_end(task, index)
    {
        task.exit_code = ended;
    }
}

/// Whether another essential container ended before the one at `index`.
fn earlier_essential_end(task: &Task, index: usize) -> bool {
    let at = |container: &Container| match container.life {
        Life::Stopped { exit: Some(exit) } => Some(exit.at),
        _ => None,
    };
    let Some(this) = task.containers.get(index).and_then(at) else { return false };
    task.containers.iter().zip(&task.definition.containers).enumerate().any(
        |(other, (container, definition))| {
            other != index && definition.essential && at(container).is_some_and(|at| at < this)
        },
    )
}

/// Takes over what the monitor says, forwards only.
fn observe(container: &mut Container, facts: &ContainerFacts, now: Timestamp) {
    match facts.status {
        // The answer to a creation says more: that its network is there.
        Status::Created => {}
        Status::Running => {
            if !container.life.is_stopped() && container.life != Life::Running {
                container.life = Life::Running;
                container.pid = facts.pid;
                container.started_at = Some(facts.started_at.map_or(now, timestamp));
            }
        }
        Status::Stopped => {
            if container.life.is_stopped() {
                return;
            }
            container.started_at = container.started_at.or(facts.started_at.map(timestamp));
            let exit = facts.exit.filter(|_| container.started_at.is_some());
            if exit.is_some_and(|exit| exit.oom_killed) {
                container.reason =
                    Some("OutOfMemoryError: Container killed due to memory usage".to_owned());
            }
            end(container, exit, now);
        }
    }
}

/// It failed before its program ran. With an exit code (126, 127) it counts as having ended with it.
fn fail(container: &mut Container, reason: String, exit_code: Option<i32>, now: Timestamp) {
    container.reason = Some(reason);
    let exit = exit_code.map(|code| Exit {
        code: Some(code),
        signal: None,
        oom_killed: false,
        at: nanoseconds(now),
    });
    end(container, exit, now);
}

fn end(container: &mut Container, exit: Option<Exit>, now: Timestamp) {
    container.stopped_at = Some(exit.map_or(now, |exit| timestamp(exit.at)));
    container.life = Life::Stopped { exit };
    container.pid = None;
}

/// Work that was under way when the process died is issued again.
fn forget_work_under_way(task: &mut Task, again: &mut Vec<Action>) {
    task.removing = false;
    task.resources = match task.resources {
        Resources::Creating { .. } => Resources::Absent,
        Resources::Releasing { .. } => Resources::Ready,
        other => other,
    };
    for (index, container) in task.containers.iter_mut().enumerate() {
        if matches!(container.image, Image::Resolving { .. }) {
            container.image = Image::Unresolved;
        }
        container.life = match container.life {
            Life::Creating { .. } => Life::Waiting,
            Life::Starting { .. } => Life::Created,
            other => other,
        };
        // The signal may have been decided and not sent. The deadline stays.
        let signalled = container.killed || container.signalled_at.is_some();
        if signalled && !container.life.is_stopped() {
            again.push(Action::Signal { container: index, kill: container.killed });
        }
    }
}

/// Issues what is missing between the state and what is desired.
fn advance(task: &mut Task, settings: &Settings, now: Timestamp, issue: &mut Issue<'_>) {
    if task.desired == Desired::Running {
        resolve_images(task, now, issue);
        if task.resources == Resources::Absent {
            let generation = issue.effect(Action::CreateResources);
            task.resources = Resources::Creating { generation };
        }
        give_up(task, now);
        if task.resources == Resources::Ready {
            start_ready(task, now, issue);
        }
        if task.times.started.is_none() && task.essentials_started() {
            task.times.started = task.containers.iter().filter_map(|c| c.started_at).max();
        }
        apply_essential_rule(task, now);
    }
    note_pulls(task, now);
    if task.desired == Desired::Stopped {
        wind_down(task, settings, now, issue);
        release(task, now, issue);
        remove(task, settings, now, issue);
    }
}

fn resolve_images(task: &mut Task, now: Timestamp, issue: &mut Issue<'_>) {
    for (index, container) in task.containers.iter_mut().enumerate() {
        if container.image == Image::Unresolved && container.life == Life::Waiting {
            let generation = issue.effect(Action::ResolveImage { container: index });
            container.image = Image::Resolving { generation };
            task.times.pull_started.get_or_insert(now);
        }
    }
}

fn note_pulls(task: &mut Task, now: Timestamp) {
    let pending = |container: &Container| {
        matches!(container.image, Image::Unresolved | Image::Resolving { .. })
    };
    if task.times.pull_started.is_some() && !task.containers.iter().any(pending) {
        task.times.pull_stopped.get_or_insert(now);
    }
}

/// Ends containers whose dependencies can never hold, and theirs in turn.
fn give_up(task: &mut Task, now: Timestamp) {
    loop {
        let never = (0..task.containers.len()).find_map(|index| {
            if task.containers[index].life != Life::Waiting {
                return None;
            }
            match order::readiness(task, index, now) {
                Readiness::Never(reason) => Some((index, reason)),
                Readiness::Ready | Readiness::NotYet { .. } => None,
            }
        });
        let Some((index, reason)) = never else { return };
        fail(&mut task.containers[index], reason, None, now);
    }
}

fn start_ready(task: &mut Task, now: Timestamp, issue: &mut Issue<'_>) {
    for index in 0..task.containers.len() {
        let container = &task.containers[index];
        match container.life {
            Life::Waiting
                if matches!(container.image, Image::Ready { .. })
                    && order::readiness(task, index, now) == Readiness::Ready =>
            {
                let generation = issue.effect(Action::CreateContainer { container: index });
                task.containers[index].life = Life::Creating { generation };
                task.containers[index].created_at.get_or_insert(now);
            }
            Life::Created => {
                let generation = issue.effect(Action::StartContainer { container: index });
                task.containers[index].life = Life::Starting { generation };
            }
            Life::Waiting
            | Life::Creating { .. }
            | Life::Starting { .. }
            | Life::Running
            | Life::Stopped { .. } => {}
        }
    }
}

fn apply_essential_rule(task: &mut Task, now: Timestamp) {
    let ended = task
        .containers
        .iter()
        .zip(&task.definition.containers)
        .find(|(container, definition)| definition.essential && container.life.is_stopped())
        .map(|(container, _)| container);
    let Some(container) = ended else { return };
    let failed = container.started_at.is_none();
    let (code, reason) = if failed {
        let reason = container
            .reason
            .clone()
            .unwrap_or_else(|| "Essential container failed to start".to_owned());
        (StopCode::TaskFailedToStart, reason)
    } else {
        (StopCode::EssentialContainerExited, ESSENTIAL_EXITED.to_owned())
    };
    stop(task, code, reason, now);
}

/// Stops containers in reverse dependency order.
fn wind_down(task: &mut Task, settings: &Settings, now: Timestamp, issue: &mut Issue<'_>) {
    let (kill, timeout) =
        task.stop.as_ref().map_or((false, None), |stop| (stop.kill, stop.timeout));
    // First what never ran: it holds up no container that it depends on.
    for (index, container) in task.containers.iter_mut().enumerate() {
        if container.life == Life::Waiting {
            if matches!(container.image, Image::Resolving { .. }) {
                issue.effect(Action::CancelPull { container: index });
                container.image = Image::Unresolved;
            }
            end(container, None, now);
        }
    }
    for index in 0..task.containers.len() {
        let may_signal = kill || order::dependents_stopped(task, index);
        let default = task
            .container_definition(index)
            .and_then(|definition| definition.stop_timeout)
            .unwrap_or(settings.stop_timeout);
        let container = &mut task.containers[index];
        match container.life {
            // Their results come; then there is something to signal.
            Life::Creating { .. } | Life::Starting { .. } => {}
            // Its program never ran: nothing to ask politely.
            Life::Created => kill_once(container, index, issue),
            Life::Running => {
                let deadline =
                    container.signalled_at.and_then(|at| later(at, timeout.unwrap_or(default)));
                if kill || deadline.is_some_and(|deadline| deadline <= now) {
                    kill_once(container, index, issue);
                } else if may_signal && container.signalled_at.is_none() {
                    issue.effect(Action::Signal { container: index, kill: false });
                    container.signalled_at = Some(now);
                }
            }
            Life::Waiting | Life::Stopped { .. } => {}
        }
    }
}

fn kill_once(container: &mut Container, index: usize, issue: &mut Issue<'_>) {
    if !container.killed {
        issue.effect(Action::Signal { container: index, kill: true });
        container.killed = true;
    }
}

fn release(task: &mut Task, now: Timestamp, issue: &mut Issue<'_>) {
    if !task.all_containers_stopped() {
        return;
    }
    match task.resources {
        Resources::Absent => task.resources = Resources::Released,
        Resources::Ready => {
            let generation = issue.effect(Action::Release);
            task.resources = Resources::Releasing { generation };
        }
        Resources::Creating { .. } | Resources::Releasing { .. } | Resources::Released => {}
    }
    if task.resources == Resources::Released {
        task.times.stopped.get_or_insert(now);
    }
}

fn remove(task: &mut Task, settings: &Settings, now: Timestamp, issue: &mut Issue<'_>) {
    if !task.removing && removal_due(task, settings).is_some_and(|due| due <= now) {
        issue.effect(Action::Remove);
        task.removing = true;
    }
}

fn removal_due(task: &Task, settings: &Settings) -> Option<Timestamp> {
    let grace = match (task.remove_now, task.remove) {
        (true, _) => 0,
        (false, true) => REMOVE_GRACE,
        (false, false) => settings.cleanup_after,
    };
    let reported = task.ecs.as_ref().is_none_or(|ecs| ecs.sent.task == Some(Reported::Stopped));
    let grace = if reported { grace } else { grace.max(UNREPORTED_LIMIT) };
    later(task.times.stopped?, grace)
}

fn task_wake(task: &Task, settings: &Settings, now: Timestamp) -> Option<Timestamp> {
    let mut times = Vec::new();
    if task.desired == Desired::Running {
        for index in 0..task.containers.len() {
            if task.containers[index].life == Life::Waiting
                && let Readiness::NotYet { until: Some(until) } = order::readiness(task, index, now)
            {
                times.push(until);
            }
        }
    } else {
        let replaced = task.stop.as_ref().and_then(|stop| stop.timeout);
        for (container, definition) in task.containers.iter().zip(&task.definition.containers) {
            if container.life == Life::Running && !container.killed {
                let timeout = replaced.or(definition.stop_timeout).unwrap_or(settings.stop_timeout);
                times.extend(container.signalled_at.and_then(|at| later(at, timeout)));
            }
        }
        if !task.removing {
            times.extend(removal_due(task, settings));
        }
    }
    times.into_iter().min()
}

fn later(at: Timestamp, seconds: u32) -> Option<Timestamp> {
    at.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

/// The monitor's nanoseconds since the epoch; a value out of range becomes the latest time.
fn timestamp(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::MAX)
}

fn nanoseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or(0)
}
