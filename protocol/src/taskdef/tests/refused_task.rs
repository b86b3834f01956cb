//! Every rule of the task level and across containers, with the exact text of its refusal.

use super::*;

#[test]
fn families() {
    refused(
        &task(json!({"family": "a.b"})),
        &[
            "family: Family contains invalid characters: letters, digits, underscores and hyphens are allowed, is \"a.b\"",
        ],
    );
    refused(
        &task(json!({"family": "a".repeat(256)})),
        &["family: Family has 256 characters, at most 255 are allowed"],
    );
    accepted(&task(json!({"family": "a".repeat(255)})));
}

#[test]
fn task_sizes() {
    for cpu in ["127", "196609", "0.5", "fast", "1 GB", "0.1 vCPU"] {
        refused(
            &task(json!({"cpu": cpu})),
            &[&format!(
                "cpu: Invalid 'cpu' setting for task. It must be 128 to 196608 CPU units or such a \
                 number of vCPU (\"256\", \".25 vCPU\"), is {cpu:?}"
            )],
        );
    }
    for memory in ["5", "1 TB", "0.3 GB", "-1"] {
        refused(
            &task(json!({"memory": memory})),
            &[&format!(
                "memory: Invalid 'memory' setting for task. It must be at least 6 MiB, as MiB or as \
                 GB (\"512\", \"0.5 GB\"), is {memory:?}"
            )],
        );
    }
    let mut definition = containers(json!([{"name": "a", "cpu": 100}, {"name": "b", "cpu": 100}]));
    definition["cpu"] = json!("128");
    refused(&definition, &["cpu: the containers' cpu adds up to 200, more than the task's 128"]);
}

#[test]
fn volumes_and_mounts() {
    let volumes = json!([
        {"name": "a"},
        {"name": "a"},
        {},
        {"name": "b", "host": {"sourcePath": "data"}},
        {"name": "c", "host": {"sourcePath": "s3://bucket/x"}},
        {"name": "d", "host": {}, "dockerVolumeConfiguration": {"autoprovision": true}},
    ]);
    let mounts = json!([
        {"sourceVolume": "z", "containerPath": "/a"},
        {"sourceVolume": "a", "containerPath": "b"},
        {"sourceVolume": "a", "containerPath": "/x/.."},
        {"sourceVolume": "a", "containerPath": "//a/"},
        {},
    ]);
    let linux = json!({"tmpfs": [{"containerPath": "/a/.", "size": 1}]});
    refused(
        &merge(
            container(json!({"mountPoints": mounts, "linuxParameters": linux})),
            json!({"volumes": volumes}),
        ),
        &[
            "volumes[1].name: another volume is named \"a\"",
            "volumes[2].name: Volume.name should not be null or empty.",
            "volumes[3].host.sourcePath: must be an absolute path, is \"data\"",
            "volumes[4].host.sourcePath: S3 is an object store and not a file system, it cannot be mounted, is \"s3://bucket/x\"",
            "volumes[5]: When the volume parameter is specified, only one volume configuration type should be used.",
            "volumes[5].dockerVolumeConfiguration.autoprovision: is for volumes with scope shared only",
            "containerDefinitions[0].mountPoints[0].sourceVolume: no volume of the task is named \"z\"",
            "containerDefinitions[0].mountPoints[1].containerPath: must be an absolute path, is \"b\"",
            "containerDefinitions[0].mountPoints[2].containerPath: must not be the root directory",
            "containerDefinitions[0].mountPoints[3].containerPath: something else is mounted at \"/a\"",
            "containerDefinitions[0].mountPoints[4].sourceVolume: is required",
            "containerDefinitions[0].mountPoints[4].containerPath: is required",
            "containerDefinitions[0].linuxParameters.tmpfs[0].containerPath: something else is mounted at \"/a\"",
        ],
    );
}

#[test]
fn s3_is_no_file_system() {
    let volume = json!({"name": "a", "s3filesVolumeConfiguration": {"fileSystemArn": "arn:x"}});
    refused(
        &task(json!({"volumes": [volume]})),
        &[
            "not supported yet: volumes[0].s3filesVolumeConfiguration (S3 is an object store and not \
           a file system, it cannot be mounted; let a container that runs first copy the objects \
           into a volume)",
        ],
    );
}

