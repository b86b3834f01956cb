//! Every rule of containers and every rule of the shape, with the exact text of its refusal.

use super::*;

/// Members of the container `web`, and what is wrong below `containerDefinitions[0]`.
#[track_caller]
fn refused_container(members: Value, lines: &[&str]) {
    let lines: Vec<_> =
        lines.iter().map(|line| format!("containerDefinitions[0].{line}")).collect();
    assert_eq!(problems(&container(members.clone())), lines, "{members:#}");
}

#[test]
fn json_types() {
    refused_container(
        json!({
            "cpu": "256",
            "memory": 64.5,
            "memoryReservation": 4_294_967_296_u64,
            "essential": "true",
            "command": "serve",
            "environment": [null, {"name": "A", "value": 1}],
            "dockerLabels": {"a": 1},
            "linuxParameters": [],
            "user": {},
        }),
        &[
            "command: expected a list, found the string \"serve\"",
            "cpu: expected an integer, found the string \"256\"",
            "dockerLabels.a: expected a string, found the number 1",
            "environment[0]: expected an object, found null",
            "environment[1].value: expected a string, found the number 1",
            "essential: expected true or false, found the string \"true\"",
            "linuxParameters: expected an object, found a list",
            "memory: expected a 32-bit integer, found 64.5",
            "memoryReservation: expected a 32-bit integer, found 4294967296",
            "user: expected a string, found an object",
            "environment[0].name: must be given and not contain '=', is \"\"",
        ],
    );
}

#[test]
fn unknown_fields() {
    refused_container(
        json!({
            "Cpu": 1,
            "enviroment": [],
            "portMappings": [{"port": 80, "containerPort": 80}],
            "zzz": null,
        }),
        &[
            "Cpu: unknown field, did you mean cpu?",
            "enviroment: unknown field, did you mean environment?",
            "portMappings[0].port: unknown field",
            "zzz: unknown field",
        ],
    );
}

#[test]
fn required_members() {
    refused(&json!({}), &["family: is required", "containerDefinitions: is required"]);
    refused(
        &json!({"family": "", "containerDefinitions": null}),
        &["family: must not be empty", "containerDefinitions: is required"],
    );
    refused_container(
        json!({
            "dependsOn": [{}],
            "extraHosts": [{"hostname": "", "ipAddress": ""}],
            "ulimits": [{"name": "core"}],
            "logConfiguration": {},
            "linuxParameters": {"devices": [{}], "tmpfs": [{}]},
        }),
        &[
            "dependsOn[0].containerName: is required",
            "dependsOn[0].condition: is required",
            "extraHosts[0].hostname: must not be empty",
            "extraHosts[0].ipAddress: must not be empty",
            "linuxParameters.devices[0].hostPath: is required",
            "linuxParameters.tmpfs[0].containerPath: is required",
            "linuxParameters.tmpfs[0].size: is required",
            "logConfiguration.logDriver: is required",
            "ulimits[0].softLimit: is required",
            "ulimits[0].hardLimit: is required",
        ],
    );
}

#[test]
fn enums_and_ranges() {
    refused(
        &task(json!({"networkMode": "nat", "pidMode": "none"})),
        &[
            "networkMode: must be one of bridge, host, awsvpc, none, is \"nat\"",
            "pidMode: must be one of host, task, is \"none\"",
        ],
    );
    refused_container(
        json!({
            "cpu": -1,
            "memory": 5,
            "startTimeout": 1,
            "stopTimeout": 0,
            "portMappings": [{"containerPort": 0}, {"containerPort": 80, "hostPort": 65536, "protocol": "TCP"}],
            "linuxParameters": {"sharedMemorySize": 0, "maxSwap": -1, "swappiness": 101},
            "ulimits": [{"name": "files", "softLimit": -2, "hardLimit": -1}],
        }),
        &[
            "cpu: must be at least 0, is -1",
            "linuxParameters.maxSwap: must be at least 0, is -1",
            "linuxParameters.sharedMemorySize: must be at least 1, is 0",
            "linuxParameters.swappiness: must be from 0 to 100, is 101",
            "memory: must be at least 6, is 5",
            "portMappings[0].containerPort: must be from 1 to 65535, is 0",
            "portMappings[1].hostPort: must be from 0 to 65535, is 65536",
            "portMappings[1].protocol: must be one of tcp, udp, is \"TCP\"",
            "startTimeout: must be at least 2, is 1",
            "stopTimeout: must be at least 2, is 0",
            "ulimits[0].name: must be one of core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack, is \"files\"",
            "ulimits[0].softLimit: must be at least -1, is -2",
        ],
    );
}

