//! Deletion: events past their retention, and what is left of deleted groups and streams, both in
//! pieces of [`PIECE`] events, between which others have their turn.

use std::collections::BTreeMap;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, WriteTransaction};

use super::{
    BY_GROUP, DOOMED, EVENTS, Error, GROUPS, Group, Key, Logs, STREAMS, Stream, access, find_group,
    json, record, time,
};
use crate::logs::events::{DAY, OVERHEAD};

/// Events that are deleted in one transaction.
const PIECE: usize = 10_000;

/// What is left of a deleted group or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doomed {
    pub(super) group: u64,
    /// `None`: all of the group.
    pub(super) stream: Option<u64>,
}

/// Notes that events are to be deleted.
pub(super) fn doom(write: &WriteTransaction, doomed: Doomed) -> Result<(), Error> {
    let key = (doomed.group, doomed.stream.unwrap_or(0));
    write.open_table(DOOMED).map_err(access)?.insert(key, ()).map_err(access)?;
    Ok(())
}

impl Logs {
    /// Begins to delete what is doomed. What is not done when the process ends, the next one does.
    pub(super) fn clear_soon(&self) {
        let logs = self.clone();
        tokio::spawn(async move {
            if let Err(error) = logs.clear().await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "deleted log events still take their space"
                );
            }
        });
    }

    pub(super) async fn clear(&self) -> Result<(), Error> {
        while self.write(clear_piece).await? {}
        Ok(())
    }

    /// Deletes events that are past their group's retention, and those of deleted groups and
    /// streams. Called now and then.
    ///
    /// # Errors
    /// If the file cannot be written; what was deleted stays deleted.
    pub async fn sweep(&self, now: jiff::Timestamp) -> Result<(), Error> {
        self.clear().await?;
        let now = now.as_millisecond();
        let expired = self.read(move |database| {
            let read = database.begin_read().map_err(access)?;
            let groups = read.open_table(GROUPS).map_err(access)?;
            let mut expired = Vec::new();
            for entry in groups.iter().map_err(access)? {
                let (key, value) = entry.map_err(access)?;
                let group: Group = record(value.value())?;
                if let Some(days) = group.retention_days {
                    let oldest = now.saturating_sub(i64::from(days) * DAY);
                    expired.push((key.value().0.to_owned(), group, time(oldest)));
                }
            }
            Ok(expired)
        });
        for (region, group, oldest) in expired.await? {
            let (region, group) = (std::sync::Arc::new(region), std::sync::Arc::new(group));
            loop {
                let (region, group) = (region.clone(), group.clone());
                if !self.write(move |database| expire(database, &region, &group, oldest)).await? {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Deletes some of what is doomed; false if nothing is.
fn clear_piece(database: &Database) -> Result<bool, Error> {
    let write = database.begin_write().map_err(access)?;
    {
        let mut doomed = write.open_table(DOOMED).map_err(access)?;
        let first = doomed.first().map_err(access)?.map(|(key, _)| key.value());
        let Some((group, stream)) = first else { return Ok(false) };
        let gone = if stream == 0 {
            of_group(&write, (group, 0, 0)..=(group, u64::MAX, u64::MAX))?
        } else {
            of_stream(&write, group, stream)?
        };
        remove(&write, &gone)?;
        if gone.len() < PIECE {
            doomed.remove((group, stream)).map_err(access)?;
        }
    }
    write.commit().map_err(access)?;
    Ok(true)
}

/// Deletes some of a group's events before a time; false if no more are left.
fn expire(database: &Database, region: &str, group: &Group, oldest: u64) -> Result<bool, Error> {
    let write = database.begin_write().map_err(access)?;
    let gone = of_group(&write, (group.id, 0, 0)..=(group.id, oldest.saturating_sub(1), u64::MAX))?;
    if gone.is_empty() || oldest == 0 {
        return Ok(false);
    }
    let bytes = remove(&write, &gone)?;
    {
        let mut groups = write.open_table(GROUPS).map_err(access)?;
        let now = find_group(&groups, region, &group.name)?.filter(|now| now.id == group.id);
        let Some(mut group) = now else { return Ok(false) };
        let mut streams = write.open_table(STREAMS).map_err(access)?;
        let mut smaller: Vec<Stream> = Vec::new();
        let all = (group.id, "")..(group.id.saturating_add(1), "");
        for entry in streams.range(all).map_err(access)? {
            let (_, value) = entry.map_err(access)?;
            let mut stream: Stream = record(value.value())?;
            if let Some(bytes) = bytes.get(&stream.id) {
                stream.bytes = stream.bytes.saturating_sub(*bytes);
                group.bytes = group.bytes.saturating_sub(*bytes);
                smaller.push(stream);
            }
        }
        for stream in smaller {
            let key = (group.id, stream.name.as_str());
            streams.insert(key, json(&stream)?.as_slice()).map_err(access)?;
        }
        let key = (region, group.name.as_str());
        groups.insert(key, json(&group)?.as_slice()).map_err(access)?;
    }
    write.commit().map_err(access)?;
    Ok(gone.len() == PIECE)
}

/// The first events of a range of `by_group`: their keys there, with their streams.
fn of_group(
    write: &WriteTransaction,
    range: std::ops::RangeInclusive<Key>,
) -> Result<Vec<(Key, u64)>, Error> {
    let by_group = write.open_table(BY_GROUP).map_err(access)?;
    let mut found = Vec::new();
    for entry in by_group.range(range).map_err(access)?.take(PIECE) {
        let (key, stream) = entry.map_err(access)?;
        found.push((key.value(), stream.value()));
    }
    Ok(found)
}

/// As [`of_group`], those of a stream.
fn of_stream(write: &WriteTransaction, group: u64, stream: u64) -> Result<Vec<(Key, u64)>, Error> {
    let events = write.open_table(EVENTS).map_err(access)?;
    let range = (stream, 0, 0)..=(stream, u64::MAX, u64::MAX);
    let mut found = Vec::new();
    for entry in events.range(range).map_err(access)?.take(PIECE) {
        let (_, at, number) = entry.map_err(access)?.0.value();
        found.push(((group, at, number), stream));
    }
    Ok(found)
}

/// Deletes events; returns the bytes that each stream had in them.
fn remove(write: &WriteTransaction, gone: &[(Key, u64)]) -> Result<BTreeMap<u64, u64>, Error> {
    let mut by_group = write.open_table(BY_GROUP).map_err(access)?;
    let mut events = write.open_table(EVENTS).map_err(access)?;
    let mut bytes = BTreeMap::<u64, u64>::new();
    for (key, stream) in gone {
        by_group.remove(*key).map_err(access)?;
        if let Some(value) = events.remove((*stream, key.1, key.2)).map_err(access)? {
            // The ingestion time is before the message.
            let message = u64::try_from(value.value().len().saturating_sub(8)).unwrap_or(0);
            let of = bytes.entry(*stream).or_default();
            *of = of.saturating_add(message).saturating_add(OVERHEAD);
        }
    }
    Ok(bytes)
}
