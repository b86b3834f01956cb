//! `CreateResources`: directories, cgroup, monitor, network, EFS volumes, metadata endpoint.
//!
//! What fails half-way is left for `Release`, which the engine issues then.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use protocol::taskdef::NetworkMode;

use super::{blocking, efs, private_directory};
use crate::cgroup;
use crate::engine::Task;
use crate::error::chain;
use crate::failpoint;
use crate::host::hands::Hands;
use crate::monitor::link::Link;
use crate::network::TaskLease;

/// How often, and after how long, a monitor that was replaced is looked for again.
const REPLACED_WITHIN: u32 = 100;
const REPLACED_PAUSE: Duration = Duration::from_millis(20);

/// Names in T that a container's directory would hide.
const RESERVED: [&str; 2] = ["exits", "volumes"];

pub(super) async fn create(hands: &Arc<Hands>, task: &Arc<Task>) -> Result<(), String> {
    if let Some(taken) =
        task.definition.containers.iter().find(|c| RESERVED.contains(&c.name.as_str()))
    {
        return Err(format!(
            "a container cannot be named {:?}: the task's directory has a file of that name",
            taken.name
        ));
    }
    let (layout, prepared) = (hands.layout().clone(), Arc::clone(task));
    blocking(move || {
        private_directory(&layout.task(&prepared.id))?;
        private_directory(&layout.task_run(&prepared.id))?;
        let limits =
            cgroup::Limits { cpu: prepared.definition.cpu, memory: prepared.definition.memory };
        let path = cgroup::task_path(&layout.cgroup_parent(), &prepared.id);
        failpoint::hit("resources.directories");
        cgroup::create(&path, limits).map_err(|error| chain(&error))
    })
    .await?;
    failpoint::hit("resources.cgroup");
    let link = hands.link(task).await.map_err(|error| chain(&error))?;
    failpoint::hit("resources.monitor");
    let namespace = Arc::new(task_namespace(&link).await?);
    if let (NetworkMode::Awsvpc, Some(address)) = (task.definition.network_mode, task.address) {
        let lease = TaskLease { task: task.id.clone(), address };
        let (hands, namespace) = (Arc::clone(hands), Arc::clone(&namespace));
        blocking(move || {
            hands.network().attach_task(&lease, namespace.as_fd()).map_err(|error| chain(&error))
        })
        .await?;
    }
    failpoint::hit("resources.network");
    efs::mount(hands, task).await?;
    hands.tmds.open_for_task(task, namespace).await;
    Ok(())
}

/// The network namespace of a task: that of its monitor, of whose two processes either may have died.
async fn task_namespace(link: &Link) -> Result<OwnedFd, String> {
    let mut attempts = 0;
    loop {
        let hello = link.hello().await.map_err(|error| chain(&error))?;
        match namespace(hello.guardian.pid).or_else(|_| namespace(hello.worker.pid)) {
            Ok(namespace) => return Ok(namespace),
            Err(error) if attempts == REPLACED_WITHIN => return Err(error),
            Err(_) => attempts += 1,
        }
        tokio::time::sleep(REPLACED_PAUSE).await;
    }
}

/// The network namespace of a process.
pub(in crate::host) fn namespace(pid: i32) -> Result<OwnedFd, String> {
    let path = format!("/proc/{pid}/ns/net");
    std::fs::File::open(&path).map(OwnedFd::from).map_err(|error| format!("open {path}: {error}"))
}
