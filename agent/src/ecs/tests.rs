//! Membership against a scripted control plane, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod script;
mod telemetry;

use std::path::Path;
use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::backend::socket::LARGEST_FRAME;
use crate::credentials::RoleType;
use script::{CLUSTER, ControlPlane as Script, INSTANCE, KEY, SECRET, Session, host};

const TASK: &str = "arn:aws:ecs:eu-x-1:1:task/prod/0123456789abcdef0123456789abcdef";

/// One agent's life; another may follow on the same store.
struct Member {
    membership: Membership,
    running: Running,
    inbox: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    credentials: Credentials,
    identity: watch::Receiver<Option<Arc<Identity>>>,
}

fn store(directory: &Path) -> Arc<Store> {
    Arc::new(Store::open(&directory.join("state.redb")).unwrap())
}

fn config(script: &Script, more: &[(&str, &str)]) -> Config {
    let endpoint = script.endpoint();
    let mut variables = vec![
        ("ECS_BACKEND_HOST", endpoint.as_str()),
        ("ECS_CLUSTER", "prod"),
        ("AWS_DEFAULT_REGION", "eu-x-1"),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("ECS_INSTANCE_ATTRIBUTES", "{\"rack\":\"7\"}"),
    ];
    variables.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
    variables.extend(more);
    let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
    Config::load(Path::new("/nonexistent"), variables).unwrap().0
}

fn join(store: &Arc<Store>, config: Config) -> Member {
    let (inbox, snapshots) = host();
    let (sender, identity) = watch::channel(None);
    let membership = Membership::new(config, store, sender);
    let credentials = Credentials::default();
    let running = start(Parts {
        membership: membership.clone(),
        inbox: inbox.clone(),
        snapshots: snapshots.clone(),
        credentials: credentials.clone(),
        tmds: None,
    })
    .unwrap();
    Member { membership, running, inbox, snapshots, credentials, identity }
}

/// Registered, with its session.
async fn joined(script: &mut Script, store: &Arc<Store>) -> (Member, Session) {
    let member = join(store, config(script, &[]));
    script.call("RegisterContainerInstance").await;
    script.call("DiscoverPollEndpoint").await;
    let session = script.session().await;
    (member, session)
}

fn task(arn: &str, desired: &str) -> Value {
    json!({
        "arn": arn, "taskClusterArn": CLUSTER, "family": "web", "version": "3",
        "desiredStatus": desired, "networkMode": "awsvpc", "cpu": 0.25, "memory": 128,
        "launchType": "EC2",
        "containers": [{
            "name": "app", "containerArn": "arn:c", "image": "busybox", "essential": true,
            "cpu": 128, "memory": 64,
            "dockerConfig": {"version": "1.18", "config": "{}", "hostConfig": "{}"},
        }],
    })
}

fn payload(id: &str, tasks: &[Value]) -> Value {
    json!({
        "messageId": id, "clusterArn": CLUSTER, "containerInstanceArn": INSTANCE, "tasks": tasks,
    })
}

async fn assert_ack(session: &mut Session, id: &str) {
    let (kind, ack) = session.receive().await;
    assert_eq!(kind, "AckRequest");
    assert_eq!(ack, json!({"cluster": CLUSTER, "containerInstance": INSTANCE, "messageId": id}));
}

