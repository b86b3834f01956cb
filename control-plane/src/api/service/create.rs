//! CreateService. The same request for an ACTIVE service of the name is answered with it; the name
//! of an INACTIVE one is free.

use std::collections::VecDeque;

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::task::checks as task_checks;
use super::super::{Context, errors, lookup, token};
use super::checks::{self, Rolling, Unsupported};
use super::describe::describe;
use crate::model::{LaunchType, Scheduling, Service, ServiceStatus};
use crate::reconcile::deployment;
use crate::state::{Edit, View};

pub(super) async fn create(
    cx: &Context,
    request: ecs::CreateServiceRequest,
) -> Result<ecs::CreateServiceResponse, ApiError> {
    let id = super::draw_deployment();
    let service = cx.transact(|view, edit| decide(view, cx, edit, &request, &id)).await?;
    Ok(ecs::CreateServiceResponse { service: Some(service) })
}

fn decide(
    view: &View,
    cx: &Context,
    edit: &mut Edit,
    request: &ecs::CreateServiceRequest,
    id: &str,
) -> Result<ecs::Service, ApiError> {
    let cluster = lookup::cluster(view, cx, request.cluster.as_deref())?;
    let name = request.service_name.clone().unwrap_or_default();
    if !lookup::is_name(&name) {
        return Err(errors::invalid(
            "Invalid service name. A service name has 1 to 255 letters, digits, underscores and \
             hyphens.",
        ));
    }
    checks::token(request.client_token.as_deref())?;
    let fingerprint = fingerprint(request, &cluster.name)?;
    let before = view.services.get(&Service::key_of(&cx.region, &cluster.name, &name));
    match before.map(|before| before.status) {
        None | Some(ServiceStatus::Inactive) => {}
        Some(ServiceStatus::Draining) => {
            return Err(errors::invalid("Unable to Start a service that is still Draining."));
        }
        Some(ServiceStatus::Active) => {
            return match before.filter(|before| before.request == fingerprint) {
                Some(same) => Ok(describe(same, cx, view, true)),
                None => Err(errors::invalid("Creation of service was not idempotent.")),
            };
        }
    }

    Unsupported::from(request).check()?;
    task_checks::supported(request.enable_execute_command, request.volume_configurations.as_ref())?;
    if request.role.as_deref().is_some_and(|role| !role.is_empty()) {
        return Err(errors::invalid(
            "IAM roles are only valid for services configured to use load balancers.",
        ));
    }
    let scheduling = checks::scheduling(request.scheduling_strategy.as_deref())?;
    let desired = checks::desired_count(scheduling, request.desired_count)?;
    let desired_count = match (scheduling, desired) {
        (Scheduling::Replica, Some(desired)) => desired,
        (Scheduling::Replica, None) => {
            return Err(errors::invalid(
                "Desired count cannot be empty with the REPLICA scheduling strategy.",
            ));
        }
        (Scheduling::Daemon, _) => 0,
    };
    let launch_type = task_checks::launch_type(cluster, request.launch_type.as_deref(), None)?;
    if scheduling == Scheduling::Daemon && launch_type == LaunchType::Fargate {
        return Err(errors::invalid(
            "The DAEMON scheduling strategy is not supported with the FARGATE launch type.",
        ));
    }
    let rolling = Rolling::default_of(scheduling)
        .with(scheduling, request.deployment_configuration.as_ref())?;
    checks::placement_strategy(scheduling, request.placement_strategy.as_deref())?;

    let named = request.task_definition.as_deref().filter(|named| !named.is_empty());
    let named = named.ok_or_else(|| errors::invalid("TaskDefinition can not be blank."))?;
    let definition = lookup::active_definition(view, cx, named)?;
    task_checks::compatible(definition, launch_type)?;
    let network = request.network_configuration.as_ref();
    let network = task_checks::network(definition, launch_type, network)?.cloned();
    task_checks::placement(
        definition,
        launch_type,
        request.placement_constraints.as_deref(),
        request.placement_strategy.as_deref(),
    )?;
    task_checks::roles(view, cx, definition, &ecs::TaskOverride::default())?;
    let platform_version =
        task_checks::asked_platform(launch_type, request.platform_version.as_deref())?;

    let mut service = Service {
        region: cx.region.clone(),
        cluster: cluster.name.clone(),
        name,
        status: ServiceStatus::Active,
        scheduling,
        desired_count,
        launch_type,
        platform_version: platform_version.map(str::to_owned),
        constraints: request.placement_constraints.clone().unwrap_or_default(),
        strategy: request.placement_strategy.clone().unwrap_or_default(),
        minimum_healthy_percent: rolling.minimum_healthy_percent,
        maximum_percent: rolling.maximum_percent,
        circuit_breaker: rolling.circuit_breaker,
        health_check_grace_period: checks::grace_period(request.health_check_grace_period_seconds)?,
        enable_execute_command: false,
        enable_ecs_managed_tags: request.enable_ecs_managed_tags.unwrap_or(false),
        propagate_tags: checks::propagate_tags(request.propagate_tags.as_deref())?,
        availability_zone_rebalancing: checks::zone_rebalancing(
            request.availability_zone_rebalancing.as_deref(),
        )?,
        deployments: Vec::new(),
        events: VecDeque::new(),
        tags: lookup::tags(request.tags.clone())?,
        request: fingerprint,
        created_at: cx.now,
        created_by: cx.principal.clone(),
        inactive_at: None,
        last_completed: None,
    };
    deployment::begin(&mut service, definition.name(), network, id.to_owned(), cx.now);
    edit.depend(cluster);
    edit.depend(definition);
    match before {
        None => edit.create(&service),
        Some(before) => edit.update(before, &service),
    }
    Ok(describe(&service, cx, view, true))
}

/// Names a request: the same for the same request, however its cluster is written.
fn fingerprint(request: &ecs::CreateServiceRequest, cluster: &str) -> Result<String, ApiError> {
    let plain = ecs::CreateServiceRequest {
        cluster: Some(cluster.to_owned()),
        client_token: None,
        ..request.clone()
    };
    token::fingerprint(&plain)
}
