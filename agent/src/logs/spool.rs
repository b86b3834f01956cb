//! Reading a container's spool (its format: `protocol::monitor`).
//!
//! The monitor writes segments, this module reads them in order and says which ones are used up.
//! It keeps no state of its own on disk: a [`Position`] is all that a later reader needs.
//!
//! Order that matters: whether a newer segment exists is looked up *before* the size of the
//! present one (so that the size is final if one does), and the size *before* the index (so that
//! every byte below it has an entry).

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use protocol::monitor::{INDEX_ENTRY, IndexEntry, Stream, spool_data, spool_index};
use serde::{Deserialize, Serialize};

use super::crash;

/// Bytes taken at once: enough that the costs per batch vanish, small enough for the cache.
const BATCH: u64 = 256 * 1024;

/// The next byte to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub segment: u32,
    pub offset: u64,
}

/// Reading or deleting failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("list spool {path}")]
    List { path: PathBuf, source: io::Error },
    #[error("read spool {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("remove spool segment {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// What the spool had.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// [`Reader::runs`] holds bytes.
    Bytes,
    /// The segment is used up; the position is at the start of a later one. `gap`: segments in
    /// between were dropped unread.
    Advanced { gap: bool },
    /// Nothing for now.
    Nothing,
}

/// Bytes of the batch that came from one stream at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub bytes: Range<usize>,
    pub stream: Stream,
    /// Nanoseconds since the epoch.
    pub time: u64,
}

