//! Requests, answers and events in the ordinary course.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};
use protocol::monitor::{
    Call, Change, Fact, FailureKind, MAX_DATAGRAM, Message, Outcome, Status, VERSION,
};
use tests::monitor::{Client, Task, eventually, lives, process};

fn start(container: &str) -> Call {
    Call::Start { container: container.to_owned() }
}

fn delete(container: &str) -> Call {
    Call::Delete { container: container.to_owned() }
}

fn kill(container: &str, signal: i32) -> Call {
    Call::Kill { container: container.to_owned(), signal, all: false }
}

#[test]
fn a_container_lives_and_every_request_may_be_repeated() -> Result<()> {
    let mut task = Task::started()?;
    let mut client = task.connect()?;
    let Fact::Hello { version, boot_id, guardian, worker } =
        client.call(&Call::Hello { version: VERSION })?
    else {
        bail!("no hello");
    };
    assert_eq!(version, VERSION);
    assert_eq!(boot_id, fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim());
    let record = task.record()?;
    assert_eq!((record.guardian, record.worker), (guardian, worker));
    assert!(lives(guardian) && lives(worker));

    let mut watcher = task.connect()?;
    let Fact::State { sequence, containers } = watcher.call(&Call::Subscribe)? else {
        bail!("no state");
    };
    assert!(containers.is_empty());

    let create = task.script("web", "echo out; echo err >&2; exit 7")?;
    let created = client.container(&Call::Create(create.clone()))?;
    assert_eq!((created.status, created.started_at, created.exit), (Status::Created, None, None));
    assert_eq!(client.container(&Call::Create(create.clone()))?, created);
    let failure = client.refused(&Call::Exec(process("web", "e", "true", false)));
    assert_eq!(failure?.kind, FailureKind::Invalid, "descriptors are missing");

    let mut other = create.clone();
    other.id = format!("{}-other", create.id);
    assert_eq!(client.refused(&Call::Create(other))?.kind, FailureKind::WrongState);

    let started = client.container(&start("web"))?;
    assert!(started.started_at.is_some());
    let stopped = client.stopped("web")?;
    let exit = stopped.exit.context("an exit")?;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (Some(7), None, false));
    assert_eq!(stopped.pid, None);
    assert_eq!(client.container(&start("web"))?, stopped);
    assert_eq!(client.container(&Call::Create(create.clone()))?, stopped);
    client.call(&kill("web", 15))?;
    assert_eq!(task.exit_of("web")?, exit);
    let output = task.output("web")?;
    assert_eq!((output.text().as_str(), &output.stderr[..]), ("out\n", &b"err\n"[..]));

    let mut statuses = Vec::new();
    let mut last = sequence;
    while statuses.last() != Some(&Status::Stopped) {
        let (sequence, change) = watcher.event()?;
        assert_eq!(sequence, last + 1);
        last = sequence;
        if let Change::Container(facts) = change {
            statuses.push(facts.status);
        }
    }
    assert_eq!(statuses, [Status::Created, Status::Running, Status::Stopped]);

    client.call(&delete("web"))?;
    client.call(&delete("web"))?;
    assert_eq!(client.container(&Call::Create(create))?.exit, Some(exit), "does not run twice");
    assert_eq!(client.container(&start("web"))?.exit, Some(exit));
    client.call(&Call::Shutdown)?;
    let status = eventually("the guardian's end", || task.monitor_exit().ok().flatten())?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn shutdown_leaves_nothing() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut task = Task::new()?;
    task.options = ["--new-network", "--cgroup", &format!("/lighter-test/{}/monitors", task.name)]
        .map(str::to_owned)
        .to_vec();
    task.start(&[])?;
    let mut client = task.connect()?;
    client.call(&Call::Hello { version: VERSION })?;
    let record = task.record()?;
    let network = fs::read_link(format!("/proc/{}/ns/net", record.guardian.pid))?;
    assert_ne!(network, fs::read_link("/proc/self/ns/net")?);
    assert_eq!(network, fs::read_link(format!("/proc/{}/ns/net", record.worker.pid))?);
    for id in [record.guardian, record.worker] {
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", id.pid))?;
        assert!(cgroups.lines().all(|line| line.ends_with("/monitors")), "{cgroups}");
        let descriptors = fs::read_dir(format!("/proc/{}/fd", id.pid))?.flatten();
        for descriptor in descriptors {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            assert!(!target.starts_with("/tmp/") || target.ends_with("monitor.log"), "{target:?}");
        }
    }
    client.run(&task.script("a", "sleep 1000")?)?;
    client.container(&Call::Create(task.script("b", "true")?))?;
    let failure = client.refused(&Call::Shutdown)?;
    assert_eq!(failure.kind, FailureKind::WrongState);
    assert!(failure.message.contains("a, b"), "{failure:?}");
    assert_eq!(client.refused(&delete("a"))?.kind, FailureKind::WrongState);
    client.call(&kill("a", 9))?;
    let stopped = client.stopped("a")?;
    let exit = stopped.exit.context("an exit")?;
    assert_eq!((exit.code, exit.signal), (Some(137), Some(9)));
    client.call(&delete("a"))?;
    client.call(&delete("b"))?;
    assert_eq!(task.exit_of("b")?.code, Some(137), "killed before its start");
    client.call(&Call::Shutdown)?;
    let status = eventually("the guardian's end", || task.monitor_exit().ok().flatten())?;
    assert!(status.success(), "{status}");
    eventually("the worker's end", || (!lives(record.worker)).then_some(()))?;
    let left: Vec<_> = fs::read_dir(task.run())?.flatten().map(|entry| entry.file_name()).collect();
    let mut left: Vec<_> = left.iter().filter_map(|name| name.to_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["monitor.log", "monitor.sock"]);
    assert_eq!(fs::read_to_string(task.run().join("monitor.log"))?, "");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo")?, mounts);
    for cgroup in task.cgroups() {
        let inside: Vec<_> = fs::read_dir(&cgroup)?
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(inside, ["monitors"], "{}", cgroup.display());
        assert_eq!(fs::read_to_string(cgroup.join("monitors/cgroup.procs"))?, "");
    }
    Ok(())
}

