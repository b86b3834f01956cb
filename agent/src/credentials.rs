//! Credentials of tasks' roles. They live in memory only: after a restart the control plane is asked
//! to send them again.
//!
//! Owner: [`Credentials`]. The ACS session puts, the metadata endpoint and the log drivers read, and
//! the reporter drops a task's: those of its containers when it has stopped, all when its record goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::acs;
use protocol::ids::TaskId;

/// For whom a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleType {
    /// The task's containers.
    Application,
    /// The agent, on the task's behalf: pulls, secrets, logs. Never shown to a container.
    Execution,
}

/// One set of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub task: TaskId,
    pub role: RoleType,
    pub credentials: acs::Credentials,
}

/// All sets by their id. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Arc<Mutex<BTreeMap<String, Arc<Entry>>>>);

impl Credentials {
    /// Stores a set under its id; a set without id is not stored.
    pub fn put(&self, task: TaskId, role: RoleType, credentials: acs::Credentials) {
        let Some(id) = credentials.credentials_id.clone() else { return };
        self.lock().insert(id, Arc::new(Entry { task, role, credentials }));
    }

    /// The set with this id.
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.lock().get(id).cloned()
    }

    /// Drops what a task's containers had: they have ended. What its logs are shipped with stays.
    pub fn revoke(&self, task: &TaskId) {
        self.lock().retain(|_, entry| entry.task != *task || entry.role == RoleType::Execution);
    }

    /// Drops all sets of a task.
    pub fn forget(&self, task: &TaskId) {
        self.lock().retain(|_, entry| entry.task != *task);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Entry>>> {
        // Each critical section is one map operation: what a panic left is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
