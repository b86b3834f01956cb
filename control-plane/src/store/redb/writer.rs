//! The writer: the thread that owns the write side.
//!
//! Each turn takes all that is queued, evaluates it in order inside one transaction of redb, and
//! commits that with one fsync. Then the changes are published and the answers given. If the commit
//! fails, all of the turn fail with it and the file is opened anew. An error at the very end of a
//! commit (the fsync) leaves open whether it is in the file; what the opened file says counts, and
//! watchers are told of it.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ::redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::file::{self, KEYS, KeyRow, LEASED, LEASES, LOG, LogRow, META, Marks, lease_of, meta};
use super::lease::Leases;
use super::{Limits, Shared};
use crate::failpoint;
use crate::store::{Change, Changes, Error, KeyValue, LeaseId, Operation, Outcome, Transaction};

/// The most that one turn takes, so that the first of it does not wait for ever.
const TURN: usize = 512;
/// After a failed commit, leases that had ended are tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// What a row of the log costs beside its key and value.
const LOG_ROW: usize = 32;

/// What is asked of the writer.
#[derive(Debug)]
pub(super) enum Request {
    Transact(Transaction, Reply<Outcome>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) struct Reply<T> {
    answer: oneshot::Sender<Result<T, Error>>,
    /// What to answer once the turn is committed.
    result: Option<Result<T, Error>>,
    /// A place in the queue.
    _place: OwnedSemaphorePermit,
}

impl<T> Reply<T> {
    pub(super) fn new(place: OwnedSemaphorePermit) -> (Self, oneshot::Receiver<Result<T, Error>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { answer, result: None, _place: place }, receiver)
    }

    fn finish(self, failure: Option<Error>) {
        let result = match (failure, self.result) {
            (Some(error), _) => Err(error),
            (None, Some(result)) => result,
            (None, None) => Err(Error::Closed),
        };
        // Who asked may have gone.
        let _ = self.answer.send(result);
    }
}

impl Request {
    fn finish(self, failure: Option<Error>) {
        match self {
            Self::Transact(_, reply) => reply.finish(failure),
            Self::Grant(_, reply) => reply.finish(failure),
            Self::KeepAlive(_, reply) | Self::Revoke(_, reply) => reply.finish(failure),
        }
    }
}

/// Why a turn failed, for each of its requests.
type Failure = Arc<dyn StdError + Send + Sync>;

fn failure(error: impl StdError + Send + Sync + 'static) -> Failure {
    Arc::new(error)
}

/// State of the thread.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    limits: Limits,
    marks: Marks,
    leases: Leases,
    committed: watch::Sender<u64>,
    /// The file could not be opened anew after an error.
    is_broken: bool,
}

/// What a turn did to the file.
#[derive(Debug)]
struct Written {
    marks: Marks,
    changes: Vec<Arc<Changes>>,
    granted: Vec<(u64, Duration)>,
    ended: Vec<u64>,
}

impl Writer {
    /// Goes on from what the file holds.
    pub(super) fn new(
        shared: Arc<Shared>,
        limits: Limits,
    ) -> Result<(Self, watch::Receiver<u64>), Error> {
        let (committed, receiver) = watch::channel(0);
        let mut writer = Self {
            shared,
            limits,
            marks: Marks::default(),
            leases: Leases::default(),
            committed,
            is_broken: false,
        };
        writer.load()?;
        Ok((writer, receiver))
    }

