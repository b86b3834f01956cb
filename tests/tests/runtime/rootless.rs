//! The runtime as an ordinary user runs it: without any privilege but those of a user namespace.

mod cgroups;
mod podman;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours, runtime, within};
use tests::user;

use super::{adversity::CREATE_STEPS, terminal::master};

#[test]
fn a_user_is_root_in_his_container_and_nowhere_else() {
    let bundle = Bundle::of_user(
        "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups; hostname; echo $$; echo x > /dev/null && \
         echo written; touch /made; mount | grep ' /dev/zero '; ip link show lo",
    );
    let output = bundle.output();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["0", "0"], "{output}");
    assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["0", "4242", "1"]);
    assert_eq!(lines[3..7], ["deny", "box", "1", "written"], "{output}");
    // Nodes cannot be made, so they are the host's.
    assert!(lines[7].contains(" /dev/zero "), "{output}");
    assert!(output.contains("LOOPBACK,UP"), "{output}");
    assert_eq!(std::fs::metadata(bundle.root().join("made")).unwrap().uid(), user::ID);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_container_of_a_user_lives_as_any_other() {
    let bundle = Bundle::of_user("exec sleep 100");
    bundle.must(&["create", &bundle.id]);
    assert_eq!(bundle.state()["status"], "created");
    bundle.must(&["start", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    let list: Value = serde_json::from_str(&bundle.must(&["list", "-f", "json"])).unwrap();
    assert_eq!(list[0]["id"], bundle.id);
    let pid = bundle.state()["pid"].to_string();
    let script = "id -u; exec cat /proc/self/setgroups; ";
    assert_eq!(bundle.must(&["exec", &bundle.id, "sh", "-c", script]), "0\ndeny\n");
    let namespaces =
        "for n in user pid net mnt ipc uts; do /bin/busybox readlink /proc/self/ns/$n; done";
    let output = bundle.must(&["exec", &bundle.id, "sh", "-c", namespaces]);
    for (line, kind) in output.lines().zip(["user", "pid", "net", "mnt", "ipc", "uts"]) {
        let of = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(line, of.to_str().unwrap());
    }
    assert_eq!(bundle.call(&["exec", &bundle.id, "sh", "-c", "exit 7"]).status.code(), Some(7));
    assert!(!bundle.call(&["delete", &bundle.id]).status.success());
    bundle.must(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn ranges_of_ids_are_mapped_by_newuidmap() {
    let mut bundle = Bundle::of_user("id; cat /proc/self/setgroups; touch /tmp/made");
    bundle.map_ranges();
    bundle.set("/process/user", json!({"uid": 5, "gid": 6}));
    if is_ours() {
        // runc allows none
        bundle.set("/process/user/additionalGids", json!([7]));
    }
    std::fs::set_permissions(bundle.root().join("tmp"), std::fs::Permissions::from_mode(0o777))
        .unwrap();
    let output = bundle.output();
    let groups = if is_ours() { " groups=7" } else { "" };
    assert_eq!(output, format!("uid=5 gid=6{groups}\nallow\n"));
    let made = std::fs::metadata(bundle.root().join("tmp/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (user::RANGE + 4, user::RANGE + 5));
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn ids_that_are_not_the_users_are_refused() {
    let mut bundle = Bundle::of_user("true");
    bundle.map_ranges();
    bundle.set("/linux/uidMappings/1/hostID", json!(user::RANGE + user::COUNT));
    let message = bundle.refusal();
    assert!(message.contains("newuidmap"), "{message}");
    if !is_ours() {
        return;
    }
    assert!(message.contains("linux.uidMappings") && message.contains("/etc/subuid"), "{message}");
    // Neither by the own hand.
    bundle.set("/linux/uidMappings", json!([{"containerID": 0, "hostID": 0, "size": 1}]));
    assert!(bundle.refusal().contains("newuidmap"));
    // A relative part of PATH, such as the bundle's directory, decides nothing.
    bundle.map_ranges();
    std::fs::write(bundle.path().join("newuidmap"), "#!/bin/sh\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bundle.path().join("newuidmap"), mode).unwrap();
    let words = ["run", &bundle.id];
    let mut command = bundle.command(&words);
    let output = command.arg("--no-pivot").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let inner = bundle.command(&words);
    let program = inner.get_args().skip_while(|word| !word.to_string_lossy().contains("runtime-"));
    let words: Vec<&OsStr> = program.collect();
    let mut without = std::process::Command::new("env");
    without.arg("PATH=:.:").args(words).current_dir(bundle.path());
    let output = bundle.user.as_ref().unwrap().command(&without).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("install the package uidmap"), "{message}");
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn what_takes_privileges_is_refused() {
    let mut bundle = Bundle::of_user("true");
    let namespaces = bundle.config["linux"]["namespaces"].clone();
    let maps = bundle.config["linux"]["uidMappings"].clone();
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().pop();
    bundle.set("/linux/uidMappings", json!([])).set("/linux/gidMappings", json!([]));
    let message = bundle.refusal();
    assert!(message.contains("rootless container requires user namespaces"), "{message}");
    bundle.set("/linux/namespaces", namespaces);
    bundle.set("/linux/uidMappings", maps.clone()).set("/linux/gidMappings", maps);
    bundle.push("/mounts/2/options", json!("gid=5"));
    let message = bundle.refusal();
    assert!(message.contains("gid="), "{message}");
    bundle.config["mounts"][2]["options"].as_array_mut().unwrap().pop();
    bundle.set("/process/user/additionalGids", json!([7]));
    let message = bundle.refusal();
    assert!(message.contains("groups"), "{message}");
    bundle.set("/process/user/additionalGids", json!([]));
    if !is_ours() {
        return;
    }
    let mount = json!({"destination": "/x", "source": "/etc", "options": ["bind", "idmap"]});
    bundle.push("/mounts", mount);
    let message = bundle.refusal();
    assert!(message.contains("mounts[6]") && message.contains("ordinary user"), "{message}");
}

#[test]
fn what_the_hosts_mounts_forbid_stays_forbidden() {
    let mut bundle = Bundle::of_user("mount | grep ' /there '; touch /there/x; ls /there/sub");
    let source = bundle.beside().join("locked");
    std::fs::create_dir(&source).unwrap();
    let user = bundle.user.as_mut().unwrap();
    user.before =
        format!("mount -t tmpfs -o ro,nosuid,nodev,noexec,mode=777 none {0}", source.display());
    bundle
        .push("/mounts", json!({"destination": "/there", "source": source, "options": ["rbind"]}));
    let (_, output, errors) = bundle.run();
    assert!(output.contains("(ro,nosuid,nodev,noexec,"), "{output}{errors}");
    assert!(errors.contains("Read-only"), "{errors}");
    if !is_ours() {
        return; // runc before 1.2 refuses every option of such a mount
    }
    bundle.set("/mounts/6/options", json!(["rbind", "nosuid", "ro"]));
    let output = bundle.run().1;
    assert!(output.contains("(ro,nosuid,nodev,noexec,"), "{output}");
    // Neither what is forbidden may be allowed, nor the access times be changed.
    for option in ["dev", "suid", "rw", "noatime"] {
        bundle.set("/mounts/6/options", json!(["rbind", option]));
        let message = bundle.refusal();
        assert!(message.contains("mounts[6]: mount on /there"), "{message}");
    }
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_bind_mount_of_a_user_has_its_options() {
    let mut bundle =
        Bundle::of_user("mount | grep ' /there '; cat /there/file /conf/hosts; cat /file");
    let source = bundle.beside().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "text\n").unwrap();
    std::fs::write(source.join("hosts"), "hosts\n").unwrap();
    bundle.user.as_ref().unwrap().give(&source);
    bundle.push(
        "/mounts",
        json!({"destination": "/there", "source": source, "options": ["rbind", "ro", "nosuid", "nodev"]}),
    );
    bundle.push(
        "/mounts",
        json!({"destination": "/conf", "type": "bind", "source": "../source", "options": ["bind"]}),
    );
    bundle.push(
        "/mounts",
        json!({"destination": "/file", "source": source.join("file"), "options": ["bind"]}),
    );
    bundle.set("/root/readonly", json!(true));
    if !is_ours() {
        // runc 1.1 makes no mount points below a root that is read-only to be
        bundle.set("/root/readonly", json!(false));
    }
    let output = bundle.output();
    assert!(output.contains("(ro,nosuid,nodev,"), "{output}");
    assert!(output.ends_with("text\nhosts\ntext\n"), "{output}");
    bundle.set("/mounts/6/source", json!("/missing"));
    let message = bundle.refusal();
    assert!(message.contains("/missing"), "{message}");
}

#[test]
fn the_state_of_a_user_is_in_his_runtime_directory() {
    let bundle = Bundle::of_user("true");
    bundle.command(&["list"]);
    let run = |words: &[&str]| {
        let mut command = bundle.command_of(&runtime(), words.iter().map(OsStr::new));
        if words[0] == "create" {
            // Its streams are the container's.
            command.stdout(Stdio::null()).stderr(Stdio::null());
            assert!(command.status().unwrap().success());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    };
    assert!(!run(&["create", &bundle.id]).status.success(), "created twice");
    let name = if is_ours() { "lighter" } else { "runc" };
    let root = bundle.user.as_ref().unwrap().runtime_directory().join(name);
    assert_eq!(std::fs::metadata(&root).unwrap().mode() & 0o7777, 0o1700);
    assert!(root.join(&bundle.id).is_dir());
    assert!(String::from_utf8_lossy(&run(&["list", "-q"]).stdout).contains(&bundle.id));
    assert!(run(&["delete", "--force", &bundle.id]).status.success());
    assert!(!root.join(&bundle.id).exists());
    // Root's own directory is not his.
    let mut command = std::process::Command::new("env");
    command.args(["-u", "XDG_RUNTIME_DIR"]).arg(copy(&bundle, &runtime())).args(["create", "x"]);
    command.current_dir(bundle.path());
    let output = bundle.user.as_ref().unwrap().command(&command).output().unwrap();
    assert!(!output.status.success());
}

/// Where a runtime is that the user may execute.
fn copy(bundle: &Bundle, program: &Path) -> PathBuf {
    let command = bundle.command_of(program, []);
    command.get_args().last().unwrap().into()
}

#[test]
fn what_spec_writes_for_a_user_runs() {
    let bundle = Bundle::of_user("true");
    let run = |words: &[&str]| {
        let output = bundle.command_of(&runtime(), words.iter().map(OsStr::new)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {text}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["spec", "--rootless"]);
    let path = bundle.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(config["linux"]["uidMappings"][0]["hostID"], user::ID);
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", "id -u; hostname; ls /sys/class/net/lo"]);
    std::fs::write(&path, config.to_string()).unwrap();
    let root = bundle.state_root();
    let output = run(&["--root", root.to_str().unwrap(), "run", &bundle.id]);
    let name = if is_ours() { config["hostname"].as_str().unwrap() } else { "runc" };
    assert!(output.starts_with(&format!("0\n{name}\n")), "{output}");
    assert!(output.contains("address"), "{output}");
}

#[test]
fn hooks_of_a_users_container_run_where_they_belong() {
    let mut bundle = Bundle::of_user("exec sleep 100");
    let out = bundle.beside().join("hooks");
    std::fs::write(&out, "").unwrap();
    bundle.user.as_ref().unwrap().give(&out);
    let hook = |name: &str, path: &str| {
        let script =
            format!("echo {name} $(id -u) $(/bin/busybox readlink /proc/self/ns/uts) >> {path}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let host = out.to_str().unwrap();
    bundle.set(
        "/hooks",
        json!({
            "prestart": hook("prestart", host), "createRuntime": hook("createRuntime", host),
            "createContainer": hook("createContainer", host),
            "startContainer": hook("startContainer", "/startContainer"),
            "poststart": hook("poststart", host), "poststop": hook("poststop", host),
        }),
    );
    bundle.must(&["create", &bundle.id]);
    bundle.must(&["start", &bundle.id]);
    let pid = bundle.state()["pid"].to_string();
    let inside = std::fs::read_link(format!("/proc/{pid}/ns/uts")).unwrap().display().to_string();
    let outside = std::fs::read_link("/proc/self/ns/uts").unwrap().display().to_string();
    bundle.must(&["delete", "--force", &bundle.id]);
    let text = std::fs::read_to_string(&out).unwrap();
    let expected = [
        format!("prestart {} {outside}", user::ID),
        format!("createRuntime {} {outside}", user::ID),
        format!("createContainer 0 {inside}"),
        format!("poststart {} {outside}", user::ID),
        format!("poststop {} {outside}", user::ID),
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    let text = std::fs::read_to_string(bundle.root().join("startContainer")).unwrap();
    assert_eq!(text, format!("startContainer 0 {inside}\n"));
}

#[test]
fn a_user_has_terminals() {
    let mut bundle = Bundle::of_user("tty; read line; echo got $line; ls -ln /dev/console");
    bundle.set("/process/terminal", json!(true));
    let path = bundle.beside().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.user.as_ref().unwrap().give(&path);
    bundle.must(&["create", "--console-socket", path.to_str().unwrap(), &bundle.id]);
    let mut terminal = master(&listener);
    bundle.must(&["start", &bundle.id]);
    let text = converse(&mut terminal, b"hello\n");
    assert!(text.contains("/dev/pts/0") && text.contains("got hello\r\n"), "{text}");
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    let mut bundle = Bundle::of_user("exec sleep 100");
    bundle.map_ranges();
    bundle.must(&["run", "-d", &bundle.id]);
    let path = bundle.beside().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.user.as_ref().unwrap().give(&path);
    let socket = path.to_str().unwrap();
    let script = "tty; id -u; read line; echo got $line > /dev/tty";
    let words = ["exec", "-t", "-d", "--user", "9", "--console-socket", socket, &bundle.id];
    bundle.must(&[&words[..], &["sh", "-c", script]].concat());
    let text = converse(&mut master(&listener), b"hello\n");
    assert!(text.contains("9\r\n") && text.contains("got hello\r\n"), "{text}");
    bundle.must(&["delete", "--force", &bundle.id]);
}

fn converse(terminal: &mut std::fs::File, line: &[u8]) -> String {
    use std::io::{Read as _, Write as _};
    terminal.write_all(line).unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

#[test]
fn limits_of_a_process_are_set_as_far_as_permitted() {
    let mut bundle = Bundle::of_user("ulimit -n; cat /proc/self/oom_score_adj; exec sleep 100");
    bundle.set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]));
    bundle.set("/process/oomScoreAdj", json!(300));
    let output = bundle.call(&["run", "-d", &bundle.id]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if is_ours() {
        // What is added has the container's, as root's containers do it.
        let script = ["exec", &bundle.id, "cat", "/proc/self/oom_score_adj"];
        assert_eq!(bundle.must(&script), "300\n");
    }
    bundle.must(&["delete", "--force", &bundle.id]);
    bundle.set("/process/oomScoreAdj", json!(-500));
    let message = bundle.refusal();
    assert!(message.contains("oom"), "{message}");
    if is_ours() {
        assert!(message.contains("CAP_SYS_RESOURCE"), "{message}");
    }
}

#[test]
fn another_container_of_the_user_is_joined() {
    let first = Bundle::of_user("exec sleep 100");
    first.must(&["run", "-d", &first.id]);
    let pid = first.state()["pid"].to_string();
    let mut second = Bundle::of_user(
        "for n in user pid net ipc uts; do /bin/busybox readlink /proc/self/ns/$n; done; id -u",
    );
    let join =
        |kind: &str, file: &str| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
    second.set(
        "/linux/namespaces",
        json!([join("user", "user"), join("pid", "pid"), join("network", "net"), join("ipc", "ipc"),
            join("uts", "uts"), {"type": "mount"}]),
    );
    second.set("/linux/uidMappings", json!([])).set("/linux/gidMappings", json!([]));
    second.set("/hostname", json!(""));
    if is_ours() {
        let output = second.output();
        for (line, kind) in output.lines().zip(["user", "pid", "net", "ipc", "uts"]) {
            let of = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_eq!(line, of.to_str().unwrap(), "{kind}");
        }
        assert!(output.ends_with("\n0\n"), "{output}");
    }
    first.must(&["delete", "-f", &first.id]);
    assert_eq!(second.left(), [""; 0]);
}

/// As rootless container engines call the runtime.
#[test]
fn the_root_of_a_user_namespace_is_an_ordinary_user_too() {
    let mut bundle =
        Bundle::of_user("id -u; echo x > /dev/null && echo written; mount | grep -c ' /dev/null '");
    bundle.config["linux"]["namespaces"].as_array_mut().unwrap().pop();
    bundle.set("/linux/uidMappings", json!([])).set("/linux/gidMappings", json!([]));
    bundle.user.as_mut().unwrap().root_inside = true;
    assert_eq!(bundle.output(), "0\nwritten\n1\n");
    assert_eq!(bundle.left(), [""; 0]);
    // And may have a further namespace in his.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    assert_eq!(bundle.output(), "0\nwritten\n1\n");
    if is_ours() {
        bundle.set("/linux/resources/pids", json!({"limit": 10}));
        let message = bundle.refusal();
        assert!(
            message.contains("set pids.max to") && message.contains("user 0 may not"),
            "{message}"
        );
    }
}

/// How the runtime with fail points ends; `None` where there is none.
fn killed_at(bundle: &Bundle, point: &str, words: &[&str]) -> bool {
    let Some(directory) = std::env::var_os("LIGHTER_FAILPOINTS") else { return false };
    let program = Path::new(&directory).join("lighter-runtime");
    bundle.command(words);
    let root = bundle.state_root();
    let root = [OsStr::new("--root"), root.as_os_str()];
    let mut command =
        bundle.command_of(&program, root.into_iter().chain(words.iter().map(OsStr::new)));
    command.env("LIGHTER_FAILPOINT", format!("{point}:1"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = within(Duration::from_secs(30), || child.try_wait().unwrap()).unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{point} was never reached");
    true
}

#[test]
fn a_users_runtime_killed_at_any_step_leaves_nothing() {
    if !is_ours() {
        return;
    }
    for (verb, points) in [
        ("create", &CREATE_STEPS[..]),
        ("start", &["start-locked", "start-written", "start-removed"]),
        ("delete", &["delete-locked", "delete-killed", "delete-cgroup", "delete-hooks"]),
    ] {
        // Natively at each of them.
        for point in points.iter().step_by(if tests::in_vm() { 3 } else { 1 }) {
            let mut bundle = Bundle::of_user("sleep 100 & exec sleep 101");
            bundle.map_ranges();
            bundle.set("/hooks", json!({"createRuntime": [{"path": "/bin/true"}]}));
            if verb != "create" {
                bundle.must(&["create", &bundle.id]);
            }
            let words = if verb == "delete" {
                &["delete", "-f", &bundle.id][..]
            } else {
                &[verb, &bundle.id]
            };
            if !killed_at(&bundle, point, words) {
                return;
            }
            bundle.must(&["delete", "--force", &bundle.id]);
            assert_eq!(bundle.left(), [""; 0], "killed at {point}");
            let none = within(Duration::from_secs(5), || (!lives(&bundle)).then_some(()));
            assert!(none.is_some(), "killed at {point}: a process lives on");
            bundle.must(&["create", &bundle.id]);
            bundle.must(&["delete", "--force", &bundle.id]);
        }
    }
}

/// Whether a process has the bundle's root.
fn lives(bundle: &Bundle) -> bool {
    let root = bundle.root();
    let mut entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.any(|entry| std::fs::read_link(entry.path().join("root")).is_ok_and(|at| at == root))
}
