//! `linux.resources` in the terms of [`crate::cgroup`].

use super::{Error, Resources};
use crate::cgroup;

fn invalid<T>(path: String, value: impl ToString, rule: &str) -> Result<T, Error> {
    Err(Error::Invalid { path, value: value.to_string(), rule: rule.to_owned() })
}

fn number(path: &str, value: i64) -> Result<u32, Error> {
    u32::try_from(value).or_else(|_| invalid(path.to_owned(), value, "is no device number"))
}

/// As [`resources`] for a container that exists: without rules of its own, device access stays as it is.
///
/// # Errors
/// If a value is refused; its path begins with `linux.resources`.
pub fn update(raw: Resources) -> Result<cgroup::Resources, Error> {
    let keep = raw.devices.is_empty();
    let mut converted = resources(raw)?;
    if keep {
        converted.devices.clear();
    }
    Ok(converted)
}

/// Converts, and puts the devices every container has around the configuration's own rules: denied
/// by default before them, the standard devices allowed after them, as runc does.
pub(super) fn resources(raw: Resources) -> Result<cgroup::Resources, Error> {
    let at = "linux.resources";
    let standard = cgroup::default_device_rules();
    let mut devices = standard.clone();
    for (index, rule) in raw.devices.iter().enumerate() {
        let at = format!("{at}.devices[{index}]");
        let kind = match rule.kind.as_deref() {
            None | Some("" | "a") => cgroup::DeviceKind::All,
            Some("c" | "u") => cgroup::DeviceKind::Char,
            Some("b") => cgroup::DeviceKind::Block,
            Some(other) => return invalid(format!("{at}.type"), other, "is not one of a, c, b"),
        };
        let access = match rule.access.as_deref() {
            None | Some("") => Some(cgroup::DeviceAccess::ALL),
            Some(text) => {
                let known = text.replace(|letter| !matches!(letter, 'r' | 'w' | 'm'), "");
                if known.len() < text.len() && !known.is_empty() {
                    log::warn!(
                        "{at}.access: {text:?} has another letter than r, w, m, which is left out"
                    );
                }
                cgroup::DeviceAccess::parse(&known).filter(|_| !known.is_empty())
            }
        };
        let Some(access) = access else {
            let text = rule.access.clone().unwrap_or_default();
            return invalid(format!("{at}.access"), text, "has none of the letters r, w, m");
        };
        // −1 is how older configurations write "every".
        let device = |name: &str, value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => number(&format!("{at}.{name}"), value).map(Some),
        };
        devices.push(cgroup::DeviceRule {
            allow: rule.allow,
            kind,
            major: device("major", rule.major)?,
            minor: device("minor", rule.minor)?,
            access,
        });
    }
    devices.extend(standard.into_iter().filter(|rule| rule.allow));
    let cpu = raw.cpu.unwrap_or_default();
    let memory = raw.memory.unwrap_or_default();
    let io = raw.block_io.unwrap_or_default();
    let network = raw.network.unwrap_or_default();
    let throttle = |name: &str, list: &[super::Throttle]| {
        list.iter()
            .map(|rate| {
                let at = format!("{at}.blockIO.{name}");
                Ok(cgroup::Throttle {
                    major: number(&at, rate.major)?,
                    minor: number(&at, rate.minor)?,
                    rate: rate.rate,
                })
            })
            .collect::<Result<Vec<_>, Error>>()
    };
    let weights = io
        .weight_device
        .iter()
        .map(|weight| {
            let at = format!("{at}.blockIO.weightDevice");
            Ok(cgroup::WeightDevice {
                major: number(&at, weight.major)?,
                minor: number(&at, weight.minor)?,
                weight: weight.weight,
                leaf_weight: weight.leaf_weight,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    for (name, value) in [("limit", memory.limit), ("swap", memory.swap)] {
        if value.is_some_and(|bytes| bytes < -1) {
            let path = format!("{at}.memory.{name}");
            return invalid(path, value.unwrap_or(0), "is neither a size nor -1");
        }
    }
    Ok(cgroup::Resources {
        cpu: cgroup::Cpu {
            shares: cpu.shares,
            quota: cpu.quota,
            period: cpu.period,
            burst: cpu.burst,
            idle: cpu.idle,
            realtime_runtime: cpu.realtime_runtime,
            realtime_period: cpu.realtime_period,
            cpus: cpu.cpus.filter(|list| !list.is_empty()),
            mems: cpu.mems.filter(|list| !list.is_empty()),
        },
        memory: cgroup::Memory {
            limit: memory.limit,
            reservation: memory.reservation,
            swap: memory.swap,
            kernel: memory.kernel,
            kernel_tcp: memory.kernel_tcp,
            swappiness: memory.swappiness,
            disable_oom_killer: memory.disable_oom_killer,
            use_hierarchy: memory.use_hierarchy,
            check_before_update: memory.check_before_update.unwrap_or(false),
        },
        pids: raw.pids.and_then(|pids| pids.limit),
        devices,
        block_io: cgroup::BlockIo {
            weight: io.weight,
            leaf_weight: io.leaf_weight,
            weight_devices: weights,
            read_bps: throttle("throttleReadBpsDevice", &io.throttle_read_bps_device)?,
            write_bps: throttle("throttleWriteBpsDevice", &io.throttle_write_bps_device)?,
            read_iops: throttle("throttleReadIOPSDevice", &io.throttle_read_iops_device)?,
            write_iops: throttle("throttleWriteIOPSDevice", &io.throttle_write_iops_device)?,
        },
        hugepages: raw
            .hugepage_limits
            .into_iter()
            .map(|limit| cgroup::HugepageLimit { page_size: limit.page_size, limit: limit.limit })
            .collect(),
        network: cgroup::Network {
            class_id: network.class_id,
            priorities: network
                .priorities
                .into_iter()
                .map(|interface| (interface.name, interface.priority))
                .collect(),
        },
        rdma: raw
            .rdma
            .into_iter()
            .map(|(device, limit)| cgroup::RdmaLimit {
                device,
                hca_handles: limit.hca_handles,
                hca_objects: limit.hca_objects,
            })
            .collect(),
        unified: raw.unified.into_iter().collect(),
    })
}
