//! Everything the kernel counts of a group, in the shape of `runc events`.
//!
//! containerd's shim and cAdvisor read that shape (`types/events.go` of runc, `events.go` of go-runc). [`super::stats`]
//! is the small snapshot for ourselves. A file that this kernel does not have leaves its part out, or zero where the
//! shape has no "absent".

use serde_json::{Map, Value, json};

use super::dir::{Dir, gone};
use super::{Cgroup, Error};

/// `USER_HZ` is 100 on every architecture that we are built for.
const TICKS_TO_NANOSECONDS: u64 = 10_000_000;
/// Field of `cpuset` and its file in cgroup v1.
const CPUSET: [(&str, &str); 9] = [
    ("cpu_exclusive", "cpuset.cpu_exclusive"),
    ("mem_exclusive", "cpuset.mem_exclusive"),
    ("mem_hardwall", "cpuset.mem_hardwall"),
    ("memory_migrate", "cpuset.memory_migrate"),
    ("memory_pressure", "cpuset.memory_pressure"),
    ("memory_spread_page", "cpuset.memory_spread_page"),
    ("memory_spread_slab", "cpuset.memory_spread_slab"),
    ("sched_load_balance", "cpuset.sched_load_balance"),
    ("sched_relax_domain_level", "cpuset.sched_relax_domain_level"),
];
/// Field of `blkio` and the files of cgroup v1 that have it, the first with an entry counts: what BFQ counts, what
/// older kernels' CFQ did, what throttling does.
const BLKIO: [(&str, [&str; 3]); 8] = [
    (
        "ioServiceBytesRecursive",
        [
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
        ],
    ),
    (
        "ioServicedRecursive",
        [
            "blkio.bfq.io_serviced_recursive",
            "blkio.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
        ],
    ),
    ("ioQueueRecursive", ["blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive", ""]),
    (
        "ioServiceTimeRecursive",
        ["blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive", ""],
    ),
    (
        "ioWaitTimeRecursive",
        ["blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive", ""],
    ),
    ("ioMergedRecursive", ["blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive", ""]),
    ("ioTimeRecursive", ["blkio.bfq.time_recursive", "blkio.time_recursive", ""]),
    ("sectorsRecursive", ["blkio.bfq.sectors_recursive", "blkio.sectors_recursive", ""]),
];

impl Cgroup {
    /// The `data` of an event of the type `stats`.
    pub fn report(&self) -> Result<Value, Error> {
        self.listing()?;
        let v2 = self.limits_on_v2();
        let none = || json!({});
        let dir = |controller: &str| self.dir_of(controller);
        let (cpu, memory, blkio) = if v2 {
            let all = dir("cpu");
            (all.map(cpu_v2), all.map(memory_v2), all.map(blkio_v2))
        } else {
            (
                dir("cpuacct").map(|accounts| cpu_v1(accounts, dir("cpu"))),
                dir("memory").map(memory_v1),
                dir("blkio").map(blkio_v1),
            )
        };
        Ok(json!({
            "cpu": cpu.transpose()?.unwrap_or_else(|| json!({"usage": {}, "throttling": {}})),
            "cpuset": dir("cpuset").map(|dir| cpuset(dir, v2)).transpose()?.unwrap_or_else(none),
            "memory": memory.transpose()?.unwrap_or_else(none),
            "pids": dir("pids").map(pids).transpose()?.unwrap_or_else(none),
            "blkio": blkio.transpose()?.unwrap_or_else(none),
            "hugetlb": dir("hugetlb").map(|dir| hugetlb(dir, v2)).transpose()?.unwrap_or_else(none),
            "intel_rdt": {},
            "network_interfaces": null,
        }))
    }
}

/// A file that this kernel or this group may lack.
fn optional(dir: &Dir, file: &str) -> Result<Option<String>, Error> {
    match dir.read(file) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Read { source, .. })
            if gone(&source) || source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A number, with `max` as the largest; 0 without the file.
fn number(dir: &Dir, file: &str) -> Result<u64, Error> {
    let Some(text) = optional(dir, file)? else { return Ok(0) };
    match text.trim() {
        "max" => Ok(u64::MAX),
        digits => digits.parse().map_err(|_not_a_number| Error::Parse {
            path: dir.path.join(file),
            reason: "not a number",
        }),
    }
}

/// Lines of a name and a number.
fn flat(text: &str) -> Map<String, Value> {
    text.lines()
        .filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.trim().parse::<u64>().ok()?.into()))
        })
        .collect()
}