#[tokio::test]
async fn a_task_comes_runs_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let mut member = join(&store, config(&script, &[]));

    let request = script.call("RegisterContainerInstance").await;
    assert_eq!(request["cluster"], "prod");
    assert_eq!(request.get("containerInstanceArn"), None);
    let attributes = request["attributes"].as_array().unwrap();
    assert!(attributes.contains(&json!({"name": "rack", "value": "7"})));
    let discover = script.call("DiscoverPollEndpoint").await;
    assert_eq!(discover, json!({"cluster": "prod", "containerInstance": INSTANCE}));
    let mut session = script.session().await;
    assert_eq!(session.query["containerInstanceArn"], INSTANCE);
    assert_eq!(session.query["clusterArn"], "prod");
    assert_eq!(session.query["sendCredentials"], "true");
    assert_eq!(session.query["protocolVersion"], "2");
    let identity = member.identity.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert_eq!(identity.cluster_arn, CLUSTER);
    assert_eq!(identity.availability_zone.as_deref(), Some("eu-x-1a"));
    let stored = registration::load(&store).unwrap().unwrap();
    assert_eq!(stored.identity, *identity, "remembered before it is used");

    session.send("HeartbeatMessage", json!({"messageId": "h", "healthy": true})).await;
    let beat = session.receive().await;
    assert_eq!(beat, ("HeartbeatAckRequest".to_owned(), json!({"messageId": "h"})));

    let mut running = task(TASK, "RUNNING");
    running["roleCredentials"] = json!({
        "credentialsId": "c1", "roleArn": "arn:aws:iam::000000000001:role/web", "accessKeyId": "A",
        "secretAccessKey": "S", "sessionToken": "T", "expiration": "2030-01-01T00:00:00Z",
    });
    session.send("PayloadMessage", payload("p1", &[running])).await;
    assert_ack(&mut session, "p1").await;
    let (kind, ack) = session.receive().await;
    assert_eq!(kind, "IAMRoleCredentialsAckRequest");
    assert_eq!(
        ack,
        json!({"messageId": "p1", "credentialsId": "c1", "expiration": "2030-01-01T00:00:00Z"})
    );
    let id = member.snapshots.borrow().states.keys().next().unwrap().clone();
    let held = member.credentials.of(&id, RoleType::Application).unwrap();
    assert_eq!(held.credentials_id.as_deref(), Some("c1"));

    let report = script.call("SubmitTaskStateChange").await;
    assert_eq!(
        (&report["cluster"], &report["task"], &report["status"]),
        (&json!(CLUSTER), &json!(TASK), &json!("RUNNING"))
    );
    let container = &report["containers"][0];
    assert_eq!(container["containerName"], "app");
    assert_eq!(container["status"], "RUNNING");
    assert_eq!(container["imageDigest"], "sha256:2");
    assert_eq!(container["runtimeId"], "0123456789abcdef0123456789abcdef-app");
    assert_eq!(container["networkInterfaces"][0]["privateIpv4Address"], "10.147.0.2");

    // Known: it is not run again, newer credentials are told.
    session
        .send(
            "IAMRoleCredentialsMessage",
            json!({
                "messageId": "i", "taskArn": TASK, "roleType": "TaskExecution",
                "roleCredentials": {"credentialsId": "c2", "expiration": "x"},
            }),
        )
        .await;
    let (_, ack) = session.receive().await;
    assert_eq!(ack, json!({"messageId": "i", "credentialsId": "c2", "expiration": "x"}));

    session.send("PayloadMessage", payload("p2", &[task(TASK, "STOPPED")])).await;
    assert_ack(&mut session, "p2").await;
    let report = script.call("SubmitTaskStateChange").await;
    assert_eq!(report["status"], "STOPPED");
    assert_eq!(report.get("reason"), None);
    assert_eq!(report["containers"][0]["exitCode"], 143);
    assert!(report["executionStoppedAt"].is_number());
    let told = |snapshot: &Arc<Snapshot>| {
        let mut states = snapshot.states.values();
        states.all(|t| t.ecs.as_ref().unwrap().sent.task == Some(Reported::Stopped))
    };
    member.snapshots.wait_for(told).await.unwrap();
    let held = member.credentials.of(&id, RoleType::Application);
    assert!(held.is_none(), "an ended task's containers have none");

    // The next connection of this process asks for no credentials.
    drop(session);
    assert_eq!(script.session().await.query["sendCredentials"], "false");
}

#[tokio::test]
async fn an_agent_that_comes_back_is_the_same_instance() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    drop(joined(&mut script, &store).await);
    let member = join(&store, config(&script, &[]));
    let request = script.call("RegisterContainerInstance").await;
    assert_eq!(request["containerInstanceArn"], INSTANCE);
    assert!(!request["attributes"].to_string().contains("rack"));
    drop(member);

    // Another cluster is refused before anything is said.
    let member = join(&store, config(&script, &[("ECS_CLUSTER", "test")]));
    let terminal = member.running.ended().await;
    assert!(matches!(*terminal, Terminal::Cluster { .. }), "{terminal}");
    drop(member);

    let (mut member, _session) = {
        let member = join(&store, config(&script, &[]));
        while script.call_any().await != "DiscoverPollEndpoint" {}
        let session = script.session().await;
        (member, session)
    };
    let left = member.membership.leave().await.unwrap();
    assert_eq!(left.container_instance_arn, INSTANCE);
    let request = script.call("DeregisterContainerInstance").await;
    assert_eq!(request, json!({"cluster": CLUSTER, "containerInstance": INSTANCE, "force": true}));
    member.identity.wait_for(Option::is_none).await.unwrap();
    assert!(matches!(member.membership.leave().await, Err(LeaveError::NotRegistered)));
    assert_eq!(registration::load(&store).unwrap(), None);
}

