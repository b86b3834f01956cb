#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use protocol::taskdef::Ulimit;

use super::*;
use crate::fixtures;

fn container() -> ContainerDefinition {
    fixtures::container("web", "web:1")
}

fn task(container: ContainerDefinition, network_mode: NetworkMode) -> TaskDefinition {
    TaskDefinition::of("web".into(), network_mode, vec![container])
}

fn root() -> User {
    User { uid: 0, gid: 0, additional_gids: Vec::new(), home: "/root".into() }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

const ALL: u64 = (1 << 41) - 1;
const HOST: HostFacts = HostFacts { bounding: ALL, swap: true };

fn build(definition: &TaskDefinition, image: &Config, mounts: &[Mount]) -> Value {
    let input = Input {
        definition,
        container: &definition.containers[0],
        image,
        user: &root(),
        hostname: Some("h"),
        endpoint: &[],
        region: None,
        cgroup: "/lighter/t/web",
        mounts,
        user_namespace: None,
        host: HOST,
    };
    config(&input).unwrap()
}

fn image() -> Config {
    Config { cmd: words("run"), ..Config::default() }
}

#[test]
fn entry_point_and_command_follow_dockers_table() {
    // image entrypoint, image cmd, definition entryPoint, definition command → arguments
    #[allow(clippy::type_complexity)]
    let table: [(&str, &str, Option<&str>, Option<&str>, &str); 11] = [
        ("", "c d", None, None, "c d"),
        ("e", "", None, None, "e"),
        ("e", "c d", None, None, "e c d"),
        ("e", "c d", None, Some("x"), "e x"),
        ("", "c d", None, Some("x y"), "x y"),
        ("e", "c d", Some("n"), None, "n"),
        ("e", "c d", Some("n m"), Some("x"), "n m x"),
        ("e", "c d", Some(""), None, "c d"),
        ("e", "c d", Some(""), Some("x"), "x"),
        ("e", "c d", None, Some(""), "e c d"),
        ("e", "c d", Some("n"), Some(""), "n"),
    ];
    for (entrypoint, cmd, entry_point, command, expected) in table {
        let image = Config { entrypoint: words(entrypoint), cmd: words(cmd), ..Config::default() };
        let mut container = container();
        container.entry_point = entry_point.map(words);
        container.command = command.map(words);
        let found = process::arguments(&container, &image).unwrap();
        assert_eq!(found, words(expected), "{entrypoint:?} {cmd:?} {entry_point:?} {command:?}");
    }
    assert!(matches!(
        process::arguments(&container(), &Config::default()),
        Err(Error::NoCommand { .. })
    ));
}

fn variables(
    container: &ContainerDefinition,
    image: &Config,
    endpoint: &[(&'static str, String)],
    region: Option<&str>,
) -> Vec<String> {
    process::environment(&Input {
        definition: &task(container.clone(), NetworkMode::Bridge),
        container,
        image,
        user: &root(),
        hostname: Some("h"),
        endpoint,
        region,
        cgroup: "",
        mounts: &[],
        user_namespace: None,
        host: HOST,
    })
}

#[test]
fn the_endpoint_stands_above_the_definition_and_the_region_below() {
    let mut container = container();
    container.environment = vec![("ECS_AGENT_URI".into(), "forged".into())];
    let endpoint = [("ECS_AGENT_URI", "http://169.254.170.2/api/u".to_owned())];
    let has = |found: &[String], entry: &str| found.iter().any(|variable| variable == entry);
    let found = variables(&container, &Config::default(), &endpoint, Some("eu-west-1"));
    assert!(has(&found, "ECS_AGENT_URI=http://169.254.170.2/api/u"), "{found:?}");
    assert!(has(&found, "AWS_REGION=eu-west-1") && has(&found, "AWS_DEFAULT_REGION=eu-west-1"));
    assert!(!has(&found, "ECS_AGENT_URI=forged"), "{found:?}");
    // One region of the image's own, and neither is added.
    let image = Config { env: vec!["AWS_DEFAULT_REGION=x".into()], ..Config::default() };
    let found = variables(&container, &image, &endpoint, Some("eu-west-1"));
    assert!(has(&found, "AWS_DEFAULT_REGION=x") && !found.iter().any(|v| v.contains("eu-west-1")));
}

#[test]
fn environment_is_dockers_then_the_images_then_the_definitions() {
    let image = Config {
        env: vec!["PATH=/opt".into(), "A=image".into(), "B=image=1".into(), "broken".into()],
        ..Config::default()
    };
    let mut container = container();
    container.environment = vec![("A".into(), "task".into()), ("C".into(), String::new())];
    container.pseudo_terminal = true;
    assert_eq!(
        variables(&container, &image, &[], None),
        ["PATH=/opt", "HOSTNAME=h", "TERM=xterm", "A=task", "B=image=1", "C=", "HOME=/root"]
    );
    container.environment.push(("HOME".into(), "/srv".into()));
    let found = variables(&container, &Config::default(), &[], None);
    assert_eq!(found[0], format!("PATH={}", defaults::PATH));
    assert!(found.contains(&"HOME=/srv".to_owned()) && !found.contains(&"HOME=/root".to_owned()));
}

#[test]
fn working_directory_is_absolute() {
    let image = |directory: &str| Config { working_dir: directory.into(), ..Config::default() };
    let mut container = container();
    assert_eq!(process::directory(&container, &image("")), "/");
    assert_eq!(process::directory(&container, &image("srv")), "/srv");
    container.working_directory = Some("/work".into());
    assert_eq!(process::directory(&container, &image("/srv")), "/work");
}

#[test]
fn capabilities_follow_dockers_rules() {
    let mut c = container();
    let default = process::capabilities(&c, ALL).unwrap();
    assert_eq!(default.len(), defaults::DEFAULT_CAPABILITIES.len());
    c.linux.capabilities_add = vec!["SYS_PTRACE".into()];
    c.linux.capabilities_drop = vec!["ALL".into()];
    assert_eq!(process::capabilities(&c, ALL).unwrap(), ["CAP_SYS_PTRACE"]);
    c.linux.capabilities_drop = vec!["CHOWN".into()];
    let found = process::capabilities(&c, ALL).unwrap();
    assert!(found.contains(&"CAP_SYS_PTRACE") && !found.contains(&"CAP_CHOWN"));
    c.linux.capabilities_add = vec!["ALL".into()];
    assert_eq!(process::capabilities(&c, ALL).unwrap().len(), 40);
    let without = ALL & !(1 << 24);
    assert_eq!(process::capabilities(&c, without).unwrap().len(), 39);
    c.linux.capabilities_add = vec!["SYS_RESOURCE".into()];
    assert!(matches!(
        process::capabilities(&c, without),
        Err(Error::NotGrantable { capability: "CAP_SYS_RESOURCE" })
    ));
    c.linux.capabilities_add = vec!["NONSENSE".into()];
    assert!(matches!(process::capabilities(&c, ALL), Err(Error::UnknownCapability { .. })));
    c.privileged = true;
    assert_eq!(process::capabilities(&c, without).unwrap().len(), 40);
}

#[test]
fn network_namespaces_follow_the_mode() {
    let network = |mode, disable| {
        let mut c = container();
        c.disable_networking = disable;
        let config = build(&task(c, mode), &image(), &[]);
        let namespaces = config["linux"]["namespaces"].as_array().unwrap().clone();
        namespaces.into_iter().find(|entry| entry["type"] == "network")
    };
    let new = Some(json!({ "type": "network" }));
    let of_monitor = Some(json!({ "type": "network", "path": "/proc/self/ns/net" }));
    assert_eq!(network(NetworkMode::Bridge, false), new);
    assert_eq!(network(NetworkMode::Host, false), None);
    assert_eq!(network(NetworkMode::Awsvpc, false), of_monitor);
    assert_eq!(network(NetworkMode::None, false), of_monitor);
    for mode in [NetworkMode::Awsvpc, NetworkMode::None, NetworkMode::Host] {
        assert_eq!(network(mode, true), new, "{mode:?}");
    }
}

#[test]
fn memory_and_shares_are_amazons() {
    let mut c = container();
    c.memory = Some(64);
    c.memory_reservation = Some(32);
    c.linux.swappiness = Some(10);
    let resources =
        |c: &ContainerDefinition, host| super::resources(c, host, &[])["memory"].clone();
    let mib = 1u64 << 20;
    assert_eq!(
        resources(&c, HOST),
        json!({ "limit": 64 * mib, "reservation": 32 * mib, "swap": 128 * mib })
    );
    let no_swap = HostFacts { swap: false, ..HOST };
    assert_eq!(resources(&c, no_swap), json!({ "limit": 64 * mib, "reservation": 32 * mib }));
    c.linux.max_swap = Some(0);
    c.memory_reservation = None;
    assert_eq!(
        resources(&c, HOST),
        json!({ "limit": 64 * mib, "swap": 64 * mib, "swappiness": 10 })
    );
    assert_eq!(super::resources(&c, HOST, &[])["cpu"]["shares"], 2);
    c.cpu = 512;
    assert_eq!(super::resources(&c, HOST, &[])["cpu"]["shares"], 512);
}

#[test]
fn a_volume_replaces_a_default_mount_and_parents_come_first() {
    let mount = |destination: &str| Mount::ours("/src".into(), destination, true);
    let config = build(
        &task(container(), NetworkMode::Bridge),
        &image(),
        &[mount("/data/deep/er"), mount("/dev/shm"), mount("/data")],
    );
    let destinations: Vec<&str> = config["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(destinations.iter().filter(|d| **d == "/dev/shm").count(), 1);
    let at = |wanted: &str| destinations.iter().position(|d| *d == wanted).unwrap();
    assert!(at("/data") < at("/data/deep/er"));
    assert!(at("/dev") < at("/dev/shm"));
}

#[test]
fn privileged_is_without_masks_profile_and_device_limits() {
    let mut c = container();
    c.privileged = true;
    let config = build(&task(c, NetworkMode::Host), &image(), &[]);
    assert!(config["linux"].get("maskedPaths").is_none());
    assert!(config["annotations"].get(SECCOMP).is_none());
    assert_eq!(
        config["linux"]["resources"]["devices"],
        json!([{ "allow": true, "access": "rwm" }])
    );
    let sys = config["mounts"].as_array().unwrap().iter().find(|m| m["destination"] == "/sys");
    assert!(!sys.unwrap()["options"].as_array().unwrap().contains(&json!("ro")));
}

fn maps(size: u32) -> UserMaps {
    let range = |outside| vec![IdRange { inside: 0, outside, size }];
    UserMaps { uids: range(100_000), gids: range(200_000) }
}

fn mapped(definition: &TaskDefinition, user: &User, maps: &UserMaps) -> Result<Value, Error> {
    let file = Mount::ours("/t/etc/hosts".into(), "/etc/hosts", false);
    let of_host = Mount { ours: false, ..Mount::ours("/srv".into(), "/srv", false) };
    config(&Input {
        definition,
        container: &definition.containers[0],
        image: &image(),
        user,
        hostname: None,
        endpoint: &[],
        region: None,
        cgroup: "/x",
        mounts: &[file, of_host],
        user_namespace: Some(Mapped { maps, path: Path::new("/r/user") }),
        host: HOST,
    })
}

#[test]
fn a_mapped_container_joins_its_tasks_user_namespace() {
    let definition = task(container(), NetworkMode::Awsvpc);
    let config = mapped(&definition, &root(), &maps(65536)).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({ "type": "user", "path": "/r/user" })), "{namespaces:?}");
    let options = |config: &Value, destination: &str| {
        let mounts = config["mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["destination"] == destination).unwrap();
        mount["options"].as_array().unwrap().clone()
    };
    assert!(options(&config, "/etc/hosts").contains(&json!("idmap")));
    assert!(!options(&config, "/srv").contains(&json!("idmap")));
    assert!(options(&config, "/dev/pts").contains(&json!("gid=5")));
    assert_eq!(config["linux"]["sysctl"]["net.ipv4.ping_group_range"], "0 65535");
    // No more groups than root's: the terminals are then their users'.
    let few = mapped(&definition, &root(), &maps(1)).unwrap();
    assert!(!options(&few, "/dev/pts").contains(&json!("gid=5")));
}

#[test]
fn what_needs_the_hosts_ids_is_refused_in_a_user_namespace() {
    let refusal = |definition: &TaskDefinition, user: &User| {
        mapped(definition, user, &maps(1000)).unwrap_err().to_string()
    };
    let mut c = container();
    c.privileged = true;
    let text = refusal(&task(c, NetworkMode::Bridge), &root());
    assert!(text.contains("privileged mode is incompatible with user namespaces"), "{text}");
    let text = refusal(&task(container(), NetworkMode::Host), &root());
    assert!(text.contains("cannot share the host's network namespace"), "{text}");
    let mut pid = task(container(), NetworkMode::Bridge);
    pid.pid_mode = NamespaceMode::Host;
    assert!(refusal(&pid, &root()).contains("cannot share the host PID namespace"));
    let definition = task(container(), NetworkMode::Bridge);
    for (user, text) in [
        (User { uid: 1000, ..root() }, "no user 1000"),
        (User { gid: 1000, ..root() }, "no group 1000"),
        (User { additional_gids: vec![5, 2000], ..root() }, "no group 2000"),
    ] {
        assert!(refusal(&definition, &user).contains(text), "{text}");
    }
}

#[test]
fn the_configuration_is_what_oci_tools_read() {
    let mut c = container();
    c.memory = Some(16);
    c.pseudo_terminal = true;
    c.ulimits = vec![Ulimit { name: "nofile".into(), soft: 1024, hard: -1 }];
    c.linux.devices = vec![protocol::taskdef::Device {
        host_path: "/dev/null".into(),
        container_path: "/dev/nothing".into(),
        read: true,
        write: false,
        mknod: false,
    }];
    let config = build(&task(c, NetworkMode::Bridge), &image(), &[]);
    let spec: oci_spec::runtime::Spec = serde_json::from_value(config.clone()).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.devices().as_ref().unwrap()[0].path(), Path::new("/dev/nothing"));
    assert_eq!(config["process"]["rlimits"][0]["hard"], u64::MAX);
    assert_eq!(config["annotations"][SECCOMP], "default");
    assert_eq!(config["hostname"], "h");
}

#[test]
fn a_missing_device_and_another_architecture_are_named() {
    let mut c = container();
    c.linux.devices = vec![protocol::taskdef::Device {
        host_path: "/dev/does-not-exist".into(),
        container_path: "/dev/x".into(),
        read: true,
        write: true,
        mknod: true,
    }];
    let definition = task(c, NetworkMode::Bridge);
    let (user, image) = (root(), image());
    let mut input = Input {
        definition: &definition,
        container: &definition.containers[0],
        image: &image,
        user: &user,
        hostname: None,
        endpoint: &[],
        region: None,
        cgroup: "/x",
        mounts: &[],
        user_namespace: None,
        host: HOST,
    };
    assert!(config(&input).unwrap_err().to_string().contains("/dev/does-not-exist"));
    let foreign = Config { os: "linux".into(), architecture: "s390x".into(), ..Config::default() };
    input.image = &foreign;
    assert!(config(&input).unwrap_err().to_string().contains("linux/s390x"));
}
