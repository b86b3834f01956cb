//! StartTask: tasks on instances that the caller names.

use std::collections::BTreeMap;

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, lookup};
use super::wanted::{Wanted, named};
use super::{checks, describe, draw_ids, identifiers};
use crate::model::{Instance, LaunchType, Task};
use crate::scheduler::{Candidate, Constraints, EXTERNAL, Reason, TaskIds};
use crate::state::{Edit, View};

/// Most instances of a call.
const MAX_INSTANCES: usize = 10;
/// Longest `startedBy`.
const MAX_STARTED_BY: usize = 36;

pub(super) async fn start(
    cx: &Context,
    request: ecs::StartTaskRequest,
) -> Result<ecs::StartTaskResponse, ApiError> {
    let instances = identifiers(request.container_instances, "Container instances", MAX_INSTANCES)?;
    let tags = lookup::tags(request.tags)?;
    // The rest is RunTask's, which has more.
    let request = ecs::RunTaskRequest {
        cluster: request.cluster,
        enable_ecs_managed_tags: request.enable_ecs_managed_tags,
        enable_execute_command: request.enable_execute_command,
        group: request.group,
        network_configuration: request.network_configuration,
        overrides: request.overrides,
        propagate_tags: request.propagate_tags,
        started_by: request.started_by,
        task_definition: request.task_definition,
        volume_configurations: request.volume_configurations,
        ..Default::default()
    };
    let drawn: Vec<(String, TaskIds)> =
        instances.into_iter().map(|instance| (instance, draw_ids())).collect();
    cx.transact(|view, edit| {
        let (tasks, failures) = decide(view, cx, edit, &request, &tags, &drawn)?;
        Ok(ecs::StartTaskResponse {
            tasks: tasks.iter().map(|task| describe(task, cx, view, true)).collect(),
            failures,
        })
    })
    .await
}

fn decide(
    view: &View,
    cx: &Context,
    edit: &mut Edit,
    request: &ecs::RunTaskRequest,
    own_tags: &[ecs::Tag],
    drawn: &[(String, TaskIds)],
) -> Result<(Vec<Task>, Vec<ecs::Failure>), ApiError> {
    let (cluster, definition) = named(view, cx, request)?;
    let wanted =
        Wanted::check((cluster, definition), request, LaunchType::Ec2, MAX_STARTED_BY, own_tags)?;
    wanted.check_roles(view, cx)?;

    // Constraints are placement's; here the caller has placed.
    let constraints = Constraints::default();
    let mut candidates: BTreeMap<String, Candidate<'_>> = BTreeMap::new();
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for (given, ids) in drawn {
        let id = lookup::instance_id(cx, &cluster.name, given)?;
        let key = Instance::key_of(&cx.region, &cluster.name, &id);
        let mut fail = |reason: Reason| {
            failures.push(ecs::Failure {
                arn: Some(Instance::arn_of(&cx.region, cx.account(), &cluster.name, &id)),
                reason: Some(reason.name().to_owned()),
                detail: None,
            });
        };
        let (Some(instance), Some(host)) = (view.instances.get(&key), view.hosts().get(&key))
        else {
            fail(Reason::Missing);
            continue;
        };
        let is_external = instance.has_attribute(EXTERNAL);
        let launch_type = if is_external { LaunchType::External } else { LaunchType::Ec2 };
        checks::compatible(definition, launch_type)?;
        let candidate = candidates.entry(key).or_insert_with(|| Candidate::new(instance, host));
        let sought = wanted.request(launch_type, &constraints, &[]);
        if let Err(reason) = sought.check(candidate) {
            fail(reason);
            continue;
        }
        candidate.take(sought.reserved, sought.group);
        tasks.push(wanted.task(cx, &instance.id, launch_type, *ids));
    }
    wanted.record(view, edit, &tasks);
    Ok((tasks, failures))
}
