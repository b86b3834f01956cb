//! The control plane's state: typed records over the store.
//!
//! [`State`] keeps a [`View`] of everything in memory, fed by the store's watch, and commits
//! [`Edit`]s: changes that hold only if what they were decided on is unchanged. Who decides reads
//! the view, makes an edit and commits; a conflict means that something came in between, and the
//! decision is made again on a newer view ([`State::transact`]).
//!
//! Promises: a committed edit is durable, and the view that the committer reads next contains it. A
//! view is consistent: all records of one revision. When the store cannot be followed any more,
//! changes fail with [`Error::Ended`], and the process has to end ([`State::ended`]).

mod edit;
mod hosts;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod view;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use edit::{Conflict, Edit};
pub use hosts::{Host, Hosts, ZONE};
pub use view::{Stored, Table, View};

use self::view::Read;
use crate::sessions::Sessions;
use crate::store::{self, Change, Store, Watch};

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the state")]
    Read(#[source] store::Error),
    #[error("change the state")]
    Commit(#[source] store::Error),
    #[error("the record {key} is unreadable")]
    Record { key: String, source: serde_json::Error },
    #[error("write the record {key} as JSON")]
    Unwritable { key: String, source: serde_json::Error },
    #[error("others changed the same records again and again")]
    Contended,
    #[error("the state's watch has ended")]
    Ended,
}

/// How often a decision is made again.
const ATTEMPTS: usize = 100;
/// How often of these before it waits for those that conflicted earlier.
const FREE_ATTEMPTS: usize = 4;
/// How often after that before it keeps all others from committing.
const QUEUED_ATTEMPTS: usize = 16;

/// The state of a control plane.
#[derive(Debug)]
pub struct State {
    store: Arc<dyn Store>,
    view: Arc<RwLock<View>>,
    /// The revision that the view has reached.
    reached: watch::Receiver<u64>,
    sessions: Arc<Sessions>,
    /// Held by the one that goes on, of those that conflicted a few times.
    queue: tokio::sync::Mutex<()>,
    /// Held shared while a decision is made and committed; alone by who conflicts again and again.
    turn: tokio::sync::RwLock<()>,
    follower: AbortOnDropHandle<()>,
}

impl State {
    /// Reads everything and begins to follow the store.
    ///
    /// # Errors
    /// If the store cannot be read, or holds what this version cannot read.
    pub async fn open(store: Arc<dyn Store>) -> Result<Arc<Self>, Error> {
        let (view, watch) = load(&*store).await?;
        let (reached_set, reached) = watch::channel(view.revision);
        let view = Arc::new(RwLock::new(view));
        let sessions = Arc::new(Sessions::default());
        let follower = Follower {
            store: Arc::downgrade(&store),
            view: Arc::clone(&view),
            reached: reached_set,
            sessions: Arc::clone(&sessions),
        };
        let follower = AbortOnDropHandle::new(tokio::spawn(follower.run(watch)));
        let (queue, turn) = Default::default();
        Ok(Arc::new(Self { store, view, reached, sessions, queue, turn, follower }))
    }

    /// Everything, now. Short: changes wait for it. Not to be held over an await, nor taken again
    /// while it is held: a change that waits in between would block both.
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

    /// Waits until the view follows the store no more.
    pub async fn ended(&self) {
        // Never so; it fails when the follower is gone.
        let _ = self.reached.clone().wait_for(|_| false).await;
    }

    /// Commits an edit. `Ok(Err(Conflict))`: what it was decided on has changed, and nothing was
    /// done. Afterwards the view contains what was committed or what it conflicted with.
    ///
    /// # Errors
    /// If the store fails, or cannot be followed ([`Error::Ended`]: whether the edit was done is then
    /// not known). An edit whose future is dropped may still be done.
    pub async fn commit(&self, edit: Edit) -> Result<Result<u64, Conflict>, Error> {
        if edit.is_empty() {
            return Ok(Ok(self.view().revision));
        }
        if !self.follows() {
            return Err(Error::Ended);
        }
        let transaction = edit.into_transaction()?;
        let outcome = self.store.transact(transaction).await.map_err(Error::Commit)?;
        let mut reached = self.reached.clone();
        let waited = reached.wait_for(|reached| *reached >= outcome.revision).await;
        waited.map_err(|_gone| Error::Ended)?;
        Ok(if outcome.succeeded { Ok(outcome.revision) } else { Err(Conflict) })
    }

    /// Decides on the view and commits, again and again until no one comes in between. `decide` has
    /// no side effects but its edit.
    ///
    /// Of many that change the same record one wins at a time. Those that lost a few times go on one
    /// after the other, beside all that is new; who loses even so goes on alone in this process. So
    /// neither the number of the others nor their being quicker keeps a decision from being made.
    ///
    /// # Errors
    /// The decision's own, or that of the commit.
    pub async fn transact<T, E: From<Error>>(
        &self,
        mut decide: impl FnMut(&View, &mut Edit) -> Result<T, E>,
    ) -> Result<T, E> {
        for _ in 0..FREE_ATTEMPTS {
            let _shared = self.turn.read().await;
            if let Some(decided) = self.attempt(&mut decide).await? {
                return Ok(decided);
            }
        }
        let _queued = self.queue.lock().await;
        for _ in 0..QUEUED_ATTEMPTS {
            let _shared = self.turn.read().await;
            if let Some(decided) = self.attempt(&mut decide).await? {
                return Ok(decided);
            }
        }
        let _alone = self.turn.write().await;
        for _ in FREE_ATTEMPTS + QUEUED_ATTEMPTS..ATTEMPTS {
            if let Some(decided) = self.attempt(&mut decide).await? {
                return Ok(decided);
            }
        }
        Err(Error::Contended.into())
    }

    /// Decides and commits once; `None`: somebody came in between.
    async fn attempt<T, E: From<Error>>(
        &self,
        decide: &mut impl FnMut(&View, &mut Edit) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let mut edit = Edit::default();
        let decided = decide(&self.view(), &mut edit)?;
        Ok(self.commit(edit).await?.is_ok().then_some(decided))
    }
}

/// Keeps the view up with the store.
struct Follower {
    /// Not held: the store ends when its users have gone.
    store: Weak<dyn Store>,
    view: Arc<RwLock<View>>,
    /// Dropped with the follower, which tells all who wait.
    reached: watch::Sender<u64>,
    sessions: Arc<Sessions>,
}

impl Follower {
    async fn run(self, mut watch: Watch) {
        loop {
            match self.follow(&mut watch).await {
                Ok(()) => {}
                // The store was closed: there is nobody left to follow it for.
                Err(Error::Ended) if self.store.strong_count() == 0 => return,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the state cannot be followed");
                    return;
                }
            }
        }
    }

    /// Takes over one revision.
    async fn follow(&self, watch: &mut Watch) -> Result<(), Error> {
        match watch.recv().await.ok_or(Error::Ended)? {
            Ok(changes) => {
                let keys: Vec<String> =
                    changes.changes.iter().map(key).map(str::to_owned).collect();
                let read = Read::changes(changes)?;
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                view.apply(read);
                self.sessions.wake(&view, &keys);
                self.reached.send_replace(view.revision);
            }
            Err(store::Error::Compacted(after)) => {
                tracing::warn!(after, "the view fell behind and is read again");
                let store = self.store.upgrade().ok_or(Error::Ended)?;
                let (read, next) = load(&*store).await?;
                *watch = next;
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                *view = read;
                self.sessions.wake_all();
                self.reached.send_replace(view.revision);
            }
            Err(error) => return Err(Error::Read(error)),
        }
        Ok(())
    }
}

fn key(change: &Change) -> &str {
    match change {
        Change::Put(record) => &record.key,
        Change::Delete { key } => key,
    }
}

/// Reads everything, and watches what comes then.
async fn load(store: &dyn Store) -> Result<(View, Watch), Error> {
    let mut attempt = 0;
    loop {
        let range = store.range("").await.map_err(Error::Read)?;
        match store.watch("", range.revision).await {
            Ok(watch) => {
                let mut view = View::default();
                view.apply(Read::range(&range)?);
                return Ok((view, watch));
            }
            // So much was changed between the two.
            Err(store::Error::Compacted(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(Error::Read(error)),
        }
    }
}
