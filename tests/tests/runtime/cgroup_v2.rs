//! What only a host with nothing but cgroup v2 can show; elsewhere these tests pass at once.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours, within};

fn on_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn read(bundle: &Bundle, file: &str) -> String {
    let path = Path::new("/sys/fs/cgroup").join(&bundle.id).join(file);
    let text = std::fs::read_to_string(&path);
    text.unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

/// One number of a file with a name and a number on each line.
fn counted(bundle: &Bundle, file: &str, name: &str) -> u64 {
    let text = read(bundle, file);
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

fn bundle(script: &str, resources: Value) -> Bundle {
    let mut bundle = Bundle::new(script);
    for (name, value) in resources.as_object().unwrap() {
        bundle.set(&format!("/linux/resources/{name}"), value.clone());
    }
    bundle
}

fn started(script: &str, resources: Value) -> Bundle {
    let bundle = bundle(script, resources);
    bundle.must(&["run", "-d", &bundle.id]);
    bundle
}

#[test]
fn resources_become_the_files_of_v2() {
    if !on_v2() {
        return;
    }
    let resources = json!({
        "cpu": {"shares": 333, "quota": 40000, "period": 80000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 50 << 20, "swap": 60 << 20, "reservation": 20 << 20},
        "pids": {"limit": 44},
        "unified": {"memory.high": "41943040", "cpu.max.burst": "10000"},
    });
    let bundle = started("exec sleep 100", resources);
    // The curve of 2025; runc 1.1 has the line that was before.
    let weight = if is_ours() { "42" } else { "13" };
    for (file, value) in [
        ("cpu.weight", weight),
        ("cpu.max", "40000 80000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "52428800"),
        ("memory.swap.max", "10485760"),
        ("memory.low", "20971520"),
        ("memory.high", "41943040"),
        ("pids.max", "44"),
    ] {
        assert_eq!(read(&bundle, file), value, "{file}");
    }
    bundle.must(&["update", "--memory", "60m", "--cpu-quota", "-1", &bundle.id]);
    assert_eq!(read(&bundle, "memory.max"), "62914560");
    assert!(read(&bundle, "cpu.max").starts_with("max "));
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_file_that_is_none_is_refused_by_its_name() {
    if !on_v2() {
        return;
    }
    for (file, value) in [("memory.none", "1"), ("memory.high", "x"), ("../cgroup.kill", "1")] {
        let bundle = bundle("true", json!({"unified": {file: value}}));
        if is_ours() || !file.starts_with("..") {
            let message = bundle.refusal();
            assert!(message.contains(file), "{message}");
        }
    }
}

/// Rules are a program on the group: what it allows and denies is felt by open and mknod.
#[test]
fn devices_are_allowed_and_denied_by_a_program() {
    if !on_v2() {
        return;
    }
    let script = "mknod /tmp/fuse c 10 229; mknod /tmp/mem c 1 1; mknod /tmp/disk b 254 0; \
        (: < /tmp/fuse) 2>/dev/null && echo reads; (: > /tmp/fuse) 2>/dev/null && echo writes; \
        (: < /tmp/mem) 2>/dev/null && echo mem; (: < /tmp/disk) 2>/dev/null && echo disk; \
        echo > /dev/null && echo null; (: < /dev/ptmx) && echo ptmx";
    let devices = json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"},
    ]);
    let bundle = bundle(script, json!({"devices": devices}));
    assert_eq!(bundle.output(), "reads\nnull\nptmx\n");
}

/// A process that joins is in the group, and so under its program.
#[test]
fn exec_is_under_the_program_and_an_update_leaves_it() {
    if !on_v2() {
        return;
    }
    let bundle = started("mknod /tmp/fuse c 10 229; exec sleep 100", json!({}));
    let made = bundle.root().join("tmp/fuse");
    assert!(within(Duration::from_secs(5), || made.exists().then_some(())).is_some());
    let open = ["exec", &bundle.id, "sh", "-c", ": < /tmp/fuse"];
    let denied = || {
        let output = bundle.call(&open);
        String::from_utf8_lossy(&output.stderr).contains("Operation not permitted")
    };
    assert!(denied());
    bundle.must(&["update", "--pids-limit", "45", &bundle.id]);
    assert!(denied());
}

const EATER: &str = "sleep 1000 & until [ -e /go ]; do sleep 0.02; done; busybox tail /dev/zero; \
    echo ended $? > /end; sleep 1000";

fn let_it_eat(bundle: &Bundle) {
    std::fs::write(bundle.root().join("go"), "").unwrap();
}

#[test]
fn out_of_memory_kills_one_process_and_is_counted() {
    if !on_v2() {
        return;
    }
    let bundle = started(EATER, json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}}));
    assert_eq!(counted(&bundle, "memory.events", "oom_kill "), 0);
    let_it_eat(&bundle);
    let end = bundle.root().join("end");
    let said = within(Duration::from_secs(15), || {
        std::fs::read_to_string(&end).ok().filter(|text| text.ends_with('\n'))
    });
    assert_eq!(said.as_deref(), Some("ended 137\n"));
    assert!(counted(&bundle, "memory.events", "oom_kill ") > 0);
    assert_eq!(counted(&bundle, "memory.events", "oom_group_kill "), 0);
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn out_of_memory_kills_a_group_that_is_to_die_as_one() {
    if !on_v2() {
        return;
    }
    let resources = json!({
        "memory": {"limit": 24 << 20, "swap": 24 << 20}, "unified": {"memory.oom.group": "1"},
    });
    let bundle = started(EATER, resources);
    assert_eq!(read(&bundle, "memory.oom.group"), "1");
    let_it_eat(&bundle);
    bundle.wait_for("stopped");
    assert_eq!(counted(&bundle, "memory.events", "oom_group_kill "), 1);
    assert_eq!(read(&bundle, "cgroup.procs"), "");
    assert!(!bundle.root().join("end").exists(), "the shell outlived its child");
}

