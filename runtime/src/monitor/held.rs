//! One container as the worker holds it: how it is made, taken over, drained and removed.
//!
//! `R/containers/<name>/record.json` says how far it came:
//!
//! ```text
//! (1) record without init     what a killed worker leaves here is rolled back by the next
//! (2) overlay, FIFOs          read ends deposited with the guardian before anyone can write
//! (3) runtime create          the init waits, the user's program has not run
//! (4) terminal deposited
//! (5) record with init        from here on the container exists; answered
//! (6) start, record with start time
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use protocol::error::chain;
use protocol::monitor::{
    ContainerFacts, Create, Exec, Exit, Failure, FailureKind, ProcessId, Status, Stream,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::configuration::Configuration;
use super::deposit::{Guardian, Store, Word};
use super::journal;
use super::process::{self, Ended};
use super::serve::invalid;
use super::spool::{self, Spool, Taken};
use super::user::User;
use super::{oom, overlay};
use crate::container::{self, Container, Stdio};
use crate::rootless::Rootless;
use crate::{failpoint, spec};

/// Bytes a FIFO holds: output of a second or so while no worker lives.
const PIPE: usize = 1 << 20;
/// Bytes taken from a terminal at once; the most that SIGKILL can lose there.
const TERMINAL: usize = 4096;
/// Bytes drained from a terminal at the end; a pty holds far less.
const TERMINAL_MOST: usize = 256 << 10;
/// Ended processes of `exec` remembered per container, so that a repeated request finds its end.
pub(super) const ENDED_EXECS: usize = 32;
/// Longest name of a container or an exec: a file name.
const NAME: usize = 255;

/// What R remembers of a container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) create: Create,
    /// Process numbers mean something in this boot only.
    pub(super) boot_id: String,
    pub(super) init: Option<ProcessId>,
    pub(super) started_at: Option<u64>,
}

/// The end of the container's init, and how far its handling came.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) exit: Exit,
    /// Whether `T/exits` has it. Until then the zombie is the record.
    pub(super) recorded: bool,
}

/// A container.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) record: Record,
    pub(super) init: ProcessId,
    pub(super) spool: Spool,
    /// Open until the end is recorded and the zombie reaped.
    pub(super) pidfd: Option<OwnedFd>,
    /// Read ends of the FIFOs, until their writers have closed.
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) terminal: Option<OwnedFd>,
    pub(super) end: Option<End>,
    /// When the init was seen dead without anyone to tell its status.
    pub(super) orphaned: Option<Instant>,
    /// Output waits for room in the spool.
    pub(super) stalled: bool,
    pub(super) execs: BTreeMap<String, Added>,
}

/// A process added by `exec`.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) process: ProcessId,
    pub(super) pidfd: Option<OwnedFd>,
    /// Master of its terminal, for as long as the client that has the other copy is connected.
    pub(super) terminal: Option<OwnedFd>,
    /// The connection that started it, or asked again.
    pub(super) client: Option<u64>,
    pub(super) exit: Option<Exit>,
}

/// The note under `<container>/exec/<exec>` in the guardian's store.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AddedNote {
    process: ProcessId,
    exit: Option<Exit>,
}

/// Where the files of the task are.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) task: PathBuf,
    pub(super) run: PathBuf,
}

impl Paths {
    fn state(&self) -> PathBuf {
        self.run.join("state")
    }

    /// Directory of a container's FIFOs and record.
    pub(super) fn container(&self, name: &str) -> PathBuf {
        self.run.join("containers").join(name)
    }

    fn spool(&self, name: &str) -> PathBuf {
        self.task.join(name).join("spool")
    }
}

/// What a container's creation needs beside the request.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) paths: &'a Paths,
    pub(super) boot_id: &'a str,
    pub(super) guardian: &'a Guardian,
    pub(super) oom: &'a oom::Score,
    pub(super) user: Option<&'a User>,
}

pub(super) fn failed(what: impl std::fmt::Display, error: &dyn std::error::Error) -> Failure {
    Failure { kind: FailureKind::Failed, message: format!("{what}: {}", chain(error)) }
}

/// The runtime's failure in the wire's terms.
fn refused(what: &str, error: &container::Error) -> Failure {
    Failure { kind: error.kind(), message: format!("{what}: {}", chain(error)) }
}

