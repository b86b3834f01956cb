//! DescribeServices, and what answers say of a service. Counts are those of the tasks now.

use std::collections::HashMap;

use protocol::aws_json::ApiError;
use protocol::ecs;
use serde_json::Value;

use super::super::{Context, errors, lookup};
use crate::model::{
    Cluster, Deployment, DeploymentStatus, Desired, Entity, LaunchType, Rollout, Scheduling,
    Service, ServiceStatus, TaskStatus,
};
use crate::state::View;

/// Most services of a request.
const MAX_SERVICES: usize = 10;

pub(super) async fn services(
    cx: &Context,
    request: ecs::DescribeServicesRequest,
) -> Result<ecs::DescribeServicesResponse, ApiError> {
    let include = lookup::includes(request.include.as_deref(), &["TAGS"])?;
    let given = request.services.unwrap_or_default();
    if given.is_empty() {
        return Err(errors::invalid("Services cannot be empty."));
    }
    if given.len() > MAX_SERVICES {
        return Err(errors::invalid(format!("services can have at most {MAX_SERVICES} items.")));
    }
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let mut answer = ecs::DescribeServicesResponse::default();
    for given in given {
        let name = lookup::service_name(cx, &cluster.name, &given)?;
        match view.services.get(&Service::key_of(&cx.region, &cluster.name, &name)) {
            Some(service) => {
                answer.services.push(describe(service, cx, &view, !include.is_empty()));
            }
            None => answer.failures.push(ecs::Failure {
                arn: Some(format!("arn:aws:ecs:{}:{}:service/{name}", cx.region, cx.account())),
                reason: Some("MISSING".to_owned()),
                detail: None,
            }),
        }
    }
    Ok(answer)
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    running: i32,
    pending: i32,
}

/// A service as answers describe it.
pub(super) fn describe(service: &Service, cx: &Context, view: &View, tags: bool) -> ecs::Service {
    let mut counts: HashMap<&str, Counts> = HashMap::new();
    let mut all = Counts::default();
    for task in view.tasks_of_service(&service.key()) {
        if task.desired != Desired::Running {
            continue;
        }
        let (running, pending) = match task.last {
            TaskStatus::Running => (1, 0),
            TaskStatus::Provisioning | TaskStatus::Pending => (0, 1),
            TaskStatus::Stopping | TaskStatus::Deprovisioning | TaskStatus::Stopped => continue,
        };
        let mine = counts.entry(task.deployment.as_deref().unwrap_or_default()).or_default();
        for counts in [&mut all, mine] {
            counts.running += running;
            counts.pending += pending;
        }
    }
    let primary = service.deployments.first();
    let cluster = Cluster::key_of(&service.region, &service.cluster);
    ecs::Service {
        service_arn: Some(service.arn(cx.account())),
        service_name: Some(service.name.clone()),
        cluster_arn: view.clusters.get(&cluster).map(|cluster| cluster.arn(cx.account())),
        load_balancers: Some(Value::Array(Vec::new())),
        service_registries: Some(Value::Array(Vec::new())),
        status: Some(status(service.status).to_owned()),
        desired_count: Some(signed(service.desired_count)),
        running_count: Some(all.running),
        pending_count: Some(all.pending),
        launch_type: Some(service.launch_type.name().to_owned()),
        platform_version: service.platform_version.clone(),
        platform_family: platform_family(service),
        task_definition: primary
            .map(|primary| primary.definition.arn(&service.region, cx.account())),
        deployment_configuration: Some(configuration(service)),
        deployments: service
            .deployments
            .iter()
            .map(|deployment| {
                let counts = counts.get(deployment.id.as_str()).copied().unwrap_or_default();
                describe_deployment(deployment, service, counts, cx)
            })
            .collect(),
        events: service
            .events
            .iter()
            .map(|event| ecs::ServiceEvent {
                id: Some(event.id.clone()),
                created_at: Some(event.at.into()),
                message: Some(event.message.clone()),
            })
            .collect(),
        created_at: Some(service.created_at.into()),
        placement_constraints: service.constraints.clone(),
        placement_strategy: service.strategy.clone(),
        network_configuration: primary.and_then(|primary| primary.network_configuration.clone()),
        health_check_grace_period_seconds: service.health_check_grace_period.map(signed),
        scheduling_strategy: Some(scheduling(service.scheduling).to_owned()),
        deployment_controller: Some(ecs::DeploymentController { kind: Some("ECS".to_owned()) }),
        tags: if tags { service.tags.clone() } else { Vec::new() },
        created_by: Some(service.created_by.clone()),
        enable_ecs_managed_tags: Some(service.enable_ecs_managed_tags),
        propagate_tags: Some(service.propagate_tags.clone()),
        enable_execute_command: Some(service.enable_execute_command),
        availability_zone_rebalancing: Some(
            service.availability_zone_rebalancing.clone().unwrap_or_else(|| "DISABLED".to_owned()),
        ),
        ..ecs::Service::default()
    }
}

fn describe_deployment(
    deployment: &Deployment,
    service: &Service,
    counts: Counts,
    cx: &Context,
) -> ecs::Deployment {
    let (status, desired) = match deployment.status {
        DeploymentStatus::Primary => ("PRIMARY", signed(service.desired_count)),
        // What is left of it is being replaced.
        DeploymentStatus::Active => ("ACTIVE", counts.running + counts.pending),
    };
    let rollout = match deployment.rollout {
        Rollout::InProgress => "IN_PROGRESS",
        Rollout::Completed => "COMPLETED",
        Rollout::Failed => "FAILED",
    };
    ecs::Deployment {
        id: Some(deployment.id.clone()),
        status: Some(status.to_owned()),
        task_definition: Some(deployment.definition.arn(&service.region, cx.account())),
        desired_count: Some(desired),
        pending_count: Some(counts.pending),
        running_count: Some(counts.running),
        failed_tasks: Some(signed(deployment.failed_tasks)),
        created_at: Some(deployment.created_at.into()),
        updated_at: Some(deployment.updated_at.into()),
        launch_type: Some(service.launch_type.name().to_owned()),
        platform_version: service.task_platform_version().map(str::to_owned),
        platform_family: platform_family(service),
        network_configuration: deployment.network_configuration.clone(),
        rollout_state: Some(rollout.to_owned()),
        rollout_state_reason: Some(deployment.rollout_reason.clone()),
        ..ecs::Deployment::default()
    }
}

fn configuration(service: &Service) -> ecs::DeploymentConfiguration {
    let breaker = service.circuit_breaker;
    ecs::DeploymentConfiguration {
        deployment_circuit_breaker: Some(ecs::DeploymentCircuitBreaker {
            enable: Some(breaker.is_some_and(|breaker| breaker.enable)),
            rollback: Some(breaker.is_some_and(|breaker| breaker.rollback)),
        }),
        maximum_percent: Some(signed(service.maximum_percent)),
        minimum_healthy_percent: Some(signed(service.minimum_healthy_percent)),
        strategy: Some("ROLLING".to_owned()),
        ..ecs::DeploymentConfiguration::default()
    }
}

fn platform_family(service: &Service) -> Option<String> {
    (service.launch_type == LaunchType::Fargate).then(|| "Linux".to_owned())
}

fn status(status: ServiceStatus) -> &'static str {
    match status {
        ServiceStatus::Active => "ACTIVE",
        ServiceStatus::Draining => "DRAINING",
        ServiceStatus::Inactive => "INACTIVE",
    }
}

fn scheduling(scheduling: Scheduling) -> &'static str {
    match scheduling {
        Scheduling::Replica => "REPLICA",
        Scheduling::Daemon => "DAEMON",
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
