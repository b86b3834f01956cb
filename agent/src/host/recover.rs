//! What a starting agent does with what an earlier one left.
//!
//! 1. Load every task. One whose row cannot be read is left alone, with everything it has.
//! 2. Sweep what belongs to no task: directories, cgroups (the network does so for itself).
//! 3. Per task that may have processes: connect to its monitor if it lives in this boot, or start
//!    one that adopts; else the task is lost, but exit records on disk still count.
//! 4. Feed what was observed, then [`Event::Recovered`]: the engine issues what is implied.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use protocol::ids::TaskId;
use protocol::monitor::{Call, ContainerFacts, ExitRecord, Fact, Status};

use super::hands::Hands;
use super::run::{end_processes, namespace, remove_files};
use super::runtime_id;
use crate::cgroup;
use crate::engine::{ContainerEvent, Event, Host, Life, Resources, Settings, Task, TaskEvent};
use crate::error::chain;
use crate::layout::Layout;
use crate::monitor;
use crate::network::Lease;
use crate::store::{Error, Store, Table};

/// How long recovery waits for a monitor to answer. A task whose monitor takes longer is observed
/// later, by its link.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was loaded.
#[derive(Debug)]
pub struct Loaded {
    pub host: Host,
    /// Tasks whose rows cannot be read.
    pub unreadable: BTreeSet<String>,
}

/// Loads every task.
///
/// # Errors
/// If the database itself cannot be read.
pub fn load(store: &Store, settings: Settings) -> Result<Loaded, Error> {
    let mut host = Host::new(settings);
    let mut unreadable = BTreeSet::new();
    for (key, row) in store.load::<Task>(Table::Tasks)? {
        match row {
            Ok(task) => {
                host.tasks.insert(task.id.clone(), task);
            }
            Err(error) => {
                tracing::error!(
                    task = key,
                    error = chain(&error),
                    "cannot read a task; it is left as it is"
                );
                // A task of this id would have all that is left alone.
                host.spent.extend(key.parse().map(|id: TaskId| (id, Timestamp::MAX)));
                unreadable.insert(key);
            }
        }
    }
    for (key, since) in store.load::<Timestamp>(Table::Spent)? {
        // Whether it was removed long ago cannot be told: it is not asked for for ever.
        let since = since.unwrap_or_else(|_damaged| Timestamp::now());
        host.spent.extend(key.parse().map(|id: TaskId| (id, since)));
    }
    Ok(Loaded { host, unreadable })
}

/// Leases of the tasks that have not been released.
pub fn leases(host: &Host) -> Vec<Lease> {
    host.tasks
        .values()
        .filter(|task| task.resources != Resources::Released)
        .flat_map(super::run::leases)
        .collect()
}

