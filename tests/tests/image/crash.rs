//! SIGKILL at every fail point of what changes the store, and a disk that is full at every size.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tests::cluster::FailPoint;
use tests::host::{TestHost, stderr, stdout};
use tests::image::{Image as Made, Layer, Tar};
use tests::registry::Registry;

const POINTS: &[&str] = &[
    "image.staged",
    "image.unpacked",
    "image.sealed",
    "image.synced",
    "image.layer",
    "image.blob",
    "image.temporary",
    "image.record",
    "image.name",
    "image.aside",
    "image.discarded",
    "image.untagged",
    "image.deleted",
    "image.blob-removed",
];

/// Two images that share two of three layers.
fn pair() -> (Made, Made) {
    let layer = |name: &str, size: usize| {
        // Incompressible enough to be several reads.
        let data: Vec<u8> = (0..size).map(|at| (at * at / 7 % 251) as u8).collect();
        Layer::gzip(&Tar::new().directory("d/").file(&format!("d/{name}"), &data).file(name, b"x"))
    };
    let (a, b) = (layer("a", 300_000), layer("b", 200_000));
    let one = Made::new(vec![a.clone(), b.clone(), layer("one", 100_000)]);
    (one, Made::new(vec![a, b, layer("two", 100_000)]))
}

/// A host with a registry that has both images.
struct World {
    registry: Registry,
    host: TestHost,
    archives: [PathBuf; 2],
}

impl World {
    fn new() -> Self {
        let host = TestHost::empty();
        let registry = Registry::start().unwrap();
        let (one, two) = pair();
        let archives = [("one:1", one), ("two:1", two)].map(|(name, made)| {
            let path = host.path(&name.replace(':', "-"));
            tests::image::write(&path, &made.oci_archive(name)).unwrap();
            registry.push(&path, name).unwrap();
            path
        });
        registry.push(&archives[0], "moving:1").unwrap();
        Self { registry, host, archives }
    }

    fn lighter(&self, root: &Path, arguments: &[&str]) -> Output {
        self.host.command(arguments).env("LIGHTER_ROOT", root).output().unwrap()
    }

