//! `CreateResources`: directories, cgroup, monitor, network, metadata endpoint.
//!
//! What fails half-way is left for `Release`, which the engine issues then.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use protocol::taskdef::NetworkMode;

use super::{blocking, private_directory};
use crate::cgroup;
use crate::engine::Task;
use crate::failpoint;
use crate::host::chain;
use crate::host::hands::Hands;
use crate::network::TaskLease;

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
    let hello = link.hello().await.map_err(|error| chain(&error))?;
    if let (NetworkMode::Awsvpc, Some(address)) = (task.definition.network_mode, task.address) {
        let lease = TaskLease { task: task.id.clone(), address };
        let hands = Arc::clone(hands);
        blocking(move || {
            let namespace = namespace(hello.guardian.pid)?;
            hands.network().attach_task(&lease, namespace.as_fd()).map_err(|error| chain(&error))
        })
        .await?;
    }
    failpoint::hit("resources.network");
    hands.tmds.open_for_task(task, hello.guardian.pid).await;
    Ok(())
}

/// The network namespace of a process.
pub(super) fn namespace(pid: i32) -> Result<OwnedFd, String> {
    let path = format!("/proc/{pid}/ns/net");
    std::fs::File::open(&path).map(OwnedFd::from).map_err(|error| format!("open {path}: {error}"))
}
