//! SIGKILL of agent or control plane at any moment: no acknowledged call is lost, no task runs twice,
//! every state is reported in the end, running containers are untouched.

mod points;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};

use serde_json::json;
use tests::cluster::Cluster;

/// A task whose container notes that it ran, and how it is now: status, exit code.
fn run(cluster: &Cluster, script: &str) -> String {
    let task = cluster.boto3(&format!(
        "ecs = client('ecs')\n\
         ecs.register_task_definition(family='crash', containerDefinitions=[container(script=r'''{script}''', mountPoints=[dict(sourceVolume='notes', containerPath='/notes')])],\n\
             volumes=[dict(name='notes', host=dict(sourcePath='{}'))])\n\
         answer(ecs.run_task(taskDefinition='crash')['tasks'][0]['taskArn'])",
        notes(cluster)
    ));
    task.as_str().expect("an ARN").to_owned()
}

/// A directory of the host that the tasks write to.
fn notes(cluster: &Cluster) -> String {
    let path = cluster.host.path("notes");
    std::fs::create_dir_all(&path).expect("a directory");
    path.to_str().expect("UTF-8").to_owned()
}

fn wait(cluster: &Cluster, waiter: &str, tasks: &[String]) {
    cluster.boto3(&format!(
        "wait(client('ecs'), '{waiter}', delay=0.2, attempts=150, tasks={})",
        json!(tasks)
    ));
}

#[test]
fn the_control_plane_is_killed_while_tasks_start_and_end() {
    let mut cluster = Cluster::joined();
    let mut tasks = Vec::new();
    for round in 0..8 {
        let task = run(&cluster, "echo ran >> /notes/$(hostname); exit 3");
        tasks.push(task);
        // Ever later in the life of the task.
        std::thread::sleep(std::time::Duration::from_millis(12 * round));
        cluster.kill_control_plane();
        cluster.start_control_plane();
    }
    wait(&cluster, "tasks_stopped", &tasks);
    let codes = cluster.boto3(&format!(
        "found = client('ecs').describe_tasks(tasks={})['tasks']\n\
         answer([t['containers'][0]['exitCode'] for t in found])",
        json!(tasks)
    ));
    assert_eq!(codes, json!([3, 3, 3, 3, 3, 3, 3, 3]));
    assert_ran_once(&cluster, 8);
}

#[test]
fn the_agent_is_killed_while_tasks_start_and_end() {
    let mut cluster = Cluster::joined();
    let mut tasks = Vec::new();
    for round in 0..8 {
        let task = run(&cluster, "echo ran >> /notes/$(hostname); sleep 0.1; exit 4");
        tasks.push(task);
        std::thread::sleep(std::time::Duration::from_millis(15 * round));
        cluster.kill_agent(0);
        cluster.start_agent(0);
        cluster.wait_connected(1);
    }
    wait(&cluster, "tasks_stopped", &tasks);
    let codes = cluster.boto3(&format!(
        "found = client('ecs').describe_tasks(tasks={})['tasks']\n\
         answer([t['containers'][0]['exitCode'] for t in found])",
        json!(tasks)
    ));
    assert_eq!(codes, json!([4, 4, 4, 4, 4, 4, 4, 4]));
    assert_ran_once(&cluster, 8);
}

/// Each container has written one line in a file of its own.
fn assert_ran_once(cluster: &Cluster, count: usize) {
    let mut seen = 0;
    for file in std::fs::read_dir(notes(cluster)).expect("the notes") {
        let text = std::fs::read_to_string(file.expect("an entry").path()).expect("text");
        assert_eq!(text, "ran\n");
        seen += 1;
    }
    assert_eq!(seen, count);
}

#[test]
fn running_containers_outlive_both() {
    let mut cluster = Cluster::joined();
    let task = run(&cluster, "echo $$ > /notes/up; sleep 1000");
    wait(&cluster, "tasks_running", std::slice::from_ref(&task));
    let id = task.rsplit('/').next().expect("an id").to_owned();
    let pid = cluster.host.inspect(&id)["containers"][0]["pid"].as_i64().expect("a pid");
    for _ in 0..3 {
        cluster.kill_agent(0);
        cluster.kill_control_plane();
        cluster.start_control_plane();
        cluster.start_agent(0);
        cluster.wait_connected(1);
    }
    assert!(cluster.host.is_alive(pid));
    assert_eq!(cluster.host.inspect(&id)["containers"][0]["pid"], pid);
    // It ends while the control plane is away: told when it is back.
    cluster.kill_control_plane();
    cluster.host.kill(pid, "KILL");
    cluster.eventually("the task stops", || cluster.host.inspect(&id)["lastStatus"] == "STOPPED");
    cluster.start_control_plane();
    wait(&cluster, "tasks_stopped", std::slice::from_ref(&task));
    let stopped = cluster
        .boto3(&format!("answer(client('ecs').describe_tasks(tasks=['{task}'])['tasks'][0])"));
    assert_eq!(stopped["containers"][0]["exitCode"], 137, "{stopped}");
    assert_eq!(stopped["stopCode"], "EssentialContainerExited", "{stopped}");
}

#[test]
fn acknowledged_calls_are_not_lost() {
    let mut cluster = Cluster::new();
    let mut acknowledged = BTreeSet::new();
    for round in 0..6 {
        // Creates clusters as fast as it can until the control plane dies.
        let script = format!(
            "import threading\n\
             c = client('ecs')\n\
             n = 0\n\
             print('go', flush=True)\n\
             while True:\n    \
                 name = f'c-{round}-{{n}}'\n    \
                 try: c.create_cluster(clusterName=name)\n    \
                 except Exception: break\n    \
                 print('made ' + name, flush=True)\n    \
                 n += 1"
        );
        let mut command = cluster.client("python3");
        command.env("PYTHONPATH", tests::workspace().join("tests/python"));
        command.args(["-c", &format!("from cluster import *\n{script}")]);
        let mut child =
            command.stdout(std::process::Stdio::piped()).spawn().expect("python3 starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut text = String::new();
        output.read_line(&mut text).expect("text");
        assert_eq!(text, "go\n");
        std::thread::sleep(std::time::Duration::from_millis(200 + 40 * round));
        cluster.kill_control_plane();
        output.read_to_string(&mut text).expect("text");
        child.wait().expect("it ends");
        acknowledged
            .extend(text.lines().filter_map(|line| line.strip_prefix("made ")).map(str::to_owned));
        cluster.start_control_plane();
    }
    let listed = cluster.boto3(
        "pages = client('ecs').get_paginator('list_clusters').paginate()\n\
         answer([a.rsplit('/')[-1] for p in pages for a in p['clusterArns']])",
    );
    let listed: BTreeSet<String> = serde_json::from_value(listed).expect("names");
    assert!(acknowledged.len() > 20, "{} calls were acknowledged", acknowledged.len());
    let lost: Vec<_> = acknowledged.difference(&listed).collect();
    assert!(lost.is_empty(), "{lost:?}");
    println!("{} acknowledged calls, none lost over 6 kills", acknowledged.len());
}
