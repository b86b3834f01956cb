//! The directory of one layer while it is filled: the only way from a name in an archive to a
//! place on disk.
//!
//! A name is walked component by component with `O_NOFOLLOW`, so the kernel never follows a
//! symbolic link for us. Where a component is a link that the layer itself brought, it is resolved
//! here as inside a chroot, with two differences to one: `..` above the root is an error instead
//! of the root, and a link must lead to something that this layer has. A write through
//! `evil -> /etc` or `evil -> ../../etc` is thus refused, not silently confined.
//!
//! Nothing else writes below the directory meanwhile: it lies in a directory of mode 0700 whose
//! owner is this process. Depth is bounded, so that removal, which holds a descriptor per level,
//! cannot run out of them.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::told;

/// Levels of directories of a layer.
pub(super) const MAX_DEPTH: usize = 256;
const MAX_LINKS: usize = 40;
/// Components of all links of a path: what a path costs that is nothing but links to links.
const MAX_STEPS: usize = 1024;
/// Descriptors of directories held open; archives are sorted by directory, so few are in use.
const MAX_CACHED: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("its name is absolute")]
    Absolute,
    #[error("its name leads outside of the layer by \"..\"")]
    DotDot,
    #[error("its path is longer than 4096 bytes or a component longer than 255")]
    TooLong,
    #[error("it lies more than {MAX_DEPTH} directories deep")]
    TooDeep,
    #[error("its path leads outside of the layer through symbolic link {link:?} -> {target:?}")]
    Escape { link: String, target: String },
    #[error(
        "its path passes symbolic link {link:?} -> {target:?}, which leads to nothing in this layer"
    )]
    Dangling { link: String, target: String },
    #[error("its path passes too many symbolic links")]
    Links,
    #[error("its path passes {0:?}, which is not a directory")]
    NotDirectory(String),
    #[error("{0} does not exist in this layer")]
    Missing(String),
    #[error("{operation}")]
    Io { operation: &'static str, source: io::Error },
}

