#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::{collection, option};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::model::*;
use crate::scheduler::fixtures::access_key;
use crate::store::{Answer, Change, Changes, KeyValue, LeaseId, Outcome, Range, Redb, Transaction};

const REGION: &str = "us-east-1";
const DEADLINE: Duration = Duration::from_secs(20);

fn family(name: &str, last_revision: u32) -> Family {
    Family { region: REGION.into(), name: name.into(), last_revision }
}

fn family_key(name: &str) -> String {
    Family::key_of(REGION, name)
}

fn connection(instance: &str) -> Connection {
    Connection {
        region: REGION.into(),
        cluster: "default".into(),
        instance: instance.into(),
        session: "1".into(),
        since: Timestamp::UNIX_EPOCH,
    }
}

/// As an older version wrote it: fields that came later are not there.
fn instance(id: &str) -> Instance {
    serde_json::from_value(json!({
        "region": REGION,
        "cluster": "default",
        "id": id,
        "status": "ACTIVE",
        "resources": { "cpu": 1024, "memory": 1024, "ports": [], "ports_udp": [] },
        "attributes": { "ecs.os-type": "linux" },
        "custom_attributes": [],
        "tags": [],
        "version_info": {},
        "registered_at": Timestamp::UNIX_EPOCH,
        "version": 1,
    }))
    .unwrap()
}

fn task(id: &str, instance: &str, service: Option<&str>, last: TaskStatus) -> Task {
    serde_json::from_value(json!({
        "region": REGION,
        "cluster": "default",
        "id": id,
        "definition": { "family": "web", "revision": 1 },
        "instance": instance,
        "launch_type": "EC2",
        "group": service.map_or("family:web".into(), |name| format!("service:{name}")),
        "service": service,
        "overrides": {},
        "reserved": { "cpu": 256, "memory": 512, "ports": [] },
        "desired": "RUNNING",
        "last": last,
        "containers": [],
        "health": "UNKNOWN",
        "created_at": Timestamp::UNIX_EPOCH,
        "tags": [],
        "enable_execute_command": false,
        "version": 1,
    }))
    .unwrap()
}

/// Everything that a view holds of the records, as JSON by key, with their revisions.
fn records(view: &View) -> BTreeMap<String, (u64, Value)> {
    fn add<T: Entity>(view: &View, into: &mut BTreeMap<String, (u64, Value)>) {
        for (key, stored) in view.table::<T>().prefix("") {
            assert_eq!(stored.key(), key);
            into.insert(key.into(), (stored.modified, json!(stored.value)));
        }
    }
    let mut all = BTreeMap::new();
    add::<Cluster>(view, &mut all);
    add::<Family>(view, &mut all);
    add::<Definition>(view, &mut all);
    add::<Instance>(view, &mut all);
    add::<Guard>(view, &mut all);
    add::<Connection>(view, &mut all);
    add::<Task>(view, &mut all);
    add::<Service>(view, &mut all);
    add::<Token>(view, &mut all);
    add::<AccessKey>(view, &mut all);
    add::<Role>(view, &mut all);
    all
}