fn field(map: &Map<String, Value>, name: &str) -> u64 {
    map.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn cpu_v1(accounts: &Dir, cpu: Option<&Dir>) -> Result<Value, Error> {
    let split = flat(&accounts.read("cpuacct.stat")?);
    let per = optional(accounts, "cpuacct.usage_percpu")?.unwrap_or_default();
    let (users, kernels) =
        per_processor(&optional(accounts, "cpuacct.usage_all")?.unwrap_or_default());
    let throttling = cpu.map(|dir| optional(dir, "cpu.stat")).transpose()?.flatten();
    let throttling = flat(&throttling.unwrap_or_default());
    Ok(json!({
        "usage": {
            "total": number(accounts, "cpuacct.usage")?,
            "percpu": per.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u64>>(),
            "percpu_kernel": kernels,
            "percpu_user": users,
            "kernel": field(&split, "system").saturating_mul(TICKS_TO_NANOSECONDS),
            "user": field(&split, "user").saturating_mul(TICKS_TO_NANOSECONDS),
        },
        "throttling": throttled(&throttling, field(&throttling, "throttled_time")),
    }))
}

/// `cpuacct.usage_all`: a header, then a line per processor: its number, user, system.
fn per_processor(text: &str) -> (Vec<u64>, Vec<u64>) {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let user: u64 = fields.next()?.parse().ok()?;
            let system: u64 = fields.next()?.parse().ok()?;
            Some((user, system))
        })
        .unzip()
}

fn throttled(stat: &Map<String, Value>, time: u64) -> Value {
    json!({
        "periods": field(stat, "nr_periods"),
        "throttledPeriods": field(stat, "nr_throttled"),
        "throttledTime": time,
    })
}

fn cpu_v2(dir: &Dir) -> Result<Value, Error> {
    let stat = flat(&dir.read("cpu.stat")?);
    let nanoseconds = |name| field(&stat, name).saturating_mul(1000);
    let mut value = json!({
        "usage": {
            "total": nanoseconds("usage_usec"),
            "kernel": nanoseconds("system_usec"),
            "user": nanoseconds("user_usec"),
        },
        "throttling": throttled(&stat, nanoseconds("throttled_usec")),
    });
    add_pressure(&mut value, dir, "cpu.pressure")?;
    Ok(value)
}

/// Pressure stall information, where the kernel has it on.
fn add_pressure(value: &mut Value, dir: &Dir, file: &str) -> Result<(), Error> {
    if let Some(text) = optional(dir, file)?
        && let Some(pressure) = pressure(&text)
        && let Some(map) = value.as_object_mut()
    {
        map.insert("psi".to_owned(), pressure);
    }
    Ok(())
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same of `full`.
fn pressure(text: &str) -> Option<Value> {
    let mut map = Map::new();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let mut fields = Map::new();
        for (name, number) in rest.split(' ').filter_map(|pair| pair.split_once('=')) {
            let number: Value = serde_json::from_slice(number.as_bytes()).ok()?;
            fields.insert(name.to_owned(), number);
        }
        map.insert(kind.to_owned(), fields.into());
    }
    (!map.is_empty()).then(|| map.into())
}

fn cpuset(dir: &Dir, v2: bool) -> Result<Value, Error> {
    let (cpus, mems) = if v2 {
        ("cpuset.cpus.effective", "cpuset.mems.effective")
    } else {
        ("cpuset.cpus", "cpuset.mems")
    };
    let list = |file| Ok::<_, Error>(numbers(optional(dir, file)?.unwrap_or_default().trim()));
    let mut map = Map::new();
    map.insert("cpus".to_owned(), list(cpus)?.into());
    map.insert("mems".to_owned(), list(mems)?.into());
    for (name, file) in CPUSET {
        // Signed: the level of balancing is -1 by default.
        let text = if v2 { None } else { optional(dir, file)? };
        let value: i64 = text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        map.insert(name.to_owned(), value.into());
    }
    Ok(map.into())
}

