//! What comes out of good definitions.

use super::*;

#[test]
fn defaults() {
    let definition = accepted(&container(json!({})));
    let web = &definition.containers[0];
    assert_eq!(definition.family, "site");
    assert_eq!(definition.network_mode, NetworkMode::Bridge);
    assert_eq!((definition.cpu, definition.memory), (None, None));
    assert_eq!(definition.pid_mode, NamespaceMode::Private);
    assert_eq!(definition.ipc_mode, NamespaceMode::Private);
    assert_eq!(definition.cpu_architecture, None);
    assert!(definition.volumes.is_empty() && definition.tags.is_empty());
    assert!(web.essential);
    assert_eq!((web.cpu, web.memory, web.memory_reservation), (0, Some(64), None));
    assert_eq!((&web.entry_point, &web.command), (&None, &None));
    assert_eq!((web.start_timeout, web.stop_timeout), (None, None));
    assert_eq!(web.log.driver, LogDriver::JsonFile);
    assert_eq!((web.log.max_size(), web.log.max_file()), (None, 1));
    assert_eq!(web.linux, LinuxParameters::default());
}

#[test]
fn everything_we_act_on() {
    let definition = accepted(&full());
    assert_eq!((definition.cpu, definition.memory), (Some(1024), Some(2048)));
    assert_eq!(definition.requires_compatibilities, [Compatibility::Ec2]);
    assert_eq!(definition.pid_mode, NamespaceMode::Host);
    assert_eq!(definition.ipc_mode, NamespaceMode::Host);
    assert_eq!(definition.tags, [("team".to_owned(), "web".to_owned())]);
    assert_eq!(definition.cpu_architecture, Some(CpuArchitecture::X86_64));
    let sources: Vec<_> = definition.volumes.iter().map(|v| v.source.clone()).collect();
    let host = VolumeSource::Host { source_path: "/srv/data".to_owned() };
    let efs = efs("fs-0123456789abcdef0", "/web");
    assert_eq!(sources, [host, efs, VolumeSource::Task]);
    let web = &definition.containers[1];
    let secret = "arn:aws:secretsmanager:eu-north-1:000000000000:secret:registry/login-a1B2c3";
    assert_eq!(web.repository_credentials.as_deref(), Some(secret));
    let (tcp, udp) = (TransportProtocol::Tcp, TransportProtocol::Udp);
    assert_eq!(
        web.port_mappings,
        [
            PortMapping { container_port: 80, host_port: 8080, protocol: tcp },
            PortMapping { container_port: 53, host_port: 0, protocol: udp },
        ]
    );
    assert_eq!(web.entry_point.as_deref(), Some(&["/entry".to_owned()][..]));
    assert_eq!(web.command.as_deref().map(<[_]>::len), Some(2));
    assert_eq!(
        web.mount_points[0],
        MountPoint {
            source_volume: "data".to_owned(),
            container_path: "/data".to_owned(),
            read_only: true
        }
    );
    assert_eq!(
        web.volumes_from,
        [VolumeFrom { source_container: "init".to_owned(), read_only: true }]
    );
    assert_eq!(
        web.depends_on,
        [Dependency { container: "init".to_owned(), condition: Condition::Success }]
    );
    assert_eq!(web.dns_servers.len(), 2);
    assert_eq!(web.extra_hosts, [("db".to_owned(), "192.0.2.7".parse().unwrap())]);
    assert!(web.no_new_privileges && web.disable_networking && web.privileged);
    assert!(web.readonly_root_filesystem && web.interactive && web.pseudo_terminal);
    assert_eq!(web.ulimits, [Ulimit { name: "nofile".to_owned(), soft: 1024, hard: 4096 }]);
    assert_eq!((web.log.max_size(), web.log.max_file()), (Some(10_000_000), 3));
    assert_eq!(web.docker_labels["org.example.team"], "web");
    let linux = &web.linux;
    assert_eq!(
        (&linux.capabilities_add[..], &linux.capabilities_drop[..]),
        (&["NET_ADMIN".to_owned()][..], &["MKNOD".to_owned()][..])
    );
    let device = &linux.devices[0];
    assert_eq!((device.read, device.write, device.mknod), (true, true, false));
    assert_eq!(linux.tmpfs[0].size, 16);
    assert_eq!((linux.max_swap, linux.swappiness), (Some(64), Some(10)));
    assert_eq!(linux.shared_memory_size, Some(128));
}