/// Whether a `process` object asks for a terminal.
pub(super) fn wants_terminal(process: &serde_json::Value) -> bool {
    process.get("terminal").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// A name that can be a file's and the guardian's key.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let plain = !name.is_empty()
        && name.len() <= NAME
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if plain {
        Ok(())
    } else {
        Err(invalid(format!(
            "{what} {name:?}: 1 to {NAME} letters, digits, '_', '-', '.', none of them '.' in front"
        )))
    }
}

impl Held {
    /// Makes a container, up to step 5. A failure leaves nothing.
    pub(super) fn create(create: Create, around: &Surroundings<'_>) -> Result<Self, Failure> {
        check_name("container", &create.container)?;
        check_name("id", &create.id)?;
        if !create.bundle.is_absolute() {
            return Err(invalid(format!("bundle {} is not absolute", create.bundle.display())));
        }
        let name = create.container.clone();
        let record =
            Record { create, boot_id: around.boot_id.to_owned(), init: None, started_at: None };
        Self::build(record, around).inspect_err(|failure| {
            journal::note(&format!("create container {name}: {}", failure.message));
        })
    }

    fn build(mut record: Record, around: &Surroundings<'_>) -> Result<Self, Failure> {
        let name = record.create.container.clone();
        let directory = around.paths.container(&name);
        // One that could not be taken over may still run; undoing a second creation would kill it.
        if Record::load(&directory).is_ok_and(|record| record.init.is_some()) {
            return Err(Failure {
                kind: FailureKind::WrongState,
                message: format!("container {name} exists and could not be taken over"),
            });
        }
        let mut undo = Undo { record: None, around };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| failed(format!("create {}", directory.display()), &error))?;
        record.store(&directory)?;
        undo.record = Some((record.create.clone(), directory.clone()));
        failpoint::hit("create-record");

        let configuration = Configuration::read(&record.create.bundle)?;
        let spool = record.open_spool(around.paths)?;
        if let Some(layers) = &record.create.overlay {
            overlay::attach(layers, &record.rootfs(), around.user)
                .map_err(|error| failed(format!("create container {name}"), &error))?;
        }
        failpoint::hit("create-mount");

        let (mut stdout, mut stderr) = (None, None);
        let stdio = if configuration.process.terminal {
            Stdio::Terminal
        } else {
            let owner = configuration.owner(around.user);
            let out = Fifo::make(&directory.join("stdout"), owner)?;
            let err = Fifo::make(&directory.join("stderr"), owner)?;
            for (stream, fifo) in [("stdout", &out), ("stderr", &err)] {
                let key = format!("{name}/{stream}");
                let word = Word::Keep { key, note: String::new() };
                around.guardian.say(&word, Some(fifo.read.as_fd()));
            }
            let stdin = if record.create.stdin {
                Fifo::make(&directory.join("stdin"), owner)?.both
            } else {
                let null = File::open("/dev/null");
                null.map_err(|error| failed("open /dev/null", &error))?.into()
            };
            (stdout, stderr) = (Some(out.read), Some(err.read));
            Stdio::Fds { stdin, stdout: out.both, stderr: err.both }
        };
        failpoint::hit("create-stdio");

