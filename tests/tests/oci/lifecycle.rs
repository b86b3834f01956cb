//! What is done to a container that runs: further processes, signals, pause, restart, removal.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Procedure;
use super::caller::{Caller, Container, Kind, Outcome, PATIENCE, absolute_runtime, read, within};

pub(super) const PROCEDURES: &[(&str, Procedure)] = &[
    ("exec: output and exit code", |caller| Some(exec_output(caller))),
    ("exec: in the container's namespaces and cgroups", |caller| Some(exec_inside(caller))),
    ("exec: user", |caller| Some(exec_user(caller))),
    ("exec: environment and directory", |caller| engine(caller).map(exec_environment)),
    ("exec: capabilities and privileges", |caller| engine(caller).map(exec_privileged)),
    ("exec: input", |caller| Some(exec_input(caller))),
    ("exec: eight at once", |caller| Some(exec_at_once(caller))),
    ("exec: detached", |caller| Some(exec_detached(caller))),
    ("exec: program that cannot be run", |caller| Some(exec_missing(caller))),
    ("kill: the signal arrives", |caller| Some(kill_delivers(caller))),
    ("kill: KILL ends with 137", |caller| Some(kill_kills(caller))),
    ("stop: TERM ends with 143", |caller| engine(caller).map(stop_terminates)),
    ("stop: KILL after the time", |caller| engine(caller).map(stop_kills)),
    ("stop: a signal of one's own choice", |caller| engine(caller).map(stop_signal)),
    ("kill: what it started among the host's processes", |caller| Some(kills_all(caller))),
    ("pause and unpause", |caller| Some(pause_freezes(caller))),
    ("removal while it runs, while it is paused", |caller| Some(removes(caller))),
    ("restart", |caller| engine(caller).map(restarts)),
    ("restart by policy", |caller| engine(caller).map(restart_policy)),
    ("logs, both streams", |caller| Some(logs(caller))),
    ("attach: input and output", |caller| engine(caller).map(attach)),
    ("input of a container in the foreground", |caller| Some(input(caller))),
    ("top", |caller| Some(top(caller))),
    ("processes shared with another container", |caller| Some(shares_pids(caller))),
    ("network shared with another container", |caller| engine(caller).map(shares_network)),
    ("health checks", |caller| engine(caller).map(healthy)),
    ("files copied out and in", |caller| engine(caller).map(copies)),
    ("an init that reaps", |caller| engine(caller).map(init_reaps)),
    ("privileged", |caller| whole(caller).map(privileged)),
    ("mounts that the host makes later", |caller| Some(receives_mounts(caller))),
    ("parent cgroup", |caller| Some(has_parent_cgroup(caller))),
    ("hooks", |caller| (caller.kind == Kind::Podman).then(|| hooks(caller))),
    ("descriptors handed on", |caller| hands_on_descriptors(caller)),
    ("what the engine makes of --version", |caller| engine(caller).map(version)),
    ("what is written to a volume", |caller| Some(writes_volume(caller))),
];

/// The last of all.
pub(super) const NOTHING_IS_LEFT: (&str, Procedure) =
    ("nothing is left", |caller| Some(leaves_nothing(caller)));

/// Podman and Docker have verbs that `ctr` does not.
pub(super) fn engine(caller: &Caller) -> Option<&Caller> {
    (caller.kind != Kind::Containerd).then_some(caller)
}

/// All capabilities that the kernel knows are what these two ask for, and the test's root may lack
/// some.
fn whole(caller: &Caller) -> Option<&Caller> {
    let script = "sed -n 's/^CapBnd:.//p' /proc/self/status; cat /proc/sys/kernel/cap_last_cap";
    let text = caller.world.host.sh(script);
    let (bounding, last) = text.split_once('\n')?;
    let bounding = u64::from_str_radix(bounding, 16).ok()?;
    let all = (1 << (last.parse::<u32>().ok()? + 1)) - 1;
    (bounding == all || caller.kind == Kind::Podman).then_some(caller)
}

/// Its end is a signal's that it takes.
const SLEEP: &str = "trap 'exit 143' TERM; while :; do sleep 0.02; done";

fn ended(outcome: &Outcome, code: i32, word: &str) -> Result<()> {
    let text = format!("{}{}", outcome.out, outcome.err);
    ensure!(outcome.code == code && text.contains(word), "not {code} and {word:?}: {outcome:?}");
    Ok(())
}

