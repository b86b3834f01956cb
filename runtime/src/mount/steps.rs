//! The plan's mounts as steps that the child walks: C strings, flags, and open trees.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::{
    cgroup,
    plan::{IdMap, IdMapOwner, Mount, MountKind, Plan},
    sys::{
        Errno, fstat,
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
    #[error("mounts[{index}]: make a user namespace of its id maps ({what})")]
    Maps { index: usize, what: &'static str, source: std::io::Error },
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
        /// What a tmpfs takes from the directory it is mounted on.
        tmpfs: Tmpfs,
        /// SELinux label of a file system that takes none as an option.
        label: Option<CString>,
    },
    /// Attach a tree. `later` are flags for mount(2), where the kernel has no mount_setattr.
    Attach { tree: OwnedFd, directory: bool, later: Vec<u64> },
    /// Mount a tmpfs with a directory for each cgroup hierarchy, and the container's group on it.
    Hierarchies {
        flags: u64,
        propagation: Vec<u64>,
        /// Name, tree and `later` as of `Attach`.
        trees: Vec<(CString, OwnedFd, Vec<u64>)>,
        /// Names of single controllers, and what they link to.
        links: Vec<(CString, CString)>,
        read_only: bool,
    },
    /// Make the mount that is there read-only.
    ReadOnly,
}

