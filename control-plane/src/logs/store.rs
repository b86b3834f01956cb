//! `logs.redb`:
//!
//! ```text
//! groups   (region, name)              → Group
//! streams  (group id, name)            → Stream
//! events   (stream id, time, number)   → ingestion time (8 bytes, big endian), message
//! by_group (group id, time, number)    → stream id
//! doomed   (group id, stream id)       → (); stream 0: the whole group
//! marks    "next" "schema"             → next id of a group or stream, and number of an event;
//!                                        version of the tables
//! ```
//!
//! Times are milliseconds since the epoch. Numbers make events of one millisecond distinct and keep
//! their order. The names of deleted groups and streams are free at once; their events have ids that
//! are never used again, and are deleted piece by piece: until then they are doomed.
//!
//! One turn writes at a time, and puts that wait for it share one commit. redb does nothing more
//! after an error of the disk; then the file is opened anew.

mod remove;
mod turn;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableDatabase as _, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use self::remove::{Doomed, doom};
use self::turn::Shared;
use super::events::size;
use crate::store::Damaged;

pub(super) type Key = (u64, u64, u64);

pub(super) const GROUPS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("groups");
pub(super) const STREAMS: TableDefinition<'_, (u64, &str), &[u8]> = TableDefinition::new("streams");
pub(super) const EVENTS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("events");
pub(super) const BY_GROUP: TableDefinition<'_, Key, u64> = TableDefinition::new("by_group");
pub(super) const DOOMED: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("doomed");
pub(super) const MARKS: TableDefinition<'_, &str, u64> = TableDefinition::new("marks");

/// So many streams are read side by side; of more, all events of their group are looked through.
const SIDE_BY_SIDE: usize = 100;

/// The logs cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the logs {path}")]
    Open { path: PathBuf, source: Box<redb::DatabaseError> },
    #[error("make the logs {path}")]
    Create { path: PathBuf, source: std::io::Error },
    #[error(
        "open the logs {path}: they have the schema {found}; use the control plane that wrote it"
    )]
    Schema { path: PathBuf, found: u64 },
    #[error("read or write the logs")]
    Access(#[source] Box<redb::Error>),
    #[error("a record of the logs is unreadable")]
    Record(#[source] serde_json::Error),
    #[error("read or write the logs")]
    Damaged(#[source] Damaged),
    #[error("the logs are closed until their file can be opened again")]
    Closed,
    /// All that shared a commit fail with it.
    #[error("store log events")]
    Shared(#[source] Arc<Error>),
    #[error("the thread that read or wrote the logs failed")]
    Thread(#[source] tokio::task::JoinError),
}

fn access<E: Into<redb::Error>>(error: E) -> Error {
    Error::Access(Box::new(error.into()))
}

/// A log group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) created: i64,
    pub(super) retention_days: Option<i32>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) bytes: u64,
}

/// A log stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) created: i64,
    pub(super) first_event: Option<i64>,
    pub(super) last_event: Option<i64>,
    pub(super) last_ingestion: Option<i64>,
    pub(super) bytes: u64,
}

/// An event as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) stream: u64,
    pub(super) at: i64,
    /// Unique in the whole file.
    pub(super) number: u64,
    pub(super) ingested: i64,
    pub(super) message: String,
}

/// A place between events: after the event with this time and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) at: i64,
    pub(super) number: u64,
}

impl Position {
    /// The place before the event that it names.
    pub(super) fn preceding(self) -> Self {
        Self { number: self.number.saturating_sub(1), ..self }
    }

    /// The place after the event that it names, for a reader backward.
    pub(super) fn following(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }
}

/// Why something was not done, beside failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Group,
    Stream,
}

/// The logs of a control plane. Clones share them.
#[derive(Debug, Clone)]
pub struct Logs(Arc<Shared>);

