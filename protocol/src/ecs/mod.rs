//! Shapes of the ECS API (version 2014-11-13), a file per resource. They are what stands on the wire:
//! every member may be absent, and nothing is checked but JSON types. Names and types are those of
//! the service model; members that we never act on are JSON values, so that who reads them can
//! refuse what is there.
//!
//! In requests a missing list differs from an empty one; in responses lists are always there,
//! because clients index into them.

pub mod agent;
pub mod cluster;
pub mod common;
pub mod container_instance;
pub mod service;
pub mod tag;
pub mod task;
pub mod task_definition;

pub use agent::*;
pub use cluster::*;
pub use common::*;
pub use container_instance::*;
pub use service::*;
pub use tag::*;
pub use task::*;
pub use task_definition::*;

/// `X-Amz-Target` prefix of the ECS API.
pub const TARGET: &str = "AmazonEC2ContainerServiceV20141113";
/// Service name in a credential scope.
pub const SIGNING_NAME: &str = "ecs";
