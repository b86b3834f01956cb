//! TCS, the telemetry service: what this host's tasks use, told to the control plane every
//! [`INTERVAL`].
//!
//! ```text
//! stats ──points──▶ metrics ──▶ session ──signed frames──▶ control plane
//! ACS heartbeat ──▶ runtime ──health──▶ session
//! ```
//!
//! Best effort: what is lost is not repeated, and nothing waits for it. Samples are taken only while
//! a session is open and a task of the control plane runs. With `ECS_DISABLE_METRICS` the session is
//! held, and says that no task is tracked. Containers' health is not published: definitions with
//! health checks are refused. [`metrics`] is pure. Source: protocol reference §6, §10.

pub mod metrics;
pub mod runtime;
pub mod session;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::backend::discover::ControlPlane;
use crate::backend::session::Limits;
use crate::host::Input;
use crate::host::view::Snapshot;
use crate::identity::Identity;
use crate::stats::Stats;

/// Between publications.
pub const INTERVAL: Duration = Duration::from_secs(20);

/// What telemetry works with.
#[derive(Debug)]
pub struct Parts {
    pub control_plane: ControlPlane,
    pub identity: Arc<Identity>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// `None`: no metrics are to be published.
    pub stats: Option<Stats>,
    pub inbox: mpsc::Sender<Input>,
    /// Rung by ACS at a heartbeat.
    pub heartbeat: Arc<Notify>,
    pub limits: Limits,
    /// [`INTERVAL`]; tests shorten it.
    pub interval: Duration,
}

/// Starts telemetry, which ends with the handle. Must be called within a tokio runtime.
pub fn start(parts: Parts) -> AbortOnDropHandle<()> {
    let Parts { control_plane, identity, snapshots, stats, inbox, heartbeat, limits, interval } =
        parts;
    let (sender, health) = watch::channel(None);
    let context = session::Context { identity, snapshots, stats, health };
    AbortOnDropHandle::new(tokio::spawn(async move {
        let session = session::run(control_plane, context, limits, interval);
        tokio::join!(runtime::watch(inbox, heartbeat, sender), session);
    }))
}
