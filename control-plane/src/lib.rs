//! Lighter's control plane: the ECS API, its scheduler, the sessions of agents and the logs.
//!
//! In order of a request: `http` (one port; routing, signatures by `auth`) → `api` (a handler per
//! operation: reads the view, decides, commits) → [`state`] (typed records over a [`store`] with
//! etcd's semantics). Beside it, woken by changes of the state: `reconcile` (planners of services,
//! draining, lost hosts; pure but for `drive`) and `sessions` (one owner per connected instance,
//! which delivers what is stored and not yet acknowledged). `scheduler` is pure and called by both
//! handlers and planners.

pub mod access;
pub mod api;
pub mod auth;
pub mod cli;
pub mod config;
// The runtime's file: `protocol`, which all of them share, is pure.
#[path = "../../runtime/src/failpoint.rs"]
mod failpoint;
pub mod http;
pub mod logs;
pub mod model;
pub mod reconcile;
pub mod scheduler;
pub mod sessions;
pub mod state;
pub mod store;
pub mod sts;