    /// Reads what the file says. The time of leases that are known goes on.
    fn load(&mut self) -> Result<(), Error> {
        let (marks, leases) =
            self.shared.file.read(|read| Ok((file::marks(read)?, file::leases(read)?)))?;
        let stored: HashSet<u64> = leases.iter().map(|(id, _)| *id).collect();
        for id in self.leases.ids() {
            if !stored.contains(&id) {
                self.leases.remove(id);
            }
        }
        let now = Instant::now();
        for (id, ttl) in leases {
            if !self.leases.contains(id) {
                self.leases.insert(id, ttl, now);
            }
        }
        self.marks = marks;
        self.shared.forget();
        self.committed.send_replace(marks.revision);
        Ok(())
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &Receiver<Request>) {
        loop {
            let first = match self.leases.next_end() {
                None => match queue.recv() {
                    Ok(request) => Some(request),
                    Err(_) => return,
                },
                Some(end) => {
                    match queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
                        Ok(request) => Some(request),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            };
            self.turn(first.into_iter().chain(queue.try_iter()).take(TURN).collect());
        }
    }

    fn turn(&mut self, mut requests: Vec<Request>) {
        let now = Instant::now();
        // Needs no disk: the time of a lease is not stored.
        for request in &mut requests {
            if let Request::KeepAlive(lease, reply) = request {
                let is_kept = self.leases.keep(lease.0, now);
                reply.result = Some(if is_kept { Ok(()) } else { Err(Error::NoLease(lease.0)) });
            }
        }
        let ended = self.leases.ended(now);
        let failure = match self.commit(&mut requests, &ended) {
            Ok(()) => None,
            Err(failure) => {
                tracing::error!(error = &*failure as &dyn StdError, "change the store");
                self.recover();
                for id in ended {
                    self.leases.postpone(id, now + RETRY);
                }
                Some(failure)
            }
        };
        for request in requests {
            let error = match request {
                Request::KeepAlive(..) => None,
                _ => failure
                    .as_ref()
                    .map(|failure| self.shared.file.error("change", Box::new(Arc::clone(failure)))),
            };
            request.finish(error);
        }
    }

    /// Evaluates and commits what needs the disk, and publishes it.
    fn commit(&mut self, requests: &mut [Request], ended: &[u64]) -> Result<(), Failure> {
        if ended.is_empty() && requests.iter().all(|r| matches!(r, Request::KeepAlive(..))) {
            return Ok(());
        }
        if self.is_broken {
            self.reopen().map_err(failure)?;
        }
        let written = self.write(requests, ended).map_err(failure)?;
        let now = Instant::now();
        for (id, ttl) in written.granted {
            self.leases.insert(id, ttl, now);
        }
        for id in written.ended.iter().chain(ended) {
            self.leases.remove(*id);
        }
        self.marks = written.marks;
        if !written.changes.is_empty() {
            self.shared.publish(written.changes);
            self.committed.send_replace(self.marks.revision);
            failpoint::hit("commit.published");
        }
        Ok(())
    }

    fn write(&self, requests: &mut [Request], ended: &[u64]) -> Result<Written, ::redb::Error> {
        let transaction = self.shared.file.write()?.ok_or(::redb::Error::DatabaseClosed)?;
        let mut turn = Turn::begin(&transaction, self.marks)?;
        for id in ended {
            turn.end_lease(*id)?;
        }
        for request in requests {
            match request {
                Request::Transact(transaction, reply) => {
                    reply.result = Some(turn.transact(transaction)?);
                }
                Request::Grant(ttl, reply) => reply.result = Some(Ok(turn.grant(*ttl)?)),
                Request::Revoke(lease, reply) => {
                    let was_there = turn.end_lease(lease.0)?;
                    reply.result =
                        Some(if was_there { Ok(()) } else { Err(Error::NoLease(lease.0)) });
                }
                Request::KeepAlive(..) => {}
            }
        }
        let is_changed = turn.is_changed;
        let written = turn.finish(self.limits)?;
        if is_changed {
            failpoint::hit("commit.before");
            transaction.commit()?;
            failpoint::hit("commit.after");
        } else {
            transaction.abort()?;
        }
        Ok(written)
    }

    /// Opens the file anew after an error: redb does nothing more until then.
    fn recover(&mut self) {
        if let Err(error) = self.reopen() {
            tracing::error!(error = &error as &dyn StdError, "the store is closed until it opens");
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        self.is_broken = true;
        self.shared.file.reopen()?;
        self.load()?;
        self.is_broken = false;
        Ok(())
    }
}

/// One transaction of redb, in which many of ours are evaluated one after the other.
struct Turn<'t> {
    meta: Table<'t, &'static str, u64>,
    keys: Table<'t, &'static str, KeyRow<'static>>,
    log: Table<'t, (u64, u32), LogRow<'static>>,
    leases: Table<'t, u64, u64>,
    leased: Table<'t, (u64, &'static str), ()>,
    marks: Marks,
    changes: Vec<Arc<Changes>>,
    granted: Vec<(u64, Duration)>,
    ended: Vec<u64>,
    is_changed: bool,
}

