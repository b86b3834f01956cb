//! Spool to log to readers, with real files, killed at every point.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use proptest::prelude::*;
use protocol::monitor::{IndexEntry, Stream, spool_data, spool_index};
use tokio::sync::watch;

use super::drivers::json_file::{Options, rotated};
use super::shipper::testing::ship_all;
use super::spool::{Found, Position, Reader};
use super::{Query, Shipper, ShipperConfig, Source, Watcher, crash, stream};
use crate::api::types::LogLine;

/// Writes a spool as the monitor does.
pub(super) struct Monitor {
    spool: PathBuf,
    segment: u32,
    length: u64,
    gap: bool,
}

impl Monitor {
    pub(super) fn new(spool: &Path) -> Self {
        std::fs::create_dir_all(spool).unwrap();
        let mut monitor = Self { spool: spool.to_owned(), segment: 0, length: 0, gap: false };
        monitor.open();
        monitor
    }

    fn open(&mut self) {
        File::create(spool_index(&self.spool, self.segment)).unwrap();
        File::create(spool_data(&self.spool, self.segment)).unwrap();
        self.length = 0;
    }

    fn entry(&mut self, stream: Stream, time: u64) {
        let gap = std::mem::take(&mut self.gap);
        let entry = IndexEntry { offset: self.length, time, stream, gap };
        append(&spool_index(&self.spool, self.segment), &entry.to_bytes());
    }

    pub(super) fn write(&mut self, stream: Stream, time: u64, bytes: &[u8]) {
        self.entry(stream, time);
        append(&spool_data(&self.spool, self.segment), bytes);
        self.length += bytes.len() as u64;
    }

    fn roll(&mut self) {
        self.segment += 1;
        self.open();
    }
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn read_all(reader: &mut Reader) -> Vec<(Stream, u64, Vec<u8>)> {
    let mut all: Vec<(Stream, u64, Vec<u8>)> = Vec::new();
    loop {
        match reader.read().unwrap() {
            Found::Bytes => {
                for run in reader.runs() {
                    all.push((run.stream, run.time, reader.bytes(run.bytes.clone()).to_vec()));
                }
            }
            Found::Advanced { .. } => {}
            Found::Nothing => return all,
        }
    }
}

#[test]
fn bytes_are_attributed_to_the_last_entry_at_or_before_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::new(directory.path());
    monitor.write(Stream::Stdout, 1, b"one");
    // Bytes of these never came.
    monitor.entry(Stream::Stderr, 2);
    monitor.entry(Stream::Stdout, 3);
    monitor.write(Stream::Stderr, 4, b"two");
    monitor.entry(Stream::Stdout, 5);
    let mut reader = Reader::new(directory.path(), Position::default());
    assert_eq!(
        read_all(&mut reader),
        [(Stream::Stdout, 1, b"one".to_vec()), (Stream::Stderr, 4, b"two".to_vec())]
    );
    monitor.write(Stream::Stdout, 6, b"three");
    monitor.roll();
    monitor.write(Stream::Stdout, 7, b"four");
    assert_eq!(
        read_all(&mut reader),
        [(Stream::Stdout, 6, b"three".to_vec()), (Stream::Stdout, 7, b"four".to_vec())]
    );
    let mut again = Reader::new(directory.path(), Position { segment: 0, offset: 2 });
    assert_eq!(read_all(&mut again)[0], (Stream::Stdout, 1, b"e".to_vec()));
}

#[test]
fn a_torn_entry_waits_for_its_rest_and_a_lost_index_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::new(directory.path());
    monitor.write(Stream::Stderr, 1, b"a");
    append(&spool_index(directory.path(), 0), &[1, 2, 3]);
    let mut reader = Reader::new(directory.path(), Position::default());
    assert_eq!(read_all(&mut reader), [(Stream::Stderr, 1, b"a".to_vec())]);

    std::fs::remove_file(spool_index(directory.path(), 0)).unwrap();
    let mut reader = Reader::new(directory.path(), Position::default());
    let all = read_all(&mut reader);
    assert_eq!((all[0].0, all[0].2.as_slice()), (Stream::Stdout, &b"a"[..]));
}

#[test]
fn dropped_segments_are_a_gap_unless_they_were_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::new(directory.path());
    monitor.write(Stream::Stdout, 1, b"lost");
    let mut reader = Reader::new(directory.path(), Position::default());
    let mut reader_behind = Reader::new(directory.path(), Position::default());
    assert_eq!(reader.read().unwrap(), Found::Bytes);
    monitor.gap = true;
    monitor.roll();
    monitor.write(Stream::Stdout, 2, b"kept");
    for path in [spool_index(directory.path(), 0), spool_data(directory.path(), 0)] {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(reader.read().unwrap(), Found::Advanced { gap: false });
    assert_eq!(reader_behind.read().unwrap(), Found::Advanced { gap: true });
}

