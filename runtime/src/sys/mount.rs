//! Mounts, by descriptor.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use super::{Errno, Result};

/// How often `openat2` is tried again when the kernel says so.
const MOST_TRIES: u32 = 256;

/// `openat2` with `RESOLVE_*` flags.
///
/// # Errors
/// Those of openat2(2).
pub fn openat2(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    resolve: u64,
) -> Result<OwnedFd> {
    // SAFETY: an all-zero `open_how` is valid.
    let mut how: libc::open_how = unsafe { core::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
    how.resolve = resolve;
    // Where a name was changed or a mount made meanwhile, anywhere on the host, the kernel cannot say
    // whether a `..` stayed inside, and asks to be asked again. Not for ever: somebody may see to it.
    let mut tries = 0;
    loop {
        // SAFETY: the path is a C string, the struct's size is passed.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match Errno::result(fd) {
            Err(Errno::EAGAIN) if tries < MOST_TRIES => tries += 1,
            other => return owned(other?),
        }
    }
}

/// Opens a path as it stands; for paths of the host.
///
/// # Errors
/// Those of open(2).
pub fn open(path: &CStr, flags: libc::c_int) -> Result<OwnedFd> {
    // SAFETY: the path is a C string; no mode is read because nothing is created.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    owned(libc::c_long::from(Errno::result(fd)?))
}

/// `open_tree`, always with `OPEN_TREE_CLOEXEC`. An empty path means `directory` itself.
///
/// # Errors
/// Those of open_tree(2).
pub fn open_tree(
    directory: Option<BorrowedFd<'_>>,
    path: &CStr,
    clone: bool,
    recursive: bool,
) -> Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLOEXEC;
    if clone {
        flags |= libc::OPEN_TREE_CLONE;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    let directory = directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) };
    owned(Errno::result(fd)?)
}

/// Attaches a tree to what `target` and `path` name; an empty path means `target` itself. A
/// symbolic link at the end of `path` is not followed.
///
/// # Errors
/// Those of move_mount(2).
pub fn move_mount(tree: BorrowedFd<'_>, target: Option<BorrowedFd<'_>>, path: &CStr) -> Result<()> {
    let mut flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= libc::MOVE_MOUNT_T_EMPTY_PATH;
    }
    let target = target.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    // SAFETY: both paths are C strings.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target,
            path.as_ptr(),
            flags,
        )
    };
    Errno::result(rc).map(drop)
}

/// Attributes to change on a mount: `MOUNT_ATTR_*` to set and to clear, and `MS_SHARED`,
/// `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`, or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// Changes attributes of a mount, and with `recursive` of those below it.
///
/// # Errors
/// Those of mount_setattr(2); `ENOSYS` before 5.12.
pub fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, change: &Attributes) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    set_attributes(tree, recursive, &attributes)
}

/// Gives the files of a detached tree the ids that the maps of a user namespace make of theirs.
///
/// # Errors
/// Those of mount_setattr(2): `EINVAL` for a file system that cannot, `ENOSYS` before 5.12.
pub fn map_ids(tree: BorrowedFd<'_>, recursive: bool, userns: BorrowedFd<'_>) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(userns.as_raw_fd().unsigned_abs()),
    };
    set_attributes(tree, recursive, &attributes)
}

fn set_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    attributes: &libc::mount_attr,
) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, the struct's size is passed.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(rc).map(drop)
}

/// Sets an extended attribute of what a path leads to.
///
/// # Errors
/// Those of setxattr(2).
pub fn set_xattr(path: &CStr, name: &CStr, value: &[u8]) -> Result<()> {
    // SAFETY: path and name are C strings, the value's length is passed.
    let rc = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    Errno::result(rc).map(drop)
}

/// Reads entries of an open directory, as getdents64(2) lays them out; 0 at the end.
///
/// # Errors
/// Those of getdents64(2).
pub fn entries(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the buffer's length.
    let length = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    Ok(usize::try_from(Errno::result(length)?).unwrap_or(0))
}

/// Copies bytes from one file to another at their offsets: how many, 0 at the end.
///
/// # Errors
/// Those of sendfile(2).
pub fn copy_some(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<usize> {
    const MOST: usize = 1 << 30;
    // SAFETY: the null pointer means the file's own offset; the rest are numbers.
    let length = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), ptr::null_mut(), MOST) };
    Ok(usize::try_from(Errno::result(length)?).unwrap_or(0))
}

/// `mount`.
///
/// # Errors
/// Those of mount(2).
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or a C string; file systems take their data as a C string.
    let rc = unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(data).cast())
    };
    Errno::result(rc).map(drop)
}

/// Detaches the mount at a path, at once for new users and later for the present ones.
///
/// # Errors
/// Those of umount2(2).
pub fn detach(path: &CStr) -> Result<()> {
    // SAFETY: the path is a C string.
    let rc = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    Errno::result(rc).map(drop)
}

/// `pivot_root(".", ".")`: the working directory becomes the root, the old root lies on top of it.
///
/// # Errors
/// Those of pivot_root(2).
pub fn pivot_here() -> Result<()> {
    // SAFETY: both paths are C strings.
    let rc = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    Errno::result(rc).map(drop)
}

/// Type of a procfs.
pub const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Type of the file system, `*_MAGIC`.
///
/// # Errors
/// Those of fstatfs(2).
pub fn file_system(fd: BorrowedFd<'_>) -> Result<i64> {
    // SAFETY: an all-zero `statfs` is valid.
    let mut info: libc::statfs = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes one `statfs` to the pointer.
    let rc = unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut info) };
    Errno::result(rc)?;
    #[allow(clippy::unnecessary_cast)] // types differ between libcs
    Ok(info.f_type as i64)
}

/// The `ST_*` flags of a mount, which have the values of `MS_*` but for `relatime`.
///
/// # Errors
/// Those of fstatvfs(3).
pub fn mount_flags(fd: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: an all-zero `statvfs` is valid.
    let mut info: libc::statvfs = unsafe { core::mem::zeroed() };
    // SAFETY: the C library writes one `statvfs` to the pointer.
    let rc = unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut info) };
    Errno::result(rc)?;
    Ok(info.f_flag)
}

/// Target of the symbolic link that `link` is an `O_PATH` descriptor of.
///
/// # Errors
/// Those of readlinkat(2).
pub fn read_link<'a>(link: BorrowedFd<'_>, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    // SAFETY: the path is a C string and the kernel writes at most the buffer's length.
    let length = unsafe {
        libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len())
    };
    let length = usize::try_from(Errno::result(length)?).unwrap_or(0);
    buffer.get(..length).ok_or(Errno::ENAMETOOLONG)
}

/// Whether the working directory lies below the root. It does not when it was reached through a
/// descriptor that was open before the root changed (CVE-2024-21626).
///
/// # Errors
/// Those of getcwd(2).
pub fn working_directory_is_inside() -> Result<bool> {
    let mut buffer = [0_u8; 4096];
    // SAFETY: the kernel writes at most the buffer's length. The raw call, because libcs differ in
    // how they report the `(unreachable)` prefix.
    let rc = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(rc)?;
    Ok(buffer[0] == b'/')
}

fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = RawFd::try_from(fd).or(Err(Errno::EBADF))?;
    // SAFETY: every caller has just got this descriptor from the kernel; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
