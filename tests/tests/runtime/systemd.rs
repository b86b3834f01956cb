//! The systemd cgroup driver: what systemd knows of a container, and that nothing of it stays. Where systemd is not the
//! init, that it is refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, cgroup_mounts, is_ours, within};

use super::{adversity::killed_at, checkpoint::criu_works};

fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A container in `pre-ID.scope` of nested slices.
struct Boxed {
    bundle: Bundle,
    unit: String,
}

const SLICE: &str = "lightertest-inner.slice";

impl Boxed {
    /// `None` where there is no systemd.
    fn new(script: &str) -> Option<Self> {
        if !systemd_runs() {
            return None;
        }
        let mut bundle = Bundle::new(script);
        let path = format!("{SLICE}:pre:{}", bundle.id);
        bundle.set("/linux/cgroupsPath", json!(path));
        let unit = format!("pre-{}.scope", bundle.id);
        Some(Self { bundle, unit })
    }

    fn with(script: &str, resources: Value) -> Option<Self> {
        let mut one = Self::new(script)?;
        for (name, value) in resources.as_object().unwrap() {
            one.bundle.set(&format!("/linux/resources/{name}"), value.clone());
        }
        Some(one)
    }

    fn create(&self) {
        self.bundle.must(&["--systemd-cgroup", "create", &self.bundle.id]);
    }

    fn start(self) -> Self {
        self.create();
        self.bundle.must(&["start", &self.bundle.id]);
        self
    }

    fn group(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup/lightertest.slice").join(SLICE).join(&self.unit)
    }

    fn file(&self, name: &str) -> String {
        let path = self.group().join(name);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    fn property(&self, name: &str) -> String {
        property(&self.unit, name)
    }

    fn update(&self, words: &[&str]) -> bool {
        let mut all = vec!["update"];
        all.extend(words);
        all.push(&self.bundle.id);
        self.bundle.call(&all).status.success()
    }

    /// Nothing of it is left on the host, and systemd does not know it.
    fn assert_gone(&self) {
        assert_eq!(self.bundle.left(), [""; 0]);
        for mount in cgroup_mounts() {
            let group = mount.join("lightertest.slice").join(SLICE).join(&self.unit);
            assert!(!group.exists(), "{}", group.display());
        }
        // Any slice can be loaded, as there is nothing to say of it.
        let (name, value) = match self.unit.ends_with(".slice") {
            true => ("ActiveState", "inactive"),
            false => ("LoadState", "not-found"),
        };
        let state = || (self.property(name) == value).then_some(());
        // systemd collects what it no longer needs when it next has time.
        let gone = within(Duration::from_secs(5), state);
        assert!(gone.is_some(), "{}: {}", self.unit, self.property("ActiveState"));
    }

    fn delete(&self) {
        self.bundle.must(&["delete", "--force", &self.bundle.id]);
        self.assert_gone();
    }
}

fn property(unit: &str, name: &str) -> String {
    let output = Command::new("systemctl").args(["show", "--value", "-p", name, unit]).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

fn systemctl(words: &[&str]) {
    assert!(Command::new("systemctl").args(words).status().unwrap().success(), "{words:?}");
}

fn text(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_systemd_it_is_refused() {
    if systemd_runs() {
        return;
    }
    let bundle = Bundle::new("exit 0");
    let output = bundle.call(&["--systemd-cgroup", "create", &bundle.id]);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output);
    assert!(text.contains("systemd"), "{text}");
    if is_ours() {
        assert!(
            text.contains(
                "systemd cgroup driver asked for, but systemd is not running on this host: there \
                 is no /run/systemd/system; leave --systemd-cgroup out"
            ),
            "{text}"
        );
    }
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn systemd_knows_the_limits_and_the_files_have_them() {
    let resources = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
        "cpu": {"shares": 2048, "quota": 2345, "period": 10_000, "cpus": "0"},
        "pids": {"limit": 50},
    });
    let Some(one) = Boxed::with("exec sleep 100", resources) else { return };
    let one = one.start();
    for (name, value) in [
        ("ActiveState", "active"),
        ("SubState", "running"),
        ("Slice", SLICE),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("MemorySwapMax", "33554432"),
        ("TasksMax", "50"),
        ("CPUQuotaPerSecUSec", "240ms"),
        ("CPUQuotaPeriodUSec", "10ms"),
        ("AllowedCPUs", "0"),
        ("MemoryAccounting", "yes"),
        ("TasksAccounting", "yes"),
        ("DefaultDependencies", "no"),
    ] {
        assert_eq!(one.property(name), value, "{name}");
    }
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "33554432"),
        ("pids.max", "50"),
        ("cpu.max", "2345 10000"),
        ("cpuset.cpus", "0"),
    ] {
        assert_eq!(one.file(file), value, "{file}");
    }
    assert_eq!(one.property("CPUWeight"), one.file("cpu.weight"));
    // The container's process, and nobody who was there before it.
    let pid = one.bundle.state()["pid"].to_string();
    assert_eq!(one.file("cgroup.procs"), pid);
    let listing = Command::new("systemd-cgls").args(["--no-pager", "-u", &one.unit]).output();
    assert!(String::from_utf8_lossy(&listing.unwrap().stdout).contains("sleep 100"));
    one.delete();
}

