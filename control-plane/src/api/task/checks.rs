//! What of a request fits its task definition: launch type, network, overrides, roles. RunTask,
//! StartTask and services share it. Messages are those of Amazon ECS where they are known.

use protocol::aws_json::ApiError;
use protocol::ecs;
use protocol::taskdef::{
    Compatibility, ContainerDefinition, NetworkMode, cpu_units, is_fargate_size, mebibytes,
};
use serde_json::Value;

use super::super::lookup::quoted;
use super::super::{Context, errors};
use crate::model::{Cluster, Definition, LATEST_PLATFORM, LaunchType, PLATFORM, Role};
use crate::scheduler::{Constraints, Strategy, missing_role, task_cpu, task_memory};
use crate::state::View;

/// Longest `overrides`, in characters of JSON.
const MAX_OVERRIDES: usize = 8192;
/// Longest name of a group.
const MAX_GROUP: usize = 255;
/// Capacity providers that are there without being created.
const FARGATE_PROVIDERS: [&str; 2] = ["FARGATE", "FARGATE_SPOT"];
/// Least memory of a container, MiB.
const MIN_MEMORY: i32 = 6;

/// The launch type that a request asks for. A strategy of capacity providers, which are Fargate's,
/// asks for FARGATE; without either the cluster's strategy applies, else EC2.
pub(crate) fn launch_type(
    cluster: &Cluster,
    given: Option<&str>,
    strategy: Option<&Value>,
) -> Result<LaunchType, ApiError> {
    let strategy = strategy.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let given = given.filter(|given| !given.is_empty());
    if strategy.is_empty() {
        if given.is_none() && !cluster.default_strategy.is_empty() {
            return Ok(LaunchType::Fargate);
        }
        let given = given.unwrap_or(LaunchType::Ec2.name());
        return LaunchType::parse(given).ok_or_else(|| {
            errors::invalid(format!(
                "launchType should be one of [EC2, FARGATE, EXTERNAL], is {}",
                quoted(given)
            ))
        });
    }
    if given.is_some() {
        return Err(errors::invalid(
            "Specifying both a launch type and capacity provider strategy is not supported. Remove \
             one and try again.",
        ));
    }
    for item in strategy {
        let provider = item.get("capacityProvider").and_then(Value::as_str).unwrap_or_default();
        if !FARGATE_PROVIDERS.contains(&provider) {
            return Err(errors::invalid(format!(
                "The specified capacity provider {} was not found. Specify a valid name or ARN and \
                 try again.",
                quoted(provider)
            )));
        }
    }
    Ok(LaunchType::Fargate)
}

/// Whether the definition can be run with the launch type.
pub(crate) fn compatible(definition: &Definition, launch: LaunchType) -> Result<(), ApiError> {
    let required = &definition.definition.requires_compatibilities;
    let needed = match launch {
        LaunchType::Ec2 => Compatibility::Ec2,
        LaunchType::Fargate => Compatibility::Fargate,
        LaunchType::External => Compatibility::External,
    };
    let is_computed = definition.compatibilities.iter().any(|name| name == launch.name());
    let fits_network = match (launch, definition.definition.network_mode) {
        (LaunchType::Fargate, mode) => mode == NetworkMode::Awsvpc,
        (LaunchType::External, mode) => mode != NetworkMode::Awsvpc,
        (LaunchType::Ec2, _) => true,
    };
    if (required.is_empty() || required.contains(&needed)) && is_computed && fits_network {
        return Ok(());
    }
    Err(errors::invalid(format!("Task definition does not support launch_type {}.", launch.name())))
}

/// The network configuration that the tasks get; given if, and only if, the mode is awsvpc.
pub(crate) fn network<'a>(
    definition: &Definition,
    launch: LaunchType,
    given: Option<&'a ecs::NetworkConfiguration>,
) -> Result<Option<&'a ecs::NetworkConfiguration>, ApiError> {
    let awsvpc = given.and_then(|given| given.awsvpc_configuration.as_ref());
    if definition.definition.network_mode != NetworkMode::Awsvpc {
        return match awsvpc {
            None => Ok(None),
            Some(_) => Err(errors::invalid(
                "Network Configuration is not valid for the given networkMode of this task \
                 definition.",
            )),
        };
    }
    let Some(awsvpc) = awsvpc else {
        return Err(errors::invalid(
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ));
    };
    let subnets = awsvpc.subnets.as_deref().unwrap_or_default();
    let groups = awsvpc.security_groups.as_deref().unwrap_or_default();
    if subnets.is_empty() || subnets.iter().any(String::is_empty) {
        return Err(errors::invalid("subnets can not be empty."));
    }
    for (what, list, most) in [("subnets", subnets, 16), ("securityGroups", groups, 5)] {
        if list.len() > most {
            return Err(errors::invalid(format!("{what} can have at most {most} items.")));
        }
        if let Some(long) = list.iter().find(|item| item.len() > 255) {
            return Err(errors::invalid(format!("{what}: {} is too long.", quoted(long))));
        }
    }
    match awsvpc.assign_public_ip.as_deref() {
        None | Some("" | "DISABLED") => Ok(given),
        Some("ENABLED") if launch == LaunchType::Fargate => Ok(given),
        Some("ENABLED") => {
            Err(errors::invalid("Assign public IP is not supported for this launch type."))
        }
        Some(other) => Err(errors::invalid(format!(
            "assignPublicIp should be one of [ENABLED, DISABLED], is {}",
            quoted(other)
        ))),
    }
}

