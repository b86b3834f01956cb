//! Task definitions.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol::ecs;
use protocol::taskdef::TaskDefinition;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Entity;
use crate::state::{Table, View};

/// Counts the revisions of a family; they are never used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    pub region: String,
    pub name: String,
    pub last_revision: u32,
}

impl Family {
    pub fn key_of(region: &str, name: &str) -> String {
        format!("{}{region}/{name}", Self::PREFIX)
    }
}

impl Entity for Family {
    const PREFIX: &'static str = "family/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.name)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.families
    }
}

/// A revision of a family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    pub region: String,
    pub family: String,
    pub revision: u32,
    pub status: DefinitionStatus,
    /// Validated; what everything but descriptions works with.
    pub definition: TaskDefinition,
    /// As registered, with ECS's defaults filled in: members of `TaskDefinition` in descriptions.
    pub registered: Value,
    /// Attributes an instance must have to run it.
    pub requires_attributes: BTreeSet<String>,
    pub compatibilities: Vec<String>,
    pub registered_at: Timestamp,
    pub registered_by: String,
    pub deregistered_at: Option<Timestamp>,
    pub delete_requested_at: Option<Timestamp>,
    pub tags: Vec<ecs::Tag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DefinitionStatus {
    Active,
    Inactive,
    DeleteInProgress,
}

/// Names a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DefinitionName {
    pub family: String,
    pub revision: u32,
}

impl DefinitionName {
    /// `arn:aws:ecs:<region>:<account>:task-definition/<family>:<revision>`
    pub fn arn(&self, region: &str, account: &str) -> String {
        format!("arn:aws:ecs:{region}:{account}:task-definition/{}:{}", self.family, self.revision)
    }

    pub fn key(&self, region: &str) -> String {
        format!("{}{region}/{}/{:010}", Definition::PREFIX, self.family, self.revision)
    }
}

impl Definition {
    pub fn name(&self) -> DefinitionName {
        DefinitionName { family: self.family.clone(), revision: self.revision }
    }
}

impl Entity for Definition {
    const PREFIX: &'static str = "definition/";

    fn key(&self) -> String {
        self.name().key(&self.region)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.definitions
    }
}
