//! The loops over fail points: the scenario of `points.py` is played, the armed daemon kills itself at
//! the n-th time that it comes by a point and is started again, and the outcome is that of the
//! uninterrupted scenario.
//!
//! `n` counts 1, 2, 3, 5, 8, … until the point no longer fires, so that a point that each commit
//! comes by is tried at early and late ones alike. Needs daemons built with the feature
//! `failpoints`; without them nothing fires, and each point's scenario runs once, uninterrupted.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use tests::cluster::{Cluster, FailPoint};

/// How long one play may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at whether a daemon has died, in milliseconds.
const LOOK: u8 = 5;
/// The n's of a point.
const HITS: [u32; 7] = [1, 2, 3, 5, 8, 13, 21];

/// Which daemon is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Agent,
    ControlPlane,
}

/// A cluster, the player of its scenario, and what does not change.
struct Stage {
    cluster: Cluster,
    player: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    plays: u32,
    /// Of the uninterrupted play.
    outcome: Value,
    state: String,
    /// Id and pid of a container that runs all the time.
    keeper: (String, i64),
    /// Whether plays have a service.
    service: bool,
}

impl Stage {
    fn new(service: bool) -> Self {
        let cluster = Cluster::joined();
        let role =
            cluster.control_plane(&["role", "create", "reader", "--allow", "ecs:List*"]).output();
        assert!(role.expect("it starts").status.success());
        let keeper = super::run(&cluster, "echo up; exec sleep 100000");
        super::wait(&cluster, "tasks_running", std::slice::from_ref(&keeper));
        let keeper = keeper.rsplit('/').next().expect("an id").to_owned();
        let pid = cluster.host.inspect(&keeper)["containers"][0]["pid"].as_i64().expect("a pid");
        let mut command = cluster.client("python3");
        command.arg(tests::workspace().join("tests/python/points.py"));
        command.env("NOTES", super::notes(&cluster)).stdin(Stdio::piped()).stdout(Stdio::piped());
        let log = std::fs::File::create(cluster.host.path("player.log")).expect("a log");
        let mut player = command.stderr(log).spawn().expect("python3 starts");
        let orders = player.stdin.take().expect("a pipe");
        let answers = BufReader::new(player.stdout.take().expect("a pipe"));
        let mut stage = Self {
            cluster,
            player,
            orders,
            answers,
            plays: 0,
            outcome: Value::Null,
            state: String::new(),
            keeper: (keeper, pid),
            service,
        };
        stage.answer("the player starts", |_| ());
        stage.outcome = stage.play("uninterrupted", |_| ());
        assert_eq!(
            stage.outcome,
            json!({
                "ends": ["STOPPED", "EssentialContainerExited", "Essential container in task exited", 3],
                "stays": ["STOPPED", "UserInitiated", "enough", 4],
            })
        );
        stage.state = stage.settled(None);
        stage
    }

    /// Plays the scenario; `watch` is called every now and then meanwhile.
    fn play(&mut self, what: &str, watch: impl FnMut(&mut Cluster)) -> Value {
        self.plays += 1;
        let service = if self.service { "service" } else { "none" };
        let order = format!("play{} {service}\n", self.plays);
        self.orders.write_all(order.as_bytes()).expect("the player lives");
        self.answer(what, watch)
    }

