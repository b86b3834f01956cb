//! The embedded store against SIGKILL and a full disk. The store runs in a process of its own: this
//! binary again, asked for one of the tests named `child_…`, which do nothing unless told where the
//! store is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_plane::store::{Change, Compare, Error, KeyValue, Operation, Redb, Store, Transaction};

/// Where a child finds its store.
const PATH: &str = "LIGHTER_TEST_STORE";
/// The first number that a child commits.
const FIRST: &str = "LIGHTER_TEST_FIRST";
const KILLS: usize = 25;
const COMMITTERS: u64 = 4;
const DEADLINE: Duration = Duration::from_secs(30);

fn put(key: String, value: Vec<u8>) -> Operation {
    Operation::Put { key, value, lease: None }
}

/// A line to the parent, past the test harness, which keeps what is printed.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// This binary, as one of its `child_…` tests.
fn child(name: &str) -> Vec<String> {
    let own = std::env::current_exe().unwrap().display().to_string();
    [&own, "--exact", &format!("store::{name}"), "--nocapture"].map(str::to_owned).to_vec()
}

/// Commits numbers, two keys each, until it is killed; tells each that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_commits_numbers() {
    let (Ok(path), Ok(first)) = (std::env::var(PATH), std::env::var(FIRST)) else {
        return;
    };
    let first: u64 = first.parse().unwrap();
    let store = Arc::new(Redb::open(Path::new(&path)).unwrap());
    let tasks: Vec<_> = (0..COMMITTERS)
        .map(|committer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for step in 0.. {
                    let number = first + step * COMMITTERS + committer;
                    let (one, other) = (format!("a/{number}"), format!("b/{number}"));
                    let compares = vec![Compare { key: one.clone(), modified: 0 }];
                    let value = number.to_string().repeat(50).into_bytes();
                    let operations = vec![put(one, value.clone()), put(other, value)];
                    let outcome =
                        store.transact(Transaction { compares, operations }).await.unwrap();
                    assert!(outcome.succeeded, "{number} was there");
                    tell(&format!("committed {number} {}", outcome.revision));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Kills a child after a while and reads all that it told.
fn told(mut child: Child, after: Duration) -> Vec<(u64, u64)> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    // It has begun once it tells something: what comes before is not the store's.
    let mut lines = Vec::new();
    let mut line = String::new();
    while !lines.iter().any(|line: &String| line.starts_with("committed")) {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended: {lines:?}");
        lines.push(line.clone());
    }
    std::thread::sleep(after);
    child.kill().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    child.wait().unwrap();
    // A last line without its end was cut by the kill.
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    lines
        .iter()
        .map(String::as_str)
        .chain(whole.lines())
        .filter_map(|line| line.trim_end().strip_prefix("committed "))
        .map(|line| {
            let (number, revision) = line.split_once(' ').unwrap();
            (number.parse().unwrap(), revision.parse().unwrap())
        })
        .collect()
}

fn random(below: u64) -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 % below
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_by_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let mut acknowledged = BTreeSet::new();
    let mut revision_before = 0;
    for kill in 0..KILLS as u64 {
        let command = child("child_commits_numbers");
        let process = Command::new(&command[0])
            .args(&command[1..])
            .env(PATH, &path)
            .env(FIRST, (kill * 1_000_000).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let committed = told(process, Duration::from_micros(random(40_000)));
        let store = Redb::open(&path).unwrap();
        let range = store.range("").await.unwrap();
        for (number, revision) in committed {
            assert!(revision > revision_before && revision <= range.revision);
            acknowledged.insert(number);
        }
        let names: BTreeSet<&str> = range.keys.iter().map(|found| found.key.as_str()).collect();
        for number in &acknowledged {
            assert!(names.contains(format!("a/{number}").as_str()), "{number} is lost");
        }
        for name in &names {
            let (table, number) = name.split_once('/').unwrap();
            let other = if table == "a" { "b" } else { "a" };
            assert!(names.contains(format!("{other}/{number}").as_str()), "{name} is half");
        }
        // The log is whole: it tells of what came since the last kill.
        let mut watch = store.watch("", revision_before).await.unwrap();
        for revision in revision_before + 1..=range.revision {
            let changes = tokio::time::timeout(DEADLINE, watch.recv()).await.unwrap();
            let changes = changes.unwrap().unwrap();
            assert_eq!(changes.revision, revision);
            for change in changes.changes {
                let Change::Put(KeyValue { key, modified, .. }) = change else {
                    panic!("nothing was deleted");
                };
                assert!(modified == revision && names.contains(key.as_str()));
            }
        }
        assert!(range.revision > revision_before);
        revision_before = range.revision;
    }
    assert!(acknowledged.len() >= KILLS);
}

/// Fills its store up to the limit of its files' size, has the limit lifted, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_meets_a_full_disk() {
    let Ok(path) = std::env::var(PATH) else {
        return;
    };
    let store = Arc::new(Redb::open(Path::new(&path)).unwrap());
    let mut watch = store.watch("", 0).await.unwrap();
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    let mut number = 0;
    let mut revision = 0;
    let failure = loop {
        let operation = put(format!("key/{number}"), vec![7; 100_000]);
        let transaction = Transaction { compares: Vec::new(), operations: vec![operation] };
        match store.transact(transaction).await {
            Ok(outcome) => revision = outcome.revision,
            Err(error) => break error,
        }
        number += 1;
    };
    assert!(matches!(failure, Error::File { operation: "change", .. }), "{failure:?}");
    let range = store.range("").await.unwrap();
    assert_eq!((range.keys.len(), range.revision), (number, revision), "the failed one shows");
    // Small changes may fit, or fail too, all of a group alike; none hangs.
    let many = (0..20).map(|small| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let operation = put(format!("small/{small}"), vec![7; 20_000]);
            let transaction = Transaction { compares: Vec::new(), operations: vec![operation] };
            store.transact(transaction).await.is_ok()
        })
    });
    let mut fitted = 0;
    for task in many.collect::<Vec<_>>() {
        fitted += usize::from(task.await.unwrap());
    }
    assert_eq!(store.range("small/").await.unwrap().keys.len(), fitted);
    store.keep_alive(lease).await.unwrap();

    let lifted = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), "--fsize=unlimited"])
        .status()
        .unwrap();
    assert!(lifted.success());
    let operation = put("after".into(), vec![7; 100_000]);
    let transaction = Transaction { compares: Vec::new(), operations: vec![operation] };
    let outcome = store.transact(transaction).await.unwrap();
    assert!(outcome.succeeded);
    store.keep_alive(lease).await.unwrap();
    // The watch that was there before has been told everything, and nothing else.
    let mut keys = BTreeSet::new();
    for revision in 1..=outcome.revision {
        let changes = tokio::time::timeout(DEADLINE, watch.recv()).await.unwrap();
        let changes = changes.unwrap().unwrap();
        assert_eq!(changes.revision, revision);
        for change in changes.changes {
            let Change::Put(record) = change else { panic!("nothing was deleted") };
            keys.insert(record.key);
        }
    }
    let range = store.range("").await.unwrap();
    assert_eq!(range.keys.into_iter().map(|found| found.key).collect::<BTreeSet<_>>(), keys);
    tell("recovered");
}

#[test]
fn a_full_disk_fails_changes_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let begun = Instant::now();
    // The shell sets the limit (units of 512 bytes) and ignores its signal, so that writes fail.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 12000; exec \"$@\"", "sh"])
        .args(child("child_meets_a_full_disk"))
        .env(PATH, &path)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && out.contains("recovered"), "{out}\n{err}");
    assert!(begun.elapsed() < DEADLINE);
    let store = Redb::open(&path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let range = runtime.block_on(store.range("after")).unwrap();
    assert_eq!(range.keys.len(), 1);
}
