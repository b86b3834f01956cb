//! Monitors for tests: spawned as the agent spawns them, spoken to over the real wire, and ended
//! by their own pids.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::cmsg_space;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use protocol::monitor::{
    Call, Change, ContainerFacts, Create, Exec, Exit, ExitRecord, Fact, Failure, INDEX_ENTRY,
    IndexEntry, MAX_DATAGRAM, Message, MonitorRecord, Outcome, Overlay, ProcessId, Request,
    SpoolFull, Status, Stream, spool_data, spool_index,
};
use serde_json::json;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until `probe` gives something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + crate::patience(DEADLINE);
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "still waiting for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The runtime's binary: the one with the feature `failpoints` in the directory
/// `LIGHTER_FAILPOINTS` (set by `make test`), or the one that the other tests use.
pub fn binary() -> PathBuf {
    std::env::var_os("LIGHTER_FAILPOINTS").map_or_else(
        || crate::binary("lighter-runtime"),
        |directory| PathBuf::from(directory).join("lighter-runtime"),
    )
}

/// One task directory with a monitor.
#[derive(Debug)]
pub struct Task {
    directory: tempfile::TempDir,
    /// Unique on the host; names cgroups and container ids.
    pub name: String,
    listener: OwnedFd,
    monitors: Vec<Child>,
    /// What the monitor is started with beside the directories.
    pub options: Vec<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
}

impl Task {
    /// Makes the directories and the control socket; starts nothing.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("lighter-monitor-").tempdir()?;
        let name = directory
            .path()
            .file_name()
            .and_then(|name| name.to_str())
            .context("temporary directory without a name")?
            .to_owned();
        fs::create_dir(directory.path().join("t"))?;
        fs::create_dir(directory.path().join("r"))?;
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&directory.path().join("r/monitor.sock"))?)?;
        listen(&listener, Backlog::new(64)?)?;
        Ok(Self {
            directory,
            name,
            listener,
            monitors: Vec::new(),
            options: Vec::new(),
            environment: Vec::new(),
        })
    }

    /// A task whose monitor runs.
    pub fn started() -> Result<Self> {
        let mut task = Self::new()?;
        task.start(&[])?;
        Ok(task)
    }

    /// T.
    pub fn task(&self) -> PathBuf {
        self.directory.path().join("t")
    }

    /// R.
    pub fn run(&self) -> PathBuf {
        self.directory.path().join("r")
    }

    /// Starts a monitor.
    pub fn start(&mut self, more: &[&str]) -> Result<()> {
        let mut command = Command::new(binary());
        // As the agent does: standard input is what a child gets without code before its exec.
        command
            .arg("monitor")
            .arg("--task-dir")
            .arg(self.task())
            .arg("--run-dir")
            .arg(self.run())
            .args(["--listen-fd", "0"])
            .args(&self.options)
            .args(more)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::from(self.listener.try_clone()?));
        self.monitors.push(command.spawn().context("start lighter-runtime monitor")?);
        Ok(())
    }

    /// Whether the newest monitor's first process has ended, and how.
    pub fn monitor_exit(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let monitor = self.monitors.last_mut().context("no monitor was started")?;
        Ok(monitor.try_wait()?)
    }

    /// `R/monitor.json`
    pub fn record(&self) -> Result<MonitorRecord> {
        Ok(serde_json::from_slice(&fs::read(self.run().join("monitor.json"))?)?)
    }

    /// Connects once the monitor serves.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(&self.run().join("monitor.sock"))
    }

    /// `T/exits`
    pub fn exits(&self) -> Vec<ExitRecord> {
        ExitRecord::parse_all(&fs::read_to_string(self.task().join("exits")).unwrap_or_default())
    }

    /// The record of one container, once it is there.
    pub fn exit_of(&self, container: &str) -> Result<Exit> {
        eventually(&format!("exit record of {container}"), || {
            self.exits().into_iter().find(|record| record.container == container)
        })
        .map(|record| record.exit)
    }

    /// Writes a bundle that runs `script` with busybox's shell on an overlay over a layer that has
    /// just that, and returns the request that creates it.
    pub fn bundle(
        &self,
        container: &str,
        script: &str,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Result<Create> {
        let layer = self.directory.path().join("layer");
        if !layer.exists() {
            for directory in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
                fs::create_dir_all(layer.join(directory))?;
            }
            fs::copy("/bin/busybox", layer.join("bin/busybox"))
                .context("copy /bin/busybox; install busybox-static")?;
            fs::set_permissions(layer.join("tmp"), PermissionsExt::from_mode(0o1777))?;
            for name in [
                "sh", "seq", "sleep", "cat", "echo", "stty", "head", "tail", "dd", "kill", "true",
                "false", "yes", "stat", "wc", "id",
            ] {
                std::os::unix::fs::symlink("busybox", layer.join("bin").join(name))?;
            }
        }
        let home = self.task().join(container);
        let bundle = home.join("bundle");
        fs::create_dir_all(&bundle)?;
        let id = format!("{}-{container}", self.name);
        let mut config = json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
                "cgroupsPath": format!("/lighter-test/{}/{container}", self.name),
                "resources": {},
            },
        });
        change(&mut config);
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&config)?)?;
        Ok(Create {
            container: container.to_owned(),
            id,
            bundle,
            overlay: Some(Overlay {
                lower: vec![layer],
                upper: home.join("overlay/upper"),
                work: home.join("overlay/work"),
            }),
            stdin: false,
            spool_limit: 1 << 30,
            spool_full: SpoolFull::Block,
        })
    }

    /// A simple bundle.
    pub fn script(&self, container: &str, script: &str) -> Result<Create> {
        self.bundle(container, script, |_| {})
    }

    /// What a container has written to both streams, and whether a gap is marked.
    pub fn output(&self, container: &str) -> Result<Output> {
        read_spool(&self.task().join(container).join("spool"))
    }

    /// Ends every monitor and container of this task by their own pids, whatever state they are in.
    fn end(&mut self) {
        if let Ok(record) = self.record() {
            for id in [record.guardian, record.worker] {
                end_process(id);
            }
        }
        // A worker that the guardian started after the record was read.
        if let Ok(record) = self.record() {
            end_process(record.worker);
        }
        for entry in fs::read_dir(self.run().join("containers")).into_iter().flatten().flatten() {
            let record: Option<serde_json::Value> = fs::read(entry.path().join("record.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if let Some(init) = record
                .and_then(|record| serde_json::from_value::<ProcessId>(record["init"].clone()).ok())
            {
                end_process(init);
            }
        }
        for monitor in &mut self.monitors {
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
        let groups = self.cgroups();
        let _ = eventually("cgroups of the test to empty", || {
            groups.iter().all(|path| !path.exists() || remove_cgroup(path).is_ok()).then_some(())
        });
        for parent in groups.iter().filter_map(|path| path.parent()) {
            // The last test's turn: while another runs, it is not empty.
            let _ = fs::remove_dir(parent);
        }
    }

    /// The task's cgroup directories that exist.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4))
            .map(|mount| Path::new(mount).join("lighter-test").join(&self.name))
            .filter(|path| path.exists())
            .collect()
    }
}

fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

impl Drop for Task {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = fs::read_to_string(self.run().join("monitor.log"))
        {
            let _ = write!(std::io::stderr(), "--- monitor.log\n{log}---\n");
        }
        self.end();
    }
}