/// The records of a log and its older files, oldest first.
fn records(log: &Path) -> Vec<LogLine> {
    let mut paths: Vec<PathBuf> =
        (1..).map(|n| rotated(log, n)).take_while(|path| path.exists()).collect();
    paths.reverse();
    paths.push(log.to_owned());
    let mut all = Vec::new();
    for path in paths {
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["container"] = "web".into();
            all.push(serde_json::from_value(line).unwrap());
        }
    }
    all
}

fn text_of(records: &[LogLine], stream: &str) -> String {
    records.iter().filter(|line| line.stream == stream).map(|line| line.log.as_str()).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Write(Stream, Vec<u8>),
    Roll,
    Ship,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![
        4 => "[a-zé\n]{0,60}".prop_map(String::into_bytes),
        1 => (0usize..40_000).prop_map(|n| vec![b'x'; n]),
    ];
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let step = prop_oneof![
        5 => (stream, bytes).prop_map(|(stream, bytes)| Step::Write(stream, bytes)),
        1 => Just(Step::Roll),
        2 => Just(Step::Ship),
    ];
    prop::collection::vec(step, 0..10)
}

/// Writes and ships; killed at the `kill`th point. True if it was.
fn scenario(directory: &Path, steps: &[Step], options: &Options, kill: Option<u32>) -> bool {
    let (spool, log) = (directory.join("spool"), directory.join("json.log"));
    let mut monitor = Monitor::new(&spool);
    crash::arm(kill);
    for (time, step) in steps.iter().enumerate() {
        match step {
            Step::Write(stream, bytes) => monitor.write(*stream, time as u64, bytes),
            Step::Roll => monitor.roll(),
            Step::Ship => ship_all(&spool, &log, options, false),
        }
    }
    ship_all(&spool, &log, options, true);
    kill.is_some() && !crash::arm(None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn each_byte_is_in_the_log_once_wherever_the_shipper_is_killed(
        steps in steps(),
        max_size in prop_oneof![Just(None), (100u64..3000).prop_map(Some)],
    ) {
        // Enough files that none is dropped: every byte can be counted.
        let options = Options { max_size, max_file: 100_000 };
        let whole = tempfile::tempdir().unwrap();
        scenario(whole.path(), &steps, &options, None);
        let expected = records(&whole.path().join("json.log"));
        for (stream, name) in [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")] {
            let written: Vec<u8> = steps.iter().filter_map(|step| match step {
                Step::Write(to, bytes) if *to == stream => Some(bytes.as_slice()),
                _ => None,
            }).collect::<Vec<_>>().concat();
            prop_assert_eq!(text_of(&expected, name), String::from_utf8_lossy(&written));
        }
        for kill in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let killed = scenario(directory.path(), &steps, &options, Some(kill));
            let log = directory.path().join("json.log");
            prop_assert_eq!(&records(&log), &expected, "killed at {}", kill);
            let left = std::fs::read_dir(directory.path().join("spool")).unwrap().count();
            prop_assert_eq!(left, 0, "segments left, killed at {}", kill);
            if !killed || kill > 60 {
                break;
            }
        }
    }
}

#[test]
fn rotation_with_one_file_keeps_the_newest_lines_wherever_it_is_killed() {
    let steps = [
        Step::Write(Stream::Stdout, b"one\ntwo\nthree\n".to_vec()),
        Step::Ship,
        Step::Write(Stream::Stdout, b"four\nfive\n".to_vec()),
    ];
    for max_file in [1, 2] {
        let options = Options { max_size: Some(1), max_file };
        for kill in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let killed = scenario(directory.path(), &steps, &options, Some(kill));
            let all: Vec<String> = records(&directory.path().join("json.log"))
                .into_iter()
                .map(|line| line.log)
                .collect();
            let expected: &[&str] = if max_file == 1 { &["five\n"] } else { &["four\n", "five\n"] };
            assert_eq!(all, expected, "killed at {kill}");
            if !killed {
                break;
            }
        }
    }
}