fn assert_same(one: &View, other: &View) {
    assert_eq!(one.revision, other.revision);
    assert_eq!(records(one), records(other));
    assert_eq!(format!("{:?}", one.indexes()), format!("{:?}", other.indexes()));
    let hosts = |view: &View| {
        view.hosts()
            .prefix("")
            .map(|(key, host)| (key.to_owned(), host.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(hosts(one), hosts(other));
}

async fn open(path: &Path) -> Arc<State> {
    State::open(Arc::new(Redb::open(path).unwrap())).await.unwrap()
}

/// Closes a state and its store.
fn close(state: Arc<State>) {
    assert_eq!(Arc::strong_count(&state), 1);
    assert_eq!(Arc::strong_count(&state.store), 1);
}

#[tokio::test]
async fn own_writes_are_visible_after_the_commit() {
    let (_directory, state) = testing::open().await;
    for number in 1..=50 {
        let mut edit = Edit::default();
        edit.put(&family("web", number));
        let revision = state.commit(edit).await.unwrap().unwrap();
        let view = state.view();
        assert_eq!(view.families.get(&family_key("web")).unwrap().last_revision, number);
        assert!(view.revision >= revision);
    }
    assert!(state.follows());
}

#[tokio::test]
async fn an_edit_on_what_has_changed_is_a_conflict_and_does_nothing() {
    let (_directory, state) = testing::open().await;
    let commit = async |edit: Edit| state.commit(edit).await.unwrap().is_ok();
    let mut edit = Edit::default();
    edit.create(&family("web", 1));
    assert!(commit(edit).await);
    let read = state.view().families.get(&family_key("web")).unwrap().clone();
    let mut edit = Edit::default();
    edit.update(&read, &family("web", 2));
    assert!(commit(edit).await);

    let mut update = Edit::default();
    update.update(&read, &family("web", 9));
    let mut delete = Edit::default();
    delete.delete(&read);
    let mut create = Edit::default();
    create.create(&family("web", 9));
    let mut depend = Edit::default();
    depend.depend(&read);
    let mut absence = Edit::default();
    absence.depend_on_absence(family_key("web"));
    for mut edit in [update, delete, create, depend, absence] {
        edit.put(&family("other", 1));
        assert!(!commit(edit).await);
        let view = state.view();
        assert_eq!(view.families.len(), 1);
        assert_eq!(view.families.get(&family_key("web")).unwrap().last_revision, 2);
    }
    let now = state.view().families.get(&family_key("web")).unwrap().clone();
    let mut edit = Edit::default();
    edit.depend(&now);
    edit.depend_on_absence(family_key("other"));
    edit.delete(&now);
    assert!(commit(edit).await);
    assert!(state.view().families.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_are_made_again_until_none_is_lost() {
    let (_directory, state) = testing::open().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                for _ in 0..10 {
                    let number = state
                        .transact::<u32, Error>(|view, edit| {
                            let key = family_key("web");
                            let Some(read) = view.families.get(&key) else {
                                edit.create(&family("web", 1));
                                return Ok(1);
                            };
                            let next = read.last_revision + 1;
                            edit.update(read, &family("web", next));
                            Ok(next)
                        })
                        .await
                        .unwrap();
                    let key = family_key("web");
                    assert!(state.view().families.get(&key).unwrap().last_revision >= number);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(state.view().families.get(&family_key("web")).unwrap().last_revision, 80);
}

#[tokio::test]
async fn no_decision_is_given_up_however_many_change_the_same_record() {
    const MANY: u32 = 250;
    let (_directory, state) = testing::open().await;
    let count = || {
        state.transact::<(), Error>(|view, edit| {
            match view.families.get(&family_key("web")) {
                Some(read) => edit.update(read, &family("web", read.last_revision + 1)),
                None => edit.create(&family("web", 1)),
            }
            Ok(())
        })
    };
    for decided in futures_util::future::join_all((0..MANY).map(|_| count())).await {
        decided.unwrap();
    }
    assert_eq!(state.view().families.get(&family_key("web")).unwrap().last_revision, MANY);
}

#[tokio::test]
async fn a_decision_that_fails_changes_nothing() {
    let (_directory, state) = testing::open().await;
    let refused = state
        .transact::<(), Error>(|_, edit| {
            edit.put(&family("web", 1));
            Err(Error::Contended)
        })
        .await;
    assert!(matches!(refused, Err(Error::Contended)));
    assert!(state.view().families.is_empty());
    let before = state.view().revision;
    assert_eq!(state.commit(Edit::default()).await.unwrap(), Ok(before));
}

#[tokio::test]
async fn what_is_done_last_to_a_record_counts() {
    let (_directory, state) = testing::open().await;
    let last = || state.view().families.get(&family_key("web")).map(|found| found.last_revision);
    let mut edit = Edit::default();
    edit.create(&family("web", 1));
    edit.put(&family("web", 2));
    assert!(state.commit(edit).await.unwrap().is_ok());
    assert_eq!(last(), Some(2));
    let read = state.view().families.get(&family_key("web")).unwrap().clone();
    let mut edit = Edit::default();
    edit.update(&read, &family("web", 3));
    edit.update(&read, &family("web", 4));
    assert!(state.commit(edit).await.unwrap().is_ok());
    assert_eq!(last(), Some(4));
    let read = state.view().families.get(&family_key("web")).unwrap().clone();
    let mut edit = Edit::default();
    edit.delete(&read);
    edit.create(&family("web", 5));
    assert!(state.commit(edit).await.unwrap().is_ok());
    assert_eq!(last(), Some(5));
    let read = state.view().families.get(&family_key("web")).unwrap().clone();
    let mut edit = Edit::default();
    edit.update(&read, &family("web", 6));
    edit.delete(&read);
    assert!(state.commit(edit).await.unwrap().is_ok());
    assert_eq!(last(), None);
}

#[tokio::test]
async fn a_leased_record_vanishes_from_the_view() {
    let (_directory, state) = testing::open().await;
    let lease = state.store().grant(Duration::from_secs(60)).await.unwrap();
    let mut edit = Edit::default();
    edit.put(&instance("i"));
    edit.put_leased(&connection("i"), lease);
    state.commit(edit).await.unwrap().unwrap();
    assert!(state.view().is_connected(&instance("i")));
    let mut changes = state.changes();
    let before = *changes.borrow_and_update();
    state.store().revoke(lease).await.unwrap();
    tokio::time::timeout(DEADLINE, changes.wait_for(|now| *now > before)).await.unwrap().unwrap();
    assert!(!state.view().is_connected(&instance("i")));
}

#[tokio::test]
async fn a_view_after_reopening_is_the_view_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let state = open(&path).await;
    for number in 0..30 {
        let id = format!("{}", number % 7);
        let owner = format!("{}", number % 3);
        let mut edit = Edit::default();
        edit.put(&instance(&owner));
        edit.put(&family(&id, number));
        let service = (number % 2 == 0).then_some("web");
        let last = if number % 5 == 0 { TaskStatus::Stopped } else { TaskStatus::Running };
        edit.put(&task(&id, &owner, service, last));
        state.commit(edit).await.unwrap().unwrap();
        if number % 10 == 9 {
            let read = state.view().tasks.iter().next().unwrap().clone();
            let mut edit = Edit::default();
            edit.delete(&read);
            state.commit(edit).await.unwrap().unwrap();
        }
    }
    let before = std::mem::take(&mut *state.view.write().unwrap());
    assert!(!before.tasks.is_empty());
    close(state);
    let state = open(&path).await;
    assert_same(&before, &state.view());
}

#[tokio::test]
async fn unknown_kinds_are_left_alone_and_unreadable_records_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let put = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.as_bytes().to_vec());
        let operation = store::Operation::Put { key, value, lease: None };
        Transaction { compares: Vec::new(), operations: vec![operation] }
    };
    let state = open(&path).await;
    state.store().transact(put("future/thing", "any")).await.unwrap();
    close(state);
    let state = open(&path).await;
    assert_eq!(state.view().revision, 1);
    let store = Arc::clone(state.store());
    store.transact(put("family/us-east-1/web", "no JSON")).await.unwrap();
    tokio::time::timeout(DEADLINE, state.ended()).await.unwrap();
    assert_eq!(state.view().revision, 1);
    drop(store);
    close(state);
    let error = State::open(Arc::new(Redb::open(&path).unwrap())).await.unwrap_err();
    assert!(matches!(error, Error::Record { key, .. } if key == "family/us-east-1/web"));
}

/// A store whose watch tells what the test says.
#[derive(Debug)]
struct Told {
    redb: Redb,
    watch: Mutex<Option<Watch>>,
}

type Tell = mpsc::Sender<Result<Changes, store::Error>>;

impl Told {
    fn new(path: &Path) -> (Arc<Self>, Tell) {
        let (tell, watch) = mpsc::channel(1);
        let redb = Redb::open(path).unwrap();
        (Arc::new(Self { redb, watch: Mutex::new(Some(watch)) }), tell)
    }
}

impl Store for Told {
    fn range<'a>(&'a self, prefix: &'a str) -> Answer<'a, Range> {
        self.redb.range(prefix)
    }

    fn transact(&self, transaction: Transaction) -> Answer<'_, Outcome> {
        self.redb.transact(transaction)
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Answer<'a, Watch> {
        let told = self.watch.lock().unwrap().take();
        match told {
            Some(watch) => Box::pin(async move { Ok(watch) }),
            None => self.redb.watch(prefix, after),
        }
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        self.redb.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.redb.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.redb.revoke(lease)
    }
}

/// A commit that the store has, of which a silent watch has told nothing.
async fn committing(
    state: &Arc<State>,
) -> tokio::task::JoinHandle<Result<Result<u64, Conflict>, Error>> {
    let committing = tokio::spawn({
        let state = Arc::clone(state);
        async move {
            let mut edit = Edit::default();
            edit.put(&family("web", 1));
            state.commit(edit).await
        }
    });
    while state.store().range("").await.unwrap().revision == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    committing
}

#[tokio::test]
async fn a_view_that_fell_behind_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tell) = Told::new(&directory.path().join("store.redb"));
    let state = State::open(store).await.unwrap();
    let committing = committing(&state).await;
    // What the watch missed comes with the new range.
    tell.send(Err(store::Error::Compacted(0))).await.unwrap();
    let committed = tokio::time::timeout(DEADLINE, committing).await.unwrap().unwrap();
    assert_eq!(committed.unwrap(), Ok(1));
    assert_eq!(state.view().families.len(), 1);
    let mut edit = Edit::default();
    edit.put(&family("web", 2));
    assert_eq!(state.commit(edit).await.unwrap(), Ok(2));
}

