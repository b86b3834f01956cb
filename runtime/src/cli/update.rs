//! `update`: other limits for a container that exists.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};

use crate::container::Container;

/// Why an update was not begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read the resources from {}", from.display())]
    Read { from: PathBuf, source: std::io::Error },
    #[error("parse the resources of {} as JSON", from.display())]
    Parse { from: PathBuf, source: serde_json::Error },
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// File with linux.resources as JSON, or - for standard input; all other options are ignored then
    #[arg(long, short, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, from 10 to 1000
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "N")]
    cpu_period: Option<u64>,
    /// CPU time per period in microseconds; -1 is unlimited
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// CPU time in microseconds that may be saved up for later periods
    #[arg(long, value_name = "N")]
    cpu_burst: Option<u64>,
    /// CPU shares (relative weight)
    #[arg(long, value_name = "N")]
    cpu_share: Option<u64>,
    /// Period of real-time CPU time in microseconds
    #[arg(long, value_name = "N")]
    cpu_rt_period: Option<u64>,
    /// Real-time CPU time per period in microseconds
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs to use, as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1 runs the container only when nothing else wants the CPU
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    cpu_idle: Option<i64>,
    /// Memory limit: bytes, or with a suffix such as 64m; -1 is unlimited
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    memory: Option<i64>,
    /// Soft limit of memory
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    memory_reservation: Option<i64>,
    /// Limit of memory plus swap; -1 is unlimited
    #[arg(long, value_name = "SIZE", value_parser = size, allow_negative_numbers = true)]
    memory_swap: Option<i64>,
    /// No effect: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", hide = true, allow_negative_numbers = true)]
    kernel_memory: Option<String>,
    /// No effect: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", hide = true, allow_negative_numbers = true)]
    kernel_memory_tcp: Option<String>,
    /// Most processes and threads; negative is unlimited
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Schema of the L3 cache (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// Schema of the memory bandwidth (Intel RDT)
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// Name of the container
    #[arg(value_name = "container-id")]
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
