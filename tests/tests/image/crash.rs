//! SIGKILL at every fail point of what changes the store, and a disk that is full at every size.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use agent::api::types::PruneImages;
use agent::image::{Error, PullRequest, Registries, Store};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tests::cluster::FailPoint;
use tests::image::{Image as Made, Layer, Tar};
use tests::registry::Registry;

use super::no_one;

/// Two images that share two of three layers.
fn pair() -> (Made, Made) {
    let layer = |name: &str, size: usize| {
        // Incompressible enough to be several reads.
        let data: Vec<u8> = (0..size).map(|at| u8::try_from(at * at / 7 % 251).unwrap()).collect();
        Layer::gzip(&Tar::new().directory("d/").file(&format!("d/{name}"), &data).file(name, b"x"))
    };
    let (a, b) = (layer("a", 300_000), layer("b", 200_000));
    let one = Made::new(vec![a.clone(), b.clone(), layer("one", 100_000)]);
    (one, Made::new(vec![a, b, layer("two", 100_000)]))
}

/// A command that changes the store, and the same within this process.
#[derive(Debug)]
enum Step {
    Load(PathBuf),
    Pull(String),
    Remove(&'static str),
    Tag(&'static str, &'static str),
    Prune,
}

impl Step {
    fn arguments(&self) -> Vec<&str> {
        match self {
            Self::Load(archive) => vec!["image", "load", "-i", archive.to_str().unwrap()],
            Self::Pull(reference) => vec!["image", "pull", reference],
            Self::Remove(reference) => vec!["image", "rm", reference],
            Self::Tag(source, target) => vec!["image", "tag", source, target],
            Self::Prune => vec!["image", "prune", "--all", "--force"],
        }
    }

    fn take(&self, store: &Store) -> Result<(), Error> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let progress: agent::image::Progress = Arc::new(|_| {});
        let registries = Registries::default();
        match self {
            Self::Load(archive) => {
                runtime.block_on(store.load(archive, &registries, progress)).map(drop)
            }
            Self::Pull(reference) => {
                let request = PullRequest::of(reference);
                runtime.block_on(store.pull(request, &registries, progress)).map(drop)
            }
            Self::Remove(reference) => match store.remove(reference, false, &no_one) {
                Err(Error::Unknown { .. }) => Ok(()),
                result => result.map(drop),
            },
            Self::Tag(source, target) => store.tag(source, target),
            Self::Prune => {
                let all = PruneImages { all: true, ..PruneImages::default() };
                store.prune(&all, &no_one).map(drop)
            }
        }
    }
}

/// Mounts and a network of the test's own, and two archives.
struct World {
    directory: TempDir,
    archives: [PathBuf; 2],
}

impl World {
    fn new() -> Self {
        // Threads that are started later are in them, too.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = pair();
        let archives = [("one:1", one), ("two:1", two)].map(|(name, made)| {
            let path = directory.path().join(name.replace(':', "-"));
            tests::image::write(&path, &made.oci_archive(name)).unwrap();
            path
        });
        Self { directory, archives }
    }

