//! The embedded store: redb, one file.
//!
//! One thread owns the write side and commits in groups ([`writer`]); reads take a transaction of
//! redb each ([`mod@file`]). A watch is a task that goes to its user's pace: it takes changes from
//! the recent ones in memory, or, when it has fallen behind, from the log in the file, so a slow
//! user neither holds up commits nor fills memory. It ends with [`Error::Compacted`] when it has
//! fallen behind further than the log reaches back.
//!
//! A call whose future is dropped may still be done.

mod file;
mod lease;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc as queue};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

pub use self::file::Damaged;
use self::file::{File, Log};
pub(crate) use self::file::{drop_cached, guard};
use self::writer::{Reply, Request, Writer};
use super::{Answer, Change, Changes, Error, LeaseId, Outcome, Range, Store, Transaction, Watch};

/// Callers that wait for the writer; more wait for a place.
const QUEUE: usize = 1024;
/// Revisions that wait for the user of a watch.
const WATCH: usize = 64;
/// Recent changes kept in memory: as many as a turn of the writer usually has.
const RECENT: usize = 256;
const RECENT_BYTES: usize = 512 << 10;

/// How far back watches can begin: the log keeps as many revisions, within as many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) log_revisions: u64,
    pub(crate) log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_revisions: 4_000, log_bytes: 16 << 20 }
    }
}

/// A store in one file.
#[derive(Debug)]
pub struct Redb {
    shared: Arc<Shared>,
    /// The revision that is committed.
    committed: watch::Receiver<u64>,
    places: Arc<Semaphore>,
    /// Taken when the store is dropped.
    queue: Option<queue::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

/// What the writer shares with readers.
#[derive(Debug)]
struct Shared {
    file: File,
    recent: Mutex<Recent>,
}

/// The latest changes, revision by revision without a gap.
#[derive(Debug, Default)]
struct Recent {
    changes: VecDeque<Arc<Changes>>,
    bytes: usize,
}

impl Redb {
    /// Opens the store in a file, which is made if it is not there, readable to its owner only.
    ///
    /// # Errors
    /// If another process has it open, or it cannot be read or written, or another version wrote it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Limits::default())
    }

    pub(crate) fn open_with(path: &Path, limits: Limits) -> Result<Self, Error> {
        let shared = Arc::new(Shared { file: File::open(path)?, recent: Mutex::default() });
        let (writer, committed) = Writer::new(Arc::clone(&shared), limits)?;
        let (queue, requests) = queue::channel();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(&requests))
            .map_err(|error| shared.file.error("start the writer of", error.into()))?;
        Ok(Self {
            shared,
            committed,
            places: Arc::new(Semaphore::new(QUEUE)),
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request + Send) -> Result<T, Error> {
        let place =
            Arc::clone(&self.places).acquire_owned().await.map_err(|_closed| Error::Closed)?;
        let answer = {
            let (reply, answer) = Reply::new(place);
            let queue = self.queue.as_ref().ok_or(Error::Closed)?;
            queue.send(request(reply)).map_err(|_ended| Error::Closed)?;
            answer
        };
        received(answer).await
    }
}

async fn received<T>(answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    answer.await.unwrap_or(Err(Error::Closed))
}

impl Drop for Redb {
    /// Waits for what is queued, and closes the file.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the store has panicked");
        }
        // Watches may be left; who opens the file next must not meet them.
        self.shared.file.close();
    }
}

impl Store for Redb {
    fn range<'a>(&'a self, prefix: &'a str) -> Answer<'a, Range> {
        let shared = Arc::clone(&self.shared);
        let prefix = prefix.to_owned();
        Box::pin(blocking(move || shared.file.read(|read| file::range(read, &prefix))))
    }

