//! The latest metrics of each task, in memory: a restart forgets them, agents publish every 20 s.
//!
//! Bounded by what is stored: only tasks that are placed on the instance, only containers that their
//! task has, one sample each.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use protocol::tcs::{ContainerMetric, NetworkStatistics, Statistic, StorageStatistics, TaskMetric};

use super::admit::Peer;
use crate::model::Entity;
use crate::state::View;

/// What a container used between the last two publications.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSample {
    /// Per cent of the whole instance.
    pub cpu: Option<Statistic>,
    /// MiB.
    pub memory: Option<Statistic>,
    pub network: Option<NetworkStatistics>,
    pub storage: Option<StorageStatistics>,
}

/// The containers of a task, by their names.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSample {
    /// When it came.
    pub at: Timestamp,
    pub containers: BTreeMap<String, ContainerSample>,
}

/// What an instance has published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct InstanceSample {
    /// When its agent published last.
    pub at: Timestamp,
    /// The tasks that run there, by their keys.
    pub tasks: BTreeMap<String, TaskSample>,
}

/// The samples of all instances that have a session of TCS.
#[derive(Debug, Default)]
pub(super) struct Telemetry(Mutex<HashMap<String, Arc<InstanceSample>>>);

impl Telemetry {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<InstanceSample>>> {
        // Each critical section is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all(&self) -> HashMap<String, Arc<InstanceSample>> {
        self.lock().clone()
    }

    /// Takes a publication over; what is not of a live task of the instance is dropped.
    pub(super) fn publish(
        &self,
        view: &View,
        peer: &Peer,
        metrics: Vec<TaskMetric>,
        now: Timestamp,
    ) {
        let mut all = self.lock();
        let sample = Arc::make_mut(all.entry(peer.key.clone()).or_default());
        sample.at = now;
        for metric in metrics {
            let Some(task) = peer.task(view, metric.task_arn.as_deref()) else { continue };
            let known = |name: &str| task.containers.iter().any(|c| c.name == name);
            let containers = metric.container_metrics.into_iter().filter_map(|metric| {
                let ContainerMetric { container_name, cpu_stats_set, memory_stats_set, .. } =
                    metric;
                let name = container_name.filter(|name| known(name))?;
                let sample = ContainerSample {
                    cpu: cpu_stats_set,
                    memory: memory_stats_set,
                    network: metric.network_stats_set,
                    storage: metric.storage_stats_set,
                };
                Some((name, sample))
            });
            let containers = containers.collect();
            sample.tasks.insert(task.key(), TaskSample { at: now, containers });
        }
        let live = |key: &String| view.tasks.get(key).is_some_and(|task| task.is_live());
        sample.tasks.retain(|key, _| live(key));
    }

    /// The instance publishes no more.
    pub(super) fn forget(&self, instance: &str) {
        self.lock().remove(instance);
    }
}