impl Logs {
    /// Opens `logs.redb` in a directory, or makes it, for its owner only.
    ///
    /// # Errors
    /// If the file cannot be made, is not ours, or another version wrote it.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self(Arc::new(Shared::open(directory.join("logs.redb"))?)))
    }

    /// All groups of a region whose names begin with `prefix`, in order.
    pub(super) async fn groups(&self, region: &str, prefix: &str) -> Result<Vec<Group>, Error> {
        let (region, prefix) = (region.to_owned(), prefix.to_owned());
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(GROUPS).map_err(access)?;
            let mut found = Vec::new();
            for entry in table.range((region.as_str(), prefix.as_str())..).map_err(access)? {
                let (key, value) = entry.map_err(access)?;
                let (of, name) = key.value();
                if of != region || !name.starts_with(&prefix) {
                    break;
                }
                found.push(record(value.value())?);
            }
            Ok(found)
        })
        .await
    }

    /// A group by its name.
    pub(super) async fn group(&self, region: &str, name: &str) -> Result<Option<Group>, Error> {
        let (region, name) = (region.to_owned(), name.to_owned());
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            find_group(&read.open_table(GROUPS).map_err(access)?, &region, &name)
        })
        .await
    }

    /// Makes a group; false: there is one.
    pub(super) async fn create_group(&self, region: &str, group: Group) -> Result<bool, Error> {
        let region = region.to_owned();
        self.write(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let mut groups = write.open_table(GROUPS).map_err(access)?;
                let key = (region.as_str(), group.name.as_str());
                if groups.get(key).map_err(access)?.is_some() {
                    return Ok(false);
                }
                let group = Group { id: next(&write, 1)?, ..group.clone() };
                groups.insert(key, json(&group)?.as_slice()).map_err(access)?;
            }
            write.commit().map_err(access)?;
            Ok(true)
        })
        .await
    }

    /// Changes a group; false: there is none.
    pub(super) async fn change_group(
        &self,
        region: &str,
        name: &str,
        change: impl FnOnce(&mut Group) + Send + 'static,
    ) -> Result<bool, Error> {
        let (region, name) = (region.to_owned(), name.to_owned());
        self.write(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let mut groups = write.open_table(GROUPS).map_err(access)?;
                let key = (region.as_str(), name.as_str());
                let Some(mut group) = find_group(&groups, &region, &name)? else {
                    return Ok(false);
                };
                change(&mut group);
                groups.insert(key, json(&group)?.as_slice()).map_err(access)?;
            }
            write.commit().map_err(access)?;
            Ok(true)
        })
        .await
    }

    /// Deletes a group with everything in it; false: there is none.
    pub(super) async fn delete_group(&self, region: &str, name: &str) -> Result<bool, Error> {
        let (region, name) = (region.to_owned(), name.to_owned());
        let deleted = self.write(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let mut groups = write.open_table(GROUPS).map_err(access)?;
                let removed = groups.remove((region.as_str(), name.as_str())).map_err(access)?;
                let Some(group) =
                    removed.map(|value| record::<Group>(value.value())).transpose()?
                else {
                    return Ok(false);
                };
                let mut streams = write.open_table(STREAMS).map_err(access)?;
                let all = (group.id, "")..(group.id.saturating_add(1), "");
                streams.retain_in(all, |_, _| false).map_err(access)?;
                doom(&write, Doomed { group: group.id, stream: None })?;
            }
            write.commit().map_err(access)?;
            Ok(true)
        });
        let deleted = deleted.await?;
        if deleted {
            self.clear_soon();
        }
        Ok(deleted)
    }

    /// The streams of a group whose names begin with `prefix`, by name.
    pub(super) async fn streams(&self, group: u64, prefix: &str) -> Result<Vec<Stream>, Error> {
        let prefix = prefix.to_owned();
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(STREAMS).map_err(access)?;
            let mut found = Vec::new();
            for entry in table.range((group, prefix.as_str())..).map_err(access)? {
                let (key, value) = entry.map_err(access)?;
                let (of, name) = key.value();
                if of != group || !name.starts_with(&prefix) {
                    break;
                }
                found.push(record(value.value())?);
            }
            Ok(found)
        })
        .await
    }

    /// A stream of a group.
    pub(super) async fn stream(&self, group: u64, name: &str) -> Result<Option<Stream>, Error> {
        let name = name.to_owned();
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(STREAMS).map_err(access)?;
            let found = table.get((group, name.as_str())).map_err(access)?;
            found.map(|value| record(value.value())).transpose()
        })
        .await
    }

    /// The streams of a group with these names; `None` if one is not there.
    pub(super) async fn streams_named(
        &self,
        group: u64,
        names: BTreeSet<String>,
    ) -> Result<Option<Vec<Stream>>, Error> {
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(STREAMS).map_err(access)?;
            let mut found = Vec::with_capacity(names.len());
            for name in &names {
                let Some(value) = table.get((group, name.as_str())).map_err(access)? else {
                    return Ok(None);
                };
                found.push(record(value.value())?);
            }
            Ok(Some(found))
        })
        .await
    }

    /// Makes a stream; `Ok(Ok(false))`: there is one.
    pub(super) async fn create_stream(
        &self,
        region: &str,
        group: &str,
        name: &str,
        now: i64,
    ) -> Result<Result<bool, Missing>, Error> {
        let (region, group, name) = (region.to_owned(), group.to_owned(), name.to_owned());
        self.write(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let groups = write.open_table(GROUPS).map_err(access)?;
                let Some(group) = find_group(&groups, &region, &group)? else {
                    return Ok(Err(Missing::Group));
                };
                let mut streams = write.open_table(STREAMS).map_err(access)?;
                if streams.get((group.id, name.as_str())).map_err(access)?.is_some() {
                    return Ok(Ok(false));
                }
                let stream = Stream {
                    id: next(&write, 1)?,
                    name: name.clone(),
                    created: now,
                    first_event: None,
                    last_event: None,
                    last_ingestion: None,
                    bytes: 0,
                };
                let key = (group.id, name.as_str());
                streams.insert(key, json(&stream)?.as_slice()).map_err(access)?;
            }
            write.commit().map_err(access)?;
            Ok(Ok(true))
        })
        .await
    }

    /// Deletes a stream with its events.
    pub(super) async fn delete_stream(
        &self,
        region: &str,
        group: &str,
        name: &str,
    ) -> Result<Result<(), Missing>, Error> {
        let (region, group, name) = (region.to_owned(), group.to_owned(), name.to_owned());
        let deleted = self.write(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let mut groups = write.open_table(GROUPS).map_err(access)?;
                let group_key = (region.as_str(), group.as_str());
                let Some(mut group) = find_group(&groups, &region, &group)? else {
                    return Ok(Err(Missing::Group));
                };
                let mut streams = write.open_table(STREAMS).map_err(access)?;
                let removed = streams.remove((group.id, name.as_str())).map_err(access)?;
                let Some(stream) =
                    removed.map(|value| record::<Stream>(value.value())).transpose()?
                else {
                    return Ok(Err(Missing::Stream));
                };
                group.bytes = group.bytes.saturating_sub(stream.bytes);
                groups.insert(group_key, json(&group)?.as_slice()).map_err(access)?;
                doom(&write, Doomed { group: group.id, stream: Some(stream.id) })?;
            }
            write.commit().map_err(access)?;
            Ok(Ok(()))
        });
        let deleted = deleted.await?;
        if deleted.is_ok() {
            self.clear_soon();
        }
        Ok(deleted)
    }

    /// Events of a stream between two positions (both exclusive), in order: the first `limit` of
    /// them, or the last, of `bytes` bytes at most (but one at least).
    pub(super) async fn events(
        &self,
        stream: u64,
        after: Position,
        before: Position,
        from_head: bool,
        limit: usize,
        bytes: u64,
    ) -> Result<Vec<Event>, Error> {
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(EVENTS).map_err(access)?;
            let key = |position: Position| (stream, time(position.at), position.number);
            if key(after) >= key(before) {
                return Ok(Vec::new());
            }
            let range = table.range(key(after)..key(before)).map_err(access)?;
            let mut found = Vec::new();
            let mut taken = 0;
            let mut take = |entry: Result<
                (redb::AccessGuard<'_, Key>, redb::AccessGuard<'_, &[u8]>),
                redb::StorageError,
            >|
             -> Result<bool, Error> {
                let (found_key, value) = entry.map_err(access)?;
                if found_key.value() == key(after) {
                    return Ok(true);
                }
                let event = event(stream, found_key.value(), value.value());
                taken += size(&event.message);
                if found.len() == limit || (taken > bytes && !found.is_empty()) {
                    return Ok(false);
                }
                found.push(event);
                Ok(true)
            };
            if from_head {
                for entry in range {
                    if !take(entry)? {
                        break;
                    }
                }
            } else {
                for entry in range.rev() {
                    if !take(entry)? {
                        break;
                    }
                }
                found.reverse();
            }
            Ok(found)
        })
        .await
    }

    /// Looks at the events of some streams of a group between two positions (both exclusive) in
    /// order, until `look` returns false. It is told of each place, and of the event there unless
    /// that is of another stream.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        group: u64,
        after: Position,
        before: Position,
        streams: BTreeSet<u64>,
        mut state: T,
        look: impl Fn(&mut T, Position, Option<Event>) -> bool + Send + 'static,
    ) -> Result<T, Error> {
        self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let by_group = read.open_table(BY_GROUP).map_err(access)?;
            let events = read.open_table(EVENTS).map_err(access)?;
            let keys = |id| {
                let key = |position: Position| (id, time(position.at), position.number);
                (key(after) < key(before)).then(|| key(after)..key(before))
            };
            let mut told = |(_, at, number): Key, stream: u64| -> Result<bool, Error> {
                let position = Position { at: i64::try_from(at).unwrap_or(i64::MAX), number };
                if position == after {
                    return Ok(true);
                }
                if !streams.contains(&stream) {
                    return Ok(look(&mut state, position, None));
                }
                let key = (stream, at, number);
                let value = events.get(key).map_err(access)?;
                let event = value.map(|value| event(stream, key, value.value()));
                Ok(look(&mut state, position, event))
            };
            if streams.len() > SIDE_BY_SIDE {
                let Some(keys) = keys(group) else { return Ok(state) };
                for entry in by_group.range(keys).map_err(access)? {
                    let (key, stream) = entry.map_err(access)?;
                    if !told(key.value(), stream.value())? {
                        break;
                    }
                }
                return Ok(state);
            }
            let mut ranges = BTreeMap::new();
            for stream in &streams {
                let Some(keys) = keys(*stream) else { return Ok(state) };
                ranges.insert(*stream, events.range(keys).map_err(access)?);
            }
            // The next event of each.
            let mut heads = BinaryHeap::with_capacity(ranges.len());
            for (stream, range) in &mut ranges {
                if let Some(entry) = range.next() {
                    let (_, at, number) = entry.map_err(access)?.0.value();
                    heads.push(Reverse((at, number, *stream)));
                }
            }
            while let Some(Reverse((at, number, stream))) = heads.pop() {
                if !told((stream, at, number), stream)? {
                    break;
                }
                if let Some(entry) = ranges.get_mut(&stream).and_then(Iterator::next) {
                    let (_, at, number) = entry.map_err(access)?.0.value();
                    heads.push(Reverse((at, number, stream)));
                }
            }
            Ok(state)
        })
        .await
    }
}

