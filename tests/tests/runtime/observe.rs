//! What tells about containers and about the runtime: list, ps, events, features, spec, state, and what callers read
//! off the version and the log.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours, runtime, within};

/// Calls the runtime without a bundle.
fn call(words: &[&str]) -> Output {
    Command::new(runtime()).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn running(script: &str) -> Bundle {
    let bundle = Bundle::new(script);
    bundle.must(&["run", "-d", &bundle.id]);
    bundle
}

fn list(bundle: &Bundle) -> Value {
    serde_json::from_str(&bundle.must(&["list", "--format", "json"])).unwrap()
}

#[test]
fn containers_are_listed_with_what_state_says() {
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.set("/annotations", json!({"org.example.key": "value"}));
    bundle.must(&["create", &bundle.id]);
    let listed = list(&bundle);
    let state = bundle.state();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    for key in ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations"] {
        assert_eq!(listed[0][key], state[key], "{key}");
        assert!(!state[key].is_null(), "{key}");
    }
    assert_eq!(state["annotations"]["org.example.key"], "value");
    assert_eq!(listed[0]["owner"], "root");
    assert!(state["owner"].is_string());
    assert_eq!(state["rootfs"], bundle.root().to_str().unwrap());
    assert!(state["created"].as_str().unwrap().ends_with('Z'));

    let table = bundle.must(&["list"]);
    let lines: Vec<&str> = table.lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[0]), ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let row = words(lines[1]);
    assert_eq!(row[..3], [bundle.id.clone(), state["pid"].to_string(), "created".to_owned()]);
    assert_eq!(row[5], "root");
    // Columns stand below their names.
    assert_eq!(lines[0].find("OWNER"), lines[1].rfind("root"));
    assert_eq!(bundle.must(&["list", "-q"]), format!("{}\n", bundle.id));

    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(list(&bundle)[0]["pid"], 0);
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(list(&bundle), Value::Null);
    assert!(!bundle.call(&["list", "-f", "xml"]).status.success());
    assert!(!bundle.call(&["list", "id"]).status.success());
}

#[test]
fn a_damaged_container_does_not_hide_the_others() {
    let bundle = running("exec sleep 100");
    let damaged = bundle.state_root().join("damaged");
    std::fs::create_dir(&damaged).unwrap();
    std::fs::write(damaged.join("state.json"), "{").unwrap();
    let output = bundle.call(&["list", "-q"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), format!("{}\n", bundle.id));
    assert!(text(&output.stderr).contains("load container damaged"), "{output:?}");
    std::fs::remove_dir_all(&damaged).unwrap();
}

#[test]
fn ps_shows_the_processes_of_the_container_alone() {
    let bundle = running("sleep 100 & sleep 101; true");
    let pids = within(Duration::from_secs(5), || {
        let pids: Vec<i32> =
            serde_json::from_str(&bundle.must(&["ps", "-f", "json", &bundle.id])).unwrap();
        (pids.len() == 3).then_some(pids)
    });
    let mut pids = pids.unwrap();
    pids.sort_unstable();
    let init = bundle.state()["pid"].to_string();
    assert!(pids.iter().any(|pid| pid.to_string() == init));

    let table = bundle.must(&["ps", &bundle.id]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("UID"), "{table}");
    assert_eq!(lines.len(), 4, "{table}");
    // What follows the name is for ps, as here its own -o.
    let table = bundle.must(&["ps", &bundle.id, "-eo", "pid,args"]);
    let mut shown: Vec<i32> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, pids);
    assert!(table.contains("sleep 101"));

    let refused = |words: &[&str]| {
        let output = bundle.call(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        text(&output.stderr)
    };
    assert!(refused(&["ps", &bundle.id, "-o", "comm"]).contains("PID"));
    refused(&["ps", &bundle.id, "--no-such-option"]);
    assert!(refused(&["ps", "nobody"]).contains("does not exist"));
    refused(&["ps"]);
    refused(&["ps", "-f", "xml", &bundle.id]);
}

