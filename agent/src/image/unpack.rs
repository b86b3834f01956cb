//! Entries of a layer → files of a directory that overlayfs takes as a lower one.
//!
//! As Docker does: later entries replace earlier ones, missing parents are made (0755, root),
//! device nodes are created as they stand (the store is closed to other users of the host, and a
//! container's device cgroup and mount flags decide what they are worth inside). Unlike Docker:
//! a name, link or parent that leads out of the layer is an error, not a silent confinement.
//!
//! Holes of sparse files stay holes. Directories get their metadata after everything below them,
//! because filling one changes its time and a set-gid one would pass its group on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::entries::{self, Entries, Entry, Input, Kind};
use super::gate::Writeback;
use super::metadata::{self, Metadata};
use super::tree::{self, Tree, lossy, normalise, split};
use super::whiteout::{self, Name};

/// Of a directory: nothing of the layers below shows in it.
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What a layer may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Files of all kinds, directories that no entry describes included.
    pub(super) entries: u64,
    /// Bytes of all files, holes included; also of the uncompressed archive.
    pub(super) bytes: u64,
    /// Bytes that a byte of the blob may become, once there are [`Limits::expansion_from`] of them.
    pub(super) expansion: u64,
    pub(super) expansion_from: u64,
    /// Bytes of memory for the names and attributes of directories.
    pub(super) directories: usize,
}

impl Limits {
    /// Far above real images, far below what would harm a host for long. Programs and text become
    /// ten times smaller at best; gzip makes zeros 1032 times smaller.
    pub(super) const DEFAULT: Self = Self {
        entries: 2_000_000,
        bytes: 64 << 30,
        expansion: 200,
        expansion_from: 1 << 30,
        directories: 16 << 20,
    };

    /// For an archive of `made` bytes so far, decompressed from `compressed`.
    pub(super) fn check(&self, made: u64, compressed: u64) -> Result<(), Error> {
        if made > self.bytes {
            return Err(Error::TooManyBytes(self.bytes));
        }
        if made > self.expansion_from && made / self.expansion > compressed {
            return Err(Error::Expansion { made, compressed, most: self.expansion });
        }
        Ok(())
    }
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
    #[error(
        "{compressed} bytes decompress to {made} and more, over {most} times as many: a decompression bomb"
    )]
    Expansion { made: u64, compressed: u64, most: u64 },
    #[error("names and attributes of its directories take more than {0} bytes of memory")]
    Directories(usize),
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

pub(super) fn apply_error(name: &[u8], operation: &'static str) -> impl FnOnce(Errno) -> Error {
    let name = lossy(name);
    move |errno| Error::Apply { name, operation, source: errno.into() }
}

/// Fills the empty directory `dir`; returns the bytes of the files.
pub(super) fn apply<R: Input>(
    entries: &mut Entries<R>,
    dir: &Path,
    limits: Limits,
    writeback: &Arc<Writeback>,
) -> Result<u64, Error> {
    let tree = Tree::open(dir)
        .map_err(|source| Error::Io { operation: "open the layer's directory", source })?;
    let umask = metadata::umask()
        .map_err(|source| Error::Io { operation: "find out the umask", source })?;
    let mut unpacker = Unpacker {
        tree,
        directories: BTreeMap::new(),
        memory: 0,
        limits,
        entries: 0,
        bytes: 0,
        umask,
        writeback: Arc::clone(writeback),
    };
    while let Some(entry) = entries.next()? {
        unpacker.count(entry.size)?;
        unpacker.entry(entries, entry)?;
    }
    unpacker.finish()
}

struct Unpacker {
    tree: Tree,
    /// Applied last.
    directories: BTreeMap<Vec<u8>, Metadata>,
    /// Bytes of `directories`.
    memory: usize,
    limits: Limits,
    entries: u64,
    bytes: u64,
    umask: u32,
    writeback: Arc<Writeback>,
}