/// Removes what belongs to no known task. Goes on after failures, which are logged: what remains
/// is found again at the next start. Blocks.
pub fn sweep(layout: &Layout, loaded: &Loaded) {
    let known = |name: &str| {
        loaded.unreadable.contains(name)
            || name.parse().is_ok_and(|id: TaskId| loaded.host.tasks.contains_key(&id))
    };
    let parent = layout.cgroup_parent();
    let mut found = BTreeSet::new();
    for directory in [layout.state().join("tasks"), layout.run().join("tasks")] {
        found.extend(names(&directory));
    }
    match cgroup::children(&parent) {
        Ok(children) => found.extend(children),
        Err(error) => tracing::warn!(error = chain(&error), "cannot look for cgroups of no task"),
    }
    for name in found {
        let Ok(id) = name.parse::<TaskId>() else { continue };
        if known(&name) {
            continue;
        }
        tracing::warn!(task = name, "remove what is left of a task that is not known");
        if let Ok(Some(record)) = monitor::record(&layout.task_run(&id)) {
            monitor::kill(&record);
        }
        if let Err(error) = end_processes(layout, &id) {
            tracing::warn!(task = name, error, "cannot end processes of no task");
            continue;
        }
        if let Err(errors) = cgroup::remove(&cgroup::task_path(&parent, &id)) {
            for error in errors {
                tracing::warn!(task = name, error = chain(&error), "cannot remove a cgroup");
            }
        }
        for path in [layout.task(&id), layout.task_run(&id)] {
            if let Err(error) = remove_files(&path) {
                tracing::warn!(task = name, error, "cannot remove files of no task");
            }
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Goes on with the task's logs. Before the owner starts, which takes a stopped container without
/// a shipper for one without output.
pub fn resume_logs(hands: &Arc<Hands>, task: &Task) {
    for (index, container) in task.containers.iter().enumerate() {
        let spool = hands.layout().task(&task.id).join(&container.name).join("spool");
        if spool.is_dir()
            && let Err(error) = hands.ship(task, index, container.life.is_stopped())
        {
            tracing::warn!(task = %task.id, container = container.name, error, "cannot go on with a log");
        }
    }
}

/// Observes one task: events in the order in which they are to be fed.
pub async fn observe(hands: &Arc<Hands>, task: &Task) -> Vec<Event> {
    if matches!(task.resources, Resources::Absent | Resources::Released) {
        return Vec::new();
    }
    let live = task.containers.iter().any(|container| {
        matches!(container.life, Life::Created | Life::Starting { .. } | Life::Running)
    });
    let run = hands.layout().task_run(&task.id);
    let record = monitor::record(&run).ok().flatten();
    let this_boot = record.as_ref().is_some_and(|record| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .is_ok_and(|id| id.trim() == record.boot_id.trim())
    });
    let mut events = Vec::new();
    let mut known = BTreeSet::new();
    if this_boot {
        match tokio::time::timeout(PATIENCE, facts(hands, task)).await {
            Ok(Ok(containers)) => {
                reopen(hands, task, &run, &containers).await;
                for facts in containers {
                    known.insert(facts.container.clone());
                    events.extend(observed(task, facts));
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(task = %task.id, error = chain(&error), "cannot observe a task");
                events.push(lost(task, &chain(&error)));
            }
            Err(_elapsed) => {
                tracing::warn!(task = %task.id, "the task's monitor does not answer yet");
                return events;
            }
        }
    }
    for facts in recorded(hands.layout(), task) {
        if known.insert(facts.container.clone()) {
            events.extend(observed(task, facts));
        }
    }
    if live && !this_boot {
        events.push(lost(task, "the host was restarted"));
    }
    for container in &task.containers {
        if this_boot && matches!(container.life, Life::Running) && !known.contains(&container.name)
        {
            let facts = ContainerFacts {
                container: container.name.clone(),
                status: Status::Stopped,
                pid: None,
                started_at: None,
                exit: Some(protocol::monitor::Exit {
                    code: None,
                    signal: None,
                    oom_killed: false,
                    at: u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0),
                }),
            };
            events.extend(observed(task, facts));
        }
    }
    events
}

/// Makes the metadata endpoints again, which ended with the agent before.
async fn reopen(hands: &Arc<Hands>, task: &Task, run: &Path, containers: &[ContainerFacts]) {
    // A monitor that took over after another may have a namespace without the containers.
    let mut inside = None;
    for facts in containers {
        let Some(index) = task.containers.iter().position(|c| c.name == facts.container) else {
            continue;
        };
        let (Some(pid), false) = (facts.pid, facts.status == Status::Stopped) else { continue };
        hands.tmds.open_for_container(task, index, pid).await;
        if task.container_definition(index).is_some_and(|c| !c.disable_networking) {
            inside = Some(pid);
        }
    }
    let monitor = monitor::record(run).ok().flatten();
    let monitor = monitor.map(|record| [record.guardian.pid, record.worker.pid]);
    let found = inside.into_iter().chain(monitor.into_iter().flatten()).map(namespace);
    if let Some(found) = found.reduce(Result::or) {
        match found {
            Ok(namespace) => hands.tmds.open_for_task(task, Arc::new(namespace)).await,
            Err(error) => {
                tracing::warn!(task = %task.id, error, "the metadata endpoint is not opened again");
            }
        }
    }
}

async fn facts(hands: &Arc<Hands>, task: &Task) -> Result<Vec<ContainerFacts>, monitor::Error> {
    let link = hands.link(task).await?;
    match link.call(Call::Subscribe).await? {
        Fact::State { containers, .. } => Ok(containers),
        _ => Err(monitor::Error::Answer { call: "subscribe" }),
    }
}

/// What exit records on disk say.
fn recorded(layout: &Layout, task: &Task) -> Vec<ContainerFacts> {
    let text = std::fs::read_to_string(layout.task(&task.id).join("exits")).unwrap_or_default();
    ExitRecord::parse_all(&text)
        .into_iter()
        .filter(|record| record.id == runtime_id(&task.id, &record.container))
        .map(|record| ContainerFacts {
            container: record.container,
            status: Status::Stopped,
            pid: None,
            started_at: None,
            exit: Some(record.exit),
        })
        .collect()
}

fn observed(task: &Task, facts: ContainerFacts) -> Option<Event> {
    let container = task.containers.iter().position(|c| c.name == facts.container)?;
    if facts.status == Status::Created {
        return None;
    }
    Some(Event::Container {
        task: task.id.clone(),
        container,
        event: ContainerEvent::Observed(facts),
    })
}

fn lost(task: &Task, why: &str) -> Event {
    let reason = format!("the task's processes are gone: {why}");
    Event::Task { task: task.id.clone(), event: TaskEvent::Lost { reason } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fixtures;
    use crate::store::Batch;

    #[test]
    fn ids_of_what_is_gone_or_cannot_be_read_are_spent() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state.redb")).unwrap();
        let [unreadable, removed] = [1, 2].map(TaskId::from_random);
        let mut batch = Batch::default();
        batch.put(Table::Tasks, unreadable.as_str(), &"no task").unwrap();
        batch.put(Table::Spent, removed.as_str(), &Timestamp::UNIX_EPOCH).unwrap();
        store.commit(batch).unwrap();
        let loaded = load(&store, fixtures::settings()).unwrap();
        let spent = [(unreadable.clone(), Timestamp::MAX), (removed, Timestamp::UNIX_EPOCH)];
        assert_eq!(loaded.host.spent, spent.into());
        assert_eq!(loaded.unreadable, BTreeSet::from([unreadable.to_string()]));
    }
}
