//! containerd, Podman and Docker behind the same few verbs, each with the runtime under test.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};
use tests::bundle::runtime;
use tests::host::TestHost;
use tests::image::{Entry, Image, Layer, Tar};

use super::world::World;

/// What the engines call the image.
const IMAGE: &str = "localhost/busybox:latest";

/// How long a client may take, and a condition to come true.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Containerd,
    Podman,
    Docker,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Docker => "docker",
        })
    }
}

/// An engine that runs in a world of its own.
pub(super) struct Caller {
    pub(super) kind: Kind,
    pub(super) world: World,
    /// Options of every client.
    client: Vec<String>,
    names: AtomicU32,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Outcome {
    /// Standard output, trimmed, of a command that must have succeeded.
    pub(super) fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "{self:?}");
        Ok(self.out.trim().to_owned())
    }
}

impl Caller {
    /// Starts the engine, and gives it the image.
    ///
    /// `remapped`: Docker gives every container a user namespace.
    pub(super) fn start(kind: Kind, remapped: bool) -> Self {
        let world = World::new();
        let client = match kind {
            Kind::Containerd => containerd(&world.host),
            Kind::Podman => podman(&world.host),
            Kind::Docker => {
                containerd(&world.host);
                docker(&world.host, remapped)
            }
        };
        let caller = Self { kind, world, client, names: AtomicU32::new(0) };
        let ready = within(PATIENCE, || {
            let verb: &[&str] = if kind == Kind::Podman { &["info"] } else { &["version"] };
            (caller.call(verb).code == 0).then_some(())
        });
        assert!(ready.is_some(), "{kind} does not answer: {}", caller.daemon_log());
        let archive = caller.path("image.tar");
        fs::write(&archive, image().docker_archive(&[IMAGE])).unwrap();
        let archive = archive.display().to_string();
        let loaded = match kind {
            Kind::Containerd => caller.call(&["image", "import", &archive]),
            _ => caller.call(&["load", "-i", &archive]),
        };
        assert_eq!(loaded.code, 0, "{loaded:?}");
        caller
    }