#[test]
fn nul_characters() {
    refused_container(
        json!({"command": ["a\0b"], "dockerLabels": {"a\0": "b"}}),
        &[
            "command[0]: must not contain a NUL character",
            "dockerLabels[\"a\\0\"]: the key must not be empty or contain a NUL character",
        ],
    );
}

#[test]
fn container_lists() {
    refused(
        &json!({"family": "a", "containerDefinitions": []}),
        &["containerDefinitions: Container list cannot be empty."],
    );
    let many: Vec<_> = (0..11).map(|n| json!({"name": format!("c{n}")})).collect();
    refused(
        &containers(json!(many)),
        &["containerDefinitions: Too many containers: 11, at most 10 are allowed"],
    );
    accepted(&containers(json!(many[..10])));
    refused(
        &containers(json!([{"name": "a"}, {"name": "a"}])),
        &["containerDefinitions[1].name: another container is named \"a\""],
    );
    refused(
        &containers(json!([{"name": "a", "essential": false}])),
        &["containerDefinitions: at least one container must be essential"],
    );
}

#[test]
fn names_and_images() {
    refused(
        &json!({"family": "a", "containerDefinitions": [{"memory": 64}]}),
        &[
            "containerDefinitions[0].name: Container.name should not be null or empty.",
            "containerDefinitions[0].image: Container.image should not be null or empty.",
        ],
    );
    refused_container(
        json!({"name": "../x", "image": "a b"}),
        &[
            "name: Container.name contains invalid characters: letters, digits, underscores and hyphens are allowed, is \"../x\"",
            "image: Container.image contains invalid characters: letters, digits and '-', '_', ':', '.', '/', '#' are allowed before any '@', is \"a b\"",
        ],
    );
    refused_container(
        json!({"image": "nginx@sha256:abc"}),
        &["image: the digest must be sha256: and 64 hexadecimal digits, is \"nginx@sha256:abc\""],
    );
    refused_container(
        json!({"image": "a".repeat(256)}),
        &["image: is 256 characters long, at most 255 are allowed"],
    );
}

#[test]
fn container_memory() {
    let bare = json!({"family": "a", "containerDefinitions": [{"name": "web", "image": "nginx"}]});
    refused(
        &bare,
        &[
            "containerDefinitions[0]: Invalid setting for container 'web'. At least one of 'memory' \
           or 'memoryReservation' must be specified.",
        ],
    );
    refused_container(
        json!({"memory": 64, "memoryReservation": 64}),
        &["memoryReservation: must be less than memory, 64 ≥ 64"],
    );
    refused(
        &task(json!({"memory": "32"})),
        &[
            "memory: the containers' memory adds up to 64 MiB (memoryReservation, else memory), more than the task's 32",
            "containerDefinitions[0].memory: must not exceed the task's memory, 64 > 32",
        ],
    );
}

