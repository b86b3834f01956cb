//! The file: its tables, and what is read from them.
//!
//! ```text
//! meta     "schema" "revision" "compacted" "log" "lease"  → number
//! keys     key                       → created, modified, lease (0: none), value
//! log      revision, index           → key, whether it was put, created, lease, value
//! leases   id                        → time to live, milliseconds
//! leased   id, key                   → ()
//! ```
//!
//! redb refuses to go on after an error of the disk until the file is opened again; that is why the
//! database is behind a lock here: all readers leave it, then the writer opens it anew.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use ::redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};

use crate::store::{Change, Changes, Error, InUse, KeyValue, LeaseId, Range};

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const KEYS: TableDefinition<'_, &str, KeyRow<'_>> = TableDefinition::new("keys");
pub(super) const LOG: TableDefinition<'_, (u64, u32), LogRow<'_>> = TableDefinition::new("log");
pub(super) const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
pub(super) const LEASED: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("leased");

/// Created, modified, lease (0: none), value.
pub(super) type KeyRow<'a> = (u64, u64, u64, &'a [u8]);
/// Key, whether it was put, created, lease, value.
pub(super) type LogRow<'a> = (&'a str, bool, u64, u64, &'a [u8]);

/// Version of the tables; raised when they change, with a migration.
const SCHEMA: u64 = 1;
/// What redb may keep of the file in memory. The state has a view of its own in memory; here only
/// the inner pages are worth it.
const CACHE: usize = 4 << 20;
/// A read of the log ends with the revision that reaches one of these.
const LOG_READ_ROWS: usize = 256;
const LOG_READ_BYTES: usize = 1 << 20;

/// Names of the numbers in `meta`.
pub(super) mod meta {
    /// Version of the tables.
    pub(in crate::store) const SCHEMA: &str = "schema";
    /// The store's revision.
    pub(in crate::store) const REVISION: &str = "revision";
    /// The log holds what came after this revision.
    pub(in crate::store) const COMPACTED: &str = "compacted";
    /// Bytes that the log holds.
    pub(in crate::store) const LOG: &str = "log";
    /// The lease granted last.
    pub(in crate::store) const LEASE: &str = "lease";
}

/// Numbers that the writer goes on from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) revision: u64,
    pub(super) compacted: u64,
    pub(super) log_bytes: u64,
    pub(super) lease: u64,
}

/// What a read of the log found.
#[derive(Debug)]
pub(super) enum Log {
    /// All changes of the asked prefix up to and with a revision.
    Through(u64, Vec<Changes>),
    /// It does not reach back so far.
    Compacted,
}

/// redb met what it never writes, and panicked.
#[derive(Debug, thiserror::Error)]
#[error("the file is damaged; end the control plane and restore a copy of its data directory")]
pub struct Damaged;

/// Works on a file that may be damaged: the checksums of redb do not cover each read.
pub(crate) fn guard<T>(work: impl FnOnce() -> T) -> Result<T, Damaged> {
    // What a panic leaves of a transaction is dropped with it.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_panic| Damaged)
}

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it has the schema {0}, this control plane knows {SCHEMA}; use the one that wrote it")]
    Schema(u64),
    #[error("redb wrote it in format {0}; use the control plane that wrote it")]
    Format(u8),
}

/// A database that can be opened anew.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// `None`: closed, or it could not be opened anew.
    database: RwLock<Option<Database>>,
}

impl File {
    /// Opens the file, with its tables. One that is not there is made.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = Self { path: path.to_owned(), database: RwLock::new(None) };
        file.reopen()?;
        Ok(file)
    }

    /// Closes the database, if it is open, and opens it. Waits for its readers.
    pub(super) fn reopen(&self) -> Result<(), Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let old = database.take();
        let opened = guard(|| {
            drop(old);
            open(&self.path)
        });
        let opened = opened.unwrap_or_else(|damaged| Err(damaged.into()));
        *database = Some(opened.map_err(|source| self.error("open", source))?);
        Ok(())
    }

    /// Closes the database. Waits for its readers.
    pub(super) fn close(&self) {
        let open = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(damaged) = guard(|| drop(open)) {
            let error = self.error("close", damaged.into());
            tracing::error!(error = &error as &dyn std::error::Error, "the store was not closed");
        }
    }

    /// Reads at one point in time. Blocks.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, ::redb::Error>,
    ) -> Result<T, Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(Error::Closed)?;
        match guard(|| read(&database.begin_read()?)) {
            Ok(read) => read.map_err(|source| self.error("read", source.into())),
            Err(damaged) => Err(self.error("read", damaged.into())),
        }
    }

    /// Begins to write; `None` if the database is closed. One write at a time.
    pub(super) fn write(&self) -> Result<Option<WriteTransaction>, ::redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(match database.as_ref() {
            None => None,
            Some(database) => Some(database.begin_write()?),
        })
    }

    /// What failed, on this file.
    pub(super) fn error(
        &self,
        operation: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> Error {
        Error::File { operation, path: self.path.display().to_string(), source }
    }
}

