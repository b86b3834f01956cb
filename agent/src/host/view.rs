//! What others see of the owner's state: immutable snapshots in the API's shape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use protocol::ids::TaskId;
use protocol::taskdef::{NetworkMode, TransportProtocol};

use super::runtime_id;
use crate::api::types::{ContainerView, NetworkBinding, PullEvent, TaskView};
use crate::engine::{Container, Task};
use crate::layout::Layout;

/// All tasks at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub tasks: BTreeMap<TaskId, Arc<TaskView>>,
    /// The same as the engine has them; for reports and the metadata endpoint.
    pub states: BTreeMap<TaskId, Arc<Task>>,
    /// Tasks that have not stopped yet.
    pub live: usize,
    /// Configuration digests of the images that tasks use which have not stopped.
    pub images: BTreeSet<String>,
    /// The same of every task whose record is there: none of them is collected.
    pub known_images: BTreeSet<String>,
    /// The owner has ended.
    pub ended: bool,
}

/// The task in the API's words.
pub fn task(task: &Task, layout: &Layout, progress: Vec<PullEvent>) -> TaskView {
    let times = &task.times;
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string());
    TaskView {
        task_id: task.id.to_string(),
        family: task.definition.family.clone(),
        last_status: task.last_status().to_owned(),
        desired_status: task.desired_status().to_owned(),
        network_mode: network_mode(task.definition.network_mode).to_owned(),
        address: task.address.map(|address| address.to_string()),
        created_at: times.created.to_string(),
        pull_started_at: time(times.pull_started),
        pull_stopped_at: time(times.pull_stopped),
        started_at: time(times.started),
        stopping_at: time(times.stopping),
        stopped_at: time(times.stopped),
        stop_code: task.stop.as_ref().map(|stop| stop.code.name().to_owned()),
        stopped_reason: task.stop.as_ref().map(|stop| stop.reason.clone()),
        exit_code: task.exit_code,
        containers: (0..task.containers.len())
            .filter_map(|index| container(task, index, layout))
            .collect(),
        progress,
    }
}

fn container(task: &Task, index: usize, layout: &Layout) -> Option<ContainerView> {
    let definition = task.container_definition(index)?;
    let state: &Container = task.containers.get(index)?;
    let digest = match &state.image {
        crate::engine::Image::Ready { digest, .. } => digest.clone(),
        _ => None,
    };
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string());
    Some(ContainerView {
        name: definition.name.clone(),
        image: definition.image.clone(),
        image_digest: digest,
        essential: definition.essential,
        runtime_id: runtime_id(&task.id, &definition.name),
        last_status: state.last_status().to_owned(),
        pid: state.pid,
        exit_code: state.exit_code(),
        reason: state.reason.clone(),
        started_at: time(state.started_at),
        stopped_at: time(state.stopped_at),
        network_bindings: state
            .ports
            .iter()
            .map(|lease| NetworkBinding {
                bind_ip: "0.0.0.0".to_owned(),
                container_port: lease.container_port,
                host_port: lease.host_port,
                protocol: match lease.protocol {
                    TransportProtocol::Tcp => "tcp".to_owned(),
                    TransportProtocol::Udp => "udp".to_owned(),
                },
            })
            .collect(),
        address: state.address.or(task.address).map(|address| address.to_string()),
        pseudo_terminal: definition.pseudo_terminal,
        labels: definition.docker_labels.clone(),
        log_path: log(layout, &task.id, &definition.name).display().to_string(),
    })
}

/// Path of a container's `json-file` log.
pub fn log(layout: &Layout, task: &TaskId, container: &str) -> std::path::PathBuf {
    layout.task(task).join(container).join("log").join("container.log")
}

/// As in a task definition.
pub fn network_mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Bridge => "bridge",
        NetworkMode::Host => "host",
        NetworkMode::Awsvpc => "awsvpc",
        NetworkMode::None => "none",
    }
}
