//! `ECS_IMAGE_PULL_BEHAVIOR` on a cluster, with a registry that is up, moves a tag, and goes down:
//! what runs, what is reported, and in which words.

use serde_json::Value;
use tests::cluster::{Cluster, FailPoint};
use tests::image::{Entry, Image, Layer, Tar, digest, write};
use tests::registry::Registry;

/// An image whose containers end with this code.
fn image(code: u8) -> Image {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let program = Tar::new().directory("bin/").entry(&Entry {
        name: "bin/busybox",
        mode: 0o755,
        data: &busybox,
        ..Entry::default()
    });
    let version = Tar::new().file("code", code.to_string().as_bytes());
    Image::new(vec![Layer::gzip(&program), Layer::gzip(&version)])
}

struct World {
    registry: Option<Registry>,
    cluster: Cluster,
}

impl World {
    fn new(behavior: &str) -> Self {
        let mut cluster = Cluster::new();
        cluster.add_agent(&[("ECS_IMAGE_PULL_BEHAVIOR", behavior)]);
        Self { registry: Some(Registry::start().unwrap()), cluster }
    }

    /// The name of an image on the registry, also when that is down.
    fn push(&self, name: &str, code: u8) -> String {
        let registry = self.registry.as_ref().expect("it is up");
        let path = self.cluster.host.path("pushed");
        write(&path, &image(code).oci_archive("x:1")).unwrap();
        registry.push(&path, name).unwrap();
        registry.image(name)
    }

    fn start(&self, containers: &str) -> String {
        let arn = self.cluster.boto3(&format!(
            "ecs = client('ecs')\n\
             def one(name, image, essential=True, script='exit $(busybox cat /code)'):\n    \
                 return dict(name=name, image=image, memory=32, essential=essential, entryPoint=['/bin/busybox', 'sh', '-c'], command=[script.replace('busybox', '/bin/busybox')])\n\
             ecs.register_task_definition(family='images', networkMode='none', containerDefinitions=[{containers}])\n\
             answer(ecs.run_task(taskDefinition='images')['tasks'][0]['taskArn'])"
        ));
        arn.as_str().expect("an ARN").to_owned()
    }

    fn wait(&self, waiter: &str, task: &str) -> Value {
        self.cluster.boto3(&format!(
            "ecs = client('ecs')\n\
             wait(ecs, '{waiter}', delay=0.2, attempts=300, tasks=['{task}'])\n\
             answer(ecs.describe_tasks(tasks=['{task}'])['tasks'][0])"
        ))
    }

    /// Runs a task of one container to its end.
    fn run(&self, image: &str) -> Value {
        let task = self.start(&format!("one('main', '{image}')"));
        self.wait("tasks_stopped", &task)
    }

    fn code(&self, image: &str) -> Value {
        let task = self.run(image);
        let code = task["containers"][0]["exitCode"].clone();
        assert!(!code.is_null(), "{task}\n{}", self.cluster.log());
        code
    }

    /// The task did not start, for a reason that begins so.
    fn fails(&self, image: &str, reason: &str) {
        let task = self.run(image);
        assert_eq!(task["stopCode"], "TaskFailedToStart", "{task}");
        for said in [&task["stoppedReason"], &task["containers"][0]["reason"]] {
            assert!(said.as_str().is_some_and(|said| said.starts_with(reason)), "{task}");
        }
        assert!(task["containers"][0].get("exitCode").is_none(), "{task}");
    }

    /// Essential and not; the image of the second one does not exist.
    fn with_a_broken_sidecar(&self) -> String {
        let image = self.push("app:1", 11);
        let broken = self.registry.as_ref().expect("it is up").image("nothing:1");
        self.start(&format!(
            "one('main', '{image}', script='exec busybox sleep 1000'), one('side', '{broken}', essential=False)"
        ))
    }
}

