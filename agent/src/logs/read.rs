//! Reading logs: history and what follows, of several containers in order of time.
//!
//! Rotation is followed by inode: a file that was renamed is read to its end, then the next newer
//! one. A file that got shorter is left alone until it has grown again: a shipper that restarts
//! cuts what it will write again in the same words.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use futures_util::Stream;
use futures_util::future::select_all;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use super::drivers::json_file::rotated;
use super::watch::{Watch, Watcher};
use crate::api::types::LogLine;

/// Bytes read at once per container.
const CHUNK: usize = 128 * 1024;
/// A record is at most a line's part, six bytes for each of its own, and its frame.
const LONGEST: usize = 6 * super::lines::LIMIT + 4096;

/// One container's log.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, put into every line.
    pub container: String,
    /// The `json-file` log; it need not exist yet.
    pub log: PathBuf,
    /// Turns true when nothing more will be written ([`super::ShipperHandle::ended`]); a receiver
    /// whose sender is gone counts as true.
    pub ended: watch::Receiver<bool>,
}

impl Source {
    /// A log to which nothing more is written.
    pub fn complete(container: String, log: PathBuf) -> Self {
        Self { container, log, ended: watch::channel(true).1 }
    }
}

/// What to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Go on until every container's log has ended.
    pub follow: bool,
    /// Only lines of this time and later.
    pub since: Option<Timestamp>,
    /// Only the last so many lines of each container, and what follows.
    pub tail: Option<usize>,
    /// Only these containers; empty: all.
    pub containers: Vec<String>,
}

/// Reading a log failed.
#[derive(Debug, thiserror::Error)]
#[error("read log {path}")]
pub struct ReadError {
    path: PathBuf,
    source: io::Error,
}

/// The lines, merged by time as far as they are there. Must be called within a tokio runtime; the
/// work ends when the stream is dropped.
pub fn stream(
    sources: Vec<Source>,
    query: Query,
    watcher: Watcher,
) -> impl Stream<Item = Result<LogLine, ReadError>> + Send + Unpin + 'static {
    // Full while the reader of the stream is slow: then no file is read.
    let (lines, receiver) = mpsc::channel(256);
    tokio::spawn(async move {
        if let Err(error) = send_all(sources, query, watcher, &lines).await {
            // A receiver that is gone wants no error either.
            let _ = lines.send(Err(error)).await;
        }
    });
    Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|line| (line, receiver))
    }))
}

async fn send_all(
    sources: Vec<Source>,
    query: Query,
    watcher: Watcher,
    lines: &mpsc::Sender<Result<LogLine, ReadError>>,
) -> Result<(), ReadError> {
    let wanted = |source: &Source| {
        query.containers.is_empty() || query.containers.contains(&source.container)
    };
    let mut tails: Vec<Tail> = sources
        .into_iter()
        .filter(wanted)
        .map(|source| {
            // Watched before the first look, so that no change falls between.
            let directory = source.log.parent().unwrap_or(Path::new("/"));
            let changes = query.follow.then(|| watcher.watch(directory));
            Tail::new(source, changes)
        })
        .collect();
    let since = query.since;
    let mut first = true;
    loop {
        // Looked at before reading: what is read then is all.
        let ended: Vec<bool> = tails.iter().map(Tail::has_ended).collect();
        loop {
            let tail = query.tail.filter(|_| first);
            let (back, result) = blocking(tails, tail, since).await;
            tails = back;
            let (batch, more) = result?;
            first = false;
            for line in batch {
                if lines.send(Ok(line)).await.is_err() {
                    return Ok(());
                }
            }
            if !more {
                break;
            }
        }
        let mut ended = ended.into_iter();
        tails.retain(|_| !ended.next().unwrap_or(false));
        if !query.follow || tails.is_empty() {
            return Ok(());
        }
        tokio::select! {
            _ = select_all(tails.iter_mut().map(|tail| Box::pin(tail.changed()))) => {}
            () = lines.closed() => return Ok(()),
        }
    }
}

type Batch = Result<(Vec<LogLine>, bool), ReadError>;

async fn blocking(
    mut tails: Vec<Tail>,
    tail: Option<usize>,
    since: Option<Timestamp>,
) -> (Vec<Tail>, Batch) {
    let work = tokio::task::spawn_blocking(move || {
        let batch = merge(&mut tails, tail, since);
        (tails, batch)
    });
    match work.await {
        Ok(done) => done,
        // The runtime ends, or it panicked and that has been printed.
        Err(_) => (Vec::new(), Ok((Vec::new(), false))),
    }
}

/// Takes up to a chunk of lines in order of time. True if there are more.
fn merge(tails: &mut [Tail], last: Option<usize>, since: Option<Timestamp>) -> Batch {
    if let Some(last) = last {
        for tail in tails.iter_mut() {
            tail.skip_to_last(last)?;
        }
    }
    tails.iter_mut().for_each(|tail| tail.dry = false);
    let mut batch = Vec::new();
    let mut bytes = 0;
    while bytes < CHUNK {
        for tail in tails.iter_mut().filter(|tail| tail.lines.is_empty() && !tail.dry) {
            tail.fill()?;
        }
        let earliest = tails
            .iter_mut()
            .filter(|tail| !tail.lines.is_empty())
            .min_by_key(|tail| tail.lines.front().map(|line| line.0));
        let Some((time, line)) = earliest.and_then(|tail| tail.lines.pop_front()) else {
            return Ok((batch, false));
        };
        bytes += line.log.len();
        if since.is_none_or(|since| time >= since) {
            batch.push(line);
        }
    }
    Ok((batch, true))
}