    fn answer(&mut self, what: &str, mut watch: impl FnMut(&mut Cluster)) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut ready = [PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(LOOK)).expect("poll") > 0 {
                break;
            }
            watch(&mut self.cluster);
            assert!(Instant::now() < deadline, "{what}: not played\n{}", self.told());
        }
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("text");
        let answer = line.strip_prefix("answer: ").and_then(|text| serde_json::from_str(text).ok());
        answer.unwrap_or_else(|| panic!("{what}: {line}\n{}", self.told()))
    }

    /// What the player and the daemons wrote.
    fn told(&self) -> String {
        let player = std::fs::read_to_string(self.cluster.host.path("player.log"));
        format!("{}\n{}", player.unwrap_or_default(), self.cluster.log())
    }

    /// What the host has once nothing is under way: as expected, or whatever it is then.
    fn settled(&self, expected: Option<&str>) -> String {
        let mut state = self.cluster.host.state();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut since = Instant::now();
        loop {
            let done = match expected {
                Some(expected) => state == expected,
                None => since.elapsed() > Duration::from_secs(1),
            };
            if done || Instant::now() > deadline {
                return state;
            }
            std::thread::sleep(Duration::from_millis(100));
            let now = self.cluster.host.state();
            if now != state {
                (state, since) = (now, Instant::now());
            }
        }
    }

    /// Plays with a daemon that kills itself at this point; whether it did.
    fn play_with(&mut self, daemon: Daemon, at: &FailPoint) -> bool {
        match daemon {
            Daemon::Agent => {
                self.cluster.kill_agent(0);
                self.cluster.arm_agent(0, at);
            }
            Daemon::ControlPlane => {
                self.cluster.kill_control_plane();
                self.cluster.arm_control_plane(at);
            }
        }
        let mut fired = false;
        let what = format!("{daemon:?} killed at {}, hit {}", at.name, at.hit);
        let outcome = self.play(&what, |cluster| match daemon {
            Daemon::Agent if cluster.agent_died(0) => {
                fired = true;
                cluster.start_agent(0);
            }
            Daemon::ControlPlane if cluster.control_plane_died() => {
                fired = true;
                cluster.start_control_plane();
            }
            _ => {}
        });
        assert_eq!(outcome, self.outcome, "{what}\n{}", self.told());
        fired
    }

    /// The loop. Whatever happened, the host is as it was and what ran runs.
    fn all(&mut self, daemon: Daemon, points: &[&str]) {
        let (mut kills, mut silent) = (0, Vec::new());
        for point in points {
            let started = Instant::now();
            let mut fired = 0;
            for hit in HITS {
                let at = FailPoint { name: (*point).to_owned(), hit };
                if !self.play_with(daemon, &at) {
                    break;
                }
                fired += 1;
            }
            let state = self.settled(Some(&self.state));
            assert_eq!(state, self.state, "{point}\n{}", self.told());
            let (id, pid) = &self.keeper;
            let found = self.cluster.host.inspect(id);
            assert_eq!(found["containers"][0]["pid"], *pid, "{point}: {found}");
            assert!(self.cluster.host.is_alive(*pid), "{point}");
            println!("{point}: {fired} kills, {:.1} s", started.elapsed().as_secs_f64());
            kills += fired;
            if fired == 0 {
                silent.push(*point);
            }
        }
        println!("{kills} kills at {} points", points.len());
        assert!(!FailPoint::are_there() || silent.is_empty(), "never fired: {silent:?}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The host's end takes it along in any case.
        let _ = self.player.kill();
        let _ = self.player.wait();
    }
}

