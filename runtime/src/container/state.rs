//! The state file: written whole to a temporary name, then renamed.
//!
//! It lies below `/run`, so it need not survive the host, and is not synced.

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{collections::BTreeMap, fs};

use serde::{Deserialize, Serialize};

use super::{Status, exec::Inherited};
use crate::{cgroup, seccomp, spec};

/// A process, told apart from later ones that reuse its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_time: u64,
}

/// What is stored of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub oci_version: String,
    pub id: String,
    /// [`Status::Creating`] or [`Status::Created`]; what follows is read off the kernel.
    pub status: Status,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `/proc/sys/kernel/random/boot_id`: after a reboot nothing here is alive.
    pub boot_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<ProcessRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<cgroup::Record>,
    /// Union of `CLONE_NEW*` of the namespaces that are not the runtime's.
    pub namespaces: u64,
    #[serde(default)]
    pub hooks: spec::Hooks,
    /// For processes that are added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<seccomp::Profile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personality: Option<u32>,
    /// What `update` changed, in the terms of `linux.resources`: stands over the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<serde_json::Value>,
    /// Of the init, which sets it at the very last.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Groups of resctrl to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rdt: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<crate::plan::MemoryPolicy>,
    #[serde(default)]
    pub inherited: Inherited,
}

/// The record of a container, in its directory.
pub(super) const FILE: &str = "state.json";
const TEMPORARY: &str = "state.json.new";

impl Record {
    /// Reads a container's record; `None` if a create was killed before it wrote one.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a container's record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn store(&self, directory: &Path) -> io::Result<()> {
        self.put(directory).map(drop)
    }

    /// As [`Self::store`]; the file that has it.
    pub(super) fn put(&self, directory: &Path) -> io::Result<fs::File> {
        use io::Write as _;
        let temporary = directory.join(TEMPORARY);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&temporary, directory.join(FILE))?;
        Ok(file)
    }
}

/// Removes a container's directory. In the usual case there is nothing but the record.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(FILE)).and_then(|()| fs::remove_dir(directory)) {
        Err(_) => fs::remove_dir_all(directory),
        Ok(()) => Ok(()),
    }
}

/// Reads a file of the kernel's that is short enough for one read.
fn read_short(path: &str) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut text = vec![0; 1024];
    let length = fs::File::open(path)?.read(&mut text)?;
    text.truncate(length);
    Ok(text)
}

/// Start time of a process, and whether it is more than a zombie; `None` if there is none.
pub(super) fn start_time(pid: i32) -> Option<(u64, bool)> {
    let stat = read_short(&format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may itself contain anything.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let time = fields.nth(18)?.parse().ok()?;
    Some((time, !matches!(state, "Z" | "X" | "x")))
}

/// This boot.
///
/// # Errors
/// If `/proc` cannot be read.
pub(super) fn boot_id() -> io::Result<String> {
    let text = read_short("/proc/sys/kernel/random/boot_id")?;
    Ok(String::from_utf8_lossy(text.trim_ascii()).into_owned())
}

/// The time as RFC 3339 in UTC.
pub(crate) fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date: years begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since.subsec_nanos()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000000000Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn our_own_start_time() {
        let pid = std::process::id().cast_signed();
        let (time, alive) = start_time(pid).unwrap();
        assert!(time > 0 && alive);
        assert_eq!(start_time(pid), Some((time, true)));
        assert_eq!(start_time(0), None);
    }
}
