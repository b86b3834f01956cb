//! Statistics of running containers: one sample a second, while somebody wants them.
//!
//! Owner: [`Stats`], shared by its clones. Telemetry [subscribes](Stats::subscribe); who asks for a
//! container's statistics keeps the sampler going for [`INTEREST`]. Without either, or without a
//! container that runs, nothing runs and nothing is kept. Per container there are the last two
//! samples whole, for the documents, and while telemetry is subscribed a ring of [`Point`]s; when
//! that is full the oldest goes.
//!
//! Counters are read from the kernel's files directly ([`read`]), not by `cgroups-rs`: that opens
//! every file of a controller for each question, wanted or not, and says 0 for what it could not
//! read, which here must be told apart from a container without traffic.
//!
//! [`parse`] and [`docker`] are pure.

pub mod docker;
pub mod parse;
mod read;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::TaskId;
use protocol::taskdef::NetworkMode;
use protocol::tmds::NetworkStats;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::cgroup;
use crate::engine::{Life, Task};
use crate::host::view::Snapshot;
use read::Reader;

/// Between samples.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a question keeps the sampler going.
const INTEREST: Duration = Duration::from_secs(60);
/// Points kept for telemetry: four of its intervals of 20 s.
const RING: usize = 80;

/// Everything read of a container at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    pub at: Timestamp,
    pub cpu: parse::Cpu,
    pub host: parse::HostCpu,
    pub memory: Memory,
    pub disk: Vec<parse::Disk>,
    pub processes: u64,
    /// `None`: no limit.
    pub process_limit: Option<u64>,
    /// By interface, without loopback. `None`: the container has no network of its own or its
    /// task's.
    pub networks: Option<BTreeMap<String, NetworkStats>>,
}

/// Bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    /// Only cgroup v1 and newer kernels' v2 know it.
    pub max_usage: Option<u64>,
    /// How often the limit was hit; cgroup v1.
    pub failures: Option<u64>,
    /// What the container can have at most: its limit, its task's or the host's memory.
    pub limit: u64,
    /// `memory.stat`
    pub stat: BTreeMap<String, u64>,
}

/// What telemetry needs of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub at: Timestamp,
    /// Nanoseconds of CPU time since the container was made.
    pub cpu: u64,
    pub online_cpus: u32,
    /// Bytes in use without the page cache that could go: usage less `inactive_file` (cgroup v2)
    /// or `cache` (v1).
    pub memory: u64,
    /// Bytes since the container was made.
    pub storage_read: u64,
    /// Likewise.
    pub storage_written: u64,
    /// All interfaces together. `None`: as in [`Sample`].
    pub network: Option<NetworkStats>,
}

impl Sample {
    fn point(&self) -> Point {
        let cache = ["total_cache", "cache", "inactive_file"];
        let cache = cache.iter().find_map(|key| self.memory.stat.get(*key)).copied();
        let bytes = |write: bool| {
            let of_kind = self.disk.iter().filter(|disk| disk.write == write);
            of_kind.fold(0_u64, |sum, disk| sum.saturating_add(disk.bytes))
        };
        Point {
            at: self.at,
            cpu: self.cpu.total,
            online_cpus: self.host.online,
            memory: self.memory.usage.saturating_sub(cache.unwrap_or(0)),
            storage_read: bytes(false),
            storage_written: bytes(true),
            network: self.networks.as_ref().map(parse::sum),
        }
    }
}

/// A container's points since they were last taken, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSamples {
    /// Index in the task's definition.
    pub container: usize,
    /// The last point taken before, so that rates have no gaps.
    pub before: Option<Point>,
    pub points: Vec<Point>,
}

/// See the module's documentation. Clones share the samples.
#[derive(Debug, Clone)]
pub struct Stats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Parent of every task's cgroup.
    cgroup_parent: String,
    reader: std::sync::OnceLock<Reader>,
    state: Mutex<State>,
    subscribers: AtomicUsize,
    /// Rung when somebody begins to want samples.
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<(TaskId, usize), Track>,
    asked: Option<Instant>,
}

#[derive(Debug, Default)]
struct Track {
    latest: Option<Arc<Sample>>,
    previous: Option<Arc<Sample>>,
    points: VecDeque<Point>,
    before: Option<Point>,
}

/// Keeps the sampler going until it is dropped.
#[derive(Debug)]
pub struct Subscription(Arc<Shared>);

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A container to be sampled.
#[derive(Debug, Clone)]
struct Target {
    task: TaskId,
    container: usize,
    cgroup: String,
    pid: i32,
    network: bool,
    /// Bytes.
    task_limit: Option<u64>,
}

impl Stats {
    /// `cgroup_parent` is `Layout::cgroup_parent`.
    pub fn new(cgroup_parent: String) -> Self {
        Self(Arc::new(Shared {
            cgroup_parent,
            reader: std::sync::OnceLock::new(),
            state: Mutex::new(State::default()),
            subscribers: AtomicUsize::new(0),
            wanted: Notify::new(),
        }))
    }

