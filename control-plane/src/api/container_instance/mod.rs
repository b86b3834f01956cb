//! Container instances (ECS API reference, section 8).
//!
//! What an instance has left is computed from the tasks placed on it, never stored. Whatever matters
//! to placement changes the instance's guard with it, so that no task is placed on what has changed
//! meanwhile. A deregistered instance stays as INACTIVE; the owner of its session sees that and tells
//! the agent.

mod attributes;
mod register;

use std::collections::BTreeSet;

use protocol::aws_json::ApiError;
use protocol::ecs;
use protocol::taskdef::TransportProtocol;
use protocol::time::EpochSeconds;
use serde_json::json;

use super::lookup;
use super::page::page;
use super::{Answer, Context, call, errors};
use crate::model::{Guard, Instance, InstanceStatus, StopCode};
use crate::scheduler::facts;
use crate::scheduler::query::Expression;
use crate::state::{Edit, Host, Stored, View};

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "RegisterContainerInstance" => call(body, |request| register::register(cx, request)).await,
        "DescribeContainerInstances" => call(body, |request| describe(cx, request)).await,
        "ListContainerInstances" => call(body, |request| list(cx, request)).await,
        "UpdateContainerInstancesState" => call(body, |request| update_state(cx, request)).await,
        "DeregisterContainerInstance" => call(body, |request| deregister(cx, request)).await,
        "UpdateContainerAgent" => call(body, |request| update_agent(cx, request)).await,
        "PutAttributes" => call(body, |request| attributes::put(cx, request)).await,
        "DeleteAttributes" => call(body, |request| attributes::delete(cx, request)).await,
        "ListAttributes" => call(body, |request| attributes::list(cx, request)).await,
        _ => return None,
    })
}

/// The most instances that one call describes.
const MOST_DESCRIBED: usize = 100;
/// The most instances whose state one call changes.
const MOST_UPDATED: usize = 10;

async fn describe(
    cx: &Context,
    request: ecs::DescribeContainerInstancesRequest,
) -> Result<ecs::DescribeContainerInstancesResponse, ApiError> {
    let include =
        lookup::includes(request.include.as_deref(), &["CONTAINER_INSTANCE_HEALTH", "TAGS"])?;
    let includes = |part: &str| include.iter().any(|name| name == part);
    let given = several(request.container_instances, MOST_DESCRIBED)?;
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let mut answer = ecs::DescribeContainerInstancesResponse::default();
    for given in &given {
        let id = lookup::instance_id(cx, &cluster.name, given)?;
        let Some(instance) = view.instances.get(&key(cx, &cluster.name, &id)) else {
            answer.failures.push(failure(cx, &cluster.name, &id, "MISSING"));
            continue;
        };
        let mut shape = shape(cx, &view, instance);
        if !includes("TAGS") {
            shape.tags.clear();
        }
        if includes("CONTAINER_INSTANCE_HEALTH") {
            // Nothing is known of a host beyond its agent's session.
            shape.health_status =
                Some(json!({"overallStatus": "INSUFFICIENT_DATA", "details": []}));
        }
        answer.container_instances.push(shape);
    }
    Ok(answer)
}

async fn list(
    cx: &Context,
    request: ecs::ListContainerInstancesRequest,
) -> Result<ecs::ListContainerInstancesResponse, ApiError> {
    const STATUSES: &[&str] =
        &["ACTIVE", "DRAINING", "REGISTERING", "DEREGISTERING", "REGISTRATION_FAILED"];
    let status = request.status.as_deref().filter(|status| !status.is_empty());
    if let Some(status) = status
        && !STATUSES.contains(&status)
    {
        return Err(errors::invalid(format!("status should be one of [{}]", STATUSES.join(","))));
    }
    let filter = request
        .filter
        .as_deref()
        .filter(|filter| !filter.is_empty())
        .map(Expression::parse)
        .transpose()
        .map_err(|error| errors::invalid(format!("Invalid filter expression: {error}")))?;
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let nothing = Host::default();
    let prefix = key(cx, &cluster.name, "");
    let found = view
        .instances
        .prefix(&prefix)
        .filter(|(_, instance)| match status {
            Some(status) => instance.status.name() == status,
            None => instance.is_registered(),
        })
        .filter(|(key, instance)| {
            let host = view.hosts().get(key).unwrap_or(&nothing);
            filter.as_ref().is_none_or(|filter| filter.matches(&facts(instance, host)))
        })
        .map(|(key, instance)| (key.to_owned(), instance.arn(cx.account())));
    let (container_instance_arns, next_token) =
        page(found, request.next_token.as_deref(), request.max_results, 100)?;
    Ok(ecs::ListContainerInstancesResponse { container_instance_arns, next_token })
}

