//! What requests on services may ask for. Messages are those of Amazon ECS where they are known.

use protocol::aws_json::ApiError;
use protocol::ecs;
use serde_json::Value;

use super::super::errors;
use super::super::lookup::quoted;
use crate::model::{CircuitBreaker, Scheduling};

/// Most tasks of a service.
const MAX_DESIRED: i32 = 5000;

/// Members that ask for what is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsupported<'a> {
    load_balancers: Option<&'a Value>,
    service_registries: Option<&'a Value>,
    capacity_provider_strategy: Option<&'a Value>,
    vpc_lattice_configurations: Option<&'a Value>,
    service_connect_configuration: Option<&'a Value>,
    deployment_controller: Option<&'a ecs::DeploymentController>,
    deployment_configuration: Option<&'a ecs::DeploymentConfiguration>,
}

macro_rules! members_of {
    ($($request:ident),*) => {$(
        impl<'a> From<&'a ecs::$request> for Unsupported<'a> {
            fn from(request: &'a ecs::$request) -> Self {
                Self {
                    load_balancers: request.load_balancers.as_ref(),
                    service_registries: request.service_registries.as_ref(),
                    capacity_provider_strategy: request.capacity_provider_strategy.as_ref(),
                    vpc_lattice_configurations: request.vpc_lattice_configurations.as_ref(),
                    service_connect_configuration: request.service_connect_configuration.as_ref(),
                    deployment_controller: request.deployment_controller.as_ref(),
                    deployment_configuration: request.deployment_configuration.as_ref(),
                }
            }
        }
    )*};
}

members_of!(CreateServiceRequest, UpdateServiceRequest);

impl Unsupported<'_> {
    /// # Errors
    /// `UnsupportedFeatureException` with the member and what to do.
    pub(super) fn check(self) -> Result<(), ApiError> {
        let lists = [
            ("loadBalancers", self.load_balancers, "load balancers"),
            ("serviceRegistries", self.service_registries, "service discovery"),
            ("capacityProviderStrategy", self.capacity_provider_strategy, "capacity providers"),
            ("vpcLatticeConfigurations", self.vpc_lattice_configurations, "VPC Lattice"),
        ];
        for (member, value, what) in lists {
            if value.is_some_and(is_given) {
                return Err(unsupported(member, what));
            }
        }
        if self.service_connect_configuration.is_some_and(|value| flag(value, "enabled")) {
            return Err(unsupported("serviceConnectConfiguration", "Service Connect"));
        }
        match self.deployment_controller.and_then(|controller| controller.kind.as_deref()) {
            None | Some("ECS") => {}
            Some("CODE_DEPLOY" | "EXTERNAL") => {
                return Err(unsupported("deploymentController", "deployment controller but ECS"));
            }
            Some(other) => {
                return Err(errors::invalid(format!(
                    "deploymentController.type should be one of [ECS, CODE_DEPLOY, EXTERNAL], is {}",
                    quoted(other)
                )));
            }
        }
        self.deployment_configuration.map_or(Ok(()), configuration)
    }
}

fn configuration(given: &ecs::DeploymentConfiguration) -> Result<(), ApiError> {
    match given.strategy.as_deref() {
        None | Some("ROLLING") => {}
        Some("BLUE_GREEN" | "LINEAR" | "CANARY") => {
            return Err(unsupported(
                "deploymentConfiguration.strategy",
                "deployment strategy but ROLLING",
            ));
        }
        Some(other) => {
            return Err(errors::invalid(format!(
                "deploymentConfiguration.strategy should be one of [ROLLING, BLUE_GREEN, LINEAR, \
                 CANARY], is {}",
                quoted(other)
            )));
        }
    }
    let names = given.alarms.as_ref().and_then(|alarms| alarms.get("alarmNames"));
    let alarms = given.alarms.as_ref().is_some_and(|alarms| flag(alarms, "enable"));
    if alarms || names.is_some_and(is_given) {
        return Err(unsupported("deploymentConfiguration.alarms", "alarms"));
    }
    for (member, value, what) in [
        ("lifecycleHooks", given.lifecycle_hooks.as_ref(), "lifecycle hooks"),
        ("linearConfiguration", given.linear_configuration.as_ref(), "linear deployments"),
        ("canaryConfiguration", given.canary_configuration.as_ref(), "canary deployments"),
    ] {
        if value.is_some_and(is_given) {
            return Err(unsupported(&format!("deploymentConfiguration.{member}"), what));
        }
    }
    if given.bake_time_in_minutes.is_some_and(|minutes| minutes != 0) {
        return Err(unsupported("deploymentConfiguration.bakeTimeInMinutes", "bake time"));
    }
    Ok(())
}

fn unsupported(member: &str, what: &str) -> ApiError {
    errors::unsupported(format!(
        "{member}: this control plane has no {what}. Leave the member out."
    ))
}

/// Whether a list or an object has something in it.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn flag(value: &Value, member: &str) -> bool {
    value.get(member).and_then(Value::as_bool).unwrap_or(false)
}

/// `schedulingStrategy`
pub(super) fn scheduling(given: Option<&str>) -> Result<Scheduling, ApiError> {
    match given {
        None | Some("" | "REPLICA") => Ok(Scheduling::Replica),
        Some("DAEMON") => Ok(Scheduling::Daemon),
        Some(other) => Err(errors::invalid(format!(
            "schedulingStrategy should be one of [REPLICA, DAEMON], is {}",
            quoted(other)
        ))),
    }
}

