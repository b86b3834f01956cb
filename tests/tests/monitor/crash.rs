//! SIGKILL: no container, no byte and no exit code is lost.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::monitor::{Call, Create, Fact, MonitorRecord, Status, VERSION};
use tests::monitor::{Client, Task, end_process, eventually, lives, process};

/// Lines on both streams with pauses, then exit code 3.
const WRITER: &str = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo out $i; echo err $i >&2; \
                      [ $((i % 10)) = 0 ] && sleep 0.005; done; exit 3";

fn lines(stream: &str) -> Vec<u8> {
    (1..=3000).map(|n| format!("{stream} {n}\n")).collect::<String>().into_bytes()
}

fn assert_whole(task: &Task, container: &str) -> Result<()> {
    let output = task.output(container)?;
    ensure!(output.stdout == lines("out"), "stdout differs: {} bytes", output.stdout.len());
    ensure!(output.stderr == lines("err"), "stderr differs: {} bytes", output.stderr.len());
    ensure!(!output.gap, "a gap");
    Ok(())
}

/// Not a measure of randomness; just unlike from kill to kill and from run to run.
fn jitter(most: u64) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Duration::from_micros(u64::from(now.map_or(0, |now| now.subsec_nanos())) % most)
}

/// The record after a new worker has taken over.
fn successor(task: &Task, before: MonitorRecord) -> Result<MonitorRecord> {
    eventually("another worker", || {
        task.record().ok().filter(|record| record.worker != before.worker && lives(record.worker))
    })
}

/// Connects and says hello, as often as it takes: a worker may be killed meanwhile.
fn reach(task: &Task) -> Result<Client> {
    eventually("a worker that answers", || {
        let mut client = task.connect().ok()?;
        client.call(&Call::Hello { version: VERSION }).ok()?;
        Some(client)
    })
}

#[test]
fn killed_workers_lose_no_byte_and_no_exit() -> Result<()> {
    let task = Task::started()?;
    reach(&task)?.run(&task.script("web", WRITER)?)?;
    let mut record = task.record()?;
    let mut kills = 0;
    while task.exits().is_empty() && kills < 60 {
        std::thread::sleep(jitter(60_000));
        end_process(record.worker);
        kills += 1;
        record = successor(&task, record)?;
    }
    assert!(kills >= 20, "only {kills} kills before the end");
    let exit = task.exit_of("web")?;
    assert_eq!((exit.code, exit.signal), (Some(3), None));
    assert_whole(&task, "web")?;
    assert_eq!(task.exits().len(), 1);
    let mut client = reach(&task)?;
    let stopped = client.stopped("web")?;
    assert_eq!(stopped.exit, Some(exit));
    client.call(&Call::Delete { container: "web".into() })?;
    client.call(&Call::Shutdown)?;
    Ok(())
}

#[test]
fn a_terminal_survives_the_worker() -> Result<()> {
    let task = Task::started()?;
    let create = task.bundle("web", "read x; echo still here; exit 6", |config| {
        config["process"]["terminal"] = true.into();
    })?;
    let mut client = reach(&task)?;
    client.run(&create)?;
    let before = task.record()?;
    end_process(before.worker);
    successor(&task, before)?;
    let mut client = reach(&task)?;
    let Fact::State { containers, sequence } = client.call(&Call::Subscribe)? else {
        anyhow::bail!("no state");
    };
    assert_eq!(containers[0].status, Status::Running);
    assert!(sequence >= 1 << 32, "a new worker's numbers are higher");
    client.call(&Call::Resize { container: "web".into(), exec: None, rows: 5, columns: 6 })?;
    client.call(&Call::Kill { container: "web".into(), signal: 9, all: false })?;
    assert_eq!(client.stopped("web")?.exit.and_then(|exit| exit.code), Some(137));
    Ok(())
}

