//! Collection on the real agent whose store is a small filesystem of its own, and the leases that
//! stand against it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::image::{Mark, Marks, Round, Rules, Spare};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tests::host::{TestHost, terminate};
use tests::image::{Entry, Image as Made, Layer, Tar};
use tests::registry::Registry;

use super::*;

/// Sizes are counted in this.
const UNIT: usize = 1 << 19;

/// An image of so many units that shares nothing with another; its containers can sleep.
fn big(seed: u8, size: usize) -> Made {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let program = Entry { name: "busybox", mode: 0o755, data: &busybox, ..Entry::default() };
    let data = vec![seed; size * UNIT - busybox.len()];
    Made::new(vec![Layer::gzip(&Tar::new().entry(&program).file("data", &data))])
}

/// An agent of a service, its store on a filesystem of 64 units, and a registry.
struct Crowded {
    agent: Option<Child>,
    registry: Registry,
    host: TestHost,
}

impl Crowded {
    fn new() -> Self {
        let host = TestHost::empty();
        let images = host.root().join("var/lib/lighter/images");
        std::fs::create_dir_all(&images).unwrap();
        let options = Some("size=32m,mode=700");
        mount(Some("images"), &images, Some("tmpfs"), MsFlags::empty(), options).unwrap();
        let config = host.root().join("etc/ecs");
        std::fs::create_dir_all(&config).unwrap();
        let text = "LIGHTER_IMAGE_DISK_HIGH=80%\nLIGHTER_IMAGE_DISK_LOW=50%\n";
        std::fs::write(config.join("ecs.config"), text).unwrap();
        let mut crowded = Self { agent: None, registry: Registry::start().unwrap(), host };
        crowded.start();
        crowded
    }

    fn start(&mut self) {
        let mut command = self.command(&tests::binary("lighter"));
        self.agent = Some(command.spawn().unwrap());
        self.host.eventually("the agent serves", || self.host.agent_pid().is_some());
    }

