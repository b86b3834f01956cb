//! Devices of the host that a container gets.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Error;
use super::defaults::NOT_FROM_HOST;

/// One device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// In the container.
    path: PathBuf,
    /// `c` or `b`
    kind: &'static str,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Of `rwm`.
    access: String,
}

impl Device {
    /// The entry of `linux.devices`.
    pub(super) fn node(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind, "major": self.major, "minor": self.minor,
            "fileMode": self.mode & 0o7777, "uid": self.uid, "gid": self.gid,
        })
    }

    /// The entry of `linux.resources.devices`.
    pub(super) fn rule(&self) -> Value {
        json!({
            "allow": true, "type": self.kind, "major": self.major, "minor": self.minor,
            "access": self.access,
        })
    }

    fn new(path: PathBuf, metadata: &Metadata, access: &str) -> Option<Self> {
        let kind = metadata.file_type();
        let kind = if kind.is_char_device() {
            "c"
        } else if kind.is_block_device() {
            "b"
        } else {
            return None;
        };
        let number = metadata.rdev();
        Some(Self {
            path,
            kind,
            major: u64::from(libc::major(number)),
            minor: u64::from(libc::minor(number)),
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            access: access.to_owned(),
        })
    }
}

/// Those a definition names. A directory stands for the devices in it, as with Docker.
pub(super) fn of_definition(devices: &[protocol::taskdef::Device]) -> Result<Vec<Device>, Error> {
    let mut found = Vec::new();
    for device in devices {
        let access: String = [(device.read, 'r'), (device.write, 'w'), (device.mknod, 'm')]
            .into_iter()
            .filter_map(|(granted, letter)| granted.then_some(letter))
            .collect();
        let host = Path::new(&device.host_path);
        let inside = Path::new(&device.container_path);
        let metadata = std::fs::metadata(host)
            .map_err(|source| Error::Device { path: host.to_owned(), source })?;
        let before = found.len();
        if metadata.is_dir() {
            walk(host, inside, &access, &[], &mut found)?;
        } else {
            found.extend(Device::new(inside.to_owned(), &metadata, &access));
        }
        if found.len() == before {
            return Err(Error::NotADevice { path: host.to_owned() });
        }
    }
    Ok(found)
}

/// All of the host's, for a privileged container.
pub(super) fn of_host() -> Result<Vec<Device>, Error> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), "rwm", &NOT_FROM_HOST, &mut found)?;
    Ok(found)
}

fn walk(
    host: &Path,
    inside: &Path,
    access: &str,
    skip: &[&str],
    found: &mut Vec<Device>,
) -> Result<(), Error> {
    let fail = |source: io::Error| Error::Device { path: host.to_owned(), source };
    for entry in std::fs::read_dir(host).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        if skip.iter().any(|skipped| name == *skipped) {
            continue;
        }
        // A device that was unplugged between listing and looking is not there.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            walk(&entry.path(), &inside.join(&name), access, skip, found)?;
        } else {
            found.extend(Device::new(inside.join(&name), &metadata, access));
        }
    }
    Ok(())
}