        let state = around.paths.state();
        let opened = container::Bundle::open(&record.create.bundle);
        let bundle =
            opened.map_err(|error| refused(&format!("create container {name}"), &error))?;
        let create = container::Create {
            systemd_cgroup: false,
            root: &state,
            id: &record.create.id,
            stdio,
            preserve_fds: 0,
            no_pivot: false,
            no_new_keyring: false,
            restore: None,
            service: container::Service::default(),
            rootless: Rootless::False,
        };
        let (_, created) = around
            .oom
            .restored(|| Container::create(bundle, create))
            .map_err(|error| refused(&format!("create container {name}"), &error))?;
        failpoint::hit("create-runtime");
        if let Some(terminal) = &created.terminal {
            nonblocking(terminal)?;
            let word = Word::Keep { key: format!("{name}/pty"), note: String::new() };
            around.guardian.say(&word, Some(terminal.as_fd()));
        }
        let init = process::identify(created.pid)
            .map_err(|error| failed(format!("read /proc/{}/stat", created.pid), &error))?;
        record.init = Some(init);
        record.store(&directory)?;
        failpoint::hit("create-done");
        undo.record = None;
        Ok(Self {
            record,
            init,
            spool,
            pidfd: Some(created.pidfd),
            stdout,
            stderr,
            terminal: created.terminal,
            end: None,
            orphaned: None,
            stalled: false,
            execs: BTreeMap::new(),
        })
    }

    /// Takes over what an earlier worker left in `directory`; `None` if it was half made, which is
    /// undone. `recorded` is the end that `T/exits` knows for a container id.
    pub(super) fn recover(
        directory: &Path,
        store: &mut Store,
        recorded: impl Fn(&str) -> Option<Exit>,
        around: &Surroundings<'_>,
    ) -> Option<Self> {
        let Ok(record) = Record::load(directory) else {
            // Killed before step 1 was whole: nothing else exists.
            let _ = fs::remove_dir_all(directory);
            return None;
        };
        let name = record.create.container.clone();
        let Some(init) = record.init else {
            roll_back(&record.create, directory, around);
            return None;
        };
        let spool = match record.open_spool(around.paths) {
            Ok(spool) => spool,
            Err(failure) => {
                journal::note(&failure.message);
                return None;
            }
        };
        let end = recorded(&record.create.id).map(|exit| End { exit, recorded: true });
        let pidfd = if record.boot_id == around.boot_id && end.is_none() {
            process::open_same(init)
        } else {
            None
        };
        if end.is_some() {
            // Killed between record and reap.
            around.guardian.say(&Word::Reap { pid: init.pid }, None);
        }
        let mut take =
            |what: &str| store.remove(&format!("{name}/{what}")).and_then(|k| k.descriptor);
        let terminal = take("pty");
        let fifo = |kept: Option<OwnedFd>, stream: &str| {
            if terminal.is_some() {
                None
            } else {
                kept.or_else(|| open_read(&directory.join(stream)).ok())
            }
        };
        let (stdout, stderr) = (take("stdout"), take("stderr"));
        let (stdout, stderr) = (fifo(stdout, "stdout"), fifo(stderr, "stderr"));
        // Deposited again: in adopt mode the guardian is new, and a keep is idempotent.
        for (what, kept) in [("stdout", &stdout), ("stderr", &stderr), ("pty", &terminal)] {
            if let Some(kept) = kept {
                let word = Word::Keep { key: format!("{name}/{what}"), note: String::new() };
                around.guardian.say(&word, Some(kept.as_fd()));
            }
        }
        let prefix = format!("{name}/exec/");
        let mut execs = BTreeMap::new();
        while let Some((key, kept)) =
            store.range(prefix.clone()..).next().filter(|(key, _)| key.starts_with(&prefix))
        {
            let key = key.clone();
            if let Ok(AddedNote { process, exit }) = serde_json::from_slice(kept.note.as_bytes()) {
                let pidfd = if exit.is_none() { process::open_same(process) } else { None };
                let added = Added { process, pidfd, terminal: None, client: None, exit };
                execs.insert(key[prefix.len()..].to_owned(), added);
            }
            store.remove(&key);
        }
        let mut held = Self {
            record,
            init,
            spool,
            pidfd,
            stdout,
            stderr,
            terminal,
            end,
            orphaned: None,
            stalled: false,
            execs,
        };
        if held.record.started_at.is_none() && held.end.is_none() {
            held.notice_start(around);
        }
        Some(held)
    }

    /// An earlier worker may have died between the runtime's start and step 6.
    fn notice_start(&mut self, around: &Surroundings<'_>) {
        let running = Container::load(&around.paths.state(), &self.record.create.id)
            .and_then(|container| container.state())
            .is_ok_and(|state| state.status == container::Status::Running);
        if running {
            self.record.started_at = Some(process::now());
            if let Err(failure) = self.record.store(&around.paths.container(self.name())) {
                journal::note(&failure.message);
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.record.create.container
    }

    pub(super) fn facts(&self) -> ContainerFacts {
        ContainerFacts {
            container: self.name().to_owned(),
            status: match (self.end, self.record.started_at) {
                (Some(_), _) => Status::Stopped,
                (None, Some(_)) => Status::Running,
                (None, None) => Status::Created,
            },
            pid: self.end.is_none().then_some(self.init.pid),
            started_at: self.record.started_at,
            exit: self.end.map(|end| end.exit),
        }
    }

    fn runtime(&self, around: &Surroundings<'_>, doing: &str) -> Result<Container, Failure> {
        Container::load(&around.paths.state(), &self.record.create.id)
            .map_err(|error| refused(&format!("{doing} container {}", self.name()), &error))
    }

    /// The init has ended and nobody has looked yet.
    pub(super) fn has_unseen_end(&self) -> bool {
        self.end.is_none() && self.orphaned.is_none() && self.pidfd.as_ref().is_some_and(ended)
    }

    /// Runs the user's program; `false` if it was started before.
    pub(super) fn start(&mut self, around: &Surroundings<'_>) -> Result<bool, Failure> {
        if self.end.is_some() || self.record.started_at.is_some() {
            return Ok(false);
        }
        failpoint::hit("start-before");
        self.runtime(around, "start")?
            .start()
            .map_err(|error| refused(&format!("start container {}", self.name()), &error))?;
        failpoint::hit("start-runtime");
        self.record.started_at = Some(process::now());
        // The program runs; a record that cannot be written costs the exact time, after a restart.
        if let Err(failure) = self.record.store(&around.paths.container(self.name())) {
            journal::note(&failure.message);
        }
        failpoint::hit("start-done");
        Ok(true)
    }

    pub(super) fn kill(
        &self,
        signal: i32,
        all: bool,
        around: &Surroundings<'_>,
    ) -> Result<(), Failure> {
        if !(1..=64).contains(&signal) {
            return Err(invalid(format!("signal {signal} is not within 1 to 64")));
        }
        if self.end.is_some() && !all {
            return Ok(());
        }
        match self.runtime(around, "signal")?.kill(signal, all) {
            Ok(()) => Ok(()),
            // It ended while we looked.
            Err(_) if self.pidfd.as_ref().is_none_or(ended) => Ok(()),
            Err(error) => {
                Err(refused(&format!("send signal {signal} to container {}", self.name()), &error))
            }
        }
    }

    /// Adds a process.
    pub(super) fn exec(
        &self,
        exec: &Exec,
        descriptors: Vec<OwnedFd>,
        around: &Surroundings<'_>,
    ) -> Result<Added, Failure> {
        let what = format!("exec {} in container {}", exec.exec, self.name());
        // From text, as in a configuration: from a value it is as much code again.
        let process: spec::Process = serde_json::to_vec(&exec.process)
            .and_then(|text| serde_json::from_slice(&text))
            .map_err(|error| invalid(format!("{what}: process: {error}")))?;
        let stdio = match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok(streams) => {
                if let Some(user) = around.user {
                    user.give(&streams, process.user.uid, process.user.gid)
                        .map_err(|error| failed(format!("{what}: give it its streams"), &error))?;
                }
                let [stdin, stdout, stderr] = streams;
                Stdio::Fds { stdin, stdout, stderr }
            }
            Err(_) => Stdio::Terminal,
        };
        let container = self.runtime(around, "exec in")?;
        let created = around
            .oom
            .restored(|| container.exec(&process, container::Exec::new(stdio)))
            .map_err(|error| refused(&what, &error))?;
        let id = process::identify(created.pid).map_err(|error| failed(&what, &error))?;
        let added = Added {
            process: id,
            pidfd: Some(created.pidfd),
            terminal: created.terminal,
            client: None,
            exit: None,
        };
        added.deposit(self.name(), &exec.exec, around.guardian);
        failpoint::hit("exec-done");
        Ok(added)
    }

    /// Moves what one stream has now, as far as there is room.
    pub(super) fn take(&mut self, stream: Stream) -> Result<Taken, spool::Error> {
        if stream == Stream::Stdout && self.terminal.is_some() {
            return self.take_terminal();
        }
        let pipe = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        let Some(pipe) = pipe else { return Ok(Taken::End) };
        self.spool.splice(pipe.as_fd(), stream, process::now(), u64::MAX, false)
    }

    fn take_terminal(&mut self) -> Result<Taken, spool::Error> {
        let Some(terminal) = &self.terminal else { return Ok(Taken::End) };
        let now = process::now();
        let force = self.end.is_some();
        if !self.spool.make_room(now, Stream::Stdout, force)? {
            return Ok(Taken::Full);
        }
        let mut bytes = [0; TERMINAL];
        match rustix::io::read(terminal, &mut bytes) {
            Ok(0) => Ok(Taken::End),
            Ok(count) => {
                self.spool.write(&bytes[..count], Stream::Stdout, now)?;
                Ok(Taken::Bytes(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Taken::Empty),
            // EIO: nobody has the terminal open.
            Err(_) => Ok(Taken::End),
        }
    }

    /// After the init's end: moves what was written before it. Bounded, for other processes may
    /// hold the pipes and go on writing; and without regard to the limit, for no driver may delay
    /// an exit.
    pub(super) fn drain(&mut self) {
        let result = self.drain_all().and_then(|()| self.spool.sync());
        if let Err(error) = result {
            journal::failure(&format!("drain container {}", self.name()), &error);
        }
    }

    fn drain_all(&mut self) -> Result<(), spool::Error> {
        let now = process::now();
        for (pipe, stream) in [(&self.stdout, Stream::Stdout), (&self.stderr, Stream::Stderr)] {
            let Some(pipe) = pipe else { continue };
            let mut rest = rustix::io::ioctl_fionread(pipe).unwrap_or(0);
            // The other outcomes mean that nothing more can be had: empty, closed, or a full disk.
            while rest > 0
                && let Taken::Bytes(count) =
                    self.spool.splice(pipe.as_fd(), stream, now, rest, true)?
            {
                rest = rest.saturating_sub(count as u64);
            }
        }
        let mut taken = 0;
        while taken < TERMINAL_MOST
            && self.terminal.is_some()
            && let Taken::Bytes(count) = self.take_terminal()?
        {
            taken += count;
        }
        Ok(())
    }

    /// The exit in full, with what the cgroup tells.
    pub(super) fn exit(&self, ended: Option<Ended>, around: &Surroundings<'_>) -> Exit {
        let oom_killed = Container::load(&around.paths.state(), &self.record.create.id)
            .and_then(|container| container.cgroup())
            .is_ok_and(|cgroup| cgroup.oom_killed().is_ok_and(|count| count > 0));
        Exit {
            code: ended.map(|ended| ended.code),
            signal: ended.and_then(|ended| ended.signal),
            oom_killed,
            at: process::now(),
        }
    }

    /// Removes what the container has in the kernel and in R.
    pub(super) fn remove(&self, around: &Surroundings<'_>) -> Result<(), Failure> {
        let name = self.name();
        let what = format!("delete container {name}");
        match Container::load(&around.paths.state(), &self.record.create.id) {
            Ok(mut container) => container.delete(true).map_err(|error| refused(&what, &error))?,
            // An earlier worker came this far.
            Err(error) if error.kind() == FailureKind::NotFound => {}
            Err(error) => return Err(refused(&what, &error)),
        }
        failpoint::hit("delete-runtime");
        if self.record.create.overlay.is_some() {
            overlay::detach(&self.record.rootfs()).map_err(|error| failed(&what, &error))?;
        }
        around.guardian.say(&Word::Forget { prefix: format!("{name}/") }, None);
        failpoint::hit("delete-mount");
        remove_directory(&around.paths.container(name)).map_err(|error| failed(&what, &error))
    }
}

impl Added {
    /// Leaves the facts with the guardian.
    pub(super) fn deposit(&self, container: &str, exec: &str, guardian: &Guardian) {
        let note = AddedNote { process: self.process, exit: self.exit };
        if let Ok(note) = serde_json::to_string(&note) {
            guardian.say(&Word::Keep { key: format!("{container}/exec/{exec}"), note }, None);
        }
    }
}

impl Record {
    pub(super) fn load(directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(directory.join("record.json"))?)?)
    }

    /// Replaces the file. No fsync: R does not outlive the boot, and a kill cannot undo a rename.
    fn store(&self, directory: &Path) -> Result<(), Failure> {
        let path = directory.join("record.json");
        replace(&path, self).map_err(|error| failed(format!("write {}", path.display()), &error))
    }

    fn rootfs(&self) -> PathBuf {
        self.create.bundle.join("rootfs")
    }

    fn open_spool(&self, paths: &Paths) -> Result<Spool, Failure> {
        let create = &self.create;
        Spool::open(paths.spool(&create.container), create.spool_limit, create.spool_full)
            .map_err(|error| failed(format!("container {}", create.container), &error))
    }
}