#[test]
fn efs_rules() {
    let volume = json!({"name": "a", "efsVolumeConfiguration": {
        "fileSystemId": "fs-1",
        "rootDirectory": "/x",
        "authorizationConfig": {"accessPointId": "fsap-1", "iam": "ENABLED"},
        "transitEncryptionPort": 2999,
    }});
    let place = "volumes[0].efsVolumeConfiguration";
    let lines = [
        format!(
            "{place}.transitEncryption: transitEncryption must be ENABLED with an access point"
        ),
        format!("{place}.rootDirectory: must be absent or / with an access point"),
        format!("{place}.transitEncryption: transitEncryption must be ENABLED with iam ENABLED"),
        format!(
            "not supported yet: {place}.transitEncryptionPort (the port of a TLS tunnel; without \
             transitEncryption there is none)"
        ),
        format!(
            "not supported yet: {place}.authorizationConfig.accessPointId (access points, which \
             EFS offers through a TLS tunnel only; give the access point's directory as \
             rootDirectory, or mount on the host with Amazon's efs-utils and give the mount's path \
             as host.sourcePath)"
        ),
        format!(
            "not supported yet: {place}.authorizationConfig.iam (IAM authorization, which EFS \
             offers through a TLS tunnel only; let the file system's policy admit clients of the \
             network, or mount on the host with Amazon's efs-utils and give the mount's path as \
             host.sourcePath)"
        ),
    ];
    assert_eq!(problems(&task(json!({"volumes": [volume]}))), lines);
    let encrypted = json!({"name": "a", "efsVolumeConfiguration": {
        "fileSystemId": "fs-1", "transitEncryption": "ENABLED",
    }});
    refused(
        &task(json!({"volumes": [encrypted]})),
        &["not supported yet: volumes[0].efsVolumeConfiguration.transitEncryption (NFS through a \
           TLS tunnel, which the kernel's NFS client cannot speak with EFS; leave \
           transitEncryption out, or mount on the host with Amazon's efs-utils and give the \
           mount's path as host.sourcePath)"],
    );
    let bad = |name, id, directory| {
        json!({"name": name, "efsVolumeConfiguration": {
            "fileSystemId": id, "rootDirectory": directory,
        }})
    };
    let bad = [bad("a", "fs-a.evil.example", "data"), bad("b", "0123", "/a\n")];
    refused(
        &task(json!({"volumes": bad})),
        &[
            "volumes[0].efsVolumeConfiguration.fileSystemId: must be fs- and 1 to 40 lower-case letters or digits, is \"fs-a.evil.example\"",
            "volumes[0].efsVolumeConfiguration.rootDirectory: must be an absolute path, is \"data\"",
            "volumes[1].efsVolumeConfiguration.fileSystemId: must be fs- and 1 to 40 lower-case letters or digits, is \"0123\"",
            "volumes[1].efsVolumeConfiguration.rootDirectory: must have no control characters",
        ],
    );
}

#[test]
fn dependencies() {
    refused(
        &containers(json!([
            {"name": "a", "dependsOn": [
                {"containerName": "a", "condition": "START"},
                {"containerName": "x", "condition": "START"},
                {"containerName": "b", "condition": "SUCCESS"},
                {"containerName": "b", "condition": "HEALTHY"},
            ]},
            {"name": "b", "volumesFrom": [{"sourceContainer": "b"}, {"sourceContainer": "y"}, {}]},
        ])),
        &[
            "containerDefinitions[0].dependsOn[0].containerName: a container cannot depend on itself",
            "containerDefinitions[0].dependsOn[1].containerName: no container is named \"x\"",
            "containerDefinitions[0].dependsOn[2].condition: COMPLETE and SUCCESS need a container that is not essential: the task stops when \"b\" ends",
            "containerDefinitions[0].dependsOn[3].condition: HEALTHY needs a healthCheck of \"b\"",
            "containerDefinitions[1].volumesFrom[0].sourceContainer: is the container itself",
            "containerDefinitions[1].volumesFrom[1].sourceContainer: no container is named \"y\"",
            "containerDefinitions[1].volumesFrom[2].sourceContainer: is required",
            "not supported yet: containerDefinitions[0].dependsOn[3].condition (container health checks)",
        ],
    );
}

