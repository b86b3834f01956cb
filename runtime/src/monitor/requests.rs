//! What the monitor is asked to do, call by call. Every call may be repeated.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocol::monitor::{
    Call, ContainerFacts, Create, Exec, Fact, Failure, FailureKind, Status, VERSION,
};
use rustix::termios::{Winsize, tcsetwinsize};

use super::deposit::Word;
use super::held::{Held, check_name, wait_end};
use super::journal;
use super::worker::Worker;

/// How long a created container's init may take to die of SIGKILL.
const KILL: Duration = Duration::from_secs(5);

type Answer = Result<(Fact, Option<OwnedFd>), Failure>;

fn not_found(container: &str) -> Failure {
    Failure {
        kind: FailureKind::NotFound,
        message: format!("container {container} does not exist"),
    }
}

fn wrong_state(message: String) -> Failure {
    Failure { kind: FailureKind::WrongState, message }
}

impl Worker {
    /// Does what a client asks and answers.
    pub(super) fn request(&mut self, client: u64, id: u64, call: Call, descriptors: Vec<OwnedFd>) {
        // An end that is already there comes before the request, in effect and in order.
        let names: Vec<Rc<str>> = self.containers.keys().cloned().collect();
        for name in &names {
            if self.containers.get(name).is_some_and(Held::has_unseen_end) {
                self.init_event(name);
            }
        }
        let started = matches!(call, Call::Start { .. });
        let (answer, changed) = match call {
            Call::Hello { .. } => (Ok((self.hello(), None)), None),
            Call::Subscribe => (Ok((self.subscribe(client), None)), None),
            Call::Create(create) => self.create(create),
            Call::Start { container } => self.start(&container),
            Call::Kill { container, signal, all } => (self.kill(&container, signal, all), None),
            Call::Exec(exec) => {
                // Answered inside: the exec's end must not overtake the answer.
                self.exec(client, id, &exec, descriptors);
                return;
            }
            Call::Resize { container, exec, rows, columns } => {
                (self.resize(&container, exec.as_deref(), rows, columns), None)
            }
            Call::Delete { container } => (self.delete(&container), None),
            Call::Shutdown => (self.shutdown(), None),
        };
        self.answer(client, id, answer);
        if let Some(name) = changed {
            self.tell(&name);
        }
        if started {
            // Configuration and profile were parsed on this heap; now it idles for long.
            crate::sys::monitor::trim_heap();
        }
    }

    fn hello(&self) -> Fact {
        Fact::Hello {
            version: VERSION,
            boot_id: self.record.boot_id.clone(),
            guardian: self.record.guardian,
            worker: self.record.worker,
        }
    }

    fn subscribe(&mut self, client: u64) -> Fact {
        if let Some(client) = self.clients.get_mut(&client) {
            client.subscribed = true;
        }
        Fact::State {
            sequence: self.sequence,
            containers: self.containers.values().map(Held::facts).collect(),
        }
    }

    /// Facts of a container that has ended and was deleted.
    fn past(&self, name: &str) -> Option<(&str, ContainerFacts)> {
        self.past.get(name).map(|(id, exit)| {
            let facts = ContainerFacts {
                container: name.to_owned(),
                status: Status::Stopped,
                pid: None,
                started_at: None,
                exit: Some(*exit),
            };
            (id.as_str(), facts)
        })
    }

    fn create(&mut self, create: Create) -> (Answer, Option<Rc<str>>) {
        let name: Rc<str> = create.container.as_str().into();
        if let Some(held) = self.containers.get(&name) {
            let answer = if held.record.create.id == create.id {
                Ok((Fact::Container(held.facts()), None))
            } else {
                Err(wrong_state(format!(
                    "container {name} exists with id {}; delete it before {} is created",
                    held.record.create.id, create.id
                )))
            };
            return (answer, None);
        }
        // Asked again after its end and deletion: it must not run twice.
        if let Some((id, facts)) = self.past(&name)
            && id == create.id
        {
            return (Ok((Fact::Container(facts), None)), None);
        }
        match Held::create(create, &self.around()) {
            Ok(held) => {
                let facts = held.facts();
                self.containers.insert(name.clone(), held);
                self.watch_container(&name);
                (Ok((Fact::Container(facts), None)), Some(name))
            }
            Err(failure) => (Err(failure), None),
        }
    }

    fn start(&mut self, name: &str) -> (Answer, Option<Rc<str>>) {
        let Some((key, mut held)) = self.containers.remove_entry(name) else {
            let past = self.past(name).map(|(_, facts)| (Fact::Container(facts), None));
            return (past.ok_or_else(|| not_found(name)), None);
        };
        // Out of the map for the while, so that its surroundings can be borrowed.
        let started = held.start(&self.around());
        let facts = held.facts();
        self.containers.insert(key.clone(), held);
        match started {
            Ok(changed) => (Ok((Fact::Container(facts), None)), changed.then_some(key)),
            Err(failure) => (Err(failure), None),
        }
    }

    fn kill(&self, name: &str, signal: i32, all: bool) -> Answer {
        match self.containers.get(name) {
            Some(held) => held.kill(signal, all, &self.around()).map(|()| (Fact::None, None)),
            None if self.past.contains_key(name) => Ok((Fact::None, None)),
            None => Err(not_found(name)),
        }
    }