#[tokio::test]
async fn a_commit_fails_when_the_store_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (store, tell) = Told::new(&directory.path().join("store.redb"));
    let state = State::open(store).await.unwrap();
    let committing = committing(&state).await;
    assert!(state.follows());
    drop(tell);
    let committed = tokio::time::timeout(DEADLINE, committing).await.unwrap().unwrap();
    assert!(matches!(committed, Err(Error::Ended)));
    tokio::time::timeout(DEADLINE, state.ended()).await.unwrap();
    assert!(!state.follows());
    let mut edit = Edit::default();
    edit.put(&family("web", 2));
    assert!(matches!(state.commit(edit).await, Err(Error::Ended)));
    assert_eq!(state.store().range("").await.unwrap().revision, 1);
}

#[test]
fn secrets_are_not_shown() {
    let key = AccessKey { secret: "hush".into(), ..access_key("AKIA1") };
    let mut edit = Edit::default();
    edit.put(&key);
    let bytes = format!("{:?}", b"hush").trim_matches(['[', ']']).to_owned();
    let shown = format!("{edit:?}");
    let shown = format!("{shown} {:?}", edit.into_transaction().unwrap());
    assert!(shown.contains("key/AKIA1"));
    assert!(!shown.contains("hush") && !shown.contains(&bytes), "{shown}");
}

