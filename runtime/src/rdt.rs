//! `linux.intelRdt`: groups of resctrl, which share out cache and memory bandwidth.
//!
//! A group is a directory of the resctrl file system. One that was made for the container, named by its
//! id or by a new `closID`, goes with it; one that was there before is only joined. The `closID` `/` is
//! the group of all.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::plan::IntelRdt;

/// Where the file system is mounted.
pub const ROOT: &str = "/sys/fs/resctrl";

/// Why a container cannot have its share.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "linux.intelRdt: no resctrl is mounted on {}; mount it, if the processor has it, or leave intelRdt and its schemas out",
        path.display()
    )]
    NotMounted { path: PathBuf },
    #[error(
        "linux.intelRdt.closID: there is no group {}, and without a schema none is made",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error("linux.intelRdt: the group {} is there with another schema than {line:?}", path.display())]
    Differs { path: PathBuf, line: String },
    #[error("linux.intelRdt: {operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: io::Error },
}

/// A container's groups.
#[derive(Debug, PartialEq, Eq)]
pub struct Groups {
    /// Where it gets its share.
    share: PathBuf,
    /// The share is there already.
    present: bool,
    watch: Option<PathBuf>,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { operation, path, source }
}

impl Groups {
    /// Which groups a container is to have; makes none.
    ///
    /// # Errors
    /// If there is no resctrl, or the group that is named does not fit.
    pub fn plan(root: &Path, clause: &IntelRdt, id: &str) -> Result<Self, Error> {
        mounted(root)?;
        let share = match clause.clos_id.as_deref() {
            Some("/") => root.to_owned(),
            Some(name) => root.join(name),
            None => root.join(id),
        };
        let present = share.exists();
        if !present && clause.clos_id.is_some() && clause.schemata.is_empty() {
            return Err(Error::Missing { path: share });
        }
        if present {
            let path = share.join("schemata");
            let there = fs::read_to_string(&path).map_err(failed("read", &path))?;
            for line in &clause.schemata {
                if !has(&there, line) {
                    return Err(Error::Differs { path: share, line: line.clone() });
                }
            }
        }
        let watch = clause.monitoring.then(|| share.join("mon_groups").join(id));
        Ok(Self { share, present, watch })
    }

    /// Directories to remove with the container, in order.
    pub fn to_remove(&self) -> Vec<PathBuf> {
        let share = (!self.present).then(|| self.share.clone());
        self.watch.iter().cloned().chain(share).collect()
    }

    /// Makes the groups and puts a process into them.
    ///
    /// # Errors
    /// If a directory cannot be made, or the kernel refuses the schema.
    pub fn enter(&self, clause: &IntelRdt, pid: i32) -> Result<(), Error> {
        if !self.present {
            fs::create_dir(&self.share).map_err(failed("create", &self.share))?;
            write_schema(&self.share, &clause.schemata)?;
        }
        if let Some(watch) = &self.watch {
            fs::create_dir(watch).map_err(failed("create", watch))?;
        }
        std::iter::once(&self.share).chain(&self.watch).try_for_each(|group| add(group, pid))
    }
}

/// Refuses what needs resctrl where there is none.
///
/// # Errors
/// If it is not mounted.
pub fn mounted(root: &Path) -> Result<(), Error> {
    if root.join("schemata").exists() {
        return Ok(());
    }
    Err(Error::NotMounted { path: root.to_owned() })
}

/// Gives a container's processes another schema: that of the group their init is in, or, if that is the one
/// of all, of a group named after the container, which is to be removed with it. `remember` learns of
/// that before it is made.
///
/// # Errors
/// If there is no resctrl, or the kernel refuses the schema.
pub fn update<E: From<Error>>(
    root: &Path,
    id: &str,
    lines: &[&str],
    init: i32,
    processes: &[i32],
    remember: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    mounted(root)?;
    // Only they are moved: a process that is written to its own group leaves the one that watches it.
    let (group, moved) = match group_of(root, init)? {
        Some(group) => (group, &[][..]),
        None => {
            let group = root.join(id);
            // One that is there is somebody's, or remembered by an update that was killed.
            if !group.exists() {
                remember(&group)?;
                fs::create_dir(&group).map_err(failed("create", &group))?;
            }
            (group, processes)
        }
    };
    write_schema(&group, lines)?;
    let path = group.join("tasks");
    for process in moved {
        let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        for thread in threads {
            match fs::write(&path, thread.file_name().as_encoded_bytes()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(failed("write", &path))?,
            }
        }
    }
    Ok(())
}