fn config(directory: &Path, watcher: &Watcher) -> ShipperConfig {
    ShipperConfig {
        name: "task/web".to_owned(),
        spool: directory.join("spool"),
        log: directory.join("json.log"),
        options: Options::default(),
        keep_spool: false,
        stopped: false,
        watcher: watcher.clone(),
    }
}

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_lines_as_they_are_written_and_ends_with_the_container() {
    let directory = tempfile::tempdir().unwrap();
    let watcher = Watcher::start();
    let mut shipper = Shipper::spawn(config(directory.path(), &watcher));
    let source = Source {
        container: "web".to_owned(),
        log: directory.path().join("json.log"),
        ended: shipper.ended(),
    };
    let query = Query { follow: true, ..Query::default() };
    let mut lines = stream(vec![source], query, watcher.clone());
    // The spool comes after the shipper, as it may.
    let mut monitor = Monitor::new(&directory.path().join("spool"));
    for n in 0..20 {
        monitor.write(Stream::Stdout, n, format!("line {n}\n").as_bytes());
        let line = tokio::time::timeout(DEADLINE, lines.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((line.container.as_str(), line.log), ("web", format!("line {n}\n")));
    }
    monitor.write(Stream::Stderr, 99, b"end");
    shipper.stopped();
    tokio::time::timeout(DEADLINE, shipper.finished()).await.unwrap();
    let line = tokio::time::timeout(DEADLINE, lines.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((line.stream.as_str(), line.log.as_str()), ("stderr", "end"));
    assert!(tokio::time::timeout(DEADLINE, lines.next()).await.unwrap().is_none());
    shipper.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_shipper_is_gone_on_with_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let watcher = Watcher::start();
    let mut monitor = Monitor::new(&directory.path().join("spool"));
    monitor.write(Stream::Stdout, 1, b"one\ntw");
    let log = directory.path().join("json.log");
    let shipper = Shipper::spawn(config(directory.path(), &watcher));
    let deadline = std::time::Instant::now() + DEADLINE;
    while std::fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        assert!(std::time::Instant::now() < deadline, "no line in the log");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shipper.close().await;
    monitor.write(Stream::Stdout, 2, b"o\n");
    let mut next =
        Shipper::spawn(ShipperConfig { stopped: true, ..config(directory.path(), &watcher) });
    tokio::time::timeout(DEADLINE, next.finished()).await.unwrap();
    assert_eq!(text_of(&records(&log), "stdout"), "one\ntwo\n");
}

fn record(time: u32, text: &str) -> String {
    format!(
        "{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-21T10:00:{time:02}Z\"}}\n"
    )
}

async fn history(sources: &[(&str, &Path)], query: Query) -> Vec<String> {
    let sources = sources
        .iter()
        .map(|(name, log)| Source::complete((*name).to_owned(), (*log).to_owned()))
        .collect();
    let lines = stream(sources, query, Watcher::start());
    lines.map(|line| line.unwrap().log.trim_end().to_owned()).collect().await
}

#[tokio::test]
async fn history_is_merged_by_time_cut_by_tail_and_since_and_read_across_rotation() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) = (directory.path().join("a.log"), directory.path().join("b.log"));
    let write = |path: &Path, records: &[String]| std::fs::write(path, records.concat()).unwrap();
    write(&rotated(&a, 2), &[record(1, "a1"), record(3, "a3")]);
    write(&rotated(&a, 1), &[record(5, "a5")]);
    write(&a, &[record(7, "a7"), record(9, "a9"), "{\"log\":\"torn".to_owned()]);
    write(&b, &[record(2, "b2"), "damaged\n".to_owned(), record(8, "b8")]);
    let missing = directory.path().join("missing.log");
    let sources: [(&str, &Path); 3] = [("a", &a), ("b", &b), ("c", &missing)];

    let all = history(&sources, Query::default()).await;
    assert_eq!(all, ["a1", "b2", "a3", "a5", "a7", "b8", "a9"]);
    for (tail, expected) in [
        (0, vec![]),
        (1, vec!["b8", "a9"]),
        (2, vec!["a7", "b8", "a9"]),
        (3, vec!["b2", "a5", "a7", "b8", "a9"]),
        (4, vec!["b2", "a3", "a5", "a7", "b8", "a9"]),
        (99, vec!["a1", "b2", "a3", "a5", "a7", "b8", "a9"]),
    ] {
        let query = Query { tail: Some(tail), ..Query::default() };
        assert_eq!(history(&sources, query).await, expected, "{tail}");
    }
    let since = Query { since: "2026-11-21T10:00:07Z".parse().ok(), ..Query::default() };
    assert_eq!(history(&sources, since).await, ["a7", "b8", "a9"]);
    let only = Query { containers: vec!["b".to_owned()], ..Query::default() };
    assert_eq!(history(&sources, only).await, ["b2", "b8"]);
    // Of an ended container there is nothing to wait for.
    let follow = Query { follow: true, ..Query::default() };
    assert_eq!(history(&sources, follow).await.len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_goes_along_with_rotation_and_waits_out_a_cut() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("json.log");
    std::fs::write(&log, record(1, "one") + &record(2, "two")).unwrap();
    let (ended, seen) = watch::channel(false);
    let source = Source { container: "web".to_owned(), log: log.clone(), ended: seen };
    let query = Query { follow: true, ..Query::default() };
    let mut lines = stream(vec![source], query, Watcher::start());
    let mut next = async || {
        let line = tokio::time::timeout(DEADLINE, lines.next()).await.unwrap();
        line.map(|line| line.unwrap().log.trim_end().to_owned())
    };
    assert_eq!(next().await.as_deref(), Some("one"));
    assert_eq!(next().await.as_deref(), Some("two"));
    // A shipper that was killed cuts off what it writes again.
    let file = OpenOptions::new().write(true).open(&log).unwrap();
    file.set_len(record(1, "one").len() as u64).unwrap();
    append(&log, record(2, "two").as_bytes());
    append(&log, record(3, "three").as_bytes());
    std::fs::rename(&log, rotated(&log, 1)).unwrap();
    std::fs::write(&log, record(4, "four")).unwrap();
    assert_eq!(next().await.as_deref(), Some("three"));
    assert_eq!(next().await.as_deref(), Some("four"));
    ended.send_replace(true);
    assert_eq!(next().await, None);
}
