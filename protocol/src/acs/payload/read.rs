//! From a payload's task to the definition that it stands for.
//!
//! Absent, null, empty and 0 are the same everywhere, as for the Amazon agent. A value that is there
//! and has no meaning for us is an error. What the Amazon agent ignores by contract (the task's
//! `overrides`, a container's `linuxParameters` and `privileged`, which repeat the Docker texts) is
//! ignored here, too.

use serde_json::{Map, Value, json};

use super::PayloadError;
use super::docker::{self, Text, is_off, malformed, shorten};
use super::texts::{read_config, read_host_config};
use crate::acs::{Container, Credentials, PortMapping, Task, Volume};
use crate::taskdef::{self, Compatibility, TaskDefinition};

pub(super) type Object = Map<String, Value>;

/// The definition that a payload's task stands for. The caller has bounded the frame's size.
///
/// # Errors
/// If it holds what is not acted on here, or breaks rules.
pub fn definition(task: &Task) -> Result<TaskDefinition, PayloadError> {
    refuse(
        "",
        &[
            ("proxyConfiguration", task.proxy_configuration.as_ref(), "the App Mesh proxy"),
            ("associations", task.associations.as_ref(), "GPUs and other accelerators"),
            ("attachments", task.attachments.as_ref(), "volumes and Service Connect of Amazon"),
            (
                "elasticNetworkInterfaces",
                task.elastic_network_interfaces.as_ref(),
                "network interfaces given by a control plane; hosts give addresses themselves",
            ),
        ],
    )?;
    if task.enable_fault_injection == Some(true) {
        return Err(PayloadError::NotSupported {
            member: "enableFaultInjection".to_owned(),
            what: "fault injection",
        });
    }
    let mut root = Object::new();
    put(&mut root, "family", task.family.as_deref());
    put(&mut root, "pidMode", task.pid_mode.as_deref());
    put(&mut root, "ipcMode", task.ipc_mode.as_deref());
    put(&mut root, "cpu", task.cpu.and_then(cpu_units));
    put(&mut root, "memory", task.memory.filter(|m| *m != 0).map(|m| m.to_string()));
    put(&mut root, "trustedExecutionConfiguration", task.trusted_execution_configuration.clone());
    put(&mut root, "taskRoleArn", role(task.role_credentials.as_ref()));
    put(&mut root, "executionRoleArn", role(task.execution_role_credentials.as_ref()));
    let given = task.network_mode.clone().filter(|mode| !mode.is_empty());
    let mut mode = given.clone();
    let mut containers = Vec::new();
    for (index, container) in task.containers.iter().flatten().enumerate() {
        let path = format!("containers[{index}]");
        let (container, own) = self::container(&path, container)?;
        containers.push(Value::Object(container));
        // Without a mode of the task the texts say it, in which none is Docker's default.
        let own = own.or_else(|| given.is_none().then(|| "bridge".to_owned()));
        let mode = mode.get_or_insert_with(|| own.clone().unwrap_or_default());
        // awsvpc overrules the texts.
        if mode != "awsvpc" && own.is_some_and(|own| own != *mode) {
            return Err(PayloadError::NotSupported {
                member: format!("{path}.dockerConfig.hostConfig.NetworkMode"),
                what: "a network mode that differs from the task's",
            });
        }
    }
    root.insert("containerDefinitions".to_owned(), containers.into());
    put(&mut root, "networkMode", mode);
    let volumes: Result<Vec<_>, _> =
        task.volumes.iter().flatten().enumerate().map(|(i, v)| volume(i, v)).collect();
    put(&mut root, "volumes", volumes?);
    let mut definition = taskdef::from_value(&Value::Object(root))?;
    // Which launch types there are, and which tags there may be, the control plane has judged.
    definition.requires_compatibilities = match task.launch_type.as_deref() {
        Some("EC2") => vec![Compatibility::Ec2],
        Some("FARGATE") => vec![Compatibility::Fargate],
        Some("EXTERNAL") => vec![Compatibility::External],
        _ => Vec::new(),
    };
    let tags = task.tags.iter().flatten();
    let tags =
        tags.filter_map(|tag| Some((tag.key.clone()?, tag.value.clone().unwrap_or_default())));
    definition.tags = tags.collect();
    Ok(definition)
}

