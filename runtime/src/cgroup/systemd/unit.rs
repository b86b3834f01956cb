//! Units: what they are called, where systemd puts their groups, and which properties say what the writes to control
//! files say: pure.
//!
//! systemd writes the properties of a unit into its group whenever it sees reason to (a reload, a neighbour), so it
//! must know every limit it has a property for. What it rounds or does not know is right in the files, which are
//! written after it.

use std::collections::BTreeMap;

use super::wire::{Property, Value};
use super::{Error, text};
use crate::cgroup::device_bpf::{Exception, Policy};
use crate::cgroup::resources::DeviceKind;
use crate::cgroup::write::{Fallback, Write};

/// Annotations that are properties of the unit, as in runc and crun.
const ANNOTATION: &str = "org.systemd.property.";
/// First part of a scope's name where `cgroupsPath` does not say.
const PREFIX: &str = "lighter";
/// The kernel's period of a quota, in microseconds.
pub(super) const PERIOD: u64 = 100_000;
/// Processors and nodes above are not there in any kernel.
const MOST_BITS: usize = 8192;

/// A name that `cgroupsPath` gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) unit: String,
    pub(super) slice: String,
    /// Path of the group, below that of the manager.
    pub(super) path: String,
}

/// Reads `slice:prefix:name`; without a path the container's id gives the name.
pub(super) fn name(path: Option<&str>, id: &str, user: bool) -> Result<Name, Error> {
    let own = |reason| Error::Path { path: path.unwrap_or_default().to_owned(), reason };
    let (slice, prefix, name) = match path {
        None => ("", PREFIX, id),
        Some(path) => {
            let mut parts = path.split(':');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(slice), Some(prefix), Some(name), None) => (slice, prefix, name),
                _ => return Err(own("is not of the form \"slice:prefix:name\"")),
            }
        }
    };
    if name.is_empty() || [prefix, name].iter().any(|part| part.contains('/')) {
        return Err(own(
            "names no unit: prefix and name must be without a slash, the name not empty",
        ));
    }
    let slice = match slice {
        "" if user => "user.slice",
        "" => "system.slice",
        given => given,
    };
    let above = expand(slice).ok_or_else(|| own("does not begin with a slice's name"))?;
    if name.ends_with(".slice") {
        let path = expand(name).ok_or_else(|| own("does not end with a slice's name"))?;
        return Ok(Name { unit: name.to_owned(), slice: slice.to_owned(), path });
    }
    let unit = format!("{prefix}-{name}.scope");
    let path = format!("{above}/{unit}");
    Ok(Name { unit, slice: slice.to_owned(), path })
}

/// Where systemd puts a slice: `a-b.slice` is `/a.slice/a-b.slice`. `None` if it is not a slice's name.
fn expand(slice: &str) -> Option<String> {
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(String::new());
    }
    let mut path = String::new();
    let mut end = 0;
    for part in stem.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        end += part.len();
        path.push('/');
        path.push_str(stem.get(..end)?);
        path.push_str(".slice");
        end += 1;
    }
    Some(path)
}

/// The properties that annotations ask for.
pub(super) fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, Error> {
    let mut properties = Vec::new();
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let own = |reason: &str| Error::Property { annotation: key.clone(), reason: reason.into() };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(own("a property's name has three letters or more, and nothing else"));
        }
        let value = text::parse(value).map_err(own)?;
        // Times are shown in seconds and set in microseconds.
        let seconds = name
            .strip_suffix("Sec")
            .filter(|stem| stem.ends_with(|end: char| end.is_ascii_lowercase()));
        properties.push(match seconds {
            None => (name.to_owned(), value),
            Some(stem) => {
                let value = text::microseconds(&value)
                    .ok_or_else(|| own("seconds are a number, not negative"))?;
                (format!("{stem}USec"), value)
            }
        });
    }
    Ok(properties)
}

/// A property, and the first version of systemd that has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Versioned {
    pub(super) since: u32,
    pub(super) property: Property,
}

fn versioned(since: u32, name: &str, value: Value) -> Option<Versioned> {
    Some(Versioned { since, property: (name.to_owned(), value) })
}

