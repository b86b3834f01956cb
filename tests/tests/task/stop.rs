//! Stopping: Ctrl-C, order, timeouts, the second Ctrl-C.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::host::{TestHost, container, stderr, stdout, task};

const POLITE: &str = "trap 'echo stopping; exit 5' TERM; echo up; while :; do sleep 0.05; done";
const DEAF: &str = "trap '' TERM; echo up; while :; do sleep 0.05; done";

fn start(host: &TestHost, definition: &Value, containers: usize) -> Child {
    let path = host.definition("task.json", definition);
    let child = host
        .command(&["run", "--timestamps", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("lighter starts");
    host.eventually("every container is up", || {
        let task =
            host.ok(&["ps", "--quiet", "--no-trunc"]).lines().next().unwrap_or("").to_owned();
        !task.is_empty() && host.ok(&["logs", &task]).matches("up").count() == containers
    });
    child
}

#[test]
fn ctrl_c_stops_in_reverse_dependency_order() {
    let host = TestHost::new();
    let before = host.state();
    let first = container("first", POLITE);
    let mut second = container("second", POLITE);
    second["dependsOn"] = json!([{"containerName": "first", "condition": "START"}]);
    let mut third = container("third", POLITE);
    third["dependsOn"] = json!([{"containerName": "second", "condition": "START"}]);
    let child = start(&host, &task("awsvpc", vec![first, second, third]), 3);
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let text = stdout(&output);
    let order: Vec<&str> = text.lines().filter(|line| line.contains("stopping")).collect();
    let place = |name: &str| {
        order.iter().position(|line| line.contains(name)).unwrap_or_else(|| panic!("{text}"))
    };
    assert!(place("third") < place("second") && place("second") < place("first"), "{text}");
    // A `ps` that came first has left an agent behind for the others.
    host.stop_agent();
    assert_eq!(host.state(), before);
}

#[test]
fn the_stop_timeout_ends_in_sigkill() {
    let host = TestHost::new();
    let mut main = container("main", DEAF);
    main["stopTimeout"] = json!(2);
    let child = start(&host, &task("none", vec![main]), 1);
    let begin = Instant::now();
    signal(&child, Signal::SIGTERM);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(137), "{}", stderr(&output));
    assert!(begin.elapsed() >= Duration::from_secs(2), "not before its time");
}

#[test]
fn a_second_ctrl_c_kills() {
    let host = TestHost::new();
    let mut main = container("main", DEAF);
    main["stopTimeout"] = json!(100);
    let child = start(&host, &task("none", vec![main]), 1);
    signal(&child, Signal::SIGINT);
    host.eventually("it is stopping", || {
        let task = host.ok(&["ps", "--quiet", "--no-trunc"]);
        host.inspect(&task)["lastStatus"] == "STOPPING"
    });
    signal(&child, Signal::SIGINT);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(137), "{}", stderr(&output));
}

/// A signal to the foreground command, by its number outside the test's pid namespace.
#[test]
fn the_next_agent_hears_of_a_ctrl_c_that_the_one_before_has_not_heard() {
    let host = TestHost::new();
    host.start_agent();
    let mut child = start(&host, &task("none", vec![container("main", POLITE)]), 1);
    let agent = host.agent_pid().expect("an agent");
    host.kill(agent, "STOP");
    signal(&child, Signal::SIGINT);
    let mut told = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("Stopping the task") {
        line.clear();
        assert_ne!(told.read_line(&mut line).expect("text"), 0, "it says that it stops the task");
    }
    host.kill(agent, "KILL");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(5), "{}", host.agent_log());
    assert!(stdout(&output).contains("stopping"), "{}", stdout(&output));
}

#[test]
fn a_stop_waits_for_the_end_also_where_its_agent_ends() {
    let host = TestHost::new();
    let go = host.path("go");
    fs::create_dir(&go).expect("a directory");
    let text = "trap 'until [ -e /go/now ]; do sleep 0.05; done; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let mut main = container("main", text);
    main["stopTimeout"] = json!(100);
    main["mountPoints"] = json!([{"sourceVolume": "go", "containerPath": "/go"}]);
    let mut definition = task("none", vec![main]);
    definition["volumes"] = json!([{"name": "go", "host": {"sourcePath": go}}]);
    let id = host.detach(&definition);
    host.eventually("it is up", || host.ok(&["logs", &id]).contains("up"));
    let agent = host.agent_pid().expect("an agent");
    let mut stop = host.command(&["stop", &id]);
    let stop = stop.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let stop = stop.expect("lighter starts");
    host.eventually("it is asked for", || host.inspect(&id)["desiredStatus"] == "STOPPED");
    host.kill(agent, "TERM");
    host.eventually("the command has another agent", || {
        host.agent_pid().is_some_and(|other| other != agent)
    });
    fs::write(go.join("now"), "").expect("a file");
    let output = stop.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).trim(), id);
    let view = host.inspect(&id);
    assert_eq!((&view["lastStatus"], &view["exitCode"]), (&json!("STOPPED"), &json!(3)), "{view}");
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("it runs");
}
