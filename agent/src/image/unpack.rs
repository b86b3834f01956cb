//! Entries of a layer → files of a directory that overlayfs takes as a lower one.
//!
//! As Docker does: later entries replace earlier ones, missing parents are made (0755, root),
//! device nodes are created as they stand (the store is closed to other users of the host, and a
//! container's device cgroup and mount flags decide what they are worth inside). Unlike Docker:
//! a name, link or parent that leads out of the layer is an error, not a silent confinement.
//!
//! Of extended attributes, `security.capability`, `user.*` and POSIX ACLs are kept. `trusted.*` and
//! `user.overlay.*` would be orders to overlayfs, other `security.*` labels are the host's
//! business; they are dropped.
//!
//! Order: owner before mode (chown clears set-id), owner before `security.capability` (chown
//! drops it), data before times, directories after everything below them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::entries::{self, Entries, Entry, Input, Kind};
use super::tree::{self, Tree, lossy, normalise, split};
use super::whiteout::{self, Name};

const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const BUFFER: usize = 256 << 10;

/// What a layer may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Files of all kinds.
    pub(super) entries: u64,
    /// Bytes of all files, holes included; also of the uncompressed archive.
    pub(super) bytes: u64,
}

impl Limits {
    /// Far above real images, far below what would harm a host for long.
    pub(super) const DEFAULT: Self = Self { entries: 2_000_000, bytes: 64 << 30 };
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("entry {name:?}")]
    Path { name: String, source: tree::Error },
    #[error("entry {name:?}: hard link to {target:?}")]
    HardLink { name: String, target: String, source: tree::Error },
    #[error("entry {name:?}: {reason}")]
    Refused { name: String, reason: &'static str },
    #[error("entry {name:?}: {operation}")]
    Apply { name: String, operation: &'static str, source: io::Error },
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    #[error("unpacks to more than {0} bytes")]
    TooManyBytes(u64),
    #[error(transparent)]
    Archive(#[from] entries::Error),
    #[error("uncompressed content has digest {actual}, the configuration says {expected}")]
    DiffId { expected: String, actual: String },
    #[error("content has digest {actual}, the manifest says {expected}")]
    Digest { expected: String, actual: String },
    #[error("content has {actual} bytes, the manifest says {expected}")]
    Size { expected: u64, actual: String },
    #[error("transfer")]
    Transfer(#[source] super::registry::Error),
    #[error("{operation}")]
    Io { operation: &'static str, source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// Could damaged content, rather than hostile content, be the cause? Then its digest tells.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Self::Archive(_) | Self::DiffId { .. } | Self::Io { .. })
    }

    /// Is the content to blame, which another host may have as it should be?
    pub(super) fn is_of_content(&self) -> bool {
        !matches!(self, Self::Transfer(_) | Self::Io { .. } | Self::Cancelled)
    }
}

fn apply_error(name: &[u8], operation: &'static str) -> impl FnOnce(Errno) -> Error {
    let name = lossy(name);
    move |errno| Error::Apply { name, operation, source: errno.into() }
}

struct Meta {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: Timestamps,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    fn implied() -> Self {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let mtime = Timestamps { last_access: now, last_modification: now };
        Self { uid: 0, gid: 0, mode: 0o755, mtime, xattrs: Vec::new() }
    }

    fn of(entry: &mut Entry) -> Result<Self, Error> {
        let id = |id: u64| {
            // The largest value means "do not change" to chown.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| Error::Refused {
                name: lossy(&entry.path),
                reason: "its owner is not a 32-bit number",
            })
        };
        let (uid, gid) = (id(entry.uid)?, id(entry.gid)?);
        let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
        let mtime = Timestamps { last_access: time, last_modification: time };
        let xattrs = std::mem::take(&mut entry.xattrs);
        Ok(Self { uid, gid, mode: entry.mode, mtime, xattrs })
    }

    fn apply(&self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<(), Error> {
        // What root makes belongs to root: no directory is set-gid before its content is there.
        if (self.uid, self.gid) != (0, 0) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
                .map_err(apply_error(name, "set its owner"))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))
            .map_err(apply_error(name, "set its mode"))?;
        for (key, value) in self.xattrs.iter().filter(|(key, _)| keeps(key)) {
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(key), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A filesystem without this kind of attribute: Docker goes on, too.
                Err(Errno::OPNOTSUPP) => {}
                // On others than regular files and directories the kernel knows no user.*.
                Err(Errno::PERM) if key.starts_with(b"user.") => {}
                Err(errno) => return Err(apply_error(name, "set its extended attributes")(errno)),
            }
        }
        rustix::fs::futimens(fd, &self.mtime).map_err(apply_error(name, "set its time"))
    }
}