    fn transact(&self, transaction: Transaction) -> Answer<'_, Outcome> {
        Box::pin(self.ask(move |reply| Request::Transact(transaction, reply)))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Answer<'a, Watch> {
        Box::pin(async move {
            let marks = {
                let shared = Arc::clone(&self.shared);
                blocking(move || shared.file.read(file::marks)).await?
            };
            if after < marks.compacted {
                return Err(Error::Compacted(after));
            }
            let (sender, receiver) = mpsc::channel(WATCH);
            let follower = Follower {
                shared: Arc::clone(&self.shared),
                committed: self.committed.clone(),
                prefix: prefix.to_owned(),
                after,
                sender,
            };
            tokio::spawn(follower.run());
            Ok(receiver)
        })
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId> {
        Box::pin(self.ask(move |reply| Request::Grant(ttl, reply)))
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(self.ask(move |reply| Request::KeepAlive(lease, reply)))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(self.ask(move |reply| Request::Revoke(lease, reply)))
    }
}

/// Reads on a thread that may block.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // Fails only with the runtime's end.
    spawn_blocking(read).await.unwrap_or(Err(Error::Closed))
}

/// A watch.
struct Follower {
    shared: Arc<Shared>,
    committed: watch::Receiver<u64>,
    prefix: String,
    /// The revision up to which its user has been told everything.
    after: u64,
    sender: mpsc::Sender<Result<Changes, Error>>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let after = self.after;
            let has_more = tokio::select! {
                () = self.sender.closed() => false,
                committed = async {
                    self.committed.wait_for(|revision| *revision > after).await.is_ok()
                } => committed,
            };
            if !has_more {
                return;
            }
            let (through, changes) = match self.next().await {
                Ok(next) => next,
                Err(Error::Closed) => return,
                Err(error) => {
                    let _ = self.sender.send(Err(error)).await;
                    return;
                }
            };
            for changes in changes {
                if self.sender.send(Ok(changes)).await.is_err() {
                    return;
                }
            }
            self.after = through;
        }
    }

    /// The next changes of its prefix, and the revision that they reach.
    async fn next(&self) -> Result<(u64, Vec<Changes>), Error> {
        let recent = self.shared.recent(self.after);
        if let Some(last) = recent.last() {
            let through = last.revision;
            let changes = recent.iter().filter_map(|all| of_prefix(all, &self.prefix)).collect();
            return Ok((through, changes));
        }
        let (shared, prefix, after) = (Arc::clone(&self.shared), self.prefix.clone(), self.after);
        let log = blocking(move || shared.file.read(|read| file::log(read, &prefix, after)));
        match log.await? {
            Log::Through(through, changes) => Ok((through, changes)),
            Log::Compacted => Err(Error::Compacted(self.after)),
        }
    }
}

/// Those of the changes whose keys begin with `prefix`, if any.
fn of_prefix(all: &Changes, prefix: &str) -> Option<Changes> {
    let is_wanted = |change: &&Change| {
        let (Change::Put(super::KeyValue { key, .. }) | Change::Delete { key }) = change;
        key.starts_with(prefix)
    };
    let changes: Vec<Change> = all.changes.iter().filter(is_wanted).cloned().collect();
    (!changes.is_empty()).then_some(Changes { revision: all.revision, changes })
}

impl Shared {
    /// Keeps committed changes for the watches that follow closely.
    fn publish(&self, changes: Vec<Arc<Changes>>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for changes in changes {
            recent.bytes += size(&changes);
            recent.changes.push_back(changes);
        }
        while recent.changes.len() > RECENT || recent.bytes > RECENT_BYTES {
            let Some(oldest) = recent.changes.pop_front() else {
                break;
            };
            recent.bytes -= size(&oldest);
        }
    }

    /// The recent changes cannot be trusted to have no gap to what comes.
    fn forget(&self) {
        *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = Recent::default();
    }

    /// Changes after a revision, as many as a watch takes at once; none if they are not there.
    fn recent(&self, after: u64) -> Vec<Arc<Changes>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_next = |changes: &Arc<Changes>| changes.revision <= after.saturating_add(1);
        if !recent.changes.front().is_some_and(is_next) {
            return Vec::new();
        }
        let start = recent.changes.partition_point(|changes| changes.revision <= after);
        recent.changes.iter().skip(start).take(WATCH).cloned().collect()
    }
}

fn size(changes: &Changes) -> usize {
    let of = |change: &Change| match change {
        Change::Put(record) => record.key.len() + record.value.len(),
        Change::Delete { key } => key.len(),
    };
    changes.changes.iter().map(of).sum()
}
