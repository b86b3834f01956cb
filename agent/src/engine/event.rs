//! What happens to the engine.

use std::collections::BTreeSet;

use protocol::ids::TaskId;
use protocol::monitor::ContainerFacts;
use protocol::taskdef::{TaskDefinition, TransportProtocol};

use super::state::{EcsTask, Sent, StopCode};
use crate::api::types::PullPolicy;

/// A fact or a wish. Results of effects carry the effect's generation.
#[derive(Debug, Clone)]
pub enum Event {
    /// A task to run. An id that exists, or that is spent, changes nothing.
    Run(Box<NewTask>),
    /// Something about one task.
    Task { task: TaskId, event: TaskEvent },
    /// Something about one container of a task, by its index in the definition.
    Container { task: TaskId, container: usize, event: ContainerEvent },
    /// Time has passed; see [`super::next_wake`].
    Wake,
    /// The state was loaded after a restart and everything observed has been fed: what was under
    /// way is issued again.
    Recovered,
}

/// A task to admit.
#[derive(Debug, Clone)]
pub struct NewTask {
    pub id: TaskId,
    pub definition: TaskDefinition,
    pub pull: PullPolicy,
    pub remove: bool,
    /// What the control plane said of it.
    pub ecs: Option<Box<EcsTask>>,
    /// It is not to run: it is stored as a task that has ended, so that its end is reported.
    pub ended: Option<(StopCode, String)>,
    /// A fresh UUID per container.
    pub endpoints: Vec<String>,
    /// Ports on which something outside our tasks listens on this host.
    pub busy_ports: BTreeSet<(TransportProtocol, u16)>,
}

#[derive(Debug, Clone)]
pub enum TaskEvent {
    /// Someone asks for its end. A second call may only be harder: `kill` stays, once set.
    Stop {
        reason: Option<String>,
        kill: bool,
        timeout: Option<u32>,
    },
    /// The control plane asks for its end; it knows why.
    StopRequested,
    /// The control plane was told this.
    Sent(Sent),
    /// Ids of credentials that replace earlier ones.
    Credentials {
        task: Option<String>,
        execution: Option<String>,
    },
    /// Someone asks for the record of a stopped task to go.
    Remove,
    ResourcesReady {
        generation: u64,
    },
    /// `reason` in ECS's words. What was made of them is released.
    ResourcesFailed {
        generation: u64,
        reason: String,
    },
    Released {
        generation: u64,
    },
    /// The record and the files are gone.
    Removed,
    /// Its processes are gone without a trace (host rebooted, both monitor processes lost).
    Lost {
        reason: String,
    },
}

#[derive(Debug, Clone)]
pub enum ContainerEvent {
    /// The image is in the store; `pulled`: it was fetched for this.
    ImageReady {
        generation: u64,
        id: String,
        digest: Option<String>,
    },
    ImageFailed {
        generation: u64,
        reason: String,
    },
    /// Created, and in bridge mode connected.
    Created {
        generation: u64,
        facts: ContainerFacts,
    },
    /// `exit_code`: 126 or 127 where the program is the reason.
    CreateFailed {
        generation: u64,
        reason: String,
        exit_code: Option<i32>,
    },
    StartFailed {
        generation: u64,
        reason: String,
        exit_code: Option<i32>,
    },
    /// What the monitor says, at any time, in answer to a start or by itself.
    Observed(ContainerFacts),
}