fn keeps(key: &[u8]) -> bool {
    key == b"security.capability"
        || key.starts_with(b"system.posix_acl_")
        || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
}

/// Fills the empty directory `dir`; returns the bytes of the files.
pub(super) fn apply<R: Input>(
    entries: &mut Entries<R>,
    dir: &Path,
    limits: Limits,
) -> Result<u64, Error> {
    let tree = Tree::open(dir)
        .map_err(|source| Error::Io { operation: "open the layer's directory", source })?;
    let mut unpacker =
        Unpacker { tree, directories: BTreeMap::new(), buffer: vec![0; BUFFER], bytes: 0 };
    let mut count = 0;
    while let Some(entry) = entries.next()? {
        count += 1;
        if count > limits.entries {
            return Err(Error::TooManyEntries(limits.entries));
        }
        unpacker.bytes = unpacker.bytes.saturating_add(entry.size);
        if unpacker.bytes > limits.bytes {
            return Err(Error::TooManyBytes(limits.bytes));
        }
        unpacker.entry(entries, entry)?;
    }
    unpacker.finish()
}

struct Unpacker {
    tree: Tree,
    /// Applied last, because filling a directory changes its time.
    directories: BTreeMap<Vec<u8>, Meta>,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Unpacker {
    fn entry<R: Input>(&mut self, entries: &mut Entries<R>, mut entry: Entry) -> Result<(), Error> {
        let named = |source| Error::Path { name: lossy(&entry.path), source };
        let path = normalise(&entry.path).map_err(named)?;
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                let reason = "the root of a layer is a directory";
                return Err(Error::Refused { name: lossy(&entry.path), reason });
            }
            self.directories.insert(path, Meta::of(&mut entry)?);
            return Ok(());
        }
        let (parent, name) = split(&path);
        // A whiteout as a parent would hide what lies below it.
        if parent.split(|byte| *byte == b'/').any(|name| whiteout::classify(name) != Name::Plain) {
            let reason = "its path passes a whiteout";
            return Err(Error::Refused { name: lossy(&entry.path), reason });
        }
        let class = whiteout::classify(name);
        if class == Name::Bookkeeping {
            return Ok(());
        }
        let at = self.tree.directory(parent, true).map_err(named)?.fd;
        match class {
            Name::Invalid => {
                let reason = "a whiteout of nothing, of its own directory or of the parent";
                Err(Error::Refused { name: lossy(&entry.path), reason })
            }
            Name::Removed(hidden) => self.whiteout(&at, hidden, &path),
            Name::Opaque => rustix::fs::fsetxattr(&*at, OPAQUE_XATTR, b"y", XattrFlags::empty())
                .map_err(apply_error(&path, "mark its directory opaque")),
            Name::Plain => self.plain(entries, entry, &at, &path, name),
            Name::Bookkeeping => Ok(()),
        }
    }

    fn whiteout(&mut self, at: &OwnedFd, hidden: &[u8], path: &[u8]) -> Result<(), Error> {
        // A whiteout is about the layers below: what this one brings itself stays.
        let kind = (FileType::CharacterDevice, Mode::empty());
        match rustix::fs::mknodat(at, OsStr::from_bytes(hidden), kind.0, kind.1, 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(apply_error(path, "make a whiteout")(errno)),
        }
    }

    fn plain<R: Input>(
        &mut self,
        entries: &mut Entries<R>,
        mut entry: Entry,
        at: &OwnedFd,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), Error> {
        let os_name = OsStr::from_bytes(name);
        let mode = Mode::RUSR | Mode::WUSR;
        match entry.kind {
            Kind::Directory => {
                self.create(at, name, path, true, || rustix::fs::mkdirat(at, os_name, Mode::RWXU))?;
                self.directories.insert(path.to_vec(), Meta::of(&mut entry)?);
                return Ok(());
            }
            Kind::File => {
                let meta = Meta::of(&mut entry)?;
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::WRONLY
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = self.create(at, name, path, false, || {
                    rustix::fs::openat(at, os_name, flags, mode)
                })?;
                if let Some(fd) = file {
                    let file = File::from(fd);
                    self.write(entries, &entry, &file)?;
                    meta.apply(file.as_fd(), path)?;
                }
                return Ok(());
            }
            Kind::HardLink => {
                let failed = |source| Error::HardLink {
                    name: lossy(path),
                    target: lossy(&entry.link),
                    source,
                };
                let target = normalise(&entry.link).map_err(failed)?;
                let (target_parent, target_name) = split(&target);
                if target == path || target_name.is_empty() {
                    let reason = "a hard link to itself or to the root";
                    return Err(Error::Refused { name: lossy(path), reason });
                }
                let from = self.tree.directory(target_parent, false).map_err(failed)?.fd;
                let link = OsStr::from_bytes(target_name);
                match rustix::fs::statat(&*from, link, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                        let reason = "a hard link to a directory";
                        return Err(Error::Refused { name: lossy(path), reason });
                    }
                    Ok(_) => {}
                    Err(Errno::NOENT) => return Err(failed(tree::Error::Missing(lossy(&target)))),
                    Err(errno) => return Err(apply_error(path, "look at its target")(errno)),
                }
                self.create(at, name, path, false, || {
                    rustix::fs::linkat(&*from, link, at, os_name, AtFlags::empty())
                })?;
                return Ok(());
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > 4095 {
                    let reason = "a symbolic link to nothing or to a name longer than 4095 bytes";
                    return Err(Error::Refused { name: lossy(path), reason });
                }
                let target = OsStr::from_bytes(&entry.link);
                self.create(at, name, path, false, || rustix::fs::symlinkat(target, at, os_name))?;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::CharDevice => (FileType::CharacterDevice, entry.device),
                    Kind::BlockDevice => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                self.create(at, name, path, false, || {
                    rustix::fs::mknodat(at, os_name, kind, mode, device)
                })?;
            }
            Kind::Other(_) => {
                let reason = "a kind of entry that layers do not have";
                return Err(Error::Refused { name: lossy(path), reason });
            }
        }
        let meta = Meta::of(&mut entry)?;
        rustix::fs::chownat(
            at,
            os_name,
            Some(Uid::from_raw(meta.uid)),
            Some(Gid::from_raw(meta.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(apply_error(path, "set its owner"))?;
        if entry.kind != Kind::Symlink {
            // Not a link, and nobody else writes here, so there is none to follow.
            rustix::fs::chmodat(at, os_name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
                .map_err(apply_error(path, "set its mode"))?;
        }
        rustix::fs::utimensat(at, os_name, &meta.mtime, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(apply_error(path, "set its time"))
    }

    /// Makes a file with `make`, replacing what is there. A directory keeps its place and content
    /// under a directory (`None`).
    fn create<T>(
        &mut self,
        at: &OwnedFd,
        name: &[u8],
        path: &[u8],
        directory: bool,
        mut make: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<Option<T>, Error> {
        match make() {
            Ok(made) => return Ok(Some(made)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(apply_error(path, "create it")(errno)),
        }
        if directory {
            let stat = rustix::fs::statat(at, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(apply_error(path, "look at what it replaces"))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Ok(None);
            }
        }
        self.tree.remove(at, name).map_err(|source| Error::Path { name: lossy(path), source })?;
        make().map(Some).map_err(apply_error(path, "create it"))
    }

    fn write<R: Input>(
        &mut self,
        entries: &mut Entries<R>,
        entry: &Entry,
        file: &File,
    ) -> Result<(), Error> {
        let failed =
            |source| Error::Apply { name: lossy(&entry.path), operation: "write it", source };
        let mut written = 0;
        for (offset, length) in &entry.segments {
            written = *offset;
            let end = offset + length;
            while written < end {
                let most = usize::try_from(end - written).unwrap_or(BUFFER).min(BUFFER);
                let read = entries.read(&mut self.buffer[..most])?;
                if read == 0 {
                    return Err(failed(io::ErrorKind::UnexpectedEof.into()));
                }
                file.write_all_at(&self.buffer[..read], written).map_err(failed)?;
                written += read as u64;
            }
        }
        if written < entry.size {
            file.set_len(entry.size).map_err(failed)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<u64, Error> {
        for path in std::mem::take(&mut self.tree.implied) {
            self.directories.entry(path).or_insert_with(Meta::implied);
        }
        for (path, meta) in std::mem::take(&mut self.directories) {
            match self.tree.directory(&path, false) {
                Ok(directory) => meta.apply(directory.fd.as_fd(), &path)?,
                // A later entry put something else in its place.
                Err(tree::Error::Missing(_) | tree::Error::NotDirectory(_)) => {}
                Err(tree::Error::Dangling { .. } | tree::Error::Links) => {}
                Err(source) => return Err(Error::Path { name: lossy(&path), source }),
            }
        }
        Ok(self.bytes)
    }
}

/// Makes a directory of mode `mode` whatever the umask is.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    rustix::fs::mkdirat(CWD, path, Mode::RWXU)?;
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}
