//! What the child mounts and makes below the container's root, which is not attached to anything yet.
//!
//! As all of the child: no heap, no locks. Every path is resolved below the root, every mount made by descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::prepare::{Device, Node};
use crate::{
    mount::{
        bind::{Bind, Tree, remount_flags},
        resolve::{self, Want},
        steps::{Action, Step},
        tmpfs,
    },
    sys::{
        self, AtFlags, Errno, Mode, SFlag,
        fd::{FdPath, leave},
        mount::{self, Attributes},
    },
};

/// Does one step.
pub(super) fn perform(root: BorrowedFd<'_>, step: &Step) -> sys::Result<()> {
    match &step.action {
        Action::FileSystem { .. } => file_system(root, step),
        Action::Attach { bind, tree: Some(tree) } => attach(root, step, bind, tree),
        Action::Attach { bind, tree: None } => {
            let clone = bind.open()?;
            if step.target.as_c_str() == c"/proc"
                && mount::file_system(clone.as_fd())? != mount::PROC_SUPER_MAGIC
            {
                return Err(Errno::EINVAL);
            }
            attach(root, step, bind, &bind.set(clone)?)
        }
        Action::ReadOnly => set_readonly(resolve::existing(root, &step.target)?.as_fd()),
        Action::Hierarchies { .. } => hierarchies(root, step),
    }
}

