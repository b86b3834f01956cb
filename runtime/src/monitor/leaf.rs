//! The cgroup of the monitor's own processes: one leaf in every hierarchy, shared by all monitors
//! of an agent and removed by the agent.
//!
//! Outside the task's limits, so that the spool's page cache is not charged to the task and a
//! task without memory left cannot stop its monitor. Not the runtime's `cgroup` module, which makes
//! groups that belong to one container and refuses those that others use.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Error;

/// Moves this process into `cgroup`, which is made where it is missing.
pub(super) fn enter(cgroup: &str) -> Result<(), Error> {
    let plain = Path::new(cgroup)
        .strip_prefix("/")
        .ok()
        .filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))))
        .ok_or_else(|| Error::CgroupPath { cgroup: cgroup.to_owned() })?;
    join(plain).map_err(|source| Error::Cgroup { cgroup: cgroup.to_owned(), source })
}

fn join(path: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for (root, cpuset) in hierarchies(&mounts) {
        let leaf = root.join(path);
        fs::create_dir_all(&leaf)?;
        if cpuset {
            fill_cpuset(&root, path)?;
        }
        fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(())
}

/// Mount points of cgroup hierarchies, and whether each is cgroup v1's cpuset.
fn hierarchies(mountinfo: &str) -> Vec<(PathBuf, bool)> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = file_system.split(' ');
            let kind = fields.next()?;
            let cpuset = fields.nth(1)?.split(',').any(|option| option == "cpuset");
            let point = PathBuf::from(mount.split(' ').nth(4)?);
            matches!(kind, "cgroup" | "cgroup2").then_some((point, cpuset && kind == "cgroup"))
        })
        .collect()
}

/// A cpuset that was just made is empty, and an empty one takes no process.
fn fill_cpuset(root: &Path, path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut value = fs::read_to_string(root.join(file))?;
        let mut level = root.to_owned();
        for part in path.components() {
            level.push(part);
            let own = fs::read_to_string(level.join(file))?;
            if own.trim().is_empty() {
                fs::write(level.join(file), value.trim())?;
            } else {
                value = own;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_hierarchy() {
        let mountinfo = "\
25 1 0:23 / /sys rw - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpuset rw,nosuid - cgroup cgroup rw,cpuset
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
        let found = hierarchies(mountinfo);
        let found: Vec<_> = found.iter().map(|(p, c)| (p.to_str().unwrap(), *c)).collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/memory", false),
                ("/sys/fs/cgroup/cpuset", true),
                ("/sys/fs/cgroup/unified", false)
            ]
        );
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        for path in ["relative", "/a/../b", ""] {
            assert!(matches!(enter(path), Err(Error::CgroupPath { .. })), "{path:?}");
        }
    }
}
