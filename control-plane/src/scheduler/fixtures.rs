//! Records for tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol::ecs;
use serde_json::{Value, json};

use crate::model::{
    AccessKey, Cluster, Connection, Definition, DefinitionStatus, Guard, Instance, InstanceStatus,
    LaunchType, Resources, Task,
};
use crate::scheduler::{NewTask, TaskIds, new_task};
use crate::state::{View, ZONE};

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const CLUSTER: &str = "default";
pub(crate) const ACCOUNT: &str = "000000000000";

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

pub(crate) fn cluster() -> Cluster {
    Cluster {
        region: REGION.to_owned(),
        name: CLUSTER.to_owned(),
        active: true,
        settings: Vec::new(),
        tags: Vec::new(),
        created_at: at(0),
        capacity_providers: Vec::new(),
        default_strategy: Vec::new(),
        inactive_at: None,
    }
}

/// The id of the instance with a number.
pub(crate) fn id(number: u32) -> String {
    format!("{number:032x}")
}

pub(crate) fn instance(number: u32, zone: &str) -> Instance {
    let mut attributes: BTreeMap<String, Option<String>> =
        (0..30).map(|number| (format!("com.amazonaws.ecs.capability.{number}"), None)).collect();
    attributes.insert(ZONE.to_owned(), Some(zone.to_owned()));
    attributes.insert("ecs.cpu-architecture".to_owned(), Some("x86_64".to_owned()));
    Instance {
        region: REGION.to_owned(),
        cluster: CLUSTER.to_owned(),
        id: id(number),
        status: InstanceStatus::Active,
        resources: Resources {
            cpu: 2048,
            memory: 4096,
            ports: [22].into(),
            ports_udp: BTreeSet::new(),
        },
        attributes,
        custom_attributes: BTreeSet::new(),
        tags: Vec::new(),
        version_info: ecs::VersionInfo::default(),
        ec2_instance_id: Some(format!("i-{number}")),
        registered_at: at(0),
        deregistered_at: None,
        disconnected_at: None,
        version: 1,
    }
}

pub(crate) fn guard(number: u32) -> Guard {
    Guard {
        region: REGION.to_owned(),
        cluster: CLUSTER.to_owned(),
        instance: id(number),
        placements: 0,
    }
}

pub(crate) fn connection(number: u32) -> Connection {
    Connection {
        region: REGION.to_owned(),
        cluster: CLUSTER.to_owned(),
        instance: id(number),
        session: "s".to_owned(),
        since: at(0),
    }
}

/// A key of nobody, which may do nothing and does not end.
pub(crate) fn access_key(id: &str) -> AccessKey {
    AccessKey {
        id: id.to_owned(),
        secret: String::new(),
        session_token: None,
        principal: String::new(),
        allow: Vec::new(),
        created_at: at(0),
        expires_at: None,
        description: None,
        task: None,
    }
}

/// A definition with one container `main` and what else is given.
pub(crate) fn definition(family: &str, container: Value, task: Value) -> Definition {
    let mut main = json!({"name": "main", "image": "busybox", "cpu": 100, "memory": 64});
    merge(&mut main, container);
    let mut registered = json!({"family": family, "containerDefinitions": [main]});
    merge(&mut registered, task);
    Definition {
        region: REGION.to_owned(),
        family: family.to_owned(),
        revision: 1,
        status: DefinitionStatus::Active,
        definition: protocol::taskdef::from_value(&registered).unwrap(),
        registered,
        requires_attributes: BTreeSet::new(),
        compatibilities: ["EC2", "EXTERNAL", "FARGATE"].map(str::to_owned).to_vec(),
        registered_at: at(0),
        registered_by: "arn".to_owned(),
        deregistered_at: None,
        delete_requested_at: None,
        tags: Vec::new(),
    }
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

/// A task of a definition on an instance; the seed makes its ids.
pub(crate) fn task(definition: &Definition, on: &str, group: &str, seed: u128) -> Task {
    let mut next = seed * 1000;
    new_task(NewTask {
        account: ACCOUNT,
        cluster: CLUSTER,
        definition,
        instance: on,
        launch_type: LaunchType::Ec2,
        group,
        started_by: None,
        service: group.strip_prefix("service:"),
        deployment: None,
        overrides: &ecs::TaskOverride::default(),
        network_configuration: None,
        tags: Vec::new(),
        enable_execute_command: false,
        platform_version: None,
        ids: TaskIds::draw(|| {
            next += 1;
            next
        }),
        now: at(i64::try_from(seed % 1_000_000).unwrap()),
    })
}

/// A view of connected instances in the zones given, one each.
pub(crate) fn view(zones: &[&str]) -> View {
    let mut view = View::default();
    view.insert(&cluster());
    for (number, zone) in (0..).zip(zones) {
        view.insert(&instance(number, zone));
        view.insert(&guard(number));
        view.insert(&connection(number));
    }
    view
}
