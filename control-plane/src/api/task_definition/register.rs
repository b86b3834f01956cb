//! RegisterTaskDefinition: validated whole by `protocol::taskdef`, stored as sent with the documented
//! defaults filled in, so that tools which compare what they sent with what is described see no
//! difference of their own making.

use protocol::aws_json::ApiError;
use protocol::taskdef::{self, NetworkMode, TaskDefinition};
use serde_json::{Map, Value, json};

use super::{attributes, shape};
use crate::api::{Answer, Context, errors, lookup};
use crate::model::{Definition, DefinitionStatus, Family};
use crate::scheduler::query::Expression;

pub(super) async fn register(cx: &Context, body: &[u8]) -> Answer {
    let answer = decide(cx, body).await?;
    serde_json::to_vec(&answer).map_err(|error| ApiError::server(error.to_string()))
}

async fn decide(cx: &Context, body: &[u8]) -> Result<Value, ApiError> {
    let malformed = |error: &dyn std::fmt::Display| {
        ApiError::client("SerializationException", error.to_string())
    };
    let text = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
    if text.len() > taskdef::MAX_BYTES {
        return Err(errors::client(format!(
            "Task definition is {} bytes long, at most {} (64 KiB) are allowed.",
            text.len(),
            taskdef::MAX_BYTES
        )));
    }
    let mut request: Value = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    // What is described can be registered; in a request of the API it is not wrapped.
    if request.get("taskDefinition").is_some() {
        return Err(errors::client("taskDefinition: unknown field"));
    }
    let definition =
        taskdef::parse(text).map_err(|problems| errors::client(problems.to_string()))?;
    for expression in &definition.placement_constraints {
        if let Err(error) = Expression::parse(expression) {
            let message = format!("Invalid placement constraint expression: {error}");
            return Err(errors::client(message));
        }
    }
    let tags = definition
        .tags
        .iter()
        .map(|(key, value)| protocol::ecs::Tag {
            key: Some(key.clone()),
            value: Some(value.clone()),
        })
        .collect();
    let tags = lookup::tags(Some(tags))?;
    let compatibilities = compatibilities(&request, &definition);
    normalise(&mut request, &definition);
    let requires_attributes = attributes::required(&request);
    let mut new = Definition {
        region: cx.region.clone(),
        family: definition.family.clone(),
        revision: 0,
        status: DefinitionStatus::Active,
        definition,
        registered: request,
        requires_attributes,
        compatibilities,
        registered_at: cx.now,
        registered_by: cx.principal.clone(),
        deregistered_at: None,
        delete_requested_at: None,
        tags,
    };
    let described = cx
        .transact(|view, edit| {
            let before = view.families.get(&Family::key_of(&cx.region, &new.family));
            let last = before.map_or(0, |family| family.last_revision);
            new.revision = last.checked_add(1).ok_or_else(|| {
                ApiError::client("LimitExceededException", "The family has no revisions left.")
            })?;
            let family = Family {
                region: cx.region.clone(),
                name: new.family.clone(),
                last_revision: new.revision,
            };
            match before {
                Some(before) => edit.update(before, &family),
                None => edit.create(&family),
            }
            edit.create(&new);
            Ok(shape(cx, &new))
        })
        .await?;
    Ok(json!({"taskDefinition": described, "tags": new.tags}))
}

/// The launch types that could run it. EC2 takes all; for FARGATE the question is whether the
/// definition would be valid if it named it.
fn compatibilities(request: &Value, definition: &TaskDefinition) -> Vec<String> {
    let mut names = Vec::new();
    if definition.network_mode != NetworkMode::Awsvpc {
        names.push("EXTERNAL".to_owned());
    }
    names.push("EC2".to_owned());
    let mut on_fargate = request.clone();
    if let Value::Object(members) = &mut on_fargate {
        members.insert("requiresCompatibilities".to_owned(), json!(["FARGATE"]));
    }
    if taskdef::from_value(&on_fargate).is_ok() {
        names.push("FARGATE".to_owned());
    }
    names
}

/// Members that a request carries and the definition does not, or that only we write.
const NOT_REGISTERED: &[&str] = &[
    "tags",
    "taskDefinitionArn",
    "revision",
    "status",
    "requiresAttributes",
    "compatibilities",
    "registeredAt",
    "registeredBy",
    "deregisteredAt",
    "deleteRequestedAt",
];

