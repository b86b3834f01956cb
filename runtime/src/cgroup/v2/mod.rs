//! Resources as writes to cgroup v2 files: pure.
//!
//! Kernel documentation: admin-guide/cgroup-v2.rst. The specification speaks cgroup v1; the conversions are those of
//! runc 1.3 and crun, so that a container gets the same share and limit from every runtime. Devices are not files here:
//! see `device_bpf`.

use std::borrow::Cow;

use super::Error;
use super::resources::{Cpu, Memory, Resources, Throttle};
use super::write::{Fallback, Write, invalid};

/// All writes for the resources, devices excepted. `update` is false for a group that was just made; `memory_usage` is
/// needed where the check before update is asked for.
pub(crate) fn writes(
    resources: &Resources,
    update: bool,
    memory_usage: u64,
) -> Result<Vec<Write>, Error> {
    let mut list = Vec::new();
    if resources.network.class_id.is_some() || !resources.network.priorities.is_empty() {
        return Err(invalid("network", "classes and priorities exist on cgroup v1 only"));
    }
    cpu(&resources.cpu, update, &mut list)?;
    memory(&resources.memory, update, memory_usage, &mut list)?;
    match resources.pids {
        None | Some(0) => {}
        Some(limit) if limit < 0 => list.push(Write::new("pids", "pids.max", "max")),
        Some(limit) => list.push(Write::new("pids", "pids.max", limit.to_string())),
    }
    block_io(resources, &mut list)?;
    for page in &resources.hugepages {
        let limit = page.limit.to_string();
        list.push(Write::new("hugetlb", format!("hugetlb.{}.max", page.page_size), limit.clone()));
        list.push(
            Write::new("hugetlb", format!("hugetlb.{}.rsvd.max", page.page_size), limit)
                .or(Fallback::Skip),
        );
    }
    list.extend(super::write::rdma(&resources.rdma));
    unified(&resources.unified, &mut list)?;
    Ok(list)
}

fn cpu(cpu: &Cpu, update: bool, list: &mut Vec<Write>) -> Result<(), Error> {
    if let Some(cpus) = cpu.cpus.as_deref().filter(|cpus| !cpus.is_empty()) {
        list.push(Write::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems.as_deref().filter(|mems| !mems.is_empty()) {
        list.push(Write::new("cpuset", "cpuset.mems", mems));
    }
    if cpu.realtime_runtime.is_some_and(|value| value != 0)
        || cpu.realtime_period.is_some_and(|value| value != 0)
    {
        return Err(invalid("cpu.realtimeRuntime", "real-time groups exist on cgroup v1 only"));
    }
    if let Some(idle) = cpu.idle {
        list.push(Write::new("cpu", "cpu.idle", idle.to_string()));
    }
    // An idle group has no weight and the kernel refuses one.
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0 && cpu.idle != Some(1)) {
        list.push(Write::new("cpu", "cpu.weight", weight_of_shares(shares).to_string()));
    }
    let period = cpu.period.filter(|&period| period != 0);
    if cpu.quota.is_some() || period.is_some() {
        if update && cpu.quota.is_some() && cpu.burst.is_some() {
            // What was saved up may not exceed the new quota at any moment.
            list.push(Write::new("cpu", "cpu.max.burst", "0").or(Fallback::Skip));
        }
        let value = match (cpu.quota, period) {
            // One word leaves the period as it is.
            (Some(quota), None) if update => {
                if quota > 0 {
                    quota.to_string()
                } else {
                    "max".to_owned()
                }
            }
            (Some(quota), period) if quota > 0 => {
                format!("{quota} {}", period.unwrap_or(100_000))
            }
            // The second word alone cannot be written; on an update the kernel's present quota would be lost.
            (None, Some(_)) if update => {
                return Err(invalid("cpu.period", "cannot be changed without the quota"));
            }
            (_, period) => format!("max {}", period.unwrap_or(100_000)),
        };
        list.push(Write::new("cpu", "cpu.max", value));
    }
    if let Some(burst) = cpu.burst {
        list.push(Write::new("cpu", "cpu.max.burst", burst.to_string()));
    }
    Ok(())
}

/// `cpu.weight` for `cpu.shares`: the quadratic through minimum, default and maximum of both scales that runc 1.3 and
/// crun 1.23 adopted; the linear one before gave the default of 1024 shares less than half the default weight.
///
/// It is the least weight of at least 10^((l² + 125l - 126) / 612), where l is the binary logarithm of the shares. In
/// whole numbers, since powers of floats bring 20 kB of the C library.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    let log = log2(shares.clamp(2, 262_144));
    let wanted = log2(10) * (log * log + ((125 * log) << LOG_BITS) - (126 << (2 * LOG_BITS)));
    let (mut least, mut most) = (1, 10_000);
    while least < most {
        let middle = u64::midpoint(least, most);
        if (612 * log2(middle)) << (2 * LOG_BITS) >= wanted {
            most = middle;
        } else {
            least = middle + 1;
        }
    }
    least
}

/// Bits after the point of a logarithm: enough to tell all weights apart, and what is computed from them fits 128 bits.
const LOG_BITS: u32 = 36;