fn exec_output(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let outcome = container.exec("", &["sh", "-c", "echo out; echo err >&2; exit 5"]);
    ended(&outcome, 5, "out\n")?;
    ensure!(outcome.out == "out\n" && outcome.err.contains("err"), "{outcome:?}");
    ended(&container.exec("", &["sh", "-c", "kill -9 $$"]), 137, "")
}

fn exec_inside(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let look = "for n in mnt pid ipc uts net cgroup; do readlink /proc/$0/ns/$n; done; cat /proc/$0/cgroup; grep -E '^(Cap|Secc|NoNew)' /proc/$0/status";
    let [own, first] =
        ["self", "1"].map(|process| container.exec("", &["sh", "-c", look, process]));
    let (own, first) = (own.ok()?, first.ok()?);
    ensure!(own == first && own.len() > 100, "{own}\nbut the first process\n{first}");
    let outside = caller.world.host.sh(&format!("cat /proc/{}/cgroup", container.pid()?));
    ensure!(own.contains(outside.trim()), "{own}\nbut from outside\n{outside}");
    Ok(())
}

fn exec_user(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let id =
        container.exec("--user 7:8", &["sh", "-c", "id -u; id -g; grep CapEff /proc/self/status"]);
    let id = id.ok()?;
    ensure!(id.starts_with("7\n8\n") && id.ends_with("\t0000000000000000"), "{id}");
    if caller.kind != Kind::Containerd {
        let id = container.exec("--user web", &["sh", "-c", "id -un; id -G"]).ok()?;
        ensure!(id == "web\n1000 77", "{id}");
    }
    Ok(())
}

fn exec_environment(caller: &Caller) -> Result<()> {
    let container = caller.script("-e A=of-container", SLEEP)?;
    let shown = container.exec("-e B=of-exec -w /tmp", &["sh", "-c", "echo $A $B; pwd"]).ok()?;
    ensure!(shown == "of-container of-exec\n/tmp", "{shown}");
    Ok(())
}

fn exec_privileged(caller: &Caller) -> Result<()> {
    let container = caller.script("--cap-drop ALL", SLEEP)?;
    let caps = ["grep", "CapEff", "/proc/self/status"];
    let plain = container.exec("", &caps).ok()?;
    ensure!(plain.ends_with("\t0000000000000000"), "{plain}");
    // A host may keep capabilities from its root; what is asked for is then refused, or cut.
    let privileged = container.exec("--privileged", &["sh", "-c", "grep CapEff /proc/self/status"]);
    ensure!(
        privileged.code != 0 || !privileged.out.contains("\t0000000000000000"),
        "{privileged:?}"
    );
    Ok(())
}

fn exec_input(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let exec_id = caller.name();
    let words: Vec<&str> = match caller.kind {
        Kind::Containerd => vec!["task", "exec", "--exec-id", &exec_id, &container.name, "cat"],
        _ => vec!["exec", "-i", &container.name, "cat"],
    };
    ended(&caller.call_with(&words, "typed\n"), 0, "typed\n")
}

