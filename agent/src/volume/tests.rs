//! The directories behind volumes, on a real file system. Mounts need root.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;

fn bind(source: Source, destination: &str) -> VolumeMount {
    VolumeMount { source, destination: destination.into(), read_only: false, options: Vec::new() }
}

#[test]
fn a_missing_bind_source_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let mounts = [
        bind(Source::Host(dir.path().to_owned()), "/a"),
        bind(Source::Tmpfs, "/t"),
        bind(Source::Host(missing.clone()), "/b"),
    ];
    host::check(&mounts[..2]).unwrap();
    let refused = host::check(&mounts).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("source {} of the bind mount at /b does not exist on this host", missing.display())
    );
}

#[test]
fn task_volumes_are_made_once_and_fresh_until_something_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = task::directory(dir.path());
    let mounts = [
        bind(Source::Task(volumes.join("data")), "/data"),
        bind(Source::Host("/etc".into()), "/etc"),
        bind(Source::Task(volumes.join("data")), "/again"),
    ];
    let fresh = task::create(&volumes, &mounts).unwrap();
    assert_eq!(fresh, [&mounts[0], &mounts[2]]);
    let stat = volumes.join("data").metadata().unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid()), (0o755, 0));
    assert_eq!(volumes.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    fs::write(volumes.join("data/file"), "x").unwrap();
    assert!(task::create(&volumes, &mounts).unwrap().is_empty());
}

#[test]
fn a_hostile_tree_goes_and_what_its_links_point_to_stays() {
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "kept").unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    symlink(&precious, tree.join("link")).unwrap();
    symlink("../../precious", tree.join(".removed.1")).unwrap();
    fs::create_dir_all(tree.join("wide/a/b")).unwrap();
    fs::create_dir_all(tree.join(".removed.2/full")).unwrap();
    for number in 0..2000 {
        fs::write(tree.join(format!("wide/a/{number}")), "x").unwrap();
    }
    // Far deeper than a path can be long, and than a stack would allow.
    let mut here = fs::File::open(&tree).unwrap();
    for _ in 0..5000 {
        let mode = rustix::fs::Mode::from_raw_mode(0o700);
        rustix::fs::mkdirat(&here, "d", mode).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "d", flags, mode).unwrap().into();
    }
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    remove_tree(&tree).unwrap();
    remove_tree(Path::new("/nonexistent/tree")).unwrap();

    symlink(&precious, &tree).unwrap();
    remove_tree(&tree).unwrap();
    assert!(tree.symlink_metadata().is_err());
    assert!(precious.join("file").exists());
}

#[test]
fn what_is_mounted_in_the_tree_is_refused_and_not_emptied() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "kept").unwrap();
    let tree = dir.path().join("tree");
    let inner = tree.join("a/b");
    fs::create_dir_all(&inner).unwrap();
    fs::write(tree.join("gone"), "x").unwrap();
    // A bind mount of the same file system: the device number does not give it away.
    mount(Some(&precious), &inner, none, MsFlags::MS_BIND, none).unwrap();
    let refused = remove_tree(&tree).unwrap_err();
    assert!(matches!(refused, Error::Remove { .. }), "{refused}");
    assert!(!tree.join("gone").exists(), "the rest goes");
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
    let mounted = tree.join("a/b");
    let mounted = if mounted.exists() { mounted } else { tree.join(".removed.1/b") };
    umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "kept");
}
