//! The worker: event loop, containers, connections. Owns all of the monitor's mutable state.
//!
//! One thread, level-triggered, no call that waits for a peer. Sources are the control socket,
//! connections, pidfds of inits and of processes added by exec, FIFOs and terminals, the
//! guardian's socket, SIGCHLD. What requests do is in `requests`.
//!
//! An exit: pidfd readable → status without reaping → output drained → OOM count → record, durable
//! → reap → event. Where the record cannot be written the exit is told all the same and the zombie
//! kept, which a later worker can read again; the record is tried every second.
//!
//! SIGTERM, which everybody gets when the host goes down, ends the monitor once no container runs
//! any more: what is to be known of them is on disk, and nothing waits for us.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use protocol::monitor::{Change, Exit, Failure, Message, MonitorRecord, Outcome, Stream, VERSION};

use super::deposit::{Guardian, Store, Word};
use super::exits::Exits;
use super::guardian::{self, Birth};
use super::held::{self, ENDED_EXECS, End, Held, Paths, Record, Surroundings};
use super::poller::{Interest, Poller, Source};
use super::process::{self, Ended, Look};
use super::serve::{self, Client, Incoming};
use super::spool::Taken;
use super::user::User;
use super::{Error, journal, oom};
use crate::failpoint;

/// Connections at one time; more are closed at once.
const CLIENTS: usize = 128;
/// How often a full spool is looked at for room.
const STALLED: Duration = Duration::from_millis(20);
/// How often a failed exit record is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the status of another parent's child is waited for after its end.
const FOREIGN: Duration = Duration::from_secs(5);
/// Pieces moved per stream before others get their turn.
const TURN: usize = 4;

/// The state of the monitor.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) paths: Paths,
    pub(super) record: MonitorRecord,
    pub(super) guardian: Guardian,
    pub(super) oom: oom::Score,
    user: Option<User>,
    pub(super) poller: Poller,
    pub(super) containers: BTreeMap<Rc<str>, Held>,
    pub(super) clients: BTreeMap<u64, Client>,
    /// Every container that has ever ended here: its id and exit by name.
    pub(super) past: BTreeMap<String, (String, Exit)>,
    pub(super) sequence: u64,
    /// Shut down.
    pub(super) finished: bool,
    listener: OwnedFd,
    signals: SignalFd,
    /// SIGTERM has come.
    terminated: bool,
    exits: Exits,
    next_client: u64,
}

/// Who can be asked to reap a process.
#[derive(Debug, Clone, Copy)]
enum Parent {
    Us,
    Guardian,
    /// Somebody else, or it has been reaped.
    Other,
}

/// What is known of a process whose pidfd says that it ended.
enum Status {
    Alive,
    /// Ended; another parent has not reaped it yet, and only then the kernel tells.
    Pending,
    Ended(Option<Ended>, Parent),
}

/// Namespaces of a container that lives.
#[derive(Debug)]
pub(super) struct Living {
    pub(super) user: OwnedFd,
    pub(super) network: OwnedFd,
}

/// The namespaces of a container that an earlier monitor of `run` left alive, for its successor.
pub(super) fn living(run: &Path, boot_id: &str) -> Option<Living> {
    fs::read_dir(run.join("containers")).ok()?.flatten().find_map(|entry| {
        let record = Record::load(&entry.path()).ok()?;
        let init = record.init.filter(|_| record.boot_id == boot_id)?;
        let pidfd = process::open_same(init)?;
        let open = |namespace: &str| {
            let file = fs::File::open(format!("/proc/{}/ns/{namespace}", init.pid)).ok()?;
            Some(OwnedFd::from(file))
        };
        let living = Living { user: open("user")?, network: open("net")? };
        // Still the same process after the paths were walked.
        (!held::ended(&pidfd)).then_some(living)
    })
}

