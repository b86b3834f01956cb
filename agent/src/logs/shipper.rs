//! The hand that takes a container's output from its spool to its log.
//!
//! Promises: each byte that the container wrote is in the log exactly once, in order, whatever is
//! killed when. How: batch → log → cursor → (segment used up: sync both) → delete the segment. A
//! reader that starts cuts the log back to the cursor and goes on from there; a batch that failed
//! is treated the same way. A log that cannot be written is tried again for ever and holds up
//! nothing but itself (and, at the spool's limit, what the container's log mode says).

use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::monitor::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cursor::{self, Cursor, CursorError};
use super::drivers::json_file::{Options, WriteError, Writer};
use super::spool::{Found, Position, Reader, SpoolError};
use super::watch::Watcher;
use crate::error::chain;
use crate::failpoint;

/// Least time between two batches of a container that writes little by little: its bytes wait this
/// long for each other, so that the costs per batch are bounded.
const GATHER: Duration = Duration::from_millis(5);
/// How long a failed batch waits, first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What one shipper needs.
#[derive(Debug, Clone)]
pub struct ShipperConfig {
    /// For messages: `<task>/<container>`.
    pub name: String,
    /// `T/<container>/spool`
    pub spool: PathBuf,
    /// The `json-file` log; its directory exists. The cursor and older files lie beside it.
    pub log: PathBuf,
    /// The driver's options.
    pub options: Options,
    /// Another reader deletes the spool's segments, when it has them, too.
    pub keep_spool: bool,
    /// The container has ended already: drain and finish.
    pub stopped: bool,
    /// Wakes it up.
    pub watcher: Watcher,
}

/// A batch failed.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Log(#[from] WriteError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
}

/// Starts shippers.
#[derive(Debug)]
pub struct Shipper;

/// Talks to a running shipper. When it is dropped, the shipper ends after the batch at hand; a
/// later one goes on.
#[derive(Debug)]
pub struct ShipperHandle {
    stopped: watch::Sender<bool>,
    ended: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl ShipperHandle {
    /// Starts work that says whether it came to its end; it gives up when what it watches is gone.
    pub(super) fn start<F: Future<Output = bool> + Send + 'static>(
        stopped: bool,
        work: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> Self {
        let (stopped, stopped_seen) = watch::channel(stopped);
        let (ended_set, ended) = watch::channel(false);
        let work = work(stopped_seen);
        let task = tokio::spawn(async move {
            if work.await {
                ended_set.send_replace(true);
            }
        });
        Self { stopped, ended, task }
    }

    /// The container has ended and the monitor has written its last byte: drain and finish.
    pub fn stopped(&self) {
        self.stopped.send_replace(true);
    }

    /// Turns true when the log is complete; for [`Source::ended`](super::Source::ended).
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }

