//! Access keys and roles.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Entity;
use crate::state::{Stored, Table, View};

/// Who may sign requests. Permanent keys (`key create`) have no token and no end; keys minted for a
/// task's role have both.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// `AKIA…`, or `ASIA…` of a role's.
    pub id: String,
    pub secret: String,
    pub session_token: Option<String>,
    /// ARN that GetCallerIdentity answers.
    pub principal: String,
    /// Actions it may call, `<service>:<operation>` with `*` for any part, e.g. `ecs:*`, `logs:Put*`.
    /// GetCallerIdentity needs none.
    pub allow: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// For people (`key create --description`).
    pub description: Option<String>,
    /// The task for which it was minted, as `<region>/<cluster>/<id>`.
    pub task: Option<String>,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

impl AccessKey {
    /// An id: after its prefix the last five bits of each byte, in base 32.
    pub fn id_of<'b>(prefix: &str, bytes: impl IntoIterator<Item = &'b u8>) -> String {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let letters = bytes.into_iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 31)));
        prefix.chars().chain(letters.map(|letter| char::from(*letter))).collect()
    }
}

impl Entity for AccessKey {
    const PREFIX: &'static str = "key/";

    fn key(&self) -> String {
        format!("{}{}", Self::PREFIX, self.id)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.keys
    }
}

/// A role that tasks can have (`taskRoleArn`, `executionRoleArn`), locally defined
/// (`role create`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    /// As in [`AccessKey::allow`].
    pub allow: Vec<String>,
    pub created_at: Timestamp,
}

impl Role {
    /// `arn:aws:iam::<account>:role/<name>`
    pub fn arn(account: &str, name: &str) -> String {
        format!("arn:aws:iam::{account}:role/{name}")
    }

    /// The ARN of a role that is given by its ARN or its name.
    pub fn arn_of(account: &str, given: &str) -> String {
        if given.starts_with("arn:") { given.to_owned() } else { Self::arn(account, given) }
    }

    /// ECS's words for one that a task cannot have, because it is not there.
    pub fn cannot_be_assumed(arn: &str) -> String {
        format!(
            "ECS was unable to assume the role '{arn}' that was provided for this task. Please verify \
             that the role being passed has the proper trust relationship and permissions and that \
             your IAM user has permissions to pass this role."
        )
    }

    /// The role with this ARN, if it is there.
    pub fn find<'v>(view: &'v View, account: &str, arn: &str) -> Option<&'v Stored<Self>> {
        let name = arn.strip_prefix(&Self::arn(account, ""))?;
        view.roles.get(&format!("{}{name}", Self::PREFIX))
    }
}

impl Entity for Role {
    const PREFIX: &'static str = "role/";

    fn key(&self) -> String {
        format!("{}{}", Self::PREFIX, self.name)
    }

    fn table(view: &View) -> &Table<Self> {
        &view.roles
    }
}