#[test]
fn a_killed_guardian_is_not_missed() -> Result<()> {
    let task = Task::started()?;
    let mut client = reach(&task)?;
    client.run(&task.script("web", WRITER)?)?;
    let record = task.record()?;
    end_process(record.guardian);
    eventually("the worker's note", || task.record().ok().filter(|record| record.guardian_lost))?;
    assert_eq!(client.stopped("web")?.exit.and_then(|exit| exit.code), Some(3));
    assert!(lives(record.worker));
    assert_whole(&task, "web")?;
    client.call(&Call::Delete { container: "web".into() })?;
    client.call(&Call::Shutdown)?;
    eventually("the worker's end", || (!lives(record.worker)).then_some(()))?;
    Ok(())
}

fn kill_both(task: &Task) -> Result<()> {
    let record = task.record()?;
    end_process(record.guardian);
    eventually("the guardian's end", || (!lives(record.guardian)).then_some(()))?;
    // Without a guardian nobody follows it.
    end_process(record.worker);
    eventually("the worker's end", || (!lives(record.worker)).then_some(()))?;
    Ok(())
}

/// Gone, or a zombie.
fn stopped_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn both_die_and_a_new_monitor_adopts() -> Result<()> {
    let mut task = Task::new()?;
    task.options = vec!["--new-network".to_owned()];
    task.start(&[])?;
    let mut client = reach(&task)?;
    let facts = client.run(&task.script("web", WRITER)?)?;
    let short_pid = client.run(&task.script("short", "sleep 0.3; exit 5")?)?.pid;
    let network = std::fs::read_link(format!("/proc/{}/ns/net", facts.pid.context("a pid")?))?;
    let dead = task.record()?;
    kill_both(&task)?;
    assert!(client.receive().is_err(), "the connection ends with the worker");
    // "short" ends while nobody is there.
    let pid = short_pid.context("a pid")?;
    eventually("the end of \"short\"", || stopped_running(pid).then_some(()))?;
    task.start(&["--adopt"])?;
    let record = eventually("the adopter", || {
        task.record().ok().filter(|record| record.worker != dead.worker)
    })?;
    let mut client = reach(&task)?;
    assert_eq!(network, std::fs::read_link(format!("/proc/{}/ns/net", record.guardian.pid))?);
    let exit = client.stopped("short")?.exit.context("an exit")?;
    // Unknown, unless its zombie was still there to be asked.
    ensure!(exit.signal.is_none() && exit.code.is_none_or(|code| code == 5), "{exit:?}");
    let exit = client.stopped("web")?.exit.context("an exit")?;
    // The kernel tells from 6.15 on.
    ensure!(exit.code == Some(3) || exit.code.is_none(), "{exit:?}");
    let told = task.exit_of("web")?;
    assert_eq!(told, exit);
    assert_whole(&task, "web")?;
    for container in ["web", "short"] {
        client.call(&Call::Delete { container: container.into() })?;
    }
    client.call(&Call::Shutdown)?;
    Ok(())
}

#[test]
fn an_exec_goes_on_and_its_end_is_told_by_the_next_worker() -> Result<()> {
    let task = Task::started()?;
    let mut client = reach(&task)?;
    client.run(&task.script("web", "sleep 1000")?)?;
    let (read, write) = nix::unistd::pipe()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let exec = process("web", "job", "read x; exit 8", false);
    let input = File::from(read);
    let (pid, _) = client.exec(&exec, &[&input, &null, &null])?;
    let before = task.record()?;
    end_process(before.worker);
    successor(&task, before)?;
    let mut client = reach(&task)?;
    assert_eq!(client.exec(&exec, &[&input, &null, &null])?.0, pid);
    nix::unistd::write(&write, b"\n")?;
    let exit = client.exec_exit("job")?;
    assert_eq!((exit.code, exit.signal), (Some(8), None));
    // And by the one after that.
    let before = task.record()?;
    end_process(before.worker);
    successor(&task, before)?;
    let mut client = reach(&task)?;
    client.exec(&exec, &[&input, &null, &null])?;
    assert_eq!(client.exec_exit("job")?, exit);
    Ok(())
}

/// Children of a process that have ended and were not reaped.
fn zombies_of(parent: i32) -> usize {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| {
            let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            fields.starts_with(&format!("Z {parent} "))
        })
        .count()
}

