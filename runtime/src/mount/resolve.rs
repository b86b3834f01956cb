//! Paths below a container's root, resolved by the kernel and, where they are missing, made.
//!
//! Allocates nothing: the child after a clone calls it. Every open is `RESOLVE_IN_ROOT`; what is
//! computed here as text is only a proposal that the kernel resolves again, so a tree that changes
//! meanwhile can make this fail or make a directory elsewhere below the root, and no more.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use crate::sys::{Errno, Mode, Result, SFlag, fd::leave, fstat, mkdirat, mknodat, mount};

const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
const EXACT: u64 = IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
const MOST_LINKS: usize = 40;

/// What a path is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A directory, made with its parents if it is missing.
    Directory,
    /// Something to mount a file on: an empty file is made if it is missing.
    File,
    /// As `Directory`, but no part may be a symbolic link: `/proc` and `/sys` must be where
    /// everybody looks for them (CVE-2019-19921).
    PlainDirectory,
}

/// Opens what exists, `O_PATH`, following links inside the root.
///
/// # Errors
/// Those of openat2(2).
pub fn existing(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    mount::openat2(root, path, libc::O_PATH, IN_ROOT)
}

/// Opens for use, without following any link.
///
/// # Errors
/// Those of openat2(2); `ELOOP` for a link.
pub fn exact(root: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<OwnedFd> {
    mount::openat2(root, path, flags, EXACT)
}

/// Opens a path, `O_PATH`, making what is missing. Directories get mode 0755, files 0644, less the
/// umask.
///
/// # Errors
/// Those of openat2(2), mkdirat(2) and mknodat(2).
pub fn ensure(root: BorrowedFd<'_>, path: &CStr, want: Want) -> Result<OwnedFd> {
    let resolve = if want == Want::PlainDirectory { EXACT } else { IN_ROOT };
    match mount::openat2(root, path, libc::O_PATH, resolve) {
        Err(Errno::ENOENT) => match make_last(root, path, want) {
            Some(made) => Ok(made),
            None => make(root, path, want),
        },
        other => other,
    }
}

/// The usual case in few calls: no link on the way, and only the last component is missing. `None`
/// if it is not that, for the long way to find out.
pub fn make_last(root: BorrowedFd<'_>, path: &CStr, want: Want) -> Option<OwnedFd> {
    let slash = path.to_bytes().iter().rposition(|byte| *byte == b'/')?;
    let name = CStr::from_bytes_with_nul(path.to_bytes_with_nul().get(slash + 1..)?).ok()?;
    if matches!(name.to_bytes(), b"" | b"." | b"..") {
        return None;
    }
    let mut above = Text::new();
    above.push(path.to_bytes().get(..slash)?).ok()?;
    let parent = mount::openat2(root, above.c_str(), libc::O_PATH, EXACT).ok()?;
    if want == Want::File {
        mknodat(&parent, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0).ok()?;
    } else {
        mkdirat(&parent, name, Mode::from_bits_truncate(0o755)).ok()?;
    }
    let made = mount::openat2(parent.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, EXACT).ok();
    leave(parent);
    made
}

/// As [`ensure`], for what is to be mounted on. The configuration's destinations were examined as
/// text; a link of the image must not lead such a mount into `/proc`, through which labels and limits
/// are written (CVE-2019-16884).
///
/// # Errors
/// As [`ensure`]; `EXDEV` if links lead into a procfs.
pub fn mount_point(root: BorrowedFd<'_>, path: &CStr, want: Want) -> Result<OwnedFd> {
    match mount::openat2(root, path, libc::O_PATH, EXACT) {
        Err(Errno::ENOENT) => {
            if let Some(made) = make_last(root, path, want) {
                return Ok(made);
            }
        }
        Err(Errno::ELOOP) => {}
        other => return other,
    }
    let target = ensure(root, path, want)?;
    // What names `/proc` itself has been examined; `/proc/net` is a link of the kernel's own.
    if !path.to_bytes().starts_with(b"/proc/")
        && mount::file_system(target.as_fd())? == mount::PROC_SUPER_MAGIC
    {
        return Err(Errno::EXDEV);
    }
    Ok(target)
}

/// Opens a file below the host's `/proc`, as the launch opened it; the path may begin
/// with `/proc/`. Nothing that is mounted over a part of it is written to (CVE-2025-52881).
///
/// # Errors
/// Those of openat2(2); `EXDEV` for what lies on another mount.
pub fn in_proc(proc: BorrowedFd<'_>, path: &CStr, flags: i32) -> Result<OwnedFd> {
    let bytes = path.to_bytes_with_nul();
    let rest = bytes.strip_prefix(b"/proc/").unwrap_or(bytes);
    let rest = CStr::from_bytes_with_nul(rest).or(Err(Errno::EINVAL))?;
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;
    mount::openat2(proc, rest, flags, resolve)
}

fn make(root: BorrowedFd<'_>, path: &CStr, want: Want) -> Result<OwnedFd> {
    let mut rest = Text::new();
    rest.push(path.to_bytes())?;
    let mut done = Text::new();
    let mut component = Text::new();
    let mut links = 0;
    while rest.take_first(&mut component) {
        match component.bytes() {
            b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            name => done.push(name)?,
        }
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let here = match mount::openat2(root, done.c_str(), flags, EXACT) {
            Ok(here) => here,
            Err(Errno::ENOENT) => {
                done.pop();
                let parent = mount::openat2(root, done.c_str(), libc::O_PATH, EXACT)?;
                let name = component.relative();
                let made = if want == Want::File && rest.is_empty() {
                    let mode = Mode::from_bits_truncate(0o644);
                    mknodat(parent.as_fd(), name, SFlag::S_IFREG, mode, 0)
                } else {
                    mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o755))
                };
                match made {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno),
                }
                done.push(component.bytes())?;
                continue;
            }
            Err(errno) => return Err(errno),
        };
        if fstat(&here)?.st_mode & libc::S_IFMT != libc::S_IFLNK {
            continue;
        }
        links += 1;
        if links > MOST_LINKS || want == Want::PlainDirectory {
            return Err(Errno::ELOOP);
        }
        let mut buffer = [0; Text::SIZE];
        let target = mount::read_link(here.as_fd(), &mut buffer)?;
        if target.first() == Some(&b'/') {
            done.clear();
        } else {
            done.pop();
        }
        rest.prepend(target)?;
    }
    mount::openat2(root, done.c_str(), libc::O_PATH | libc::O_NOFOLLOW, EXACT)
}