    /// A path in the test's directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.world.host.path(name)
    }

    /// What the daemons wrote.
    pub(super) fn daemon_log(&self) -> String {
        ["containerd.log", "dockerd.log"]
            .map(|name| fs::read_to_string(self.path(name)).unwrap_or_default())
            .concat()
    }

    /// A name that no container has had.
    pub(super) fn name(&self) -> String {
        format!("c{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// A client that is ended when it hangs.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", &PATIENCE.as_secs().to_string()]);
        command.args(&self.client).args(words).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command.env("HOME", self.path("")).env("CONTAINERS_CONF", self.path("containers.conf"));
    }

    /// Runs a client to its end.
    pub(super) fn call(&self, words: &[&str]) -> Outcome {
        outcome(&mut self.command(words))
    }

    /// Runs a client to its end, with this input.
    pub(super) fn call_with(&self, words: &[&str], input: &str) -> Outcome {
        let path = self.path(&self.name());
        fs::write(&path, input).unwrap();
        outcome(self.command(words).stdin(File::open(path).unwrap()))
    }

    /// A client on a terminal of this size; the client and the terminal's other end.
    pub(super) fn on_terminal(
        &self,
        words: &[&str],
        (rows, columns): (u16, u16),
    ) -> (std::process::Child, File) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(&size, None).unwrap();
        let end = |file: &std::os::fd::OwnedFd| Stdio::from(file.try_clone().unwrap());
        let mut command = Command::new(&self.client[0]);
        command.args(&self.client[1..]).args(words);
        self.environment(&mut command);
        command.stdin(end(&ends.slave)).stdout(end(&ends.slave)).stderr(end(&ends.slave));
        (command.spawn().unwrap(), File::from(ends.master))
    }

    /// The words of a client that runs a container.
    pub(super) fn run_words(
        &self,
        name: &str,
        more: &[&str],
        options: &[String],
        command: &[&str],
    ) -> Vec<String> {
        let mut words = vec!["run".to_owned()];
        words.extend(more.iter().map(|&word| word.to_owned()));
        match self.kind {
            Kind::Containerd => {
                let root = self.path("runtime").display().to_string();
                let runtime = absolute_runtime().display().to_string();
                words.extend(["--runc-binary", &runtime, "--runc-root", &root].map(str::to_owned));
                words.extend_from_slice(options);
                words.extend([IMAGE, name].map(str::to_owned));
            }
            Kind::Podman | Kind::Docker => {
                if !options.iter().any(|option| option.starts_with("--network")) {
                    words.extend(["--network", "none"].map(str::to_owned));
                }
                words.extend(["--name", name].map(str::to_owned));
                words.extend_from_slice(options);
                words.push(IMAGE.to_owned());
            }
        }
        words.extend(command.iter().map(|&word| word.to_owned()));
        words
    }

    /// Runs a container in the foreground to its end.
    pub(super) fn run(&self, options: &str, command: &[&str]) -> Outcome {
        let words = self.run_words(&self.name(), &["--rm"], &self.options(options), command);
        self.call(&strs(&words))
    }

    /// Splits options at spaces, and fills in what the test alone knows.
    pub(super) fn options(&self, options: &str) -> Vec<String> {
        let directory = self.path("").display().to_string();
        let options = options.replace("{dir}", directory.trim_end_matches('/'));
        options.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// Starts a container in the background.
    pub(super) fn detach(&self, options: &str, command: &[&str]) -> Result<Container<'_>> {
        let container = Container { caller: self, name: self.name() };
        let log = format!("file://{}", container.log_path().display());
        let more: &[&str] = match self.kind {
            Kind::Containerd => &["-d", "--log-uri", &log],
            _ => &["-d"],
        };
        let words = self.run_words(&container.name, more, &self.options(options), command);
        self.call(&strs(&words)).ok().context("start in the background")?;
        Ok(container)
    }

    /// A background container with a shell script.
    pub(super) fn script(&self, options: &str, script: &str) -> Result<Container<'_>> {
        self.detach(options, &["sh", "-c", script])
    }
}

/// A container that runs in the background; removed when dropped.
pub(super) struct Container<'a> {
    pub(super) caller: &'a Caller,
    pub(super) name: String,
}

