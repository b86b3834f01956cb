//! Clusters.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use super::common::{Attachment, Failure, KeyValuePair, Tag};

/// CreateCluster: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateClusterRequest {
    pub cluster_name: Option<String>,
    pub tags: Option<Vec<Tag>>,
    pub settings: Option<Vec<ClusterSetting>>,
    pub configuration: Option<Value>,
    pub capacity_providers: Option<Vec<String>>,
    pub default_capacity_provider_strategy: Option<Value>,
    pub service_connect_defaults: Option<Value>,
}

/// CreateCluster: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateClusterResponse {
    pub cluster: Option<Cluster>,
}

/// DescribeClusters: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeClustersRequest {
    pub clusters: Option<Vec<String>>,
    pub include: Option<Vec<String>>,
}

/// DescribeClusters: response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeClustersResponse {
    pub clusters: Vec<Cluster>,
    pub failures: Vec<Failure>,
}

/// ListClusters: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListClustersRequest {
    pub next_token: Option<String>,
    pub max_results: Option<i32>,
}

/// ListClusters: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListClustersResponse {
    pub cluster_arns: Vec<String>,
    pub next_token: Option<String>,
}

/// DeleteCluster: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteClusterRequest {
    pub cluster: Option<String>,
}

/// DeleteCluster: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteClusterResponse {
    pub cluster: Option<Cluster>,
}

/// UpdateCluster: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateClusterRequest {
    pub cluster: Option<String>,
    pub settings: Option<Vec<ClusterSetting>>,
    pub configuration: Option<Value>,
    pub service_connect_defaults: Option<Value>,
}

/// UpdateCluster: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateClusterResponse {
    pub cluster: Option<Cluster>,
}

/// UpdateClusterSettings: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateClusterSettingsRequest {
    pub cluster: Option<String>,
    pub settings: Option<Vec<ClusterSetting>>,
}

/// UpdateClusterSettings: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateClusterSettingsResponse {
    pub cluster: Option<Cluster>,
}

/// PutClusterCapacityProviders: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PutClusterCapacityProvidersRequest {
    pub cluster: Option<String>,
    pub capacity_providers: Option<Vec<String>>,
    pub default_capacity_provider_strategy: Option<Value>,
}

/// PutClusterCapacityProviders: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PutClusterCapacityProvidersResponse {
    pub cluster: Option<Cluster>,
}

/// Shape `Cluster`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    pub cluster_arn: Option<String>,
    pub cluster_name: Option<String>,
    pub configuration: Option<Value>,
    pub status: Option<String>,
    pub registered_container_instances_count: Option<i32>,
    pub running_tasks_count: Option<i32>,
    pub pending_tasks_count: Option<i32>,
    pub active_services_count: Option<i32>,
    pub statistics: Vec<KeyValuePair>,
    pub tags: Vec<Tag>,
    pub settings: Vec<ClusterSetting>,
    pub capacity_providers: Vec<String>,
    pub default_capacity_provider_strategy: Option<Value>,
    pub attachments: Vec<Attachment>,
    pub attachments_status: Option<String>,
    pub service_connect_defaults: Option<Value>,
}

/// Shape `ClusterSetting`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSetting {
    pub name: Option<String>,
    pub value: Option<String>,
}