    fn ok(&self, root: &Path, arguments: &[&str]) -> String {
        let output = self.lighter(root, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// What the store has, by name; every image is whole, and nothing is left over.
    fn outcome(&self, root: &Path) -> String {
        let list = [
            "image",
            "ls",
            "--no-trunc",
            "--format",
            "{{.Repository}} {{.Tag}} {{.Digest}} {{.ID}}",
        ];
        let output = self.lighter(root, &list);
        assert!(output.status.success() && output.stderr.is_empty(), "{}", stderr(&output));
        let ids = self.ok(root, &["image", "ls", "--no-trunc", "--quiet"]);
        let archive = root.join("check.tar");
        for id in ids.lines() {
            // Each layer is compared with its diff id.
            self.ok(root, &["image", "save", "--output", archive.to_str().unwrap(), id]);
        }
        let store = images(root);
        let mut content = BTreeSet::new();
        for name in ["blobs/sha256", "images", "refs", "l", "tmp"] {
            for entry in std::fs::read_dir(store.join(name)).unwrap() {
                let path = entry.unwrap().path();
                content.insert(path.strip_prefix(&store).unwrap().display().to_string());
            }
        }
        let left: Vec<&String> = content
            .iter()
            .filter(|name| name.starts_with("tmp/") || name.ends_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "left over: {left:?}");
        format!("{}{content:#?}", stdout(&output))
    }
}

fn images(root: &Path) -> PathBuf {
    root.join("var/lib/lighter/images")
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// Runs `command` on copies of the root that `prepare` made, killed at the n-th time that it comes
/// by each point. Tells which points there were.
fn crash(
    world: &World,
    prepare: impl FnOnce(&Path),
    command: &[&str],
    done: &str,
) -> BTreeSet<&'static str> {
    let before = world.host.path("before");
    std::fs::create_dir(&before).unwrap();
    prepare(&before);
    world.ok(&before, &["image", "ls"]);
    let whole = world.host.path("whole");
    copy(&before, &whole);
    world.ok(&whole, command);
    let expected = world.outcome(&whole);
    let mut fired = BTreeSet::new();
    for point in POINTS {
        for hit in 1.. {
            let root = world.host.path("root-of-crash");
            copy(&before, &root);
            let failing = FailPoint { name: (*point).to_owned(), hit };
            let output = failing
                .command("lighter")
                .args(command)
                .env("LIGHTER_ROOT", &root)
                .output()
                .unwrap();
            let killed = output.status.signal() == Some(9);
            if killed {
                fired.insert(*point);
                // Whatever is there now is whole.
                world.outcome(&root);
            }
            let again = world.lighter(&root, command);
            let text = stderr(&again);
            assert!(again.status.success() || text.contains(done), "{point} {hit}: {text}");
            assert_eq!(world.outcome(&root), expected, "{command:?} killed at {point} {hit}");
            std::fs::remove_dir_all(&root).unwrap();
            if !killed {
                break;
            }
        }
    }
    for path in [before, whole] {
        std::fs::remove_dir_all(path).unwrap();
    }
    fired
}

#[test]
fn killed_at_any_point_the_store_is_whole_and_the_next_start_sweeps() {
    if !FailPoint::are_there() {
        return;
    }
    let world = World::new();
    let archive = world.archives[0].to_str().unwrap();
    let other = world.archives[1].to_str().unwrap();
    let none = "success is expected";
    let both = |root: &Path| {
        world.ok(root, &["image", "load", "-i", archive]);
        world.ok(root, &["image", "load", "-i", other]);
    };
    let mut fired = BTreeSet::new();
    fired.extend(crash(&world, |_| {}, &["image", "load", "-i", archive], none));
    fired.extend(crash(&world, |_| {}, &["image", "pull", &world.registry.image("one:1")], none));
    fired.extend(crash(&world, both, &["image", "rm", "one:1"], "no image one:1"));
    fired.extend(crash(&world, both, &["image", "tag", "one:1", "two:1"], none));
    fired.extend(crash(&world, both, &["image", "prune", "--all", "--force"], none));
    // A tag that moves.
    let moving = world.registry.image("moving:1");
    let pulled = |root: &Path| {
        world.ok(root, &["image", "pull", &moving]);
        world.registry.push(&world.archives[1], "moving:1").unwrap();
    };
    fired.extend(crash(&world, pulled, &["image", "pull", &moving], none));
    let all: BTreeSet<&str> = POINTS.iter().copied().collect();
    assert_eq!(fired, all, "every point was come by");
}

/// Runs commands while the store's disk has `size` bytes and `inodes` files.
fn on_a_small_disk(world: &World, options: &str, command: &[&str], name: &str) -> bool {
    let root = world.host.path("small");
    let store = images(&root);
    std::fs::create_dir_all(&store).unwrap();
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).arg(&store).status().unwrap();
        assert!(status.success(), "mount {arguments:?}");
    };
    mount(&["-t", "tmpfs", "-o", options, "tmpfs"]);
    let output = world.lighter(&root, command);
    let fitted = output.status.success();
    if !fitted {
        let text = stderr(&output);
        assert!(
            text.contains("the disk of the image store") && text.contains("make room"),
            "{options}: {text}"
        );
        if world.lighter(&root, &["image", "ls"]).status.success() {
            let content = world.outcome(&root);
            assert!(content.ends_with("{}"), "{options}: space is given back: {content}");
        }
        mount(&["-o", "remount,size=64m,nr_inodes=10000"]);
        world.ok(&root, command);
    }
    assert!(world.outcome(&root).contains(name));
    let status = Command::new("umount").arg(&store).status().unwrap();
    assert!(status.success());
    std::fs::remove_dir_all(&root).unwrap();
    fitted
}

#[test]
fn a_full_disk_is_told_of_and_given_back() {
    let world = World::new();
    let pull = world.registry.image("one:1");
    let archive = world.archives[0].to_str().unwrap();
    let page = 4096;
    for (command, name) in [
        (["image", "pull", &pull].to_vec(), "one 1"),
        (vec!["image", "load", "-i", archive], "one 1"),
    ] {
        let (mut size, mut fitted) = (page, false);
        while !fitted {
            fitted = on_a_small_disk(&world, &format!("size={size}"), &command, name);
            // Small steps at first, where the records are written.
            size += if size < 8 * page { page } else { 9 * page };
        }
        assert!(size > 600_000, "{size} bytes hold less than the layers");
        let (mut inodes, mut fitted) = (2, false);
        while !fitted {
            fitted = on_a_small_disk(&world, &format!("nr_inodes={inodes}"), &command, name);
            inodes += 1;
        }
        assert!(inodes > 10);
    }
}
