//! Types and rules shared over Lighter's wires; no I/O.
//!
//! The feature `ecs` holds everything but [`monitor`] and [`error`], which are all that the runtime
//! takes.

pub mod error;
pub mod monitor;

#[cfg(feature = "ecs")]
pub mod acs;
#[cfg(feature = "ecs")]
pub mod aws_json;
#[cfg(feature = "ecs")]
pub mod ecs;
#[cfg(feature = "ecs")]
pub mod ids;
#[cfg(feature = "ecs")]
pub mod logs;
#[cfg(feature = "ecs")]
pub mod percent;
#[cfg(feature = "ecs")]
pub mod query;
#[cfg(feature = "ecs")]
pub mod sigv4;
#[cfg(feature = "ecs")]
pub mod taskdef;
#[cfg(feature = "ecs")]
pub mod tcs;
#[cfg(feature = "ecs")]
pub mod time;
#[cfg(feature = "ecs")]
pub mod tmds;
