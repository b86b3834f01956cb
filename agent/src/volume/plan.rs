//! Which mounts a container's volumes are. Pure: definition, image volumes and the task directory
//! are parameters, the file system is not looked at.
//!
//! Rules (Docker's, which ECS inherits):
//! - `volumesFrom` takes the other container's mounts over, what that one took over among them; tmpfs
//!   mounts are not volumes and stay. A mount of the container's own at the same path wins.
//! - `mountPoints` and `tmpfs` of one container each need a path of their own.
//! - A `VOLUME` of the image at whose path nothing is mounted becomes an anonymous volume.
//! - Mounts are ordered by depth, so that one never hides another that lies below it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protocol::taskdef::{ContainerDefinition, TaskDefinition, Tmpfs, VolumeSource};
use sha2::{Digest, Sha256};

/// What a definition's volumes ask for that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("container {container}: {path:?} cannot be mounted on: {reason}")]
    Destination { container: String, path: String, reason: &'static str },
    #[error("container {container}: two mounts at {}", path.display())]
    Duplicate { container: String, path: PathBuf },
    #[error("container {container}: volume {volume:?} is not in the task definition")]
    UnknownVolume { container: String, volume: String },
    #[error("container {container}: volume {volume:?} cannot be the name of a directory")]
    VolumeName { container: String, volume: String },
    #[error("container {container} is not in the task definition")]
    UnknownContainer { container: String },
    #[error("container {container}: volumesFrom leads back to it")]
    Cycle { container: String },
    #[error("container {container}: source {path:?} of volume {volume:?} is not an absolute path")]
    SourcePath { container: String, volume: String, path: String },
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the host, which must exist.
    Host(PathBuf),
    /// A directory of the task, made on first use; fresh, it gets what the image has at the
    /// destination.
    Task(PathBuf),
    /// A network file system of the task, mounted at this path in its monitor's namespace. It
    /// belongs to others, too, and is never filled from an image.
    Efs(PathBuf),
    /// A file system in memory.
    Tmpfs,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    pub source: Source,
    /// Absolute and clean.
    pub destination: PathBuf,
    pub read_only: bool,
    /// Mount options as in an OCI configuration, `ro` or `rw` among them.
    pub options: Vec<String>,
}

impl VolumeMount {
    fn bind(source: Source, destination: PathBuf, read_only: bool) -> Self {
        let access = if read_only { "ro" } else { "rw" };
        let options = ["rbind", "rprivate", access].map(str::to_owned).to_vec();
        Self { source, destination, read_only, options }
    }

    fn tmpfs(tmpfs: &Tmpfs, destination: PathBuf) -> Self {
        // Docker's defaults; an option of the definition takes its opposite's place.
        let mut options = vec!["noexec".to_owned(), "nosuid".to_owned(), "nodev".to_owned()];
        for option in &tmpfs.mount_options {
            options.retain(|other| !same_switch(other, option));
            options.push(option.clone());
        }
        options.retain(|option| !option.starts_with("size="));
        options.push(format!("size={}m", tmpfs.size));
        let read_only = options.iter().any(|option| option == "ro");
        if !read_only && !options.iter().any(|option| option == "rw") {
            options.push("rw".to_owned());
        }
        Self { source: Source::Tmpfs, destination, read_only, options }
    }

    /// The entry of an OCI configuration.
    pub fn to_oci(&self) -> oci_spec::runtime::Mount {
        let (kind, source) = match &self.source {
            Source::Host(path) | Source::Task(path) | Source::Efs(path) => ("bind", path.clone()),
            Source::Tmpfs => ("tmpfs", PathBuf::from("tmpfs")),
        };
        let mut mount = oci_spec::runtime::Mount::default();
        mount
            .set_destination(self.destination.clone())
            .set_typ(Some(kind.to_owned()))
            .set_source(Some(source))
            .set_options(Some(self.options.clone()));
        mount
    }
}

/// `exec` and `noexec`, `ro` and `rw`, or the same word.
fn same_switch(a: &str, b: &str) -> bool {
    let access = |option| matches!(option, "ro" | "rw");
    let stem = |option: &'_ str| option.strip_prefix("no").unwrap_or(option).to_owned();
    (access(a) && access(b)) || stem(a) == stem(b)
}

/// `VOLUME`s of the images, by container name.
pub type ImageVolumes = BTreeMap<String, Vec<String>>;

/// The mounts of one container, outer before inner. `volumes` is the directory of the task's own
/// volumes ([`super::task::directory`]); `images` needs the container's and those of the
/// containers it takes volumes from.
///
/// # Errors
/// If the definition contradicts itself or a path cannot be mounted on.
pub fn plan(
    definition: &TaskDefinition,
    container: &str,
    volumes: &Path,
    images: &ImageVolumes,
) -> Result<Vec<VolumeMount>, Error> {
    let planner = Planner { definition, volumes, images };
    let mounts = planner.mounts(container, &mut BTreeSet::new())?;
    let mut mounts: Vec<_> = mounts.into_values().collect();
    // Stable: alphabetical, as the map was, among equals.
    mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok(mounts)
}

