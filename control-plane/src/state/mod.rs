//! The control plane's state: typed records over the store.
//!
//! [`State`] keeps a [`View`] of everything in memory, fed by the store's watch, and commits
//! [`Edit`]s: changes that hold only if what they were decided on is unchanged. Who decides reads
//! the view, makes an edit and commits; a conflict means that something came in between, and the
//! decision is made again on a newer view ([`State::transact`]).
//!
//! Promises: a committed edit is durable, and the view that the committer reads next contains it. A
//! view is consistent: all records of one revision.

mod edit;
mod hosts;
#[cfg(test)]
pub(crate) mod testing;
mod view;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

pub use edit::{Conflict, Edit};
pub use hosts::{Host, Hosts, ZONE};
pub use view::{Stored, Table, View};

use crate::sessions::Sessions;
use crate::store::{self, Store};

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the state")]
    Read(#[source] store::Error),
    #[error("change the state")]
    Commit(#[source] store::Error),
    #[error("the record {key} is unreadable")]
    Record { key: String, source: serde_json::Error },
    #[error("others changed the same records again and again")]
    Contended,
    #[error("the state's watch has ended")]
    Ended,
}

/// How often a decision is made again.
const ATTEMPTS: usize = 100;

/// The state of a control plane.
#[derive(Debug)]
pub struct State {
    store: Arc<dyn Store>,
    view: Arc<RwLock<View>>,
    /// The revision that the view has reached.
    reached: watch::Receiver<u64>,
    sessions: Arc<Sessions>,
    follower: tokio_util::task::AbortOnDropHandle<()>,
}

impl State {
    /// Reads everything and begins to follow the store.
    ///
    /// # Errors
    /// If the store cannot be read, or holds what this version cannot read.
    pub async fn open(store: Arc<dyn Store>) -> Result<Arc<Self>, Error> {
        let range = store.range("").await.map_err(Error::Read)?;
        let mut view = View::default();
        for record in &range.keys {
            view.put(record)?;
        }
        view.revision = range.revision;
        let mut watch = store.watch("", range.revision).await.map_err(Error::Read)?;
        let (reached_set, reached) = watch::channel(range.revision);
        let view = Arc::new(RwLock::new(view));
        let sessions = Arc::new(Sessions::default());
        let follower = tokio_util::task::AbortOnDropHandle::new(tokio::spawn({
            let view = Arc::clone(&view);
            let sessions = Arc::clone(&sessions);
            async move {
                while let Some(changes) = watch.recv().await {
                    let applied = changes.map_err(Error::Read).and_then(|changes| {
                        let revision = changes.revision;
                        let mut view = view.write().unwrap_or_else(PoisonError::into_inner);
                        view.apply(&changes)?;
                        sessions.wake(&view, &changes);
                        Ok(revision)
                    });
                    match applied {
                        Ok(revision) => reached_set.send_replace(revision),
                        Err(error) => {
                            // Without a view nothing can be decided; the process ends (see `serve`).
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "the view of the state is lost"
                            );
                            return;
                        }
                    };
                }
            }
        }));
        Ok(Arc::new(Self { store, view, reached, sessions, follower }))
    }

    /// Everything, now. Short: changes wait for it. Not to be held over an await.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        // The follower applies whole revisions; a panic of a reader leaves the view whole.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What the sessions of agents share in this process. They are woken by changes that concern
    /// their instance, not by each.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Changes when the view does. Starts with the present revision.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.reached.clone()
    }

    /// Whether the view still follows the store. If not, the process has to end.
    pub fn follows(&self) -> bool {
        !self.follower.is_finished()
    }

    /// Commits an edit. `Ok(Err(Conflict))`: what it was decided on has changed, and nothing was
    /// done. Afterwards the view contains what was committed or what it conflicted with.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn commit(&self, edit: Edit) -> Result<Result<u64, Conflict>, Error> {
        if edit.is_empty() {
            return Ok(Ok(self.view().revision));
        }
        let outcome = self.store.transact(edit.into_transaction()).await.map_err(Error::Commit)?;
        let mut reached = self.reached.clone();
        reached.wait_for(|reached| *reached >= outcome.revision).await.map_err(|_| Error::Ended)?;
        Ok(if outcome.succeeded { Ok(outcome.revision) } else { Err(Conflict) })
    }

    /// Decides on the view and commits, again and again until no one comes in between. `decide` has
    /// no side effects but its edit.
    ///
    /// # Errors
    /// The decision's own, or that of the commit.
    pub async fn transact<T, E: From<Error>>(
        &self,
        mut decide: impl FnMut(&View, &mut Edit) -> Result<T, E>,
    ) -> Result<T, E> {
        for _ in 0..ATTEMPTS {
            let mut edit = Edit::default();
            let decided = decide(&self.view(), &mut edit)?;
            if self.commit(edit).await?.is_ok() {
                return Ok(decided);
            }
        }
        Err(Error::Contended.into())
    }
}
