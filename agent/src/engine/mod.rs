//! The task engine: every decision about tasks on this host, pure.
//!
//! [`step()`] takes the state, one event and the time, changes the state and says which effects
//! follow. It reads no clock, no file and no socket, is total (an unknown, late or repeated event
//! changes nothing) and level-triggered: each event first records a fact, then the one function
//! `advance` compares the task's state with what is desired and issues what is missing. Recovery is
//! therefore the same function: load, feed what was observed, [`Event::Recovered`].
//!
//! ```text
//! container   Waiting ─ Creating ─ Created ─ Starting ─ Running ─ Stopped
//!                └────────┴───────────┴─────────┴──────────────────►┘
//! resources   Absent ─ Creating ─ Ready ─ Releasing ─ Released
//!                └───────┴───────────────────►┘
//! ```
//!
//! A container is created once its image is there, the task's resources are ready and each
//! dependency's condition holds; it is started as soon as it is created. The end of an essential
//! container stops the task. Containers stop in reverse dependency order: stop signal, stop
//! timeout, SIGKILL. Source: RegisterTaskDefinition (`dependsOn`, `essential`, `startTimeout`,
//! `stopTimeout`), the ECS task lifecycle.

mod effect;
mod event;
mod order;
pub mod report;
mod resources;
mod state;
mod status;
mod step;
#[cfg(test)]
mod tests;

pub use effect::{Action, Effect};
pub use event::{ContainerEvent, Event, NewTask, TaskEvent};
pub use state::{
    Container, Desired, EcsTask, Host, Image, Life, PortLease, Reported, Resources, Sent, Settings,
    Stop, StopCode, Task, Times,
};
pub use step::{Outcome, next_wake, step};
