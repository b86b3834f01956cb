//! create, start, state, kill, delete, run: statuses, exit codes, hooks, what is left.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tests::bundle::{Bundle, is_ours, within};

#[test]
fn run_returns_the_programs_code_and_leaves_nothing() {
    let bundle = Bundle::new("echo out; echo err >&2; exit 7");
    assert_eq!(bundle.run(), (7, "out\n".into(), "err\n".into()));
    assert_eq!(bundle.left(), [""; 0]);
    let bundle = Bundle::new("kill -9 $$");
    // Init of a pid namespace ignores what it did not ask for, so the shell has to die otherwise.
    assert_eq!(bundle.run().0, if is_ours() { 0 } else { bundle.run().0 });
    let bundle = Bundle::new("sh -c 'kill -TERM $$'; exit $?");
    assert_eq!(bundle.run().0, 143);
}

#[test]
fn a_container_goes_through_its_statuses() {
    let bundle = Bundle::new("exec sleep 100");
    let pid_file = bundle.beside().join("pid");
    bundle.must(&["create", "--pid-file", pid_file.to_str().unwrap(), &bundle.id]);
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], bundle.id.as_str());
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());

    let again = bundle.call(&["create", &bundle.id]);
    assert!(!again.status.success());
    assert_eq!(bundle.state()["status"], "created", "the second create harmed the first");

    bundle.must(&["start", &bundle.id]);
    bundle.wait_for("running");
    assert!(!bundle.call(&["start", &bundle.id]).status.success());
    assert!(!bundle.call(&["delete", &bundle.id]).status.success());
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(!bundle.call(&["kill", &bundle.id, "TERM"]).status.success());
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
    assert!(!bundle.call(&["state", &bundle.id]).status.success());
    assert!(!bundle.call(&["delete", &bundle.id]).status.success());
    bundle.must(&["delete", "--force", &bundle.id]);
}

#[test]
fn what_was_never_started_can_be_deleted() {
    for words in [&["delete", "-f"][..], &["delete"]] {
        let bundle = Bundle::new("true");
        bundle.must(&["create", &bundle.id]);
        let pid = bundle.state()["pid"].to_string();
        bundle.must(&[words, &[&bundle.id]].concat());
        assert_eq!(bundle.left(), [""; 0]);
        let gone = within(Duration::from_secs(5), || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
        });
        assert!(gone.is_some());
    }
}

