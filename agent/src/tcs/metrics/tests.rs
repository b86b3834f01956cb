#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::tmds::documents::tests as example;

const ORIGIN: Origin<'_> = Origin {
    cluster: "prod",
    container_instance: "arn:i",
    message_id: "m",
    now: Timestamp::UNIX_EPOCH,
};

/// `cpu` in milliseconds, `memory` in MiB.
fn point(millisecond: i64, cpu: u64, memory: u64) -> Point {
    Point {
        at: Timestamp::from_millisecond(millisecond).unwrap(),
        cpu: cpu * 1_000_000,
        online_cpus: 2,
        memory: memory << 20,
        storage_read: cpu,
        storage_written: 0,
        network: None,
    }
}

fn samples(before: Option<Point>, points: Vec<Point>) -> ContainerSamples {
    ContainerSamples { container: 0, before, points }
}

fn measured(samples: &ContainerSamples) -> Option<ContainerMetric> {
    container(None, "main", samples)
}

fn set(min: f64, max: f64, sample_count: i64, sum: f64) -> Statistic {
    Statistic { min, max, sample_count, sum }
}

#[test]
fn cpu_is_of_the_whole_instance_and_memory_in_mib() {
    let points = vec![point(1000, 500, 3), point(2000, 1500, 5), point(4000, 1500, 4)];
    let found = measured(&samples(None, points.clone())).unwrap();
    // A second of one of two CPUs, then nothing for two seconds.
    assert_eq!(found.cpu_stats_set, Some(set(0.0, 50.0, 2, 50.0)));
    assert_eq!(found.memory_stats_set, Some(set(3.0, 5.0, 3, 12.0)));
    assert_eq!(found.network_stats_set, None);
    let read = found.storage_stats_set.unwrap().read_size_bytes.unwrap();
    assert_eq!((read.min, read.max, read.sample_count, read.sum), (500, 1500, 3, 3500));

    // What was published before ends a gap, and is not published again.
    let found = measured(&samples(Some(point(0, 500, 100)), points)).unwrap();
    assert_eq!(found.cpu_stats_set, Some(set(0.0, 50.0, 3, 50.0)));
    assert_eq!(found.memory_stats_set.unwrap().sample_count, 3);
}

#[test]
fn a_container_without_two_points_is_left_out() {
    let clock_set_back = vec![point(2000, 0, 1), point(1000, 5, 1)];
    let counter_set_back = vec![point(1000, 5, 1), point(2000, 0, 1)];
    for (before, points, known) in [
        (None, vec![], false),
        (None, vec![point(1, 0, 1)], false),
        (Some(point(0, 0, 1)), vec![point(1, 0, 1)], true),
        (None, clock_set_back, false),
        (None, counter_set_back, false),
    ] {
        let samples = samples(before, points);
        assert_eq!(measured(&samples).is_some(), known, "{samples:?}");
    }
}

#[test]
fn network_counters_stay_raw_and_rates_are_per_second() {
    let with = |millisecond, rx_bytes, tx_packets| Point {
        network: Some(NetworkStats { rx_bytes, tx_packets, ..NetworkStats::default() }),
        ..point(millisecond, 0, 1)
    };
    let found =
        measured(&samples(Some(with(0, 100, 0)), vec![with(500, 200, 7), with(2500, 200, 9)]));
    let network = found.unwrap().network_stats_set.unwrap();
    let rx = network.rx_bytes.unwrap();
    assert_eq!((rx.min, rx.max, rx.sample_count, rx.sum), (200, 200, 2, 400));
    assert_eq!(network.tx_packets.unwrap().sum, 16);
    assert_eq!(network.rx_bytes_per_second, Some(set(0.0, 200.0, 2, 200.0)));
    assert_eq!(network.tx_bytes_per_second, Some(set(0.0, 0.0, 2, 0.0)));
}

#[test]
fn counters_overflow_into_their_own_members() {
    let most = u64::try_from(i64::MAX).unwrap();
    for (values, min, max, sum) in [
        (vec![1, 2], (1, 0), (2, 0), (3, 0)),
        (vec![most], (i64::MAX, 0), (i64::MAX, 0), (i64::MAX, 0)),
        (vec![most, 2], (2, 0), (i64::MAX, 0), (i64::MAX, 2)),
        (vec![most + 5], (i64::MAX, 5), (i64::MAX, 5), (i64::MAX, 5)),
        // The overflow overflows.
        (vec![u64::MAX; 3], (i64::MAX, i64::MAX), (i64::MAX, i64::MAX), (i64::MAX, i64::MAX)),
    ] {
        let found = counter(values.iter().copied()).unwrap();
        assert_eq!((found.min, found.overflow_min), min, "{values:?}");
        assert_eq!((found.max, found.overflow_max), max, "{values:?}");
        assert_eq!((found.sum, found.overflow_sum), sum, "{values:?}");
    }
    assert_eq!(counter(std::iter::empty()), None);
}

