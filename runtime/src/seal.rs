//! Our own program in a form that no container can overwrite.
//!
//! CVE-2019-5736: a container whose program is `/proc/self/exe` makes the runtime execute itself
//! inside the container, opens that process's `/proc/<pid>/exe` for writing and replaces the host's
//! binary. Here every process that enters a container was executed from one of two things:
//!
//! - A **clone of the program's mount that is read-only and belongs to no namespace**. It is made with
//!   `open_tree` and never attached; the exec closes the descriptor that held it, and with that the
//!   kernel dissolves it. From then on it lives only as the `/proc/<pid>/exe` of the processes: a write
//!   through it is refused (`EROFS`), and nobody can make it writable or copy it, because all calls that
//!   change or clone a mount want one that is in a namespace. So nothing a container is allowed undoes
//!   it, `CAP_SYS_ADMIN` and namespaces of its own included. Costs three system calls.
//! - A **sealed copy in memory** (memfd), where the caller may not clone mounts: without privilege,
//!   or before Linux 5.12. Who starts many processes (the agent) makes such a copy once and executes
//!   each from it; [`ensure`] finds the seals and does nothing.
//!
//! The mount shares the page cache with the host's file, as every read-only mount of a host's file in
//! a container does and as the clones of runc and crun do; the copy does not.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::sys::{
    mount::{self, Attributes},
    process::{self, CStrings},
};

const PROGRAM: &str = "/proc/self/exe";

/// `MFD_EXEC`, since Linux 6.3: the file may be executed even where the default is not to.
const MFD_EXEC: u32 = 0x10;
/// `F_SEAL_EXEC`, since Linux 6.3: the mode's execute bits are fixed.
const F_SEAL_EXEC: i32 = 0x20;

