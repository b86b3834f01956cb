//! Clauses of `linux` that few configurations have: clocks, memory nodes, network interfaces, the
//! label of mounts.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;

use serde::Deserialize;

use super::{
    Error,
    convert::{Result, c_string, invalid},
};
use crate::{ns::Kind, plan};

/// A value of `linux.timeOffsets`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct TimeOffset {
    #[serde(default)]
    pub secs: i64,
    #[serde(default)]
    pub nanosecs: u32,
}

/// `linux.memoryPolicy`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct MemoryPolicy {
    #[serde(default)]
    pub mode: String,
    #[serde(default)]
    pub nodes: String,
    #[serde(default)]
    pub flags: Vec<String>,
}

/// A value of `linux.netDevices`; its key is the name on the host.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NetDevice {
    pub name: Option<String>,
}

/// `linux.intelRdt`. What `enableCMT` and `enableMBM` asked for is read without them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntelRdt {
    #[serde(rename = "closID")]
    pub clos_id: Option<String>,
    #[serde(default)]
    pub schemata: Vec<String>,
    pub l3_cache_schema: Option<String>,
    pub mem_bw_schema: Option<String>,
    #[serde(default)]
    pub enable_monitoring: bool,
}

/// One list of lines; bandwidth among the cache's is left out, as the specification demands.
pub(super) fn intel_rdt(raw: IntelRdt) -> Result<plan::IntelRdt> {
    const AT: &str = "linux.intelRdt";
    let clos_id = raw.clos_id.filter(|name| !name.is_empty());
    if let Some(name) = &clos_id
        // That of all.
        && name != "/"
        && (matches!(name.as_str(), "." | ".." | "info" | "mon_groups" | "mon_data")
            || name.contains(['/', '\n', '\0']))
    {
        return invalid(format!("{AT}.closID"), name, "is not the name of a group");
    }
    let cache = raw.l3_cache_schema.unwrap_or_default();
    let cache = cache.lines().filter(|line| !line.trim_start().starts_with("MB:"));
    let bandwidth = raw.mem_bw_schema.unwrap_or_default();
    let lines = cache.chain(bandwidth.lines()).chain(raw.schemata.iter().flat_map(|s| s.lines()));
    let schemata: Vec<String> =
        lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    for line in &schemata {
        if !line.contains(':') {
            return invalid(format!("{AT}.schemata"), line, "is not a line as \"L3:0=ff\"");
        }
    }
    Ok(plan::IntelRdt { clos_id, schemata, monitoring: raw.enable_monitoring })
}

/// The lines that timens_offsets takes.
pub(super) fn time_offsets(
    raw: &BTreeMap<String, TimeOffset>,
    namespaces: &plan::Namespaces,
) -> Result<Option<CString>> {
    let mut text = String::new();
    for (clock, offset) in raw {
        let at = format!("linux.timeOffsets.{clock}");
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return invalid(at, clock, "is neither monotonic nor boottime");
        }
        if !namespaces.is_new(Kind::Time) {
            return invalid(at, clock, "needs a new time namespace in linux.namespaces");
        }
        if offset.nanosecs > 999_999_999 {
            return invalid(format!("{at}.nanosecs"), offset.nanosecs, "is more than a second");
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{clock} {} {}", offset.secs, offset.nanosecs);
    }
    if text.is_empty() { Ok(None) } else { c_string("linux.timeOffsets", text).map(Some) }
}

/// Modes of `linux.memoryPolicy`: numbers of linux/mempolicy.h; libc does not have the newer ones.
pub const MEMORY_MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];
/// Flags of `linux.memoryPolicy`.
pub const MEMORY_FLAGS: [(&str, i32); 3] = [
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_STATIC_NODES", 1 << 15),
];

