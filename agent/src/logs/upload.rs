//! The hand that takes a container's output from its spool to a log stream (`awslogs`).
//!
//! It reads the spool beside the [`Shipper`](super::Shipper), which keeps a local copy for `lighter
//! logs`, and alone deletes the segments: what was not uploaded stays, and at the spool's limit the
//! container waits or, non-blocking, the oldest is dropped. Promises: each line is in the stream at
//! least once, in order. The cursor is stored after a batch was taken, so an agent that is killed
//! in between sends that batch again; CloudWatch Logs has no way to know it. A service that does not
//! answer is tried again for ever and holds up nothing but this.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use protocol::logs::InputLogEvent;
use protocol::monitor::Stream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::cursor::{Cursor, CursorError};
use super::drivers::awslogs::LogStream;
use super::lines::{Framer, Line};
use super::shipper::ShipperHandle;
use super::spool::{Found, Reader, SpoolError};
use super::watch::{Watch, Watcher};
use crate::backend::backoff;
use crate::error::chain;
use crate::failpoint;

/// How long lines wait for others before they are sent.
const GATHER: Duration = Duration::from_millis(500);
/// Between failed attempts, first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// What a pause may be longer, as a part of it.
const JITTER: f64 = 0.2;
/// Most events and bytes of a batch, and what each event costs beside its text (PutLogEvents).
const EVENTS: usize = 10_000;
const BYTES: usize = 1 << 20;
const OVERHEAD: usize = 26;
/// Bytes of the longest event; a longer line becomes several, as with Docker.
const LONGEST: usize = (256 << 10) - OVERHEAD;
/// Longest span of a batch, in milliseconds: a day, less than it.
const SPAN: i64 = 23 * 60 * 60 * 1000;
/// Bytes of text that are read before a batch is sent: what U+FFFD can make of them still fits.
const ENOUGH: usize = BYTES / 4;

/// What one uploader needs.
#[derive(Debug)]
pub struct UploaderConfig {
    /// For messages: `<task>/<container>`.
    pub name: String,
    /// `T/<container>/spool`
    pub spool: PathBuf,
    /// Where it stands; its directory exists.
    pub cursor: PathBuf,
    pub destination: LogStream,
    /// The container has ended already: drain and finish.
    pub stopped: bool,
    /// Wakes it up.
    pub watcher: Watcher,
}

/// Starts uploaders.
#[derive(Debug)]
pub struct Uploader;

impl Uploader {
    /// Must be called within a tokio runtime.
    pub fn spawn(config: UploaderConfig) -> ShipperHandle {
        let changes = config.watcher.watch(&config.spool);
        ShipperHandle::start(config.stopped, move |stopped| upload(config, changes, stopped))
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error("the thread that reads it failed")]
    Thread(#[source] tokio::task::JoinError),
}

/// The spool's side: where the reading stands and what was read and not sent.
#[derive(Debug)]
struct Uploading {
    name: String,
    path: PathBuf,
    reader: Reader,
    /// After what was read.
    cursor: Cursor,
    events: Vec<InputLogEvent>,
    bytes: usize,
    /// What is left of a reading of which a part was sent.
    unsent: VecDeque<Vec<InputLogEvent>>,
    /// Something was sent since the cursor was stored.
    sent: bool,
    /// Segments before the position can go once the cursor is stored.
    advanced: bool,
    /// The stored cursor says that all is sent; the agent was killed before the deletion, or long
    /// after it.
    was_finished: bool,
}

impl Uploading {
    fn open(config: &UploaderConfig) -> Result<Self, ReadError> {
        let begin = || Cursor {
            stdout: Framer::with_limit(LONGEST),
            stderr: Framer::with_limit(LONGEST),
            ..Cursor::default()
        };
        let cursor = Cursor::load(&config.cursor)?.unwrap_or_else(begin);
        Ok(Self {
            name: config.name.clone(),
            path: config.cursor.clone(),
            reader: Reader::new(&config.spool, cursor.position),
            was_finished: cursor.finished,
            cursor,
            events: Vec::new(),
            bytes: 0,
            unsent: VecDeque::new(),
            sent: false,
            advanced: false,
        })
    }