/// The platform version that tasks have: FARGATE only.
pub(crate) fn platform_version(
    launch: LaunchType,
    given: Option<&str>,
) -> Result<Option<&'static str>, ApiError> {
    Ok(asked_platform(launch, given)?.map(|_| PLATFORM))
}

/// The platform version as services show it: FARGATE only, and [`LATEST_PLATFORM`] if none is named.
pub(crate) fn asked_platform(
    launch: LaunchType,
    given: Option<&str>,
) -> Result<Option<&'static str>, ApiError> {
    match (launch, given.filter(|given| !given.is_empty())) {
        (LaunchType::Fargate, None | Some(LATEST_PLATFORM)) => Ok(Some(LATEST_PLATFORM)),
        (LaunchType::Fargate, Some(PLATFORM)) => Ok(Some(PLATFORM)),
        (LaunchType::Fargate, Some(_)) => Err(ApiError::client(
            "PlatformUnknownException",
            format!(
                "The specified platform version does not exist. Specify {LATEST_PLATFORM} or \
                 {PLATFORM}."
            ),
        )),
        (_, None) => Ok(None),
        (_, Some(_)) => Err(errors::invalid(format!(
            "The platform version must be null when specifying an {} launch type.",
            launch.name()
        ))),
    }
}

/// Placement constraints and strategies, which Fargate does not take.
pub(crate) fn placement(
    definition: &Definition,
    launch: LaunchType,
    constraints: Option<&[ecs::PlacementConstraint]>,
    strategy: Option<&[ecs::PlacementStrategy]>,
) -> Result<(Constraints, Vec<Strategy>), ApiError> {
    let constraints = constraints.unwrap_or_default();
    let strategy = strategy.unwrap_or_default();
    if launch == LaunchType::Fargate && !(constraints.is_empty() && strategy.is_empty()) {
        return Err(errors::invalid(
            "Placement constraints and strategies are not supported with FARGATE launch type.",
        ));
    }
    let constraints = Constraints::parse(constraints, definition).map_err(errors::invalid)?;
    let strategy = Strategy::parse(strategy).map_err(errors::invalid)?;
    Ok((constraints, strategy))
}

/// Refuses what is not there: ECS Exec and volumes that are configured when a task is run.
pub(crate) fn supported(
    execute_command: Option<bool>,
    volumes: Option<&Value>,
) -> Result<(), ApiError> {
    if execute_command == Some(true) {
        return Err(errors::unsupported(
            "enableExecuteCommand: this control plane has no ECS Exec. Run the task without it.",
        ));
    }
    if volumes.and_then(Value::as_array).is_some_and(|volumes| !volumes.is_empty()) {
        return Err(errors::unsupported(
            "volumeConfigurations: this control plane has no volumes that are configured when a \
             task is run. Define them in the task definition.",
        ));
    }
    Ok(())
}

/// The group of a task that belongs to no service.
pub(crate) fn group(definition: &Definition, given: Option<&str>) -> Result<String, ApiError> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(format!("family:{}", definition.family));
    };
    if given.chars().count() > MAX_GROUP {
        return Err(errors::invalid(format!("group can have at most {MAX_GROUP} characters.")));
    }
    if given.starts_with("service:") {
        return Err(errors::invalid("Invalid namespace for group."));
    }
    Ok(given.to_owned())
}

/// `startedBy`.
pub(crate) fn started_by(given: Option<&str>, most: usize) -> Result<Option<&str>, ApiError> {
    match given.filter(|given| !given.is_empty()) {
        Some(given) if given.chars().count() > most => {
            Err(errors::invalid(format!("startedBy can have at most {most} characters.")))
        }
        given => Ok(given),
    }
}

/// Whether the tags of the definition go to the task (`propagateTags`).
pub(crate) fn propagates_definition(given: Option<&str>) -> Result<bool, ApiError> {
    match given {
        None | Some("" | "NONE") => Ok(false),
        Some("TASK_DEFINITION") => Ok(true),
        Some(other) => Err(errors::invalid(format!(
            "propagateTags should be one of [TASK_DEFINITION, NONE] here, is {}",
            quoted(other)
        ))),
    }
}