/// Makes of a valid request what is described: nulls, which mean absent, go; defaults come.
fn normalise(request: &mut Value, definition: &TaskDefinition) {
    drop_nulls(request);
    let Value::Object(task) = request else { return };
    task.retain(|name, value| {
        !NOT_REGISTERED.contains(&name.as_str()) && value.as_str() != Some("")
    });
    default(task, "networkMode", json!("bridge"));
    default(task, "volumes", json!([]));
    default(task, "placementConstraints", json!([]));
    // Amounts may have units; they are kept as numbers.
    for (name, amount) in [("cpu", definition.cpu), ("memory", definition.memory)] {
        if let Some(amount) = amount {
            task.insert(name.to_owned(), json!(amount.to_string()));
        }
    }
    let containers = task.get_mut("containerDefinitions").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
        default(container, "cpu", json!(0));
        default(container, "essential", json!(true));
        for name in ["environment", "mountPoints", "volumesFrom", "portMappings", "systemControls"]
        {
            default(container, name, json!([]));
        }
        let mappings = container.get_mut("portMappings").and_then(Value::as_array_mut);
        for mapping in mappings.into_iter().flatten().filter_map(Value::as_object_mut) {
            default(mapping, "protocol", json!("tcp"));
            let Some(container_port) = mapping.get("containerPort").cloned() else { continue };
            let host_port = match definition.network_mode {
                NetworkMode::Host | NetworkMode::Awsvpc => container_port,
                NetworkMode::Bridge | NetworkMode::None => json!(0),
            };
            default(mapping, "hostPort", host_port);
        }
    }
}

fn default(members: &mut Map<String, Value>, name: &str, value: Value) {
    members.entry(name).or_insert(value);
}

/// Members that are null are as if they were not there; elements of lists are left alone. The depth
/// is bounded by the parser.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, value| !value.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn normalised(mut request: Value) -> (Value, Vec<String>) {
        let definition = taskdef::from_value(&request).unwrap();
        let compatibilities = compatibilities(&request, &definition);
        normalise(&mut request, &definition);
        (request, compatibilities)
    }

    #[test]
    fn defaults_are_added_and_nothing_else() {
        let (bridge, compatibilities) = normalised(json!({
            "family": "web",
            "taskRoleArn": "",
            "executionRoleArn": null,
            "cpu": ".5 vCPU",
            "memory": "1 GB",
            "tags": [{"key": "a", "value": "b"}],
            "revision": 7,
            "containerDefinitions": [{
                "name": "web",
                "image": "nginx",
                "command": null,
                "portMappings": [{"containerPort": 80}, {"containerPort": 53, "protocol": "udp"}],
            }],
        }));
        assert_eq!(
            bridge,
            json!({
                "family": "web",
                "networkMode": "bridge",
                "volumes": [],
                "placementConstraints": [],
                "cpu": "512",
                "memory": "1024",
                "containerDefinitions": [{
                    "name": "web",
                    "image": "nginx",
                    "cpu": 0,
                    "essential": true,
                    "environment": [],
                    "mountPoints": [],
                    "volumesFrom": [],
                    "systemControls": [],
                    "portMappings": [
                        {"containerPort": 80, "hostPort": 0, "protocol": "tcp"},
                        {"containerPort": 53, "hostPort": 0, "protocol": "udp"},
                    ],
                }],
            })
        );
        assert_eq!(compatibilities, ["EXTERNAL", "EC2"]);
    }

    #[test]
    fn a_normalised_definition_is_a_definition() {
        let text = include_str!("../../../../protocol/src/taskdef/tests/full.json");
        let full: Value = serde_json::from_str(text).unwrap();
        let before = taskdef::from_value(&full).unwrap();
        let (once, _) = normalised(full);
        let after = taskdef::from_value(&once).unwrap();
        assert_eq!(TaskDefinition { tags: Vec::new(), ..before }, after);
        assert_eq!(normalised(once.clone()).0, once);
    }

    #[test]
    fn fargate_is_what_would_be_valid_there() {
        let mut request = json!({
            "family": "web",
            "networkMode": "awsvpc",
            "cpu": "256",
            "memory": "512",
            "containerDefinitions": [
                {"name": "web", "image": "nginx", "portMappings": [{"containerPort": 80}]},
            ],
        });
        let (described, compatibilities) = normalised(request.clone());
        assert_eq!(compatibilities, ["EC2", "FARGATE"]);
        assert_eq!(described["containerDefinitions"][0]["portMappings"][0]["hostPort"], 80);
        request["memory"] = json!("300");
        assert_eq!(normalised(request).1, ["EC2"]);
    }
}
