//! The file, and whose turn it is to write.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableError};
use tokio::sync::oneshot;

use crate::failpoint;
use crate::store::{drop_cached, guard};

use super::{
    BY_GROUP, DOOMED, EVENTS, Error, GROUPS, Group, Logs, MARKS, Missing, STREAMS, Stream, access,
    find_group, json, next, record, size, time,
};

/// What redb may keep of the file in memory: appending and reading the newest need little.
const CACHE: usize = 8 << 20;
/// Version of the tables; raised when they change, with a migration.
const SCHEMA: u64 = 1;

/// Events that wait for the next turn.
#[derive(Debug)]
struct Put {
    region: String,
    group: String,
    stream: String,
    /// Time and message.
    events: Vec<(i64, String)>,
    now: i64,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Result<(), Missing>, Error>;

#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    /// `None`: it could not be opened anew after an error.
    database: RwLock<Option<Database>>,
    waiting: Mutex<Vec<Put>>,
    /// Held by who writes: waiting for redb's own lock would take the threads that others read with.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Each critical section leaves its value whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Logs {
    /// Reads the file away from the event loop.
    pub(in crate::logs) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || shared.with(work)).await.map_err(Error::Thread)?
    }

    /// Writes the file away from the event loop, when it is this one's turn.
    pub(in crate::logs) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = Arc::clone(&self.0.turn).lock_owned().await;
        let shared = Arc::clone(&self.0);
        let write = move || {
            let written = shared.write(work);
            drop(turn);
            written
        };
        tokio::task::spawn_blocking(write).await.map_err(Error::Thread)?
    }

    /// Adds events (time, message), durably.
    pub(in crate::logs) async fn put(
        &self,
        region: &str,
        group: &str,
        stream: &str,
        events: Vec<(i64, String)>,
        now: i64,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        lock(&self.0.waiting).push(Put {
            region: region.to_owned(),
            group: group.to_owned(),
            stream: stream.to_owned(),
            events,
            now,
            answer,
        });
        // Whoever has the turn takes all that wait; then nothing may be left for the others.
        let turn = Arc::clone(&self.0.turn).lock_owned().await;
        let puts = std::mem::take(&mut *lock(&self.0.waiting));
        if puts.is_empty() {
            drop(turn);
        } else {
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || {
                shared.put(puts);
                drop(turn);
            });
        }
        answered.await.unwrap_or(Err(Error::Closed))
    }
}

impl Shared {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let database = guard(|| open(&path)).map_err(Error::Damaged)??;
        let database = RwLock::new(Some(database));
        Ok(Self { path, database, waiting: Mutex::default(), turn: Arc::default() })
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or(Error::Closed)?;
        guard(|| work(database)).map_err(Error::Damaged)?
    }

    /// Of those that have the turn.
    fn write<T>(&self, work: impl FnOnce(&Database) -> Result<T, Error>) -> Result<T, Error> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.reopen()?;
        }
        let written = self.with(work);
        if matches!(written, Err(Error::Access(_) | Error::Damaged(_)))
            && let Err(error) = self.reopen()
        {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the logs are closed until they open"
            );
        }
        written
    }

    /// Waits for the readers.
    fn reopen(&self) -> Result<(), Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let old = database.take();
        let opened = guard(|| {
            drop(old);
            open(&self.path)
        });
        *database = Some(opened.map_err(Error::Damaged)??);
        Ok(())
    }

    /// Adds the events of all, with one commit.
    fn put(&self, mut puts: Vec<Put>) {
        puts.retain(|put| !put.answer.is_closed());
        match self.write(|database| put_all(database, &puts)) {
            Ok(answers) => {
                for (put, answer) in puts.into_iter().zip(answers) {
                    // Who asked may have gone.
                    let _ = put.answer.send(answer);
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for put in puts {
                    let _ = put.answer.send(Err(Error::Shared(Arc::clone(&error))));
                }
            }
        }
    }
}

