//! Credentials of tasks' roles. They live in memory only: after a restart the control plane is asked
//! to send them again.
//!
//! Of each task and role the newest set counts: whoever knew the one before is given its successor, so
//! that neither a container nor a log's delivery is left with keys that expire.
//!
//! Owner: [`Credentials`]. The ACS session puts, the metadata endpoint and the log drivers read, and
//! the reporter drops a task's: those of its containers when it has stopped, all when its record goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::acs;
use protocol::ids::TaskId;
use tokio::sync::Notify;

/// For whom a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleType {
    /// The task's containers.
    Application,
    /// The agent, on the task's behalf: pulls, secrets, logs. Never shown to a container.
    Execution,
}

/// The newest sets. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    sets: Mutex<Sets>,
    /// A set was put.
    put: Notify,
}

type Sets = BTreeMap<(TaskId, RoleType), Arc<acs::Credentials>>;

impl Credentials {
    /// Stores a set in place of the one before; a set without id is not stored.
    pub fn put(&self, task: TaskId, role: RoleType, credentials: acs::Credentials) {
        if credentials.credentials_id.is_some() {
            self.lock().insert((task, role), Arc::new(credentials));
            self.0.put.notify_waiters();
        }
    }

    /// A task's newest set, waiting for the first one at most so long.
    pub async fn wait(
        &self,
        task: &TaskId,
        role: RoleType,
        patience: Duration,
    ) -> Option<Arc<acs::Credentials>> {
        let come = async {
            loop {
                let put = self.0.put.notified();
                tokio::pin!(put);
                // From here on no set is missed.
                put.as_mut().enable();
                if let Some(found) = self.of(task, role) {
                    return found;
                }
                put.await;
            }
        };
        tokio::time::timeout(patience, come).await.ok()
    }

    /// A task's newest set.
    pub fn of(&self, task: &TaskId, role: RoleType) -> Option<Arc<acs::Credentials>> {
        self.lock().get(&(task.clone(), role)).cloned()
    }

    /// Drops what a task's containers had: they have ended. What its logs are shipped with stays.
    pub fn revoke(&self, task: &TaskId) {
        self.lock().remove(&(task.clone(), RoleType::Application));
    }

    /// Drops all sets of a task.
    pub fn forget(&self, task: &TaskId) {
        self.lock().retain(|(of, _), _| of != task);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sets> {
        // Each critical section is one map operation: what a panic left is whole.
        self.0.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