/// What systemd is to know of these writes. `period` is that of a quota which comes without.
pub(super) fn of_writes(writes: &[Write], period: u64) -> Vec<Versioned> {
    // A file that is written twice keeps the last.
    let last = |file: &str| writes.iter().rev().find(|write| write.file == file);
    let quota_v1 = last("cpu.cfs_quota_us").map(|write| write.value.as_str());
    let period_v1 = last("cpu.cfs_period_us").and_then(|write| write.value.parse().ok());
    let mut properties: Vec<Versioned> = Vec::new();
    for write in writes {
        if last(&write.file) != Some(write) {
            continue;
        }
        let one = |name: &str| versioned(0, name, limit(&write.value)?);
        let found = match &*write.file {
            "memory.max" => one("MemoryMax"),
            "memory.high" => one("MemoryHigh"),
            "memory.low" => one("MemoryLow"),
            "memory.min" => one("MemoryMin"),
            "memory.swap.max" => one("MemorySwapMax"),
            "memory.limit_in_bytes" => one("MemoryLimit"),
            "pids.max" => one("TasksMax"),
            "cpu.weight" => one("CPUWeight"),
            "cpu.shares" => one("CPUShares"),
            "cpu.idle" if write.value == "1" => versioned(252, "CPUWeight", Value::Number(b't', 0)),
            "blkio.weight" => one("BlockIOWeight"),
            "io.weight" => weight(&write.value),
            "io.bfq.weight" => match &write.fallback {
                Fallback::Other { value, .. } => weight(value),
                _ => None,
            },
            "cpuset.cpus" => {
                bits(&write.value).and_then(|bits| versioned(244, "AllowedCPUs", bits))
            }
            "cpuset.mems" => {
                bits(&write.value).and_then(|bits| versioned(244, "AllowedMemoryNodes", bits))
            }
            "cpu.max" => {
                let mut words = write.value.split_ascii_whitespace();
                let quota = words.next().unwrap_or_default();
                let given = words.next().and_then(|word| word.parse().ok());
                properties.extend(quota_properties(quota, given, period));
                None
            }
            "cpu.cfs_quota_us" => {
                properties.extend(quota_properties(&write.value, period_v1, period));
                None
            }
            "cpu.cfs_period_us" if quota_v1.is_none() => {
                properties.extend(period_property(period_v1));
                None
            }
            _ => None,
        };
        properties.extend(found);
    }
    properties
}

/// A number; `max` and what is below zero are no limit. `None` for forms that only the kernel reads.
fn limit(value: &str) -> Option<Value> {
    let number = match value {
        "max" => u64::MAX,
        negative if negative.starts_with('-') => u64::MAX,
        number => number.parse().ok()?,
    };
    Some(Value::Number(b't', number))
}

/// The group's weight; those of single devices stay with the kernel.
fn weight(value: &str) -> Option<Versioned> {
    let value = value.strip_prefix("default ").unwrap_or(value);
    versioned(0, "IOWeight", limit(value)?)
}

fn period_property(period: Option<u64>) -> Option<Versioned> {
    versioned(242, "CPUQuotaPeriodUSec", Value::Number(b't', period?))
}

fn quota_properties(quota: &str, given: Option<u64>, present: u64) -> Vec<Versioned> {
    let period = given.unwrap_or(present).max(1);
    let per_second = match quota.parse::<u64>() {
        // systemd counts in percents: up, so that the exact quota fits below.
        Ok(quota) => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX)
        }
        Err(_) => u64::MAX,
    };
    let quota = versioned(0, "CPUQuotaPerSecUSec", Value::Number(b't', per_second));
    period_property(given).into_iter().chain(quota).collect()
}

/// The kernel's list format as a bit mask, lowest byte first.
fn bits(list: &str) -> Option<Value> {
    let mut mask: Vec<u8> = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST_BITS {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            *mask.get_mut(bit / 8)? |= 1 << (bit % 8);
        }
    }
    Some(Value::Array("y", mask.into_iter().map(|byte| Value::Number(b'y', byte.into())).collect()))
}