#[test]
fn without_a_path_the_unit_has_the_containers_name() {
    let Some(mut one) = Boxed::new("exec sleep 100") else { return };
    one.bundle.set("/linux/cgroupsPath", json!(""));
    let prefix = if is_ours() { "lighter" } else { "runc" };
    one.unit = format!("{prefix}-{}.scope", one.bundle.id);
    one.create();
    assert_eq!(one.property("Slice"), "system.slice");
    assert_eq!(one.property("ControlGroup"), format!("/system.slice/{}", one.unit));
    assert!(Path::new("/sys/fs/cgroup/system.slice").join(&one.unit).is_dir());
    one.delete();
    assert!(!Path::new("/sys/fs/cgroup/system.slice").join(&one.unit).exists());
}

#[test]
fn other_paths_are_refused() {
    let Some(mut one) = Boxed::new("exec sleep 100") else { return };
    for path in ["/a/b", "a:b", "a:b:c:d", "no-slice:pre:name", "a--b.slice:pre:name"] {
        one.bundle.set("/linux/cgroupsPath", json!(path));
        let output = one.bundle.call(&["--systemd-cgroup", "create", &one.bundle.id]);
        assert_ne!(output.status.code(), Some(0), "{path}");
        if path == "/a/b" {
            assert!(text(&output).contains("slice:prefix:name"), "{}", text(&output));
        }
        assert_eq!(one.bundle.left(), [""; 0]);
    }
}

#[test]
fn later_commands_need_no_flag() {
    let Some(one) = Boxed::new("mkdir /g; exec sleep 100") else { return };
    let one = one.start();
    let id = one.bundle.id.as_str();
    let inside = one.bundle.must(&["exec", id, "cat", "/proc/self/cgroup"]);
    // In the container's own view of the groups.
    assert_eq!(inside.trim(), "0::/");
    one.bundle.must(&["pause", id]);
    assert_eq!(one.file("cgroup.freeze"), "1");
    assert_eq!(one.bundle.state()["status"], "paused");
    one.bundle.must(&["resume", id]);
    std::fs::create_dir(one.group().join("below")).unwrap();
    // Delegated: what is made below is the container's.
    let words = ["exec", "-d", "--cgroup", "below", id, "sleep", "101"];
    one.bundle.must(&words);
    let below = within(Duration::from_secs(5), || {
        Some(one.file("below/cgroup.procs")).filter(|pids| !pids.is_empty())
    });
    assert!(below.is_some());
    assert!(one.bundle.must(&["ps", id]).contains("sleep 101"));
    let events = one.bundle.must(&["events", "--stats", id]);
    let events: Value = serde_json::from_str(&events).unwrap();
    assert_eq!(events["data"]["pids"]["current"], 2, "{events}");
    one.bundle.must(&["kill", id, "KILL"]);
    one.bundle.wait_for("stopped");
    one.bundle.must(&["delete", id]);
    one.assert_gone();
}