/// Writes a file of R whole or not at all.
pub(super) fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(value)?)?;
    fs::rename(&temporary, path)
}

/// Undoes a creation that fails on the way.
struct Undo<'a> {
    record: Option<(Create, PathBuf)>,
    around: &'a Surroundings<'a>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some((create, directory)) = &self.record {
            roll_back(create, directory, self.around);
        }
    }
}

/// Removes whatever steps 1 to 4 made, in reverse; goes on after failures.
fn roll_back(create: &Create, directory: &Path, around: &Surroundings<'_>) {
    let what = format!("undo the creation of container {}", create.container);
    match Container::load(&around.paths.state(), &create.id) {
        Ok(mut container) => {
            if let Err(error) = container.delete(true) {
                journal::failure(&what, &error);
            }
        }
        Err(error) if error.kind() == FailureKind::NotFound => {}
        Err(error) => journal::failure(&what, &error),
    }
    if let Some(overlay) = &create.overlay {
        for target in [create.bundle.join("rootfs"), overlay::scratch(overlay)] {
            if let Err(error) = overlay::detach(&target) {
                journal::failure(&what, &error);
            }
        }
    }
    around.guardian.say(&Word::Forget { prefix: format!("{}/", create.container) }, None);
    if let Err(error) = remove_directory(directory) {
        journal::failure(&what, &error);
    }
}

