//! Who this host is to its control plane.

use serde::{Deserialize, Serialize};

/// Known once the host is registered. The registration owns it; others watch it
/// (`watch::Receiver<Option<Arc<Identity>>>`; `None`: not registered, or on no control plane).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As configured: a name or an ARN.
    pub cluster: String,
    pub cluster_arn: String,
    pub container_instance_arn: String,
    pub region: String,
    /// Attribute `ecs.availability-zone` of the registration's answer.
    pub availability_zone: Option<String>,
    /// The control plane takes the addresses of awsvpc tasks from our reports
    /// (`protocol::ecs::TASK_NETWORK_OFFER`).
    pub reports_task_network: bool,
}