impl Unpacker {
    fn count(&mut self, bytes: u64) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::TooManyEntries(self.limits.entries));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes {
            return Err(Error::TooManyBytes(self.limits.bytes));
        }
        Ok(())
    }

    /// The metadata of a directory, for later.
    fn remember(&mut self, path: Vec<u8>, metadata: Metadata) -> Result<(), Error> {
        let length = path.len();
        self.memory += cost(length, &metadata);
        if self.memory > self.limits.directories {
            return Err(Error::Directories(self.limits.directories));
        }
        if let Some(former) = self.directories.insert(path, metadata) {
            self.memory -= cost(length, &former);
        }
        Ok(())
    }

    /// What stood at this path is gone, with all below it.
    fn forget(&mut self, path: &[u8]) {
        let below = [path, b"/"].concat();
        let from = self.directories.range(below.clone()..);
        let mut gone: Vec<Vec<u8>> = from
            .map(|(path, _)| path.clone())
            .take_while(|path| path.starts_with(&below))
            .collect();
        gone.push(path.to_vec());
        for path in gone {
            if let Some(former) = self.directories.remove(&path) {
                self.memory -= cost(path.len(), &former);
            }
        }
    }

    /// Directories that were made without an entry of their own are files of the layer, too.
    fn remember_implied(&mut self) -> Result<(), Error> {
        for path in std::mem::take(&mut self.tree.implied) {
            self.count(0)?;
            if !self.directories.contains_key(&path) {
                self.remember(path, Metadata::implied())?;
            }
        }
        Ok(())
    }

    fn entry<R: Input>(&mut self, entries: &mut Entries<R>, mut entry: Entry) -> Result<(), Error> {
        let named = |source| Error::Path { name: lossy(&entry.path), source };
        let path = normalise(&entry.path).map_err(named)?;
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                let reason = "the root of a layer is a directory";
                return Err(Error::Refused { name: lossy(&entry.path), reason });
            }
            return self.remember(path, Metadata::of(&mut entry)?);
        }
        let (parent, name) = split(&path);
        let mut classes = parent.split(|byte| *byte == b'/').map(whiteout::classify);
        match classes.find(|class| *class != Name::Plain) {
            None => {}
            // aufs kept files in a directory of that name.
            Some(Name::Bookkeeping) => return Ok(()),
            // A whiteout as a parent would hide what lies below it.
            Some(_) => {
                let reason = "its path passes a whiteout";
                return Err(Error::Refused { name: lossy(&entry.path), reason });
            }
        }
        let class = whiteout::classify(name);
        if class == Name::Bookkeeping {
            return Ok(());
        }
        let at = self.tree.directory(parent, true).map_err(named)?.fd;
        self.remember_implied()?;
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
        match entry.kind {
            Kind::Directory => {
                self.create(at, name, path, true, || rustix::fs::mkdirat(at, os_name, Mode::RWXU))?;
                self.remember(path.to_vec(), Metadata::of(&mut entry)?)
            }
            Kind::File => {
                let metadata = Metadata::of(&mut entry)?;
                let (mode, has_mode) = metadata.creation(self.umask);
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
                    write(entries, &entry, &file)?;
                    metadata.apply(file.as_fd(), path, has_mode)?;
                    self.writeback.wrote(entry.size, at);
                }
                Ok(())
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
                    Ok(stat) if is_whiteout(&stat) => {
                        let reason = "a hard link to what a whiteout removes";
                        return Err(Error::Refused { name: lossy(path), reason });
                    }
                    Ok(_) => {}
                    Err(Errno::NOENT) => return Err(failed(tree::Error::Missing(lossy(&target)))),
                    Err(errno) => return Err(apply_error(path, "look at its target")(errno)),
                }
                self.create(at, name, path, false, || {
                    rustix::fs::linkat(&*from, link, at, os_name, AtFlags::empty())
                })?;
                Ok(())
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > 4095 {
                    let reason = "a symbolic link to nothing or to a name longer than 4095 bytes";
                    return Err(Error::Refused { name: lossy(path), reason });
                }
                let target = OsStr::from_bytes(&entry.link);
                self.create(at, name, path, false, || rustix::fs::symlinkat(target, at, os_name))?;
                Metadata::of(&mut entry)?.apply_at(at, name, path, true)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::CharDevice => (FileType::CharacterDevice, entry.device),
                    Kind::BlockDevice => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                let mode = Mode::RUSR | Mode::WUSR;
                self.create(at, name, path, false, || {
                    rustix::fs::mknodat(at, os_name, kind, mode, device)
                })?;
                Metadata::of(&mut entry)?.apply_at(at, name, path, false)
            }
            Kind::Other(_) => {
                let reason = "a kind of entry that layers do not have";
                Err(Error::Refused { name: lossy(path), reason })
            }
        }
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
        self.forget(path);
        make().map(Some).map_err(apply_error(path, "create it"))
    }

    fn finish(mut self) -> Result<u64, Error> {
        for (path, metadata) in std::mem::take(&mut self.directories) {
            match self.tree.own(&path) {
                Ok(directory) => metadata.apply(directory.as_fd(), &path, false)?,
                // A later entry put something else in its place, by another path.
                Err(tree::Error::Missing(_) | tree::Error::NotDirectory(_)) => {}
                Err(tree::Error::Dangling { .. } | tree::Error::Links) => {}
                Err(source) => return Err(Error::Path { name: lossy(&path), source }),
            }
        }
        Ok(self.bytes)
    }
}