    /// Returns when the log is complete and the spool's segments are gone. Cancel safe.
    pub async fn finished(&mut self) {
        // The sender goes only with the task, which ends only when it is done or with the handle.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Ends the shipper and waits until it touches no file any more: before the files are removed,
    /// or another agent takes over.
    pub async fn close(self) {
        drop(self.stopped);
        // A panic of the shipper has been printed, and leaves nothing to wait for.
        let _ = self.task.await;
    }
}

impl Shipper {
    /// Must be called within a tokio runtime.
    pub fn spawn(config: ShipperConfig) -> ShipperHandle {
        ShipperHandle::start(config.stopped, move |stopped| ship(config, stopped))
    }
}

/// True when the log is complete, false when the handle is gone.
async fn ship(config: ShipperConfig, mut stopped: watch::Receiver<bool>) -> bool {
    let mut changes = config.watcher.watch(&config.spool);
    let mut retry = RETRY.0;
    let mut idle = None;
    loop {
        // Looked at before the batch: nothing comes after it.
        let last = *stopped.borrow();
        let (config, ship) = (config.clone(), idle.take());
        let name = config.name.clone();
        let batch = tokio::task::spawn_blocking(move || {
            let mut ship = match ship {
                Some(ship) => ship,
                None => Ship::open(
                    config.name,
                    &config.spool,
                    config.log,
                    config.options,
                    config.keep_spool,
                )?,
            };
            let progress = ship.batch(last)?;
            Ok::<_, ShipError>((ship, progress))
        });
        let wait = match batch.await {
            Ok(Ok((_, Progress::Finished))) => return true,
            Ok(Ok((ship, progress))) => {
                idle = Some(ship);
                retry = RETRY.0;
                match progress {
                    Progress::More if stopped.has_changed().is_ok() => continue,
                    Progress::Some => tokio::time::sleep(GATHER).await,
                    Progress::More | Progress::Nothing | Progress::Finished => {}
                }
                None
            }
            Ok(Err(error)) => {
                let error = chain(&error);
                tracing::warn!(container = name, error, "output waits: its log failed");
                Some(retry)
            }
            // It panicked (and has been printed) or the runtime ends.
            Err(_) => Some(retry),
        };
        match wait {
            None => tokio::select! {
                () = changes.changed() => {}
                change = stopped.changed() => if change.is_err() { return false },
            },
            Some(time) => {
                retry = (retry * 2).min(RETRY.1);
                tokio::select! {
                    () = tokio::time::sleep(time) => {}
                    // Being told of the end is no reason to try sooner, the handle's end is one
                    // to give up.
                    () = gone(stopped.clone()) => return false,
                }
            }
        }
    }
}

async fn gone(mut stopped: watch::Receiver<bool>) {
    while stopped.changed().await.is_ok() {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// A full batch; there may be more.
    More,
    /// Bytes, and then none.
    Some,
    Nothing,
    /// The log is complete.
    Finished,
}

/// One reader at work. After an error it is dropped and opened again.
#[derive(Debug)]
struct Ship {
    name: String,
    reader: Reader,
    writer: Writer,
    cursor: Cursor,
    cursor_path: PathBuf,
    keep_spool: bool,
}

impl Ship {
    fn open(
        name: String,
        spool: &Path,
        log: PathBuf,
        options: Options,
        keep_spool: bool,
    ) -> Result<Self, ShipError> {
        let cursor_path = cursor::path(&log);
        let mut cursor = Cursor::load(&cursor_path)?.unwrap_or_default();
        let writer = Writer::open(&log, options, cursor.log)?;
        let reader = Reader::new(spool, cursor.position);
        if cursor.log != Some(writer.mark()) {
            cursor.log = Some(writer.mark());
            cursor.store(&cursor_path, false)?;
        }
        Ok(Self { name, reader, writer, cursor, cursor_path, keep_spool })
    }

    /// Takes what is there. `last`: nothing will come after it.
    fn batch(&mut self, last: bool) -> Result<Progress, ShipError> {
        if self.cursor.finished {
            // Killed between the cursor and the deletion.
            self.remove_used(true)?;
            return Ok(Progress::Finished);
        }
        let mut progress = Progress::Nothing;
        // Bounded, so that one container cannot keep a thread for ever.
        for _ in 0..16 {
            match self.reader.read()? {
                Found::Bytes => {
                    self.frame()?;
                    self.commit(false)?;
                    progress = Progress::Some;
                }
                Found::Advanced { gap } => {
                    if gap {
                        tracing::warn!(container = self.name, "output was dropped: spool full");
                        self.flush_begun()?;
                    }
                    self.commit(true)?;
                    self.remove_used(false)?;
                }
                Found::Nothing if last => {
                    self.flush_begun()?;
                    self.cursor.finished = true;
                    self.commit(true)?;
                    self.remove_used(true)?;
                    return Ok(Progress::Finished);
                }
                Found::Nothing => return Ok(progress),
            }
        }
        Ok(Progress::More)
    }

    fn remove_used(&mut self, all: bool) -> Result<(), ShipError> {
        if !self.keep_spool {
            self.reader.remove_used(all)?;
        }
        Ok(())
    }

    /// Frames the batch into the log.
    fn frame(&mut self) -> Result<(), ShipError> {
        let end = self.reader.position();
        let length = self.reader.runs().last().map_or(0, |run| run.bytes.end);
        for run in self.reader.runs() {
            let mut input = self.reader.bytes(run.bytes.clone());
            loop {
                if !input.is_empty() && self.writer.is_full() {
                    // Recorded at the very line, and again after: a restart finds the full file
                    // or the new one, and in either only what the cursor tells of.
                    self.writer.flush()?;
                    let left = length - (run.bytes.end - input.len());
                    self.cursor.position = Position { offset: end.offset - left as u64, ..end };
                    self.cursor.log = Some(self.writer.mark());
                    self.cursor.store(&self.cursor_path, false)?;
                    self.writer.rotate()?;
                    self.cursor.log = Some(self.writer.mark());
                    self.cursor.store(&self.cursor_path, false)?;
                }
                match self.cursor.framer(run.stream).next(&mut input, run.time) {
                    Some(line) => self.writer.push(line, run.stream),
                    None => break,
                }
            }
        }
        self.writer.flush()?;
        failpoint::hit("ship.log");
        Ok(())
    }

    /// Ends the begun lines.
    fn flush_begun(&mut self) -> Result<(), ShipError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(line) = self.cursor.framer(stream).finish() {
                self.writer.push(line, stream);
            }
        }
        self.writer.flush()?;
        Ok(())
    }

    /// `durable`: what the log got from a segment outlives the segment, even by power failure.
    fn commit(&mut self, durable: bool) -> Result<(), ShipError> {
        if durable {
            self.writer.sync()?;
        }
        self.cursor.position = self.reader.position();
        self.cursor.log = Some(self.writer.mark());
        self.cursor.store(&self.cursor_path, durable)?;
        failpoint::hit("ship.cursor");
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod testing {
    use std::path::Path;

    use super::*;

    /// Ships what is there, again from the files if the work was ended by the test.
    pub(in super::super) fn ship_all(spool: &Path, log: &Path, options: &Options, last: bool) {
        let run = || -> Result<(), ShipError> {
            let mut ship =
                Ship::open("test".to_owned(), spool, log.to_owned(), options.clone(), false)?;
            while ship.batch(last)? == Progress::More {}
            Ok(())
        };
        if run().is_err() {
            run().unwrap();
        }
    }
}
