//! `update`: other limits for a container that exists.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::arguments::{Given, Misuse, Opt, number};
use crate::container::Container;

/// Why an update was not begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read the resources from {}", from.display())]
    Read { from: PathBuf, source: std::io::Error },
    #[error("parse the resources of {} as JSON", from.display())]
    Parse { from: PathBuf, source: serde_json::Error },
}

pub(super) const OPTIONS: &[Opt] = &[
    Opt::value("resources", "FILE", "File with linux.resources as JSON, or - for standard input; all other options are ignored then").short('r'),
    Opt::value("blkio-weight", "N", "Weight of block I/O, from 10 to 1000"),
    Opt::value("cpu-period", "N", "Period of the CPU quota in microseconds"),
    Opt::value("cpu-quota", "N", "CPU time per period in microseconds; -1 is unlimited"),
    Opt::value("cpu-burst", "N", "CPU time in microseconds that may be saved up for later periods"),
    Opt::value("cpu-share", "N", "CPU shares (relative weight)"),
    Opt::value("cpu-rt-period", "N", "Period of real-time CPU time in microseconds"),
    Opt::value("cpu-rt-runtime", "N", "Real-time CPU time per period in microseconds"),
    Opt::value("cpuset-cpus", "LIST", "CPUs to use, as 0-3,7"),
    Opt::value("cpuset-mems", "LIST", "Memory nodes to use"),
    Opt::value("cpu-idle", "0|1", "1 runs the container only when nothing else wants the CPU"),
    Opt::value("memory", "SIZE", "Memory limit: bytes, or with a suffix such as 64m; -1 is unlimited"),
    Opt::value("memory-reservation", "SIZE", "Soft limit of memory"),
    Opt::value("memory-swap", "SIZE", "Limit of memory plus swap; -1 is unlimited"),
    // No effect: the kernel has no such limits any more.
    Opt::value("kernel-memory", "SIZE", ""),
    Opt::value("kernel-memory-tcp", "SIZE", ""),
    Opt::value("pids-limit", "N", "Most processes and threads; negative is unlimited"),
    Opt::value("l3-cache-schema", "SCHEMA", "Schema of the L3 cache (Intel RDT)"),
    Opt::value("mem-bw-schema", "SCHEMA", "Schema of the memory bandwidth (Intel RDT)"),
];

#[derive(Debug)]
pub(super) struct Arguments {
    resources: Option<PathBuf>,
    blkio_weight: Option<u16>,
    cpu_period: Option<u64>,
    cpu_quota: Option<i64>,
    cpu_burst: Option<u64>,
    cpu_share: Option<u64>,
    cpu_rt_period: Option<u64>,
    cpu_rt_runtime: Option<i64>,
    cpuset_cpus: Option<String>,
    cpuset_mems: Option<String>,
    cpu_idle: Option<i64>,
    memory: Option<i64>,
    memory_reservation: Option<i64>,
    memory_swap: Option<i64>,
    kernel_memory: Option<String>,
    kernel_memory_tcp: Option<String>,
    pids_limit: Option<i64>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    id: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, super::Error> {
    let mut container = Container::load(root, &arguments.id)?;
    let schemata: Vec<&str> = [&arguments.l3_cache_schema, &arguments.mem_bw_schema]
        .into_iter()
        .flatten()
        .flat_map(|text| text.lines())
        .filter(|line| !line.is_empty())
        .collect();
    container.update(arguments.resources()?, &schemata)?;
    Ok(0)
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self {
            resources: given.path("resources")?,
            blkio_weight: given.parsed("blkio-weight", number)?,
            cpu_period: given.parsed("cpu-period", number)?,
            cpu_quota: given.parsed("cpu-quota", number)?,
            cpu_burst: given.parsed("cpu-burst", number)?,
            cpu_share: given.parsed("cpu-share", number)?,
            cpu_rt_period: given.parsed("cpu-rt-period", number)?,
            cpu_rt_runtime: given.parsed("cpu-rt-runtime", number)?,
            cpuset_cpus: given.text("cpuset-cpus")?,
            cpuset_mems: given.text("cpuset-mems")?,
            cpu_idle: given.parsed("cpu-idle", number)?,
            memory: given.parsed("memory", size)?,
            memory_reservation: given.parsed("memory-reservation", size)?,
            memory_swap: given.parsed("memory-swap", size)?,
            kernel_memory: given.text("kernel-memory")?,
            kernel_memory_tcp: given.text("kernel-memory-tcp")?,
            pids_limit: given.parsed("pids-limit", number)?,
            l3_cache_schema: given.text("l3-cache-schema")?,
            mem_bw_schema: given.text("mem-bw-schema")?,
            id: given.id()?,
        })
    }

    /// The changes in the terms of `linux.resources`.
    fn resources(&self) -> Result<Value, Error> {
        if let Some(from) = &self.resources {
            let read = if from.as_os_str() == "-" {
                let mut bytes = Vec::new();
                std::io::stdin().lock().read_to_end(&mut bytes).map(|_length| bytes)
            } else {
                std::fs::read(from)
            };
            let bytes = read.map_err(|source| Error::Read { from: from.clone(), source })?;
            return serde_json::from_slice(&bytes)
                .map_err(|source| Error::Parse { from: from.clone(), source });
        }
        if self.kernel_memory.is_some() || self.kernel_memory_tcp.is_some() {
            ::log::warn!("limits on kernel memory are ignored: the kernel has none any more");
        }
        let mut all = Map::new();
        let mut put = |group: &str, field: &str, value: Option<Value>| {
            let Some(value) = value else { return };
            let group = all.entry(group).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(fields) = group {
                fields.insert(field.to_owned(), value);
            }
        };
        put("blockIO", "weight", self.blkio_weight.map(Value::from));
        put("cpu", "period", self.cpu_period.map(Value::from));
        put("cpu", "quota", self.cpu_quota.map(Value::from));
        put("cpu", "burst", self.cpu_burst.map(Value::from));
        put("cpu", "shares", self.cpu_share.map(Value::from));
        put("cpu", "realtimePeriod", self.cpu_rt_period.map(Value::from));
        put("cpu", "realtimeRuntime", self.cpu_rt_runtime.map(Value::from));
        put("cpu", "cpus", self.cpuset_cpus.clone().map(Value::from));
        put("cpu", "mems", self.cpuset_mems.clone().map(Value::from));
        put("cpu", "idle", self.cpu_idle.map(Value::from));
        put("memory", "limit", self.memory.map(Value::from));
        put("memory", "reservation", self.memory_reservation.map(Value::from));
        put("memory", "swap", self.memory_swap.map(Value::from));
        put("pids", "limit", self.pids_limit.map(Value::from));
        Ok(Value::Object(all))
    }
}

/// Bytes as people write them: `64m`, `1.5GiB`, `4096`; -1 is unlimited.
fn size(text: &str) -> Result<i64, String> {
    parse_size(text).ok_or_else(|| "give bytes, a size such as 64m or 1.5GiB, or -1".to_owned())
}

fn parse_size(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<i128>().ok()?.checked_mul(1 << shift)?;
    // More digits than any unit has bytes decide nothing.
    let fraction = fraction.get(..fraction.len().min(15))?;
    let part = (fraction.parse::<i128>().ok()? << shift)
        / 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    i64::try_from(whole.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_reads_them() {
        for (text, bytes) in [
            ("-1", -1),
            ("0", 0),
            ("4096", 4096),
            ("64m", 64 << 20),
            ("64 MB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2kb", 2048),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "-2", "m", "1x", "1..5m", "9999999p", "1.m", "é"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
