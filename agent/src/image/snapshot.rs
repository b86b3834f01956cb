//! An image's files as a container sees them, without mounting anything: directories of the layers
//! merged as overlayfs merges them.
//!
//! Paths are the image's: symbolic links are followed here, one component at a time, inside the
//! image; `..` above its root is its root, as for a process inside.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::unpack::OPAQUE_XATTR;
use super::{Error, Image};

const MAX_LINKS: usize = 40;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the image: the directories of the layers that make it up, topmost first.
struct Merged {
    dirs: Vec<Rc<OwnedFd>>,
}

enum Node {
    Directory(Merged),
    /// Anything else: where it lies and what it is.
    Other(Rc<OwnedFd>, Box<Stat>),
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 2];
    matches!(rustix::fs::fgetxattr(dir, OPAQUE_XATTR, &mut value), Ok(1) if value[0] == b'y')
}

impl Merged {
    fn lookup(&self, name: &OsStr) -> io::Result<Option<Node>> {
        let mut dirs = Vec::new();
        for dir in &self.dirs {
            let stat = match rustix::fs::statat(&**dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let fd = rustix::fs::openat(&**dir, name, DIRECTORY, Mode::empty())?;
                let opaque = is_opaque(&fd);
                dirs.push(Rc::new(fd));
                if opaque {
                    break;
                }
            } else if dirs.is_empty() && !is_whiteout(&stat) {
                return Ok(Some(Node::Other(Rc::clone(dir), Box::new(stat))));
            } else {
                // A whiteout, or a file below a directory, hides what is further down.
                break;
            }
        }
        Ok((!dirs.is_empty()).then_some(Node::Directory(Self { dirs })))
    }

    fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for dir in &self.dirs {
            for entry in Dir::read_from(&**dir)? {
                let name = entry?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    names.insert(OsString::from_vec(name));
                }
            }
        }
        Ok(names)
    }
}

impl Image {
    /// The content of a regular file of the image, links followed; `None` if there is none.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        let failed = |source| Error::Path { id: self.id.clone(), path: path.to_owned(), source };
        let Some((Node::Other(dir, stat), name)) = self.resolve(path).map_err(failed)? else {
            return Ok(None);
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&*dir, name.as_os_str(), flags, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let mut content = Vec::new();
        File::from(fd).take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > limit {
            return Err(Error::TooLarge { id: self.id.clone(), path: path.to_owned(), limit });
        }
        Ok(Some(content))
    }

    /// Copies a directory of the image into the empty directory `into`, which gets its owner and
    /// mode, as Docker fills a new volume. `false`, and nothing done, if the image has no such
    /// directory or `into` is not empty. A copy that is interrupted leaves `into` half full: the
    /// caller copies into a temporary directory and renames it.
    pub fn copy_directory(&self, path: &str, into: &Path) -> Result<bool, Error> {
        let failed = |source| Error::Path { id: self.id.clone(), path: path.to_owned(), source };
        let Some((Node::Directory(from), _)) = self.resolve(path).map_err(failed)? else {
            return Ok(false);
        };
        let to = rustix::fs::openat(CWD, into, DIRECTORY, Mode::empty())
            .map_err(|errno| Error::io("open", into)(errno.into()))?;
        let empty = Merged { dirs: vec![Rc::new(to.try_clone().map_err(failed)?)] };
        if !empty.names().map_err(Error::io("list", into))?.is_empty() {
            return Ok(false);
        }
        Copy { links: HashMap::new() }.directory(&from, &to).map_err(failed)?;
        Ok(true)
    }