#[test]
fn ports() {
    let ports = |mode: &str, list: Value, lines: &[&str]| {
        let definition =
            merge(container(json!({"portMappings": list})), json!({"networkMode": mode}));
        let lines: Vec<_> = lines
            .iter()
            .map(|line| format!("containerDefinitions[0].portMappings{line}"))
            .collect();
        assert_eq!(problems(&definition), lines, "{definition:#}");
    };
    ports(
        "none",
        json!([{"containerPort": 80}]),
        &[": port mappings are not supported when networkMode=none"],
    );
    ports(
        "awsvpc",
        json!([{"containerPort": 80, "hostPort": 8080}]),
        &[
            "[0].hostPort: When networkMode=awsvpc, the host ports and container ports in port mappings must match.",
        ],
    );
    ports(
        "host",
        json!([{"containerPort": 80, "hostPort": 8080}]),
        &[
            "[0].hostPort: When networkMode=host, the host ports and container ports in port mappings must match.",
        ],
    );
    ports(
        "bridge",
        json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}]),
        &["[1].hostPort: tcp port 8080 is taken by containerDefinitions[0].portMappings[0]"],
    );
    ports(
        "awsvpc",
        json!([{"containerPort": 80}, {"containerPort": 80}]),
        &["[1].containerPort: tcp port 80 is taken by containerDefinitions[0].portMappings[0]"],
    );
    ports(
        "host",
        json!([{"containerPort": 53}, {"containerPort": 53, "protocol": "udp"}]),
        &[
            "[1].containerPort: port 53 cannot be exposed for both tcp and udp when networkMode=host",
        ],
    );
    ports("bridge", json!([{}]), &["[0].containerPort: is required without containerPortRange"]);
    ports(
        "bridge",
        json!([{"containerPort": 80, "name": "Web"}, {"containerPort": 81, "name": "-web"}]),
        &[
            "[0].name: must be at most 64 lower-case letters, digits, underscores and hyphens, not starting with a hyphen, is \"Web\"",
            "[1].name: must be at most 64 lower-case letters, digits, underscores and hyphens, not starting with a hyphen, is \"-web\"",
        ],
    );
    let definition = merge(
        containers(json!([
            {"name": "a", "portMappings": [{"containerPort": 80}]},
            {"name": "b", "portMappings": [{"containerPort": 80}]},
        ])),
        json!({"networkMode": "awsvpc"}),
    );
    refused(
        &definition,
        &["containerDefinitions[1].portMappings[0].containerPort: tcp port 80 is taken by \
           containerDefinitions[0].portMappings[0]"],
    );
}

#[test]
fn port_ranges() {
    let not_yet = |index: usize| {
        format!(
            "not supported yet: containerDefinitions[0].portMappings[{index}].containerPortRange \
             (port ranges)"
        )
    };
    let list = json!([
        {"containerPortRange": "80-90"},
        {"containerPortRange": "90-91"},
        {"containerPortRange": "9-8", "hostPort": 1},
        {"containerPort": 85},
    ]);
    let place = "containerDefinitions[0].portMappings";
    let form = "must be FIRST-LAST with 1 ≤ FIRST < LAST ≤ 65535, is \"9-8\"";
    let lines = [
        format!("{place}[0].containerPortRange: overlaps with 85-85 of another mapping"),
        format!("{place}[1].containerPortRange: overlaps with 80-90 of another mapping"),
        format!("{place}[2].hostPort: must be absent beside containerPortRange"),
        format!("{place}[2].containerPortRange: {form}"),
        not_yet(0),
        not_yet(1),
        not_yet(2),
    ];
    assert_eq!(problems(&container(json!({"portMappings": list}))), lines);
}

#[test]
fn environment_and_secrets() {
    refused_container(
        json!({"environment": [{"name": "A=B", "value": "c"}, {"value": "x"}]}),
        &[
            "environment[0].name: must be given and not contain '=', is \"A=B\"",
            "environment[1].name: must be given and not contain '=', is \"\"",
        ],
    );
    let secret = |name: &str| json!({"name": name, "valueFrom": "arn:aws:ssm:x"});
    let files = vec![json!({"value": "arn:aws:s3:::b/a.txt", "type": "s3"}); 11];
    let lines = problems(&container(json!({
        "environment": [{"name": "A", "value": "1"}],
        "secrets": [secret("A"), secret("B"), secret("B")],
        "environmentFiles": files,
    })));
    let place = "containerDefinitions[0]";
    for line in [
        format!("{place}.secrets[0].name: \"A\" is in environment, too"),
        format!("{place}.secrets[2].name: \"B\" is given more than once"),
        format!("{place}.environmentFiles: has 11 files, at most 10 are allowed"),
        format!("{place}.environmentFiles[0].value: must end in .env, is \"arn:aws:s3:::b/a.txt\""),
        format!("{place}: secrets need the task's executionRoleArn"),
        format!("not supported yet: {place}.secrets (secrets as environment variables)"),
    ] {
        assert!(lines.contains(&line), "{line}\n{lines:#?}");
    }
}

