//! A cluster of a test's own: a control plane and an agent in a [`TestHost`], driven by boto3 and the
//! `aws` CLI.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::print_stdout,
    reason = "a test that cannot be set up must fail loudly"
)]

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use serde_json::Value;

use crate::host::{TestHost, terminate};

/// Region of every test.
pub const REGION: &str = "eu-north-1";
/// How long something may take that must happen; the aws CLI alone takes a second a call.
const PATIENCE: Duration = Duration::from_secs(60);
/// Account of every test.
pub const ACCOUNT: &str = "000000000000";

/// See the module's documentation.
#[derive(Debug)]
pub struct Cluster {
    pub host: TestHost,
    key: (String, String),
    control_plane: Option<Child>,
    agents: Vec<Agent>,
    /// Further arguments of `serve`.
    serve: Vec<String>,
}

/// A `lighter agent` that a test started.
#[derive(Debug)]
pub struct Agent {
    /// Its `LIGHTER_ROOT`.
    pub root: PathBuf,
    /// Path of its network namespace, if it is not the test's.
    network: Option<PathBuf>,
    process: Option<Child>,
}

/// A place in a daemon's code at which it kills itself.
#[derive(Debug, Clone)]
pub struct FailPoint {
    pub name: String,
    /// At the how-manieth time that it comes by; from 1.
    pub hit: u32,
}

impl FailPoint {
    /// Whether the daemons have fail points.
    pub fn are_there() -> bool {
        std::env::var_os("LIGHTER_FAILPOINTS").is_some()
    }

    /// The program with the feature `failpoints` in the directory `LIGHTER_FAILPOINTS` (set by
    /// `make test`), or the one that the other tests use, which lives on.
    pub fn command(&self, program: &str) -> Command {
        let directory = std::env::var_os("LIGHTER_FAILPOINTS").map(PathBuf::from);
        let path = directory.map_or_else(|| crate::binary(program), |path| path.join(program));
        let mut command = Command::new(path);
        command.env("LIGHTER_FAILPOINT", format!("{}:{}", self.name, self.hit));
        command
    }
}

impl Cluster {
    /// A control plane, without an agent.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A control plane with further arguments of `serve`.
    pub fn with(serve: &[&str]) -> Self {
        Self::on(TestHost::new(), serve)
    }

    /// A control plane on this host.
    pub fn on(host: TestHost, serve: &[&str]) -> Self {
        let mut cluster = Self {
            host,
            key: (String::new(), String::new()),
            control_plane: None,
            agents: Vec::new(),
            serve: serve.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        cluster.key = cluster.create_key(&[]);
        cluster.start_control_plane();
        cluster
    }

    /// A control plane and an agent that is connected.
    pub fn joined() -> Self {
        let mut cluster = Self::new();
        cluster.add_agent(&[]);
        cluster
    }

    /// Directory of the control plane's state.
    pub fn data(&self) -> PathBuf {
        self.host.path("control-plane")
    }

    /// A `lighter-control-plane` command with its data directory.
    pub fn control_plane(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::binary("lighter-control-plane"));
        command.args(arguments).arg("--data").arg(self.data()).stdin(Stdio::null());
        command
    }

    /// `key create` with further arguments: id and secret.
    pub fn create_key(&self, arguments: &[&str]) -> (String, String) {
        let created = self
            .control_plane(&[&["key", "create", "--output", "json"], arguments].concat())
            .output()
            .expect("lighter-control-plane starts");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        let key: Value = serde_json::from_slice(&created.stdout).expect("JSON");
        let text = |name: &str| key[name].as_str().expect("a string").to_owned();
        (text("accessKeyId"), text("secretAccessKey"))
    }