/// Works until shut down.
pub(super) fn run(birth: Birth) -> Result<(), Error> {
    let step = |step| move |source| Error::Setup { step, source };
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| step("become a subreaper")(errno.into()))?;
    let signals = guardian::block_signals()?;
    let myself = process::myself().map_err(step("read our own start time"))?;
    let poller = Poller::new().map_err(|errno| step("make an epoll instance")(errno.into()))?;
    let mut worker = Worker {
        exits: Exits::new(&birth.task),
        paths: Paths { task: birth.task, run: birth.run },
        record: MonitorRecord {
            version: VERSION,
            boot_id: birth.boot_id,
            guardian: birth.guardian,
            worker: myself,
            guardian_lost: false,
        },
        guardian: Guardian::new(birth.link).map_err(step("prepare the guardian's socket"))?,
        oom: birth.oom,
        user: birth.user,
        poller,
        containers: BTreeMap::new(),
        clients: BTreeMap::new(),
        past: BTreeMap::new(),
        // Above every number that an earlier worker can have used.
        sequence: u64::from(birth.generation) << 32,
        finished: false,
        listener: birth.listener,
        signals,
        terminated: false,
        next_client: 0,
    };
    worker.recover(birth.store)?;
    worker.write_record()?;
    let watch = |errno: rustix::io::Errno| step("watch the control socket")(errno.into());
    worker.poller.watch(&worker.listener, Source::Listener).map_err(watch)?;
    worker.poller.watch(&worker.signals, Source::Signals).map_err(watch)?;
    if let Some(socket) = worker.guardian.socket() {
        worker.poller.watch(socket, Source::Guardian).map_err(watch)?;
    }
    worker.work();
    Ok(())
}

