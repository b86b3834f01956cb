//! The store: etcd's semantics behind one trait.
//!
//! - One **revision** counts up with each transaction that changes something. A key has the revision
//!   of its creation and of its last change.
//! - **Range** reads keys in order, all at one revision.
//! - **Transaction**: compares, then puts and deletes, all or nothing. Acknowledged means durable.
//! - **Watch** delivers every change after a revision, in order, none left out.
//! - **Lease**: keys attached to it vanish, as by a transaction, when it is not kept alive.

#[cfg(test)]
mod conformance;
mod redb;

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;

pub use self::redb::{Damaged, Redb};
pub(crate) use self::redb::{drop_cached, guard};

/// What a call returns; the trait is used as an object.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A key with its value. Values hold secrets: they are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision that created it.
    pub created: u64,
    /// Revision that changed it last.
    pub modified: u64,
    pub lease: Option<LeaseId>,
}

/// Keys of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    pub revision: u64,
    /// In the order of their bytes.
    pub keys: Vec<KeyValue>,
}

/// Of a lease; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A condition: the key was last changed at this revision; 0: it does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub key: String,
    pub modified: u64,
}

/// A change of a key. A transaction names a key in one operation at most. Values are not shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Operation {
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    Delete { key: String },
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("bytes", &self.value.len())
            .field("created", &self.created)
            .field("modified", &self.modified)
            .field("lease", &self.lease)
            .finish()
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease } => f
                .debug_struct("Put")
                .field("key", key)
                .field("bytes", &value.len())
                .field("lease", lease)
                .finish(),
            Self::Delete { key } => f.debug_struct("Delete").field("key", key).finish(),
        }
    }
}

/// If all compares hold, all operations are done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub operations: Vec<Operation>,
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// All compares held. If not, nothing was changed.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: u64,
}

/// Changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    pub revision: u64,
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Put(KeyValue),
    Delete { key: String },
}

/// Delivers [`Changes`], one revision each. It ends with an error when it cannot go on (then its
/// user reads a new range), or with the store.
pub type Watch = mpsc::Receiver<Result<Changes, Error>>;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} the store {path}")]
    File { operation: &'static str, path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the store has ended")]
    Closed,
    #[error("changes after revision {0} are not kept any more")]
    Compacted(u64),
    #[error("there is no lease {0}")]
    NoLease(u64),
    #[error("a transaction names the key {0} twice")]
    Twice(String),
}

/// A cause of [`Error::File`] that passes when the other process ends.
#[derive(Debug, thiserror::Error)]
#[error("another process has it open")]
pub(crate) struct InUse;

impl Error {
    /// Whether another process has the store open.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.is::<InUse>())
    }
}

/// A store with etcd's semantics. One suite, `conformance`, holds for every implementation.
pub trait Store: fmt::Debug + Send + Sync {
    /// All keys that begin with `prefix`.
    fn range<'a>(&'a self, prefix: &'a str) -> Answer<'a, Range>;

    /// Compares and changes, durably.
    fn transact(&self, transaction: Transaction) -> Answer<'_, Outcome>;

    /// Changes of keys that begin with `prefix`, of revisions greater than `after`.
    fn watch<'a>(&'a self, prefix: &'a str, after: u64) -> Answer<'a, Watch>;

    /// A new lease that ends `ttl` after the last time it was kept alive. With a store that was
    /// closed and opened again the time begins anew.
    fn grant(&self, ttl: Duration) -> Answer<'_, LeaseId>;

    /// Keeps a lease.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// Ends a lease: its keys are deleted.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;
}
