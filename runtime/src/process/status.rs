//! What a process has become, from `/proc/<pid>/status`: for hooks that are to run like it.

use std::io;

use crate::sys::cred::CapSets;

/// Number, user and privileges of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Its number in its own pid namespace.
    pub own_pid: i32,
    /// As numbered in its user namespace.
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub capabilities: CapSets,
    pub no_new_privileges: bool,
}

impl Status {
    /// Reads the status of a process.
    ///
    /// # Errors
    /// If it is gone, or its ids are not mapped in its user namespace.
    pub fn read(pid: i32) -> io::Result<Self> {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let incomplete = || io::Error::other(format!("/proc/{pid}/status lacks a field"));
        parse(&file("status")?, &file("uid_map")?, &file("gid_map")?).ok_or_else(incomplete)
    }
}

/// The number of a process in its own pid namespace.
///
/// # Errors
/// If it is gone.
pub fn own_pid(pid: i32) -> io::Result<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    last_pid(&status).ok_or_else(|| io::Error::other("its status has no NSpid"))
}

fn last_pid(status: &str) -> Option<i32> {
    let field = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    field.split_ascii_whitespace().next_back()?.parse().ok()
}

fn parse(status: &str, uid_map: &str, gid_map: &str) -> Option<Status> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    // Real, effective, saved and file system id: the second is what it acts as.
    let id = |name, map| mapped(map, field(name)?.split_ascii_whitespace().nth(1)?);
    let mask = |name| u64::from_str_radix(field(name)?, 16).ok();
    Some(Status {
        own_pid: last_pid(status)?,
        uid: id("Uid", uid_map)?,
        gid: id("Gid", gid_map)?,
        groups: field("Groups")?
            .split_ascii_whitespace()
            // One that is not mapped was kept, as an ordinary user cannot but do; and so it will be.
            .filter_map(|group| mapped(gid_map, group))
            .collect(),
        capabilities: CapSets {
            bounding: mask("CapBnd")?,
            effective: mask("CapEff")?,
            inheritable: mask("CapInh")?,
            permitted: mask("CapPrm")?,
            ambient: mask("CapAmb")?,
        },
        no_new_privileges: field("NoNewPrivs")? == "1",
    })
}

/// An id of ours as the process's user namespace numbers it; `map` has lines of its first number,
/// ours, and how many.
fn mapped(map: &str, id: &str) -> Option<u32> {
    let id: u32 = id.parse().ok()?;
    map.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        let (inside, outside, size) =
            (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
        let distance = id.checked_sub(outside).filter(|distance| *distance < size)?;
        inside.checked_add(distance)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STATUS: &str = "Name:\tsh\nUid:\t100033\t100033\t100033\t100033\n\
        Gid:\t100000\t100034\t100034\t100034\nGroups:\t100005 100006 \nNSpid:\t4711\t1\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\n\
        CapBnd:\t00000000000000ff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    #[test]
    fn ids_are_those_of_its_user_namespace() {
        let map = "         0     100000      65536\n";
        let got = parse(STATUS, map, map).unwrap();
        assert_eq!((got.own_pid, got.uid, got.gid), (1, 33, 34));
        assert_eq!(got.groups, [5, 6]);
        assert_eq!((got.capabilities.bounding, got.capabilities.effective), (0xff, 0x20));
        assert!(got.no_new_privileges);
        assert_eq!(parse(STATUS, "0 0 10\n", map), None);
        assert_eq!(parse("", map, map), None);
    }

    #[test]
    fn our_own() {
        let own = Status::read(std::process::id().cast_signed()).unwrap();
        assert!(own.own_pid > 0);
    }
}