async fn update_state(
    cx: &Context,
    request: ecs::UpdateContainerInstancesStateRequest,
) -> Result<ecs::UpdateContainerInstancesStateResponse, ApiError> {
    let status = match request.status.as_deref() {
        Some("ACTIVE") => InstanceStatus::Active,
        Some("DRAINING") => InstanceStatus::Draining,
        _ => {
            return Err(errors::invalid(
                "Container instance status should be one of [ACTIVE,DRAINING]",
            ));
        }
    };
    let given = several(request.container_instances, MOST_UPDATED)?;
    cx.transact(|view, edit| {
        let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
        let mut answer = ecs::UpdateContainerInstancesStateResponse::default();
        let mut done = BTreeSet::new();
        for given in &given {
            let id = lookup::instance_id(cx, &cluster.name, given)?;
            let Some(before) = view.instances.get(&key(cx, &cluster.name, &id)) else {
                answer.failures.push(failure(cx, &cluster.name, &id, "MISSING"));
                continue;
            };
            if !before.is_registered() {
                answer.failures.push(failure(cx, &cluster.name, &id, "INACTIVE"));
                continue;
            }
            let mut after = before.value.clone();
            if after.status != status {
                after.status = status;
                after.version += 1;
                // Named twice, it is changed once.
                if done.insert(id) {
                    edit.update(before, &after);
                    bump(view, edit, &after);
                }
            }
            answer.container_instances.push(shape(cx, view, &after));
        }
        Ok(answer)
    })
    .await
}

async fn deregister(
    cx: &Context,
    request: ecs::DeregisterContainerInstanceRequest,
) -> Result<ecs::DeregisterContainerInstanceResponse, ApiError> {
    let given = one(request.container_instance)?;
    let force = request.force.unwrap_or(false);
    let instance = cx
        .transact(|view, edit| {
            let before = find(view, cx, request.cluster.as_deref(), &given)?;
            let mut after = before.value.clone();
            if !after.is_registered() {
                return Ok(shape(cx, view, &after));
            }
            let key = key(cx, &after.cluster, &after.id);
            let live: Vec<_> = view.tasks_on(&key).filter(|task| task.is_live()).collect();
            if !live.is_empty() && !force {
                return Err(errors::invalid("Found running tasks on the instance."));
            }
            // They go on as orphans of which nothing is heard any more.
            for task in &live {
                let mut ended = task.value.clone();
                ended.stop(
                    StopCode::UserInitiated,
                    "Container instance deregistration forced by user".to_owned(),
                    cx.now,
                );
                ended.end(cx.now);
                edit.update(task, &ended);
            }
            after.status = InstanceStatus::Inactive;
            after.deregistered_at = Some(cx.now);
            after.version += 1;
            edit.update(before, &after);
            bump(view, edit, &after);
            let mut shape = shape(cx, view, &after);
            // The view is of before.
            shape.running_tasks_count = Some(0);
            shape.pending_tasks_count = Some(0);
            shape.remaining_resources = remaining(&after, &Host::default());
            Ok(shape)
        })
        .await?;
    Ok(ecs::DeregisterContainerInstanceResponse { container_instance: Some(instance) })
}

async fn update_agent(
    cx: &Context,
    request: ecs::UpdateContainerAgentRequest,
) -> Result<ecs::UpdateContainerAgentResponse, ApiError> {
    let given = one(request.container_instance)?;
    find(&cx.state.view(), cx, request.cluster.as_deref(), &given)?;
    // Agents are updated by their hosts' package manager.
    Err(ApiError::client(
        "NoUpdateAvailableException",
        "There is no update available for your container agent.",
    ))
}

/// The identifiers of a request, at least one and `most` at most.
fn several(given: Option<Vec<String>>, most: usize) -> Result<Vec<String>, ApiError> {
    let given = given.unwrap_or_default();
    if given.is_empty() {
        return Err(errors::client("Container Instances cannot be empty."));
    }
    if given.len() > most {
        return Err(errors::invalid(format!(
            "Container Instances cannot have more than {most} elements."
        )));
    }
    Ok(given)
}

fn one(given: Option<String>) -> Result<String, ApiError> {
    given
        .filter(|given| !given.is_empty())
        .ok_or_else(|| errors::invalid("Container instance can not be blank."))
}

