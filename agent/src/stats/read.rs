//! Reading a container's counters: where each controller is mounted, and its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::parse::{self, HostCpu};
use super::{Memory, Sample, Target};

/// Where the controllers are. A host does not move them.
#[derive(Debug)]
pub(super) struct Reader {
    /// cgroup v1: mount point by controller.
    v1: BTreeMap<String, PathBuf>,
    v2: Option<PathBuf>,
    /// Bytes of memory of the host.
    memory: u64,
}

impl Reader {
    /// What cannot be read is taken as absent; then there are no samples.
    pub(super) fn open() -> Self {
        let mut reader = Self { v1: BTreeMap::new(), v2: None, memory: u64::MAX };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut fields = filesystem.split(' ');
            match fields.next() {
                Some("cgroup") => {
                    for option in fields.nth(1).unwrap_or_default().split(',') {
                        reader.v1.insert(option.to_owned(), PathBuf::from(point));
                    }
                }
                Some("cgroup2") => reader.v2 = Some(PathBuf::from(point)),
                _ => {}
            }
        }
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        if let Some(kib) = total.and_then(|text| text.trim().split(' ').next()?.parse::<u64>().ok())
        {
            reader.memory = kib.saturating_mul(1024);
        }
        reader
    }

    /// CPU time of the host now.
    pub(super) fn host(&self) -> HostCpu {
        parse::host_cpu(&text(Path::new("/proc/stat")))
    }

    /// `None`: its cgroup is gone.
    pub(super) fn sample(&self, target: &Target, host: HostCpu) -> Option<Sample> {
        let (processes, process_limit) = self.pids(target);
        let networks = target
            .network
            .then(|| parse::interfaces(&text(Path::new(&format!("/proc/{}/net/dev", target.pid)))));
        Some(Sample {
            at: Timestamp::now(),
            cpu: self.cpu(target)?,
            host,
            memory: self.memory(target)?,
            disk: self.disk(target),
            processes,
            process_limit,
            networks,
        })
    }

    /// The container's directory of a controller, and whether that is of version 1.
    fn directory(&self, controller: &str, target: &Target) -> Option<(PathBuf, bool)> {
        let path = target.cgroup.trim_start_matches('/');
        match self.v1.get(controller) {
            Some(mount) => Some((mount.join(path), true)),
            None => self.v2.as_ref().map(|mount| (mount.join(path), false)),
        }
    }

    fn cpu(&self, target: &Target) -> Option<parse::Cpu> {
        match self.directory("cpuacct", target)? {
            (account, true) => {
                let usage = std::fs::read_to_string(account.join("cpuacct.usage")).ok()?;
                let quota = self.directory("cpu", target).map(|(path, _)| path.join("cpu.stat"));
                let quota = quota.map(|path| text(&path)).unwrap_or_default();
                Some(parse::cpu_v1(&usage, &text(&account.join("cpuacct.stat")), &quota))
            }
            (directory, false) => {
                let stat = std::fs::read_to_string(directory.join("cpu.stat")).ok()?;
                Some(parse::cpu_v2(&stat))
            }
        }
    }

    fn memory(&self, target: &Target) -> Option<Memory> {
        let (directory, v1) = self.directory("memory", target)?;
        let number = |name: &str| parse::limit(&text(&directory.join(name)));
        let stat = parse::keyed(&text(&directory.join("memory.stat")));
        let names = if v1 {
            ["memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes"]
        } else {
            ["memory.current", "memory.peak", "memory.max"]
        };
        let [usage, peak, limit] = names.map(number);
        let most = target.task_limit.unwrap_or(u64::MAX).min(self.memory);
        Some(Memory {
            usage: usage?,
            max_usage: peak,
            failures: if v1 { number("memory.failcnt") } else { None },
            limit: limit.unwrap_or(u64::MAX).min(most),
            stat,
        })
    }

    fn disk(&self, target: &Target) -> Vec<parse::Disk> {
        match self.directory("blkio", target) {
            Some((directory, true)) => parse::disk_v1(
                &text(&directory.join("blkio.throttle.io_service_bytes_recursive")),
                &text(&directory.join("blkio.throttle.io_serviced_recursive")),
            ),
            Some((directory, false)) => parse::disk_v2(&text(&directory.join("io.stat"))),
            None => Vec::new(),
        }
    }

    fn pids(&self, target: &Target) -> (u64, Option<u64>) {
        let Some((directory, _)) = self.directory("pids", target) else { return (0, None) };
        let number = |name: &str| parse::limit(&text(&directory.join(name)));
        (number("pids.current").unwrap_or_default(), number("pids.max"))
    }
}

/// Empty if it cannot be read: the cgroup ended a moment ago, or the controller is not there.
fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