impl Error {
    pub(super) fn io(operation: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Io { operation, source: errno.into() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Directory {
    pub(super) fd: Rc<OwnedFd>,
    depth: usize,
}

#[derive(Debug)]
pub(super) struct Tree {
    root: Directory,
    cache: HashMap<Vec<u8>, Directory>,
    /// Directories that no entry had described when they were needed.
    pub(super) implied: Vec<Vec<u8>>,
}

/// A name of an archive, checked: components joined by single slashes; empty for the root.
pub(super) fn normalise(name: &[u8]) -> Result<Vec<u8>, Error> {
    if name.len() > 4096 {
        return Err(Error::TooLong);
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Error::DotDot),
            _ if component.len() > 255 => return Err(Error::TooLong),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    if name.starts_with(b"/") && !path.is_empty() {
        return Err(Error::Absolute);
    }
    Ok(path)
}

/// Parent and last component of a normalised path that is not the root.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, OsStr::from_bytes(name), flags, Mode::empty())
}

impl Tree {
    /// `dir` exists, is empty and ours.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = Rc::new(rustix::fs::open(dir, flags, Mode::empty())?);
        Ok(Self { root: Directory { fd, depth: 0 }, cache: HashMap::new(), implied: Vec::new() })
    }

    /// The directory at a normalised path. With `create`, missing directories are made.
    pub(super) fn directory(&mut self, path: &[u8], create: bool) -> Result<Directory, Error> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(known) = self.cache.get(path) {
            return Ok(known.clone());
        }
        // The nearest cached ancestor saves most of the walk.
        let mut ancestor = split(path).0;
        let start = loop {
            if ancestor.is_empty() {
                break None;
            }
            if let Some(known) = self.cache.get(ancestor) {
                break Some(known.clone());
            }
            ancestor = split(ancestor).0;
        };
        let found = match start {
            // Its own ancestors are unknown, so this is for plain components only.
            Some(start) => match self.descend(&start, &path[ancestor.len() + 1..], path, create)? {
                Some(found) => found,
                None => self.walk(path, create)?,
            },
            None => self.walk(path, create)?,
        };
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), found.clone());
        Ok(found)
    }

    /// The directory at a normalised path, not what a link in its place leads to.
    pub(super) fn own(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root.fd));
        }
        let (parent, name) = split(path);
        let at = self.directory(parent, false)?.fd;
        match open_directory(&at, name) {
            Ok(fd) => Ok(Rc::new(fd)),
            Err(Errno::NOENT) => Err(Error::Missing(lossy(path))),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(Error::NotDirectory(lossy(path))),
            Err(errno) => Err(Error::io("open its directory")(errno)),
        }
    }

    /// To be called after something that existed was removed or replaced.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
    }

    /// `None` where a component is not a directory.
    fn descend(
        &mut self,
        start: &Directory,
        rest: &[u8],
        path: &[u8],
        create: bool,
    ) -> Result<Option<Directory>, Error> {
        let mut current = start.clone();
        let mut end = path.len() - rest.len();
        for name in rest.split(|byte| *byte == b'/') {
            end += name.len();
            let depth = current.depth + 1;
            if depth > MAX_DEPTH {
                return Err(Error::TooDeep);
            }
            let fd = match open_directory(&current.fd, name) {
                Ok(fd) => fd,
                Err(Errno::NOENT) if create => self.make(&current.fd, name, &path[..end])?,
                Err(Errno::NOENT) => return Err(Error::Missing(lossy(&path[..end]))),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(Error::io("open its directory")(errno)),
            };
            current = Directory { fd: Rc::new(fd), depth };
            end += 1;
        }
        Ok(Some(current))
    }

    fn walk(&mut self, path: &[u8], create: bool) -> Result<Directory, Error> {
        let mut stack = vec![Rc::clone(&self.root.fd)];
        let mut todo: VecDeque<Vec<u8>> =
            path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        // How many components at the front come from links, and which link was the last.
        let mut from_link = 0_usize;
        let mut link = (String::new(), String::new());
        let (mut links, mut steps) = (0, 0);
        let mut walked = Vec::new();
        while let Some(name) = todo.pop_front() {
            let linked = from_link > 0;
            from_link = from_link.saturating_sub(1);
            let Some(current) = stack.last().cloned() else { return Err(Error::Links) };
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if stack.len() == 1 {
                        return Err(Error::Escape { link: link.0, target: link.1 });
                    }
                    stack.pop();
                    continue;
                }
                _ => {}
            }
            if !linked {
                if !walked.is_empty() {
                    walked.push(b'/');
                }
                walked.extend_from_slice(&name);
            }
            if stack.len() > MAX_DEPTH {
                return Err(Error::TooDeep);
            }
            match open_directory(&current, &name) {
                Ok(fd) => stack.push(Rc::new(fd)),
                Err(Errno::NOENT) if linked => {
                    return Err(Error::Dangling { link: link.0, target: link.1 });
                }
                Err(Errno::NOENT) if create => {
                    stack.push(Rc::new(self.make(&current, &name, &walked)?));
                }
                Err(Errno::NOENT) => return Err(Error::Missing(lossy(&walked))),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let target =
                        match rustix::fs::readlinkat(&*current, name.as_slice(), Vec::new()) {
                            Ok(target) => target.into_bytes(),
                            Err(Errno::INVAL) => return Err(Error::NotDirectory(lossy(&walked))),
                            Err(errno) => return Err(Error::io("read a link of its path")(errno)),
                        };
                    links += 1;
                    steps += target.iter().filter(|byte| **byte == b'/').count() + 1;
                    if links > MAX_LINKS || steps > MAX_STEPS {
                        return Err(Error::Links);
                    }
                    link = (lossy(&walked), lossy(&target));
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    let parts: Vec<Vec<u8>> =
                        target.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
                    from_link += parts.len();
                    for part in parts.into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                Err(errno) => return Err(Error::io("open its directory")(errno)),
            }
        }
        let depth = stack.len() - 1;
        let fd = stack.pop().unwrap_or_else(|| Rc::clone(&self.root.fd));
        Ok(Directory { fd, depth })
    }

    fn make(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, Error> {
        rustix::fs::mkdirat(parent, OsStr::from_bytes(name), Mode::RWXU)
            .map_err(Error::io("make its directory"))?;
        self.implied.push(path.to_vec());
        open_directory(parent, name).map_err(Error::io("open its directory"))
    }

    /// Makes room at `name`; a directory goes with all that it holds.
    pub(super) fn remove(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        self.forget();
        let name = OsStr::from_bytes(name);
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::io("look at what it replaces")(errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return rustix::fs::unlinkat(parent, name, AtFlags::empty())
                .map_err(Error::io("remove what it replaces"));
        }
        let failed = |source| Error::Io { operation: "remove what it replaces", source };
        let root = pathrs::Root::from_fd(parent.try_clone().map_err(failed)?);
        root.remove_all(Path::new(name)).map_err(|error| failed(io::Error::other(error)))
    }
}

