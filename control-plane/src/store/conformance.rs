//! What every store promises, as functions over any [`Store`]. `suite!` makes a test of each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Change, Changes, Compare, Error, KeyValue, LeaseId, Operation, Outcome, Store, Transaction,
    Watch,
};

/// A store under test, empty at first.
pub(super) trait Subject {
    /// Opens it. What was opened before is dropped.
    fn open(&self) -> Arc<dyn Store>;
    /// It keeps changes of this many revisions at least, and not many more.
    fn kept(&self) -> u64;
}

/// Makes a test of each promise, for the subject that an expression makes.
macro_rules! suite {
    ($subject:expr) => {
        $crate::store::conformance::suite! { $subject;
            revisions_count_changes
            created_and_modified
            compares_hold_or_nothing_is_done
            all_or_nothing
            a_key_named_twice_is_refused
            nothing_changed_is_no_revision
            range_is_in_order_and_of_the_prefix
            any_bytes_and_large_values
            watch_tells_everything_under_concurrent_writers
            watch_from_the_past
            watch_of_a_prefix
            watch_from_the_future
            a_slow_watch_loses_nothing_or_says_so
            compaction
            a_lease_ends_with_its_keys
            a_lease_kept_alive_stays
            revoke_deletes_the_keys
            keys_move_between_leases
            a_deleted_key_leaves_its_lease
            an_unknown_lease_is_refused
            lease_ids_are_not_used_again
            reopen_keeps_everything
            leases_begin_anew_after_reopen
            increments_by_compare_and_swap_lose_none
        }
    };
    ($subject:expr; $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::store::conformance::$name(&$subject).await;
            }
        )*
    };
}
pub(super) use suite;

/// Longer than anything here takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), lease: None }
}

fn leased(key: &str, lease: LeaseId) -> Operation {
    Operation::Put { key: key.to_owned(), value: b"leased".to_vec(), lease: Some(lease) }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.to_owned() }
}

fn if_modified(key: &str, modified: u64) -> Compare {
    Compare { key: key.to_owned(), modified }
}

async fn commit(store: &dyn Store, operations: Vec<Operation>) -> u64 {
    let transaction = Transaction { compares: Vec::new(), operations };
    let outcome = store.transact(transaction).await.unwrap();
    assert!(outcome.succeeded);
    outcome.revision
}

async fn commit_if(
    store: &dyn Store,
    compares: Vec<Compare>,
    operations: Vec<Operation>,
) -> Outcome {
    store.transact(Transaction { compares, operations }).await.unwrap()
}

async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    let range = store.range(key).await.unwrap();
    range.keys.into_iter().find(|found| found.key == key)
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.range(prefix).await.unwrap().keys.into_iter().map(|found| found.key).collect()
}

async fn next(watch: &mut Watch) -> Changes {
    let next = tokio::time::timeout(DEADLINE, watch.recv()).await.expect("changes in time");
    next.expect("the watch goes on").unwrap()
}

