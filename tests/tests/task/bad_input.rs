//! Bad input: a precise error, a failure, and a host as before.

use std::fs;

use serde_json::{Value, json};
use tests::host::{IMAGE, TestHost, container, script, stderr, task};

/// Runs what must fail: the error, after checking that nothing is left.
fn refused(host: &TestHost, definition: &Value) -> String {
    let before = (host.state(), files(host));
    let output = host.run_task(definition);
    assert!(!output.status.success(), "it was accepted: {definition}");
    assert_ne!(output.status.code(), None);
    assert_eq!((host.state(), files(host)), before, "something is left");
    stderr(&output)
}

/// Files of tasks and images; the database, locks and what is remembered of uses stay.
fn files(host: &TestHost) -> String {
    host.sh(&format!(
        "cd {}; find var/lib/lighter/tasks run/lighter/tasks -mindepth 1 2>/dev/null | sort; \
         find var/lib/lighter/images -mindepth 1 -maxdepth 3 2>/dev/null | grep -v -e lock -e /usage/ | sort",
        host.root().display()
    ))
}

#[test]
fn definitions_are_refused_with_path_and_rule_all_at_once() {
    let host = TestHost::empty();
    for command in ["validate", "run"] {
        let path = host.definition("bad.json", &json!({
            "family": "no spaces", "colour": "red",
            "containerDefinitions": [{"name": "a", "image": IMAGE, "memory": 4, "healthCheck": {"command": ["CMD", "true"]}}],
        }));
        let output = host.run(&[command, &path]);
        assert!(!output.status.success());
        let text = format!("{}{}", stderr(&output), tests::host::stdout(&output));
        for part in [
            "family",
            "colour",
            "containerDefinitions[0].memory",
            "not supported yet",
            "containerDefinitions[0].healthCheck",
        ] {
            assert!(text.contains(part), "{command}: no {part} in: {text}");
        }
    }
    fs::write(host.path("broken.json"), "{\"family\": ").expect("a file");
    let output = host.run(&["run", host.path("broken.json").to_str().expect("UTF-8")]);
    assert!(stderr(&output).contains("line 1"), "{}", stderr(&output));
    let output = host.run(&["run", "/nowhere/task.json"]);
    assert!(stderr(&output).contains("/nowhere/task.json"), "{}", stderr(&output));
    let everything = fs::read_dir(host.root()).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(everything, 0, "a refused definition makes no file");
}

#[test]
fn unknown_image_and_dead_registry() {
    let host = TestHost::new();
    // Nothing listens on port 9 of this network namespace.
    let mut definition = script("awsvpc", "true");
    definition["containerDefinitions"][0]["image"] = json!("127.0.0.1:9/missing:latest");
    let text = refused(&host, &definition);
    assert!(text.contains("CannotPullContainerError") && text.contains("127.0.0.1:9"), "{text}");

    definition["containerDefinitions"][0]["image"] = json!("Not A Reference");
    let text = refused(&host, &definition);
    assert!(text.contains("Not A Reference"), "{text}");
}

#[test]
fn missing_bind_source() {
    let host = TestHost::new();
    let mut main = container("main", "true");
    main["mountPoints"] = json!([{"sourceVolume": "v", "containerPath": "/v"}]);
    let mut definition = task("none", vec![main]);
    definition["volumes"] = json!([{"name": "v", "host": {"sourcePath": "/nowhere/at/all"}}]);
    let text = refused(&host, &definition);
    assert!(text.contains("/nowhere/at/all"), "{text}");
}

#[test]
fn port_in_use() {
    let host = TestHost::new();
    let mut web = container("web", "true");
    web["portMappings"] = json!([{"containerPort": 80, "hostPort": 8081}]);
    let definition = task("bridge", vec![web]);
    host.sh("busybox nc -l -p 8081 >/dev/null 2>&1 & disown; for i in $(seq 100); do grep -q ':1F91 ' /proc/net/tcp /proc/net/tcp6 && break; sleep 0.05; done");
    let text = refused(&host, &definition);
    assert!(text.contains("8081/tcp") && text.contains("in use"), "{text}");
}

#[test]
fn programs_that_do_not_run_have_dockers_exit_codes() {
    let host = TestHost::new();
    for (program, code) in [("/nowhere", 127), ("nowhere", 127), ("/etc/passwd", 126)] {
        let definition = json!({
            "family": "test", "networkMode": "none",
            "containerDefinitions": [{"name": "main", "image": IMAGE, "memory": 64, "command": [program]}],
        });
        let before = host.state();
        let output = host.run_task(&definition);
        assert_eq!(output.status.code(), Some(code), "{program}: {}", stderr(&output));
        assert!(stderr(&output).contains(program), "{}", stderr(&output));
        assert_eq!(host.state(), before, "{program}");
    }
}

#[test]
fn unknown_user_and_unwritable_sysctl() {
    let host = TestHost::new();
    let mut main = container("main", "true");
    main["user"] = json!("nobody-knows");
    let text = refused(&host, &task("none", vec![main]));
    assert!(text.contains("nobody-knows"), "{text}");
}

#[test]
fn commands_about_unknown_things_name_them() {
    let host = TestHost::empty();
    for arguments in [
        &["stop", "ffff"][..],
        &["logs", "ffff"],
        &["inspect", "ffff"],
        &["rm", "ffff"],
        &["exec", "ffff", "true"],
        &["image", "rm", "unknown:latest"],
    ] {
        let output = host.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let name = arguments.iter().find(|word| word.contains("ffff") || word.contains("unknown"));
        assert!(
            stderr(&output).contains(name.expect("a name")),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}
