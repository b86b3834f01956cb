//! From a definition to a payload's task.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{MEBIBYTE, TaskInput};
use crate::acs::{
    AsmAuthData, Container, Dependency, DockerConfig, EcrAuthData, HostVolume, MountPoint,
    PortMapping, RegistryAuthentication, Task, Volume, VolumeFrom,
};
use crate::ecr;
use crate::ecs::ContainerOverride;
use crate::taskdef::{
    self, ContainerDefinition, Device, LogDriver, NamespaceMode, TaskDefinition, Tmpfs,
    VolumeSource,
};

/// Least version of Docker's API that has what the texts say.
const DOCKER_API: &str = "1.25";

/// The task as an agent gets it.
pub fn task(input: &TaskInput<'_>) -> Task {
    let definition = input.definition;
    let overrides = input.overrides;
    let cpu = overrides.cpu.as_deref().and_then(taskdef::cpu_units).or(definition.cpu);
    let memory = overrides.memory.as_deref().and_then(taskdef::mebibytes).or(definition.memory);
    let containers = definition.containers.iter().enumerate().map(|(index, container)| {
        let own = overrides.container_overrides.iter().flatten();
        let own = own.rev().find(|own| own.name.as_deref() == Some(&container.name));
        Container {
            container_arn: input.container_arns.get(index).cloned(),
            ..self::container(input, container, own)
        }
    });
    Task {
        arn: Some(input.arn.to_owned()),
        task_cluster_arn: Some(input.cluster_arn.to_owned()),
        family: Some(definition.family.clone()),
        version: Some(input.revision.to_string()),
        desired_status: Some(input.desired.to_owned()),
        containers: Some(containers.collect()),
        volumes: some(definition.volumes.iter().map(volume).collect()),
        cpu: cpu.map(|units| f64::from(units) / 1024.0),
        memory: memory.map(i64::from),
        network_mode: name(definition.network_mode),
        pid_mode: namespace(definition.pid_mode),
        ipc_mode: namespace(definition.ipc_mode),
        role_credentials: input.role_credentials.clone(),
        execution_role_credentials: input.execution_role_credentials.clone(),
        elastic_network_interfaces: input.elastic_network_interfaces.clone(),
        launch_type: Some(input.launch_type.to_owned()),
        service_name: input.service_name.map(str::to_owned),
        group: Some(input.group.to_owned()),
        tags: some(input.tags.to_vec()),
        ..Task::default()
    }
}

/// A list that is not empty.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

/// The wire's name of an enum's variant.
fn name(variant: impl serde::Serialize) -> Option<String> {
    match serde_json::to_value(variant) {
        Ok(Value::String(name)) => Some(name),
        _ => None,
    }
}

fn namespace(mode: NamespaceMode) -> Option<String> {
    Some(mode).filter(|mode| *mode != NamespaceMode::Private).and_then(name)
}

/// What a container has after its override.
struct Size {
    /// MiB.
    memory: Option<i64>,
    /// MiB.
    memory_reservation: Option<i64>,
}

fn container(
    input: &TaskInput<'_>,
    container: &ContainerDefinition,
    own: Option<&ContainerOverride>,
) -> Container {
    let number = |of: fn(&ContainerOverride) -> Option<i32>, or: Option<u32>| {
        own.and_then(of).map(i64::from).or(or.map(i64::from))
    };
    let size = Size {
        memory: number(|own| own.memory, container.memory),
        memory_reservation: number(|own| own.memory_reservation, container.memory_reservation),
    };
    let command = own.and_then(|own| own.command.clone()).or_else(|| container.command.clone());
    Container {
        name: Some(container.name.clone()),
        image: Some(container.image.clone()),
        essential: Some(container.essential),
        cpu: number(|own| own.cpu, Some(container.cpu)),
        memory: Some(size.memory.unwrap_or(0)),
        command: command.filter(|command| !command.is_empty()),
        entry_point: container.entry_point.clone(),
        environment: Some(environment(input, container, own)),
        port_mappings: some(container.port_mappings.iter().map(port).collect()),
        mount_points: some(container.mount_points.iter().map(mount).collect()),
        volumes_from: some(container.volumes_from.iter().map(volume_from).collect()),
        depends_on: some(container.depends_on.iter().map(dependency).collect()),
        start_timeout: container.start_timeout.map(i64::from),
        stop_timeout: container.stop_timeout.map(i64::from),
        docker_config: Some(DockerConfig {
            version: Some(DOCKER_API.to_owned()),
            config: Some(config(container).to_string()),
            host_config: Some(host_config(input.definition, container, &size).to_string()),
        }),
        registry_authentication: registry_authentication(input, container),
        logs_auth_strategy: (input.execution_role_credentials.is_some()
            && container.log.driver != LogDriver::JsonFile)
            .then(|| "ExecutionRole".to_owned()),
        ..Container::default()
    }
}

