//! `Release` and `Remove`: give back what a task had. Both go on after a failure and try again
//! until everything is gone, because a host that keeps a dead task's objects is worse than a task
//! that takes its time to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::ids::TaskId;
use protocol::monitor::{Call, FailureKind, MonitorRecord};
use protocol::taskdef::NetworkMode;

use super::blocking;
use super::container::lease;
use super::image::note_use;
use crate::cgroup;
use crate::engine::{Image, Task};
use crate::error::chain;
use crate::failpoint;
use crate::host::hands::Hands;
use crate::layout::Layout;
use crate::monitor::client::Client;
use crate::monitor::link::Link;
use crate::monitor::{self, Error};
use crate::network::{Lease, TaskLease};
use crate::volume::remove_tree;

/// Between attempts, first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How long a container takes to die of SIGKILL, or a monitor to end.
const DEATH: Duration = Duration::from_secs(10);
/// Between looks at a process that is about to end, first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

pub(super) async fn release(hands: &Arc<Hands>, task: &Arc<Task>) {
    hands.logins().forget(&task.id);
    // Its sockets would keep the network namespaces.
    hands.tmds.close(task).await;
    failpoint::hit("release.metadata");
    let mut pause = RETRY.0;
    let mut patient = true;
    while let Err(error) = attempt(hands, task, patient).await {
        tracing::warn!(task = %task.id, error, "cannot release all of a task yet");
        // A monitor that does not do as it is told is not asked twice.
        patient = false;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

async fn attempt(hands: &Arc<Hands>, task: &Arc<Task>, patient: bool) -> Result<(), String> {
    let run = hands.layout().task_run(&task.id);
    let mut record = monitor::record(&run).ok().flatten();
    if record.is_none() && Client::connect(&run).is_ok() {
        // It was started a moment ago and has not yet told who it is.
        if let Ok(link) = hands.link(task).await {
            let _ = link.hello().await;
        }
        record = monitor::record(&run).ok().flatten();
    }
    if let Some(record) = record.filter(monitor::alive) {
        if patient {
            let link = hands.link(task).await.map_err(|error| chain(&error))?;
            end_monitor(&link, task, &record).await?;
        } else {
            hands.drop_link(&task.id).await;
            monitor::kill(&record);
            gone(&record).await?;
        }
    }
    failpoint::hit("release.monitor");
    hands.drop_link(&task.id).await;
    let (hands, task) = (Arc::clone(hands), Arc::clone(task));
    blocking(move || {
        // What a monitor that died early left running dies here. Nothing is taken from under a
        // process that lives.
        end_processes(hands.layout(), &task.id)?;
        give_back(&hands, &task)
    })
    .await
}

/// Waits for the monitor's processes to end.
async fn gone(record: &MonitorRecord) -> Result<(), String> {
    let ended = tokio::time::timeout(DEATH, async {
        let mut look = LOOK.0;
        while monitor::alive(record) {
            tokio::time::sleep(look).await;
            look = (look * 2).min(LOOK.1);
        }
    });
    ended.await.map_err(|_elapsed| format!("the monitor {} does not end", record.guardian.pid))
}

/// Kills what still runs, deletes the containers and ends the monitor.
async fn end_monitor(link: &Link, task: &Task, record: &MonitorRecord) -> Result<(), String> {
    let ended = tokio::time::timeout(DEATH, async {
        for container in &task.definition.containers {
            delete(link, &container.name).await?;
        }
        link.shutdown().await.map_err(|error| chain(&error))
    });
    ended.await.unwrap_or_else(|_elapsed| {
        Err(format!("the monitor {} does not answer", record.guardian.pid))
    })?;
    gone(record).await
}

async fn delete(link: &Link, container: &str) -> Result<(), String> {
    let mut look = LOOK.0;
    let mut killed = false;
    loop {
        match link.call(Call::Delete { container: container.to_owned() }).await {
            Ok(_) => return Ok(()),
            Err(Error::Refused(failure)) if failure.kind == FailureKind::NotFound => return Ok(()),
            Err(Error::Refused(failure)) if failure.kind == FailureKind::WrongState => {
                if !killed {
                    let kill = Call::Kill {
                        container: container.to_owned(),
                        signal: libc::SIGKILL,
                        all: true,
                    };
                    link.call(kill).await.map_err(|error| chain(&error))?;
                    killed = true;
                }
                tokio::time::sleep(look).await;
                look = (look * 2).min(LOOK.1);
            }
            Err(error) => return Err(format!("delete container {container}: {}", chain(&error))),
        }
    }
}

/// Network, cgroup, run directory, volumes and root file systems. Logs and exit records stay.
fn give_back(hands: &Hands, task: &Task) -> Result<(), String> {
    let mut failures = Vec::new();
    for lease in leases(task) {
        if let Err(error) = hands.network().detach(&lease) {
            failures.push(chain(&error));
        }
    }
    failpoint::hit("release.network");
    let layout = hands.layout();
    let parent = layout.cgroup_parent();
    if let Err(errors) = cgroup::remove(&cgroup::task_path(&parent, &task.id)) {
        failures.extend(errors.iter().map(|error| chain(error)));
    }
    failpoint::hit("release.cgroup");
    let directory = layout.task(&task.id);
    let mut trees = vec![crate::volume::task::directory(&directory)];
    for container in &task.definition.containers {
        let of_container = directory.join(&container.name);
        trees.extend(["bundle", "overlay", "etc"].map(|name| of_container.join(name)));
    }
    // The run directory last: its record is how the monitor is found.
    if failures.is_empty() {
        trees.push(layout.task_run(&task.id));
    }
    for tree in trees {
        if let Err(error) = remove_tree(&tree) {
            failures.push(chain(&error));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// What the task has in the host's network.
pub(in crate::host) fn leases(task: &Task) -> Vec<Lease> {
    let mut leases = Vec::new();
    if let (NetworkMode::Awsvpc, Some(address)) = (task.definition.network_mode, task.address) {
        leases.push(Lease::Task(TaskLease { task: task.id.clone(), address }));
    }
    for (index, definition) in task.definition.containers.iter().enumerate() {
        leases.extend(lease(task, index, definition).map(Lease::Container));
    }
    leases
}

pub(super) async fn remove(hands: &Arc<Hands>, task: &Arc<Task>) {
    // Shippers write below the directory.
    hands.forget(&task.id).await;
    note_last_use(hands, task).await;
    let mut pause = RETRY.0;
    loop {
        let path = hands.layout().task(&task.id);
        match blocking(move || remove_files(&path)).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(task = %task.id, error, "cannot remove a task's files yet")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Its images were used until now, as Amazon's agent counts.
async fn note_last_use(hands: &Arc<Hands>, task: &Task) {
    for container in &task.containers {
        let Image::Ready { id, .. } = &container.image else { continue };
        note_use(hands, id).await;
    }
}

/// Removes a directory tree; one that is not there is no error.
pub(in crate::host) fn remove_files(path: &Path) -> Result<(), String> {
    remove_tree(path).map_err(|error| chain(&error))
}

/// Kills everything in the task's cgroups. Blocks until it is gone.
pub(in crate::host) fn end_processes(layout: &Layout, task: &TaskId) -> Result<(), String> {
    cgroup::kill(&cgroup::task_path(&layout.cgroup_parent(), task)).map_err(|error| chain(&error))
}
