//! SIGKILL of agent, guardian or worker at any moment: the container goes on, no byte of output and no
//! exit code is lost, the next start re-attaches.

use std::fs;

use serde_json::Value;
use tests::host::{TestHost, script};

/// Counts to a number on both streams, slowly enough to be killed in between, and exits with 6.
fn counter(to: u32) -> Value {
    script(
        "awsvpc",
        &format!(
            "i=0; while [ $i -lt {to} ]; do echo out $i; echo err $i >&2; i=$((i+1)); [ $((i%20)) = 0 ] && sleep 0.02; done; exit 6"
        ),
    )
}

fn log(host: &TestHost, task: &str) -> Vec<Value> {
    let path = host.inspect(task)["containers"][0]["logPath"].as_str().expect("a path").to_owned();
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("whole lines of JSON")).collect()
}

fn assert_whole(host: &TestHost, task: &str, to: u32) {
    let entries = log(host, task);
    for (stream, word) in [("stdout", "out"), ("stderr", "err")] {
        let lines: Vec<&str> = entries
            .iter()
            .filter(|entry| entry["stream"] == stream)
            .map(|entry| entry["log"].as_str().expect("text"))
            .collect();
        let expected: Vec<String> = (0..to).map(|number| format!("{word} {number}\n")).collect();
        assert_eq!(lines.len(), expected.len(), "{stream}");
        assert!(
            lines.iter().zip(&expected).all(|(line, expected)| line == expected),
            "{stream} differs"
        );
    }
}

fn wait_stopped(host: &TestHost, task: &str) -> Value {
    host.eventually("the task stops", || host.inspect(task)["lastStatus"] == "STOPPED");
    host.inspect(task)
}

fn pid(host: &TestHost, task: &str, which: &str) -> i64 {
    host.monitor(task)[which]["pid"].as_i64().expect("a pid")
}

#[test]
fn the_agent_is_killed_again_and_again() {
    let host = TestHost::new();
    let before = host.state();
    let task = host.detach(&counter(2000));
    for _ in 0..8 {
        let Some(agent) = host.agent_pid() else { continue };
        host.kill(agent, "KILL");
        host.eventually("it is gone", || !host.is_alive(agent));
        // The next command is the next agent.
        host.ok(&["ps", "--all"]);
        host.sh(&format!(
            "LIGHTER_ROOT={} {} agent --background >/dev/null 2>&1 </dev/null & disown",
            host.root().display(),
            tests::binary("lighter").display()
        ));
        host.eventually("a new agent serves", || host.agent_pid().is_some());
    }
    let view = wait_stopped(&host, &task);
    assert_eq!(view["exitCode"], 6, "{view}");
    assert_whole(&host, &task, 2000);
    host.ok(&["rm", &task]);
    host.stop_agent();
    assert_eq!(host.state(), before);
}

#[test]
fn the_worker_is_killed_again_and_again() {
    let host = TestHost::new();
    let task = host.detach(&counter(2000));
    let mut killed = 0;
    while killed < 20 && host.inspect(&task)["lastStatus"] == "RUNNING" {
        let worker = pid(&host, &task, "worker");
        host.kill(worker, "KILL");
        killed += 1;
        host.eventually("another worker serves", || {
            host.inspect(&task)["lastStatus"] != "RUNNING" || pid(&host, &task, "worker") != worker
        });
    }
    let view = wait_stopped(&host, &task);
    assert_eq!(view["exitCode"], 6, "after {killed} kills: {view}");
    assert_whole(&host, &task, 2000);
}

#[test]
fn the_guardian_is_killed() {
    let host = TestHost::new();
    let task = host.detach(&counter(1000));
    host.kill(pid(&host, &task, "guardian"), "KILL");
    assert_eq!(host.inspect(&task)["lastStatus"], "RUNNING");
    let view = wait_stopped(&host, &task);
    assert_eq!(view["exitCode"], 6, "{view}");
    assert_whole(&host, &task, 1000);
}

#[test]
fn agent_and_worker_die_together_and_the_exit_code_is_still_known() {
    let host = TestHost::new();
    let task = host.detach(&counter(300));
    let (agent, worker) = (host.agent_pid().expect("an agent"), pid(&host, &task, "worker"));
    host.kill(agent, "KILL");
    host.kill(worker, "KILL");
    host.eventually("the agent is gone", || !host.is_alive(agent));
    // The container ends while no agent is there.
    let view = wait_stopped(&host, &task);
    assert_eq!(view["exitCode"], 6, "{view}");
    assert_whole(&host, &task, 300);
}

#[test]
fn both_monitor_processes_die_and_the_container_goes_on() {
    let host = TestHost::new();
    let task = host.detach(&script(
        "awsvpc",
        "trap 'echo stopping; exit 3' TERM; echo up; while :; do sleep 0.05; done",
    ));
    let init = host.inspect(&task)["containers"][0]["pid"].as_i64().expect("a pid");
    host.kill(pid(&host, &task, "worker"), "STOP");
    host.kill(pid(&host, &task, "guardian"), "KILL");
    host.kill(pid(&host, &task, "worker"), "KILL");
    host.stop_agent();
    assert!(host.is_alive(init), "the container goes on");
    assert_eq!(host.inspect(&task)["lastStatus"], "RUNNING");
    host.ok(&["stop", &task]);
    assert!(!host.is_alive(init));
    assert!(host.ok(&["logs", &task]).contains("stopping"));
}
