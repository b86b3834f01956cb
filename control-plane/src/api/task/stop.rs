//! StopTask.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, errors, lookup};
use super::describe;
use crate::model::{Connection, Instance, StopCode, Task};

/// Longest reason, in characters.
const MAX_REASON: usize = 1024;

pub(super) async fn stop(
    cx: &Context,
    request: ecs::StopTaskRequest,
) -> Result<ecs::StopTaskResponse, ApiError> {
    let given = request.task.as_deref().unwrap_or_default();
    if given.is_empty() {
        return Err(errors::invalid("Task cannot be empty."));
    }
    let reason = request.reason.as_deref().filter(|reason| !reason.is_empty());
    if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        return Err(errors::invalid(format!("reason can have at most {MAX_REASON} characters.")));
    }
    let reason = reason.unwrap_or("Task stopped by user");
    cx.transact(|view, edit| {
        let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
        let id = lookup::task_id(cx, &cluster.name, given)?;
        let before = view
            .tasks
            .get(&Task::key_of(&cx.region, &cluster.name, &id))
            .ok_or_else(|| errors::invalid("The referenced task was not found."))?;
        let mut task = before.value.clone();
        task.stop(StopCode::UserInitiated, reason.to_owned(), cx.now);
        // Nobody will ever report that it has stopped if its instance is gone, or has never heard of
        // it and is away. Should it have heard after all, its session tells it when it is back.
        let instance = Instance::key_of(&task.region, &task.cluster, &task.instance);
        match view.instances.get(&instance).filter(|instance| instance.is_registered()) {
            None => task.end(cx.now),
            Some(instance) if task.delivered.is_none() && !view.is_connected(instance) => {
                task.end(cx.now);
                // An agent that connects meanwhile gets the task, and has to stop it.
                let connection = Connection::key_of(&task.region, &task.cluster, &task.instance);
                edit.depend_on_absence(connection);
            }
            Some(_) => {}
        }
        if task != before.value {
            edit.update(before, &task);
        }
        Ok(ecs::StopTaskResponse { task: Some(describe(&task, cx, view, true)) })
    })
    .await
}