fn remove_directory(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A FIFO of the container's.
struct Fifo {
    /// For the container: with a reader of its own it never gets SIGPIPE, whatever becomes of us.
    both: OwnedFd,
    /// For us, non-blocking.
    read: OwnedFd,
}

impl Fifo {
    fn make(path: &Path, owner: (u32, u32)) -> Result<Self, Failure> {
        Self::try_make(path, owner)
            .map_err(|error| failed(format!("make FIFO {}", path.display()), &error))
    }

    fn try_make(path: &Path, (uid, gid): (u32, u32)) -> io::Result<Self> {
        mkfifo(path, Mode::from_bits_truncate(0o600))?;
        let both = OpenOptions::new().read(true).write(true).open(path)?;
        // The container's user, or a program that is not root could not open its /dev/stdout.
        fchown(&both, Some(uid), Some(gid))?;
        // Beyond the user's limit of pipe memory it stays at 64 KiB, which works.
        let _ = rustix::pipe::fcntl_setpipe_size(&both, PIPE);
        Ok(Self { both: both.into(), read: open_read(path)? })
    }
}

fn open_read(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?.into())
}

fn nonblocking(terminal: &OwnedFd) -> Result<(), Failure> {
    rustix::io::ioctl_fionbio(terminal, true)
        .map_err(|error| failed("make the terminal non-blocking", &error))
}

/// Whether a process has ended, reaped or not.
pub(super) fn ended(pidfd: &OwnedFd) -> bool {
    wait_end(pidfd, Duration::ZERO)
}

/// Waits for the end of a process, `most` at most; whether it has ended.
pub(super) fn wait_end(pidfd: &OwnedFd, most: Duration) -> bool {
    let most = Timespec::try_from(most).unwrap_or_default();
    matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&most)), Ok(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names() {
        let long = "x".repeat(NAME);
        for good in ["web", "a-b_c.d", "0", long.as_str()] {
            check_name("container", good).unwrap();
        }
        let longer = "x".repeat(NAME + 1);
        for bad in ["", ".", "..", ".new", "a/b", "a b", "a\n", "ä", longer.as_str()] {
            assert_eq!(
                check_name("container", bad).unwrap_err().kind,
                FailureKind::Invalid,
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_asked_of_a_process_is_read_from_its_json() {
        assert!(wants_terminal(&serde_json::json!({"terminal": true})));
        assert!(!wants_terminal(&serde_json::json!({"terminal": "yes"})));
        assert!(!wants_terminal(&serde_json::json!([])));
    }
}
