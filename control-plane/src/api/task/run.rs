//! RunTask.

use protocol::aws_json::ApiError;
use protocol::ecs;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::super::{Context, errors, lookup};
use super::{checks, describe, draw_ids, draw_seed};
use crate::model::{Entity, LaunchType, Task, Token};
use crate::scheduler::{
    Failure, NewTask, Reason, Request, TaskIds, candidates, new_task, place, record, reserve, tags,
};
use crate::state::{Edit, View};

/// Most tasks of a call.
const MAX_COUNT: usize = 10;
/// Longest `startedBy`.
const MAX_STARTED_BY: usize = 128;
/// Longest `clientToken`.
const MAX_TOKEN: usize = 64;
const OPERATION: &str = "RunTask";
const NO_CAPACITY: &str = "Capacity is unavailable at this time. Please try again later or in a \
                           different availability zone";

pub(super) async fn run(
    cx: &Context,
    request: ecs::RunTaskRequest,
) -> Result<ecs::RunTaskResponse, ApiError> {
    let count = match request.count {
        None => 1,
        Some(count) => {
            usize::try_from(count).ok().filter(|count| (1..=MAX_COUNT).contains(count)).ok_or_else(
                || errors::invalid(format!("count should be between 1 and {MAX_COUNT}.")),
            )?
        }
    };
    let token = token(cx, &request)?;
    let tags = lookup::tags(request.tags.clone())?;
    let drawn: Vec<TaskIds> = (0..count).map(|_| draw_ids()).collect();
    let seed = draw_seed();
    cx.transact(|view, edit| {
        if let Some(token) = &token
            && let Some(answer) = repeated(view, cx, token)?
        {
            return Ok(answer);
        }
        let (tasks, failures) = decide(view, cx, edit, &request, &tags, &drawn, seed)?;
        if let Some(token) = token.as_ref().filter(|_| !tasks.is_empty()) {
            edit.create(&Token { made: tasks.iter().map(Entity::key).collect(), ..token.clone() });
        }
        Ok(ecs::RunTaskResponse {
            tasks: tasks.iter().map(|task| describe(task, cx, view, true)).collect(),
            failures,
        })
    })
    .await
}

/// Places the tasks, as many as there is room for.
fn decide(
    view: &View,
    cx: &Context,
    edit: &mut Edit,
    request: &ecs::RunTaskRequest,
    own_tags: &[ecs::Tag],
    drawn: &[TaskIds],
    seed: u64,
) -> Result<(Vec<Task>, Vec<ecs::Failure>), ApiError> {
    let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
    let definition = lookup::active_definition(
        view,
        cx,
        request.task_definition.as_deref().unwrap_or_default(),
    )?;
    let launch_type = checks::launch_type(
        cluster,
        request.launch_type.as_deref(),
        request.capacity_provider_strategy.as_ref(),
    )?;
    checks::compatible(definition, launch_type)?;
    checks::supported(request.enable_execute_command, request.volume_configurations.as_ref())?;
    let network = checks::network(definition, launch_type, request.network_configuration.as_ref())?;
    let platform_version =
        checks::platform_version(launch_type, request.platform_version.as_deref())?;
    let none = ecs::TaskOverride::default();
    let overrides = request.overrides.as_ref().unwrap_or(&none);
    checks::overrides(definition, launch_type, overrides)?;
    let group = checks::group(definition, request.group.as_deref())?;
    let started_by = checks::started_by(request.started_by.as_deref(), MAX_STARTED_BY)?;
    let propagated = checks::propagates_definition(request.propagate_tags.as_deref())?;
    let propagated = if propagated { definition.tags.as_slice() } else { &[] };
    let managed =
        request.enable_ecs_managed_tags.unwrap_or(false).then_some((cluster.name.as_str(), None));
    let (constraints, strategy) = checks::placement(
        definition,
        launch_type,
        request.placement_constraints.as_deref(),
        request.placement_strategy.as_deref(),
    )?;
    checks::roles(view, cx, definition, overrides)?;

    let reserved = reserve(&definition.definition, overrides);
    let wanted = Request {
        definition,
        reserved: &reserved,
        launch_type,
        group: &group,
        constraints: &constraints,
        strategy: &strategy,
    };
    let mut candidates = candidates(view, &cx.region, &cluster.name);
    let placed = place(&wanted, &mut candidates, drawn.len(), seed);
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for (placed, ids) in placed.into_iter().zip(drawn) {
        match placed {
            Ok(instance) => tasks.push(new_task(NewTask {
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
                platform_version,
                ids: *ids,
                now: cx.now,
            })),
            Err(failure) => failures.push(refused(cx, &cluster.name, launch_type, &failure)?),
        }
    }
    edit.depend(cluster);
    edit.depend(definition);
    record(view, edit, &tasks);
    Ok((tasks, failures))
}

/// A task that was not placed, as `failures` lists it.
fn refused(
    cx: &Context,
    cluster: &str,
    launch_type: LaunchType,
    failure: &Failure,
) -> Result<ecs::Failure, ApiError> {
    if launch_type == LaunchType::Fargate {
        return Ok(ecs::Failure { reason: Some(NO_CAPACITY.to_owned()), ..Default::default() });
    }
    if failure.reason == Reason::NoInstances {
        return Err(errors::invalid(Reason::NoInstances.name()));
    }
    let arn = failure.instance.as_ref().map(|instance| {
        crate::model::Instance::arn_of(&cx.region, cx.account(), cluster, instance)
    });
    Ok(ecs::Failure { arn, reason: Some(failure.reason.name().to_owned()), detail: None })
}

/// The request's token, with nothing made yet.
fn token(cx: &Context, request: &ecs::RunTaskRequest) -> Result<Option<Token>, ApiError> {
    let Some(token) = request.client_token.clone().filter(|token| !token.is_empty()) else {
        return Ok(None);
    };
    if token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(errors::invalid(format!(
            "clientToken should be at most {MAX_TOKEN} visible ASCII characters."
        )));
    }
    Ok(Some(Token {
        region: cx.region.clone(),
        operation: OPERATION.to_owned(),
        token,
        request: digest(&ecs::RunTaskRequest { client_token: None, ..request.clone() })?,
        made: Vec::new(),
        created_at: cx.now,
    }))
}

fn digest(request: &impl Serialize) -> Result<String, ApiError> {
    let json = serde_json::to_vec(request).map_err(|error| ApiError::server(error.to_string()))?;
    Ok(hex::encode(Sha256::digest(&json)))
}

/// The answer to a request with a token that was used before.
fn repeated(
    view: &View,
    cx: &Context,
    token: &Token,
) -> Result<Option<ecs::RunTaskResponse>, ApiError> {
    let Some(before) = view.tokens.get(&token.key()) else { return Ok(None) };
    let made = || before.made.iter().filter_map(|key| view.tasks.get(key));
    if before.request != token.request {
        return Err(ApiError {
            resource_ids: made().map(|task| task.arn(cx.account())).collect(),
            ..ApiError::client(
                "ConflictException",
                "The clientToken was used before with other parameters.",
            )
        });
    }
    let tasks = made().map(|task| describe(task, cx, view, true)).collect();
    Ok(Some(ecs::RunTaskResponse { tasks, failures: Vec::new() }))
}
