//! Telemetry against the scripted control plane.

use futures_util::SinkExt;
use protocol::ids::TaskId;
use protocol::tcs::{AgentMessage, PublishMetrics};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::stats::{Point, Stats};

const LONG: Duration = Duration::from_secs(60);
const HELD: Limits = Limits { silence: (LONG, LONG), life: (LONG, LONG) };

/// A host with one running task, of which this session tells.
struct World {
    _directory: tempfile::TempDir,
    script: Script,
    member: Member,
    _session: Session,
    heartbeat: Arc<Notify>,
    stats: Stats,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let mut script = Script::start().await;
        let (member, mut session) = joined(&mut script, &store).await;
        session.send("PayloadMessage", payload("p", &[task(TASK, "RUNNING")])).await;
        assert_ack(&mut session, "p").await;
        assert_eq!(script.call("SubmitTaskStateChange").await["status"], "RUNNING");
        // The membership's own.
        let (heartbeat, stats) = (Arc::default(), Stats::new("/none".to_owned()));
        Self { _directory: directory, script, member, _session: session, heartbeat, stats }
    }

    async fn start(&self, stats: Option<Stats>, limits: Limits) -> AbortOnDropHandle<()> {
        tcs::start(tcs::Parts {
            control_plane: self.member.membership.control_plane().await.unwrap().clone(),
            identity: self.member.identity.borrow().clone().unwrap(),
            snapshots: self.member.snapshots.clone(),
            stats,
            inbox: self.member.inbox.clone(),
            heartbeat: Arc::clone(&self.heartbeat),
            limits,
            interval: Duration::from_millis(50),
        })
    }

    /// Two points, a second apart.
    fn enter(&self) {
        let id: TaskId = registration::last(TASK).parse().unwrap();
        let at = |second| Point {
            at: jiff::Timestamp::from_second(second).unwrap(),
            cpu: 0,
            online_cpus: 1,
            memory: 1 << 20,
            storage_read: 0,
            storage_written: 0,
            network: None,
        };
        self.stats.enter(&id, 0, &[at(1), at(2)]);
    }
}

/// The next metrics; the host's health may be told before.
async fn metrics(session: &mut Session) -> PublishMetrics {
    loop {
        match session.receive_signed().await {
            AgentMessage::PublishMetricsRequest(metrics) => return metrics,
            AgentMessage::PublishInstanceStatusRequest(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_member_publishes_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut script = Script::start().await;
    let (_member, _session) = joined(&mut script, &store).await;
    let mut session = script.telemetry().await;
    assert_eq!(session.query["containerInstance"], INSTANCE);
    assert_eq!(session.query["cluster"], "prod");
    assert!(session.query["dockerVersion"].starts_with("lighter-"), "{:?}", session.query);
    let said = metrics(&mut session).await;
    assert_eq!((said.metadata.idle, said.metadata.fin), (Some(true), Some(true)));
    assert_eq!(said.metadata.container_instance.as_deref(), Some(INSTANCE));
    assert_eq!(said.task_metrics, []);
}

#[tokio::test]
async fn what_tasks_use_and_how_the_host_is() {
    let mut world = World::new().await;
    // The membership's own session.
    let _own = world.script.telemetry().await;
    let _telemetry = world.start(Some(world.stats.clone()), HELD).await;
    let mut session = world.script.telemetry().await;

    // Of the task nothing is known yet, so nothing is said.
    let AgentMessage::PublishInstanceStatusRequest(told) = session.receive_signed().await else {
        panic!("no status");
    };
    assert!(told.metadata.request_id.is_some());
    assert_eq!(told.statuses[0].kind.as_deref(), Some("ContainerRuntime"));
    assert_eq!(told.statuses[0].status.as_deref(), Some("OK"));

    // What the control plane says that is strange harms nothing, and health that is the same is not
    // told again.
    session.send_text("no json").await;
    session.send("Mystery", json!({})).await;
    session.send("ServerException", json!({"message": "no"})).await;
    session.send("StopTelemetrySessionMessage", json!({})).await;
    world.heartbeat.notify_one();
    for _ in 0..2 {
        world.enter();
        let AgentMessage::PublishMetricsRequest(said) = session.receive_signed().await else {
            panic!("no metrics");
        };
        assert_eq!((said.metadata.idle, said.metadata.fin), (Some(false), Some(true)));
        let [task] = &said.task_metrics[..] else { panic!("{said:?}") };
        assert_eq!(task.task_arn.as_deref(), Some(TASK));
        assert_eq!(task.task_definition_version.as_deref(), Some("3"));
        let [container] = &task.container_metrics[..] else { panic!("{said:?}") };
        assert_eq!(container.container_name.as_deref(), Some("app"));
        assert_eq!(container.container_arn.as_deref(), Some("arn:c"));
        assert_eq!(container.memory_stats_set.unwrap().max, 1.0);
    }
}

#[tokio::test]
async fn disabled_metrics_are_none() {
    let mut world = World::new().await;
    let _own = world.script.telemetry().await;
    world.enter();
    let _telemetry = world.start(None, HELD).await;
    let mut session = world.script.telemetry().await;
    for _ in 0..2 {
        let said = metrics(&mut session).await;
        assert_eq!(said.metadata.idle, Some(true));
        assert_eq!(said.task_metrics, []);
    }
}

#[tokio::test]
async fn only_heartbeats_and_acknowledgements_keep_a_session() {
    let mut world = World::new().await;
    let _own = world.script.telemetry().await;
    let moment = Duration::from_millis(1500);
    let limits = Limits { silence: (moment, moment), ..HELD };
    let _telemetry = world.start(None, limits).await;
    let mut session = world.script.telemetry().await;
    let began = tokio::time::Instant::now();
    while began.elapsed() < moment * 2 {
        metrics(&mut session).await;
        session.send("AckPublishMetric", json!({"message": "ok"})).await;
    }
    session.send("HeartbeatMessage", json!({"healthy": true})).await;
    let began = tokio::time::Instant::now();
    let speaks = async {
        loop {
            // Fails once the agent has given up.
            let mystery = Message::text(r#"{"type":"Mystery","message":{}}"#);
            let _ = session.socket.send(mystery).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = speaks => {}
        again = world.script.telemetry() => assert!(again.query.contains_key("agentHash")),
    }
    assert!(began.elapsed() >= moment, "{:?}", began.elapsed());
}
