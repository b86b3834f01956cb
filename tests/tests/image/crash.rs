//! SIGKILL at every fail point of what changes the store or reads it for others.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use agent::api::types::PruneImages;
use agent::image::{Error, PullRequest, Registries, Store};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tests::cluster::FailPoint;
use tests::image::{Image as Made, Layer, Tar};
use tests::registry::Registry;

use super::no_one;

/// Two images that share one of two layers.
fn pair() -> (Made, Made) {
    let layer = |name: &str, size: usize| {
        // Incompressible enough to be several reads.
        let data: Vec<u8> = (0..size).map(|at| u8::try_from(at * at / 7 % 251).unwrap()).collect();
        Layer::gzip(&Tar::new().directory("d/").file(&format!("d/{name}"), &data).file(name, b"x"))
    };
    let shared = layer("shared", 80_000);
    let one = Made::new(vec![shared.clone(), layer("one", 50_000)]);
    (one, Made::new(vec![shared, layer("two", 50_000)]))
}

/// A command on the store, and the same within this process.
#[derive(Debug)]
pub(super) enum Step {
    Load(PathBuf),
    Pull(String),
    Push(String),
    Remove(&'static str),
    Tag(&'static str, String),
    Keep(&'static str),
    Prune,
    List,
}

impl Step {
    pub(super) fn arguments(&self) -> Vec<&str> {
        match self {
            Self::Load(archive) => vec!["image", "load", "-i", archive.to_str().unwrap()],
            Self::Pull(reference) => vec!["image", "pull", reference],
            Self::Push(reference) => vec!["image", "push", reference],
            Self::Remove(reference) => vec!["image", "rm", reference],
            Self::Tag(source, target) => vec!["image", "tag", source, target],
            Self::Keep(reference) => vec!["image", "keep", reference],
            Self::Prune => vec!["image", "prune", "--all", "--force"],
            Self::List => vec!["image", "ls"],
        }
    }

    pub(super) fn take(&self, store: &Path) -> Result<(), Error> {
        let store = Store::open(store)?;
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
            Self::Push(reference) => {
                let (progress, _nobody) = tokio::sync::mpsc::channel(1000);
                runtime.block_on(store.push(reference, false, None, &registries, progress))
            }
            Self::Remove(reference) => match store.remove(reference, false, &no_one) {
                Err(Error::Unknown { .. }) => Ok(()),
                result => result.map(drop),
            },
            Self::Tag(source, target) => store.tag(source, target),
            Self::Keep(reference) => store.keep(reference, true).map(drop),
            Self::Prune => {
                let all = PruneImages { all: true, ..PruneImages::default() };
                store.prune(&all, &no_one).map(drop)
            }
            Self::List => Ok(()),
        }
    }
}

/// Mounts and a network of the test's own, and two archives. In memory: a kill does not show what
/// the disk has got, and waiting for it takes long.
pub(super) struct World {
    directory: TempDir,
    archives: [PathBuf; 2],
}

impl World {
    pub(super) fn new() -> Self {
        // Threads that are started later are in them, too.
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let directory = tempfile::tempdir().unwrap();
        tmpfs(directory.path(), "size=256m");
        let (one, two) = pair();
        let archives = [("one:1", one), ("two:1", two)].map(|(name, made)| {
            let path = directory.path().join(name.replace(':', "-"));
            tests::image::write(&path, &made.oci_archive(name)).unwrap();
            path
        });
        Self { directory, archives }
    }

    pub(super) fn load(&self, at: usize) -> Step {
        Step::Load(self.archives[at].clone())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A registry that has the first image (0) or the second (1) by this name.
    pub(super) fn registry(&self, at: usize, name: &str) -> (Registry, String) {
        let registry = Registry::start().unwrap();
        registry.push(&self.archives[at], name).unwrap();
        let reference = registry.image(name);
        (registry, reference)
    }

    /// A root whose store has seen these steps.
    pub(super) fn root(&self, name: &str, steps: &[&Step]) -> PathBuf {
        let root = self.path(name);
        let store = images(&root);
        std::fs::create_dir_all(&store).unwrap();
        for step in steps {
            step.take(&store).unwrap();
        }
        root
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = umount2(self.directory.path(), MntFlags::MNT_DETACH);
    }
}

pub(super) fn tmpfs(path: &Path, options: &str) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

pub(super) fn images(root: &Path) -> PathBuf {
    root.join("var/lib/lighter/images")
}

/// What a store has after a start, by name; every image is whole, and nothing is left over.
pub(super) fn outcome(store: &Path) -> String {
    let images = Store::open(store).unwrap();
    let archive = store.parent().unwrap().join("check.tar");
    std::fs::write(&archive, b"").unwrap();
    let mut text = String::new();
    for image in images.list().unwrap() {
        assert_eq!(image.damage, None);
        text.push_str(&format!("{:?} {:?} {}\n", image.references, image.repo_digests, image.id));
        // Each layer is compared with its diff id.
        images.save(&[image.id], &archive, &|| false).unwrap();
    }
    std::fs::remove_file(&archive).unwrap();
    let mut content = super::content(store);
    for entry in std::fs::read_dir(store.join("usage")).unwrap() {
        content.extend(
            Some(entry.unwrap().path()).filter(|path| path.extension() != Some("json".as_ref())),
        );
    }
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

/// Runs a command, killed when it comes by a point of images for the n-th time; which that was.
fn killed(arguments: &[&str], root: &Path, hit: u32) -> Option<String> {
    let failing = FailPoint { name: "image.*".to_owned(), hit };
    let mut command = failing.command("lighter");
    let output = command.args(arguments).env("LIGHTER_ROOT", root).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.signal() == Some(9) {
        let point = text.lines().rev().find_map(|line| line.split_once("killed at "));
        return Some(point.unwrap().1.to_owned());
    }
    assert!(output.status.success(), "{arguments:?}: {text}");
    None
}

/// All of these were come by.
fn complete(arguments: &[&str], seen: &BTreeSet<String>, points: &[&str]) {
    let missing: Vec<_> = points.iter().filter(|point| !seen.contains(**point)).collect();
    assert!(missing.is_empty(), "{arguments:?} does not come by {missing:?}, but by {seen:?}");
}

/// Takes a step in a root, killed at each of the points it comes by, then again.
fn crash(world: &World, before: &Path, step: &Step, points: &[&str]) {
    if !FailPoint::are_there() {
        return;
    }
    let whole = world.path("whole");
    copy(before, &whole);
    step.take(&images(&whole)).unwrap();
    let expected = outcome(&images(&whole));
    std::fs::remove_dir_all(&whole).unwrap();
    let mut seen = BTreeSet::new();
    for hit in 1.. {
        let root = world.path("crashed");
        copy(before, &root);
        let point = killed(&step.arguments(), &root, hit);
        let store = images(&root);
        // Whatever is there now is whole.
        outcome(&store);
        step.take(&store).unwrap();
        assert_eq!(outcome(&store), expected, "{step:?} killed at {point:?}, {hit}");
        std::fs::remove_dir_all(&root).unwrap();
        match point {
            Some(point) => seen.insert(point),
            None => break,
        };
    }
    complete(&step.arguments(), &seen, points);
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
    let root = world.root("before", &[&world.load(1)]);
    crash(&world, &root, &world.load(0), NEW);
}

#[test]
fn a_pull_that_is_killed_is_swept() {
    let world = World::new();
    let (_registry, reference) = world.registry(0, "one:1");
    let root = world.root("before", &[]);
    crash(&world, &root, &Step::Pull(reference), NEW);
}

#[test]
fn a_pull_that_moves_a_tag_is_killed_and_swept() {
    let world = World::new();
    let (_registry, name) = world.registry(1, "moving:1");
    let tag = Step::Tag("one:1", name.clone());
    let root = world.root("before", &[&world.load(0), &tag, &Step::Remove("one:1")]);
    crash(&world, &root, &Step::Pull(name), NEW);
}

#[test]
fn a_removal_that_is_killed_is_finished_or_had_not_begun() {
    let world = World::new();
    let root = world.root("before", &[&world.load(0), &world.load(1)]);
    crash(&world, &root, &Step::Remove("one:1"), OLD);
    crash(&world, &root, &Step::Prune, OLD);
}

#[test]
fn a_name_that_is_given_or_taken_stays_or_has_changed() {
    let world = World::new();
    let root = world.root("before", &[&world.load(0), &world.load(1)]);
    let moved = Step::Tag("one:1", "two:1".to_owned());
    crash(&world, &root, &moved, &["image.temporary", "image.name"]);
    crash(&world, &root, &Step::Keep("one:1"), &["image.temporary"]);
    Step::Tag("one:1", "more:1".to_owned()).take(&images(&root)).unwrap();
    crash(&world, &root, &Step::Remove("more:1"), &["image.untagged"]);
}

/// What was killed may be killed again while it is swept.
#[test]
fn a_sweep_that_is_killed_goes_on() {
    let world = World::new();
    let root = world.root("before", &[&world.load(0)]);
    let store = images(&root);
    for directory in ["tmp/one/0/fs", "tmp/two/0/fs", "l/nobodys/fs"] {
        std::fs::create_dir_all(store.join(directory)).unwrap();
        std::fs::write(store.join(directory).join("file"), "x").unwrap();
    }
    let nobodys = "0".repeat(64);
    for name in ["images/a.tmp", "refs/a.tmp", "kept/a.tmp", "usage/a.tmp", "blobs/sha256/a.tmp"] {
        std::fs::write(store.join(name), "x").unwrap();
    }
    for name in ["refs", "usage", "blobs/sha256"] {
        let suffix = if name == "blobs/sha256" { "" } else { ".json" };
        std::fs::write(store.join(name).join(format!("{nobodys}{suffix}")), "{}").unwrap();
    }
    let points = ["image.swept", "image.blob-removed", "image.aside", "image.discarded"];
    crash(&world, &root, &Step::List, &points);
}

#[test]
fn a_save_that_is_killed_leaves_what_was_there() {
    let world = World::new();
    if !FailPoint::are_there() {
        return;
    }
    let root = world.root("root", &[&world.load(0)]);
    let before = outcome(&images(&root));
    let out = world.path("out");
    std::fs::create_dir(&out).unwrap();
    let target = out.join("one.tar");
    let arguments = ["image", "save", "-o", target.to_str().unwrap(), "one:1"];
    let there = || {
        let names = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let mut whole = None;
    // Where there is nothing, and over what there is; nobody clears up in between.
    for points in [&["image.saved", "image.archived"][..], &["image.linked"]] {
        let old = there();
        if whole.is_some() {
            std::fs::write(&target, "old").unwrap();
        }
        let mut seen = BTreeSet::new();
        for hit in 1.. {
            let Some(point) = killed(&arguments, &root, hit) else { break };
            if whole.is_some() {
                assert_eq!(std::fs::read(&target).unwrap(), b"old", "{point}");
            }
            let new: Vec<String> = there().difference(&old).cloned().collect();
            assert!(new.is_empty() || point == "image.linked", "{point}: {new:?}");
            seen.insert(point);
        }
        complete(&arguments, &seen, points);
        // What the next save finds goes, and the same image makes the same bytes.
        assert_eq!(there(), BTreeSet::from(["one.tar".to_owned()]));
        let bytes = std::fs::read(&target).unwrap();
        assert!(bytes == *whole.get_or_insert(bytes.clone()));
    }
    let elsewhere = world.root("elsewhere", &[&Step::Load(target)]);
    assert!(outcome(&images(&elsewhere)).contains(&pair().0.id()));
    let point = killed(&["image", "save", "one:1"], &root, 1);
    assert_eq!(point.as_deref(), Some("image.saved"));
    let state = std::fs::read_dir(root.join("var/lib/lighter")).unwrap();
    let mut spools = state.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(spools.find(|name| name.starts_with("load-")), None);
    assert_eq!(outcome(&images(&root)), before);
}

#[test]
fn a_push_that_is_killed_is_pushed_again() {
    let world = World::new();
    if !FailPoint::are_there() {
        return;
    }
    let registry = Registry::start().unwrap();
    let root = world.root("root", &[&world.load(0)]);
    let store = images(&root);
    let id = pair().0.id();
    let mut seen = BTreeSet::new();
    for hit in 1.. {
        // Of a repository that is new the registry knows nothing that need not be sent.
        let name = registry.image(&format!("repository{hit}:1"));
        Step::Tag("one:1", name.clone()).take(&store).unwrap();
        let push = Step::Push(name.clone());
        let point = killed(&push.arguments(), &root, hit);
        outcome(&store);
        push.take(&store).unwrap();
        let elsewhere = world.path("elsewhere");
        Step::Pull(name.clone()).take(&elsewhere).unwrap();
        assert!(outcome(&elsewhere).contains(&id), "{point:?}");
        std::fs::remove_dir_all(&elsewhere).unwrap();
        Step::Remove(name.leak()).take(&store).unwrap();
        match point {
            Some(point) => seen.insert(point),
            None => break,
        };
    }
    let points = [
        "image.staged",
        "image.compressed",
        "image.upload-begun",
        "image.sent",
        "image.manifest-sent",
        "image.temporary",
        "image.name",
    ];
    complete(&["image", "push"], &seen, &points);
}
