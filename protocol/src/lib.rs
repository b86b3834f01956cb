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
pub mod ecr;
#[cfg(feature = "ecs")]
pub mod ecs;
#[cfg(feature = "ecs")]
pub mod ids;
#[cfg(feature = "ecs")]
pub mod logs;
#[cfg(feature = "ecs")]
pub mod partition;
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

/// Reads `null` as what is absent: the same on these wires.
#[cfg(feature = "ecs")]
pub(crate) fn null_as_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(from)?.unwrap_or_default())
}