    /// Reads until the batch is full or there is nothing more, unless some of the last reading is
    /// still to be sent. `last`: nothing will come after it.
    fn fill(&mut self, last: bool) -> Result<(), ReadError> {
        if !self.unsent.is_empty() {
            return Ok(());
        }
        while self.bytes < ENOUGH && self.events.len() < EVENTS / 2 && !self.cursor.finished {
            match self.reader.read()? {
                Found::Bytes => self.frame(),
                Found::Advanced { gap } => {
                    if gap {
                        tracing::warn!(container = self.name, "output was dropped: spool full");
                        self.flush_begun();
                    }
                    self.advanced = true;
                }
                Found::Nothing => {
                    if last {
                        self.flush_begun();
                        self.cursor.finished = true;
                    }
                    break;
                }
            }
            self.cursor.position = self.reader.position();
        }
        self.unsent = batches(std::mem::take(&mut self.events)).into();
        self.bytes = 0;
        Ok(())
    }

    /// Sends what was read, or fails; what was taken before a failure is not sent again.
    async fn send(&mut self, stream: &LogStream) -> Result<(), String> {
        while let Some(batch) = self.unsent.front() {
            let container = &self.name;
            failpoint::hit("upload.before");
            let put = stream.put(batch).await;
            failpoint::hit("upload.put");
            match put {
                Ok(0) => {}
                Ok(refused) => {
                    let stream = stream.name();
                    tracing::warn!(
                        container,
                        stream,
                        refused,
                        "lines are too old or too new for the stream"
                    );
                }
                Err(error) if error.is_final() => {
                    let (stream, error) = (stream.name(), chain(&error));
                    tracing::error!(container, stream, error, "lines are refused, and left out");
                }
                Err(error) => return Err(chain(&error)),
            }
            self.unsent.pop_front();
            self.sent = true;
        }
        Ok(())
    }

    fn frame(&mut self) {
        let Self { reader, cursor, events, bytes, .. } = self;
        for run in reader.runs() {
            let mut input = reader.bytes(run.bytes.clone());
            while let Some(line) = cursor.framer(run.stream).next(&mut input, run.time) {
                push(events, bytes, line);
            }
        }
    }

    /// Ends the begun lines.
    fn flush_begun(&mut self) {
        let Self { cursor, events, bytes, .. } = self;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(line) = cursor.framer(stream).finish() {
                push(events, bytes, line);
            }
        }
    }

    /// Everything that was read is sent: says so, and lets go of what is used up.
    fn store(&mut self) -> Result<(), ReadError> {
        let durable = self.advanced || self.cursor.finished;
        if !self.was_finished {
            self.cursor.store(&self.path, durable)?;
            failpoint::hit("upload.cursor");
        }
        self.sent = false;
        if durable {
            self.reader.remove_used(self.cursor.finished)?;
            self.advanced = false;
        }
        Ok(())
    }
}

/// An empty line is no event (CloudWatch Logs takes none).
fn push(events: &mut Vec<InputLogEvent>, bytes: &mut usize, line: Line<'_>) {
    if line.bytes.is_empty() {
        return;
    }
    let text = String::from_utf8_lossy(line.bytes);
    let mut rest = &*text;
    while !rest.is_empty() {
        // What is no UTF-8 has grown.
        let (message, next) = rest.split_at(rest.floor_char_boundary(LONGEST));
        rest = next;
        *bytes += message.len() + OVERHEAD;
        let timestamp = i64::try_from(line.time / 1_000_000).unwrap_or(i64::MAX);
        let message = Some(message.to_owned());
        events.push(InputLogEvent { timestamp: Some(timestamp), message });
    }
}

/// Cuts what was read into batches that the service takes, each in time order.
fn batches(mut events: Vec<InputLogEvent>) -> Vec<Vec<InputLogEvent>> {
    // Stable: lines of one millisecond keep their order.
    events.sort_by_key(|event| event.timestamp);
    let mut batches: Vec<Vec<InputLogEvent>> = Vec::new();
    let (mut bytes, mut first) = (0, 0);
    for event in events {
        let at = event.timestamp.unwrap_or(0);
        let size = event.message.as_ref().map_or(0, String::len) + OVERHEAD;
        let full = batches.last().is_none_or(|batch| batch.len() == EVENTS)
            || bytes + size > BYTES
            || at.saturating_sub(first) > SPAN;
        if full {
            batches.push(Vec::new());
            (bytes, first) = (0, at);
        }
        bytes += size;
        if let Some(batch) = batches.last_mut() {
            batch.push(event);
        }
    }
    batches
}