#[test]
fn an_update_reaches_systemd_and_outlives_its_reload() {
    let resources = json!({
        "memory": {"limit": 64 << 20}, "cpu": {"quota": 5000, "period": 50_000},
    });
    let Some(one) = Boxed::with("exec sleep 100", resources) else { return };
    let one = one.start();
    assert!(one.update(&["--memory", "32m", "--memory-swap", "32m", "--pids-limit", "40"]));
    assert!(one.update(&["--cpu-quota", "10000"]));
    assert!(one.update(&["--cpuset-cpus", "0"]));
    let holds = || {
        for (name, value) in [("MemoryMax", "33554432"), ("TasksMax", "40"), ("AllowedCPUs", "0")] {
            assert_eq!(one.property(name), value, "{name}");
        }
        assert_eq!(one.file("memory.max"), "33554432");
        assert_eq!(one.file("pids.max"), "40");
        if is_ours() {
            // runc 1.1 leaves a limit of 0 out, and takes the period for the default one: systemd then
            // writes half the quota.
            assert_eq!(one.file("cpu.max"), "10000 50000");
            assert_eq!(one.property("MemorySwapMax"), "0");
            assert_eq!(one.property("CPUQuotaPerSecUSec"), "200ms");
        }
    };
    holds();
    if is_ours() {
        // One change that the kernel refuses, and none is made.
        assert!(!one.update(&["--pids-limit", "30", "--cpuset-cpus", "4095"]));
    }
    holds();
    systemctl(&["daemon-reload"]);
    holds();
    one.delete();
}

#[test]
fn devices_stay_shut_over_a_reload_of_systemd() {
    let Some(mut one) = Boxed::new("exec sleep 100") else { return };
    one.bundle.set("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]));
    let one = one.start();
    let id = one.bundle.id.as_str();
    let denied = || {
        // The host's kernel log.
        let script = "[ -e /k ] || mknod /k c 1 11; cat < /k";
        let output = one.bundle.call(&["exec", id, "sh", "-c", script]);
        assert!(text(&output).contains("Operation not permitted"), "{}", text(&output));
        one.bundle.must(&["exec", id, "sh", "-c", "echo x > /dev/null"]);
    };
    denied();
    systemctl(&["daemon-reload"]);
    denied();
    assert!(one.update(&["--pids-limit", "50"]));
    denied();
    one.delete();
}

#[test]
fn annotations_are_properties_of_the_unit() {
    let Some(mut one) = Boxed::new("exec sleep 100") else { return };
    one.bundle.set(
        "/annotations",
        json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.After": "['sysinit.target', 'basic.target']",
            "org.systemd.property.SendSIGHUP": "true",
        }),
    );
    one.create();
    assert_eq!(one.property("TimeoutStopUSec"), "7s");
    assert_eq!(one.property("CollectMode"), "inactive-or-failed");
    assert_eq!(one.property("SendSIGHUP"), "yes");
    let after = one.property("After");
    assert!(after.contains("sysinit.target") && after.contains("basic.target"), "{after}");
    one.delete();

    for (name, value) in [("After", "unquoted"), ("a", "1"), ("NoSuchProperty", "true")] {
        one.bundle.set("/annotations", json!({ format!("org.systemd.property.{name}"): value }));
        let output = one.bundle.call(&["--systemd-cgroup", "create", &one.bundle.id]);
        assert_ne!(output.status.code(), Some(0), "{name}");
        assert!(text(&output).contains(name), "{}", text(&output));
        one.assert_gone();
    }
}

#[test]
fn a_unit_that_failed_makes_way() {
    let script = "mkdir -p /m; mount -t tmpfs none /dev/shm; exec cat /dev/zero > /dev/shm/x";
    let resources = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    let Some(one) = Boxed::with(script, resources) else { return };
    for _ in 0..2 {
        one.create();
        one.bundle.must(&["start", &one.bundle.id]);
        one.bundle.wait_for("stopped");
        one.bundle.must(&["delete", &one.bundle.id]);
        one.assert_gone();
    }
}