/// Mode and nodes in the kernel's numbers.
pub(super) fn memory_policy(raw: &MemoryPolicy) -> Result<plan::MemoryPolicy> {
    const AT: &str = "linux.memoryPolicy";
    if raw.mode.is_empty() {
        return Err(Error::Missing { path: format!("{AT}.mode") });
    }
    let Some((_, mut mode)) = MEMORY_MODES.iter().find(|row| row.0 == raw.mode).copied() else {
        return invalid(format!("{AT}.mode"), &raw.mode, "is not a memory policy");
    };
    for flag in &raw.flags {
        match MEMORY_FLAGS.iter().find(|row| row.0 == flag) {
            Some((_, bit)) => mode |= bit,
            None => return invalid(format!("{AT}.flags"), flag, "is not a flag of one"),
        }
    }
    let Some(nodes) = nodes(&raw.nodes) else {
        return invalid(format!("{AT}.nodes"), &raw.nodes, "is not a list as \"0-3,7\" below 1024");
    };
    Ok(plan::MemoryPolicy { mode, nodes })
}

/// Bits of a list as `0-3,7`; `None` if it is none.
fn nodes(list: &str) -> Option<Vec<u64>> {
    /// `MAX_NUMNODES` of the largest kernels.
    const MOST: usize = 1024;
    let mut bits = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        for node in first..=last {
            if bits.len() <= node / 64 {
                bits.resize(node / 64 + 1, 0);
            }
            *bits.get_mut(node / 64)? |= 1_u64 << (node % 64);
        }
    }
    Some(bits)
}

/// Interfaces with their names outside and inside.
pub(super) fn net_devices(
    raw: &BTreeMap<String, NetDevice>,
    namespaces: &plan::Namespaces,
) -> Result<Vec<plan::NetDevice>> {
    let mut devices: Vec<plan::NetDevice> = Vec::with_capacity(raw.len());
    for (host, device) in raw {
        let at = format!("linux.netDevices.{host}");
        let name = match device.name.as_deref() {
            None | Some("") => host,
            Some(name) => name,
        };
        for (path, name) in [(at.clone(), host.as_str()), (format!("{at}.name"), name)] {
            // As the kernel's dev_valid_name; a % would be a pattern.
            let bad = |letter: char| {
                matches!(letter, '/' | ':' | '%' | '\0') || letter.is_ascii_whitespace()
            };
            if matches!(name, "" | "." | "..") || name.len() > 15 || name.contains(bad) {
                return invalid(path, name, "is not the name of a network interface");
            }
        }
        if name == "lo" || devices.iter().any(|other| other.name == name) {
            return invalid(format!("{at}.name"), name, "is the name of another interface");
        }
        if !namespaces.is_new(Kind::Network) && !namespaces.is_joined(Kind::Network) {
            return invalid(at, host, "needs a network namespace in linux.namespaces");
        }
        devices.push(plan::NetDevice { host: host.clone(), name: name.to_owned() });
    }
    Ok(devices)
}

/// Goes between quotes into the options of file systems.
pub(super) fn mount_label(raw: Option<&str>) -> Result<Option<CString>> {
    const AT: &str = "linux.mountLabel";
    match raw {
        None | Some("") => Ok(None),
        Some(label) if label.contains(['"', '\\']) => invalid(AT, label, "is not an SELinux label"),
        Some(label) => c_string(AT, label).map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_nodes() {
        assert_eq!(nodes(""), Some(vec![]));
        assert_eq!(nodes("0-3,7"), Some(vec![0b1000_1111]));
        assert_eq!(nodes("64"), Some(vec![0, 1]));
        for bad in ["x", "3-1", "1024", "-", "1-"] {
            assert_eq!(nodes(bad), None, "{bad}");
        }
    }

    #[test]
    fn policies_are_numbers() {
        let raw = MemoryPolicy {
            mode: "MPOL_BIND".into(),
            nodes: "1".into(),
            flags: vec!["MPOL_F_STATIC_NODES".into()],
        };
        let policy = memory_policy(&raw).unwrap();
        assert_eq!(policy, plan::MemoryPolicy { mode: 2 | 1 << 15, nodes: vec![2] });
        assert!(memory_policy(&MemoryPolicy { mode: "BIND".into(), ..raw.clone() }).is_err());
        assert!(memory_policy(&MemoryPolicy { flags: vec!["X".into()], ..raw }).is_err());
    }
}
