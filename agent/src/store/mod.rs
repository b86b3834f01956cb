//! The agent's durable state: a redb database of versioned JSON.
//!
//! ```text
//! state.redb
//! ├── meta    "schema"        → SCHEMA, decimal
//! ├── tasks   <task id>       → {"v":1,"value":<engine task>}      what was decided and observed
//! ├── spent   <task id>       → {"v":1,"value":<time>}             since when there is no such task
//! └── host    <name>          → {"v":1,"value":…}                  host-wide decided state
//! ```
//!
//! The host loop is the only writer and commits once per batch: one transaction, one fsync. redb
//! locks the file against other processes. Values are JSON so that a person can read them and an
//! older agent's rows can be told from damaged ones; a row of an unknown version is an error that
//! names it, never an empty state.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the tables; raised when they change, with a migration.
const SCHEMA: &str = "1";
/// Version of the rows' JSON.
const ROW: u32 = 1;
/// Bytes of pages kept in memory. The tasks are in memory anyway and are read from here only at the
/// start.
const CACHE: usize = 1 << 20;

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const TASKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tasks");
const SPENT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("spent");
const HOST: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("host");

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the state database {path}")]
    Open { path: PathBuf, source: Box<redb::DatabaseError> },
    #[error("the state database {path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("use the state database: the agent is ending")]
    Closed,
    #[error(
        "the state database {path} has the schema {found}, this agent knows {SCHEMA}; use the agent that wrote it"
    )]
    Schema { path: PathBuf, found: String },
    #[error("{operation} the state database")]
    Access { operation: &'static str, source: Box<redb::Error> },
    #[error("row {key} of the state database is damaged")]
    Damaged { key: String, source: serde_json::Error },
    #[error("row {key} of the state database has version {version}, this agent knows {ROW}")]
    Version { key: String, version: u32 },
    #[error("write row {key} as JSON")]
    Encode { key: String, source: serde_json::Error },
}

/// One turn's changes, committed together.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<(Table, String, Option<Vec<u8>>)>,
}

/// Where a row belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Tasks,
    Spent,
    Host,
}

impl Table {
    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Tasks => TASKS,
            Self::Spent => SPENT,
            Self::Host => HOST,
        }
    }
}

/// Keys with their values, or why a value cannot be read.
pub type Rows<T> = Vec<(String, Result<T, Error>)>;

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    value: &'a T,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Deserialize)]
struct Read<T> {
    value: T,
}

impl Batch {
    /// Stores a value under a key.
    ///
    /// # Errors
    /// If the value has no JSON form.
    pub fn put<T: Serialize>(&mut self, table: Table, key: &str, value: &T) -> Result<(), Error> {
        let bytes = serde_json::to_vec(&Written { v: ROW, value })
            .map_err(|source| Error::Encode { key: key.to_owned(), source })?;
        self.rows.push((table, key.to_owned(), Some(bytes)));
        Ok(())
    }

