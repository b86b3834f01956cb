//! StartTask: tasks on instances that the caller names.

use std::collections::BTreeMap;

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, lookup};
use super::{checks, describe, draw_ids, identifiers};
use crate::model::{Instance, LaunchType, Task};
use crate::scheduler::{
    Candidate, Constraints, EXTERNAL, NewTask, Reason, Request, TaskIds, new_task, record, reserve,
    tags,
};
use crate::state::{Edit, View};

/// Most instances of a call.
const MAX_INSTANCES: usize = 10;
/// Longest `startedBy`.
const MAX_STARTED_BY: usize = 36;

pub(super) async fn start(
    cx: &Context,
    mut request: ecs::StartTaskRequest,
) -> Result<ecs::StartTaskResponse, ApiError> {
    let instances =
        identifiers(request.container_instances.take(), "Container instances", MAX_INSTANCES)?;
    let tags = lookup::tags(request.tags.take())?;
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
    request: &ecs::StartTaskRequest,
    own_tags: &[ecs::Tag],
    drawn: &[(String, TaskIds)],
) -> Result<(Vec<Task>, Vec<ecs::Failure>), ApiError> {
    let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
    let definition = lookup::active_definition(
        view,
        cx,
        request.task_definition.as_deref().unwrap_or_default(),
    )?;
    checks::supported(request.enable_execute_command, request.volume_configurations.as_ref())?;
    let network =
        checks::network(definition, LaunchType::Ec2, request.network_configuration.as_ref())?;
    let none = ecs::TaskOverride::default();
    let overrides = request.overrides.as_ref().unwrap_or(&none);
    checks::overrides(definition, LaunchType::Ec2, overrides)?;
    let group = checks::group(definition, request.group.as_deref())?;
    let started_by = checks::started_by(request.started_by.as_deref(), MAX_STARTED_BY)?;
    let propagated = checks::propagates_definition(request.propagate_tags.as_deref())?;
    let propagated = if propagated { definition.tags.as_slice() } else { &[] };
    let managed =
        request.enable_ecs_managed_tags.unwrap_or(false).then_some((cluster.name.as_str(), None));
    checks::roles(view, cx, definition, overrides)?;

    let reserved = reserve(&definition.definition, overrides);
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
        let wanted = Request {
            definition,
            reserved: &reserved,
            launch_type,
            group: &group,
            constraints: &constraints,
            strategy: &[],
        };
        let candidate = candidates.entry(key).or_insert_with(|| Candidate::new(instance, host));
        if let Err(reason) = wanted.check(candidate) {
            fail(reason);
            continue;
        }
        candidate.take(&reserved, &group);
        tasks.push(new_task(NewTask {
            account: cx.account(),
            cluster: &cluster.name,
            definition,
            instance: &instance.id,
            launch_type,
            group: &group,
            started_by,
            service: None,
            deployment: None,
            overrides,
            network_configuration: network,
            tags: tags(own_tags, propagated, managed),
            enable_execute_command: false,
            platform_version: None,
            ids: *ids,
            now: cx.now,
        }));
    }
    edit.depend(cluster);
    edit.depend(definition);
    record(view, edit, &tasks);
    Ok((tasks, failures))
}
