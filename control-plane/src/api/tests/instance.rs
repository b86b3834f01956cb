use super::*;

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
