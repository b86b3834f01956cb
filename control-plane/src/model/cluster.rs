//! Clusters, and what remembers a request's token.

use jiff::Timestamp;
use protocol::ecs;
use serde::{Deserialize, Serialize};

use super::Entity;
use crate::state::{Table, View};

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub region: String,
    pub name: String,
    pub active: bool,
    pub settings: Vec<ecs::ClusterSetting>,
    pub tags: Vec<ecs::Tag>,
    pub created_at: Timestamp,
    /// Of FARGATE and FARGATE_SPOT.
    pub capacity_providers: Vec<String>,
    /// For what names neither a launch type nor a strategy.
    pub default_strategy: Vec<StrategyItem>,
    /// When it was deleted.
    #[serde(default)]
    pub inactive_at: Option<Timestamp>,
}

/// An item of a capacity provider strategy, as on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StrategyItem {
    pub capacity_provider: String,
    #[serde(default)]
    pub weight: u32,
    /// How many tasks it gets before weights count.
    #[serde(default)]
    pub base: u32,
}

impl StrategyItem {
    /// As on the wire.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "capacityProvider": self.capacity_provider,
            "weight": self.weight,
            "base": self.base,
        })
    }
}

impl Cluster {
    pub fn arn(&self, account: &str) -> String {
        Self::arn_of(&self.region, account, &self.name)
    }

    pub fn arn_of(region: &str, account: &str, name: &str) -> String {
        format!("arn:aws:ecs:{region}:{account}:cluster/{name}")
    }

    /// The key of the cluster with this name.
    pub fn key_of(region: &str, name: &str) -> String {
        format!("{}{region}/{name}", Self::PREFIX)
    }
}

impl Entity for Cluster {
    const PREFIX: &'static str = "cluster/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.name)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.clusters
    }
}

/// A `clientToken` that was used: the same request gets the same answer, another a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub region: String,
    pub operation: String,
    pub token: String,
    /// Of the request without the token, SHA-256 in hexadecimal digits.
    pub request: String,
    /// What it made: keys of records.
    pub made: Vec<String>,
    pub created_at: Timestamp,
}

impl Token {
    /// The key of the token of an operation.
    pub fn key_of(region: &str, operation: &str, token: &str) -> String {
        // A token may hold any visible character.
        format!("{}{region}/{operation}/{}", Self::PREFIX, hex::encode(token))
    }
}

impl Entity for Token {
    const PREFIX: &'static str = "token/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.operation, &self.token)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.tokens
    }
}