#[tokio::test]
async fn a_task_that_cannot_be_used_is_reported_and_spares_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (_member, mut session) = joined(&mut script, &store).await;
    let bad = [
        // No definition, no JSON shape, no id.
        json!({"arn": "arn:aws:ecs:eu-x-1:1:task/prod/00000000000000000000000000000001",
               "desiredStatus": "RUNNING", "containers": []}),
        json!({"arn": "arn:aws:ecs:eu-x-1:1:task/prod/00000000000000000000000000000002",
               "containers": "many"}),
        task("arn:aws:ecs:eu-x-1:1:task/prod/web", "RUNNING"),
    ];
    let mut tasks = bad.to_vec();
    tasks.push(task(TASK, "RUNNING"));
    session.send("PayloadMessage", payload("p", &tasks)).await;
    assert_ack(&mut session, "p").await;
    let mut reports = Vec::new();
    for _ in 0..4 {
        reports.push(script.call("SubmitTaskStateChange").await);
    }
    for task in &bad {
        let report = reports.iter().find(|report| report["task"] == task["arn"]).unwrap();
        assert_eq!(report["status"], "STOPPED");
        let reason = report["reason"].as_str().unwrap();
        assert!(reason.starts_with("UnrecogniedTaskError: Error loading task - "), "{reason}");
        assert_eq!(report.get("containers"), None);
    }
    let good = reports.iter().find(|report| report["task"] == TASK).unwrap();
    assert_eq!(good["status"], "RUNNING");

    // Without an ARN nobody can be told: the message is not acknowledged. The connection stays.
    let mut nameless = task(TASK, "RUNNING");
    nameless["arn"] = json!("");
    session.send("PayloadMessage", payload("q", &[nameless])).await;
    session.send("PayloadMessage", json!({"tasks": []})).await;
    session.send("Mystery", json!({})).await;
    session.send_text("no json").await;
    session.send_text(r#"{"type":"PayloadMessage","message":{"tasks":7}}"#).await;
    session.send("StageUpdateMessage", json!({"messageId": "u", "clusterArn": CLUSTER})).await;
    let (kind, nack) = session.receive().await;
    assert_eq!(kind, "NackRequest");
    assert_eq!(
        nack,
        json!({"cluster": CLUSTER, "messageId": "u", "reason": "Updates are disabled"})
    );
}

#[tokio::test]
async fn a_stop_for_an_unknown_task_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (_member, mut session) = joined(&mut script, &store).await;
    session.send("PayloadMessage", payload("p", &[task(TASK, "STOPPED")])).await;
    assert_ack(&mut session, "p").await;
    let report = script.call("SubmitTaskStateChange").await;
    assert_eq!((&report["task"], &report["status"]), (&json!(TASK), &json!("STOPPED")));
    assert_eq!(report["containers"][0]["status"], "STOPPED");
    assert_eq!(report["containers"][0].get("runtimeId"), None);
}