#[test]
fn a_task_in_the_words_of_the_protocol() {
    let samples = [samples(None, vec![point(0, 0, 2), point(1000, 200, 2)])];
    let mut example = example::task(1);
    assert!(!is_tracked(&example));
    assert_eq!(task(&example, &samples), None, "the control plane does not know it");
    example.ecs = Some(example::ecs());
    assert!(is_tracked(&example));
    assert_eq!(task(&example, &[]), None);
    let metric = task(&example, &samples).unwrap();
    let zero = json!({"min": 0, "overflowMin": 0, "max": 0, "overflowMax": 0,
                      "sampleCount": 2, "sum": 0, "overflowSum": 0});
    let read = json!({"min": 0, "overflowMin": 0, "max": 200, "overflowMax": 0,
                      "sampleCount": 2, "sum": 200, "overflowSum": 0});
    assert_eq!(
        serde_json::to_value(metric).unwrap(),
        json!({
            "taskArn": "arn:aws:ecs:eu-west-1:1:task/c/t",
            "taskDefinitionFamily": "web",
            "taskDefinitionVersion": "7",
            "containerMetrics": [{
                "containerArn": "arn:aws:ecs:eu-west-1:1:container/c/t/x",
                "containerName": "main",
                "cpuStatsSet": {"min": 10.0, "max": 10.0, "sampleCount": 1, "sum": 10.0},
                "memoryStatsSet": {"min": 2.0, "max": 2.0, "sampleCount": 2, "sum": 4.0},
                "storageStatsSet": {"readSizeBytes": read, "writeSizeBytes": zero},
            }],
        })
    );
    // A container that the definition does not have.
    let [mut strange] = samples;
    strange.container = 7;
    assert_eq!(task(&example, &[strange]), None);
    example.containers[0].life = Life::Stopped { exit: None };
    assert!(!is_tracked(&example));
}

#[test]
fn no_task_is_said_in_one_message() {
    assert_eq!(batch(&ORIGIN, Vec::new()), Vec::new());
    assert_eq!(
        serde_json::to_value(idle(&ORIGIN)).unwrap(),
        json!({
            "metadata": {"cluster": "prod", "containerInstance": "arn:i", "messageId": "m",
                         "idle": true, "fin": true},
            "timestamp": 0,
            "taskMetrics": [],
        })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_batch_is_whole_in_order_and_within_bounds(
        sizes in proptest::collection::vec(
            prop_oneof![8 => 0usize..4000, 2 => 90_000usize..600_000, 1 => LARGEST..LARGEST + 9],
            0..35,
        ),
    ) {
        let tasks: Vec<_> = (0..).zip(&sizes).map(|(number, size)| TaskMetric {
            task_arn: Some(format!("{number}")),
            task_definition_family: Some("x".repeat(*size)),
            ..TaskMetric::default()
        }).collect();
        let fitting: Vec<_> = tasks
            .iter()
            .filter(|task| task.task_definition_family.as_ref().unwrap().len() < LARGEST)
            .cloned()
            .collect();
        let messages = batch(&ORIGIN, tasks);
        for (index, message) in messages.iter().enumerate() {
            prop_assert!((1..=MOST_TASKS).contains(&message.task_metrics.len()));
            prop_assert!(serde_json::to_string(message).unwrap().len() < LARGEST - AROUND / 2);
            prop_assert_eq!(message.metadata.fin, Some(index + 1 == messages.len()));
            prop_assert_eq!(message.metadata.idle, Some(false));
            prop_assert_eq!(message.metadata.message_id.as_deref(), Some("m"));
        }
        let sent: Vec<_> = messages.into_iter().flat_map(|message| message.task_metrics).collect();
        prop_assert_eq!(sent, fitting);
    }

    #[test]
    fn any_points_make_numbers(
        points in proptest::collection::vec(
            (0i64..100, any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>()), 0..6,
        ),
    ) {
        let points = points.into_iter().map(|(at, cpu, online_cpus, memory, bytes)| Point {
            at: Timestamp::from_nanosecond(at.into()).unwrap(),
            cpu,
            online_cpus,
            memory,
            storage_read: bytes,
            storage_written: bytes,
            network: Some(NetworkStats { rx_bytes: bytes, ..NetworkStats::default() }),
        }).collect();
        if let Some(found) = measured(&samples(None, points)) {
            let text = serde_json::to_string(&found).unwrap();
            prop_assert!(!text.contains("null"), "{}", text);
        }
    }
}
