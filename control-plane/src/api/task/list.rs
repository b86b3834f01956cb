//! ListTasks.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::lookup::quoted;
use super::super::page::page;
use super::super::{Context, errors, lookup};
use crate::model::{Desired, Entity, Instance, LaunchType, Service, Task};
use crate::state::Stored;

/// Most tasks of a page.
const MAX_PAGE: usize = 100;

pub(super) async fn list(
    cx: &Context,
    request: ecs::ListTasksRequest,
) -> Result<ecs::ListTasksResponse, ApiError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let started_by = given(&request.started_by);
    let family = given(&request.family);
    let instance = given(&request.container_instance);
    let service = given(&request.service_name);
    if given(&request.daemon_name).is_some() {
        return Err(errors::unsupported("daemonName: this control plane has no managed daemons."));
    }
    let launch_type = given(&request.launch_type)
        .map(|name| {
            LaunchType::parse(&name).ok_or_else(|| {
                errors::invalid(format!(
                    "launchType should be one of [EC2, FARGATE, EXTERNAL], is {}",
                    quoted(&name)
                ))
            })
        })
        .transpose()?;
    let others = family.is_some() || instance.is_some() || service.is_some();
    if started_by.is_some() && (others || launch_type.is_some()) {
        return Err(errors::invalid("startedBy cannot be combined with other filters."));
    }
    // No task is ever desired to be PENDING.
    let desired = match given(&request.desired_status).as_deref() {
        None | Some("RUNNING") => Some(Desired::Running),
        Some("STOPPED") => Some(Desired::Stopped),
        Some("PENDING") => None,
        Some(other) => {
            return Err(errors::invalid(format!(
                "desiredStatus should be one of [RUNNING, PENDING, STOPPED], is {}",
                quoted(other)
            )));
        }
    };

    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let in_cluster = Task::key_of(&cx.region, &cluster.name, "");
    let service = service
        .map(|given| {
            let name = lookup::service_name(cx, &cluster.name, &given)?;
            let key = Service::key_of(&cx.region, &cluster.name, &name);
            if view.services.get(&key).is_none() {
                return Err(ApiError::client("ServiceNotFoundException", "Service not found."));
            }
            Ok((name, key))
        })
        .transpose()?;
    let instance =
        instance.map(|given| lookup::instance_id(cx, &cluster.name, &given)).transpose()?;
    // The smallest index that has them all; each is in the order of the tasks' keys.
    let tasks: Box<dyn Iterator<Item = &Stored<Task>>> = match (&instance, &service) {
        (Some(id), _) => {
            let key = Instance::key_of(&cx.region, &cluster.name, id);
            Box::new(view.tasks_on(&key))
        }
        (None, Some((_, key))) => Box::new(view.tasks_of_service(key)),
        (None, None) => Box::new(view.tasks.prefix(&in_cluster).map(|(_, task)| task)),
    };
    let is_asked = |task: &&Stored<Task>| {
        Some(task.desired) == desired
            && launch_type.is_none_or(|launch_type| task.launch_type == launch_type)
            && family.as_ref().is_none_or(|family| task.definition.family == *family)
            && service.as_ref().is_none_or(|(name, _)| task.service.as_ref() == Some(name))
            && started_by.as_ref().is_none_or(|by| task.started_by.as_ref() == Some(by))
    };
    let items = tasks.filter(is_asked).map(|task| (task.key(), task));
    let (tasks, next_token) =
        page(items, request.next_token.as_deref(), request.max_results, MAX_PAGE)?;
    let task_arns = tasks.into_iter().map(|task| task.arn(cx.account())).collect();
    Ok(ecs::ListTasksResponse { task_arns, next_token })
}
