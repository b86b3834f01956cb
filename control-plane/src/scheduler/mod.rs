//! Placement: which container instance a task goes to, and what a new task's record is. Pure: who
//! calls has the view, the seed, the ids and the time.
//!
//! [`candidates`] lists the instances of a cluster as placement sees them; [`place()`] filters them
//! ([`Request`]: resources, ports, attributes, launch type, constraints), ranks what is left by the
//! chain of strategies, and takes from the one it picked, so that the next task sees it. Who
//! commits a placement updates the instance's guard: two decisions never rest on the same free
//! capacity. [`stop_order`] is the mirror for scaling in.

mod filter;
mod make;
mod place;
pub mod query;
mod rank;
mod record;
mod view;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use filter::{Constraints, EXTERNAL, Failure, NO_CAPACITY, Reason, Request};
pub use make::{NewTask, TaskIds, missing_role, new_task, reserve, tags, task_cpu, task_memory};
pub use place::{place, stop_order};
pub use rank::Strategy;
pub use record::record;
pub use view::{Candidate, candidates, facts};