/// A name or target as errors show it, which may be a MiB of anything.
pub(super) fn lossy(name: &[u8]) -> String {
    told(&String::from_utf8_lossy(&name[..name.len().min(4096)]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_are_normalised_or_refused() {
        for (name, path) in [
            ("a", Some("a")),
            ("./a//b/./c/", Some("a/b/c")),
            (".", Some("")),
            ("./", Some("")),
            ("/", Some("")),
            ("", Some("")),
            ("..a/b..", Some("..a/b..")),
            ("/a", None),
            ("//a", None),
            ("a/../b", None),
            ("..", None),
            ("a/..", None),
        ] {
            let normal = normalise(name.as_bytes()).ok();
            assert_eq!(normal.as_deref(), path.map(str::as_bytes), "{name}");
        }
        assert!(normalise(&[b'a'; 256]).is_err());
        assert!(normalise(&b"a/".repeat(2049)).is_err());
    }

    #[test]
    fn links_are_resolved_inside_and_escapes_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("usr/lib")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (link, target) in [
            ("lib", "usr/lib"),
            ("abs", "/usr/lib"),
            ("up", "usr/../usr/./lib"),
            ("usr/back", "../usr/lib"),
            ("over", "usr/../../etc"),
            ("host", "/etc"),
            ("loop", "loop"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let mut tree = Tree::open(dir.path()).unwrap();
        let lib = tree.directory(b"usr/lib", false).unwrap();
        for path in ["lib", "abs", "up", "usr/back"] {
            let found = tree.directory(path.as_bytes(), true).unwrap();
            assert_eq!(inode(&found.fd), inode(&lib.fd), "{path}");
        }
        for (path, text) in [
            ("over/x", "outside of the layer through symbolic link \"over\" -> \"usr/../../etc\""),
            ("host/x", "\"host\" -> \"/etc\", which leads to nothing"),
            ("loop/x", "too many symbolic links"),
            ("file/x", "\"file\", which is not a directory"),
        ] {
            let error = tree.directory(path.as_bytes(), true).unwrap_err().to_string();
            assert!(error.contains(text), "{error} does not say {text}");
        }
        assert!(matches!(tree.directory(b"no/x", false), Err(Error::Missing(_))));
        symlink("usr/../".repeat(500), at("long")).unwrap();
        tree.directory(b"long/usr", false).unwrap();
        symlink("usr/../".repeat(500) + "long", at("longer")).unwrap();
        assert!(matches!(tree.directory(b"longer/usr", false), Err(Error::Links)));
        tree.directory(b"lib/a/b", true).unwrap();
        assert!(at("usr/lib/a/b").is_dir());
        assert_eq!(tree.implied, [b"lib/a".to_vec(), b"lib/a/b".to_vec()]);
    }

    #[test]
    fn depth_is_bounded_through_links_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(dir.path()).unwrap();
        let deep = vec!["a"; 200].join("/");
        tree.directory(deep.as_bytes(), true).unwrap();
        symlink(&deep, dir.path().join("l")).unwrap();
        let deeper = format!("l/{}", vec!["b"; 100].join("/"));
        assert!(matches!(tree.directory(deeper.as_bytes(), true), Err(Error::TooDeep)));
        assert!(matches!(
            tree.directory(vec!["c"; 257].join("/").as_bytes(), true),
            Err(Error::TooDeep)
        ));
    }
}