#[test]
fn what_is_malformed_is_refused_and_the_monitor_goes_on() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let null = File::open("/dev/null")?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&null);
    let too_long = vec![b' '; MAX_DATAGRAM + 1];
    let deep = [&b"["[..]; 20_000].concat();
    for (bytes, descriptors, id, kind) in [
        (&b"{"[..], 0, 0, FailureKind::Invalid),
        (&b"\xff\xfe\0"[..], 0, 0, FailureKind::Invalid),
        (&too_long[..], 0, 0, FailureKind::Invalid),
        (&deep[..], 0, 0, FailureKind::Invalid),
        (br#"{"id":3,"call":{"kind":"fly"}}"#, 0, 3, FailureKind::Unsupported),
        (br#"{"id":4,"call":{"kind":"start"}}"#, 0, 4, FailureKind::Invalid),
        (br#"{"id":5,"call":{"kind":"subscribe"}}"#, 1, 5, FailureKind::Invalid),
        (br#"{"id":6,"call":{"kind":"subscribe"}}"#, 9, 6, FailureKind::Invalid),
        (br#"{"id":7,"call":{"kind":"kill","container":"x","signal":9,"all":false}}"#, 0, 7, FailureKind::NotFound),
        (br#"{"id":8,"call":{"kind":"exec","container":"x","exec":"e","process":{"terminal":true}}}"#, 0, 8, FailureKind::NotFound),
        (br#"{"id":9,"call":{"kind":"exec","container":"x","exec":"../e","process":{"terminal":true}}}"#, 0, 9, FailureKind::Invalid),
    ] {
        client.send_raw(bytes, &vec![number; descriptors])?;
        match client.receive()?.0 {
            Message::Answer { id: got, result: Outcome::Failed(failure) } => {
                assert_eq!((got, failure.kind), (id, kind), "{failure:?}");
            }
            other => bail!("{:?} was answered with {other:?}", String::from_utf8_lossy(bytes)),
        }
    }
    for name in ["", "..", "a/b", ".hidden"] {
        let mut create = task.script("good", "true")?;
        create.container = name.to_owned();
        assert_eq!(client.refused(&Call::Create(create))?.kind, FailureKind::Invalid, "{name:?}");
    }
    // What cannot be created leaves nothing.
    let mut create = task.script("good", "true")?;
    create.bundle = task.task().join("nowhere");
    let failure = client.refused(&Call::Create(create))?;
    assert!(failure.message.contains("nowhere/config.json"), "{failure:?}");
    assert_eq!(fs::read_dir(task.run().join("containers"))?.count(), 0);
    assert_eq!(fs::read_dir(task.run().join("state"))?.count(), 0);
    client.run(&task.script("good", "true")?)?;
    client.stopped("good")?;
    Ok(())
}

#[test]
fn a_program_that_does_not_exist_is_told_apart_and_can_be_deleted() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let create = task
        .bundle("web", "", |config| config["process"]["args"] = serde_json::json!(["/no/such"]))?;
    // Where the runtime looks before the start, creation fails; else the start does.
    let call = Call::Create(create);
    let id = client.send(&call, &[])?;
    let failure = match client.answer(id)?.0 {
        Outcome::Failed(failure) => failure,
        Outcome::Done(_) => client.refused(&start("web"))?,
    };
    assert_eq!(failure.kind, FailureKind::CommandNotFound, "{failure:?}");
    client.call(&kill("web", 9)).ok();
    eventually("deletion", || client.call(&delete("web")).ok())?;
    client.call(&Call::Shutdown)?;
    Ok(())
}

#[test]
fn exec_takes_cpus_and_a_scheduler_of_its_own() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    client.run(&task.script("web", "sleep 1000")?)?;
    let path = task.task().join("exec-output");
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let last = online.trim().rsplit(['-', ',']).next().unwrap_or("0").to_owned();
    let mut cpus = |name: &str, affinity: serde_json::Value| -> Result<String> {
        let (input, output) = (File::open("/dev/null")?, File::create(&path)?);
        let script = "while read key value; do case $key in Cpus_allowed_list:) echo $value;; \
                      esac; done < /proc/self/status; read line < /proc/self/stat; \
                      set -- $line; echo ${19}";
        let mut exec = process("web", name, script, false);
        exec.process["execCPUAffinity"] = affinity;
        exec.process["scheduler"] = serde_json::json!({"policy": "SCHED_BATCH", "nice": 6});
        client.exec(&exec, &[&input, &output, &output])?;
        client.exec_exit(name).context("its end")?;
        Ok(fs::read_to_string(&path)?)
    };
    let whole = format!("{}\n6\n", online.trim());
    let only = |cpu: &str| format!("{cpu}\n6\n");
    assert_eq!(cpus("none", serde_json::json!({}))?, whole);
    assert_eq!(cpus("final", serde_json::json!({"initial": "0", "final": last}))?, only(&last));
    // What was set initially ends with the move into the container's cgroup.
    assert_eq!(cpus("initial", serde_json::json!({"initial": last}))?, whole);
    Ok(())
}

/// The agent of a seccomp filter gets a listener for every process, with its own number.
#[test]
fn exec_tells_the_seccomp_agent() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let path = task.task().join("agent");
    let agent = std::os::unix::net::UnixListener::bind(&path)?;
    let next = || -> Result<serde_json::Value> {
        let (mut stream, _) = agent.accept()?;
        let mut text = String::new();
        // The descriptor beside it is closed: what is asked fails with ENOSYS.
        stream.read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    };
    client.run(&task.bundle("web", "sleep 1000", |config| {
        config["linux"]["seccomp"] = serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
    })?)?;
    let first = next()?;
    let (input, output) = (File::open("/dev/null")?, File::create(task.task().join("out"))?);
    let exec = process("web", "one", "mkdir /x; exit $?", false);
    let (pid, _) = client.exec(&exec, &[&input, &output, &output])?;
    let second = next()?;
    assert_eq!(client.exec_exit("one").context("its end")?.code, Some(1));
    assert_eq!(
        (&first["state"]["status"], &first["pid"]),
        (&"creating".into(), &first["state"]["pid"])
    );
    assert_eq!((&second["state"]["status"], &second["pid"]), (&"running".into(), &pid.into()));
    assert_eq!(second["state"]["pid"], first["pid"]);
    Ok(())
}

#[test]
fn exec_with_descriptors_and_with_a_terminal() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    client.run(&task.script("web", "sleep 1000")?)?;
    let path = task.task().join("exec-output");
    let (input, output) = (File::open("/dev/null")?, File::create(&path)?);
    let exec = process("web", "one", "echo hello; echo oops >&2; exit 9", false);
    let (pid, terminal) = client.exec(&exec, &[&input, &output, &output])?;
    assert!(terminal.is_none());
    let exit = client.exec_exit("one").context("the end of one")?;
    assert_eq!((exit.code, exit.signal), (Some(9), None));
    assert_eq!(fs::read_to_string(&path)?, "hello\noops\n");
    // A repetition runs nothing and tells the end again.
    assert_eq!(client.exec(&exec, &[&input, &output, &output])?.0, pid);
    assert_eq!(client.exec_exit("one")?, exit);
    assert_eq!(fs::read_to_string(&path)?, "hello\noops\n");

    let exec = process("web", "two", "stty size; read line; echo got $line; exit 3", true);
    let (_, terminal) = client.exec(&exec, &[])?;
    let mut terminal = File::from(terminal.context("a terminal")?);
    let resize =
        Call::Resize { container: "web".into(), exec: Some("two".into()), rows: 33, columns: 99 };
    client.call(&resize)?;
    terminal.write_all(b"some words\n")?;
    let exit = client.exec_exit("two").context("the end of two")?;
    assert_eq!(exit.code, Some(3));
    let mut text = Vec::new();
    // EIO ends a terminal.
    let _ = terminal.read_to_end(&mut text);
    assert!(String::from_utf8_lossy(&text).contains("got some words"), "{text:?}");

    // A session hangs up when its user is gone; whoever subscribed before hears of it.
    client.call(&Call::Subscribe)?;
    let mut leaver = task.connect()?;
    let (pid, terminal) = leaver.exec(&process("web", "three", "sleep 1000", true), &[])?;
    drop((terminal, leaver));
    let exit = client.exec_exit("three").context("the end of three")?;
    assert_eq!(exit.signal, Some(1), "pid {pid}");

    let failure = client.refused(&Call::Exec(process("nobody", "x", "true", true)))?;
    assert_eq!(failure.kind, FailureKind::NotFound);
    client.call(&kill("web", 9))?;
    client.stopped("web")?;
    let failure = client.refused(&Call::Exec(process("web", "x", "true", true)))?;
    assert_eq!(failure.kind, FailureKind::WrongState);
    Ok(())
}

#[test]
fn stdin_arrives_through_the_fifo() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let mut create = task.script("web", "read line; echo got $line")?;
    create.stdin = true;
    client.run(&create)?;
    let fifo = task.run().join("containers/web/stdin");
    OpenOptions::new().write(true).open(fifo)?.write_all(b"bread\n")?;
    assert_eq!(client.stopped("web")?.exit.and_then(|exit| exit.code), Some(0));
    assert_eq!(task.output("web")?.text(), "got bread\n");
    Ok(())
}

#[test]
fn a_container_has_a_terminal_with_a_size() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let create = task.bundle(
        "web",
        "while [ \"$(stty size 2>/dev/null)\" != '40 120' ]; do sleep 0.01; done; echo fits; exit 4",
        |config| {
            config["process"]["terminal"] = true.into();
        },
    )?;
    client.run(&create)?;
    let resize = Call::Resize { container: "web".into(), exec: None, rows: 40, columns: 120 };
    client.call(&resize)?;
    assert_eq!(client.stopped("web")?.exit.and_then(|exit| exit.code), Some(4));
    assert_eq!(task.output("web")?.text().trim_end(), "fits");
    let failure = client.refused(&Call::Resize {
        container: "no".into(),
        exec: None,
        rows: 1,
        columns: 1,
    })?;
    assert_eq!(failure.kind, FailureKind::NotFound);
    Ok(())
}