/// True when all output is uploaded, false when the handle is gone.
async fn upload(
    config: UploaderConfig,
    mut changes: Watch,
    mut stopped: watch::Receiver<bool>,
) -> bool {
    let mut at_work: Option<Uploading> = None;
    let mut retry = RETRY.0;
    loop {
        // Looked at before the reading: nothing comes after it.
        let last = *stopped.borrow();
        let reading = match at_work.take() {
            Some(uploading) => Ok(uploading),
            None => Uploading::open(&config),
        };
        let read = match reading {
            Ok(mut uploading) => {
                let filled = tokio::task::spawn_blocking(move || {
                    uploading.fill(last)?;
                    Ok::<_, ReadError>(uploading)
                });
                filled.await.map_err(ReadError::Thread).and_then(|filled| filled)
            }
            Err(error) => Err(error),
        };
        let failed = match read {
            Ok(mut uploading) => {
                let finished = uploading.cursor.finished;
                let nothing = uploading.unsent.is_empty()
                    && !uploading.sent
                    && !uploading.advanced
                    && !finished;
                let sent = if nothing {
                    Ok(())
                } else {
                    tokio::select! {
                        sent = uploading.send(&config.destination) => sent,
                        () = gone(stopped.clone()) => return false,
                    }
                };
                match sent {
                    Ok(()) if nothing => {
                        at_work = Some(uploading);
                        None
                    }
                    Ok(()) => match uploading.store() {
                        Ok(()) if finished => return true,
                        Ok(()) => {
                            retry = RETRY.0;
                            at_work = Some(uploading);
                            // More may be there already.
                            if stopped.has_changed().is_err() {
                                return false;
                            }
                            gather(&mut stopped).await;
                            continue;
                        }
                        Err(error) => {
                            at_work = Some(uploading);
                            Some(chain(&error))
                        }
                    },
                    Err(error) => {
                        // Without a part that was sent all is read again from the stored cursor, so
                        // that many containers do not fill the memory while the service is away.
                        at_work = Some(uploading).filter(|uploading| uploading.sent);
                        Some(error)
                    }
                }
            }
            Err(error) => Some(chain(&error)),
        };
        match failed {
            None => tokio::select! {
                () = changes.changed() => gather(&mut stopped).await,
                change = stopped.changed() => if change.is_err() { return false },
            },
            Some(error) => {
                let (container, stream) = (&config.name, config.destination.name());
                tracing::warn!(container, stream, error, "output waits to be uploaded");
                // Not all containers at once when the service is back.
                let pause = retry.mul_f64(1.0 + JITTER * backoff::random());
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = gone(stopped.clone()) => return false,
                }
                retry = (retry * 2).min(RETRY.1);
            }
        }
    }
}

/// Lets more lines come, unless none will.
async fn gather(stopped: &mut watch::Receiver<bool>) {
    if *stopped.borrow() {
        return;
    }
    let until = Instant::now() + GATHER;
    let _ = tokio::time::timeout_at(until, stopped.changed()).await;
}

