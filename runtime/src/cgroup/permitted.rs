//! Control groups of somebody who may make them in some places only: an ordinary user, or the root of a user namespace.
//!
//! As in runc, a container whose `cgroupsPath` is not given has its groups where they are permitted and none elsewhere,
//! as long as no limit needs one; device rules are left out, as nobody makes devices in a user namespace. Where v2 governs,
//! the group lies beside the runtime's own: that one holds processes, so it cannot distribute controllers to groups below.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::discover::Hierarchies;
use super::{Cgroup, Error, Record, RecordedDir, normalize};
use crate::sys::cred;

/// What a record tells of permission.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Permitted {
    /// Controllers of each hierarchy without a group, and the directory in which it could not be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(String, PathBuf)>,
}

/// A group to show to a container.
#[derive(Debug)]
pub struct Shown {
    /// Mount point of the hierarchy.
    pub mount: PathBuf,
    /// Its controllers; empty for cgroup v2.
    pub controllers: String,
    /// Where the group is.
    pub path: PathBuf,
}

impl Cgroup {
    /// As [`Cgroup::plan`], for somebody who may not make groups everywhere; `path` is the configuration's.
    ///
    /// # Errors
    /// If a file of `/proc` cannot be read, or the path is unusable.
    pub fn plan_permitted(path: Option<&str>, name: &str) -> Result<Record, Error> {
        let mut record = Self::plan(path.unwrap_or(name))?;
        let relative = path.is_none_or(|path| !path.starts_with('/'));
        if relative && record.limits_on_v2() {
            let own = own_groups()?;
            if let Some((above, _)) = own_group(&own, "").and_then(|own| own.rsplit_once('/')) {
                record.path = normalize(&format!("{above}/{}", record.path))?;
            }
        }
        if !record.limits_on_v2() {
            // Without controllers it would serve for killing only, and entering it takes more than owning it.
            record.v2 = None;
        }
        let mut refused = Vec::new();
        if path.is_none() {
            let Record { path, v1, v2, .. } = &mut record;
            let mut keep = |dir: &RecordedDir| match forbidden(&dir.mount, path) {
                None => true,
                Some(at) => {
                    refused.push((dir.controllers.clone(), at));
                    false
                }
            };
            v1.retain(&mut keep);
            *v2 = v2.take().filter(keep);
        }
        record.permitted = Some(Permitted { refused });
        Ok(record)
    }

    /// Whether there is no group because none was permitted.
    pub fn is_refused(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none() && self.record.refused("").is_some()
    }

    /// Why there is no group.
    pub(super) fn missing(&self) -> Error {
        match self.record.refused("") {
            Some(path) => Error::Refused { user: cred::euid(), path: path.to_owned() },
            None => Error::Missing { path: self.record.path.clone() },
        }
    }
}

impl Record {
    /// The directory that keeps us from having this controller, or any.
    pub(super) fn refused(&self, controller: &str) -> Option<&Path> {
        let all = &self.permitted.as_ref()?.refused;
        let of = all.iter().find(|(names, _)| names.split(',').any(|name| name == controller));
        of.or(all.first()).map(|(_, path)| path.as_path())
    }

    /// Whether cgroup v2 is what could not be used, which is left out where v1 governs.
    pub(super) fn is_v2_refused(&self) -> bool {
        self.permitted.as_ref().is_some_and(|permitted| {
            permitted.refused.iter().any(|(controllers, _)| controllers.is_empty())
        })
    }

    /// The groups that a container sees: its own, and where that was not permitted the one it shares with us.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = |dir: &RecordedDir, path: &str| Shown {
            mount: dir.mount.clone(),
            controllers: dir.controllers.clone(),
            path: dir.mount.join(path),
        };
        let own = |dir: &RecordedDir| shown(dir, &self.path);
        if self.refused("").is_none() {
            return self.v1.iter().chain(&self.v2).map(own).collect();
        }
        let (Ok(all), Ok(groups)) = (Hierarchies::discover(), own_groups()) else {
            return Vec::new();
        };
        let recorded = all.v1.iter().chain(&all.v2).map(|hierarchy| RecordedDir {
            mount: hierarchy.mount.clone(),
            controllers: hierarchy.controllers.clone(),
        });
        let shared = recorded.filter_map(|dir| {
            if self.v1.iter().chain(&self.v2).any(|one| *one == dir) {
                return Some(own(&dir));
            }
            let path = own_group(&groups, &dir.controllers)?;
            Some(shown(&dir, path.trim_start_matches('/')))
        });
        // One that lies outside of what we see cannot be shown.
        shared.filter(|group| group.path.is_dir()).collect()
    }
}

impl Error {
    /// Whether it is for lack of permission, in the wide sense.
    pub fn is_permission(&self) -> bool {
        let denied = |source: &io::Error| {
            matches!(source.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS))
        };
        match self {
            Self::Create { source, .. }
            | Self::Open { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Remove { source, .. }
            | Self::Devices { source, .. } => denied(source),
            _ => false,
        }
    }

    /// For somebody of whom permission cannot be expected: with what to do.
    pub(super) fn advise(self, record: &Record) -> Self {
        if record.permitted.is_some() && self.is_permission() {
            return Self::NotPermitted { user: cred::euid(), source: Box::new(self) };
        }
        self
    }
}

fn own_groups() -> Result<String, Error> {
    let path = "/proc/self/cgroup";
    let text = super::dir::read_bytes(CWD, path);
    let text = text.map_err(|source| Error::Discover { path, source })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Our group in the hierarchy of these controllers, by `/proc/self/cgroup`.
fn own_group<'a>(text: &'a str, controllers: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        (fields.next()? == controllers).then(|| fields.next())?
    })
}

/// The directory that keeps us from making this group; `None` if there is none.
fn forbidden(mount: &Path, relative: &str) -> Option<PathBuf> {
    let group = mount.join(relative);
    for directory in group.ancestors().skip(1) {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        match rustix::fs::accessat(CWD, directory, access, AtFlags::empty()) {
            Ok(()) => return None,
            Err(Errno::NOENT) if directory != mount => {}
            Err(_) => return Some(directory.to_owned()),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_groups_by_their_controllers() {
        let text = "5:cpu,cpuacct:/a:b\n4:memory:/m\n1:name=systemd:/s\n0::/user.slice/x.scope\n";
        assert_eq!(own_group(text, "cpu,cpuacct"), Some("/a:b"));
        assert_eq!(own_group(text, "name=systemd"), Some("/s"));
        assert_eq!(own_group(text, ""), Some("/user.slice/x.scope"));
        assert_eq!(own_group(text, "cpu"), None);
    }
}