/// A path on the stack: `/a/b`, terminated by zero; empty is the root.
struct Text {
    bytes: [u8; Self::SIZE],
    length: usize,
}

impl Text {
    const SIZE: usize = 4096;

    fn new() -> Self {
        Self { bytes: [0; Self::SIZE], length: 0 }
    }

    fn clear(&mut self) {
        self.length = 0;
        self.bytes[0] = 0;
    }

    /// Appends `/` and a path, without its leading slashes.
    fn push(&mut self, path: &[u8]) -> Result<()> {
        let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
        let path = &path[start..];
        let end = self.length + 1 + path.len();
        // One byte stays for the zero.
        if end >= Self::SIZE {
            return Err(Errno::ENAMETOOLONG);
        }
        self.bytes[self.length] = b'/';
        self.bytes[self.length + 1..end].copy_from_slice(path);
        self.length = end;
        self.bytes[end] = 0;
        Ok(())
    }

    /// Puts a path before this one.
    fn prepend(&mut self, path: &[u8]) -> Result<()> {
        let mut joined = Self::new();
        joined.push(path)?;
        joined.push(&self.bytes[..self.length])?;
        *self = joined;
        Ok(())
    }

    /// Takes the last component off.
    fn pop(&mut self) {
        let slash = self.bytes[..self.length].iter().rposition(|byte| *byte == b'/');
        self.length = slash.unwrap_or(0);
        self.bytes[self.length] = 0;
    }

    /// Moves the first component into `first`; `false` if there is none.
    fn take_first(&mut self, first: &mut Self) -> bool {
        let bytes = &self.bytes[..self.length];
        let Some(start) = bytes.iter().position(|byte| *byte != b'/') else {
            return false;
        };
        let end = bytes[start..].iter().position(|byte| *byte == b'/');
        let end = end.map_or(self.length, |length| start + length);
        first.clear();
        first.bytes[0] = b'/';
        first.bytes[1..=end - start].copy_from_slice(&self.bytes[start..end]);
        first.length = 1 + end - start;
        first.bytes[first.length] = 0;
        self.bytes.copy_within(end..self.length, 0);
        self.length -= end;
        self.bytes[self.length] = 0;
        true
    }

    fn is_empty(&self) -> bool {
        self.bytes[..self.length].iter().all(|byte| *byte == b'/')
    }

    /// Without the leading slash.
    fn bytes(&self) -> &[u8] {
        self.bytes.get(1..self.length).unwrap_or_default()
    }