/// `desiredCount` of a request, if the service can have one.
pub(super) fn desired_count(
    scheduling: Scheduling,
    given: Option<i32>,
) -> Result<Option<u32>, ApiError> {
    match (scheduling, given) {
        (_, None) => Ok(None),
        (Scheduling::Daemon, Some(_)) => Err(errors::invalid(
            "The daemon scheduling strategy does not support a desired count for tasks. Remove the \
             value for the desired count and try again.",
        )),
        (Scheduling::Replica, Some(count)) => {
            u32::try_from(count).ok().filter(|_| count <= MAX_DESIRED).map(Some).ok_or_else(|| {
                errors::invalid(format!("desiredCount should be between 0 and {MAX_DESIRED}."))
            })
        }
    }
}

/// How deployments go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rolling {
    pub(super) minimum_healthy_percent: u32,
    pub(super) maximum_percent: u32,
    pub(super) circuit_breaker: Option<CircuitBreaker>,
}

impl Rolling {
    /// What applies to a service of which nothing is said.
    pub(super) fn default_of(scheduling: Scheduling) -> Self {
        let (minimum_healthy_percent, maximum_percent) = match scheduling {
            Scheduling::Replica => (100, 200),
            Scheduling::Daemon => (0, 100),
        };
        Self { minimum_healthy_percent, maximum_percent, circuit_breaker: None }
    }

    /// With what a request changes.
    pub(super) fn with(
        mut self,
        scheduling: Scheduling,
        given: Option<&ecs::DeploymentConfiguration>,
    ) -> Result<Self, ApiError> {
        let Some(given) = given else {
            return Ok(self);
        };
        if let Some(percent) = given.minimum_healthy_percent {
            self.minimum_healthy_percent =
                u32::try_from(percent).ok().filter(|percent| *percent <= 100).ok_or_else(|| {
                    errors::invalid("minimumHealthyPercent should be between 0 and 100.")
                })?;
        }
        if let Some(percent) = given.maximum_percent {
            let fits = |percent: &u32| match scheduling {
                Scheduling::Replica => *percent >= 100,
                Scheduling::Daemon => *percent == 100,
            };
            self.maximum_percent =
                u32::try_from(percent).ok().filter(fits).ok_or_else(|| match scheduling {
                    Scheduling::Replica => {
                        errors::invalid("maximumPercent should be at least 100.")
                    }
                    Scheduling::Daemon => errors::invalid(
                        "maximumPercent should be 100 with the DAEMON scheduling strategy.",
                    ),
                })?;
        }
        if let Some(breaker) = &given.deployment_circuit_breaker {
            let (Some(enable), Some(rollback)) = (breaker.enable, breaker.rollback) else {
                return Err(errors::invalid(
                    "deploymentCircuitBreaker needs both enable and rollback.",
                ));
            };
            self.circuit_breaker = Some(CircuitBreaker { enable, rollback });
        }
        Ok(self)
    }
}

/// `propagateTags`
pub(super) fn propagate_tags(given: Option<&str>) -> Result<String, ApiError> {
    match given {
        None | Some("") => Ok("NONE".to_owned()),
        Some("NONE" | "SERVICE" | "TASK_DEFINITION") => Ok(given.unwrap_or_default().to_owned()),
        Some(other) => Err(errors::invalid(format!(
            "propagateTags should be one of [TASK_DEFINITION, SERVICE, NONE], is {}",
            quoted(other)
        ))),
    }
}

/// `availabilityZoneRebalancing`
pub(super) fn zone_rebalancing(given: Option<&str>) -> Result<Option<String>, ApiError> {
    match given {
        None | Some("") => Ok(None),
        Some("ENABLED" | "DISABLED") => Ok(given.map(str::to_owned)),
        Some(other) => Err(errors::invalid(format!(
            "availabilityZoneRebalancing should be one of [ENABLED, DISABLED], is {}",
            quoted(other)
        ))),
    }
}

/// `healthCheckGracePeriodSeconds`
pub(super) fn grace_period(given: Option<i32>) -> Result<Option<u32>, ApiError> {
    given
        .map(|seconds| {
            u32::try_from(seconds).map_err(|_negative| {
                errors::invalid("healthCheckGracePeriodSeconds should not be negative.")
            })
        })
        .transpose()
}

/// `clientToken`
pub(super) fn token(given: Option<&str>) -> Result<(), ApiError> {
    let fits =
        |token: &str| token.len() <= 36 && token.bytes().all(|byte| (33..=126).contains(&byte));
    if given.is_none_or(fits) {
        return Ok(());
    }
    Err(errors::invalid("clientToken should be at most 36 characters of ASCII, without blanks."))
}

/// What a DAEMON service cannot have.
pub(super) fn placement_strategy(
    scheduling: Scheduling,
    given: Option<&[ecs::PlacementStrategy]>,
) -> Result<(), ApiError> {
    if scheduling == Scheduling::Daemon && given.is_some_and(|given| !given.is_empty()) {
        return Err(errors::invalid(
            "A placement strategy cannot be specified with the DAEMON scheduling strategy.",
        ));
    }
    Ok(())
}