#[test]
fn another_user_can_open_its_own_stdout_again() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    let create = task.bundle("web", "echo again > /proc/self/fd/1", |config| {
        config["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    })?;
    client.run(&create)?;
    assert_eq!(client.stopped("web")?.exit.and_then(|exit| exit.code), Some(0));
    assert_eq!(task.output("web")?.text(), "again\n");
    Ok(())
}

#[test]
fn the_oom_killer_is_noted() -> Result<()> {
    let task = Task::started()?;
    let mut client = task.connect()?;
    // The shell lives: the kernel kills what eats, and the flag is the cgroup's.
    let create = task.bundle("web", "x=x; while true; do x=$x$x; done", |config| {
        config["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
    })?;
    client.run(&create)?;
    let exit = client.stopped("web")?.exit.context("an exit")?;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (Some(137), Some(9), true));
    client.call(&delete("web"))?;
    Ok(())
}

#[test]
fn a_client_that_does_not_read_delays_nobody() -> Result<()> {
    let task = Task::started()?;
    let mut sleeper = task.connect()?;
    let mut client = task.connect()?;
    sleeper.send(&Call::Subscribe, &[])?;
    client.run(&task.script("web", "sleep 1000")?)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // Each leaves an event; the sleeper's socket and outbox hold fewer.
    for number in 0..400 {
        let exec = process("web", &format!("e{number}"), "exit 0", false);
        client.exec(&exec, &[&null, &null, &null])?;
        client.exec_exit(&format!("e{number}"))?;
    }
    let gone = eventually("the sleeper's disconnection", || {
        loop {
            match sleeper.receive() {
                Ok(_) => {}
                Err(_) => return Some(()),
            }
        }
    });
    gone?;
    let mut again: Client = task.connect()?;
    ensure!(matches!(again.call(&Call::Subscribe)?, Fact::State { .. }));
    Ok(())
}

#[test]
fn a_second_monitor_is_refused() -> Result<()> {
    let mut task = Task::started()?;
    task.connect()?.call(&Call::Hello { version: VERSION })?;
    let first = task.record()?;
    task.start(&["--adopt"])?;
    let status = eventually("the second monitor's end", || task.monitor_exit().ok().flatten())?;
    assert!(!status.success());
    assert_eq!(task.record()?, first);
    task.connect()?.call(&Call::Shutdown)?;
    eventually("the first monitor's end", || (!lives(first.guardian)).then_some(()))?;
    Ok(())
}
