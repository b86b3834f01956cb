//! Services on a real store, driven, with agents that are simulated on the records.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::api::{self, Context};
use crate::config::Config;
use crate::model::{
    Connection, Desired, Entity, Instance, InstanceStatus, StopCode, Task, TaskStatus,
};
use crate::scheduler::fixtures::{
    CLUSTER, REGION, cluster, connection, definition, guard, id, instance,
};
use crate::state::{Error, State, View, testing};

const DEADLINE: Duration = Duration::from_secs(20);

struct Plane {
    _directory: tempfile::TempDir,
    state: Arc<State>,
    config: Arc<Config>,
    _drive: AbortOnDropHandle<()>,
    _agents: AbortOnDropHandle<()>,
}

/// A control plane with so many connected instances and the definition `web`, revisions 1 (good) and
/// 2 (its tasks do not come to run).
async fn plane(instances: u32) -> Plane {
    let (directory, state) = testing::open().await;
    let config = Arc::new(Config {
        lost_after: Some(Duration::from_millis(300)),
        settle: Duration::from_millis(50),
        ..api::testing::config()
    });
    write(&state, |_, edit| {
        edit.create(&cluster());
        for revision in [1, 2, 3] {
            let web = definition("web", json!({}), json!({}));
            edit.create(&crate::model::Definition { revision, ..web });
        }
        edit.create(&crate::model::Family {
            region: REGION.to_owned(),
            name: "web".to_owned(),
            last_revision: 3,
        });
        for number in 0..instances {
            edit.create(&instance(number, "a"));
            edit.create(&guard(number));
            edit.create(&connection(number));
        }
    })
    .await;
    let drive = tokio::spawn(super::run(Arc::clone(&state), Arc::clone(&config)));
    let agents = tokio::spawn(agents(Arc::clone(&state)));
    Plane {
        _directory: directory,
        state,
        config,
        _drive: AbortOnDropHandle::new(drive),
        _agents: AbortOnDropHandle::new(agents),
    }
}

async fn write(state: &State, mut decide: impl FnMut(&View, &mut crate::state::Edit)) {
    let done: Result<(), Error> = state
        .transact(|view, edit| {
            decide(view, edit);
            Ok(())
        })
        .await;
    done.unwrap();
}

