//! The plan's mounts as steps that the child walks: C strings, flags, and open trees.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::bind::{Bind, Tree, inherited_propagation};
use crate::{
    cgroup,
    ns::Kind,
    plan::{IdMap, IdMapOwner, Mount, MountKind, Plan},
    sys::{
        Errno,
        mount::{self, Attributes},
    },
    userns,
};

/// Why a mount cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("mounts[{index}]: open source {}", source_path.display())]
    Source { index: usize, source_path: PathBuf, source: Errno },
    #[error("mounts[{index}]: set options of {}", source_path.display())]
    Attributes { index: usize, source_path: PathBuf, source: Errno },
    #[error("mounts[{index}]: only a proc file system may be mounted on /proc, {} is none", source_path.display())]
    NotProc { index: usize, source_path: PathBuf },
    #[error("mounts[{index}]: uidMappings and gidMappings")]
    Maps { index: usize, source: userns::Error },
    #[error("mounts[{index}]: open the user namespace {}", path.display())]
    MapsOf { index: usize, path: PathBuf, source: Errno },
    #[error("mounts[{index}]: map the ids of {}; does its file system support that?", source_path.display())]
    IdMap { index: usize, source_path: PathBuf, source: Errno },
    #[error("a path of the control groups has a null byte")]
    Nul(#[from] std::ffi::NulError),
}

/// What a tmpfs takes from the directory it is mounted on; nothing for any other file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tmpfs {
    /// Its mode, as there is none among the options: what runc does.
    pub mode: bool,
    /// What is in it.
    pub content: bool,
}

/// One thing to do below the root.
#[derive(Debug)]
pub struct Step {
    /// Index in the configuration, for messages.
    pub index: usize,
    /// Absolute path in the container.
    pub target: CString,
    pub action: Action,
}

/// What to do there.
#[derive(Debug)]
pub enum Action {
    /// Mount a file system; `plain` if no part of the path may be a link.
    FileSystem {
        kind: CString,
        source: CString,
        flags: u64,
        data: Option<CString>,
        propagation: Vec<u64>,
        recursive: Option<Attributes>,
        plain: bool,
        /// It lies in a tmpfs of ours, where most likely nothing has its name yet.
        missing: bool,
        /// What a tmpfs takes from the directory it is mounted on.
        tmpfs: Tmpfs,
        /// SELinux label of a file system that takes none as an option.
        label: Option<CString>,
    },
    /// Attach a tree, which the child opens where there is none.
    Attach { bind: Bind, tree: Option<Tree> },
    /// Mount a tmpfs with a directory for each cgroup hierarchy, and the container's group on it.
    Hierarchies {
        flags: u64,
        propagation: Vec<u64>,
        /// Name and group; the options, the same of all, are set at the latest when all are attached.
        trees: Vec<(CString, Bind, Option<OwnedFd>)>,
        /// Names of single controllers, and what they link to.
        links: Vec<(CString, CString)>,
        read_only: bool,
    },
    /// Make the mount that is there read-only.
    ReadOnly,
}

/// What mounts are prepared with.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub plan: &'a Plan,
    /// What relative sources are relative to.
    pub bundle: &'a Path,
    pub groups: &'a cgroup::Record,
    /// The child opens what is bound, because we may not.
    pub by_child: bool,
}

/// Steps of all mounts, in order.
///
/// # Errors
/// If a source cannot be opened or its options cannot be set.
pub fn steps(around: Surroundings<'_>) -> Result<Vec<Step>, Error> {
    let Surroundings { plan, bundle, groups: _, by_child: _ } = around;
    let mut steps = Vec::with_capacity(plan.mounts.len() + 2);
    let mut late = Vec::new();
    let mut namespaces = Vec::new();
    for one in &plan.mounts {
        match &one.kind {
            MountKind::Bind { source, recursive } => {
                let action = bind(around, one, &bundle.join(source), *recursive, &mut namespaces)?;
                steps.push(Step { index: one.index, target: one.destination.clone(), action });
            }
            MountKind::Cgroup => control_groups(around, one, &mut steps)?,
            MountKind::FileSystem { kind, source } => {
                let mut flags = one.options.flags;
                // Device nodes are made after the mounts.
                if one.destination.as_c_str() == c"/dev" && flags & libc::MS_RDONLY != 0 {
                    flags &= !libc::MS_RDONLY;
                    late.push(Step {
                        index: one.index,
                        target: one.destination.clone(),
                        action: Action::ReadOnly,
                    });
                }
                let none = Attributes::default();
                let (data, label) = labelled(plan, kind, one.options.data.as_deref())?;
                steps.push(Step {
                    index: one.index,
                    target: one.destination.clone(),
                    action: Action::FileSystem {
                        plain: matches!(kind.to_bytes(), b"proc" | b"sysfs"),
                        missing: lies_in_tmpfs(&one.destination, &steps),
                        kind: kind.clone(),
                        source: source.clone(),
                        flags,
                        tmpfs: tmpfs(kind, one),
                        data,
                        label,
                        propagation: one.options.propagation.clone(),
                        recursive: (one.options.recursive != none).then_some(one.options.recursive),
                    },
                });
            }
        }
    }
    // Told apart by the caller: everything from the first ReadOnly of /dev on comes after devices.
    steps.extend(late);
    Ok(steps)
}

