//! The record of a new task: what it reserves, and everything it begins with.

use jiff::Timestamp;
use protocol::ecs;
use protocol::ids::TaskId;
use protocol::taskdef::{NetworkMode, TaskDefinition, cpu_units, mebibytes};
use serde_json::Value;

use crate::model::{
    ContainerStatus, Definition, Desired, Health, LaunchType, Reserved, Role, Task, TaskContainer,
    TaskInterface, TaskStatus,
};
use crate::state::View;

/// Random bits for the names in a task: its own, its attachment's, and its containers' (a
/// definition has at most 10).
#[derive(Debug, Clone, Copy)]
pub struct TaskIds([u128; 12]);

impl TaskIds {
    /// Draws them.
    pub fn draw(mut random: impl FnMut() -> u128) -> Self {
        Self(std::array::from_fn(|_| random()))
    }

    /// The task's id.
    pub fn task(&self) -> String {
        let [task, ..] = self.0;
        TaskId::from_random(task).into()
    }
}

/// What a task is made of.
#[derive(Debug, Clone)]
pub struct NewTask<'a> {
    pub account: &'a str,
    pub cluster: &'a str,
    /// Its region is the task's.
    pub definition: &'a Definition,
    /// Id of the instance on which it is placed.
    pub instance: &'a str,
    pub launch_type: LaunchType,
    pub group: &'a str,
    pub started_by: Option<&'a str>,
    /// Name of its service.
    pub service: Option<&'a str>,
    /// Id of the service's deployment.
    pub deployment: Option<&'a str>,
    /// Checked against the definition.
    pub overrides: &'a ecs::TaskOverride,
    /// Given if, and only if, the definition's network mode is awsvpc.
    pub network_configuration: Option<&'a ecs::NetworkConfiguration>,
    /// All of its tags ([`tags`]).
    pub tags: Vec<ecs::Tag>,
    pub enable_execute_command: bool,
    pub platform_version: Option<&'a str>,
    pub ids: TaskIds,
    pub now: Timestamp,
}

/// The record of a new task.
pub fn new_task(new: NewTask<'_>) -> Task {
    let definition = &new.definition.definition;
    let [_, attachment, containers @ ..] = new.ids.0;
    let is_awsvpc = definition.network_mode == NetworkMode::Awsvpc;
    let containers = definition
        .containers
        .iter()
        .zip(containers)
        .map(|(container, id)| TaskContainer {
            id: uuid_text(id),
            name: container.name.clone(),
            image: container.image.clone(),
            last: ContainerStatus::Pending,
            exit_code: None,
            reason: None,
            runtime_id: None,
            image_digest: None,
            network_bindings: Vec::new(),
            health: Health::Unknown,
        })
        .collect();
    Task {
        region: new.definition.region.clone(),
        cluster: new.cluster.to_owned(),
        id: new.ids.task(),
        definition: new.definition.name(),
        instance: new.instance.to_owned(),
        launch_type: new.launch_type,
        group: new.group.to_owned(),
        started_by: new.started_by.map(str::to_owned),
        accounted: false,
        service: new.service.map(str::to_owned),
        deployment: new.deployment.map(str::to_owned),
        reserved: reserve(definition, new.overrides),
        task_role_arn: task_role(new.account, new.definition, new.overrides),
        execution_role_arn: execution_role(new.account, new.definition, new.overrides),
        overrides: new.overrides.clone(),
        network_configuration: new.network_configuration.cloned(),
        interface: is_awsvpc.then(|| TaskInterface {
            attachment: uuid_text(attachment),
            subnet: first_subnet(new.network_configuration),
            private_address: None,
            mac_address: None,
        }),
        desired: Desired::Running,
        last: if is_awsvpc { TaskStatus::Provisioning } else { TaskStatus::Pending },
        containers,
        health: Health::Unknown,
        delivered: None,
        stop_code: None,
        stopped_reason: None,
        created_at: new.now,
        pull_started_at: None,
        pull_stopped_at: None,
        started_at: None,
        stopping_at: None,
        execution_stopped_at: None,
        stopped_at: None,
        protected_until: None,
        tags: new.tags,
        enable_execute_command: new.enable_execute_command,
        platform_version: new.platform_version.map(str::to_owned),
        version: 1,
    }
}

