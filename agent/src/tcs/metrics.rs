//! From samples to the messages in which they are published. Pure.
//!
//! A container's statistics are over the points taken since the last publication; what is a rate,
//! over the pairs of neighbours, the last point published before among them. A container with fewer
//! than two points is left out, and so is a task without containers. Source: protocol reference
//! §10.4.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use protocol::tcs::{
    ContainerMetric, CounterStatistic, Metadata, NetworkStatistics, PublishMetrics, Statistic,
    StorageStatistics, TaskMetric,
};
use protocol::tmds::NetworkStats;

use crate::engine::{Life, Task};
use crate::stats::{ContainerSamples, Point};

/// Tasks of a message at most.
pub const MOST_TASKS: usize = 10;
/// Bytes of a frame at most.
pub const LARGEST: usize = 1 << 20;
/// Of which what stands around the tasks may take: the signature with a session token, and the
/// message's own members.
const AROUND: usize = 16 << 10;

/// Who publishes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub cluster: &'a str,
    pub container_instance: &'a str,
    /// The same for all messages of a batch.
    pub message_id: &'a str,
    pub now: Timestamp,
}

impl Origin<'_> {
    fn message(&self, idle: bool, fin: bool, task_metrics: Vec<TaskMetric>) -> PublishMetrics {
        PublishMetrics {
            metadata: Metadata {
                cluster: Some(self.cluster.to_owned()),
                container_instance: Some(self.container_instance.to_owned()),
                message_id: Some(self.message_id.to_owned()),
                request_id: None,
                idle: Some(idle),
                fin: Some(fin),
            },
            timestamp: Some(self.now.into()),
            task_metrics,
        }
    }
}

/// Whether metrics are published of the task: it is the control plane's, and it runs.
pub fn is_tracked(task: &Task) -> bool {
    task.ecs.is_some() && task.containers.iter().any(|container| container.life == Life::Running)
}

/// What is published while no task is tracked.
pub fn idle(origin: &Origin<'_>) -> PublishMetrics {
    origin.message(true, true, Vec::new())
}

/// What is published of a task; `None`: nothing is known of its containers, or it is not the control
/// plane's.
pub fn task(task: &Task, samples: &[ContainerSamples]) -> Option<TaskMetric> {
    let ecs = task.ecs.as_ref()?;
    let container_metrics: Vec<_> = samples
        .iter()
        .filter_map(|samples| {
            let name = &task.container_definition(samples.container)?.name;
            let arn = ecs.container_arns.get(samples.container).cloned().flatten();
            container(arn, name, samples)
        })
        .collect();
    (!container_metrics.is_empty()).then(|| TaskMetric {
        task_arn: Some(ecs.arn.clone()),
        cluster_arn: None,
        task_definition_family: Some(task.definition.family.clone()),
        task_definition_version: Some(ecs.version.clone()),
        container_metrics,
    })
}

/// The messages of one publication, whose last is marked; none without tasks. A task that does not
/// fit into a message on its own is left out.
pub fn batch(origin: &Origin<'_>, tasks: Vec<TaskMetric>) -> Vec<PublishMetrics> {
    let room = LARGEST - AROUND;
    // With the comma.
    let size = |task: &TaskMetric| serde_json::to_string(task).map_or(usize::MAX, |t| t.len() + 1);
    let mut groups: VecDeque<(Vec<TaskMetric>, usize)> = VecDeque::new();
    for task in tasks {
        let size = size(&task);
        if size > room {
            continue;
        }
        match groups.back_mut() {
            Some((group, used)) if group.len() < MOST_TASKS && *used + size <= room => {
                group.push(task);
                *used += size;
            }
            _ => groups.push_back((vec![task], size)),
        }
    }
    let mut messages = Vec::with_capacity(groups.len());
    while let Some((group, _)) = groups.pop_front() {
        messages.push(origin.message(false, groups.is_empty(), group));
    }
    messages
}

