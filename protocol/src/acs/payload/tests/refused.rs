//! What a payload may not have.

use super::*;

/// A payload of one container with these members.
fn container(members: Value) -> Value {
    let mut container = json!({"name": "a", "image": "i", "essential": true, "memory": 64});
    container.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    json!({"family": "f", "containers": [container]})
}

fn with(members: Value) -> Value {
    let mut task = container(json!({}));
    task.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    task
}

fn host(config: Value) -> Value {
    container(json!({"dockerConfig": {"hostConfig": config.to_string()}}))
}

fn config(config: Value) -> Value {
    container(json!({"dockerConfig": {"config": config.to_string()}}))
}

#[test]
fn by_name() {
    let table = [
        (with(json!({"proxyConfiguration": {"type": "APPMESH"}})), "proxyConfiguration"),
        (with(json!({"associations": [{"name": "0", "type": "gpu"}]})), "associations"),
        (with(json!({"attachments": [{"attachmentType": "amazonebs"}]})), "attachments"),
        (with(json!({"elasticNetworkInterfaces": [{"ec2Id": "1"}]})), "elasticNetworkInterfaces"),
        (with(json!({"enableFaultInjection": true})), "enableFaultInjection"),
        (with(json!({"networkMode": "bridge2"})), "networkMode"),
        (with(json!({"pidMode": "task"})), "pidMode"),
        (with(json!({"cpu": 0.01})), "cpu"),
        (with(json!({"memory": -4})), "memory"),
        (with(json!({"volumes": [{"name": "v", "type": "ebs"}]})), "volumes[0].type=\"ebs\""),
        (with(json!({"volumes": [{"name": "v", "type": "efs"}]})), "efsVolumeConfiguration"),
        (
            with(json!({"volumes": [{"name": "v", "type": "efs", "efsVolumeConfiguration":
                {"fileSystemId": "fs-1", "transitEncryption": "ENABLED"}}]})),
            "volumes[0].efsVolumeConfiguration.transitEncryption",
        ),
        (
            with(json!({"volumes": [{"name": "v", "type": "docker",
                "dockerVolumeConfiguration": {"scope": "shared"}}]})),
            "dockerVolumeConfiguration.scope",
        ),
        (with(json!({"containers": []})), "containerDefinitions"),
        (container(json!({"essential": null})), "essential"),
        (container(json!({"secrets": [{"name": "S"}]})), "containers[0].secrets"),
        (container(json!({"environmentFiles": [{"value": "v"}]})), "environmentFiles"),
        (
            container(json!({"registryAuthentication": {"type": "asm"}})),
            "registryAuthentication.asmAuthData.credentialsParameter: is required",
        ),
        (
            container(json!({"registryAuthentication": {"type": "asm", "asmAuthData":
                {"credentialsParameter": "no secret", "region": "r"}}})),
            "repositoryCredentials.credentialsParameter: must be the ARN",
        ),
        (
            container(json!({"registryAuthentication": {"type": "ecr", "ecrAuthData": {}}})),
            "registryAuthentication.ecrAuthData.region: is required",
        ),
        (
            container(json!({"registryAuthentication": {"type": "kerberos"}})),
            "registryAuthentication.type: must be ecr or asm",
        ),
        (container(json!({"firelensConfiguration": {"type": "fluentd"}})), "firelens"),
        (container(json!({"managedAgents": [{"name": "E"}]})), "managedAgents"),
        (container(json!({"credentialSpecs": ["x"]})), "credentialSpecs"),
        (container(json!({"restartPolicy": {"enabled": true}})), "restartPolicy"),
        (container(json!({"links": ["a:b"]})), "links"),
        (container(json!({"healthCheckType": "docker"})), "healthCheckType"),
        (container(json!({"healthCheckType": "other"})), "healthCheckType"),
        (container(json!({"logsAuthStrategy": "Other"})), "logsAuthStrategy"),
        (container(json!({"overrides": {"cpu": 4}})), "containers[0].overrides.cpu"),
        (container(json!({"overrides": "{\"environment\":{\"A\":\"1\"}}"})), "overrides"),
        (container(json!({"overrides": "not json"})), "containers[0].overrides"),
        (container(json!({"overrides": 7})), "containers[0].overrides"),
        (container(json!({"overrides": {"command": [1]}})), "overrides.command"),
        (container(json!({"portMappings": [{"containerPortRange": "1-2"}]})), "containerPortRange"),
        (container(json!({"dockerConfig": {"config": "{"}})), "containers[0].dockerConfig.config"),
        (container(json!({"dockerConfig": {"hostConfig": "[]"}})), "dockerConfig.hostConfig"),
        (config(json!({"Healthcheck": {"Test": ["CMD", "x"]}})), "healthCheck"),
        (config(json!({"Healthcheck": {"Else": 1}})), "Healthcheck.Else"),
        (config(json!({"StopSignal": "SIGINT"})), "config.StopSignal"),
        (config(json!({"User": 5})), "user"),
        (config(json!({"Labels": ["a"]})), "dockerLabels"),
        (host(json!({"NetworkMode": "container:x"})), "networkMode"),
        (host(json!({"PidMode": "host"})), "hostConfig.PidMode"),
        (host(json!({"Binds": ["/:/host"]})), "hostConfig.Binds"),
        (host(json!({"Init": true})), "initProcessEnabled"),
        (host(json!({"MemoryReservation": 1_048_577})), "MemoryReservation"),
        (host(json!({"MemorySwap": 1_048_576})), "MemorySwap"),
        (host(json!({"MemorySwap": -1})), "MemorySwap"),
        (host(json!({"MemorySwappiness": 5})), "swappiness"),
        (host(json!({"ShmSize": "64m"})), "ShmSize"),
        (host(json!({"CapAdd": ["CAP_CHOWN"]})), "capabilities.add"),
        (
            host(json!({"Devices": [{"PathOnHost": "/dev/x", "CgroupPermissions": "rx"}]})),
            "Devices",
        ),
        (host(json!({"Devices": ["/dev/x"]})), "Devices[0]"),
        (host(json!({"Tmpfs": {"/t": "rw"}})), "Tmpfs"),
        (host(json!({"Tmpfs": {"/t": "size=1k"}})), "Tmpfs"),
        (host(json!({"Tmpfs": {"/t": "size=-1m"}})), "Tmpfs"),
        (host(json!({"Tmpfs": {"/t": "size=1m,huge=always"}})), "mountOptions"),
        (host(json!({"Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 1}]})), "ulimits"),
        (host(json!({"Sysctls": {"kernel.hostname": "x"}})), "systemControls"),
        (host(json!({"ExtraHosts": ["nothing"]})), "ExtraHosts"),
        (host(json!({"SecurityOpt": ["seccomp=unconfined"]})), "dockerSecurityOptions"),
        (host(json!({"LogConfig": {"Type": "etwlogs"}})), "logDriver"),
        (host(json!({"LogConfig": {"Config": {"a": "b"}}})), "logDriver"),
    ];
    for (task, name) in table {
        let task: Task = serde_json::from_value(task).unwrap();
        match super::super::definition(&task) {
            Ok(_) => panic!("accepted: {name}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(name), "{name}: {text}");
            }
        }
    }
}

#[test]
fn network_modes_of_containers() {
    let task = |modes: &[Option<&str>], of_task: &str| {
        let containers: Vec<_> = modes
            .iter()
            .enumerate()
            .map(|(n, mode)| {
                let config = json!({"NetworkMode": mode}).to_string();
                json!({"name": format!("c{n}"), "image": "i", "essential": true, "memory": 9,
                    "dockerConfig": {"hostConfig": config}})
            })
            .collect();
        let task = json!({"family": "f", "networkMode": of_task, "containers": containers});
        let task: Task = serde_json::from_value(task).unwrap();
        super::super::definition(&task).map(|definition| definition.network_mode).ok()
    };
    use crate::taskdef::NetworkMode::{Awsvpc, Bridge, Host};
    assert_eq!(task(&[None, None], ""), Some(Bridge));
    assert_eq!(task(&[Some("default"), Some("bridge")], ""), Some(Bridge));
    assert_eq!(task(&[Some("host"), Some("host")], ""), Some(Host));
    assert_eq!(task(&[Some("bridge"), Some("host")], "awsvpc"), Some(Awsvpc));
    assert_eq!(task(&[Some("host"), Some("bridge")], ""), None);
    assert_eq!(task(&[None, Some("host")], ""), None);
    assert_eq!(task(&[Some("host"), None], ""), None);
    assert_eq!(task(&[Some("host")], "bridge"), None);
}
