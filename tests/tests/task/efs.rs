//! EFS volumes. What only a server can prove is proved where `LIGHTER_EFS_ENDPOINT` names one: an NFS
//! server of the machine that the test runs on, by an address of it other than loopback, which
//! exports `/` to everyone with `no_root_squash`, writable.

use std::fs::{self, File};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::host::{FIRST_ID, TestHost, container, stderr, stdout, task};

const ENDPOINT: &str = "LIGHTER_EFS_ENDPOINT";

fn volume(directory: &str) -> Value {
    json!([{"name": "shared", "efsVolumeConfiguration": {
        "fileSystemId": "fs-0123", "rootDirectory": directory, "transitEncryption": "DISABLED",
    }}])
}

fn mounts(mut container: Value, read_only: bool) -> Value {
    container["mountPoints"] =
        json!([{"sourceVolume": "shared", "containerPath": "/efs", "readOnly": read_only}]);
    container
}

fn run(host: &TestHost, definition: &Value, endpoint: &str) -> Output {
    let path = host.definition("task.json", definition);
    host.command(&["run", &path]).env(ENDPOINT, endpoint).output().expect("lighter starts")
}

fn files(host: &TestHost) -> String {
    let directories = "var/lib/lighter/tasks run/lighter/tasks";
    host.sh(&format!(
        "cd {} && find {directories} -mindepth 1 2>/dev/null | sort",
        host.root().display()
    ))
}

/// NFS mounts in any namespace of the test's host.
fn nfs_mounts(host: &TestHost) -> String {
    host.sh("cat /proc/[0-9]*/mountinfo 2>/dev/null | grep ' - nfs4 '")
}

fn has_client(host: &TestHost) -> bool {
    let found = host.sh(
        "grep -w nfs4 /proc/filesystems; grep -l /nfsv4.ko /lib/modules/$(uname -r)/modules.dep 2>/dev/null",
    );
    !found.is_empty()
}

#[test]
fn a_mount_that_fails_says_why_and_leaves_nothing() {
    let host = TestHost::new();
    let mut definition = task("none", vec![mounts(container("main", "true"), false)]);
    definition["volumes"] = volume("/web");
    let before = (host.state(), files(&host));
    // Nothing listens in this network namespace.
    let output = run(&host, &definition, "127.0.0.1");
    assert!(!output.status.success(), "it ran: {}", stdout(&output));
    let text = stderr(&output);
    let reason = "ResourceInitializationError: failed to mount the file system fs-0123 at \
                  127.0.0.1:/web: ";
    let why =
        if has_client(&host) { "mount from 127.0.0.1" } else { "this kernel has no NFS client" };
    assert!(text.contains(&format!("{reason}{why}")), "{text}");
    assert_eq!((host.state(), files(&host)), before, "something is left");
}

#[test]
fn without_region_or_endpoint_no_server_is_known() {
    let host = TestHost::new();
    let mut definition = task("none", vec![mounts(container("main", "true"), false)]);
    definition["volumes"] = volume("/");
    let path = host.definition("task.json", &definition);
    let mut command = host.command(&["run", &path]);
    for variable in [ENDPOINT, "AWS_DEFAULT_REGION", "AWS_REGION"] {
        command.env_remove(variable);
    }
    let text = stderr(&command.output().expect("lighter starts"));
    assert!(text.contains("fs-0123: its host name is not known: set AWS_DEFAULT_REGION"), "{text}");
}

/// A way from the test's network to the one it comes from, as a cable between two hosts.
fn connect(outside: File) {
    // The namespace is the script's standard input: the test's own `/proc` shows no process of it.
    let script = "set -e; ip link add efs0 type veth peer name efs1 netns /proc/self/fd/0; \
         ip addr add 192.0.2.2/30 dev efs0; ip link set efs0 up; \
         nsenter --net=/proc/self/fd/0 sh -ec \
            'ip addr add 192.0.2.1/30 dev efs1; ip link set efs1 up'; \
         ip route add default via 192.0.2.1";
    let output = Command::new("/bin/bash").args(["-c", script]).stdin(outside).output();
    let output = output.expect("bash");
    assert!(output.status.success(), "connect the networks: {}", stderr(&output));
}

