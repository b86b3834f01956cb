//! Resources as writes to cgroup v1 files: pure.
//!
//! Kernel documentation: admin-guide/cgroup-v1/. The order of the writes is part of the result, because the kernel
//! checks each one against the values that stand at that moment.

use std::borrow::Cow;

use super::Error;
use super::resources::{Cpu, Memory, Resources, Throttle};
use super::write::{Fallback, Write, invalid};

/// What an update needs to know of the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Current {
    /// Value of `memory.limit_in_bytes`.
    pub(crate) memory_limit: u64,
    /// Value of `memory.usage_in_bytes`.
    pub(crate) memory_usage: u64,
}

/// All writes for the resources, devices excepted. `current` is `None` for a group that was just made.
pub(crate) fn writes(resources: &Resources, current: Option<Current>) -> Result<Vec<Write>, Error> {
    let mut list = Vec::new();
    if !resources.unified.is_empty() {
        return Err(invalid("unified", "invalid configuration: cannot use unified on cgroup v1"));
    }
    cpuset(&resources.cpu, &mut list);
    cpu(&resources.cpu, current.is_some(), &mut list)?;
    memory(&resources.memory, current, &mut list)?;
    match resources.pids {
        None | Some(0) => {}
        Some(limit) if limit < 0 => list.push(Write::new("pids", "pids.max", "max")),
        Some(limit) => list.push(Write::new("pids", "pids.max", limit.to_string())),
    }
    block_io(resources, &mut list);
    for page in &resources.hugepages {
        let limit = page.limit.to_string();
        list.push(Write::new(
            "hugetlb",
            format!("hugetlb.{}.limit_in_bytes", page.page_size),
            limit.clone(),
        ));
        // Reservations are counted from 5.7 on.
        list.push(
            Write::new("hugetlb", format!("hugetlb.{}.rsvd.limit_in_bytes", page.page_size), limit)
                .or(Fallback::Skip),
        );
    }
    if let Some(class) = resources.network.class_id {
        list.push(Write::new("net_cls", "net_cls.classid", class.to_string()));
    }
    for (interface, priority) in &resources.network.priorities {
        list.push(Write::new("net_prio", "net_prio.ifpriomap", format!("{interface} {priority}")));
    }
    list.extend(super::write::rdma(&resources.rdma));
    Ok(list)
}