/// Whether a path is directly below a tmpfs of an earlier step.
fn lies_in_tmpfs(path: &CStr, steps: &[Step]) -> bool {
    let path = path.to_bytes();
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let above = slash.and_then(|slash| path.get(..slash)).unwrap_or_default();
    steps.iter().any(|step| {
        let Action::FileSystem { kind, .. } = &step.action else { return false };
        kind.as_c_str() == c"tmpfs" && step.target.to_bytes() == above
    })
}

fn tmpfs(kind: &CStr, one: &Mount) -> Tmpfs {
    if kind != c"tmpfs" || one.options.flags & libc::MS_REMOUNT != 0 {
        return Tmpfs::default();
    }
    let has_mode = one.options.unknown.iter().any(|option| option.starts_with("mode="));
    Tmpfs { mode: !has_mode, content: one.options.copy_up }
}

/// Options and label of a file system in a container whose mounts have a label. As in runc, the
/// kernel's own views keep theirs.
fn labelled(
    plan: &Plan,
    kind: &CStr,
    data: Option<&CStr>,
) -> Result<(Option<CString>, Option<CString>), Error> {
    let Some(label) = &plan.mount_label else { return Ok((data.map(CStr::to_owned), None)) };
    match kind.to_bytes() {
        b"proc" | b"sysfs" => Ok((data.map(CStr::to_owned), None)),
        b"mqueue" => Ok((data.map(CStr::to_owned), Some(label.clone()))),
        _ => Ok((Some(with_context(data, label)?), None)),
    }
}

/// Options of a file system with the one that gives it a label.
pub fn with_context(data: Option<&CStr>, label: &CStr) -> Result<CString, std::ffi::NulError> {
    let mut text = data.map_or_else(Vec::new, |data| data.to_bytes().to_vec());
    if !text.is_empty() {
        text.push(b',');
    }
    text.extend_from_slice(b"context=\"");
    text.extend_from_slice(label.to_bytes());
    text.push(b'"');
    CString::new(text)
}

/// User namespaces that were made for maps of earlier mounts.
type Namespaces<'a> = Vec<(&'a IdMapOwner, OwnedFd)>;

/// Maps the ids of a mount's tree.
fn map_ids<'a>(
    index: usize,
    map: &'a IdMap,
    tree: &OwnedFd,
    source: &Path,
    namespaces: &mut Namespaces<'a>,
) -> Result<(), Error> {
    let made = match namespaces.iter().position(|(owner, _)| **owner == map.owner) {
        Some(place) => place,
        None => {
            let namespace = match &map.owner {
                IdMapOwner::Maps { uid, gid } => {
                    userns::make(uid, gid).map_err(|source| Error::Maps { index, source })?
                }
                IdMapOwner::Joined(path) => {
                    mount::open(&CString::new(path.as_os_str().as_bytes())?, libc::O_RDONLY)
                        .map_err(|source| Error::MapsOf { index, path: path.clone(), source })?
                }
            };
            namespaces.push((&map.owner, namespace));
            namespaces.len() - 1
        }
    };
    let failed = |errno| Error::IdMap { index, source_path: source.to_owned(), source: errno };
    let (_, namespace) = namespaces.get(made).ok_or_else(|| failed(Errno::EBADF))?;
    mount::map_ids(tree.as_fd(), map.recursive, namespace.as_fd()).map_err(failed)
}

fn bind<'a>(
    around: Surroundings<'_>,
    one: &'a Mount,
    source: &Path,
    recursive: bool,
    namespaces: &mut Namespaces<'a>,
) -> Result<Action, Error> {
    let path = CString::new(source.as_os_str().as_bytes())?;
    let failed =
        |errno| Error::Source { index: one.index, source_path: source.to_owned(), source: errno };
    let bind = clone_of(around.plan, one, path, recursive);
    let tree = if around.by_child {
        // For the sake of the message.
        mount::open(&bind.source, libc::O_PATH)
    } else {
        bind.open()
    }
    .map_err(failed)?;
    if one.destination.as_c_str() == c"/proc"
        && mount::file_system(tree.as_fd()).map_err(failed)? != mount::PROC_SUPER_MAGIC
    {
        return Err(Error::NotProc { index: one.index, source_path: source.to_owned() });
    }
    if around.by_child {
        return Ok(Action::Attach { bind, tree: None });
    }
    if let Some(map) = &one.id_map {
        map_ids(one.index, map, &tree, source, namespaces)?;
    }
    let tree = set_up(one, &bind, tree, source)?;
    Ok(Action::Attach { bind, tree: Some(tree) })
}