    /// Where the API is.
    pub fn endpoint(&self) -> &'static str {
        "http://127.0.0.1:4780"
    }

    /// Starts the control plane and waits until it serves.
    pub fn start_control_plane(&mut self) {
        self.spawn_control_plane(None);
        self.eventually("the control plane serves", || {
            self.host.sh("curl -fsS http://127.0.0.1:4780/healthz >/dev/null && echo serves")
                == "serves"
        });
    }

    /// Starts the control plane so that it kills itself at a [fail point](FailPoint).
    pub fn arm_control_plane(&mut self, at: &FailPoint) {
        self.spawn_control_plane(Some(at));
    }

    fn spawn_control_plane(&mut self, at: Option<&FailPoint>) {
        assert!(self.control_plane.is_none(), "it runs");
        let log = append(&self.host.path("control-plane.log"));
        let name = "lighter-control-plane";
        let mut command =
            at.map_or_else(|| Command::new(crate::binary(name)), |at| at.command(name));
        command
            .args(["serve", "--listen", "0.0.0.0:4780", "--settle", "1s"])
            .args(&self.serve)
            .arg("--data")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        self.control_plane = Some(command.spawn().expect("lighter-control-plane starts"));
    }

    /// Whether the control plane has died since it was started; if so, it can be started again.
    pub fn control_plane_died(&mut self) -> bool {
        died(&mut self.control_plane)
    }

    /// SIGKILLs the control plane.
    pub fn kill_control_plane(&mut self) {
        kill(&mut self.control_plane);
    }

    /// SIGTERMs the control plane and waits for its end.
    pub fn stop_control_plane(&mut self) {
        let ended = stop(&mut self.control_plane);
        assert!(ended.success(), "{}", self.log());
    }

    /// Resident memory of the control plane, in kB.
    pub fn control_plane_memory(&self) -> u64 {
        self.resident(self.control_plane.as_ref().expect("it runs"))
    }

    /// Adds the first agent, in the test's network, and waits until it is connected: its index.
    pub fn add_agent(&mut self, environment: &[(&str, &str)]) -> usize {
        let root = self.host.root();
        self.push_agent(root, None, environment)
    }

    /// Adds an agent with a root and a network namespace of its own, linked to the test's, and the
    /// image: its index.
    pub fn add_host(&mut self, environment: &[(&str, &str)]) -> usize {
        let number = self.agents.len() + 1;
        let name = format!("host{number}");
        let script = format!(
            "set -e; mkdir -p /run/netns; mountpoint -q /run/netns || mount -t tmpfs netns /run/netns; \
             ip netns add {name}; ip -n {name} link set lo up; \
             ip link add to-{name} type veth peer name eth0 netns {name}; \
             ip addr add 10.99.{number}.1/24 dev to-{name}; ip link set to-{name} up; \
             ip -n {name} addr add 10.99.{number}.2/24 dev eth0; ip -n {name} link set eth0 up; \
             ip -n {name} route add default via 10.99.{number}.1; echo made"
        );
        assert!(self.host.sh(&script).ends_with("made"), "make the namespace {name}");
        let root = self.host.path(&name);
        std::fs::create_dir(&root).expect("a directory");
        let archive = self.host.archive();
        let loaded = self
            .host
            .command(&["image", "load", "-i", archive.to_str().expect("UTF-8")])
            .env("LIGHTER_ROOT", &root)
            .output()
            .expect("lighter starts");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let endpoint = format!("http://10.99.{number}.1:4780");
        let mut environment = environment.to_vec();
        environment.push(("ECS_BACKEND_HOST", &endpoint));
        self.push_agent(root, Some(Path::new("/run/netns").join(name)), &environment)
    }

    fn push_agent(
        &mut self,
        root: PathBuf,
        network: Option<PathBuf>,
        environment: &[(&str, &str)],
    ) -> usize {
        let index = self.configure_agent(root, network, environment);
        self.start_agent(index);
        self.wait_connected(self.agents.len());
        index
    }

    fn configure_agent(
        &mut self,
        root: PathBuf,
        network: Option<PathBuf>,
        environment: &[(&str, &str)],
    ) -> usize {
        let config = root.join("etc/ecs");
        std::fs::create_dir_all(&config).expect("a directory");
        let mut text = format!(
            "ECS_BACKEND_HOST={}\nAWS_DEFAULT_REGION={REGION}\nAWS_ACCESS_KEY_ID={}\nAWS_SECRET_ACCESS_KEY={}\n",
            self.endpoint(),
            self.key.0,
            self.key.1
        );
        for (name, value) in environment {
            text.push_str(&format!("{name}={value}\n"));
        }
        // Of a variable that is given twice the last one counts.
        std::fs::write(config.join("ecs.config"), text).expect("write ecs.config");
        self.agents.push(Agent { root, network, process: None });
        self.agents.len() - 1
    }

    /// An agent by its index.
    pub fn agent(&self, index: usize) -> &Agent {
        &self.agents[index]
    }

    /// Adds an agent in the test's network with a root of its own, which is not started: its index.
    pub fn prepare_agent(&mut self, name: &str, environment: &[(&str, &str)]) -> usize {
        self.configure_agent(self.host.path(name), None, environment)
    }

    /// Starts a stopped agent.
    pub fn start_agent(&mut self, index: usize) {
        self.spawn_agent(index, None);
    }

    /// Starts a stopped agent so that it kills itself at a [fail point](FailPoint).
    pub fn arm_agent(&mut self, index: usize, at: &FailPoint) {
        self.spawn_agent(index, Some(at));
    }

    /// Whether the agent has died since it was started; if so, it can be started again.
    pub fn agent_died(&mut self, index: usize) -> bool {
        died(&mut self.agents[index].process)
    }

    fn spawn_agent(&mut self, index: usize, at: Option<&FailPoint>) {
        let log = append(&self.host.path(&format!("agent{index}.log")));
        let agent = &mut self.agents[index];
        assert!(agent.process.is_none(), "it runs");
        let lighter = crate::binary("lighter");
        let mut command = match (&agent.network, at) {
            (None, None) => Command::new(&lighter),
            (None, Some(at)) => at.command("lighter"),
            (Some(network), _) => {
                assert!(at.is_none(), "only an agent in the test's network can be armed");
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg(&lighter);
                command
            }
        };
        command.arg("agent").env("LIGHTER_ROOT", &agent.root).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        agent.process = Some(command.spawn().expect("lighter starts"));
    }

    /// SIGKILLs an agent.
    pub fn kill_agent(&mut self, index: usize) {
        kill(&mut self.agents[index].process);
    }

    /// SIGTERMs an agent and waits for its end.
    pub fn stop_agent(&mut self, index: usize) {
        let ended = stop(&mut self.agents[index].process);
        assert!(ended.success(), "{}", self.log());
    }

    /// Resident memory of an agent, in kB.
    pub fn agent_memory(&self, index: usize) -> u64 {
        self.resident(self.agents[index].process.as_ref().expect("it runs"))
    }

    fn resident(&self, child: &Child) -> u64 {
        let path = format!("{}/status", child.id());
        let status = openat(&self.host.processes, &*path, OFlag::O_RDONLY, Mode::empty());
        let mut text = String::new();
        File::from(status.expect("it runs")).read_to_string(&mut text).expect("its status");
        resident(&text)
    }

    /// Waits until a condition holds; if it does not, tells what the daemons wrote.
    pub fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this many instances are connected.
    pub fn wait_connected(&self, count: usize) {
        self.eventually(&format!("{count} instances are connected"), || {
            let listed = self.boto3(
                "c = client('ecs')\n\
                 try: arns = c.list_container_instances(cluster='default')['containerInstanceArns']\n\
                 except c.exceptions.ClusterNotFoundException: arns = []\n\
                 found = c.describe_container_instances(cluster='default', containerInstances=arns)['containerInstances'] if arns else []\n\
                 answer(sum(i['agentConnected'] for i in found))",
            );
            listed.as_u64() == u64::try_from(count).ok()
        });
    }

    /// The environment of a client.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_ACCESS_KEY_ID", &self.key.0)
            .env("AWS_SECRET_ACCESS_KEY", &self.key.1)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_PAGER", "")
            .env("AWS_MAX_ATTEMPTS", "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HOME", self.host.path(""))
            .stdin(Stdio::null());
        command
    }

    /// The `aws` CLI, version 2.
    pub fn aws(&self, arguments: &[&str]) -> Output {
        let mut command = self.client("/usr/bin/aws");
        command.args(arguments).args(["--endpoint-url", self.endpoint(), "--output", "json"]);
        command.output().expect("the aws CLI is installed")
    }

    /// The `aws` CLI, which must succeed: what it prints, as JSON (null for nothing).
    pub fn aws_ok(&self, arguments: &[&str]) -> Value {
        let output = self.aws(arguments);
        assert!(
            output.status.success(),
            "aws {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Runs Python with the names of `cluster.py`; what it gave to `answer`.
    pub fn boto3(&self, script: &str) -> Value {
        let output = self.python(script);
        assert!(
            output.status.success(),
            "{script}\n{}{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find_map(|line| line.strip_prefix("answer: "));
        last.map_or(Value::Null, |line| serde_json::from_str(line).expect("JSON"))
    }

    /// Stops a task and waits until it has stopped: how it is described then.
    pub fn stop_task(&self, task: &str) -> Value {
        self.boto3(&format!(
            "ecs = client('ecs')\n\
             ecs.stop_task(task='{task}')\n\
             wait(ecs, 'tasks_stopped', tasks=['{task}'])\n\
             answer(ecs.describe_tasks(tasks=['{task}'])['tasks'][0])"
        ))
    }

    /// Runs Python with the names of `cluster.py`.
    pub fn python(&self, script: &str) -> Output {
        let mut command = self.client("python3");
        command.env("PYTHONPATH", crate::workspace().join("tests/python"));
        command.args(["-c", &format!("from cluster import *\n{script}")]);
        command.output().expect("python3 starts")
    }

    /// Runs every test of a file in `tests/python`.
    pub fn check(&self, file: &str) {
        let mut command = self.client("python3");
        command.arg(crate::workspace().join("tests/python").join(file));
        let output = command.output().expect("python3 starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        println!("{text}");
    }

    /// What control plane and agents wrote.
    pub fn log(&self) -> String {
        let mut text = String::new();
        let agents = (0..self.agents.len()).map(|index| format!("agent{index}.log"));
        for name in std::iter::once("control-plane.log".to_owned()).chain(agents) {
            let log = std::fs::read_to_string(self.host.path(&name)).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            text.push_str(&format!("--- {name}\n"));
            for line in tail.iter().rev() {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

fn kill(process: &mut Option<Child>) {
    let mut child = process.take().expect("it runs");
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
}

fn stop(process: &mut Option<Child>) -> ExitStatus {
    let mut child = process.take().expect("it runs");
    terminate(&child);
    child.wait().expect("wait for it")
}

/// Whether a process has ended, which is then taken out.
fn died(process: &mut Option<Child>) -> bool {
    let Some(child) = process else { return false };
    let ended = child.try_wait().expect("it is a child").is_some();
    if ended {
        *process = None;
    }
    ended
}

fn append(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("a log")
}

/// VmRSS of a process status, in kB.
fn resident(status: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
