//! The engine's tasks as metadata documents. Pure.
//!
//! A task that was run on this host alone has no ARN of a control plane's: it gets one of the
//! same shape, in region `local`, account 000000000000 and cluster `default`, so that what parses
//! ARNs works there too.

use std::collections::BTreeMap;
use std::path::Path;

use protocol::taskdef::{LogDriver, NetworkMode, TransportProtocol, VolumeSource};
use protocol::tmds::{
    Container, ContainerLimits, Network, Port, Task as Document, TaskLimits, Volume, introspection,
};

use super::route::Version;
use crate::engine::{self, Image, Task};
use crate::host::runtime_id;
use crate::host::view::network_mode;
use crate::identity::Identity;
use crate::network::dns::default_hostname;
use crate::network::{Subnets, ipam};

/// The kernel's smallest CPU share.
const LEAST_SHARES: u32 = 2;

/// What documents are made of beside the task.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub identity: Option<&'a Identity>,
    pub subnets: &'a Subnets,
    /// Directory of the tasks' own directories.
    pub tasks: &'a Path,
}

/// The task's ARN.
pub fn task_arn(task: &Task) -> String {
    match &task.ecs {
        Some(ecs) => ecs.arn.clone(),
        None => format!("arn:aws:ecs:local:000000000000:task/default/{}", task.id),
    }
}

fn container_arn(task: &Task, index: usize) -> Option<String> {
    match &task.ecs {
        Some(ecs) => ecs.container_arns.get(index).cloned().flatten(),
        None => task.containers.get(index).map(|container| {
            let (task, endpoint) = (&task.id, &container.endpoint);
            format!("arn:aws:ecs:local:000000000000:container/default/{task}/{endpoint}")
        }),
    }
}