#[test]
fn default_pulls_each_time_and_goes_on_with_what_is_here() {
    let mut world = World::new("default");
    let app = world.push("app:1", 11);
    let task = world.run(&app);
    let container = &task["containers"][0];
    assert_eq!(container["exitCode"], 11, "{task}\n{}", world.cluster.log());
    assert_eq!(container["imageDigest"], digest(&image(11).manifest()).as_str());
    let at = |name: &str| task[name].as_str().unwrap_or_default().to_owned();
    assert!(!at("pullStartedAt").is_empty() && at("pullStartedAt") <= at("pullStoppedAt"));
    assert!(at("pullStoppedAt") <= at("startedAt"), "{task}");
    world.push("app:1", 12);
    assert_eq!(world.code(&app), 12);
    // A container that is not essential fails for itself.
    let task = world.with_a_broken_sidecar();
    let running = world.wait("tasks_running", &task);
    let side = running["containers"].as_array().unwrap().iter().find(|c| c["name"] == "side");
    let reason = side.unwrap()["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("CannotPullContainerError: "), "{running}");
    world.cluster.stop_task(&task);

    let other = world.registry.take().unwrap().image("other:1");
    assert_eq!(world.code(&app), 11, "the tag was moved back above");
    world.fails(&other, "CannotPullContainerError: ");
}

#[test]
fn always_runs_nothing_but_what_the_registry_has() {
    let mut world = World::new("always");
    let app = world.push("app:1", 11);
    assert_eq!(world.code(&app), 11);
    world.push("app:1", 12);
    assert_eq!(world.code(&app), 12);
    let task = world.with_a_broken_sidecar();
    let stopped = world.wait("tasks_stopped", &task);
    assert_eq!(stopped["stopCode"], "TaskFailedToStart");
    let reason = stopped["stoppedReason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("CannotPullImageManifestError: "), "{stopped}");
    assert!(reason.contains("nothing:1"), "{stopped}");

    drop(world.registry.take());
    world.fails(&app, "CannotPullImageManifestError: ");
}

#[test]
fn once_remembers_what_this_agent_pulled_across_restarts() {
    let mut world = World::new("once");
    let app = world.push("app:1", 11);
    // It is here, but not because this agent pulled it.
    let archive = world.cluster.host.path("loaded");
    write(&archive, &image(99).docker_archive(&[&app])).unwrap();
    world.cluster.host.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    assert_eq!(world.code(&app), 11);
    world.push("app:1", 12);
    assert_eq!(world.code(&app), 11);
    let other = world.registry.as_ref().unwrap().image("other:1");
    drop(world.registry.take());
    assert_eq!(world.code(&app), 11);
    world.cluster.kill_agent(0);
    world.cluster.start_agent(0);
    world.cluster.wait_connected(1);
    assert_eq!(world.code(&app), 11);
    world.fails(&other, "CannotPullImageManifestError: ");
    // What has been removed is pulled anew.
    let ids = world.cluster.host.ok(&["ps", "--all", "--quiet"]);
    for id in ids.lines() {
        world.cluster.host.ok(&["rm", id]);
    }
    world.cluster.host.ok(&["image", "rm", &app]);
    world.fails(&app, "CannotPullImageManifestError: ");
}

#[test]
fn prefer_cached_asks_no_registry_for_what_is_here() {
    let mut world = World::new("prefer-cached");
    let app = world.push("app:1", 11);
    assert_eq!(world.code(&app), 11);
    world.push("app:1", 12);
    assert_eq!(world.code(&app), 11);
    let archive = world.cluster.host.path("loaded");
    write(&archive, &image(13).docker_archive(&["localhost/loaded:1"])).unwrap();
    world.cluster.host.ok(&["image", "load", "-i", archive.to_str().unwrap()]);
    let other = world.registry.take().unwrap().image("other:1");
    assert_eq!(world.code(&app), 11);
    let task = world.run("localhost/loaded:1");
    let container = &task["containers"][0];
    assert_eq!(container["exitCode"], 13, "{task}");
    assert!(container.get("imageDigest").is_none(), "no registry knows it: {task}");
    world.fails(&other, "CannotPullContainerError: ");
}

#[test]
fn an_agent_killed_between_pull_and_creation_needs_no_second_pull() {
    let mut world = World::new("once");
    let app = world.push("app:1", 11);
    world.cluster.stop_agent(0);
    world.cluster.arm_agent(0, &FailPoint { name: "pull.after".to_owned(), hit: 1 });
    world.cluster.wait_connected(1);
    let task = world.start(&format!("one('main', '{app}')"));
    if FailPoint::are_there() {
        let World { cluster, .. } = &mut world;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !cluster.agent_died(0) {
            assert!(std::time::Instant::now() < deadline, "{}", cluster.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        drop(world.registry.take());
        world.cluster.start_agent(0);
    }
    let task = world.wait("tasks_stopped", &task);
    assert_eq!(task["containers"][0]["exitCode"], 11, "{task}\n{}", world.cluster.log());
}

#[test]
fn what_is_to_be_here_is_pulled_when_the_agent_starts() {
    let mut world = World::new("default");
    let app = world.push("app:1", 11);
    let listed = |world: &World| world.cluster.host.ok(&["image", "ls"]);
    assert!(!listed(&world).contains("app"), "{}", listed(&world));
    world.cluster.stop_agent(0);
    let config = world.cluster.host.root().join("etc/ecs/ecs.config");
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&format!("LIGHTER_IMAGE_PREPULL={app}\n"));
    std::fs::write(&config, text).unwrap();
    world.cluster.start_agent(0);
    // A command that comes before it would be the agent of this root for a moment.
    world.cluster.wait_connected(1);
    let World { cluster, .. } = &world;
    cluster.eventually("it is pulled in advance", || listed(&world).contains("app"));
    drop(world.registry.take());
    assert_eq!(world.code(&app), 11);
}
