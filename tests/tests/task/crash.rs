//! SIGKILL of agent, guardian or worker at any moment: the container goes on, no byte of output and no
//! exit code is lost, the next start re-attaches.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::cluster::FailPoint;
use tests::host::{TestHost, container, script, stderr, task, terminate};

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
    for _ in 0..tests::rounds(8) {
        let Some(agent) = host.agent_pid() else { continue };
        host.kill(agent, "KILL");
        host.eventually("it is gone", || !host.is_alive(agent));
        // The next command is the next agent.
        host.ok(&["ps", "--all"]);
        host.start_agent();
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
    let task = host.detach(&counter(2000));
    let (agent, worker) = (host.agent_pid().expect("an agent"), pid(&host, &task, "worker"));
    host.kill(agent, "KILL");
    host.kill(worker, "KILL");
    host.eventually("the agent is gone", || !host.is_alive(agent));
    // The container ends while no agent is there.
    let view = wait_stopped(&host, &task);
    assert_eq!(view["exitCode"], 6, "{view}");
    assert_whole(&host, &task, 2000);
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

/// So many moments of the time that something takes at most.
fn moments(count: usize, most: Duration) -> impl Iterator<Item = Duration> {
    let (most, count) = (tests::patience(most), u32::try_from(count).unwrap_or(1));
    (0..count).map(move |moment| most * moment / count)
}

/// A task that exits with 6, and the file to which it adds a line.
fn counted(host: &TestHost) -> (Value, PathBuf) {
    let count = host.path("count");
    fs::create_dir(&count).expect("a directory");
    let mut main = container("main", "echo ran >> /count/lines; exit 6");
    main["mountPoints"] = json!([{"sourceVolume": "count", "containerPath": "/count"}]);
    let mut definition = task("none", vec![main]);
    definition["volumes"] = json!([{"name": "count", "host": {"sourcePath": count}}]);
    (definition, count.join("lines"))
}

/// Who asks for a task by its id gets this one, and none once its record is gone, whichever agent it is.
#[test]
fn a_task_is_run_once_by_its_id() {
    let host = TestHost::new();
    let (definition, count) = counted(&host);
    let definition = protocol::taskdef::parse(&definition.to_string()).expect("a definition");
    let mut task = json!({"definition": definition, "pull": "never", "remove": false});
    host.start_agent();
    let ask = |task: &Value| {
        let answer = host.ask_agent("POST", "/v1/tasks", &task.to_string());
        let (status, body) = answer.expect("an answer");
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    for id in ["", "../0123456789abcdef0123456789abcd", "0123456789ABCDEF0123456789ABCDEF"] {
        task["id"] = json!(id);
        let (status, answer) = ask(&task);
        let message = answer["message"].as_str().expect("why not");
        assert_eq!(status, "422", "{message}");
        assert!(message.contains("is not 32 lower-case hexadecimal digits"), "{message}");
    }
    let id = "0123456789abcdef0123456789abcdef";
    task["id"] = json!(id);
    let (status, answer) = ask(&task);
    assert_eq!((status.as_str(), &answer["taskId"]), ("201", &json!(id)), "{answer}");
    let (status, answer) = ask(&task);
    assert_eq!((status.as_str(), &answer["taskId"]), ("200", &json!(id)), "{answer}");
    let mut other = task.clone();
    other["definition"]["family"] = json!("other");
    let (status, answer) = ask(&other);
    assert_eq!(status, "409", "{answer}");
    assert_eq!(wait_stopped(&host, id)["exitCode"], 6);
    assert_eq!(ask(&task).0, "200");
    host.ok(&["rm", id]);
    let gone = || {
        let (status, answer) = ask(&task);
        let message = answer["message"].as_str().expect("why not");
        assert_eq!(status, "409", "{message}");
        assert!(message.contains("has been run on this host before"), "{message}");
    };
    host.start_agent();
    gone();
    let agent = host.agent_pid().expect("an agent");
    host.kill(agent, "KILL");
    host.eventually("it is gone", || !host.is_alive(agent));
    host.start_agent();
    gone();
    assert_eq!(host.ok(&["ps", "--all", "--quiet"]), "");
    assert_eq!(fs::read_to_string(count).expect("it ran"), "ran\n");
}

/// An agent that kills itself at a fail point, once it serves, or has died by then.
fn doomed(host: &TestHost, point: &FailPoint) -> Child {
    host.stop_agent();
    let mut agent = point.command("lighter");
    agent.args(["agent"]).env("LIGHTER_ROOT", host.root());
    agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut agent = agent.spawn().expect("lighter starts");
    host.eventually("an agent serves, or has died", || {
        host.agent_pid().is_some() || agent.try_wait().is_ok_and(|ended| ended.is_some())
    });
    agent
}

/// Whether the agent killed itself; else it ends now.
fn has_fired(mut agent: Child) -> bool {
    if agent.try_wait().expect("an exit status").is_none() {
        terminate(&agent);
    }
    agent.wait().expect("an exit status").signal() == Some(9)
}

/// The agent dies at the moments around the commit of a new task. Whether the task was stored or not, the
/// command has the next one run it, once.
#[test]
fn a_task_whose_agent_dies_before_it_answers_runs_once() {
    let host = TestHost::new();
    let (definition, count) = counted(&host);
    let path = host.definition("task.json", &definition);
    // An agent's first turn is that of its start.
    for (name, first) in [("commit.before", 1), ("commit.after", 1), ("turn.answered", 2)] {
        let mut fired = 0;
        for hit in (first..).take(tests::rounds(3)) {
            let agent = doomed(&host, &FailPoint { name: name.to_owned(), hit });
            let served = host.agent_pid().is_some();
            let run = host.run(&["run", "--rm", &path]);
            assert_eq!(run.status.code(), Some(6), "{name}:{hit}: {}", stderr(&run));
            let lines = fs::read_to_string(&count).expect("it ran");
            assert_eq!(lines, "ran\n", "{name}:{hit}");
            fs::remove_file(&count).expect("remove");
            fired += u32::from(has_fired(agent) && served);
        }
        assert!(fired > 0 || !FailPoint::are_there(), "{name}");
    }
}

/// The command has the next agent finish it.
#[test]
fn a_task_is_removed_whose_agent_dies_while_it_removes_it() {
    let host = TestHost::new();
    for name in ["remove.before", "remove.after"] {
        let agent = doomed(&host, &FailPoint { name: name.to_owned(), hit: 1 });
        let task = host.detach(&script("none", "exit 6"));
        wait_stopped(&host, &task);
        assert_eq!(host.ok(&["rm", &task]), task, "{name}");
        assert_eq!(host.ok(&["ps", "--all", "--quiet"]), "", "{name}");
        assert!(!host.task_directory(&task).exists(), "{name}");
        assert!(has_fired(agent) || !FailPoint::are_there(), "{name}");
    }
}

/// The agent dies while it starts a task, at a later moment each round. The next one carries the task to
/// its end, and nothing is left.
#[test]
fn the_agent_dies_while_a_task_starts() {
    let host = TestHost::new();
    let before = host.state();
    let path = host.definition("task.json", &script("awsvpc", "echo ran; exit 6"));
    for moment in moments(tests::rounds(24), Duration::from_millis(96)) {
        host.start_agent();
        let agent = host.agent_pid().expect("an agent");
        let run = host
            .command(&["run", "--detach", &path])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut run = run.expect("lighter starts");
        std::thread::sleep(moment);
        host.kill(agent, "KILL");
        host.eventually("it is gone", || !host.is_alive(agent));
        assert!(run.wait().expect("the command ends").success(), "at {moment:?}");
        let task = host.ok(&["ps", "--all", "--quiet", "--no-trunc"]);
        let view = wait_stopped(&host, &task);
        assert_eq!(view["exitCode"], 6, "at {moment:?}: {view}");
        assert!(host.ok(&["logs", &task]).contains("ran"), "at {moment:?}");
        host.ok(&["rm", &task]);
        host.stop_agent();
        // An agent that came second takes a moment to go.
        host.eventually("nobody is left", || host.state() == before);
        assert_eq!(host.state(), before, "at {moment:?}: {}", host.agent_log());
        let left = host.sh(&format!("ls {}", host.root().join("var/lib/lighter/tasks").display()));
        assert_eq!(left, "", "at {moment:?}");
    }
}

/// A process of the monitor dies while the task starts, at a later moment each round.
fn a_monitor_process_dies_while_a_task_starts(which: &str, mapped: bool) {
    let host = TestHost::new();
    if mapped {
        host.stop_agent();
        host.remap_users();
    }
    let before = host.state();
    host.start_agent();
    let path = host.definition("task.json", &script("awsvpc", "echo ran; sleep 0.2; exit 6"));
    // Most happens right after it has told who it is, before it has answered its first greeting.
    let at_once = std::iter::repeat_n(Duration::ZERO, tests::rounds(16));
    for moment in at_once.chain(moments(tests::rounds(16), Duration::from_millis(32))) {
        let run = host
            .command(&["run", "--detach", &path])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let run = run.expect("lighter starts");
        let directory = host.root().join("run/lighter/tasks");
        let mut record = None;
        host.eventually("the monitor has told who it is", || {
            let tasks = fs::read_dir(&directory).into_iter().flatten().flatten();
            record = tasks
                .filter_map(|task| fs::read(task.path().join("monitor.json")).ok())
                .find_map(|text| serde_json::from_slice::<Value>(&text).ok());
            record.is_some()
        });
        std::thread::sleep(moment);
        let record = record.expect("just seen");
        host.kill(record[which]["pid"].as_i64().expect("a pid"), "KILL");
        let output = run.wait_with_output().expect("the command ends");
        assert!(
            output.status.success(),
            "at {moment:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let task = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let view = wait_stopped(&host, &task);
        assert_eq!(view["exitCode"], 6, "at {moment:?}: {view}");
        assert_eq!(host.ok(&["logs", &task]).matches("ran").count(), 1, "at {moment:?}");
        host.ok(&["rm", &task]);
    }
    host.stop_agent();
    assert_eq!(host.state(), before);
}

#[test]
fn the_worker_dies_while_a_task_starts() {
    a_monitor_process_dies_while_a_task_starts("worker", false);
}

#[test]
fn the_guardian_dies_while_a_task_starts() {
    a_monitor_process_dies_while_a_task_starts("guardian", false);
}

#[test]
fn the_worker_dies_while_a_task_with_a_user_namespace_starts() {
    a_monitor_process_dies_while_a_task_starts("worker", true);
}

#[test]
fn the_guardian_dies_while_a_task_with_a_user_namespace_starts() {
    a_monitor_process_dies_while_a_task_starts("guardian", true);
}

/// As when the host goes down: everybody gets SIGTERM, and nothing of ours is to hold it up.
#[test]
fn a_monitor_that_is_to_terminate_goes_with_its_last_container() {
    let host = TestHost::new();
    let before = host.state();
    host.start_agent();
    let text = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done";
    let task = host.detach(&script("awsvpc", text));
    host.eventually("it is ready", || host.ok(&["logs", &task]).contains("ready"));
    let monitor = ["worker", "guardian"].map(|which| pid(&host, &task, which));
    let container = host.inspect(&task)["containers"][0]["pid"].as_i64().expect("a pid");
    host.kill(host.agent_pid().expect("an agent"), "KILL");
    for process in monitor {
        host.kill(process, "TERM");
    }
    assert!(monitor.iter().all(|process| host.is_alive(*process)) && host.is_alive(container));
    host.kill(container, "TERM");
    for process in monitor {
        host.eventually("the monitor ended", || !host.is_alive(process));
    }
    host.start_agent();
    let view = wait_stopped(&host, &task);
    assert_eq!(view["exitCode"], 6, "{view}");
    assert!(host.ok(&["logs", &task]).contains("ready"));
    host.ok(&["rm", &task]);
    host.stop_agent();
    assert_eq!(host.state(), before);
}
