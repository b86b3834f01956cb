//! `logs.redb`:
//!
//! ```text
//! groups   (region, name)              → Group
//! streams  (group id, name)            → Stream
//! events   (stream id, time, number)   → ingestion time (8 bytes, big endian), message
//! by_group (group id, time, number)    → stream id
//! marks    "next"                      → next id of a group or stream, and number of an event
//! ```
//!
//! Times are milliseconds since the epoch. Numbers make events of one millisecond distinct and keep
//! their order. The names of deleted groups and streams are free at once; their events have ids that
//! are never used again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::failpoint;

type Key = (u64, u64, u64);

const GROUPS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("groups");
const STREAMS: TableDefinition<'_, (u64, &str), &[u8]> = TableDefinition::new("streams");
const EVENTS: TableDefinition<'_, Key, &[u8]> = TableDefinition::new("events");
const BY_GROUP: TableDefinition<'_, Key, u64> = TableDefinition::new("by_group");
const MARKS: TableDefinition<'_, &str, u64> = TableDefinition::new("marks");

/// What redb may keep of the file in memory: appending and reading the newest need little.
const CACHE: usize = 8 << 20;
/// Events that a sweep deletes in one transaction, so that writers do not wait long.
const SWEEP: usize = 10_000;

/// The logs cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the logs {path}")]
    Open { path: PathBuf, source: Box<redb::DatabaseError> },
    #[error("make the logs {path}")]
    Create { path: PathBuf, source: std::io::Error },
    #[error("read or write the logs")]
    Access(#[source] Box<redb::Error>),
    #[error("a record of the logs is unreadable")]
    Record(#[source] serde_json::Error),
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

/// Why something was not done, beside failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Group,
    Stream,
}

/// The logs of a control plane. Clones share them.
#[derive(Debug, Clone)]
pub struct Logs(Arc<Database>);

impl Logs {
    /// Opens `logs.redb` in a directory, or makes it, for its owner only.
    ///
    /// # Errors
    /// If the file cannot be made or is not ours.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = directory.join("logs.redb");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::Create { path: path.clone(), source })?;
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create_file(file)
            .map_err(|source| Error::Open { path, source: Box::new(source) })?;
        let write = database.begin_write().map_err(access)?;
        write.open_table(GROUPS).map_err(access)?;
        write.open_table(STREAMS).map_err(access)?;
        write.open_table(EVENTS).map_err(access)?;
        write.open_table(BY_GROUP).map_err(access)?;
        write.open_table(MARKS).map_err(access)?;
        write.commit().map_err(access)?;
        Ok(Self(Arc::new(database)))
    }

    /// Works on the file away from the event loop.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let database = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&database)).await.map_err(Error::Thread)?
    }

    /// All groups of a region whose names begin with `prefix`, in order.
    pub(super) async fn groups(&self, region: &str, prefix: &str) -> Result<Vec<Group>, Error> {
        let (region, prefix) = (region.to_owned(), prefix.to_owned());
        self.blocking(move |database| {
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
        self.blocking(move |database| {
            let read = database.begin_read().map_err(access)?;
            find_group(&read.open_table(GROUPS).map_err(access)?, &region, &name)
        })
        .await
    }

    /// Makes a group; false: there is one.
    pub(super) async fn create_group(&self, region: &str, group: Group) -> Result<bool, Error> {
        let region = region.to_owned();
        self.blocking(move |database| {
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
        self.blocking(move |database| {
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
        self.blocking(move |database| {
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
                let mut gone = Vec::new();
                for entry in streams.range((group.id, "")..(group.id + 1, "")).map_err(access)? {
                    let (_, value) = entry.map_err(access)?;
                    gone.push(record::<Stream>(value.value())?);
                }
                let mut events = write.open_table(EVENTS).map_err(access)?;
                for stream in gone {
                    streams.remove((group.id, stream.name.as_str())).map_err(access)?;
                    events.retain_in(all(stream.id), |_, _| false).map_err(access)?;
                }
                let mut by_group = write.open_table(BY_GROUP).map_err(access)?;
                by_group.retain_in(all(group.id), |_, _| false).map_err(access)?;
            }
            write.commit().map_err(access)?;
            Ok(true)
        })
        .await
    }

    /// All streams of a group, by name.
    pub(super) async fn streams(&self, group: u64) -> Result<Vec<Stream>, Error> {
        self.blocking(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(STREAMS).map_err(access)?;
            let mut found = Vec::new();
            for entry in table.range((group, "")..(group + 1, "")).map_err(access)? {
                let (_, value) = entry.map_err(access)?;
                found.push(record(value.value())?);
            }
            Ok(found)
        })
        .await
    }

    /// A stream of a group.
    pub(super) async fn stream(&self, group: u64, name: &str) -> Result<Option<Stream>, Error> {
        let name = name.to_owned();
        self.blocking(move |database| {
            let read = database.begin_read().map_err(access)?;
            let table = read.open_table(STREAMS).map_err(access)?;
            let found = table.get((group, name.as_str())).map_err(access)?;
            found.map(|value| record(value.value())).transpose()
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
        self.blocking(move |database| {
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
        self.blocking(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let groups = write.open_table(GROUPS).map_err(access)?;
                let Some(group) = find_group(&groups, &region, &group)? else {
                    return Ok(Err(Missing::Group));
                };
                let mut streams = write.open_table(STREAMS).map_err(access)?;
                let removed = streams.remove((group.id, name.as_str())).map_err(access)?;
                let Some(stream) =
                    removed.map(|value| record::<Stream>(value.value())).transpose()?
                else {
                    return Ok(Err(Missing::Stream));
                };
                let mut events = write.open_table(EVENTS).map_err(access)?;
                events.retain_in(all(stream.id), |_, _| false).map_err(access)?;
                let mut by_group = write.open_table(BY_GROUP).map_err(access)?;
                by_group.retain_in(all(group.id), |_, of| of != stream.id).map_err(access)?;
            }
            write.commit().map_err(access)?;
            Ok(Ok(()))
        })
        .await
    }

    /// Adds events (time, message), durably.
    pub(super) async fn put(
        &self,
        region: &str,
        group: &str,
        stream: &str,
        events: Vec<(i64, String)>,
        now: i64,
    ) -> Result<Result<(), Missing>, Error> {
        let (region, group, stream) = (region.to_owned(), group.to_owned(), stream.to_owned());
        self.blocking(move |database| {
            let write = database.begin_write().map_err(access)?;
            {
                let mut groups = write.open_table(GROUPS).map_err(access)?;
                let group_key = (region.as_str(), group.as_str());
                let Some(mut group) = find_group(&groups, &region, &group)? else {
                    return Ok(Err(Missing::Group));
                };
                let mut streams = write.open_table(STREAMS).map_err(access)?;
                let stream_key = (group.id, stream.as_str());
                let found = streams.get(stream_key).map_err(access)?;
                let Some(mut stream) =
                    found.map(|value| record::<Stream>(value.value())).transpose()?
                else {
                    return Ok(Err(Missing::Stream));
                };
                let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
                let first = next(&write, count)?;
                let mut table = write.open_table(EVENTS).map_err(access)?;
                let mut by_group = write.open_table(BY_GROUP).map_err(access)?;
                let mut bytes = 0;
                let mut value = Vec::new();
                for ((at, message), number) in events.iter().zip(first..) {
                    value.clear();
                    value.extend_from_slice(&now.to_be_bytes());
                    value.extend_from_slice(message.as_bytes());
                    let time = time(*at);
                    table.insert((stream.id, time, number), value.as_slice()).map_err(access)?;
                    by_group.insert((group.id, time, number), stream.id).map_err(access)?;
                    bytes += super::events::size(message);
                    stream.first_event =
                        Some(stream.first_event.map_or(*at, |first| first.min(*at)));
                    stream.last_event = Some(stream.last_event.map_or(*at, |last| last.max(*at)));
                }
                stream.last_ingestion = Some(now);
                stream.bytes += bytes;
                group.bytes += bytes;
                streams.insert(stream_key, json(&stream)?.as_slice()).map_err(access)?;
                groups.insert(group_key, json(&group)?.as_slice()).map_err(access)?;
            }
            failpoint::hit("events.before");
            write.commit().map_err(access)?;
            failpoint::hit("events.stored");
            Ok(Ok(()))
        })
        .await
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
        self.blocking(move |database| {
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
                taken += super::events::size(&event.message);
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

    /// Looks at a group's events between two positions (both exclusive) in order, until `look`
    /// returns false. `streams`: only of these.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        group: u64,
        after: Position,
        before: Position,
        streams: Option<std::collections::BTreeSet<u64>>,
        mut state: T,
        look: impl Fn(&mut T, Event) -> bool + Send + 'static,
    ) -> Result<T, Error> {
        self.blocking(move |database| {
            let read = database.begin_read().map_err(access)?;
            let by_group = read.open_table(BY_GROUP).map_err(access)?;
            let events = read.open_table(EVENTS).map_err(access)?;
            let key = |position: Position| (group, time(position.at), position.number);
            if key(after) >= key(before) {
                return Ok(state);
            }
            for entry in by_group.range(key(after)..key(before)).map_err(access)? {
                let (found, stream) = entry.map_err(access)?;
                let (_, time, number) = found.value();
                let stream = stream.value();
                if found.value() == key(after)
                    || streams.as_ref().is_some_and(|streams| !streams.contains(&stream))
                {
                    continue;
                }
                let event_key = (stream, time, number);
                let Some(value) = events.get(event_key).map_err(access)? else { continue };
                if !look(&mut state, event(stream, event_key, value.value())) {
                    break;
                }
            }
            Ok(state)
        })
        .await
    }

    /// Deletes events that are past their group's retention. Called now and then.
    ///
    /// # Errors
    /// If the file cannot be written; what was deleted stays deleted.
    pub async fn sweep(&self, now: jiff::Timestamp) -> Result<(), Error> {
        let now = now.as_millisecond();
        let expired = self.blocking(move |database| {
            let read = database.begin_read().map_err(access)?;
            let groups = read.open_table(GROUPS).map_err(access)?;
            let mut expired = Vec::new();
            for entry in groups.iter().map_err(access)? {
                let (_, value) = entry.map_err(access)?;
                let group: Group = record(value.value())?;
                if let Some(days) = group.retention_days {
                    let oldest = now.saturating_sub(i64::from(days) * super::events::DAY);
                    expired.push((group.id, time(oldest)));
                }
            }
            Ok(expired)
        });
        for (group, oldest) in expired.await? {
            while self.expire(group, oldest).await? == SWEEP {}
        }
        Ok(())
    }

    /// Deletes some of a group's events before a time: how many.
    async fn expire(&self, group: u64, oldest: u64) -> Result<usize, Error> {
        self.blocking(move |database| {
            let write = database.begin_write().map_err(access)?;
            let count;
            {
                let mut by_group = write.open_table(BY_GROUP).map_err(access)?;
                let mut gone = Vec::new();
                for entry in by_group.range((group, 0, 0)..(group, oldest, 0)).map_err(access)? {
                    let (key, stream) = entry.map_err(access)?;
                    gone.push((key.value(), stream.value()));
                    if gone.len() == SWEEP {
                        break;
                    }
                }
                let mut events = write.open_table(EVENTS).map_err(access)?;
                for (key, stream) in &gone {
                    by_group.remove(*key).map_err(access)?;
                    events.remove((*stream, key.1, key.2)).map_err(access)?;
                }
                count = gone.len();
            }
            write.commit().map_err(access)?;
            Ok(count)
        })
        .await
    }
}

/// Every key of an id.
fn all(id: u64) -> std::ops::RangeInclusive<Key> {
    (id, 0, 0)..=(id, u64::MAX, u64::MAX)
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
