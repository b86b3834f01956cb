#![allow(clippy::unwrap_used)]

use protocol::time::EpochSeconds;
use serde_json::{Value, json};

use super::*;
use crate::model::{Definition, TaskInterface};
use crate::scheduler::fixtures;

fn definition() -> Definition {
    let containers = json!([
        {"name": "web", "image": "i", "memory": 8},
        {"name": "side", "image": "i", "memory": 8, "essential": false},
    ]);
    fixtures::definition("f", json!({}), json!({"containerDefinitions": containers}))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn task() -> Task {
    Task {
        delivered: Some(Desired::Running),
        created_at: at(0),
        ..fixtures::task(&definition(), &fixtures::id(1), "family:f", 0)
    }
}

/// The task after a report at this second, as on the wire.
fn after(task: &Task, second: i64, change: Value) -> Option<Task> {
    let change = serde_json::from_value(change).unwrap();
    apply(task, Some(&definition().definition), &change, at(second))
}

#[test]
fn a_life() {
    let digest = "sha256:ab";
    let pulled = after(
        &task(),
        1,
        json!({
            "status": "PENDING",
            "pullStartedAt": 1_800_000_000, "pullStoppedAt": 1_800_000_001,
            "containers": [{"containerName": "web", "status": "PENDING", "imageDigest": digest}],
        }),
    )
    .unwrap();
    assert_eq!(pulled.containers[0].image_digest.as_deref(), Some(digest));
    assert_eq!((pulled.pull_started_at, pulled.pull_stopped_at), (Some(at(0)), Some(at(1))));
    assert_eq!(pulled.version, 2);

    let binding = json!({"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 32768,
                         "protocol": "tcp"});
    let running = after(
        &pulled,
        2,
        json!({
            "status": "RUNNING",
            "containers": [
                {"containerName": "web", "status": "RUNNING", "runtimeId": "w",
                 "networkBindings": [binding, {"bindIP": "no address"}]},
                {"containerName": "side", "status": "STOPPED", "exitCode": 3},
                {"containerName": "unknown", "status": "RUNNING"},
            ],
        }),
    )
    .unwrap();
    assert_eq!((running.last, running.started_at), (TaskStatus::Running, Some(at(2))));
    assert_eq!(running.containers[0].network_bindings.len(), 1);
    assert_eq!(running.containers[1].exit_code, Some(3));
    assert_eq!(running.desired, Desired::Running);

    let stopped = after(
        &running,
        9,
        json!({
            "status": "STOPPED",
            "executionStoppedAt": 1_800_000_008,
            "containers": [{"containerName": "web", "status": "STOPPED", "exitCode": 0}],
        }),
    )
    .unwrap();
    assert_eq!(stopped.last, TaskStatus::Stopped);
    assert_eq!(stopped.desired, Desired::Stopped);
    assert_eq!(stopped.stop_code, Some(StopCode::EssentialContainerExited));
    assert_eq!(stopped.stopped_reason.as_deref(), Some("Essential container in task exited"));
    assert_eq!((stopped.execution_stopped_at, stopped.stopped_at), (Some(at(8)), Some(at(9))));
    assert_eq!(stopped.started_at, Some(at(2)));
    assert_eq!(stopped.version, 4);
}

#[test]
fn what_is_late_or_says_nothing_changes_nothing() {
    let running = after(&task(), 1, json!({"status": "RUNNING"})).unwrap();
    for change in [
        json!({}),
        json!({"status": "PENDING"}),
        json!({"status": "RUNNING"}),
        json!({"status": "FLYING"}),
        json!({"containers": [{"containerName": "web", "status": "PENDING", "runtimeId": ""}]}),
        json!({"containers": [{"status": "RUNNING"}]}),
        json!({"attachments": [{"attachmentArn": "a", "status": "ATTACHED"}]}),
    ] {
        assert_eq!(after(&running, 2, change.clone()), None, "{change}");
    }
    let stopped = after(&running, 2, json!({"status": "STOPPED"})).unwrap();
    for status in ["PENDING", "RUNNING", "STOPPED"] {
        let late = json!({"status": status, "reason": "late",
                          "containers": [{"containerName": "web", "exitCode": 1}]});
        assert_eq!(after(&stopped, 3, late), None);
    }
}

#[test]
fn why_it_stopped() {
    use StopCode::{EssentialContainerExited, TaskFailedToStart, UserInitiated};
    let exited = "Essential container in task exited";
    let pull = "CannotPullContainerError: no such image";
    let running = after(&task(), 1, json!({"status": "RUNNING"})).unwrap();
    let mut asked = running.clone();
    asked.stop(UserInitiated, "enough".to_owned(), at(2));
    let of_web = |mut members: Value| {
        members["containerName"] = json!("web");
        json!([members])
    };
    let cases = [
        (&asked, json!({}), UserInitiated, "enough"),
        (&asked, json!({"reason": "x"}), UserInitiated, "enough"),
        (&running, json!({}), EssentialContainerExited, exited),
        (&running, json!({"reason": "Told so"}), EssentialContainerExited, "Told so"),
        (
            &running,
            json!({"containers": of_web(json!({"reason": "OutOfMemoryError: x"}))}),
            EssentialContainerExited,
            exited,
        ),
        (&task(), json!({}), TaskFailedToStart, "Task failed to start"),
        (&task(), json!({"reason": "Told so"}), TaskFailedToStart, "Told so"),
        (&task(), json!({"containers": of_web(json!({"reason": pull}))}), TaskFailedToStart, pull),
        // Over before it was reported RUNNING.
        (
            &task(),
            json!({"containers": of_web(json!({"exitCode": 0}))}),
            EssentialContainerExited,
            exited,
        ),
        (
            &task(),
            json!({"containers":
                of_web(json!({"exitCode": 137, "reason": "OutOfMemoryError: x"}))}),
            EssentialContainerExited,
            exited,
        ),
        (
            &task(),
            json!({"containers": [{"containerName": "side", "exitCode": 0}]}),
            TaskFailedToStart,
            "Task failed to start",
        ),
    ];
    for (task, mut change, code, reason) in cases {
        change["status"] = json!("STOPPED");
        let stopped = after(task, 5, change.clone()).unwrap();
        let why = (stopped.stop_code, stopped.stopped_reason.as_deref());
        assert_eq!(why, (Some(code), Some(reason)), "{change}");
        assert!(stopped.containers.iter().all(|c| c.last == ContainerStatus::Stopped));
    }
}

#[test]
fn a_stop_that_was_asked_for_keeps_its_time() {
    let mut asked = task();
    asked.stop(StopCode::UserInitiated, "enough".to_owned(), at(2));
    let started = after(&asked, 3, json!({"status": "RUNNING"})).unwrap();
    assert_eq!((started.last, started.desired), (TaskStatus::Running, Desired::Stopped));
    let stopped = after(&started, 5, json!({"status": "STOPPED"})).unwrap();
    assert_eq!(stopped.stopping_at, Some(at(2)));
    assert_eq!(stopped.execution_stopped_at, Some(at(5)));
}

#[test]
fn the_hosts_address_becomes_the_tasks() {
    let interfaces = |address: &str| {
        json!({"containers": [{"containerName": "web",
                               "networkInterfaces": [{"privateIpv4Address": address}]}]})
    };
    assert_eq!(after(&task(), 1, interfaces("10.0.0.7")), None, "not an awsvpc task");
    let mut awsvpc = task();
    awsvpc.interface = Some(TaskInterface {
        attachment: "a".to_owned(),
        subnet: "s".to_owned(),
        private_address: None,
        mac_address: None,
    });
    assert_eq!(after(&awsvpc, 1, interfaces("10.0.0.7; rm")), None);
    let known = after(&awsvpc, 1, interfaces("10.0.0.7")).unwrap();
    assert_eq!(known.interface.unwrap().private_address.as_deref(), Some("10.0.0.7"));
}

#[test]
fn what_agents_say_is_bounded() {
    let long = "ä".repeat(5000);
    let change = json!({"containers": [{
        "containerName": "web", "reason": long, "runtimeId": long, "imageDigest": long,
        "networkBindings": vec![json!({"containerPort": 1}); 500],
    }]});
    let task = after(&task(), 1, change).unwrap();
    let web = &task.containers[0];
    assert_eq!(web.reason.as_ref().unwrap().chars().count(), LONGEST_REASON);
    assert_eq!((&web.runtime_id, &web.image_digest), (&None, &None));
    assert_eq!(web.network_bindings.len(), MOST_BINDINGS);
    for bad in [
        json!({"bindIP": "x"}),
        json!({"containerPort": 70000}),
        json!({"protocol": "x"}),
        json!({"containerPortRange": "1-2-3"}),
        json!({"hostPortRange": long}),
    ] {
        let binding: ecs::NetworkBinding = serde_json::from_value(bad.clone()).unwrap();
        assert!(!is_binding(&binding), "{bad}");
    }
}

#[test]
fn without_its_definition_every_container_is_essential() {
    let change = ecs::SubmitTaskStateChangeRequest {
        status: Some("STOPPED".to_owned()),
        containers: Some(vec![ecs::ContainerStateChange {
            container_name: Some("side".to_owned()),
            exit_code: Some(0),
            ..ecs::ContainerStateChange::default()
        }]),
        execution_stopped_at: Some(EpochSeconds(at(1))),
        ..ecs::SubmitTaskStateChangeRequest::default()
    };
    let stopped = apply(&task(), None, &change, at(2)).unwrap();
    assert_eq!(stopped.stop_code, Some(StopCode::EssentialContainerExited));
}

proptest::proptest! {
    /// Whatever comes in whatever order: statuses and versions only rise, and a stopped task says
    /// why.
    #[test]
    fn statuses_only_rise(reports in proptest::collection::vec((0..4_usize, 0..4_usize, proptest::bool::ANY), 1..12)) {
        let statuses = [None, Some("PENDING"), Some("RUNNING"), Some("STOPPED")];
        let mut now = task();
        for (task_status, container_status, with_exit) in reports {
            let report = json!({
                "status": statuses[task_status],
                "containers": [{
                    "containerName": "web",
                    "status": statuses[container_status],
                    "exitCode": with_exit.then_some(1),
                }],
            });
            let Some(next) = after(&now, 1, report) else { continue };
            proptest::prop_assert!(next.last >= now.last);
            proptest::prop_assert!(next.containers[0].last >= now.containers[0].last);
            proptest::prop_assert!(next.version == now.version + 1);
            proptest::prop_assert!(next.is_live() || next.stop_code.is_some());
            proptest::prop_assert!(next.started_at.is_none() || next.last >= TaskStatus::Running);
            now = next;
        }
    }
}
