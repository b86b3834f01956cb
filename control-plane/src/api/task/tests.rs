#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::testing::context;
use super::super::{Context, ecs};
use crate::model::{
    Connection, Definition, Desired, Entity, Guard, Health, Instance, InstanceStatus, Role,
    Service, Task, TaskStatus,
};
use crate::scheduler::EXTERNAL;
use crate::scheduler::fixtures::{
    ACCOUNT, CLUSTER, REGION, at, cluster, connection, definition, guard, id, instance,
};
use crate::state::testing;

/// A control plane's state with a cluster, and calls to it.
struct Setup {
    cx: Context,
    _directory: TempDir,
}

impl Setup {
    /// With connected instances, one per zone that is given.
    async fn new(zones: &[&str]) -> Self {
        let (directory, state) = testing::open().await;
        let cx = Context { now: at(100), ..context(&state) };
        let setup = Self { cx, _directory: directory };
        setup.put(&cluster()).await;
        for (number, zone) in (0..).zip(zones) {
            setup.put(&instance(number, zone)).await;
            setup.put(&guard(number)).await;
            setup.put(&connection(number)).await;
        }
        setup
    }

    async fn put<T: Entity>(&self, record: &T) {
        let mut edit = crate::state::Edit::default();
        edit.put(record);
        self.cx.state.commit(edit).await.unwrap().unwrap();
    }

    async fn delete<T: Entity>(&self, key: &str) {
        let mut edit = crate::state::Edit::default();
        edit.delete(&self.cx.state.view().table::<T>().get(key).unwrap().clone());
        self.cx.state.commit(edit).await.unwrap().unwrap();
    }

    async fn define(&self, family: &str, container: Value, task: Value) -> Definition {
        let mut made = definition(family, container, task);
        made.tags = serde_json::from_value(json!([{"key": "of", "value": "definition"}])).unwrap();
        self.put(&crate::model::Family {
            region: REGION.to_owned(),
            name: family.to_owned(),
            last_revision: 1,
        })
        .await;
        self.put(&made).await;
        made
    }

    async fn call(&self, operation: &str, request: Value) -> Result<Value, (String, String)> {
        match ecs(&self.cx, operation, request.to_string().as_bytes()).await {
            Ok(answer) => Ok(serde_json::from_slice(&answer).unwrap()),
            Err(error) => Err((error.name, error.message)),
        }
    }

    async fn ok(&self, operation: &str, request: Value) -> Value {
        self.call(operation, request.clone())
            .await
            .unwrap_or_else(|error| panic!("{operation} {request}: {error:?}"))
    }

    /// The name of the error, and its message.
    async fn refused(&self, operation: &str, request: Value) -> (String, String) {
        self.call(operation, request.clone())
            .await
            .expect_err(&format!("{operation} {request} is refused"))
    }

    /// Changes the record of a task.
    async fn change(&self, arn: &Value, change: impl FnOnce(&mut Task)) {
        let mut task = self.task(arn);
        change(&mut task);
        self.put(&task).await;
    }