fn exec_at_once(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let client = |number: i32| {
        let exec_id = caller.name();
        let mut words = match caller.kind {
            Kind::Containerd => vec!["task", "exec", "--exec-id", &exec_id],
            _ => vec!["exec"],
        };
        let script = format!("echo x >>/tmp/all; exit {number}");
        words.extend([container.name.as_str(), "sh", "-c", &script]);
        let mut command = caller.command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    let clients: Vec<_> = (1..=8).map(client).collect::<Result<_, _>>()?;
    for (mut client, number) in clients.into_iter().zip(1..) {
        let code = client.wait()?.code();
        ensure!(code == Some(number), "{code:?} rather than {number}");
    }
    let all = container.exec("", &["grep", "-c", "x", "/tmp/all"]).ok()?;
    ensure!(all == "8", "{all} of 8 ran");
    Ok(())
}

fn exec_detached(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    container.exec("-d", &["sh", "-c", "echo $PPID >/tmp/mark; exec sleep 100"]).ok()?;
    within(PATIENCE, || (container.exec("", &["cat", "/tmp/mark"]).code == 0).then_some(()))
        .context("it never ran")?;
    let list = container.exec("", &["ps"]).ok()?;
    ensure!(list.contains("sleep 100"), "{list}");
    Ok(())
}

fn exec_missing(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let ctr = caller.kind == Kind::Containerd;
    // Docker 20.10 has one code for all of them.
    let missing = if caller.kind == Kind::Docker { 126 } else { 127 };
    for (program, code, word) in [
        ("no-such-program", missing, "executable file not found in $PATH"),
        ("/no/such", missing, "no such file or directory"),
        ("/bin/not-executable", 126, "permission denied"),
    ] {
        let outcome = container.exec("", &[program]);
        ended(&outcome, if ctr { 1 } else { code }, word).context(program)?;
    }
    container.exec("", &["true"]).ok().map(|_| ())
}

fn kill_delivers(caller: &Caller) -> Result<()> {
    let script = "trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.02; done";
    let container = caller.script("", script)?;
    container.wait_log("ready")?;
    container.kill("SIGUSR1")?;
    container.wait_log("got it")?;
    let code = container.wait()?;
    ensure!(code == 7, "{code}");
    Ok(())
}

fn kill_kills(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    container.kill("SIGKILL")?;
    let code = container.wait()?;
    ensure!(code == 137, "{code}");
    Ok(())
}

fn stop_terminates(caller: &Caller) -> Result<()> {
    let container = caller.script("", &format!("{SLEEP} & echo ready; {SLEEP}"))?;
    container.wait_log("ready")?;
    container.call(&["stop", "-t", "15"], &[]).ok()?;
    let code = container.wait()?;
    ensure!(code == 143, "{code}");
    Ok(())
}

fn stop_kills(caller: &Caller) -> Result<()> {
    let container = caller.script("", "trap '' TERM; while :; do sleep 0.1; done")?;
    container.call(&["stop", "-t", "1"], &[]).ok()?;
    let code = container.wait()?;
    ensure!(code == 137, "{code}");
    Ok(())
}

fn stop_signal(caller: &Caller) -> Result<()> {
    let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.02; done";
    let container = caller.script("--stop-signal USR1", script)?;
    container.wait_log("ready")?;
    container.call(&["stop", "-t", "15"], &[]).ok()?;
    let code = container.wait()?;
    ensure!(code == 9, "{code}");
    Ok(())
}

/// No first process takes the others along where they are the host's.
fn kills_all(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--with-ns pid:/proc/1/ns/pid",
        _ => "--pid host",
    };
    let container = caller.script(options, "sleep 1000 & setsid sleep 1000 & echo ready; wait")?;
    container.wait_log("ready")?;
    let first = container.pid()?;
    let members = || -> Vec<i64> {
        let list = caller.world.host.sh(&format!(
            "group=$(sed -n 's/.*:pids://p' /proc/{first}/cgroup); \
             cat /sys/fs/cgroup/pids$group/cgroup.procs"
        ));
        list.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let pids = within(PATIENCE, || Some(members()).filter(|pids| pids.len() >= 3));
    let pids = pids.with_context(|| format!("{:?}", members()))?;
    container.remove()?;
    let alive = || pids.iter().any(|&pid| caller.world.host.is_alive(pid));
    within(PATIENCE, || (!alive()).then_some(())).context("some live on")
}

fn pause_freezes(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--mount type=bind,src={dir}/volume,dst=/v,options=rbind:rw",
        _ => "-v {dir}/volume:/v",
    };
    let container = caller.script(options, "while :; do echo x >>/v/count; usleep 1000; done")?;
    let file = caller.path("volume/count");
    let count = || fs::metadata(&file).map_or(0, |meta| meta.len());
    let grows = |before: u64| within(PATIENCE, || (count() > before).then_some(()));
    grows(0).context("it never counted")?;
    container.pause()?;
    let frozen = count();
    std::thread::sleep(Duration::from_millis(200));
    ensure!(count() == frozen, "it counts on while paused");
    let status = container.status()?;
    ensure!(status == "paused", "{status}");
    container.resume()?;
    grows(frozen).context("it does not count on")?;
    let status = container.status()?;
    ensure!(status == "running", "{status}");
    Ok(())
}

