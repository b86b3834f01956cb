//! A disk that is full: at every size of it, and for what has to work then.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use agent::image::Store;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::statvfs::statvfs;

use super::crash::{Step, World, images, outcome, tmpfs};

const PAGE: u64 = 4096;
/// What disks count.
const KINDS: [&str; 2] = ["size", "nr_inodes"];

fn run(root: &Path, step: &Step) -> Output {
    let mut command = Command::new(tests::binary("lighter"));
    command.args(step.arguments()).env("LIGHTER_ROOT", root).output().unwrap()
}

fn told_of(output: &Output, what: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    let says = text.contains("the disk of the image store") && text.contains("make room");
    assert!(says, "{what}: {text}");
}

/// Takes a step by a command while the store's disk is as small as `options` say; tells whether it
/// fitted, and how much it took.
fn on_a_small_disk(world: &World, options: &str, step: &Step) -> (bool, [u64; 2]) {
    let root = world.path("small");
    let store = images(&root);
    std::fs::create_dir_all(&store).unwrap();
    tmpfs(&store, options);
    let output = run(&root, step);
    let fitted = output.status.success();
    if !fitted {
        told_of(&output, options);
        if Store::open(&store).is_ok() {
            assert_eq!(outcome(&store), "[]", "{options}: space is given back");
        }
        let large = Some("size=64m,nr_inodes=10000");
        mount(Some("tmpfs"), &store, Some("tmpfs"), MsFlags::MS_REMOUNT, large).unwrap();
        step.take(&store).unwrap();
    }
    let content = outcome(&store);
    assert!(content.contains("/one:1\"") || content.contains("\"one:1\""));
    let taken = used(&store);
    umount(&store).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    (fitted, taken)
}

fn used(path: &Path) -> [u64; 2] {
    let stat = statvfs(path).unwrap();
    [stat.blocks() - stat.blocks_free(), stat.files() - stat.files_free()]
}

/// Takes a step on disks of growing size, until it fits.
fn on_growing_disks(world: &World, step: &Step) {
    let (fitted, taken) = on_a_small_disk(world, "size=64m,nr_inodes=10000", step);
    assert!(fitted);
    for (kind, taken) in KINDS.into_iter().zip(taken) {
        // What is made first and last, one by one; in between are the files of layers.
        let (first, last) = (2..10, taken.saturating_sub(10)..);
        let mut count = 2;
        loop {
            if first.contains(&count) || last.contains(&count) || count % 6 == 0 {
                let size = if kind == "size" { count * PAGE } else { count };
                if on_a_small_disk(world, &format!("{kind}={size}"), step).0 {
                    break;
                }
            }
            count += 1;
        }
        assert!(count > 20 && count > taken - taken / 4, "{kind}: {count} of {taken}");
    }
}

#[test]
fn a_pull_to_a_full_disk_is_told_of_and_gives_the_space_back() {
    let world = World::new();
    let (_registry, reference) = world.registry(0, "one:1");
    on_growing_disks(&world, &Step::Pull(reference));
}

#[test]
fn a_load_to_a_full_disk_is_told_of_and_gives_the_space_back() {
    let world = World::new();
    on_growing_disks(&world, &world.load(0));
}

/// A small disk, and what fills it but for a few pages or inodes.
struct Filled {
    at: PathBuf,
    kind: &'static str,
    filler: PathBuf,
}

impl Filled {
    fn new(at: &Path, kind: &'static str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        tmpfs(at, "size=8m,nr_inodes=300");
        Self { at: at.to_owned(), kind, filler: at.join("filler") }
    }

    /// Leaves so much.
    fn fill(&self, free: u64) {
        match self.kind {
            "size" => {
                let mut file = std::fs::File::create(&self.filler).unwrap();
                while file.write_all(&[1; 4096]).is_ok() {}
                file.set_len(file.metadata().unwrap().len() / PAGE * PAGE - free * PAGE).unwrap();
            }
            _ => {
                let name = |number: u64| self.filler.join(number.to_string());
                std::fs::create_dir_all(&self.filler).unwrap();
                let made =
                    (0..).find(|number| std::fs::write(name(*number), b"").is_err()).unwrap();
                for number in 0..free {
                    std::fs::remove_file(name(made - 1 - number)).unwrap();
                }
            }
        }
    }

