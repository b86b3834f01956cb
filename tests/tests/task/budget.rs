//! What starting a container costs, counted.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tests::bundle::Bundle;
use tests::host::{TestHost, script};

/// Starting one container with the image present costs one exec (the monitor) and one clone per
/// container; the monitor's two processes apart, no other process.
#[test]
fn one_exec_and_one_clone_per_container() {
    let host = TestHost::new();
    let path = host.definition("counted.json", &{
        let mut definition = script("awsvpc", "");
        definition["containerDefinitions"][0]["entryPoint"] = json!(["true"]);
        definition["containerDefinitions"][0]["command"] = json!([]);
        definition
    });
    let trace = host.path("trace");
    // Host-wide objects (bridge, nftables) are made for a root's first task; this counts the next.
    let keeper = host.detach(&script("awsvpc", "exec sleep 100"));
    let agent = host.agent_pid().expect("an agent");
    host.sh(&format!(
        "strace -f -qq -e trace=execve,execveat,clone,clone3,fork,vfork -o {trace} -p {agent} & echo $! > {trace}.pid; \
         for i in $(seq 200); do grep -q 'TracerPid:.[1-9]' /proc/{agent}/status && break; sleep 0.05; done; \
         LIGHTER_ROOT={root} {lighter} run --detach {path} >/dev/null 2>&1; sleep 0.5; kill $(cat {trace}.pid); sleep 0.3",
        trace = trace.display(),
        root = host.root().display(),
        lighter = tests::binary("lighter").display(),
    ));
    let text = fs::read_to_string(&trace).expect("strace wrote");
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.contains("resumed>") && !line.contains("= -1")) {
        if line.contains("CLONE_THREAD") {
            continue;
        }
        for call in ["execve(", "execveat(", "clone(", "clone3(", "vfork(", "fork("] {
            let called = line.split_whitespace().nth(1).is_some_and(|word| word.starts_with(call));
            if called {
                *count.entry(call).or_default() += 1;
            }
        }
    }
    let executed = count.get("execve(").unwrap_or(&0) + count.get("execveat(").unwrap_or(&0);
    // The monitor, and the container's own program.
    assert_eq!(executed, 2, "{text}");
    let processes: usize =
        ["clone(", "clone3(", "vfork(", "fork("].iter().filter_map(|call| count.get(call)).sum();
    // The monitor (cloned by the agent), its worker, the container.
    assert_eq!(processes, 3, "{text}");
    host.ok(&["stop", &keeper]);
}

/// Two processes per task, sharing one sealed copy of a small binary.
#[test]
fn whole_host_monitors_are_small() {
    let host = TestHost::new();
    let tasks: Vec<String> =
        (0..20).map(|_| host.detach(&script("none", "exec sleep 100"))).collect();
    let pss = |pid: &serde_json::Value| -> u64 {
        let text =
            fs::read_to_string(format!("/proc/{}/smaps_rollup", pid["pid"])).expect("smaps_rollup");
        let line = text.lines().find(|line| line.starts_with("Pss:")).expect("Pss");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("kB")
    };
    let sizes: Vec<u64> = tasks
        .iter()
        .map(|task| host.monitor(task))
        .map(|record| pss(&record["guardian"]) + pss(&record["worker"]))
        .collect();
    let mean = sizes.iter().sum::<u64>() / 20;
    assert!(mean <= 500, "{mean} kB of proportional memory for one task's monitor: {sizes:?}");
    let all: Vec<&str> =
        ["stop", "--time", "0"].into_iter().chain(tasks.iter().map(String::as_str)).collect();
    host.ok(&all);
}

/// What `run` of a program that does nothing costs, with the configuration that `spec` writes: the
/// calls of all its processes on a host with ten cgroup hierarchies, of which a bare C program that
/// makes the same (benches/floor.c) takes 281. A container and its program are one process.
#[test]
fn a_run_takes_few_system_calls_and_one_process() {
    let runtime = tests::binary("lighter-runtime");
    let mut bundle = Bundle::new("");
    let starter = bundle.beside().join("starter");
    fs::create_dir(&starter).expect("a directory");
    let made = Command::new(&runtime).arg("spec").current_dir(&starter).status().expect("spec");
    assert!(made.success());
    let text = fs::read(starter.join("config.json")).expect("config.json");
    bundle.config = serde_json::from_slice::<Value>(&text).expect("JSON");
    bundle.set("/process/terminal", json!(false)).set("/process/args", json!(["/bin/true"]));
    // The first container of a state root makes that.
    fs::create_dir(bundle.state_root()).expect("a state root");
    let command = bundle.command(&["run", &bundle.id]);
    let trace = bundle.beside().join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&trace)
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(bundle.path())
        .status()
        .expect("strace");
    assert!(traced.success());
    let text = fs::read_to_string(&trace).expect("strace wrote");
    let count = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(0)
    };
    let debug = runtime.components().any(|part| part.as_os_str() == "debug");
    // 346 on a host of few mounts; each 4 KiB of the host's list of them, which grows beside other tests,
    // is a call more.
    assert!(debug || count("total") <= 360, "{text}");
    let processes: u64 = ["clone", "clone3", "fork", "vfork"].into_iter().map(count).sum();
    assert_eq!(processes, 1, "{text}");
}

/// Below 2 MB; with a C library of which the runtime replaces nothing (see lean_libc.rs), little above.
#[test]
fn the_runtime_is_small_and_static() {
    let path = tests::binary("lighter-runtime");
    if path.components().any(|part| part.as_os_str() == "debug") {
        return;
    }
    let size = fs::metadata(&path).expect("the binary").len();
    let library = Command::new("getconf").arg("GNU_LIBC_VERSION").output().expect("getconf");
    let lean = library.stdout.ends_with(b" 2.36\n");
    assert!(size < if lean { 2_000_000 } else { 2_200_000 }, "{size} bytes");
}
