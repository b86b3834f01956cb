//! `lighter up`, `status` and `down`.

use tests::host::{TestHost, script, stderr, stdout};

#[test]
fn up_status_down_and_up_again() {
    let host = TestHost::new();
    let before = host.state();
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
    let environment = host.ok(&["up", "--detach"]);
    assert!(environment.contains("export AWS_ENDPOINT_URL=http://127.0.0.1:4780"), "{environment}");
    assert_eq!(host.ok(&["up", "--detach"]), environment, "a second time it is the same");
    let status = host.ok(&["status"]);
    assert!(status.contains("connected: arn:aws:ecs:"), "{status}");
    let script = format!(
        "{environment}\ncd {}\nPYTHONPATH={} python3 - <<'E'\n\
         from cluster import *\n\
         ecs = client('ecs')\n\
         ecs.register_task_definition(family='up', containerDefinitions=[container()])\n\
         task = ecs.run_task(taskDefinition='up')['tasks'][0]['taskArn']\n\
         wait(ecs, 'tasks_running', tasks=[task])\n\
         print('running')\nE",
        host.root().display(),
        tests::workspace().join("tests/python").display()
    );
    let ran = host.sh(&script);
    assert!(ran.ends_with("running"), "{ran}\n{}", host.agent_log());
    host.ok(&["down"]);
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
    assert_eq!(host.state(), before, "nothing is left");
    host.ok(&["down"]);
    // What was registered is there again.
    host.ok(&["up", "--detach"]);
    let listed = host.sh(&format!(
        "{environment}\n/usr/bin/aws --endpoint-url $AWS_ENDPOINT_URL ecs list-task-definitions"
    ));
    assert!(listed.contains("task-definition/up:1"), "{listed}");
    host.ok(&["down"]);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let host = TestHost::empty();
    host.sh("python3 -c 'import socket,time; s=socket.socket(); s.bind((\"127.0.0.1\",4780)); s.listen(); time.sleep(1000)' >/dev/null 2>&1 & disown");
    host.eventually("the port is taken", || host.sh("ss -ltn").contains(":4780"));
    let output = host.run(&["up", "--detach"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stderr(&output).contains("127.0.0.1:4780"), "{}", stderr(&output));
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
}

/// `lighter up` in the foreground.
fn foreground(host: &TestHost) -> std::process::Child {
    let log = std::fs::File::create(host.path("up.log")).expect("a log");
    let mut command = host.command(&["up"]);
    command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
    command.spawn().expect("lighter starts")
}

/// Number of the control plane's process as `status` has it.
fn control_plane(host: &TestHost) -> Option<i64> {
    let status = stdout(&host.run(&["status"]));
    let line = status.lines().find(|line| line.starts_with("control plane"))?.to_owned();
    line.split("process ").nth(1)?.split(' ').next()?.parse().ok()
}

#[test]
fn in_the_foreground_it_mends_what_ends_and_goes_down_with_its_tasks() {
    let host = TestHost::new();
    let before = host.state();
    let mut up = foreground(&host);
    host.eventually("all is up", || host.run(&["status"]).status.code() == Some(0));
    let first = control_plane(&host).expect("a process");
    host.kill(first, "KILL");
    host.eventually("another control plane serves", || {
        host.run(&["status"]).status.code() == Some(0) && control_plane(&host) != Some(first)
    });
    let agent = host.agent_pid().expect("an agent");
    host.kill(agent, "KILL");
    host.eventually("another agent serves", || {
        host.run(&["status"]).status.code() == Some(0) && host.agent_pid() != Some(agent)
    });
    let task = host.detach(&script("bridge", "exec sleep 1000"));
    let pid = nix::unistd::Pid::from_raw(up.id().try_into().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("a signal");
    let code = up.wait().expect("its end").code();
    let log = std::fs::read_to_string(host.path("up.log")).expect("the log");
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("1 task has stopped"), "{log}");
    assert_eq!(host.run(&["status"]).status.code(), Some(3));
    assert_eq!(host.inspect(&task)["lastStatus"], "STOPPED");
    host.ok(&["rm", &task]);
    assert_eq!(host.state(), before, "nothing is left");
}

#[test]
fn after_the_death_of_both_it_comes_up_again() {
    let host = TestHost::new();
    let environment = host.ok(&["up", "--detach"]);
    let task = host.detach(&script("bridge", "exec sleep 1000"));
    let pid = host.inspect(&task)["containers"][0]["pid"].as_i64().expect("a process");
    host.kill(control_plane(&host).expect("a process"), "KILL");
    host.kill(host.agent_pid().expect("an agent"), "KILL");
    host.eventually("both are away", || {
        let status = stdout(&host.run(&["status"]));
        status.matches("not running").count() == 2
    });
    assert_eq!(host.ok(&["up", "--detach"]), environment);
    assert_eq!(host.run(&["status"]).status.code(), Some(0));
    assert!(host.is_alive(pid), "the task ran on");
    assert_eq!(host.inspect(&task)["containers"][0]["pid"].as_i64(), Some(pid));
    host.ok(&["down"]);
}

#[test]
fn what_it_was_told_is_kept_and_what_cannot_be_changed_is_said() {
    let host = TestHost::empty();
    let arguments =
        ["up", "-d", "--cluster", "blue", "--region", "eu-x-1", "--listen", "127.0.0.1:4999"];
    let environment = host.ok(&arguments);
    assert!(environment.contains("AWS_ENDPOINT_URL=http://127.0.0.1:4999"), "{environment}");
    assert!(environment.contains("AWS_DEFAULT_REGION=eu-x-1"), "{environment}");
    let mut command = host.command(&["up", "-d"]);
    let again = command.env_remove("AWS_DEFAULT_REGION").output().expect("lighter starts");
    assert_eq!(stdout(&again).trim(), environment, "{}", stderr(&again));
    for (option, value, said) in [
        ("--cluster", "green", "blue"),
        ("--region", "eu-y-1", "eu-x-1"),
        ("--listen", "127.0.0.1:4998", "127.0.0.1:4998"),
    ] {
        let started = std::time::Instant::now();
        let output = host.run(&["up", "-d", option, value]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{option}: {}{text}", stdout(&output));
        assert!(text.contains(said), "{option}: {text}");
        assert!(started.elapsed().as_secs() < 10, "{option}: {text}");
    }
    // It goes on as it was.
    assert_eq!(host.ok(&["up", "-d", "--region", "eu-x-1"]), environment);
    let status = host.ok(&["status"]);
    assert!(status.contains("in cluster blue, connected"), "{status}");
    host.ok(&["down"]);
    // The registration is of the old cluster, also when all is down.
    let output = host.run(&["up", "-d", "--cluster", "green"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("lighter deregister"), "{}", stderr(&output));
    host.ok(&["down"]);
    assert_eq!(host.ok(&["up", "-d", "--region", "eu-x-1"]), environment, "as it was last");
    host.ok(&["deregister"]);
    host.ok(&["down"]);
    let environment = host.ok(&["up", "-d", "--cluster", "green"]);
    assert!(environment.contains("4999"), "{environment}");
    host.ok(&["down"]);
}
