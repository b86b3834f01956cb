//! The kernel's statistics files. Pure. A line or a number that is not as expected is skipped.
//!
//! Formats: `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`, proc(5).

use std::collections::BTreeMap;

use protocol::tmds::NetworkStats;

/// Nanoseconds per clock tick of `cpuacct.stat` and `/proc/stat`: USER_HZ is 100 on every
/// architecture we run on.
const TICK: u64 = 10_000_000;

/// CPU time of a cgroup, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    pub total: u64,
    pub user: u64,
    pub system: u64,
    /// Of the quota.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// CPU time of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostCpu {
    /// Nanoseconds of all CPUs together, idle ones as well.
    pub total: u64,
    pub online: u32,
}

/// What a cgroup did on one block device in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub major: u64,
    pub minor: u64,
    pub write: bool,
    pub bytes: u64,
    pub operations: u64,
}

/// Lines of a name and a number.
pub fn keyed(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// cgroup v1: `cpuacct.usage`, `cpuacct.stat`, `cpu.stat`.
pub fn cpu_v1(usage: &str, account: &str, quota: &str) -> Cpu {
    let (account, quota) = (keyed(account), keyed(quota));
    let get = |map: &BTreeMap<String, u64>, key: &str| map.get(key).copied().unwrap_or_default();
    Cpu {
        total: usage.trim().parse().unwrap_or_default(),
        user: get(&account, "user").saturating_mul(TICK),
        system: get(&account, "system").saturating_mul(TICK),
        periods: get(&quota, "nr_periods"),
        throttled_periods: get(&quota, "nr_throttled"),
        throttled_time: get(&quota, "throttled_time"),
    }
}

/// cgroup v2: `cpu.stat`.
pub fn cpu_v2(text: &str) -> Cpu {
    let stat = keyed(text);
    let get = |key: &str| stat.get(key).copied().unwrap_or_default();
    let microseconds = |key: &str| get(key).saturating_mul(1000);
    Cpu {
        total: microseconds("usage_usec"),
        user: microseconds("user_usec"),
        system: microseconds("system_usec"),
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_time: microseconds("throttled_usec"),
    }
}

/// `/proc/stat`. Time as a guest counts as user time already.
pub fn host_cpu(text: &str) -> HostCpu {
    let mut host = HostCpu::default();
    for line in text.lines().take_while(|line| line.starts_with("cpu")) {
        match line.strip_prefix("cpu ") {
            Some(times) => {
                let ticks = times.split_ascii_whitespace().take(8);
                let sum = ticks.filter_map(|tick| tick.parse::<u64>().ok());
                host.total = sum.fold(0_u64, u64::saturating_add).saturating_mul(TICK);
            }
            None => host.online = host.online.saturating_add(1),
        }
    }
    host
}

/// cgroup v1: `blkio.throttle.io_service_bytes_recursive` and `blkio.throttle.io_serviced_recursive`.
pub fn disk_v1(bytes: &str, operations: &str) -> Vec<Disk> {
    let mut disks = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let (Some(device), Some(operation), Some(Ok(value))) =
                (fields.next().and_then(device), fields.next(), fields.next().map(str::parse))
            else {
                continue;
            };
            let write = match operation {
                "Read" => false,
                "Write" => true,
                _ => continue,
            };
            let disk = entry(&mut disks, device, write);
            if is_bytes {
                disk.bytes = value;
            } else {
                disk.operations = value;
            }
        }
    }
    disks.into_values().collect()
}

/// cgroup v2: `io.stat`.
pub fn disk_v2(text: &str) -> Vec<Disk> {
    let mut disks = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some(device) = fields.next().and_then(device) else { continue };
        for field in fields {
            let Some((key, Ok(value))) = field.split_once('=').map(|(k, v)| (k, v.parse())) else {
                continue;
            };
            match key {
                "rbytes" => entry(&mut disks, device, false).bytes = value,
                "wbytes" => entry(&mut disks, device, true).bytes = value,
                "rios" => entry(&mut disks, device, false).operations = value,
                "wios" => entry(&mut disks, device, true).operations = value,
                _ => {}
            }
        }
    }
    disks.into_values().collect()
}

type Disks = BTreeMap<((u64, u64), bool), Disk>;