/// As without fail points each point is the same uninterrupted play, one is enough.
fn tried<'a>(points: &'a [&'a str]) -> &'a [&'a str] {
    if FailPoint::are_there() { points } else { &points[..1] }
}

fn agent(points: &[&str]) {
    Stage::new(false).all(Daemon::Agent, tried(points));
}

fn control_plane(points: &[&str], service: bool) {
    Stage::new(service).all(Daemon::ControlPlane, tried(points));
}

#[test]
fn the_control_plane_dies_at_its_commits() {
    control_plane(&["commit.before", "commit.after", "commit.published"], false);
}

#[test]
fn the_control_plane_dies_at_its_calls_and_logs() {
    control_plane(&["call.before", "call.after", "events.before", "events.stored"], false);
}

#[test]
fn the_control_plane_dies_in_its_sessions() {
    let points = [
        "session.claimed",
        "session.manifest",
        "credentials.before",
        "credentials.stored",
        "payload.before",
        "payload.sent",
        "ack.before",
        "ack.stored",
    ];
    control_plane(&points, false);
}

#[test]
fn the_control_plane_dies_while_it_plans() {
    control_plane(&["plan.before", "plan.applied"], true);
}

#[test]
fn the_agent_dies_at_its_commits() {
    agent(&["commit.before", "commit.after", "turn.answered"]);
}

#[test]
fn the_agent_dies_while_it_starts_tasks() {
    let points = [
        "payload.before",
        "payload.stored",
        "session.answered",
        "pull.before",
        "pull.after",
        "resources.before",
        "resources.directories",
        "resources.cgroup",
        "resources.monitor",
        "resources.network",
        "resources.after",
    ];
    agent(&points);
}

#[test]
fn the_agent_dies_while_it_starts_containers() {
    let points = [
        "create.before",
        "create.prepared",
        "create.monitor",
        "create.after",
        "start.before",
        "start.after",
        "signal.before",
        "signal.after",
    ];
    agent(&points);
}

#[test]
fn the_agent_dies_while_it_ends_tasks() {
    let points = [
        "release.before",
        "release.metadata",
        "release.monitor",
        "release.network",
        "release.cgroup",
        "release.after",
    ];
    agent(&points);
}

#[test]
fn the_agent_dies_while_it_reports() {
    let points = [
        "report.before",
        "report.sent",
        "report.marked",
        "upload.before",
        "upload.put",
        "upload.cursor",
        "ship.log",
        "ship.cursor",
    ];
    agent(&points);
}

#[test]
fn the_agent_dies_while_it_removes_a_task() {
    let mut stage = Stage::new(false);
    let listed = stage.cluster.host.ok(&["ps", "--all", "--quiet", "--no-trunc"]);
    let stopped = |task: &&str| stage.cluster.host.inspect(task)["lastStatus"] == "STOPPED";
    let tasks: Vec<String> = listed.lines().filter(stopped).map(str::to_owned).collect();
    for (point, task) in ["remove.before", "remove.after"].into_iter().zip(tasks) {
        let files = stage.cluster.host.task_directory(&task);
        assert!(files.exists());
        stage.cluster.kill_agent(0);
        stage.cluster.arm_agent(0, &FailPoint { name: point.to_owned(), hit: 1 });
        let (mut fired, mut asked) = (false, false);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if stage.cluster.agent_died(0) {
                fired = true;
                stage.cluster.start_agent(0);
            }
            // The socket itself: a command would start an agent where there is none.
            if stage.cluster.host.agent_pid().is_some() {
                let answer = stage.cluster.host.sh(&format!(
                    "curl -s -o /dev/null -w '%{{http_code}}' -X DELETE --unix-socket {} http://agent/v1/tasks/{task}",
                    stage.cluster.host.root().join("run/lighter/agent.sock").display()
                ));
                asked |= answer.starts_with('2');
                if answer == "404" {
                    break;
                }
            }
            assert!(Instant::now() < deadline, "{point}\n{}", stage.told());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(asked || fired, "{point}: {task} went by itself");
        assert!(fired || !FailPoint::are_there(), "{point} never fired");
        stage.cluster.host.eventually("its files are gone", || !files.exists());
    }
    let outcome = stage.play("after removals", |_| ());
    assert_eq!(outcome, stage.outcome);
}

/// Killed at any moment of its first registration, the host is one instance.
#[test]
fn the_agent_dies_while_it_joins() {
    let mut cluster = Cluster::new();
    for point in ["register.before", "register.answered", "register.saved"] {
        let name = point.replace('.', "-");
        cluster.boto3(&format!("client('ecs').create_cluster(clusterName='{name}')"));
        let index = cluster.prepare_agent(&name, &[("ECS_CLUSTER", &name)]);
        cluster.arm_agent(index, &FailPoint { name: point.to_owned(), hit: 1 });
        if FailPoint::are_there() {
            let deadline = Instant::now() + PATIENCE;
            while !cluster.agent_died(index) {
                assert!(Instant::now() < deadline, "{point} does not fire\n{}", cluster.log());
                std::thread::sleep(Duration::from_millis(5));
            }
            cluster.start_agent(index);
        }
        let instances = cluster.boto3(&format!(
            "ecs = client('ecs')\n\
             def instances():\n    \
                 arns = ecs.list_container_instances(cluster='{name}')['containerInstanceArns']\n    \
                 return ecs.describe_container_instances(cluster='{name}', containerInstances=arns)['containerInstances'] if arns else []\n\
             eventually('it is connected', lambda: any(i['agentConnected'] for i in instances()))\n\
             answer(len(instances()))"
        ));
        assert_eq!(instances, 1, "{point}\n{}", cluster.log());
        cluster.kill_agent(index);
    }
}
