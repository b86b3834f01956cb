#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use protocol::error::chain;

use super::super::conformance::{self, Subject, put};
use super::*;

/// Few revisions are kept, so that tests can outrun the log.
const KEPT: u64 = 400;

struct InDirectory(tempfile::TempDir);

impl InDirectory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("store.redb")
    }
}

impl Subject for InDirectory {
    fn open(&self) -> Arc<dyn Store> {
        let limits = Limits { log_revisions: KEPT, ..Limits::default() };
        Arc::new(Redb::open_with(&self.path(), limits).unwrap())
    }

    fn kept(&self) -> u64 {
        KEPT
    }
}

mod suite {
    super::conformance::suite!(super::InDirectory::new());
}

fn transaction(key: &str, bytes: usize) -> Transaction {
    Transaction { compares: Vec::new(), operations: vec![put(key, &"x".repeat(bytes))] }
}

#[test]
fn the_file_is_its_owners_only() {
    let directory = InDirectory::new();
    drop(Redb::open(&directory.path()).unwrap());
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(directory.path()), 0o600);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Redb::open(&directory.path()).unwrap());
    assert_eq!(mode(directory.path()), 0o600);
}

#[test]
fn a_file_in_use_is_refused() {
    let directory = InDirectory::new();
    let _first = Redb::open(&directory.path()).unwrap();
    let error = Redb::open(&directory.path()).unwrap_err();
    let expected =
        format!("open the store {}: another process has it open", directory.path().display());
    assert_eq!(chain(&error), expected);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let directory = InDirectory::new();
    let text = "not a database ".repeat(1000);
    std::fs::write(directory.path(), &text).unwrap();
    assert!(matches!(Redb::open(&directory.path()), Err(Error::File { operation: "open", .. })));
    assert_eq!(std::fs::read_to_string(directory.path()).unwrap(), text);
    let nowhere = directory.0.path().join("absent/store.redb");
    assert!(chain(&Redb::open(&nowhere).unwrap_err()).contains("absent"));
}

#[test]
fn the_schema_of_another_version_is_refused() {
    let directory = InDirectory::new();
    drop(Redb::open(&directory.path()).unwrap());
    let database = ::redb::Database::open(directory.path()).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(file::META).unwrap().insert(file::meta::SCHEMA, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = chain(&Redb::open(&directory.path()).unwrap_err());
    assert!(error.contains("it has the schema 2"), "{error}");
}

/// A disk or a copy that lost something: opening or reading fails with an error, and does not panic.
#[tokio::test]
async fn a_damaged_file_is_refused() {
    let directory = InDirectory::new();
    let path = directory.path();
    let store = Redb::open(&path).unwrap();
    for number in 0..50 {
        store.transact(transaction(&format!("key/{number}"), 2000)).await.unwrap();
    }
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % below as u64).unwrap()
    };
    let mut refused = 0;
    for round in 0..120 {
        let mut damaged = whole.clone();
        match round % 4 {
            0 => damaged.truncate(1 + draw(whole.len() - 1)),
            1 => damaged.truncate((1 + draw(whole.len() / 4096 - 1)) * 4096),
            2 => {
                // Of the header.
                let at = draw(512);
                damaged[at] ^= 1 << draw(8);
            }
            _ => {
                let at = draw(whole.len() - 4096);
                damaged[at..at + 4096].fill(0);
            }
        }
        std::fs::write(&path, &damaged).unwrap();
        let found = match Redb::open(&path) {
            Err(error) => Err(error),
            Ok(store) => match store.range("").await {
                Err(error) => Err(error),
                Ok(_) => store.transact(transaction("more", 10)).await,
            },
        };
        if let Err(error) = found {
            assert!(matches!(error, Error::File { .. }), "round {round}: {error:?}");
            refused += 1;
        }
    }
    assert!(refused > 40, "{refused}");
}

