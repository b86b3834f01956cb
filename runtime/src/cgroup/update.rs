//! Changing the limits of a group that has processes: all of them, or none.
//!
//! The kernel offers no transaction over control files. What can be known before is checked before anything is
//! written: the values, the controllers and the files. Whatever the kernel then refuses is undone by writing back what
//! the files said, last one first, because limits that depend on each other were changed in an order in which each step
//! is valid, and backwards it is so too.

use std::collections::BTreeSet;

use super::dir::Dir;
use super::resources::Resources;
use super::write::{Fallback, Write, invalid};
use super::{Cgroup, Error, stats, v1, v2};

impl Cgroup {
    /// Changes limits of a group that may have processes. What is not asked for stays; on an error all stays.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        self.listing()?;
        let writes = if self.limits_on_v2() {
            self.writes_v2(resources)?
        } else {
            self.writes_v1(resources)?
        };
        self.check(&writes)?;
        let before = self.before(&writes);
        let changed = self
            .tell_systemd(&writes, &resources.devices)
            .and_then(|()| self.apply(writes))
            .and_then(|()| self.set_devices(&resources.devices, true));
        changed.map_err(|error| {
            let error = self.explain(error);
            if let Err(error) = self.tell_systemd(&before, &[]) {
                log::warn!("after a failed update: {error}");
            }
            self.restore(before);
            error
        })
    }

    /// Says by how much a memory limit is too low, in runc's words, where the kernel only says "busy".
    fn explain(&self, error: Error) -> Error {
        let Error::Write { path, value, source } = &error else { return error };
        let limit = path.file_name().is_some_and(|file| file == "memory.limit_in_bytes");
        if !limit || source.raw_os_error() != Some(libc::EBUSY) {
            return error;
        }
        let number = |file| self.dir_of("memory").and_then(|dir| present(dir, file).ok());
        let (Some(usage), Some(peak)) =
            (number("memory.usage_in_bytes"), number("memory.max_usage_in_bytes"))
        else {
            return error;
        };
        let reason = format!(
            "unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
        );
        invalid("memory.limit", reason)
    }

    fn writes_v2(&self, resources: &Resources) -> Result<Vec<Write>, Error> {
        let dir = self.core()?;
        let memory = &resources.memory;
        let usage = if memory.check_before_update && memory.limit.is_some() {
            present(dir, "memory.current")?
        } else {
            0
        };
        let cpu = &resources.cpu;
        if cpu.quota.is_some() || cpu.period.is_none_or(|period| period == 0) {
            return v2::writes(resources, true, usage);
        }
        // A period cannot be written without a quota: the present one stays.
        let text = dir.read("cpu.max")?;
        let quota = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
        let mut complete = resources.clone();
        complete.cpu.quota = Some(quota.unwrap_or(-1));
        v2::writes(&complete, true, usage)
    }

    fn writes_v1(&self, resources: &Resources) -> Result<Vec<Write>, Error> {
        let memory = &resources.memory;
        let mut current = v1::Current { memory_limit: u64::MAX, memory_usage: 0 };
        if let Some(dir) = self.v1.iter().find(|dir| dir.has("memory")) {
            if memory.swap.is_some() {
                current.memory_limit = present(dir, "memory.limit_in_bytes")?;
            }
            if memory.check_before_update && memory.limit.is_some() {
                current.memory_usage = present(dir, "memory.usage_in_bytes")?;
            }
            if let (Some(Ok(limit)), None | Some(0)) = (memory.limit.map(u64::try_from), memory.swap)
                // Without swap accounting there is no such limit to be in the way.
                && let Ok(both) = present(dir, "memory.memsw.limit_in_bytes")
                && limit > both
            {
                return Err(invalid(
                    "memory.limit",
                    format!(
                        "{limit} is above the present limit {both} on memory plus swap; \
                         set memory.swap with it"
                    ),
                ));
            }
        }
        v1::writes(resources, Some(current))
    }

    /// Refuses what could not be written, before anything is.
    fn check(&self, writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            let Some(dir) = self.target(write)? else { continue };
            if write.fallback == Fallback::Fail && !dir.has_file(&write.file) {
                return Err(self.no_file(dir, write));
            }
        }
        Ok(())
    }

    /// What the files say that are about to be written; for each, how to write that again.
    fn before(&self, writes: &[Write]) -> Vec<Write> {
        let mut seen = BTreeSet::new();
        let mut before = Vec::new();
        for write in writes {
            let mut files = vec![(&write.file, &write.value)];
            if let Fallback::Other { file, value } = &write.fallback {
                files.push((file, value));
            }
            let Some(dir) = self.target(write).ok().flatten() else { continue };
            for (file, value) in files {
                if !seen.insert((file.clone(), key(value).to_owned())) {
                    continue;
                }
                let text = dir.read(file);
                if let Some(value) = text.ok().and_then(|text| restoring(file, &text, value)) {
                    before.push(Write {
                        controller: write.controller.clone(),
                        file: file.clone(),
                        value,
                        fallback: Fallback::Fail,
                    });
                }
            }
        }
        before
    }

    fn restore(&self, before: Vec<Write>) {
        let again: Vec<Write> = before
            .into_iter()
            .rev()
            .filter(|write| self.apply(vec![write.clone()]).is_err())
            .collect();
        // One that leaned on another, which stands again by now.
        for write in again {
            if let Err(error) = self.apply(vec![write]) {
                log::warn!("after a failed update: {error}");
            }
        }
    }
}

