//! RunTask.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, errors, lookup, token};
use super::wanted::{Wanted, named};
use super::{checks, describe, draw_ids, draw_seed};
use crate::model::{Entity, LaunchType, Task, Token};
use crate::scheduler::{Failure, NO_CAPACITY, Reason, TaskIds, candidates, place};
use crate::state::{Edit, View};

/// Most tasks of a call.
const MAX_COUNT: usize = 10;
/// Longest `startedBy`.
const MAX_STARTED_BY: usize = 128;
const OPERATION: &str = "RunTask";

pub(super) async fn run(
    cx: &Context,
    mut request: ecs::RunTaskRequest,
) -> Result<ecs::RunTaskResponse, ApiError> {
    let count = match request.count {
        None => 1,
        Some(count) => {
            usize::try_from(count).ok().filter(|count| (1..=MAX_COUNT).contains(count)).ok_or_else(
                || errors::invalid(format!("count should be between 1 and {MAX_COUNT}.")),
            )?
        }
    };
    let given = request.client_token.take();
    let token = token::read(cx, OPERATION, given, &request)?;
    let tags = lookup::tags(request.tags.take())?;
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
    let (cluster, definition) = named(view, cx, request)?;
    let launch_type = checks::launch_type(
        cluster,
        request.launch_type.as_deref(),
        request.capacity_provider_strategy.as_ref(),
    )?;
    checks::compatible(definition, launch_type)?;
    let wanted =
        Wanted::check((cluster, definition), request, launch_type, MAX_STARTED_BY, own_tags)?;
    let (constraints, strategy) = checks::placement(
        definition,
        launch_type,
        request.placement_constraints.as_deref(),
        request.placement_strategy.as_deref(),
    )?;
    wanted.check_roles(view, cx)?;

    let mut candidates = candidates(view, &cx.region, &cluster.name);
    let sought = wanted.request(launch_type, &constraints, &strategy);
    let placed = place(&sought, &mut candidates, drawn.len(), seed);
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for (placed, ids) in placed.into_iter().zip(drawn) {
        match placed {
            Ok(instance) => tasks.push(wanted.task(cx, &instance.id, launch_type, *ids)),
            Err(failure) => failures.push(refused(cx, &cluster.name, launch_type, &failure)?),
        }
    }
    wanted.record(view, edit, &tasks);
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
