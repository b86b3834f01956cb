//! A control group's directory, and input and output relative to it.
//!
//! Promises: what was there is reached by descriptor once it is open; what we made, by its path (there are no links in a
//! cgroup file system) until a descriptor is wanted; a directory we make above a container's own carries
//! a mark (an extended attribute) and only such directories are removed with the container, when they are empty.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, RawDir, XattrFlags};
use rustix::io::Errno;

use super::Error;

/// Attribute on the parents we made; its presence is its meaning.
const MARK: &str = "trusted.lighter.made";
/// Times a parent may vanish under us because another container that used it was just removed.
const RACES: usize = 16;

/// An open control group directory.
#[derive(Debug)]
pub(crate) struct Dir {
    /// Controllers of its hierarchy, as `discover` names them.
    pub(crate) controllers: String,
    /// Mount point of the hierarchy.
    pub(crate) mount: PathBuf,
    /// Where it is, for errors, removal and the record.
    pub(crate) path: PathBuf,
    /// Whether `create` made it, rather than take it as it was.
    pub(crate) fresh: bool,
    /// Opened when it is first wanted: of most that are made, only one file is.
    fd: OnceCell<OwnedFd>,
}

/// A failed access, without the path, which the caller knows.
fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

impl Dir {
    /// Opens an existing group; `None` if there is none.
    pub(crate) fn open(
        controllers: &str,
        mount: &Path,
        path: &Path,
    ) -> Result<Option<Self>, Error> {
        match open_dir(path) {
            Ok(fd) => Ok(Some(Self {
                controllers: controllers.to_owned(),
                mount: mount.to_owned(),
                path: path.to_owned(),
                fresh: false,
                fd: OnceCell::from(fd),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(source) => Err(Error::Open { path: path.to_owned(), source: source.into() }),
        }
    }

    /// Makes the group `relative` below the mount point, parents included, and opens it.
    ///
    /// An empty group of that name is what a killed create left: it is replaced, so that no old limit survives. One
    /// with processes is refused; one that only has groups below it (conmon puts itself there) is taken as it is.
    pub(crate) fn create(controllers: &str, mount: &Path, relative: &str) -> Result<Self, Error> {
        let path = mount.join(relative);
        let mut made = make(&path);
        for _ in 0..RACES {
            match made {
                Err(Errno::NOENT) => {
                    make_parents(mount, relative)?;
                    made = make(&path);
                }
                Err(Errno::EXIST) => match rustix::fs::rmdir(&path) {
                    Ok(()) | Err(Errno::NOENT) => made = make(&path),
                    Err(Errno::BUSY) => break,
                    Err(source) => {
                        return Err(Error::Remove { path, source: source.into() });
                    }
                },
                Ok(()) | Err(_) => break,
            }
        }
        let fresh = match made {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(source) => return Err(Error::Create { path, source: source.into() }),
        };
        let dir = Self {
            controllers: controllers.to_owned(),
            mount: mount.to_owned(),
            path: path.clone(),
            fresh,
            fd: OnceCell::new(),
        };
        if !fresh {
            if !dir.pids()?.is_empty() {
                return Err(Error::InUse { path });
            }
            if dir.is_frozen()? {
                return Err(Error::Frozen { path });
            }
        }
        Ok(dir)
    }

    /// Whether a process that came here would stand still.
    fn is_frozen(&self) -> Result<bool, Error> {
        Ok(match self.controllers.as_str() {
            "" => matches!(self.read("cgroup.freeze"), Ok(text) if text.trim() == "1"),
            _ if self.has("freezer") => self.read("freezer.state")?.trim() != "THAWED",
            _ => false,
        })
    }

    /// Opens the group that systemd made; makes it in the hierarchies that systemd leaves alone. Where systemd was,
    /// there is the process that it was given, but in a slice.
    pub(crate) fn adopt(controllers: &str, mount: &Path, relative: &str) -> Result<Self, Error> {
        match Self::open(controllers, mount, &mount.join(relative))? {
            Some(dir) if relative.ends_with(".slice") || !dir.pids()?.is_empty() => Ok(dir),
            _ => Self::create(controllers, mount, relative),
        }
    }

    /// An existing group, of which no more than a few files are wanted.
    pub(crate) fn at(controllers: &str, mount: &Path, path: &Path) -> Self {
        Self {
            controllers: controllers.to_owned(),
            mount: mount.to_owned(),
            path: path.to_owned(),
            fresh: false,
            fd: OnceCell::new(),
        }
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let fd = open_dir(&self.path)?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }

    fn opened(&self) -> Result<BorrowedFd<'_>, Error> {
        self.fd().map_err(|source| Error::Open { path: self.path.clone(), source })
    }

    /// Whether this hierarchy has the controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }

    /// Opens a control file.
    pub(crate) fn open_file(&self, file: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        Ok(match self.fd.get() {
            Some(fd) => rustix::fs::openat(fd, file, flags, Mode::empty())?,
            None => rustix::fs::open(self.path.join(file), flags, Mode::empty())?,
        })
    }

    /// Writes a control file in one call, as the kernel demands.
    pub(crate) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        loop {
            match rustix::io::write(&fd, value.as_bytes()) {
                Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(source) => return Err(source.into()),
            }
        }
    }

    /// As `write`, with the error that names everything.
    pub(crate) fn set(&self, file: &str, value: &str) -> Result<(), Error> {
        self.write(file, value).map_err(|source| Error::Write {
            path: self.path.join(file),
            value: value.to_owned(),
            source,
        })
    }

    /// Reads a control file.
    pub(crate) fn read(&self, file: &str) -> Result<String, Error> {
        self.fd()
            .and_then(|fd| read_below(fd, file))
            .map_err(|source| Error::Read { path: self.path.join(file), source })
    }

    /// Reads a control file that is one piece of text, of a group that need not be open.
    pub(crate) fn value(&self, file: &str) -> Result<String, Error> {
        let path = self.path.join(file);
        let bytes = read_piece(&path);
        bytes
            .and_then(text)
            .map(|text| text.trim().to_owned())
            .map_err(|source| Error::Read { path, source })
    }

    /// Processes directly in this group.
    pub(crate) fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        self.collect_direct(self.opened()?, &self.path, &mut pids)?;
        Ok(pids)
    }