impl Container<'_> {
    fn is_ctr(&self) -> bool {
        self.caller.kind == Kind::Containerd
    }

    fn log_path(&self) -> PathBuf {
        self.caller.path(&format!("{}.log", self.name))
    }

    /// Calls the engine on this container: its verb, options and words after the name.
    pub(super) fn call(&self, verb: &[&str], words: &[&str]) -> Outcome {
        let scope: &[&str] = if self.is_ctr() { &["task"] } else { &[] };
        self.caller.call(&[scope, verb, &[self.name.as_str()], words].concat())
    }

    /// Runs a further process in the foreground.
    pub(super) fn exec(&self, options: &str, command: &[&str]) -> Outcome {
        let exec_id = self.caller.name();
        let mut verb = vec!["exec"];
        if self.is_ctr() {
            verb.extend(["--exec-id", &exec_id]);
        }
        verb.extend(options.split_ascii_whitespace());
        self.call(&verb, command)
    }

    /// The engine's document of the container.
    pub(super) fn inspect(&self) -> Result<Value> {
        let text = self.call(&["inspect"], &[]).ok()?;
        Ok(serde_json::from_str::<Value>(&text)?[0].clone())
    }

    /// Status as the engine says it, in lower case, with containerd's word for an end.
    pub(super) fn status(&self) -> Result<String> {
        Ok(if self.is_ctr() {
            let list = self.caller.call(&["task", "ls"]).ok()?;
            let row = list.lines().find(|line| line.split_whitespace().next() == Some(&self.name));
            row.and_then(|row| row.split_whitespace().nth(2)).unwrap_or("none").to_lowercase()
        } else {
            let status = self.inspect()?["State"]["Status"].as_str().unwrap_or("none").to_owned();
            if status == "exited" { "stopped".to_owned() } else { status }
        })
    }

    /// Pid of its first process, in the world.
    pub(super) fn pid(&self) -> Result<u32> {
        if self.is_ctr() {
            let list = self.caller.call(&["task", "ls"]).ok()?;
            let row = list.lines().find(|line| line.split_whitespace().next() == Some(&self.name));
            let pid = row.and_then(|row| row.split_whitespace().nth(1)).context("no such task")?;
            return Ok(pid.parse()?);
        }
        let inspect = self.inspect()?;
        Ok(u32::try_from(inspect["State"]["Pid"].as_u64().context("no pid")?)?)
    }

    pub(super) fn kill(&self, signal: &str) -> Result<()> {
        self.call(&["kill", "-s", signal], &[]).ok().map(|_| ())
    }

    pub(super) fn pause(&self) -> Result<()> {
        self.call(&["pause"], &[]).ok().map(|_| ())
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.call(&[if self.is_ctr() { "resume" } else { "unpause" }], &[]).ok().map(|_| ())
    }

    /// Waits for its end: the exit code.
    pub(super) fn wait(&self) -> Result<i32> {
        if self.is_ctr() {
            let stopped = || (self.status().ok()? == "stopped").then_some(());
            within(PATIENCE, stopped).with_context(|| format!("it is {:?}", self.status()))?;
            // The code is in a warning, if it is not 0.
            let deleted = self.call(&["delete"], &[]);
            let last = deleted.err.rsplit("exit code ").next().unwrap_or_default();
            let digits = last.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            return Ok(digits.parse().unwrap_or(deleted.code));
        }
        Ok(self.call(&["wait"], &[]).ok()?.parse()?)
    }

    /// Output so far, both streams.
    pub(super) fn logs(&self) -> String {
        if self.is_ctr() {
            return fs::read_to_string(self.log_path()).unwrap_or_default();
        }
        let logs = self.call(&["logs"], &[]);
        format!("{}{}", logs.out, logs.err)
    }

    /// Waits until the output contains a word.
    pub(super) fn wait_log(&self, word: &str) -> Result<()> {
        within(PATIENCE, || self.logs().contains(word).then_some(()))
            .with_context(|| format!("no {word:?} in {:?}", self.logs()))
    }

    /// The value of a file of its cgroup.
    pub(super) fn cgroup(&self, file: &str) -> Result<String> {
        Ok(self.caller.world.cgroup_file(self.pid()?, file))
    }

    /// Removes it, running or not.
    pub(super) fn remove(&self) -> Result<()> {
        if self.is_ctr() {
            self.call(&["delete", "-f"], &[]);
            return self.caller.call(&["container", "delete", &self.name]).ok().map(|_| ());
        }
        self.call(&["rm", "-f", "-v"], &[]).ok().map(|_| ())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // The test may have removed it, or has failed already.
        let _ = self.remove();
    }
}

/// Asks until there is an answer or patience ends; with pauses, for clients are large programs.
pub(super) fn within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The words as a client takes them.
pub(super) fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Output goes through files: shims keep pipes open.
fn outcome(command: &mut Command) -> Outcome {
    let mut files = [0; 2].map(|_| tempfile::tempfile().unwrap());
    let [out, err] = &files;
    let status =
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap()).status().unwrap();
    let [out, err] = files.each_mut().map(|file| {
        use std::io::{Read as _, Seek as _};
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Outcome { code: status.code().unwrap_or(-1), out, err }
}

/// The runtime under test; engines want to know where it is.
pub(super) fn absolute_runtime() -> PathBuf {
    let runtime = runtime();
    if runtime.is_absolute() {
        return runtime;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join(&runtime))
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{} is not in PATH", runtime.display()))
}

/// Starts a daemon whose output goes to a file.
fn daemon(host: &TestHost, name: &str, command: &mut Command) {
    let log = File::create(host.path(&format!("{name}.log"))).unwrap();
    let started = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn();
    // It ends with the world, which reaps it.
    drop(started.unwrap_or_else(|error| panic!("{name}: {error}: run .ci/setup test")));
}

/// Starts containerd without its Kubernetes side; the client.
fn containerd(host: &TestHost) -> Vec<String> {
    let path = |name: &str| host.path(name).display().to_string();
    let socket = path("containerd.sock");
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n",
        path("containerd"),
        path("containerd-state"),
    );
    fs::write(host.path("containerd.toml"), config).unwrap();
    let file = path("containerd.toml");
    daemon(host, "containerd", Command::new("containerd").args(["--config", &file]));
    ["ctr", "--address", &socket].map(str::to_owned).into()
}

