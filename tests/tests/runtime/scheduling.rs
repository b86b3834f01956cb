//! When and where the program runs, what it may use, and what is refused: scheduler, limits, labels,
//! versions.

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours};

/// Fields of `/proc/<pid>/stat` after the name, numbered as in proc(5).
fn stat(pid: &Value, field: usize) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = text.rsplit_once(')').unwrap().1;
    rest.split_ascii_whitespace().nth(field - 3).unwrap().to_owned()
}

#[test]
fn the_scheduler_is_set() {
    if !is_ours() {
        return; // runc knows it from 1.2 on
    }
    const NICE: usize = 19;
    const PRIORITY: usize = 40;
    const POLICY: usize = 41;
    let check = |scheduler: Value, field: usize, value: &str, policy: &str| {
        let mut bundle = Bundle::new("true");
        bundle.set("/process/scheduler", scheduler);
        bundle.must(&["create", &bundle.id]);
        let pid = bundle.state()["pid"].clone();
        assert_eq!((stat(&pid, field).as_str(), stat(&pid, POLICY).as_str()), (value, policy));
        bundle.must(&["start", &bundle.id]);
        bundle.wait_for("stopped");
        bundle.must(&["delete", &bundle.id]);
        assert_eq!(bundle.left(), [""; 0]);
    };
    check(json!({"policy": "SCHED_OTHER", "nice": -3}), NICE, "-3", "0");
    check(json!({"policy": "SCHED_BATCH", "nice": 7}), NICE, "7", "3");
    check(json!({"policy": "SCHED_IDLE"}), PRIORITY, "0", "5");
    let reset = json!(["SCHED_FLAG_RESET_ON_FORK"]);
    check(json!({"policy": "SCHED_OTHER", "nice": 4, "flags": reset}), NICE, "4", "0");

    let refused = |scheduler: Value, text: &str| {
        let mut bundle = Bundle::new("true");
        bundle.set("/process/scheduler", scheduler);
        let got = bundle.refusal();
        assert!(got.contains(text), "{got}");
    };
    refused(json!({"nice": 1}), "process.scheduler.policy: required");
    refused(json!({"policy": "SCHED_OTHER", "runtime": 1}), "process.scheduler.runtime");
    // No kernel has it, and without a time nothing has a deadline.
    refused(json!({"policy": "SCHED_ISO"}), "process.scheduler");
    refused(json!({"policy": "SCHED_DEADLINE"}), "process.scheduler");
}

#[test]
fn what_is_added_is_scheduled_as_the_container() {
    if !is_ours() {
        return; // runc knows it from 1.2 on
    }
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}));
    bundle.must(&["run", "-d", &bundle.id]);
    let policy = |words: &[&str]| {
        let stat = bundle.must(&[&["exec"], words].concat());
        let rest = stat.rsplit_once(')').unwrap().1.to_owned();
        rest.split_ascii_whitespace().nth(41 - 3).unwrap().to_owned()
    };
    assert_eq!(policy(&[&bundle.id, "cat", "/proc/self/stat"]), "3");
    let process = bundle.beside().join("process.json");
    let json = json!({"args": ["/bin/cat", "/proc/self/stat"], "cwd": "/",
        "scheduler": {"policy": "SCHED_IDLE"}});
    std::fs::write(&process, json.to_string()).unwrap();
    assert_eq!(policy(&["--process", process.to_str().unwrap(), &bundle.id]), "5");
    bundle.must(&["delete", "-f", &bundle.id]);
}

