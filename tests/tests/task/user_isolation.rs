//! What a container with a user namespace reaches of the host and of other tasks, and what it still
//! must reach: its endpoints, its limits, its log.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};

use serde_json::{Value, json};
use tests::host::{FIRST_ID, TestHost, container, script, stderr, stdout, task};

fn mapped() -> TestHost {
    let host = TestHost::empty();
    host.remap_users();
    host.load_image();
    host
}

/// What containers said, without their names.
fn said(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once(" | ").map_or(line, |(_, said)| said));
    lines.map(|line| format!("{line}\n")).collect()
}

fn pid(host: &TestHost, id: &str) -> i64 {
    host.inspect(id)["containers"][0]["pid"].as_i64().expect("a pid")
}

/// As whoever has got out of a container as its root.
fn as_escaped(host: &TestHost, script: &str) -> String {
    let ids = format!("--reuid={FIRST_ID} --regid={FIRST_ID} --clear-groups");
    fs::write(host.path("escaped.sh"), script).expect("a script");
    host.sh(&format!(
        "chmod 755 {} {}; setpriv {ids} bash {} 2>&1",
        host.path("").display(),
        host.root().display(),
        host.path("escaped.sh").display()
    ))
}

#[test]
fn whoever_leaves_a_container_reads_nothing_of_any_task() {
    let host = mapped();
    let mut main = container("main", "echo out; echo secret > /data/file; sleep 1000");
    main["environment"] = json!([{"name": "PASSWORD", "value": "secret"}]);
    main["mountPoints"] = json!([{"sourceVolume": "shared", "containerPath": "/data"}]);
    let mut definition = task("bridge", vec![main]);
    definition["volumes"] = json!([{"name": "shared", "host": {}}]);
    let id = host.detach(&definition);
    let file = host.task_directory(&id).join("volumes/shared/file");
    host.eventually("it has written", || file.exists());
    let root = host.root();
    // Every file and socket, by its path: configuration with its variables, output, volumes, database.
    let list = format!("find {0}/var {0}/run -not -type d -not -type l", root.display());
    let files = host.sh(&list);
    for part in ["config.json", "/spool/", "volumes/shared/file", "monitor.sock", "record.json"] {
        assert!(files.contains(part), "{part} in {files}");
    }
    let found = as_escaped(
        &host,
        &format!(
            "while read -r f; do [ -r \"$f\" ] && echo reads $f; [ -w \"$f\" ] && echo writes $f; done <<'END'\n{files}\nEND\n"
        ),
    );
    assert_eq!(found, "");
    // The same user's processes in a namespace are not those of one outside.
    let pid = pid(&host, &id);
    let tried = as_escaped(
        &host,
        &format!(
            "cat /proc/{pid}/environ; ls /proc/{pid}/root/; nsenter -t {pid} -U -p true; echo $?"
        ),
    );
    assert!(!tried.contains("secret") && !tried.contains("bin\n"), "{tried}");
    assert_eq!(tried.matches("Permission denied").count(), 3, "{tried}");
    host.ok(&["stop", &id]);
}

/// As Docker: the ids of all tasks are the same, and so it is the other namespaces that keep them apart.
#[test]
fn two_tasks_with_the_same_ids_do_not_see_each_other() {
    let host = mapped();
    let sleeps = script("bridge", "exec sleep 1000");
    let ids: Vec<String> = (0..2).map(|_| host.detach(&sleeps)).collect();
    let of =
        |id: &str, kind: &str| host.sh(&format!("readlink /proc/{}/ns/{kind}", pid(&host, id)));
    let owner = |id: &str| host.sh(&format!("stat -c %u /proc/{}", pid(&host, id)));
    assert_eq!(owner(&ids[0]), owner(&ids[1]));
    for kind in ["user", "pid", "mnt", "ipc", "net", "uts"] {
        assert_ne!(of(&ids[0], kind), of(&ids[1], kind), "{kind}");
    }
    // The bracket is no text that the shell itself shows.
    let look = "echo sleeping: $(ps | grep -c '[s]leep 1000'); ls /proc";
    let seen = host.ok(&["exec", &ids[0], "sh", "-c", look]);
    assert!(seen.lines().any(|line| line == "sleeping: 1"), "{seen}");
    let others = pid(&host, &ids[1]).to_string();
    assert!(!seen.lines().any(|line| line == others), "{seen}");
    for id in &ids {
        host.ok(&["stop", id]);
    }
}