#[derive(Debug, Clone)]
enum Step {
    Task { id: u8, instance: u8, service: Option<u8>, last: usize, stopping: bool },
    Instance(u8),
    Connection(u8),
    Delete(prop::sample::Index),
}

const STATUS: [TaskStatus; 4] =
    [TaskStatus::Pending, TaskStatus::Running, TaskStatus::Stopping, TaskStatus::Stopped];

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        4 => (0..6_u8, 0..3_u8, option::of(0..2_u8), 0..STATUS.len(), any::<bool>()).prop_map(
            |(id, instance, service, last, stopping)| Step::Task {
                id, instance, service, last, stopping
            }
        ),
        1 => (0..3_u8).prop_map(Step::Instance),
        1 => (0..3_u8).prop_map(Step::Connection),
        3 => any::<prop::sample::Index>().prop_map(Step::Delete),
    ];
    collection::vec(collection::vec(step, 1..4), 1..40)
}

fn record<T: Entity>(value: &T, revision: u64) -> KeyValue {
    KeyValue {
        key: value.key(),
        value: serde_json::to_vec(value).unwrap(),
        created: revision,
        modified: revision,
        lease: None,
    }
}

proptest! {
    /// Whatever comes in whatever order, a view is the one that a new reading gives, and its
    /// indexes are what going through all tasks finds.
    #[test]
    fn indexes_are_what_the_records_say(revisions in steps()) {
        let mut model: BTreeMap<String, KeyValue> = BTreeMap::new();
        let mut view = View::default();
        for (revision, steps) in (1..).zip(revisions) {
            let mut changes = Vec::new();
            for step in steps {
                let put = match step {
                    Step::Task { id, instance, service, last, stopping } => {
                        let service = service.map(|name| name.to_string());
                        let (id, instance) = (id.to_string(), instance.to_string());
                        let mut task = task(&id, &instance, service.as_deref(), STATUS[last]);
                        if stopping {
                            task.desired = Desired::Stopped;
                        }
                        record(&task, revision)
                    }
                    Step::Instance(id) => record(&instance(&id.to_string()), revision),
                    Step::Connection(id) => record(&connection(&id.to_string()), revision),
                    Step::Delete(index) => {
                        if !model.is_empty() {
                            let key = index.get(&model.keys().cloned().collect::<Vec<_>>()).clone();
                            model.remove(&key);
                            changes.push(Change::Delete { key });
                        }
                        continue;
                    }
                };
                model.insert(put.key.clone(), put.clone());
                changes.push(Change::Put(put));
            }
            view.apply(Read::changes(Changes { revision, changes }).unwrap());
            let mut fresh = View::default();
            let keys = model.values().cloned().collect();
            fresh.apply(Read::range(&Range { revision, keys }).unwrap());
            assert_same(&view, &fresh);
            for owner in 0..3 {
                let owner = owner.to_string();
                let key = Instance::key_of(REGION, "default", &owner);
                let found: Vec<_> = view.tasks_on(&key).map(|task| task.key()).collect();
                let all = view.tasks.iter().filter(|task| task.instance == owner);
                prop_assert_eq!(found, all.map(|task| task.key()).collect::<Vec<_>>());
                let key = Service::key_of(REGION, "default", &owner);
                let found: Vec<_> = view.tasks_of_service(&key).map(|task| task.key()).collect();
                let all = view.tasks.iter().filter(|task| task.service.as_ref() == Some(&owner));
                prop_assert_eq!(found, all.map(|task| task.key()).collect::<Vec<_>>());
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Through the store and back: what was committed is what is read again.
    #[test]
    fn edits_survive_the_store(numbers in collection::vec((0..5_u8, any::<u32>()), 1..10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(Uuid::new_v4().to_string());
            let state = open(&path).await;
            let mut model = BTreeMap::new();
            for (name, number) in numbers {
                let mut edit = Edit::default();
                edit.put(&family(&name.to_string(), number));
                state.commit(edit).await.unwrap().unwrap();
                model.insert(name.to_string(), number);
            }
            close(state);
            let state = open(&path).await;
            let view = state.view();
            let found = view.families.iter().map(|found| (found.name.clone(), found.last_revision));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), model);
        });
    }
}