    /// Processes in this group and all below it.
    pub(crate) fn pids_below(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        let mut pending: Vec<(OwnedFd, PathBuf)> = Vec::new();
        self.collect_direct(self.opened()?, &self.path, &mut pids)?;
        pending.extend(children(self.opened()?, &self.path)?);
        while let Some((fd, path)) = pending.pop() {
            self.collect_direct(fd.as_fd(), &path, &mut pids)?;
            pending.extend(children(fd.as_fd(), &path)?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Writes a control file of every group below this one, as far as that goes; parents first.
    pub(crate) fn set_below(&self, file: &str, value: &str) -> Result<(), Error> {
        let mut pending = children(self.opened()?, &self.path)?;
        while let Some((fd, path)) = pending.pop() {
            let written =
                rustix::fs::openat(&fd, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                    .and_then(|fd| rustix::io::write(&fd, value.as_bytes()));
            if let Err(errno) = written {
                log::debug!("write {value} to {file} in {}: {errno}", path.display());
            }
            pending.extend(children(fd.as_fd(), &path)?);
        }
        Ok(())
    }

    fn collect_direct(
        &self,
        fd: BorrowedFd<'_>,
        path: &Path,
        pids: &mut Vec<i32>,
    ) -> Result<(), Error> {
        match read_below(fd, "cgroup.procs") {
            Ok(text) => {
                pids.extend(
                    text.split_ascii_whitespace()
                        .filter_map(|pid| pid.parse::<i32>().ok())
                        // 0 is a process of a pid namespace that we do not see.
                        .filter(|&pid| pid > 0),
                );
                Ok(())
            }
            // Removed meanwhile: a group without a directory has no processes.
            Err(source) if gone(&source) => Ok(()),
            // A threaded group below the container's own; its processes are listed at its root.
            Err(source) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            Err(source) => Err(Error::Read { path: path.join("cgroup.procs"), source }),
        }
    }

    /// Removes the group, all below it, and the marked parents that are then empty.
    pub(crate) fn remove(&self, deadline: Instant) -> Result<(), Error> {
        remove(&self.mount, &self.path, deadline).map_err(|error| match error {
            Error::Remove { path, source } if source.raw_os_error() == Some(libc::EBUSY) => {
                let pids = self.pids_below().unwrap_or_default();
                Error::Stuck { path, pids }
            }
            other => other,
        })
    }

    /// Whether there is such a control file.
    pub(crate) fn has_file(&self, file: &str) -> bool {
        self.fd().is_ok_and(|fd| {
            rustix::fs::accessat(fd, file, Access::EXISTS, AtFlags::empty()).is_ok()
        })
    }
}

/// Whether an error says that the group was removed.
pub(crate) fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn make(path: &Path) -> Result<(), Errno> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))
}

/// Makes and marks the missing directories above the last one.
fn make_parents(mount: &Path, relative: &str) -> Result<(), Error> {
    let mut path = mount.to_owned();
    let Some((parents, _)) = relative.rsplit_once('/') else { return Ok(()) };
    for component in parents.split('/') {
        path.push(component);
        match make(&path) {
            Ok(()) => match rustix::fs::setxattr(&path, MARK, b"1", XattrFlags::empty()) {
                // Without the mark the directory stays behind empty, which harms nobody.
                Ok(()) | Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(source) => return Err(Error::Create { path, source: source.into() }),
            },
            Err(Errno::EXIST) => {}
            // The next round of the caller makes it again.
            Err(Errno::NOENT) => return Ok(()),
            Err(source) => return Err(Error::Create { path, source: source.into() }),
        }
    }
    Ok(())
}

/// Reads a whole control file as text.
fn read_below(fd: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    text(read_bytes(fd, file)?)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a whole file of the kernel's; most fit into the first buffer.
pub(super) fn read_bytes(fd: BorrowedFd<'_>, file: &str) -> io::Result<Vec<u8>> {
    let file = rustix::fs::openat(fd, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_open(&file, false)
}

/// As [`read_bytes`], of a file that the kernel writes as one piece, not by entries: what leaves room in
/// the buffer is all.
pub(super) fn read_piece(path: &Path) -> io::Result<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_open(&file, true)
}

fn read_open(file: &OwnedFd, piece: bool) -> io::Result<Vec<u8>> {
    let mut text = vec![0u8; 4096];
    let mut filled = 0;
    loop {
        match rustix::io::read(file, text.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                if filled < text.len() && piece {
                    break;
                }
                if filled == text.len() {
                    text.resize(filled * 2, 0);
                }
            }
            Err(Errno::INTR) => {}
            Err(source) => return Err(source.into()),
        }
    }
    text.truncate(filled);
    Ok(text)
}

/// Opens the groups directly below one.
fn children(fd: BorrowedFd<'_>, path: &Path) -> Result<Vec<(OwnedFd, PathBuf)>, Error> {
    let failed =
        |source: Errno| Error::Read { path: path.to_owned(), source: io::Error::from(source) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // A second descriptor, because reading a directory moves the offset of the one it is read from.
    let listing = match rustix::fs::openat(fd, ".", flags, Mode::empty()) {
        Ok(listing) => listing,
        Err(Errno::NOENT | Errno::NODEV) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(4096);
    let mut entries = RawDir::new(&listing, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT | Errno::NODEV) => break,
            Err(source) => return Err(failed(source)),
        };
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        match rustix::fs::openat(fd, name, flags, Mode::empty()) {
            Ok(child) => {
                use std::os::unix::ffi::OsStrExt as _;
                found.push((child, path.join(std::ffi::OsStr::from_bytes(name.to_bytes()))));
            }
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    Ok(found)
}

/// Removes the group at `path`, leaf first, and then the marked parents below `mount` that are empty.
///
/// A killed process keeps its group busy until it has left the kernel, so `EBUSY` is retried up to a deadline.
pub(crate) fn remove(mount: &Path, path: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(200);
    loop {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => break,
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(source) => {
                return Err(Error::Remove { path: path.to_owned(), source: source.into() });
            }
        }
        if remove_below(path)? {
            continue;
        }
        if Instant::now() >= deadline {
            return Err(Error::Remove { path: path.to_owned(), source: Errno::BUSY.into() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    remove_parents(mount, path);
    Ok(())
}

/// Removes the group at `path` if nothing is in it, and says whether it is gone.
pub(crate) fn remove_empty(mount: &Path, path: &Path) -> bool {
    let gone = matches!(rustix::fs::rmdir(path), Ok(()) | Err(Errno::NOENT));
    if gone {
        remove_parents(mount, path);
    }
    gone
}

/// Removes the marked parents that are empty.
fn remove_parents(mount: &Path, path: &Path) {
    for parent in path.ancestors().skip(1) {
        if parent == mount || !parent.starts_with(mount) {
            break;
        }
        let marked = rustix::fs::getxattr(parent, MARK, &mut [0u8; 4]).is_ok();
        if !marked || rustix::fs::rmdir(parent).is_err() {
            break;
        }
    }
}

/// Tries once to remove everything below `path`; true if something went.
fn remove_below(path: &Path) -> Result<bool, Error> {
    let top = match open_dir(path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(true),
        Err(source) => {
            return Err(Error::Open { path: path.to_owned(), source: source.into() });
        }
    };
    // Parents come before their children in this list, so it is emptied from its end.
    let mut found = children(top.as_fd(), path)?;
    let mut next = 0;
    while let Some((fd, path)) = found.get(next) {
        let below = children(fd.as_fd(), path)?;
        found.extend(below);
        next += 1;
    }
    let mut removed = false;
    for (fd, path) in found.into_iter().rev() {
        drop(fd);
        removed |= rustix::fs::unlinkat(CWD, &path, AtFlags::REMOVEDIR).is_ok();
    }
    Ok(removed)
}