fn container(
    arn: Option<String>,
    name: &str,
    samples: &ContainerSamples,
) -> Option<ContainerMetric> {
    let points = &samples.points;
    let all = || samples.before.iter().chain(points);
    let pairs: Vec<(&Point, &Point)> = all().zip(all().skip(1)).collect();
    let cpu_stats_set = statistic(pairs.iter().filter_map(|(a, b)| cpu(a, b)));
    // Fewer than two points, or a clock that was set back.
    cpu_stats_set?;
    Some(ContainerMetric {
        container_arn: arn,
        container_name: Some(name.to_owned()),
        cpu_stats_set,
        memory_stats_set: statistic(points.iter().map(|p| float(p.memory) / MIB)),
        network_stats_set: network(points, &pairs),
        storage_stats_set: Some(StorageStatistics {
            read_size_bytes: counter(points.iter().map(|p| p.storage_read)),
            write_size_bytes: counter(points.iter().map(|p| p.storage_written)),
        }),
    })
}

const MIB: f64 = 1_048_576.0;

fn network(points: &[Point], pairs: &[(&Point, &Point)]) -> Option<NetworkStatistics> {
    let of = |get: fn(&NetworkStats) -> u64| {
        counter(points.iter().filter_map(|point| point.network.as_ref().map(get)))
    };
    let per_second = |get: fn(&NetworkStats) -> u64| {
        statistic(pairs.iter().filter_map(|(a, b)| {
            let (before, now) = (get(a.network.as_ref()?), get(b.network.as_ref()?));
            Some(float(now.checked_sub(before)?) / seconds(a, b)?)
        }))
    };
    Some(NetworkStatistics {
        // Absent without a network.
        rx_bytes: Some(of(|n| n.rx_bytes)?),
        rx_dropped: of(|n| n.rx_dropped),
        rx_errors: of(|n| n.rx_errors),
        rx_packets: of(|n| n.rx_packets),
        tx_bytes: of(|n| n.tx_bytes),
        tx_dropped: of(|n| n.tx_dropped),
        tx_errors: of(|n| n.tx_errors),
        tx_packets: of(|n| n.tx_packets),
        rx_bytes_per_second: per_second(|n| n.rx_bytes),
        tx_bytes_per_second: per_second(|n| n.tx_bytes),
    })
}

/// Per cent of the whole instance.
fn cpu(before: &Point, now: &Point) -> Option<f64> {
    let used = float(now.cpu.checked_sub(before.cpu)?) / f64::from(now.online_cpus.max(1));
    Some(100.0 * used / 1e9 / seconds(before, now)?)
}

/// `None`: no time passed.
fn seconds(before: &Point, now: &Point) -> Option<f64> {
    let passed = now.at.duration_since(before.at);
    (passed > SignedDuration::ZERO).then(|| passed.as_secs_f64())
}

#[allow(clippy::cast_precision_loss, reason = "statistics; exact below 2^53")]
fn float(value: u64) -> f64 {
    value as f64
}

/// `None`: of nothing.
fn statistic(values: impl Iterator<Item = f64>) -> Option<Statistic> {
    values.fold(None, |all: Option<Statistic>, value| {
        let all = all.unwrap_or(Statistic { min: value, max: value, sample_count: 0, sum: 0.0 });
        Some(Statistic {
            min: all.min.min(value),
            max: all.max.max(value),
            sample_count: all.sample_count + 1,
            sum: all.sum + value,
        })
    })
}

/// `None`: of nothing.
fn counter(values: impl Iterator<Item = u64> + Clone) -> Option<CounterStatistic> {
    let (min, max) = (values.clone().min()?, values.clone().max()?);
    let (mut sum, mut count) = (0_u128, 0_i64);
    for value in values {
        sum += u128::from(value);
        count += 1;
    }
    let [min, max, sum] = [u128::from(min), u128::from(max), sum].map(split);
    Some(CounterStatistic {
        min: min.0,
        overflow_min: min.1,
        max: max.0,
        overflow_max: max.1,
        sample_count: count,
        sum: sum.0,
        overflow_sum: sum.1,
    })
}

/// What fits, and the excess.
fn split(value: u128) -> (i64, i64) {
    let fit = |value: u128| i64::try_from(value).unwrap_or(i64::MAX);
    let fits = fit(value);
    (fits, fit(value - u128::from(fits.unsigned_abs())))
}

#[cfg(test)]
mod tests;