/// Field 22 of `/proc/<pid>/stat`, and the state.
fn stat(pid: i32) -> Option<(u64, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.to_owned();
    Some((fields.nth(18)?.parse().ok()?, state))
}

/// Whether this very process runs (a zombie does not).
pub fn lives(id: ProcessId) -> bool {
    stat(id.pid).is_some_and(|(start, state)| start == id.start_time && state != "Z")
}

/// SIGKILL to this very process.
pub fn end_process(id: ProcessId) {
    if lives(id) {
        let _ = kill(Pid::from_raw(id.pid), Signal::SIGKILL);
    }
}

/// What a spool holds.
#[derive(Debug, Default, Clone)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub gap: bool,
    pub segments: usize,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Reads a spool as the format's documentation says.
pub fn read_spool(spool: &Path) -> Result<Output> {
    let mut numbers: Vec<u32> = fs::read_dir(spool)
        .with_context(|| spool.display().to_string())?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut output = Output { segments: numbers.len(), ..Output::default() };
    for number in numbers {
        let data = fs::read(spool_data(spool, number))?;
        let index = fs::read(spool_index(spool, number))?;
        let entries: Vec<IndexEntry> = index
            .chunks_exact(INDEX_ENTRY)
            .map(|bytes| IndexEntry::from_bytes(bytes).context("damaged index entry"))
            .collect::<Result<_>>()?;
        ensure!(
            data.is_empty() || entries.first().is_some_and(|first| first.offset == 0),
            "bytes without an entry"
        );
        for (position, entry) in entries.iter().enumerate() {
            output.gap |= entry.gap;
            let end = entries
                .get(position + 1)
                .map_or(data.len(), |next| usize::try_from(next.offset).unwrap_or(usize::MAX))
                .min(data.len());
            let start = usize::try_from(entry.offset)?.min(end);
            match entry.stream {
                Stream::Stdout => output.stdout.extend_from_slice(&data[start..end]),
                Stream::Stderr => output.stderr.extend_from_slice(&data[start..end]),
            }
        }
    }
    Ok(output)
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    next: u64,
    /// Events that came while an answer was awaited.
    pub events: VecDeque<(u64, Change)>,
}

