//! The edge of the planners: finds out which services and hosts to look at, has them planned on the
//! newest view, and commits each plan in one transaction.
//!
//! What to look at comes from the store's watch (the keys that changed) and from timers (what the
//! planners asked for). Both are hints: everything is looked at when it starts, when the watch is
//! lost, and once a minute. Nothing of it is stored, so a kill loses nothing; a plan that conflicts
//! with somebody else's change is made again.
//!
//! A turn commits and thereby wakes the next, until a plan is empty. In one round at most
//! [`ROUND`] services or hosts are looked at, [`AT_ONCE`] at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::apply::{self, Settings, Turn};
use super::draws::Draws;
use super::sweep;
use crate::config::Config;
use crate::failpoint;
use crate::model::{
    Connection, Definition, Entity, Instance, InstanceStatus, Role, Scheduling, Service,
    ServiceStatus, Task,
};
use crate::state::{Error, State, View};
use crate::store::{Change, Changes, Watch};

/// How often everything is looked at.
const SCAN: SignedDuration = SignedDuration::from_secs(60);
/// How often what nobody needs is looked for.
const SWEEP: SignedDuration = SignedDuration::from_secs(60);
/// How many records one transaction of the sweep deletes.
const SWEPT: usize = 500;
/// How many services and hosts are looked at before new changes are.
const ROUND: usize = 64;
/// How many transactions of ours are under way at a time.
const AT_ONCE: usize = 8;
/// How long to wait after an error of the store.
const PAUSE: Duration = Duration::from_secs(1);

/// What can be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    /// Key of an instance. Before services: they replace what it lost.
    Host(String),
    /// Key of a service.
    Service(String),
    Sweep,
    Scan,
}

