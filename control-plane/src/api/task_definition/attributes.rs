//! `requiresAttributes`: what an instance must be able to do to run a definition, as names that
//! agents register (ECS agent protocol, section 5.3). Placement compares them.

use std::collections::BTreeSet;

use protocol::ecr;
use serde_json::Value;

/// A rule: members of a container (or of the task, with `task.`) that are in use need attributes.
struct Rule {
    path: &'static str,
    attributes: &'static [&'static str],
}

const fn rule(path: &'static str, attributes: &'static [&'static str]) -> Rule {
    Rule { path, attributes }
}

const API_1_18: &str = "com.amazonaws.ecs.capability.docker-remote-api.1.18";
const API_1_19: &str = "com.amazonaws.ecs.capability.docker-remote-api.1.19";
const API_1_21: &str = "com.amazonaws.ecs.capability.docker-remote-api.1.21";
const API_1_22: &str = "com.amazonaws.ecs.capability.docker-remote-api.1.22";
const API_1_24: &str = "com.amazonaws.ecs.capability.docker-remote-api.1.24";
const API_1_25: &str = "com.amazonaws.ecs.capability.docker-remote-api.1.25";
const ORDERING: &str = "ecs.capability.container-ordering";
const LOGGING: &str = "com.amazonaws.ecs.capability.logging-driver.";

/// In the order of the paths.
const CONTAINER: &[Rule] = &[
    rule("dependsOn", &[ORDERING]),
    rule("environmentFiles", &["ecs.capability.env-files.s3"]),
    rule("healthCheck", &["ecs.capability.container-health-check", API_1_24]),
    rule("linuxParameters.initProcessEnabled", &[API_1_25]),
    rule("linuxParameters.sharedMemorySize", &[API_1_22]),
    rule("linuxParameters.tmpfs", &[API_1_22]),
    rule("memoryReservation", &[API_1_21]),
    rule("privileged", &["com.amazonaws.ecs.capability.privileged-container"]),
    rule(
        "repositoryCredentials",
        &["ecs.capability.private-registry-authentication.secretsmanager"],
    ),
    rule("restartPolicy.enabled", &["ecs.capability.container-restart-policy"]),
    rule("startTimeout", &[ORDERING]),
    rule("stopTimeout", &[ORDERING]),
    rule("ulimits", &[API_1_18]),
];

/// The attributes that the registered (valid) definition needs.
pub(super) fn required(definition: &Value) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    let mut need = |names: &[&str]| needed.extend(names.iter().map(|name| (*name).to_owned()));
    let execution_role = in_use(definition, "executionRoleArn");
    let network_mode = definition.get("networkMode").and_then(Value::as_str);
    if network_mode == Some("awsvpc") {
        need(&["ecs.capability.task-eni", API_1_18]);
    }
    if in_use(definition, "taskRoleArn") {
        need(&["com.amazonaws.ecs.capability.task-iam-role", API_1_19]);
        if network_mode == Some("host") {
            need(&["com.amazonaws.ecs.capability.task-iam-role-network-host"]);
        }
    }
    for mode in ["pidMode", "ipcMode"] {
        if definition.get(mode).and_then(Value::as_str) == Some("task") {
            need(&["ecs.capability.pid-ipc-namespace-sharing"]);
        }
    }
    for volume in list(definition, "volumes") {
        if in_use(volume, "efsVolumeConfiguration") {
            need(&["ecs.capability.efs"]);
        }
        if volume.get("dockerVolumeConfiguration").is_some() {
            need(&["ecs.capability.docker-plugin.local"]);
        }
    }
    for container in list(definition, "containerDefinitions") {
        for rule in CONTAINER {
            if in_use(container, rule.path) {
                need(rule.attributes);
            }
        }
        if let Some(driver) = at(container, "logConfiguration.logDriver").and_then(Value::as_str) {
            need(&[&format!("{LOGGING}{driver}"), API_1_18]);
            if driver == "awslogs" && execution_role {
                need(&["ecs.capability.execution-role-awslogs", API_1_19]);
            }
        }
        let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
        if let Some(registry) = ecr::Registry::of_image(image) {
            need(&["com.amazonaws.ecs.capability.ecr-auth", API_1_19]);
            if execution_role {
                need(&["ecs.capability.execution-role-ecr-pull"]);
            }
            if registry.has_own_api() {
                need(&["ecs.capability.ecr-endpoint"]);
            }
        }
        for secret in list(container, "secrets") {
            let from = secret.get("valueFrom").and_then(Value::as_str).unwrap_or_default();
            let from_manager = from.split(':').nth(2) == Some("secretsmanager");
            need(&[if from_manager {
                "ecs.capability.secrets.asm.environment-variables"
            } else {
                "ecs.capability.secrets.ssm.environment-variables"
            }]);
        }
    }
    needed
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// Whether the member is there and says more than "off".
fn in_use(value: &Value, path: &str) -> bool {
    match at(value, path) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(elements)) => !elements.is_empty(),
        Some(Value::Bool(true) | Value::Number(_) | Value::Object(_)) => true,
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_container(container: Value) -> Vec<String> {
        required(&json!({"containerDefinitions": [container]})).into_iter().collect()
    }

    #[test]
    fn rules_are_sorted() {
        assert!(CONTAINER.is_sorted_by_key(|rule| rule.path));
    }

    #[test]
    fn what_is_used_is_needed() {
        assert!(of_container(json!({"image": "nginx", "memory": 64})).is_empty());
        for (container, attributes) in [
            (json!({"privileged": false}), vec![]),
            (
                json!({"privileged": true}),
                vec!["com.amazonaws.ecs.capability.privileged-container"],
            ),
            (json!({"dependsOn": [{}], "stopTimeout": 2}), vec![ORDERING]),
            (
                json!({"logConfiguration": {"logDriver": "awslogs"}}),
                vec![API_1_18, "com.amazonaws.ecs.capability.logging-driver.awslogs"],
            ),
            (
                json!({"image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x"}),
                vec![API_1_19, "com.amazonaws.ecs.capability.ecr-auth"],
            ),
            (
                json!({"image": "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com/x"}),
                vec![
                    API_1_19,
                    "com.amazonaws.ecs.capability.ecr-auth",
                    "ecs.capability.ecr-endpoint",
                ],
            ),
            (
                json!({"repositoryCredentials": {"credentialsParameter": "login"}}),
                vec!["ecs.capability.private-registry-authentication.secretsmanager"],
            ),
            (
                json!({"secrets": [{"valueFrom": "arn:aws:secretsmanager:r:1:secret:x"}]}),
                vec!["ecs.capability.secrets.asm.environment-variables"],
            ),
        ] {
            assert_eq!(of_container(container.clone()), attributes, "{container}");
        }
    }

    #[test]
    fn what_the_task_uses_is_needed() {
        let needed = required(&json!({
            "networkMode": "host",
            "taskRoleArn": "reader",
            "executionRoleArn": "puller",
            "volumes": [{"name": "v", "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}],
            "containerDefinitions": [{"logConfiguration": {"logDriver": "awslogs"}}],
        }));
        for name in [
            "com.amazonaws.ecs.capability.task-iam-role",
            "com.amazonaws.ecs.capability.task-iam-role-network-host",
            "ecs.capability.efs",
            "ecs.capability.execution-role-awslogs",
        ] {
            assert!(needed.contains(name), "{name}");
        }
        let awsvpc = required(&json!({"networkMode": "awsvpc"}));
        assert!(awsvpc.contains("ecs.capability.task-eni"));
    }
}
