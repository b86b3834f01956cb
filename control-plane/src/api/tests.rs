//! Operations on clusters, definitions, instances, tags and agents' reports over the real store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::testing::context;
use super::{Context, ecs};
use crate::config::Config;
use crate::model::Instance;
use crate::state::testing;

mod cluster;
mod definition;
mod instance;
mod tag;

pub(super) struct Api {
    pub(super) cx: Context,
    _directory: tempfile::TempDir,
}

const ARN: &str = "arn:aws:ecs:eu-west-1:000000000000:";

impl Api {
    pub(super) async fn new() -> Self {
        let (directory, state) = testing::open().await;
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let cx = Context { now, ..context(&state) };
        Self { cx, _directory: directory }
    }

    /// With the cluster `default`.
    async fn with_cluster() -> Self {
        let api = Self::new().await;
        api.ok("CreateCluster", json!({})).await;
        api
    }

    async fn ok(&self, operation: &str, request: Value) -> Value {
        let body = serde_json::to_vec(&request).unwrap();
        let answer = ecs(&self.cx, operation, &body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{operation} {request}: {error}"));
        serde_json::from_slice(&answer).unwrap()
    }

    /// The name and message of the error.
    async fn refused(&self, operation: &str, request: Value) -> (String, String) {
        let body = serde_json::to_vec(&request).unwrap();
        let answer = ecs(&self.cx, operation, &body).await;
        let error = answer.expect_err(&format!("{operation} {request} is accepted"));
        assert_eq!(error.status, 400, "{operation}: {error}");
        (error.name, error.message)
    }

    async fn register_definition(&self, members: Value) -> Value {
        let mut request = json!({
            "family": "web",
            "containerDefinitions": [{"name": "web", "image": "nginx", "memory": 64}],
        });
        request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.ok("RegisterTaskDefinition", request).await["taskDefinition"].clone()
    }

    async fn register_instance(&self, members: Value) -> Value {
        let mut request = registration();
        request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.ok("RegisterContainerInstance", request).await["containerInstance"].clone()
    }

    /// Lets the instance have a connected agent, as a session would.
    async fn connect(&self, instance: &Value) {
        let id = id(&instance["containerInstanceArn"]);
        let connection = crate::model::Connection {
            region: self.cx.region.clone(),
            cluster: "default".to_owned(),
            instance: id,
            session: "s".to_owned(),
            since: self.cx.now,
        };
        let put = |_: &_, edit: &mut crate::state::Edit| {
            edit.put(&connection);
            Ok::<_, crate::state::Error>(())
        };
        self.cx.state.transact(put).await.unwrap();
    }

    /// A task that was just placed.
    async fn run_task(&self) -> Value {
        let answer = self.ok("RunTask", json!({"taskDefinition": "web"})).await;
        assert_eq!(answer["failures"], json!([]));
        answer["tasks"][0].clone()
    }
}

fn registration() -> Value {
    let numbers =
        |name: &str, value: i32| json!({"name": name, "type": "INTEGER", "integerValue": value});
    let ports = |name: &str, ports: &[&str]| json!({"name": name, "type": "STRINGSET", "stringSetValue": ports});
    json!({
        "totalResources": [
            numbers("CPU", 2048), numbers("MEMORY", 1000),
            ports("PORTS", &["22", "51678"]), ports("PORTS_UDP", &[]),
        ],
        "attributes": [
            {"name": "ecs.capability.efs"},
            {"name": "ecs.empty", "value": ""},
            {"name": "rack", "value": "7"},
        ],
    })
}

fn id(arn: &Value) -> String {
    arn.as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

/// The operations that a part of docs/ecs-compatibility.md names.
fn documented(heading: &str) -> Vec<&'static str> {
    let page = include_str!("../../../docs/ecs-compatibility.md");
    let (_, part) = page.split_once(&format!("\n{heading}\n")).expect(heading);
    let part = part.split("\n#").next().unwrap();
    let is_operation = |word: &&str| {
        word.starts_with(|first: char| first.is_ascii_uppercase())
            && word.chars().all(|character| character.is_ascii_alphabetic())
    };
    // `UnknownOperationException` is the answer to the second list, and stands before it.
    let words = part.split('`').skip(1).step_by(2).filter(is_operation);
    words.filter(|word| !word.ends_with("Exception")).collect()
}

#[tokio::test]
async fn the_page_on_compatibility_is_right() {
    let api = Api::new().await;
    let (answered, not) = (documented("### Answered"), documented("### Not answered"));
    assert_eq!((answered.len(), not.len()), (44, 33));
    for operation in answered {
        if let Err(error) = ecs(&api.cx, operation, b"{}").await {
            assert_ne!(error.name, "UnknownOperationException", "{operation}");
        }
    }
    for operation in not {
        let (name, _) = api.refused(operation, json!({})).await;
        assert_eq!(name, "UnknownOperationException", "{operation}");
    }
}