/// Times before the epoch are refused before they come here; bounds of ranges may be anything.
fn time(at: i64) -> u64 {
    u64::try_from(at).unwrap_or(0)
}

fn event(stream: u64, (_, at, number): Key, value: &[u8]) -> Event {
    let (ingested, message) = value.split_at_checked(8).unwrap_or((&[], value));
    Event {
        stream,
        at: i64::try_from(at).unwrap_or(i64::MAX),
        number,
        ingested: ingested.try_into().map(i64::from_be_bytes).unwrap_or_default(),
        message: String::from_utf8_lossy(message).into_owned(),
    }
}

fn find_group(
    groups: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    region: &str,
    name: &str,
) -> Result<Option<Group>, Error> {
    let found = groups.get((region, name)).map_err(access)?;
    found.map(|value| record(value.value())).transpose()
}

/// The first of `count` fresh numbers.
fn next(write: &redb::WriteTransaction, count: u64) -> Result<u64, Error> {
    let mut marks = write.open_table(MARKS).map_err(access)?;
    let first = marks.get("next").map_err(access)?.map_or(1, |mark| mark.value());
    marks.insert("next", first.saturating_add(count)).map_err(access)?;
    Ok(first)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(Error::Record)
}

fn record<T: for<'a> Deserialize<'a>>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(Error::Record)
}