impl<'t> Turn<'t> {
    fn begin(transaction: &'t WriteTransaction, marks: Marks) -> Result<Self, ::redb::Error> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            keys: transaction.open_table(KEYS)?,
            log: transaction.open_table(LOG)?,
            leases: transaction.open_table(LEASES)?,
            leased: transaction.open_table(LEASED)?,
            marks,
            changes: Vec::new(),
            granted: Vec::new(),
            ended: Vec::new(),
            is_changed: false,
        })
    }

    fn transact(
        &mut self,
        transaction: &Transaction,
    ) -> Result<Result<Outcome, Error>, ::redb::Error> {
        let mut named = HashSet::with_capacity(transaction.operations.len());
        for operation in &transaction.operations {
            let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
            if !named.insert(key) {
                return Ok(Err(Error::Twice(key.clone())));
            }
        }
        for compare in &transaction.compares {
            let modified = self.keys.get(compare.key.as_str())?.map_or(0, |row| row.value().1);
            if modified != compare.modified {
                return Ok(Ok(Outcome { succeeded: false, revision: self.marks.revision }));
            }
        }
        for operation in &transaction.operations {
            if let Operation::Put { lease: Some(lease), .. } = operation
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(Error::NoLease(lease.0)));
            }
        }
        let revision = self.marks.revision + 1;
        let mut changes = Vec::with_capacity(transaction.operations.len());
        for operation in &transaction.operations {
            match operation {
                Operation::Put { key, value, lease } => {
                    changes.push(self.put(revision, key, value, *lease)?);
                }
                Operation::Delete { key } => changes.extend(self.delete(key)?),
            }
        }
        self.record(changes)?;
        Ok(Ok(Outcome { succeeded: true, revision: self.marks.revision }))
    }

    fn put(
        &mut self,
        revision: u64,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
    ) -> Result<Change, ::redb::Error> {
        let number = lease.map_or(0, |lease| lease.0);
        let before = self.keys.get(key)?.map(|row| {
            let (created, _, lease, _) = row.value();
            (created, lease)
        });
        let (created, lease_before) = before.unwrap_or((revision, 0));
        if lease_before != number {
            if lease_before != 0 {
                self.leased.remove((lease_before, key))?;
            }
            if number != 0 {
                self.leased.insert((number, key), ())?;
            }
        }
        self.keys.insert(key, (created, revision, number, value))?;
        Ok(Change::Put(KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
            created,
            modified: revision,
            lease,
        }))
    }

    fn delete(&mut self, key: &str) -> Result<Option<Change>, ::redb::Error> {
        let Some(lease) = self.keys.remove(key)?.map(|row| row.value().2) else {
            return Ok(None);
        };
        if lease_of(lease).is_some() {
            self.leased.remove((lease, key))?;
        }
        Ok(Some(Change::Delete { key: key.to_owned() }))
    }

    fn grant(&mut self, ttl: Duration) -> Result<LeaseId, ::redb::Error> {
        self.is_changed = true;
        self.marks.lease += 1;
        let id = self.marks.lease;
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.leases.insert(id, milliseconds)?;
        self.granted.push((id, ttl));
        Ok(LeaseId(id))
    }

    /// Deletes a lease and its keys. Whether there was one.
    fn end_lease(&mut self, id: u64) -> Result<bool, ::redb::Error> {
        if self.leases.remove(id)?.is_none() {
            return Ok(false);
        }
        self.is_changed = true;
        self.ended.push(id);
        let mut keys = Vec::new();
        for row in self.leased.range((id, "")..)? {
            let (position, ()) = row.map(|(position, row)| (position, row.value()))?;
            let (lease, key) = position.value();
            if lease != id {
                break;
            }
            keys.push(key.to_owned());
        }
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            changes.extend(self.delete(&key)?);
        }
        self.record(changes)?;
        Ok(true)
    }

    /// Gives changes, if there are any, their revision.
    fn record(&mut self, changes: Vec<Change>) -> Result<(), ::redb::Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.is_changed = true;
        self.marks.revision += 1;
        let revision = self.marks.revision;
        for (index, change) in (0..).zip(&changes) {
            let row: LogRow<'_> = match change {
                Change::Put(record) => (
                    &record.key,
                    true,
                    record.created,
                    record.lease.map_or(0, |lease| lease.0),
                    &record.value,
                ),
                Change::Delete { key } => (key, false, 0, 0, &[]),
            };
            self.marks.log_bytes += log_bytes(row);
            self.log.insert((revision, index), row)?;
        }
        self.changes.push(Arc::new(Changes { revision, changes }));
        Ok(())
    }

    /// Drops what the log need not keep, and writes the numbers.
    fn finish(mut self, limits: Limits) -> Result<Written, ::redb::Error> {
        if self.is_changed {
            self.compact(limits)?;
            self.meta.insert(meta::REVISION, self.marks.revision)?;
            self.meta.insert(meta::COMPACTED, self.marks.compacted)?;
            self.meta.insert(meta::LOG, self.marks.log_bytes)?;
            self.meta.insert(meta::LEASE, self.marks.lease)?;
        }
        Ok(Written {
            marks: self.marks,
            changes: self.changes,
            granted: self.granted,
            ended: self.ended,
        })
    }

    fn compact(&mut self, limits: Limits) -> Result<(), ::redb::Error> {
        let marks = &mut self.marks;
        while marks.revision - marks.compacted > limits.log_revisions
            || (marks.log_bytes > limits.log_bytes && marks.compacted < marks.revision)
        {
            let oldest = marks.compacted + 1;
            for row in self.log.extract_from_if((oldest, 0)..=(oldest, u32::MAX), |_, _| true)? {
                let (_, row) = row?;
                marks.log_bytes = marks.log_bytes.saturating_sub(log_bytes(row.value()));
            }
            marks.compacted = oldest;
        }
        Ok(())
    }
}

fn log_bytes((key, _, _, _, value): LogRow<'_>) -> u64 {
    (key.len() + value.len() + LOG_ROW) as u64
}