    /// With the leading slash; the root is `/`.
    fn c_str(&self) -> &CStr {
        if self.length == 0 {
            return c"/";
        }
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"/")
    }

    /// Without the leading slash.
    fn relative(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[1..]).unwrap_or(c"")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(directory.path()).unwrap().into();
        (directory, fd)
    }

    fn same(fd: &OwnedFd, path: &std::path::Path) -> bool {
        fstat(fd).unwrap().st_ino == std::fs::symlink_metadata(path).unwrap().ino()
    }

    #[test]
    fn makes_directories_and_files() {
        let (directory, root) = root();
        let at = directory.path();
        let fd = ensure(root.as_fd(), c"/a/b/c", Want::Directory).unwrap();
        assert!(same(&fd, &at.join("a/b/c")));
        let fd = ensure(root.as_fd(), c"/a//x/./y/../file", Want::File).unwrap();
        assert!(same(&fd, &at.join("a/x/file")));
        assert!(at.join("a/x/file").is_file());
        let fd = ensure(root.as_fd(), c"/", Want::Directory).unwrap();
        assert!(same(&fd, at));
    }

    #[test]
    fn links_stay_inside_the_root_even_where_they_dangle() {
        let (directory, root) = root();
        let at = directory.path();
        std::fs::create_dir_all(at.join("var")).unwrap();
        std::fs::create_dir_all(at.join("etc")).unwrap();
        symlink("/run", at.join("var/run")).unwrap();
        symlink("../run/systemd/resolve/stub", at.join("etc/resolv.conf")).unwrap();
        symlink("../../../../../../../outside", at.join("etc/up")).unwrap();
        let fd = ensure(root.as_fd(), c"/var/run/secrets", Want::Directory).unwrap();
        assert!(same(&fd, &at.join("run/secrets")));
        let fd = ensure(root.as_fd(), c"/etc/resolv.conf", Want::File).unwrap();
        assert!(same(&fd, &at.join("run/systemd/resolve/stub")));
        let fd = ensure(root.as_fd(), c"/etc/up/x", Want::Directory).unwrap();
        assert!(same(&fd, &at.join("outside/x")));
    }

    #[test]
    fn loops_and_links_where_none_may_be_are_refused() {
        let (directory, root) = root();
        let at = directory.path();
        symlink("loop", at.join("loop")).unwrap();
        assert_eq!(ensure(root.as_fd(), c"/loop/x", Want::Directory).unwrap_err(), Errno::ELOOP);
        std::fs::create_dir(at.join("real")).unwrap();
        symlink("real", at.join("proc")).unwrap();
        assert_eq!(ensure(root.as_fd(), c"/proc", Want::PlainDirectory).unwrap_err(), Errno::ELOOP);
        symlink("missing", at.join("sys")).unwrap();
        assert_eq!(ensure(root.as_fd(), c"/sys", Want::PlainDirectory).unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn long_paths_are_refused() {
        let (_directory, root) = root();
        let path = std::ffi::CString::new("/a".repeat(3000)).unwrap();
        assert_eq!(ensure(root.as_fd(), &path, Want::Directory).unwrap_err(), Errno::ENAMETOOLONG);
    }

    #[test]
    fn links_into_proc_are_no_mount_points() {
        let (directory, root) = root();
        symlink("/proc", directory.path().join("trap")).unwrap();
        std::fs::create_dir(directory.path().join("proc")).unwrap();
        // An empty directory that is called so is harmless.
        assert!(mount_point(root.as_fd(), c"/trap", Want::Directory).is_ok());
        let host: OwnedFd = std::fs::File::open("/").unwrap().into();
        // `/proc/net` is a link; only what is called `/proc/` may pass through it.
        let here = std::env::temp_dir().join(format!("lighter-trap-{}", std::process::id()));
        symlink("/proc/self/attr", &here).unwrap();
        let path = std::ffi::CString::new(here.to_str().unwrap()).unwrap();
        let refused = mount_point(host.as_fd(), &path, Want::Directory).map(drop);
        std::fs::remove_file(&here).unwrap();
        assert_eq!(refused.unwrap_err(), Errno::EXDEV);
        assert!(mount_point(host.as_fd(), c"/proc/net/dev", Want::File).is_ok());
    }

    #[test]
    fn what_is_mounted_in_proc_is_not_opened() {
        let proc: OwnedFd = std::fs::File::open("/proc").unwrap().into();
        let open = |path: &CStr| in_proc(proc.as_fd(), path, libc::O_PATH).map(drop);
        assert_eq!(open(c"/proc/sys/kernel/shmmni"), Ok(()));
        assert_eq!(open(c"thread-self/attr/exec"), Ok(()));
        assert_eq!(open(c"/proc/../etc"), Err(Errno::EXDEV));
        assert_eq!(open(c"self/root"), Err(Errno::ELOOP));
    }
}
