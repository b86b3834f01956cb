//! Protection of a service's tasks against scale-in and deployments: UpdateTaskProtection and
//! GetTaskProtection.

use jiff::{SignedDuration, Timestamp};
use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, errors, lookup};
use super::describe::missing;
use super::identifiers;
use crate::model::{Desired, Service, Task};
use crate::state::View;

/// Most tasks of an update.
const MAX_UPDATE: usize = 10;
/// Most tasks of an answer.
const MAX_SHOW: usize = 100;
/// How long protection lasts without a word, in minutes.
const DEFAULT_MINUTES: i32 = 120;
/// Two days, in minutes.
const MAX_MINUTES: i32 = 2880;

pub(super) async fn update(
    cx: &Context,
    request: ecs::UpdateTaskProtectionRequest,
) -> Result<ecs::UpdateTaskProtectionResponse, ApiError> {
    let given = identifiers(request.tasks, "Tasks", MAX_UPDATE)?;
    let is_enabled = request
        .protection_enabled
        .ok_or_else(|| errors::invalid("protectionEnabled cannot be empty."))?;
    let minutes = request.expires_in_minutes.unwrap_or(DEFAULT_MINUTES);
    if !(1..=MAX_MINUTES).contains(&minutes) {
        return Err(errors::invalid(format!(
            "expiresInMinutes should be between 1 and {MAX_MINUTES}."
        )));
    }
    let until = cx
        .now
        .checked_add(SignedDuration::from_mins(i64::from(minutes)))
        .map_err(|error| ApiError::server(error.to_string()))?;
    let until = is_enabled.then_some(until);
    cx.transact(|view, edit| {
        let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
        let mut answer = ecs::UpdateTaskProtectionResponse::default();
        let mut newly: Vec<&Task> = Vec::new();
        for given in &given {
            let id = lookup::task_id(cx, &cluster.name, given)?;
            let key = Task::key_of(&cx.region, &cluster.name, &id);
            let Some(before) = view.tasks.get(&key) else {
                answer.failures.push(missing(cx, &cluster.name, &id));
                continue;
            };
            if newly.iter().any(|task| task.id == id) {
                continue;
            }
            if let Err((reason, detail)) = protectable(view, before, &newly, until, cx.now) {
                answer.failures.push(failure(before, cx, reason, &detail));
                continue;
            }
            if until.is_some() {
                // Of two that count what is protected, one has to count again.
                if let Some(service) = service(view, before) {
                    edit.update(service, &service.value);
                }
            }
            newly.push(before);
            let mut task = before.value.clone();
            task.protected_until = until;
            task.version += 1;
            edit.update(before, &task);
            answer.protected_tasks.push(shown(&task, cx));
        }
        Ok(answer)
    })
    .await
}

/// Without tasks: the protected ones of the cluster.
pub(super) async fn show(
    cx: &Context,
    request: ecs::GetTaskProtectionRequest,
) -> Result<ecs::GetTaskProtectionResponse, ApiError> {
    let given = request.tasks.unwrap_or_default();
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let mut answer = ecs::GetTaskProtectionResponse::default();
    if given.is_empty() {
        let prefix = Task::key_of(&cx.region, &cluster.name, "");
        let all = view.tasks.prefix(&prefix).map(|(_, task)| task);
        let protected = all.filter(|task| valid(task).is_ok() && is_protected(task, cx.now));
        answer.protected_tasks = protected.take(MAX_SHOW).map(|task| shown(task, cx)).collect();
        return Ok(answer);
    }
    let given = identifiers(Some(given), "Tasks", MAX_SHOW)?;
    for given in &given {
        let id = lookup::task_id(cx, &cluster.name, given)?;
        let Some(task) = view.tasks.get(&Task::key_of(&cx.region, &cluster.name, &id)) else {
            answer.failures.push(missing(cx, &cluster.name, &id));
            continue;
        };
        match valid(task) {
            Ok(()) => answer.protected_tasks.push(shown(task, cx)),
            Err((reason, detail)) => answer.failures.push(failure(task, cx, reason, &detail)),
        }
    }
    Ok(answer)
}

fn service<'a>(view: &'a View, task: &Task) -> Option<&'a crate::state::Stored<Service>> {
    let name = task.service.as_deref()?;
    view.services.get(&Service::key_of(&task.region, &task.cluster, name))
}

/// Only tasks of services that are to run have protection.
fn valid(task: &Task) -> Result<(), (&'static str, String)> {
    let what = if task.service.is_none() {
        "is not part of a service"
    } else if task.desired == Desired::Stopped || !task.is_live() {
        "is stopped or stopping"
    } else {
        return Ok(());
    };
    Err(("TASK_NOT_VALID", format!("The task {what}.")))
}

/// Whether a task can get this protection beside those that are `newly` protected.
fn protectable(
    view: &View,
    task: &Task,
    newly: &[&Task],
    until: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), (&'static str, String)> {
    valid(task)?;
    if until.is_none() || is_protected(task, now) {
        return Ok(());
    }
    let Some(service) = service(view, task) else { return Ok(()) };
    let key = Service::key_of(&service.region, &service.cluster, &service.name);
    let is_newly = |other: &Task| newly.iter().any(|task| task.id == other.id);
    let protected = view
        .tasks_of_service(&key)
        .filter(|other| valid(other).is_ok() && (is_protected(other, now) || is_newly(other)))
        .count();
    if u32::try_from(protected).is_ok_and(|protected| protected < service.desired_count) {
        return Ok(());
    }
    Err((
        "DEPLOYMENT_BLOCKED",
        format!(
            "{protected} tasks of the service are protected, which desires {}. One more would keep \
             it from deploying.",
            service.desired_count
        ),
    ))
}

fn is_protected(task: &Task, now: Timestamp) -> bool {
    task.protected_until.is_some_and(|until| until > now)
}

fn shown(task: &Task, cx: &Context) -> ecs::ProtectedTask {
    let is_protected = is_protected(task, cx.now);
    ecs::ProtectedTask {
        task_arn: Some(task.arn(cx.account())),
        protection_enabled: Some(is_protected),
        expiration_date: task.protected_until.filter(|_| is_protected).map(Into::into),
    }
}

fn failure(task: &Task, cx: &Context, reason: &str, detail: &str) -> ecs::Failure {
    ecs::Failure {
        arn: Some(task.arn(cx.account())),
        reason: Some(reason.to_owned()),
        detail: Some(detail.to_owned()),
    }
}
