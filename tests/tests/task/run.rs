//! `lighter run`: exit codes, image and definition merged, order, logs, the views on a task.

use serde_json::{Value, json};
use tests::host::{IMAGE, TestHost, container, script, stderr, stdout, task};
use tests::registry::Registry;

#[test]
fn exits_with_the_essential_containers_code_and_leaves_the_host_as_before() {
    let host = TestHost::new();
    let before = host.state();
    for (code, text) in [(0, "exit 0"), (7, "exit 7"), (137, "kill -9 $$")] {
        let output = host.run_task(&script("awsvpc", &format!("echo out; echo err >&2; {text}")));
        // Pid 1 of a pid namespace cannot kill itself.
        let expected = if code == 137 { 0 } else { code };
        assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
        assert!(stdout(&output).contains("out"), "{}", stdout(&output));
        assert!(stderr(&output).contains("err"), "{}", stderr(&output));
    }
    assert_eq!(host.state(), before);
}

#[test]
fn lines_carry_the_containers_name() {
    let host = TestHost::new();
    let output = host.run_task(&task(
        "none",
        vec![container("web", "sleep 0.3; echo from web"), json!({
            "name": "side", "image": IMAGE, "memory": 16, "essential": false, "command": ["echo", "from side"],
        })],
    ));
    let text = stdout(&output);
    let line = |name: &str, said: &str| {
        text.lines().any(|line| line.starts_with(name) && line.ends_with(said))
    };
    assert!(line("web", "from web") && line("side", "from side"), "{text}");
}