    fn load(&self, at: usize) -> Step {
        Step::Load(self.archives[at].clone())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn images(root: &Path) -> PathBuf {
    root.join("var/lib/lighter/images")
}

/// What a store has after a start, by name; every image is whole, and nothing is left over.
fn outcome(store: &Path) -> String {
    let images = Store::open(store).unwrap();
    let archive = store.parent().unwrap().join("check.tar");
    let mut text = String::new();
    for image in images.list().unwrap() {
        assert_eq!(image.damage, None);
        text.push_str(&format!("{:?} {:?} {}\n", image.references, image.repo_digests, image.id));
        // Each layer is compared with its diff id.
        std::fs::write(&archive, b"").unwrap();
        images.save(&[image.id], &archive, &|| false).unwrap();
    }
    let content = super::content(store);
    let names = content.iter().map(|path| path.strip_prefix(store).unwrap().to_str().unwrap());
    let names: Vec<&str> = names.collect();
    let left = names.iter().find(|name| name.starts_with("tmp/") || name.ends_with(".tmp"));
    assert_eq!(left, None, "left over");
    format!("{text}{names:#?}")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// Takes a step after others, killed each time that it comes by each of the points, then again.
fn crash(world: &World, before: &[&Step], step: &Step, points: &[&str]) {
    if !FailPoint::are_there() {
        return;
    }
    let place = |name: &str| world.path(name);
    let prepared = images(&place("before"));
    std::fs::create_dir_all(&prepared).unwrap();
    let store = Store::open(&prepared).unwrap();
    for step in before {
        step.take(&store).unwrap();
    }
    let whole = place("whole");
    copy(&prepared, &whole);
    step.take(&Store::open(&whole).unwrap()).unwrap();
    let expected = outcome(&whole);
    for point in points {
        for hit in 1.. {
            let root = place("crashed");
            copy(&place("before"), &root);
            let failing = FailPoint { name: (*point).to_owned(), hit };
            let mut command = failing.command("lighter");
            let output = command.args(step.arguments()).env("LIGHTER_ROOT", &root).output();
            let output = output.unwrap();
            let killed = output.status.signal() == Some(9);
            assert!(
                killed || output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(killed || hit > 1, "{step:?} does not come by {point}");
            let store = images(&root);
            // Whatever is there now is whole.
            outcome(&store);
            step.take(&Store::open(&store).unwrap()).unwrap();
            assert_eq!(outcome(&store), expected, "{step:?} killed at {point} {hit}");
            std::fs::remove_dir_all(&root).unwrap();
            if !killed {
                break;
            }
        }
    }
}

const NEW: &[&str] = &[
    "image.staged",
    "image.unpacked",
    "image.sealed",
    "image.synced",
    "image.layer",
    "image.blob",
    "image.temporary",
    "image.record",
    "image.name",
];
const OLD: &[&str] =
    &["image.untagged", "image.deleted", "image.blob-removed", "image.aside", "image.discarded"];

#[test]
fn a_load_that_is_killed_is_swept() {
    let world = World::new();
    crash(&world, &[&world.load(1)], &world.load(0), NEW);
}

#[test]
fn a_pull_that_is_killed_is_swept() {
    let world = World::new();
    let registry = Registry::start().unwrap();
    registry.push(&world.archives[0], "one:1").unwrap();
    crash(&world, &[], &Step::Pull(registry.image("one:1")), NEW);
}

#[test]
fn a_pull_that_moves_a_tag_is_killed_and_swept() {
    let world = World::new();
    let registry = Registry::start().unwrap();
    registry.push(&world.archives[1], "moving:1").unwrap();
    let name: &'static str = registry.image("moving:1").leak();
    let before = [&world.load(0), &Step::Tag("one:1", name), &Step::Remove("one:1")];
    crash(&world, &before, &Step::Pull(name.to_owned()), NEW);
}

#[test]
fn a_removal_that_is_killed_is_finished_or_had_not_begun() {
    let world = World::new();
    let both = [&world.load(0), &world.load(1)];
    crash(&world, &both, &Step::Remove("one:1"), OLD);
}

#[test]
fn pruning_that_is_killed_goes_on() {
    let world = World::new();
    let both = [&world.load(0), &world.load(1)];
    crash(&world, &both, &Step::Prune, OLD);
}

#[test]
fn a_tag_that_is_killed_stays_or_has_moved() {
    let world = World::new();
    let both = [&world.load(0), &world.load(1)];
    crash(&world, &both, &Step::Tag("one:1", "two:1"), &["image.temporary", "image.name"]);
}

/// Takes a step by a command while the store's disk is as small as `options` say; tells whether it
/// fitted.
fn on_a_small_disk(world: &World, options: &str, step: &Step) -> bool {
    let root = world.path("small");
    let store = images(&root);
    std::fs::create_dir_all(&store).unwrap();
    let disk = |flags, options: &str| {
        mount(Some("tmpfs"), &store, Some("tmpfs"), flags, Some(options)).unwrap();
    };
    disk(MsFlags::empty(), options);
    let mut command = Command::new(tests::binary("lighter"));
    let output = command.args(step.arguments()).env("LIGHTER_ROOT", &root).output().unwrap();
    let fitted = output.status.success();
    if !fitted {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains("the disk of the image store") && text.contains("make room"),
            "{options}: {text}"
        );
        if Store::open(&store).is_ok() {
            let content = outcome(&store);
            assert_eq!(content, "[]", "{options}: space is given back");
        }
        disk(MsFlags::MS_REMOUNT, "size=64m,nr_inodes=10000");
        step.take(&Store::open(&store).unwrap()).unwrap();
    }
    assert!(outcome(&store).contains("/one:1\"") || outcome(&store).contains("\"one:1\""));
    nix::mount::umount(&store).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    fitted
}

/// Takes a step on disks of growing size, until it fits.
fn on_growing_disks(world: &World, step: &Step) {
    let page = 4096;
    let (mut size, mut fitted) = (page, false);
    while !fitted {
        fitted = on_a_small_disk(world, &format!("size={size}"), step);
        // Small steps at first and at last, where the records are written.
        size += if (10 * page..140 * page).contains(&size) { 9 * page } else { page };
    }
    assert!(size > 600_000, "{size} bytes hold less than the layers");
    let (mut inodes, mut fitted) = (2, false);
    while !fitted {
        fitted = on_a_small_disk(world, &format!("nr_inodes={inodes}"), step);
        inodes += 1;
    }
    assert!(inodes > 10);
}

#[test]
fn a_pull_to_a_full_disk_is_told_of_and_gives_the_space_back() {
    let world = World::new();
    let registry = Registry::start().unwrap();
    registry.push(&world.archives[0], "one:1").unwrap();
    on_growing_disks(&world, &Step::Pull(registry.image("one:1")));
}

#[test]
fn a_load_to_a_full_disk_is_told_of_and_gives_the_space_back() {
    let world = World::new();
    on_growing_disks(&world, &world.load(0));
}
