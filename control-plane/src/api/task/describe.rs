//! DescribeTasks, and a task as every operation shows it.

use protocol::aws_json::ApiError;
use protocol::ecs;
use protocol::taskdef::ContainerDefinition;
use protocol::time::EpochSeconds;
use serde_json::json;

use super::super::{Context, lookup};
use super::identifiers;
use crate::model::{
    Cluster, Connection, Definition, Instance, LaunchType, Task, TaskContainer, TaskInterface,
    TaskStatus,
};
use crate::state::View;

/// Most tasks of a call.
const MAX_TASKS: usize = 100;
/// Attribute of the instance that its tasks show.
const ARCHITECTURE: &str = "ecs.cpu-architecture";

pub(super) async fn tasks(
    cx: &Context,
    request: ecs::DescribeTasksRequest,
) -> Result<ecs::DescribeTasksResponse, ApiError> {
    let given = identifiers(request.tasks, "Tasks", MAX_TASKS)?;
    let include = lookup::includes(request.include.as_deref(), &["TAGS"])?;
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let mut answer = ecs::DescribeTasksResponse::default();
    for given in given {
        let id = lookup::task_id(cx, &cluster.name, &given)?;
        match view.tasks.get(&Task::key_of(&cx.region, &cluster.name, &id)) {
            Some(task) => answer.tasks.push(describe(task, cx, &view, !include.is_empty())),
            None => answer.failures.push(missing(cx, &cluster.name, &id)),
        }
    }
    Ok(answer)
}

/// A task that is not there, as `failures` lists it.
pub(super) fn missing(cx: &Context, cluster: &str, id: &str) -> ecs::Failure {
    let arn = Task::arn_of(&cx.region, cx.account(), cluster, id);
    ecs::Failure { arn: Some(arn), reason: Some("MISSING".to_owned()), detail: None }
}

/// A task as the API shows it.
pub(crate) fn describe(task: &Task, cx: &Context, view: &View, include_tags: bool) -> ecs::Task {
    let account = cx.account();
    let instance_key = Instance::key_of(&task.region, &task.cluster, &task.instance);
    let instance = view.instances.get(&instance_key);
    let definition = view.definitions.get(&task.definition.key(&task.region));
    let attribute =
        |name: &str| instance.and_then(|instance| instance.attributes.get(name)?.clone());
    let (connectivity, connectivity_at) = connectivity(task, view);
    let is_fargate = task.launch_type == LaunchType::Fargate;
    ecs::Task {
        attachments: task.interface.iter().map(|interface| attachment(task, interface)).collect(),
        attributes: attribute(ARCHITECTURE)
            .map(|value| ecs::Attribute {
                name: Some(ARCHITECTURE.to_owned()),
                value: Some(value),
                ..Default::default()
            })
            .into_iter()
            .collect(),
        availability_zone: attribute(crate::state::ZONE),
        capacity_provider_name: None,
        cluster_arn: Some(Cluster::arn_of(&task.region, account, &task.cluster)),
        connectivity,
        connectivity_at,
        container_instance_arn: (!is_fargate)
            .then(|| Instance::arn_of(&task.region, account, &task.cluster, &task.instance)),
        containers: task
            .containers
            .iter()
            .map(|container| {
                self::container(container, task, account, definition.map(|d| &d.value))
            })
            .collect(),
        cpu: Some(task.reserved.cpu.to_string()),
        created_at: Some(task.created_at.into()),
        desired_status: Some(task.desired.name().to_owned()),
        enable_execute_command: Some(task.enable_execute_command),
        execution_stopped_at: task.execution_stopped_at.map(EpochSeconds),
        group: Some(task.group.clone()),
        health_status: Some(task.health.name().to_owned()),
        inference_accelerators: None,
        last_status: Some(task.last.name().to_owned()),
        launch_type: Some(task.launch_type.name().to_owned()),
        memory: Some(task.reserved.memory.to_string()),
        overrides: Some(overrides(task)),
        platform_version: task.platform_version.clone(),
        platform_family: is_fargate.then(|| "Linux".to_owned()),
        pull_started_at: task.pull_started_at.map(EpochSeconds),
        pull_stopped_at: task.pull_stopped_at.map(EpochSeconds),
        started_at: task.started_at.map(EpochSeconds),
        started_by: task.started_by.clone(),
        stop_code: task.stop_code.map(|code| code.name().to_owned()),
        stopped_at: task.stopped_at.map(EpochSeconds),
        stopped_reason: task.stopped_reason.clone(),
        stopping_at: task.stopping_at.map(EpochSeconds),
        tags: if include_tags { task.tags.clone() } else { Vec::new() },
        task_arn: Some(task.arn(account)),
        task_definition_arn: Some(task.definition.arn(&task.region, account)),
        version: Some(i64::try_from(task.version).unwrap_or(i64::MAX)),
        ephemeral_storage: None,
        fargate_ephemeral_storage: None,
    }
}

