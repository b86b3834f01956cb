//! The runtime under its real callers: containerd, Podman, and Docker on containerd.
//!
//! `RUNTIME=runc` runs the same on the reference; `make test-oci` does both and prints them side by
//! side. With `LIGHTER_OCI_REPORT` each caller's results are written to that directory.

mod caller;
mod cases;
mod lifecycle;
mod resources;
mod terminal;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use tests::bundle::is_ours;

use caller::{Caller, Kind};
use cases::{CASES, Case};

/// A case with steps of its own; none if the caller has no such thing.
type Procedure = fn(&Caller) -> Option<Result<()>>;

/// A case of either sort, ready to run.
type Step<'a> = (&'a str, Box<dyn Fn() -> Option<Result<()>> + Sync + 'a>);

/// How many cases run at the same time: engines wait more than they work.
const WORKERS: usize = 4;

/// Results in the order of the cases.
#[derive(Default)]
struct Report {
    rows: Vec<(String, Option<Result<()>>)>,
}

impl Report {
    /// Runs cases beside each other.
    fn run(&mut self, caller: &Caller, steps: &[Step<'_>]) {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        caller.world.beside_each_other(WORKERS, || {
            while let Some((name, step)) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
                let started = Instant::now();
                let mut result = step();
                for _ in 0..2 {
                    if caller.kind == Kind::Containerd && is_mute(&result) {
                        result = step();
                    }
                }
                println!("{:>6} ms {name}", started.elapsed().as_millis());
                done.lock().unwrap().push((*name, result));
            }
        });
        let mut done = done.into_inner().unwrap();
        done.sort_by_key(|(name, _)| steps.iter().position(|(step, _)| step == name));
        self.rows.extend(done.into_iter().map(|(name, result)| (name.to_owned(), result)));
    }

    /// Writes the results down, and fails if one of them has.
    fn finish(self, title: &str, log: &str) {
        let mut table = String::new();
        let mut failures = String::new();
        for (name, result) in &self.rows {
            let word = match result {
                None => "–",
                Some(Ok(())) => "ok",
                Some(Err(_)) => "fails",
            };
            table += &format!("{name}\t{word}\n");
            if let Some(Err(error)) = result {
                failures += &format!("{name}: {error:#}\n");
            }
        }
        if let Some(directory) = std::env::var_os("LIGHTER_OCI_REPORT") {
            let runtime = if is_ours() { "lighter-runtime" } else { "runc" };
            let directory = std::path::PathBuf::from(directory);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(format!("{title}.{runtime}.tsv")), table).unwrap();
        }
        assert!(failures.is_empty(), "{title}:\n{failures}\n{log}");
    }
}

/// Whether a case failed for want of output. `ctr` closes its end of the output when it hears of the
/// end of a process, whether it has read all of it or not.
fn is_mute(result: &Option<Result<()>>) -> bool {
    matches!(result, Some(Err(error)) if format!("{error:#}").contains("out: \"\""))
}

fn table_case<'a>(caller: &'a Caller, case: &'a Case) -> Step<'a> {
    (case.name, Box::new(move || cases::run(caller, case)))
}

fn procedure<'a>(caller: &'a Caller, (name, run): &'a (&'a str, Procedure)) -> Step<'a> {
    (name, Box::new(move || run(caller)))
}

/// Takes a caller through all that there is.
fn callers_rely_on(kind: Kind) {
    let caller = Caller::start(kind, false);
    cases::furnish(&caller);
    let procedures = [lifecycle::PROCEDURES, resources::PROCEDURES, terminal::PROCEDURES];
    let mut steps: Vec<Step<'_>> = CASES.iter().map(|case| table_case(&caller, case)).collect();
    steps.extend(procedures.into_iter().flatten().map(|entry| procedure(&caller, entry)));
    let mut report = Report::default();
    report.run(&caller, &steps);
    report.run(&caller, &[procedure(&caller, &lifecycle::NOTHING_IS_LEFT)]);
    report.finish(&kind.to_string(), &caller.daemon_log());
}

#[test]
fn containerd() {
    callers_rely_on(Kind::Containerd);
}

#[test]
fn podman() {
    callers_rely_on(Kind::Podman);
}

#[test]
fn docker() {
    callers_rely_on(Kind::Docker);
}

/// Docker with a user namespace for every container.
#[test]
fn docker_remapping_users() {
    let caller = Caller::start(Kind::Docker, true);
    cases::furnish(&caller);
    let mut steps: Vec<Step<'_>> =
        cases::REMAPPED.iter().map(|case| table_case(&caller, case)).collect();
    let plain = |name: &&Case| cases::AS_WELL_REMAPPED.contains(&name.name);
    steps.extend(CASES.iter().filter(plain).map(|case| table_case(&caller, case)));
    let procedures = [lifecycle::PROCEDURES, resources::PROCEDURES, terminal::PROCEDURES];
    let plain = |(name, _): &&(&str, Procedure)| {
        ["exec: ", "limit", "terminal", "measured"].iter().any(|word| name.starts_with(word))
    };
    let procedures = procedures.into_iter().flatten().filter(plain);
    steps.extend(procedures.map(|entry| procedure(&caller, entry)));
    let mut report = Report::default();
    report.run(&caller, &steps);
    report.run(&caller, &[procedure(&caller, &lifecycle::NOTHING_IS_LEFT)]);
    report.finish("docker-userns", &caller.daemon_log());
}
