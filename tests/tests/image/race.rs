//! Commands on one root at the same time: some of them are its agent for a moment, the others are
//! served by whoever is; then all of them beside an agent that stays.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agent::image::Store;
use serde_json::{Value, json};
use tests::cluster::FailPoint;
use tests::host::{TestHost, terminate};
use tests::image::{Entry, Image as Made, Layer, Tar};
use tests::registry::Registry;

/// What a process that came second exits with.
const SERVED: i32 = 75;

/// Three images whose containers can run, of two shared layers and one of their own.
fn three() -> Vec<Made> {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let program = Entry { name: "busybox", mode: 0o755, data: &busybox, ..Entry::default() };
    let program = Layer::gzip(&Tar::new().entry(&program));
    let layer = |name: &str| Layer::gzip(&Tar::new().file(name, name.repeat(30_000).as_bytes()));
    let image = |own| Made::new(vec![program.clone(), layer("shared"), layer(own)]);
    ["a", "b", "c"].map(image).into()
}

struct Raced {
    registry: Registry,
    host: TestHost,
    /// By their names in the registry.
    references: Vec<String>,
    tasks: Vec<String>,
}

impl Raced {
    fn new() -> Self {
        let host = TestHost::empty();
        let registry = Registry::start().unwrap();
        let mut references = Vec::new();
        for (at, made) in three().iter().enumerate() {
            let path = host.path("pushed");
            tests::image::write(&path, &made.oci_archive("x:1")).unwrap();
            registry.push(&path, &format!("raced{at}:1")).unwrap();
            references.push(registry.image(&format!("raced{at}:1")));
        }
        let tasks = references.iter().enumerate().map(|(at, image)| {
            let definition = json!({
                "family": "raced", "networkMode": "none",
                "containerDefinitions": [{
                    "name": "main", "image": image, "memory": 32, "essential": true,
                    "entryPoint": ["/busybox", "echo"], "command": ["done"],
                }],
            });
            host.definition(&format!("task{at}.json"), &definition)
        });
        let tasks = tasks.collect();
        Self { registry, host, references, tasks }
    }

    /// What is done, in turns.
    fn commands(&self) -> Vec<Vec<&str>> {
        let (of, task) =
            (|at: usize| self.references[at].as_str(), |at: usize| self.tasks[at].as_str());
        vec![
            vec!["image", "pull", of(0)],
            vec!["run", "--rm", task(1)],
            vec!["image", "rm", "--force", of(0)],
            vec!["image", "prune", "--all", "--force"],
            vec!["image", "pull", of(2)],
            vec!["image", "rm", of(1)],
            vec!["run", "--rm", task(0)],
            vec!["image", "prune", "--force"],
            vec!["image", "pull", of(1)],
            vec!["ps", "--all"],
            vec!["image", "ls"],
        ]
    }

    /// Each command beside four others, and each time beside others. One of them is killed as soon as
    /// it has come by some points of images, be it for itself or as the agent of another.
    fn rounds(&self, many: usize, kill: bool) {
        let commands = self.commands();
        for round in 0..many {
            let started: Vec<(&Vec<&str>, Child)> = (0..5)
                .map(|at| {
                    let arguments = &commands[(round * 7 + at * 2) % commands.len()];
                    let mut command = self.host.command(arguments);
                    if kill && at == round % 5 {
                        let hit = u32::try_from(round * 5 % 23 + 1).unwrap();
                        command = FailPoint { name: "image.*".to_owned(), hit }.command("lighter");
                        command.args(arguments).env("LIGHTER_ROOT", self.host.root());
                        command.stdin(Stdio::null());
                    }
                    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
                    (arguments, child.unwrap())
                })
                .collect();
            for (arguments, child) in started {
                let output = child.wait_with_output().unwrap();
                let text = String::from_utf8_lossy(&output.stderr);
                let taken = arguments[1] == "rm"
                    && (text.contains("no such image") || text.contains("conflict: unable"));
                let killed = output.status.signal() == Some(9);
                assert!(
                    output.status.success() || taken || killed,
                    "{arguments:?}: {text}\n{}",
                    self.host.agent_log()
                );
                if arguments[0] == "run" && output.status.success() {
                    assert!(String::from_utf8_lossy(&output.stdout).contains("done"), "{text}");
                }
            }
        }
    }

    /// Nothing is missing of what is listed, and nothing is there that it does not name.
    fn check(&self) {
        let root = self.host.root().join("var/lib/lighter/images");
        let store = Store::open(&root).unwrap();
        let archive = self.host.path("saved");
        std::fs::write(&archive, b"").unwrap();
        for image in store.list().unwrap() {
            assert_eq!(image.damage, None);
            store.save(&[image.id], &archive, &|| false).unwrap();
        }
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for name in names(&root.join("images")) {
            let text = std::fs::read(root.join("images").join(name)).unwrap();
            let record: Value = serde_json::from_slice(&text).unwrap();
            for digest in [&record["id"], &record["digest"]] {
                blobs.insert(digest.as_str().unwrap().trim_start_matches("sha256:").to_owned());
            }
            let of = record["layers"].as_array().unwrap();
            layers.extend(of.iter().map(|layer| layer["diff_id"].as_str().unwrap().to_owned()));
        }
        assert_eq!(names(&root.join("blobs/sha256")), blobs);
        assert_eq!(names(&root.join("l")).len(), layers.len(), "{layers:?}");
        assert_eq!(names(&root.join("tmp")), BTreeSet::new());
        for directory in ["refs", "usage", "kept"] {
            let found = names(&root.join(directory));
            assert!(found.iter().all(|name| name.ends_with(".json")), "{found:?}");
        }
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn commands_at_once_leave_a_whole_store() {
    let mut raced = Raced::new();
    let host = &raced.host;
    raced.rounds(tests::rounds(6), true);
    host.stop_agent();
    raced.check();

    let log = std::fs::File::create(host.path("agent.log")).unwrap();
    let mut agent: Command = host.command(&["agent"]);
    let mut agent = agent.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    host.eventually("the agent serves", || host.agent_pid().is_some());
    let second = host.run(&["agent"]);
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(SERVED), "{text}");
    assert!(text.contains("another agent serves this root"), "{text}");
    raced.rounds(tests::rounds(4), false);
    // What is listed runs without its registry.
    for reference in &raced.references {
        host.ok(&["image", "pull", reference]);
    }
    raced.registry.stop().unwrap();
    for task in &raced.tasks {
        host.ok(&["run", "--rm", "--pull", "never", task]);
    }
    terminate(&agent);
    assert!(agent.wait().unwrap().success());
    raced.check();
}
