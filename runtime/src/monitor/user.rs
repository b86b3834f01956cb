//! The user namespace of a task, which all its containers share, as they share its network.
//!
//! One for the task and not one for each container: a namespace of the network gives its privileges
//! (`CAP_NET_RAW`, `sysctl`, a mount of `/sys`) to the root of the user namespace that owns it, and
//! nobody but that root, or one above, may join it. With a namespace for each container the task's
//! network would have to belong to the host, and no container had any privilege over it. So what a
//! task's containers are to join is made together with, or in, this one.
//!
//! No process lives in it between containers: it is kept alive by a descriptor of the guardian and
//! the worker, and has a name, `R/user`, for the runtime's configuration. The name is a mount in the
//! monitor's mount namespace, so nothing of it outlives the monitor.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::Path;

use protocol::monitor::{IdRange, USER_NAMESPACE, UserMaps};
use rustix::mount::mount_bind;

use super::Error;
use crate::{failpoint, spec::IdMapping, userns};

/// A task's user namespace.
#[derive(Debug)]
pub(super) struct User {
    namespace: OwnedFd,
    maps: UserMaps,
}

impl User {
    /// A new one, and with `network` a network namespace that belongs to it.
    pub(super) fn make(maps: &UserMaps, network: bool) -> Result<(Self, Option<OwnedFd>), Error> {
        let (uids, gids) = (mappings(&maps.uids), mappings(&maps.gids));
        let failed = |source| Error::User { source };
        let (namespace, network) = if network {
            let (user, network) = userns::make_with_network(&uids, &gids).map_err(failed)?;
            (user, Some(network))
        } else {
            (userns::make(&uids, &gids).map_err(failed)?, None)
        };
        Ok((Self { namespace, maps: maps.clone() }, network))
    }

    /// That of a container which lives.
    pub(super) fn living(maps: &UserMaps, namespace: OwnedFd) -> Self {
        Self { namespace, maps: maps.clone() }
    }

    /// Gives it its name in the run directory. In the monitor's own mount namespace.
    pub(super) fn mount(&self, run: &Path) -> Result<(), Error> {
        let path = run.join(USER_NAMESPACE);
        let failed = |source: io::Error| Error::MountUser { path: path.clone(), source };
        let _: File =
            OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        failpoint::hit("user-name");
        let source = format!("/proc/self/fd/{}", self.namespace.as_raw_fd());
        mount_bind(source, &path).map_err(|errno| failed(errno.into()))?;
        failpoint::hit("user-mount");
        Ok(())
    }

    pub(super) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// The host's ids for a user and a group of the namespace, where it has them.
    pub(super) fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let uid = IdRange::outside(&self.maps.uids, uid)?;
        Some((uid, IdRange::outside(&self.maps.gids, gid)?))
    }

    /// Gives the pipes among a process's streams to its user. In the namespace they are nobody's, and
    /// the process could not even open its `/dev/stdout`.
    pub(super) fn give(&self, streams: &[OwnedFd], uid: u32, gid: u32) -> io::Result<()> {
        let Some((uid, gid)) = self.outside(uid, gid) else { return Ok(()) };
        for stream in streams.iter().filter(|stream| is_pipe(stream)) {
            fchown(stream, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

fn is_pipe(stream: &OwnedFd) -> bool {
    rustix::fs::fstat(stream)
        .is_ok_and(|at| rustix::fs::FileType::from_raw_mode(at.st_mode).is_fifo())
}

/// The maps in the runtime's terms.
pub fn mappings(ranges: &[IdRange]) -> Vec<IdMapping> {
    let mapping = |range: &IdRange| IdMapping {
        container_id: range.inside,
        host_id: range.outside,
        size: range.size,
    };
    ranges.iter().map(mapping).collect()
}
