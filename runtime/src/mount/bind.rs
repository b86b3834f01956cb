//! Bind mounts: trees of the host that are cloned, given their options, and attached.
//!
//! The parent opens them before the clone; where it is an ordinary user, the child does, which has the privilege in its
//! own namespaces. So opening and setting allocate nothing. Options only set what they name: what else the mount has
//! stays, so in a user namespace, which may not take away what the host's mount forbids, nothing but an option that asks
//! for just that is refused.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::options::MountOptions;
use crate::sys::{
    Errno, Result,
    fd::FdPath,
    mount::{self, Attributes},
};

/// A bind mount to make.
#[derive(Debug)]
pub struct Bind {
    pub source: CString,
    pub recursive: bool,
    propagation: Vec<u64>,
    flags: u64,
    cleared: u64,
    change: Attributes,
    below: Attributes,
}

/// A detached tree with its options.
#[derive(Debug)]
pub struct Tree {
    pub fd: OwnedFd,
    /// The kernel has no mount_setattr: the options are set once it is attached.
    pub late: bool,
}

impl Bind {
    /// With options; `inherited` is the propagation where they name none, for without it a clone
    /// would be a peer of the host's mount.
    pub fn new(source: CString, recursive: bool, options: &MountOptions, inherited: u64) -> Self {
        let mut propagation = options.propagation.clone();
        if propagation.is_empty() {
            propagation.push(inherited);
        }
        Self {
            source,
            recursive,
            propagation,
            flags: options.flags,
            cleared: options.cleared,
            change: options.attributes(),
            below: options.recursive,
        }
    }

    /// Clones the source.
    ///
    /// # Errors
    /// Those of open_tree(2).
    pub fn open(&self) -> Result<OwnedFd> {
        mount::open_tree(None, &self.source, true, self.recursive)
    }

    /// Sets the options of the clone.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn set(&self, fd: OwnedFd) -> Result<Tree> {
        let late = self.apply(fd.as_fd(), false)?;
        Ok(Tree { fd, late })
    }

    /// Sets the options of a tree, or with `all` those of every mount in it; whether the kernel has no
    /// mount_setattr.
    ///
    /// # Errors
    /// Those of mount_setattr(2).
    pub fn apply(&self, tree: BorrowedFd<'_>, all: bool) -> Result<bool> {
        let late;
        // Of a tree that is one mount all is set at once.
        let at_once = match self.propagation.as_slice() {
            [flags] if all || !self.recursive => {
                Some(Attributes { propagation: flags & !libc::MS_REC, ..self.change })
            }
            _ => None,
        };
        if let Some(change) = at_once {
            late = match mount::mount_setattr(tree, all, &change) {
                Err(Errno::ENOSYS) => true,
                other => other.map(|()| false)?,
            };
        } else {
            late = self.set_one_by_one(tree, all)?;
        }
        if self.below != Attributes::default() {
            mount::mount_setattr(tree, true, &self.below)?;
        }
        Ok(late)
    }

    /// Whether the kernel cannot do it.
    fn set_one_by_one(&self, tree: BorrowedFd<'_>, all: bool) -> Result<bool> {
        let mut late = false;
        for flags in &self.propagation {
            let change = Attributes { propagation: flags & !libc::MS_REC, ..Attributes::default() };
            match mount::mount_setattr(tree, all || flags & libc::MS_REC != 0, &change) {
                Err(Errno::ENOSYS) => late = true,
                other => other?,
            }
        }
        if self.change != Attributes::default() && !late {
            mount::mount_setattr(tree, all, &self.change)?;
        }
        Ok(late)
    }

    /// What [`Bind::set`] could not do to the detached tree; once it is attached.
    ///
    /// # Errors
    /// Those of mount(2).
    pub fn set_attached(&self, tree: &Tree) -> Result<()> {
        if !tree.late {
            return Ok(());
        }
        let path = FdPath::new(tree.fd.as_fd());
        for flags in &self.propagation {
            mount::mount(None, path.as_c_str(), None, *flags, None)?;
        }
        if self.change == Attributes::default() {
            return Ok(());
        }
        let present = mount::mount_flags(tree.fd.as_fd())?;
        let flags = remount_flags(present, self.flags, self.cleared);
        mount::mount(None, path.as_c_str(), None, flags, None)
    }
}

/// Clones the tree that a container's root file system is. Whether its propagation is to be set once more when it is
/// attached, where the kernel cannot do it before.
///
/// # Errors
/// Those of open_tree(2) and mount_setattr(2).
pub fn open_root(path: &std::ffi::CStr, propagation: u64) -> Result<(OwnedFd, bool)> {
    let tree = mount::open_tree(None, path, true, true)?;
    let change = Attributes { propagation: propagation & !libc::MS_REC, ..Attributes::default() };
    match mount::mount_setattr(tree.as_fd(), true, &change) {
        Ok(()) => Ok((tree, false)),
        Err(Errno::ENOSYS) => Ok((tree, true)),
        Err(errno) => Err(errno),
    }
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