/// Whether the agent that has the task is connected; nothing before an agent has it.
fn connectivity(task: &Task, view: &View) -> (Option<String>, Option<EpochSeconds>) {
    if task.delivered.is_none() {
        return (None, None);
    }
    let key = Connection::key_of(&task.region, &task.cluster, &task.instance);
    match view.connections.get(&key) {
        Some(connection) => {
            let since = connection.since.max(task.created_at);
            (Some("CONNECTED".to_owned()), Some(since.into()))
        }
        None => (Some("DISCONNECTED".to_owned()), None),
    }
}

fn attachment(task: &Task, interface: &TaskInterface) -> ecs::Attachment {
    let is_attached = interface.private_address.is_some();
    let status = match task.last {
        TaskStatus::Stopped => "DELETED",
        _ if is_attached => "ATTACHED",
        _ => "PRECREATED",
    };
    let details = [
        ("subnetId", Some(interface.subnet.clone())),
        ("networkInterfaceId", is_attached.then(|| interface_id(&interface.attachment))),
        ("macAddress", interface.mac_address.clone()),
        ("privateIPv4Address", interface.private_address.clone()),
    ];
    ecs::Attachment {
        id: Some(interface.attachment.clone()),
        kind: Some("ElasticNetworkInterface".to_owned()),
        status: Some(status.to_owned()),
        details: details
            .into_iter()
            .filter_map(|(name, value)| {
                Some(ecs::KeyValuePair { name: Some(name.to_owned()), value: Some(value?) })
            })
            .collect(),
    }
}

/// An interface has the id of its attachment in the form of an interface's.
fn interface_id(attachment: &str) -> String {
    let digits: String = attachment.chars().filter(char::is_ascii_hexdigit).take(17).collect();
    format!("eni-{digits}")
}

fn container(
    container: &TaskContainer,
    task: &Task,
    account: &str,
    definition: Option<&Definition>,
) -> ecs::Container {
    let defined: Option<&ContainerDefinition> = definition.and_then(|definition| {
        definition.definition.containers.iter().find(|defined| defined.name == container.name)
    });
    let over = task
        .overrides
        .container_overrides
        .iter()
        .flatten()
        .find(|over| over.name.as_deref() == Some(container.name.as_str()));
    let amount = |given: Option<i32>, defined: Option<u32>| {
        given.map(|given| given.to_string()).or_else(|| defined.map(|defined| defined.to_string()))
    };
    let address = task
        .interface
        .as_ref()
        .and_then(|interface| Some((interface, interface.private_address.as_ref()?)));
    ecs::Container {
        container_arn: Some(task.container_arn(account, container)),
        task_arn: Some(task.arn(account)),
        name: Some(container.name.clone()),
        image: Some(container.image.clone()),
        image_digest: container.image_digest.clone(),
        runtime_id: container.runtime_id.clone(),
        last_status: Some(container.last.name().to_owned()),
        exit_code: container.exit_code,
        reason: container.reason.clone(),
        network_bindings: container.network_bindings.clone(),
        network_interfaces: address
            .map(|(interface, address)| ecs::NetworkInterface {
                attachment_id: Some(interface.attachment.clone()),
                private_ipv4_address: Some(address.clone()),
                ipv6_address: None,
            })
            .into_iter()
            .collect(),
        health_status: Some(container.health.name().to_owned()),
        managed_agents: None,
        cpu: amount(over.and_then(|over| over.cpu), defined.map(|defined| defined.cpu)),
        memory: amount(
            over.and_then(|over| over.memory),
            defined.and_then(|defined| defined.memory),
        ),
        memory_reservation: amount(
            over.and_then(|over| over.memory_reservation),
            defined.and_then(|defined| defined.memory_reservation),
        ),
        gpu_ids: Vec::new(),
    }
}

/// The overrides, with an entry for each container.
fn overrides(task: &Task) -> ecs::TaskOverride {
    let given = task.overrides.container_overrides.as_deref().unwrap_or_default();
    let entry = |container: &TaskContainer| {
        let name = Some(container.name.clone());
        let over = given.iter().find(|over| over.name == name);
        over.cloned().unwrap_or(ecs::ContainerOverride { name, ..Default::default() })
    };
    ecs::TaskOverride {
        container_overrides: Some(task.containers.iter().map(entry).collect()),
        inference_accelerator_overrides: Some(json!([])),
        ..task.overrides.clone()
    }
}
