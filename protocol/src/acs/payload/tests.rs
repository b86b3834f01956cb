//! There and back, and what is refused on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod generate;
mod refused;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::acs::{Payload, RawTask, Task};
use crate::ecs::{ContainerOverride, KeyValuePair};
use crate::taskdef::{self, Compatibility};

fn credentials(role: &str) -> Credentials {
    Credentials {
        credentials_id: Some("id".to_owned()),
        role_arn: Some(role.to_owned()),
        ..Credentials::default()
    }
}

fn tags(definition: &TaskDefinition) -> Vec<Tag> {
    let tags = definition.tags.iter();
    tags.map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// The payload of a definition without overrides, through its text on the wire.
fn payload(definition: &TaskDefinition, overrides: &TaskOverride, launch_type: &str) -> Task {
    let arns: Vec<_> = (0..definition.containers.len()).map(|n| format!("arn:{n}")).collect();
    let task = task(&TaskInput {
        arn: "arn:aws:ecs:local:000000000000:task/default/0123456789abcdef0123456789abcdef",
        cluster_arn: "arn:aws:ecs:local:000000000000:cluster/default",
        definition,
        revision: 3,
        desired: "RUNNING",
        overrides,
        container_arns: &arns,
        launch_type,
        service_name: None,
        group: "family:full",
        role_credentials: definition.task_role_arn.as_deref().map(credentials),
        execution_role_credentials: definition.execution_role_arn.as_deref().map(credentials),
        tags: &tags(definition),
        elastic_network_interfaces: None,
    });
    let raw = serde_json::value::to_raw_value(&task).unwrap();
    let payload = Payload { tasks: vec![RawTask(raw)], ..Payload::default() };
    let text = serde_json::to_string(&payload).unwrap();
    let payload: Payload = serde_json::from_str(&text).unwrap();
    serde_json::from_str(payload.tasks[0].0.get()).unwrap()
}

/// The definition less what a payload cannot carry (see the module's documentation).
fn carried(definition: &TaskDefinition, launch_type: Compatibility, env: &str) -> TaskDefinition {
    let mut carried = definition.clone();
    carried.requires_compatibilities = vec![launch_type];
    carried.cpu_architecture = None;
    carried.placement_constraints = Vec::new();
    for container in &mut carried.containers {
        if !container.environment.iter().any(|(name, _)| name == EXECUTION_ENV) {
            container.environment.push((EXECUTION_ENV.to_owned(), env.to_owned()));
        }
        container.environment.sort();
        container.system_controls.sort();
        container.linux.tmpfs.sort_by(|a, b| a.container_path.cmp(&b.container_path));
    }
    carried
}

#[track_caller]
fn there_and_back(definition: &TaskDefinition) {
    let none = TaskOverride::default();
    let back = super::definition(&payload(definition, &none, "EC2")).unwrap();
    assert_eq!(back, carried(definition, Compatibility::Ec2, "AWS_ECS_EC2"));
}

#[test]
fn everything_we_act_on() {
    let full = taskdef::parse(include_str!("../../taskdef/tests/full.json")).unwrap();
    there_and_back(&full);
}

#[test]
fn the_example() {
    let text = include_str!("../../../../examples/web-xray.json");
    there_and_back(&taskdef::parse(text).unwrap());
}

#[test]
fn launch_types() {
    let text = r#"{"family":"f","networkMode":"awsvpc","requiresCompatibilities":["FARGATE"],
        "cpu":"256","memory":"512","containerDefinitions":[{"name":"a","image":"i"}]}"#;
    let definition = taskdef::parse(text).unwrap();
    let none = TaskOverride::default();
    let back = super::definition(&payload(&definition, &none, "FARGATE")).unwrap();
    assert_eq!(back, carried(&definition, Compatibility::Fargate, "AWS_ECS_FARGATE"));
    let text = r#"{"family":"f","containerDefinitions":[{"name":"a","image":"i","memory":9,
        "environment":[{"name":"AWS_EXECUTION_ENV","value":"mine"}]}]}"#;
    let definition = taskdef::parse(text).unwrap();
    let task = payload(&definition, &none, "EXTERNAL");
    let back = super::definition(&task).unwrap();
    assert_eq!(back, carried(&definition, Compatibility::External, ""));
    // Nothing that could be off is written.
    let docker = task.containers.unwrap()[0].docker_config.clone().unwrap();
    assert_eq!(docker.config.as_deref(), Some("{}"));
    assert_eq!(docker.host_config.as_deref(), Some(r#"{"NetworkMode":"bridge"}"#));
}

#[test]
fn logins_of_registries() {
    let ecr = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/web";
    let fips = "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com/web";
    let arn = "arn:aws:secretsmanager:eu-x-1:000000000000:secret:login-a1B2c3";
    let authentication = |image: &str, secret: Option<&str>, role: Option<&str>| {
        let mut container = json!({"name": "a", "image": image, "memory": 9});
        if let Some(secret) = secret {
            container["repositoryCredentials"] = json!({"credentialsParameter": secret});
        }
        let definition = json!({
            "family": "f", "containerDefinitions": [container], "executionRoleArn": role,
        });
        let definition = taskdef::from_value(&definition).unwrap();
        there_and_back(&TaskDefinition {
            execution_role_arn: role.map(str::to_owned),
            ..definition.clone()
        });
        let task = payload(&definition, &TaskOverride::default(), "EC2");
        let written = task.containers.unwrap().remove(0).registry_authentication;
        serde_json::to_value(written).unwrap()
    };
    let role = Some("puller");
    assert_eq!(authentication("nginx", None, role), Value::Null);
    assert_eq!(
        authentication(ecr, None, None),
        json!({"type": "ecr", "ecrAuthData":
            {"registryId": "123456789012", "region": "eu-west-1", "useExecutionRole": false}})
    );
    assert_eq!(
        authentication(fips, None, role),
        json!({"type": "ecr", "ecrAuthData":
            {"registryId": "123456789012", "region": "us-east-1", "useExecutionRole": true,
             "endpointOverride": "ecr-fips.us-east-1.amazonaws.com"}})
    );
    for (secret, region) in [(arn, "eu-x-1"), ("team/login", "local")] {
        let expected = json!({"type": "asm", "asmAuthData":
            {"credentialsParameter": secret, "region": region}});
        assert_eq!(authentication("r.example/web", Some(secret), role), expected);
        assert_eq!(authentication(ecr, Some(secret), role), expected);
    }
}

#[test]
fn overrides_are_applied() {
    let text = r#"{"family":"f","cpu":"256","memory":"512","containerDefinitions":[
        {"name":"a","image":"i","cpu":10,"memory":100,"memoryReservation":50,"command":["x"],
         "environment":[{"name":"A","value":"1"},{"name":"B","value":"2"}],
         "linuxParameters":{"maxSwap":7}},
        {"name":"b","image":"i"}]}"#;
    let definition = taskdef::parse(text).unwrap();
    let variable = |name: &str, value: &str| KeyValuePair {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
    };
    let overrides = TaskOverride {
        cpu: Some("1 vCPU".to_owned()),
        memory: Some("1 GB".to_owned()),
        container_overrides: Some(vec![ContainerOverride {
            name: Some("a".to_owned()),
            command: Some(vec!["y".to_owned(), "z".to_owned()]),
            environment: Some(vec![variable("B", "3"), variable("C", "4")]),
            cpu: Some(20),
            memory: Some(200),
            memory_reservation: Some(60),
            ..ContainerOverride::default()
        }]),
        ..TaskOverride::default()
    };
    let back = super::definition(&payload(&definition, &overrides, "EC2")).unwrap();
    let mut expected = carried(&definition, Compatibility::Ec2, "AWS_ECS_EC2");
    (expected.cpu, expected.memory) = (Some(1024), Some(1024));
    let a = &mut expected.containers[0];
    a.command = Some(vec!["y".to_owned(), "z".to_owned()]);
    a.environment = [("A", "1"), ("AWS_EXECUTION_ENV", "AWS_ECS_EC2"), ("B", "3"), ("C", "4")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    (a.cpu, a.memory, a.memory_reservation) = (20, Some(200), Some(60));
    assert_eq!(back, expected);
}

