//! What a tmpfs takes from the directory that it covers: its mode, and with `tmpcopyup` what is in
//! it.
//!
//! Allocates nothing: the child after a clone calls it. Every name is opened by the descriptor of
//! its directory and without following links, so an image cannot have anything else copied.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::fcntl::openat;
use nix::sys::stat::fchmod;
use nix::unistd::fchown;

use crate::sys::{
    AtFlags, Errno, Mode, OFlag, Result, SFlag, fchownat, fd::FdPath, fstat, fstatat, mkdirat,
    mknodat, mount, symlinkat,
};

/// Directories in directories; more is refused, as each takes stack.
const DEEPEST: usize = 100;
/// Most bytes of options; the kernel takes a page.
const DATA: usize = 4096;

/// Options of a file system, on the stack.
#[derive(Debug)]
pub struct Data {
    bytes: [u8; DATA],
}

impl Data {
    /// The mode before all others, which may override it.
    ///
    /// # Errors
    /// `E2BIG` if they are more than the kernel takes.
    pub fn with_mode(mode: u32, data: Option<&CStr>) -> Result<Self> {
        let mut whole = Self { bytes: [0; DATA] };
        let data = data.map_or(b"".as_slice(), CStr::to_bytes);
        let mut mode_text = *b"mode=0000";
        for (place, shift) in mode_text[5..].iter_mut().zip([9, 6, 3, 0]) {
            *place = b'0' + (mode >> shift & 7).to_le_bytes()[0];
        }
        let separator: &[u8] = if data.is_empty() { b"" } else { b"," };
        let mut at = 0;
        for part in [mode_text.as_slice(), separator, data] {
            // One byte stays for the zero.
            let to = whole.bytes[..DATA - 1].get_mut(at..at + part.len()).ok_or(Errno::E2BIG)?;
            to.copy_from_slice(part);
            at += part.len();
        }
        Ok(whole)
    }

    /// As a C string.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

/// Copies what is in one directory into another, with owners and modes, but for sockets. Both may be
/// `O_PATH` descriptors.
///
/// # Errors
/// The first of any system call; `ELOOP` if it is too deep.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    copy_directory(&opened(from, c".")?, to, 0)
}

fn opened(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    mount::openat2(directory, name, flags, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS)
}

fn copy_directory(from: &OwnedFd, to: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Errno::ELOOP);
    }
    let mut buffer = [0; 4096];
    loop {
        let length = mount::entries(from.as_fd(), &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..length).unwrap_or_default();
        // Inode and offset, 8 bytes each, the record's length, the type, the name.
        while let Some(record) = rest.get(16..18) {
            let size = record.try_into().map_or(0, u16::from_ne_bytes);
            let name = rest.get(19..).map(CStr::from_bytes_until_nul);
            let Some(Ok(name)) = name else { break };
            if name != c"." && name != c".." {
                copy_one(from, to, name, depth)?;
            }
            rest = rest.get(usize::from(size).max(1)..).unwrap_or_default();
        }
    }
}

fn copy_one(from: &OwnedFd, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    let info = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_bits_truncate(info.st_mode & 0o7777);
    let (uid, gid) = (Some(info.st_uid.into()), Some(info.st_gid.into()));
    let private = Mode::from_bits_truncate(0o700);
    // Owner before mode: a change of the owner takes set-user-id away.
    match info.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            mkdirat(to, name, private)?;
            let made = opened(to, name)?;
            copy_directory(&opened(from.as_fd(), name)?, made.as_fd(), depth + 1)?;
            fchown(&made, uid, gid)?;
            fchmod(&made, mode)
        }
        libc::S_IFREG => {
            let source = openat(from, name, OFlag::O_RDONLY | READ, Mode::empty())?;
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | READ;
            let made = openat(to, name, flags, private)?;
            while mount::copy_some(source.as_fd(), made.as_fd())? != 0 {}
            fchown(&made, uid, gid)?;
            fchmod(&made, mode)
        }
        libc::S_IFLNK => {
            let link = openat(from, name, OFlag::O_PATH | READ, Mode::empty())?;
            let mut buffer = [0; 4097];
            let length = mount::read_link(link.as_fd(), &mut buffer[..4096])?.len();
            let target = buffer.get(..=length).map(CStr::from_bytes_until_nul);
            let Some(Ok(target)) = target else { return Err(Errno::ENAMETOOLONG) };
            symlinkat(target, to, name)?;
            fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
        }
        // Bound to whoever listens; a copy is of no use.
        libc::S_IFSOCK => Ok(()),
        kind => {
            mknodat(to, name, SFlag::from_bits_truncate(kind), private, info.st_rdev)?;
            fchownat(to, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let made = openat(to, name, OFlag::O_PATH | READ, Mode::empty())?;
            // fchmod does not take such a descriptor.
            let path = FdPath::new(made.as_fd());
            let flags = nix::sys::stat::FchmodatFlags::FollowSymlink;
            nix::sys::stat::fchmodat(&made, path.as_c_str(), mode, flags)
        }
    }
}

const READ: OFlag = OFlag::O_CLOEXEC.union(OFlag::O_NOFOLLOW);

/// Permissions of a directory, with the bits above them.
///
/// # Errors
/// Those of fstat(2).
pub fn mode(directory: BorrowedFd<'_>) -> Result<u32> {
    Ok(fstat(directory)?.st_mode & 0o7777)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn the_mode_stands_before_the_options() {
        let data = Data::with_mode(0o1755, Some(c"size=1m")).unwrap();
        assert_eq!(data.as_c_str(), c"mode=1755,size=1m");
        assert_eq!(Data::with_mode(0o700, None).unwrap().as_c_str(), c"mode=0700");
        let long = std::ffi::CString::new(vec![b'x'; DATA]).unwrap();
        assert_eq!(Data::with_mode(0, Some(&long)).err(), Some(Errno::E2BIG));
    }

    #[test]
    fn copies_all_kinds() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        let long = vec![b'x'; 100_000];
        fs::write(from.join("sub/deep/long"), &long).unwrap();
        fs::write(from.join("tool"), "").unwrap();
        fs::set_permissions(from.join("tool"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o500)).unwrap();
        symlink("/etc/shadow", from.join("link")).unwrap();
        nix::unistd::mkfifo(&from.join("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
        for number in 0..300 {
            fs::write(from.join(format!("many-{number}")), "").unwrap();
        }
        copy(File::open(&from).unwrap().as_fd(), File::open(&to).unwrap().as_fd()).unwrap();
        assert_eq!(fs::read(to.join("sub/deep/long")).unwrap(), long);
        assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/etc/shadow"));
        let mode = |name: &str| fs::metadata(to.join(name)).unwrap().mode();
        assert_eq!(mode("tool") & 0o7777, 0o4751);
        assert_eq!(mode("sub") & 0o7777, 0o500);
        assert_eq!(mode("fifo"), libc::S_IFIFO | 0o640);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 304);
    }
}