    fn clear(&self) {
        match self.kind {
            "size" => std::fs::remove_file(&self.filler).unwrap(),
            _ => std::fs::remove_dir_all(&self.filler).unwrap(),
        }
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = umount(&self.at);
    }
}

/// What the host keeps is all on the disk that is full.
#[test]
fn a_full_disk_keeps_no_image_from_being_removed() {
    let world = World::new();
    for kind in KINDS {
        for step in [Step::Remove("one:1"), Step::Prune] {
            let root = world.path("root");
            let disk = Filled::new(&root.join("var/lib/lighter"), kind);
            for at in [0, 1] {
                assert!(run(&root, &world.load(at)).status.success());
            }
            let store = images(&root);
            let before = used(&store);
            disk.fill(0);
            let output = run(&root, &step);
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{step:?} without {kind}: {text}");
            disk.clear();
            let left = outcome(&store);
            assert!(!left.contains("one:1"), "{step:?} without {kind}: {left}");
            assert_eq!(left.contains("two:1"), !matches!(step, Step::Prune));
            let after = used(&store);
            assert!(after.iter().zip(before).all(|(after, before)| *after < before));
            drop(disk);
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
}

#[test]
fn a_name_or_mark_that_does_not_fit_is_told_of_and_changes_nothing() {
    let world = World::new();
    for kind in KINDS {
        for step in [Step::Tag("one:1", "more:1".to_owned()), Step::Keep("one:1")] {
            let root = world.path("root");
            let store = images(&root);
            let disk = Filled::new(&store, kind);
            world.load(0).take(&store).unwrap();
            let before = outcome(&store);
            // What there is is found, and that it is used is noted or not.
            disk.fill(0);
            let full = Store::open(&store).unwrap();
            let image = full.find("one:1").unwrap().unwrap();
            full.note_use(&image.id).unwrap_err();
            disk.clear();
            assert_eq!(outcome(&store), before);
            let mut refused = 0;
            loop {
                disk.fill(refused);
                let output = run(&root, &step);
                disk.clear();
                if output.status.success() {
                    break;
                }
                told_of(&output, &format!("{step:?} with {refused} free of {kind}"));
                assert_eq!(outcome(&store), before);
                refused += 1;
            }
            assert!(refused > 0, "{step:?} takes nothing of {kind}");
            assert_ne!(outcome(&store), before);
            drop(disk);
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
}

#[test]
fn a_push_from_a_full_disk_is_told_of_and_leaves_nothing() {
    let world = World::new();
    let (registry, _) = world.registry(1, "two:1");
    let name = registry.image("one:1");
    let root = world.path("root");
    let store = images(&root);
    let disk = Filled::new(&store, "size");
    world.load(0).take(&store).unwrap();
    Step::Tag("one:1", name.clone()).take(&store).unwrap();
    let before = outcome(&store);
    let push = Step::Push(name);
    // One that fits nowhere, and one of which the second layer does not.
    for free in [0, 1] {
        disk.fill(free);
        let output = run(&root, &push);
        disk.clear();
        told_of(&output, &format!("{free} pages free"));
        assert_eq!(outcome(&store), before);
    }
    assert!(run(&root, &push).status.success());
}

#[test]
fn a_save_to_a_full_disk_leaves_what_was_there() {
    let world = World::new();
    let root = world.root("root", &[&world.load(0)]);
    let out = world.path("out");
    let disk = Filled::new(&out, "size");
    let target = out.join("one.tar");
    std::fs::write(&target, "old").unwrap();
    for free in [0, 1, 8] {
        disk.fill(free);
        let mut command = Command::new(tests::binary("lighter"));
        command.args(["image", "save", "-o", target.to_str().unwrap(), "one:1"]);
        let output = command.env("LIGHTER_ROOT", &root).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{free}");
        let expected = format!("{}: No space left on device", target.display());
        assert!(text.contains(&expected), "{text}");
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        disk.clear();
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1);
    }
}