#[test]
fn statistics_have_the_shape_that_containerd_reads() {
    let mut bundle = Bundle::new("while true; do : ; done");
    bundle.set("/linux/resources/memory", json!({"limit": 64 << 20}));
    bundle.set("/linux/resources/pids", json!({"limit": 17}));
    bundle.must(&["run", "-d", &bundle.id]);
    std::thread::sleep(Duration::from_millis(300));
    let event: Value =
        serde_json::from_str(&bundle.must(&["events", "--stats", &bundle.id])).unwrap();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], bundle.id.as_str());
    let data = &event["data"];
    let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    assert!(number("/cpu/usage/total") > 10_000_000, "{event}");
    assert!(number("/memory/usage/usage") > 0, "{event}");
    assert_eq!(number("/memory/usage/limit"), 64 << 20, "{event}");
    assert!(number("/memory/usage/max") >= number("/memory/usage/usage") / 2, "{event}");
    assert!(data["memory"]["raw"]["pgfault"].is_u64(), "{event}");
    assert_eq!(number("/pids/limit"), 17);
    assert_eq!(number("/pids/current"), 1);
    assert!(!data["cpuset"]["cpus"].as_array().unwrap().is_empty(), "{event}");
    for part in ["blkio", "hugetlb", "intel_rdt"] {
        assert!(data[part].is_object(), "{part}: {event}");
    }
    assert!(data["network_interfaces"].is_null());
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    let output = bundle.call(&["events", "--stats", &bundle.id]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is not running"), "{output:?}");
    assert_eq!(bundle.call(&["events", "--interval", "0s", &bundle.id]).status.code(), Some(1));
    assert_eq!(bundle.call(&["events", "--stats", "nobody"]).status.code(), Some(1));
}

/// A process that is killed when the test ends.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn events_come_at_intervals_until_the_container_is_gone() {
    let bundle = running("exec sleep 100");
    let mut events = Killed(
        bundle
            .command(&["events", "--interval", "100ms", &bundle.id])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(events.0.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "stats");
    }
    bundle.must(&["delete", "-f", &bundle.id]);
    if is_ours() {
        let status = within(Duration::from_secs(5), || events.0.try_wait().unwrap());
        assert!(status.expect("events never ends").success());
    }
}

