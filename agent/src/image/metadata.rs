//! Owner, mode, time and extended attributes of an entry's file.
//!
//! Order: owner before mode (chown clears set-id), owner before `security.capability` (chown drops
//! it), data before times. What a file has from its creation is not set again: root makes files of
//! root, and a mode that the umask leaves alone is the one that is asked for.
//!
//! Of extended attributes, `security.capability`, `user.*` and POSIX ACLs are kept. `trusted.*` and
//! `user.overlay.*` would be orders to overlayfs, other `security.*` labels are the host's
//! business; they are dropped.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::entries::Entry;
use super::tree::lossy;
use super::unpack::{Error, apply_error};

/// The bits that a umask may take.
const PERMISSIONS: u32 = 0o777;

#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    mtime: Timestamps,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Of a directory that no entry describes: as Docker makes them.
    pub(super) fn implied() -> Self {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let mtime = Timestamps { last_access: now, last_modification: now };
        Self { uid: 0, gid: 0, mode: 0o755, mtime, xattrs: Vec::new() }
    }

    pub(super) fn of(entry: &mut Entry) -> Result<Self, Error> {
        let id = |id: u64| {
            // The largest value means "do not change" to chown.
            u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| Error::Refused {
                name: lossy(&entry.path),
                reason: "its owner is not a 32-bit number",
            })
        };
        let (uid, gid) = (id(entry.uid)?, id(entry.gid)?);
        let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
        let mtime = Timestamps { last_access: time, last_modification: time };
        let mut xattrs = std::mem::take(&mut entry.xattrs);
        xattrs.retain(|(key, _)| keeps(key));
        Ok(Self { uid, gid, mode: entry.mode, mtime, xattrs })
    }

    /// Bytes that it takes beside itself.
    pub(super) fn memory(&self) -> usize {
        self.xattrs.iter().map(|(key, value)| key.len() + value.len() + 48).sum()
    }

    /// The mode to create a file with, and whether that is all there is to do about it.
    pub(super) fn creation(&self, umask: u32) -> (Mode, bool) {
        if self.mode & !PERMISSIONS == 0 && self.mode & umask == 0 {
            (Mode::from_raw_mode(self.mode), true)
        } else {
            (Mode::RUSR | Mode::WUSR, false)
        }
    }

    /// For a file or directory that root has just made. `has_mode` as [`Metadata::creation`] says.
    pub(super) fn apply(
        &self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        has_mode: bool,
    ) -> Result<(), Error> {
        // No directory is set-gid before its content is there: what root makes belongs to root.
        if (self.uid, self.gid) != (0, 0) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
                .map_err(apply_error(name, "set its owner"))?;
        }
        if !has_mode {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))
                .map_err(apply_error(name, "set its mode"))?;
        }
        for (key, value) in &self.xattrs {
            match rustix::fs::fsetxattr(fd, OsStr::from_bytes(key), value, XattrFlags::empty()) {
                Ok(()) => {}
                // A filesystem without this kind of attribute: Docker goes on, too.
                Err(Errno::OPNOTSUPP) => {}
                // ext4 says so of attributes that do not fit their block, however much is free: no
                // reason to make room.
                Err(Errno::NOSPC) if has_room(fd) => {
                    let reason =
                        "its extended attributes are larger than the store's filesystem takes";
                    return Err(Error::Refused { name: lossy(name), reason });
                }
                Err(errno) => return Err(apply_error(name, "set its extended attributes")(errno)),
            }
        }
        rustix::fs::futimens(fd, &self.mtime).map_err(apply_error(name, "set its time"))
    }

    /// For what cannot be opened: symbolic links (which have no mode), devices, FIFOs.
    pub(super) fn apply_at(
        &self,
        at: &OwnedFd,
        name: &[u8],
        path: &[u8],
        symlink: bool,
    ) -> Result<(), Error> {
        let os_name = OsStr::from_bytes(name);
        if (self.uid, self.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            rustix::fs::chownat(at, os_name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(apply_error(path, "set its owner"))?;
        }
        if !symlink {
            // Not a link, and nobody else writes here, so there is none to follow.
            rustix::fs::chmodat(at, os_name, Mode::from_raw_mode(self.mode), AtFlags::empty())
                .map_err(apply_error(path, "set its mode"))?;
        }
        rustix::fs::utimensat(at, os_name, &self.mtime, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(apply_error(path, "set its time"))
    }
}

/// Whether a filesystem could take another block of attributes.
fn has_room(fd: BorrowedFd<'_>) -> bool {
    const BLOCKS: u64 = 1024;
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| stat.f_bavail >= BLOCKS)
}

fn keeps(key: &[u8]) -> bool {
    key == b"security.capability"
        || key.starts_with(b"system.posix_acl_")
        || (key.starts_with(b"user.") && !key.starts_with(b"user.overlay."))
}

/// The umask of this process, read where asking does not change it.
pub(super) fn umask() -> io::Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask
        .and_then(|text| u32::from_str_radix(text.trim(), 8).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status does not say the umask"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn attributes_that_do_not_fit_are_not_taken_for_a_full_disk() {
        let file = tempfile::tempfile().unwrap();
        let xattrs = (0..3).map(|at| (format!("user.{at}").into_bytes(), vec![b'x'; 20_000]));
        let metadata = Metadata { xattrs: xattrs.collect(), ..Metadata::implied() };
        match metadata.apply(file.as_fd(), b"f", true) {
            // Filesystems differ in what they take.
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn a_mode_that_the_umask_would_change_is_set_later() {
        for (mode, umask, whole) in [
            (0o644, 0o022, true),
            (0o755, 0o022, true),
            (0o664, 0o022, false),
            (0o600, 0o077, true),
            (0o644, 0o077, false),
            (0o4755, 0o022, false),
            (0o1777, 0o000, false),
            (0o000, 0o777, true),
        ] {
            let metadata = Metadata { mode, ..Metadata::implied() };
            assert_eq!(metadata.creation(umask).1, whole, "{mode:o} under {umask:o}");
        }
        assert!(umask().unwrap() <= 0o777);
    }
}