    /// Starts the sampler, which ends with the handle. Must be called within a tokio runtime.
    pub fn start(&self, snapshots: watch::Receiver<Arc<Snapshot>>) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(run(self.clone(), snapshots)))
    }

    /// Wants points of every container from now on.
    pub fn subscribe(&self) -> Subscription {
        self.0.subscribers.fetch_add(1, Ordering::Relaxed);
        self.0.wanted.notify_one();
        Subscription(Arc::clone(&self.0))
    }

    /// Takes the task's points, for telemetry. A container that has none since the last time is
    /// left out.
    pub fn window(&self, task: &TaskId) -> Vec<ContainerSamples> {
        let mut state = self.0.lock();
        let of_task = (task.clone(), 0)..=(task.clone(), usize::MAX);
        state
            .containers
            .range_mut(of_task)
            .filter(|(_, track)| !track.points.is_empty())
            .map(|((_, container), track)| {
                let points: Vec<Point> = track.points.drain(..).collect();
                let before = std::mem::replace(&mut track.before, points.last().copied());
                ContainerSamples { container: *container, before, points }
            })
            .collect()
    }

    /// Enters points as if they had been sampled.
    #[cfg(test)]
    pub fn enter(&self, task: &TaskId, container: usize, points: &[Point]) {
        let mut state = self.0.lock();
        let track = state.containers.entry((task.clone(), container)).or_default();
        track.points.extend(points);
    }

    /// The newest sample of a container and the one before it. `None`: it does not run, or its
    /// cgroup cannot be read. The first question of a while is answered by a sample made for it.
    pub async fn latest(
        &self,
        task: &Task,
        container: usize,
    ) -> Option<(Arc<Sample>, Option<Arc<Sample>>)> {
        let target = target(&self.0.cgroup_parent, task, container)?;
        {
            let mut state = self.0.lock();
            state.asked = Some(Instant::now());
            if let Some(track) = state.containers.get(&(task.id.clone(), container))
                && let Some(latest) = &track.latest
            {
                return Some((Arc::clone(latest), track.previous.clone()));
            }
        }
        self.0.wanted.notify_one();
        let shared = Arc::clone(&self.0);
        let sampled = tokio::task::spawn_blocking(move || shared.sample(&[target])).await;
        if let Err(failed) = sampled {
            tracing::error!(%failed, "the sampler failed internally");
        }
        let state = self.0.lock();
        let track = state.containers.get(&(task.id.clone(), container))?;
        Some((Arc::clone(track.latest.as_ref()?), track.previous.clone()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Samples that a panic left half entered are replaced within a second.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self) -> bool {
        self.subscribers.load(Ordering::Relaxed) > 0
            || self.lock().asked.is_some_and(|asked| asked.elapsed() < INTEREST)
    }

    /// Reads the kernel's files; blocks for as long as that takes.
    fn sample(&self, targets: &[Target]) {
        let reader = self.reader.get_or_init(Reader::open);
        let host = reader.host();
        let mut samples = Vec::with_capacity(targets.len());
        for target in targets {
            if let Some(sample) = reader.sample(target, host) {
                samples.push((target, Arc::new(sample)));
            }
        }
        let ring = self.subscribers.load(Ordering::Relaxed) > 0;
        let mut state = self.lock();
        for (target, sample) in samples {
            let track =
                state.containers.entry((target.task.clone(), target.container)).or_default();
            if ring {
                if track.points.len() == RING {
                    track.points.pop_front();
                }
                track.points.push_back(sample.point());
            }
            track.previous = track.latest.replace(sample);
        }
    }

    fn keep_only(&self, targets: &[Target]) {
        self.lock().containers.retain(|(task, container), _| {
            targets.iter().any(|target| target.task == *task && target.container == *container)
        });
    }
}

async fn run(stats: Stats, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    let shared = stats.0;
    loop {
        while !shared.is_wanted() {
            shared.wanted.notified().await;
        }
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shared.is_wanted() {
            ticks.tick().await;
            let targets = targets(&shared.cgroup_parent, &mut snapshots);
            if targets.is_empty() {
                shared.lock().containers.clear();
                // A host without containers is not woken every second.
                if snapshots.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let sampler = Arc::clone(&shared);
            let sampled = tokio::task::spawn_blocking(move || {
                sampler.keep_only(&targets);
                sampler.sample(&targets);
            });
            if let Err(failed) = sampled.await {
                tracing::error!(%failed, "the sampler failed internally");
            }
        }
        shared.lock().containers.clear();
    }
}

fn targets(cgroup_parent: &str, snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Vec<Target> {
    let snapshot = snapshots.borrow_and_update();
    let tasks = snapshot.states.values();
    tasks
        .flat_map(|task| {
            (0..task.containers.len()).filter_map(|index| target(cgroup_parent, task, index))
        })
        .collect()
}

/// `None`: it does not run.
fn target(cgroup_parent: &str, task: &Task, index: usize) -> Option<Target> {
    let container = task.containers.get(index)?;
    let definition = task.container_definition(index)?;
    if !matches!(container.life, Life::Running) {
        return None;
    }
    let network = matches!(task.definition.network_mode, NetworkMode::Awsvpc | NetworkMode::Bridge)
        && !definition.disable_networking;
    Some(Target {
        task: task.id.clone(),
        container: index,
        cgroup: cgroup::container_path(cgroup_parent, &task.id, &definition.name),
        pid: container.pid?,
        network,
        task_limit: task.definition.memory.map(|mib| u64::from(mib) << 20),
    })
}
