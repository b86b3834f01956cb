//! What requests on services are answered, without planners.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::Timestamp;
use protocol::aws_json::ApiError;
use serde_json::{Value, json};

use crate::api::{self, Context};
use crate::model::{Definition, Family};
use crate::scheduler::fixtures::{ACCOUNT, REGION, cluster, definition};
use crate::state::{Error, testing};

async fn context() -> (tempfile::TempDir, Context) {
    let (directory, state) = testing::open().await;
    let network = json!({"networkMode": "awsvpc"});
    let role = json!({"taskRoleArn": "arn:aws:iam::000000000000:role/nobody"});
    let done: Result<(), Error> = state
        .transact(|_, edit| {
            edit.create(&cluster());
            for (family, more) in
                [("web", json!({})), ("net", network.clone()), ("roles", role.clone())]
            {
                for revision in [1, 2] {
                    let made = definition(family, json!({}), more.clone());
                    edit.create(&Definition { revision, ..made });
                }
                edit.create(&Family {
                    region: REGION.to_owned(),
                    name: family.to_owned(),
                    last_revision: 2,
                });
            }
            Ok(())
        })
        .await;
    done.unwrap();
    let now = Timestamp::now();
    let context = Context { now, ..api::testing::context(&state) };
    (directory, context)
}

async fn call(cx: &Context, operation: &str, request: &Value) -> Result<Value, ApiError> {
    let body = serde_json::to_vec(request).unwrap();
    api::ecs(cx, operation, &body).await.map(|body| serde_json::from_slice(&body).unwrap())
}

/// A request to create `web` with other members.
fn request(more: Value) -> Value {
    let mut request = json!({"serviceName": "web", "taskDefinition": "web", "desiredCount": 0});
    if let Value::Object(more) = more {
        request.as_object_mut().unwrap().extend(more);
    }
    request
}