/// The device rules for cgroup v1, where systemd would allow every device again whenever it writes them. `drivers` is
/// the contents of `/proc/devices`: systemd takes a range of devices by the name of its driver only.
pub(super) fn of_devices(policy: &Policy, drivers: &str) -> Vec<Property> {
    let mode = |mode| ("DevicePolicy".to_owned(), Value::text(mode));
    let list = |list| ("DeviceAllow".to_owned(), Value::Array("(ss)", list));
    if policy.allow {
        return vec![mode("auto"), list(Vec::new())];
    }
    let allowed = policy.exceptions.iter().filter_map(|exception| {
        Some(Value::Pair(device(exception, drivers)?, exception.access.to_string()))
    });
    vec![mode("strict"), list(allowed.collect())]
}

fn device(exception: &Exception, drivers: &str) -> Option<String> {
    let (kind, heading) = match exception.kind {
        DeviceKind::Block => ("block", "Block devices:"),
        _ => ("char", "Character devices:"),
    };
    let Some(major) = exception.major else { return Some(format!("{kind}-*")) };
    if let Some(minor) = exception.minor {
        return Some(format!("/dev/{kind}/{major}:{minor}"));
    }
    let mut section = drivers.lines().skip_while(|line| *line != heading).skip(1);
    section.by_ref().take_while(|line| !line.is_empty()).find_map(|line| {
        let (number, name) = line.trim_start().split_once(' ')?;
        (number.parse() == Ok(major)).then(|| format!("{kind}-{name}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cgroup::{Resources, default_device_rules, v1, v2};

    #[test]
    fn slices_lie_in_those_that_their_names_begin_with() {
        for (slice, path) in [
            ("system.slice", Some("/system.slice")),
            ("a-b-c.slice", Some("/a.slice/a-b.slice/a-b-c.slice")),
            ("-.slice", Some("")),
            (".slice", None),
            ("a--b.slice", None),
            ("-a.slice", None),
            ("a-.slice", None),
            ("a/b.slice", None),
            ("system", None),
            ("", None),
        ] {
            assert_eq!(expand(slice).as_deref(), path, "{slice}");
        }
    }

    #[test]
    fn paths_name_units() {
        let named = |path, user| {
            let Name { unit, slice, path } = name(path, "box", user).unwrap();
            [unit, slice, path]
        };
        assert_eq!(
            named(None, false),
            ["lighter-box.scope", "system.slice", "/system.slice/lighter-box.scope"]
        );
        assert_eq!(named(None, true)[2], "/user.slice/lighter-box.scope");
        assert_eq!(
            named(Some("machine.slice:libpod:1a"), false),
            ["libpod-1a.scope", "machine.slice", "/machine.slice/libpod-1a.scope"]
        );
        assert_eq!(named(Some("a-b.slice:x:1"), true)[2], "/a.slice/a-b.slice/x-1.scope");
        assert_eq!(
            named(Some("a.slice::a-b.slice"), false),
            ["a-b.slice", "a.slice", "/a.slice/a-b.slice"]
        );
        for bad in ["/a/b", "a:b", "a:b:c:d", "system.slice:p:", "system.slice:p:a/b", "x:p:n"] {
            assert!(matches!(name(Some(bad), "box", false), Err(Error::Path { .. })), "{bad}");
        }
    }

    #[test]
    fn annotations_are_properties() {
        let annotations = |pairs: &[(&str, &str)]| {
            annotated(&pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
        };
        let found = annotations(&[
            ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
            ("org.systemd.property.TimeoutStopSec", "1.5"),
            ("org.systemd.property.TimeoutStopUSec", "uint64 7"),
            ("other", "?"),
        ]);
        assert_eq!(
            found.unwrap(),
            [
                ("CollectMode".to_owned(), Value::text("inactive-or-failed")),
                ("TimeoutStopUSec".to_owned(), Value::Number(b't', 1_500_000)),
                ("TimeoutStopUSec".to_owned(), Value::Number(b't', 7)),
            ]
        );
        for (key, value) in [
            ("org.systemd.property.", "1"),
            ("org.systemd.property.Ab1", "1"),
            ("org.systemd.property.After", "unquoted"),
            ("org.systemd.property.TimeoutStopSec", "'5s'"),
            ("org.systemd.property.TimeoutStopSec", "-1"),
        ] {
            let error = annotations(&[(key, value)]).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    fn told(resources: &serde_json::Value, unified: bool, period: u64) -> Vec<String> {
        let raw = serde_json::from_value(resources.clone()).unwrap();
        let resources: Resources = crate::spec::updated_resources(raw).unwrap();
        let writes = if unified {
            v2::writes(&resources, false, 0).unwrap()
        } else {
            v1::writes(&resources, None).unwrap()
        };
        of_writes(&writes, period)
            .into_iter()
            .map(|Versioned { since, property: (name, value) }| match value {
                Value::Number(b't', u64::MAX) => format!("{name}=max {since}"),
                Value::Number(b't', number) => format!("{name}={number} {since}"),
                Value::Array("y", bytes) => {
                    let bytes: Vec<u64> = bytes
                        .iter()
                        .map(|byte| if let Value::Number(b'y', bits) = byte { *bits } else { 999 })
                        .collect();
                    format!("{name}={bytes:?} {since}")
                }
                other => format!("{name}={other:?}"),
            })
            .collect()
    }

    #[test]
    fn limits_are_properties_too() {
        let resources = serde_json::json!({
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 1024, "quota": 2345, "period": 10_000, "cpus": "0-2,9"},
            "pids": {"limit": -1},
            "blockIO": {"weight": 10},
        });
        assert_eq!(
            told(&resources, true, PERIOD),
            [
                "AllowedCPUs=[7, 2] 244",
                "CPUWeight=100 0",
                "CPUQuotaPeriodUSec=10000 242",
                "CPUQuotaPerSecUSec=240000 0",
                "MemorySwapMax=33554432 0",
                "MemoryMax=67108864 0",
                "MemoryLow=33554432 0",
                "TasksMax=max 0",
                "IOWeight=1 0",
            ]
        );
        assert_eq!(
            told(&resources, false, PERIOD),
            [
                "AllowedCPUs=[7, 2] 244",
                "CPUShares=1024 0",
                "CPUQuotaPeriodUSec=10000 242",
                "CPUQuotaPerSecUSec=240000 0",
                "MemoryLimit=67108864 0",
                "TasksMax=max 0",
                "BlockIOWeight=10 0",
            ]
        );
        let unified = serde_json::json!({"unified": {
            "memory.high": "1048576", "memory.min": "1M", "cpu.max": "max 50000", "cpu.idle": "1",
            "cpuset.mems": "0", "io.weight": "default 7\n8:0 9", "memory.oom.group": "1",
        }});
        assert_eq!(
            told(&unified, true, PERIOD),
            [
                "CPUWeight=0 252",
                "CPUQuotaPeriodUSec=50000 242",
                "CPUQuotaPerSecUSec=max 0",
                "AllowedMemoryNodes=[1] 244",
                "MemoryHigh=1048576 0",
            ]
        );
    }

    #[test]
    fn a_quota_without_a_period_is_one_of_the_present_period() {
        let write = [Write::new("cpu", "cpu.max", "5000")];
        let told = of_writes(&write, 50_000);
        let property = ("CPUQuotaPerSecUSec".to_owned(), Value::Number(b't', 100_000));
        assert_eq!(told, [Versioned { since: 0, property }]);
    }

    #[test]
    fn device_rules_for_the_old_hierarchy() {
        let drivers = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n136 other\n";
        let policy = Policy::fold(&default_device_rules()).unwrap();
        let properties = of_devices(&policy, drivers);
        assert_eq!(properties[0].1, Value::text("strict"));
        let Value::Array("(ss)", list) = &properties[1].1 else { panic!("{properties:?}") };
        let pair = |device: &str, access: &str| Value::Pair(device.into(), access.into());
        assert!(list.contains(&pair("char-*", "m")), "{list:?}");
        assert!(list.contains(&pair("block-*", "m")), "{list:?}");
        assert!(list.contains(&pair("/dev/char/1:3", "rwm")), "{list:?}");
        assert!(list.contains(&pair("char-pts", "rwm")), "{list:?}");
        let open = Policy { allow: true, exceptions: Vec::new() };
        assert_eq!(of_devices(&open, drivers)[0].1, Value::text("auto"));
    }
}
