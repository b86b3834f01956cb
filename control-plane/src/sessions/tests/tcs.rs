//! Metrics and health.

use super::*;

async fn publish(world: &World) -> Agent {
    let arn = instance_arn();
    let path = format!("/tcs/ws?cluster=default&containerInstance={arn}&dockerVersion=1");
    let mut agent = world.connect_to(&path).await.unwrap();
    agent.expect("HeartbeatMessage").await;
    agent
}

fn signed(envelope: &Value) -> String {
    format!("Authorization: AWS4-HMAC-SHA256 …\r\nHost: x\r\nX-Amz-Date: 2026\r\n\r\n{envelope}")
}

#[tokio::test]
async fn metrics_are_kept_of_what_runs_there() {
    let world = world(QUIET).await;
    let task = world.place("web", |_| {}).await;
    let elsewhere = world.place("web", |task| task.instance = "0".repeat(32)).await;
    let mut agent = publish(&world).await;
    let statistic = json!({"min": 1.0, "max": 3.0, "sampleCount": 2, "sum": 4.0});
    let container = |name: &str| json!({"containerName": name, "cpuStatsSet": statistic});
    let metrics = json!({"type": "PublishMetricsRequest", "message": {
        "metadata": {"cluster": "default", "fin": true}, "timestamp": 1_790_000_000,
        "taskMetrics": [
            {"taskArn": task.arn(ACCOUNT),
             "containerMetrics": [container("app"), container("unknown")]},
            {"taskArn": elsewhere.arn(ACCOUNT), "containerMetrics": [container("app")]},
            {"taskArn": "nonsense", "containerMetrics": [container("app")]},
            {"containerMetrics": []},
        ],
    }});
    agent.send_text(signed(&metrics)).await;
    agent.expect("AckPublishMetric").await;
    let sample = Arc::clone(&world.state.sessions().telemetry()[&instance_key()]);
    assert_eq!(sample.tasks.keys().collect::<Vec<_>>(), [&task.key()]);
    let containers = &sample.tasks[&task.key()].containers;
    assert_eq!(containers.len(), 1);
    let cpu = containers["app"].cpu.unwrap();
    assert_eq!((cpu.max, cpu.sample_count, cpu.sum), (3.0, 2, 4.0));
    // Bare envelopes are taken, too; a task that has ended is forgotten.
    let now = Timestamp::now();
    world.change_task(&task, |task| task.end(now)).await;
    agent.send("PublishMetricsRequest", json!({"metadata": {"idle": true}})).await;
    agent.expect("AckPublishMetric").await;
    assert!(world.state.sessions().telemetry()[&instance_key()].tasks.is_empty());
    drop(agent);
    poll("forgotten", || world.state.sessions().telemetry().is_empty().then_some(())).await;
}

#[tokio::test]
async fn health_is_written_when_it_changes() {
    let world = world(QUIET).await;
    let task = world.place("web", |_| {}).await;
    let elsewhere = world.place("web", |task| task.instance = "0".repeat(32)).await;
    let mut agent = publish(&world).await;
    let mut report = async |app: &str, side: &str| {
        let containers = json!([
            {"containerName": "app", "healthStatus": app},
            {"containerName": "side", "healthStatus": side},
            {"containerName": "unknown", "healthStatus": "HEALTHY"},
        ]);
        let tasks: Vec<_> = [&task, &elsewhere, &task]
            .iter()
            .map(|task| json!({"taskArn": task.arn(ACCOUNT), "containers": containers}))
            .collect();
        let health = json!({"type": "PublishHealthRequest", "message": {"tasks": tasks}});
        agent.send_text(signed(&health)).await;
        agent.expect("AckPublishHealth").await;
        let task = world.task(&task);
        (task.health, task.containers[0].health, task.containers[1].health, task.version)
    };
    use Health::{Healthy, Unhealthy, Unknown};
    let before = task.version;
    assert_eq!(report("UNKNOWN", "UNKNOWN").await, (Unknown, Unknown, Unknown, before));
    let now = (Healthy, Healthy, Unhealthy, before + 1);
    assert_eq!(report("HEALTHY", "UNHEALTHY").await, now);
    assert_eq!(report("HEALTHY", "UNHEALTHY").await, now);
    let now = (Unhealthy, Unhealthy, Healthy, before + 2);
    assert_eq!(report("UNHEALTHY", "HEALTHY").await, now);
    let now = (Unknown, Unknown, Healthy, before + 3);
    assert_eq!(report("nonsense", "HEALTHY").await, now);
    assert_eq!(world.task(&elsewhere), elsewhere);
}

#[tokio::test]
async fn malformed_frames_are_dropped() {
    let world = world(QUIET).await;
    let mut agent = publish(&world).await;
    for frame in [
        "",
        "\r\n\r\n",
        "Authorization: x\r\n\r\n",
        "Authorization: x\r\n\r\n{",
        "Authorization: x\r\n{\"type\":\"PublishMetricsRequest\"}",
        "{}\r\n\r\n{}",
        r#"{"type":"PublishMetricsRequest","message":{"taskMetrics":{}}}"#,
        r#"{"type":"PublishMetricsRequest","message":{"timestamp":1e300}}"#,
        r#"{"type":"PublishHealthRequest","message":7}"#,
        r#"{"type":"AckPublishMetric","message":{}}"#,
        r#"{"type":"StartTelemetrySessionRequest","message":{}}"#,
    ] {
        agent.send_text(frame).await;
    }
    let status = json!({"statuses": [{"type": "ContainerRuntime", "status": "OK"}]});
    agent.send("PublishInstanceStatusRequest", status).await;
    agent.expect("AckPublishInstanceStatus").await;
}

#[tokio::test]
async fn a_session_ends_with_its_instance_or_with_silence() {
    let world = world(Timing { silence: Duration::from_millis(200), ..QUIET }).await;
    let mut agent = publish(&world).await;
    agent.closed().await;
    drop(agent);
    let world = super::world(QUIET).await;
    let mut agent = publish(&world).await;
    world.deregister().await;
    agent.expect("StopTelemetrySessionMessage").await;
    agent.closed().await;
}