/// What a task takes of its instance. CPU and memory are the task's, else the sum of its
/// containers' (of memory the soft limit, if there is one); overrides count. Ports are those that
/// are fixed on the host.
pub fn reserve(definition: &TaskDefinition, overrides: &ecs::TaskOverride) -> Reserved {
    let mut cpu = 0_u32;
    let mut memory = 0_u32;
    let mut ports = Vec::new();
    for container in &definition.containers {
        let over = overrides
            .container_overrides
            .iter()
            .flatten()
            .find(|over| over.name.as_deref() == Some(container.name.as_str()));
        let given = |pick: fn(&ecs::ContainerOverride) -> Option<i32>| {
            over.and_then(pick).and_then(|number| u32::try_from(number).ok())
        };
        cpu = cpu.saturating_add(given(|over| over.cpu).unwrap_or(container.cpu));
        let soft = given(|over| over.memory_reservation).or(container.memory_reservation);
        let hard = given(|over| over.memory).or(container.memory);
        memory = memory.saturating_add(soft.or(hard).unwrap_or(0));
        if matches!(definition.network_mode, NetworkMode::Bridge | NetworkMode::Host) {
            let fixed = container.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
            ports.extend(fixed.map(|mapping| (mapping.protocol, mapping.host_port)));
        }
    }
    Reserved {
        cpu: task_cpu(definition, overrides).unwrap_or(cpu),
        memory: task_memory(definition, overrides).unwrap_or(memory),
        ports,
    }
}

/// The task's CPU units, if it has a limit.
pub fn task_cpu(definition: &TaskDefinition, overrides: &ecs::TaskOverride) -> Option<u32> {
    overrides.cpu.as_deref().and_then(cpu_units).or(definition.cpu)
}

/// The task's MiB, if it has a limit.
pub fn task_memory(definition: &TaskDefinition, overrides: &ecs::TaskOverride) -> Option<u32> {
    overrides.memory.as_deref().and_then(mebibytes).or(definition.memory)
}

/// ARN of the role that the task's containers have.
fn task_role(
    account: &str,
    definition: &Definition,
    overrides: &ecs::TaskOverride,
) -> Option<String> {
    role(account, definition, "taskRoleArn", overrides.task_role_arn.as_deref())
}

/// ARN of the role with which the task is started.
fn execution_role(
    account: &str,
    definition: &Definition,
    overrides: &ecs::TaskOverride,
) -> Option<String> {
    role(account, definition, "executionRoleArn", overrides.execution_role_arn.as_deref())
}

/// ARN of the first role of a task that is not there.
pub fn missing_role(
    view: &View,
    account: &str,
    definition: &Definition,
    overrides: &ecs::TaskOverride,
) -> Option<String> {
    let roles =
        [task_role(account, definition, overrides), execution_role(account, definition, overrides)];
    roles.into_iter().flatten().find(|arn| Role::find(view, account, arn).is_none())
}

fn role(
    account: &str,
    definition: &Definition,
    member: &str,
    given: Option<&str>,
) -> Option<String> {
    let named = |role: Option<&str>| {
        role.filter(|role| !role.is_empty()).map(|role| Role::arn_of(account, role))
    };
    named(given).or_else(|| named(definition.registered.get(member).and_then(Value::as_str)))
}

/// The tags of a task: its own, those propagated to it that it has not itself, and ECS's.
pub fn tags(
    own: &[ecs::Tag],
    propagated: &[ecs::Tag],
    managed: Option<(&str, Option<&str>)>,
) -> Vec<ecs::Tag> {
    let mut tags = own.to_vec();
    let mut add = |tag: ecs::Tag| {
        if !tags.iter().any(|have| have.key == tag.key) {
            tags.push(tag);
        }
    };
    for tag in propagated {
        add(tag.clone());
    }
    if let Some((cluster, service)) = managed {
        let managed = [("aws:ecs:clusterName", Some(cluster)), ("aws:ecs:serviceName", service)];
        for (key, value) in managed {
            if let Some(value) = value {
                add(ecs::Tag { key: Some(key.to_owned()), value: Some(value.to_owned()) });
            }
        }
    }
    tags
}

fn first_subnet(configuration: Option<&ecs::NetworkConfiguration>) -> String {
    configuration
        .and_then(|configuration| configuration.awsvpc_configuration.as_ref())
        .and_then(|awsvpc| awsvpc.subnets.as_ref()?.first())
        .cloned()
        .unwrap_or_default()
}

fn uuid_text(bits: u128) -> String {
    uuid::Uuid::from_u128(bits).to_string()
}