/// Reads one log forwards.
#[derive(Debug)]
struct Tail {
    source: Source,
    changes: Option<Watch>,
    open: Option<Open>,
    lines: VecDeque<(Timestamp, LogLine)>,
    buffer: Vec<u8>,
    /// The log's end was seen in this batch.
    dry: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    offset: u64,
}

/// A record of the log. What it has beyond these is ignored.
#[derive(Deserialize)]
struct Record {
    log: String,
    stream: String,
    time: String,
}

impl Tail {
    fn new(source: Source, changes: Option<Watch>) -> Self {
        Self { source, changes, open: None, lines: VecDeque::new(), buffer: Vec::new(), dry: false }
    }

    fn has_ended(&self) -> bool {
        *self.source.ended.borrow() || self.source.ended.has_changed().is_err()
    }

    async fn changed(&mut self) {
        let ended = &mut self.source.ended;
        match &mut self.changes {
            Some(changes) => tokio::select! {
                () = changes.changed() => {}
                _ = ended.changed() => {}
            },
            None => {
                let _ = ended.changed().await;
            }
        }
    }

    fn failed(&self, source: io::Error) -> ReadError {
        ReadError { path: self.source.log.clone(), source }
    }

    /// The log's files that there are, newest first.
    fn files(&self) -> Result<Vec<Open>, ReadError> {
        let mut files: Vec<Open> = Vec::new();
        for n in 0.. {
            let path = if n == 0 { self.source.log.clone() } else { rotated(&self.source.log, n) };
            match File::open(&path) {
                Ok(file) => {
                    let inode = file.metadata().map_err(|error| self.failed(error))?.ino();
                    // Renamed between two looks: had already.
                    if files.iter().all(|file| file.inode != inode) {
                        files.push(Open { file, inode, offset: 0 });
                    }
                }
                // In the midst of a rotation the newest name may be free.
                Err(error) if error.kind() == io::ErrorKind::NotFound && n == 0 => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(files)
    }

    /// Goes to where only the last `count` lines are left.
    fn skip_to_last(&mut self, count: usize) -> Result<(), ReadError> {
        let mut left = count;
        for mut file in self.files()? {
            let mut end = file.file.metadata().map_err(|error| self.failed(error))?.len();
            let mut buffer = vec![0; CHUNK];
            file.offset = end;
            // A record that is being written counts with those that follow.
            let mut newline_seen = false;
            while end > 0 {
                let start = end.saturating_sub(CHUNK as u64);
                let length = usize::try_from(end - start).unwrap_or(CHUNK);
                let chunk = &mut buffer[..length];
                file.file.read_exact_at(chunk, start).map_err(|error| self.failed(error))?;
                for newline in memchr::memrchr_iter(b'\n', chunk) {
                    let line = start + newline as u64 + 1;
                    if newline_seen {
                        left = left.saturating_sub(1);
                    }
                    newline_seen = true;
                    file.offset = line;
                    if left == 0 {
                        self.open = Some(file);
                        return Ok(());
                    }
                }
                end = start;
            }
            file.offset = 0;
            if newline_seen {
                left = left.saturating_sub(1);
            }
            self.open = Some(file);
            if left == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads lines, or finds that there are none for now.
    fn fill(&mut self) -> Result<(), ReadError> {
        self.buffer.resize(CHUNK + LONGEST, 0);
        while self.lines.is_empty() {
            if self.open.is_none() {
                self.open = self.files()?.pop();
            }
            let whole = self.read()?;
            if whole == 0 && !self.advance()? {
                self.dry = true;
                break;
            }
            self.take(whole);
        }
        Ok(())
    }

    fn take(&mut self, whole: usize) {
        for record in self.buffer[..whole].split(|byte| *byte == b'\n') {
            self.lines.extend(line(&self.source.container, record));
        }
    }

    /// Reads whole records into the buffer; their length.
    fn read(&mut self) -> Result<usize, ReadError> {
        let Some(open) = &mut self.open else { return Ok(0) };
        let read = open
            .file
            .read_at(&mut self.buffer, open.offset)
            .map_err(|source| ReadError { path: self.source.log.clone(), source })?;
        let whole = memchr::memrchr(b'\n', &self.buffer[..read]).map_or(0, |end| end + 1);
        open.offset += whole as u64;
        Ok(whole)
    }

    /// At the end of a file: opens the next newer one, if there is one. True if there may be more.
    fn advance(&mut self) -> Result<bool, ReadError> {
        let Some(open) = &self.open else { return Ok(false) };
        match std::fs::metadata(&self.source.log) {
            Ok(metadata) if metadata.ino() == open.inode => return Ok(false),
            Ok(_) => {}
            // In the midst of a rotation, or removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(self.failed(error)),
        }
        let mut files = self.files()?;
        let newer = files.iter().position(|file| file.inode == open.inode);
        // One that was dropped is followed by the oldest there is.
        files.truncate(newer.unwrap_or(files.len()));
        let Some(next) = files.pop() else { return Ok(false) };
        // What was written between the last read and the rotation comes first.
        let whole = self.read()?;
        if whole > 0 {
            self.take(whole);
        } else {
            self.open = Some(next);
        }
        Ok(true)
    }
}

/// `None` for an empty or damaged record.
fn line(container: &str, record: &[u8]) -> Option<(Timestamp, LogLine)> {
    let Record { log, stream, time } = serde_json::from_slice(record).ok()?;
    let at = time.parse().ok()?;
    Some((at, LogLine { container: container.to_owned(), stream, time, log }))
}