/// Mounts the container's cgroups, one beside the other.
fn hierarchies(root: BorrowedFd<'_>, step: &Step) -> sys::Result<()> {
    let Action::Hierarchies { flags, propagation, trees, links, read_only } = &step.action else {
        return Ok(());
    };
    let target = resolve::mount_point(root, &step.target, Want::Directory)?;
    let path = FdPath::new(target.as_fd());
    let (source, data) = (Some(c"tmpfs"), Some(c"mode=755"));
    mount::mount(source, path.as_c_str(), Some(c"tmpfs"), *flags, data)?;
    leave(target);
    let top = resolve::existing(root, &step.target)?;
    for flags in propagation {
        mount::mount(None, FdPath::new(top.as_fd()).as_c_str(), None, *flags, None)?;
    }
    // By name: what lies in it is what is made here.
    for (name, bind, tree) in trees {
        match sys::mkdirat(&top, name.as_c_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let opened;
        let tree = match tree {
            Some(tree) => tree,
            None => {
                opened = bind.open()?;
                bind.apply(opened.as_fd(), false)?;
                &opened
            }
        };
        mount::move_mount(tree.as_fd(), Some(top.as_fd()), name)?;
    }
    for (name, to) in links {
        match sys::symlinkat(to.as_c_str(), &top, name.as_c_str()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    // All have the same options, which are those of what they lie on too.
    let mut late = trees.is_empty();
    if let Some((_, bind, _)) = trees.first() {
        late = bind.apply(top.as_fd(), true)?;
        for (name, bind, _) in trees.iter().filter(|_| late) {
            let fd = resolve::exact(top.as_fd(), name, libc::O_PATH)?;
            bind.set_attached(&Tree { fd, late })?;
        }
    }
    if late && *read_only {
        set_readonly(top.as_fd())?;
    }
    leave(top);
    Ok(())
}

fn attach(root: BorrowedFd<'_>, step: &Step, bind: &Bind, tree: &Tree) -> sys::Result<()> {
    let kind = sys::fstat(&tree.fd)?.st_mode & libc::S_IFMT;
    let want = if kind == libc::S_IFDIR { Want::Directory } else { Want::File };
    let target = resolve::mount_point(root, &step.target, want)?;
    mount::move_mount(tree.fd.as_fd(), Some(target.as_fd()), c"")?;
    leave(target);
    bind.set_attached(tree)
}

/// Mounts a file system, with what it takes from below it and what is set on it afterwards.
fn file_system(root: BorrowedFd<'_>, step: &Step) -> sys::Result<()> {
    let Action::FileSystem {
        kind,
        source,
        flags,
        data,
        propagation,
        recursive,
        plain,
        missing,
        tmpfs,
        label,
    } = &step.action
    else {
        return Ok(());
    };
    let want = if *plain { Want::PlainDirectory } else { Want::Directory };
    let mut data = data.as_deref();
    let with_mode;
    // A directory that was not there has no mode to take over.
    let there = tmpfs.mode && resolve::existing(root, &step.target).is_ok();
    let made =
        if *missing { resolve::make_last(root, &step.target, Want::Directory) } else { None };
    let target = match made {
        Some(made) => made,
        None => resolve::mount_point(root, &step.target, want)?,
    };
    if there {
        with_mode = tmpfs::Data::with_mode(tmpfs::mode(target.as_fd())?, data)?;
        data = Some(with_mode.as_c_str());
    }
    let path = FdPath::new(target.as_fd());
    // It must be filled before it becomes read-only.
    let late = if tmpfs.content { flags & libc::MS_RDONLY } else { 0 };
    mount::mount(Some(source), path.as_c_str(), Some(kind), flags & !late, data)?;
    if propagation.is_empty() && recursive.is_none() && !tmpfs.content && label.is_none() {
        leave(target);
        return Ok(());
    }
    // The descriptor is of what lies below the new mount.
    let top = resolve::existing(root, &step.target)?;
    let path = FdPath::new(top.as_fd());
    if tmpfs.content {
        tmpfs::copy(target.as_fd(), top.as_fd())?;
    }
    if let Some(label) = label {
        mount::set_xattr(path.as_c_str(), c"security.selinux", label.to_bytes())?;
    }
    for flags in propagation {
        mount::mount(None, path.as_c_str(), None, *flags, None)?;
    }
    if late != 0 {
        set_readonly(top.as_fd())?;
    }
    match recursive {
        Some(change) => mount::mount_setattr(top.as_fd(), true, change),
        None => Ok(()),
    }
}

/// Makes one mount read-only, whatever else it is.
pub(super) fn set_readonly(tree: BorrowedFd<'_>) -> sys::Result<()> {
    let change = Attributes { set: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    match mount::mount_setattr(tree, false, &change) {
        Err(Errno::ENOSYS) => {
            let flags = remount_flags(mount::mount_flags(tree)?, libc::MS_RDONLY, 0);
            mount::mount(None, FdPath::new(tree).as_c_str(), None, flags, None)
        }
        other => other,
    }
}

/// Makes what is at a path read-only, if there is something.
pub(super) fn make_path_readonly(root: BorrowedFd<'_>, path: &CStr) -> sys::Result<()> {
    let target = match resolve::existing(root, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let tree = mount::open_tree(Some(target.as_fd()), c"", true, true)?;
    mount::move_mount(tree.as_fd(), Some(target.as_fd()), c"")?;
    leave(target);
    set_readonly(tree.as_fd())?;
    leave(tree);
    Ok(())
}

/// Hides a file behind `/dev/null` of the host, which no image can have replaced (CVE-2025-31133),
/// and a directory behind an empty one.
pub(super) fn mask(root: BorrowedFd<'_>, path: &CStr, options: &CStr) -> sys::Result<()> {
    let target = match resolve::existing(root, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let path = FdPath::new(target.as_fd());
    match mount::mount(Some(c"/dev/null"), path.as_c_str(), None, libc::MS_BIND, None) {
        Err(Errno::ENOTDIR) => {
            let flags = libc::MS_RDONLY;
            mount::mount(Some(c"tmpfs"), path.as_c_str(), Some(c"tmpfs"), flags, Some(options))
        }
        other => other,
    }?;
    leave(target);
    Ok(())
}

/// Makes a node, or mounts the host's.
pub(super) fn make_device(directory: &OwnedFd, device: &Device) -> sys::Result<()> {
    let name = device.name.as_c_str();
    let format = SFlag::from_bits_truncate(device.mode);
    let mode = Mode::from_bits_truncate(device.mode);
    match &device.node {
        Node::Made => {}
        Node::Opened(tree) => return bind_device(directory, name, tree.as_fd()),
        Node::ByChild => return bind_device_of(directory, device),
    }
    match sys::mknodat(directory, name, format, mode, device.number) {
        Ok(()) => {}
        Err(Errno::EEXIST) => {
            // What the image brings may stay if it is the same device, and not if it is a trap.
            let there = sys::fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let same = there.st_mode & libc::S_IFMT == format.bits()
                && (format == SFlag::S_IFIFO || there.st_rdev == device.number);
            return if same { Ok(()) } else { Err(Errno::EEXIST) };
        }
        // Nobody makes devices in a user namespace.
        Err(Errno::EPERM) if format != SFlag::S_IFIFO => {
            return bind_device_of(directory, device);
        }
        Err(errno) => return Err(errno),
    }
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (device.uid.into(), device.gid.into());
        // By descriptor: in a shared directory something else may lie at the name by now.
        let node = resolve::exact(directory.as_fd(), name, libc::O_PATH)?;
        let there = sys::fstat(&node)?;
        if there.st_mode & libc::S_IFMT != format.bits() || there.st_rdev != device.number {
            return Err(Errno::EEXIST);
        }
        sys::fchownat(&node, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    Ok(())
}

fn bind_device_of(directory: &OwnedFd, device: &Device) -> sys::Result<()> {
    let tree = mount::open_tree(None, &device.path, true, false)?;
    bind_device(directory, &device.name, tree.as_fd())
}

/// Puts the host's node at a name, over whatever is there; a link there is not followed.
fn bind_device(directory: &OwnedFd, name: &CStr, tree: BorrowedFd<'_>) -> sys::Result<()> {
    match sys::mknodat(directory, name, SFlag::S_IFREG, Mode::empty(), 0) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    mount::move_mount(tree, Some(directory.as_fd()), name)
}
