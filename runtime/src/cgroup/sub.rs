//! Groups below a container's own, which its processes made: where a process that is added begins.

use std::path::PathBuf;

use super::dir::Dir;
use super::{Cgroup, Error};

/// A group below the container's own, in all hierarchies or in that of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubGroup {
    /// As the hierarchy has it: `memory`, `name=systemd`.
    pub controller: Option<String>,
    /// Path below the container's group.
    pub path: String,
}

impl Cgroup {
    /// These groups below this one; where none is named, this one itself. They must exist.
    ///
    /// # Errors
    /// If one leads out of this group, is not there, or names a controller that is not.
    pub fn below(self, groups: &[SubGroup]) -> Result<Self, Error> {
        if self.is_refused() && !groups.is_empty() {
            return Err(self.missing());
        }
        let Self { record, mut v1, mut v2, holder } = self;
        for group in groups {
            let relative = relative(&group.path)?;
            let mut found = false;
            for dir in v1.iter_mut().chain(&mut v2) {
                let named = match &group.controller {
                    None => true,
                    Some(name) => dir.has(name),
                };
                if named {
                    found = true;
                    enter(dir, &relative)?;
                }
            }
            if !found {
                let controller = group.controller.clone().unwrap_or_default();
                return Err(Error::UnknownController { controller });
            }
        }
        Ok(Self { record, v1, v2, holder })
    }

    /// This group, or the one of the init where this one cannot take processes: cgroup v2 allows
    /// none in a group that distributes controllers to groups below it, as one does whose init
    /// manages services.
    ///
    /// # Errors
    /// If a control file cannot be read.
    pub fn entrance(mut self, init: i32) -> Result<Self, Error> {
        if !self.limits_on_v2() {
            return Ok(self);
        }
        let Some(dir) = &mut self.v2 else { return Ok(self) };
        if dir.read("cgroup.subtree_control")?.trim().is_empty() {
            return Ok(self);
        }
        let path = format!("/proc/{init}/cgroup");
        let text = std::fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: PathBuf::from(path), source })?;
        if let Some(relative) = init_below(&text, &self.record.path) {
            enter(dir, relative)?;
        }
        Ok(self)
    }
}

fn enter(dir: &mut Dir, relative: &str) -> Result<(), Error> {
    if relative.is_empty() {
        return Ok(());
    }
    let path = dir.path.join(relative);
    match Dir::open(&dir.controllers, &dir.mount, &path)? {
        Some(opened) => *dir = opened,
        None => return Err(Error::NoSubGroup { path }),
    }
    Ok(())
}

/// The path without empty parts.
fn relative(path: &str) -> Result<String, Error> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                return Err(Error::NotBelow { path: path.to_owned() });
            }
            name => parts.push(name),
        }
    }
    Ok(parts.join("/"))
}

/// Where below `own` the v2 group of a process is, by its `/proc/<pid>/cgroup`.
fn init_below<'a>(text: &'a str, own: &str) -> Option<&'a str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    path.strip_prefix(own)?.strip_prefix('/').filter(|rest| !rest.contains(".."))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_stay_below() {
        assert_eq!(relative("/a//b/./c/").unwrap(), "a/b/c");
        assert_eq!(relative("/").unwrap(), "");
        for bad in ["..", "a/../../b", "/../x"] {
            assert!(matches!(relative(bad), Err(Error::NotBelow { .. })), "{bad}");
        }
    }

    #[test]
    fn the_group_of_the_init_is_found_below_the_containers() {
        let own = "pod/box";
        assert_eq!(init_below("0::/pod/box/init.scope\n", own), Some("init.scope"));
        assert_eq!(init_below("1:cpu:/x\n0::/pod/box/a/b\n", own), Some("a/b"));
        assert_eq!(init_below("0::/pod/box\n", own), None);
        assert_eq!(init_below("0::/pod/boxes/a\n", own), None);
        assert_eq!(init_below("0::/elsewhere\n", own), None);
    }
}
