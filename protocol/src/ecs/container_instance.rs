//! Container instances and their attributes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use super::common::{Attachment, Attribute, Failure, Tag};
use crate::time::EpochSeconds;

/// RegisterContainerInstance: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterContainerInstanceRequest {
    pub cluster: Option<String>,
    pub instance_identity_document: Option<String>,
    pub instance_identity_document_signature: Option<String>,
    pub total_resources: Option<Vec<Resource>>,
    pub version_info: Option<VersionInfo>,
    pub container_instance_arn: Option<String>,
    pub attributes: Option<Vec<Attribute>>,
    pub platform_devices: Option<Value>,
    pub tags: Option<Vec<Tag>>,
    /// The same over retries of one registration; agents send it, the service model leaves it out.
    pub client_token: Option<String>,
}

/// RegisterContainerInstance: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterContainerInstanceResponse {
    pub container_instance: Option<ContainerInstance>,
}

/// DescribeContainerInstances: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeContainerInstancesRequest {
    pub cluster: Option<String>,
    pub container_instances: Option<Vec<String>>,
    pub include: Option<Vec<String>>,
}

/// DescribeContainerInstances: response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeContainerInstancesResponse {
    pub container_instances: Vec<ContainerInstance>,
    pub failures: Vec<Failure>,
}

/// ListContainerInstances: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListContainerInstancesRequest {
    pub cluster: Option<String>,
    pub filter: Option<String>,
    pub next_token: Option<String>,
    pub max_results: Option<i32>,
    pub status: Option<String>,
}

/// ListContainerInstances: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListContainerInstancesResponse {
    pub container_instance_arns: Vec<String>,
    pub next_token: Option<String>,
}

/// UpdateContainerInstancesState: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateContainerInstancesStateRequest {
    pub cluster: Option<String>,
    pub container_instances: Option<Vec<String>>,
    pub status: Option<String>,
}

/// UpdateContainerInstancesState: response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateContainerInstancesStateResponse {
    pub container_instances: Vec<ContainerInstance>,
    pub failures: Vec<Failure>,
}

/// DeregisterContainerInstance: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeregisterContainerInstanceRequest {
    pub cluster: Option<String>,
    pub container_instance: Option<String>,
    pub force: Option<bool>,
}

/// DeregisterContainerInstance: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeregisterContainerInstanceResponse {
    pub container_instance: Option<ContainerInstance>,
}

/// UpdateContainerAgent: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateContainerAgentRequest {
    pub cluster: Option<String>,
    pub container_instance: Option<String>,
}

/// UpdateContainerAgent: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateContainerAgentResponse {
    pub container_instance: Option<ContainerInstance>,
}

/// PutAttributes: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PutAttributesRequest {
    pub cluster: Option<String>,
    pub attributes: Option<Vec<Attribute>>,
}

/// PutAttributes: response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PutAttributesResponse {
    pub attributes: Vec<Attribute>,
}

/// DeleteAttributes: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteAttributesRequest {
    pub cluster: Option<String>,
    pub attributes: Option<Vec<Attribute>>,
}

/// DeleteAttributes: response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteAttributesResponse {
    pub attributes: Vec<Attribute>,
}

/// ListAttributes: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListAttributesRequest {
    pub cluster: Option<String>,
    pub target_type: Option<String>,
    pub attribute_name: Option<String>,
    pub attribute_value: Option<String>,
    pub next_token: Option<String>,
    pub max_results: Option<i32>,
}

/// ListAttributes: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListAttributesResponse {
    pub attributes: Vec<Attribute>,
    pub next_token: Option<String>,
}

/// Shape `ContainerInstance`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerInstance {
    pub container_instance_arn: Option<String>,
    pub ec2_instance_id: Option<String>,
    pub version: Option<i64>,
    pub version_info: Option<VersionInfo>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub remaining_resources: Vec<Resource>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub registered_resources: Vec<Resource>,
    pub status: Option<String>,
    pub status_reason: Option<String>,
    pub agent_connected: Option<bool>,
    pub running_tasks_count: Option<i32>,
    pub pending_tasks_count: Option<i32>,
    pub agent_update_status: Option<String>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub attributes: Vec<Attribute>,
    pub registered_at: Option<EpochSeconds>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub attachments: Vec<Attachment>,
    #[serde(deserialize_with = "crate::null_as_default")]
    pub tags: Vec<Tag>,
    pub health_status: Option<Value>,
}

/// Shape `Resource`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resource {
    pub name: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub double_value: Option<f64>,
    pub long_value: Option<i64>,
    pub integer_value: Option<i32>,
    pub string_set_value: Option<Vec<String>>,
}

/// Shape `VersionInfo`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionInfo {
    pub agent_version: Option<String>,
    pub agent_hash: Option<String>,
    pub docker_version: Option<String>,
}