#[test]
fn a_file_system_is_shared_by_containers_and_tasks_and_goes_with_them() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let outside = File::open("/proc/self/ns/net").expect("the network namespace");
    let host = TestHost::new();
    connect(outside);
    let before = host.state();

    let name = format!("lighter-{}", std::process::id());
    let mut write =
        container("write", &format!("echo content > /efs/{name}; grep ' /efs nfs4 ' /proc/mounts"));
    write["essential"] = json!(false);
    let mut read = container("read", &format!("cat /efs/{name}; (echo x > /efs/{name}) 2>&1"));
    read["dependsOn"] = json!([{"containerName": "write", "condition": "SUCCESS"}]);
    for network in ["awsvpc", "bridge"] {
        let mut definition =
            task(network, vec![mounts(write.clone(), false), mounts(read.clone(), true)]);
        definition["volumes"] = volume("/");
        let output = run(&host, &definition, &endpoint);
        let text = format!("{}{}", stdout(&output), stderr(&output));
        for part in ["content", "Read-only file system", "vers=4.1", "rsize=", "hard", "timeo=600"]
        {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(text.contains("noresvport"), "{text}");
    }

    // Another task finds what the first wrote, and keeps it when its agent is killed.
    let script = format!(
        "cat /efs/{name}; until [ -e /efs/{name}.go ]; do sleep 0.1; done; rm /efs/{name}*"
    );
    let mut definition = task("bridge", vec![mounts(container("main", &script), false)]);
    definition["volumes"] = volume("/");
    let id = host.detach(&definition);
    host.eventually("it runs", || host.inspect(&id)["lastStatus"] == "RUNNING");
    let agent = host.agent_pid().expect("an agent");
    host.kill(agent, "KILL");
    host.eventually("the agent is gone", || !host.is_alive(agent));
    let mut go =
        task("none", vec![mounts(container("main", &format!("echo > /efs/{name}.go")), false)]);
    go["volumes"] = volume("/");
    let output = run(&host, &go, &endpoint);
    assert!(output.status.success(), "{}", stderr(&output));
    host.eventually("it stops", || host.inspect(&id)["lastStatus"] == "STOPPED");
    let log = host.inspect(&id)["containers"][0]["logPath"].as_str().expect("a path").to_owned();
    assert!(fs::read_to_string(log).expect("a log").contains("content"));
    assert_eq!(nfs_mounts(&host), "");

    // A directory that is not there.
    let mut missing = task("none", vec![mounts(container("main", "true"), false)]);
    missing["volumes"] = volume(&format!("/{name}.missing"));
    let text = stderr(&run(&host, &missing, &endpoint));
    assert!(text.contains("has no such directory"), "{text}");

    host.ok(&["rm", &id]);
    host.stop_agent();
    assert_eq!(host.state(), before);
    let removed = Command::new("ip").args(["link", "del", "efs0"]).status();
    assert!(removed.expect("ip").success());
}

#[test]
fn a_monitor_that_takes_over_mounts_again() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let outside = File::open("/proc/self/ns/net").expect("the network namespace");
    let host = TestHost::new();
    connect(outside);
    let mut first = container("first", "until [ -e /own/go ]; do sleep 0.05; done");
    first["essential"] = json!(false);
    first["mountPoints"] = json!([{"sourceVolume": "own", "containerPath": "/own"}]);
    let mut second = mounts(container("second", "grep ' /efs nfs4 ' /proc/mounts"), false);
    // Nobody is left who could tell how the first ends.
    second["dependsOn"] = json!([{"containerName": "first", "condition": "COMPLETE"}]);
    let mut definition = task("none", vec![first, second]);
    definition["volumes"] = volume("/");
    definition["volumes"].as_array_mut().expect("a list").push(json!({"name": "own"}));
    // Detaching would wait for the second container.
    let path = host.definition("task.json", &definition);
    let mut started = host.command(&["run", "--detach", &path]).spawn().expect("lighter starts");
    let tasks = || {
        fs::read_dir(host.root().join("run/lighter/tasks"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .next()
    };
    host.eventually("there is a task", || tasks().is_some());
    let id = tasks().expect("a task");
    let running = || host.inspect(&id)["containers"][0]["lastStatus"] == "RUNNING";
    host.eventually("the first container runs", running);
    let monitor = host.monitor(&id);
    for process in ["guardian", "worker"] {
        let pid = monitor[process]["pid"].as_i64().expect("a pid");
        host.kill(pid, "KILL");
        host.eventually("it is gone", || !host.is_alive(pid));
    }
    assert_eq!(nfs_mounts(&host), "", "the mount goes with its monitor");
    fs::write(host.task_directory(&id).join("volumes/own/go"), "").expect("a file");
    host.eventually("it stops", || host.inspect(&id)["lastStatus"] == "STOPPED");
    let view = host.inspect(&id);
    assert_eq!(view["containers"][1]["exitCode"], 0, "{view} from {endpoint}");
    assert!(started.wait().expect("an exit status").success());
    assert_eq!(nfs_mounts(&host), "");
}

/// NFS takes no mapped mounts: it is mounted as it is, and the server sees the ids that the user has on
/// this host.
#[test]
fn a_task_with_a_user_namespace_is_to_the_server_who_it_is_on_the_host() {
    let Ok(endpoint) = std::env::var(ENDPOINT) else { return };
    let outside = File::open("/proc/self/ns/net").expect("the network namespace");
    let host = TestHost::new();
    connect(outside);
    let name = format!("lighter-mapped-{}", std::process::id());
    let of = |script: &str| {
        let mut definition = task("bridge", vec![mounts(container("main", script), false)]);
        definition["volumes"] = volume("/");
        let output = run(&host, &definition, &endpoint);
        format!("{}{}", stdout(&output), stderr(&output))
    };
    let made = of(&format!(
        "cd /efs && mkdir -m 777 {name} && echo of root > {name}/root && chmod 600 {name}/root && echo made"
    ));
    assert!(made.contains("made"), "{made}");
    host.stop_agent();
    host.remap_users();
    let text = of(&format!(
        "cd /efs/{name}; cat /proc/self/uid_map; stat -c 'root %u' root; cat root; echo x > root; \
         echo mine > own; chmod 4755 own; stat -c 'own %u' own; cat own; chown 0 root"
    ));
    assert!(text.contains(&FIRST_ID.to_string()), "{text}");
    for line in ["root 65534", "own 0", "mine"] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(!text.contains("of root") && text.contains("denied"), "{text}");
    host.stop_agent();
    host.set_remap("");
    let seen =
        of(&format!("cd /efs/{name}; stat -c 'own %u %a' own; cat root; cd ..; rm -r {name}"));
    assert!(seen.contains(&format!("own {FIRST_ID} 4755")) && seen.contains("of root"), "{seen}");
    host.stop_agent();
    assert_eq!(nfs_mounts(&host), "");
}