/// The example of the protocol's reference, as Amazon ECS writes it.
#[test]
fn a_payload_of_amazon() {
    let task: Task = serde_json::from_value(json!({
        "arn": "arn:aws:ecs:eu-x-1:1:task/c/aaaa", "family": "web", "version": "3",
        "desiredStatus": "RUNNING", "networkMode": "", "cpu": 0.25, "memory": 128,
        "pidMode": "", "ipcMode": null, "overrides": "{}", "volumes": [],
        "containers": [{
            "name": "app", "image": "registry.local/app:1", "essential": true, "cpu": 128,
            "memory": 64, "environment": {"A": "b"}, "command": [], "entryPoint": null,
            "portMappings": [{"containerPort": 80, "hostPort": 0, "protocol": "tcp"}],
            "overrides": "{\"command\":[\"serve\"]}", "secrets": [], "stopTimeout": 0,
            "linuxParameters": {"initProcessEnabled": true}, "logsAuthStrategy": "",
            "dockerConfig": {
                "version": "1.18",
                "config": "{\"Labels\":null,\"Tty\":false,\"Healthcheck\":{\"Test\":[]}}",
                "hostConfig": "{\"NetworkMode\":\"bridge\",\"CapAdd\":[],\"CpuPercent\":0,\
                    \"LogConfig\":{\"Type\":\"\",\"Config\":null},\"ShmSize\":67108864,\
                    \"Tmpfs\":{\"/run\":\"rw,noexec,size=65536k\"}}"
            }
        }]
    }))
    .unwrap();
    let definition = super::definition(&task).unwrap();
    let app = &definition.containers[0];
    assert_eq!((definition.cpu, definition.memory), (Some(256), Some(128)));
    assert_eq!((app.cpu, app.memory), (128, Some(64)));
    assert_eq!(app.command.as_deref(), Some(&["serve".to_owned()][..]));
    assert_eq!((&app.entry_point, app.stop_timeout), (&None, None));
    assert_eq!(app.linux.shared_memory_size, Some(64));
    let tmpfs = &app.linux.tmpfs[0];
    assert_eq!((tmpfs.container_path.as_str(), tmpfs.size), ("/run", 64));
    assert_eq!(tmpfs.mount_options, ["rw", "noexec"]);
}