#[test]
fn the_oom_killer_s_strikes_are_told() {
    // Busybox's tail keeps what has no end of line; the shell survives its child.
    let mut bundle = Bundle::new("cat /tmp/go; tail /dev/zero; sleep 100");
    std::os::unix::fs::symlink("busybox", bundle.root().join("bin/tail")).unwrap();
    let go = bundle.root().join("tmp/go");
    fifo(&go);
    bundle.set("/linux/resources/memory", json!({"limit": 16 << 20, "swap": 16 << 20}));
    bundle.must(&["run", "-d", &bundle.id]);
    let mut events = Killed(
        bundle
            .command(&["events", "--interval", "1h", &bundle.id])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    // Long enough for the watch to stand.
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(&go, "").unwrap();
    let mut lines = BufReader::new(events.0.stdout.take().unwrap()).lines();
    // To the letter: runc's own tests search for it.
    assert_eq!(lines.next().unwrap().unwrap(), format!(r#"{{"type":"oom","id":"{}"}}"#, bundle.id));
    bundle.must(&["delete", "-f", &bundle.id]);
    if is_ours() {
        assert!(within(Duration::from_secs(5), || events.0.try_wait().unwrap()).is_some());
    }
}

/// Makes a FIFO; `mkfifo` is of the coreutils.
fn fifo(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn features_are_a_document_that_is_true() {
    let output = call(&["features"]);
    assert!(output.status.success());
    let features: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |pointer: &str| -> Vec<String> {
        serde_json::from_value(features.pointer(pointer).unwrap().clone()).unwrap()
    };
    assert_eq!(features["ociVersionMin"], "1.0.0");
    for hook in ["prestart", "createRuntime", "createContainer", "startContainer", "poststop"] {
        assert!(list("/hooks").iter().any(|known| known == hook), "{hook}");
    }
    for option in ["ro", "rbind", "rro", "rslave", "nosuid", "nosymfollow"] {
        assert!(list("/mountOptions").iter().any(|known| known == option), "{option}");
    }
    for kind in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
        assert!(list("/linux/namespaces").iter().any(|known| known == kind), "{kind}");
    }
    assert!(list("/linux/capabilities").len() >= 41);
    for pointer in ["/linux/cgroup/v1", "/linux/cgroup/v2", "/linux/seccomp/enabled"] {
        assert_eq!(features.pointer(pointer), Some(&json!(true)), "{pointer}");
    }
    assert!(list("/linux/seccomp/archs").iter().any(|arch| arch == "SCMP_ARCH_X86_64"));
    if is_ours() {
        assert!(features.pointer("/linux/mountExtensions/idmap/enabled").unwrap().is_boolean());
        assert!(features.pointer("/linux/intelRdt/enabled").unwrap().is_boolean());
        assert_eq!(
            list("/linux/seccomp/supportedFlags").is_empty(),
            list("/linux/seccomp/knownFlags").is_empty()
        );
        assert!(!list("/potentiallyUnsafeConfigAnnotations").is_empty());
    }
    assert!(!call(&["features", "more"]).status.success());
}

/// What `spec` writes, but for the version.
fn written(words: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(runtime());
    let output = command.arg("spec").args(words).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(directory.path().join("config.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    assert!(value["ociVersion"].is_string());
    value["ociVersion"] = Value::Null;
    value
}

#[test]
fn spec_writes_what_runc_writes() {
    let spec = written(&[]);
    assert_eq!(spec["process"]["args"], json!(["sh"]));
    let rootless = written(&["--rootless"]);
    assert_eq!(rootless["linux"]["uidMappings"][0]["size"], 1);
    if is_ours() && Command::new("runc").arg("--version").output().is_ok() {
        for words in [&[][..], &["--rootless"]] {
            let directory = tempfile::tempdir().unwrap();
            let output =
                Command::new("runc").arg("spec").args(words).current_dir(&directory).output();
            assert!(output.unwrap().status.success());
            let text = std::fs::read_to_string(directory.path().join("config.json")).unwrap();
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value["ociVersion"] = Value::Null;
            assert_eq!(written(words), value, "{words:?}");
        }
    }
    // An existing configuration is nobody's to overwrite.
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().to_str().unwrap();
    assert!(call(&["spec", "--bundle", bundle]).status.success());
    let again = call(&["spec", "-b", bundle]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("exists. Remove it first"), "{again:?}");
    assert!(!call(&["spec", "-b", "/nonexistent/bundle"]).status.success());
}

#[test]
fn what_spec_writes_runs() {
    let mut bundle = Bundle::new("true");
    bundle.config = written(&[]);
    bundle.set("/ociVersion", json!("1.0.2"));
    bundle.set("/process/terminal", json!(false));
    bundle.set("/process/args", json!(["sh", "-c", "echo $0 $TERM"]));
    bundle.set("/linux/cgroupsPath", json!(format!("/{}", bundle.id)));
    assert_eq!(bundle.output(), "sh xterm\n");
}

#[test]
fn the_version_is_what_dockerd_and_containerd_parse() {
    for option in ["--version", "-v"] {
        let output = call(&[option]);
        assert!(output.status.success());
        let text = text(&output.stdout);
        let mut lines = text.lines();
        let (_, version) = lines.next().unwrap().split_once(" version ").unwrap();
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{text}");
        assert!(lines.any(|line| line.starts_with("spec: 1.")), "{text}");
    }
}

#[test]
fn help_is_no_failure() {
    for verb in [
        "create", "delete", "events", "features", "kill", "list", "ps", "run", "spec", "start",
        "state",
    ] {
        for option in ["-h", "--help"] {
            let output = call(&[verb, option]);
            assert_eq!(output.status.code(), Some(0), "{verb} {option}");
            assert!(text(&output.stdout).contains(verb), "{verb} {option}");
        }
    }
    for words in [&["-h"][..], &["--help"], &["help"], &["help", "list"], &[]] {
        let output = call(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert!(!output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn the_last_line_of_the_log_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let last = |words: &[&str]| {
        let mut all = vec!["--log", log.to_str().unwrap(), "--log-format", "json"];
        all.extend(words);
        let output = call(&all);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(!output.stderr.is_empty(), "{words:?}: the person is told too");
        let lines = std::fs::read_to_string(&log).unwrap();
        let entry: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(entry["level"], "error", "{entry}");
        assert!(entry["time"].as_str().unwrap().contains('T'), "{entry}");
        entry["msg"].as_str().unwrap().to_owned()
    };
    assert!(last(&["state", "nobody"]).contains("does not exist"));
    assert!(last(&["--debug", "start", "nobody"]).contains("does not exist"));
    // The command line itself is wrong.
    assert!(last(&["state", "--colour", "x"]).contains("colour"));
    assert!(!last(&["state"]).is_empty());
    // Without --log it goes to standard error, in the form that was asked for.
    let output = call(&["--log-format", "json", "state", "nobody"]);
    let line = text(&output.stderr);
    let entry: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
}

#[test]
fn debug_logs_more() {
    let bundle = Bundle::new("true");
    let log = bundle.beside().join("log");
    let log = log.to_str().unwrap();
    bundle.must(&["--log", log, "--log-format", "json", "create", &bundle.id]);
    let quiet = std::fs::read_to_string(log).unwrap_or_default();
    assert!(!quiet.contains(r#""level":"debug""#), "{quiet}");
    bundle.must(&["--debug", "--log", log, "--log-format", "json", "start", &bundle.id]);
    if is_ours() {
        let loud = std::fs::read_to_string(log).unwrap();
        assert!(loud.contains(r#""level":"debug""#), "{loud}");
    }
}