fn cluster(task: &Task, identity: Option<&Identity>) -> String {
    match (&task.ecs, identity) {
        (None, _) => "default".to_owned(),
        (Some(_), Some(identity)) => identity.cluster.clone(),
        // Not registered yet; the name is the last part of the ARN.
        (Some(ecs), None) => ecs.cluster_arn.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

fn revision(task: &Task) -> String {
    task.ecs.as_ref().map_or_else(|| "1".to_owned(), |ecs| ecs.version.clone())
}

/// Amazon's agent's own names of a container's states, in their order.
const STATES: [&str; 5] = ["NONE", "PULLED", "CREATED", "RUNNING", "STOPPED"];

/// How far the container has come, as an index of [`STATES`].
fn state(container: &engine::Container) -> usize {
    let status = container.last_status();
    STATES.iter().position(|state| *state == status).unwrap_or(0)
}

fn known_status(task: &Task) -> &'static str {
    if task.times.stopped.is_some() {
        return "STOPPED";
    }
    let least = task.containers.iter().map(state).min().unwrap_or(0);
    STATES.get(least).copied().unwrap_or("NONE")
}

/// The task. With `tags` those of it that are known.
pub fn task(facts: &Facts<'_>, task: &Task, version: Version, tags: bool) -> Document {
    let definition = &task.definition;
    let v4 = version == Version::V4;
    let limits = TaskLimits {
        cpu: definition.cpu.map(|units| f64::from(units) / 1024.0),
        memory: definition.memory,
    };
    let essential_end = task
        .containers
        .iter()
        .zip(&definition.containers)
        .filter(|(_, definition)| definition.essential)
        .filter_map(|(container, _)| container.stopped_at)
        .min();
    // A control plane's tags are its own; ours are those of the file that was run.
    let task_tags = (tags && task.ecs.is_none() && !definition.tags.is_empty())
        .then(|| definition.tags.iter().cloned().collect::<BTreeMap<_, _>>());
    Document {
        cluster: cluster(task, facts.identity),
        task_arn: task_arn(task),
        family: definition.family.clone(),
        revision: revision(task),
        desired_status: task.desired_status().to_owned(),
        known_status: known_status(task).to_owned(),
        limits: Some(limits).filter(|limits| limits.cpu.is_some() || limits.memory.is_some()),
        pull_started_at: task.times.pull_started,
        pull_stopped_at: task.times.pull_stopped,
        execution_stopped_at: essential_end,
        availability_zone: facts.identity.and_then(|identity| identity.availability_zone.clone()),
        task_tags,
        container_instance_tags: None,
        launch_type: task.ecs.as_ref().filter(|_| v4).and_then(|ecs| ecs.launch_type.clone()),
        containers: (0..task.containers.len())
            .filter(|index| {
                // Version 4 also lists those whose image is there.
                let least = if v4 { 1 } else { 2 };
                task.containers.get(*index).is_some_and(|container| state(container) >= least)
            })
            .filter_map(|index| container(facts, task, index, version))
            .collect(),
        vpc_id: None,
        service_name: task.ecs.as_ref().filter(|_| v4).and_then(|ecs| ecs.service_name.clone()),
        fault_injection_enabled: v4.then_some(false),
    }
}

/// The container at `index`. `None`: there is none.
pub fn container(
    facts: &Facts<'_>,
    task: &Task,
    index: usize,
    version: Version,
) -> Option<Container> {
    let (state, definition) = (task.containers.get(index)?, task.container_definition(index)?);
    let id = runtime_id(&task.id, &definition.name);
    let v4 = version == Version::V4;
    Some(Container {
        docker_id: id.clone(),
        name: definition.name.clone(),
        docker_name: id,
        image: definition.image.clone(),
        image_id: image_id(state),
        ports: ports(task, index, v4),
        labels: labels(facts, task, index),
        desired_status: task.desired_status().to_owned(),
        known_status: STATES.get(self::state(state)).copied().unwrap_or("NONE").to_owned(),
        exit_code: state.exit_code(),
        limits: ContainerLimits {
            cpu: definition.cpu.max(LEAST_SHARES),
            memory: definition.memory,
        },
        created_at: state.created_at,
        started_at: state.started_at,
        finished_at: state.stopped_at,
        r#type: "NORMAL".to_owned(),
        volumes: volumes(facts, task, index),
        log_driver: v4.then(|| log_driver(definition.log.driver)),
        log_options: v4
            .then(|| definition.log.options.clone())
            .filter(|options| !options.is_empty()),
        container_arn: container_arn(task, index).filter(|_| v4),
        networks: networks(facts, task, index, v4),
    })
}

/// Its index. `None`: the task has no container with this Docker id.
pub fn by_docker_id(task: &Task, docker_id: &str) -> Option<usize> {
    let mut containers = task.definition.containers.iter();
    containers.position(|container| runtime_id(&task.id, &container.name) == docker_id)
}

/// Its index. `None`: the task has no container with this endpoint.
pub fn by_endpoint(task: &Task, endpoint: &str) -> Option<usize> {
    let mut containers = task.containers.iter();
    containers.position(|container| !endpoint.is_empty() && container.endpoint == endpoint)
}

fn image_id(container: &engine::Container) -> String {
    match &container.image {
        Image::Ready { id, .. } => id.clone(),
        Image::Unresolved | Image::Resolving { .. } | Image::Failed => String::new(),
    }
}

fn log_driver(driver: LogDriver) -> String {
    // Its name in a task definition is its name in JSON.
    match serde_json::to_value(driver) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// The definition's, and those that Amazon's agent gives every container.
fn labels(facts: &Facts<'_>, task: &Task, index: usize) -> BTreeMap<String, String> {
    let Some(definition) = task.container_definition(index) else { return BTreeMap::new() };
    let mut labels = definition.docker_labels.clone();
    for (name, value) in [
        ("cluster", cluster(task, facts.identity)),
        ("container-name", definition.name.clone()),
        ("task-arn", task_arn(task)),
        ("task-definition-family", task.definition.family.clone()),
        ("task-definition-version", revision(task)),
    ] {
        labels.insert(format!("com.amazonaws.ecs.{name}"), value);
    }
    labels
}

fn ports(task: &Task, index: usize, v4: bool) -> Vec<Port> {
    let name = |protocol| match protocol {
        TransportProtocol::Tcp => "tcp".to_owned(),
        TransportProtocol::Udp => "udp".to_owned(),
    };
    let bridge = task.definition.network_mode == NetworkMode::Bridge;
    if bridge {
        let leases = task.containers.get(index).map(|container| container.ports.as_slice());
        return leases
            .unwrap_or_default()
            .iter()
            .map(|lease| Port {
                container_port: lease.container_port,
                protocol: name(lease.protocol),
                host_port: Some(lease.host_port),
                host_ip: v4.then(|| "0.0.0.0".to_owned()),
            })
            .collect();
    }
    let mappings = task.container_definition(index).map(|container| &container.port_mappings);
    mappings
        .into_iter()
        .flatten()
        .map(|mapping| Port {
            container_port: mapping.container_port,
            protocol: name(mapping.protocol),
            host_port: Some(mapping.container_port),
            host_ip: None,
        })
        .collect()
}

fn networks(facts: &Facts<'_>, task: &Task, index: usize, v4: bool) -> Vec<Network> {
    let Some(definition) = task.container_definition(index) else { return Vec::new() };
    let mode = task.definition.network_mode;
    let address = match mode {
        NetworkMode::Awsvpc => task.address,
        NetworkMode::Bridge => task.containers.get(index).and_then(|container| container.address),
        NetworkMode::Host | NetworkMode::None => None,
    };
    let address = address.filter(|_| !definition.disable_networking);
    let mut network = Network {
        network_mode: network_mode(mode).to_owned(),
        ipv4_addresses: address.iter().map(ToString::to_string).collect(),
        ..Network::default()
    };
    if let (NetworkMode::Awsvpc, Some(address), true) = (mode, address, v4) {
        let subnet = facts.subnets.awsvpc;
        let mac = ipam::mac(address).map(|byte| format!("{byte:02x}")).join(":");
        network.attachment_index = Some(0);
        network.mac_address = Some(mac);
        network.ipv4_subnet_cidr_block = Some(subnet.to_string());
        network.domain_name_servers =
            definition.dns_servers.iter().map(ToString::to_string).collect();
        network.domain_name_search_list.clone_from(&definition.dns_search_domains);
        network.private_dns_name = Some(default_hostname(address));
        network.subnet_gateway_ipv4_address =
            Some(format!("{}/{}", ipam::gateway(subnet), subnet.prefix_len()));
    }
    vec![network]
}

fn volumes(facts: &Facts<'_>, task: &Task, index: usize) -> Vec<Volume> {
    let points = task.container_definition(index).map(|container| &container.mount_points);
    points
        .into_iter()
        .flatten()
        .filter_map(|point| {
            let volumes = &task.definition.volumes;
            let volume = volumes.iter().find(|volume| volume.name == point.source_volume)?;
            let (docker_name, source) = match &volume.source {
                VolumeSource::Host { source_path } => (None, source_path.clone()),
                VolumeSource::Task | VolumeSource::Efs { .. } => {
                    let directory =
                        crate::volume::task::directory(&facts.tasks.join(task.id.as_str()));
                    (Some(volume.name.clone()), directory.join(&volume.name).display().to_string())
                }
            };
            let destination = point.container_path.clone();
            Some(Volume { docker_name, source: Some(source), destination })
        })
        .collect()
}

/// The task as the introspection API shows it.
pub fn introspected(facts: &Facts<'_>, task: &Task) -> introspection::Task {
    let version = Version::V2;
    introspection::Task {
        arn: task_arn(task),
        desired_status: task.desired_status().to_owned(),
        // The words of the ECS API before it knew more than three.
        known_status: match task.last_status() {
            "RUNNING" => "RUNNING",
            "STOPPED" => "STOPPED",
            "STOPPING" | "DEPROVISIONING" if task.times.started.is_some() => "RUNNING",
            _ => "PENDING",
        }
        .to_owned(),
        family: task.definition.family.clone(),
        version: revision(task),
        containers: (0..task.containers.len())
            .filter_map(|index| container(facts, task, index, version))
            .map(|container| introspection::Container {
                docker_id: container.docker_id,
                docker_name: container.docker_name,
                name: container.name,
                image: container.image,
                image_id: container.image_id,
                created_at: container.created_at,
                started_at: container.started_at,
                ports: container.ports,
                networks: container.networks,
                volumes: container.volumes,
            })
            .collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::Timestamp;
    use protocol::ids::TaskId;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::types::PullPolicy;
    use crate::engine::{Container as State, Desired, EcsTask, Life, PortLease, Resources, Times};

    /// A running task of one container.
    pub(crate) fn task(number: u128) -> Task {
        let definition = protocol::taskdef::from_value(&json!({
            "family": "web", "networkMode": "awsvpc", "cpu": "512", "memory": "1024",
            "tags": [{"key": "team", "value": "a"}],
            "volumes": [{"name": "data"}, {"name": "host", "host": {"sourcePath": "/srv"}}],
            "containerDefinitions": [{
                "name": "main", "image": "busybox:1", "memory": 64, "essential": true,
                "portMappings": [{"containerPort": 80}],
                "dockerLabels": {"own": "label"},
                "mountPoints": [
                    {"sourceVolume": "data", "containerPath": "/data"},
                    {"sourceVolume": "host", "containerPath": "/host"},
                ],
            }],
        }));
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        Task {
            id: TaskId::from_random(number),
            definition: definition.unwrap(),
            pull: PullPolicy::Missing,
            remove: false,
            desired: Desired::Running,
            user_maps: None,
            resources: Resources::Ready,
            containers: vec![State {
                name: "main".to_owned(),
                image: Image::Ready { id: "sha256:1".to_owned(), digest: None },
                life: Life::Running,
                address: None,
                ports: vec![],
                pid: Some(1),
                created_at: Some(at(2)),
                started_at: Some(at(3)),
                stopped_at: None,
                signalled_at: None,
                killed: false,
                reason: None,
                endpoint: "uuid".to_owned(),
            }],
            address: Some([10, 147, 0, 9].into()),
            stop: None,
            times: Times {
                created: at(0),
                pull_started: Some(at(1)),
                pull_stopped: Some(at(2)),
                started: Some(at(3)),
                stopping: None,
                stopped: None,
            },
            exit_code: None,
            remove_now: false,
            removing: false,
            ecs: None,
        }
    }

    /// What a control plane says of it.
    pub(crate) fn ecs() -> Box<EcsTask> {
        Box::new(EcsTask {
            arn: "arn:aws:ecs:eu-west-1:1:task/c/t".to_owned(),
            cluster_arn: "arn:aws:ecs:eu-west-1:1:cluster/c".to_owned(),
            version: "7".to_owned(),
            service_name: Some("service".to_owned()),
            launch_type: Some("EC2".to_owned()),
            container_arns: vec![Some("arn:aws:ecs:eu-west-1:1:container/c/t/x".to_owned())],
            task_credentials: Some("role".to_owned()),
            execution_credentials: Some("execution".to_owned()),
            ..EcsTask::default()
        })
    }

    fn document(task: &Task, version: Version, tags: bool) -> Value {
        let subnets = Subnets {
            awsvpc: "10.147.0.0/20".parse().unwrap(),
            bridge: "10.147.16.0/20".parse().unwrap(),
        };
        let facts = Facts { identity: None, subnets: &subnets, tasks: Path::new("/tasks") };
        serde_json::to_value(super::task(&facts, task, version, tags)).unwrap()
    }

    #[test]
    fn version_4_of_a_control_planes_awsvpc_task() {
        let mut task = task(1);
        task.ecs = Some(ecs());
        let id = task.id.to_string();
        assert_eq!(
            document(&task, Version::V4, false),
            json!({
                "Cluster": "c", "TaskARN": "arn:aws:ecs:eu-west-1:1:task/c/t",
                "Family": "web", "Revision": "7",
                "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
                "Limits": {"CPU": 0.5, "Memory": 1024},
                "PullStartedAt": "2027-01-15T08:00:01Z", "PullStoppedAt": "2027-01-15T08:00:02Z",
                "LaunchType": "EC2", "ServiceName": "service", "FaultInjectionEnabled": false,
                "Containers": [{
                    "DockerId": format!("{id}-main"), "Name": "main",
                    "DockerName": format!("{id}-main"), "Image": "busybox:1", "ImageID": "sha256:1",
                    "Ports": [{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 80}],
                    "Labels": {
                        "own": "label",
                        "com.amazonaws.ecs.cluster": "c",
                        "com.amazonaws.ecs.container-name": "main",
                        "com.amazonaws.ecs.task-arn": "arn:aws:ecs:eu-west-1:1:task/c/t",
                        "com.amazonaws.ecs.task-definition-family": "web",
                        "com.amazonaws.ecs.task-definition-version": "7",
                    },
                    "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING",
                    "Limits": {"CPU": 2, "Memory": 64},
                    "CreatedAt": "2027-01-15T08:00:02Z", "StartedAt": "2027-01-15T08:00:03Z",
                    "Type": "NORMAL",
                    "Volumes": [
                        {"DockerName": "data", "Source": format!("/tasks/{id}/volumes/data"), "Destination": "/data"},
                        {"Source": "/srv", "Destination": "/host"},
                    ],
                    "LogDriver": "json-file",
                    "ContainerARN": "arn:aws:ecs:eu-west-1:1:container/c/t/x",
                    "Networks": [{
                        "NetworkMode": "awsvpc", "IPv4Addresses": ["10.147.0.9"],
                        "AttachmentIndex": 0, "MACAddress": "02:42:0a:93:00:09",
                        "IPv4SubnetCIDRBlock": "10.147.0.0/20",
                        "PrivateDNSName": "ip-10-147-0-9",
                        "SubnetGatewayIpv4Address": "10.147.0.1/20",
                    }],
                }],
            })
        );
    }

    #[test]
    fn older_versions_have_nothing_of_version_4() {
        let mut task = task(1);
        task.ecs = Some(ecs());
        for version in [Version::V2, Version::V3] {
            let document = document(&task, version, true);
            for key in ["LaunchType", "ServiceName", "FaultInjectionEnabled", "TaskTags"] {
                assert!(document.get(key).is_none(), "{key}");
            }
            let container = &document["Containers"][0];
            for key in ["LogDriver", "ContainerARN"] {
                assert!(container.get(key).is_none(), "{key}");
            }
            assert_eq!(
                container["Networks"],
                json!([{"NetworkMode": "awsvpc", "IPv4Addresses": ["10.147.0.9"]}])
            );
        }
    }

    #[test]
    fn a_local_task_has_a_local_arn_and_its_own_tags() {
        let task = task(0xab);
        let document = document(&task, Version::V4, true);
        let arn = "arn:aws:ecs:local:000000000000:task/default/000000000000000000000000000000ab";
        assert_eq!(document["TaskARN"], arn);
        assert_eq!(document["Cluster"], "default");
        assert_eq!(document["TaskTags"], json!({"team": "a"}));
        assert!(document.get("LaunchType").is_none());
    }

    #[test]
    fn the_known_status_is_that_of_the_container_that_is_least_far() {
        let mut task = task(1);
        for (life, ready, status, listed) in [
            (Life::Waiting, false, "NONE", [0, 0]),
            (Life::Waiting, true, "PULLED", [1, 0]),
            (Life::Created, true, "CREATED", [1, 1]),
            (Life::Stopped { exit: None }, true, "STOPPED", [1, 1]),
        ] {
            task.containers[0].life = life;
            task.containers[0].image = if ready {
                Image::Ready { id: String::new(), digest: None }
            } else {
                Image::Unresolved
            };
            for (version, count) in [Version::V4, Version::V3].into_iter().zip(listed) {
                let document = document(&task, version, false);
                assert_eq!(document["KnownStatus"], status);
                assert_eq!(document["Containers"].as_array().unwrap().len(), count, "{status}");
            }
        }
    }

    #[test]
    fn bridge_ports_are_the_leased_ones() {
        let mut task = task(1);
        task.definition.network_mode = NetworkMode::Bridge;
        task.containers[0].ports = vec![PortLease {
            protocol: TransportProtocol::Udp,
            host_port: 40000,
            container_port: 53,
        }];
        task.containers[0].address = Some([10, 147, 16, 3].into());
        let container = &document(&task, Version::V4, false)["Containers"][0];
        let port =
            json!({"ContainerPort": 53, "Protocol": "udp", "HostPort": 40000, "HostIp": "0.0.0.0"});
        assert_eq!(container["Ports"], json!([port]));
        let network = json!({"NetworkMode": "bridge", "IPv4Addresses": ["10.147.16.3"]});
        assert_eq!(container["Networks"], json!([network]));
    }

    #[test]
    fn an_empty_endpoint_is_nobodys() {
        let mut task = task(1);
        assert_eq!(by_endpoint(&task, "uuid"), Some(0));
        task.containers[0].endpoint = String::new();
        assert_eq!(by_endpoint(&task, ""), None);
    }

    #[test]
    fn introspection_knows_three_statuses() {
        let subnets = Subnets {
            awsvpc: "10.147.0.0/20".parse().unwrap(),
            bridge: "10.147.16.0/20".parse().unwrap(),
        };
        let facts = Facts { identity: None, subnets: &subnets, tasks: Path::new("/tasks") };
        let mut task = task(1);
        assert_eq!(introspected(&facts, &task).known_status, "RUNNING");
        task.desired = Desired::Stopped;
        assert_eq!(introspected(&facts, &task).known_status, "RUNNING");
        task.times.stopped = task.times.started;
        assert_eq!(introspected(&facts, &task).known_status, "STOPPED");
        task.times.stopped = None;
        task.times.started = None;
        assert_eq!(introspected(&facts, &task).known_status, "PENDING");
    }
}