#[test]
fn orphans_are_reaped_and_the_exit_is_kept() -> Result<()> {
    let task = Task::started()?;
    let mut client = reach(&task)?;
    // Without a pid namespace of its own a container's orphans come to the monitor.
    let script = "for i in 1 2 3 4 5; do (sleep 0.$i &); done; sleep 0.8; exit 2";
    let create = task.bundle("web", script, |config| {
        config["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}]);
    })?;
    client.run(&create)?;
    let before = task.record()?;
    std::thread::sleep(jitter(300_000));
    end_process(before.worker);
    let record = successor(&task, before)?;
    assert_eq!(task.exit_of("web")?.code, Some(2));
    eventually("no zombies", || {
        let left = zombies_of(record.guardian.pid) + zombies_of(record.worker.pid);
        (left == 0).then_some(())
    })?;
    Ok(())
}

/// Fail points on the way of one container through its life, in order.
const POINTS: [&str; 17] = [
    "create-record",
    "create-mount",
    "create-stdio",
    "create-runtime",
    "create-done",
    "start-before",
    "start-runtime",
    "start-done",
    "spool-entry",
    "spool-data",
    "spool-roll",
    "exit-seen",
    "exit-drained",
    "exit-recorded",
    "exit-reaped",
    "delete-runtime",
    "delete-mount",
];

/// Repeats a call on new connections until it is answered.
fn insist(task: &Task, call: &Call) -> Result<Fact> {
    eventually(&format!("an answer to {call:?}"), || reach(task).ok()?.call(call).ok())
}

fn whole_life(task: &Task, create: &Create) -> Result<()> {
    let name = create.container.clone();
    insist(task, &Call::Create(create.clone()))?;
    insist(task, &Call::Start { container: name.clone() })?;
    let exit = task.exit_of(&name)?;
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    insist(task, &Call::Delete { container: name.clone() })?;
    assert_eq!(task.exits().iter().filter(|record| record.container == name).count(), 1);
    let wanted: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    let output = task.output(&name)?;
    assert_eq!(output.text(), wanted);
    assert_eq!(output.stderr, b"end\n");
    Ok(())
}

/// Needs a runtime built with the feature `failpoints`; without it nothing fires, and the scenario
/// runs as it does uninterrupted.
#[test]
fn a_kill_at_every_point_has_the_same_outcome() -> Result<()> {
    let mut fired = 0;
    for point in POINTS {
        for hit in 1..4 {
            let mut task = Task::new()?;
            let once = task.task().join("fired");
            task.environment = vec![
                ("LIGHTER_FAILPOINT".to_owned(), format!("{point}:{hit}")),
                ("LIGHTER_FAILPOINT_ONCE".to_owned(), once.display().to_string()),
            ];
            task.start(&[])?;
            let mut create = task.script("web", "seq 1 20000; echo end >&2; exit 7")?;
            // Small segments, so that they roll; a limit that is not reached.
            create.spool_limit = 256 << 10;
            whole_life(&task, &create).with_context(|| format!("killed at {point}, hit {hit}"))?;
            insist(&task, &Call::Hello { version: VERSION })?;
            let mut client = reach(&task)?;
            client
                .call(&Call::Shutdown)
                .with_context(|| format!("killed at {point}, hit {hit}"))?;
            eventually("the guardian's end", || task.monitor_exit().ok().flatten())?;
            if !once.exists() {
                break;
            }
            fired += 1;
        }
    }
    if std::env::var_os("LIGHTER_FAILPOINTS").is_some() {
        assert!(fired >= POINTS.len(), "only {fired} kills at {} points", POINTS.len());
    }
    Ok(())
}

/// Fail points on the way to a user namespace, in the guardian.
const USER_POINTS: [&str; 4] = ["user-clone", "user-maps", "user-name", "user-mount"];
/// Those on the way to a root of layers with its ids, in the worker.
const LAYER_POINTS: [&str; 2] = ["layer-attach", "overlay-mount"];

/// Whether a process of this host has a user namespace with these ids.
fn has_holder(first: u32) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let maps =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("uid_map")).ok());
    let first = first.to_string();
    maps.into_iter().any(|map| map.split_ascii_whitespace().nth(1) == Some(&first))
}