async fn gone(mut stopped: watch::Receiver<bool>) {
    while stopped.changed().await.is_ok() {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::testing::{Answer, Server, client};

    fn event(at: i64, length: usize) -> InputLogEvent {
        InputLogEvent { timestamp: Some(at), message: Some("x".repeat(length)) }
    }

    #[test]
    fn batches_keep_the_rules_of_the_service() {
        let mut events: Vec<_> = (0..25_000).map(|n| event(n % 7, 10)).collect();
        events.push(event(SPAN * 3, 10));
        events.extend((0..8).map(|_| event(SPAN * 3, 300_000)));
        let cut = batches(events.clone());
        assert_eq!(cut.iter().map(Vec::len).sum::<usize>(), events.len());
        for batch in &cut {
            let times: Vec<_> = batch.iter().filter_map(|event| event.timestamp).collect();
            assert!(times.is_sorted() && batch.len() <= EVENTS && !batch.is_empty());
            assert!(times.last().zip(times.first()).is_some_and(|(l, f)| l - f <= SPAN));
            let bytes: usize = batch
                .iter()
                .map(|event| event.message.as_ref().map_or(0, String::len) + OVERHEAD)
                .sum();
            assert!(bytes <= BYTES, "{bytes}");
        }
        assert!(batches(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn a_long_line_is_one_event_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let spool = directory.path().join("spool");
        let mut monitor = super::super::tests::Monitor::new(&spool);
        let line = "x".repeat(100_000);
        monitor.write(Stream::Stdout, 1, format!("first\n{}", &line[..50_000]).as_bytes());
        let config = UploaderConfig {
            name: "t/c".to_owned(),
            spool,
            cursor: directory.path().join("awslogs.cursor"),
            destination: LogStream::testing(client(), "http://127.0.0.1:1"),
            stopped: true,
            watcher: Watcher::start(),
        };
        let texts = |uploading: &Uploading| -> Vec<String> {
            uploading.unsent.iter().flatten().filter_map(|event| event.message.clone()).collect()
        };
        let mut uploading = Uploading::open(&config).unwrap();
        uploading.fill(false).unwrap();
        assert_eq!(texts(&uploading), ["first"]);
        uploading.store().unwrap();
        monitor.write(Stream::Stdout, 2, format!("{}\n", &line[50_000..]).as_bytes());
        let mut uploading = Uploading::open(&config).unwrap();
        uploading.fill(true).unwrap();
        assert_eq!(texts(&uploading), [line]);
    }

    #[tokio::test]
    async fn what_was_taken_before_a_failure_is_not_sent_again() {
        let directory = tempfile::tempdir().unwrap();
        let spool = directory.path().join("spool");
        let mut monitor = super::super::tests::Monitor::new(&spool);
        // More than one batch of events.
        let lines: Vec<String> = (0..12_000).map(|n| format!("{n}\n")).collect();
        monitor.write(Stream::Stdout, 1, lines.concat().as_bytes());
        let server = Server::start(vec![
            Answer::ok("{}"),
            Answer::refusal("ThrottlingException"),
            Answer::refusal("ThrottlingException"),
        ])
        .await;
        let watcher = Watcher::start();
        let mut uploader = Uploader::spawn(UploaderConfig {
            name: "t/c".to_owned(),
            spool: spool.clone(),
            cursor: directory.path().join("awslogs.cursor"),
            destination: LogStream::testing(client(), &server.endpoint()),
            stopped: true,
            watcher,
        });
        tokio::time::timeout(Duration::from_secs(20), uploader.finished()).await.unwrap();
        let requests = server.requests();
        let texts = |at: usize| -> Vec<String> {
            let events = requests[at].body["logEvents"].as_array().unwrap();
            events.iter().map(|event| format!("{}\n", event["message"].as_str().unwrap())).collect()
        };
        assert_eq!(requests.len(), 4);
        assert_eq!((texts(1), texts(2)), (texts(3), texts(3)));
        assert_eq!([texts(0), texts(3)].concat(), lines);
        assert!(spool.read_dir().unwrap().next().is_none(), "the spool is used up");
    }

    #[test]
    fn empty_lines_are_no_events() {
        let (mut events, mut bytes) = (Vec::new(), 0);
        push(&mut events, &mut bytes, Line { bytes: b"", newline: true, time: 1 });
        let invalid = Line { bytes: b"a\xff", newline: true, time: 2_000_000 };
        push(&mut events, &mut bytes, invalid);
        let text = events.first().and_then(|event| event.message.clone());
        assert_eq!((events.len(), text.as_deref()), (1, Some("a\u{fffd}")));
        events.clear();
        push(&mut events, &mut bytes, Line { bytes: &[0xff; LONGEST], newline: true, time: 1 });
        let lengths: Vec<_> =
            events.iter().filter_map(|event| event.message.as_ref()).map(String::len).collect();
        assert!(lengths.iter().all(|length| *length <= LONGEST), "{lengths:?}");
        assert_eq!(lengths.iter().sum::<usize>(), 3 * LONGEST);
    }
}
