//! Records for the planners' tests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use protocol::ecs;

use super::deployment;
use crate::model::{
    CircuitBreaker, DefinitionName, Instance, InstanceStatus, LaunchType, Resources, Scheduling,
    Service, ServiceStatus,
};

/// Seconds after a beginning.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_700_000_000 + seconds)
}

pub(crate) fn instance(id: &str) -> Instance {
    Instance {
        region: "r".to_owned(),
        cluster: "c".to_owned(),
        id: id.to_owned(),
        status: InstanceStatus::Active,
        resources: Resources { cpu: 1024, memory: 1024, ..Resources::default() },
        attributes: BTreeMap::new(),
        custom_attributes: BTreeSet::new(),
        tags: Vec::new(),
        version_info: ecs::VersionInfo::default(),
        ec2_instance_id: None,
        registered_at: at(0),
        deregistered_at: None,
        disconnected_at: None,
        version: 1,
    }
}

pub(crate) fn definition(revision: u32) -> DefinitionName {
    DefinitionName { family: "f".to_owned(), revision }
}

/// A service with a first deployment `first` of revision 1.
pub(crate) fn service(desired: u32, minimum: u32, maximum: u32) -> Service {
    let mut service = Service {
        region: "r".to_owned(),
        cluster: "c".to_owned(),
        name: "web".to_owned(),
        status: ServiceStatus::Active,
        scheduling: Scheduling::Replica,
        desired_count: desired,
        launch_type: LaunchType::Ec2,
        platform_version: None,
        constraints: Vec::new(),
        strategy: Vec::new(),
        minimum_healthy_percent: minimum,
        maximum_percent: maximum,
        circuit_breaker: None,
        health_check_grace_period: None,
        enable_execute_command: false,
        enable_ecs_managed_tags: false,
        propagate_tags: "NONE".to_owned(),
        availability_zone_rebalancing: None,
        deployments: Vec::new(),
        events: VecDeque::new(),
        tags: Vec::new(),
        request: String::new(),
        created_at: at(0),
        created_by: String::new(),
        inactive_at: None,
        last_completed: None,
    };
    deployment::begin(&mut service, definition(1), None, "first".to_owned(), at(0));
    service
}

pub(crate) fn breaker(rollback: bool) -> Option<CircuitBreaker> {
    Some(CircuitBreaker { enable: true, rollback })
}