#[test]
fn cycles_are_named() {
    let on = |name: &str| json!([{"containerName": name, "condition": "START"}]);
    refused(
        &containers(json!([
            {"name": "web", "dependsOn": on("cache")},
            {"name": "cache", "dependsOn": on("store")},
            {"name": "store", "dependsOn": on("cache")},
            {"name": "alone"},
        ])),
        &[
            "containerDefinitions[2].dependsOn[0].containerName: dependency cycle: cache -> store -> cache",
        ],
    );
    refused(
        &containers(json!([
            {"name": "a", "dependsOn": on("b")},
            {"name": "b", "volumesFrom": [{"sourceContainer": "a"}]},
        ])),
        &["containerDefinitions[1].volumesFrom[0].sourceContainer: dependency cycle: a -> b -> a"],
    );
    let diamond = json!([
        {"name": "a", "dependsOn": [
            {"containerName": "b", "condition": "START"},
            {"containerName": "c", "condition": "START"},
        ]},
        {"name": "b", "dependsOn": on("d")},
        {"name": "c", "dependsOn": on("d")},
        {"name": "d"},
    ]);
    accepted(&containers(diamond));
}

#[test]
fn tags() {
    let tag = |key: &str, value: &str| json!({"key": key, "value": value});
    let long_key = "k".repeat(129);
    let long_value = "v".repeat(257);
    refused(
        &task(json!({"tags": [
            tag("a", "1"),
            tag("a", "2"),
            tag("AWS:x", ""),
            tag("b", "aws:x"),
            tag("c<", "\n"),
            {"value": "x"},
            tag(&long_key, &long_value),
        ]})),
        &[
            "tags[1].key: \"a\" is given more than once",
            "tags[2].key: must not start with aws:",
            "tags[3].value: must not start with aws:",
            "tags[4].key: must be of letters, digits, blanks and _.:/=+-@ only, is \"c<\"",
            "tags[4].value: must be of letters, digits, blanks and _.:/=+-@ only, is \"\\n\"",
            "tags[5].key: is required",
            "tags[6].key: has 129 characters, at most 128 are allowed",
            "tags[6].value: has 257 characters, at most 256 are allowed",
        ],
    );
    let many: Vec<_> = (0..51).map(|n| tag(&format!("k{n}"), "é à")).collect();
    refused(&task(json!({"tags": many})), &["tags: has 51 tags, at most 50 are allowed"]);
    accepted(&task(json!({"tags": many[..50]})));
}

#[test]
fn references_of_the_task() {
    let constraints = vec![json!({"type": "memberOf", "expression": "x".repeat(2001)}); 11];
    let constraints = [constraints, vec![json!({})]].concat();
    let lines = problems(&task(json!({
        "proxyConfiguration": {"containerName": "envoy"},
        "placementConstraints": constraints,
        "ephemeralStorage": {"sizeInGiB": 20},
    })));
    for line in [
        "ephemeralStorage.sizeInGiB: must be from 21 to 200, is 20",
        "proxyConfiguration.containerName: no container is named \"envoy\"",
        "placementConstraints: has 12 constraints, at most 10 are allowed",
        "placementConstraints[10].expression: has 2001 characters, at most 2000 are allowed",
        "placementConstraints[11].type: is required",
        "placementConstraints[11].expression: is required",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}\n{lines:#?}");
    }
}

#[test]
fn roles() {
    let long = "r".repeat(65);
    for bad in [
        "a role",
        "role/x",
        long.as_str(),
        "arn:aws:iam::0:role/x",
        "arn:aws:iam::000000000000:user/x",
        "arn:aws:iam::000000000000:role/",
        "arn:aws:iam:eu-west-1:000000000000:role/x",
        "arn:aws:sts::000000000000:role/x",
        "arn:aws",
    ] {
        let rule = "must be a role's ARN (arn:aws:iam::<account>:role/<name>) or name, is";
        refused(
            &task(json!({"taskRoleArn": bad, "executionRoleArn": bad})),
            &[
                &format!("taskRoleArn: {rule} {bad:?}"),
                &format!("executionRoleArn: {rule} {bad:?}"),
            ],
        );
    }
    for good in
        ["reader", "arn:aws:iam::000000000000:role/a/b@c", "arn:aws-cn:iam::012345678901:role/x"]
    {
        let definition = accepted(&task(json!({"taskRoleArn": good})));
        assert_eq!(definition.task_role_arn.as_deref(), Some(good));
        assert_eq!(definition.execution_role_arn, None);
    }
}