#[test]
fn a_device_is_where_it_is_on_the_host_with_all_permissions() {
    let devices = json!({"devices": [{"hostPath": "/dev/kvm"}]});
    let definition = accepted(&container(json!({"linuxParameters": devices})));
    let path = "/dev/kvm".to_owned();
    let device = Device {
        host_path: path.clone(),
        container_path: path,
        read: true,
        write: true,
        mknod: true,
    };
    assert_eq!(definition.containers[0].linux.devices, [device]);
}

#[test]
fn the_last_value_of_a_variable_counts_at_the_first_place() {
    let environment = json!([
        {"name": "A", "value": "1"},
        {"name": "B"},
        {"name": "A", "value": "3"},
    ]);
    let definition = accepted(&container(json!({"environment": environment})));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(definition.containers[0].environment, [pair("A", "3"), pair("B", "")]);
}

#[test]
fn host_ports_of_each_mode() {
    let ports = json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}]);
    for (mode, expected) in [("bridge", [0, 0]), ("host", [80, 81]), ("awsvpc", [80, 81])] {
        let definition =
            merge(container(json!({"portMappings": ports})), json!({"networkMode": mode}));
        let ports: Vec<_> =
            accepted(&definition).containers[0].port_mappings.iter().map(|p| p.host_port).collect();
        assert_eq!(ports, expected, "{mode}");
    }
}

#[test]
fn one_port_for_both_protocols_outside_host_mode() {
    let ports = json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "udp"}]);
    for mode in ["bridge", "awsvpc"] {
        let members = json!({"networkMode": mode});
        accepted(&merge(container(json!({"portMappings": ports})), members));
    }
}

fn efs(id: &str, directory: &str) -> VolumeSource {
    VolumeSource::Efs { file_system_id: id.to_owned(), root_directory: directory.to_owned() }
}

#[test]
fn efs_volumes() {
    for (more, directory) in [
        (json!({}), "/"),
        (json!({"rootDirectory": ""}), "/"),
        (json!({"rootDirectory": "/a b,c"}), "/a b,c"),
        (json!({"transitEncryption": "DISABLED"}), "/"),
        (json!({"authorizationConfig": {"iam": "DISABLED", "accessPointId": ""}}), "/"),
    ] {
        let configuration = merge(json!({"fileSystemId": "fs-1"}), more);
        let volume = json!({"name": "v", "efsVolumeConfiguration": configuration});
        let definition = accepted(&task(json!({"volumes": [volume]})));
        assert_eq!(definition.volumes[0].source, efs("fs-1", directory), "{volume}");
    }
}

#[test]
fn volumes_of_the_task() {
    let docker = |members| json!({"name": "v", "dockerVolumeConfiguration": members});
    for volume in [
        json!({"name": "v"}),
        json!({"name": "v", "host": {}}),
        json!({"name": "v", "host": {"sourcePath": ""}}),
        json!({"name": "v", "host": null, "configuredAtLaunch": false}),
        docker(json!({})),
        docker(json!({"scope": "task"})),
        docker(json!({"scope": "task", "driver": "local", "driverOpts": {}, "labels": {}})),
        docker(json!({"autoprovision": false})),
    ] {
        let definition = accepted(&task(json!({"volumes": [volume]})));
        assert_eq!(definition.volumes[0].source, VolumeSource::Task, "{volume}");
    }
}