/// CVE-2024-21626 and its like: descriptors, groups and the working directory.
#[test]
fn a_container_inherits_nothing_of_the_hosts() {
    let host = mapped();
    let look = "cd /proc/self/fd && for f in *; do echo fd $(readlink $f); done; \
                grep -E '^(Groups|Uid|Gid):' /proc/self/status; pwd -P; readlink /proc/self/exe";
    let id = host.detach(&script("bridge", &format!("{look}; echo seen; sleep 1000")));
    host.eventually("it has looked", || host.ok(&["logs", &id]).contains("seen"));
    let text = said(&host.ok(&["logs", &id]));
    let executed = host.ok(&["exec", &id, "sh", "-c", look]);
    let user = host.ok(&["exec", "-u", "33:33", &id, "sh", "-c", look]);
    for (text, user) in [(&text, 0), (&executed, 0), (&user, 33)] {
        assert!(text.contains(&format!("Uid:\t{user}\t{user}\t{user}\t{user}")), "{text}");
        assert!(text.contains(&format!("Gid:\t{user}\t{user}\t{user}\t{user}")), "{text}");
        // Groups of the host would be the one that stands for all outside.
        assert!(!text.contains("65534"), "{text}");
        for line in text.lines().filter_map(|line| line.strip_prefix("fd ")) {
            let plain = ["/dev/null", "pipe:", "/proc/"];
            // The FIFOs of its streams have a name outside, which leads nowhere.
            let streams = ["/containers/main/stdout", "/containers/main/stderr"];
            let known = line.is_empty()
                || plain.iter().any(|plain| line.starts_with(plain))
                || streams.iter().any(|stream| line.ends_with(stream));
            assert!(known, "{line:?} in {text}");
        }
    }
    // A user beyond the range, and what it is called.
    let beyond = host.run(&["exec", "-u", "70000", &id, "true"]);
    let words = stderr(&beyond);
    assert!(!beyond.status.success());
    assert!(words.contains("70000") && words.contains("user"), "{words}");
    host.ok(&["stop", &id]);
}

/// CVE-2016-9962: a process on its way into the container is no business of those that are in it,
/// not even of one that may trace whatever is in its user namespace.
#[test]
fn nobody_looks_at_a_process_on_its_way_into_the_container() {
    let host = mapped();
    let watch = "echo watching; while [ ! -e /stop ]; do for p in /proc/[0-9]*; do \
                   [ $p = /proc/1 ] || ls -l $p/fd $p/exe 2>/dev/null; done; done | \
                 grep -v /containers/main/std | grep -E 'lighter|memfd:|socket:|(user|net|mnt|pid):\\[' > /seen; \
                 echo done; sleep 1000";
    let mut main = container("main", watch);
    main["linuxParameters"] = json!({"capabilities": {"add": ["SYS_PTRACE", "SYS_ADMIN"]}});
    let id = host.detach(&task("bridge", vec![main]));
    host.eventually("it watches", || host.ok(&["logs", &id]).contains("watching"));
    for user in ["0", "33"] {
        for _ in 0..tests::rounds(20) {
            host.ok(&["exec", "-u", user, &id, "true"]);
        }
    }
    host.ok(&["exec", &id, "touch", "/stop"]);
    host.eventually("it has watched", || host.ok(&["logs", &id]).contains("done"));
    assert_eq!(host.ok(&["exec", &id, "cat", "/seen"]), "");
    host.ok(&["stop", &id]);
}

#[test]
fn a_set_user_id_program_on_a_host_path_is_the_containers() {
    let host = mapped();
    let (given, kept) = (host.path("given"), host.path("kept"));
    for directory in [&given, &kept] {
        fs::create_dir(directory).expect("a directory");
    }
    lchown(&given, Some(FIRST_ID), Some(FIRST_ID)).expect("chown");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o777)).expect("chmod");
    fs::write(kept.join("roots"), "").expect("a file");
    let mut main = container(
        "main",
        "for d in given kept data; do cp /bin/busybox /$d/sh && chmod 6755 /$d/sh; done; \
         chown 0:0 /kept/roots; chmod 4755 /kept/roots; echo x > /kept/roots; echo tried; sleep 1000",
    );
    main["mountPoints"] = ["given", "kept", "data"]
        .map(|name| json!({"sourceVolume": name, "containerPath": format!("/{name}")}))
        .to_vec()
        .into();
    let mut definition = task("none", vec![main]);
    definition["volumes"] = json!([
        {"name": "given", "host": {"sourcePath": given}}, {"name": "kept", "host": {"sourcePath": kept}},
        {"name": "data", "host": {}},
    ]);
    let id = host.detach(&definition);
    host.eventually("it has tried", || host.ok(&["logs", &id]).contains("tried"));
    let text = stderr(&host.run(&["logs", &id]));
    for directory in [&given, &kept] {
        let at = directory.join("sh").metadata().expect("a file");
        assert_eq!((at.uid(), at.gid(), at.mode() & 0o7777), (FIRST_ID, FIRST_ID, 0o6755));
    }
    let roots = kept.join("roots").metadata().expect("a file");
    assert_eq!((roots.uid(), roots.mode() & 0o7777, roots.len()), (0, 0o644, 0), "{text}");
    // In a volume of the task it has the ids of the container, which are nobody's to execute outside:
    // no user of the host comes there, and no other task mounts it.
    let own = host.task_directory(&id).join("volumes/data/sh");
    assert_eq!(own.metadata().expect("a file").uid(), 0);
    let tried = as_escaped(&host, &format!("{} id", own.display()));
    assert!(tried.contains("Permission denied"), "{tried}");
    host.ok(&["stop", &id]);
}

