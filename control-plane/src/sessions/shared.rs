//! What the sessions of this process share: its lease, who is woken by what, the latest metrics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::credentials;
use super::telemetry::Telemetry;
use crate::model::{AccessKey, Connection, Entity, Instance, Task};
use crate::state::{State, View};
use crate::store::{self, LeaseId};

/// How long the connections of a process outlive it.
const TTL: Duration = Duration::from_secs(10);
/// Between signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Signs of life between two looks for credentials that nobody may use any more.
const SWEEP: u32 = 10;

/// What the sessions of this process share.
#[derive(Debug, Default)]
pub struct Sessions {
    lease: Mutex<Option<LeaseId>>,
    /// Sessions that wait, by the key of their instance.
    sleepers: Mutex<HashMap<String, Vec<Arc<Notify>>>>,
    pub(super) telemetry: Telemetry,
    keeper: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// Each critical section leaves its value whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session's place to be woken at. Ends with the session.
#[derive(Debug)]
pub(super) struct Sleeper {
    sessions: Arc<Sessions>,
    instance: String,
    notify: Arc<Notify>,
}

impl Sleeper {
    /// Returns after something of the instance has changed since the last return.
    pub(super) async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let mut sleepers = lock(&self.sessions.sleepers);
        if let Some(own) = sleepers.get_mut(&self.instance) {
            own.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if own.is_empty() {
                sleepers.remove(&self.instance);
            }
        }
    }
}

impl Sessions {
    /// The latest samples of all instances that publish, by the instance's key.
    pub fn telemetry(&self) -> HashMap<String, Arc<super::InstanceSample>> {
        self.telemetry.all()
    }

    /// Wakes the sessions that changes of these keys concern. The view contains the changes.
    pub(crate) fn wake(&self, view: &View, keys: &[String]) {
        let sleepers = lock(&self.sleepers);
        if sleepers.is_empty() {
            return;
        }
        for key in keys {
            // Whose session it opened is not known here. Keys of tasks come and go with them, and
            // open none.
            let access_key = key.strip_prefix(AccessKey::PREFIX);
            if access_key.is_some_and(|id| !id.starts_with("ASIA")) && view.keys.get(key).is_none()
            {
                sleepers.values().flatten().for_each(|notify| notify.notify_one());
                continue;
            }
            let instance = if key.starts_with(Instance::PREFIX) {
                Some(key.clone())
            } else if let Some(names) = key.strip_prefix(Connection::PREFIX) {
                Some(format!("{}{names}", Instance::PREFIX))
            } else if key.starts_with(Task::PREFIX) {
                // A task that is deleted has ended long ago.
                let task = view.tasks.get(key);
                task.map(|task| Instance::key_of(&task.region, &task.cluster, &task.instance))
            } else {
                None
            };
            let sleepers = instance.and_then(|instance| sleepers.get(&instance));
            sleepers.into_iter().flatten().for_each(|notify| notify.notify_one());
        }
    }

    /// Wakes all: nobody knows what has changed.
    pub(crate) fn wake_all(&self) {
        lock(&self.sleepers).values().flatten().for_each(|notify| notify.notify_one());
    }

    pub(super) fn sleeper(self: &Arc<Self>, instance: &str) -> Sleeper {
        let notify = Arc::new(Notify::new());
        let mut sleepers = lock(&self.sleepers);
        sleepers.entry(instance.to_owned()).or_default().push(Arc::clone(&notify));
        Sleeper { sessions: Arc::clone(self), instance: instance.to_owned(), notify }
    }

    /// The lease of this process. The first call begins to keep it alive.
    pub(super) async fn lease(&self, state: &Arc<State>) -> Result<LeaseId, store::Error> {
        {
            let mut keeper = lock(&self.keeper);
            if keeper.as_ref().is_none_or(|keeper| keeper.is_finished()) {
                let task = tokio::spawn(keep(Arc::downgrade(state)));
                *keeper = Some(AbortOnDropHandle::new(task));
            }
        }
        let held = *lock(&self.lease);
        if let Some(lease) = held {
            return Ok(lease);
        }
        let granted = state.store().grant(TTL).await?;
        // Of two that were granted at once the second ends unused.
        Ok(*lock(&self.lease).get_or_insert(granted))
    }

    /// This lease has ended: the next one who asks gets another.
    pub(super) fn lost(&self, lease: LeaseId) {
        lock(&self.lease).take_if(|held| *held == lease);
    }
}

/// Keeps the process's lease alive and sweeps credentials, until the state is dropped.
async fn keep(state: Weak<State>) {
    let mut ticks = tokio::time::interval(KEEP_ALIVE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut count = 0;
    loop {
        ticks.tick().await;
        let Some(state) = state.upgrade() else { return };
        let sessions = state.sessions();
        let held = *lock(&sessions.lease);
        if let Some(lease) = held {
            match state.store().keep_alive(lease).await {
                Ok(()) => {}
                Err(store::Error::NoLease(_)) => {
                    // The connections' end wakes the sessions, which come back under a new lease.
                    tracing::warn!("the lease of the agents' connections has expired");
                    sessions.lost(lease);
                }
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the agents' connections cannot be kept"
                ),
            }
        }
        count += 1;
        if count >= SWEEP {
            count = 0;
            if let Err(error) = credentials::sweep(&state).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the credentials of ended tasks cannot be deleted"
                );
            }
        }
    }
}