fn clone_of(plan: &Plan, one: &Mount, source: CString, recursive: bool) -> Bind {
    Bind::new(source, recursive, &one.options, inherited_propagation(plan.root.propagation))
}

/// Sets a detached tree's attributes.
fn set_up(one: &Mount, bind: &Bind, tree: OwnedFd, source: &Path) -> Result<Tree, Error> {
    bind.set(tree).map_err(|errno| Error::Attributes {
        index: one.index,
        source_path: source.to_owned(),
        source: errno,
    })
}

/// The container's own groups: one tree on a unified host, else a directory of hierarchies.
fn control_groups(
    around: Surroundings<'_>,
    one: &Mount,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    let Surroundings { plan, bundle: _, groups, by_child } = around;
    let step = |action| Step { index: one.index, target: one.destination.clone(), action };
    let open = |source: &Path| {
        let bind = clone_of(plan, one, CString::new(source.as_os_str().as_bytes())?, false);
        if by_child {
            return Ok::<_, Error>((bind, None));
        }
        let tree = bind.open().map_err(|errno| Error::Source {
            index: one.index,
            source_path: source.to_owned(),
            source: errno,
        })?;
        Ok((bind, Some(tree)))
    };
    let shown = groups.shown();
    if let [only] = shown.as_slice()
        && only.controllers.is_empty()
    {
        let (bind, tree) = open(&only.path)?;
        let tree = tree.map(|tree| set_up(one, &bind, tree, &only.path)).transpose()?;
        steps.push(step(Action::Attach { bind, tree }));
        return Ok(());
    }
    let mut trees = Vec::with_capacity(shown.len());
    let mut links = Vec::new();
    for group in shown {
        let Some(name) = group.mount.file_name() else { continue };
        let name = CString::new(name.as_bytes())?;
        if group.controllers.contains(',') {
            for controller in group.controllers.split(',') {
                links.push((CString::new(controller)?, name.clone()));
            }
        }
        let (bind, tree) = open(&group.path)?;
        let tree = match tree {
            // Others see it as soon as it is attached.
            Some(tree) if plan.namespaces.is_joined(Kind::Mount) => {
                Some(set_up(one, &bind, tree, &group.path)?.fd)
            }
            other => other,
        };
        trees.push((name, bind, tree));
    }
    steps.push(step(Action::Hierarchies {
        flags: one.options.flags & !libc::MS_RDONLY,
        propagation: one.options.propagation.clone(),
        trees,
        links,
        read_only: one.options.flags & libc::MS_RDONLY != 0,
    }));
    Ok(())
}

/// Where the trees of the container's groups are mounted: at the destination itself on a unified host,
/// else in a directory there, by the names of the hierarchies.
pub fn group_mounts<'a>(
    one: &Mount,
    groups: &'a cgroup::Record,
) -> Vec<(PathBuf, &'a cgroup::RecordedDir)> {
    let destination = Path::new(OsStr::from_bytes(one.destination.to_bytes()));
    if let (true, Some(unified)) = (groups.v1.is_empty(), &groups.v2) {
        return vec![(destination.to_owned(), unified)];
    }
    let named = groups.v1.iter().chain(&groups.v2);
    named.filter_map(|dir| Some((destination.join(dir.mount.file_name()?), dir))).collect()
}

/// Whether the device nodes of the specification are to be made: not where the host's `/dev` is
/// bound.
pub fn makes_devices(plan: &Plan) -> bool {
    let dev: &CStr = c"/dev";
    !plan
        .mounts
        .iter()
        .any(|one| one.destination.as_c_str() == dev && matches!(one.kind, MountKind::Bind { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_becomes_an_option() {
        let label = c"system_u:object_r:container_file_t:s0:c1,c2";
        let text = with_context(Some(c"mode=755"), label);
        assert_eq!(
            text.as_deref(),
            Ok(c"mode=755,context=\"system_u:object_r:container_file_t:s0:c1,c2\"")
        );
        assert_eq!(with_context(None, c"x").as_deref(), Ok(c"context=\"x\""));
    }
}