/// Runs the planners until the state can no longer be followed.
pub async fn run(state: Arc<State>, config: Arc<Config>) {
    let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    let settings = Settings {
        account: config.account.clone(),
        settle: signed(config.settle),
        lost_after: config.lost_after.map(signed),
        up_since: Timestamp::now(),
    };
    let mut drive = Drive {
        state,
        settings,
        keep_stopped: signed(config.keep_stopped),
        due: Due::default(),
        timers: Timers::default(),
        starved: BTreeSet::new(),
    };
    loop {
        match drive.follow().await {
            Ok(()) | Err(Error::Ended) => return,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "planning is interrupted"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

struct Drive {
    state: Arc<State>,
    settings: Settings,
    keep_stopped: SignedDuration,
    /// To be looked at now.
    due: Due,
    timers: Timers,
    /// Keys of services that wait for room.
    starved: BTreeSet<String>,
}

impl Drive {
    /// Follows one watch to its end.
    async fn follow(&mut self) -> Result<(), Error> {
        let revision = self.state.view().revision;
        let mut watch = self.state.store().watch("", revision).await.map_err(Error::Read)?;
        self.timers.set(Item::Scan, Some(Timestamp::now()));
        self.timers.set(Item::Sweep, Some(Timestamp::now()));
        loop {
            if !self.state.follows() {
                return Err(Error::Ended);
            }
            self.wait(&mut watch).await?;
            let round: Vec<Item> = {
                let now = Timestamp::now();
                self.due.extend(self.timers.take_due(now));
                (0..ROUND).map_while(|_| self.due.pop_first()).collect()
            };
            self.look(round).await;
        }
    }

    /// Waits until there is something to look at, and takes all changes that are there.
    async fn wait(&mut self, watch: &mut Watch) -> Result<(), Error> {
        let mut changes = watch.try_recv().ok();
        if changes.is_none() && self.due.is_empty() {
            let sleep = self.timers.sleep(Timestamp::now());
            tokio::select! {
                received = watch.recv() => changes = Some(received.ok_or(Error::Ended)?),
                () = tokio::time::sleep(sleep) => return Ok(()),
            }
        }
        let mut reached = self.state.changes();
        while let Some(received) = changes {
            let received = received.map_err(Error::Read)?;
            // The watch may be ahead of the view.
            let revision = received.revision;
            reached.wait_for(|seen| *seen >= revision).await.map_err(|_closed| Error::Ended)?;
            let view = self.state.view();
            note(&view, &received, &self.starved, &mut self.due);
            drop(view);
            changes = watch.try_recv().ok();
        }
        Ok(())
    }

    async fn look(&mut self, round: Vec<Item>) {
        let mut single = Vec::new();
        for item in round {
            match item {
                Item::Scan => self.scan(),
                Item::Sweep => self.sweep().await,
                Item::Host(_) | Item::Service(_) => single.push(item),
            }
        }
        // Hosts first: what they lost is replaced in the same round.
        let (hosts, services): (Vec<Item>, Vec<Item>) =
            single.into_iter().partition(|item| matches!(item, Item::Host(_)));
        for part in [hosts, services] {
            let (state, settings) = (&self.state, &self.settings);
            let turns = stream::iter(part)
                .map(|item| async move {
                    failpoint::hit("plan.before");
                    let turn = turn(state, settings, &item).await;
                    failpoint::hit("plan.applied");
                    (item, turn)
                })
                .buffer_unordered(AT_ONCE)
                .collect::<Vec<_>>()
                .await;
            for (item, turn) in turns {
                self.finish(item, turn);
            }
        }
    }

    fn finish(&mut self, item: Item, turn: Result<Turn, Error>) {
        let turn = turn.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, ?item, "a plan failed");
            let pause = SignedDuration::try_from(PAUSE).unwrap_or_default();
            let wake_at = Timestamp::now().checked_add(pause).ok();
            Turn { wake_at, ..Turn::default() }
        });
        if let Item::Service(key) = &item {
            if turn.starved {
                self.starved.insert(key.clone());
            } else {
                self.starved.remove(key);
            }
        }
        if turn.again {
            self.due.insert(item.clone());
        }
        self.timers.set(item, turn.wake_at);
    }

    /// Everything is to be looked at.
    fn scan(&mut self) {
        let view = self.state.view();
        let services = view.services.iter().filter(|s| s.status != ServiceStatus::Inactive);
        self.due.extend(services.map(|service| Item::Service(service.key())));
        let hosts = view.hosts().prefix(Instance::PREFIX);
        self.due.extend(hosts.map(|(key, _)| Item::Host(key.to_owned())));
        drop(view);
        self.timers.set(Item::Scan, Timestamp::now().checked_add(SCAN).ok());
    }

    async fn sweep(&mut self) {
        let now = Timestamp::now();
        let keep = self.keep_stopped;
        let swept = self
            .state
            .transact(|view, edit| Ok::<_, Error>(sweep::sweep(view, edit, keep, SWEPT, now)))
            .await;
        let again = match swept {
            Ok(swept) => swept == SWEPT,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the sweep failed");
                false
            }
        };
        let wait = if again { SignedDuration::ZERO } else { SWEEP.min(keep.max(SECOND)) };
        self.timers.set(Item::Sweep, now.checked_add(wait).ok());
    }
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// One turn: a plan on the newest view, committed.
async fn turn(state: &State, settings: &Settings, item: &Item) -> Result<Turn, Error> {
    let now = Timestamp::now();
    match item {
        Item::Host(key) => {
            state.transact(|view, edit| Ok(apply::host(view, edit, key, settings, now))).await
        }
        Item::Service(key) => {
            let draws = draws();
            let decide = |view: &View, edit: &mut _| {
                Ok(apply::service(view, edit, key, settings, now, draws.clone()))
            };
            state.transact(decide).await
        }
        Item::Scan | Item::Sweep => Ok(Turn::default()),
    }
}

/// Those of a new decision, from 244 random bits.
pub(crate) fn draws() -> Draws {
    let mut seed = [0; 32];
    let halves = [Uuid::new_v4(), Uuid::new_v4()];
    for (place, byte) in seed.iter_mut().zip(halves.iter().flat_map(Uuid::as_bytes)) {
        *place = *byte;
    }
    Draws::new(seed)
}

/// Adds what changes ask to look at.
fn note(view: &View, changes: &Changes, starved: &BTreeSet<String>, due: &mut Due) {
    for change in &changes.changes {
        let key = match change {
            Change::Put(record) => &record.key,
            Change::Delete { key } => key,
        };
        let Some((kind, names)) = key.split_once('/') else { continue };
        match kind_of(kind) {
            Kind::Service => {
                due.insert(Item::Service(key.clone()));
            }
            Kind::Task => note_task(view, key, names, starved, due),
            Kind::Host => note_host(view, names, starved, due),
            Kind::Anywhere => due.extend(starved.iter().cloned().map(Item::Service)),
            Kind::Other => {}
        }
    }
}

/// What a kind of record means for us.
enum Kind {
    Service,
    Task,
    /// `<region>/<cluster>/<instance>` follows.
    Host,
    /// It may be what a service waits for.
    Anywhere,
    Other,
}

