//! How often the kernel's OOM killer struck in a group.
//!
//! cgroup v2 counts in `memory.events`, groups below included; cgroup v1 in `memory.oom_control` (4.13). The counter must
//! be read before the group is removed.

use super::{Cgroup, Error};

impl Cgroup {
    /// Processes killed for lack of memory since the group was made; 0 on a host without a memory controller.
    pub fn oom_killed(&self) -> Result<u64, Error> {
        let v2 = self.limits_on_v2();
        let file = if v2 { "memory.events" } else { "memory.oom_control" };
        let Some(dir) = self.dir_of("memory") else {
            self.listing()?;
            return Ok(0);
        };
        if v2 && !dir.has("memory") {
            return Ok(0);
        }
        count(&dir.read(file)?)
            .ok_or_else(|| Error::Parse { path: dir.path.join(file), reason: "no oom_kill count" })
    }
}

pub(super) fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn reads_both_versions() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