/// How the agent logs in to the image's registry: by the secret that the definition names, else, for
/// Amazon ECR, by a token of its own.
fn registry_authentication(
    input: &TaskInput<'_>,
    container: &ContainerDefinition,
) -> Option<RegistryAuthentication> {
    if let Some(secret) = &container.repository_credentials {
        // A secret that is only named is one of the task's own region.
        let arn = if secret.starts_with("arn:") { secret.as_str() } else { input.arn };
        return Some(RegistryAuthentication {
            kind: Some("asm".to_owned()),
            asm_auth_data: Some(AsmAuthData {
                credentials_parameter: Some(secret.clone()),
                region: arn.split(':').nth(3).map(str::to_owned),
            }),
            ..RegistryAuthentication::default()
        });
    }
    let registry = ecr::Registry::of_image(&container.image)?;
    Some(RegistryAuthentication {
        kind: Some("ecr".to_owned()),
        ecr_auth_data: Some(EcrAuthData {
            registry_id: Some(registry.account.to_owned()),
            region: Some(registry.region.to_owned()),
            endpoint_override: registry.has_own_api().then(|| registry.api_host()),
            use_execution_role: Some(input.execution_role_credentials.is_some()),
        }),
        ..RegistryAuthentication::default()
    })
}

fn environment(
    input: &TaskInput<'_>,
    container: &ContainerDefinition,
    own: Option<&ContainerOverride>,
) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<_, _> = container.environment.iter().cloned().collect();
    for variable in own.and_then(|own| own.environment.as_ref()).into_iter().flatten() {
        if let Some(name) = &variable.name {
            environment.insert(name.clone(), variable.value.clone().unwrap_or_default());
        }
    }
    let execution = match input.launch_type {
        "FARGATE" => "AWS_ECS_FARGATE",
        "EXTERNAL" => "AWS_ECS_ANYWHERE",
        _ => "AWS_ECS_EC2",
    };
    environment.entry(super::EXECUTION_ENV.to_owned()).or_insert_with(|| execution.to_owned());
    environment
}

fn port(port: &taskdef::PortMapping) -> PortMapping {
    PortMapping {
        container_port: Some(i64::from(port.container_port)),
        host_port: Some(i64::from(port.host_port)),
        container_port_range: None,
        protocol: name(port.protocol),
    }
}

fn mount(mount: &taskdef::MountPoint) -> MountPoint {
    MountPoint {
        source_volume: Some(mount.source_volume.clone()),
        container_path: Some(mount.container_path.clone()),
        read_only: Some(mount.read_only),
    }
}

fn volume_from(from: &taskdef::VolumeFrom) -> VolumeFrom {
    VolumeFrom {
        source_container: Some(from.source_container.clone()),
        read_only: Some(from.read_only),
    }
}

fn dependency(dependency: &taskdef::Dependency) -> Dependency {
    Dependency {
        container_name: Some(dependency.container.clone()),
        condition: name(dependency.condition),
    }
}

fn volume(volume: &taskdef::Volume) -> Volume {
    let name = Some(volume.name.clone());
    let host = |source_path| Volume {
        name: name.clone(),
        kind: Some("host".to_owned()),
        host: Some(HostVolume { source_path }),
        ..Volume::default()
    };
    match &volume.source {
        VolumeSource::Host { source_path } => host(Some(source_path.clone())),
        VolumeSource::Task => host(None),
        VolumeSource::Efs { file_system_id, root_directory } => Volume {
            name,
            kind: Some("efs".to_owned()),
            efs_volume_configuration: Some(json!({
                "fileSystemId": file_system_id,
                "rootDirectory": root_directory,
                "transitEncryption": "DISABLED",
            })),
            ..Volume::default()
        },
    }
}

