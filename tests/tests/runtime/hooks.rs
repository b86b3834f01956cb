//! Hooks that belong into the container: what they see and what they may.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours};

const NAMESPACES: &str =
    "for n in pid net ipc uts mnt; do /bin/busybox readlink /proc/self/ns/$n; done";

/// A file of the container's that anybody may write to.
fn open_file(bundle: &Bundle, name: &str) -> std::path::PathBuf {
    let path = bundle.root().join(name);
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    path
}

fn hook(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"],
        "timeout": 10}])
}

#[test]
fn those_of_the_container_are_in_all_its_namespaces() {
    let mut bundle = Bundle::new(&format!("({NAMESPACES}) > /program"));
    let program = open_file(&bundle, "program");
    let start = open_file(&bundle, "start");
    let create = bundle.beside().join("create");
    bundle.set(
        "/hooks",
        json!({
            "createContainer": hook(&format!("(cat; echo; {NAMESPACES}) > {}", create.display())),
            "startContainer": hook(&format!("(cat; echo; {NAMESPACES}) > /start")),
        }),
    );
    bundle.output();
    let own = std::fs::read_to_string(program).unwrap();
    assert_eq!(own.lines().count(), 5, "{own}");
    for (file, status) in [(create, "creating"), (start, "created")] {
        let text = std::fs::read_to_string(file).unwrap();
        let (state, namespaces) = text.split_once('\n').unwrap();
        assert_eq!(namespaces, own, "{status}");
        let state: Value = serde_json::from_str(state).unwrap();
        // As the container numbers its processes.
        assert_eq!((&state["pid"], &state["status"]), (&json!(1), &json!(status)));
        assert_eq!(state["id"], bundle.id.as_str());
    }
    assert_eq!(bundle.left(), [""; 0]);
}

/// Their programs are the image's: with the runtime's privileges they could leave the container.
#[test]
fn those_at_start_have_no_more_privileges_than_the_program() {
    const PRIVILEGES: &str = "id -u; id -G; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; cat /proc/self/cgroup";
    for (no_new_privileges, uid) in [(true, 33), (false, 33), (true, 0)] {
        let mut bundle = Bundle::new(&format!("({PRIVILEGES}) > /program"));
        let program = open_file(&bundle, "program");
        let start = open_file(&bundle, "start");
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
        bundle
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/process/user", json!({"uid": uid, "gid": 34, "additionalGids": [5]}))
            .set("/linux/seccomp", profile)
            .set("/hooks", json!({"startContainer": hook(&format!("({PRIVILEGES}) > /start"))}));
        bundle.output();
        let [own, hook] = [program, start].map(|file| std::fs::read_to_string(file).unwrap());
        assert!(own.contains("Seccomp:\t2"), "{own}");
        assert_eq!(hook, own);
    }
}

#[test]
fn a_failure_at_start_stops_the_container() {
    for script in ["exit 3", "kill -9 $$", "exec sleep 100"] {
        let mut bundle = Bundle::new("echo ran > /program");
        let program = open_file(&bundle, "program");
        let mut hooks = hook(script);
        hooks[0]["timeout"] = json!(1);
        bundle.set("/hooks", json!({"startContainer": hooks}));
        bundle.must(&["create", &bundle.id]);
        // In runc the init runs them, and its `start` does not wait for what becomes of them.
        let started = bundle.call(&["start", &bundle.id]);
        assert!(!started.status.success() || !is_ours(), "{script}");
        bundle.wait_for("stopped");
        assert_eq!(std::fs::read_to_string(program).unwrap(), "", "{script}");
        bundle.must(&["delete", &bundle.id]);
        assert_eq!(bundle.left(), [""; 0]);
    }
}

