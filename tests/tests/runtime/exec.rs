//! `exec`: further processes of a container.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tests::bundle::{Bundle, cgroup_mounts, is_ours, within};

use super::terminal::master;

/// A container that runs until it is deleted.
fn running() -> Bundle {
    let bundle = Bundle::new("sleep 600");
    bundle.must(&["run", "-d", &bundle.id]);
    bundle
}

fn exec(bundle: &Bundle, options: &[&str], command: &[&str]) -> Output {
    bundle.call(&[&["exec"], options, &[bundle.id.as_str()], command].concat())
}

/// What a shell script prints that must succeed.
fn shell(bundle: &Bundle, options: &[&str], script: &str) -> String {
    let output = exec(bundle, options, &["sh", "-c", script]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{options:?} {script}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The message of an exec that must be refused by the runtime.
fn refused(bundle: &Bundle, options: &[&str], command: &[&str]) -> String {
    let output = exec(bundle, options, command);
    assert_eq!(output.status.code(), Some(255), "{options:?} {command:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn delete(bundle: &Bundle) {
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

/// Writes a process file that differs from the bundle's process.
fn process_file(bundle: &Bundle, change: impl FnOnce(&mut Value)) -> String {
    let mut process = bundle.config["process"].clone();
    change(&mut process);
    let path = bundle.beside().join("process.json");
    std::fs::write(&path, process.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_exit_code_is_the_processs() {
    let bundle = running();
    assert_eq!(exec(&bundle, &[], &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(exec(&bundle, &[], &["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(exec(&bundle, &[], &["true"]).status.code(), Some(0));
    // In every namespace of the container.
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup"] {
        let script = format!("[ /proc/1/ns/{kind} -ef /proc/self/ns/{kind} ]");
        shell(&bundle, &[], &script);
    }
    assert_eq!(shell(&bundle, &[], "hostname"), "box\n");
    // And of its cgroups.
    let own = shell(&bundle, &[], "cat /proc/self/cgroup");
    assert_eq!(own, shell(&bundle, &[], "cat /proc/1/cgroup"));
    assert!(!own.contains("/.."), "{own}");
    delete(&bundle);
}

#[test]
fn options_describe_the_process() {
    let bundle = running();
    let text = shell(
        &bundle,
        &["--cwd", "/tmp", "-e", "A=1", "-e", "B=2", "-u", "33:34", "-g", "5", "-g", "6"],
        "pwd; echo $A $B $PATH $HOME; id -u; id -g; id -G",
    );
    assert_eq!(text, "/tmp\n1 2 /bin /www\n33\n34\n34 5 6\n");
    assert_eq!(shell(&bundle, &["--user", "33"], "id -u; id -g"), "33\n0\n");
    // What follows the id belongs to the command.
    let output = exec(&bundle, &[], &["echo", "-t", "--env", "--", "--debug"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "-t --env -- --debug\n");
    for (options, word) in [
        (&["--user", "nobody"][..], "uid"),
        (&["--user", "1:x"], "gid"),
        (&["--cwd", "relative"], "cwd"),
        (&["--cwd", "/missing"], "no such file or directory"),
    ] {
        let text = refused(&bundle, options, &["true"]).to_lowercase();
        assert!(text.contains("exec failed") && text.contains(word), "{options:?}: {text}");
    }
    assert!(refused(&bundle, &[], &[]).contains("process args cannot be empty"));
    delete(&bundle);
}

#[test]
fn capabilities_and_no_new_privileges() {
    let bundle = running();
    let status = "grep -E 'Cap|NoNewPrivs' /proc/self/status";
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap()
    };
    let plain = shell(&bundle, &[], status);
    assert_eq!(value(&plain, "NoNewPrivs"), 1);
    assert_eq!(value(&plain, "CapEff") & 1 << 12, 0);
    let more = shell(&bundle, &["--cap", "CAP_NET_ADMIN", "--no-new-privs=false"], status);
    assert_eq!(value(&more, "NoNewPrivs"), 0);
    for name in ["CapBnd", "CapEff", "CapPrm"] {
        assert_eq!(value(&more, name), value(&plain, name) | 1 << 12, "{name}");
    }
    delete(&bundle);
}

/// CVE-2022-29162: capabilities that a file with inheritable ones would give to a user.
#[test]
fn cve_2022_29162_nothing_is_inheritable() {
    let bundle = running();
    for options in [&[][..], &["--cap", "CAP_NET_ADMIN"], &["-u", "33", "-c", "CAP_NET_ADMIN"]] {
        let text = shell(&bundle, options, "grep -E 'CapInh|CapAmb' /proc/self/status");
        assert_eq!(text, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n", "{options:?}");
    }
    delete(&bundle);
}

#[test]
fn a_process_file_describes_it_whole() {
    let mut bundle = Bundle::new("sleep 600");
    bundle.set("/process/oomScoreAdj", json!(321));
    bundle.must(&["run", "-d", &bundle.id]);
    // What it leaves open is the container's.
    let path = process_file(&bundle, |process| {
        *process = json!({
            "args": ["sh", "-c", "pwd; id -u; cat /proc/self/oom_score_adj; ulimit -c; ulimit -Hc; \
                grep CapBnd /proc/self/status; exit 3"],
            "cwd": "/tmp", "env": ["PATH=/bin"], "user": {"uid": 33, "gid": 33},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 8192}],
        });
    });
    for words in [["-p", path.as_str()], ["--process", path.as_str()]] {
        let output = exec(&bundle, &words, &[]);
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // In blocks of 512 bytes.
        assert!(text.starts_with("/tmp\n33\n321\n8\n16\n"), "{text}");
        let bounding = shell(&bundle, &[], "grep CapBnd /proc/1/status");
        assert!(text.ends_with(&bounding), "{text}{bounding}");
    }
    assert!(refused(&bundle, &["-p", "/missing.json"], &[]).contains("/missing.json"));
    delete(&bundle);
}

/// From these words callers conclude exit codes 127 and 126.
#[test]
fn what_cannot_be_executed_is_told_in_known_words() {
    let bundle = running();
    std::fs::write(bundle.root().join("plain"), "text").unwrap();
    for (program, words) in [
        ("missing", "exec: \"missing\": executable file not found in $PATH"),
        ("/missing", "exec: \"/missing\": stat /missing: no such file or directory"),
        ("/plain", "exec: \"/plain\": permission denied"),
        ("/etc", "exec: \"/etc\": permission denied"),
    ] {
        let text = refused(&bundle, &[], &[program]);
        // runc's log entry on standard error has its quotes escaped.
        let text = text.replace("\\\"", "\"");
        let words = format!("exec failed: unable to start container process: {words}");
        assert!(text.contains(&words), "{text}");
    }
    // For a caller that reads the log.
    let log = bundle.beside().join("log.json");
    let log = log.to_str().unwrap();
    bundle.call(&["--log", log, "--log-format", "json", "exec", &bundle.id, "missing"]);
    let text = std::fs::read_to_string(log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error");
    let message = last["msg"].as_str().unwrap();
    assert!(message.contains("executable file not found in $PATH"), "{message}");
    delete(&bundle);
}

#[test]
fn a_container_that_is_not_there_is_refused() {
    let bundle = Bundle::new("true");
    assert!(refused(&bundle, &[], &["true"]).contains("does not exist"));
    bundle.must(&["run", "-d", &bundle.id]);
    bundle.wait_for("stopped");
    assert!(refused(&bundle, &[], &["true"]).contains("stopped"));
    delete(&bundle);
    // One that has not been started is there.
    let bundle = Bundle::new("true");
    bundle.must(&["create", &bundle.id]);
    assert_eq!(shell(&bundle, &[], "hostname"), "box\n");
    delete(&bundle);
}

#[test]
fn detached_with_a_pid_file() {
    let bundle = running();
    let pid_file = bundle.beside().join("pid");
    let script = "touch /tmp/here; sleep 600; true";
    let options = ["-d", "--pid-file", pid_file.to_str().unwrap()];
    let output = exec(&bundle, &options, &["sh", "-c", script]);
    assert_eq!(output.status.code(), Some(0));
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.contains(script), "{line}");
    let here = bundle.root().join("tmp/here");
    assert!(within(Duration::from_secs(5), || here.exists().then_some(())).is_some());
    delete(&bundle);
    assert!(!std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists());
}

#[test]
fn standard_streams_and_signals_go_through() {
    let bundle = running();
    let id = bundle.id.as_str();
    let mut child = bundle
        .command(&[
            "exec",
            id,
            "sh",
            "-c",
            "trap 'exit 9' TERM; cat; echo ready; while :; do sleep 0.1; done",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"ready\n") && output.read(&mut byte).unwrap() == 1 {
        text.push(byte[0]);
    }
    assert_eq!(text, b"typed\nready\n");
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = within(Duration::from_secs(10), || child.try_wait().unwrap());
    assert_eq!(status.and_then(|status| status.code()), Some(9));
    delete(&bundle);
}

#[test]
fn a_terminal_goes_over_the_console_socket() {
    let bundle = running();
    let path = bundle.beside().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    let options = ["-t", "-d", "--console-socket", path];
    let script = "tty; read line; echo got $line";
    let output = exec(&bundle, &options, &["sh", "-c", script]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mut terminal = master(&listener);
    terminal.write_all(b"hello\n").unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(text.contains("/dev/pts/0") && text.contains("got hello"), "{text}");
    // A terminal without a socket, and a socket without a terminal or without --detach.
    refused(&bundle, &["-t", "-d"], &["true"]);
    refused(&bundle, &["-d", "--console-socket", path], &["true"]);
    refused(&bundle, &["-t", "--console-socket", path], &["true"]);
    delete(&bundle);
}

#[test]
fn a_terminal_in_the_foreground() {
    if !is_ours() {
        return; // runc insists on a terminal of its own
    }
    let bundle = running();
    let text = shell(&bundle, &["--tty"], "[ -t 0 ] && [ -t 1 ] && tty");
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert_eq!(exec(&bundle, &["-t"], &["sh", "-c", "exit 4"]).status.code(), Some(4));
    delete(&bundle);
}

/// CVE-2024-21626: neither descriptors of ours nor a working directory outside.
#[test]
fn cve_2024_21626_nothing_of_the_host_comes_along() {
    let bundle = running();
    let script = "n=3; while [ $n -lt 40 ]; do [ -e /proc/$$/fd/$n ] && echo $n; n=$((n+1)); done";
    let text = shell(&bundle, &[], &format!("{script}; true"));
    assert_eq!(text, "");
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        refused(&bundle, &["--cwd", &cwd], &["true"]);
        let path = process_file(&bundle, |process| {
            process["args"] = json!(["true"]);
            process["cwd"] = json!(cwd);
        });
        refused(&bundle, &["-p", &path], &[]);
    }
    delete(&bundle);
}

/// CVE-2019-5736: an image whose program is the runtime itself gets a copy that nobody can write.
#[test]
fn cve_2019_5736_the_runtime_cannot_be_overwritten() {
    let bundle = running();
    let binary = tests::bundle::runtime();
    let before = std::fs::read(&binary).ok();
    std::os::unix::fs::symlink("/proc/self/exe", bundle.root().join("bin/again")).unwrap();
    // It executes the runtime's image inside, where it may at most print its version.
    let mut child = bundle
        .command(&["exec", &bundle.id, "/bin/again", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The attack: whoever is in the container writes to what it finds running.
    let attack = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); for exe in /proc/[0-9]*/exe; do \
        case $(ls -l $exe 2>/dev/null) in *busybox*) ;; \
        *) (echo overwritten >> $exe) 2>/dev/null;; esac; done; done; exit 0";
    exec(&bundle, &[], &["sh", "-c", attack]);
    child.wait().unwrap();
    assert_eq!(std::fs::read(&binary).ok(), before);
    delete(&bundle);
}

#[test]
fn descriptors_are_passed_on_when_asked_for() {
    let bundle = running();
    let file = bundle.beside().join("passed");
    std::fs::write(&file, "passed on").unwrap();
    let through = |options: &str, inside: &str| {
        let runtime = tests::bundle::runtime();
        let script = format!(
            "exec {} --root {} exec {options} {} sh -c '{inside}' 3< {}",
            runtime.display(),
            bundle.state_root().display(),
            bundle.id,
            file.display(),
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(through("--preserve-fds 1", "cat <&3"), (Some(0), "passed on".to_owned()));
    // Unasked they stay outside; and what is asked for must be there.
    assert_ne!(through("", "cat <&3").0, Some(0));
    if is_ours() {
        assert_eq!(through("--preserve-fds 2", "true").0, Some(255));
    }
    delete(&bundle);
}

#[test]
fn a_group_below_the_containers() {
    let bundle = running();
    let mut made = 0;
    for mount in cgroup_mounts() {
        let group = mount.join(&bundle.id);
        if group.exists() {
            made += 1;
            std::fs::create_dir(group.join("sub")).unwrap();
            if mount.ends_with("cpuset") {
                for name in ["cpuset.cpus", "cpuset.mems"] {
                    let value = std::fs::read(group.join(name)).unwrap();
                    std::fs::write(group.join("sub").join(name), value).unwrap();
                }
            }
        }
    }
    let text = shell(&bundle, &["--cgroup", "sub"], "cat /proc/self/cgroup");
    let below = text.lines().filter(|line| line.ends_with(":/sub")).count();
    assert!(made > 0 && below == made, "{made} groups made: {text}");
    let text = shell(&bundle, &["--cgroup", "/"], "cat /proc/self/cgroup");
    assert!(!text.contains("sub"), "{text}");
    if cgroup_mounts().iter().any(|mount| mount.ends_with("memory")) {
        let options = ["--cgroup", "memory:sub", "--cgroup", "pids,freezer:/sub"];
        let text = shell(&bundle, &options, "cat /proc/self/cgroup");
        assert_eq!(text.lines().filter(|line| line.ends_with(":/sub")).count(), 3, "{text}");
    }
    for bad in ["missing", "../..", "nothing:sub", "cpu:sub:sub"] {
        refused(&bundle, &["--cgroup", bad], &["true"]);
    }
    delete(&bundle);
}

#[test]
fn a_paused_container_is_refused() {
    let bundle = running();
    let freezer = cgroup_mounts().into_iter().find_map(|mount| {
        let path = mount.join(&bundle.id).join("freezer.state");
        path.exists().then_some((path.clone(), path, "FROZEN", "THAWED", "FROZEN"))
    });
    let unified = || {
        cgroup_mounts().into_iter().find_map(|mount| {
            let group = mount.join(&bundle.id);
            let (path, events) = (group.join("cgroup.freeze"), group.join("cgroup.events"));
            path.exists().then_some((path, events, "1", "0", "frozen 1"))
        })
    };
    let (path, told, freeze, thaw, frozen) = freezer.or_else(unified).unwrap();
    std::fs::write(&path, freeze).unwrap();
    let reached = within(Duration::from_secs(5), || {
        std::fs::read_to_string(&told).unwrap().contains(frozen).then_some(())
    });
    assert!(reached.is_some());
    let text = refused(&bundle, &[], &["true"]);
    assert!(text.contains("cannot exec in a paused container"), "{text}");
    // Or it waits until that is resumed.
    let mut child = bundle
        .command(&["exec", "--ignore-paused", &bundle.id, "sh", "-c", "exit 5"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(child.try_wait().unwrap(), None);
    std::fs::write(&path, thaw).unwrap();
    let status = within(Duration::from_secs(10), || child.try_wait().unwrap());
    assert_eq!(status.and_then(|status| status.code()), Some(5));
    delete(&bundle);
}

#[test]
fn processors_before_and_after_the_cgroup() {
    if !is_ours() {
        return; // runc 1.1 does not know it
    }
    let mut bundle = Bundle::new("sleep 600");
    bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
    bundle.must(&["run", "-d", &bundle.id]);
    let list = "grep Cpus_allowed_list /proc/self/status";
    // The container's own program is not meant.
    let own = shell(&bundle, &[], "grep Cpus_allowed_list /proc/1/status");
    assert_ne!(own, "Cpus_allowed_list:\t0\n");
    assert_eq!(shell(&bundle, &[], list), "Cpus_allowed_list:\t0\n");
    let path = process_file(&bundle, |process| {
        process["args"] = json!(["sh", "-c", list]);
        process["execCPUAffinity"] = json!({"final": "1"});
    });
    let output = exec(&bundle, &["-p", &path], &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Cpus_allowed_list:\t1\n");
    let path = process_file(&bundle, |process| {
        process["execCPUAffinity"] = json!({"final": "8191"});
    });
    assert!(refused(&bundle, &["-p", &path], &[]).contains("execCPUAffinity.final"));
    delete(&bundle);
}

#[test]
fn in_a_user_namespace() {
    let mut bundle = Bundle::new("sleep 600");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    std::os::unix::fs::chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
    for path in [bundle.beside().to_owned(), bundle.path()] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    bundle.must(&["run", "-d", &bundle.id]);
    let text = shell(
        &bundle,
        &["-u", "33"],
        "id -u; [ /proc/1/ns/user -ef /proc/self/ns/user ]; cat /proc/self/uid_map",
    );
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["33", "0", "100000", "65536"]);
    delete(&bundle);
}

/// A container that has no mount namespace only has another root directory.
#[test]
fn without_a_mount_namespace_the_root_is_the_containers() {
    if !is_ours() {
        return; // runc 1.1 enters the host's root
    }
    let mut bundle = Bundle::new("sleep 600");
    for name in ["/mounts", "/linux/maskedPaths", "/linux/readonlyPaths"] {
        bundle.set(name, json!([]));
    }
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "mount");
    std::fs::write(bundle.root().join("inside"), "").unwrap();
    bundle.must(&["run", "-d", &bundle.id]);
    shell(&bundle, &[], "[ -e /inside ] && [ ! -e /home ] && pwd");
    delete(&bundle);
}

/// Without a pid namespace the end of the init ends nobody else: what enters meanwhile is killed by
/// the deletion, or does not enter.
#[test]
fn what_enters_while_the_container_is_deleted_does_not_stay() {
    if !is_ours() {
        return; // more than runc promises
    }
    for delay in 0..8 {
        let mut bundle = Bundle::new("sleep 600");
        bundle.config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != "pid");
        bundle.must(&["run", "-d", &bundle.id]);
        let mut children = [0; 3].map(|_| {
            let words = ["exec", bundle.id.as_str(), "sleep", "600"];
            bundle.command(&words).stderr(Stdio::null()).spawn().unwrap()
        });
        // Every round catches them at another step.
        std::thread::sleep(Duration::from_millis(delay * 3));
        delete(&bundle);
        for child in &mut children {
            let status = within(Duration::from_secs(10), || child.try_wait().unwrap());
            assert!(
                matches!(status.and_then(|status| status.code()), Some(137 | 255)),
                "{status:?}"
            );
        }
    }
}

/// The runtime may enter it, even if the process that it makes may not.
#[test]
fn a_working_directory_may_be_closed_to_the_process() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bundle = Bundle::new("exec sleep 100");
    let home = bundle.root().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&home, Some(33), Some(33)).unwrap();
    bundle
        .set("/process/cwd", json!("/home"))
        .set("/process/user", json!({"uid": 33, "gid": 33}))
        .set("/process/capabilities", json!({}));
    bundle.must(&["run", "-d", &bundle.id]);
    assert_eq!(
        shell(&bundle, &["-u", "0"], "echo $PWD; ls . 2>/dev/null || echo closed"),
        "/home\nclosed\n"
    );
    delete(&bundle);
}