fn kind_of(kind: &str) -> Kind {
    let is = |prefix: &str| prefix.strip_suffix('/') == Some(kind);
    if is(Service::PREFIX) {
        Kind::Service
    } else if is(Task::PREFIX) {
        Kind::Task
    } else if is(Instance::PREFIX) || is(Connection::PREFIX) {
        Kind::Host
    } else if is(Role::PREFIX) || is(Definition::PREFIX) {
        Kind::Anywhere
    } else {
        Kind::Other
    }
}

fn note_task(view: &View, key: &str, names: &str, starved: &BTreeSet<String>, due: &mut Due) {
    let Some(task) = view.tasks.get(key) else {
        return;
    };
    if let Some(service) = &task.service {
        due.insert(Item::Service(Service::key_of(&task.region, &task.cluster, service)));
    }
    if !task.is_live() {
        due.extend(starved_in(names, starved));
    }
    let instance = Instance::key_of(&task.region, &task.cluster, &task.instance);
    if task.is_live() && view.hosts().get(&instance).is_none_or(|host| !host.connected) {
        due.insert(Item::Host(instance.clone()));
    }
    // DAEMON tasks leave a draining instance last.
    let drains =
        view.instances.get(&instance).is_some_and(|i| i.status == InstanceStatus::Draining);
    if drains {
        due.extend(daemons(view, &task.region, &task.cluster));
    }
}

fn note_host(view: &View, names: &str, starved: &BTreeSet<String>, due: &mut Due) {
    let key = format!("{}{names}", Instance::PREFIX);
    for task in view.tasks_on(&key).filter(|task| task.is_live()) {
        if let Some(service) = &task.service {
            due.insert(Item::Service(Service::key_of(&task.region, &task.cluster, service)));
        }
    }
    due.extend(starved_in(names, starved));
    let mut parts = names.split('/');
    if let (Some(region), Some(cluster)) = (parts.next(), parts.next()) {
        due.extend(daemons(view, region, cluster));
    }
    due.insert(Item::Host(key));
}

/// The services that wait for room in the cluster of `<region>/<cluster>/…`.
fn starved_in<'a>(
    names: &'a str,
    starved: &'a BTreeSet<String>,
) -> impl Iterator<Item = Item> + 'a {
    let cluster = names.rsplit_once('/').map_or("", |(cluster, _)| cluster);
    let of = move |key: &&String| {
        let service = key.strip_prefix(Service::PREFIX).and_then(|names| names.rsplit_once('/'));
        service.is_some_and(|(of, _)| of == cluster)
    };
    starved.iter().filter(of).cloned().map(Item::Service)
}

fn daemons(view: &View, region: &str, cluster: &str) -> Vec<Item> {
    view.services
        .prefix(&Service::key_of(region, cluster, ""))
        .filter(|(_, service)| service.scheduling == Scheduling::Daemon)
        .map(|(key, _)| Item::Service(key.to_owned()))
        .collect()
}

/// What is to be looked at, each once, in the order in which it was asked for.
#[derive(Debug, Default)]
struct Due {
    queue: VecDeque<Item>,
    queued: BTreeSet<Item>,
}

impl Due {
    fn insert(&mut self, item: Item) {
        if self.queued.insert(item.clone()) {
            self.queue.push_back(item);
        }
    }

    fn extend(&mut self, items: impl IntoIterator<Item = Item>) {
        items.into_iter().for_each(|item| self.insert(item));
    }

    fn pop_first(&mut self) -> Option<Item> {
        let item = self.queue.pop_front()?;
        self.queued.remove(&item);
        Some(item)
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// When to look at what without a change.
#[derive(Debug, Default)]
struct Timers {
    by_time: BTreeSet<(Timestamp, Item)>,
    at: BTreeMap<Item, Timestamp>,
}

impl Timers {
    /// Sets, moves or ends an item's timer.
    fn set(&mut self, item: Item, at: Option<Timestamp>) {
        if let Some(before) = self.at.remove(&item) {
            self.by_time.remove(&(before, item.clone()));
        }
        if let Some(at) = at {
            self.at.insert(item.clone(), at);
            self.by_time.insert((at, item));
        }
    }

    fn take_due(&mut self, now: Timestamp) -> Vec<Item> {
        let mut due = Vec::new();
        while self.by_time.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, item)) = self.by_time.pop_first() {
                self.at.remove(&item);
                due.push(item);
            }
        }
        due
    }

    /// How long nothing is due. Timers count in steps of a millisecond and never early.
    fn sleep(&self, now: Timestamp) -> Duration {
        let until = self.by_time.first().map_or(SCAN, |(at, _)| at.duration_since(now));
        let until = until.clamp(SignedDuration::ZERO, SCAN);
        Duration::try_from(until).unwrap_or_default() + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests;