    /// Removes a key; one that is not there is no error.
    pub fn remove(&mut self, table: Table, key: &str) {
        self.rows.push((table, key.to_owned(), None));
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    database: Database,
}

fn access<E: Into<redb::Error>>(operation: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Access { operation, source: Box::new(source.into()) }
}

impl Store {
    /// Opens the database, creating it if there is none.
    ///
    /// # Errors
    /// If another process has it open, or it is damaged or of an unknown schema.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let database = Database::builder().set_cache_size(CACHE).create(path).map_err(
            |source| match source {
                redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.to_owned() },
                source => Error::Open { path: path.to_owned(), source: Box::new(source) },
            },
        )?;
        let store = Self { database };
        let write = store.database.begin_write().map_err(access("begin to write"))?;
        {
            let mut meta = write.open_table(META).map_err(access("open a table of"))?;
            let found = meta.get("schema").map_err(access("read"))?.map(|v| v.value().to_owned());
            match found {
                None => {
                    meta.insert("schema", SCHEMA).map_err(access("write"))?;
                }
                Some(found) if found == SCHEMA => {}
                Some(found) => return Err(Error::Schema { path: path.to_owned(), found }),
            }
            write.open_table(TASKS).map_err(access("open a table of"))?;
            write.open_table(SPENT).map_err(access("open a table of"))?;
            write.open_table(HOST).map_err(access("open a table of"))?;
        }
        write.commit().map_err(access("commit to"))?;
        Ok(store)
    }

    /// Writes a batch durably; an empty one costs nothing.
    ///
    /// # Errors
    /// If it could not be made durable; then nothing of it is stored.
    pub fn commit(&self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(access("begin to write"))?;
        for (table, key, value) in &batch.rows {
            let mut rows =
                write.open_table(table.definition()).map_err(access("open a table of"))?;
            match value {
                Some(bytes) => {
                    rows.insert(key.as_str(), bytes.as_slice()).map_err(access("write"))?;
                }
                None => {
                    rows.remove(key.as_str()).map_err(access("remove from"))?;
                }
            }
        }
        write.commit().map_err(access("commit to"))
    }

    /// Every row of a table. A row that cannot be read is reported beside the others, so that one
    /// damaged task does not take the others with it.
    ///
    /// # Errors
    /// If the database itself cannot be read.
    pub fn load<T: DeserializeOwned>(&self, table: Table) -> Result<Rows<T>, Error> {
        let read = self.database.begin_read().map_err(access("begin to read"))?;
        let rows = read.open_table(table.definition()).map_err(access("open a table of"))?;
        let mut found = Vec::new();
        for row in rows.iter().map_err(access("read"))? {
            let (key, value) = row.map_err(access("read"))?;
            let key = key.value().to_owned();
            let value = decode(&key, value.value());
            found.push((key, value));
        }
        Ok(found)
    }
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    let damaged = |source| Error::Damaged { key: key.to_owned(), source };
    let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
    if version.v != ROW {
        return Err(Error::Version { key: key.to_owned(), version: version.v });
    }
    serde_json::from_slice::<Read<T>>(bytes).map(|row| row.value).map_err(damaged)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_a_reopen_and_removal_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let store = Store::open(&path).unwrap();
        let mut batch = Batch::default();
        batch.put(Table::Tasks, "a", &vec![1, 2]).unwrap();
        batch.put(Table::Tasks, "b", &vec![3]).unwrap();
        batch.put(Table::Host, "a", &vec![9]).unwrap();
        store.commit(batch).unwrap();
        assert!(matches!(Store::open(&path), Err(Error::InUse { .. })));
        drop(store);
        let store = Store::open(&path).unwrap();
        let mut batch = Batch::default();
        batch.remove(Table::Tasks, "a");
        batch.remove(Table::Tasks, "never");
        store.commit(batch).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let rows: Vec<(String, Vec<i32>)> = store
            .load(Table::Tasks)
            .unwrap()
            .into_iter()
            .map(|(key, value)| (key, value.unwrap()))
            .collect();
        assert_eq!(rows, vec![("b".to_owned(), vec![3])]);
        assert_eq!(store.load::<Vec<i32>>(Table::Host).unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_or_newer_row_is_named_and_spares_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state.redb")).unwrap();
        let mut batch = Batch::default();
        batch.put(Table::Tasks, "good", &1).unwrap();
        batch.rows.push((Table::Tasks, "newer".into(), Some(br#"{"v":2,"value":1}"#.to_vec())));
        batch.rows.push((Table::Tasks, "torn".into(), Some(b"{\"v\":1,".to_vec())));
        store.commit(batch).unwrap();
        let rows = store.load::<i32>(Table::Tasks).unwrap();
        assert!(matches!(rows[0], (_, Ok(1))));
        assert!(matches!(rows[1], (_, Err(Error::Version { version: 2, .. }))));
        assert!(matches!(rows[2], (_, Err(Error::Damaged { .. }))));
    }

    #[test]
    fn another_schema_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let database = Database::create(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("schema", "77").unwrap();
        write.commit().unwrap();
        drop(database);
        assert!(matches!(Store::open(&path), Err(Error::Schema { found, .. }) if found == "77"));
    }
}
