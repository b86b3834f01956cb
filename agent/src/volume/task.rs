//! The task's own volumes: directories below `T/volumes`, shared by its containers, gone with it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Error;
use super::plan::{Source, VolumeMount};

/// Where a task's volumes are, below its durable directory T.
pub fn directory(task: &Path) -> PathBuf {
    task.join("volumes")
}

/// Makes the directories of the mounts' task volumes, 0755 and root's, and returns the mounts whose
/// directory is empty: only those get what the image has at their destination, as with Docker. A
/// directory that exists is used as it is. `volumes` is [`directory`]'s.
///
/// # Errors
/// If a directory cannot be made or read.
pub fn create<'a>(
    volumes: &Path,
    mounts: &'a [VolumeMount],
) -> Result<Vec<&'a VolumeMount>, Error> {
    let mut fresh = Vec::new();
    for mount in mounts {
        let Source::Task(path) = &mount.source else { continue };
        make(volumes, 0o700)?;
        make(path, 0o755)?;
        let mut entries =
            path.read_dir().map_err(|source| Error::ReadVolume { path: path.clone(), source })?;
        if entries.next().is_none() {
            fresh.push(mount);
        }
    }
    Ok(fresh)
}

/// Makes the directory that a file system is mounted on, which is one of `volumes`; its path
/// without symbolic links, as the kernel names mounts. Nobody but root may look into it while
/// nothing is mounted.
///
/// # Errors
/// If it cannot be made.
pub fn make_place(volumes: &Path, path: &Path) -> Result<PathBuf, Error> {
    make(volumes, 0o700)?;
    make(path, 0o700)?;
    path.canonicalize().map_err(|source| Error::CreateVolume { path: path.to_owned(), source })
}

fn make(path: &Path, mode: u32) -> Result<(), Error> {
    let fail = |source| Error::CreateVolume { path: path.to_owned(), source };
    match DirBuilder::new().mode(mode).create(path) {
        // The umask may have taken bits away.
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fail),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(source) => Err(fail(source)),
    }
}
