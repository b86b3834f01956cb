//! The overlay root of a container, mounted in the monitor's mount namespace.
//!
//! `fsopen` with one `lowerdir+` per layer (Linux 6.7); where that is not known, classic `mount(2)`.
//! An `fsconfig` string holds 255 bytes and classic options one page, so paths that do not fit are
//! given as `/proc/self/fd/<n>` of opened directories, and those of the classic call as the bare
//! numbers, from that directory: the 500 layers that overlayfs stacks fit, and numbers have none of
//! the option string's commas and colons.
//!
//! In a task with a user namespace each layer is given as a clone of its mount that has the
//! namespace's maps (`MOUNT_ATTR_IDMAP`), so that a layer on disk serves containers with and without
//! one, and nothing is chowned. Overlayfs takes such layers since Linux 5.19. Until 6.15 it takes
//! only what is attached in the mount namespace of the caller: the clones are attached one on another
//! to a directory beside `upper`, and detached when the overlay, which clones them once more, is
//! mounted; what a killed predecessor left attached goes first. `upper` has no maps, as with
//! containerd and Podman: overlayfs makes files there with the monitor's own ids before it gives them
//! their owner's, and the monitor's are in no map. The directory itself is given to the namespace's
//! root; all below it is then the namespace's, and a program with the set-user-id bit that a
//! container makes is never the host's root's, on disk neither.

use std::env::set_current_dir;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use protocol::monitor::Overlay;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

use super::user::User;
use crate::failpoint;
use crate::sys::mount as sys;

/// Longest string `fsconfig` takes.
const STRING: usize = 255;
/// Name beside `upper` of the directory that layers with mapped ids are attached to.
const SCRATCH: &str = "layers";

/// Why a root file system could not be mounted or unmounted.
#[derive(thiserror::Error)]
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
    #[error("clone the mount of overlay layer {path}")]
    Clone { path: PathBuf, source: io::Error },
    #[error(
        "map the ids of overlay layer {path}, without which no container can be in a user namespace: \
         that takes Linux 5.19 and a file system such as ext4, XFS or Btrfs below the agent's state; \
         move the state there, or leave LIGHTER_USERNS_REMAP empty"
    )]
    IdMap { path: PathBuf, source: io::Error },
    #[error("attach overlay layer {path} at {scratch}")]
    Attach { path: PathBuf, scratch: PathBuf, source: io::Error },
    #[error("give {path} to user {uid} and group {gid}, the root of the container")]
    Own { path: PathBuf, uid: u32, gid: u32, source: io::Error },
    #[error("the maps of the user namespace have no root")]
    NoRoot,
    #[error(
        "mount overlay of {layers} layers with mapped ids at {target}; overlayfs takes such layers \
         since Linux 5.19: run a newer kernel, or leave LIGHTER_USERNS_REMAP empty"
    )]
    MountMapped { layers: usize, target: PathBuf, source: io::Error },
}

debug_is_display!(Error);

/// Mounts `overlay` at `target`, replacing what a killed predecessor left there; with the maps of
/// `user`, if the task has such a namespace.
pub(crate) fn attach(overlay: &Overlay, target: &Path, user: Option<&User>) -> Result<(), Error> {
    if overlay.lower.is_empty() {
        return Err(Error::NoLayer { target: target.to_owned() });
    }
    for path in [&overlay.upper, &overlay.work, &target.to_owned()] {
        make(path, 0o755)?;
    }
    detach(target)?;
    let layers = match user {
        None => Layers::Paths(&overlay.lower),
        Some(user) => {
            give(&overlay.upper, user)?;
            Layers::Mapped(Mapped::attach(overlay, user)?)
        }
    };
    let mounted = match modern(overlay, &layers, target) {
        Ok(true) => Ok(()),
        Ok(false) => classic(overlay, &layers, target),
        Err(error) => Err(error),
    };
    failpoint::hit("overlay-mount");
    mounted.map_err(|error| match (error, &layers) {
        (Error::Mount { layers, target, source }, Layers::Mapped(_)) => {
            Error::MountMapped { layers, target, source }
        }
        (error, _) => error,
    })
}