fn removes(caller: &Caller) -> Result<()> {
    for paused in [false, true] {
        let container = caller.script("", SLEEP)?;
        let pid = container.pid()?;
        if paused && caller.kind == Kind::Docker {
            // Docker refuses: it must be resumed first.
            continue;
        }
        if paused {
            container.pause()?;
        }
        container.remove()?;
        ensure!(!caller.world.host.is_alive(i64::from(pid)), "{pid} lives, paused: {paused}");
    }
    Ok(())
}

fn restarts(caller: &Caller) -> Result<()> {
    let container = caller.script("", &format!("echo start; {SLEEP}"))?;
    let before = container.pid()?;
    container.call(&["restart", "-t", "5"], &[]).ok()?;
    let after = container.pid()?;
    ensure!(before != after && !caller.world.host.is_alive(i64::from(before)), "{before}, {after}");
    within(PATIENCE, || (container.logs().matches("start").count() == 2).then_some(()))
        .context(container.logs())?;
    container.exec("", &["true"]).ok().map(|_| ())
}

fn restart_policy(caller: &Caller) -> Result<()> {
    let container = caller.script("--restart on-failure:2", "echo start; exit 4")?;
    within(PATIENCE, || (container.logs().matches("start").count() == 3).then_some(()))
        .context(container.logs())?;
    let code = container.wait()?;
    ensure!(code == 4, "{code}");
    Ok(())
}

fn logs(caller: &Caller) -> Result<()> {
    let container = caller.script("", "echo one; echo two >&2; sleep 100")?;
    container.wait_log("one\n")?;
    container.wait_log("two\n")
}