    fn command(&self, lighter: &Path) -> Command {
        let log = self.host.path("agent.log");
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(lighter);
        command.arg("agent").env("LIGHTER_ROOT", self.host.root()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// In percent.
    fn use_of_disk(&self) -> u32 {
        let store = self.host.root().join("var/lib/lighter/images");
        let shown = self.host.sh(&format!("df --output=pcent {} | tail -1", store.display()));
        shown.trim().trim_end_matches('%').parse().unwrap()
    }

    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        terminate(&agent);
        assert!(agent.wait().unwrap().success(), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.host.path("agent.log")).unwrap_or_default()
    }

    fn push(&self, name: &str, made: &Made) -> String {
        let path = self.host.path("pushed");
        tests::image::write(&path, &made.oci_archive("x:1")).unwrap();
        self.registry.push(&path, name).unwrap();
        self.registry.image(name)
    }

    /// Pushes an image of 6 units and pulls it.
    fn pull(&self, name: &str, more: &[&str]) {
        let reference = self.push(&format!("{name}:1"), &big(name.as_bytes()[0], 6));
        let mut arguments = vec!["image", "pull", "--quiet"];
        arguments.extend(more);
        arguments.push(&reference);
        self.host.ok(&arguments);
        // Uses are told apart by the clock of files.
        std::thread::sleep(Duration::from_millis(20));
    }

    /// Last parts of the repositories' names.
    fn names(&self) -> Vec<String> {
        let listed = self.host.ok(&["image", "ls", "--format", "{{.Repository}}"]);
        let mut names: Vec<String> = listed
            .lines()
            .filter_map(|name| name.rsplit('/').next())
            .map(ToOwned::to_owned)
            .collect();
        names.sort();
        names
    }

    fn show(&self, when: &str) {
        let store = self.host.root().join("var/lib/lighter/images");
        println!(
            "{when}:\n{}\n{}\n",
            self.host.ok(&["image", "ls"]),
            self.host.sh(&format!("df -h --output=size,used,avail,pcent {}", store.display()))
        );
    }

    /// A task that sleeps, of an image that is here.
    fn sleeper(&self, name: &str) -> String {
        self.host.detach(&json!({
            "family": "sleeper", "networkMode": "none",
            "containerDefinitions": [{
                "name": "main", "image": self.registry.image(&format!("{name}:1")), "memory": 32,
                "essential": true, "entryPoint": ["/busybox", "sleep"], "command": ["100000"],
                "stopTimeout": 2,
            }],
        }))
    }

    fn status(&self, task: &str) -> Value {
        self.host.inspect(task)["lastStatus"].clone()
    }
}

impl Drop for Crowded {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

#[test]
fn a_full_disk_takes_unused_images_least_recently_used_first() {
    let crowded = Crowded::new();
    crowded.pull("a", &[]);
    crowded.pull("b", &["--keep"]);
    crowded.pull("c", &[]);
    let task = crowded.sleeper("c");
    for name in ["d", "e", "f", "g", "h", "i"] {
        crowded.pull(name, &[]);
    }
    crowded.show("before collection, above the high mark of 80%");
    assert_eq!(crowded.names().len(), 9);
    crowded.pull("j", &[]);
    crowded.show("after collection to below the low mark of 50%, and the pull of j");
    assert_eq!(crowded.names(), ["b", "c", "g", "h", "i", "j"], "{}", crowded.log());
    assert_eq!(crowded.status(&task), "RUNNING");

    // Larger than what is free: found full in the middle, room is made, and it is pulled.
    let reference = crowded.push("large:1", &big(b'L', 44));
    crowded.host.ok(&["image", "pull", "--quiet", &reference]);
    crowded.show("after the pull of 22 MiB that found the disk full");
    assert_eq!(crowded.names(), ["b", "c", "large"], "{}", crowded.log());
    assert!(crowded.log().contains("the disk was full"), "{}", crowded.log());

    // Larger than all that can be made free.
    let reference = crowded.push("huge:1", &big(b'H', 60));
    let refused = crowded.host.run(&["image", "pull", "--quiet", &reference]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("is full"), "{text}");
    assert_eq!(crowded.names(), ["b", "c"]);
    assert_eq!(crowded.status(&task), "RUNNING");

    // A mark goes with the name, or by hand.
    crowded.host.ok(&["image", "unkeep", &crowded.registry.image("b:1")]);
    let refused = crowded.host.run(&["image", "pull", "--quiet", &reference]);
    assert!(!refused.status.success());
    assert_eq!(crowded.names(), ["c"], "{}", crowded.log());
    let unknown = crowded.host.run(&["image", "keep", "localhost/none:1"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no such image"));
}

#[test]
fn an_agent_killed_in_a_collection_leaves_a_whole_store() {
    let mut crowded = Crowded::new();
    crowded.pull("a", &[]);
    let task = crowded.sleeper("a");
    for point in ["image.untagged:1", "image.deleted:1", "image.aside:1", "collect.image:2"] {
        // The agent looks at the disk each minute, perhaps just now.
        loop {
            for name in ["b", "c", "d", "e", "f", "g", "h", "i"] {
                if !crowded.names().contains(&name.to_owned()) && crowded.use_of_disk() <= 80 {
                    crowded.pull(name, &[]);
                }
            }
            crowded.stop();
            if crowded.use_of_disk() > 80 {
                break;
            }
            crowded.start();
        }
        // It looks at the disk when it starts.
        if let Some(directory) = std::env::var_os("LIGHTER_FAILPOINTS") {
            let mut armed = crowded.command(&Path::new(&directory).join("lighter"));
            armed.env("LIGHTER_FAILPOINT", point);
            assert_eq!(armed.status().unwrap().signal(), Some(9), "{point}: {}", crowded.log());
        }
        crowded.start();
        let listed = crowded.host.run(&["image", "ls"]);
        let warnings = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(listed.status.success() && warnings.is_empty(), "{point}: {warnings}");
        assert_eq!(crowded.status(&task), "RUNNING", "{point}");
        // What was begun is completed or undone; each image has one layer of its own.
        let store = crowded.host.root().join("var/lib/lighter/images");
        let count = |name: &str| std::fs::read_dir(store.join(name)).unwrap().count();
        crowded.host.eventually("the store is whole", || {
            crowded.use_of_disk() <= 80 && count("tmp") == 0 && count("l") == count("images")
        });
        assert_eq!(count("usage"), count("images"), "{point}");
        assert!(crowded.names().contains(&"a".to_owned()), "{point}");
    }
}

#[test]
fn a_leased_image_stays_whole_whoever_collects() {
    let fixture = Fixture::new();
    let archive = sample().oci_archive("raced:1");
    let rules = Rules {
        minimum_age: Duration::ZERO,
        untracked_minimum_age: Duration::ZERO,
        untracked: true,
        per_cycle: 5,
    };
    let all = Marks { high: Mark::Bytes(0), low: Mark::Bytes(0) };
    let in_use = |_: &str| false;
    let names = std::collections::BTreeSet::new();
    let over = AtomicBool::new(false);
    let (mut leased, mut missed) = (0, 0);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut gone = 0;
            while !over.load(Ordering::Relaxed) {
                for round in [Round::Cycle, Round::Look(all), Round::Full(all)] {
                    let spare = Spare { in_use: &in_use, names: &names };
                    gone += fixture.store.reclaim(round, &rules, &spare).unwrap().len();
                }
            }
            gone
        });
        let _ends = Ends(&over);
        while leased < 200 {
            let Some((image, lease)) = fixture.store.lease("raced:1").unwrap() else {
                missed += 1;
                fixture.load(&archive).unwrap();
                continue;
            };
            leased += 1;
            fixture.store.note_use(&image.id).unwrap();
            for _ in 0..3 {
                assert!(image.layers.iter().all(|layer| layer.is_dir()));
                assert!(fixture.store.find(&image.id).unwrap().is_some());
            }
            let refused = fixture.store.remove("raced:1", false, &no_one).unwrap_err();
            assert!(matches!(refused, Error::ReferenceInUse { .. }), "{refused}");
            drop(lease);
        }
        over.store(true, Ordering::Relaxed);
        let gone = collector.join().unwrap();
        println!("{leased} leases; {gone} collections, {missed} loads between them");
    });
}