#[test]
fn repository_credentials() {
    let place = "containerDefinitions[0]";
    for bad in [
        "a login",
        "arn:aws:ssm:eu-north-1:000000000000:parameter/login",
        "arn:aws:secretsmanager:eu-north-1:000000000000:login",
        "arn:aws:secretsmanager::000000000000:secret:login",
        "arn:aws:secretsmanager:eu-north-1:0:secret:login",
        "arn:aws:secretsmanager:eu-north-1:000000000000:secret:login:password::",
    ] {
        let credentials = json!({"credentialsParameter": bad});
        let definition = merge(
            container(json!({"repositoryCredentials": credentials})),
            json!({"executionRoleArn": "puller"}),
        );
        let rule = format!(
            "{place}.repositoryCredentials.credentialsParameter: must be the ARN \
             (arn:aws:secretsmanager:<region>:<account>:secret:<name>) or the name of a secret of \
             AWS Secrets Manager, is {bad:?}"
        );
        assert_eq!(problems(&definition), [rule]);
    }
    let credentials = json!({"repositoryCredentials": {"credentialsParameter": "team/login"}});
    assert_eq!(
        problems(&container(credentials)),
        [format!("{place}: repositoryCredentials need the task's executionRoleArn")]
    );
}

#[test]
fn network_members() {
    refused_container(
        json!({
            "hostname": "-a",
            "dnsServers": ["dns.example"],
            "dnsSearchDomains": ["a b", "x\noptions rotate"],
            "extraHosts": [
                {"hostname": "db", "ipAddress": "host-gateway"},
                {"hostname": "a\t6.6.6.6", "ipAddress": "192.0.2.1"},
            ],
        }),
        &[
            "hostname: must start and end with a letter or a digit, is \"-a\"",
            "dnsServers[0]: must be an IP address, is \"dns.example\"",
            "dnsSearchDomains[0]: must be 1 to 253 letters, digits, '.', '-' or '_', is \"a b\"",
            "dnsSearchDomains[1]: must be 1 to 253 letters, digits, '.', '-' or '_', is \"x\\noptions rotate\"",
            "extraHosts[0].ipAddress: must be an IP address, is \"host-gateway\"",
            "extraHosts[1].hostname: must be 1 to 253 letters, digits, '.', '-' or '_', is \"a\\t6.6.6.6\"",
        ],
    );
    refused_container(
        json!({"hostname": "a".repeat(65)}),
        &["hostname: has 65 characters, at most 64 are allowed"],
    );
    let definition = merge(
        container(json!({
            "hostname": "a",
            "dnsServers": ["192.0.2.1"],
            "extraHosts": [{"hostname": "db", "ipAddress": "192.0.2.1"}],
            "links": ["web"],
        })),
        json!({"networkMode": "awsvpc"}),
    );
    refused(
        &definition,
        &[
            "containerDefinitions[0].hostname: hostname is not supported on container when networkMode=awsvpc.",
            "containerDefinitions[0].extraHosts: extraHosts is not supported on container when networkMode=awsvpc.",
            "containerDefinitions[0].dnsServers: dnsServers is not supported on container when networkMode=awsvpc.",
            "containerDefinitions[0].links: links need networkMode bridge",
            "not supported yet: containerDefinitions[0].links (container links)",
        ],
    );
}

