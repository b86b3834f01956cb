//! Operations on clusters, definitions, instances, tags and agents' reports over the real store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Context, ecs};
use crate::config::Config;
use crate::model::Instance;
use crate::state::testing;

struct Api {
    cx: Context,
    _directory: tempfile::TempDir,
}

const ARN: &str = "arn:aws:ecs:eu-west-1:000000000000:";

impl Api {
    async fn new() -> Self {
        let (directory, state) = testing::open().await;
        let config = Config {
            account: "000000000000".to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            tls: None,
            advertise: None,
            data: PathBuf::new(),
            lost_after: None,
            settle: Duration::ZERO,
            keep_stopped: Duration::ZERO,
        };
        let cx = Context {
            state,
            config: Arc::new(config),
            principal: "arn:aws:iam::000000000000:user/test".to_owned(),
            region: "eu-west-1".to_owned(),
            origin: "http://127.0.0.1:4780".to_owned(),
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        };
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

#[tokio::test]
async fn a_clusters_life() {
    let api = Api::new().await;
    let created = api
        .ok(
            "CreateCluster",
            json!({"clusterName": "blue", "tags": [{"key": "a", "value": "b"}],
                   "settings": [{"name": "containerInsights", "value": "enabled"}]}),
        )
        .await;
    assert_eq!(created["cluster"]["clusterArn"], format!("{ARN}cluster/blue"));
    assert_eq!(created["cluster"]["status"], "ACTIVE");
    let again = api.ok("CreateCluster", json!({"clusterName": "blue"})).await;
    assert_eq!(again, created);

    let described = api
        .ok(
            "DescribeClusters",
            json!({"clusters": ["blue", "red", format!("{ARN}cluster/blue"),
                                "arn:aws:ecs:us-east-1:000000000000:cluster/blue"]}),
        )
        .await;
    assert_eq!(described["clusters"].as_array().unwrap().len(), 2);
    for member in
        ["statistics", "tags", "settings", "capacityProviders", "defaultCapacityProviderStrategy"]
    {
        assert_eq!(described["clusters"][0][member], json!([]), "{member}");
    }
    assert_eq!(
        described["failures"],
        json!([
            {"arn": format!("{ARN}cluster/red"), "reason": "MISSING"},
            {"arn": "arn:aws:ecs:us-east-1:000000000000:cluster/blue", "reason": "MISSING"},
        ])
    );
    let whole = api
        .ok(
            "DescribeClusters",
            json!({"clusters": ["blue"], "include": ["STATISTICS", "TAGS", "SETTINGS"]}),
        )
        .await;
    assert_eq!(whole["clusters"][0]["settings"][0]["value"], "enabled");
    assert_eq!(whole["clusters"][0]["tags"], json!([{"key": "a", "value": "b"}]));
    assert!(names(&whole["clusters"][0]["statistics"]).contains(&"runningEC2TasksCount"));

    let deleted = api.ok("DeleteCluster", json!({"cluster": "blue"})).await;
    assert_eq!(deleted["cluster"]["status"], "INACTIVE");
    assert_eq!(api.ok("ListClusters", json!({})).await["clusterArns"], json!([]));
    let (name, message) = api.refused("DeleteCluster", json!({"cluster": "blue"})).await;
    assert_eq!(
        (name.as_str(), message.as_str()),
        ("ClusterNotFoundException", "Cluster not found.")
    );
    let inactive = api.ok("DescribeClusters", json!({"clusters": ["blue"]})).await;
    assert_eq!(inactive["clusters"][0]["status"], "INACTIVE");
    let revived = api.ok("CreateCluster", json!({"clusterName": "blue"})).await;
    assert_eq!(revived["cluster"]["status"], "ACTIVE");
    assert_eq!(revived["cluster"]["tags"], json!([]));
}

#[tokio::test]
async fn clusters_are_paged() {
    let api = Api::new().await;
    for name in ["a", "b", "c"] {
        api.ok("CreateCluster", json!({"clusterName": name})).await;
    }
    let first = api.ok("ListClusters", json!({"maxResults": 2})).await;
    assert_eq!(first["clusterArns"], json!([format!("{ARN}cluster/a"), format!("{ARN}cluster/b")]));
    let rest = json!({"maxResults": 2, "nextToken": first["nextToken"]});
    let rest = api.ok("ListClusters", rest).await;
    assert_eq!(rest, json!({"clusterArns": [format!("{ARN}cluster/c")]}));
}

#[tokio::test]
async fn what_clusters_refuse() {
    let api = Api::with_cluster().await;
    for (operation, request, name) in [
        ("CreateCluster", json!({"clusterName": "a b"}), "InvalidParameterException"),
        ("CreateCluster", json!({"settings": [{"name": "x"}]}), "InvalidParameterException"),
        (
            "CreateCluster",
            json!({"configuration": {"executeCommandConfiguration": {"logging": "NONE"}}}),
            "UnsupportedFeatureException",
        ),
        (
            "UpdateCluster",
            json!({"cluster": "default", "serviceConnectDefaults": {"namespace": "n"}}),
            "UnsupportedFeatureException",
        ),
        ("CreateCluster", json!({"capacityProviders": ["mine"]}), "InvalidParameterException"),
        (
            "PutClusterCapacityProviders",
            json!({"cluster": "default", "capacityProviders": [],
                   "defaultCapacityProviderStrategy": [{"capacityProvider": "FARGATE", "weight": 1}]}),
            "InvalidParameterException",
        ),
        ("CreateCluster", json!({"tags": [{"key": "aws:x"}]}), "InvalidParameterException"),
        ("DescribeClusters", json!({"include": ["X"]}), "InvalidParameterException"),
        (
            "UpdateClusterSettings",
            json!({"cluster": "x", "settings": [
            {"name": "containerInsights", "value": "enabled"}]}),
            "ClusterNotFoundException",
        ),
        ("CreateCluster", json!({"clusterName": 1}), "SerializationException"),
        ("NoSuchThing", json!({}), "UnknownOperationException"),
    ] {
        assert_eq!(api.refused(operation, request.clone()).await.0, name, "{operation} {request}");
    }
    let strategy = json!([{"capacityProvider": "FARGATE", "weight": 1, "base": 2}]);
    let put = api
        .ok(
            "PutClusterCapacityProviders",
            json!({"cluster": "default", "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
                   "defaultCapacityProviderStrategy": strategy}),
        )
        .await;
    assert_eq!(put["cluster"]["defaultCapacityProviderStrategy"], strategy);
}

#[tokio::test]
async fn a_definitions_life() {
    let api = Api::with_cluster().await;
    let first = api.register_definition(json!({"tags": [{"key": "a", "value": "b"}]})).await;
    assert_eq!(first["taskDefinitionArn"], format!("{ARN}task-definition/web:1"));
    assert_eq!(first["registeredAt"], 1_800_000_000);
    assert_eq!(first["registeredBy"], "arn:aws:iam::000000000000:user/test");
    assert_eq!(first.get("requiresCompatibilities"), None);
    assert_eq!(first.get("tags"), None);
    api.register_definition(json!({})).await;

    let newest = api.ok("DescribeTaskDefinition", json!({"taskDefinition": "web"})).await;
    assert_eq!(newest["taskDefinition"]["revision"], 2);
    assert_eq!(newest["tags"], json!([]));
    let with_tags = json!({"taskDefinition": "web:1", "include": ["TAGS"]});
    let with_tags = api.ok("DescribeTaskDefinition", with_tags).await;
    assert_eq!(with_tags["taskDefinition"], first);
    assert_eq!(with_tags["tags"], json!([{"key": "a", "value": "b"}]));

    let refused = |given: &str| {
        let request = json!({"taskDefinition": given});
        let api = &api;
        async move { api.refused("DescribeTaskDefinition", request).await }
    };
    for (given, message) in [
        ("web:3", "Unable to describe task definition."),
        ("nothing", "Unable to describe task definition."),
        ("web:x", "Invalid revision number. Number: x"),
        ("web:0", "Invalid revision number. Number: 0"),
    ] {
        assert_eq!(refused(given).await, ("ClientException".to_owned(), message.to_owned()));
    }

    let listed = api.ok("ListTaskDefinitions", json!({"sort": "DESC", "maxResults": 1})).await;
    assert_eq!(listed["taskDefinitionArns"], json!([format!("{ARN}task-definition/web:2")]));
    let listed = json!({"sort": "DESC", "nextToken": listed["nextToken"]});
    let listed = api.ok("ListTaskDefinitions", listed).await;
    assert_eq!(listed["taskDefinitionArns"], json!([format!("{ARN}task-definition/web:1")]));

    let missing = api.refused("DeregisterTaskDefinition", json!({"taskDefinition": "web"})).await;
    assert_eq!(missing, ("ClientException".to_owned(), "Revision is missing.".to_owned()));
    let gone = api.ok("DeregisterTaskDefinition", json!({"taskDefinition": "web:2"})).await;
    assert_eq!(gone["taskDefinition"]["status"], "INACTIVE");
    let newest = api.ok("DescribeTaskDefinition", json!({"taskDefinition": "web"})).await;
    assert_eq!(newest["taskDefinition"]["revision"], 1);

    let deleted = api
        .ok(
            "DeleteTaskDefinitions",
            json!({"taskDefinitions": ["web:1", "web:2", "web:2", "web", "web:9"]}),
        )
        .await;
    assert_eq!(deleted["taskDefinitions"].as_array().unwrap().len(), 2);
    assert_eq!(deleted["taskDefinitions"][0]["status"], "DELETE_IN_PROGRESS");
    let reasons: Vec<&str> = deleted["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["reason"].as_str().unwrap().split(". ").next().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "The specified task definition is still in ACTIVE status",
            "The specified task definition identifier is invalid",
            "The specified task definition does not exist",
        ]
    );
    // Nothing uses it, it can go; its number is never used again.
    let unused = super::unused_definitions(&api.cx.state.view())
        .iter()
        .map(|definition| definition.name().revision)
        .collect::<Vec<_>>();
    assert_eq!(unused, [2]);
    assert_eq!(api.register_definition(json!({})).await["revision"], 3);
    let families = api.ok("ListTaskDefinitionFamilies", json!({"familyPrefix": "w"})).await;
    assert_eq!(families["families"], json!(["web"]));
    let inactive = json!({"status": "INACTIVE"});
    let families = api.ok("ListTaskDefinitionFamilies", inactive).await;
    assert_eq!(families["families"], json!([]));
}

#[tokio::test]
async fn bad_definitions_are_refused_whole() {
    let api = Api::new().await;
    let (name, message) = api
        .refused(
            "RegisterTaskDefinition",
            json!({"family": "a b", "containerDefinitions": [{"name": "x", "memory": 1}]}),
        )
        .await;
    assert_eq!(name, "ClientException");
    assert_eq!(message.lines().count(), 3, "{message}");
    for (body, name) in [
        (r#"{"family": "a", "family": "b"}"#.to_owned(), "ClientException"),
        ("{".to_owned(), "SerializationException"),
        (format!("{}\"{}\"", " ".repeat(10), "x".repeat(70_000)), "ClientException"),
        (r#"{"taskDefinition": {"family": "a"}}"#.to_owned(), "ClientException"),
        ("[".repeat(10_000), "SerializationException"),
    ] {
        let refused = ecs(&api.cx, "RegisterTaskDefinition", body.as_bytes()).await;
        assert_eq!(refused.unwrap_err().name, name, "{}", &body[..20.min(body.len())]);
    }
    let (_, message) = api
        .refused(
            "RegisterTaskDefinition",
            json!({"family": "a", "placementConstraints": [
                        {"type": "memberOf", "expression": "attribute:x =="}],
                   "containerDefinitions": [{"name": "x", "image": "i", "memory": 8}]}),
        )
        .await;
    assert!(message.starts_with("Invalid placement constraint expression"), "{message}");
}

#[tokio::test]
async fn an_instance_registers_and_comes_back() {
    let api = Api::with_cluster().await;
    let document = json!({"instanceId": "i-1", "instanceType": "t3.micro",
                          "availabilityZone": "eu-west-1c", "architecture": "x86_64"});
    let document = json!({"instanceIdentityDocument": document.to_string()});
    let first = api.register_instance(document.clone()).await;
    let arn = first["containerInstanceArn"].as_str().unwrap();
    assert!(arn.starts_with(&format!("{ARN}container-instance/default/")), "{arn}");
    assert_eq!(first["ec2InstanceId"], "i-1");
    assert_eq!(first["status"], "ACTIVE");
    assert_eq!(first["remainingResources"], first["registeredResources"]);
    let attribute = |instance: &Value, name: &str| {
        let list = instance["attributes"].as_array().unwrap();
        list.iter().find(|attribute| attribute["name"] == name).cloned()
    };
    assert_eq!(
        attribute(&first, "ecs.capability.efs"),
        Some(json!({"name": "ecs.capability.efs"}))
    );
    assert_eq!(attribute(&first, "ecs.empty"), Some(json!({"name": "ecs.empty", "value": ""})));
    assert_eq!(attribute(&first, "ecs.availability-zone").unwrap()["value"], "eu-west-1c");
    assert_eq!(attribute(&first, "ecs.os-type").unwrap()["value"], "linux");
    assert_eq!(attribute(&first, protocol::ecs::TASK_NETWORK_OFFER), None);

    // What the agent no longer says goes; what is of users stays.
    let mut again = document.clone();
    again["containerInstanceArn"] = json!(arn);
    again["attributes"] = json!([{"name": protocol::ecs::TASK_NETWORK}]);
    let second = api.register_instance(again.clone()).await;
    assert_eq!(second["containerInstanceArn"], arn);
    assert_eq!(second["version"], 2);
    assert_eq!(attribute(&second, "ecs.capability.efs"), None);
    assert_eq!(attribute(&second, "rack").unwrap()["value"], "7");
    assert!(attribute(&second, protocol::ecs::TASK_NETWORK_OFFER).is_some());

    let mut other = again.clone();
    other["instanceIdentityDocument"] = json!(r#"{"instanceId": "i-2"}"#);
    let merge = |members: Value| {
        let mut request = registration();
        request.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        request
    };
    let unknown = format!("{ARN}container-instance/default/{}", "0".repeat(32));
    let elsewhere = arn.replace("default", "other");
    for (request, name) in [
        (other, "ClientException"),
        (json!({"containerInstanceArn": unknown}), "InvalidParameterException"),
        (json!({"containerInstanceArn": elsewhere}), "InvalidParameterException"),
        (json!({"cluster": "other"}), "ClusterNotFoundException"),
        (json!({"totalResources": []}), "InvalidParameterException"),
        (json!({"attributes": [{"name": "a b"}]}), "InvalidParameterException"),
        (json!({"instanceIdentityDocument": "{"}), "ClientException"),
    ] {
        let refused = api.refused("RegisterContainerInstance", merge(request.clone())).await;
        assert_eq!(refused.0, name, "{request}: {}", refused.1);
    }
    let listed = api.ok("ListContainerInstances", json!({})).await;
    assert_eq!(listed["containerInstanceArns"], json!([arn]));
}

#[tokio::test]
async fn a_registration_is_repeated_by_its_token() {
    let api = Api::with_cluster().await;
    let token = json!({"clientToken": "t-1"});
    let (first, second) =
        tokio::join!(api.register_instance(token.clone()), api.register_instance(token.clone()));
    assert_eq!(first["containerInstanceArn"], second["containerInstanceArn"]);
    let mut other = registration();
    other["clientToken"] = json!("t-1");
    other["tags"] = json!([{"key": "a", "value": "b"}]);
    let refused = api.refused("RegisterContainerInstance", other).await;
    assert_eq!(refused.0, "InvalidParameterException");
}

#[tokio::test]
async fn instances_are_filtered_drained_and_deregistered() {
    let api = Api::with_cluster().await;
    let instance = api.register_instance(json!({})).await;
    let arn = instance["containerInstanceArn"].clone();
    api.register_instance(json!({"attributes": [{"name": "rack", "value": "8"}]})).await;
    let filtered = json!({"filter": "attribute:rack == 7"});
    let listed = api.ok("ListContainerInstances", filtered).await;
    assert_eq!(listed["containerInstanceArns"], json!([arn]));
    let bad = api.refused("ListContainerInstances", json!({"filter": "rack =="})).await;
    assert_eq!(bad.0, "InvalidParameterException");

    let unknown = "0".repeat(32);
    let drain = json!({"containerInstances": [arn, arn, unknown], "status": "DRAINING"});
    let drained = api.ok("UpdateContainerInstancesState", drain).await;
    assert_eq!(drained["containerInstances"][0]["status"], "DRAINING");
    assert_eq!(drained["failures"][0]["reason"], "MISSING");
    let draining = api.ok("ListContainerInstances", json!({"status": "DRAINING"})).await;
    assert_eq!(draining["containerInstanceArns"], json!([arn]));
    let id = id(&arn);
    let guard = crate::model::Guard::key_of("eu-west-1", "default", &id);
    assert_eq!(api.cx.state.view().guards.get(&guard).unwrap().placements, 1);

    let one = json!({"containerInstance": id});
    let gone = api.ok("DeregisterContainerInstance", one.clone()).await;
    assert_eq!(gone["containerInstance"]["status"], "INACTIVE");
    // Repeated, it is the same.
    let again = api.ok("DeregisterContainerInstance", one.clone()).await;
    assert_eq!(again["containerInstance"]["version"], gone["containerInstance"]["version"]);
    let back = json!({"containerInstances": [arn], "status": "ACTIVE"});
    let back = api.ok("UpdateContainerInstancesState", back).await;
    assert_eq!(back["failures"][0]["reason"], "INACTIVE");
    let described = json!({"containerInstances": [arn, unknown]});
    let described = api.ok("DescribeContainerInstances", described).await;
    assert_eq!(described["containerInstances"][0]["status"], "INACTIVE");
    assert_eq!(described["failures"][0]["reason"], "MISSING");
    for (operation, request, message) in [
        ("DescribeContainerInstances", json!({}), "Container Instances cannot be empty."),
        (
            "DescribeContainerInstances",
            json!({"containerInstances": ["None"]}),
            "instanceId length should be one of [32,36]",
        ),
        (
            "DescribeContainerInstances",
            json!({"containerInstances":
                [format!("{ARN}container-instance/other/{unknown}")]}),
            "Invalid identifier: Identifier is for cluster other. Your cluster is default",
        ),
        (
            "UpdateContainerAgent",
            one.clone(),
            "There is no update available for your container agent.",
        ),
    ] {
        assert_eq!(api.refused(operation, request).await.1, message);
    }
}

#[tokio::test]
async fn tasks_take_of_an_instance_until_they_stopped() {
    let api = Api::with_cluster().await;
    api.register_definition(json!({
        "containerDefinitions": [{
            "name": "web", "image": "nginx", "cpu": 100, "memory": 64,
            "portMappings": [{"containerPort": 80, "hostPort": 8080}],
        }],
    }))
    .await;
    let instance = api.register_instance(json!({})).await;
    let arn = &instance["containerInstanceArn"];
    api.connect(&instance).await;
    let task = api.run_task().await;
    let describe = || async {
        let request = json!({"containerInstances": [arn]});
        api.ok("DescribeContainerInstances", request).await["containerInstances"][0].clone()
    };
    let with = describe().await;
    assert_eq!(with["agentConnected"], true);
    assert_eq!(with["pendingTasksCount"], 1);
    assert_eq!(with["remainingResources"][0]["integerValue"], 1948);
    assert_eq!(with["remainingResources"][1]["integerValue"], 936);
    assert_eq!(with["remainingResources"][2]["stringSetValue"], json!(["22", "8080", "51678"]));
    assert_eq!(with["registeredResources"], instance["registeredResources"]);
    for (operation, request, name) in [
        (
            "DeleteCluster",
            json!({"cluster": "default"}),
            "ClusterContainsContainerInstancesException",
        ),
        (
            "DeregisterContainerInstance",
            json!({"containerInstance": arn}),
            "InvalidParameterException",
        ),
    ] {
        assert_eq!(api.refused(operation, request).await.0, name);
    }

    // The agent reports.
    let task_arn = &task["taskArn"];
    let report = |status: &str, containers: Value| json!({"task": task_arn, "status": status, "containers": containers});
    let running = report("RUNNING", json!([{"containerName": "web", "status": "RUNNING"}]));
    let acknowledged = api.ok("SubmitTaskStateChange", running).await;
    assert_eq!(acknowledged["acknowledgment"], "ACK");
    assert_eq!(describe().await["runningTasksCount"], 1);
    let exit =
        json!({"task": task_arn, "containerName": "web", "status": "STOPPED", "exitCode": 4});
    api.ok("SubmitContainerStateChange", exit).await;
    api.ok("SubmitTaskStateChange", report("STOPPED", json!([]))).await;
    let after = describe().await;
    assert_eq!(after["remainingResources"], after["registeredResources"]);
    let stopped = api.ok("DescribeTasks", json!({"tasks": [task_arn]})).await["tasks"][0].clone();
    assert_eq!(stopped["lastStatus"], "STOPPED");
    assert_eq!(stopped["stopCode"], "EssentialContainerExited");
    assert_eq!(stopped["containers"][0]["exitCode"], 4);
    // Late, or of nothing we know: acknowledged.
    api.ok("SubmitTaskStateChange", report("RUNNING", json!([]))).await;
    let unknown = json!({"task": "0".repeat(32), "status": "RUNNING"});
    api.ok("SubmitTaskStateChange", unknown).await;
    // Never right: dropped by agents.
    for request in [json!({"task": "x"}), json!({"cluster": "a b", "task": task_arn})] {
        let refused = api.refused("SubmitTaskStateChange", request).await;
        assert_eq!(refused.0, "InvalidParameterException");
    }
}

#[tokio::test]
async fn forced_deregistration_ends_tasks() {
    let api = Api::with_cluster().await;
    api.register_definition(json!({})).await;
    let instance = api.register_instance(json!({})).await;
    api.connect(&instance).await;
    let task = api.run_task().await;
    let force = json!({"containerInstance": instance["containerInstanceArn"], "force": true});
    let gone = api.ok("DeregisterContainerInstance", force).await["containerInstance"].clone();
    assert_eq!(gone["agentConnected"], false);
    assert_eq!(gone["pendingTasksCount"], 0);
    assert_eq!(gone["remainingResources"], gone["registeredResources"]);
    let task = json!({"tasks": [task["taskArn"]]});
    let ended = api.ok("DescribeTasks", task).await["tasks"][0].clone();
    assert_eq!(ended["lastStatus"], "STOPPED");
    assert_eq!(ended["stoppedReason"], "Container instance deregistration forced by user");
    api.ok("DeleteCluster", json!({"cluster": "default"})).await;
}

#[tokio::test]
async fn attributes_of_users() {
    let api = Api::with_cluster().await;
    let instance = api.register_instance(json!({})).await;
    let arn = &instance["containerInstanceArn"];
    let attribute =
        |name: &str, value: Option<&str>| json!({"name": name, "value": value, "targetId": arn});
    let put = api
        .ok(
            "PutAttributes",
            json!({"attributes": [attribute("rack", Some("9")), attribute("ssd", None)]}),
        )
        .await;
    assert_eq!(put["attributes"][0], json!({"name": "rack", "value": "9", "targetId": arn}));
    let listed = api
        .ok("ListAttributes", json!({"targetType": "container-instance", "attributeName": "rack"}))
        .await;
    assert_eq!(listed["attributes"], json!([{"name": "rack", "value": "9", "targetId": arn}]));
    let none = json!({"targetType": "container-instance", "attributeName": "rack",
                      "attributeValue": "7"});
    assert_eq!(api.ok("ListAttributes", none).await["attributes"], json!([]));

    let many: Vec<_> = (0..9).map(|n| attribute(&format!("n{n}"), None)).collect();
    let unknown = json!({"name": "x", "targetId": "0".repeat(32)});
    for (attributes, name) in [
        (json!(many), "AttributeLimitExceededException"),
        (json!([attribute("ecs.os-type", Some("x"))]), "InvalidParameterException"),
        (json!([attribute("x", Some(" x"))]), "InvalidParameterException"),
        (json!([unknown]), "TargetNotFoundException"),
        (json!([]), "InvalidParameterException"),
    ] {
        let request = json!({"attributes": attributes});
        assert_eq!(api.refused("PutAttributes", request.clone()).await.0, name, "{request}");
    }
    api.ok("DeleteAttributes", json!({"attributes": [attribute("rack", None)]})).await;
    let key = Instance::key_of("eu-west-1", "default", &id(arn));
    let view = api.cx.state.view();
    let stored = view.instances.get(&key).unwrap();
    assert_eq!(stored.custom_attributes.iter().collect::<Vec<_>>(), ["ssd"]);
    assert!(!stored.has_attribute("rack"));
}

#[tokio::test]
async fn everything_with_an_arn_is_tagged() {
    let api = Api::with_cluster().await;
    let definition = api.register_definition(json!({})).await;
    let instance = api.register_instance(json!({})).await;
    api.connect(&instance).await;
    let task = api.run_task().await;
    for arn in [
        json!(format!("{ARN}cluster/default")),
        definition["taskDefinitionArn"].clone(),
        instance["containerInstanceArn"].clone(),
        task["taskArn"].clone(),
    ] {
        let tags = |tags: Value| json!({"resourceArn": arn, "tags": tags});
        let list = || api.ok("ListTagsForResource", json!({"resourceArn": arn}));
        assert_eq!(list().await["tags"], json!([]), "{arn}");
        let two = json!([{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]);
        api.ok("TagResource", tags(two)).await;
        api.ok("TagResource", tags(json!([{"key": "a", "value": "3"}]))).await;
        api.ok("UntagResource", json!({"resourceArn": arn, "tagKeys": ["b", "c"]})).await;
        assert_eq!(list().await["tags"], json!([{"key": "a", "value": "3"}]), "{arn}");
        let many: Vec<_> = (0..50).map(|n| json!({"key": format!("k{n}")})).collect();
        let refused = api.refused("TagResource", tags(json!(many))).await;
        assert_eq!(refused.0, "InvalidParameterException");
    }
    for (arn, name) in [
        ("nonsense".to_owned(), "InvalidParameterException"),
        (format!("{ARN}cluster/none"), "ClusterNotFoundException"),
        (format!("{ARN}task/default/{}", "0".repeat(32)), "ResourceNotFoundException"),
        (format!("{ARN}service/default/none"), "ResourceNotFoundException"),
        (format!("{ARN}capacity-provider/x"), "InvalidParameterException"),
        ("arn:aws:ecs:us-east-1:0:cluster/default".to_owned(), "InvalidParameterException"),
    ] {
        let request = json!({"resourceArn": arn});
        assert_eq!(api.refused("ListTagsForResource", request).await.0, name, "{arn}");
    }
}

#[tokio::test]
async fn settings_are_what_is_true() {
    let api = Api::new().await;
    let listed = api
        .ok("ListAccountSettings", json!({"name": "taskLongArnFormat", "effectiveSettings": true}))
        .await;
    assert_eq!(listed["settings"][0]["value"], "enabled");
    let same = json!({"name": "taskLongArnFormat", "value": "enabled"});
    api.ok("PutAccountSettingDefault", same.clone()).await;
    assert_eq!(api.ok("PutAccountSetting", same).await["setting"]["name"], "taskLongArnFormat");
    for (name, value) in
        [("taskLongArnFormat", "disabled"), ("awsvpcTrunking", "enabled"), ("x", "y")]
    {
        let other = json!({"name": name, "value": value});
        assert_eq!(api.refused("PutAccountSetting", other).await.0, "InvalidParameterException");
    }
}

#[tokio::test]
async fn agents_are_told_where_to_connect() {
    let mut api = Api::with_cluster().await;
    let told = api.ok("DiscoverPollEndpoint", json!({"cluster": "default"})).await;
    assert_eq!(
        told,
        json!({"endpoint": "http://127.0.0.1:4780/acs/",
               "telemetryEndpoint": "http://127.0.0.1:4780/tcs/"})
    );
    let config = Config { advertise: Some("https://cp/".to_owned()), ..(*api.cx.config).clone() };
    api.cx.config = Arc::new(config);
    let told = api.ok("DiscoverPollEndpoint", json!({})).await;
    assert_eq!(told["endpoint"], "https://cp/acs/");
}
