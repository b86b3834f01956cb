//! Options of a running control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What `serve` was given.
#[derive(Debug, Clone)]
pub struct Config {
    /// Account id of every ARN, 12 digits.
    pub account: String,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Certificate chain and key (PEM), for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Base URL that agents are told; `None`: as they reached us.
    pub advertise: Option<String>,
    /// Directory of the store and the logs.
    pub data: PathBuf,
    /// An instance whose agent was away for longer is lost: its tasks are stopped with
    /// InfrastructureHealth and services replace them. `None`: never.
    pub lost_after: Option<Duration>,
    /// Without health checks, a task must have run this long to count as healthy in a deployment.
    pub settle: Duration,
    /// How long stopped tasks and inactive services stay describable.
    pub keep_stopped: Duration,
}
