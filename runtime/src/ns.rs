//! Kinds of namespaces.

/// A kind of namespace that a container may have of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    User,
    Pid,
    Network,
    Mount,
    Uts,
    Ipc,
    Time,
    Cgroup,
}

/// Name in the configuration, kind, `CLONE_NEW*` and name below `/proc/<pid>/ns`. In the order in
/// which they are joined: the user namespace first, for its privileges over the others, and the
/// mount namespace last, for it changes what paths mean.
pub const TABLE: [(&str, Kind, i32, &str); 8] = [
    ("user", Kind::User, libc::CLONE_NEWUSER, "user"),
    ("pid", Kind::Pid, libc::CLONE_NEWPID, "pid"),
    ("network", Kind::Network, libc::CLONE_NEWNET, "net"),
    ("uts", Kind::Uts, libc::CLONE_NEWUTS, "uts"),
    ("ipc", Kind::Ipc, libc::CLONE_NEWIPC, "ipc"),
    ("time", Kind::Time, libc::CLONE_NEWTIME, "time"),
    ("cgroup", Kind::Cgroup, libc::CLONE_NEWCGROUP, "cgroup"),
    ("mount", Kind::Mount, libc::CLONE_NEWNS, "mnt"),
];

impl Kind {
    /// The kind of this name in the configuration.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    fn row(self) -> &'static (&'static str, Self, i32, &'static str) {
        // Every kind has a row, which the test below shows; the first is never used for another.
        TABLE.iter().find(|row| row.1 == self).unwrap_or(&TABLE[0])
    }

    /// Name in the configuration.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// `CLONE_NEW*`.
    pub fn flag(self) -> u64 {
        u64::from(self.row().2.unsigned_abs())
    }

    /// Place in [`TABLE`], that is, in the order of joining.
    pub fn order(self) -> usize {
        TABLE.iter().position(|row| row.1 == self).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_row() {
        for (name, kind, flag, _) in TABLE {
            assert_eq!(kind.name(), name);
            assert_eq!(kind.flag(), u64::from(flag.unsigned_abs()));
            assert_eq!(Kind::parse(name), Some(kind));
        }
        assert_eq!(Kind::parse("none"), None);
    }
}
