//! A host of a test's own: mount, network and pid namespaces, a root for `lighter`, an image.
//!
//! Everything that the test starts lives in the pid namespace; when the test ends, however it ends,
//! the namespace's first process is killed and the kernel ends the rest.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up must fail loudly"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::image::Image;

/// The image that [`TestHost::new`] loads: Debian's static busybox.
pub const IMAGE: &str = "localhost/bench:latest";

/// The first of the ids of containers after [`TestHost::remap_users`].
pub const FIRST_ID: u32 = 1_234_000;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a server may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// A request of HTTP/1.0, with a body of JSON if there is one: the answer's status and body.
fn ask(
    mut connection: impl Read + Write,
    authority: &str,
    (method, target, body): (&str, &str, &str),
) -> std::io::Result<(String, String)> {
    write!(
        connection,
        "{method} {target} HTTP/1.0\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

/// See the module's documentation.
#[derive(Debug)]
pub struct TestHost {
    directory: TempDir,
    /// `/proc` as it shows processes by the numbers that the test knows its children by.
    pub processes: fs::File,
    network: fs::File,
    init: Child,
}

impl TestHost {
    /// A host with the image loaded and nothing running.
    pub fn new() -> Self {
        let host = Self::empty();
        host.load_image();
        host
    }

    /// The archive of [`IMAGE`].
    pub fn archive(&self) -> PathBuf {
        self.path("busybox.tar")
    }

    /// Makes [`IMAGE`] and loads it.
    pub fn load_image(&self) {
        let archive = self.archive();
        let image = Image::busybox().expect("the image of busybox");
        fs::write(&archive, image.oci_archive(IMAGE)).expect("write the archive");
        self.ok(&["image", "load", "-i", archive.to_str().expect("UTF-8")]);
    }

    /// A host without an image.
    pub fn empty() -> Self {
        let processes = fs::File::open("/proc").expect("/proc");
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
        unshare(flags).expect("the tests run as root");
        let network = fs::File::open("/proc/thread-self/ns/net").expect("our network namespace");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("private mounts");
        // The shell reaps what is orphaned: `wait` waits for every child. It is killed with the test,
        // which may be ended from outside; signals that a first process does not take are no others.
        let init = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/bin/busybox", "sh", "-c", "mount -t proc proc /proc && ip link set lo up && echo ready && sleep 100000 & while :; do wait; busybox sleep 0.1; done"])
            .stdout(Stdio::piped())
            .spawn();
        let mut init = init.expect("busybox-static is installed");
        let mut ready = [0; 6];
        let read = init.stdout.as_mut().map(|stdout| stdout.read_exact(&mut ready));
        assert!(read.is_some_and(|read| read.is_ok()), "set up the namespaces");
        let directory = TempDir::with_prefix("lighter-test-").expect("a directory");
        let host = Self { directory, processes, network, init };
        fs::create_dir(host.root()).expect("a directory");
        host
    }

    /// A path in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `LIGHTER_ROOT`.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// Durable directory of a task.
    pub fn task_directory(&self, task: &str) -> PathBuf {
        self.root().join("var/lib/lighter/tasks").join(task)
    }

    /// A `lighter` command, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::binary("lighter"));
        command.args(arguments).env("LIGHTER_ROOT", self.root()).env_remove("NO_COLOR");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("lighter starts")
    }

    /// Runs a command that must succeed; its standard output, trimmed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "lighter {arguments:?}: {}\n{}\n{}\nagent: {}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.agent_log()
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes a task definition; its path.
    pub fn definition(&self, name: &str, definition: &Value) -> String {
        let path = self.path(name);
        fs::write(&path, definition.to_string()).expect("write the definition");
        path.to_str().expect("UTF-8").to_owned()
    }

    /// `lighter run FILE` in the foreground, to its end.
    pub fn run_task(&self, definition: &Value) -> Output {
        let path = self.definition("task.json", definition);
        self.run(&["run", &path])
    }

    /// `lighter run --detach FILE`: the task's id.
    pub fn detach(&self, definition: &Value) -> String {
        let path = self.definition("task.json", definition);
        self.ok(&["run", "--detach", &path])
    }

    /// `lighter inspect` of one task.
    pub fn inspect(&self, task: &str) -> Value {
        let text = self.ok(&["inspect", task]);
        let views: Value = serde_json::from_str(&text).expect("inspect prints JSON");
        views[0].clone()
    }

    /// The record of who serves a task.
    pub fn monitor(&self, task: &str) -> Value {
        let path = self.root().join("run/lighter/tasks").join(task).join("monitor.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_str(&text).expect("the record is JSON")
    }

    /// Pid of the background agent, if one runs.
    pub fn agent_pid(&self) -> Option<i64> {
        let (_, answer) = self.ask_agent("GET", "/v1/agent", "").ok()?;
        serde_json::from_str::<Value>(&answer).ok()?["pid"].as_i64()
    }

    /// A request to the agent's API: the status and the body.
    pub fn ask_agent(
        &self,
        method: &str,
        target: &str,
        body: &str,
    ) -> std::io::Result<(String, String)> {
        let connection = UnixStream::connect(self.root().join("run/lighter/agent.sock"))?;
        connection.set_read_timeout(Some(crate::patience(ANSWER)))?;
        ask(connection, "agent", (method, target, body))
    }

    /// A shell script in the namespaces; its output, trimmed.
    pub fn sh(&self, script: &str) -> String {
        let output = Command::new("/bin/bash").args(["-c", script]).output().expect("bash");
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .trim()
        .to_owned()
    }

    /// A request of HTTP/1.0 from the network namespace of a process: the status and the body, or nothing
    /// where nobody answers.
    pub fn http_get(&self, pid: i64, server: SocketAddr, target: &str) -> (String, String) {
        let network = fs::File::open(format!("/proc/{pid}/ns/net")).expect("a network namespace");
        // No thread may begin where children get another pid namespace: it goes there and back itself.
        setns(network, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
        let wait = crate::patience(ANSWER);
        let answer = TcpStream::connect_timeout(&server, wait).and_then(|connection| {
            connection.set_read_timeout(Some(wait))?;
            ask(connection, &server.ip().to_string(), ("GET", target, ""))
        });
        setns(&self.network, CloneFlags::CLONE_NEWNET).expect("enter our network namespace");
        answer.unwrap_or_default()
    }

    /// A signal to a process of the namespaces.
    pub fn kill(&self, pid: i64, signal: &str) {
        assert!(pid > 1, "no process {pid}");
        self.sh(&format!("kill -{signal} {pid}"));
    }

    /// What a task could have changed and must not leave: mounts, links, nftables, forwarding,
    /// cgroups, processes of ours.
    pub fn state(&self) -> String {
        let suffix =
            format!("{:08x}", protocol::monitor::crc32(self.root().as_os_str().as_encoded_bytes()));
        self.sh(&format!(
            "cut -d' ' -f5,9- /proc/self/mountinfo | sort; ip -o link show | cut -d: -f2 | sort; \
             nft list ruleset; cat /proc/sys/net/ipv4/ip_forward; \
             find /sys/fs/cgroup -mindepth 1 -type d -path '*{suffix}*' 2>/dev/null | sort; \
             for p in /proc/[0-9]*; do tr '\\0' ' ' 2>/dev/null < $p/cmdline | grep -oE '^lighter-runtime [a-z]+|lighter (--root [^ ]+ )?agent'; done | sort; \
             ls {root}/run/lighter/tasks 2>/dev/null",
            root = self.root().display()
        ))
    }

    /// What background agents of this root wrote.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.root().join("var/lib/lighter/agent.log")).unwrap_or_default()
    }

    /// Gives containers of the agents that begin from now on ids from [`FIRST_ID`] on.
    pub fn remap_users(&self) {
        self.subordinate_ids(&format!("nobody:{FIRST_ID}:65536"));
        self.set_remap("nobody");
    }

    /// Writes `/etc/subuid` and `/etc/subgid`, for this test alone.
    pub fn subordinate_ids(&self, ranges: &str) {
        for file in ["subuid", "subgid"] {
            let path = self.path(file);
            fs::write(&path, format!("{ranges}\n")).expect("a file");
            let mounted = self
                .sh(&format!("touch /etc/{file} && mount --bind {} /etc/{file}", path.display()));
            assert_eq!(mounted, "", "mount /etc/{file}");
        }
    }

    /// Sets `LIGHTER_USERNS_REMAP` for the agents that begin from now on.
    pub fn set_remap(&self, setting: &str) {
        let directory = self.root().join("etc/ecs");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("ecs.config"), format!("LIGHTER_USERNS_REMAP={setting}\n"))
            .expect("a file");
    }

    /// Starts an agent in the background, as a command would, and waits until it serves.
    pub fn start_agent(&self) {
        self.sh(&format!(
            "LIGHTER_ROOT={} {} agent --background >/dev/null 2>&1 </dev/null & disown",
            self.root().display(),
            crate::binary("lighter").display()
        ));
        self.eventually("an agent serves", || self.agent_pid().is_some());
    }

    /// Ends the background agent, if there is one, and waits until it is gone.
    pub fn stop_agent(&self) {
        if let Some(pid) = self.agent_pid() {
            self.kill(pid, "TERM");
            self.eventually("the agent ends", || !self.is_alive(pid));
        }
    }

    /// Whether a process of the namespaces exists and is no zombie.
    pub fn is_alive(&self, pid: i64) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
    }

    /// Waits until a condition holds.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + crate::patience(PATIENCE);
        while !condition() {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        // The namespace's init takes everything in it along, and is gone itself when all of that is:
        // also the zombies that are this process's to reap, and no other child is left to it.
        let _ = self.init.kill();
        let deadline = Instant::now() + crate::patience(PATIENCE);
        while Instant::now() < deadline {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(5)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // A test that failed, or whose agents were killed, may have left cgroups of any root in its
        // directory; nothing lives in them any more.
        for root in fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            let root = root.path();
            let suffix = protocol::monitor::crc32(root.as_os_str().as_encoded_bytes());
            let name = format!("lighter-{suffix:08x}");
            for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
                remove_cgroup(&hierarchy.path().join(&name));
            }
            remove_cgroup(&Path::new("/sys/fs/cgroup").join(&name));
        }
    }
}

/// Removes a cgroup and those in it, as far as no process is in them.
pub fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// A definition of one essential container with a shell script.
pub fn script(network_mode: &str, script: &str) -> Value {
    task(network_mode, vec![container("main", script)])
}

/// A definition with these containers.
pub fn task(network_mode: &str, containers: Vec<Value>) -> Value {
    json!({ "family": "test", "networkMode": network_mode, "containerDefinitions": containers })
}

/// An essential container that runs a shell script.
pub fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": IMAGE, "memory": 64, "essential": true, "stopTimeout": 5,
        "entryPoint": ["sh", "-c"], "command": [script],
    })
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// SIGTERMs a child of the test, which within the test's namespace has another number.
pub fn terminate(child: &Child) {
    let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it runs");
}