#[test]
fn definition_and_image_are_merged_as_docker_does() {
    let host = TestHost::new();
    let output = host.run_task(&json!({
        "family": "merge", "networkMode": "none", "containerDefinitions": [{
            "name": "main", "image": IMAGE, "memory": 64, "hostname": "here",
            "user": "user", "workingDirectory": "/made/for/me",
            "environment": [{"name": "A", "value": "1"}],
            "command": ["sh", "-c", "echo id=$(id -u):$(id -g) pwd=$(pwd) A=$A PATH=$PATH HOME=$HOME host=$(hostname)"],
        }],
    }));
    assert!(
        stdout(&output)
            .contains("id=1000:1000 pwd=/made/for/me A=1 PATH=/bin HOME=/home/user host=here"),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

#[test]
fn dependents_start_when_their_condition_holds() {
    let host = TestHost::new();
    let mut first = container("first", "sleep 0.3; echo one");
    first["essential"] = json!(false);
    let mut second = container("second", "echo two; sleep 100");
    second["essential"] = json!(false);
    second["dependsOn"] = json!([{"containerName": "first", "condition": "SUCCESS"}]);
    let mut last = container("last", "echo three");
    last["dependsOn"] = json!([
        {"containerName": "first", "condition": "COMPLETE"}, {"containerName": "second", "condition": "START"},
    ]);
    let output = host.run_task(&task("awsvpc", vec![last, second, first]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let place = |said: &str| text.find(said).unwrap_or_else(|| panic!("no {said}: {text}"));
    assert!(place("one") < place("three"), "{text}");
    // second may be told before or after last starts, but it was started.
    place("two");
}

#[test]
fn a_failed_init_container_fails_the_task() {
    let host = TestHost::new();
    let mut init = container("init", "exit 3");
    init["essential"] = json!(false);
    let mut web = container("web", "echo never");
    web["dependsOn"] = json!([{"containerName": "init", "condition": "SUCCESS"}]);
    let output = host.run_task(&task("none", vec![init, web]));
    assert_ne!(output.status.code(), Some(0));
    assert!(!stdout(&output).contains("never"));
    assert!(
        stderr(&output).contains("web depends on SUCCESS of init, which exited with code 3"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn limits_hold_in_the_kernel() {
    let host = TestHost::new();
    // Twice the memory it may have.
    let mut greedy =
        container("main", "dd if=/dev/zero of=/dev/null bs=64M count=1; echo survived");
    greedy["memory"] = json!(16);
    greedy["command"] = json!(["exec dd if=/dev/zero of=/dev/null bs=64M count=1"]);
    let output = host.run_task(&task("none", vec![greedy]));
    assert_eq!(output.status.code(), Some(137), "{}{}", stdout(&output), stderr(&output));
    assert!(stderr(&output).contains("OutOfMemoryError"), "{}", stderr(&output));
}

#[test]
fn defaults_are_dockers() {
    let host = TestHost::new();
    let output = host.run_task(&script(
        "none",
        "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/1/status; \
         echo sysrq=$(cat /proc/sysrq-trigger 2>&1); (echo 1 > /proc/sys/kernel/panic) 2>&1; \
         cat /proc/kcore 2>&1 | wc -c; ls /proc/acpi 2>/dev/null | wc -l; mount -t tmpfs x /mnt 2>&1; unshare -U true 2>&1; echo done",
    ));
    let text = stdout(&output);
    assert!(text.contains("00000000a80425fb"), "Docker's capabilities: {text}");
    assert!(text.contains("Seccomp:\t2"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.contains("denied") || text.contains("not permitted"), "{text}");
    assert!(text.contains("done"), "{text}");
}

#[test]
fn a_detached_task_is_seen_by_every_command() {
    let host = TestHost::new();
    let before = host.state();
    let task = host.detach(&script(
        "awsvpc",
        "echo hello; echo problem >&2; trap 'exit 4' TERM; while :; do sleep 0.1; done",
    ));
    assert_eq!(task.len(), 32, "{task}");

    let view = host.inspect(&task[..12]);
    assert_eq!(view["taskId"], task.as_str());
    assert_eq!(view["lastStatus"], "RUNNING");
    assert!(view["address"].is_string(), "{view}");

    let table = host.ok(&["ps"]);
    assert!(table.contains("main") && table.contains("Up"), "{table}");
    assert_eq!(host.ok(&["ps", "--quiet", "--no-trunc"]), task);

    host.eventually("its output is logged", || host.ok(&["logs", &task]).contains("hello"));
    let stamped = host.ok(&["logs", "--timestamps", &task]);
    let year = stamped.lines().find(|line| line.contains("hello")).map(|line| line.contains("20"));
    assert_eq!(year, Some(true), "{stamped}");

    let output = host.run(&["exec", &task, "sh", "-c", "echo inside; exit 9"]);
    assert_eq!(
        (stdout(&output).trim(), output.status.code()),
        ("inside", Some(9)),
        "{}",
        stderr(&output)
    );
    let options = ["exec", "-u", "user", "-w", "/etc", "-e", "A=b", task.as_str(), "sh", "-c"];
    let told = host.ok(&[&options[..], &["echo $(id -u) $(pwd) $A"]].concat());
    assert_eq!(told, "1000 /etc b");
    assert_eq!(host.run(&["exec", &task, "/nowhere"]).status.code(), Some(127));
    assert_eq!(host.run(&["exec", &task, "/etc/passwd"]).status.code(), Some(126));

    assert_eq!(host.ok(&["stop", &task]), task);
    let view = host.inspect(&task);
    assert_eq!(view["lastStatus"], "STOPPED");
    assert_eq!(view["exitCode"], 4);
    assert_eq!(view["stopCode"], "UserInitiated");
    assert!(host.ok(&["ps", "--all"]).contains("Exited (4)"), "{}", host.ok(&["ps", "--all"]));
    assert!(host.ok(&["logs", &task]).contains("hello"), "logs outlive the container");

    host.ok(&["rm", &task]);
    assert!(!host.task_directory(&task).exists());
    host.stop_agent();
    assert_eq!(host.state(), before);
}

#[test]
fn a_foreground_task_is_seen_from_outside_too() {
    let host = TestHost::new();
    let path = host.definition(
        "task.json",
        &script("none", "echo up; trap 'exit 3' TERM; while :; do sleep 0.1; done"),
    );
    let child = host.command(&["run", &path]).stdout(std::process::Stdio::piped()).spawn();
    let child = child.expect("lighter starts");
    let mut task = String::new();
    host.eventually("it is listed", || {
        task = host.ok(&["ps", "--quiet", "--no-trunc"]);
        task.len() == 32 && host.inspect(&task)["lastStatus"] == "RUNNING"
    });
    assert!(host.ok(&["logs", &task]).contains("up"));
    host.ok(&["stop", &task]);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn the_log_is_in_dockers_json_file_format() {
    let host = TestHost::new();
    let long = 20_000;
    let text = format!("echo first; printf '%{long}s\\n' x; printf 'no newline' >&2");
    let task = {
        let path = host.definition("task.json", &script("none", &text));
        host.run(&["run", "--detach", &path]);
        host.ok(&["ps", "--all", "--quiet", "--no-trunc"])
    };
    host.eventually("it ends", || host.inspect(&task)["lastStatus"] == "STOPPED");
    let view = host.inspect(&task);
    let log = std::fs::read_to_string(view["containers"][0]["logPath"].as_str().expect("a path"))
        .expect("the log");
    let entries: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |stream: &str| -> String {
        let parts = entries.iter().filter(|entry| entry["stream"] == stream);
        parts.map(|entry| entry["log"].as_str().expect("text")).collect()
    };
    assert_eq!(entries[0]["log"], "first\n");
    assert_eq!(of("stdout").len(), "first\n".len() + long + 1);
    assert_eq!(of("stderr"), "no newline");
    assert!(
        entries.iter().all(|entry| entry["log"].as_str().is_some_and(|log| log.len() <= 16 * 1024))
    );
    assert!(
        entries.iter().all(|entry| entry["time"].as_str().is_some_and(|time| time.ends_with('Z')))
    );
}

#[test]
fn a_terminal_is_one() {
    let host = TestHost::new();
    let mut main = container("main", "test -t 1 && echo terminal");
    main["pseudoTerminal"] = json!(true);
    let output = host.run_task(&task("none", vec![main]));
    assert!(stdout(&output).contains("terminal"), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn images_are_pulled_listed_and_removed() {
    let host = TestHost::new();
    let registry = Registry::start().expect("docker-registry starts");
    let reference = format!("{}/team/tool:1.0", registry.address());
    let pushed = host.sh(&format!(
        "skopeo copy --quiet --insecure-policy --dest-tls-verify=false oci-archive:{} docker://{reference} && echo pushed",
        host.archive().display()
    ));
    assert!(pushed.contains("pushed"), "{pushed}");

    let mut definition = script("none", "echo ran");
    definition["containerDefinitions"][0]["image"] = json!(reference);
    let output = host.run(&["run", "--pull", "never", &host.definition("task.json", &definition)]);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("is not on this host"), "{}", stderr(&output));

    let output = host.run_task(&definition);
    assert!(stdout(&output).contains("ran"), "{}", stderr(&output));
    assert!(host.ok(&["image", "ls"]).contains("team/tool"), "{}", host.ok(&["image", "ls"]));
    let removed = host.ok(&["image", "rm", &reference]);
    assert!(removed.contains("Untagged"), "{removed}");
    assert!(host.ok(&["image", "pull", &reference]).contains(&reference));

    definition["containerDefinitions"][0]["image"] =
        json!(format!("{}/team/tool:2.0", registry.address()));
    let output = host.run_task(&definition);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("team/tool:2.0"), "{}", stderr(&output));
}

#[test]
fn what_needs_a_control_plane_is_said_once_and_the_task_runs() {
    let host = TestHost::new();
    let mut main = container(
        "main",
        "echo uri=$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; \
         wget -q -O - http://169.254.170.2/v2/credentials/none || echo refused",
    );
    main["logConfiguration"] = json!({
        "logDriver": "awslogs", "options": {"awslogs-group": "/g", "awslogs-region": "eu-x-1"},
    });
    let definition = json!({
        "family": "roles", "networkMode": "awsvpc", "taskRoleArn": "arn:aws:iam::000000000000:role/web",
        "containerDefinitions": [main],
    });
    let path = host.definition("roles.json", &definition);
    let run = |more: &[(&str, &str)]| {
        let mut command = host.command(&["run", &path]);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"] {
            command.env_remove(name);
        }
        command.envs(more.iter().copied()).output().expect("lighter starts")
    };
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (said, written) = (stderr(&output), stdout(&output));
    assert_eq!(said.matches("logs of the driver awslogs stay on this host").count(), 1, "{said}");
    assert_eq!(said.matches("task role arn:aws:iam::000000000000:role/web").count(), 1, "{said}");
    // No address of credentials, and none without one.
    assert!(written.contains("uri=\n") || written.trim_end().contains("uri="), "{written}");
    assert!(written.contains("refused"), "{written}");
    let ps = host.ok(&["ps", "-a", "-q", "--no-trunc"]);
    let task = ps.lines().next().expect("a task");
    assert!(host.ok(&["logs", task]).contains("refused"), "they are read here");
    // Somewhere to go: the warning would be wrong.
    let output = run(&[("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "http://127.0.0.1:1")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("awslogs"), "{}", stderr(&output));
}
