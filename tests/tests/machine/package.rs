//! The Debian package: installed, upgraded and removed under a running task; the service started,
//! restarted, killed and stopped.

use serde_json::Value;
use tests::host::script;

use super::{detach, in_vm, inspect, install, load_image, ok, run, wait_for_status, wait_for_unit};

const CONFIG: &str = "/etc/ecs/ecs.config";

fn main_pid() -> String {
    ok("systemctl", &["show", "--property", "MainPID", "--value", "lighter"])
}

/// What the container runs: nobody else does.
const PROGRAM: &str = "sleep 98761";

/// The process of the task's container, by which it is seen to have lived on.
fn container_pid() -> String {
    let pids = ok("pgrep", &["-f", "-x", PROGRAM]);
    assert_eq!(pids.lines().count(), 1, "{pids}");
    pids
}

fn assert_runs(task: &str, pid: &str) {
    let view = inspect(task);
    assert_eq!(view["lastStatus"], "RUNNING", "{view}");
    assert_eq!(container_pid(), pid, "it was started anew");
}

#[test]
fn a_task_outlives_the_service_and_its_package() {
    in_vm();
    install();
    assert!(!run("systemctl", &["is-active", "lighter"]).status.success(), "nobody enabled it");
    let mode = ok("stat", &["--format", "%a", CONFIG]);
    assert_eq!(mode, "600", "it may have a secret");
    std::fs::write(CONFIG, "ECS_LOGLEVEL=info\n").unwrap();
    ok("systemctl", &["start", "lighter"]);
    load_image();
    let task = detach(&script("bridge", &format!("exec {PROGRAM}")));
    wait_for_status(&task, "RUNNING");
    let pid = container_pid();

    let mut agents = vec![main_pid()];
    ok("systemctl", &["restart", "lighter"]);
    assert_runs(&task, &pid);
    agents.push(main_pid());

    ok("kill", &["-KILL", &main_pid()]);
    wait_for_unit("lighter", "NRestarts", "1");
    wait_for_unit("lighter", "ActiveState", "active");
    assert_runs(&task, &pid);
    agents.push(main_pid());

    // As an upgrade: what runs is started anew, the configuration stays.
    install();
    wait_for_unit("lighter", "ActiveState", "active");
    assert_runs(&task, &pid);
    agents.push(main_pid());
    assert_eq!(std::fs::read_to_string(CONFIG).unwrap(), "ECS_LOGLEVEL=info\n");
    agents.dedup();
    assert_eq!(agents.len(), 4, "it was not started anew each time: {agents:?}");

    ok("systemctl", &["stop", "lighter"]);
    assert_eq!(container_pid(), pid);
    ok("dpkg", &["--remove", "lighter"]);
    assert_eq!(container_pid(), pid);
    assert!(run("dpkg", &["--purge", "lighter"]).status.success());
    assert!(std::path::Path::new("/var/lib/lighter").exists(), "a task runs on it");
    assert_eq!(container_pid(), pid);

    // And is found again.
    install();
    ok("systemctl", &["start", "lighter"]);
    assert_runs(&task, &pid);
    ok("lighter", &["stop", &task]);
    let view: Value = wait_for_status(&task, "STOPPED");
    // The first process of a container takes no SIGTERM that it has not asked for.
    assert_eq!(view["exitCode"], 137, "{view}");
    ok("lighter", &["rm", &task]);
    ok("dpkg", &["--purge", "lighter"]);
    assert!(!std::path::Path::new("/var/lib/lighter").exists());
    assert!(!std::path::Path::new(CONFIG).exists());
}