    fn task(&self, arn: &Value) -> Task {
        let id = arn.as_str().unwrap().rsplit('/').next().unwrap();
        let view = self.cx.state.view();
        view.tasks.get(&Task::key_of(REGION, CLUSTER, id)).unwrap().value.clone()
    }
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_task_is_recorded_and_described() {
    let setup = Setup::new(&["a"]).await;
    setup.define("web", json!({}), json!({})).await;
    let answer = setup
        .ok(
            "RunTask",
            json!({
                "taskDefinition": "web", "startedBy": "me", "propagateTags": "TASK_DEFINITION",
                "enableECSManagedTags": true, "tags": [{"key": "k", "value": "v"}],
                "overrides": {"containerOverrides": [{"name": "main", "cpu": 10}]},
            }),
        )
        .await;
    assert_eq!(answer["failures"], json!([]));
    let task = &answer["tasks"][0];
    let arn = task["taskArn"].as_str().unwrap();
    let container = &task["containers"][0];
    for (member, expected) in [
        ("clusterArn", json!(format!("arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/default"))),
        (
            "containerInstanceArn",
            json!(format!("arn:aws:ecs:{REGION}:{ACCOUNT}:container-instance/default/{}", id(0))),
        ),
        (
            "taskDefinitionArn",
            json!(format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/web:1")),
        ),
        ("lastStatus", json!("PENDING")),
        ("desiredStatus", json!("RUNNING")),
        ("launchType", json!("EC2")),
        ("group", json!("family:web")),
        ("startedBy", json!("me")),
        ("cpu", json!("10")),
        ("memory", json!("64")),
        ("availabilityZone", json!("a")),
        ("healthStatus", json!("UNKNOWN")),
        ("version", json!(1)),
        ("attachments", json!([])),
        ("attributes", json!([{"name": "ecs.cpu-architecture", "value": "x86_64"}])),
        (
            "overrides",
            json!({
                "containerOverrides": [{"name": "main", "cpu": 10}],
                "inferenceAcceleratorOverrides": [],
            }),
        ),
        (
            "tags",
            json!([
                {"key": "k", "value": "v"},
                {"key": "of", "value": "definition"},
                {"key": "aws:ecs:clusterName", "value": "default"},
            ]),
        ),
    ] {
        assert_eq!(task[member], expected, "{member}");
    }
    assert!(container["containerArn"].as_str().unwrap().contains(":container/default/"));
    assert_eq!((&container["cpu"], &container["memory"]), (&json!("10"), &json!("64")));
    assert!(task.get("connectivity").is_none() && container.get("exitCode").is_none());

    setup
        .change(&task["taskArn"], |task| {
            task.delivered = Some(Desired::Running);
            task.last = TaskStatus::Running;
            task.health = Health::Healthy;
            task.started_at = Some(at(101));
        })
        .await;
    let described = setup.ok("DescribeTasks", json!({"tasks": [arn, id(9)]})).await;
    assert_eq!(described["tasks"][0]["connectivity"], "CONNECTED");
    assert_eq!(described["tasks"][0]["tags"], json!([]));
    assert_eq!(
        described["failures"],
        json!([{
            "arn": format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task/default/{}", id(9)),
            "reason": "MISSING",
        }])
    );
    assert_eq!(setup.cx.state.view().hosts().get(&instance(0, "a").key()).unwrap().running, 1);
}

#[tokio::test]
async fn requests_that_do_not_fit() {
    let setup = Setup::new(&["a"]).await;
    setup.define("web", json!({}), json!({})).await;
    setup.define("vpc", json!({}), json!({"networkMode": "awsvpc"})).await;
    setup.define("role", json!({}), json!({})).await.registered.as_object().map(|_| ()).unwrap();
    let fargate = json!({
        "networkMode": "awsvpc", "cpu": "256", "memory": "512", "requiresCompatibilities": ["FARGATE"],
    });
    setup.define("far", json!({"memory": 128}), fargate).await;
    let network = json!({"awsvpcConfiguration": {"subnets": ["subnet-1"]}});
    let invalid = "InvalidParameterException";
    let over = |container: Value| json!({"containerOverrides": [container]});
    for (request, name, message) in [
        (json!({"cluster": "gone"}), "ClusterNotFoundException", "Cluster not found."),
        (json!({"taskDefinition": "gone"}), "ClientException", "TaskDefinition not found."),
        (json!({"count": 0}), invalid, ""),
        (json!({"count": 11}), invalid, ""),
        (json!({"launchType": "LAMBDA"}), invalid, ""),
        (
            json!({"launchType": "FARGATE"}),
            invalid,
            "Task definition does not support launch_type FARGATE.",
        ),
        (
            json!({"taskDefinition": "far", "networkConfiguration": network}),
            invalid,
            "Task definition does not support launch_type EC2.",
        ),
        (
            json!({"networkConfiguration": network}),
            invalid,
            "Network Configuration is not valid for the given networkMode of this task definition.",
        ),
        (
            json!({"taskDefinition": "vpc"}),
            invalid,
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        ),
        (
            json!({"taskDefinition": "vpc",
                "networkConfiguration": {"awsvpcConfiguration": {"subnets": []}}}),
            invalid,
            "subnets can not be empty.",
        ),
        (
            json!({"taskDefinition": "vpc", "networkConfiguration": {"awsvpcConfiguration":
                {"subnets": ["s"], "assignPublicIp": "ENABLED"}}}),
            invalid,
            "Assign public IP is not supported for this launch type.",
        ),
        (
            json!({"platformVersion": "LATEST"}),
            invalid,
            "The platform version must be null when specifying an EC2 launch type.",
        ),
        (
            json!({"overrides": over(json!({"name": "x"}))}),
            invalid,
            "Override for container named x is not a container in the TaskDefinition.",
        ),
        (json!({"overrides": over(json!({"name": "main", "memory": 5}))}), invalid, ""),
        (json!({"overrides": over(json!({"name": "main", "memoryReservation": 65}))}), invalid, ""),
        (json!({"overrides": {"cpu": "1 GHz"}}), invalid, "Invalid 'cpu' setting for task."),
        (
            json!({"overrides": over(json!({"name": "main", "command": ["x".repeat(8192)]}))}),
            invalid,
            "Container Overrides length must be at most 8192",
        ),
        (
            json!({"overrides": over(json!({"name": "main", "resourceRequirements": [{}]}))}),
            "UnsupportedFeatureException",
            "",
        ),
        (json!({"group": "service:web"}), invalid, "Invalid namespace for group."),
        (json!({"group": "g".repeat(256)}), invalid, ""),
        (json!({"startedBy": "s".repeat(129)}), invalid, ""),
        (json!({"clientToken": "with blank"}), invalid, ""),
        (json!({"clientToken": "t".repeat(65)}), invalid, ""),
        (json!({"propagateTags": "SERVICE"}), invalid, ""),
        (json!({"tags": [{"key": "aws:x", "value": "y"}]}), invalid, ""),
        (json!({"enableExecuteCommand": true}), "UnsupportedFeatureException", ""),
        (json!({"volumeConfigurations": [{"name": "v"}]}), "UnsupportedFeatureException", ""),
        (json!({"placementConstraints": [{"type": "near"}]}), invalid, ""),
        (json!({"placementStrategy": [{"type": "spread"}]}), invalid, ""),
        (json!({"capacityProviderStrategy": [{"capacityProvider": "mine"}]}), invalid, ""),
        (
            json!({"launchType": "EC2", "capacityProviderStrategy": [{"capacityProvider": "FARGATE"}]}),
            invalid,
            "",
        ),
        (
            json!({"launchType": "EXTERNAL"}),
            invalid,
            "No Container Instances were found in your cluster.",
        ),
        (json!({"count": "one"}), "SerializationException", ""),
        (
            json!({"overrides": {"taskRoleArn": "arn:aws:iam::000000000000:role/nobody"}}),
            "ClientException",
            "ECS was unable to assume the role 'arn:aws:iam::000000000000:role/nobody'",
        ),
    ] {
        let mut whole = json!({"taskDefinition": "web"});
        whole.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
        let (refused, text) = setup.refused("RunTask", whole).await;
        assert_eq!(refused, name, "{request}: {text}");
        assert!(text.starts_with(message), "{request}: {text}");
    }
    assert!(setup.cx.state.view().tasks.is_empty());
    assert!(setup.cx.state.view().tokens.is_empty());

    setup.put(&Role { name: "reader".to_owned(), allow: Vec::new(), created_at: at(0) }).await;
    let request = json!({"taskDefinition": "web", "overrides": {"taskRoleArn": "reader"}});
    let arn = &setup.ok("RunTask", request).await["tasks"][0]["taskArn"];
    let role = "arn:aws:iam::000000000000:role/reader";
    assert_eq!(setup.task(arn).task_role_arn.as_deref(), Some(role));
}

#[tokio::test]
async fn launch_types_and_networks() {
    let setup = Setup::new(&["a"]).await;
    let fargate = json!({
        "networkMode": "awsvpc", "cpu": "256", "memory": "512", "requiresCompatibilities": ["FARGATE"],
    });
    setup.define("far", json!({"memory": 128}), fargate).await;
    let network = json!({"awsvpcConfiguration": {"subnets": ["subnet-1", "subnet-2"]}});
    for more in [
        json!({"launchType": "FARGATE"}),
        json!({"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}),
    ] {
        let mut request = json!({"taskDefinition": "far", "networkConfiguration": network});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = setup.ok("RunTask", request).await;
        let task = &answer["tasks"][0];
        assert_eq!(task["launchType"], "FARGATE");
        assert_eq!(task["platformVersion"], "1.4.0");
        assert_eq!(task["platformFamily"], "Linux");
        assert_eq!(task["lastStatus"], "PROVISIONING");
        assert!(task.get("containerInstanceArn").is_none());
        assert_eq!(task["attachments"][0]["type"], "ElasticNetworkInterface");
        assert_eq!(task["attachments"][0]["status"], "PRECREATED");
        assert_eq!(
            task["attachments"][0]["details"],
            json!([{"name": "subnetId", "value": "subnet-1"}])
        );
        setup
            .change(&task["taskArn"], |task| {
                task.interface.as_mut().unwrap().private_address = Some("10.0.0.2".to_owned());
            })
            .await;
        let described = setup.ok("DescribeTasks", json!({"tasks": [task["taskArn"]]})).await;
        let task = &described["tasks"][0];
        assert_eq!(task["attachments"][0]["status"], "ATTACHED");
        assert_eq!(
            task["containers"][0]["networkInterfaces"],
            json!([{
                "attachmentId": task["attachments"][0]["id"], "privateIpv4Address": "10.0.0.2",
            }])
        );
    }
    // The cluster's strategy stands for what names nothing.
    let mut cluster = cluster();
    cluster.default_strategy =
        serde_json::from_value(json!([{"capacityProvider": "FARGATE"}])).unwrap();
    setup.put(&cluster).await;
    let request = json!({"taskDefinition": "far", "networkConfiguration": network});
    assert_eq!(setup.ok("RunTask", request).await["tasks"][0]["launchType"], "FARGATE");
    let huge = json!({"networkMode": "awsvpc", "cpu": "4096", "memory": "8192",
        "requiresCompatibilities": ["FARGATE"]});
    setup.define("huge", json!({}), huge).await;
    let answer = setup
        .ok(
            "RunTask",
            json!({"taskDefinition": "huge", "launchType": "FARGATE", "networkConfiguration": network}),
        )
        .await;
    let failure = &answer["failures"][0];
    assert!(failure["reason"].as_str().unwrap().starts_with("Capacity is unavailable"));
    assert!(failure.get("arn").is_none());
}

#[tokio::test]
async fn failures_stand_beside_tasks() {
    let setup = Setup::new(&["a", "b"]).await;
    let port = json!({"portMappings": [{"containerPort": 80, "hostPort": 8080}]});
    setup.define("web", port, json!({})).await;
    let answer = setup.ok("RunTask", json!({"taskDefinition": "web", "count": 3})).await;
    assert_eq!(answer["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(answer["failures"][0]["reason"], "RESOURCE:PORTS");
    assert!(
        answer["failures"][0]["arn"].as_str().unwrap().contains(":container-instance/default/")
    );
    let placements: Vec<u64> =
        setup.cx.state.view().guards.iter().map(|guard| guard.placements).collect();
    assert_eq!(placements, [1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_never_take_the_same_capacity() {
    let setup = Arc::new(Setup::new(&["a", "b"]).await);
    setup.define("web", json!({"cpu": 512}), json!({})).await;
    let calls: Vec<_> = (0..12)
        .map(|_| {
            let setup = Arc::clone(&setup);
            tokio::spawn(async move { setup.ok("RunTask", json!({"taskDefinition": "web"})).await })
        })
        .collect();
    let mut placed = 0;
    for call in calls {
        placed += call.await.unwrap()["tasks"].as_array().unwrap().len();
    }
    assert_eq!(placed, 8);
    let view = setup.cx.state.view();
    for number in 0..2 {
        assert_eq!(view.hosts().get(&instance(number, "").key()).unwrap().cpu, 2048);
    }
}

#[tokio::test]
async fn a_token_is_used_once() {
    let setup = Setup::new(&["a"]).await;
    setup.define("web", json!({}), json!({})).await;
    let request = json!({"taskDefinition": "web", "clientToken": "t/1", "count": 2});
    let first = setup.ok("RunTask", request.clone()).await;
    let again = setup.ok("RunTask", request.clone()).await;
    assert_eq!(first["tasks"], again["tasks"]);
    assert_eq!(setup.cx.state.view().tasks.len(), 2);
    let other = json!({"taskDefinition": "web", "clientToken": "t/1"});
    let error = ecs(&setup.cx, "RunTask", other.to_string().as_bytes()).await.unwrap_err();
    assert_eq!(error.name, "ConflictException");
    let made: BTreeSet<String> = error.resource_ids.into_iter().collect();
    let arns: BTreeSet<String> = first["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["taskArn"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(made, arns);
    // Where nothing could be placed, the same call may be tried again.
    let huge = json!({"taskDefinition": "web", "clientToken": "t/2",
        "overrides": {"containerOverrides": [{"name": "main", "memory": 100_000}]}});
    assert_eq!(setup.ok("RunTask", huge.clone()).await["tasks"], json!([]));
    assert_eq!(setup.ok("RunTask", huge).await["failures"][0]["reason"], "RESOURCE:MEMORY");
}

#[tokio::test]
async fn start_task_takes_the_named_instances() {
    let setup = Setup::new(&["a", "b", "c", "d"]).await;
    setup.define("web", json!({"memory": 3000}), json!({})).await;
    let mut draining = instance(1, "b");
    draining.status = InstanceStatus::Draining;
    setup.put(&draining).await;
    setup.delete::<Connection>(&Connection::key_of(REGION, CLUSTER, &id(2))).await;
    let mut external = instance(3, "d");
    external.attributes.insert(EXTERNAL.to_owned(), None);
    setup.put(&external).await;
    let named = [id(0), id(1), id(2), id(9), id(0), id(3)];
    let answer =
        setup.ok("StartTask", json!({"taskDefinition": "web", "containerInstances": named})).await;
    let launched: Vec<&str> = answer["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["launchType"].as_str().unwrap())
        .collect();
    assert_eq!(launched, ["EC2", "EXTERNAL"]);
    let failures: Vec<(u32, &str)> = answer["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| {
            let id = failure["arn"].as_str().unwrap().rsplit('/').next().unwrap();
            (u32::from_str_radix(id, 16).unwrap(), failure["reason"].as_str().unwrap())
        })
        .collect();
    assert_eq!(failures, [(1, "INACTIVE"), (2, "AGENT"), (9, "MISSING"), (0, "RESOURCE:MEMORY")]);
    for request in [
        json!({"taskDefinition": "web", "containerInstances": []}),
        json!({"taskDefinition": "web", "containerInstances": vec![id(0); 11]}),
        json!({"taskDefinition": "web", "containerInstances": [id(0)], "startedBy": "s".repeat(37)}),
    ] {
        assert_eq!(setup.refused("StartTask", request).await.0, "InvalidParameterException");
    }
}

#[tokio::test]
async fn stopping() {
    let setup = Setup::new(&["a"]).await;
    setup.define("web", json!({}), json!({})).await;
    let answer = setup.ok("RunTask", json!({"taskDefinition": "web", "count": 3})).await;
    let [first, second, third] =
        [0, 1, 2].map(|number: usize| answer["tasks"][number]["taskArn"].clone());
    let stopped = setup.ok("StopTask", json!({"task": first, "reason": "enough"})).await;
    let stopped = &stopped["task"];
    assert_eq!(
        (&stopped["desiredStatus"], &stopped["lastStatus"]),
        (&json!("STOPPED"), &json!("PENDING"))
    );
    assert_eq!(
        (&stopped["stopCode"], &stopped["stoppedReason"]),
        (&json!("UserInitiated"), &json!("enough"))
    );
    // Again: no error, and the first reason stays.
    let again = setup.ok("StopTask", json!({"task": first, "reason": "more"})).await;
    assert_eq!(again["task"]["stoppedReason"], "enough");
    assert_eq!(again["task"]["version"], stopped["version"]);

    // Away: what it never heard of ends at once, the rest waits for it.
    setup.change(&second, |task| task.delivered = Some(Desired::Running)).await;
    setup.delete::<Connection>(&Connection::key_of(REGION, CLUSTER, &id(0))).await;
    let waits = setup.ok("StopTask", json!({"task": second})).await;
    assert_eq!(waits["task"]["lastStatus"], "PENDING");
    assert_eq!(waits["task"]["connectivity"], "DISCONNECTED");
    assert_eq!(waits["task"]["stoppedReason"], "Task stopped by user");
    let ended = setup.ok("StopTask", json!({"task": third})).await;
    assert_eq!(ended["task"]["lastStatus"], "STOPPED");
    assert_eq!(ended["task"]["containers"][0]["lastStatus"], "STOPPED");
    // Gone: nobody will report.
    let mut gone = instance(0, "a");
    gone.status = InstanceStatus::Inactive;
    setup.put(&gone).await;
    let ended = setup.ok("StopTask", json!({"task": second})).await;
    assert_eq!(ended["task"]["lastStatus"], "STOPPED");

    for (request, message) in [
        (json!({"task": id(99)}), "The referenced task was not found."),
        (json!({}), "Task cannot be empty."),
        (json!({"task": first, "reason": "r".repeat(1025)}), "reason can have"),
    ] {
        let (name, text) = setup.refused("StopTask", request).await;
        assert_eq!(name, "InvalidParameterException");
        assert!(text.starts_with(message), "{text}");
    }
}

#[tokio::test]
async fn a_task_does_not_end_unheard_of_when_its_agent_connects_meanwhile() {
    let setup = Setup::new(&["a"]).await;
    setup.define("web", json!({}), json!({})).await;
    let answer = setup.ok("RunTask", json!({"taskDefinition": "web"})).await;
    let arn = answer["tasks"][0]["taskArn"].clone();
    setup.delete::<Connection>(&Connection::key_of(REGION, CLUSTER, &id(0))).await;
    let connection = connection(0);
    let ((), stopped) =
        tokio::join!(setup.put(&connection), setup.ok("StopTask", json!({"task": arn})));
    assert_eq!(stopped["task"]["lastStatus"], "PENDING");
    assert_eq!(stopped["task"]["desiredStatus"], "STOPPED");
}

fn service(name: &str, desired_count: u32) -> Service {
    Service {
        region: REGION.to_owned(),
        cluster: CLUSTER.to_owned(),
        name: name.to_owned(),
        deployments: Vec::new(),
        ..crate::reconcile::testing::service(desired_count, 100, 200)
    }
}

#[tokio::test]
async fn lists_and_their_filters() {
    let setup = Setup::new(&["a", "b"]).await;
    let web = setup.define("web", json!({}), json!({})).await;
    setup.define("job", json!({}), json!({})).await;
    setup.put(&service("front", 1)).await;
    let run = |request: Value| setup.ok("RunTask", request);
    let spread = run(json!({"taskDefinition": "web", "count": 2, "startedBy": "me"})).await;
    let job = run(json!({"taskDefinition": "job"})).await["tasks"][0]["taskArn"].clone();
    let of_service = crate::scheduler::fixtures::task(&web, &id(0), "service:front", 7);
    setup.put(&of_service).await;
    let of_service = json!(of_service.arn(ACCOUNT));
    let web: Vec<Value> = [0, 1].map(|n: usize| spread["tasks"][n]["taskArn"].clone()).to_vec();
    let on_first: Vec<Value> = web
        .iter()
        .chain([&job, &of_service])
        .filter(|arn| setup.task(arn).instance == id(0))
        .cloned()
        .collect();
    setup.ok("StopTask", json!({"task": job})).await;
    let running = |arns: &[Value]| {
        strings(&json!(arns.iter().filter(|arn| **arn != job).collect::<Vec<_>>()))
    };
    let all = [&web[0], &web[1], &of_service].map(Clone::clone);
    for (request, expected) in [
        (json!({}), running(&all)),
        (json!({"desiredStatus": "STOPPED"}), strings(&json!([job]))),
        (json!({"desiredStatus": "PENDING"}), BTreeSet::new()),
        (json!({"family": "web"}), running(&all)),
        (json!({"family": "job"}), BTreeSet::new()),
        (json!({"startedBy": "me"}), strings(&json!(web))),
        (json!({"serviceName": "front"}), strings(&json!([of_service]))),
        (json!({"containerInstance": id(0)}), running(&on_first)),
        (
            json!({"containerInstance": id(0), "serviceName": "front"}),
            strings(&json!([of_service])),
        ),
        (json!({"launchType": "FARGATE"}), BTreeSet::new()),
        (json!({"containerInstance": id(7)}), BTreeSet::new()),
    ] {
        let listed = setup.ok("ListTasks", request.clone()).await;
        assert_eq!(strings(&listed["taskArns"]), expected, "{request}");
        assert!(listed.get("nextToken").is_none());
    }
    let mut seen = BTreeSet::new();
    let mut request = json!({"maxResults": 1});
    for _ in 0..3 {
        let page = setup.ok("ListTasks", request.clone()).await;
        seen.extend(strings(&page["taskArns"]));
        request["nextToken"] = page["nextToken"].clone();
    }
    assert_eq!((seen, &request["nextToken"]), (running(&all), &Value::Null));
    for (request, name) in [
        (json!({"startedBy": "me", "family": "web"}), "InvalidParameterException"),
        (json!({"desiredStatus": "GONE"}), "InvalidParameterException"),
        (json!({"launchType": "GONE"}), "InvalidParameterException"),
        (json!({"nextToken": "?"}), "InvalidParameterException"),
        (json!({"maxResults": 101}), "InvalidParameterException"),
        (json!({"serviceName": "gone"}), "ServiceNotFoundException"),
        (json!({"cluster": "gone"}), "ClusterNotFoundException"),
    ] {
        assert_eq!(setup.refused("ListTasks", request.clone()).await.0, name, "{request}");
    }
}

#[tokio::test]
async fn protection() {
    let setup = Setup::new(&["a"]).await;
    let web = setup.define("web", json!({}), json!({})).await;
    setup.put(&service("front", 2)).await;
    for seed in 1..=3 {
        setup.put(&crate::scheduler::fixtures::task(&web, &id(0), "service:front", seed)).await;
    }
    let alone = setup.ok("RunTask", json!({"taskDefinition": "web"})).await;
    let alone = alone["tasks"][0]["taskArn"].clone();
    let tasks: Vec<String> = setup
        .cx
        .state
        .view()
        .tasks
        .iter()
        .filter(|task| task.service.is_some())
        .map(|task| task.id.clone())
        .collect();
    let reasons = |answer: &Value| -> Vec<String> {
        let failures = answer["failures"].as_array().unwrap().iter();
        failures.map(|failure| failure["reason"].as_str().unwrap().to_owned()).collect()
    };
    let mut named: Vec<Value> = tasks.iter().map(|id| json!(id)).collect();
    named.extend([alone, json!(id(99))]);
    let on = setup
        .ok(
            "UpdateTaskProtection",
            json!({"tasks": named, "protectionEnabled": true, "expiresInMinutes": 1}),
        )
        .await;
    assert_eq!(on["protectedTasks"].as_array().unwrap().len(), 2);
    assert_eq!(on["protectedTasks"][0]["expirationDate"], at(160).as_second());
    assert_eq!(reasons(&on), ["DEPLOYMENT_BLOCKED", "TASK_NOT_VALID", "MISSING"]);
    let shown = setup.ok("GetTaskProtection", json!({"tasks": tasks})).await;
    let enabled: Vec<bool> = shown["protectedTasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["protectionEnabled"].as_bool().unwrap())
        .collect();
    assert_eq!(enabled, [true, true, false]);
    let all = setup.ok("GetTaskProtection", json!({})).await;
    assert_eq!(all["protectedTasks"].as_array().unwrap().len(), 2);
    // One is given up, another takes its place.
    let off = json!({"tasks": [tasks[0]], "protectionEnabled": false});
    let off = setup.ok("UpdateTaskProtection", off).await;
    assert_eq!(off["protectedTasks"][0]["protectionEnabled"], false);
    let third = json!({"tasks": [tasks[2]], "protectionEnabled": true});
    assert_eq!(reasons(&setup.ok("UpdateTaskProtection", third).await), [""; 0]);
    // Two at once are not more than one after the other.
    let protection = |task: &String, enabled: bool| {
        let request = json!({"tasks": [task], "protectionEnabled": enabled});
        setup.ok("UpdateTaskProtection", request)
    };
    for task in &tasks {
        protection(task, false).await;
    }
    setup.put(&service("front", 1)).await;
    let (one, other) = tokio::join!(protection(&tasks[0], true), protection(&tasks[2], true));
    assert_eq!([reasons(&one), reasons(&other)].concat(), ["DEPLOYMENT_BLOCKED"]);
    let restored = json!({"tasks": [tasks[1]], "protectionEnabled": true, "expiresInMinutes": 1});
    setup.put(&service("front", 2)).await;
    setup.ok("UpdateTaskProtection", restored).await;
    // Time passes.
    let later = Setup { cx: Context { now: at(200), ..setup.cx.clone() }, ..setup };
    let shown = later.ok("GetTaskProtection", json!({"tasks": [tasks[1]]})).await;
    assert_eq!(shown["protectedTasks"][0]["protectionEnabled"], false);
    for request in [
        json!({"tasks": [], "protectionEnabled": true}),
        json!({"tasks": [tasks[0]]}),
        json!({"tasks": [tasks[0]], "protectionEnabled": true, "expiresInMinutes": 0}),
        json!({"tasks": [tasks[0]], "protectionEnabled": true, "expiresInMinutes": 2881}),
    ] {
        assert_eq!(
            later.refused("UpdateTaskProtection", request).await.0,
            "InvalidParameterException"
        );
    }
}

#[tokio::test]
async fn describe_needs_identifiers() {
    let setup = Setup::new(&[]).await;
    for request in [
        json!({"tasks": []}),
        json!({"tasks": vec![id(0); 101]}),
        json!({"tasks": ["short"]}),
        json!({"tasks": [id(0)], "include": ["EVERYTHING"]}),
    ] {
        let refused = setup.refused("DescribeTasks", request.clone()).await;
        assert_eq!(refused.0, "InvalidParameterException", "{request}");
    }
    let (_, message) = setup.refused("DescribeTasks", json!({"tasks": []})).await;
    assert_eq!(message, "Tasks cannot be empty.");
    assert!(setup.cx.state.view().table::<Guard>().is_empty());
    assert!(setup.cx.state.view().table::<Instance>().is_empty());
}