/// Steps of all mounts, in order. `bundle` is what relative sources are relative to.
///
/// # Errors
/// If a source cannot be opened or its options cannot be set.
pub fn steps(plan: &Plan, bundle: &Path, groups: &cgroup::Record) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::with_capacity(plan.mounts.len() + 2);
    let mut late = Vec::new();
    let mut namespaces = Vec::new();
    for one in &plan.mounts {
        match &one.kind {
            MountKind::Bind { source, recursive } => {
                let tree = bind(plan, one, &bundle.join(source), *recursive, &mut namespaces)?;
                steps.push(Step {
                    index: one.index,
                    target: one.destination.clone(),
                    action: tree,
                });
            }
            MountKind::Cgroup => control_groups(plan, one, groups, &mut steps)?,
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
                IdMapOwner::Maps { uid, gid } => userns::make(uid, gid)
                    .map_err(|(what, source)| Error::Maps { index, what, source })?,
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
    plan: &Plan,
    one: &'a Mount,
    source: &Path,
    recursive: bool,
    namespaces: &mut Namespaces<'a>,
) -> Result<Action, Error> {
    let path = CString::new(source.as_os_str().as_bytes())?;
    let failed =
        |errno| Error::Source { index: one.index, source_path: source.to_owned(), source: errno };
    let tree = mount::open_tree(None, &path, true, recursive).map_err(failed)?;
    if one.destination.as_c_str() == c"/proc"
        && mount::file_system(tree.as_fd()).map_err(failed)? != mount::PROC_SUPER_MAGIC
    {
        return Err(Error::NotProc { index: one.index, source_path: source.to_owned() });
    }
    if let Some(map) = &one.id_map {
        map_ids(one.index, map, &tree, source, namespaces)?;
    }
    let directory = fstat(&tree).map_err(failed)?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let later = set_up(plan, one, &tree, recursive, source)?;
    Ok(Action::Attach { tree, directory, later })
}

/// Sets a detached tree's attributes; what is to be set by mount(2) once it is attached.
fn set_up(
    plan: &Plan,
    one: &Mount,
    tree: &OwnedFd,
    has_more: bool,
    source: &Path,
) -> Result<Vec<u64>, Error> {
    let failed = |errno| Error::Attributes {
        index: one.index,
        source_path: source.to_owned(),
        source: errno,
    };
    let change = one.options.attributes();
    let mut propagation = one.options.propagation.clone();
    if propagation.is_empty() {
        // As the rest of the container's mounts; without it a clone would be a peer of the host's.
        propagation.push(inherited_propagation(plan.root.propagation));
    }
    let mut later = Vec::new();
    let mut settable = true;
    // Of a tree that is one mount all is set at once.
    let at_once = match propagation.as_slice() {
        [flags] if !has_more => Attributes { propagation: flags & !libc::MS_REC, ..change },
        _ => change,
    };
    if at_once != change {
        match mount::mount_setattr(tree.as_fd(), false, &at_once) {
            Ok(()) => propagation.clear(),
            Err(Errno::ENOSYS) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let done = propagation.is_empty();
    for flags in propagation {
        let change = Attributes { propagation: flags & !libc::MS_REC, ..Attributes::default() };
        let recursive = flags & libc::MS_REC != 0;
        match mount::mount_setattr(tree.as_fd(), recursive, &change) {
            Ok(()) => {}
            Err(Errno::ENOSYS) => {
                settable = false;
                later.push(flags);
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    if change != Attributes::default() && !done {
        if settable {
            mount::mount_setattr(tree.as_fd(), false, &change).map_err(failed)?;
        } else {
            let present = mount::mount_flags(tree.as_fd()).map_err(failed)?;
            later.push(remount_flags(present, one.options.flags, one.options.cleared));
        }
    }
    if one.options.recursive != Attributes::default() {
        mount::mount_setattr(tree.as_fd(), true, &one.options.recursive).map_err(failed)?;
    }
    Ok(later)
}

/// What mounts without options of their own get: slaves, or private ones where the root is.
pub fn inherited_propagation(root: Option<u64>) -> u64 {
    let private = libc::MS_PRIVATE | libc::MS_UNBINDABLE;
    match root {
        Some(flags) if flags & private != 0 => libc::MS_PRIVATE | libc::MS_REC,
        _ => libc::MS_SLAVE | libc::MS_REC,
    }
}

/// Flags for remounting a bind mount: mount(2) sets all of them, so those present are kept.
pub fn remount_flags(present: u64, set: u64, cleared: u64) -> u64 {
    const KEPT: u64 = libc::MS_RDONLY
        | libc::MS_NOSUID
        | libc::MS_NODEV
        | libc::MS_NOEXEC
        | libc::MS_NOATIME
        | libc::MS_NODIRATIME;
    (present & KEPT & !cleared) | set | libc::MS_REMOUNT | libc::MS_BIND
}

/// The container's own groups: one tree on a unified host, else a directory of hierarchies.
fn control_groups(
    plan: &Plan,
    one: &Mount,
    groups: &cgroup::Record,
    steps: &mut Vec<Step>,
) -> Result<(), Error> {
    let step = |action| Step { index: one.index, target: one.destination.clone(), action };
    let open =
        |recorded: &cgroup::RecordedDir| {
            let source = recorded.mount.join(&groups.path);
            let path = CString::new(source.as_os_str().as_bytes())?;
            let tree = mount::open_tree(None, &path, true, false).map_err(|errno| {
                Error::Source { index: one.index, source_path: source.clone(), source: errno }
            })?;
            let later = set_up(plan, one, &tree, false, &source)?;
            Ok::<_, Error>((tree, later))
        };
    if let (true, Some(unified)) = (groups.v1.is_empty(), &groups.v2) {
        let (tree, later) = open(unified)?;
        steps.push(step(Action::Attach { tree, directory: true, later }));
        return Ok(());
    }
    let mut trees = Vec::with_capacity(groups.v1.len() + 1);
    let mut links = Vec::new();
    for recorded in groups.v1.iter().chain(&groups.v2) {
        let Some(name) = recorded.mount.file_name() else { continue };
        let name = CString::new(name.as_bytes())?;
        if recorded.controllers.contains(',') {
            for controller in recorded.controllers.split(',') {
                links.push((CString::new(controller)?, name.clone()));
            }
        }
        let (tree, later) = open(recorded)?;
        trees.push((name, tree, later));
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
