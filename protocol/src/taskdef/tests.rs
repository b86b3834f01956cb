//! Tests of the whole: text in, definition or problems out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accepted;
mod model;
mod properties;
mod refused;
mod refused_task;
mod text_level;

use serde_json::{Map, Value, json};

use super::*;

/// A definition of one container with these members beside (or in place of) the required ones.
fn container(members: Value) -> Value {
    let first = merge(json!({"name": "web", "image": "nginx", "memory": 64}), members);
    json!({"family": "site", "containerDefinitions": [first]})
}

/// A definition of the container `web` with these members at the task level.
fn task(members: Value) -> Value {
    merge(container(json!({})), members)
}

/// A definition of these containers; image and memory are filled in.
fn containers(list: Value) -> Value {
    let list = list.as_array().unwrap().iter();
    let list: Vec<_> = list
        .map(|members| merge(json!({"image": "nginx", "memory": 64}), members.clone()))
        .collect();
    json!({"family": "site", "containerDefinitions": list})
}

fn merge(base: Value, members: Value) -> Value {
    let (Value::Object(mut base), Value::Object(members)) = (base, members) else {
        panic!("not objects");
    };
    base.extend(members);
    Value::Object(base)
}

/// What is printed for a refused definition, by lines.
fn problems(definition: &Value) -> Vec<String> {
    match parse(&definition.to_string()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

#[track_caller]
fn accepted(definition: &Value) -> TaskDefinition {
    match parse(&definition.to_string()) {
        Ok(definition) => definition,
        Err(problems) => panic!("{definition:#}\n{problems}"),
    }
}

#[track_caller]
fn refused(definition: &Value, lines: &[&str]) {
    assert_eq!(problems(definition), lines, "{definition:#}");
}

/// A definition that gives every member we act on a value that is not its default.
fn full() -> Value {
    serde_json::from_str(include_str!("tests/full.json")).unwrap()
}