#[tokio::test]
async fn a_manifest_stops_only_what_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (member, mut session) = joined(&mut script, &store).await;
    let other = TASK.replace('0', "f");
    let tasks = [task(TASK, "RUNNING"), task(&other, "RUNNING")];
    let mut first = payload("p", &tasks);
    first["seqNum"] = json!(5);
    session.send("PayloadMessage", first).await;
    assert_ack(&mut session, "p").await;
    let manifest = |id: &str, timeline: i64| {
        json!({
            "messageId": id, "clusterArn": CLUSTER, "containerInstanceArn": INSTANCE,
            "timeline": timeline,
            "tasks": [{"taskArn": TASK, "taskClusterArn": CLUSTER, "desiredStatus": "RUNNING"}],
        })
    };
    // Older than the payload: dropped.
    session.send("TaskManifestMessage", manifest("old", 5)).await;
    session.send("TaskManifestMessage", manifest("m", 6)).await;
    assert_ack(&mut session, "m").await;
    let (kind, question) = session.receive().await;
    assert_eq!(kind, "TaskStopVerificationMessage");
    assert_eq!(
        question,
        json!({"messageId": "m", "stopCandidates": [{
            "taskArn": other, "taskClusterArn": CLUSTER, "desiredStatus": "STOPPED",
        }]})
    );
    let confirm = |id: &str, arn: &str| json!({"messageId": id, "stopTasks": [{"taskArn": arn, "desiredStatus": "STOPPED"}]});
    // An answer to no question.
    session.send("TaskStopVerificationAck", confirm("x", TASK)).await;
    session.send("TaskStopVerificationAck", confirm("m", &other)).await;
    let mut snapshots = member.snapshots.clone();
    let stopped = |snapshot: &Arc<Snapshot>, arn: &str| {
        let mut states = snapshot.states.values();
        states.any(|t| t.ecs.as_ref().unwrap().arn == arn && t.times.stopped.is_some())
    };
    let snapshot = snapshots.wait_for(|snapshot| stopped(snapshot, &other)).await.unwrap().clone();
    assert!(!stopped(&snapshot, TASK));
    drop((member, session));
    // The number survives the agent.
    assert!(format!("{:?}", Manifests::load(&store, INSTANCE).unwrap()).contains("number: 6"));
    assert!(format!("{:?}", Manifests::load(&store, "another").unwrap()).contains("number: -1"));
}

#[tokio::test]
async fn reports_are_repeated_until_taken_and_dropped_when_unwanted() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (mut member, mut session) = joined(&mut script, &store).await;
    let error = |name: &str| json!({"__type": name, "message": "no"});
    script.script(
        "SubmitTaskStateChange",
        vec![(500, error("ServerException")), (400, error("InvalidParameterException"))],
    );
    session.send("PayloadMessage", payload("p", &[task(TASK, "RUNNING")])).await;
    assert_ack(&mut session, "p").await;
    let first = script.call("SubmitTaskStateChange").await;
    let second = script.call("SubmitTaskStateChange").await;
    assert_eq!(first, second);
    let told = |snapshot: &Arc<Snapshot>| {
        let mut states = snapshot.states.values();
        states.any(|t| t.ecs.as_ref().unwrap().sent.task == Some(Reported::Running))
    };
    tokio::time::timeout(Duration::from_secs(10), member.snapshots.wait_for(told))
        .await
        .unwrap()
        .unwrap();
    // Ended here, by nobody's wish.
    let stop = TaskEvent::Stop { reason: Some("by hand".to_owned()), kill: false, timeout: None };
    let id = crate::registration::last(TASK).parse().unwrap();
    member
        .inbox
        .send(Input::Event(crate::engine::Event::Task { task: id, event: stop }))
        .await
        .unwrap();
    let report = script.call("SubmitTaskStateChange").await;
    assert_eq!((&report["status"], &report["reason"]), (&json!("STOPPED"), &json!("by hand")));
}

#[tokio::test]
async fn a_refused_registration_ends_the_agent_and_a_missing_default_cluster_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let error = |name: &str, message: &str| (400, json!({"__type": name, "message": message}));
    script.script("RegisterContainerInstance", vec![error("ClientException", "no")]);
    let member = join(&store, config(&script, &[]));
    let terminal = member.running.ended().await;
    assert!(matches!(*terminal, Terminal::Refused(_)), "{terminal}");
    drop(member);
    script.call("RegisterContainerInstance").await;

    let echo = json!({"containerInstance": {"containerInstanceArn": INSTANCE, "attributes": []}});
    script.script("RegisterContainerInstance", vec![(200, echo)]);
    let member = join(&store, config(&script, &[]));
    let terminal = member.running.ended().await;
    assert!(terminal.to_string().contains("AttributeError"), "{terminal}");
    drop(member);
    script.call("RegisterContainerInstance").await;
    assert_eq!(registration::load(&store).unwrap(), None);

    script
        .script("RegisterContainerInstance", vec![error("ClientException", "Cluster not found.")]);
    let _member = join(&store, config(&script, &[("ECS_CLUSTER", "")]));
    let first = script.call("RegisterContainerInstance").await;
    assert_eq!(first["cluster"], "default");
    assert_eq!(script.call("CreateCluster").await, json!({"clusterName": "default"}));
    // One whose answer is lost must not make a second instance.
    assert!(first["clientToken"].as_str().is_some_and(|token| token.len() == 36));
    assert_eq!(script.call("RegisterContainerInstance").await, first);
    script.call("DiscoverPollEndpoint").await;
}