fn attach(caller: &Caller) -> Result<()> {
    let container = caller.script("-i", "read line; echo got $line; read line; exit 6")?;
    let mut command = caller.command(&["attach", &container.name]);
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let input = client.stdin.as_mut().context("input")?;
    input.write_all(b"hello\n")?;
    let mut output = BufReader::new(client.stdout.take().context("output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    // It ends when what it said has been heard.
    input.write_all(b"\n")?;
    let code = client.wait()?.code();
    // Podman 4.3 has no code for this.
    let expected = if caller.kind == Kind::Docker { 6 } else { 0 };
    ensure!(code == Some(expected) && line == "got hello\n", "{code:?}: {line:?}");
    Ok(())
}

fn input(caller: &Caller) -> Result<()> {
    let more: &[&str] = if caller.kind == Kind::Containerd { &["--rm"] } else { &["--rm", "-i"] };
    let words =
        caller.run_words(&caller.name(), more, &[], &["sh", "-c", "read line; echo got $line"]);
    ended(&caller.call_with(&super::caller::strs(&words), "typed\n"), 0, "got typed\n")
}

fn top(caller: &Caller) -> Result<()> {
    let container = caller.script("", "sleep 1234 & sleep 4321")?;
    let of_shell = if caller.kind == Kind::Containerd { "ps" } else { "top" };
    let list = within(PATIENCE, || {
        let list = container.call(&[of_shell], &[]).ok().ok()?;
        (list.lines().count() >= 3).then_some(list)
    });
    let list = list.with_context(|| format!("{:?}", container.call(&[of_shell], &[])))?;
    match caller.kind {
        Kind::Containerd => {
            ensure!(list.contains(&container.pid()?.to_string()), "{list}");
        }
        _ => ensure!(list.contains("sleep 1234") && list.contains("sleep 4321"), "{list}"),
    }
    if caller.kind == Kind::Docker {
        // What the engine hands on to the runtime's `ps`.
        let list = container.call(&["top"], &["-eo", "pid,args"]).ok()?;
        ensure!(list.contains("sleep 1234"), "{list}");
    }
    Ok(())
}

/// Options that share a namespace with a container.
fn shared(container: &Container<'_>, kind: &str) -> Result<String> {
    Ok(match container.caller.kind {
        Kind::Containerd => format!("--with-ns {kind}:/proc/{}/ns/{kind}", container.pid()?),
        _ if kind == "net" => format!("--network container:{}", container.name),
        _ => format!("--{kind} container:{}", container.name),
    })
}

fn shares_pids(caller: &Caller) -> Result<()> {
    let container = caller.script("", "exec sleep 1234")?;
    within(PATIENCE, || {
        let list = caller.run(&shared(&container, "pid").ok()?, &["ps"]).ok().ok()?;
        list.contains("sleep 1234").then_some(())
    })
    .context("the processes are not to be seen")?;
    // The namespace outlives who joined it.
    container.exec("", &["true"]).ok().map(|_| ())
}

fn shares_network(caller: &Caller) -> Result<()> {
    let container = caller.script("", "nc -l -p 81 -e echo hello; sleep 100")?;
    let options = shared(&container, "net")?;
    within(PATIENCE, || {
        let outcome = caller.run(&options, &["nc", "-w", "1", "127.0.0.1", "81"]);
        outcome.out.contains("hello").then_some(())
    })
    .context("nobody answers on the shared loopback")
}

fn healthy(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Podman => "--health-cmd cat$IFS/tmp/well --health-interval disable",
        _ => "--health-cmd cat$IFS/tmp/well --health-interval 100ms --health-retries 1",
    };
    let container = caller.script(options, SLEEP)?;
    let status = || {
        if caller.kind == Kind::Podman {
            container.caller.call(&["healthcheck", "run", &container.name]);
        }
        let inspect = container.inspect().ok()?;
        let health = &inspect["State"]["Health"]["Status"];
        let other = &inspect["State"]["Healthcheck"]["Status"];
        health.as_str().or(other.as_str()).map(str::to_owned)
    };
    let becomes = |wanted: &str| {
        within(PATIENCE, || (status()? == wanted).then_some(()))
            .with_context(|| format!("never {wanted}: {:?}", status()))
    };
    becomes("unhealthy")?;
    container.exec("", &["touch", "/tmp/well"]).ok()?;
    becomes("healthy")
}

fn copies(caller: &Caller) -> Result<()> {
    let container = caller.script("", SLEEP)?;
    let file = caller.path("copied").display().to_string();
    caller.call(&["cp", &format!("{}:/etc/passwd", container.name), &file]).ok()?;
    ensure!(read(file.as_ref())?.starts_with("root:"), "not the image's file");
    caller.call(&["cp", &file, &format!("{}:/tmp/back", container.name)]).ok()?;
    let back = container.exec("", &["cat", "/tmp/back"]).ok()?;
    ensure!(back.starts_with("root:"), "{back}");
    Ok(())
}

fn init_reaps(caller: &Caller) -> Result<()> {
    let container = caller.script("--init", "(sleep 0.01 &); exec sleep 100")?;
    // An orphan is gone, rather than a zombie of a first process that does not wait.
    let zombies = "ps -o stat,args | grep -c '^Z'";
    within(PATIENCE, || {
        let list = container.exec("", &["sh", "-c", zombies]);
        (list.out.trim() == "0").then_some(())
    })
    .context("zombies stay")?;
    container.call(&["stop", "-t", "15"], &[]).ok()?;
    let code = container.wait()?;
    ensure!(code == 143, "{code}");
    Ok(())
}

fn writes_volume(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--mount type=bind,src={dir}/volume,dst=/v,options=rbind:rw",
        _ => "-v {dir}/volume:/v",
    };
    caller.run(options, &["sh", "-c", "echo written >/v/out"]).ok()?;
    let text = read(&caller.path("volume/out"))?;
    ensure!(text == "written\n", "{text:?}");
    Ok(())
}

fn receives_mounts(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--mount type=bind,src={dir}/shared,dst=/v,options=rbind:rslave",
        _ => "-v {dir}/shared:/v:rslave",
    };
    let shared = caller.path("shared");
    std::fs::create_dir_all(shared.join("late"))?;
    let shared = shared.display();
    caller.world.host.sh(&format!("mount --bind {shared} {shared}; mount --make-shared {shared}"));
    let container = caller.script(options, SLEEP)?;
    caller
        .world
        .host
        .sh(&format!("mount -t tmpfs late {shared}/late; echo there >{shared}/late/x"));
    let text = container.exec("", &["cat", "/v/late/x"]).ok();
    caller.world.host.sh(&format!("umount {shared}/late; umount {shared}"));
    ensure!(text? == "there", "not there");
    Ok(())
}

fn has_parent_cgroup(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--cgroup /custom/parent/own",
        _ => "--cgroup-parent /custom/parent",
    };
    let container = caller.script(options, SLEEP)?;
    let groups = caller.world.host.sh(&format!("cat /proc/{}/cgroup", container.pid()?));
    let elsewhere = |line: &&str| !line.contains(":/custom/parent/");
    ensure!(groups.lines().filter(elsewhere).count() == 0, "{groups}");
    Ok(())
}