/// The binary logarithm of a number above 0, rounded down.
fn log2(number: u64) -> u128 {
    let whole = number.ilog2();
    let mut logarithm = u128::from(whole);
    // Between 1 and 2, with 63 bits after the point.
    let mut rest = u128::from(number) << (63 - whole);
    for _ in 0..LOG_BITS {
        rest = (rest * rest) >> 63;
        let bit = rest >> 64;
        rest >>= bit;
        logarithm = (logarithm << 1) | bit;
    }
    logarithm
}

fn memory(memory: &Memory, update: bool, usage: u64, list: &mut Vec<Write>) -> Result<(), Error> {
    let limit = memory.limit.filter(|&limit| limit != 0);
    if let (true, Some(limit), true) = (update, limit, memory.check_before_update) {
        super::write::check_usage(limit, usage)?;
    }
    if let Some(swap) = swap_alone(limit, memory.swap)? {
        let fallback = if matches!(swap, -1 | 0) { Fallback::Skip } else { Fallback::Fail };
        list.push(Write::new("memory", "memory.swap.max", bytes(swap)).or(fallback));
    }
    if let Some(limit) = limit {
        list.push(Write::new("memory", "memory.max", bytes(limit)));
    }
    if let Some(reservation) = memory.reservation.filter(|&reservation| reservation != 0) {
        list.push(Write::new("memory", "memory.low", bytes(reservation)));
    }
    super::write::no_kernel_limit(memory)?;
    if memory.kernel_tcp.is_some_and(|limit| limit > 0) {
        return Err(invalid("memory.kernelTCP", "cgroup v2 counts it within the memory limit"));
    }
    if memory.swappiness.is_some() {
        return Err(invalid("memory.swappiness", "exists on cgroup v1 only"));
    }
    if memory.use_hierarchy == Some(false) {
        return Err(invalid("memory.useHierarchy", "cgroup v2 always counts the groups below"));
    }
    if memory.disable_oom_killer == Some(true) {
        return Err(invalid(
            "memory.disableOOMKiller",
            "cgroup v2 cannot switch the OOM killer off",
        ));
    }
    Ok(())
}

/// Swap without memory, from memory plus swap; -1 is unlimited, `None` leaves it alone.
fn swap_alone(limit: Option<i64>, both: Option<i64>) -> Result<Option<i64>, Error> {
    match (limit, both.filter(|&both| both != 0)) {
        // Asking for unlimited memory under cgroup v1's scheme lifts both.
        (Some(-1), None) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(-1)) => Ok(Some(-1)),
        (Some(limit), Some(both)) if limit > 0 && both >= limit => Ok(Some(both - limit)),
        (Some(limit), Some(both)) if limit > 0 => {
            Err(invalid("memory.swap", format!("{both} is below the memory limit {limit}")))
        }
        (_, Some(_)) => Err(invalid("memory.swap", "needs a memory limit beside it")),
    }
}

fn bytes(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn block_io(resources: &Resources, list: &mut Vec<Write>) -> Result<(), Error> {
    let io = &resources.block_io;
    if io.leaf_weight.is_some_and(|value| value != 0)
        || io.weight_devices.iter().any(|d| d.leaf_weight.is_some_and(|value| value != 0))
    {
        return Err(invalid("blockIO.leafWeight", "leaf weights exist on cgroup v1 only"));
    }
    let mut weight = |device: Option<(u32, u32)>, value: u16| {
        let line = |value: u64| match device {
            Some((major, minor)) => format!("{major}:{minor} {value}"),
            None => value.to_string(),
        };
        let plain = u64::from(value);
        // io.weight reaches from 1 to 10000, BFQ's and the specification's scale from 10 to 1000.
        let scaled = 1 + plain.saturating_sub(10) * 9999 / 990;
        list.push(
            Write::new("io", "io.bfq.weight", line(plain))
                .or(Fallback::Other { file: Cow::Borrowed("io.weight"), value: line(scaled) }),
        );
    };
    if let Some(value) = io.weight.filter(|&value| value != 0) {
        weight(None, value);
    }
    for device in &io.weight_devices {
        if let Some(value) = device.weight.filter(|&value| value != 0) {
            weight(Some((device.major, device.minor)), value);
        }
    }
    let mut throttle = |key: &str, rates: &[Throttle]| {
        for rate in rates {
            let value = if rate.rate == 0 { "max".to_owned() } else { rate.rate.to_string() };
            list.push(Write::new(
                "io",
                "io.max",
                format!("{}:{} {key}={value}", rate.major, rate.minor),
            ));
        }
    };
    throttle("rbps", &io.read_bps);
    throttle("wbps", &io.write_bps);
    throttle("riops", &io.read_iops);
    throttle("wiops", &io.write_iops);
    Ok(())
}

fn unified(files: &[(String, String)], list: &mut Vec<Write>) -> Result<(), Error> {
    for (file, value) in files {
        let controller = file.split_once('.').map(|(controller, _)| controller);
        let Some(controller) = controller.filter(|name| !name.is_empty() && !file.contains('/'))
        else {
            return Err(invalid("unified", format!("{file:?} is not a control file's name")));
        };
        // Files of several lines take one line per write.
        for line in value.lines() {
            list.push(Write {
                controller: Cow::Owned(controller.to_owned()),
                file: Cow::Owned(file.clone()),
                value: line.to_owned(),
                fallback: Fallback::Fail,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