/// What connected agents make of their tasks: revision 2 never runs.
async fn agents(state: Arc<State>) {
    let mut changes = state.changes();
    loop {
        changes.mark_unchanged();
        write(&state, |view, edit| {
            for task in view.tasks.iter().filter(|task| task.is_live()) {
                let key = Connection::key_of(REGION, CLUSTER, &task.instance);
                if view.connections.get(&key).is_none() {
                    continue;
                }
                let mut next = task.value.clone();
                let now = Timestamp::now();
                match (task.desired, task.last) {
                    (Desired::Running, TaskStatus::Pending) if task.definition.revision == 2 => {
                        next.stop_code = Some(StopCode::TaskFailedToStart);
                        next.end(now);
                    }
                    (Desired::Running, TaskStatus::Pending) => {
                        next.last = TaskStatus::Running;
                        next.started_at = Some(now);
                    }
                    (Desired::Stopped, _) => next.end(now),
                    _ => continue,
                }
                edit.update(task, &next);
            }
        })
        .await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl Plane {
    async fn call(&self, operation: &str, request: Value) -> Result<Value, String> {
        let context = Context {
            config: Arc::clone(&self.config),
            now: Timestamp::now(),
            ..api::testing::context(&self.state)
        };
        let answer = api::ecs(&context, operation, &serde_json::to_vec(&request).unwrap()).await;
        answer.map(|body| serde_json::from_slice(&body).unwrap()).map_err(|error| error.to_string())
    }

    async fn describe(&self) -> Value {
        let answer = self.call("DescribeServices", json!({"services": ["web"]})).await.unwrap();
        answer["services"][0].clone()
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            let service = self.describe().await;
            if holds(&service) {
                return service;
            }
            assert!(Instant::now() < until, "not {what}: {service:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stable(&self, count: u64) -> Value {
        self.eventually("stable", |service| {
            let deployments = service["deployments"].as_array().unwrap();
            deployments.len() == 1
                && deployments[0]["rolloutState"] == "COMPLETED"
                && service["desiredCount"] == count
                && service["runningCount"] == count
        })
        .await
    }

    /// Wanted tasks per instance.
    fn spread(&self) -> Vec<usize> {
        let view = self.state.view();
        let on = |instance: &Instance| {
            let tasks = view.tasks_on(&instance.key());
            tasks.filter(|task| task.is_live() && task.desired == Desired::Running).count()
        };
        view.instances.iter().map(|instance| on(instance)).collect()
    }

    fn tasks(&self) -> Vec<Task> {
        self.state.view().tasks.iter().map(|task| task.value.clone()).collect()
    }
}

fn told(service: &Value, text: &str) -> bool {
    let events = service["events"].as_array().unwrap();
    events.iter().any(|event| event["message"].as_str().unwrap().contains(text))
}

async fn created(instances: u32, desired: u64) -> Plane {
    let plane = plane(instances).await;
    let request = json!({"serviceName": "web", "taskDefinition": "web:1", "desiredCount": desired});
    plane.call("CreateService", request).await.unwrap();
    plane.stable(desired).await;
    plane
}

#[tokio::test]
async fn a_service_is_spread_and_a_dead_task_is_replaced_soon() {
    let plane = created(2, 4).await;
    assert_eq!(plane.spread(), [2, 2]);
    let service = plane.eventually("steady", |s| told(s, "reached a steady state")).await;
    assert!(told(&service, "(service web) has started 4 tasks: (task "));
    let one = plane.tasks().remove(0);
    assert_eq!(one.group, "service:web");
    assert_eq!(one.started_by.as_deref(), service["deployments"][0]["id"].as_str());
    let killed = Instant::now();
    write(&plane.state, |view, edit| {
        let task = view.tasks.get(&one.key()).unwrap();
        let mut dead = task.value.clone();
        dead.stop_code = Some(StopCode::EssentialContainerExited);
        dead.end(Timestamp::now());
        edit.update(task, &dead);
    })
    .await;
    let alive = |tasks: &[Task]| tasks.iter().filter(|task| task.is_live()).count();
    while alive(&plane.tasks()) < 4 {
        assert!(killed.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    plane.stable(4).await;
}

#[tokio::test]
async fn a_new_revision_is_rolled_out_and_a_bad_one_rolled_back() {
    let plane = created(1, 2).await;
    let update = json!({"service": "web", "taskDefinition": "web:3"});
    let updated = plane.call("UpdateService", update).await.unwrap();
    let statuses = |service: &Value| {
        let deployments = service["deployments"].as_array().unwrap().clone();
        deployments.iter().map(|d| d["status"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(statuses(&updated["service"]), ["PRIMARY", "ACTIVE"]);
    let third = plane.stable(2).await["taskDefinition"].clone();
    assert!(third.as_str().unwrap().ends_with(":3"));

    let update = json!({
        "service": "web",
        "taskDefinition": "web:2",
        "deploymentConfiguration": {
            "deploymentCircuitBreaker": {"enable": true, "rollback": true},
        },
    });
    plane.call("UpdateService", update).await.unwrap();
    plane.eventually("rolled back", |service| service["taskDefinition"] == third).await;
    let service = plane.stable(2).await;
    assert!(told(&service, "rolling back to deployment ecs-svc/"));
}

#[tokio::test]
async fn draining_and_loss_of_a_host_move_tasks() {
    let plane = created(2, 2).await;
    assert_eq!(plane.spread(), [1, 1]);
    let set = |number: u32, status: InstanceStatus| {
        let state = Arc::clone(&plane.state);
        async move {
            write(&state, |view, edit| {
                let key = Instance::key_of(REGION, CLUSTER, &id(number));
                let stored = view.instances.get(&key).unwrap();
                edit.update(stored, &Instance { status, ..stored.value.clone() });
            })
            .await;
        }
    };
    set(0, InstanceStatus::Draining).await;
    plane.eventually("moved", |_| plane.spread() == [0, 2]).await;
    set(0, InstanceStatus::Active).await;

    write(&plane.state, |view, edit| {
        edit.delete(view.connections.get(&connection(1).key()).unwrap());
    })
    .await;
    plane.eventually("moved back", |_| plane.spread() == [2, 0]).await;
    plane.stable(2).await;
    let lost: Vec<Task> = plane.tasks().into_iter().filter(|t| t.instance == id(1)).collect();
    assert_eq!(lost.iter().filter(|task| task.is_live()).count(), 0);
    let given_up: Vec<&Task> =
        lost.iter().filter(|t| t.stop_code == Some(StopCode::InfrastructureHealth)).collect();
    assert_eq!(given_up.len(), 2);
    assert_eq!(given_up[0].stopped_reason.as_deref(), Some("Container instance lost"));
    // Its agent returns: the mark goes.
    write(&plane.state, |_, edit| edit.put(&connection(1))).await;
    plane
        .eventually("unmarked", |_| {
            plane.state.view().instances.iter().all(|i| i.disconnected_at.is_none())
        })
        .await;
}

#[tokio::test]
async fn a_daemon_follows_the_instances() {
    let plane = plane(1).await;
    let request = json!({
        "serviceName": "web", "taskDefinition": "web:1", "schedulingStrategy": "DAEMON",
    });
    plane.call("CreateService", request).await.unwrap();
    plane.stable(1).await;
    write(&plane.state, |_, edit| {
        edit.create(&instance(1, "a"));
        edit.create(&guard(1));
        edit.create(&connection(1));
    })
    .await;
    plane.stable(2).await;
    assert_eq!(plane.spread(), [1, 1]);
}

#[tokio::test]
async fn a_service_without_room_says_so_and_starts_when_there_is_some() {
    let plane = plane(0).await;
    let request = json!({"serviceName": "web", "taskDefinition": "web:1", "desiredCount": 1});
    plane.call("CreateService", request).await.unwrap();
    plane
        .eventually("told", |service| {
            told(
                service,
                "(service web) was unable to place a task because no container instance met all of \
                 its requirements. Reason: No Container Instances were found in your cluster.",
            )
        })
        .await;
    write(&plane.state, |_, edit| {
        edit.create(&instance(0, "a"));
        edit.create(&guard(0));
        edit.create(&connection(0));
    })
    .await;
    plane.stable(1).await;
}

#[tokio::test]
async fn what_is_idle_changes_nothing() {
    let plane = created(1, 2).await;
    plane.eventually("steady", |service| told(service, "reached a steady state")).await;
    let mut changes = plane.state.changes();
    changes.mark_unchanged();
    let changed = tokio::time::timeout(Duration::from_millis(500), changes.changed()).await;
    assert!(changed.is_err(), "a service at rest was written");
}

#[tokio::test]
async fn a_service_ends_by_force_only_while_it_is_scaled() {
    let plane = created(1, 1).await;
    let refused = plane.call("DeleteService", json!({"service": "web"})).await.unwrap_err();
    assert_eq!(
        refused,
        "InvalidParameterException: The service cannot be stopped while it is scaled above 0."
    );
    plane.call("DeleteService", json!({"service": "web", "force": true})).await.unwrap();
    plane.eventually("inactive", |service| service["status"] == "INACTIVE").await;
    let refused = plane.call("UpdateService", json!({"service": "web"})).await.unwrap_err();
    assert!(refused.starts_with("ServiceNotActiveException"), "{refused}");
    let listed = plane.call("ListServices", json!({})).await.unwrap();
    assert_eq!(listed["serviceArns"], json!([]));
    plane.eventually("empty", |_| plane.tasks().iter().all(|task| !task.is_live())).await;
    // The name is free again.
    let request = json!({"serviceName": "web", "taskDefinition": "web:1", "desiredCount": 1});
    plane.call("CreateService", request).await.unwrap();
    plane.stable(1).await;
}