/// Why the program could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open our own program, /proc/self/exe")]
    Open(#[source] io::Error),
    #[error("create a memory file for our own program")]
    Create(#[source] Errno),
    #[error("copy our own program into memory")]
    Copy(#[source] io::Error),
    #[error("seal the copy of our own program")]
    Seal(#[source] Errno),
    #[error("execute the sealed copy of our own program")]
    Execute(#[source] Errno),
    #[error("an argument or a variable holds a zero byte")]
    Argument(#[source] std::ffi::NulError),
}

/// The seals that make a file unchangeable.
fn wanted() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// What `/proc/self/exe` says of the program.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// A file in a mount of some namespace.
    Attached,
    /// The root of a mount that is in no namespace.
    Detached,
    /// A file in memory.
    Memory,
}

fn place() -> Result<Place, Error> {
    let path = std::fs::read_link(PROGRAM).map_err(Error::Open)?;
    Ok(match path.as_os_str().as_bytes() {
        b"/" | b"/ (deleted)" => Place::Detached,
        path if path.starts_with(b"/memfd:") => Place::Memory,
        _ => Place::Attached,
    })
}

fn is_sealed(place: Place) -> Result<bool, Error> {
    match place {
        Place::Attached => Ok(false),
        Place::Detached => {
            let info = statvfs(PROGRAM).map_err(|errno| Error::Open(errno.into()))?;
            Ok(info.flags().contains(FsFlags::ST_RDONLY))
        }
        Place::Memory => Ok(has_seals(&File::open(PROGRAM).map_err(Error::Open)?)),
    }
}

fn has_seals(file: &File) -> bool {
    // A file that cannot be sealed answers EINVAL.
    fcntl(file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(wanted()))
}

/// Returns if this process runs from something that cannot be written; otherwise executes such a form
/// of our program with the same arguments and environment, and does not return.
///
/// # Errors
/// If neither form can be made and executed.
pub fn ensure() -> Result<(), Error> {
    static SEALED: AtomicBool = AtomicBool::new(false);
    if SEALED.load(Ordering::Relaxed) {
        return Ok(());
    }
    let place = place()?;
    if is_sealed(place)? {
        SEALED.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let c_strings = |words: Vec<Vec<u8>>| {
        let words: Result<Vec<_>, _> = words.into_iter().map(CString::new).collect();
        words.map(CStrings::new).map_err(Error::Argument)
    };
    let arguments = c_strings(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    let variables = std::env::vars_os().map(|(name, value)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variable
    });
    let environment = c_strings(variables.collect())?;
    // Not again from a mount that turned out to be writable.
    if let (Place::Attached, Ok(mount)) = (place, clone_mount(c"/proc/self/exe")) {
        // A security module may refuse what has no path; then the copy is tried.
        let _ = process::fexecve(mount.as_fd(), &arguments, &environment);
    }
    let mut program = File::open(PROGRAM).map_err(Error::Open)?;
    let copy = copy(&mut program)?;
    Err(Error::Execute(process::fexecve(copy.as_fd(), &arguments, &environment)))
}

/// The program by a read-only mount that is in no namespace; gone for all but those who execute it as
/// soon as the descriptor is closed.
fn clone_mount(program: &CStr) -> Result<OwnedFd, Errno> {
    let tree = mount::open_tree(None, program, true, false)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV;
    let change = Attributes { set: attributes, ..Attributes::default() };
    mount::mount_setattr(tree.as_fd(), false, &change)?;
    Ok(tree)
}

fn copy(program: &mut File) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let name = c"lighter-runtime";
    let (memory, executable) =
        match memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
            Ok(memory) => (memory, true),
            Err(Errno::EINVAL) => (memfd_create(name, flags).map_err(Error::Create)?, false),
            Err(errno) => return Err(Error::Create(errno)),
        };
    let mut memory = File::from(memory);
    io::copy(program, &mut memory).map_err(Error::Copy)?;
    let mut seals = wanted();
    if executable {
        seals |= SealFlag::from_bits_retain(F_SEAL_EXEC);
    }
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(Error::Seal)?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn the_copy_is_ours_and_refuses_every_change() {
        let mut program = File::open(PROGRAM).unwrap();
        let length = program.metadata().unwrap().len();
        let copy = File::from(copy(&mut program).unwrap());
        assert_eq!(copy.metadata().unwrap().len(), length);
        assert!(has_seals(&copy));
        assert!((&copy).write_all(b"x").is_err());
        assert!(copy.set_len(0).is_err());
        assert!(!is_sealed(place().unwrap()).unwrap());
    }

    /// What holds of the program after the exec has closed the descriptor.
    #[test]
    fn the_mount_refuses_every_change_and_never_becomes_writable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = CString::new(file.path().as_os_str().as_bytes()).unwrap();
        let Ok(tree) = clone_mount(&name) else { return }; // without privilege there is only the copy
        let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let mode = nix::sys::stat::Mode::empty();
        let program = nix::fcntl::open(path(&tree).as_str(), flags, mode).unwrap();
        // The exec does this; what it leaves is the program's own reference, as here.
        drop(tree);
        let path = path(&program);
        assert_eq!(std::fs::read_link(&path).unwrap().as_os_str(), "/");
        let read_only = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
        };
        let refused_writes = || {
            read_only(File::options().write(true).open(&path).map(drop));
            read_only(File::options().append(true).read(true).open(&path).map(drop));
            let permissions = std::fs::metadata(&path).unwrap().permissions();
            read_only(std::fs::set_permissions(&path, permissions));
            read_only(std::os::unix::fs::chown(&path, Some(0), None));
            read_only(nix::unistd::truncate(path.as_str(), 0).map_err(Into::into));
        };
        refused_writes();
        let writable = Attributes { clear: libc::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        let changed = mount::mount_setattr(program.as_fd(), false, &writable);
        assert_eq!(changed, Err(Errno::EINVAL));
        let cloned = mount::open_tree(Some(program.as_fd()), c"", true, false).map(drop);
        assert_eq!(cloned, Err(Errno::EINVAL));
        let at = CString::new(path.clone()).unwrap();
        for flags in [libc::MS_REMOUNT | libc::MS_BIND, libc::MS_REMOUNT, libc::MS_SHARED] {
            assert_eq!(mount::mount(None, &at, None, flags, None), Err(Errno::EINVAL));
        }
        let bound = mount::mount(Some(&at), &name, None, libc::MS_BIND, None);
        assert_eq!(bound, Err(Errno::EINVAL));
        let moved = mount::move_mount(program.as_fd(), None, &name);
        assert_eq!(moved, Err(Errno::EINVAL));
        let linked = file.path().with_extension("link");
        let follow = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        let here = nix::fcntl::AT_FDCWD;
        let link = nix::unistd::linkat(here, path.as_str(), here, &linked, follow);
        assert_eq!(link, Err(Errno::EXDEV));
        refused_writes();
    }
}