    fn exec(&mut self, client: u64, id: u64, exec: &Exec, descriptors: Vec<OwnedFd>) {
        let (name, added): (Rc<str>, Rc<str>) =
            (exec.container.as_str().into(), exec.exec.as_str().into());
        let fact =
            |pid| Fact::Exec { container: exec.container.clone(), exec: exec.exec.clone(), pid };
        let answer = self.add(client, exec, descriptors);
        let fresh = matches!(answer, Ok((_, _, true)));
        self.answer(client, id, answer.map(|(pid, terminal, _)| (fact(pid), terminal)));
        if fresh {
            self.watch_added(&name, &added);
        } else if let Some(exit) = self
            .containers
            .get(&name)
            .and_then(|held| held.execs.get(&*added))
            .and_then(|added| added.exit)
        {
            let change = protocol::monitor::Change::ExecExited {
                container: exec.container.clone(),
                exec: exec.exec.clone(),
                exit,
            };
            self.announce(change, Some(client));
        }
    }

    /// Adds a process: its pid, its terminal, and whether it is new.
    fn add(
        &mut self,
        client: u64,
        exec: &Exec,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(i32, Option<OwnedFd>, bool), Failure> {
        check_name("exec", &exec.exec)?;
        let held = self.containers.get_mut(exec.container.as_str());
        let held = held.ok_or_else(|| not_found(&exec.container))?;
        if let Some(added) = held.execs.get_mut(&exec.exec) {
            added.client = Some(client);
            let terminal = added.terminal.as_ref().and_then(|master| master.try_clone().ok());
            return Ok((added.process.pid, terminal, false));
        }
        if held.facts().status != Status::Running {
            return Err(wrong_state(format!("container {} is not running", exec.container)));
        }
        let held = self.containers.get(exec.container.as_str());
        let held = held.ok_or_else(|| not_found(&exec.container))?;
        let mut added = held.exec(exec, descriptors, &self.around())?;
        added.client = Some(client);
        let pid = added.process.pid;
        let terminal = match &added.terminal {
            Some(master) => Some(master.try_clone().map_err(|error| Failure {
                kind: FailureKind::Failed,
                message: format!("duplicate the terminal of exec {}: {error}", exec.exec),
            })?),
            None => None,
        };
        if let Some(held) = self.containers.get_mut(exec.container.as_str()) {
            held.execs.insert(exec.exec.clone(), added);
        }
        Ok((pid, terminal, true))
    }

    fn resize(&self, name: &str, exec: Option<&str>, rows: u16, columns: u16) -> Answer {
        let held = self.containers.get(name).ok_or_else(|| not_found(name))?;
        let terminal = match exec {
            None => held.terminal.as_ref(),
            Some(exec) => held
                .execs
                .get(exec)
                .ok_or_else(|| Failure {
                    kind: FailureKind::NotFound,
                    message: format!("container {name} has no exec {exec}"),
                })?
                .terminal
                .as_ref(),
        };
        let terminal = terminal.ok_or_else(|| {
            wrong_state(format!("the process in container {name} has no terminal here"))
        })?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal, size).map_err(|error| Failure {
            kind: FailureKind::Failed,
            message: format!("resize the terminal of container {name}: {error}"),
        })?;
        Ok((Fact::None, None))
    }

    fn delete(&mut self, name: &str) -> Answer {
        let Some((key, held)) = self.containers.get_key_value(name) else {
            return Ok((Fact::None, None));
        };
        let key = key.clone();
        match held.facts().status {
            Status::Running => {
                return Err(wrong_state(format!("container {name} is running; stop it first")));
            }
            Status::Created => self.end_created(&key)?,
            Status::Stopped => {}
        }
        self.record_end(&key);
        let Some(held) = self.containers.get(name) else { return Ok((Fact::None, None)) };
        if held.end.is_none_or(|end| !end.recorded) {
            return Err(Failure {
                kind: FailureKind::Failed,
                message: format!("the exit of container {name} could not be recorded yet"),
            });
        }
        held.remove(&self.around())?;
        self.forget_container(&key);
        Ok((Fact::None, None))
    }

    /// Kills an init that waits for its start, and handles its end.
    fn end_created(&mut self, name: &Rc<str>) -> Result<(), Failure> {
        let held = self.containers.get(name).ok_or_else(|| not_found(name))?;
        held.kill(Signal::SIGKILL as i32, false, &self.around())?;
        let deadline = Instant::now() + KILL;
        while self.containers.get(name).is_some_and(|held| held.end.is_none()) {
            if Instant::now() > deadline {
                return Err(wrong_state(format!("container {name} does not die of SIGKILL")));
            }
            let pidfd = self.containers.get(name).and_then(|held| held.pidfd.as_ref());
            if let Some(pidfd) = pidfd {
                wait_end(pidfd, KILL);
            }
            self.init_event(name);
        }
        Ok(())
    }

    fn shutdown(&mut self) -> Answer {
        if !self.containers.is_empty() {
            let names: Vec<&str> = self.containers.keys().map(|name| &**name).collect();
            return Err(wrong_state(format!(
                "containers {} exist; delete them first",
                names.join(", ")
            )));
        }
        for name in ["containers", "state"] {
            // Empty by now; what a stranger put there is left to the one who removes R.
            if let Err(error) = std::fs::remove_dir(self.paths.run.join(name)) {
                journal::failure(&format!("remove {name} of the run directory"), &error);
            }
        }
        if let Err(error) = std::fs::remove_file(self.paths.run.join("monitor.json")) {
            journal::failure("remove the monitor record", &error);
        }
        self.guardian.say(&Word::End, None);
        self.finished = true;
        Ok((Fact::None, None))
    }
}
