//! The host agent: images, networks, volumes, logs and the engine that ties them to tasks.
//!
//! Decisions live in [`engine`], pure; everything else stands at the edges.

pub mod acs;
pub mod api;
pub mod attributes;
pub mod backend;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod daemon;
pub mod ecs;
pub mod engine;
// The runtime's file: `protocol`, which all of them share, is pure.
#[path = "../../runtime/src/failpoint.rs"]
mod failpoint;
#[cfg(test)]
mod fixtures;
pub mod host;
pub mod identity;
pub mod image;
pub mod layout;
pub mod logs;
pub mod monitor;
pub mod network;
pub mod registration;
pub mod reporter;
pub mod stats;
pub mod store;
#[allow(unsafe_code, reason = "the one module that wraps what has no safe form")]
pub mod sys;
pub mod tcs;
pub mod tmds;
pub mod userns;
pub mod volume;

use protocol::error;
