//! Commands at the same time, numbers that are used again, and death at every step.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours, runtime, within};

/// A command under way, and its errors: in a file, which a container that inherits it keeps nobody
/// waiting for.
struct Running {
    child: Child,
    errors: File,
}

/// Starts a command without waiting for it.
fn spawn(bundle: &Bundle, words: &[&str]) -> Running {
    let errors = tempfile::tempfile().unwrap();
    if !bundle.path().join("config.json").exists() {
        // Written once: those under way read it.
        bundle.command(words);
    }
    let mut command = Command::new(runtime());
    command.arg("--root").arg(bundle.state_root()).args(words).current_dir(bundle.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.try_clone().unwrap());
    Running { child: command.spawn().unwrap(), errors }
}

/// Waits for all: whether each succeeded, and what it said.
fn finish(running: Vec<Running>) -> Vec<(bool, String)> {
    let end = |mut one: Running| {
        let status = within(Duration::from_secs(30), || one.child.try_wait().unwrap()).unwrap();
        let mut text = String::new();
        one.errors.rewind().unwrap();
        one.errors.read_to_string(&mut text).unwrap();
        (status.success(), text)
    };
    running.into_iter().map(end).collect()
}

fn succeeded(outputs: &[(bool, String)]) -> usize {
    outputs.iter().filter(|(success, _)| *success).count()
}

