//! A sealed copy of our own program, so that no container can overwrite it.
//!
//! CVE-2019-5736: a container whose program is `/proc/self/exe` makes the runtime execute itself
//! inside the container, opens that process's `/proc/<pid>/exe` for writing and replaces the host's
//! binary. Here the process that enters a container is executed from an anonymous file (memfd) that
//! is sealed against every change, so there is nothing on the host to overwrite. A bind mount that is
//! read-only would cost less but share the page cache with the host's file, which page-cache bugs
//! write through. Who starts many processes (the agent) makes the copy once and executes each from
//! it: [`ensure`] then finds the seals and does nothing.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

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

/// Whether this process was executed from a sealed file.
///
/// # Errors
/// If `/proc/self/exe` cannot be opened.
pub fn is_sealed() -> Result<bool, Error> {
    let program = File::open("/proc/self/exe").map_err(Error::Open)?;
    Ok(has_seals(&program))
}

fn has_seals(file: &File) -> bool {
    // A file that cannot be sealed answers EINVAL.
    fcntl(file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(wanted()))
}

/// Returns if this process runs from a sealed file; otherwise executes a sealed copy with the same
/// arguments and environment, and does not return.
///
/// # Errors
/// If the copy cannot be made, sealed or executed.
pub fn ensure() -> Result<(), Error> {
    let mut program = File::open("/proc/self/exe").map_err(Error::Open)?;
    if has_seals(&program) {
        return Ok(());
    }
    let copy = copy(&mut program)?;
    let c_strings = |words: Vec<Vec<u8>>| {
        words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(Error::Argument)
    };
    let arguments = c_strings(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    let variables = std::env::vars_os().map(|(name, value)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variable
    });
    let environment = c_strings(variables.collect())?;
    // The kernel opens the path before it closes what is close-on-exec.
    let path =
        CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd())).map_err(Error::Argument)?;
    match nix::unistd::execve(&path, &arguments, &environment) {
        Ok(never) => match never {},
        Err(errno) => Err(Error::Execute(errno)),
    }
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

    use super::*;

    #[test]
    fn the_copy_is_ours_and_refuses_every_change() {
        let mut program = File::open("/proc/self/exe").unwrap();
        let length = program.metadata().unwrap().len();
        let copy = File::from(copy(&mut program).unwrap());
        assert_eq!(copy.metadata().unwrap().len(), length);
        assert!(has_seals(&copy));
        assert!((&copy).write_all(b"x").is_err());
        assert!(copy.set_len(0).is_err());
        assert!(!is_sealed().unwrap());
    }
}