#[tokio::test]
async fn the_log_is_bounded_in_bytes() {
    let directory = InDirectory::new();
    let limits = Limits { log_revisions: 1000, log_bytes: 64 << 10 };
    let store = Redb::open_with(&directory.path(), limits).unwrap();
    for _ in 0..64 {
        store.transact(transaction("a", 8 << 10)).await.unwrap();
    }
    let marks = store.shared.file.read(file::marks).unwrap();
    assert!(marks.log_bytes <= limits.log_bytes && marks.log_bytes > limits.log_bytes / 2);
    assert_eq!(marks.compacted, 64 - 7);
    assert!(matches!(store.watch("", 56).await, Err(Error::Compacted(56))));
    let mut watch = store.watch("", 57).await.unwrap();
    assert_eq!(watch.recv().await.unwrap().unwrap().revision, 58);
    // One change larger than the whole log is stored all the same.
    store.transact(transaction("large", 128 << 10)).await.unwrap();
    let marks = store.shared.file.read(file::marks).unwrap();
    assert_eq!((marks.log_bytes, marks.compacted, marks.revision), (0, 65, 65));
    assert_eq!(store.range("large").await.unwrap().keys.len(), 1);
}

#[tokio::test]
async fn recent_changes_are_bounded_and_without_a_gap() {
    let directory = InDirectory::new();
    let store = Redb::open(&directory.path()).unwrap();
    for number in 0..RECENT * 2 {
        store.transact(transaction(&format!("key/{}", number % 3), 10)).await.unwrap();
    }
    {
        let recent = store.shared.recent.lock().unwrap();
        assert_eq!(recent.changes.len(), RECENT);
        let bytes: usize = recent.changes.iter().map(|changes| size(changes)).sum();
        assert_eq!(recent.bytes, bytes);
    }
    let last = 2 * RECENT as u64;
    assert!(store.shared.recent(last).is_empty());
    assert_eq!(store.shared.recent(last - 1).len(), 1);
    assert_eq!(store.shared.recent(RECENT as u64).len(), WATCH);
    assert!(store.shared.recent(RECENT as u64 - 1).is_empty());
    store.transact(transaction("large", RECENT_BYTES)).await.unwrap();
    let recent = store.shared.recent.lock().unwrap();
    assert_eq!((recent.changes.len(), recent.bytes), (0, 0));
}

#[tokio::test]
async fn what_was_asked_is_done_before_the_store_is_gone() {
    let directory = InDirectory::new();
    let store = Redb::open(&directory.path()).unwrap();
    for number in 0..100 {
        let place = Arc::clone(&store.places).acquire_owned().await.unwrap();
        let (reply, _) = Reply::new(place);
        let request = Request::Transact(transaction(&format!("key/{number}"), 1), reply);
        store.queue.as_ref().unwrap().send(request).unwrap();
    }
    drop(store);
    let store = Redb::open(&directory.path()).unwrap();
    assert_eq!(store.range("key/").await.unwrap().keys.len(), 100);
}

#[tokio::test]
async fn a_watch_nobody_wants_ends() {
    let directory = InDirectory::new();
    let store = Redb::open(&directory.path()).unwrap();
    let watch = store.watch("", 0).await.unwrap();
    assert_eq!(Arc::strong_count(&store.shared), 3);
    drop(watch);
    let begun = Instant::now();
    while Arc::strong_count(&store.shared) > 2 {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Transactions per second: a new file, whose blocks are yet to be allocated, and one whose log is
/// full; one committer, and many at once. `benches/run.sh scheduler` runs it as shipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn measure_transactions_per_second() {
    let value = "x".repeat(2048);
    let directory = InDirectory::new();
    let store = Arc::new(Redb::open(&directory.path()).unwrap());
    println!("\ncommits a second, 2 KiB each, to the store");
    for (committers, file) in [(1, "new"), (64, "growing"), (64, "full"), (1, "full")] {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(3);
        let tasks: Vec<_> = (0..committers)
            .map(|committer| {
                let (store, value) = (Arc::clone(&store), value.clone());
                tokio::spawn(async move {
                    let mut count = 0_u32;
                    while Instant::now() < until {
                        let key = format!("task/{committer}/{}", count % 100);
                        let operations = vec![put(&key, &value)];
                        let compares = Vec::new();
                        store.transact(Transaction { compares, operations }).await.unwrap();
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let mut total = 0;
        for task in tasks {
            total += task.await.unwrap();
        }
        let rate = f64::from(total) / begun.elapsed().as_secs_f64();
        let size = std::fs::metadata(directory.path()).unwrap().len() >> 20;
        let what = format!("{committers} at once, {file} file, then of {size} MiB");
        println!("  {what:54} {rate:12.0}");
    }
}