/// The roles of the task exist.
pub(crate) fn roles(
    view: &View,
    cx: &Context,
    definition: &Definition,
    overrides: &ecs::TaskOverride,
) -> Result<(), ApiError> {
    let Some(arn) = missing_role(view, cx.account(), definition, overrides) else { return Ok(()) };
    let shown: String = arn.chars().take(300).collect();
    Err(errors::client(Role::cannot_be_assumed(&shown)))
}

/// The overrides name what is there, and leave a task that can run.
pub(crate) fn overrides(
    definition: &Definition,
    launch: LaunchType,
    given: &ecs::TaskOverride,
) -> Result<(), ApiError> {
    let length = serde_json::to_string(given).map_or(0, |text| text.chars().count());
    if length > MAX_OVERRIDES {
        return Err(errors::invalid(format!(
            "Container Overrides length must be at most {MAX_OVERRIDES}"
        )));
    }
    refuse(given.inference_accelerator_overrides.as_ref(), "inferenceAcceleratorOverrides")?;
    refuse(given.ephemeral_storage.as_ref(), "ephemeralStorage")?;
    task_size(definition, launch, given)?;
    let mut seen: Vec<&str> = Vec::new();
    for over in given.container_overrides.iter().flatten() {
        let name = over.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Err(errors::invalid("Container name should not be null or empty."));
        }
        let containers = &definition.definition.containers;
        let Some(container) = containers.iter().find(|container| container.name == name) else {
            return Err(errors::invalid(format!(
                "Override for container named {} is not a container in the TaskDefinition.",
                name.chars().take(255).collect::<String>()
            )));
        };
        if seen.contains(&name) {
            return Err(errors::invalid(format!("Container {name} is overridden twice.")));
        }
        seen.push(name);
        container_override(container, over)?;
    }
    Ok(())
}

fn refuse(value: Option<&Value>, what: &str) -> Result<(), ApiError> {
    let is_given = match value {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    };
    if is_given {
        return Err(errors::unsupported(format!(
            "overrides: {what} is not supported by this control plane. Leave it out."
        )));
    }
    Ok(())
}

fn task_size(
    definition: &Definition,
    launch: LaunchType,
    given: &ecs::TaskOverride,
) -> Result<(), ApiError> {
    let is_wrong_cpu = given
        .cpu
        .as_deref()
        .is_some_and(|text| cpu_units(text).is_none_or(|units| !(128..=196_608).contains(&units)));
    if is_wrong_cpu {
        return Err(errors::invalid("Invalid 'cpu' setting for task."));
    }
    let is_wrong_memory = given.memory.as_deref().is_some_and(|text| {
        mebibytes(text).is_none_or(|memory| i64::from(memory) < i64::from(MIN_MEMORY))
    });
    if is_wrong_memory {
        return Err(errors::invalid("Invalid 'memory' setting for task."));
    }
    let typed = &definition.definition;
    let size = (task_cpu(typed, given), task_memory(typed, given));
    if launch == LaunchType::Fargate
        && !matches!(size, (Some(cpu), Some(memory)) if is_fargate_size(cpu, memory))
    {
        return Err(errors::invalid("No Fargate configuration exists for given values."));
    }
    Ok(())
}

fn container_override(
    container: &ContainerDefinition,
    over: &ecs::ContainerOverride,
) -> Result<(), ApiError> {
    let name = &container.name;
    let wrong = |what: &str| {
        Err(errors::invalid(format!("Invalid setting for container '{name}'. {what}")))
    };
    refuse(over.environment_files.as_ref(), "environmentFiles")?;
    refuse(over.resource_requirements.as_ref(), "resourceRequirements")?;
    if over.cpu.is_some_and(|cpu| cpu < 0) {
        return wrong("'cpu' must not be negative.");
    }
    for (what, memory) in [("memory", over.memory), ("memoryReservation", over.memory_reservation)]
    {
        if memory.is_some_and(|memory| memory < MIN_MEMORY) {
            return wrong(&format!("'{what}' must be at least {MIN_MEMORY}."));
        }
    }
    let mebibytes = |given: Option<i32>, defined: Option<u32>| {
        given.and_then(|memory| u32::try_from(memory).ok()).or(defined)
    };
    let hard = mebibytes(over.memory, container.memory);
    let soft = mebibytes(over.memory_reservation, container.memory_reservation);
    if let (Some(hard), Some(soft)) = (hard, soft)
        && hard < soft
    {
        return wrong("The 'memory' setting should be greater than 'memoryReservation'.");
    }
    let variables = over.environment.iter().flatten();
    if variables.into_iter().any(|pair| pair.name.as_deref().unwrap_or_default().is_empty()) {
        return wrong("The name of an environment variable must not be empty.");
    }
    Ok(())
}
