//! A sample in the words of Docker's API. Pure.

use jiff::{SignedDuration, Timestamp};
use protocol::tmds::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkRateStats, PidsStats,
    StorageStats, ThrottlingData,
};

use super::{Sample, parse};

/// The document of a container. `previous`: the sample before, for `precpu_stats` and, `with_rates`
/// (version 4), the network's rates.
pub fn document(
    id: &str,
    sample: &Sample,
    previous: Option<&Sample>,
    with_rates: bool,
) -> protocol::tmds::Stats {
    protocol::tmds::Stats {
        read: sample.at,
        preread: previous.map_or(Timestamp::UNIX_EPOCH, |previous| previous.at),
        pids_stats: PidsStats { current: sample.processes, limit: sample.process_limit },
        blkio_stats: blkio(&sample.disk),
        num_procs: 0,
        storage_stats: StorageStats {},
        cpu_stats: cpu(sample),
        precpu_stats: previous.map(cpu).unwrap_or_default(),
        memory_stats: MemoryStats {
            usage: sample.memory.usage,
            max_usage: sample.memory.max_usage,
            stats: sample.memory.stat.clone(),
            failcnt: sample.memory.failures,
            limit: sample.memory.limit,
        },
        name: format!("/{id}"),
        id: id.to_owned(),
        networks: sample.networks.clone(),
        network_rate_stats: previous
            .filter(|_| with_rates)
            .and_then(|previous| rates(sample, previous)),
    }
}

fn cpu(sample: &Sample) -> CpuStats {
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: sample.cpu.total,
            usage_in_kernelmode: sample.cpu.system,
            usage_in_usermode: sample.cpu.user,
        },
        system_cpu_usage: Some(sample.host.total),
        online_cpus: Some(sample.host.online),
        throttling_data: ThrottlingData {
            periods: sample.cpu.periods,
            throttled_periods: sample.cpu.throttled_periods,
            throttled_time: sample.cpu.throttled_time,
        },
    }
}

fn blkio(disks: &[parse::Disk]) -> BlkioStats {
    let entries = |value: fn(&parse::Disk) -> u64| {
        let entry = |disk: &parse::Disk| BlkioEntry {
            major: disk.major,
            minor: disk.minor,
            op: if disk.write { "Write" } else { "Read" }.to_owned(),
            value: value(disk),
        };
        disks.iter().map(entry).collect()
    };
    BlkioStats {
        io_service_bytes_recursive: entries(|disk| disk.bytes),
        io_serviced_recursive: entries(|disk| disk.operations),
    }
}

/// Exact below 2^53 bytes in the interval.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn rates(sample: &Sample, previous: &Sample) -> Option<NetworkRateStats> {
    let elapsed: SignedDuration = sample.at.duration_since(previous.at);
    let (now, before) =
        (parse::sum(sample.networks.as_ref()?), parse::sum(previous.networks.as_ref()?));
    let per_second =
        |now: u64, before: u64| now.saturating_sub(before) as f64 / elapsed.as_secs_f64();
    (elapsed > SignedDuration::ZERO).then(|| NetworkRateStats {
        rx_bytes_per_sec: per_second(now.rx_bytes, before.rx_bytes),
        tx_bytes_per_sec: per_second(now.tx_bytes, before.tx_bytes),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use protocol::tmds::NetworkStats;

    use super::*;

    fn sample(second: i64, received: u64) -> Sample {
        let eth0 = NetworkStats { rx_bytes: received, ..NetworkStats::default() };
        Sample {
            at: Timestamp::from_second(second).unwrap(),
            cpu: parse::Cpu { total: received, ..parse::Cpu::default() },
            host: parse::HostCpu { total: 5, online: 2 },
            networks: Some(BTreeMap::from([("eth0".to_owned(), eth0)])),
            ..Sample::default()
        }
    }

    #[test]
    fn a_first_sample_has_nothing_before_it() {
        let document = document("c", &sample(1, 100), None, true);
        assert_eq!(document.precpu_stats, CpuStats::default());
        assert_eq!(document.network_rate_stats, None);
        let text = serde_json::to_value(&document).unwrap();
        assert_eq!(text["name"], "/c");
        assert_eq!(text["networks"]["eth0"]["rx_bytes"], 100);
        assert!(text["precpu_stats"].get("system_cpu_usage").is_none());
    }

    #[test]
    fn rates_are_of_version_4_and_never_of_a_clock_set_back() {
        let (before, now) = (sample(10, 100), sample(12, 300));
        let rate = |sample, previous, with| {
            let document = document("c", sample, Some(previous), with);
            document.network_rate_stats.map(|rates| rates.rx_bytes_per_sec)
        };
        assert_eq!(rate(&now, &before, true), Some(100.0));
        assert_eq!(rate(&now, &before, false), None);
        assert_eq!(rate(&before, &now, true), None);
        assert_eq!(rate(&before, &before, true), None);
    }
}