/// Where the kernel gives groups real-time bandwidth by the group, a new group has none.
#[test]
fn a_real_time_policy_is_set_or_refused() {
    if !is_ours() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.set("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 3}));
    let output = bundle.call(&["create", &bundle.id]);
    if output.status.success() {
        let pid = bundle.state()["pid"].clone();
        assert_eq!((stat(&pid, 40).as_str(), stat(&pid, 41).as_str()), ("3", "1"));
        bundle.must(&["delete", "-f", &bundle.id]);
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("process.scheduler"), "{text}");
    }
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn the_cpus_of_added_processes_are_checked_at_create() {
    if !is_ours() {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0-1"}));
    bundle.output();
    bundle.set("/process/execCPUAffinity", json!({"final": "3-x"}));
    let text = bundle.refusal();
    assert!(text.contains("process.execCPUAffinity.final"), "{text}");
}

#[test]
fn what_takes_a_privilege_that_we_lack_is_refused() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    const SYS_RESOURCE: u64 = 1 << 24;
    if u64::from_str_radix(line, 16).unwrap() & SYS_RESOURCE != 0 {
        return;
    }
    let mut bundle = Bundle::new("true");
    bundle.set("/process/oomScoreAdj", json!(-500));
    let text = bundle.refusal();
    assert!(text.contains("oom_score_adj") || text.contains("oomScoreAdj"), "{text}");
    assert!(text.contains("ermission denied"), "{text}");

    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 1_000_000_000, "hard": 1_000_000_000});
    let mut bundle = Bundle::new("true");
    bundle.set("/process/rlimits", json!([limit]));
    let text = bundle.refusal();
    assert!(text.contains("peration not permitted"), "{text}");
    assert!(!is_ours() || text.contains("set RLIMIT_NOFILE"), "{text}");
}

/// Lowered before the user changes, by root, so it takes no privilege.
#[test]
fn limits_hold_for_other_users() {
    let mut bundle = Bundle::new("ulimit -n; ulimit -Hn");
    bundle.set("/process/user", json!({"uid": 33, "gid": 33}));
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128});
    bundle.set("/process/rlimits", json!([limit]));
    assert_eq!(bundle.output(), "64\n128\n");
}

#[test]
fn labels_are_refused_where_the_kernel_has_no_such_module() {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists()
        || std::path::Path::new("/sys/module/apparmor").exists()
    {
        return;
    }
    for (key, word) in [("selinuxLabel", "selinux"), ("apparmorProfile", "apparmor")] {
        let mut bundle = Bundle::new("true");
        bundle.set(&format!("/process/{key}"), json!("some_label"));
        let text = bundle.refusal().to_lowercase();
        assert!(text.contains(word), "{text}");
    }
    if is_ours() {
        let mut bundle = Bundle::new("true");
        bundle.set("/process/apparmorProfile", json!("unconfined"));
        bundle.output();
    }
}

#[test]
fn every_version_of_the_specification_is_served() {
    for version in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.1", "1.3.0"] {
        let mut bundle = Bundle::new("true");
        bundle.set("/ociVersion", json!(version));
        bundle.output();
    }
    if !is_ours() {
        return; // runc takes any text
    }
    for version in ["", "1", "0.9.0", "2.0.0"] {
        let mut bundle = Bundle::new("true");
        bundle.set("/ociVersion", json!(version));
        let text = bundle.refusal();
        assert!(text.contains("ociVersion"), "{text}");
    }
}

/// runc 1.1 finds the limit too low for its own init before there is a kill, and says so otherwise.
#[test]
fn a_memory_limit_that_kills_the_init_is_told() {
    let mut bundle = Bundle::new("true");
    bundle.set("/linux/resources/memory", json!({"limit": 4096}));
    let text = bundle.refusal();
    let words = "container init was OOM-killed (memory limit too low?)";
    assert!(text.contains(words) || !is_ours(), "{text}");
}

#[test]
fn a_limit_that_is_too_low_for_the_program_does_not_hang() {
    let mut bundle = Bundle::new("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
    bundle.set("/linux/resources/memory", json!({"limit": 16_777_216, "swap": 16_777_216}));
    let (code, _, stderr) = bundle.run();
    assert_eq!(code, 137, "{stderr}");
    assert_eq!(bundle.left(), [""; 0]);
}