async fn gone(store: &dyn Store, key: &str) {
    let begun = Instant::now();
    while get(store, key).await.is_some() {
        assert!(begun.elapsed() < DEADLINE, "{key} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Applies changes to a copy of the keys.
fn apply(copy: &mut BTreeMap<String, KeyValue>, changes: &Changes) {
    for change in &changes.changes {
        match change {
            Change::Put(record) => drop(copy.insert(record.key.clone(), record.clone())),
            Change::Delete { key } => assert!(copy.remove(key).is_some(), "{key} was not there"),
        }
    }
}

pub(super) async fn revisions_count_changes(subject: &impl Subject) {
    let store = subject.open();
    let start = store.range("").await.unwrap();
    assert!(start.keys.is_empty());
    assert_eq!(commit(&*store, vec![put("a", "1")]).await, start.revision + 1);
    assert_eq!(commit(&*store, vec![put("a", "1")]).await, start.revision + 2);
    assert_eq!(commit(&*store, vec![put("b", "1"), put("c", "1")]).await, start.revision + 3);
    assert_eq!(store.range("nothing").await.unwrap().revision, start.revision + 3);
}

pub(super) async fn created_and_modified(subject: &impl Subject) {
    let store = subject.open();
    let first = commit(&*store, vec![put("a", "1"), put("b", "1")]).await;
    let second = commit(&*store, vec![put("a", "2")]).await;
    let a = get(&*store, "a").await.unwrap();
    assert_eq!((a.created, a.modified, a.value), (first, second, b"2".to_vec()));
    let b = get(&*store, "b").await.unwrap();
    assert_eq!((b.created, b.modified, b.lease), (first, first, None));
    commit(&*store, vec![delete("a")]).await;
    assert_eq!(get(&*store, "a").await, None);
    let again = commit(&*store, vec![put("a", "3")]).await;
    assert_eq!(get(&*store, "a").await.unwrap().created, again);
}

pub(super) async fn compares_hold_or_nothing_is_done(subject: &impl Subject) {
    let store = subject.open();
    let created = commit_if(&*store, vec![if_modified("a", 0)], vec![put("a", "1")]).await;
    assert!(created.succeeded);
    let again = commit_if(&*store, vec![if_modified("a", 0)], vec![put("a", "2")]).await;
    assert_eq!(again, Outcome { succeeded: false, revision: created.revision });
    let wrong = vec![if_modified("a", created.revision + 1)];
    assert!(!commit_if(&*store, wrong, vec![put("a", "2")]).await.succeeded);
    let absent = vec![if_modified("b", 7)];
    assert!(!commit_if(&*store, absent, vec![put("b", "2")]).await.succeeded);
    assert_eq!(get(&*store, "a").await.unwrap().value, b"1");
    let right = vec![if_modified("a", created.revision), if_modified("b", 0)];
    assert!(commit_if(&*store, right, vec![delete("a")]).await.succeeded);
    assert!(commit_if(&*store, vec![if_modified("a", 0)], vec![put("a", "3")]).await.succeeded);
    // Only compares: an answer, and no revision.
    let before = store.range("").await.unwrap().revision;
    let only = commit_if(&*store, vec![if_modified("b", 0)], Vec::new()).await;
    assert_eq!(only, Outcome { succeeded: true, revision: before });
}

pub(super) async fn all_or_nothing(subject: &impl Subject) {
    let store = subject.open();
    let revision = commit(&*store, vec![put("a", "1"), put("b", "1")]).await;
    let compares = vec![if_modified("a", revision), if_modified("b", 0)];
    let operations = vec![put("a", "2"), delete("b"), put("c", "2")];
    assert!(!commit_if(&*store, compares, operations).await.succeeded);
    let range = store.range("").await.unwrap();
    assert_eq!(range.revision, revision);
    assert_eq!(range.keys.len(), 2);
    assert!(range.keys.iter().all(|found| found.value == b"1" && found.modified == revision));
}

pub(super) async fn a_key_named_twice_is_refused(subject: &impl Subject) {
    let store = subject.open();
    let revision = store.range("").await.unwrap().revision;
    for second in [put("a", "2"), delete("a")] {
        let transaction =
            Transaction { compares: Vec::new(), operations: vec![put("a", "1"), second] };
        let error = store.transact(transaction).await.unwrap_err();
        assert!(matches!(&error, Error::Twice(key) if key == "a"), "{error}");
    }
    let range = store.range("").await.unwrap();
    assert_eq!((range.revision, range.keys.len()), (revision, 0));
}

pub(super) async fn nothing_changed_is_no_revision(subject: &impl Subject) {
    let store = subject.open();
    let revision = commit(&*store, vec![put("a", "1")]).await;
    assert_eq!(commit(&*store, vec![delete("absent")]).await, revision);
    assert_eq!(commit(&*store, Vec::new()).await, revision);
    let mut watch = store.watch("", revision).await.unwrap();
    assert_eq!(commit(&*store, vec![delete("absent"), put("b", "1")]).await, revision + 1);
    let changes = next(&mut watch).await;
    assert_eq!(changes.revision, revision + 1);
    assert!(matches!(&changes.changes[..], [Change::Put(record)] if record.key == "b"));
}

pub(super) async fn range_is_in_order_and_of_the_prefix(subject: &impl Subject) {
    let store = subject.open();
    let last = "a\u{10ffff}";
    let names =
        ["", "a", "a/", "a/\u{7f}", "a/é", "a/\u{10ffff}", "a/\u{10ffff}x", "a0", last, "b", "Z"];
    // An empty key is not a key everywhere.
    let names = &names[1..];
    for name in names.iter().rev() {
        commit(&*store, vec![put(name, "1")]).await;
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(keys(&*store, "").await, sorted);
    assert_eq!(
        keys(&*store, "a/").await,
        ["a/", "a/\u{7f}", "a/é", "a/\u{10ffff}", "a/\u{10ffff}x"]
    );
    assert_eq!(keys(&*store, "a/\u{10ffff}").await, ["a/\u{10ffff}", "a/\u{10ffff}x"]);
    assert_eq!(keys(&*store, last).await, [last]);
    assert_eq!(keys(&*store, "\u{10ffff}").await, [""; 0]);
    assert_eq!(keys(&*store, "b").await, ["b"]);
    assert_eq!(keys(&*store, "ba").await, [""; 0]);
}

pub(super) async fn any_bytes_and_large_values(subject: &impl Subject) {
    let store = subject.open();
    let every: Vec<u8> = (0..=u8::MAX).collect();
    let large = every.repeat(4096);
    let operations = [("every", &every), ("large", &large), ("none", &Vec::new())]
        .map(|(key, value)| Operation::Put { key: key.into(), value: value.clone(), lease: None });
    commit(&*store, operations.to_vec()).await;
    assert_eq!(get(&*store, "every").await.unwrap().value, every);
    assert_eq!(get(&*store, "large").await.unwrap().value, large);
    assert_eq!(get(&*store, "none").await.unwrap().value, b"");
}

pub(super) async fn watch_tells_everything_under_concurrent_writers(subject: &impl Subject) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 40;
    let store = subject.open();
    let start = store.range("").await.unwrap().revision;
    let mut watch = store.watch("", start).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..EACH {
                let own = put(&format!("own/{writer}/{}", number % 7), &number.to_string());
                let common = put("common", &writer.to_string());
                commit(&*store, vec![own, common]).await;
                if number % 10 == 9 {
                    commit(&*store, vec![delete(&format!("own/{writer}/{}", number % 7))]).await;
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let end = store.range("").await.unwrap();
    assert_eq!(end.revision, start + WRITERS * (EACH + EACH / 10));
    let mut copy = BTreeMap::new();
    for revision in start + 1..=end.revision {
        let changes = next(&mut watch).await;
        assert_eq!(changes.revision, revision);
        apply(&mut copy, &changes);
    }
    assert_eq!(copy.into_values().collect::<Vec<_>>(), end.keys);
}

pub(super) async fn watch_from_the_past(subject: &impl Subject) {
    let store = subject.open();
    let start = store.range("").await.unwrap().revision;
    for number in 0..20 {
        commit(&*store, vec![put("a", &number.to_string()), put("b", "1")]).await;
    }
    commit(&*store, vec![delete("b")]).await;
    for after in [start, start + 7, start + 20] {
        let mut watch = store.watch("", after).await.unwrap();
        for revision in after + 1..=start + 21 {
            assert_eq!(next(&mut watch).await.revision, revision);
        }
    }
    // What a watch replays is what one that was there was told.
    let mut watch = store.watch("", start).await.unwrap();
    let mut copy = BTreeMap::new();
    for _ in 0..21 {
        apply(&mut copy, &next(&mut watch).await);
    }
    let now = store.range("").await.unwrap();
    assert_eq!(copy.into_values().collect::<Vec<_>>(), now.keys);
    let revision = commit(&*store, vec![put("later", "1")]).await;
    assert_eq!(next(&mut watch).await.revision, revision);
}

pub(super) async fn watch_of_a_prefix(subject: &impl Subject) {
    let store = subject.open();
    let start = store.range("").await.unwrap().revision;
    let mut early = store.watch("a/", start).await.unwrap();
    commit(&*store, vec![put("a/1", "1"), put("b/1", "1")]).await;
    commit(&*store, vec![put("b/2", "1")]).await;
    commit(&*store, vec![delete("b/1")]).await;
    let last = commit(&*store, vec![delete("a/1")]).await;
    let mut late = store.watch("a/", start).await.unwrap();
    for watch in [&mut early, &mut late] {
        let first = next(watch).await;
        assert_eq!(first.revision, start + 1);
        assert!(matches!(&first.changes[..], [Change::Put(record)] if record.key == "a/1"));
        let second = next(watch).await;
        assert_eq!(second.revision, last);
        assert_eq!(second.changes, [Change::Delete { key: "a/1".into() }]);
    }
}

pub(super) async fn watch_from_the_future(subject: &impl Subject) {
    let store = subject.open();
    let now = store.range("").await.unwrap().revision;
    let mut watch = store.watch("", now + 2).await.unwrap();
    for _ in 0..3 {
        commit(&*store, vec![put("a", "1")]).await;
    }
    assert_eq!(next(&mut watch).await.revision, now + 3);
}

pub(super) async fn a_slow_watch_loses_nothing_or_says_so(subject: &impl Subject) {
    let store = subject.open();
    let start = store.range("").await.unwrap().revision;
    let mut slow = store.watch("", start).await.unwrap();
    let mut quick = store.watch("", start).await.unwrap();
    let count = subject.kept() * 4;
    for number in 1..=count {
        commit(&*store, vec![put("a", &number.to_string())]).await;
        assert_eq!(next(&mut quick).await.revision, start + number);
    }
    let mut last = start;
    loop {
        match tokio::time::timeout(DEADLINE, slow.recv()).await.unwrap() {
            Some(Ok(changes)) => {
                assert_eq!(changes.revision, last + 1);
                last += 1;
            }
            Some(Err(Error::Compacted(after))) => {
                assert!(after >= last && after < start + count, "{after}");
                break;
            }
            other => panic!("{other:?}"),
        }
        if last == start + count {
            return;
        }
    }
    assert!(slow.recv().await.is_none());
    // It goes on with a new range.
    let range = store.range("").await.unwrap();
    let mut again = store.watch("", range.revision).await.unwrap();
    commit(&*store, vec![put("b", "1")]).await;
    assert_eq!(next(&mut again).await.revision, range.revision + 1);
}

pub(super) async fn compaction(subject: &impl Subject) {
    let store = subject.open();
    let start = store.range("").await.unwrap().revision;
    let kept = subject.kept();
    for number in 0..kept * 3 {
        commit(&*store, vec![put(&format!("key/{}", number % 5), "1")]).await;
    }
    let end = start + kept * 3;
    let error = store.watch("", start).await.unwrap_err();
    assert!(matches!(error, Error::Compacted(after) if after == start), "{error}");
    let mut watch = store.watch("", end - kept).await.unwrap();
    for revision in end - kept + 1..=end {
        assert_eq!(next(&mut watch).await.revision, revision);
    }
    assert_eq!(store.range("").await.unwrap().keys.len(), 5);
    drop(watch);
    drop(store);
    let store = subject.open();
    assert!(matches!(store.watch("", start).await, Err(Error::Compacted(_))));
    let mut watch = store.watch("", end - kept).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, end - kept + 1);
}

pub(super) async fn a_lease_ends_with_its_keys(subject: &impl Subject) {
    let store = subject.open();
    let lease = store.grant(Duration::from_millis(200)).await.unwrap();
    let begun = Instant::now();
    let revision =
        commit(&*store, vec![leased("a", lease), leased("b", lease), put("c", "1")]).await;
    assert_eq!(get(&*store, "a").await.unwrap().lease, Some(lease));
    let mut watch = store.watch("", revision).await.unwrap();
    let changes = next(&mut watch).await;
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    assert_eq!(changes.revision, revision + 1);
    let deleted = ["a", "b"].map(|key| Change::Delete { key: key.into() });
    assert_eq!(changes.changes, deleted);
    assert_eq!(keys(&*store, "").await, ["c"]);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::NoLease(id)) if id == lease.0));
}

pub(super) async fn a_lease_kept_alive_stays(subject: &impl Subject) {
    let store = subject.open();
    let lease = store.grant(Duration::from_millis(1500)).await.unwrap();
    commit(&*store, vec![leased("a", lease)]).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert!(get(&*store, "a").await.is_some());
    gone(&*store, "a").await;
}

pub(super) async fn revoke_deletes_the_keys(subject: &impl Subject) {
    let store = subject.open();
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    let other = store.grant(Duration::from_secs(600)).await.unwrap();
    let revision = commit(&*store, vec![leased("a", lease), leased("b", other)]).await;
    store.revoke(lease).await.unwrap();
    let range = store.range("").await.unwrap();
    assert_eq!(range.revision, revision + 1);
    assert_eq!(range.keys.len(), 1);
    assert_eq!(range.keys[0].key, "b");
    assert!(matches!(store.revoke(lease).await, Err(Error::NoLease(_))));
    // A lease without keys ends without a revision.
    let empty = store.grant(Duration::from_secs(600)).await.unwrap();
    store.revoke(empty).await.unwrap();
    assert_eq!(store.range("").await.unwrap().revision, revision + 1);
}

pub(super) async fn keys_move_between_leases(subject: &impl Subject) {
    let store = subject.open();
    let first = store.grant(Duration::from_secs(600)).await.unwrap();
    let second = store.grant(Duration::from_secs(600)).await.unwrap();
    commit(&*store, vec![leased("moved", first), leased("freed", first), leased("same", first)])
        .await;
    let operations = vec![leased("moved", second), put("freed", "1"), leased("same", first)];
    commit(&*store, operations).await;
    store.revoke(first).await.unwrap();
    assert_eq!(keys(&*store, "").await, ["freed", "moved"]);
    assert_eq!(get(&*store, "moved").await.unwrap().lease, Some(second));
    assert_eq!(get(&*store, "freed").await.unwrap().lease, None);
    store.revoke(second).await.unwrap();
    assert_eq!(keys(&*store, "").await, ["freed"]);
}

pub(super) async fn a_deleted_key_leaves_its_lease(subject: &impl Subject) {
    let store = subject.open();
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    commit(&*store, vec![leased("a", lease)]).await;
    commit(&*store, vec![delete("a")]).await;
    let revision = commit(&*store, vec![put("a", "mine")]).await;
    store.revoke(lease).await.unwrap();
    let range = store.range("").await.unwrap();
    assert_eq!(range.revision, revision);
    assert_eq!(range.keys[0].value, b"mine");
}

pub(super) async fn an_unknown_lease_is_refused(subject: &impl Subject) {
    let store = subject.open();
    let unknown = LeaseId(987_654);
    let transaction =
        Transaction { compares: Vec::new(), operations: vec![put("a", "1"), leased("b", unknown)] };
    assert!(matches!(store.transact(transaction).await, Err(Error::NoLease(987_654))));
    assert!(matches!(store.keep_alive(unknown).await, Err(Error::NoLease(987_654))));
    assert!(matches!(store.revoke(unknown).await, Err(Error::NoLease(987_654))));
    assert!(keys(&*store, "").await.is_empty());
}

pub(super) async fn lease_ids_are_not_used_again(subject: &impl Subject) {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let store = subject.open();
        for _ in 0..3 {
            let lease = store.grant(Duration::from_secs(600)).await.unwrap();
            assert!(lease.0 != 0 && seen.insert(lease));
            store.revoke(lease).await.unwrap();
        }
    }
}

