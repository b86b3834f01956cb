//! The machine is switched off under running tasks. The test runs once in each boot of one disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::host::{container, script, task};

use super::{detach, in_vm, install, load_image, ok, wait_for_status, wait_for_unit};

/// What the next boot must know.
const NOTES: &str = "/var/lib/lighter-test-reboot.json";

/// Ends the boot, and with it this process.
fn end(how: impl FnOnce()) -> ! {
    how();
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn assert_ended_with_the_machine(id: &str) {
    let view = wait_for_status(id, "STOPPED");
    assert_ne!(view["stoppedReason"], Value::Null, "{view}");
    assert!(!Path::new("/run/lighter/tasks").join(id).exists(), "of the boot before: {view}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(id), "{mounts}");
    let groups = ok("find", &["/sys/fs/cgroup", "-type", "d", "-path", &format!("*{id}*")]);
    assert_eq!(groups, "");
    assert!(ok("lighter", &["logs", id]).contains("started"), "its output is lost");
    ok("lighter", &["rm", id]);
}

/// The tasks of a boot: one network mode each, one with two containers.
fn start_tasks() {
    let lasting = "echo started; trap exit TERM; while :; do sleep 1; done";
    let ids = [
        detach(&script("bridge", lasting)),
        detach(&script("awsvpc", lasting)),
        detach(&task("none", vec![container("one", lasting), container("two", lasting)])),
    ];
    for id in &ids {
        wait_for_status(id, "RUNNING");
    }
    fs::write(NOTES, json!(ids).to_string()).unwrap();
    // What is to be on the disk after a power cut.
    nix::unistd::sync();
}

fn assert_tasks_ended() {
    wait_for_unit("lighter", "ActiveState", "active");
    let ids: Value = serde_json::from_str(&fs::read_to_string(NOTES).unwrap()).unwrap();
    for id in ids.as_array().unwrap() {
        assert_ended_with_the_machine(id.as_str().unwrap());
    }
    let id = detach(&script("bridge", "echo anew; exit 3"));
    let view = wait_for_status(&id, "STOPPED");
    assert_eq!(view["exitCode"], 3, "{view}");
    ok("lighter", &["rm", &id]);
}

#[test]
fn tasks_end_with_the_machine_and_the_agent_says_so() {
    in_vm();
    let boot = std::env::var("LIGHTER_VM_BOOT").unwrap();
    match boot.as_str() {
        "1" => {
            install();
            ok("systemctl", &["enable", "--now", "lighter"]);
            load_image();
            start_tasks();
            end(|| drop(ok("systemctl", &["--no-block", "reboot"])));
        }
        "2" => {
            assert_tasks_ended();
            start_tasks();
            // A power cut: nobody is told, nothing is written any more.
            end(|| fs::write("/proc/sysrq-trigger", "b").unwrap());
        }
        _ => assert_tasks_ended(),
    }
}