#[test]
fn all_processes_of_a_shared_pid_namespace_are_killed() {
    let mut bundle = Bundle::new("sleep 100 & sleep 101 & wait");
    bundle.set("/linux/namespaces", json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]));
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/sys");
    bundle.must(&["run", "-d", &bundle.id]);
    let init = bundle.state()["pid"].to_string();
    let children = format!("/proc/{init}/task/{init}/children");
    let two = || {
        let list = std::fs::read_to_string(&children).ok()?;
        let pids: Vec<String> = list.split_whitespace().map(str::to_owned).collect();
        (pids.len() == 2).then_some(pids)
    };
    let pids = within(Duration::from_secs(5), two).unwrap();
    bundle.must(&["kill", "--all", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_missing_program_fails_create_in_runcs_words() {
    for (program, words) in [
        ("nothing", "exec: \"nothing\": executable file not found in $PATH"),
        ("/bin/nothing", "exec: \"/bin/nothing\": stat /bin/nothing: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let mut bundle = Bundle::new("");
        bundle.set("/process/args", json!([program]));
        let output = bundle.call(&["create", &bundle.id]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{program}: {stderr}");
        assert!(stderr.replace('\\', "").contains(words), "{stderr}");
        assert_eq!(bundle.left(), [""; 0]);
    }
}

#[test]
fn bad_bundles_are_refused_and_leave_nothing() {
    let refused = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = Bundle::new("true");
        change(&mut bundle);
        bundle.refusal()
    };
    refused(&|bundle| {
        bundle.set("/root/path", json!("missing"));
    });
    refused(&|bundle| {
        bundle.set("/root/path", json!("config.json"));
    });
    refused(&|bundle| {
        let mount = json!({"destination": "/x", "type": "bind", "source": "/missing",
            "options": ["bind"]});
        bundle.push("/mounts", mount);
    });
    refused(&|bundle| {
        bundle.push("/mounts", json!({"destination": "/x", "type": "nofs", "source": "x"}));
    });
    refused(&|bundle| {
        bundle.set("/hooks", json!({"createRuntime": [{"path": "/bin/false"}]}));
    });
    if is_ours() {
        refused(&|bundle| {
            let namespace = json!({"type": "network", "path": "/proc/self/ns/uts"});
            bundle.set("/linux/namespaces/1", namespace);
        });
        refused(&|bundle| {
            bundle.set("/process/cwd", json!("/etc/passwd"));
        });
        refused(&|bundle| {
            bundle.set("/ociVersion", json!("x"));
        });
        let text = refused(&|bundle| {
            bundle.set("/linux/memoryPolicy", json!({}));
        });
        assert!(text.contains("linux.memoryPolicy.mode: required"), "{text}");
        let text = refused(&|bundle| {
            bundle.set("/process/apparmorProfile", json!("x"));
        });
        assert!(text.contains("AppArmor"), "{text}");
    }
    let bundle = Bundle::new("true");
    for id in ["../x", "a/b", "."] {
        assert!(!bundle.call(&["run", id]).status.success());
    }
    std::fs::write(bundle.path().join("config.json"), "{").unwrap();
}

#[test]
fn the_reason_is_in_the_json_log() {
    let mut bundle = Bundle::new("true");
    bundle.set("/root/path", json!("missing"));
    let log = bundle.beside().join("log");
    let words = ["--log", log.to_str().unwrap(), "--log-format", "json", "run", &bundle.id];
    assert_eq!(bundle.call(&words).status.code(), Some(1));
    let text = std::fs::read_to_string(log).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["msg"].as_str().unwrap().contains("missing"), "{text}");
}

#[test]
fn hooks_run_in_their_order_with_the_state() {
    if !is_ours() {
        return; // runc 1.1 runs poststart at create
    }
    let mut bundle = Bundle::new("echo program >> /trace");
    let trace = bundle.root().join("trace");
    std::fs::write(&trace, "").unwrap();
    let host = |name: &str| {
        let script = format!(
            "read line; echo \"{name} $(echo $line | grep -o '\"status\":\"[a-z]*\"')\" >> {}",
            trace.display()
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let inside = json!([{"path": "/bin/sh", "timeout": 10,
        "args": ["sh", "-c", "read line; echo startContainer $(hostname) >> /trace"],
        "env": ["PATH=/bin"]}]);
    bundle.set(
        "/hooks",
        json!({
            "prestart": host("prestart"),
            "createRuntime": host("createRuntime"),
            "createContainer": host("createContainer"),
            "startContainer": inside,
            "poststart": host("poststart"),
            "poststop": host("poststop"),
        }),
    );
    bundle.must(&["create", &bundle.id]);
    let text = std::fs::read_to_string(&trace).unwrap();
    assert_eq!(
        text.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["prestart", "createRuntime", "createContainer"]
    );
    bundle.must(&["start", &bundle.id]);
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    let text = std::fs::read_to_string(&trace).unwrap();
    let mut rest: Vec<&str> = text.lines().skip(3).collect();
    assert!(rest.contains(&"startContainer box"), "{text}");
    assert!(rest.pop().unwrap().starts_with("poststop \"status\":\"stopped\""), "{text}");
    assert!(text.contains("program") && text.contains("poststart"), "{text}");
}

#[test]
fn a_hook_that_hangs_is_ended_at_its_timeout() {
    let mut bundle = Bundle::new("true");
    let hook = json!([{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]);
    bundle.set("/hooks", json!({"createRuntime": hook}));
    bundle.refusal();
}

#[test]
fn signals_reach_the_program_through_run() {
    let bundle =
        Bundle::new("trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    let out = bundle.beside().join("out");
    let file = std::fs::File::create(&out).unwrap();
    let mut child = bundle.command(&["run", &bundle.id]).stdout(file).spawn().unwrap();
    let ready = within(Duration::from_secs(10), || {
        std::fs::read_to_string(&out).unwrap().contains("ready").then_some(())
    });
    assert!(ready.is_some());
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = within(Duration::from_secs(10), || child.try_wait().unwrap()).unwrap();
    assert_eq!(status.code(), Some(5));
    assert!(std::fs::read_to_string(&out).unwrap().contains("got"));
    assert_eq!(bundle.left(), [""; 0]);
}

/// The container of a `run` is deleted by another command.
#[test]
fn run_returns_the_code_of_what_another_deletes() {
    let bundle = Bundle::new("exec sleep 100");
    let mut child = bundle.command(&["run", &bundle.id]).spawn().unwrap();
    bundle.wait_until_running();
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(bundle.left(), [""; 0]);
}

/// And its name given to a new one before the `run` sees it.
#[test]
fn run_deletes_its_own_container_only() {
    if !is_ours() {
        return; // runc deletes whatever has the name
    }
    let bundle = Bundle::new("exec sleep 100");
    let mut child = bundle.command(&["run", &bundle.id]).spawn().unwrap();
    bundle.wait_until_running();
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    bundle.must(&["delete", "--force", &bundle.id]);
    bundle.must(&["run", "--detach", &bundle.id]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_eq!(bundle.state()["status"], "running");
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

/// SIGKILL at any moment of `create`: what is left is deleted by force, and then there is nothing.
#[test]
fn a_killed_create_leaves_nothing_that_delete_does_not_find() {
    if !is_ours() {
        return;
    }
    for step in 0..40 {
        let bundle = Bundle::new("sleep 100");
        let mut child = bundle
            .command(&["create", &bundle.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The moments differ from run to run; over forty of them they cover the whole creation.
        std::thread::sleep(Duration::from_micros(step * 500));
        let _ = child.kill();
        child.wait().unwrap();
        bundle.must(&["delete", "--force", &bundle.id]);
        assert_eq!(bundle.left(), [""; 0], "killed after {step} half milliseconds");
        let survivor = within(Duration::from_secs(5), || {
            let rootfs = bundle.root();
            let mine = processes_below(&rootfs);
            mine.is_empty().then_some(())
        });
        assert!(survivor.is_some(), "a process survived the create that was killed at {step}");
    }
}

/// Processes whose root is this directory.
fn processes_below(root: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path().join("root")).is_ok_and(|at| at == root))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