#[test]
fn links() {
    let lines = problems(&container(json!({"links": ["db:database"]})));
    assert_eq!(lines[0], "containerDefinitions[0].links[0]: no container is named \"db\"");
}

#[test]
fn users_and_directories() {
    for user in [":", "a:", ":b", "a:b:c", "a b", "-1", "4294967295", "99999999999", "a\n", "0:-1"]
    {
        refused_container(
            json!({"user": user}),
            &[&format!(
                "user: must be user, uid, user:group, uid:gid, user:gid or uid:group, is {user:?}"
            )],
        );
    }
    refused_container(
        json!({"workingDirectory": "srv"}),
        &["workingDirectory: must be an absolute path, is \"srv\""],
    );
}

#[test]
fn linux_members() {
    refused_container(
        json!({
            "dockerSecurityOptions": ["seccomp:unconfined"],
            "linuxParameters": {
                "capabilities": {"add": ["CAP_NET_ADMIN", "BPF"], "drop": ["chown"]},
                "devices": [{"hostPath": "kvm", "containerPath": "x"}],
                "tmpfs": [{"containerPath": "/t", "size": 1, "mountOptions": ["size=1g", "ro,suid"]}],
                "swappiness": 10,
            },
            "ulimits": [
                {"name": "core", "softLimit": 2, "hardLimit": 1},
                {"name": "core", "softLimit": 1, "hardLimit": -1},
                {"name": "nproc", "softLimit": -1, "hardLimit": 5},
            ],
            "systemControls": [
                {"namespace": "vm.swappiness", "value": "1"},
                {"namespace": "net.a", "value": "1"},
                {"namespace": "net.a", "value": "1"},
                {"namespace": "net.b"},
            ],
        }),
        &[
            "dockerSecurityOptions[0]: must be no-new-privileges, label:…, apparmor:… or credentialspec:…, is \"seccomp:unconfined\"",
            "ulimits[0].softLimit: must not exceed hardLimit, 2 > 1",
            "ulimits[1].name: \"core\" is given more than once",
            "ulimits[2].softLimit: must not exceed hardLimit, -1 > 5",
            "systemControls[0].namespace: must be a sysctl of the container's own namespaces (net.*, fs.mqueue.*, kernel.msgmax, kernel.msgmnb, kernel.msgmni, kernel.sem, kernel.shm_rmid_forced, kernel.shmall, kernel.shmmax, kernel.shmmni), is \"vm.swappiness\"",
            "systemControls[2].namespace: \"net.a\" is given more than once",
            "systemControls[3].value: is required",
            "linuxParameters.swappiness: needs maxSwap",
            "linuxParameters.capabilities.add[0]: must be a capability in capitals without CAP_, such as NET_ADMIN, or ALL, is \"CAP_NET_ADMIN\"",
            "linuxParameters.capabilities.add[1]: must be a capability in capitals without CAP_, such as NET_ADMIN, or ALL, is \"BPF\"",
            "linuxParameters.capabilities.drop[0]: must be a capability in capitals without CAP_, such as NET_ADMIN, or ALL, is \"chown\"",
            "linuxParameters.devices[0].hostPath: must be an absolute path, is \"kvm\"",
            "linuxParameters.devices[0].containerPath: must be an absolute path, is \"x\"",
            "linuxParameters.tmpfs[0].mountOptions[0]: is not a mount option of tmpfs that ECS allows: \"size=1g\"",
            "linuxParameters.tmpfs[0].mountOptions[1]: is not a mount option of tmpfs that ECS allows: \"ro,suid\"",
        ],
    );
    let definition = json!({"family": "a", "memory": "64", "containerDefinitions": [
        {"name": "web", "image": "nginx", "linuxParameters": {"maxSwap": 1}}
    ]});
    refused(
        &definition,
        &[
            "containerDefinitions[0].linuxParameters.maxSwap: needs the container's memory, which it \
           is counted on top of",
        ],
    );
}

