//! Container instances.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol::ecs;
use serde::{Deserialize, Serialize};

use super::Entity;
use crate::state::{Table, View};

/// A registered host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub region: String,
    pub cluster: String,
    /// 32 hexadecimal digits.
    pub id: String,
    pub status: InstanceStatus,
    pub resources: Resources,
    /// A missing value is an attribute without value.
    pub attributes: BTreeMap<String, Option<String>>,
    /// Names of the attributes that users put; the others are the agent's.
    pub custom_attributes: BTreeSet<String>,
    pub tags: Vec<ecs::Tag>,
    pub version_info: ecs::VersionInfo,
    pub ec2_instance_id: Option<String>,
    pub registered_at: Timestamp,
    pub deregistered_at: Option<Timestamp>,
    /// Since when its agent is away, if it left tasks behind. No visible change.
    #[serde(default)]
    pub disconnected_at: Option<Timestamp>,
    /// Rises with each visible change.
    pub version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum InstanceStatus {
    Active,
    Draining,
    Inactive,
}

impl InstanceStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Draining => "DRAINING",
            Self::Inactive => "INACTIVE",
        }
    }
}

/// What an instance offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU units.
    pub cpu: u32,
    /// MiB.
    pub memory: u32,
    /// Ports that are taken from the beginning.
    pub ports: BTreeSet<u16>,
    pub ports_udp: BTreeSet<u16>,
}

impl Instance {
    pub fn arn(&self, account: &str) -> String {
        Self::arn_of(&self.region, account, &self.cluster, &self.id)
    }

    pub fn arn_of(region: &str, account: &str, cluster: &str, id: &str) -> String {
        format!("arn:aws:ecs:{region}:{account}:container-instance/{cluster}/{id}")
    }

    pub fn key_of(region: &str, cluster: &str, id: &str) -> String {
        format!("{}{region}/{cluster}/{id}", Self::PREFIX)
    }

    /// It is ACTIVE or DRAINING: not deregistered.
    pub fn is_registered(&self) -> bool {
        self.status != InstanceStatus::Inactive
    }

    pub fn has_attribute(&self, name: &str) -> bool {
        self.attributes.contains_key(name)
    }
}

impl Entity for Instance {
    const PREFIX: &'static str = "instance/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.cluster, &self.id)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.instances
    }
}

/// Changes with each placement on an instance and each status that matters to placement. Who places
/// compares it, so that no two decisions see the same free capacity. Made with the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    pub region: String,
    pub cluster: String,
    pub instance: String,
    pub placements: u64,
}

impl Guard {
    pub fn key_of(region: &str, cluster: &str, instance: &str) -> String {
        format!("{}{region}/{cluster}/{instance}", Self::PREFIX)
    }
}

impl Entity for Guard {
    const PREFIX: &'static str = "guard/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.cluster, &self.instance)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.guards
    }
}

/// An instance's agent is connected: there is a record, under the lease of the control-plane process
/// that holds the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    pub region: String,
    pub cluster: String,
    pub instance: String,
    /// Of the session, so that an old one does not end a new one's record.
    pub session: String,
    pub since: Timestamp,
}

impl Connection {
    pub fn key_of(region: &str, cluster: &str, instance: &str) -> String {
        format!("{}{region}/{cluster}/{instance}", Self::PREFIX)
    }
}

impl Entity for Connection {
    const PREFIX: &'static str = "connection/";

    fn key(&self) -> String {
        Self::key_of(&self.region, &self.cluster, &self.instance)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.connections
    }
}
