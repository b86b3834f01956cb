//! Identity of the calling thread. Raw calls on purpose: libc's own tell every thread, through locks.

use serde::{Deserialize, Serialize};

use super::{Errno, Result};

/// Effective user of this process when its program was executed: told by the kernel then, so without a
/// system call.
pub fn euid() -> u32 {
    // SAFETY: takes a number only.
    let id = unsafe { libc::getauxval(libc::AT_EUID) };
    u32::try_from(id).unwrap_or(u32::MAX)
}

/// Effective group, likewise.
pub fn egid() -> u32 {
    // SAFETY: takes a number only.
    let id = unsafe { libc::getauxval(libc::AT_EGID) };
    u32::try_from(id).unwrap_or(u32::MAX)
}

/// Sets real, effective and saved group.
///
/// # Errors
/// Those of setresgid(2).
pub fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: takes numbers only.
    let rc = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    Errno::result(rc).map(drop)
}

/// Sets real, effective and saved user.
///
/// # Errors
/// Those of setresuid(2).
pub fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: takes numbers only.
    let rc = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    Errno::result(rc).map(drop)
}

/// Sets the supplementary groups.
///
/// # Errors
/// Those of setgroups(2).
pub fn setgroups(gids: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `len` numbers of 32 bits from the slice.
    let rc = unsafe { libc::syscall(libc::SYS_setgroups, gids.len(), gids.as_ptr()) };
    Errno::result(rc).map(drop)
}

/// Capability sets as bit masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapSets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

/// Sets effective, permitted and inheritable.
///
/// # Errors
/// Those of capset(2).
pub fn capset(sets: &CapSets) -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    #[allow(clippy::cast_possible_truncation)] // the two halves are the point
    let half = |shift: u32| Data {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads one header and two data structs, which is what the pointers refer to.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(rc).map(drop)
}

/// Whether the kernel has a capability of this number.
pub fn has_capability(capability: u32) -> bool {
    // SAFETY: takes numbers only and changes nothing.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) >= 0 }
}

/// Takes one capability out of the bounding set.
///
/// # Errors
/// Those of prctl(2) `PR_CAPBSET_DROP`.
pub fn drop_bounding(capability: u32) -> Result<()> {
    // SAFETY: takes numbers only.
    let rc =
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    Errno::result(rc).map(drop)
}

/// Puts one capability into the ambient set.
///
/// # Errors
/// Those of prctl(2) `PR_CAP_AMBIENT_RAISE`.
pub fn raise_ambient(capability: u32) -> Result<()> {
    // SAFETY: takes numbers only.
    let rc = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(capability),
            0,
            0,
        )
    };
    Errno::result(rc).map(drop)
}

/// Empties the ambient set.
///
/// # Errors
/// Those of prctl(2) `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn clear_ambient() -> Result<()> {
    // SAFETY: takes numbers only.
    let rc = unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0)
    };
    Errno::result(rc).map(drop)
}
