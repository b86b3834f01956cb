//! Types and rules shared over Lighter's wires; no I/O.
//!
//! The feature `ecs` holds everything but [`monitor`], which is all that the runtime takes.

pub mod monitor;

#[cfg(feature = "ecs")]
pub mod ids;
#[cfg(feature = "ecs")]
pub mod taskdef;
