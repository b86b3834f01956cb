//! Deletion of a directory tree that a container wrote.
//!
//! The tree is hostile: a million levels deep, full of symbolic links, being changed while we work,
//! perhaps with something mounted in it. So: every step goes by descriptor and single component,
//! links are removed and never followed, a mount point is never entered or emptied but refused,
//! and nothing recurses: a directory that is not empty is moved up to the top and waits its turn.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Error;

/// Removes `path` and what is below; nothing there is no error. Whatever cannot be removed stays, the
/// rest goes all the same. `path` itself is trusted, up to and without its last component.
///
/// # Errors
/// The first entry that could not be removed.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let fail = |source: io::Error| Error::Remove { path: path.to_owned(), source };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail(io::ErrorKind::InvalidInput.into()));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(fail(errno.into())),
    };
    let name = CString::new(name.as_encoded_bytes()).map_err(|error| fail(error.into()))?;
    let top = match open(parent.as_fd(), &name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // Not a directory, or a symbolic link.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return rustix::fs::unlinkat(&parent, &name, AtFlags::empty())
                .map_err(|errno| fail(errno.into()));
        }
        Err(errno) => return Err(fail(errno.into())),
    };
    let mut sweep = Sweep { top, moved: 0, waiting: VecDeque::new(), first: None };
    sweep.run();
    match (sweep.first, rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)) {
        (Some((entry, errno)), _) => Err(Error::Remove {
            path: path.join(entry.to_string_lossy().as_ref()),
            source: errno.into(),
        }),
        (None, Ok(()) | Err(Errno::NOENT)) => Ok(()),
        (None, Err(errno)) => Err(fail(errno.into())),
    }
}

struct Sweep {
    top: OwnedFd,
    /// How many directories were moved up so far; the next one's name.
    moved: u64,
    /// Directories directly below the top.
    waiting: VecDeque<CString>,
    first: Option<(CString, Errno)>,
}

impl Sweep {
    fn run(&mut self) {
        match self.top.try_clone() {
            Ok(top) => self.empty(top, true),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                self.first = Some((CString::default(), errno));
            }
        }
        while let Some(name) = self.waiting.pop_front() {
            match open(self.top.as_fd(), &name) {
                Ok(dir) => self.empty(dir, false),
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    self.fail(&name, errno);
                    continue;
                }
            }
            match rustix::fs::unlinkat(&self.top, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => self.fail(&name, errno),
            }
        }
    }

    /// Removes a directory's entries; those that are directories with something in them are moved to the
    /// top, unless they are there already.
    fn empty(&mut self, dir: OwnedFd, is_top: bool) {
        let entries = match Dir::read_from(&dir) {
            Ok(entries) => entries,
            Err(errno) => return self.fail(c".", errno),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => return self.fail(c".", errno),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let is_directory = match entry.file_type() {
                FileType::Directory => true,
                FileType::Unknown => rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir()),
                _ => false,
            };
            let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            match rustix::fs::unlinkat(&dir, name, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) if is_top => {
                    self.waiting.push_back(name.to_owned());
                }
                Err(Errno::NOTEMPTY | Errno::EXIST) => self.lift(dir.as_fd(), name),
                Err(errno) => self.fail(name, errno),
            }
        }
    }

    fn lift(&mut self, dir: BorrowedFd<'_>, name: &CStr) {
        loop {
            self.moved += 1;
            let Ok(moved) = CString::new(format!(".removed.{}", self.moved)) else { return };
            // Renaming a directory over one that is not empty is refused, over an empty one is fine.
            match rustix::fs::renameat(dir, name, &self.top, &moved) {
                Ok(()) => return self.waiting.push_back(moved),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(Errno::NOENT) => return,
                Err(errno) => return self.fail(name, errno),
            }
        }
    }

    fn fail(&mut self, name: &CStr, errno: Errno) {
        self.first.get_or_insert_with(|| (name.to_owned(), errno));
    }
}

/// Opens a directory by one component: no link, no mount point.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}