pub(super) async fn reopen_keeps_everything(subject: &impl Subject) {
    let store = subject.open();
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    commit(&*store, vec![put("a", "1"), leased("b", lease)]).await;
    commit(&*store, vec![put("a", "2"), put("c", "1")]).await;
    commit(&*store, vec![delete("c")]).await;
    let before = store.range("").await.unwrap();
    let mut watch = store.watch("", before.revision).await.unwrap();
    drop(store);
    // A watch ends with its store.
    assert!(tokio::time::timeout(DEADLINE, watch.recv()).await.unwrap().is_none());
    let store = subject.open();
    assert_eq!(store.range("").await.unwrap(), before);
    assert_eq!(commit(&*store, vec![put("d", "1")]).await, before.revision + 1);
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(keys(&*store, "").await, ["a", "d"]);
}

pub(super) async fn leases_begin_anew_after_reopen(subject: &impl Subject) {
    let ttl = Duration::from_millis(1500);
    let store = subject.open();
    let lease = store.grant(ttl).await.unwrap();
    commit(&*store, vec![leased("a", lease)]).await;
    drop(store);
    tokio::time::sleep(ttl).await;
    let store = subject.open();
    let begun = Instant::now();
    assert!(get(&*store, "a").await.is_some());
    gone(&*store, "a").await;
    assert!(begun.elapsed() > ttl / 2, "{:?}", begun.elapsed());
}

pub(super) async fn increments_by_compare_and_swap_lose_none(subject: &impl Subject) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let store = subject.open();
    let writers = (0..WRITERS).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..EACH {
                loop {
                    let before = get(&*store, "count").await;
                    let (modified, count) = before.map_or((0, 0), |found| {
                        let text = String::from_utf8(found.value).unwrap();
                        (found.modified, text.parse::<usize>().unwrap())
                    });
                    let operation = put("count", &(count + 1).to_string());
                    let compare = if_modified("count", modified);
                    if commit_if(&*store, vec![compare], vec![operation]).await.succeeded {
                        break;
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let count = get(&*store, "count").await.unwrap();
    assert_eq!(count.value, (WRITERS * EACH).to_string().as_bytes());
}