#[test]
fn external_has_no_awsvpc() {
    refused(
        &task(json!({"networkMode": "awsvpc", "requiresCompatibilities": ["EXTERNAL"]})),
        &["networkMode: the EXTERNAL launch type supports network modes bridge, host and none"],
    );
}

#[test]
fn fargate_is_sized() {
    refused(
        &task(json!({"requiresCompatibilities": ["FARGATE"]})),
        &[
            "networkMode: Fargate only supports network mode 'awsvpc'.",
            "cpu: is required with the Fargate launch type",
            "memory: is required with the Fargate launch type",
        ],
    );
    refused(
        &task(json!({
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": "100",
            "memory": "0.5 GB",
        })),
        &["cpu: No Fargate configuration exists for given values. (100 CPU units with 512 MiB)"],
    );
}

#[test]
fn fargate_has_no_host() {
    let definition = merge(
        container(json!({
            "privileged": true,
            "stopTimeout": 121,
            "dockerSecurityOptions": ["no-new-privileges"],
            "logConfiguration": {"logDriver": "json-file"},
            "linuxParameters": {
                "devices": [{"hostPath": "/dev/kvm"}],
                "sharedMemorySize": 64,
                "maxSwap": 0,
                "swappiness": 0,
                "capabilities": {"add": ["SYS_PTRACE", "NET_ADMIN"]},
            },
        })),
        json!({
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": "256",
            "memory": "512",
            "pidMode": "host",
            "ipcMode": "host",
            "volumes": [
                {"name": "a", "host": {"sourcePath": "/a"}},
                {"name": "b", "dockerVolumeConfiguration": {"scope": "task"}},
            ],
        }),
    );
    let container = "containerDefinitions[0]";
    let no = "is not supported with the Fargate launch type";
    let lines = [
        "pidMode: Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'.".to_owned(),
        format!("ipcMode: {no}"),
        format!("volumes[0].host.sourcePath: {no}"),
        format!("volumes[1].dockerVolumeConfiguration: {no}"),
        format!("{container}.privileged: {no}"),
        format!("{container}.dockerSecurityOptions: {no}"),
        format!("{container}.linuxParameters.devices: {no}"),
        format!("{container}.linuxParameters.sharedMemorySize: {no}"),
        format!("{container}.linuxParameters.maxSwap: {no}"),
        format!("{container}.linuxParameters.swappiness: {no}"),
        format!("{container}.linuxParameters.capabilities.add[1]: only SYS_PTRACE can be added with the Fargate launch type"),
        format!("{container}.stopTimeout: must be at most 120 with the Fargate launch type, is 121"),
        format!("{container}.logConfiguration.logDriver: must be awslogs, splunk or awsfirelens with the Fargate launch type, is \"json-file\""),
    ];
    assert_eq!(problems(&definition), lines);
}

#[test]
fn kinds_come_in_order_with_all_problems_at_once() {
    let definition = container(json!({"memory": "64", "zzz": 1, "user": ":", "secrets": [
        {"name": "A", "valueFrom": "x"}
    ]}));
    let error = parse(&definition.to_string()).unwrap_err();
    let kinds: Vec<_> = error.iter().map(|problem| problem.kind).collect();
    use ProblemKind::{Invalid, Malformed, NotSupportedYet, UnknownField};
    assert_eq!(kinds, [Malformed, UnknownField, Invalid, Invalid, NotSupportedYet]);
    assert!(!error.only_not_supported_yet());
    let definition = container(json!({"links": [], "credentialSpecs": ["x"]}));
    assert!(parse(&definition.to_string()).unwrap_err().only_not_supported_yet());
}
