//! What a group has used: one small snapshot for the events command and for the monitor.
//!
//! A controller that is not there leaves its part `None`; a file that cannot be read is an error.

use serde::Serialize;

use super::dir::Dir;
use super::{Cgroup, Error};

/// Usage of a group at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CpuStats {
    /// Nanoseconds, all processors together.
    pub usage: u64,
    /// Nanoseconds in user mode.
    pub user: u64,
    /// Nanoseconds in the kernel.
    pub system: u64,
    /// Bandwidth periods that passed.
    pub periods: u64,
    /// Periods in which the group was held back.
    pub throttled_periods: u64,
    /// Nanoseconds it was held back.
    pub throttled_time: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// Hard limit; `None` is unlimited.
    pub limit: Option<u64>,
    /// Highest usage, where the kernel keeps it.
    pub peak: Option<u64>,
    /// Anonymous memory.
    pub anonymous: u64,
    /// Page cache.
    pub cache: u64,
    /// Page cache that may go at once.
    pub inactive_file: u64,
    /// Swap in use, where accounted.
    pub swap: Option<u64>,
    /// Limit hits.
    pub failures: u64,
    /// OOM kills.
    pub oom_kills: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// Most allowed; `None` is unlimited.
    pub limit: Option<u64>,
}

/// v1 writes its "unlimited" as the largest page-aligned number.
const V1_UNLIMITED: u64 = 1 << 62;
const TICKS_TO_NANOSECONDS: u64 = 10_000_000;

impl Cgroup {
    /// Reads the usage of processor, memory and processes.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.listing()?;
        let v2 = self.limits_on_v2();
        let part = |controller: &str| {
            self.dir_of(controller)
                .filter(|dir| dir.has(controller) || (v2 && controller == "cpuacct"))
        };
        Ok(Stats {
            cpu: part("cpuacct")
                .map(|dir| if v2 { cpu_v2(dir) } else { cpu_v1(dir, part("cpu")) })
                .transpose()?,
            memory: part("memory")
                .map(|dir| if v2 { memory_v2(dir) } else { memory_v1(dir) })
                .transpose()?,
            pids: part("pids")
                .map(|dir| {
                    Ok::<_, Error>(PidsStats {
                        current: number(dir, "pids.current")?.unwrap_or(0),
                        limit: number(dir, "pids.max")?,
                    })
                })
                .transpose()?,
        })
    }
}

/// A file of one number; `None` for `max`.
pub(super) fn number(dir: &Dir, file: &str) -> Result<Option<u64>, Error> {
    let text = dir.read(file)?;
    match text.trim() {
        "max" => Ok(None),
        digits => match digits.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::Parse { path: dir.path.join(file), reason: "not a number" }),
        },
    }
}

/// A file that older kernels or kernels without that accounting do not have.
fn optional(dir: &Dir, file: &str) -> Result<Option<u64>, Error> {
    match number(dir, file) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other,
    }
}

fn key(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}

fn cpu_v1(dir: &Dir, cpu: Option<&Dir>) -> Result<CpuStats, Error> {
    let split = dir.read("cpuacct.stat")?;
    let throttling = cpu.map(|dir| dir.read("cpu.stat")).transpose()?.unwrap_or_default();
    Ok(CpuStats {
        usage: number(dir, "cpuacct.usage")?.unwrap_or(0),
        user: key(&split, "user").saturating_mul(TICKS_TO_NANOSECONDS),
        system: key(&split, "system").saturating_mul(TICKS_TO_NANOSECONDS),
        periods: key(&throttling, "nr_periods"),
        throttled_periods: key(&throttling, "nr_throttled"),
        throttled_time: key(&throttling, "throttled_time"),
    })
}

fn cpu_v2(dir: &Dir) -> Result<CpuStats, Error> {
    let text = dir.read("cpu.stat")?;
    let nanoseconds = |name| key(&text, name).saturating_mul(1000);
    Ok(CpuStats {
        usage: nanoseconds("usage_usec"),
        user: nanoseconds("user_usec"),
        system: nanoseconds("system_usec"),
        periods: key(&text, "nr_periods"),
        throttled_periods: key(&text, "nr_throttled"),
        throttled_time: nanoseconds("throttled_usec"),
    })
}

fn memory_v1(dir: &Dir) -> Result<MemoryStats, Error> {
    let text = dir.read("memory.stat")?;
    let usage = number(dir, "memory.usage_in_bytes")?.unwrap_or(0);
    let both = optional(dir, "memory.memsw.usage_in_bytes")?;
    Ok(MemoryStats {
        usage,
        limit: number(dir, "memory.limit_in_bytes")?.filter(|&limit| limit < V1_UNLIMITED),
        peak: optional(dir, "memory.max_usage_in_bytes")?,
        anonymous: key(&text, "total_rss"),
        cache: key(&text, "total_cache"),
        inactive_file: key(&text, "total_inactive_file"),
        swap: both.map(|both| both.saturating_sub(usage)),
        failures: optional(dir, "memory.failcnt")?.unwrap_or(0),
        oom_kills: key(&dir.read("memory.oom_control")?, "oom_kill"),
    })
}

fn memory_v2(dir: &Dir) -> Result<MemoryStats, Error> {
    let text = dir.read("memory.stat")?;
    let events = dir.read("memory.events")?;
    Ok(MemoryStats {
        usage: number(dir, "memory.current")?.unwrap_or(0),
        limit: number(dir, "memory.max")?,
        peak: optional(dir, "memory.peak")?,
        anonymous: key(&text, "anon"),
        cache: key(&text, "file"),
        inactive_file: key(&text, "inactive_file"),
        swap: optional(dir, "memory.swap.current")?,
        failures: key(&events, "max"),
        oom_kills: key(&events, "oom_kill"),
    })
}
