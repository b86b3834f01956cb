//! The program: `serve`, and keys and roles beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(30);

fn command(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lighter-control-plane"));
    command.args(arguments).arg("--data").arg(data).stdin(Stdio::null());
    command
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    command(data, arguments).output().unwrap()
}

fn ok(data: &Path, arguments: &[&str]) -> String {
    let output = run(data, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

struct Serving(Child);

impl Serving {
    /// Starts it and waits until it says that it serves.
    fn start(data: &Path) -> Self {
        Self::spawn(command(data, &["serve", "--listen", "127.0.0.1:0"]))
    }

    /// As [`Serving::start`], by a command that runs its arguments.
    fn start_in(mut runner: Command, data: &Path) -> Self {
        let command = command(data, &["serve", "--listen", "127.0.0.1:0"]);
        runner.arg(command.get_program()).args(command.get_args());
        Self::spawn(runner)
    }

    fn spawn(mut command: Command) -> Self {
        let mut serving = Self(command.stderr(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(serving.0.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines {
            let line = line.unwrap();
            if line.contains("serving") {
                return serving;
            }
            said.push(line);
        }
        panic!("it ended: {said:?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two connections of each agent are more than the usual soft limit.
#[test]
fn a_server_may_have_as_many_descriptors_as_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -S -n 256; exec \"$@\"", "sh"]);
    let serving = Serving::start_in(limited, &directory.path().join("data"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", serving.0.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

fn ids(data: &Path) -> Vec<String> {
    let listed: Value =
        serde_json::from_str(&ok(data, &["key", "list", "--output", "json"])).unwrap();
    let ids = listed.as_array().unwrap().iter();
    ids.map(|key| key["accessKeyId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn keys_and_roles_with_and_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let data = &directory.path().join("data");
    let create = ["key", "create", "--output", "json", "--description", "one"];
    let one: Value = serde_json::from_str(&ok(data, &create)).unwrap();
    assert_eq!(one["allow"], serde_json::json!(["*"]));

    let mut serving = Serving::start(data);
    let exported = ok(data, &["key", "create", "--allow", "ecs:*", "logs:Put*", "--output", "env"]);
    let id = exported.split('\'').nth(1).unwrap().to_owned();
    assert!(exported.starts_with("export AWS_ACCESS_KEY_ID='AKIA"), "{exported}");
    assert!(exported.contains("\nexport AWS_SECRET_ACCESS_KEY='"), "{exported}");
    let both = ids(data);
    assert!(both.contains(&id) && both.len() == 2, "{both:?}");
    let listed = ok(data, &["key", "list"]);
    assert!(listed.contains("ecs:*,logs:Put*") && listed.contains("one"), "{listed}");
    let secret = one["secretAccessKey"].as_str().unwrap();
    assert!(!listed.contains(secret), "{listed}");

    // A server that is killed loses nothing, and what it leaves stops no one.
    serving.signal(Signal::SIGKILL);
    serving.ended();
    assert!(data.join("admin.sock").exists());
    assert_eq!(ids(data), both);
    let mut serving = Serving::start(data);
    assert_eq!(ids(data), both);

    ok(data, &["key", "revoke", &id]);
    let again = run(data, &["key", "revoke", &id]);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(said, format!("lighter-control-plane: there is no access key {id}\n"));

    let arn = ok(data, &["role", "create", "web", "--allow", "logs:*"]);
    assert_eq!(arn, "arn:aws:iam::000000000000:role/web\n");
    assert_eq!(run(data, &["role", "create", "web"]).status.code(), Some(1));
    assert!(ok(data, &["role", "list"]).contains("logs:*"));
    ok(data, &["role", "delete", "web"]);
    assert!(!ok(data, &["role", "list"]).contains("logs:*"));

    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.ended(), Some(0));
    assert!(!data.join("admin.sock").exists());
}

#[test]
fn a_second_server_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let serving = Serving::start(directory.path());
    let second = run(directory.path(), &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process has it open"), "{said}");
    assert_eq!(ids(directory.path()), Vec::<String>::new());
    drop(serving);
}

#[test]
fn wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    let data = &directory.path().join("data");
    for arguments in [
        &["serve", "--listen", "nowhere"][..],
        &["serve", "--tls-cert", "x"],
        &["serve", "--lost-after", "soon"],
        &["serve", "--account", "1"],
        &["serve", "--advertise", "example.com"],
        &["key", "create", "--allow", "everything"],
        &["key", "create", "--description", "two\nlines"],
        &["role", "create", "a/b"],
        &["key"],
        &["dance"],
    ] {
        assert_eq!(run(data, arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert!(!data.exists());
    let missing = run(data, &["serve", "--tls-cert", "/none.pem", "--tls-key", "/none.key"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("serve the API: read /none.pem: "), "{said}");
}