/// A list such as `0-2,7`.
fn numbers(list: &str) -> Vec<u16> {
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

fn memory_v1(dir: &Dir) -> Result<Value, Error> {
    let raw = flat(&dir.read("memory.stat")?);
    let entry = |kind: &str| {
        let file = |name: &str| number(dir, &format!("memory.{kind}{name}"));
        Ok::<_, Error>(json!({
            "limit": file("limit_in_bytes")?,
            "usage": file("usage_in_bytes")?,
            "max": file("max_usage_in_bytes")?,
            "failcnt": file("failcnt")?,
        }))
    };
    Ok(json!({
        "cache": field(&raw, "cache"),
        "usage": entry("")?,
        "swap": entry("memsw.")?,
        "kernel": entry("kmem.")?,
        "kernelTCP": entry("kmem.tcp.")?,
        "raw": raw,
    }))
}

fn memory_v2(dir: &Dir) -> Result<Value, Error> {
    let Some(stat) = optional(dir, "memory.stat")? else { return Ok(json!({})) };
    let raw = flat(&stat);
    let events = flat(&optional(dir, "memory.events")?.unwrap_or_default());
    let (usage, limit) = (number(dir, "memory.current")?, number(dir, "memory.max")?);
    // As cgroup v1 counts: memory and swap together.
    let (swap, swap_limit) = (number(dir, "memory.swap.current")?, number(dir, "memory.swap.max")?);
    let mut value = json!({
        "cache": field(&raw, "file"),
        "usage": {
            "limit": limit,
            "usage": usage,
            "max": number(dir, "memory.peak")?,
            "failcnt": field(&events, "max"),
        },
        "swap": {
            "limit": swap_limit.saturating_add(limit),
            "usage": swap.saturating_add(usage),
            "failcnt": 0,
        },
        "kernel": { "limit": 0, "usage": field(&raw, "kernel"), "failcnt": 0 },
        "kernelTCP": { "limit": 0, "usage": field(&raw, "sock"), "failcnt": 0 },
        "event_count": events,
        "raw": raw,
    });
    add_pressure(&mut value, dir, "memory.pressure")?;
    Ok(value)
}

fn pids(dir: &Dir) -> Result<Value, Error> {
    // The shape's word for "unlimited" is 0.
    let limit = number(dir, "pids.max")?;
    Ok(json!({
        "current": number(dir, "pids.current")?,
        "limit": if limit == u64::MAX { 0 } else { limit },
    }))
}

fn blkio_v1(dir: &Dir) -> Result<Value, Error> {
    let mut map = Map::new();
    for (name, files) in BLKIO {
        for file in files.into_iter().filter(|file| !file.is_empty()) {
            let entries = block_entries(&optional(dir, file)?.unwrap_or_default());
            if !entries.is_empty() {
                map.insert(name.to_owned(), entries.into());
                break;
            }
        }
    }
    Ok(map.into())
}

/// Lines `8:0 Read 4096`, or `8:0 4096` of what has no directions; the sum at the end is left out.
fn block_entries(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let rest: Vec<&str> = fields.collect();
            let (operation, value) = match *rest.as_slice() {
                [operation, value] => (operation, value),
                [value] => ("", value),
                _ => return None,
            };
            block_entry(major, minor, operation, value)
        })
        .collect()
}

fn block_entry(major: &str, minor: &str, operation: &str, value: &str) -> Option<Value> {
    Some(json!({
        "major": major.parse::<u64>().ok()?,
        "minor": minor.parse::<u64>().ok()?,
        "op": operation,
        "value": value.parse::<u64>().ok()?,
    }))
}

fn blkio_v2(dir: &Dir) -> Result<Value, Error> {
    let (bytes, operations) = io_stat(&optional(dir, "io.stat")?.unwrap_or_default());
    let mut value = json!({ "ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations });
    add_pressure(&mut value, dir, "io.pressure")?;
    Ok(value)
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`: entries of bytes, and of operations.
fn io_stat(text: &str) -> (Vec<Value>, Vec<Value>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some((major, minor)) = fields.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        for (name, value) in fields.filter_map(|pair| pair.split_once('=')) {
            let (list, operation) = match name {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            list.extend(block_entry(major, minor, operation, value));
        }
    }
    (bytes, operations)
}

fn hugetlb(dir: &Dir, v2: bool) -> Result<Value, Error> {
    let mut map = Map::new();
    for size in page_sizes() {
        let file = |name: &str| number(dir, &format!("hugetlb.{size}.{name}"));
        let value = if v2 {
            let Some(events) = optional(dir, &format!("hugetlb.{size}.events"))? else { continue };
            json!({ "usage": file("current")?, "failcnt": field(&flat(&events), "max") })
        } else {
            json!({
                "usage": file("usage_in_bytes")?,
                "max": file("max_usage_in_bytes")?,
                "failcnt": file("failcnt")?,
            })
        };
        map.insert(size, value);
    }
    Ok(map.into())
}

/// Sizes of huge pages as the controller names its files: `2MB`, `1GB`.
fn page_sizes() -> Vec<String> {
    let Ok(directory) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let name = |entry: std::fs::DirEntry| page_size(entry.file_name().to_str()?);
    directory.filter_map(|entry| name(entry.ok()?)).collect()
}

/// `hugepages-2048kB` → `2MB`.
fn page_size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        n if n >= 1 << 20 => format!("{}GB", n >> 20),
        n if n >= 1 << 10 => format!("{}MB", n >> 10),
        n => format!("{n}KB"),
    })
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