/// What is mounted below the task's directory, in any mount namespace.
fn mounts_of(task: &Task) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let tables =
        processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("mountinfo")).ok());
    let below = task.task().display().to_string();
    tables
        .flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
        .filter(|mounted| mounted.starts_with(&below))
        .collect()
}

/// A task with a user namespace of ids from `first` on, whose monitor is killed at `point`; and a
/// container of it, of several layers.
fn mapped(first: u32, point: &str) -> Result<(Task, Create)> {
    let mut task = Task::new()?;
    let ranges = format!(r#"[{{"inside":0,"outside":{first},"size":65536}}]"#);
    task.options = vec![
        "--new-network".to_owned(),
        "--user-namespace".to_owned(),
        format!(r#"{{"uids":{ranges},"gids":{ranges}}}"#),
    ];
    task.environment = vec![
        ("LIGHTER_FAILPOINT".to_owned(), point.to_owned()),
        ("LIGHTER_FAILPOINT_ONCE".to_owned(), task.task().join("fired").display().to_string()),
    ];
    let user = task.run().join("user");
    let mut create =
        task.bundle("web", "seq 1 20000; echo end >&2; exit $((7 * !$(id -u)))", |config| {
            if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
                namespaces.push(serde_json::json!({"type": "user", "path": user}));
            }
        })?;
    let overlay = create.overlay.as_mut().context("an overlay")?;
    for further in ["second", "third"] {
        let layer = task.task().join(further);
        std::fs::create_dir(&layer)?;
        overlay.lower.push(layer);
    }
    Ok((task, create))
}

/// Needs the feature `failpoints`, as above.
#[test]
fn a_kill_while_ids_are_mapped_leaves_nothing() -> Result<()> {
    if std::env::var_os("LIGHTER_FAILPOINTS").is_none() {
        return Ok(());
    }
    // Ids that no other test has.
    let first = 1_000_000_000 + std::process::id();
    for point in USER_POINTS {
        let (mut task, create) = mapped(first, &format!("{point}:1"))?;
        task.start(&[])?;
        eventually("the guardian's end", || task.monitor_exit().ok().flatten())?;
        assert!(task.task().join("fired").exists(), "{point}");
        eventually(&format!("nobody holds a namespace made before {point}"), || {
            (!has_holder(first)).then_some(())
        })?;
        assert_eq!(mounts_of(&task), [""; 0], "{point}");
        task.start(&["--adopt"])?;
        end_of_a_mapped_life(task, &create, first).with_context(|| format!("killed at {point}"))?;
    }
    for point in LAYER_POINTS {
        for hit in 1..4 {
            let (mut task, create) = mapped(first, &format!("{point}:{hit}"))?;
            task.start(&[])?;
            let mut client = eventually("a monitor", || reach(&task).ok())?;
            let before = task.record()?;
            let created = client.call(&Call::Create(create.clone()));
            if !task.task().join("fired").exists() {
                created?;
                end_of_a_mapped_life(task, &create, first)?;
                break;
            }
            assert!(created.is_err(), "{point}");
            successor(&task, before)?;
            // Not the next creation alone takes them away: there may be none.
            assert_eq!(mounts_of(&task), [""; 0], "killed at {point}, hit {hit}");
            assert_eq!(std::fs::read_dir(task.run().join("containers"))?.count(), 0, "{point}");
            end_of_a_mapped_life(task, &create, first)
                .with_context(|| format!("killed at {point}, hit {hit}"))?;
        }
    }
    Ok(())
}

fn end_of_a_mapped_life(mut task: Task, create: &Create, first: u32) -> Result<()> {
    whole_life(&task, create)?;
    insist(&task, &Call::Shutdown)?;
    eventually("the guardian's end", || task.monitor_exit().ok().flatten())?;
    ensure!(!has_holder(first), "somebody has the namespace");
    ensure!(mounts_of(&task).is_empty(), "mounted: {:?}", mounts_of(&task));
    let groups = task.cgroups();
    let left = groups.iter().filter(|group| group.join("web").exists()).count();
    ensure!(left == 0, "{left} of {groups:?} have one for the container");
    Ok(())
}
