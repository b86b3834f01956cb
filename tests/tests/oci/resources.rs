//! Limits, what is measured, and what happens at a limit.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Procedure;
use super::caller::{Caller, Container, Kind, PATIENCE, read, within};
use super::lifecycle::engine;

pub(super) const PROCEDURES: &[(&str, Procedure)] = &[
    ("limit of memory", |caller| Some(limits_memory(caller))),
    ("limit of CPU time", |caller| Some(limits_cpu(caller))),
    ("share of CPU time", |caller| Some(shares_cpu(caller))),
    ("which CPUs", |caller| engine(caller).map(chooses_cpus)),
    ("limit of processes", |caller| engine(caller).map(limits_processes)),
    ("limits updated", |caller| engine(caller).map(updates)),
    ("out of memory: 137, and the engine knows", |caller| Some(out_of_memory(caller))),
    ("out of memory in exec", |caller| engine(caller).map(out_of_memory_in_exec)),
    ("measured memory", |caller| Some(measures_memory(caller))),
    ("measured processes", |caller| Some(measures_processes(caller))),
];

const MIB: u64 = 1 << 20;

/// Holds 20 MiB that are charged to it.
const HOLD: &str = "head -c 20971520 /dev/zero >/dev/shm/held; echo held; sleep 1000";

/// Asks for more than it may have: the buffer of one block.
const ALLOCATE: &str = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";

fn has(container: &Container<'_>, file: &str, value: &str) -> Result<()> {
    let found = container.cgroup(file)?;
    ensure!(found == value, "{file} is {found:?} rather than {value:?}");
    Ok(())
}

fn limits_memory(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--memory-limit 67108864",
        _ => "--memory 64m --memory-swap 64m --memory-reservation 32m",
    };
    let container = caller.detach(options, &["sleep", "1000"])?;
    has(&container, "memory.limit_in_bytes", "67108864")?;
    if caller.kind != Kind::Containerd {
        has(&container, "memory.soft_limit_in_bytes", "33554432")?;
        has(&container, "memory.memsw.limit_in_bytes", "67108864")?;
    }
    Ok(())
}

fn limits_cpu(caller: &Caller) -> Result<()> {
    let container = caller.detach("--cpus 1.5", &["sleep", "1000"])?;
    has(&container, "cpu.cfs_quota_us", "150000")?;
    has(&container, "cpu.cfs_period_us", "100000")
}

fn shares_cpu(caller: &Caller) -> Result<()> {
    let container = caller.detach("--cpu-shares 333", &["sleep", "1000"])?;
    has(&container, "cpu.shares", "333")
}

fn chooses_cpus(caller: &Caller) -> Result<()> {
    let container = caller.detach("--cpuset-cpus 0", &["sleep", "1000"])?;
    has(&container, "cpuset.cpus", "0")?;
    let allowed = container.exec("", &["grep", "Cpus_allowed_list", "/proc/self/status"]).ok()?;
    ensure!(allowed.ends_with("\t0"), "{allowed}");
    Ok(())
}

fn limits_processes(caller: &Caller) -> Result<()> {
    let container = caller.detach("--pids-limit 50", &["sleep", "1000"])?;
    has(&container, "pids.max", "50")
}

fn updates(caller: &Caller) -> Result<()> {
    let container = caller.detach("--memory 64m --memory-swap 64m", &["sleep", "1000"])?;
    let options = ["update", "--memory", "96m", "--memory-swap", "128m", "--cpu-shares", "512"];
    container.call(&options, &[]).ok()?;
    has(&container, "memory.limit_in_bytes", "100663296")?;
    has(&container, "memory.memsw.limit_in_bytes", "134217728")?;
    has(&container, "cpu.shares", "512")?;
    container.call(&["update", "--cpus", "0.5", "--cpuset-cpus", "0"], &[]).ok()?;
    has(&container, "cpu.cfs_quota_us", "50000")?;
    has(&container, "cpuset.cpus", "0")?;
    has(&container, "memory.limit_in_bytes", "100663296")?;
    if caller.kind == Kind::Docker {
        container.call(&["update", "--pids-limit", "77"], &[]).ok()?;
        has(&container, "pids.max", "77")?;
    }
    container.exec("", &["true"]).ok().map(|_| ())
}