/// Ends the other thread also where this one panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_a_pull_commits_is_its_own_before_anybody_can_take_it() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let archive = fixture.in_archive_file(&sample().oci_archive("sample:1"));
    registry.push(&archive, "sample:1").unwrap();
    let lease = fixture.store.lease_new();
    let image = fixture.pull(&registry.image("sample:1")).unwrap();
    lease.narrow(&image.id);
    assert!(matches!(
        fixture.store.remove(&image.id, true, &no_one).unwrap_err(),
        Error::InUse { .. }
    ));
    drop(lease);
    // Also where a registry says that nothing has changed.
    let lease = fixture.store.lease_new();
    fixture.pull(&registry.image("sample:1")).unwrap();
    lease.narrow(&image.id);
    assert!(fixture.store.remove(&image.id, true, &no_one).is_err());
    drop(lease);
    fixture.store.remove(&image.id, true, &no_one).unwrap();
}

#[test]
fn the_cycle_takes_what_tasks_have_used_and_leaves_what_is_excluded() {
    let fixture = Fixture::new();
    let named = |name: &str| {
        let layer = Layer::gzip(&Tar::new().file(name, name.as_bytes()));
        let image = Made::new(vec![layer]);
        fixture.load(&image.oci_archive(&format!("{name}:1"))).unwrap();
        image.id()
    };
    let [used, other, excluded, kept, by_hand] =
        ["used", "other", "excluded", "kept", "by-hand"].map(named);
    for id in [&other, &used, &excluded, &kept] {
        fixture.store.note_use(id).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    fixture.store.note_use(&other).unwrap();
    assert!(fixture.store.keep("kept:1", true).unwrap());
    assert!(!fixture.store.keep("kept:1", true).unwrap());
    let mut rules = Rules {
        minimum_age: Duration::from_secs(3600),
        untracked_minimum_age: Duration::ZERO,
        untracked: false,
        per_cycle: 1,
    };
    let names = ["excluded:1".to_owned()].into();
    let round = |rules: &Rules| {
        let spare = Spare { in_use: &no_one, names: &names };
        let gone = fixture.store.reclaim(Round::Cycle, rules, &spare).unwrap();
        gone.into_iter().map(|image| image.deleted[0].clone()).collect::<Vec<_>>()
    };
    assert!(round(&rules).is_empty(), "all are young");
    rules.minimum_age = Duration::ZERO;
    assert_eq!(round(&rules), [used]);
    assert_eq!(round(&rules), [other]);
    assert!(round(&rules).is_empty());
    rules.untracked = true;
    assert_eq!(round(&rules), [by_hand]);
    assert!(fixture.store.keep("kept:1", false).unwrap());
    assert_eq!(round(&rules), [kept]);
    assert!(round(&rules).is_empty());
    let images = fixture.dir.path().join("images");
    assert_eq!(std::fs::read_dir(images.join("usage")).unwrap().count(), 1, "that of what is left");
}
