//! The unmodified `aws` CLI, version 2, with its own waiters.

use serde_json::{Value, json};
use tests::cluster::{ACCOUNT, Cluster, REGION};
use tests::host::container;

#[test]
fn a_task_from_definition_to_logs() {
    let cluster = Cluster::joined();
    let mut main = container(
        "main",
        "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000",
    );
    main["logConfiguration"] = json!({
        "logDriver": "awslogs",
        "options": {
            "awslogs-group": "/tests/cli", "awslogs-create-group": "true",
            "awslogs-region": REGION, "awslogs-stream-prefix": "run",
        },
    });
    let definition =
        json!({ "family": "cli", "networkMode": "awsvpc", "containerDefinitions": [main] });
    let file = cluster.host.definition("cli.json", &definition);
    let registered = cluster.aws_ok(&[
        "ecs",
        "register-task-definition",
        "--cli-input-json",
        &format!("file://{file}"),
    ]);
    assert_eq!(
        registered["taskDefinition"]["taskDefinitionArn"],
        format!("arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/cli:1")
    );
    let run = cluster.aws_ok(&[
        "ecs",
        "run-task",
        "--task-definition",
        "cli",
        "--network-configuration",
        "awsvpcConfiguration={subnets=[subnet-1]}",
    ]);
    assert_eq!(run["failures"], json!([]));
    let task = run["tasks"][0]["taskArn"].as_str().expect("an ARN").to_owned();
    cluster.aws_ok(&["ecs", "wait", "tasks-running", "--tasks", &task]);
    let id = task.rsplit('/').next().expect("an id");
    let stream = format!("run/main/{id}");
    let lines = |count: usize| {
        let events = cluster.aws(&[
            "logs",
            "get-log-events",
            "--log-group-name",
            "/tests/cli",
            "--log-stream-name",
            &stream,
            "--start-from-head",
        ]);
        let events: Value = serde_json::from_slice(&events.stdout).unwrap_or_default();
        let found = events["events"].as_array().map(Vec::len);
        (found == Some(count)).then_some(events)
    };
    cluster.eventually("five lines are in the stream", || lines(5).is_some());
    let events = lines(5).expect("they were there");
    assert_eq!(events["events"][4]["message"], "line 4");
    let tail = cluster
        .client("/usr/bin/aws")
        .args([
            "logs",
            "tail",
            "/tests/cli",
            "--format",
            "short",
            "--endpoint-url",
            cluster.endpoint(),
        ])
        .output()
        .expect("aws");
    let tail = String::from_utf8_lossy(&tail.stdout).into_owned();
    assert_eq!(tail.lines().filter(|line| line.contains("line ")).count(), 5, "{tail}");
    cluster.aws_ok(&["ecs", "stop-task", "--task", &task, "--reason", "done"]);
    cluster.aws_ok(&["ecs", "wait", "tasks-stopped", "--tasks", &task]);
    let described = cluster.aws_ok(&["ecs", "describe-tasks", "--tasks", &task]);
    assert_eq!(described["tasks"][0]["stopCode"], "UserInitiated", "{described}");
}

#[test]
fn metrics_of_idle_daemons() {
    let cluster = Cluster::joined();
    // The figures are for people; what is asserted is the bar of the design.
    let (control_plane, agent) = (cluster.control_plane_memory(), cluster.agent_memory(0));
    println!("idle: control plane {control_plane} kB, agent {agent} kB");
    assert!(agent <= 30 * 1024, "the agent's resident memory is {agent} kB");
}