/// An error for the first member that is there.
fn refuse(
    path: &str,
    members: &[(&str, Option<&Value>, &'static str)],
) -> Result<(), PayloadError> {
    match members.iter().find(|(_, value, _)| value.is_some_and(|value| !is_off(value))) {
        Some((member, _, what)) => {
            Err(PayloadError::NotSupported { member: format!("{path}{member}"), what })
        }
        None => Ok(()),
    }
}

/// Sets a member unless it is absent or empty.
pub(super) fn put(map: &mut Object, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let empty = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    if !empty {
        map.insert(key.to_owned(), value);
    }
}

fn nonzero(number: Option<i64>) -> Option<i64> {
    number.filter(|number| *number != 0)
}

/// vCPUs as the text of CPU units.
fn cpu_units(cpus: f64) -> Option<String> {
    // Saturates; what is out of range is refused by the validator.
    #[allow(clippy::cast_possible_truncation, reason = "saturates")]
    let units = (cpus * 1024.0).round() as i64;
    nonzero(Some(units)).map(|units| units.to_string())
}

fn role(credentials: Option<&Credentials>) -> Option<String> {
    credentials?.role_arn.clone()
}

/// The container's definition, and the network mode that its text names.
fn container(path: &str, container: &Container) -> Result<(Object, Option<String>), PayloadError> {
    refuse(
        &format!("{path}."),
        &[
            ("environmentFiles", container.environment_files.as_ref(), "environment files in S3"),
            ("secrets", container.secrets.as_ref(), "secrets as environment variables"),
            (
                "firelensConfiguration",
                container.firelens_configuration.as_ref(),
                "FireLens log routing",
            ),
            ("managedAgents", container.managed_agents.as_ref(), "ECS Exec"),
            (
                "credentialSpecs",
                container.credential_specs.as_ref(),
                "Active Directory credential specs",
            ),
        ],
    )?;
    if let Some(kind) = container.logs_auth_strategy.as_deref()
        && !["", "ExecutionRole"].contains(&kind)
    {
        return Err(malformed(
            format!("{path}.logsAuthStrategy"),
            format!("must be ExecutionRole, is \"{}\"", shorten(kind)),
        ));
    }
    let mut map = Object::new();
    put(&mut map, "name", container.name.as_deref());
    put(&mut map, "image", container.image.as_deref());
    put(&mut map, "repositoryCredentials", repository_credentials(path, container)?);
    put(&mut map, "essential", container.essential.unwrap_or(false));
    put(&mut map, "cpu", container.cpu);
    put(&mut map, "memory", nonzero(container.memory));
    let overridden = overridden_command(path, container.overrides.as_ref())?;
    put(&mut map, "command", overridden.or_else(|| container.command.clone().map(Value::from)));
    put(&mut map, "entryPoint", container.entry_point.clone());
    let environment = container.environment.iter().flatten();
    let environment = environment.map(|(name, value)| json!({"name": name, "value": value}));
    put(&mut map, "environment", environment.collect::<Vec<_>>());
    put(&mut map, "portMappings", list(&container.port_mappings, port));
    put(
        &mut map,
        "mountPoints",
        list(&container.mount_points, |mount| {
            json!({
                "sourceVolume": mount.source_volume,
                "containerPath": mount.container_path,
                "readOnly": mount.read_only,
            })
        }),
    );
    put(
        &mut map,
        "volumesFrom",
        list(
            &container.volumes_from,
            |from| json!({"sourceContainer": from.source_container, "readOnly": from.read_only}),
        ),
    );
    put(&mut map, "links", container.links.clone());
    put(
        &mut map,
        "dependsOn",
        list(
            &container.depends_on,
            |on| json!({"containerName": on.container_name, "condition": on.condition}),
        ),
    );
    put(&mut map, "startTimeout", nonzero(container.start_timeout));
    put(&mut map, "stopTimeout", nonzero(container.stop_timeout));
    put(&mut map, "restartPolicy", container.restart_policy.clone());
    let docker = container.docker_config.clone().unwrap_or_default();
    let place = format!("{path}.dockerConfig.config");
    let config = Text::parse(place, docker.config.as_deref())?;
    read_config(config, container.health_check_type.as_deref(), path, &mut map)?;
    let place = format!("{path}.dockerConfig.hostConfig");
    let host = Text::parse(place, docker.host_config.as_deref())?;
    let mode = read_host_config(host, nonzero(container.memory), &mut map)?;
    Ok((map, mode))
}

/// The secret with the registry's login. Logins of Amazon ECR, which follow from the image, are for
/// the agent to see to.
fn repository_credentials(path: &str, container: &Container) -> Result<Value, PayloadError> {
    let given = container.registry_authentication.as_ref();
    let kind = given.and_then(|given| given.kind.as_deref()).unwrap_or("");
    let missing = |member: &str| {
        let place = format!("{path}.registryAuthentication.{member}");
        malformed(place, format!("is required for a registryAuthentication of type {kind}"))
    };
    let there = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match kind {
        "" => Ok(Value::Null),
        "asm" => {
            let data = given.and_then(|given| given.asm_auth_data.as_ref());
            let secret = data.and_then(|data| data.credentials_parameter.as_deref());
            match secret.filter(|secret| !secret.is_empty()) {
                Some(secret) => Ok(json!({"credentialsParameter": secret})),
                None => Err(missing("asmAuthData.credentialsParameter")),
            }
        }
        "ecr" => {
            let data = given.and_then(|given| given.ecr_auth_data.as_ref());
            if !data.is_some_and(|data| there(&data.region)) {
                return Err(missing("ecrAuthData.region"));
            }
            if !data.is_some_and(|data| there(&data.registry_id)) {
                return Err(missing("ecrAuthData.registryId"));
            }
            Ok(Value::Null)
        }
        other => Err(malformed(
            format!("{path}.registryAuthentication.type"),
            format!("must be ecr or asm, is \"{}\"", shorten(other)),
        )),
    }
}

fn list<T>(list: &Option<Vec<T>>, write: impl Fn(&T) -> Value) -> Vec<Value> {
    list.iter().flatten().map(write).collect()
}

fn port(port: &PortMapping) -> Value {
    let mut map = Object::new();
    put(&mut map, "containerPort", nonzero(port.container_port));
    put(&mut map, "hostPort", nonzero(port.host_port));
    put(&mut map, "containerPortRange", port.container_port_range.as_deref());
    put(&mut map, "protocol", port.protocol.as_deref());
    Value::Object(map)
}

/// `overrides`: a text or an object whose only member is `command`.
fn overridden_command(
    path: &str,
    overrides: Option<&Value>,
) -> Result<Option<Value>, PayloadError> {
    let place = format!("{path}.overrides");
    let mut members = match overrides {
        None => return Ok(None),
        Some(Value::String(text)) => Text::parse(place.clone(), Some(text))?,
        Some(value) => {
            let members = docker::object(place.clone(), value.clone())?;
            Text::of(place.clone(), members)
        }
    };
    let command = members.list("command")?;
    members.finish()?;
    if !command.iter().all(Value::is_string) {
        return Err(malformed(format!("{place}.command"), "must be a list of texts"));
    }
    Ok(Some(Value::from(command)).filter(|command| !is_off(command)))
}

fn volume(index: usize, volume: &Volume) -> Result<Value, PayloadError> {
    let mut map = Object::new();
    put(&mut map, "name", volume.name.as_deref());
    match volume.kind.as_deref().unwrap_or("") {
        "" | "host" => {
            let path = volume.host.as_ref().and_then(|host| host.source_path.as_deref());
            let mut host = Object::new();
            put(&mut host, "sourcePath", path);
            map.insert("host".to_owned(), host.into());
        }
        "docker" => {
            let docker = volume.docker_volume_configuration.clone();
            map.insert("dockerVolumeConfiguration".to_owned(), docker.unwrap_or(json!({})));
        }
        "efs" => {
            let Some(mut efs) = volume.efs_volume_configuration.clone() else {
                let place = format!("volumes[{index}].efsVolumeConfiguration");
                return Err(malformed(place, "is required for a volume of type efs"));
            };
            // 0: the agent chooses.
            if let Some(efs) = efs.as_object_mut() {
                efs.retain(|_, value| !is_off(value));
            }
            map.insert("efsVolumeConfiguration".to_owned(), efs);
        }
        kind => {
            return Err(PayloadError::NotSupported {
                member: format!("volumes[{index}].type=\"{}\"", shorten(kind)),
                what: "volumes of this type",
            });
        }
    }
    Ok(Value::Object(map))
}