fn present(dir: &Dir, file: &str) -> Result<u64, Error> {
    stats::number(dir, file).map(|number| number.unwrap_or(u64::MAX))
}

/// The device or interface that a line of a keyed file speaks of; empty in a file of one value.
fn key(value: &str) -> &str {
    value.split_once(' ').map_or("", |(key, _)| key)
}

/// What puts a file back that says `text`, after `value` was written to it.
fn restoring(file: &str, text: &str, value: &str) -> Option<String> {
    if file == "memory.oom_control" {
        return Some(text.lines().next()?.strip_prefix("oom_kill_disable ")?.to_owned());
    }
    if file == "cpu.max" {
        return Some(text.trim().to_owned());
    }
    let key = key(value);
    if key.is_empty() {
        // `default 100` is the first line where there are more.
        return text.lines().next().map(|line| line.trim().to_owned()).filter(|l| !l.is_empty());
    }
    let line = text.lines().find(|line| line.strip_prefix(key).is_some_and(|l| l.starts_with(' ')));
    Some(match (line, file) {
        (Some(line), _) => line.trim().to_owned(),
        (None, "io.max") => format!("{key} rbps=max wbps=max riops=max wiops=max"),
        (None, "io.weight" | "io.bfq.weight") => format!("{key} default"),
        (None, "rdma.max") => format!("{key} hca_handle=max hca_object=max"),
        (None, _) => format!("{key} 0"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cgroup::{Record, RecordedDir};

    #[test]
    fn a_record_tells_whether_it_is_frozen() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a/b");
        std::fs::create_dir_all(&group).unwrap();
        let dir = |controllers: &str| RecordedDir {
            mount: root.path().to_owned(),
            controllers: controllers.to_owned(),
        };
        let unified = Record {
            path: "a/b".into(),
            v1: Vec::new(),
            v2: Some(dir("")),
            unit: None,
            permitted: None,
        };
        let v1 = Record { v1: vec![dir("cpu"), dir("x,freezer")], v2: None, ..unified.clone() };
        for (record, file) in [(&unified, "cgroup.freeze"), (&v1, "freezer.self_freezing")] {
            assert!(!record.is_frozen().unwrap(), "without its file");
            for (text, frozen) in [("1\n", true), ("0\n", false)] {
                std::fs::write(group.join(file), text).unwrap();
                assert_eq!(record.is_frozen().unwrap(), frozen, "{file} {text}");
            }
        }
    }

    #[test]
    fn files_are_put_back_as_they_were() {
        for (file, text, value, back) in [
            ("cpu.shares", "1024\n", "512", "1024"),
            ("cpu.max", "max 100000\n", "5000 10000", "max 100000"),
            ("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\n", "0", "1"),
            ("io.weight", "default 100\n8:0 200\n", "500", "default 100"),
            ("io.weight", "default 100\n8:0 200\n", "8:0 5", "8:0 200"),
            ("io.weight", "default 100\n", "8:0 5", "8:0 default"),
            ("io.max", "8:0 rbps=1 wbps=max\n", "8:0 wbps=7", "8:0 rbps=1 wbps=max"),
            ("io.max", "", "8:0 wbps=7", "8:0 rbps=max wbps=max riops=max wiops=max"),
            ("blkio.throttle.read_bps_device", "8:0 100\n", "8:0 7", "8:0 100"),
            ("blkio.throttle.read_bps_device", "8:16 100\n", "8:1 7", "8:1 0"),
            ("net_prio.ifpriomap", "lo 0\neth0 4\n", "eth0 7", "eth0 4"),
        ] {
            assert_eq!(restoring(file, text, value).as_deref(), Some(back), "{file} {value}");
        }
        // A set that was never given cannot be given back; the kernel would refuse an empty one.
        assert_eq!(restoring("cpuset.cpus", "\n", "0"), None);
    }
}