fn entry(disks: &mut Disks, device: (u64, u64), write: bool) -> &mut Disk {
    let (major, minor) = device;
    disks.entry((device, write)).or_insert(Disk { major, minor, write, bytes: 0, operations: 0 })
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `/proc/<pid>/net/dev`, without loopback. Interfaces' names are the container's choice; the
/// kernel bounds them to 15 bytes, and we their number.
pub fn interfaces(text: &str) -> BTreeMap<String, NetworkStats> {
    const MOST: usize = 16;
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> =
                counters.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
            let get = |index: usize| counters.get(index).copied();
            let stats = NetworkStats {
                rx_bytes: get(0)?,
                rx_packets: get(1)?,
                rx_errors: get(2)?,
                rx_dropped: get(3)?,
                tx_bytes: get(8)?,
                tx_packets: get(9)?,
                tx_errors: get(10)?,
                tx_dropped: get(11)?,
            };
            Some((name.trim().to_owned(), stats))
        })
        .filter(|(name, _)| name != "lo")
        .take(MOST)
        .collect()
}

/// All interfaces together.
pub fn sum(networks: &BTreeMap<String, NetworkStats>) -> NetworkStats {
    networks.values().fold(NetworkStats::default(), |all, one| NetworkStats {
        rx_bytes: all.rx_bytes.saturating_add(one.rx_bytes),
        rx_packets: all.rx_packets.saturating_add(one.rx_packets),
        rx_errors: all.rx_errors.saturating_add(one.rx_errors),
        rx_dropped: all.rx_dropped.saturating_add(one.rx_dropped),
        tx_bytes: all.tx_bytes.saturating_add(one.tx_bytes),
        tx_packets: all.tx_packets.saturating_add(one.tx_packets),
        tx_errors: all.tx_errors.saturating_add(one.tx_errors),
        tx_dropped: all.tx_dropped.saturating_add(one.tx_dropped),
    })
}

/// A limit: a number, or `max`, which is none.
pub fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn cpu_time_is_the_same_from_both_versions() {
        let expected = Cpu {
            total: 1_500_000_000,
            user: 1_000_000_000,
            system: 500_000_000,
            periods: 7,
            throttled_periods: 2,
            throttled_time: 3_000_000,
        };
        let v1 = cpu_v1(
            "1500000000\n",
            "user 100\nsystem 50\n",
            "nr_periods 7\nnr_throttled 2\nthrottled_time 3000000\nwait_sum 1\n",
        );
        let v2 = cpu_v2(
            "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\nnice_usec 0\nnr_periods 7\nnr_throttled 2\nthrottled_usec 3000\n",
        );
        assert_eq!((v1, v2), (expected, expected));
        assert_eq!((cpu_v1("", "", ""), cpu_v2("x")), (Cpu::default(), Cpu::default()));
    }

    #[test]
    fn the_host_has_as_many_cpus_as_lines() {
        let host = host_cpu("cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 1\ncpu1 0 0\nintr 5 6\ncpu9 1\n");
        assert_eq!(host, HostCpu { total: 360_000_000, online: 2 });
    }

    #[test]
    fn disks_are_the_same_from_both_versions() {
        let expected = [
            Disk { major: 8, minor: 0, write: false, bytes: 4096, operations: 1 },
            Disk { major: 8, minor: 0, write: true, bytes: 8192, operations: 2 },
        ];
        let v1 = disk_v1(
            "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\nTotal 12288\n",
            "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
        );
        let v2 = disk_v2("8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n");
        assert_eq!((v1.as_slice(), v2.as_slice()), (&expected[..], &expected[..]));
        assert!(disk_v1("nonsense\n8:x Read 1\n8:0 Read -1", "").is_empty());
        assert!(disk_v2("8 rbytes=1\n8:0 rbytes\n").is_empty());
    }

    #[test]
    fn loopback_is_no_interface() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes |bytes\n    lo: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n  eth1:1 1 1 1 0 0 0 0 1 1 1 1 0 0 0 0\n bad: 1 2\n";
        let found = interfaces(text);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["eth0", "eth1"]);
        let all = sum(&found);
        assert_eq!((all.rx_bytes, all.rx_dropped, all.tx_bytes, all.tx_dropped), (11, 5, 51, 9));
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!((limit("max\n"), limit("12\n"), limit("")), (None, Some(12), None));
        assert_eq!(keyed("a 1\nb x\nc\n").len(), 1);
    }
}