fn cpuset(cpu: &Cpu, list: &mut Vec<Write>) {
    if let Some(cpus) = cpu.cpus.as_deref().filter(|cpus| !cpus.is_empty()) {
        list.push(Write::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = cpu.mems.as_deref().filter(|mems| !mems.is_empty()) {
        list.push(Write::new("cpuset", "cpuset.mems", mems));
    }
}

fn cpu(cpu: &Cpu, update: bool, list: &mut Vec<Write>) -> Result<(), Error> {
    let idle = cpu.idle.map(|idle| Write::new("cpu", "cpu.idle", idle.to_string()));
    if let Some(idle) = &idle {
        // The kernel refuses a weight while the group is idle: leave that state first, enter it last.
        list.push(idle.clone());
    }
    if let Some(shares) = cpu.shares.filter(|&shares| shares != 0 && cpu.idle != Some(1)) {
        // The kernel clamps silently.
        if !(2..=262_144).contains(&shares) {
            return Err(invalid("cpu.shares", format!("{shares} is not within 2 and 262144")));
        }
        list.push(Write::new("cpu", "cpu.shares", shares.to_string()));
    }
    // A new period is checked with the old quota, so an update lifts that first. The parent's limit holds meanwhile.
    if update && cpu.quota.is_some() {
        if cpu.burst.is_some() {
            list.push(Write::new("cpu", "cpu.cfs_burst_us", "0").or(Fallback::Skip));
        }
        list.push(Write::new("cpu", "cpu.cfs_quota_us", "-1"));
    }
    if let Some(period) = cpu.period.filter(|&period| period != 0) {
        list.push(Write::new("cpu", "cpu.cfs_period_us", period.to_string()));
    }
    if let Some(quota) = cpu.quota {
        let quota = if quota <= 0 { -1 } else { quota };
        if quota != -1 || !update {
            list.push(Write::new("cpu", "cpu.cfs_quota_us", quota.to_string()));
        }
    }
    if let Some(burst) = cpu.burst {
        list.push(Write::new("cpu", "cpu.cfs_burst_us", burst.to_string()));
    }
    if let Some(period) = cpu.realtime_period.filter(|&period| period != 0) {
        list.push(Write::new("cpu", "cpu.rt_period_us", period.to_string()));
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|&runtime| runtime != 0) {
        list.push(Write::new("cpu", "cpu.rt_runtime_us", runtime.to_string()));
    }
    Ok(())
}

fn memory(memory: &Memory, current: Option<Current>, list: &mut Vec<Write>) -> Result<(), Error> {
    if let Some(below) = memory.use_hierarchy {
        let write = Write::new("memory", "memory.use_hierarchy", if below { "1" } else { "0" });
        // A kernel that has no choice any more counts them.
        list.push(if below { write.or(Fallback::Skip) } else { write });
    }
    let limit = memory.limit.filter(|&limit| limit != 0);
    let mut swap = memory.swap.filter(|&swap| swap != 0);
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap != -1
        && (limit == -1 || swap < limit)
    {
        return Err(invalid("memory.swap", format!("{swap} is below the memory limit {limit}")));
    }
    if let (Some(current), Some(limit), true) = (current, limit, memory.check_before_update) {
        super::write::check_usage(limit, current.memory_usage)?;
    }
    let mut swap_fallback = Fallback::Fail;
    if limit == Some(-1) && swap.is_none() {
        // Unlimited memory with a leftover limit on memory plus swap would not be unlimited.
        swap = Some(-1);
    }
    if swap == Some(-1) || (swap.is_some() && swap == limit) {
        // A kernel without swap accounting has no such file; "no limit" and "no swap" hold there anyway.
        swap_fallback = Fallback::Skip;
    }
    let limit_write =
        limit.map(|limit| Write::new("memory", "memory.limit_in_bytes", limit.to_string()));
    let swap_write = swap.map(|swap| {
        Write::new("memory", "memory.memsw.limit_in_bytes", swap.to_string()).or(swap_fallback)
    });
    // Memory may never exceed memory plus swap: going up swap is first, going down memory is.
    let stands = current.map_or(u64::MAX, |current| current.memory_limit);
    let swap_first = swap
        .is_some_and(|swap| u64::try_from(swap).map_or(current.is_some(), |swap| stands < swap));
    if swap_first {
        list.extend(swap_write);
        list.extend(limit_write);
    } else {
        list.extend(limit_write);
        list.extend(swap_write);
    }
    super::write::no_kernel_limit(memory)?;
    if let Some(reservation) = memory.reservation.filter(|&reservation| reservation != 0) {
        list.push(Write::new("memory", "memory.soft_limit_in_bytes", reservation.to_string()));
    }
    if let Some(tcp) = memory.kernel_tcp.filter(|&tcp| tcp != 0) {
        list.push(Write::new("memory", "memory.kmem.tcp.limit_in_bytes", tcp.to_string()));
    }
    if let Some(disable) = memory.disable_oom_killer
        && (disable || current.is_some())
    {
        list.push(Write::new("memory", "memory.oom_control", if disable { "1" } else { "0" }));
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            return Err(invalid("memory.swappiness", format!("{swappiness} is above 100")));
        }
        list.push(Write::new("memory", "memory.swappiness", swappiness.to_string()));
    }
    Ok(())
}

fn block_io(resources: &Resources, list: &mut Vec<Write>) {
    let io = &resources.block_io;
    // Kernels with the BFQ scheduler name the weight files after it; those before had CFQ's names.
    let mut weight = |file: &'static str, bfq: &'static str, value: String| {
        list.push(
            Write::new("blkio", file, value.clone())
                .or(Fallback::Other { file: Cow::Borrowed(bfq), value }),
        );
    };
    if let Some(value) = io.weight.filter(|&value| value != 0) {
        weight("blkio.weight", "blkio.bfq.weight", value.to_string());
    }
    if let Some(value) = io.leaf_weight.filter(|&value| value != 0) {
        weight("blkio.leaf_weight", "blkio.bfq.leaf_weight", value.to_string());
    }
    for device in &io.weight_devices {
        let line = |value: u16| format!("{}:{} {value}", device.major, device.minor);
        if let Some(value) = device.weight.filter(|&value| value != 0) {
            weight("blkio.weight_device", "blkio.bfq.weight_device", line(value));
        }
        if let Some(value) = device.leaf_weight.filter(|&value| value != 0) {
            weight("blkio.leaf_weight_device", "blkio.bfq.leaf_weight_device", line(value));
        }
    }
    let mut throttle = |file: &'static str, rates: &[Throttle]| {
        for rate in rates {
            list.push(Write::new(
                "blkio",
                file,
                format!("{}:{} {}", rate.major, rate.minor, rate.rate),
            ));
        }
    };
    throttle("blkio.throttle.read_bps_device", &io.read_bps);
    throttle("blkio.throttle.write_bps_device", &io.write_bps);
    throttle("blkio.throttle.read_iops_device", &io.read_iops);
    throttle("blkio.throttle.write_iops_device", &io.write_iops);
}

#[cfg(test)]
mod tests;