#[test]
fn what_describe_prints_is_a_definition() {
    let described = json!({
        "taskDefinitionArn": "arn:aws:ecs:eu-central-1:123456789012:task-definition/site:7",
        "containerDefinitions": [{
            "name": "web", "image": "nginx", "cpu": 0, "memory": 64, "links": [],
            "portMappings": [{"containerPort": 80, "hostPort": 80, "protocol": "tcp"}],
            "essential": true, "entryPoint": [], "command": [], "environment": [],
            "environmentFiles": [], "mountPoints": [], "volumesFrom": [], "secrets": [],
            "dnsServers": [], "dnsSearchDomains": [], "extraHosts": [],
            "dockerSecurityOptions": [], "dockerLabels": {}, "ulimits": [],
            "systemControls": [], "credentialSpecs": [], "resourceRequirements": [],
        }],
        "family": "site",
        "networkMode": "awsvpc",
        "revision": 7,
        "volumes": [],
        "status": "ACTIVE",
        "requiresAttributes": [{"name": "ecs.capability.task-eni"}],
        "placementConstraints": [],
        "compatibilities": ["EC2", "FARGATE"],
        "requiresCompatibilities": [],
        "registeredAt": "2026-11-21T10:00:00+01:00",
        "registeredBy": "arn:aws:iam::123456789012:root",
        "enableFaultInjection": false,
    });
    let plain = accepted(&described);
    assert!(plain.tags.is_empty());
    assert_eq!(accepted(&json!({"taskDefinition": described})), plain);
    let tagged = accepted(&json!({
        "taskDefinition": described,
        "tags": [{"key": "a", "value": "b"}],
    }));
    assert_eq!(tagged.tags, [("a".to_owned(), "b".to_owned())]);
    refused(
        &json!({"taskDefinition": merge(described, json!({"cpus": "1"})), "failures": []}),
        &["failures: unknown field", "taskDefinition.cpus: unknown field, did you mean cpu?"],
    );
}

#[test]
fn values_that_say_what_is_anyway() {
    let plain = accepted(&container(json!({})));
    for members in [
        json!({"versionConsistency": "enabled"}),
        json!({"restartPolicy": {"enabled": false, "ignoredExitCodes": [1]}}),
        json!({"linuxParameters": {"initProcessEnabled": false}}),
        json!({"dockerSecurityOptions": ["no-new-privileges:false"]}),
        json!({"hostname": "", "user": "", "workingDirectory": ""}),
        json!({"entryPoint": null, "command": [], "environment": null}),
    ] {
        assert_eq!(accepted(&container(members.clone())), plain, "{members}");
    }
    for members in [
        json!({"taskRoleArn": "", "executionRoleArn": null}),
        json!({"runtimePlatform": {"operatingSystemFamily": "LINUX"}}),
        json!({"trustedExecutionConfiguration": {"isolationMode": "SHARED"}}),
        json!({"ipcMode": "none"}),
    ] {
        assert_eq!(accepted(&task(members.clone())), plain, "{members}");
    }
    let named = json!([{"containerPort": 80, "name": "http"}]);
    let unnamed = json!([{"containerPort": 80}]);
    assert_eq!(
        accepted(&container(json!({"portMappings": named}))),
        accepted(&container(json!({"portMappings": unnamed})))
    );
}

#[test]
fn no_new_privileges_in_both_spellings() {
    for text in ["no-new-privileges", "no-new-privileges:true"] {
        let definition = accepted(&container(json!({"dockerSecurityOptions": [text]})));
        assert!(definition.containers[0].no_new_privileges, "{text}");
    }
}

#[test]
fn users() {
    for user in ["root", "0", "1000:1000", "www:33", "33:www", "_apt", "user.name", "a$"] {
        let definition = accepted(&container(json!({"user": user})));
        assert_eq!(definition.containers[0].user.as_deref(), Some(user));
    }
}

#[test]
fn images() {
    let digest = format!("nginx@sha256:{}", "a".repeat(64));
    for image in ["nginx", "library/nginx:1", "127.0.0.1:5000/a/b-c_d:1.2", digest.as_str()] {
        assert_eq!(accepted(&container(json!({"image": image}))).containers[0].image, image);
    }
}

#[test]
fn memory_of_the_task_frees_the_containers_of_theirs() {
    let mut definition = task(json!({"memory": "128"}));
    definition["containerDefinitions"][0].as_object_mut().unwrap().remove("memory");
    assert_eq!(accepted(&definition).containers[0].memory, None);
}

#[test]
fn fargate() {
    let definition = json!({
        "family": "site",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE", "EC2"],
        "cpu": ".25 vCPU",
        "memory": "0.5 GB",
        "containerDefinitions": [{
            "name": "web",
            "image": "nginx",
            "stopTimeout": 120,
            "linuxParameters": {"capabilities": {"add": ["SYS_PTRACE"], "drop": ["ALL"]}},
        }],
    });
    let definition = accepted(&definition);
    assert_eq!((definition.cpu, definition.memory), (Some(256), Some(512)));
}

#[test]
fn from_value_is_parse() {
    assert_eq!(from_value(&full()).unwrap(), accepted(&full()));
    assert!(from_value(&json!({})).is_err());
}
