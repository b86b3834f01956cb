//! checkpoint and restore, by CRIU where it can work on this kernel: Debian 12's cannot from Linux 6.13 on.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tests::bundle::{Bundle, is_ours, within};

use super::terminal::master;

/// Whether CRIU is there, knows this kernel, and finds a feature in it.
fn criu_finds(feature: &[&str]) -> bool {
    let mut check = Command::new("criu");
    // Its configuration may have it leave a log where it is.
    let check = check.arg("check").args(feature).current_dir(std::env::temp_dir()).output();
    check.is_ok_and(|output| output.status.success())
}

pub(super) fn criu_works() -> bool {
    criu_finds(&[])
}

/// Counts into a file.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; busybox mv /tmp/new /tmp/count; sleep 0.02; done";

fn count(bundle: &Bundle) -> u64 {
    let text = std::fs::read_to_string(bundle.root().join("tmp/count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Waits until the counter has passed a number.
fn passes(bundle: &Bundle, number: u64) -> u64 {
    let counted =
        within(Duration::from_secs(10), || Some(count(bundle)).filter(|count| *count > number));
    counted.unwrap_or_else(|| panic!("never passes {number}, but stands at {}", count(bundle)))
}

fn images(bundle: &Bundle) -> PathBuf {
    bundle.beside().join("images")
}

fn words<'a>(verb: &'a str, images: &'a Path, more: &[&'a str], id: &'a str) -> Vec<&'a str> {
    let images = images.to_str().unwrap();
    [&[verb, "--image-path", images], more, &[id]].concat()
}

/// Runs the container without streams of the host's files, which runc could not save.
fn run(bundle: &Bundle) {
    let mut command = bundle.command(&["run", "-d", &bundle.id]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
}

/// Saves the container.
fn checkpoint(bundle: &Bundle, more: &[&str]) {
    bundle.must(&words("checkpoint", &images(bundle), more, &bundle.id));
}

/// Brings it back without waiting for it.
fn restore(bundle: &Bundle, more: &[&str]) {
    let more = [&["-d"], more].concat();
    bundle.must(&words("restore", &images(bundle), &more, &bundle.id));
}

fn refused(bundle: &Bundle, words: &[&str]) -> String {
    let output = bundle.call(words);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {stderr}");
    stderr
}

#[test]
fn a_restored_container_goes_on_where_it_stood() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::new(COUNTER);
    run(&bundle);
    passes(&bundle, 10);
    checkpoint(&bundle, &[]);
    let stood = count(&bundle);
    assert_eq!(bundle.left(), [""; 0], "as runc, it deletes what it has saved");
    assert!(!bundle.call(&["state", &bundle.id]).status.success());
    assert!(images(&bundle).join("dump.log").exists());

    for round in 0..2 {
        let pid_file = bundle.beside().join("pid");
        restore(&bundle, &["--pid-file", pid_file.to_str().unwrap()]);
        assert_eq!(bundle.state()["status"], "running");
        assert_eq!(bundle.state()["pid"].to_string(), std::fs::read_to_string(&pid_file).unwrap());
        let now = passes(&bundle, stood);
        passes(&bundle, now + 5);
        assert_eq!(bundle.must(&["exec", &bundle.id, "hostname"]), "box\n", "round {round}");
        bundle.must(&["pause", &bundle.id]);
        bundle.wait_for("paused");
        bundle.must(&["resume", &bundle.id]);
        let again = refused(&bundle, &words("restore", &images(&bundle), &["-d"], &bundle.id));
        assert!(again.contains("already exists") || again.contains("exists already"), "{again}");
        bundle.must(&["delete", "-f", &bundle.id]);
        assert_eq!(bundle.left(), [""; 0]);
    }
}

#[test]
fn a_container_that_is_left_running_runs_on() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::new(COUNTER);
    run(&bundle);
    passes(&bundle, 3);
    let work = bundle.beside().join("work");
    checkpoint(&bundle, &["--leave-running", "--work-path", work.to_str().unwrap()]);
    assert!(work.join("dump.log").exists());
    assert_eq!(bundle.state()["status"], "running");
    let now = count(&bundle);
    passes(&bundle, now + 3);
    // A paused one can be saved too, and stays as it is.
    bundle.must(&["pause", &bundle.id]);
    checkpoint(&bundle, &["--leave-running"]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn memory_is_saved_in_steps() {
    if !criu_works() || !criu_finds(&["--feature", "mem_dirty_track"]) {
        return;
    }
    let bundle = Bundle::new(COUNTER);
    run(&bundle);
    passes(&bundle, 3);
    let first = bundle.beside().join("first");
    bundle.must(&words("checkpoint", &first, &["--pre-dump"], &bundle.id));
    assert_eq!(bundle.state()["status"], "running");
    passes(&bundle, 6);
    for parent in ["/first", "missing"] {
        let more = ["--parent-path", parent];
        refused(&bundle, &words("checkpoint", &images(&bundle), &more, &bundle.id));
    }
    checkpoint(&bundle, &["--parent-path", "../first"]);
    let stood = count(&bundle);
    restore(&bundle, &[]);
    passes(&bundle, stood);
    bundle.must(&["delete", "-f", &bundle.id]);
}

/// The streams that a restored process has are those of whoever restores it.
#[test]
fn in_the_foreground_output_and_code_are_the_processs() {
    if !criu_works() {
        return;
    }
    let bundle = Bundle::new(
        "i=0; until [ -e /tmp/end ]; do i=$((i+1)); echo line $i; touch /tmp/up; sleep 0.02; done; exit 7",
    );
    let mut first = bundle.command(&["run", &bundle.id]);
    let mut first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let up = bundle.root().join("tmp/up");
    within(Duration::from_secs(10), || up.exists().then_some(())).unwrap();
    checkpoint(&bundle, &[]);
    assert!(!first.wait().unwrap().success());
    let mut second = bundle.command(&words("restore", &images(&bundle), &[], &bundle.id));
    let second = second.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Twice: it may have stood between the line and the file.
    for _ in 0..2 {
        std::fs::remove_file(&up).unwrap();
        within(Duration::from_secs(10), || up.exists().then_some(())).unwrap();
    }
    std::fs::write(bundle.root().join("tmp/end"), "").unwrap();
    let output = second.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{text}{:?}", output.stderr);
    assert!(text.starts_with("line ") && !text.contains("line 1\n"), "{text}");
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn output_goes_on_into_a_file_of_the_host() {
    if !is_ours() || !criu_works() {
        return; // runc saves no streams but pipes
    }
    let bundle = Bundle::new("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done");
    let log = bundle.beside().join("log");
    let into = |words: &[&str]| {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let status = bundle.command(words).stdout(file).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{words:?}");
    };
    let last = || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().last().and_then(|line| line.strip_prefix("line ")?.parse::<u64>().ok())
    };
    let passes = |number| {
        let passed = || last().filter(|last| *last > number);
        within(Duration::from_secs(10), passed).unwrap()
    };
    into(&["run", "-d", &bundle.id]);
    passes(3);
    checkpoint(&bundle, &[]);
    let stood = last().unwrap();
    into(&words("restore", &images(&bundle), &["-d"], &bundle.id));
    passes(stood + 3);
    bundle.must(&["delete", "-f", &bundle.id]);
}

#[test]
fn a_terminal_is_handed_over_again() {
    if !criu_works() {
        return;
    }
    let mut bundle = Bundle::new("i=0; while read line; do i=$((i+1)); echo $line $i; done");
    bundle.set("/process/terminal", json!(true));
    let path = bundle.beside().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = ["--console-socket", path.to_str().unwrap()];
    bundle.must(&[&["run", "-d"], &socket[..], &[&bundle.id]].concat());
    let answer = |terminal: &mut File, text: &str, expected: &str| {
        terminal.write_all(text.as_bytes()).unwrap();
        let mut seen = String::new();
        let mut buffer = [0; 256];
        while !seen.contains(expected) {
            let count = terminal.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    let mut terminal = master(&listener);
    answer(&mut terminal, "before\n", "before 1\r\n");
    checkpoint(&bundle, &[]);
    drop(terminal);
    restore(&bundle, &socket);
    let mut terminal = master(&listener);
    answer(&mut terminal, "after\n", "after 2\r\n");
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn mounts_of_the_hosts_files_are_there_again() {
    if !criu_works() {
        return;
    }
    let mut bundle =
        Bundle::new("echo one > /data/in; while :; do cat /file > /data/file; sleep 0.02; done");
    let data = bundle.beside().join("data");
    let file = bundle.beside().join("file");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&file, "first").unwrap();
    let bind = |to: &str, from: &Path| json!({"destination": to, "type": "bind", "source": from, "options": ["bind", "rw"]});
    bundle.push("/mounts", bind("/data", &data));
    bundle.push("/mounts", bind("/file", &file));
    bundle.push("/mounts", json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
    run(&bundle);
    let holds = |text: &str| {
        let same = || std::fs::read_to_string(data.join("file")).is_ok_and(|found| found == text);
        within(Duration::from_secs(10), || same().then_some(())).is_some()
    };
    assert!(holds("first"));
    checkpoint(&bundle, &[]);
    std::fs::write(&file, "second").unwrap();
    restore(&bundle, &[]);
    assert!(holds("second"));
    let mounts = bundle.must(&["exec", &bundle.id, "cat", "/proc/self/mountinfo"]);
    assert!(mounts.contains(" /sys/fs/cgroup"), "{mounts}");
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

/// The network namespace is a new one, for the hooks to fill; where runc leaves the loopback interface
/// down, ours is up as in a new container.
#[test]
fn hooks_run_again_when_the_namespaces_are_there() {
    if !criu_works() {
        return;
    }
    let mut bundle = Bundle::new(COUNTER);
    let told = bundle.beside().join("told");
    let hook = |name: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}; cat > /dev/null", told.display())]}]);
    bundle.set("/hooks", json!({}));
    for name in ["prestart", "createRuntime", "poststop"] {
        bundle.set(&format!("/hooks/{name}"), hook(name));
    }
    run(&bundle);
    passes(&bundle, 3);
    checkpoint(&bundle, &[]);
    restore(&bundle, &[]);
    if is_ours() {
        let flags = bundle.must(&["exec", &bundle.id, "ip", "link", "show", "lo"]);
        assert!(flags.contains(",UP"), "{flags}");
    }
    bundle.must(&["delete", "-f", &bundle.id]);
    let order = std::fs::read_to_string(&told).unwrap();
    let round = "prestart\ncreateRuntime\npoststop\n";
    assert_eq!(order, round.repeat(2));

    if is_ours() {
        let failing = json!([{"path": "/bin/false"}]);
        bundle.set("/hooks", json!({"createRuntime": failing}));
        let message = refused(&bundle, &words("restore", &images(&bundle), &["-d"], &bundle.id));
        assert!(message.contains("running hook: /bin/false"), "{message}");
        assert_eq!(bundle.left(), [""; 0]);
    }
}

#[test]
fn without_criu_the_container_runs_on() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new(COUNTER);
    run(&bundle);
    passes(&bundle, 1);
    let images = images(&bundle);
    let with = |criu: &'static str, verb: &'static str| {
        let words = [vec!["--criu", criu], words(verb, &images, &[], &bundle.id)].concat();
        refused(&bundle, &words)
    };
    let message = with("/nowhere/criu", "checkpoint");
    assert!(message.contains("the package criu") && message.contains("/nowhere/criu"), "{message}");
    // One that does nothing of what it is asked.
    let message = with("/bin/false", "checkpoint");
    assert!(message.contains("could not dump") && message.contains("dump.log"), "{message}");
    assert_eq!(bundle.state()["status"], "running");
    let now = count(&bundle);
    passes(&bundle, now);
    bundle.must(&["delete", "-f", &bundle.id]);

    let message = with("/bin/false", "restore");
    assert!(message.contains("find a checkpoint"), "{message}");
    std::fs::write(images.join("inventory.img"), "").unwrap();
    let message = with("/nowhere/criu", "restore");
    assert!(message.contains("the package criu"), "{message}");
    let message = with("/bin/false", "restore");
    assert!(message.contains("could not restore") && message.contains("restore.log"), "{message}");
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn what_cannot_be_saved_or_restored_is_refused() {
    let bundle = Bundle::new(COUNTER);
    bundle.must(&["create", &bundle.id]);
    refused(&bundle, &words("checkpoint", &images(&bundle), &[], &bundle.id));
    bundle.must(&["start", &bundle.id]);
    passes(&bundle, 1);
    let file = bundle.beside().join("file");
    std::fs::write(&file, "").unwrap();
    refused(&bundle, &words("checkpoint", &file, &[], &bundle.id));
    for more in [
        &["--manage-cgroups-mode", "never"][..],
        &["--empty-ns", "pid"],
        &["--page-server", "host"],
        &["--parent-path", "/absolute"],
    ] {
        refused(&bundle, &words("checkpoint", &images(&bundle), more, &bundle.id));
    }
    assert_eq!(bundle.state()["status"], "running");
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    refused(&bundle, &words("checkpoint", &images(&bundle), &[], &bundle.id));
    bundle.must(&["delete", &bundle.id]);
    let empty = bundle.beside().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for path in [&empty, &file, &bundle.beside().join("missing")] {
        refused(&bundle, &words("restore", path, &["-d"], &bundle.id));
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// Whoever is killed while it restores leaves what `delete --force` removes.
#[test]
fn a_restore_that_is_killed_leaves_what_delete_removes() {
    let Some(points) = std::env::var_os("LIGHTER_FAILPOINTS") else { return };
    if !is_ours() || !criu_works() {
        return;
    }
    let bundle = Bundle::new(COUNTER);
    run(&bundle);
    passes(&bundle, 3);
    checkpoint(&bundle, &[]);
    let images = images(&bundle);
    for point in [
        "create-cgroup",
        "restore-root",
        "restore-admitted",
        "restore-namespaces",
        "restore-recorded",
    ] {
        let status = Command::new(Path::new(&points).join("lighter-runtime"))
            .arg("--root")
            .arg(bundle.state_root())
            .args(words("restore", &images, &["-d"], &bundle.id))
            .current_dir(bundle.path())
            .env("LIGHTER_FAILPOINT", format!("{point}:1"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success(), "{point} was not reached");
        bundle.must(&["delete", "--force", &bundle.id]);
        assert_eq!(bundle.left(), [""; 0], "{point}");
        assert!(bundle.root().join("bin/busybox").exists(), "{point} took the root file system");
    }
    let stood = count(&bundle);
    restore(&bundle, &[]);
    passes(&bundle, stood);
    bundle.must(&["delete", "-f", &bundle.id]);
}
