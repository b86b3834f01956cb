//! The one owner of `engine::Host`.
//!
//! A turn: take what has come in, step through all of it, commit the changed tasks in one
//! transaction, publish the snapshot, answer who waits, start the effects, in this order. A commit
//! that fails (a full disk) holds back everything behind it: new tasks are refused and forgotten,
//! what concerns known tasks is kept and the commit tried again each [`RETRY`].

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::TaskId;
use tokio::sync::{mpsc, oneshot, watch};

use super::hands::Hands;
use super::view::{self, Snapshot};
use super::{Input, NotRun};
use crate::api::types::{PullEvent, TaskView};
use crate::engine::{self, Effect, Event, Host, Image, Task};
use crate::error::chain;
use crate::failpoint;
use crate::image::Lease;
use crate::store::{Batch, Store, Table};

/// Between attempts to commit.
const RETRY: Duration = Duration::from_secs(1);
/// Inputs of one turn at most, so that a flood of them does not hold up the first one's effects.
const TURN: usize = 256;
/// Without a deadline of the engine the owner still looks at the clock: a wall clock that was set
/// back must not leave it asleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The loop's state.
#[derive(Debug)]
pub struct Owner {
    host: Host,
    store: Arc<Store>,
    hands: Arc<Hands>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    progress: BTreeMap<TaskId, BTreeMap<(usize, String), PullEvent>>,
    /// Changed since the last commit.
    dirty: BTreeSet<TaskId>,
    /// Of changes that are not committed yet.
    effects: Vec<Effect>,
    /// Of images that tasks use once the changes are published.
    leases: Vec<Arc<Lease>>,
    commit_failed: bool,
}

/// What is asked to be run.
#[derive(Debug)]
struct Asked {
    id: TaskId,
    /// Nothing of this id was there.
    is_new: bool,
}

impl Asked {
    fn of(host: &Host, id: &TaskId) -> Self {
        let is_new = !host.tasks.contains_key(id) && !host.spent.contains_key(id);
        Self { id: id.clone(), is_new }
    }

    /// It never was, unless something of its id was there before.
    fn take_back(&self, host: &mut Host, dirty: &mut BTreeSet<TaskId>, effects: &mut Vec<Effect>) {
        if self.is_new {
            host.tasks.remove(&self.id);
            dirty.remove(&self.id);
            effects.retain(|effect| effect.task != self.id);
        }
    }
}

/// Who waits for a commit.
#[derive(Debug)]
enum Waiting {
    Run(Asked, oneshot::Sender<Result<TaskView, NotRun>>),
    Ask(TaskId, oneshot::Sender<Result<Option<TaskView>, String>>),
    Ping(oneshot::Sender<Result<(), String>>),
}

impl Owner {
    /// Takes over a host as it was loaded. What was observed of it comes through the inbox.
    pub fn new(
        host: Host,
        store: Arc<Store>,
        hands: Arc<Hands>,
        snapshots: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        let owner = Self {
            host,
            store,
            hands,
            snapshots,
            progress: BTreeMap::new(),
            dirty: BTreeSet::new(),
            effects: Vec::new(),
            leases: Vec::new(),
            commit_failed: false,
        };
        owner.publish(&owner.host.tasks.keys().cloned().collect());
        owner
    }