fn open(path: &Path) -> Result<Database, Box<dyn std::error::Error + Send + Sync>> {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    drop_cached(&file)?;
    let database =
        Builder::new().set_cache_size(CACHE).create_file(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                Box::<dyn std::error::Error + Send + Sync>::from(InUse)
            }
            DatabaseError::UpgradeRequired(format) => Box::new(Refused::Format(format)),
            error => Box::from(error),
        })?;
    // A process that was killed right after it made the file may not have got here.
    sync_directory(path)?;
    check_schema(&database)?;
    Ok(database)
}

/// Has reads come from the disk. After a write-back that failed, the kernel takes the pages in its
/// cache for clean, though they are not what is on the disk, and would never write them again.
pub(crate) fn drop_cached(file: &fs::File) -> io::Result<()> {
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Makes the name of a new file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(directory)?.sync_all()
}

/// Makes the tables of an empty database; refuses those of another version.
fn check_schema(database: &Database) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let found = schema(database).map_err(Box::new)?;
    match found {
        Some(SCHEMA) => Ok(()),
        Some(other) => Err(Refused::Schema(other).into()),
        None => Ok(create_tables(database).map_err(Box::new)?),
    }
}

fn schema(database: &Database) -> Result<Option<u64>, ::redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(table) => Ok(table.get(meta::SCHEMA)?.map(|row| row.value())),
        Err(::redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn create_tables(database: &Database) -> Result<(), ::redb::Error> {
    let write = database.begin_write()?;
    write.open_table(META)?.insert(meta::SCHEMA, SCHEMA)?;
    write.open_table(KEYS)?;
    write.open_table(LOG)?;
    write.open_table(LEASES)?;
    write.open_table(LEASED)?;
    write.commit()?;
    Ok(())
}

fn mark(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, ::redb::Error> {
    Ok(meta.get(name)?.map_or(0, |row| row.value()))
}

/// The writer's numbers.
pub(super) fn marks(read: &ReadTransaction) -> Result<Marks, ::redb::Error> {
    let meta = read.open_table(META)?;
    Ok(Marks {
        revision: mark(&meta, meta::REVISION)?,
        compacted: mark(&meta, meta::COMPACTED)?,
        log_bytes: mark(&meta, meta::LOG)?,
        lease: mark(&meta, meta::LEASE)?,
    })
}

/// All leases with their times to live.
pub(super) fn leases(read: &ReadTransaction) -> Result<Vec<(u64, Duration)>, ::redb::Error> {
    let mut leases = Vec::new();
    for row in read.open_table(LEASES)?.iter()? {
        let (id, ttl) = row?;
        leases.push((id.value(), Duration::from_millis(ttl.value())));
    }
    Ok(leases)
}

/// All keys that begin with `prefix`.
pub(super) fn range(read: &ReadTransaction, prefix: &str) -> Result<Range, ::redb::Error> {
    let revision = mark(&read.open_table(META)?, meta::REVISION)?;
    let mut keys = Vec::new();
    for row in read.open_table(KEYS)?.range(prefix..)? {
        let (key, row) = row?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let (created, modified, lease, value) = row.value();
        keys.push(KeyValue {
            key: key.value().to_owned(),
            value: value.to_owned(),
            created,
            modified,
            lease: lease_of(lease),
        });
    }
    Ok(Range { revision, keys })
}

/// Changes after a revision of keys that begin with `prefix`: as many as one read takes.
pub(super) fn log(read: &ReadTransaction, prefix: &str, after: u64) -> Result<Log, ::redb::Error> {
    let marks = marks(read)?;
    if after < marks.compacted {
        return Ok(Log::Compacted);
    }
    let mut found: Vec<Changes> = Vec::new();
    let mut through = after;
    let (mut rows, mut bytes) = (0, 0);
    for row in read.open_table(LOG)?.range((after.saturating_add(1), 0)..)? {
        let (position, row) = row?;
        let (revision, _) = position.value();
        if revision != through && (rows >= LOG_READ_ROWS || bytes >= LOG_READ_BYTES) {
            return Ok(Log::Through(through, found));
        }
        through = revision;
        let (key, is_put, created, lease, value) = row.value();
        rows += 1;
        if !key.starts_with(prefix) {
            continue;
        }
        bytes += key.len() + value.len();
        let key = key.to_owned();
        let change = if is_put {
            let value = value.to_owned();
            let lease = lease_of(lease);
            Change::Put(KeyValue { key, value, created, modified: revision, lease })
        } else {
            Change::Delete { key }
        };
        match found.last_mut() {
            Some(changes) if changes.revision == revision => changes.changes.push(change),
            _ => found.push(Changes { revision, changes: vec![change] }),
        }
    }
    Ok(Log::Through(marks.revision.max(after), found))
}

pub(super) fn lease_of(number: u64) -> Option<LeaseId> {
    (number != 0).then_some(LeaseId(number))
}
