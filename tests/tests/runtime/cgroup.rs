//! pause, resume, update and `linux.resources`: what the kernel's files say, and what the program feels.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, cgroup_mounts, is_ours, within};

/// The file of a v1 controller; `None` where the host has that controller on v2.
fn file(bundle: &Bundle, controller: &str, name: &str) -> Option<PathBuf> {
    let mount = cgroup_mounts().into_iter().find(|mount| {
        mount
            .file_name()
            .is_some_and(|last| last.to_string_lossy().split(',').any(|word| word == controller))
    })?;
    Some(mount.join(&bundle.id).join(name))
}

/// What a limit is now: by the v1 file, or by the v2 file.
fn limit(bundle: &Bundle, v1: &str, v2: &str) -> String {
    let controller = v1.split('.').next().unwrap();
    let path = file(bundle, controller, v1)
        .unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup").join(&bundle.id).join(v2));
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .trim()
        .to_owned()
}

fn on_v1() -> bool {
    !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn started(script: &str) -> Bundle {
    started_with(script, json!({}))
}

fn started_with(script: &str, resources: Value) -> Bundle {
    let mut bundle = Bundle::new(script);
    for (name, value) in resources.as_object().unwrap() {
        bundle.set(&format!("/linux/resources/{name}"), value.clone());
    }
    bundle.must(&["create", &bundle.id]);
    bundle.must(&["start", &bundle.id]);
    bundle.wait_for("running");
    bundle
}

/// Fails, with words.
fn refused(bundle: &Bundle, words: &[&str]) -> String {
    let output = bundle.call(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// `update` with resources on standard input.
fn update_from_stdin(bundle: &Bundle, resources: &Value) -> std::process::Output {
    let mut child = bundle
        .command(&["update", "-r", "-", &bundle.id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(resources.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

const COUNTER: &str = "n=0; while :; do n=$((n+1)); echo $n > /count; sleep 0.01; done";

fn count(bundle: &Bundle) -> String {
    std::fs::read_to_string(bundle.root().join("count")).unwrap_or_default()
}

fn counts(bundle: &Bundle) -> bool {
    let before = count(bundle);
    within(Duration::from_secs(5), || (count(bundle) != before).then_some(())).is_some()
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let bundle = started(COUNTER);
    assert!(counts(&bundle));
    assert!(refused(&bundle, &["resume", &bundle.id]).contains("not paused"));
    bundle.must(&["pause", &bundle.id]);
    let state = bundle.state();
    assert_eq!(state["status"], "paused");
    assert_ne!(state["pid"], 0);
    let before = count(&bundle);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(count(&bundle), before, "it ran on");
    assert!(refused(&bundle, &["pause", &bundle.id]).contains("not running"));
    bundle.must(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    assert!(counts(&bundle));
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_paused_container_is_killed_and_deleted() {
    let bundle = started(COUNTER);
    bundle.must(&["pause", &bundle.id]);
    assert!(refused(&bundle, &["delete", &bundle.id]).contains("paused"));
    assert_eq!(bundle.state()["status"], "paused");
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(refused(&bundle, &["pause", &bundle.id]).contains("not running"));
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);

    let bundle = started(COUNTER);
    bundle.must(&["pause", &bundle.id]);
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

/// A container in the container, paused by itself: the v1 freezer holds its processes against SIGKILL.
#[test]
fn a_frozen_group_below_does_not_keep_the_container() {
    if !is_ours() || !on_v1() {
        return; // runc 1.1 waits for it in vain
    }
    let bundle = started("sleep 100 & echo $! > /child; exec sleep 100");
    let freezer = file(&bundle, "freezer", "inner").unwrap();
    let listed = file(&bundle, "freezer", "cgroup.procs").unwrap();
    std::fs::create_dir(&freezer).unwrap();
    let init = bundle.state()["pid"].to_string();
    let child = within(Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&listed).unwrap();
        text.lines().find(|pid| *pid != init).map(str::to_owned)
    });
    std::fs::write(freezer.join("cgroup.procs"), child.unwrap()).unwrap();
    std::fs::write(freezer.join("freezer.state"), "FROZEN").unwrap();
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn other_signals_wait_for_the_resumption() {
    let bundle = started("trap 'exit 3' TERM; while :; do sleep 0.02; done");
    // The trap has to stand before the signal comes.
    std::thread::sleep(Duration::from_millis(200));
    bundle.must(&["pause", &bundle.id]);
    bundle.must(&["kill", &bundle.id, "TERM"]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(bundle.state()["status"], "paused");
    bundle.must(&["resume", &bundle.id]);
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
}

/// It would be frozen before it could report, and the command with it.
#[test]
fn exec_in_a_paused_container_is_refused_at_once() {
    let bundle = started(COUNTER);
    bundle.must(&["pause", &bundle.id]);
    assert!(!bundle.call(&["exec", &bundle.id, "true"]).status.success());
    assert_eq!(bundle.state()["status"], "paused");
    bundle.must(&["resume", &bundle.id]);
    assert!(counts(&bundle));
}

#[test]
fn what_is_created_can_be_paused() {
    let bundle = Bundle::new("true");
    bundle.must(&["create", &bundle.id]);
    bundle.must(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.must(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "created");
    bundle.must(&["start", &bundle.id]);
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn every_flag_of_update_arrives_in_the_kernel() {
    let bundle = started("exec sleep 100");
    let id = bundle.id.as_str();
    bundle.must(&["update", id, "--cpu-period", "50000", "--cpu-quota", "25000"]);
    bundle.must(&["update", "--cpu-share", "512", "--pids-limit", "20", id]);
    bundle.must(&["update", "--cpuset-cpus", "0", "--cpuset-mems", "0", id]);
    bundle.must(&["update", "--memory", "64m", "--memory-swap", "96m", id]);
    bundle.must(&["update", "--memory-reservation", "32m", id]);
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "20");
    assert_eq!(limit(&bundle, "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(limit(&bundle, "memory.soft_limit_in_bytes", "memory.low"), "33554432");
    if on_v1() {
        assert_eq!(limit(&bundle, "cpu.cfs_period_us", ""), "50000");
        assert_eq!(limit(&bundle, "cpu.cfs_quota_us", ""), "25000");
        assert_eq!(limit(&bundle, "cpu.shares", ""), "512");
        assert_eq!(limit(&bundle, "memory.memsw.limit_in_bytes", ""), "100663296");
        bundle.must(&["update", "--blkio-weight", "300", id]);
        assert_eq!(limit(&bundle, "blkio.bfq.weight", ""), "300");
    } else {
        assert_eq!(limit(&bundle, "", "cpu.max"), "25000 50000");
        assert_eq!(limit(&bundle, "", "memory.swap.max"), "33554432");
    }
    // One of the two leaves the other.
    bundle.must(&["update", "--cpu-quota", "30000", id]);
    if on_v1() {
        assert_eq!(limit(&bundle, "cpu.cfs_period_us", ""), "50000");
        assert_eq!(limit(&bundle, "cpu.cfs_quota_us", ""), "30000");
    }
    bundle.must(&["update", "--pids-limit", "-1", "--cpu-quota", "-1", id]);
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "max");
    if !is_ours() {
        return; // runc 1.1 has neither
    }
    bundle.must(&["update", "--cpu-quota", "30000", "--cpu-burst", "10000", id]);
    bundle.must(&["update", "--cpu-idle", "1", id]);
    if on_v1() {
        assert_eq!(limit(&bundle, "cpu.cfs_burst_us", ""), "10000");
        assert_eq!(limit(&bundle, "cpu.idle", ""), "1");
    }
}

#[test]
fn memory_and_swap_go_up_and_down_in_the_right_order() {
    let bundle =
        started_with("exec sleep 100", json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}}));
    for size in ["128m", "32m", "256m", "16m"] {
        bundle.must(&["update", "--memory", size, "--memory-swap", size, &bundle.id]);
        let bytes = size.trim_end_matches('m').parse::<u64>().unwrap() << 20;
        assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), bytes.to_string());
        if on_v1() {
            assert_eq!(limit(&bundle, "memory.memsw.limit_in_bytes", ""), bytes.to_string());
        }
    }
    bundle.must(&["update", "--memory", "-1", &bundle.id]);
    let unlimited = limit(&bundle, "memory.limit_in_bytes", "memory.max");
    assert!(unlimited == "max" || unlimited.parse::<u64>().unwrap() > 1 << 60, "{unlimited}");
}

#[test]
fn resources_come_from_a_file_or_standard_input() {
    let bundle = started("exec sleep 100");
    let path = bundle.beside().join("resources.json");
    std::fs::write(&path, json!({"cpu": {"shares": 300}, "pids": {"limit": 33}}).to_string())
        .unwrap();
    bundle.must(&["update", "--resources", path.to_str().unwrap(), &bundle.id]);
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "33");
    let zeros = json!({"memory": {"limit": 40 << 20, "swap": 0}, "pids": {"limit": 0},
        "cpu": {"shares": 0, "quota": 0, "cpus": ""}, "blockIO": {"weight": 0}});
    let output = update_from_stdin(&bundle, &zeros);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (40 << 20).to_string());
    if on_v1() {
        assert_eq!(limit(&bundle, "cpu.shares", ""), "300");
    }
    if is_ours() {
        assert_eq!(limit(&bundle, "pids.max", "pids.max"), "33");
        let text = std::fs::read_to_string(bundle.state_root().join(&bundle.id).join("state.json"));
        let state: Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(
            state["resources"],
            json!({"cpu": {"shares": 300}, "pids": {"limit": 33}, "memory": {"limit": 40 << 20}})
        );
    }
    refused(&bundle, &["update", "-r", "/nowhere/at/all", &bundle.id]);
    std::fs::write(&path, "{").unwrap();
    refused(&bundle, &["update", "-r", path.to_str().unwrap(), &bundle.id]);
}

#[test]
fn an_update_that_fails_changes_nothing() {
    let bundle = started_with(
        "exec sleep 100",
        json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}, "cpu": {"shares": 700}, "pids": {"limit": 50}}),
    );
    // The processors come before the rest, 4000 does not exist; the memory limit alone is too high.
    refused(&bundle, &["update", "--cpu-share", "800", "--cpuset-cpus", "4000", &bundle.id]);
    if on_v1() {
        // v2 limits swap by itself: a higher limit of memory is as good as any.
        let words =
            ["update", "--cpu-share", "800", "--pids-limit", "60", "--memory", "128m", &bundle.id];
        refused(&bundle, &words);
    }
    // What the kernel refuses in the middle: a limit below what cannot be given back.
    let words =
        ["update", "--cpu-share", "900", "--memory", "-1", "--memory-swap", "64m", &bundle.id];
    refused(&bundle, &words);
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "50");
    if on_v1() {
        assert_eq!(limit(&bundle, "cpu.shares", ""), "700");
        assert_eq!(limit(&bundle, "memory.memsw.limit_in_bytes", ""), (64 << 20).to_string());
        if is_ours() {
            // The kernel finds out at the real-time runtime, which is written after shares and quota.
            let words = [
                "update",
                "--cpu-share",
                "900",
                "--cpu-quota",
                "20000",
                "--cpu-rt-runtime",
                "999999",
                "--cpu-rt-period",
                "10",
                &bundle.id,
            ];
            refused(&bundle, &words);
            assert_eq!(limit(&bundle, "cpu.shares", ""), "700");
            assert_eq!(limit(&bundle, "cpu.cfs_quota_us", ""), "-1");
        }
    }
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(
        refused(&bundle, &["update", "--pids-limit", "60", &bundle.id]).contains("not running")
    );
}