/// Bytes of memory that a directory takes whose path has this length.
fn cost(path: usize, metadata: &Metadata) -> usize {
    path + size_of::<(Vec<u8>, Metadata)>() + metadata.memory()
}

/// Writes the data of an entry where its segments say; what lies between them stays a hole.
fn write<R: Input>(entries: &mut Entries<R>, entry: &Entry, file: &File) -> Result<(), Error> {
    let failed = |source| Error::Apply { name: lossy(&entry.path), operation: "write it", source };
    // Not where the last segment begins: GNU tar ends maps with an empty one at the file's end.
    let mut written = 0;
    for (offset, length) in &entry.segments {
        let (mut at, end) = (*offset, offset.saturating_add(*length));
        while at < end {
            let data = entries.data()?;
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(data.len());
            if most == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            file.write_all_at(&data[..most], at).map_err(failed)?;
            entries.take(most);
            at += most as u64;
            written = at;
        }
    }
    if written < entry.size {
        file.set_len(entry.size).map_err(failed)?;
    }
    Ok(())
}

/// overlayfs's way to say that a name is gone.
fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Makes a directory of mode `mode` whatever the umask is.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    rustix::fs::mkdirat(CWD, path, Mode::RWXU)?;
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Paths ending in a slash are directories of this mode; with a target, symbolic links.
    fn unpacked(entries: &[(&str, u32, &str)], limits: Limits) -> Result<tempfile::TempDir, Error> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, target) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            if target.is_empty() {
                header.set_entry_type(tar::EntryType::Directory);
            } else {
                header.set_link_name(target).unwrap();
            }
            header.set_mode(*mode);
            header.set_size(0);
            archive.append_data(&mut header, path, io::empty()).unwrap();
        }
        let archive = archive.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut entries = Entries::new(io::BufReader::new(archive.as_slice()));
        apply(&mut entries, dir.path(), limits, &Arc::default()).map(|_| dir)
    }

    #[test]
    fn a_directory_that_was_replaced_leaves_nothing_to_what_stands_there() {
        let entries = [
            ("a/", 0o755, ""),
            ("a/q/", 0o755, ""),
            ("y/", 0o700, ""),
            ("y/q/", 0o700, ""),
            ("y", 0, "a"),
            ("link", 0, "a"),
            // What stands at a/r is removed by another path than it was made by.
            ("z", 0, "."),
            ("z/r/", 0o700, ""),
            ("r", 0, "a"),
        ];
        let dir = unpacked(&entries, Limits::DEFAULT).unwrap();
        for path in ["a", "a/q"] {
            let mode = std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{path}");
        }
    }

    #[test]
    fn the_bookkeeping_of_aufs_is_passed_over() {
        let entries = [(".wh..wh.plnk/", 0o755, ""), (".wh..wh.plnk/1.2/", 0o755, "")];
        let dir = unpacked(&entries, Limits::DEFAULT).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let error = unpacked(&[(".wh.a/b/", 0o755, "")], Limits::DEFAULT).unwrap_err();
        assert!(error.to_string().contains("passes a whiteout"), "{error}");
    }

    #[test]
    fn a_directory_that_is_described_again_takes_its_memory_once() {
        let name = format!("{}/", "n".repeat(90));
        let entries = [(name.as_str(), 0o755, ""); 500];
        let limits = Limits { directories: 1024, ..Limits::DEFAULT };
        unpacked(&entries, limits).unwrap();
    }
}