fn make(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// Makes a new upper directory the namespace's root's. One that a container has used may be anybody's
/// in the namespace, and stays.
fn give(upper: &Path, user: &User) -> Result<(), Error> {
    let (uid, gid) = user.outside(0, 0).ok_or(Error::NoRoot)?;
    let failed = |source| Error::Own { path: upper.to_owned(), uid, gid, source };
    if fs::metadata(upper).map_err(failed)?.uid() == 0 {
        lchown(upper, Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(())
}

/// What the overlay is made of.
enum Layers<'a> {
    Paths(&'a [PathBuf]),
    Mapped(Mapped),
}

/// Layers with mapped ids, attached for as long as this is kept.
struct Mapped {
    clones: Vec<File>,
    scratch: PathBuf,
}

impl Mapped {
    fn attach(overlay: &Overlay, user: &User) -> Result<Self, Error> {
        let scratch = scratch(overlay);
        make(&scratch, 0o700)?;
        detach(&scratch)?;
        let mut mapped = Self { clones: Vec::with_capacity(overlay.lower.len()), scratch };
        for path in &overlay.lower {
            let name = CString::new(path.as_os_str().as_bytes())
                .map_err(|error| Error::Layer { path: path.clone(), source: error.into() })?;
            let clone = sys::open_tree(None, &name, true, false)
                .map_err(|errno| Error::Clone { path: path.clone(), source: errno.into() })?;
            sys::map_ids(clone.as_fd(), false, user.namespace())
                .map_err(|errno| Error::IdMap { path: path.clone(), source: errno.into() })?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&clone, "", CWD, &mapped.scratch, flags).map_err(|errno| Error::Attach {
                path: path.clone(),
                scratch: mapped.scratch.clone(),
                source: errno.into(),
            })?;
            mapped.clones.push(clone.into());
            failpoint::hit("layer-attach");
        }
        Ok(mapped)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Whoever attaches here next, undoes the creation, or ends the mount namespace takes away what
        // stays.
        let _ = detach(&self.scratch);
    }
}

/// Where a killed predecessor may have left layers attached.
pub(crate) fn scratch(overlay: &Overlay) -> PathBuf {
    overlay.upper.with_file_name(SCRATCH)
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
fn modern(overlay: &Overlay, layers: &Layers<'_>, target: &Path) -> Result<bool, Error> {
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
        let given = match layers {
            Layers::Paths(_) => set("lowerdir+", layer)?,
            Layers::Mapped(mapped) => match mapped.clones.get(position) {
                Some(clone) => set("lowerdir+", Path::new(&through(clone)))?,
                None => Err(Errno::BADF),
            },
        };
        match given {
            Ok(()) => {}
            // An unknown option, an unusable layer and, before Linux 6.5, more options than a page
            // holds share an errno; the classic call does without, or reports what is wrong.
            Err(Errno::INVAL) => return Ok(false),
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

fn classic(overlay: &Overlay, layers: &Layers<'_>, target: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Mount {
        layers: overlay.lower.len(),
        target: target.to_owned(),
        source,
    };
    let opened;
    let lower = match layers {
        Layers::Paths(paths) => {
            opened = paths.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
            &opened
        }
        Layers::Mapped(mapped) => &mapped.clones,
    };
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
            attach(&overlay, &root, None).unwrap();
            let modern = std::fs::read_dir(&root).unwrap().count();
            assert_eq!(std::fs::read_to_string(root.join("shared")).unwrap(), "0");
            detach(&root).unwrap();
            let here = std::env::current_dir().unwrap();
            classic(&overlay, &Layers::Paths(&overlay.lower), &root).unwrap();
            let classic = std::fs::read_dir(&root).unwrap().count();
            detach(&root).unwrap();
            assert_eq!((modern, classic), (count + 1, count + 1));
            assert_eq!(std::env::current_dir().unwrap(), here);
        }
    }

    /// The layers are shown with other ids by either call, and stay as they are.
    #[test]
    fn layers_have_the_ids_of_a_user_namespace_by_either_call() {
        use protocol::monitor::{IdRange, UserMaps};

        if !rustix::process::geteuid().is_root() {
            return;
        }
        // What is attached here is nobody else's business.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let range = |outside| vec![IdRange { inside: 0, outside, size: 65536 }];
        let maps = UserMaps { uids: range(300_000), gids: range(400_000) };
        let (user, _) = User::make(&maps, false).unwrap();
        let lower: Vec<PathBuf> = (0..140).map(|layer| at(&format!("l{layer}"))).collect();
        for (layer, path) in lower.iter().enumerate() {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("shared"), layer.to_string()).unwrap();
            let own = path.join(format!("own{layer}"));
            std::fs::write(&own, "").unwrap();
            lchown(&own, Some(7), Some(8)).unwrap();
        }
        let owner = |path: &Path| {
            let at = std::fs::symlink_metadata(path).unwrap();
            (at.uid(), at.gid())
        };
        let overlay = Overlay { lower, upper: at("d/upper"), work: at("d/work") };
        let root = at("root");
        for by_either in [true, false] {
            if by_either {
                attach(&overlay, &root, Some(&user)).unwrap();
            } else {
                let layers = Layers::Mapped(Mapped::attach(&overlay, &user).unwrap());
                classic(&overlay, &layers, &root).unwrap();
            }
            assert_eq!(std::fs::read_dir(&root).unwrap().count(), 141);
            assert_eq!(owner(&root), (300_000, 400_000));
            assert_eq!(owner(&root.join("shared")), (300_000, 400_000));
            assert_eq!(owner(&root.join("own139")), (300_007, 400_008));
            detach(&root).unwrap();
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!mounts.contains(directory.path().to_str().unwrap()), "{mounts}");
        }
        assert_eq!(owner(&at("l139/own139")), (7, 8));
        // What a killed predecessor left attached goes.
        rustix::mount::mount_bind(at("l0"), at("d").join(SCRATCH)).unwrap();
        attach(&overlay, &root, Some(&user)).unwrap();
        detach(&root).unwrap();
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(directory.path().to_str().unwrap()), "{mounts}");
    }
}