#[test]
fn a_failure_after_the_start_stops_the_container() {
    if !is_ours() {
        return; // runc 1.1 runs these at create
    }
    let mut bundle = Bundle::new("exec sleep 100");
    let ended = bundle.beside().join("ended");
    let stop = hook(&format!("echo ended > {}", ended.display()));
    bundle.set("/hooks", json!({"poststart": hook("exit 3"), "poststop": stop}));
    bundle.must(&["create", &bundle.id]);
    let started = bundle.call(&["start", &bundle.id]);
    assert_eq!(started.status.code(), Some(1));
    let text = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(text.contains("/bin/sh ended with code 3"), "{text}");
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    assert!(ended.exists());
    assert_eq!(bundle.call(&["run", "-d", &bundle.id]).status.code(), Some(1));
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn they_work_in_a_user_namespace() {
    let mut bundle = Bundle::new("true");
    let start = open_file(&bundle, "start");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        .set("/hooks", json!({"startContainer": hook("id -u > /start; id -g >> /start")}));
    for path in [bundle.beside().to_owned(), bundle.path(), bundle.root()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
    bundle.output();
    assert_eq!(std::fs::read_to_string(start).unwrap(), "0\n0\n");
}

/// Without a mount namespace the container has only another root, and so have they.
#[test]
fn their_path_is_below_the_containers_root() {
    if !is_ours() {
        return; // runc wants a mount namespace
    }
    let mut bundle = Bundle::new("true");
    let start = open_file(&bundle, "start");
    std::fs::copy("/bin/busybox", bundle.root().join("bin/only-here")).unwrap();
    let namespaces = json!([{"type": "pid"}, {"type": "uts"}]);
    let mut hooks = hook("echo ran > /start");
    hooks[0]["path"] = json!("/bin/only-here");
    bundle
        .set("/linux/namespaces", namespaces)
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/mounts", json!([]))
        .set("/hooks", json!({"startContainer": hooks}));
    bundle.output();
    assert_eq!(std::fs::read_to_string(start).unwrap(), "ran\n");
}

/// Relative paths of theirs reach the bundle or the container, and never what lies at the host's root.
#[test]
fn they_work_in_the_bundle_or_in_the_root_file_system() {
    let mut bundle = Bundle::new("true");
    let record = |name: &str| hook(&format!("pwd > {}", bundle.beside().join(name).display()));
    let hooks = json!({
        "prestart": record("prestart"),
        "createRuntime": record("createRuntime"),
        "createContainer": record("createContainer"),
    });
    bundle.set("/hooks", hooks);
    let words = ["run", "--bundle", bundle.path().to_str().unwrap(), &bundle.id].map(str::to_owned);
    let words = words.each_ref().map(String::as_str);
    // runc changes into the bundle that it is given, so both are called from elsewhere.
    let status = bundle.command(&words).current_dir("/").status().unwrap();
    assert!(status.success());
    for (name, directory) in [
        ("prestart", bundle.path()),
        ("createRuntime", bundle.path()),
        ("createContainer", bundle.root()),
    ] {
        let seen = std::fs::read_to_string(bundle.beside().join(name)).unwrap();
        assert_eq!(seen.trim(), directory.to_str().unwrap(), "{name}");
    }
}

#[test]
fn without_an_environment_they_have_the_runtimes() {
    let mut bundle = Bundle::new("true");
    let out = bundle.beside().join("out");
    let mut hooks = hook(&format!("echo \"$FROM_OUTSIDE\" > {}", out.display()));
    hooks[0].as_object_mut().unwrap().remove("env");
    bundle.set("/hooks", json!({"createRuntime": hooks}));
    let run = |bundle: &Bundle| {
        let mut command = bundle.command(&["run", &bundle.id]);
        assert!(command.env("FROM_OUTSIDE", "outside").status().unwrap().success());
        std::fs::read_to_string(&out).unwrap()
    };
    assert_eq!(run(&bundle), "outside\n");
    bundle.set("/hooks/createRuntime/0/env", json!([]));
    assert_eq!(run(&bundle), "\n");
}