fn put_all(database: &Database, puts: &[Put]) -> Result<Vec<Answer>, Error> {
    let write = database.begin_write().map_err(access)?;
    let mut answers = Vec::with_capacity(puts.len());
    for put in puts {
        answers.push(match add(&write, put) {
            // Only this one's: nothing of it is written before its records are read.
            Err(error @ Error::Record(_)) => Err(error),
            Err(error) => return Err(error),
            Ok(added) => Ok(added),
        });
    }
    failpoint::hit("events.before");
    write.commit().map_err(access)?;
    failpoint::hit("events.stored");
    Ok(answers)
}

fn add(write: &redb::WriteTransaction, put: &Put) -> Answer {
    let Put { region, group, stream, events, now, .. } = put;
    let mut groups = write.open_table(GROUPS).map_err(access)?;
    let group_key = (region.as_str(), group.as_str());
    let Some(mut group) = find_group(&groups, region, group)? else {
        return Ok(Err(Missing::Group));
    };
    let mut streams = write.open_table(STREAMS).map_err(access)?;
    let stream_key = (group.id, stream.as_str());
    let found = streams.get(stream_key).map_err(access)?;
    let found = found.map(|value| record::<Stream>(value.value())).transpose()?;
    let Some(mut stream) = found else { return Ok(Err(Missing::Stream)) };
    if events.is_empty() {
        return Ok(Ok(()));
    }
    let first = next(write, u64::try_from(events.len()).unwrap_or(u64::MAX))?;
    let mut table = write.open_table(EVENTS).map_err(access)?;
    let mut by_group = write.open_table(BY_GROUP).map_err(access)?;
    let mut bytes = 0_u64;
    let mut value = Vec::new();
    for ((at, message), number) in events.iter().zip(first..) {
        value.clear();
        value.extend_from_slice(&now.to_be_bytes());
        value.extend_from_slice(message.as_bytes());
        let time = time(*at);
        table.insert((stream.id, time, number), value.as_slice()).map_err(access)?;
        by_group.insert((group.id, time, number), stream.id).map_err(access)?;
        bytes = bytes.saturating_add(size(message));
        stream.first_event = Some(stream.first_event.map_or(*at, |first| first.min(*at)));
        stream.last_event = Some(stream.last_event.map_or(*at, |last| last.max(*at)));
    }
    stream.last_ingestion = Some(*now);
    stream.bytes = stream.bytes.saturating_add(bytes);
    group.bytes = group.bytes.saturating_add(bytes);
    streams.insert(stream_key, json::<Stream>(&stream)?.as_slice()).map_err(access)?;
    groups.insert(group_key, json::<Group>(&group)?.as_slice()).map_err(access)?;
    Ok(Ok(()))
}

/// Opens the file, with its tables. One that is not there is made, for its owner only.
fn open(path: &Path) -> Result<Database, Error> {
    let failed = |source| Error::Create { path: path.to_owned(), source };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    drop_cached(&file).map_err(failed)?;
    let database = Database::builder()
        .set_cache_size(CACHE)
        .create_file(file)
        .map_err(|source| Error::Open { path: path.to_owned(), source: Box::new(source) })?;
    // Its name may be new: a process that was killed right after it made it did not get here.
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    match schema(&database)? {
        Some(SCHEMA) => {}
        Some(found) => return Err(Error::Schema { path: path.to_owned(), found }),
        None => create_tables(&database)?,
    }
    Ok(database)
}

/// `None`: the file is new, or older than the mark.
fn schema(database: &Database) -> Result<Option<u64>, Error> {
    match database.begin_read().map_err(access)?.open_table(MARKS) {
        Ok(marks) => Ok(marks.get("schema").map_err(access)?.map(|mark| mark.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(access(error)),
    }
}

fn create_tables(database: &Database) -> Result<(), Error> {
    let write = database.begin_write().map_err(access)?;
    write.open_table(GROUPS).map_err(access)?;
    write.open_table(STREAMS).map_err(access)?;
    write.open_table(EVENTS).map_err(access)?;
    write.open_table(BY_GROUP).map_err(access)?;
    write.open_table(DOOMED).map_err(access)?;
    write.open_table(MARKS).map_err(access)?.insert("schema", SCHEMA).map_err(access)?;
    write.commit().map_err(access)
}
