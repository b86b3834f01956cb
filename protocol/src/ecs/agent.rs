//! What only agents call.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use super::common::NetworkBinding;
use super::task::NetworkInterface;
use crate::time::EpochSeconds;

/// Attribute (without value) by which an agent says in its registration that it gives awsvpc tasks
/// their addresses itself; a control plane then sends it no network interfaces in payloads.
pub const TASK_NETWORK: &str = "lighter.capability.task-network";
/// Attribute (without value) that a control plane adds to the answer of such a registration: it
/// takes the addresses from state changes. Amazon ECS only echoes what an agent sent.
pub const TASK_NETWORK_OFFER: &str = "lighter.control-plane.task-network";

/// DiscoverPollEndpoint: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiscoverPollEndpointRequest {
    pub container_instance: Option<String>,
    pub cluster: Option<String>,
    pub zone_id: Option<String>,
}

/// DiscoverPollEndpoint: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DiscoverPollEndpointResponse {
    pub endpoint: Option<String>,
    pub telemetry_endpoint: Option<String>,
    pub service_connect_endpoint: Option<String>,
    pub system_logs_endpoint: Option<String>,
}

/// SubmitTaskStateChange: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubmitTaskStateChangeRequest {
    pub cluster: Option<String>,
    pub task: Option<String>,
    pub status: Option<String>,
    pub reason: Option<String>,
    pub containers: Option<Vec<ContainerStateChange>>,
    pub attachments: Option<Vec<AttachmentStateChange>>,
    pub managed_agents: Option<Value>,
    pub pull_started_at: Option<EpochSeconds>,
    pub pull_stopped_at: Option<EpochSeconds>,
    pub execution_stopped_at: Option<EpochSeconds>,
}

/// SubmitTaskStateChange: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubmitTaskStateChangeResponse {
    pub acknowledgment: Option<String>,
}

/// SubmitContainerStateChange: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubmitContainerStateChangeRequest {
    pub cluster: Option<String>,
    pub task: Option<String>,
    pub container_name: Option<String>,
    pub runtime_id: Option<String>,
    pub status: Option<String>,
    pub exit_code: Option<i32>,
    pub reason: Option<String>,
    pub network_bindings: Option<Vec<NetworkBinding>>,
}

/// SubmitContainerStateChange: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubmitContainerStateChangeResponse {
    pub acknowledgment: Option<String>,
}

/// SubmitAttachmentStateChanges: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubmitAttachmentStateChangesRequest {
    pub cluster: Option<String>,
    pub attachments: Option<Vec<AttachmentStateChange>>,
}

/// SubmitAttachmentStateChanges: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubmitAttachmentStateChangesResponse {
    pub acknowledgment: Option<String>,
}

/// Shape `AttachmentStateChange`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachmentStateChange {
    pub attachment_arn: Option<String>,
    pub status: Option<String>,
}

/// Shape `ContainerStateChange`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStateChange {
    pub container_name: Option<String>,
    pub image_digest: Option<String>,
    pub runtime_id: Option<String>,
    pub exit_code: Option<i32>,
    pub network_bindings: Option<Vec<NetworkBinding>>,
    /// Lighter's own: the address that the host gave to the container's task (awsvpc). Sent only to
    /// a control plane that offered it ([`TASK_NETWORK_OFFER`]).
    pub network_interfaces: Option<Vec<NetworkInterface>>,
    pub reason: Option<String>,
    pub status: Option<String>,
}