#[test]
fn a_unit_in_use_is_left_alone() {
    if !is_ours() {
        return; // runc 1.1 puts the second container into it, without its limits
    }
    let (Some(one), Some(mut other)) = (Boxed::new("exec sleep 100"), Boxed::new("exec sleep 100"))
    else {
        return;
    };
    let one = one.start();
    other.bundle.set("/linux/cgroupsPath", json!(format!("{SLICE}:pre:{}", one.bundle.id)));
    let output = other.bundle.call(&["--systemd-cgroup", "create", &other.bundle.id]);
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output).contains(&one.unit), "{}", text(&output));
    assert_eq!(other.bundle.left(), [""; 0]);
    assert_eq!(one.bundle.state()["status"], "running");
    assert_eq!(one.property("ActiveState"), "active");
    one.delete();
}

#[test]
fn a_container_may_be_a_slice() {
    let Some(mut one) = Boxed::new("exec sleep 100") else { return };
    if !is_ours() {
        return; // runc's process is no property of a slice
    }
    let name = one.bundle.id.replace('-', "_");
    one.unit = format!("lightertest-{name}.slice");
    one.bundle.set("/linux/cgroupsPath", json!(format!("lightertest.slice::{}", one.unit)));
    one.bundle.set("/linux/resources/memory", json!({"limit": 64 << 20}));
    let one = one.start();
    assert_eq!(one.property("MemoryMax"), "67108864");
    let group = Path::new("/sys/fs/cgroup/lightertest.slice").join(&one.unit);
    let pids = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
    assert_eq!(pids.trim(), one.bundle.state()["pid"].to_string());
    one.delete();
    assert!(!group.exists());
}

#[test]
fn a_create_killed_at_any_step_leaves_what_delete_removes() {
    for point in
        ["create-planned", "create-held", "create-unit", "create-cgroup", "create-launched"]
    {
        let Some(one) = Boxed::new("exec sleep 100") else { return };
        let id = one.bundle.id.as_str();
        if !killed_at(&one.bundle, point, &["--systemd-cgroup", "create", id]) {
            return;
        }
        one.delete();
        // And free then.
        one.create();
        one.delete();
    }
    for point in ["delete-killed", "delete-cgroup"] {
        let Some(one) = Boxed::new("exec sleep 100") else { return };
        let one = one.start();
        if !killed_at(&one.bundle, point, &["delete", "--force", &one.bundle.id]) {
            return;
        }
        one.delete();
    }
}

/// What held the scope while CRIU came goes, and the restored processes stay in it.
#[test]
fn a_restored_container_has_a_scope_again() {
    let Some(one) = Boxed::new("exec sleep 100") else { return };
    if !criu_works() {
        return;
    }
    let images = one.bundle.beside().join("images");
    let images = ["--image-path", images.to_str().unwrap()];
    let id = one.bundle.id.as_str();
    let quietly = |words: &[&str]| {
        let mut command = one.bundle.command(words);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{words:?}");
    };
    quietly(&["--systemd-cgroup", "run", "-d", id]);
    quietly(&["checkpoint", images[0], images[1], id]);
    one.assert_gone();
    quietly(&["--systemd-cgroup", "restore", "-d", images[0], images[1], id]);
    assert_eq!(one.bundle.state()["status"], "running");
    assert_eq!(one.property("ActiveState"), "active");
    assert_eq!(one.file("cgroup.procs"), one.bundle.state()["pid"].to_string());
    one.delete();
}

/// Every process of the container ends with it, also those that do not mind SIGTERM, and the delete does not wait for
/// the patience that systemd has with them.
#[test]
fn what_outlives_the_init_is_killed() {
    let Some(mut one) = Boxed::new("(trap '' TERM; while :; do sleep 1; done) & sleep 100") else {
        return;
    };
    let list = json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc"}]);
    one.bundle.set("/linux/namespaces", list);
    one.bundle.config["mounts"].as_array_mut().unwrap().retain(|one| one["destination"] != "/sys");
    let one = one.start();
    one.bundle.must(&["kill", &one.bundle.id, "KILL"]);
    one.bundle.wait_for("stopped");
    one.bundle.must(&["delete", &one.bundle.id]);
    one.assert_gone();
}