#[test]
fn endpoints_limits_and_logs_are_as_without() {
    let host = mapped();
    let tell = "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4; echo; \
                wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task; echo; ulimit -Hn; ulimit -Sn";
    host.start_agent();
    if host.sh("(ulimit -n 512; ulimit -Hn 1000) 2>/dev/null && echo may") == "may" {
        let agent = host.agent_pid().expect("an agent");
        assert_eq!(host.sh(&format!("prlimit --pid {agent} --nofile=512:512")), "");
    }
    for mode in ["awsvpc", "bridge", "none"] {
        let mut main = container("main", tell);
        // More than the agent has, where root may raise a limit: in the namespace nobody may.
        main["ulimits"] = json!([{"name": "nofile", "softLimit": 600, "hardLimit": 1000}]);
        let output = host.run_task(&task(mode, vec![main]));
        let text = said(&stdout(&output));
        let documents: Vec<Value> = text
            .lines()
            .filter(|line| line.starts_with('{'))
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let [container, task] = documents.as_slice() else {
            panic!("{mode}: {text}{}", stderr(&output))
        };
        assert_eq!(container["Name"], "main", "{mode}: {text}");
        assert_eq!(task["Cluster"], "default", "{mode}: {text}");
        assert!(text.contains("\n1000\n600\n"), "{mode}: {text}{}", stderr(&output));
    }
    let ids = host.ok(&["ps", "--all", "--quiet", "--no-trunc"]);
    for id in ids.lines() {
        let log = host.inspect(id)["containers"][0]["logPath"].as_str().expect("a path").to_owned();
        let at = fs::metadata(&log).expect("a log");
        assert_eq!((at.uid(), at.gid(), at.mode() & 0o027), (0, 0, 0), "{log}");
    }
}

/// Docker takes it too; what is shared is what any user of the host may use.
#[test]
fn the_hosts_ipc_namespace_is_shared_as_a_user_of_the_host() {
    let host = mapped();
    let queues = "test -d /dev/mqueue || mkdir /dev/mqueue; \
                  mountpoint -q /dev/mqueue || mount -t mqueue mqueue /dev/mqueue";
    assert_eq!(host.sh(queues), "");
    let name = format!("lighter-{}", std::process::id());
    fs::write(format!("/dev/shm/{name}-root"), "mine").expect("a file");
    fs::set_permissions(format!("/dev/shm/{name}-root"), fs::Permissions::from_mode(0o600))
        .expect("chmod");
    let mut definition = script(
        "bridge",
        &format!(
            "stat -c 'owner %u' /dev/shm/{name}-root; cat /dev/shm/{name}-root; rm /dev/shm/{name}-root; \
                  echo x > /dev/shm/{name}; readlink /proc/self/ns/ipc"
        ),
    );
    definition["ipcMode"] = json!("host");
    let output = host.run_task(&definition);
    let text = format!("{}{}", stdout(&output), stderr(&output));
    let owner = fs::metadata(format!("/dev/shm/{name}")).map(|at| at.uid());
    let roots = fs::read_to_string(format!("/dev/shm/{name}-root"));
    let _ = fs::remove_file(format!("/dev/shm/{name}"));
    let _ = fs::remove_file(format!("/dev/shm/{name}-root"));
    assert!(text.contains("owner 65534"), "{text}");
    assert_eq!(
        text.matches("ermission denied").count() + text.matches("not permitted").count(),
        2,
        "{text}"
    );
    assert_eq!(roots.ok().as_deref(), Some("mine"), "{text}");
    assert_eq!(owner.ok(), Some(FIRST_ID), "{text}");
    assert!(text.contains(&host.sh("readlink /proc/self/ns/ipc")), "{text}");
}