fn out_of_memory(caller: &Caller) -> Result<()> {
    let options = match caller.kind {
        Kind::Containerd => "--memory-limit 16777216",
        _ => "--memory 16m --memory-swap 16m",
    };
    // containerd's shim forgets to say it when the container ends at the same time.
    let lingering = format!("({ALLOCATE}); code=$?; sleep 1; exit $code");
    let script = if caller.kind == Kind::Containerd { &lingering } else { ALLOCATE };
    if caller.kind == Kind::Containerd {
        let events = caller.path("events");
        let mut command = caller.command(&["events"]);
        let mut watcher = command.stdout(File::create(&events)?).stderr(Stdio::null()).spawn()?;
        // It has to listen before there is something to hear.
        let heard = |word: &str| {
            within(PATIENCE, || read(&events).is_ok_and(|text| text.contains(word)).then_some(()))
                .with_context(|| format!("no {word} in {:?}", read(&events)))
        };
        let listening = within(PATIENCE, || {
            caller.run("", &["true"]);
            read(&events).is_ok_and(|text| text.contains("/tasks/exit")).then_some(())
        });
        let container = caller.script(options, script)?;
        let code = container.wait();
        let oom = heard("/tasks/oom");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(watcher.id())?),
            nix::sys::signal::Signal::SIGTERM,
        )?;
        watcher.wait()?;
        ensure!(listening.is_some(), "no events at all");
        ensure!(matches!(code, Ok(137)), "{code:?}");
        return oom;
    }
    let container = caller.script(options, script)?;
    let code = container.wait()?;
    ensure!(code == 137, "{code}: {}", container.logs());
    let state = container.inspect()?["State"].clone();
    // conmon 2.1 does not tell Podman on cgroup version 1, whatever the runtime.
    ensure!(state["OOMKilled"] == true || caller.kind == Kind::Podman, "{state}");
    Ok(())
}

fn out_of_memory_in_exec(caller: &Caller) -> Result<()> {
    let container = caller.detach("--memory 16m --memory-swap 16m", &["sleep", "1000"])?;
    let outcome = container.exec("", &["sh", "-c", ALLOCATE]);
    ensure!(outcome.code == 137, "{outcome:?}");
    let status = container.status()?;
    ensure!(status == "running", "{status}");
    Ok(())
}

/// Memory in bytes and number of processes, as the caller measures them.
fn measured(container: &Container<'_>) -> Result<(f64, u64)> {
    match container.caller.kind {
        Kind::Containerd => {
            let text = container.call(&["metrics", "--format", "json"], &[]).ok()?;
            let metrics: Value = serde_json::from_str(&text)?;
            let memory = metrics["memory"]["usage"]["usage"].as_f64().context("no memory")?;
            let pids = metrics["pids"]["current"].as_u64().context("no pids")?;
            ensure!(metrics["cpu"]["usage"]["total"].as_u64() > Some(0), "no CPU time: {metrics}");
            Ok((memory, pids))
        }
        _ => {
            let format = "{{.MemUsage}}|{{.PIDs}}";
            let text = container.call(&["stats", "--no-stream", "--format", format], &[]).ok()?;
            let (memory, pids) = text.split_once('|').context("no table")?;
            let memory = memory.split('/').next().unwrap_or_default().trim();
            let digits = memory.trim_end_matches(char::is_alphabetic);
            let unit = match &memory[digits.len()..] {
                "MiB" => 1024. * 1024.,
                "MB" => 1e6,
                "kB" => 1e3,
                "KiB" => 1024.,
                _ => 1.,
            };
            Ok((digits.parse::<f64>()? * unit, pids.trim().parse()?))
        }
    }
}

fn measures_memory(caller: &Caller) -> Result<()> {
    let options = if caller.kind == Kind::Containerd { "" } else { "--memory 64m" };
    let container = caller.script(options, HOLD)?;
    container.wait_log("held")?;
    let (memory, _) = measured(&container)?;
    let expected = 19e6..40e6;
    ensure!(expected.contains(&memory), "{memory} bytes rather than about {}", 20 * MIB);
    Ok(())
}

fn measures_processes(caller: &Caller) -> Result<()> {
    let script = "sleep 1000 & sleep 1000 & echo ready; wait";
    let container = caller.script("", script)?;
    container.wait_log("ready")?;
    let (_, pids) = measured(&container)?;
    ensure!(pids == 3, "{pids} processes");
    Ok(())
}