/// Docker's `Config`. Only what is given: what is absent leaves the agent's own value.
fn config(container: &ContainerDefinition) -> Value {
    let mut config = Map::new();
    for (key, text) in [
        ("User", &container.user),
        ("WorkingDir", &container.working_directory),
        ("Hostname", &container.hostname),
    ] {
        set(&mut config, key, text.clone());
    }
    for (key, on) in [
        ("Tty", container.pseudo_terminal),
        ("OpenStdin", container.interactive),
        ("NetworkDisabled", container.disable_networking),
    ] {
        set(&mut config, key, on.then_some(true));
    }
    set_map(&mut config, "Labels", &container.docker_labels);
    Value::Object(config)
}

/// Docker's `HostConfig`.
fn host_config(task: &TaskDefinition, container: &ContainerDefinition, size: &Size) -> Value {
    let linux = &container.linux;
    let mut config = Map::new();
    set(&mut config, "NetworkMode", name(task.network_mode));
    let reservation = size.memory_reservation.map(|mebibytes| mebibytes * MEBIBYTE);
    set(&mut config, "MemoryReservation", reservation);
    if let Some(swap) = linux.max_swap {
        let total = size.memory.unwrap_or(0) + i64::from(swap);
        set(&mut config, "MemorySwap", Some(total * MEBIBYTE));
    }
    set(&mut config, "MemorySwappiness", linux.swappiness);
    set_list(&mut config, "CapAdd", linux.capabilities_add.clone());
    set_list(&mut config, "CapDrop", linux.capabilities_drop.clone());
    set_list(&mut config, "Devices", linux.devices.iter().map(device).collect());
    let shared = linux.shared_memory_size.map(|mebibytes| i64::from(mebibytes) * MEBIBYTE);
    set(&mut config, "ShmSize", shared);
    let tmpfs = linux.tmpfs.iter().map(|tmpfs| (tmpfs.container_path.clone(), options(tmpfs)));
    set_map(&mut config, "Tmpfs", &tmpfs.collect());
    set(&mut config, "Privileged", container.privileged.then_some(true));
    set(&mut config, "ReadonlyRootfs", container.readonly_root_filesystem.then_some(true));
    let limits = container.ulimits.iter();
    let limits = limits.map(|l| json!({"Name": l.name, "Soft": l.soft, "Hard": l.hard}));
    set_list(&mut config, "Ulimits", limits.collect());
    set_map(&mut config, "Sysctls", &container.system_controls.iter().cloned().collect());
    let servers = container.dns_servers.iter().map(ToString::to_string);
    set_list(&mut config, "Dns", servers.collect());
    set_list(&mut config, "DnsSearch", container.dns_search_domains.clone());
    let hosts = container.extra_hosts.iter();
    let hosts = hosts.map(|(name, address)| format!("{name}:{address}"));
    set_list(&mut config, "ExtraHosts", hosts.collect());
    let security = container.no_new_privileges.then_some("no-new-privileges");
    set_list(&mut config, "SecurityOpt", security.into_iter().collect());
    let log = &container.log;
    // The default needs no word; an engine's own default may be another, and as good.
    if log.driver != LogDriver::JsonFile || !log.options.is_empty() {
        let text = json!({"Type": name(log.driver), "Config": log.options});
        config.insert("LogConfig".to_owned(), text);
    }
    Value::Object(config)
}

fn device(device: &Device) -> Value {
    let permissions = [(device.read, 'r'), (device.write, 'w'), (device.mknod, 'm')];
    let permissions: String =
        permissions.into_iter().filter_map(|(on, letter)| on.then_some(letter)).collect();
    json!({
        "PathOnHost": device.host_path,
        "PathInContainer": device.container_path,
        "CgroupPermissions": permissions,
    })
}

fn options(tmpfs: &Tmpfs) -> String {
    let mut options = tmpfs.mount_options.clone();
    options.push(format!("size={}m", tmpfs.size));
    options.join(",")
}

fn set(map: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value.into());
    }
}

fn set_list(map: &mut Map<String, Value>, key: &str, list: Vec<impl Into<Value>>) {
    if !list.is_empty() {
        let list: Vec<Value> = list.into_iter().map(Into::into).collect();
        map.insert(key.to_owned(), list.into());
    }
}

fn set_map(map: &mut Map<String, Value>, key: &str, texts: &BTreeMap<String, String>) {
    if !texts.is_empty() {
        let texts = texts.iter().map(|(key, text)| (key.clone(), Value::from(text.as_str())));
        map.insert(key.to_owned(), Value::Object(texts.collect()));
    }
}
