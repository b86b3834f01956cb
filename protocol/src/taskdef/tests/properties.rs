//! Whatever comes in: no panic, and what is accepted keeps the invariants that others rely on.

use std::collections::HashSet;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

fn check(text: &str) -> Result<(), TestCaseError> {
    match parse(text) {
        Err(problems) => {
            prop_assert!(problems.iter().next().is_some());
            for problem in &problems {
                let line = problem.to_string();
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
        Ok(definition) => invariants(&definition)?,
    }
    Ok(())
}

fn invariants(definition: &TaskDefinition) -> Result<(), TestCaseError> {
    let json = serde_json::to_string(definition).unwrap();
    let again: TaskDefinition = serde_json::from_str(&json).unwrap();
    prop_assert_eq!(&again, definition);
    prop_assert!((1..=10).contains(&definition.containers.len()));
    prop_assert!(definition.containers.iter().any(|c| c.essential));
    let names: HashSet<_> = definition.containers.iter().map(|c| &c.name).collect();
    let volumes: HashSet<_> = definition.volumes.iter().map(|v| &v.name).collect();
    prop_assert_eq!(names.len(), definition.containers.len());
    prop_assert_eq!(volumes.len(), definition.volumes.len());
    let mut ports = HashSet::new();
    // Taking away what depends on nothing that is left ends with nothing: no cycle.
    let mut left: Vec<_> = definition.containers.iter().collect();
    while !left.is_empty() {
        let waiting: HashSet<_> = left.iter().map(|c| c.name.clone()).collect();
        let before = left.len();
        left.retain(|c| {
            c.depends_on.iter().any(|d| waiting.contains(&d.container))
                || c.volumes_from.iter().any(|v| waiting.contains(&v.source_container))
        });
        prop_assert!(left.len() < before, "cycle");
    }
    for container in &definition.containers {
        prop_assert!(!container.name.is_empty() && !container.image.is_empty());
        prop_assert!(container.mount_points.iter().all(|m| volumes.contains(&m.source_volume)));
        prop_assert!(container.depends_on.iter().all(|d| names.contains(&d.container)));
        prop_assert!(container.memory.is_none_or(|memory| memory >= 6));
        for port in container.port_mappings.iter().filter(|port| port.host_port != 0) {
            prop_assert!(ports.insert((port.host_port, port.protocol)));
        }
        let variables: HashSet<_> = container.environment.iter().map(|(name, _)| name).collect();
        prop_assert_eq!(variables.len(), container.environment.len());
    }
    Ok(())
}

fn any_text() -> impl Strategy<Value = String> {
    let words = select(vec![
        "",
        "web",
        "a",
        "/",
        "/data",
        "80",
        "host",
        "awsvpc",
        "task",
        "START",
        "SUCCESS",
        "json-file",
        "FARGATE",
        "1 vCPU",
        "2 GB",
        "\0",
        "name:alias",
        "::1",
        "\u{1b}[0m\u{202e}",
    ]);
    prop_oneof![3 => words.prop_map(str::to_owned), 1 => any::<String>()]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2_i64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(any_key(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let known = select(vec![
        "family",
        "containerDefinitions",
        "name",
        "image",
        "memory",
        "cpu",
        "portMappings",
        "containerPort",
        "hostPort",
        "dependsOn",
        "containerName",
        "condition",
        "volumes",
        "host",
        "taskDefinition",
        "tags",
        "key",
        "value",
        "linuxParameters",
        "networkMode",
        "healthCheck",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

/// Everything in the value, as JSON pointers.
fn pointers(value: &Value, at: String, all: &mut Vec<String>) {
    let mut into = |key: String, value: &Value| {
        pointers(value, format!("{at}/{key}"), all);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| into(key.clone(), value)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| into(index.to_string(), value));
        }
        _ => {}
    }
    all.push(at);
}

proptest! {
    #[test]
    fn any_text_is_survived(text in ".{0,200}") {
        check(&text)?;
    }

    #[test]
    fn any_json_is_survived(value in any_json()) {
        check(&value.to_string())?;
        prop_assert_eq!(from_value(&value).is_ok(), parse(&value.to_string()).is_ok());
    }

    #[test]
    fn mutated_definitions_are_survived(
        mutations in vec((any::<Index>(), any_json(), any::<bool>()), 1..4),
    ) {
        let mut definition = full();
        for (place, value, swap) in mutations {
            let mut all = Vec::new();
            pointers(&definition, String::new(), &mut all);
            let target = place.get(&all).clone();
            // Another part of the definition is nearer to a valid value than anything random.
            let value = if swap {
                let source = place.index(all.len().div_ceil(2));
                definition.pointer(&all[source]).cloned().unwrap_or(value)
            } else {
                value
            };
            if let Some(slot) = definition.pointer_mut(&target) {
                *slot = value;
            }
        }
        check(&definition.to_string())?;
    }

    #[test]
    fn cut_definitions_are_survived(cut in any::<Index>()) {
        let text = full().to_string();
        let mut end = cut.index(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        check(&text[..end])?;
    }

    /// Any dependencies: accepted exactly if there is no cycle, and then the invariants hold.
    #[test]
    fn any_dependencies(edges in vec((0..6_usize, 0..6_usize), 0..12)) {
        let list: Vec<_> = (0..6)
            .map(|n| {
                let on: Vec<_> = edges.iter().filter(|(from, _)| *from == n)
                    .map(|(_, to)| json!({"containerName": format!("c{to}"), "condition": "START"}))
                    .collect();
                json!({"name": format!("c{n}"), "dependsOn": on})
            })
            .collect();
        let definition = containers(json!(list));
        let mut left: HashSet<usize> = (0..6).collect();
        loop {
            let free: Vec<_> = left.iter().copied()
                .filter(|n| !edges.iter().any(|(from, to)| from == n && left.contains(to)))
                .collect();
            if free.is_empty() {
                break;
            }
            left.retain(|n| !free.contains(n));
        }
        prop_assert_eq!(parse(&definition.to_string()).is_ok(), left.is_empty());
        check(&definition.to_string())?;
    }
}