impl Client {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Self> {
        let socket =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(20))?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self { socket, next: 1, events: VecDeque::new() })
    }

    /// Sends any bytes and descriptors.
    pub fn send_raw(&self, bytes: &[u8], descriptors: &[RawFd]) -> Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// Receives one message; an error if the monitor is gone.
    pub fn receive(&self) -> Result<(Message, Option<OwnedFd>)> {
        let mut bytes = vec![0; MAX_DATAGRAM];
        let mut space = cmsg_space!([RawFd; 4]);
        let (count, descriptor) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )?;
            let mut descriptor = None;
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    for number in numbers {
                        #[allow(unsafe_code)]
                        // SAFETY: the kernel has just made this descriptor for us alone.
                        let owned = unsafe { OwnedFd::from_raw_fd(number) };
                        descriptor = Some(owned);
                    }
                }
            }
            (received.bytes, descriptor)
        };
        ensure!(count > 0, "the monitor closed the connection");
        Ok((serde_json::from_slice(&bytes[..count])?, descriptor))
    }

    /// Sends a call; returns its id.
    pub fn send(&mut self, call: &Call, descriptors: &[RawFd]) -> Result<u64> {
        let id = self.next;
        self.next += 1;
        let request = Request { id, call: call.clone() };
        self.send_raw(&serde_json::to_vec(&request)?, descriptors)?;
        Ok(id)
    }

    /// Waits for the answer to `id`, keeping events.
    pub fn answer(&mut self, id: u64) -> Result<(Outcome, Option<OwnedFd>)> {
        loop {
            match self.receive()? {
                (Message::Answer { id: other, result }, descriptor) if other == id => {
                    return Ok((result, descriptor));
                }
                (Message::Event { sequence, change }, _) => {
                    self.events.push_back((sequence, change));
                }
                (other, _) => bail!("unexpected message {other:?}"),
            }
        }
    }

    /// A call and its fact.
    pub fn call(&mut self, call: &Call) -> Result<Fact> {
        let id = self.send(call, &[])?;
        match self.answer(id)?.0 {
            Outcome::Done(fact) => Ok(fact),
            Outcome::Failed(failure) => bail!("{call:?} failed: {failure:?}"),
        }
    }

    /// A call that must fail.
    pub fn refused(&mut self, call: &Call) -> Result<Failure> {
        let id = self.send(call, &[])?;
        match self.answer(id)?.0 {
            Outcome::Done(fact) => bail!("{call:?} succeeded: {fact:?}"),
            Outcome::Failed(failure) => Ok(failure),
        }
    }

    /// A call that answers a container's facts.
    pub fn container(&mut self, call: &Call) -> Result<ContainerFacts> {
        match self.call(call)? {
            Fact::Container(facts) => Ok(facts),
            other => bail!("not a container's facts: {other:?}"),
        }
    }

    /// Creates and starts.
    pub fn run(&mut self, create: &Create) -> Result<ContainerFacts> {
        self.container(&Call::Create(create.clone()))?;
        self.container(&Call::Start { container: create.container.clone() })
    }

    /// The next event.
    pub fn event(&mut self) -> Result<(u64, Change)> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        match self.receive()? {
            (Message::Event { sequence, change }, _) => Ok((sequence, change)),
            (other, _) => bail!("not an event: {other:?}"),
        }
    }

    /// Reads events until a container has stopped; this connection subscribes.
    pub fn stopped(&mut self, container: &str) -> Result<ContainerFacts> {
        if let Fact::State { containers, .. } = self.call(&Call::Subscribe)?
            && let Some(facts) = containers
                .into_iter()
                .find(|facts| facts.container == container && facts.status == Status::Stopped)
        {
            return Ok(facts);
        }
        loop {
            if let (_, Change::Container(facts)) = self.event()?
                && facts.container == container
                && facts.status == Status::Stopped
            {
                return Ok(facts);
            }
        }
    }

    /// Runs a process in a container; returns its pid and terminal.
    pub fn exec(&mut self, exec: &Exec, stdio: &[&File]) -> Result<(i32, Option<OwnedFd>)> {
        let numbers: Vec<RawFd> = stdio.iter().map(|file| file.as_raw_fd()).collect();
        let id = self.send(&Call::Exec(exec.clone()), &numbers)?;
        match self.answer(id)? {
            (Outcome::Done(Fact::Exec { pid, .. }), terminal) => Ok((pid, terminal)),
            (other, _) => bail!("exec: {other:?}"),
        }
    }

    /// Reads events until an exec has ended.
    pub fn exec_exit(&mut self, exec: &str) -> Result<Exit> {
        loop {
            if let (_, Change::ExecExited { exec: name, exit, .. }) = self.event()?
                && name == exec
            {
                return Ok(exit);
            }
        }
    }
}

/// The `process` of an exec.
pub fn process(container: &str, exec: &str, script: &str, terminal: bool) -> Exec {
    Exec {
        container: container.to_owned(),
        exec: exec.to_owned(),
        process: json!({
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        }),
    }
}