/// A process of the host that has, as far as the state file knows, the container's number.
#[test]
fn a_reused_pid_is_never_signalled() {
    let bundle = Bundle::new("exit 0");
    bundle.must(&["run", "-d", &bundle.id]);
    bundle.wait_for("stopped");
    let mut stranger = Command::new("sleep").arg("100").spawn().unwrap();
    let path = bundle.state_root().join(&bundle.id).join("state.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let pid = if is_ours() { "/init/pid" } else { "/init_process_pid" };
    *state.pointer_mut(pid).unwrap() = json!(stranger.id());
    std::fs::write(&path, state.to_string()).unwrap();

    assert_eq!(bundle.state()["status"], "stopped");
    assert_eq!(bundle.state()["pid"], 0);
    for signal in ["KILL", "TERM"] {
        assert!(!bundle.call(&["kill", &bundle.id, signal]).status.success());
    }
    if is_ours() {
        // Of another boot, with the same start time.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", stranger.id())).unwrap();
        let time: u64 =
            stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().parse().unwrap();
        let mut other = state.clone();
        other["init"]["startTime"] = json!(time);
        other["bootId"] = json!("00000000-0000-0000-0000-000000000000");
        std::fs::write(&path, other.to_string()).unwrap();
        assert_eq!(bundle.state()["status"], "stopped");
        assert!(!bundle.call(&["kill", &bundle.id, "KILL"]).status.success());
    }
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn of_concurrent_commands_on_one_id_one_wins() {
    if !is_ours() {
        return; // runc 1.1 has no lock: two creates of one id harm each other
    }
    let bundle = Bundle::new("exec sleep 100");
    for _ in 0..tests::rounds(5) {
        let creates = (0..8).map(|_| spawn(&bundle, &["create", &bundle.id])).collect();
        let outputs = finish(creates);
        assert_eq!(succeeded(&outputs), 1);
        for (_, text) in outputs.iter().filter(|(success, _)| !success) {
            assert!(text.contains("exists already"), "{text}");
        }
        assert_eq!(bundle.state()["status"], "created");
        let starts = (0..8).map(|_| spawn(&bundle, &["start", &bundle.id])).collect();
        assert_eq!(succeeded(&finish(starts)), 1);
        assert_eq!(bundle.state()["status"], "running");
        let deletes = (0..8).map(|_| spawn(&bundle, &["delete", "-f", &bundle.id])).collect();
        let outputs = finish(deletes);
        assert_eq!(succeeded(&outputs), 8, "{outputs:?}");
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// Deletes that wait for the lock of a container which is gone when they get it must not take what
/// another create makes of the same name meanwhile.
#[test]
fn a_delete_that_waited_does_not_take_the_next_container() {
    if !is_ours() {
        return; // runc 1.1 has no lock
    }
    let bundle = Bundle::new("exec sleep 100");
    for round in 0..tests::rounds(40) {
        let mut children = vec![spawn(&bundle, &["create", &bundle.id])];
        for _ in 0..3 {
            children.push(spawn(&bundle, &["delete", "--force", &bundle.id]));
            children.push(spawn(&bundle, &["create", &bundle.id]));
        }
        for (success, text) in finish(children) {
            let understood = ["exists already", "does not exist"];
            let clean = success || understood.iter().any(|words| text.contains(words));
            assert!(clean, "round {round}: {text}");
        }
        // Whichever came last: either there is a whole container, or there is none.
        if bundle.state_root().join(&bundle.id).exists() {
            assert_eq!(bundle.state()["status"], "created", "round {round}");
        }
        bundle.must(&["delete", "--force", &bundle.id]);
        assert_eq!(bundle.left(), [""; 0], "round {round}");
    }
}

#[test]
fn state_asked_at_the_same_time_is_the_same() {
    let bundle = Bundle::new("exec sleep 100");
    bundle.must(&["create", &bundle.id]);
    let ask = || bundle.command(&["state", &bundle.id]).stdout(Stdio::piped()).spawn().unwrap();
    let asked: Vec<Child> = (0..16).map(|_| ask()).collect();
    for child in asked {
        let output = child.wait_with_output().unwrap();
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(state["status"], "created");
    }
    bundle.must(&["delete", "--force", &bundle.id]);
}

/// How the runtime with fail points ends, which `make test` has put somewhere; `None` where there is
/// none.
fn with_failpoint(bundle: &Bundle, point: &str, words: &[&str]) -> Option<ExitStatus> {
    let directory = std::env::var_os("LIGHTER_FAILPOINTS")?;
    let program = Path::new(&directory).join("lighter-runtime");
    let mut child = Command::new(program)
        .args(bundle.command(words).get_args())
        .current_dir(bundle.path())
        .env("LIGHTER_FAILPOINT", format!("{point}:1"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    within(Duration::from_secs(30), || child.try_wait().unwrap())
}

/// A bundle with a process that outlives its init in the host's pid namespace, and with hooks.
fn busy(shared: bool) -> Bundle {
    let mut bundle = Bundle::new("sleep 100 & exec sleep 101");
    let hook = json!([{"path": "/bin/true"}]);
    bundle.set(
        "/hooks",
        json!({"createRuntime": hook.clone(), "poststart": hook.clone(),
        "poststop": hook}),
    );
    if shared {
        let list = json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]);
        bundle.set("/linux/namespaces", list);
        bundle.config["mounts"].as_array_mut().unwrap().retain(|one| one["destination"] != "/sys");
    }
    bundle
}

/// After `delete --force` there is nothing: no state, no group, no mount, no process.
fn assert_gone(bundle: &Bundle, point: &str) {
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0], "killed at {point}");
    let none = within(Duration::from_secs(5), || below(bundle).is_empty().then_some(()));
    assert!(none.is_some(), "killed at {point}: {:?} live on", below(bundle));
}

/// Processes whose root is the bundle's.
fn below(bundle: &Bundle) -> Vec<String> {
    let root = bundle.root();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| std::fs::read_link(entry.path().join("root")).is_ok_and(|at| at == root))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Whether a command was killed at a fail point; not, where there is no runtime that has them.
pub(super) fn killed_at(bundle: &Bundle, point: &str, words: &[&str]) -> bool {
    let Some(status) = with_failpoint(bundle, point, words) else { return false };
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{point} was never reached");
    true
}

/// The points at which a create can be killed, in order.
pub(super) const CREATE_STEPS: [&str; 9] = [
    "create-directory",
    "create-locked",
    "create-planned",
    "create-cgroup",
    "create-fifo",
    "create-hooks",
    "create-launched",
    "create-recorded",
    "create-confirmed",
];

#[test]
fn a_create_killed_at_any_step_is_deleted_by_force() {
    for point in CREATE_STEPS {
        for shared in [false, true] {
            let bundle = busy(shared);
            if !killed_at(&bundle, point, &["create", &bundle.id]) {
                return;
            }
            // The name is taken until it is deleted.
            assert!(!bundle.call(&["create", &bundle.id]).status.success());
            // Once the state is on disk there is a container; before that its process died with the
            // runtime. At the last moment before it may have seen either.
            let status = bundle.state()["status"].clone();
            match point {
                "create-confirmed" => assert_eq!(status, "created"),
                "create-recorded" => {}
                _ => assert_eq!(status, "stopped", "{point}"),
            }
            assert_gone(&bundle, point);
            // And free then.
            bundle.must(&["create", &bundle.id]);
            assert_gone(&bundle, point);
        }
    }
}

#[test]
fn a_start_killed_at_any_step_is_deleted_by_force() {
    for point in ["start-locked", "start-written", "start-removed"] {
        for shared in [false, true] {
            let bundle = busy(shared);
            bundle.must(&["create", &bundle.id]);
            if !killed_at(&bundle, point, &["start", &bundle.id]) {
                return;
            }
            if point != "start-removed" {
                // Once more, and it has started exactly once.
                bundle.must(&["start", &bundle.id]);
            }
            assert_eq!(bundle.state()["status"], "running", "{point}");
            assert!(!bundle.call(&["start", &bundle.id]).status.success());
            assert_gone(&bundle, point);
        }
    }
}

#[test]
fn a_delete_killed_at_any_step_is_finished_by_the_next() {
    for point in
        ["delete-locked", "delete-killed", "delete-emptied", "delete-cgroup", "delete-hooks"]
    {
        for shared in [false, true] {
            if point == "delete-emptied" && !shared {
                continue; // nobody outlives the init: an empty group is removed at once
            }
            let bundle = busy(shared);
            bundle.must(&["run", "-d", &bundle.id]);
            if !killed_at(&bundle, point, &["delete", "--force", &bundle.id]) {
                return;
            }
            assert_gone(&bundle, point);
        }
    }
}

/// The directory half removed, in whichever order.
#[test]
fn half_a_directory_is_deleted_by_force() {
    if !is_ours() {
        return; // runc has other files
    }
    for file in ["state.json", "exec.fifo", ""] {
        let bundle = Bundle::new("exec sleep 100");
        let directory = bundle.state_root().join(&bundle.id);
        if file.is_empty() {
            std::fs::create_dir_all(&directory).unwrap();
        } else {
            bundle.must(&["create", &bundle.id]);
            bundle.must(&["kill", &bundle.id, "KILL"]);
            bundle.wait_for("stopped");
            if file == "state.json" {
                // A delete has removed the groups before it comes to the files.
                let copy = bundle.beside().join("copy");
                std::fs::copy(directory.join(file), &copy).unwrap();
                bundle.must(&["delete", &bundle.id]);
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(directory.join("state.json.new"), "{").unwrap();
            } else {
                std::fs::remove_file(directory.join(file)).unwrap();
            }
        }
        assert_eq!(bundle.state()["status"], "stopped");
        assert_gone(&bundle, file);
    }
}