fn hands_on_descriptors(caller: &Caller) -> Option<Result<()>> {
    let words = |name: &str| {
        let more = ["--rm", "--preserve-fds", "1"];
        caller.run_words(name, &more, &[], &["sh", "-c", "cat <&3"])
    };
    (caller.kind == Kind::Podman).then(|| {
        let file = caller.path("volume/in").display().to_string();
        let command = caller.command(&super::caller::strs(&words(&caller.name())));
        let mut shell = Command::new("sh");
        shell.args(["-c", "file=$0; exec \"$@\" 3<\"$file\"", &file]);
        shell.arg(command.get_program()).args(command.get_args());
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let output = shell.envs(variables).output()?;
        ensure!(output.stdout == b"from the host\n", "{output:?}");
        Ok(())
    })
}

fn hooks(caller: &Caller) -> Result<()> {
    let directory = caller.path("hooks");
    fs::create_dir(&directory)?;
    let seen = |stage: &str| caller.path(&format!("hook-{stage}"));
    let stages = [
        ("prestart", "creat"),
        ("createRuntime", "creat"),
        ("createContainer", "creat"),
        // runc 1.1 calls it created here.
        ("poststart", ""),
        ("poststop", "stopped"),
    ];
    for (stage, _) in stages {
        let script = format!("cat >{}", seen(stage).display());
        let hook = json!({
            "version": "1.0.0", "when": {"always": true}, "stages": [stage],
            "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
        });
        fs::write(directory.join(format!("{stage}.json")), hook.to_string())?;
    }
    let mut words = vec![format!("--hooks-dir={}", directory.display())];
    words.extend(caller.run_words(&caller.name(), &["--rm"], &[], &["true"]));
    caller.call(&super::caller::strs(&words)).ok()?;
    for (stage, status) in stages {
        let state: Value = serde_json::from_str(&read(&seen(stage))?).context(stage)?;
        let found = state["status"].as_str().unwrap_or_default();
        ensure!(found.starts_with(status), "{stage}: {state}");
        ensure!(state["id"].is_string() && state["bundle"].is_string(), "{stage}: {state}");
    }
    Ok(())
}

fn version(caller: &Caller) -> Result<()> {
    let format = match caller.kind {
        Kind::Docker => "{{.RuncCommit.ID}}",
        _ => "{{.Host.OCIRuntime.Version}}",
    };
    let parsed = caller.call(&["info", "--format", format]).ok()?;
    let of_runtime = Command::new(absolute_runtime()).arg("--version").output()?.stdout;
    let of_runtime = String::from_utf8(of_runtime)?;
    match caller.kind {
        // Its daemon parses the commit, or takes the version where there is none.
        Kind::Docker => ensure!(
            !parsed.is_empty() && of_runtime.contains(&parsed),
            "{parsed:?} is not of {of_runtime}"
        ),
        _ => ensure!(parsed == of_runtime.trim(), "{parsed:?} rather than {of_runtime:?}"),
    }
    Ok(())
}

fn privileged(caller: &Caller) -> Result<()> {
    let outcome = caller.run(
        "--privileged",
        &["sh", "-c", "grep -c 'sysfs rw' /proc/mounts; mount -t tmpfs none /tmp && echo mounted"],
    );
    ended(&outcome, 0, "1\nmounted\n")
}

/// Every container above is gone: from the engine, the runtime, the cgroups and the mounts.
fn leaves_nothing(caller: &Caller) -> Result<()> {
    let list = match caller.kind {
        Kind::Containerd => caller.call(&["container", "ls", "-q"]).ok()?,
        _ => caller.call(&["ps", "-aq"]).ok()?,
    };
    ensure!(list.is_empty(), "containers: {list}");
    let parents = "docker default libpod_parent custom/parent";
    let left = || {
        caller.world.host.sh(&format!(
            "for parent in {parents}; do \
                 find /sys/fs/cgroup/*/$parent -mindepth 1 -type d -not -name conmon 2>/dev/null; done; \
             find {dir}/runtime {dir}/docker-run/runtime-* /run/runc /run/lighter-runtime -name state.json 2>/dev/null; \
             grep -E 'merged|rootfs' /proc/self/mountinfo",
            dir = caller.path("").display()
        ))
    };
    within(PATIENCE, || left().is_empty().then_some(())).with_context(left)
}