#[test]
fn without_resctrl_its_schemas_are_refused() {
    if std::fs::read_to_string("/proc/self/mounts").unwrap().contains(" resctrl ") {
        return;
    }
    let bundle = started("exec sleep 100");
    refused(&bundle, &["update", "--l3-cache-schema", "L3:0=f", &bundle.id]);
    refused(&bundle, &["update", "--mem-bw-schema", "MB:0=20", &bundle.id]);
}

/// Directories stand for a resctrl that few machines have, in a mount namespace of the command's own.
#[test]
fn an_update_changes_the_schema_of_a_group_that_goes_with_the_container() {
    if !is_ours() {
        return; // runc looks for the type of the mount
    }
    let bundle = started("exec sleep 100");
    let sys = bundle.beside().join("sys");
    let group = sys.join("resctrl").join(&bundle.id);
    std::fs::create_dir_all(sys.join("cgroup")).unwrap();
    std::fs::create_dir(sys.join("resctrl")).unwrap();
    std::fs::write(sys.join("resctrl/schemata"), "L3:0=ffff\n").unwrap();
    let staged = |words: &[&str]| {
        let stage = "mount --rbind /sys/fs/cgroup \"$0/cgroup\" && mount --rbind \"$0\" /sys/fs \
            && exec \"$@\"";
        let call = bundle.command(words);
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", stage]).arg(&sys);
        let output = command.arg(call.get_program()).args(call.get_args()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let id = bundle.id.as_str();
    staged(&["update", "--pids-limit", "60", "--l3-cache-schema", "L3:0=f", id]);
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "60");
    let read = |name: &str| std::fs::read_to_string(group.join(name)).unwrap();
    assert_eq!(read("schemata"), "L3:0=f\n");
    assert_eq!(read("tasks"), bundle.state()["pid"].to_string());
    // Only here are a group's files files.
    for name in ["schemata", "tasks"] {
        std::fs::remove_file(group.join(name)).unwrap();
    }
    staged(&["delete", "--force", id]);
    assert!(!group.exists());
    assert_eq!(bundle.left(), [""; 0]);
}

/// busybox's tail keeps the last line, and /dev/zero has but one.
const EATER: &str =
    "until [ -e /go ]; do sleep 0.02; done; busybox tail /dev/zero; echo ended $? > /end";

#[test]
fn a_lowered_memory_limit_kills_who_exceeds_it() {
    let bundle = started(EATER);
    bundle.must(&["update", "--memory", "24m", "--memory-swap", "24m", &bundle.id]);
    std::fs::write(bundle.root().join("go"), "").unwrap();
    let end = bundle.root().join("end");
    let said = within(Duration::from_secs(15), || {
        std::fs::read_to_string(&end).ok().filter(|s| s.ends_with('\n'))
    });
    assert_eq!(said.as_deref(), Some("ended 137\n"));
    let counted = limit(&bundle, "memory.oom_control", "memory.events");
    let kills = counted.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().to_owned();
    assert_ne!(kills, "0");
}

/// The kernel cannot push the pages out that the program holds, and swap is not allowed.
#[test]
fn a_memory_limit_below_what_is_held_is_refused_in_runcs_words() {
    if !on_v1() {
        return; // v2 takes it and kills, which `cgroup_v2` tests
    }
    let size = 64 << 20;
    let bundle = started_with(
        "x=$(busybox head -c 20m /dev/zero | busybox tr '\\0' a); echo ${#x} > /held; sleep 100; echo ${#x}",
        json!({"memory": {"limit": size, "swap": size}}),
    );
    let held = bundle.root().join("held");
    let read = || std::fs::read_to_string(&held).ok().filter(|text| text.ends_with('\n'));
    assert_eq!(within(Duration::from_secs(15), read).as_deref(), Some("20971520\n"));
    let said = refused(&bundle, &["update", "--pids-limit", "9", "--memory", "1m", &bundle.id]);
    assert!(said.contains("unable to set memory limit to 1048576 (current usage: "), "{said}");
    assert_eq!(limit(&bundle, "memory.limit_in_bytes", ""), size.to_string());
    assert_eq!(limit(&bundle, "pids.max", ""), "max");
}

#[test]
fn a_limit_on_processes_is_felt() {
    let mut bundle = Bundle::new("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all");
    bundle.set("/linux/resources/pids", json!({"limit": 4}));
    let (code, out, error) = bundle.run();
    assert!(!out.contains("all") && code != 0 && error.contains("fork"), "{code} {out} {error}");
}

#[test]
fn resources_are_in_force_at_creation() {
    let resources = json!({
        "cpu": {"shares": 333, "quota": 40000, "period": 80000, "cpus": "0", "mems": "0"},
        "memory": {"limit": 50 << 20, "swap": 60 << 20, "reservation": 20 << 20,
            "disableOOMKiller": false, "checkBeforeUpdate": true},
        "pids": {"limit": 44},
        "devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    });
    let bundle = started_with("exec sleep 100", resources);
    assert_eq!(limit(&bundle, "pids.max", "pids.max"), "44");
    if !on_v1() {
        return; // see `cgroup_v2`
    }
    for (file, value) in [
        ("cpu.shares", "333"),
        ("cpu.cfs_quota_us", "40000"),
        ("cpu.cfs_period_us", "80000"),
        ("cpuset.cpus", "0"),
        ("memory.limit_in_bytes", "52428800"),
        ("memory.memsw.limit_in_bytes", "62914560"),
        ("memory.soft_limit_in_bytes", "20971520"),
    ] {
        assert_eq!(limit(&bundle, file, ""), value, "{file}");
    }
    let list = limit(&bundle, "devices.list", "");
    assert!(list.contains("c 10:229 rw") && !list.contains("a *:* rwm"), "{list}");
    // An update of something else leaves the devices.
    bundle.must(&["update", "--pids-limit", "45", &bundle.id]);
    assert_eq!(limit(&bundle, "devices.list", ""), list);
}

#[test]
fn the_rarer_resources_are_applied() {
    if !on_v1() {
        return;
    }
    let bundle = started_with(
        "exec sleep 100",
        json!({
            "memory": {"limit": 50 << 20, "swappiness": 7, "disableOOMKiller": true, "kernelTCP": 1 << 20},
            "blockIO": {"weight": 200}
        }),
    );
    assert_eq!(limit(&bundle, "memory.swappiness", ""), "7");
    assert!(limit(&bundle, "memory.oom_control", "").starts_with("oom_kill_disable 1"));
    assert_eq!(limit(&bundle, "blkio.bfq.weight", ""), "200");
    if !is_ours() {
        return; // runc 1.1 knows neither burst nor idle, and applies no limit on TCP buffers
    }
    assert_eq!(limit(&bundle, "memory.kmem.tcp.limit_in_bytes", ""), (1 << 20).to_string());
    let bundle = started_with(
        "exec sleep 100",
        json!({"cpu": {"quota": 50000, "burst": 20000, "idle": 1}, "memory": {"useHierarchy": true}}),
    );
    assert_eq!(limit(&bundle, "cpu.cfs_burst_us", ""), "20000");
    assert_eq!(limit(&bundle, "cpu.idle", ""), "1");
}

#[test]
fn throttles_name_their_device() {
    // Any disk of the host: the number of a whole block device.
    let disk = std::fs::read_dir("/sys/block").unwrap().flatten().find_map(|entry| {
        let number = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let size = std::fs::read_to_string(entry.path().join("size")).ok()?;
        (size.trim() != "0").then(|| number.trim().to_owned())
    });
    let Some((disk, (major, minor))) = disk.and_then(|disk| {
        let (major, minor) = disk.split_once(':')?;
        let numbers = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
        Some((disk.clone(), numbers))
    }) else {
        return;
    };
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let bundle = started_with(
        "exec sleep 100",
        json!({"blockIO": {"throttleReadBpsDevice": rate(1 << 20), "throttleWriteIOPSDevice": rate(77)}}),
    );
    if on_v1() {
        let read = limit(&bundle, "blkio.throttle.read_bps_device", "");
        assert_eq!(read, format!("{disk} 1048576"));
        let write = limit(&bundle, "blkio.throttle.write_iops_device", "");
        assert_eq!(write, format!("{disk} 77"));
    }
}

/// Ours alone: runc leaves out silently what it does not know.
#[test]
fn what_the_host_lacks_is_refused_by_name() {
    if !is_ours() || !on_v1() {
        return;
    }
    let missing =
        |controller: &str| !cgroup_mounts().iter().any(|mount| mount.ends_with(controller));
    for (controller, resources, word) in [
        ("hugetlb", json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}), "hugetlb"),
        ("net_cls", json!({"network": {"classID": 7}}), "net_cls"),
        (
            "net_prio",
            json!({"network": {"priorities": [{"name": "lo", "priority": 1}]}}),
            "net_prio",
        ),
        ("rdma", json!({"rdma": {"mlx5_0": {"hcaHandles": 1}}}), "rdma"),
        ("-", json!({"unified": {"memory.high": "1"}}), "unified"),
        ("-", json!({"memory": {"kernel": 1 << 20}}), "memory.kernel"),
        ("-", json!({"memory": {"useHierarchy": false}}), "use_hierarchy"),
        ("-", json!({"memory": {"swappiness": 101}}), "swappiness"),
        ("-", json!({"blockIO": {"leafWeight": 100}}), "leaf_weight"),
        ("-", json!({"cpu": {"idle": 5}}), "cpu.idle"),
        ("-", json!({"cpu": {"cpus": "4000"}}), "cpuset.cpus"),
    ] {
        if !missing(controller) {
            continue;
        }
        let mut bundle = Bundle::new("true");
        for (name, value) in resources.as_object().unwrap() {
            bundle.set(&format!("/linux/resources/{name}"), value.clone());
        }
        let said = bundle.refusal();
        assert!(said.contains(word), "{word}: {said}");
    }
}