/// Reads one spool.
#[derive(Debug)]
pub struct Reader {
    spool: PathBuf,
    position: Position,
    segment: Option<Segment>,
    buffer: Vec<u8>,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Segment {
    data: File,
    index: Option<File>,
    /// Bytes of the index that are in `entries`.
    index_read: u64,
    /// The last one at or before the position, and those behind it.
    entries: VecDeque<IndexEntry>,
}

impl Reader {
    /// Opens nothing yet; the directory may come later.
    pub fn new(spool: &Path, position: Position) -> Self {
        Self {
            spool: spool.to_owned(),
            position,
            segment: None,
            buffer: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// The first byte that no batch has held.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The bytes of the batch.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// The batch in the order it was written.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// If the spool cannot be listed or read.
    pub fn read(&mut self) -> Result<Found, SpoolError> {
        self.runs.clear();
        if self.fill()? {
            return Ok(Found::Bytes);
        }
        let Some(later) = self.segments()?.into_iter().find(|n| *n > self.position.segment) else {
            return Ok(Found::Nothing);
        };
        // Bytes that came between the first look and the list; none come after it.
        if self.fill()? {
            return Ok(Found::Bytes);
        }
        // The mark says that segments were dropped; perhaps not before they were read here.
        let all_read = self.segment.is_some() && later == self.position.segment + 1;
        self.position = Position { segment: later, offset: 0 };
        self.segment = None;
        Ok(Found::Advanced { gap: !all_read && self.starts_with_gap()? })
    }

    /// Deletes the segments before the position, and with `all` the one it is in and any later.
    /// The caller has made durable what it read from them.
    ///
    /// # Errors
    /// If a file exists and cannot be removed; the others are removed.
    pub fn remove_used(&mut self, all: bool) -> Result<(), SpoolError> {
        let mut result = Ok(());
        for segment in self.segments()? {
            if segment >= self.position.segment && !all {
                continue;
            }
            if let Err(error) = self.remove_segment(segment) {
                result = Err(error);
            }
        }
        result
    }

    /// The data last: that is what is listed after a failure or a kill in between.
    fn remove_segment(&self, segment: u32) -> Result<(), SpoolError> {
        for path in [spool_index(&self.spool, segment), spool_data(&self.spool, segment)] {
            match crash::point().and_then(|()| std::fs::remove_file(&path)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(SpoolError::Remove { path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Numbers of the segments, ascending.
    fn segments(&self) -> Result<Vec<u32>, SpoolError> {
        let failed = |source| SpoolError::List { path: self.spool.clone(), source };
        let entries = match std::fs::read_dir(&self.spool) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
            numbers.extend(number.and_then(|number| number.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn fill(&mut self) -> Result<bool, SpoolError> {
        let path = spool_data(&self.spool, self.position.segment);
        let failed = |source| SpoolError::Read { path: path.clone(), source };
        let segment = match &mut self.segment {
            Some(segment) => segment,
            None => {
                let data = match File::open(&path) {
                    Ok(data) => data,
                    Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(source) => return Err(failed(source)),
                };
                let entries = VecDeque::new();
                self.segment.insert(Segment { data, index: None, index_read: 0, entries })
            }
        };
        let size = segment.data.metadata().map_err(failed)?.len();
        let from = self.position.offset;
        if size <= from {
            return Ok(false);
        }
        let index = spool_index(&self.spool, self.position.segment);
        segment
            .read_index(&index, from)
            .map_err(|source| SpoolError::Read { path: index, source })?;
        let length = usize::try_from((size - from).min(BATCH)).unwrap_or(usize::MAX);
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        segment.data.read_exact_at(&mut self.buffer[..length], from).map_err(failed)?;
        segment.cut_runs(from, length, &mut self.runs).map_err(failed)?;
        self.position.offset = from + length as u64;
        Ok(true)
    }

    fn starts_with_gap(&self) -> Result<bool, SpoolError> {
        let path = spool_index(&self.spool, self.position.segment);
        let mut bytes = [0; INDEX_ENTRY];
        let entry = match File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0)) {
            Ok(()) => IndexEntry::from_bytes(&bytes),
            // Not written yet, or the segment is dropped already: the next one tells.
            Err(source)
                if matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
                ) =>
            {
                None
            }
            Err(source) => return Err(SpoolError::Read { path, source }),
        };
        Ok(entry.is_some_and(|entry| entry.gap))
    }
}

impl Segment {
    /// Adds what the index has got since; forgets entries that end at or before `from`.
    fn read_index(&mut self, path: &Path, from: u64) -> io::Result<()> {
        let index = match &self.index {
            Some(index) => index,
            None => match File::open(path) {
                Ok(index) => self.index.insert(index),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        let unread = index.metadata()?.len().saturating_sub(self.index_read);
        // A torn last entry stays unread: its bytes have not come yet.
        let whole = unread - unread % INDEX_ENTRY as u64;
        let mut bytes = vec![0; usize::try_from(whole).unwrap_or(0)];
        index.read_exact_at(&mut bytes, self.index_read)?;
        self.index_read += whole;
        self.entries.extend(bytes.chunks_exact(INDEX_ENTRY).filter_map(IndexEntry::from_bytes));
        while self.entries.get(1).is_some_and(|next| next.offset <= from) {
            self.entries.pop_front();
        }
        Ok(())
    }

    /// Says for each of the `length` bytes from `from` where it came from.
    fn cut_runs(&self, from: u64, length: usize, runs: &mut Vec<Run>) -> io::Result<()> {
        let end = from + length as u64;
        let at = |offset: u64| usize::try_from(offset - from).unwrap_or(usize::MAX);
        // Only a damaged index lacks an entry at or before the first byte.
        if self.entries.front().is_none_or(|entry| entry.offset > from) {
            let first = self.entries.front().map_or(end, |entry| entry.offset.min(end));
            let modified = self.data.metadata()?.modified()?;
            let time = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            runs.push(Run { bytes: 0..at(first), stream: Stream::Stdout, time });
        }
        for (n, entry) in self.entries.iter().enumerate() {
            if entry.offset >= end {
                break;
            }
            let start = entry.offset.max(from);
            let stop = self.entries.get(n + 1).map_or(end, |next| next.offset.min(end));
            if start < stop {
                let bytes = at(start)..at(stop);
                runs.push(Run { bytes, stream: entry.stream, time: entry.time });
            }
        }
        Ok(())
    }
}