/// The instance that is meant, of whatever status.
fn find<'v>(
    view: &'v View,
    cx: &Context,
    cluster: Option<&str>,
    given: &str,
) -> Result<&'v Stored<Instance>, ApiError> {
    let cluster = lookup::cluster(view, cx, cluster)?;
    let id = lookup::instance_id(cx, &cluster.name, given)?;
    view.instances
        .get(&key(cx, &cluster.name, &id))
        .ok_or_else(|| errors::invalid(format!("Container instance {id} not found.")))
}

fn key(cx: &Context, cluster: &str, id: &str) -> String {
    Instance::key_of(&cx.region, cluster, id)
}

fn failure(cx: &Context, cluster: &str, id: &str, reason: &str) -> ecs::Failure {
    ecs::Failure {
        arn: Some(Instance::arn_of(&cx.region, cx.account(), cluster, id)),
        reason: Some(reason.to_owned()),
        detail: None,
    }
}

/// Changes the guard with its instance: placements decided on the instance as it was fail.
fn bump(view: &View, edit: &mut Edit, instance: &Instance) {
    let key = Guard::key_of(&instance.region, &instance.cluster, &instance.id);
    let before = view.guards.get(&key);
    let guard = Guard {
        region: instance.region.clone(),
        cluster: instance.cluster.clone(),
        instance: instance.id.clone(),
        placements: before.map_or(0, |guard| guard.placements + 1),
    };
    match before {
        Some(before) => edit.update(before, &guard),
        None => edit.create(&guard),
    }
}

/// The instance as described, with its tags.
fn shape(cx: &Context, view: &View, instance: &Instance) -> ecs::ContainerInstance {
    let nothing = Host::default();
    let key = key(cx, &instance.cluster, &instance.id);
    let host = view.hosts().get(&key).unwrap_or(&nothing);
    let connected = host.connected && instance.is_registered();
    let count = |count: u32| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let attributes = instance.attributes.iter().map(|(name, value)| ecs::Attribute {
        name: Some(name.clone()),
        value: value.clone(),
        ..ecs::Attribute::default()
    });
    ecs::ContainerInstance {
        container_instance_arn: Some(instance.arn(cx.account())),
        ec2_instance_id: instance.ec2_instance_id.clone(),
        version: Some(i64::try_from(instance.version).unwrap_or(i64::MAX)),
        version_info: Some(instance.version_info.clone()),
        remaining_resources: remaining(instance, host),
        registered_resources: remaining(instance, &nothing),
        status: Some(instance.status.name().to_owned()),
        status_reason: None,
        agent_connected: Some(connected),
        running_tasks_count: count(host.running),
        pending_tasks_count: count(host.pending),
        agent_update_status: None,
        attributes: attributes.collect(),
        registered_at: Some(EpochSeconds(instance.registered_at)),
        attachments: Vec::new(),
        tags: instance.tags.clone(),
        health_status: None,
    }
}

/// What the instance has left beside what its tasks take. The port sets list what is taken.
fn remaining(instance: &Instance, host: &Host) -> Vec<ecs::Resource> {
    let resources = &instance.resources;
    let number = |name: &str, all: u32, taken: u64| {
        let left = u64::from(all).saturating_sub(taken);
        let left = i32::try_from(left).unwrap_or(i32::MAX);
        resource(name, "INTEGER", Some(left), None)
    };
    let ports = |name: &str, protocol: TransportProtocol, reserved: &BTreeSet<u16>| {
        let mut taken = reserved.clone();
        let static_ports = host.ports.iter().filter(|port| port.0 == protocol);
        taken.extend(static_ports.map(|port| port.1));
        let taken = taken.iter().map(u16::to_string).collect();
        resource(name, "STRINGSET", None, Some(taken))
    };
    vec![
        number("CPU", resources.cpu, host.cpu),
        number("MEMORY", resources.memory, host.memory),
        ports("PORTS", TransportProtocol::Tcp, &resources.ports),
        ports("PORTS_UDP", TransportProtocol::Udp, &resources.ports_udp),
    ]
}

/// ECS writes all kinds of numbers in each resource.
fn resource(
    name: &str,
    kind: &str,
    integer: Option<i32>,
    texts: Option<Vec<String>>,
) -> ecs::Resource {
    ecs::Resource {
        name: Some(name.to_owned()),
        kind: Some(kind.to_owned()),
        double_value: Some(0.0),
        long_value: Some(0),
        integer_value: Some(integer.unwrap_or(0)),
        string_set_value: texts,
    }
}