#[test]
fn tags_of_ecs_itself_are_kept() {
    let text = r#"{"family":"f","containerDefinitions":[{"name":"a","image":"i","memory":9}]}"#;
    let mut definition = taskdef::parse(text).unwrap();
    definition.tags = vec![("aws:ecs:clusterName".to_owned(), "default".to_owned())];
    there_and_back(&definition);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_definition_comes_back(value in generate::definition()) {
        let definition = match taskdef::from_value(&value) {
            Ok(definition) => definition,
            Err(problems) => return Err(TestCaseError::fail(format!("{problems}\n{value}"))),
        };
        let none = TaskOverride::default();
        let back = super::definition(&payload(&definition, &none, "EC2"));
        let back = back.map_err(|error| TestCaseError::fail(format!("{error}\n{value}")))?;
        prop_assert_eq!(back, carried(&definition, Compatibility::Ec2, "AWS_ECS_EC2"));
    }

    /// Whatever stands in a payload: no panic, and no error that could break a terminal.
    #[test]
    fn any_payload_is_survived(
        config in ".{0,60}",
        members in generate::any_json(),
        key in generate::docker_key(),
        place in 0..4_usize,
    ) {
        let mut docker = json!({"config": "{}", "hostConfig": "{}"});
        let mut container = json!({"name": "a", "image": "i", "essential": true, "memory": 64});
        let mut root = json!({"family": "f"});
        match place {
            0 => docker["config"] = config.into(),
            1 => docker["hostConfig"] = json!({key: members}).to_string().into(),
            2 => docker["config"] = json!({key: members}).to_string().into(),
            _ => container["overrides"] = members.clone(),
        }
        container["dockerConfig"] = docker;
        root["containers"] = json!([container]);
        if let Ok(task) = serde_json::from_value::<Task>(root)
            && let Err(error) = super::definition(&task)
        {
            let text = error.to_string();
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}