#[tokio::test]
async fn what_a_new_service_looks_like() {
    let (_directory, cx) = context().await;
    let made = call(&cx, "CreateService", &request(json!({"clientToken": "one"}))).await.unwrap();
    let service = &made["service"];
    for (member, expected) in [
        ("serviceArn", json!(format!("arn:aws:ecs:{REGION}:{ACCOUNT}:service/default/web"))),
        ("clusterArn", json!(format!("arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/default"))),
        ("taskDefinition", json!(format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/web:2"))),
        ("status", json!("ACTIVE")),
        ("launchType", json!("EC2")),
        ("schedulingStrategy", json!("REPLICA")),
        ("loadBalancers", json!([])),
        ("serviceRegistries", json!([])),
        ("events", json!([])),
        ("placementStrategy", json!([])),
        ("deploymentController", json!({"type": "ECS"})),
        (
            "deploymentConfiguration",
            json!({
                "deploymentCircuitBreaker": {"enable": false, "rollback": false},
                "maximumPercent": 200,
                "minimumHealthyPercent": 100,
                "strategy": "ROLLING",
            }),
        ),
    ] {
        assert_eq!(service[member], expected, "{member}");
    }
    let deployment = &service["deployments"][0];
    let id = deployment["id"].as_str().unwrap();
    assert_eq!(deployment["rolloutStateReason"], format!("ECS deployment {id} in progress."));
    // The same again, with another token and the cluster named in full.
    let again = json!({"clientToken": "two", "cluster": service["clusterArn"]});
    let again = call(&cx, "CreateService", &request(again)).await.unwrap();
    assert_eq!(again["service"]["deployments"][0]["id"], id);
    let other = call(&cx, "CreateService", &request(json!({"desiredCount": 1}))).await;
    assert_eq!(other.unwrap_err().message, "Creation of service was not idempotent.");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let (_directory, cx) = context().await;
    let network = json!({"awsvpcConfiguration": {"subnets": ["subnet-1"]}});
    let (bad, unsupported) = ("InvalidParameterException", "UnsupportedFeatureException");
    for (more, name) in [
        (json!({"serviceName": "a/b"}), bad),
        (json!({"serviceName": ""}), bad),
        (json!({"taskDefinition": "nothing"}), "ClientException"),
        (json!({"taskDefinition": null}), bad),
        (json!({"cluster": "nothing"}), "ClusterNotFoundException"),
        (json!({"desiredCount": null}), bad),
        (json!({"desiredCount": -1}), bad),
        (json!({"desiredCount": 5001}), bad),
        (json!({"schedulingStrategy": "DAEMON"}), bad),
        (json!({"schedulingStrategy": "OTHER"}), bad),
        (json!({"launchType": "OTHER"}), bad),
        (json!({"platformVersion": "1.4.0"}), bad),
        (json!({"networkConfiguration": network}), bad),
        (json!({"taskDefinition": "net"}), bad),
        (json!({"taskDefinition": "roles"}), "ClientException"),
        (json!({"role": "someone"}), bad),
        (json!({"propagateTags": "OTHER"}), bad),
        (json!({"clientToken": "x".repeat(37)}), bad),
        (json!({"healthCheckGracePeriodSeconds": -1}), bad),
        (json!({"tags": [{"key": "aws:x", "value": ""}]}), bad),
        (json!({"placementStrategy": [{"type": "random", "field": "x"}]}), bad),
        (json!({"placementConstraints": [{"type": "memberOf", "expression": "=="}]}), bad),
        (json!({"deploymentConfiguration": {"minimumHealthyPercent": 101}}), bad),
        (json!({"deploymentConfiguration": {"maximumPercent": 99}}), bad),
        (json!({"deploymentConfiguration": {"deploymentCircuitBreaker": {"enable": true}}}), bad),
        (json!({"deploymentConfiguration": {"strategy": "BLUE_GREEN"}}), unsupported),
        (json!({"deploymentConfiguration": {"alarms": {"alarmNames": ["a"]}}}), unsupported),
        (json!({"deploymentConfiguration": {"bakeTimeInMinutes": 1}}), unsupported),
        (json!({"deploymentController": {"type": "EXTERNAL"}}), unsupported),
        (json!({"loadBalancers": [{}]}), unsupported),
        (json!({"serviceRegistries": [{}]}), unsupported),
        (json!({"capacityProviderStrategy": [{"capacityProvider": "x"}]}), unsupported),
        (json!({"serviceConnectConfiguration": {"enabled": true}}), unsupported),
        (json!({"volumeConfigurations": [{}]}), unsupported),
        (json!({"vpcLatticeConfigurations": [{}]}), unsupported),
        (json!({"enableExecuteCommand": true}), unsupported),
    ] {
        let refused = call(&cx, "CreateService", &request(more.clone())).await;
        assert_eq!(refused.unwrap_err().name, name, "{more}");
    }
    assert_eq!(cx.state.view().services.len(), 0);
    // Empty lists ask for nothing.
    let nothing = json!({
        "loadBalancers": [], "serviceRegistries": [], "capacityProviderStrategy": [],
        "serviceConnectConfiguration": {"enabled": false},
        "deploymentConfiguration": {"alarms": {"alarmNames": [], "enable": false, "rollback": false}},
    });
    call(&cx, "CreateService", &request(nothing)).await.unwrap();
}

#[tokio::test]
async fn daemons_have_no_strategy_no_fargate_and_no_maximum() {
    let (_directory, cx) = context().await;
    let daemon = |more: Value| {
        let mut request = request(more);
        request["schedulingStrategy"] = json!("DAEMON");
        request.as_object_mut().unwrap().remove("desiredCount");
        request
    };
    for more in [
        json!({"placementStrategy": [{"type": "random"}]}),
        json!({"launchType": "FARGATE", "taskDefinition": "net"}),
        json!({"deploymentConfiguration": {"maximumPercent": 200}}),
    ] {
        let refused = call(&cx, "CreateService", &daemon(more.clone())).await;
        assert_eq!(refused.unwrap_err().name, "InvalidParameterException", "{more}");
    }
    let made = call(&cx, "CreateService", &daemon(json!({}))).await.unwrap();
    let configuration = &made["service"]["deploymentConfiguration"];
    assert_eq!(configuration["minimumHealthyPercent"], 0);
    assert_eq!(configuration["maximumPercent"], 100);
    // It needs no force.
    call(&cx, "DeleteService", &json!({"service": "web"})).await.unwrap();
}

#[tokio::test]
async fn the_platform_version_is_shown_as_it_was_asked_for() {
    let (_directory, cx) = context().await;
    let fargate = json!({
        "family": "far", "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "requiresCompatibilities": ["FARGATE"],
        "containerDefinitions": [{"name": "main", "image": "busybox"}],
    });
    call(&cx, "RegisterTaskDefinition", &fargate).await.unwrap();
    for (name, asked, shown) in [
        ("a", json!(null), "LATEST"),
        ("b", json!("LATEST"), "LATEST"),
        ("c", json!("1.4.0"), "1.4.0"),
    ] {
        let made = request(json!({
            "serviceName": name, "taskDefinition": "far", "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "platformVersion": asked,
        }));
        let made = call(&cx, "CreateService", &made).await.unwrap();
        assert_eq!(made["service"]["platformVersion"], shown);
        assert_eq!(made["service"]["deployments"][0]["platformVersion"], "1.4.0");
        let same = json!({"service": name, "platformVersion": shown});
        let same = call(&cx, "UpdateService", &same).await.unwrap();
        let ids = |answer: &Value| answer["service"]["deployments"][0]["id"].clone();
        assert_eq!(ids(&same), ids(&made));
    }
}

#[tokio::test]
async fn what_begins_a_deployment() {
    let (_directory, cx) = context().await;
    let subnet =
        |name: &str| json!({"networkConfiguration": {"awsvpcConfiguration": {"subnets": [name]}}});
    let mut first = request(subnet("subnet-1"));
    first["taskDefinition"] = json!("net:1");
    call(&cx, "CreateService", &first).await.unwrap();
    for (more, begins) in [
        (json!({"desiredCount": 3}), false),
        (json!({"taskDefinition": "net:1"}), false),
        (subnet("subnet-1"), false),
        (json!({"deploymentConfiguration": {"maximumPercent": 150}}), false),
        (json!({"healthCheckGracePeriodSeconds": 5}), false),
        (json!({"placementStrategy": [{"type": "binpack", "field": "cpu"}]}), false),
        (json!({"taskDefinition": "net"}), true),
        (json!({"forceNewDeployment": true}), true),
        (subnet("subnet-2"), true),
        (json!({"taskDefinition": "net:1"}), true),
    ] {
        let described = call(&cx, "DescribeServices", &json!({"services": ["web"]})).await.unwrap();
        let before = described["services"][0]["deployments"][0]["id"].clone();
        let mut update = json!({"service": "web"});
        update.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let after = call(&cx, "UpdateService", &update).await.unwrap();
        let begun = after["service"]["deployments"][0]["id"] != before;
        assert_eq!(begun, begins, "{more}");
    }
    // The network stays where nothing is said of it.
    let described = call(&cx, "DescribeServices", &json!({"services": ["web"]})).await.unwrap();
    let network = &described["services"][0]["networkConfiguration"]["awsvpcConfiguration"];
    assert_eq!(network["subnets"], json!(["subnet-2"]));
}

#[tokio::test]
async fn lists_and_failures() {
    let (_directory, cx) = context().await;
    for number in 0..12 {
        let name = json!({"serviceName": format!("s{number:02}")});
        call(&cx, "CreateService", &request(name)).await.unwrap();
    }
    let first = call(&cx, "ListServices", &json!({})).await.unwrap();
    assert_eq!(first["serviceArns"].as_array().unwrap().len(), 10);
    let next = json!({"nextToken": first["nextToken"]});
    let second = call(&cx, "ListServices", &next).await.unwrap();
    assert_eq!(second["serviceArns"].as_array().unwrap().len(), 2);
    assert!(second.get("nextToken").is_none());
    for (filter, expected) in [
        (json!({"launchType": "FARGATE"}), 0),
        (json!({"launchType": "EC2", "maxResults": 100}), 12),
        (json!({"schedulingStrategy": "DAEMON"}), 0),
        (json!({"resourceManagementType": "ECS"}), 0),
    ] {
        let listed = call(&cx, "ListServices", &filter).await.unwrap();
        assert_eq!(listed["serviceArns"].as_array().unwrap().len(), expected, "{filter}");
    }
    let asked = json!({"services": ["nothing", "s01"]});
    let described = call(&cx, "DescribeServices", &asked).await.unwrap();
    assert_eq!(described["services"].as_array().unwrap().len(), 1);
    assert_eq!(
        described["failures"],
        json!([{
            "arn": format!("arn:aws:ecs:{REGION}:{ACCOUNT}:service/nothing"),
            "reason": "MISSING",
        }])
    );
    for operation in ["UpdateService", "DeleteService"] {
        let refused = call(&cx, operation, &json!({"service": "nothing"})).await;
        assert_eq!(refused.unwrap_err().name, "ServiceNotFoundException");
    }
}