    /// Runs until [`Input::Shutdown`] or until nobody can send any more.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut inputs = Vec::new();
        loop {
            let sleep = if self.commit_failed { RETRY } else { self.until_wake() };
            let received = tokio::time::timeout(sleep, inbox.recv_many(&mut inputs, TURN)).await;
            if received == Ok(0) {
                break;
            }
            let mut waiting = Vec::new();
            let mut touched = BTreeSet::new();
            let mut ended = false;
            if received.is_err() {
                self.step(Event::Wake);
            }
            for input in inputs.drain(..) {
                match input {
                    Input::Event(event) => self.step(event),
                    Input::Resolved { event, lease } => {
                        self.step(event);
                        self.leases.push(lease);
                    }
                    Input::Progress { task, container, event } => {
                        self.note_progress(&task, container, event);
                        touched.insert(task);
                    }
                    Input::Run { new, reply } => {
                        waiting.push(Waiting::Run(Asked::of(&self.host, &new.id), reply));
                        self.step(Event::Run(new));
                    }
                    Input::Ask { task, event, reply } => {
                        waiting.push(Waiting::Ask(task.clone(), reply));
                        self.step(Event::Task { task, event });
                    }
                    Input::Ping { reply } => waiting.push(Waiting::Ping(reply)),
                    Input::Shutdown => ended = true,
                }
            }
            let commit = self.commit().await;
            if let Err(error) = &commit {
                self.refuse(&mut waiting, error);
            }
            touched.append(&mut self.published(commit.is_ok()));
            if !touched.is_empty() {
                self.publish(&touched);
            }
            if commit.is_ok() {
                self.leases.clear();
            }
            self.answer(waiting);
            failpoint::hit("turn.answered");
            if ended {
                break;
            }
            if commit.is_ok() {
                for effect in std::mem::take(&mut self.effects) {
                    self.start(effect);
                }
            }
        }
        self.snapshots.send_modify(|snapshot| Arc::make_mut(snapshot).ended = true);
    }

    fn until_wake(&self) -> Duration {
        let now = Timestamp::now();
        let Some(at) = engine::next_wake(&self.host, now) else { return LONGEST_SLEEP };
        // A millisecond later, so that the deadline has passed when the engine looks.
        Duration::try_from(at.duration_since(now))
            .unwrap_or(Duration::ZERO)
            .saturating_add(Duration::from_millis(1))
            .min(LONGEST_SLEEP)
    }

    /// A panic of the engine costs the event that caused it, not the other tasks: the event's task
    /// is put back as it was.
    fn step(&mut self, event: Event) {
        let id = match &event {
            Event::Task { task, .. } | Event::Container { task, .. } => Some(task.clone()),
            Event::Run(new) => Some(new.id.clone()),
            Event::Wake | Event::Recovered => None,
        };
        let before = id.as_ref().and_then(|id| self.host.tasks.get(id).cloned());
        let host = &mut self.host;
        let stepped = std::panic::catch_unwind(AssertUnwindSafe(|| {
            engine::step(host, event, Timestamp::now())
        }));
        match stepped {
            Ok(outcome) => {
                self.dirty.extend(outcome.changed);
                self.effects.extend(outcome.effects);
            }
            Err(_printed) => {
                tracing::error!(task = ?id, "the engine panicked; the event is dropped");
                if let Some(id) = id {
                    match before {
                        Some(task) => self.host.tasks.insert(id, task),
                        None => self.host.tasks.remove(&id),
                    };
                }
            }
        }
    }

    async fn commit(&mut self) -> Result<(), String> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for id in &self.dirty {
            match self.host.tasks.get(id) {
                Some(task) => {
                    batch.put(Table::Tasks, id.as_str(), task).map_err(|error| chain(&error))?
                }
                None => batch.remove(Table::Tasks, id.as_str()),
            }
            match self.host.spent.get(id) {
                Some(since) => {
                    batch.put(Table::Spent, id.as_str(), since).map_err(|error| chain(&error))?
                }
                None => batch.remove(Table::Spent, id.as_str()),
            }
        }
        failpoint::hit("commit.before");
        let store = Arc::clone(&self.store);
        let committed = tokio::task::spawn_blocking(move || store.commit(batch)).await;
        let result = match committed {
            Ok(result) => result.map_err(|error| chain(&error)),
            Err(panic) => Err(panic.to_string()),
        };
        if let Err(error) = &result
            && !self.commit_failed
        {
            tracing::error!(error, "cannot store state; nothing is started until it can be");
        }
        self.commit_failed = result.is_err();
        failpoint::hit("commit.after");
        result
    }

    /// New tasks that could not be stored never were.
    fn refuse(&mut self, waiting: &mut Vec<Waiting>, error: &str) {
        for refused in std::mem::take(waiting) {
            match refused {
                Waiting::Run(asked, reply) => {
                    asked.take_back(&mut self.host, &mut self.dirty, &mut self.effects);
                    let _ = reply.send(Err(NotRun::Unstored(error.to_owned())));
                }
                Waiting::Ask(_, reply) => {
                    let _ = reply.send(Err(format!("store the request: {error}")));
                }
                Waiting::Ping(reply) => {
                    let _ = reply.send(Err(format!("store the tasks: {error}")));
                }
            }
        }
    }

    /// What the commit made visible.
    fn published(&mut self, committed: bool) -> BTreeSet<TaskId> {
        if committed { std::mem::take(&mut self.dirty) } else { BTreeSet::new() }
    }

    fn publish(&self, changed: &BTreeSet<TaskId>) {
        for id in changed {
            if let Some(task) = self.host.tasks.get(id) {
                self.hands.note(task);
            }
        }
        self.snapshots.send_modify(|snapshot| {
            let snapshot = Arc::make_mut(snapshot);
            for id in changed {
                match self.view(id) {
                    Some(view) => snapshot.tasks.insert(id.clone(), Arc::new(view)),
                    None => snapshot.tasks.remove(id),
                };
                match self.host.tasks.get(id) {
                    Some(task) => snapshot.states.insert(id.clone(), Arc::new(task.clone())),
                    None => snapshot.states.remove(id),
                };
            }
            snapshot.live =
                self.host.tasks.values().filter(|task| task.times.stopped.is_none()).count();
            snapshot.images =
                images(self.host.tasks.values().filter(|task| task.times.stopped.is_none()));
            snapshot.known_images = images(self.host.tasks.values());
        });
    }

    fn view(&self, id: &TaskId) -> Option<TaskView> {
        let task = self.host.tasks.get(id)?;
        let progress = self.progress.get(id).map(|lines| lines.values().cloned().collect());
        Some(view::task(task, self.hands.layout(), progress.unwrap_or_default()))
    }

    fn answer(&self, waiting: Vec<Waiting>) {
        for waiting in waiting {
            match waiting {
                Waiting::Run(Asked { id, .. }, reply) => {
                    let _ = reply.send(self.view(&id).ok_or(NotRun::Spent(id)));
                }
                Waiting::Ask(id, reply) => {
                    let _ = reply.send(Ok(self.view(&id)));
                }
                Waiting::Ping(reply) => {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }

    fn note_progress(&mut self, task: &TaskId, container: usize, event: PullEvent) {
        if !self.host.tasks.contains_key(task) {
            return;
        }
        let lines = self.progress.entry(task.clone()).or_default();
        match &event {
            PullEvent::Done { .. } | PullEvent::Failed { .. } => {
                lines.retain(|(of, _), _| *of != container);
            }
            PullEvent::Resolved { .. } => {}
            PullEvent::Resolving { .. } => {
                lines.insert((container, String::new()), event);
            }
            PullEvent::Layer { layer, .. } => {
                lines.remove(&(container, String::new()));
                lines.insert((container, layer.clone()), event);
            }
        }
        if lines.is_empty() {
            self.progress.remove(task);
        }
    }

    fn start(&self, effect: Effect) {
        // A task that a later event of the same turn removed needs no hands.
        if let Some(task) = self.host.tasks.get(&effect.task) {
            Hands::start(&self.hands, effect, Arc::new(task.clone()));
        }
    }
}

fn images<'a>(tasks: impl Iterator<Item = &'a Task>) -> BTreeSet<String> {
    tasks
        .flat_map(|task| &task.containers)
        .filter_map(|container| match &container.image {
            Image::Ready { id, .. } => Some(id.clone()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use protocol::taskdef::{NetworkMode, TaskDefinition};

    use super::*;
    use crate::api::types::PullPolicy;
    use crate::engine::{Event, NewTask};
    use crate::fixtures;

    fn run(id: &TaskId) -> Event {
        let containers = vec![fixtures::container("c", "busybox")];
        Event::Run(Box::new(NewTask {
            id: id.clone(),
            definition: TaskDefinition::of("f".to_owned(), NetworkMode::None, containers),
            pull: PullPolicy::Missing,
            remove: false,
            ecs: None,
            ended: None,
            endpoints: Vec::new(),
            busy_ports: BTreeSet::new(),
        }))
    }

    #[test]
    fn a_commit_that_fails_takes_back_what_was_new_alone() {
        let [stored, removed, new] = [1, 2, 3].map(TaskId::from_random);
        let mut host = Host::new(fixtures::settings());
        engine::step(&mut host, run(&stored), Timestamp::UNIX_EPOCH);
        host.spent.insert(removed.clone(), Timestamp::UNIX_EPOCH);
        // The removal is not stored yet either.
        let (mut dirty, mut effects) = (BTreeSet::from([removed.clone()]), Vec::new());
        let asked: Vec<Asked> = [&stored, &removed, &new, &new]
            .into_iter()
            .map(|id| {
                let asked = Asked::of(&host, id);
                let outcome = engine::step(&mut host, run(id), Timestamp::UNIX_EPOCH);
                dirty.extend(outcome.changed);
                effects.extend(outcome.effects);
                asked
            })
            .collect();
        assert!(host.tasks.contains_key(&new) && !effects.is_empty());
        for asked in asked {
            asked.take_back(&mut host, &mut dirty, &mut effects);
        }
        assert_eq!(host.tasks.keys().collect::<Vec<_>>(), [&stored]);
        assert_eq!(dirty, BTreeSet::from([removed.clone()]));
        assert_eq!(effects, []);
        assert!(host.spent.contains_key(&removed));
    }
}