impl Worker {
    pub(super) fn around(&self) -> Surroundings<'_> {
        Surroundings {
            paths: &self.paths,
            boot_id: &self.record.boot_id,
            guardian: &self.guardian,
            oom: &self.oom,
            user: self.user.as_ref(),
        }
    }

    fn write_record(&self) -> Result<(), Error> {
        let path = self.paths.run.join("monitor.json");
        held::replace(&path, &self.record).map_err(|source| Error::Record { path, source })
    }

    fn work(&mut self) {
        while !self.finished {
            for source in self.poller.wait(self.pause()) {
                match source {
                    Source::Listener => self.accept(),
                    Source::Signals => self.signalled(),
                    Source::Guardian => self.lose_guardian(),
                    Source::Client(client) => self.serve(client),
                    Source::Init(name) => self.init_event(&name),
                    Source::Output(name, stream) => self.output(&name, stream),
                    Source::Added(name, exec) => self.added_event(&name, &exec),
                }
            }
            self.overdue();
            if self.terminated && self.is_over() {
                self.guardian.say(&Word::End, None);
                self.finished = true;
            }
        }
    }

    /// Whether every container has ended and this is on disk.
    fn is_over(&self) -> bool {
        self.containers.values().all(|held| held.end.is_some_and(|end| end.recorded))
    }

    /// Time until something must be looked at without an event.
    fn pause(&self) -> Option<Duration> {
        self.containers
            .values()
            .filter_map(|held| match held {
                held if held.stalled => Some(STALLED),
                held if held.orphaned.is_some() => Some(RETRY),
                held if held.end.is_some_and(|end| !end.recorded) => Some(RETRY),
                _ => None,
            })
            .min()
    }

    fn overdue(&mut self) {
        let names: Vec<Rc<str>> = self
            .containers
            .iter()
            .filter(|(_, held)| {
                held.stalled || held.orphaned.is_some() || held.end.is_some_and(|end| !end.recorded)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let Some(held) = self.containers.get(&name) else { continue };
            if held.stalled {
                self.resume(&name);
            }
            let Some(held) = self.containers.get(&name) else { continue };
            if held.orphaned.is_some() {
                self.init_event(&name);
            } else if held.end.is_some_and(|end| !end.recorded) {
                self.record_end(&name);
            }
        }
    }

    // --- taking over ---------------------------------------------------------------------------

    fn recover(&mut self, mut store: Store) -> Result<(), Error> {
        let records = self.exits.read().unwrap_or_else(|error| {
            journal::failure("take over", &error);
            Vec::new()
        });
        for record in records {
            self.past.insert(record.container, (record.id, record.exit));
        }
        let path = self.paths.run.join("containers");
        let failed = |source| Error::Directory { path: path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let directory = entry.map_err(failed)?.path();
            let past = &self.past;
            let recorded = |id: &str| past.values().find(|past| past.0 == id).map(|past| past.1);
            if let Some(held) = Held::recover(&directory, &mut store, recorded, &self.around()) {
                let name: Rc<str> = held.name().into();
                self.containers.insert(name.clone(), held);
                names.push(name);
            }
        }
        self.guardian.say(&Word::Ready { owned: self.owned() }, None);
        for name in names {
            self.watch_container(&name);
            let Some(held) = self.containers.get(&name) else { continue };
            let added: Vec<Rc<str>> = held.execs.keys().map(|exec| exec.as_str().into()).collect();
            if held.end.is_none() && held.pidfd.is_none() {
                // Ended and reaped while nobody of us was there.
                self.init_ended(&name, None, Parent::Other);
            }
            for exec in added {
                self.watch_added(&name, &exec);
            }
        }
        Ok(())
    }

    /// Pids whose status is wanted.
    fn owned(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for held in self.containers.values() {
            if held.end.is_none_or(|end| !end.recorded) {
                pids.push(held.init.pid);
            }
            let added = held.execs.values().filter(|added| added.exit.is_none());
            pids.extend(added.map(|added| added.process.pid));
        }
        pids
    }

    fn signalled(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            self.terminated |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        self.reap_orphans();
    }

    fn reap_orphans(&self) {
        let owned = self.owned();
        process::reap_orphans(|pid| owned.contains(&pid));
    }

    fn lose_guardian(&mut self) {
        // It never speaks first: whatever makes its socket readable is its end.
        if let Some(socket) = self.guardian.socket() {
            self.poller.forget(socket, &Source::Guardian);
        }
        self.guardian.lose();
        self.record.guardian_lost = true;
        journal::note("the guardian ended; a second fault would need adoption");
        if let Err(error) = self.write_record() {
            journal::failure("note the guardian's end", &error);
        }
    }

    // --- containers ----------------------------------------------------------------------------

    /// Begins to watch a container's init and streams.
    pub(super) fn watch_container(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get(name) else { return };
        if let Some(pidfd) = &held.pidfd
            && let Err(error) = self.poller.watch(pidfd, Source::Init(name.clone()))
        {
            journal::failure(&format!("watch the init of container {name}"), &error);
        }
        self.watch_streams(name);
    }

    fn watch_streams(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get(name) else { return };
        let stdout = held.stdout.as_ref().or(held.terminal.as_ref());
        for (descriptor, stream) in
            [(stdout, Stream::Stdout), (held.stderr.as_ref(), Stream::Stderr)]
        {
            if let Some(descriptor) = descriptor
                && let Err(error) =
                    self.poller.watch(descriptor, Source::Output(name.clone(), stream))
            {
                journal::failure(&format!("watch the output of container {name}"), &error);
            }
        }
    }

    fn forget_streams(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get(name) else { return };
        let stdout = held.stdout.as_ref().or(held.terminal.as_ref());
        for (descriptor, stream) in
            [(stdout, Stream::Stdout), (held.stderr.as_ref(), Stream::Stderr)]
        {
            if let Some(descriptor) = descriptor {
                self.poller.forget(descriptor, &Source::Output(name.clone(), stream));
            }
        }
    }

    fn output(&mut self, name: &Rc<str>, stream: Stream) {
        let Some(held) = self.containers.get_mut(name) else { return };
        let mut taken = Ok(Taken::Empty);
        for _ in 0..TURN {
            taken = held.take(stream);
            if !matches!(taken, Ok(Taken::Bytes(_))) {
                break;
            }
        }
        match taken {
            Ok(Taken::Bytes(_) | Taken::Empty) => {}
            Ok(Taken::End) => self.close_stream(name, stream),
            Ok(Taken::Full) => self.stall(name),
            Err(error) => {
                journal::failure(&format!("store the output of container {name}"), &error);
                self.stall(name);
            }
        }
    }

    /// All writers of a stream are gone for good. The guardian's copy goes with `Delete`.
    fn close_stream(&mut self, name: &Rc<str>, stream: Stream) {
        let source = Source::Output(name.clone(), stream);
        let Some(held) = self.containers.get_mut(name) else { return };
        if stream == Stream::Stdout
            && let Some(terminal) = &held.terminal
        {
            // Kept: the init may open the terminal again, and its window can be resized.
            self.poller.forget(terminal, &source);
            return;
        }
        let descriptor = match stream {
            Stream::Stdout => held.stdout.take(),
            Stream::Stderr => held.stderr.take(),
        };
        if let Some(descriptor) = descriptor {
            self.poller.forget(descriptor, &source);
        }
    }

    /// The spool is full: the container waits on its pipes, and we on the reader.
    fn stall(&mut self, name: &Rc<str>) {
        self.forget_streams(name);
        if let Some(held) = self.containers.get_mut(name) {
            held.stalled = true;
        }
    }

    fn resume(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get_mut(name) else { return };
        match held.spool.make_room(process::now(), Stream::Stdout, false) {
            Ok(false) => {}
            Ok(true) => {
                held.stalled = false;
                self.watch_streams(name);
            }
            Err(error) => {
                journal::failure(&format!("make room for the output of container {name}"), &error);
            }
        }
    }

    // --- ends ----------------------------------------------------------------------------------

    fn status(&self, pidfd: &OwnedFd, pid: i32, patience: bool) -> Status {
        match process::look(pidfd) {
            Look::Alive => Status::Alive,
            Look::Ended(ended) => Status::Ended(Some(ended), Parent::Us),
            Look::Stranger if !held::ended(pidfd) => Status::Alive,
            Look::Stranger => match self.guardian.look(pid) {
                Some(ended) => Status::Ended(Some(ended), Parent::Guardian),
                None => match process::ended_elsewhere(pidfd) {
                    None if patience => Status::Pending,
                    ended => Status::Ended(ended, Parent::Other),
                },
            },
        }
    }

    /// Handles the end of a container's init, if it has ended.
    pub(super) fn init_event(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get(name) else { return };
        let Some(pidfd) = &held.pidfd else { return };
        if held.end.is_some() {
            return;
        }
        let patience = held.orphaned.is_none_or(|since| since.elapsed() < FOREIGN);
        match self.status(pidfd, held.init.pid, patience) {
            Status::Alive => {}
            Status::Pending => {
                // The pidfd hangs up when the foreign parent reaps.
                self.poller.change(pidfd, &Source::Init(name.clone()), Interest::HangUp);
                if let Some(held) = self.containers.get_mut(name) {
                    held.orphaned.get_or_insert_with(Instant::now);
                }
            }
            Status::Ended(ended, parent) => self.init_ended(name, ended, parent),
        }
    }

    fn init_ended(&mut self, name: &Rc<str>, ended: Option<Ended>, parent: Parent) {
        failpoint::hit("exit-seen");
        let Some(held) = self.containers.get_mut(name) else { return };
        held.orphaned = None;
        held.drain();
        failpoint::hit("exit-drained");
        let Some(held) = self.containers.get(name) else { return };
        let exit = held.exit(ended, &self.around());
        if let Some(pidfd) = &held.pidfd {
            self.poller.forget(pidfd, &Source::Init(name.clone()));
        }
        if let Some(held) = self.containers.get_mut(name) {
            held.end = Some(End { exit, recorded: false });
            if matches!(parent, Parent::Other) {
                held.pidfd = None;
            }
        }
        self.record_end(name);
        self.tell(name);
    }

    /// Makes the end durable, then reaps.
    pub(super) fn record_end(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get_mut(name) else { return };
        let Some(end) = &mut held.end else { return };
        if end.recorded {
            return;
        }
        let id = &held.record.create.id;
        if let Err(error) = self.exits.append(name, id, end.exit) {
            journal::failure("keep a zombie until its end is recorded", &error);
            return;
        }
        failpoint::hit("exit-recorded");
        end.recorded = true;
        self.past.insert(name.to_string(), (id.clone(), end.exit));
        if let Some(pidfd) = held.pidfd.take() {
            match process::look(&pidfd) {
                Look::Stranger => self.guardian.say(&Word::Reap { pid: held.init.pid }, None),
                Look::Ended(_) | Look::Alive => process::reap(&pidfd),
            }
        }
        failpoint::hit("exit-reaped");
        // Orphans may have waited behind this zombie.
        self.reap_orphans();
    }

    /// Begins to watch a process added by exec, or notes that it is gone.
    pub(super) fn watch_added(&mut self, name: &Rc<str>, exec: &Rc<str>) {
        let added = self.containers.get(name).and_then(|held| held.execs.get(&**exec));
        let Some(added) = added.filter(|added| added.exit.is_none()) else { return };
        match &added.pidfd {
            Some(pidfd) => {
                let source = Source::Added(name.clone(), exec.clone());
                if let Err(error) = self.poller.watch(pidfd, source) {
                    journal::failure(&format!("watch exec {exec} of container {name}"), &error);
                }
            }
            None => self.added_ended(name, exec, None, Parent::Other),
        }
    }

    fn added_event(&mut self, name: &Rc<str>, exec: &Rc<str>) {
        let added = self.containers.get(name).and_then(|held| held.execs.get(&**exec));
        let Some(added) = added else { return };
        let Some(pidfd) = &added.pidfd else { return };
        match self.status(pidfd, added.process.pid, false) {
            Status::Alive | Status::Pending => {}
            Status::Ended(ended, parent) => self.added_ended(name, exec, ended, parent),
        }
    }

    fn added_ended(
        &mut self,
        name: &Rc<str>,
        exec: &Rc<str>,
        ended: Option<Ended>,
        parent: Parent,
    ) {
        let exit = Exit {
            code: ended.map(|ended| ended.code),
            signal: ended.and_then(|ended| ended.signal),
            oom_killed: false,
            at: process::now(),
        };
        let Some(held) = self.containers.get_mut(name) else { return };
        let Some(added) = held.execs.get_mut(&**exec) else { return };
        added.exit = Some(exit);
        added.terminal = None;
        // The note first: with it the next worker can answer after the zombie is gone.
        added.deposit(name, exec, &self.guardian);
        failpoint::hit("exec-noted");
        if let Some(pidfd) = added.pidfd.take() {
            self.poller.forget(&pidfd, &Source::Added(name.clone(), exec.clone()));
            match parent {
                Parent::Us => process::reap(&pidfd),
                Parent::Guardian => {
                    self.guardian.say(&Word::Reap { pid: added.process.pid }, None);
                }
                Parent::Other => {}
            }
        }
        let client = added.client;
        self.forget_old_execs(name);
        let change =
            Change::ExecExited { container: name.to_string(), exec: exec.to_string(), exit };
        self.announce(change, client);
        self.reap_orphans();
    }

    /// Lets go of a container whose kernel objects are gone.
    pub(super) fn forget_container(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get(name) else { return };
        let added: Vec<Rc<str>> = held.execs.keys().map(|exec| exec.as_str().into()).collect();
        for exec in added {
            // Killed with the cgroup, where they did not die with the init.
            let Some(held) = self.containers.get(name) else { return };
            let Some(process) = held.execs.get(&*exec) else { continue };
            if process.exit.is_none() {
                if let Some(pidfd) = &process.pidfd {
                    held::wait_end(pidfd, RETRY);
                }
                self.added_event(name, &exec);
            }
        }
        self.forget_streams(name);
        self.containers.remove(name);
    }

    /// Keeps the number of remembered ends bounded: the oldest go.
    fn forget_old_execs(&mut self, name: &Rc<str>) {
        let Some(held) = self.containers.get_mut(name) else { return };
        let mut ended: Vec<(u64, String)> = held
            .execs
            .iter()
            .filter_map(|(exec, added)| Some((added.exit?.at, exec.clone())))
            .collect();
        if ended.len() <= ENDED_EXECS {
            return;
        }
        ended.sort_unstable();
        for (_, exec) in ended.drain(..ended.len() - ENDED_EXECS) {
            held.execs.remove(&exec);
            // Keys are prefixes to the guardian; a name that this one begins goes with it, which
            // costs that one's memory of its end across a worker's death.
            self.guardian.say(&Word::Forget { prefix: format!("{name}/exec/{exec}") }, None);
        }
    }

    // --- connections ---------------------------------------------------------------------------

    fn accept(&mut self) {
        while let Some(client) = Client::accept(self.listener.as_fd()) {
            if self.clients.len() >= CLIENTS {
                continue;
            }
            let id = self.next_client;
            self.next_client += 1;
            if self.poller.watch(client.socket(), Source::Client(id)).is_ok() {
                self.clients.insert(id, client);
            }
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if !client.flush() {
            self.drop_client(id);
            return;
        }
        match client.receive() {
            Incoming::Gone => self.drop_client(id),
            Incoming::Nothing => self.update_interest(id),
            Incoming::Refused(request, failure) => {
                self.answer(id, request, Err(failure));
            }
            Incoming::Request(request, descriptors) => {
                self.request(id, request.id, request.call, descriptors);
            }
        }
    }

    fn drop_client(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.poller.forget(client.socket(), &Source::Client(id));
        }
        // Our copy of a terminal's master goes with the client that has the other one, so that the
        // session hangs up when its user is gone.
        for held in self.containers.values_mut() {
            for added in held.execs.values_mut().filter(|added| added.client == Some(id)) {
                added.client = None;
                added.terminal = None;
            }
        }
    }

    fn update_interest(&self, id: u64) {
        if let Some(client) = self.clients.get(&id) {
            let interest = if client.waiting() { Interest::ReadWrite } else { Interest::Read };
            self.poller.change(client.socket(), &Source::Client(id), interest);
        }
    }

    /// Sends to one client; one that cannot take it is dropped.
    pub(super) fn send(&mut self, id: u64, message: &Message, descriptor: Option<OwnedFd>) {
        let bytes = match serve::encode(message) {
            Ok(bytes) => bytes,
            Err(error) => {
                journal::failure("encode a message", &error);
                return;
            }
        };
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.send(bytes, descriptor) {
            self.update_interest(id);
        } else {
            self.drop_client(id);
        }
    }

    pub(super) fn answer(
        &mut self,
        client: u64,
        request: u64,
        result: Result<(protocol::monitor::Fact, Option<OwnedFd>), Failure>,
    ) {
        let (result, descriptor) = match result {
            Ok((fact, descriptor)) => (Outcome::Done(fact), descriptor),
            Err(failure) => (Outcome::Failed(failure), None),
        };
        self.send(client, &Message::Answer { id: request, result }, descriptor);
    }

    /// Tells subscribers, and one more, what changed.
    pub(super) fn announce(&mut self, change: Change, also: Option<u64>) {
        self.sequence += 1;
        let message = Message::Event { sequence: self.sequence, change };
        let to: Vec<u64> = self
            .clients
            .iter()
            .filter(|(id, client)| client.subscribed || Some(**id) == also)
            .map(|(id, _)| *id)
            .collect();
        for id in to {
            self.send(id, &message, None);
        }
    }

    /// Tells subscribers the facts of a container.
    pub(super) fn tell(&mut self, name: &str) {
        if let Some(held) = self.containers.get(name) {
            let facts = held.facts();
            self.announce(Change::Container(facts), None);
        }
    }
}