struct Planner<'a> {
    definition: &'a TaskDefinition,
    volumes: &'a Path,
    images: &'a ImageVolumes,
}

type Mounts = BTreeMap<PathBuf, VolumeMount>;

impl<'a> Planner<'a> {
    fn mounts(&self, name: &'a str, path: &mut BTreeSet<&'a str>) -> Result<Mounts, Error> {
        let container = self
            .definition
            .containers
            .iter()
            .find(|container| container.name == name)
            .ok_or_else(|| Error::UnknownContainer { container: name.to_owned() })?;
        if !path.insert(name) {
            return Err(Error::Cycle { container: name.to_owned() });
        }
        let mut mounts = self.own(container)?;
        for from in &container.volumes_from {
            let others = self.mounts(from.source_container.as_str(), path)?;
            for (destination, mount) in others {
                if mount.source != Source::Tmpfs {
                    let read_only = mount.read_only || from.read_only;
                    mounts
                        .entry(destination.clone())
                        .or_insert_with(|| VolumeMount::bind(mount.source, destination, read_only));
                }
            }
        }
        for volume in self.images.get(name).into_iter().flatten() {
            let destination = destination(name, volume)?;
            mounts.entry(destination.clone()).or_insert_with(|| {
                let source = self.volumes.join(anonymous(name, &destination));
                VolumeMount::bind(Source::Task(source), destination, false)
            });
        }
        path.remove(name);
        Ok(mounts)
    }

    fn own(&self, container: &ContainerDefinition) -> Result<Mounts, Error> {
        let name = &container.name;
        let mut mounts = Mounts::new();
        let mut add = |mount: VolumeMount| {
            let path = mount.destination.clone();
            match mounts.insert(path.clone(), mount) {
                None => Ok(()),
                Some(_) => Err(Error::Duplicate { container: name.clone(), path }),
            }
        };
        for point in &container.mount_points {
            let destination = destination(name, &point.container_path)?;
            let source = self.source(name, &point.source_volume)?;
            add(VolumeMount::bind(source, destination, point.read_only))?;
        }
        for tmpfs in &container.linux.tmpfs {
            add(VolumeMount::tmpfs(tmpfs, destination(name, &tmpfs.container_path)?))?;
        }
        Ok(mounts)
    }

    fn source(&self, container: &str, volume: &str) -> Result<Source, Error> {
        let found = self.definition.volumes.iter().find(|other| other.name == volume);
        let (container, name) = (container.to_owned(), volume.to_owned());
        match found.map(|volume| &volume.source) {
            Some(VolumeSource::Host { source_path }) if source_path.starts_with('/') => {
                Ok(Source::Host(PathBuf::from(source_path)))
            }
            Some(VolumeSource::Host { source_path }) => {
                Err(Error::SourcePath { container, volume: name, path: source_path.clone() })
            }
            Some(VolumeSource::Task) if is_directory_name(volume) => {
                Ok(Source::Task(self.volumes.join(volume)))
            }
            Some(VolumeSource::Efs { .. }) if is_directory_name(volume) => {
                Ok(Source::Efs(self.volumes.join(volume)))
            }
            Some(VolumeSource::Task | VolumeSource::Efs { .. }) => {
                Err(Error::VolumeName { container, volume: name })
            }
            None => Err(Error::UnknownVolume { container, volume: name }),
        }
    }
}

/// Names come from the definition; one with a slash or a leading dot would leave the volumes'
/// directory, or collide with what an anonymous volume is called.
pub(super) fn is_directory_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// The directory of an anonymous volume: `.<container>.<hash>`. The leading dot keeps it apart from named
/// volumes; the hash tells apart what is cut off to stay within 255 bytes, and the image's paths.
fn anonymous(container: &str, destination: &Path) -> String {
    let mut hash = Sha256::new_with_prefix(container);
    hash.update([0]);
    hash.update(destination.as_os_str().as_encoded_bytes());
    let shown: String = container.chars().take(50).collect();
    let mut name = format!(".{shown}.");
    for byte in hash.finalize().iter().take(8) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// Cleans a path as Docker does: absolute, without `.`, `..` and empty components.
fn destination(container: &str, path: &str) -> Result<PathBuf, Error> {
    let refuse = |reason| {
        Err(Error::Destination { container: container.to_owned(), path: path.to_owned(), reason })
    };
    if !path.starts_with('/') {
        return refuse("it is not absolute");
    }
    if path.contains('\0') {
        return refuse("it contains a NUL byte");
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return refuse("it is the root directory");
    }
    Ok(PathBuf::from(format!("/{}", parts.join("/"))))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