#[test]
fn sysctls_of_shared_namespaces() {
    let controls = json!([
        {"namespace": "net.core.somaxconn", "value": "1"},
        {"namespace": "kernel.sem", "value": "1"},
    ]);
    let definition = |members| merge(container(json!({"systemControls": controls})), members);
    refused(
        &definition(json!({"networkMode": "host", "ipcMode": "host"})),
        &[
            "containerDefinitions[0].systemControls[0].namespace: net.* is not supported when networkMode=host",
            "containerDefinitions[0].systemControls[1].namespace: sysctls of IPC are not supported when ipcMode=host",
        ],
    );
    accepted(&definition(json!({"networkMode": "awsvpc"})));
}

#[test]
fn logs() {
    let log = |driver: &str, options: Value| json!({"logConfiguration": {"logDriver": driver, "options": options}});
    refused_container(
        log(
            "json-file",
            json!({"max-size": "0", "max-file": "0", "mode": "x", "compress": "yes", "size": "1"}),
        ),
        &[
            "logConfiguration.options.mode: must be blocking or non-blocking, is \"x\"",
            "logConfiguration.options.compress: must be true or false, is \"yes\"",
            "logConfiguration.options.max-file: must be a number of at least 1, is \"0\"",
            "logConfiguration.options.max-size: must be a positive size such as 10m, is \"0\"",
            "logConfiguration.options.size: unknown log opt for json-file log driver",
        ],
    );
    let place = "containerDefinitions[0].logConfiguration";
    let options = json!({
        "awslogs-datetime-format": "a", "awslogs-multiline-pattern": "b",
        "awslogs-create-group": "maybe",
    });
    let lines = [
        format!("{place}.options.awslogs-group: is required for the awslogs log driver"),
        format!(
            "{place}.options.awslogs-multiline-pattern: must be absent beside awslogs-datetime-format"
        ),
        format!("{place}.options.awslogs-create-group: must be true or false, is \"maybe\""),
        format!(
            "not supported yet: {place}.options.awslogs-datetime-format (log events of several lines)"
        ),
        format!(
            "not supported yet: {place}.options.awslogs-multiline-pattern (log events of several lines)"
        ),
    ];
    assert_eq!(problems(&container(log("awslogs", options))), lines);
    let lines = problems(&container(log("awsfirelens", json!({}))));
    let line =
        format!("{place}.logDriver: awsfirelens needs a container with a firelensConfiguration");
    assert_eq!(lines[0], line);
    let router = json!({"type": "fluentbit"});
    let lines = problems(&containers(json!([
        {"name": "a", "firelensConfiguration": router},
        {"name": "b", "firelensConfiguration": router},
    ])));
    assert_eq!(
        lines[0],
        "containerDefinitions[1].firelensConfiguration: only one container of a task can have a \
         firelensConfiguration"
    );
}

#[test]
fn health_and_restarts() {
    let health =
        |command: Value| problems(&container(json!({"healthCheck": {"command": command}})));
    let place = "containerDefinitions[0].healthCheck";
    let not_yet = format!("not supported yet: {place} (container health checks)");
    for (command, rule) in [
        (json!(["curl"]), "must start with CMD, CMD-SHELL or NONE"),
        (json!([]), "must start with CMD, CMD-SHELL or NONE"),
        (json!(["CMD"]), "has no command after CMD or CMD-SHELL"),
    ] {
        assert_eq!(health(command), [format!("{place}.command: {rule}"), not_yet.clone()]);
    }
    assert_eq!(health(json!(["CMD-SHELL", "true"])), [not_yet]);
    refused(
        &container(json!({"restartPolicy": {
            "enabled": true,
            "ignoredExitCodes": vec![0; 51],
            "restartAttemptPeriod": 59,
        }})),
        &[
            "containerDefinitions[0].restartPolicy.restartAttemptPeriod: must be from 60 to 1800, is 59",
            "containerDefinitions[0].restartPolicy.ignoredExitCodes: has 51 exit codes, at most 50 are allowed",
            "not supported yet: containerDefinitions[0].restartPolicy.enabled (container restart policies)",
        ],
    );
}