/// The client; Podman has no daemon.
fn podman(host: &TestHost) -> Vec<String> {
    let path = |name: &str| host.path(name).display().to_string();
    let config = format!(
        "[network]\nnetwork_backend = \"netavark\"\n\
         [containers]\ninit_path = \"/usr/bin/tini-static\"\n{}",
        tests::podman::ENGINE
    );
    fs::write(host.path("containers.conf"), config).unwrap();
    let runtime = absolute_runtime().display().to_string();
    let options = [
        ("root", path("podman")),
        ("runroot", path("podman-run")),
        ("tmpdir", path("podman-tmp")),
        ("runtime", runtime),
        ("cgroup-manager", "cgroupfs".to_owned()),
        ("events-backend", "file".to_owned()),
    ];
    let options = options.map(|(name, value)| format!("--{name}={value}"));
    ["podman".to_owned()].into_iter().chain(options).collect()
}

/// Starts Docker's daemon on the running containerd; the client. `.ci/setup` unpacks Debian's
/// package, for installed it would start a service.
fn docker(host: &TestHost, remapped: bool) -> Vec<String> {
    let package = tests::workspace().join("target/peers/docker");
    let path = |name: &str| host.path(name).display().to_string();
    let socket = format!("unix://{}", path("docker.sock"));
    let config = json!({"deprecated-key-path": path("docker-key.json")}).to_string();
    fs::write(host.path("docker.json"), config).unwrap();
    let mut command = Command::new(package.join("usr/sbin/dockerd"));
    command
        .args(["--config-file", &path("docker.json"), "--containerd", &path("containerd.sock")])
        .args(["--data-root", &path("docker"), "--exec-root", &path("docker-run")])
        .args(["--pidfile", &path("docker.pid"), "--host", &socket])
        .args(["--bridge=none", "--iptables=false", "--init-path=/usr/bin/tini-static"])
        .arg(format!("--add-runtime=tested={}", absolute_runtime().display()))
        .arg("--default-runtime=tested")
        .env("HOME", host.path(""));
    if remapped {
        command.arg("--userns-remap=nobody:nogroup");
    }
    daemon(host, "dockerd", &mut command);
    let client = package.join("usr/bin/docker").display().to_string();
    vec![client, "--host".to_owned(), socket]
}

/// Debian's static busybox, two users, and what a program may be that cannot be run.
fn image() -> Image {
    let busybox = fs::read("/bin/busybox").unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    let program = Entry { name: "bin/busybox", mode: 0o755, data: &busybox, ..Entry::default() };
    let mut tar = Tar::new().directory("bin").directory("etc").directory("home").entry(&program);
    tar = tar.entry(&Entry { kind: b'5', name: "tmp", mode: 0o1777, ..Entry::default() });
    for applet in String::from_utf8_lossy(&list).split_whitespace() {
        if applet != "busybox" {
            tar = tar.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    let users = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home:/bin/sh\n";
    let groups = "root:x:0:\nweb:x:1000:\nextra:x:77:web\n";
    let tar = tar.file("etc/passwd", users.as_bytes()).file("etc/group", groups.as_bytes());
    let tar = tar.file("bin/not-executable", b"#!/bin/sh\n").entry(&Entry {
        name: "bin/garbage",
        mode: 0o755,
        data: b"\x01\x02",
        ..Entry::default()
    });
    let mut image = Image::new(vec![Layer::plain(&tar)]);
    image.config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    image
}

/// The text of a file.
pub(super) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