    /// What `path` names, and its last component.
    fn resolve(&self, path: &str) -> io::Result<Option<(Node, OsString)>> {
        let mut dirs = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let fd = rustix::fs::openat(CWD, layer, DIRECTORY, Mode::empty())?;
            dirs.push(Rc::new(fd));
        }
        let mut stack = vec![Merged { dirs }];
        let mut todo: VecDeque<Vec<u8>> =
            path.as_bytes().split(is_slash).map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let name = OsString::from_vec(name);
            let Some(current) = stack.last() else { return Ok(None) };
            match current.lookup(&name)? {
                None => return Ok(None),
                Some(Node::Directory(merged)) => stack.push(merged),
                Some(Node::Other(dir, stat))
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink =>
                {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target =
                        rustix::fs::readlinkat(&*dir, name.as_os_str(), Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for part in target.split(is_slash).rev() {
                        todo.push_front(part.to_vec());
                    }
                }
                Some(other) => {
                    let rest = todo.iter().any(|part| !part.is_empty() && part != b".");
                    return Ok((!rest).then_some((other, name)));
                }
            }
        }
        Ok(stack.pop().map(|merged| (Node::Directory(merged), OsString::new())))
    }
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}

/// Files with several names, by device and inode: the first copy of each.
struct Copy {
    links: HashMap<(u64, u64), (Rc<OwnedFd>, OsString)>,
}

impl Copy {
    // Recursion is bounded by the depth of a layer, and each level holds the layers' descriptors.
    fn directory(&mut self, from: &Merged, to: &OwnedFd) -> io::Result<()> {
        let shared = Rc::new(to.try_clone()?);
        for name in from.names()? {
            match from.lookup(&name)? {
                None => {}
                Some(Node::Directory(merged)) => {
                    rustix::fs::mkdirat(to, name.as_os_str(), Mode::RWXU)?;
                    let below = rustix::fs::openat(to, name.as_os_str(), DIRECTORY, Mode::empty())?;
                    self.directory(&merged, &below)?;
                }
                Some(Node::Other(dir, stat)) => self.other(&dir, &stat, &name, &shared)?,
            }
        }
        if let Some(top) = from.dirs.first() {
            let stat = rustix::fs::fstat(&**top)?;
            copy_xattrs(top, to)?;
            finish(to, &stat)?;
        }
        Ok(())
    }

    fn other(
        &mut self,
        from: &OwnedFd,
        stat: &Stat,
        name: &OsStr,
        to: &Rc<OwnedFd>,
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some((dir, first)) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                rustix::fs::linkat(&**dir, first.as_os_str(), &**to, name, AtFlags::empty())?;
                return Ok(());
            }
            self.links.insert((stat.st_dev, stat.st_ino), (Rc::clone(to), name.to_owned()));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let mut copy = File::from(rustix::fs::openat(&**to, name, flags, mode)?);
                io::copy(&mut source, &mut copy)?;
                let (source, copy) = (OwnedFd::from(source), OwnedFd::from(copy));
                chown(&copy, stat)?;
                copy_xattrs(&source, &copy)?;
                finish(&copy, stat)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, &**to, name)?;
                special(to, name, stat)
            }
            kind => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(&**to, name, kind, mode, stat.st_rdev)?;
                special(to, name, stat)?;
                let mode = Mode::from_raw_mode(stat.st_mode);
                Ok(rustix::fs::chmodat(&**to, name, mode, AtFlags::empty())?)
            }
        }
    }
}

fn special(to: &OwnedFd, name: &OsStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn chown(to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(rustix::fs::fchown(to, Some(uid), Some(gid))?)
}

fn finish(to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        chown(to, stat)?;
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(stat))?)
}

fn times(stat: &Stat) -> Timestamps {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

/// All but the attributes that overlayfs reads.
fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(from.as_fd(), &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut value = vec![0; 64 << 10];
    for name in list[..length].split(|byte| *byte == 0) {
        let wanted = name == b"security.capability"
            || name.starts_with(b"user.")
            || name.starts_with(b"system.posix_acl_");
        if wanted {
            let key = OsStr::from_bytes(name);
            let length = rustix::fs::fgetxattr(from, key, &mut value[..])?;
            match rustix::fs::fsetxattr(to, key, &value[..length], XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}