/// A limit below what is held is taken: what cannot be pushed out dies.
#[test]
fn a_memory_limit_below_what_is_held_kills() {
    if !on_v2() {
        return;
    }
    let bundle = started(
        "x=$(busybox head -c 4m /dev/zero | busybox tr '\\0' a); echo ${#x} > /held; sleep 100; echo ${#x}",
        json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}),
    );
    let held = bundle.root().join("held");
    let read = || std::fs::read_to_string(&held).ok().filter(|text| text.ends_with('\n'));
    assert_eq!(within(Duration::from_secs(15), read).as_deref(), Some("4194304\n"));
    if is_ours() {
        let words = r#"{"memory": {"limit": 1048576, "swap": 1048576, "checkBeforeUpdate": true}}"#;
        std::fs::write(bundle.beside().join("checked.json"), words).unwrap();
        let path = bundle.beside().join("checked.json");
        let output = bundle.call(&["update", "-r", path.to_str().unwrap(), &bundle.id]);
        assert!(!output.status.success(), "the check before the update was asked for");
    }
    bundle.must(&["update", "--memory", "1m", "--memory-swap", "1m", &bundle.id]);
    bundle.wait_for("stopped");
}

/// With a cgroup namespace the container sees its group as the root, and may not leave it.
#[test]
fn the_group_is_the_root_of_the_container_s_view() {
    if !on_v2() {
        return;
    }
    let mut bundle = Bundle::new(
        "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/pids.max; \
         mkdir /sys/fs/cgroup/x 2>&1",
    );
    bundle.push(
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    let (_, text, _) = bundle.run();
    assert!(text.starts_with("0::/\n"), "{text}");
    assert!(text.contains("/sys/fs/cgroup/cgroup.procs\n/sys/fs/cgroup/pids.max\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
}
