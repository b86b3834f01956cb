//! A copy of our own program that nobody can write to.
//!
//! CVE-2019-5736: a process of a container that gets hold of the runtime's `/proc/<pid>/exe` could
//! overwrite the program on the host, which the host then runs as root. Executed from a sealed file in
//! memory there is nothing on disk to reach. The copy is made once: whoever executes us from a
//! sealed file (as the agent does for its monitors) pays nothing here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sys::{
    Errno,
    process::{CStrings, fexecve},
};

/// Why there is no sealed copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open /proc/self/exe")]
    Open(#[source] io::Error),
    #[error("create a file in memory")]
    Create(#[source] Errno),
    #[error("copy the program to memory")]
    Copy(#[source] io::Error),
    #[error("seal the copy of the program")]
    Seal(#[source] Errno),
    #[error("execute the sealed copy of the program")]
    Execute(#[source] Errno),
}

/// `MFD_EXEC`, 6.3: says that the file is meant to be executed, which some hosts otherwise forbid.
const MFD_EXEC: u32 = 0x10;

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// Returns at once if this process runs from a sealed file; otherwise executes a sealed copy with the
/// same arguments, and returns only if that fails.
///
/// # Errors
/// If the copy cannot be made or executed.
pub fn ensure() -> Result<(), Error> {
    let mut own = File::open("/proc/self/exe").map_err(Error::Open)?;
    // Ordinary files have no seals and say EINVAL.
    if fcntl(&own, FcntlArg::F_GET_SEALS).is_ok_and(|bits| bits & seals().bits() == seals().bits())
    {
        return Ok(());
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let name = c"lighter-runtime";
    let copy = match memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        other => other,
    }
    .map_err(Error::Create)?;
    let mut copy = File::from(copy);
    io::copy(&mut own, &mut copy).map_err(Error::Copy)?;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals())).map_err(Error::Seal)?;
    let strings = |list: Vec<Vec<u8>>| {
        // They came from the kernel, terminated by zeroes, so none is inside.
        CStrings::new(list.into_iter().filter_map(|text| CString::new(text).ok()).collect())
    };
    let arguments = strings(std::env::args_os().map(OsStringExt::into_vec).collect());
    let environment = strings(
        std::env::vars_os()
            .map(|(name, value)| [name.into_vec(), b"=".to_vec(), value.into_vec()].concat())
            .collect(),
    );
    Err(Error::Execute(fexecve(copy.as_fd(), &arguments, &environment)))
}