fn write_schema(group: &Path, lines: &[impl AsRef<str>]) -> Result<(), Error> {
    let path = group.join("schemata");
    lines.iter().try_for_each(|line| {
        fs::write(&path, format!("{}\n", line.as_ref())).map_err(failed("write", &path))
    })
}

/// Puts a process that is added to a container into the groups of its init. Does nothing where there
/// is no resctrl.
///
/// # Errors
/// If the groups cannot be read, or the kernel refuses.
pub fn follow(root: &Path, init: i32, pid: i32) -> Result<(), Error> {
    if mounted(root).is_err() {
        return Ok(());
    }
    let share = group_of(root, init)?;
    let watch = group_of(&share.as_deref().unwrap_or(root).join("mon_groups"), init)?;
    share.iter().chain(&watch).try_for_each(|group| add(group, pid))
}

fn add(group: &Path, pid: i32) -> Result<(), Error> {
    let path = group.join("tasks");
    fs::write(&path, pid.to_string()).map_err(failed("write", &path))
}

/// The group below a directory that a process is in; `None` if it is in none of them.
fn group_of(root: &Path, pid: i32) -> Result<Option<PathBuf>, Error> {
    let pid = pid.to_string();
    let entries = match fs::read_dir(root) {
        // Not every processor can watch.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("list", root))?,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    // What is no group has no such file.
    let has = |path: &PathBuf| {
        fs::read_to_string(path.join("tasks"))
            .is_ok_and(|tasks| tasks.lines().any(|line| line == pid))
    };
    Ok(paths.into_iter().find(has))
}

/// Removes what [`Groups::to_remove`] named; what was never made is no failure.
///
/// # Errors
/// If a group cannot be removed.
pub fn remove(groups: &[PathBuf]) -> Result<(), Error> {
    for path in groups {
        match fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a schema has a line: the same resource, and for each domain named the same value, for the
/// kernel lists all domains and pads with spaces and zeroes.
fn has(schema: &str, line: &str) -> bool {
    let split = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let (resource, domains) = line.split_once(':')?;
        let domains = domains.split(';').filter_map(|domain| domain.split_once('='));
        let clean = |text: &str| text.trim().trim_start_matches('0').to_lowercase();
        let domains = domains.map(|(domain, value)| (clean(domain), clean(value))).collect();
        Some((resource.trim().to_owned(), domains))
    };
    let Some((resource, wanted)) = split(line) else { return false };
    schema
        .lines()
        .filter_map(split)
        .any(|(name, there)| name == resource && wanted.iter().all(|domain| there.contains(domain)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn clause(clos_id: Option<&str>, schemata: &[&str], monitoring: bool) -> IntelRdt {
        IntelRdt {
            clos_id: clos_id.map(str::to_owned),
            schemata: schemata.iter().map(|line| (*line).to_owned()).collect(),
            monitoring,
        }
    }

    #[test]
    fn schemas_are_compared_by_value() {
        let there = "    MB:0=100;1=100\n    L3:0=00ff;1=ffff\n";
        assert!(has(there, "L3:0=ff"));
        assert!(has(there, "L3:0=FF;1=ffff"));
        assert!(!has(there, "L3:0=f"));
        assert!(!has(there, "L2:0=ff"));
    }

    #[test]
    fn a_container_gets_a_group_and_takes_it_along() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let schema = clause(None, &["L3:0=f", "MB:0=50"], false);
        let error = Groups::plan(root, &schema, "one").unwrap_err();
        assert!(matches!(error, Error::NotMounted { .. }), "{error}");
        fs::write(root.join("schemata"), "L3:0=ffff\n").unwrap();
        let groups = Groups::plan(root, &schema, "one").unwrap();
        groups.enter(&schema, 4711).unwrap();
        assert_eq!(fs::read_to_string(root.join("one/tasks")).unwrap(), "4711");
        assert_eq!(groups.to_remove(), [root.join("one")]);
        // Only here are a group's files files.
        fs::remove_file(root.join("one/tasks")).unwrap();
        fs::remove_file(root.join("one/schemata")).unwrap();
        remove(&groups.to_remove()).unwrap();
        remove(&groups.to_remove()).unwrap();
        assert!(!root.join("one").exists());
        fs::create_dir(root.join("one")).unwrap();
        fs::write(root.join("one/schemata"), "L3:0=1\nMB:0=50\n").unwrap();
        let error = Groups::plan(root, &schema, "one").unwrap_err();
        assert!(matches!(error, Error::Differs { .. }), "another's of the same name: {error}");
    }

    #[test]
    fn a_schema_is_changed_where_the_processes_are() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let own = std::process::id().cast_signed();
        let change = |remembered: &mut Option<PathBuf>| {
            update(root, "one", &["L3:0=f"], own, &[own], |group| {
                *remembered = Some(group.to_owned());
                Ok::<_, Error>(())
            })
        };
        let mut made = None;
        assert!(matches!(change(&mut made), Err(Error::NotMounted { .. })));
        fs::write(root.join("schemata"), "L3:0=ffff\n").unwrap();
        change(&mut made).unwrap();
        assert_eq!(made, Some(root.join("one")));
        assert_eq!(fs::read_to_string(root.join("one/schemata")).unwrap(), "L3:0=f\n");
        // Only here does the file hold what was written last: it is the thread of this test.
        fs::write(root.join("one/tasks"), format!("{own}\n")).unwrap();
        fs::rename(root.join("one"), root.join("gold")).unwrap();
        fs::write(root.join("gold/schemata"), "").unwrap();
        made = None;
        change(&mut made).unwrap();
        assert_eq!(made, None);
        assert_eq!(fs::read_to_string(root.join("gold/schemata")).unwrap(), "L3:0=f\n");
        let tasks = fs::read_to_string(root.join("gold/tasks")).unwrap();
        assert_eq!(tasks, format!("{own}\n"), "nobody is moved");
    }

    #[test]
    fn what_is_added_is_where_the_init_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        follow(root, 1, 2).unwrap();
        for group in ["gold/mon_groups/one", "gold/mon_groups/two", "tin", "info"] {
            fs::create_dir_all(root.join(group)).unwrap();
        }
        for (group, tasks) in [("", "1\n"), ("gold", "11\n12\n"), ("tin", "13\n")] {
            fs::write(root.join(group).join("schemata"), "").unwrap();
            fs::write(root.join(group).join("tasks"), tasks).unwrap();
        }
        for (group, tasks) in [("one", "11\n"), ("two", "12\n")] {
            fs::write(root.join("gold/mon_groups").join(group).join("tasks"), tasks).unwrap();
        }
        follow(root, 12, 99).unwrap();
        // Only here does the file hold what was written last.
        let read = |group: &str| fs::read_to_string(root.join(group).join("tasks")).unwrap();
        assert_eq!((read("gold").as_str(), read("gold/mon_groups/two").as_str()), ("99", "99"));
        assert_eq!((read("gold/mon_groups/one").as_str(), read("tin").as_str()), ("11\n", "13\n"));
        follow(root, 1, 98).unwrap();
        assert_eq!(read(""), "1\n", "there already, as the runtime's child");
    }

    #[test]
    fn a_named_group_is_joined_if_it_fits() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("schemata"), "L3:0=ffff\n").unwrap();
        let named = clause(Some("gold"), &[], true);
        let error = Groups::plan(root, &named, "one").unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
        fs::create_dir_all(root.join("gold/mon_groups")).unwrap();
        fs::write(root.join("gold/schemata"), "L3:0=00ff\n").unwrap();
        let groups = Groups::plan(root, &named, "one").unwrap();
        groups.enter(&named, 4711).unwrap();
        assert_eq!(groups.to_remove(), [root.join("gold/mon_groups/one")]);
        assert!(Groups::plan(root, &clause(Some("gold"), &["L3:0=ff"], false), "one").is_ok());
        let error = Groups::plan(root, &clause(Some("gold"), &["L3:0=f"], false), "one");
        assert!(matches!(error, Err(Error::Differs { .. })));
    }

    #[test]
    fn without_a_schema_it_has_a_group_of_its_own_or_that_of_all() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("schemata"), "L3:0=ffff\n").unwrap();
        let own = clause(None, &[], false);
        let groups = Groups::plan(root, &own, "one").unwrap();
        groups.enter(&own, 4711).unwrap();
        assert!(!root.join("one/schemata").exists(), "nothing is asked for");
        assert_eq!(fs::read_to_string(root.join("one/tasks")).unwrap(), "4711");
        assert_eq!(groups.to_remove(), [root.join("one")]);
        let all = clause(Some("/"), &[], false);
        let groups = Groups::plan(root, &all, "one").unwrap();
        groups.enter(&all, 4711).unwrap();
        assert_eq!(fs::read_to_string(root.join("tasks")).unwrap(), "4711");
        assert_eq!(groups.to_remove(), [""; 0].map(PathBuf::from));
    }
}
