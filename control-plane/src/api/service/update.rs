//! UpdateService. Another definition, network or platform, or `forceNewDeployment`, starts a new
//! deployment; what else is changed acts on what is placed and stopped from now on.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::task::checks as task_checks;
use super::super::{Context, errors, lookup};
use super::checks::{self, Rolling, Unsupported};
use super::describe::describe;
use super::find;
use crate::model::{Definition, Deployment, Service, ServiceStatus};
use crate::reconcile::deployment;
use crate::state::{Edit, Stored, View};

pub(super) async fn update(
    cx: &Context,
    request: ecs::UpdateServiceRequest,
) -> Result<ecs::UpdateServiceResponse, ApiError> {
    let id = super::draw_deployment();
    let service = cx.transact(|view, edit| decide(view, cx, edit, &request, &id)).await?;
    Ok(ecs::UpdateServiceResponse { service: Some(service) })
}

fn decide(
    view: &View,
    cx: &Context,
    edit: &mut Edit,
    request: &ecs::UpdateServiceRequest,
    id: &str,
) -> Result<ecs::Service, ApiError> {
    let before = find(view, cx, request.cluster.as_deref(), request.service.as_deref())?;
    if before.status != ServiceStatus::Active {
        return Err(ApiError::client("ServiceNotActiveException", "Service was not ACTIVE."));
    }
    Unsupported::from(request).check()?;
    task_checks::supported(request.enable_execute_command, request.volume_configurations.as_ref())?;
    let mut service = before.value.clone();
    change(&mut service, request)?;
    deploy(view, cx, edit, &mut service, request, id)?;
    if service != before.value {
        edit.update(before, &service);
    }
    Ok(describe(&service, cx, view, true))
}

/// Members that do not make a deployment.
fn change(service: &mut Service, request: &ecs::UpdateServiceRequest) -> Result<(), ApiError> {
    let scheduling = service.scheduling;
    if let Some(desired) = checks::desired_count(scheduling, request.desired_count)? {
        service.desired_count = desired;
    }
    let rolling = Rolling {
        minimum_healthy_percent: service.minimum_healthy_percent,
        maximum_percent: service.maximum_percent,
        circuit_breaker: service.circuit_breaker,
    }
    .with(scheduling, request.deployment_configuration.as_ref())?;
    service.minimum_healthy_percent = rolling.minimum_healthy_percent;
    service.maximum_percent = rolling.maximum_percent;
    service.circuit_breaker = rolling.circuit_breaker;
    if let Some(constraints) = &request.placement_constraints {
        service.constraints.clone_from(constraints);
    }
    if let Some(strategy) = &request.placement_strategy {
        checks::placement_strategy(scheduling, Some(strategy))?;
        service.strategy.clone_from(strategy);
    }
    if let Some(grace) = checks::grace_period(request.health_check_grace_period_seconds)? {
        service.health_check_grace_period = Some(grace);
    }
    if let Some(managed) = request.enable_ecs_managed_tags {
        service.enable_ecs_managed_tags = managed;
    }
    if request.propagate_tags.is_some() {
        service.propagate_tags = checks::propagate_tags(request.propagate_tags.as_deref())?;
    }
    let rebalancing = checks::zone_rebalancing(request.availability_zone_rebalancing.as_deref())?;
    if rebalancing.is_some() {
        service.availability_zone_rebalancing = rebalancing;
    }
    Ok(())
}

/// Begins a deployment if the request asks for one, and checks that what the service is to be fits
/// its definition.
fn deploy(
    view: &View,
    cx: &Context,
    edit: &mut Edit,
    service: &mut Service,
    request: &ecs::UpdateServiceRequest,
    id: &str,
) -> Result<(), ApiError> {
    let primary = service
        .deployments
        .first()
        .cloned()
        .ok_or_else(|| ApiError::server("the service has no deployment"))?;
    let forced = request.force_new_deployment == Some(true);
    let launch_type = service.launch_type;
    let platform_version = match request.platform_version.as_deref() {
        None => service.platform_version.clone(),
        given => task_checks::asked_platform(launch_type, given)?.map(str::to_owned),
    };
    let asked = forced
        || request.task_definition.is_some()
        || request.network_configuration.is_some()
        || platform_version != service.platform_version;
    let placed = request.placement_constraints.is_some() || request.placement_strategy.is_some();
    if !asked && !placed {
        return Ok(());
    }
    let definition = definition(view, cx, request, &primary)?;
    task_checks::placement(
        definition,
        launch_type,
        Some(&service.constraints),
        Some(&service.strategy),
    )?;
    if !asked {
        return Ok(());
    }
    task_checks::compatible(definition, launch_type)?;
    // A definition of another network mode does not take over the network of the one before.
    let kept = primary
        .network_configuration
        .as_ref()
        .filter(|_| definition.definition.network_mode == protocol::taskdef::NetworkMode::Awsvpc);
    let network = request.network_configuration.as_ref().or(kept);
    let network = task_checks::network(definition, launch_type, network)?.cloned();
    task_checks::roles(view, cx, definition, &ecs::TaskOverride::default())?;
    let is_other = definition.name() != primary.definition
        || network != primary.network_configuration
        || platform_version != service.platform_version;
    if forced || is_other {
        service.platform_version = platform_version;
        edit.depend(definition);
        deployment::begin(service, definition.name(), network, id.to_owned(), cx.now);
    }
    Ok(())
}

/// The definition that the request names, or that of the PRIMARY deployment.
fn definition<'v>(
    view: &'v View,
    cx: &Context,
    request: &ecs::UpdateServiceRequest,
    primary: &Deployment,
) -> Result<&'v Stored<Definition>, ApiError> {
    match request.task_definition.as_deref().filter(|named| !named.is_empty()) {
        Some(named) => lookup::active_definition(view, cx, named),
        // It may be INACTIVE: its services go on.
        None => view
            .definitions
            .get(&primary.definition.key(&cx.region))
            .ok_or_else(|| errors::client("TaskDefinition not found.")),
    }
}
