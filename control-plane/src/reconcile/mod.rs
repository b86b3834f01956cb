//! What the control plane does of its own accord.
//!
//! Planners are pure: [`service`] (REPLICA) and [`daemon`] decide on the tasks of one service, with
//! [`deployment`] for its deployments, [`member`] for what a task is worth, [`drain`] for what its
//! host makes of it and [`events`] for what is told; [`lost`] decides on hosts that do not return,
//! [`sweep`] on records that nobody needs. [`apply`] turns what they decide into an edit of the state,
//! with ids from [`draws`]. [`drive`] is the edge: it finds out what changed, and commits.

pub mod apply;
pub mod daemon;
pub mod deployment;
pub mod drain;
pub mod draws;
pub mod drive;
pub mod events;
pub mod lost;
pub mod member;
pub mod service;
pub mod sweep;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
