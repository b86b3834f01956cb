//! The overlay root of a container, mounted in the monitor's mount namespace.
//!
//! `fsopen` with one `lowerdir+` per layer (Linux 6.7); where that is not known, classic `mount(2)`.
//! An `fsconfig` string holds 255 bytes and classic options one page, so paths that do not fit are
//! given as `/proc/self/fd/<n>` of opened directories, and those of the classic call as the bare
//! numbers, from that directory: the 500 layers that overlayfs stacks fit, and numbers have none of
//! the option string's commas and colons.

use std::env::set_current_dir;
use std::ffi::CString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::monitor::Overlay;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

/// Longest string `fsconfig` takes.
const STRING: usize = 255;

/// Why a root file system could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("overlay for {target} has no lower layer")]
    NoLayer { target: PathBuf },
    #[error("create directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("open overlay layer {path}")]
    Layer { path: PathBuf, source: io::Error },
    #[error("set overlay option {option} to {path}")]
    Option { option: &'static str, path: PathBuf, source: io::Error },
    #[error("mount overlay of {layers} layers at {target}")]
    Mount { layers: usize, target: PathBuf, source: io::Error },
    #[error("unmount {target}")]
    Unmount { target: PathBuf, source: io::Error },
}

/// Mounts `overlay` at `target`, replacing what a killed predecessor left there.
pub(crate) fn attach(overlay: &Overlay, target: &Path) -> Result<(), Error> {
    if overlay.lower.is_empty() {
        return Err(Error::NoLayer { target: target.to_owned() });
    }
    for path in [&overlay.upper, &overlay.work, &target.to_owned()] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|source| Error::Directory { path: path.clone(), source })?;
    }
    detach(target)?;
    if modern(overlay, target)? { Ok(()) } else { classic(overlay, target) }
}

/// Unmounts everything at `target`; nothing there is no error.
pub(crate) fn detach(target: &Path) -> Result<(), Error> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => {
                return Err(Error::Unmount { target: target.to_owned(), source: error.into() });
            }
        }
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
        .map_err(|source| Error::Layer { path: path.to_owned(), source })
}

fn through(directory: &File) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

/// `false` if the kernel lacks `lowerdir+`.
fn modern(overlay: &Overlay, target: &Path) -> Result<bool, Error> {
    let failed = |source: Errno| Error::Mount {
        layers: overlay.lower.len(),
        target: target.to_owned(),
        source: source.into(),
    };
    let context = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(context) => context,
        Err(Errno::NOSYS) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    // Held until the mount exists: a path given through a descriptor is looked up when set, but the
    // number must not be reused before.
    let mut held = Vec::new();
    let mut set = |option: &'static str, path: &Path| -> Result<Result<(), Errno>, Error> {
        Ok(if path.as_os_str().len() <= STRING {
            fsconfig_set_string(&context, option, path)
        } else {
            let directory = open(path)?;
            let result = fsconfig_set_string(&context, option, through(&directory));
            held.push(directory);
            result
        })
    };
    for (position, layer) in overlay.lower.iter().enumerate() {
        match set("lowerdir+", layer)? {
            Ok(()) => {}
            // An unknown option and an unusable layer share an errno; a first layer that is there
            // speaks for the former, and the classic call reports the latter.
            Err(Errno::INVAL) if position == 0 => return Ok(false),
            Err(error) => {
                return Err(Error::Option {
                    option: "lowerdir+",
                    path: layer.clone(),
                    source: error.into(),
                });
            }
        }
    }
    for (option, path) in [("upperdir", &overlay.upper), ("workdir", &overlay.work)] {
        set(option, path)?.map_err(|error| Error::Option {
            option,
            path: path.clone(),
            source: error.into(),
        })?;
    }
    match fsconfig_create(&context) {
        Ok(()) => {}
        // Before Linux 6.5 options are collected unread, and what is unknown is refused here.
        Err(Errno::INVAL) => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    let detached = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(failed)?;
    move_mount(&detached, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed)?;
    Ok(true)
}

fn classic(overlay: &Overlay, target: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Mount {
        layers: overlay.lower.len(),
        target: target.to_owned(),
        source,
    };
    let lower = overlay.lower.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
    let number = |directory: &File| directory.as_raw_fd().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.iter().map(number).collect::<Vec<_>>().join(":"),
        number(&upper),
        number(&work)
    );
    let options = CString::new(options).map_err(|error| failed(error.into()))?;
    let target = std::path::absolute(target).map_err(failed)?;
    let here = open(Path::new("."))?;
    set_current_dir("/proc/self/fd").map_err(failed)?;
    let mounted =
        mount("overlay", &target, "overlay", MountFlags::empty(), Some(options.as_c_str()));
    set_current_dir(through(&here)).map_err(failed)?;
    mounted.map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// As many layers as overlayfs stacks, each with a file of its own and one that all have.
    #[test]
    fn five_hundred_layers_are_mounted_by_either_call() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (count, number) in [(127, "a"), (500, "b")] {
            let lower: Vec<PathBuf> =
                (0..count).map(|layer| at(&format!("{number}{layer}"))).collect();
            for (layer, path) in lower.iter().enumerate() {
                std::fs::create_dir(path).unwrap();
                std::fs::write(path.join(format!("own{layer}")), "").unwrap();
                std::fs::write(path.join("shared"), layer.to_string()).unwrap();
            }
            let name = |kind: &str| at(&format!("{kind}-{number}"));
            let overlay = Overlay { lower, upper: name("upper"), work: name("work") };
            let root = name("root");
            attach(&overlay, &root).unwrap();
            let modern = std::fs::read_dir(&root).unwrap().count();
            assert_eq!(std::fs::read_to_string(root.join("shared")).unwrap(), "0");
            detach(&root).unwrap();
            let here = std::env::current_dir().unwrap();
            classic(&overlay, &root).unwrap();
            let classic = std::fs::read_dir(&root).unwrap().count();
            detach(&root).unwrap();
            assert_eq!((modern, classic), (count + 1, count + 1));
            assert_eq!(std::env::current_dir().unwrap(), here);
        }
    }
}
