//! Task definitions. What is registered is validated by [`crate::taskdef`]; its parts are JSON here, so that a
//! description repeats what was registered.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_with::skip_serializing_none;

use super::common::{Failure, Tag};
use crate::time::EpochSeconds;

/// RegisterTaskDefinition: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterTaskDefinitionRequest {
    pub family: Option<String>,
    pub task_role_arn: Option<String>,
    pub execution_role_arn: Option<String>,
    pub network_mode: Option<String>,
    pub container_definitions: Option<Value>,
    pub volumes: Option<Value>,
    pub placement_constraints: Option<Value>,
    pub requires_compatibilities: Option<Vec<String>>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub tags: Option<Vec<Tag>>,
    pub pid_mode: Option<String>,
    pub ipc_mode: Option<String>,
    pub proxy_configuration: Option<Value>,
    pub inference_accelerators: Option<Value>,
    pub ephemeral_storage: Option<Value>,
    pub runtime_platform: Option<Value>,
    pub enable_fault_injection: Option<bool>,
}

/// RegisterTaskDefinition: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterTaskDefinitionResponse {
    pub task_definition: Option<TaskDefinition>,
    pub tags: Vec<Tag>,
}

/// DescribeTaskDefinition: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeTaskDefinitionRequest {
    pub task_definition: Option<String>,
    pub include: Option<Vec<String>>,
}

/// DescribeTaskDefinition: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DescribeTaskDefinitionResponse {
    pub task_definition: Option<TaskDefinition>,
    pub tags: Vec<Tag>,
}

/// ListTaskDefinitions: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListTaskDefinitionsRequest {
    pub family_prefix: Option<String>,
    pub status: Option<String>,
    pub sort: Option<String>,
    pub next_token: Option<String>,
    pub max_results: Option<i32>,
}

/// ListTaskDefinitions: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListTaskDefinitionsResponse {
    pub task_definition_arns: Vec<String>,
    pub next_token: Option<String>,
}

/// ListTaskDefinitionFamilies: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListTaskDefinitionFamiliesRequest {
    pub family_prefix: Option<String>,
    pub status: Option<String>,
    pub next_token: Option<String>,
    pub max_results: Option<i32>,
}

/// ListTaskDefinitionFamilies: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListTaskDefinitionFamiliesResponse {
    pub families: Vec<String>,
    pub next_token: Option<String>,
}

/// DeregisterTaskDefinition: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeregisterTaskDefinitionRequest {
    pub task_definition: Option<String>,
}

/// DeregisterTaskDefinition: response.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeregisterTaskDefinitionResponse {
    pub task_definition: Option<TaskDefinition>,
}

/// DeleteTaskDefinitions: request.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteTaskDefinitionsRequest {
    pub task_definitions: Option<Vec<String>>,
}

/// DeleteTaskDefinitions: response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteTaskDefinitionsResponse {
    pub task_definitions: Vec<TaskDefinition>,
    pub failures: Vec<Failure>,
}

/// Shape `TaskDefinition`.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskDefinition {
    pub task_definition_arn: Option<String>,
    pub container_definitions: Option<Value>,
    pub family: Option<String>,
    pub task_role_arn: Option<String>,
    pub execution_role_arn: Option<String>,
    pub network_mode: Option<String>,
    pub revision: Option<i32>,
    pub volumes: Option<Value>,
    pub status: Option<String>,
    pub requires_attributes: Option<Value>,
    pub placement_constraints: Option<Value>,
    pub compatibilities: Vec<String>,
    pub runtime_platform: Option<Value>,
    pub requires_compatibilities: Vec<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub inference_accelerators: Option<Value>,
    pub pid_mode: Option<String>,
    pub ipc_mode: Option<String>,
    pub proxy_configuration: Option<Value>,
    pub registered_at: Option<EpochSeconds>,
    pub deregistered_at: Option<EpochSeconds>,
    pub delete_requested_at: Option<EpochSeconds>,
    pub registered_by: Option<String>,
    pub ephemeral_storage: Option<Value>,
    pub enable_fault_injection: Option<bool>,
}