#[tokio::test]
async fn frames_that_cannot_be_read_are_dropped_and_too_large_ones_end_the_session() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (member, mut session) = joined(&mut script, &store).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!(r#"{{"type":"PayloadMessage","message":{{"tasks":{deep}}}}}"#);
    for frame in [
        "",
        " ",
        "nonsense",
        "{",
        "[]",
        "null",
        "{}",
        "7",
        r#"{"type":5}"#,
        r#"{"type":null,"message":{}}"#,
        r#"{"type":"Nobody'sMessage","message":{"messageId":"n"}}"#,
        r#"{"type":"\u0000\u001b[31m","message":{}}"#,
        r#"{"type":"AckRequest","message":{"messageId":"mine"}}"#,
        r#"{"type":"HeartbeatMessage","message":["h",true]}"#,
        r#"{"type":"HeartbeatMessage","message":[]}"#,
        r#"{"type":"HeartbeatMessage","message":{"messageId":7}}"#,
        r#"{"type":"HeartbeatMessage","type":"HeartbeatMessage","message":{}}"#,
        r#"{"type":"PayloadMessage","message":null}"#,
        r#"{"type":"PayloadMessage","message":{"messageId":"p","tasks":{}}}"#,
        r#"{"type":"TaskManifestMessage","message":{"messageId":"m","timeline":"1"}}"#,
        r#"{"type":"TaskStopVerificationAck","message":{"messageId":"x","stopTasks":7}}"#,
        r#"{"type":"PayloadMessage","message":{"messageId":"\ud800"}}"#,
        &deep,
        &nested,
        &format!(r#"{{"type":"{}"}}"#, "x".repeat(100_000)),
    ] {
        session.send_text(frame).await;
    }
    session.socket.send(Message::binary(vec![0, 159, 146, 150])).await.unwrap();
    session.socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    // The next answer is the one to this: to none of the others was one, and the session lives.
    session.send("HeartbeatMessage", json!({"messageId": "h", "healthy": true})).await;
    let beat = session.receive().await;
    assert_eq!(beat, ("HeartbeatAckRequest".to_owned(), json!({"messageId": "h"})));
    assert!(member.snapshots.borrow().states.is_empty());
    // It may close before all is sent.
    drop(session.socket.send(Message::text("x".repeat(LARGEST_FRAME + 1))).await);
    let mut again = script.session().await;
    again.send("PayloadMessage", payload("p", &[task(TASK, "RUNNING")])).await;
    assert_ack(&mut again, "p").await;
}

#[tokio::test]
async fn a_silent_or_old_connection_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (member, session) = joined(&mut script, &store).await;
    let identity = member.identity.borrow().clone().unwrap();
    let control_plane = member.membership.control_plane().await.unwrap().clone();
    drop((member.running, session));
    let context = acs::Context {
        identity,
        inbox: member.inbox.clone(),
        snapshots: member.snapshots.clone(),
        credentials: member.credentials.clone(),
        store: Arc::clone(&store),
        pull: crate::api::types::PullPolicy::Missing,
        heartbeat: Arc::default(),
    };
    let moment = Duration::from_millis(200);
    let long = Duration::from_secs(60);
    for limits in [
        Limits { silence: (moment, moment), life: (long, long) },
        Limits { silence: (long, long), life: (moment * 6, moment * 6) },
    ] {
        let manifests = Manifests::load(&store, INSTANCE).unwrap();
        let run = session::run(control_plane.clone(), context.clone(), manifests, limits);
        let held = AbortOnDropHandle::new(tokio::spawn(run));
        let _first = script.session().await;
        let _second = script.session().await;
        drop(held);
    }
}

#[test]
fn endpoints_of_amazon() {
    assert_eq!(amazon("eu-west-1"), "https://ecs.eu-west-1.amazonaws.com");
    assert_eq!(amazon("cn-north-1"), "https://ecs.cn-north-1.amazonaws.com.cn");
    assert!(memory_mib() > 16);
}
