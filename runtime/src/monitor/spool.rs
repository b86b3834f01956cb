//! A container's output on disk: segments of bytes, each with an index of who wrote them when.
//!
//! Owned by the worker; the agent's reader follows behind and deletes segments, never the newest.
//! Formats: [`protocol::monitor`]. `splice(2)` moves bytes from the FIFO into the segment in one
//! system call, so there is no instant at which they are in this process only; the index entry is
//! written before them. SIGKILL at any point leaves at worst an entry without bytes, which
//! the format allows, or a torn entry, which [`Spool::open`] cuts off.
//!
//! At the limit [`SpoolFull::Block`] leaves the bytes in the pipe, and the newest segment is closed
//! so that the reader may delete all that exists; [`SpoolFull::DropOldest`] marks the gap in the
//! segment that follows and only then deletes. A full disk is treated as a full spool.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::monitor::{INDEX_ENTRY, IndexEntry, SpoolFull, Stream, spool_data, spool_index};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use crate::failpoint;

/// Bytes of data at which a segment is closed.
const SEGMENT: u64 = 16 << 20;
/// Bytes of index at which a segment is closed: output that changes stream every few bytes must
/// not grow an index without bound.
const SEGMENT_INDEX: u64 = 4 << 20;
/// The smallest segment and limit; below, rolling would cost more than the bytes.
const SMALLEST: u64 = 64 << 10;
/// Bytes moved by one call: what the pipe can hold.
const CHUNK: u64 = 1 << 20;
/// Nanoseconds for which an index entry's time serves further bytes of its stream.
const RESOLUTION: u64 = 1_000_000;
/// Entries looked at from the end of an index when it is reopened. A kill tears one entry at most.
const TAIL: u64 = 64;

/// Why output could not be stored.
#[derive(thiserror::Error)]
pub(crate) enum Error {
    #[error("create spool directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("list spool directory {path}")]
    List { path: PathBuf, source: io::Error },
    #[error("open spool segment {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("repair spool index {path}")]
    Repair { path: PathBuf, source: io::Error },
    #[error("write spool segment {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("read container output into {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("drop spool segment {path}")]
    Drop { path: PathBuf, source: io::Error },
    #[error("synchronise spool segment {path}")]
    Sync { path: PathBuf, source: io::Error },
}

debug_is_display!(Error);

/// What became of one attempt to move output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// So many bytes are in the spool now.
    Bytes(usize),
    /// Nothing to read at present.
    Empty,
    /// All writers have closed.
    End,
    /// No room; the bytes stay where they are.
    Full,
}

/// The spool of one container.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: PathBuf,
    limit: u64,
    full: SpoolFull,
    /// Closed segments that existed when last looked at, oldest first, with their bytes.
    closed: VecDeque<(u32, u64)>,
    segment: u32,
    data: File,
    index: File,
    /// Bytes in `data` and `index`.
    length: u64,
    index_length: u64,
    /// The stream and time of the newest entry, if more bytes may go under it.
    current: Option<(Stream, u64)>,
    /// Bytes written since the last [`Spool::sync`].
    dirty: bool,
    /// The first segment that may not be durable.
    unsynced: u32,
}

impl Spool {
    /// Opens the spool in `directory`, at the end of what an earlier worker left.
    pub(crate) fn open(directory: PathBuf, limit: u64, full: SpoolFull) -> Result<Self, Error> {
        fs::create_dir_all(&directory)
            .map_err(|source| Error::Directory { path: directory.clone(), source })?;
        let mut numbers = segments(&directory)?;
        let segment = numbers.pop().unwrap_or(0);
        let mut closed = VecDeque::with_capacity(numbers.len());
        for number in numbers {
            closed.push_back((number, size(&directory, number)));
        }
        let (data, index) = open_segment(&directory, segment, false)?;
        let path = spool_data(&directory, segment);
        let length =
            data.metadata().map_err(|source| Error::Open { path: path.clone(), source })?.len();
        let index_length = repair(&index, length)
            .map_err(|source| Error::Repair { path: spool_index(&directory, segment), source })?;
        let limit = limit.max(SMALLEST);
        Ok(Self {
            directory,
            limit,
            full,
            closed,
            segment,
            data,
            index,
            length,
            index_length,
            current: None,
            // What a killed worker wrote is as fresh as what we will write.
            dirty: true,
            unsynced: 0,
        })
    }

    /// Moves what is in a pipe, `most` bytes at most, into the spool. With `force` the limit of
    /// [`SpoolFull::Block`] does not hold: the container has ended and the pipe's rest is bounded.
    pub(crate) fn splice(
        &mut self,
        pipe: BorrowedFd<'_>,
        stream: Stream,
        now: u64,
        most: u64,
        force: bool,
    ) -> Result<Taken, Error> {
        if !self.make_room(now, stream, force)? {
            return Ok(Taken::Full);
        }
        if let Err(error) = self.entry(stream, now) {
            return self.full_disk(error, now, stream);
        }
        failpoint::hit("spool-entry");
        let length = most.min(CHUNK).min(self.segment_bytes() - self.length).max(1);
        let mut offset = self.length;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // No SPLICE_F_MOVE: it has meant nothing since Linux 2.6.21.
        match splice(pipe, None, &self.data, Some(&mut offset), length, SpliceFlags::NONBLOCK) {
            Ok(0) => Ok(Taken::End),
            Ok(count) => {
                failpoint::hit("spool-data");
                self.length = offset;
                self.dirty = true;
                Ok(Taken::Bytes(count))
            }
            Err(Errno::AGAIN) => Ok(Taken::Empty),
            // A signal or a descriptor limit passes; the event comes again.
            Err(Errno::INTR) => Ok(Taken::Empty),
            Err(error @ (Errno::NOSPC | Errno::DQUOT)) => {
                let path = spool_data(&self.directory, self.segment);
                // Part of the bytes may have arrived: the file's size is the truth.
                if let Ok(metadata) = self.data.metadata() {
                    self.length = metadata.len();
                }
                self.full_disk(Error::Write { path, source: error.into() }, now, stream)
            }
            Err(error) => Err(Error::Read {
                path: spool_data(&self.directory, self.segment),
                source: error.into(),
            }),
        }
    }

    /// Whether bytes may come; with [`SpoolFull::DropOldest`] drops until they may.
    pub(crate) fn make_room(
        &mut self,
        now: u64,
        stream: Stream,
        force: bool,
    ) -> Result<bool, Error> {
        if self.length >= self.segment_bytes() || self.index_length >= SEGMENT_INDEX {
            self.roll()?;
        }
        if self.used() < self.limit {
            return Ok(true);
        }
        let directory = &self.directory;
        self.closed.retain(|(number, _)| spool_data(directory, *number).exists());
        if self.used() < self.limit {
            return Ok(true);
        }
        if self.length > 0 {
            self.roll()?;
        }
        match self.full {
            SpoolFull::Block => Ok(force),
            SpoolFull::DropOldest => {
                while self.used() >= self.limit && self.drop_oldest(now, stream)? {}
                Ok(true)
            }
        }
    }

    /// Appends bytes that came from a terminal. The caller has asked [`Spool::make_room`].
    pub(crate) fn write(&mut self, bytes: &[u8], stream: Stream, now: u64) -> Result<(), Error> {
        self.entry(stream, now)?;
        self.data.write_all_at(bytes, self.length).map_err(|source| Error::Write {
            path: spool_data(&self.directory, self.segment),
            source,
        })?;
        self.length += bytes.len() as u64;
        self.dirty = true;
        Ok(())
    }

    /// Makes all bytes durable: at the container's end, before its exit is acknowledged.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        if !self.dirty {
            return Ok(());
        }
        let at = |path: PathBuf| move |source| Error::Sync { path, source };
        for (number, _) in &self.closed {
            if *number < self.unsynced {
                continue;
            }
            for path in
                [spool_data(&self.directory, *number), spool_index(&self.directory, *number)]
            {
                match File::open(&path).and_then(|file| file.sync_data()) {
                    Ok(()) => {}
                    // Consumed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(Error::Sync { path, source }),
                }
            }
        }
        self.unsynced = self.segment;
        self.data.sync_data().map_err(at(spool_data(&self.directory, self.segment)))?;
        self.index.sync_data().map_err(at(spool_index(&self.directory, self.segment)))?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(at(self.directory.clone()))?;
        self.dirty = false;
        Ok(())
    }

    /// Small limits get small segments, so that dropping one does not drop nearly everything.
    fn segment_bytes(&self) -> u64 {
        (self.limit / 4).clamp(SMALLEST / 4, SEGMENT)
    }

    fn used(&self) -> u64 {
        self.closed.iter().map(|(_, bytes)| bytes).sum::<u64>() + self.length + self.index_length
    }

    fn entry(&mut self, stream: Stream, now: u64) -> Result<(), Error> {
        if let Some((current, time)) = self.current
            && current == stream
            && now.wrapping_sub(time) < RESOLUTION
        {
            return Ok(());
        }
        let entry = IndexEntry { offset: self.length, time: now, stream, gap: false };
        self.index.write_all_at(&entry.to_bytes(), self.index_length).map_err(|source| {
            Error::Write { path: spool_index(&self.directory, self.segment), source }
        })?;
        self.index_length += INDEX_ENTRY as u64;
        self.current = Some((stream, now));
        Ok(())
    }

    fn roll(&mut self) -> Result<(), Error> {
        let next = self.segment + 1;
        let (data, index) = open_segment(&self.directory, next, true)?;
        self.closed.push_back((self.segment, self.length + self.index_length));
        self.segment = next;
        self.data = data;
        self.index = index;
        self.length = 0;
        self.index_length = 0;
        self.current = None;
        failpoint::hit("spool-roll");
        Ok(())
    }

    /// Deletes the oldest closed segment; `false` if there is none.
    fn drop_oldest(&mut self, now: u64, stream: Stream) -> Result<bool, Error> {
        let Some((oldest, _)) = self.closed.front().copied() else { return Ok(false) };
        // Gap first, deletion second: killed in between, the reader learns of a gap that is not
        // there yet, which the next worker makes true; the other order would hide it.
        match self.closed.get(1) {
            Some((next, _)) => mark_gap(&spool_index(&self.directory, *next))?,
            None if self.index_length > 0 => {
                mark_gap(&spool_index(&self.directory, self.segment))?;
            }
            None => {
                let entry = IndexEntry { offset: 0, time: now, stream, gap: true };
                self.index.write_all_at(&entry.to_bytes(), 0).map_err(|source| Error::Write {
                    path: spool_index(&self.directory, self.segment),
                    source,
                })?;
                self.index_length = INDEX_ENTRY as u64;
                self.current = Some((stream, now));
            }
        }
        failpoint::hit("spool-gap");
        for path in [spool_data(&self.directory, oldest), spool_index(&self.directory, oldest)] {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Drop { path, source }),
            }
        }
        self.closed.pop_front();
        Ok(true)
    }

    /// A disk without room: the container waits, or loses its oldest output, as it was asked.
    fn full_disk(&mut self, error: Error, now: u64, stream: Stream) -> Result<Taken, Error> {
        let full = matches!(
            &error,
            Error::Write { source, .. }
                if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
        );
        if !full {
            return Err(error);
        }
        if self.full == SpoolFull::DropOldest && self.drop_oldest(now, stream)? {
            return Ok(Taken::Empty);
        }
        Ok(Taken::Full)
    }
}

/// Numbers of the segments in `directory`, rising. Indexes whose data a killed worker or reader
/// has already deleted are removed.
fn segments(directory: &Path) -> Result<Vec<u32>, Error> {
    let list = |source| Error::List { path: directory.to_owned(), source };
    let mut data = Vec::new();
    let mut index = Vec::new();
    for entry in fs::read_dir(directory).map_err(list)? {
        let name = entry.map_err(list)?.file_name();
        let Some((number, kind)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else { continue };
        match kind {
            "log" => data.push(number),
            "idx" => index.push(number),
            _ => {}
        }
    }
    data.sort_unstable();
    for number in index {
        if data.binary_search(&number).is_err() {
            let path = spool_index(directory, number);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Drop { path, source }),
            }
        }
    }
    Ok(data)
}

fn size(directory: &Path, number: u32) -> u64 {
    // One that the reader deletes meanwhile counts nothing.
    [spool_data(directory, number), spool_index(directory, number)]
        .iter()
        .map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
        .sum()
}

fn open_segment(directory: &Path, number: u32, fresh: bool) -> Result<(File, File), Error> {
    let open = |path: PathBuf| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(fresh)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::Open { path, source })
    };
    // Index first: a segment exists once its data file does.
    let index = open(spool_index(directory, number))?;
    let data = open(spool_data(directory, number))?;
    Ok((data, index))
}

/// Cuts a torn tail, and entries beyond the data, off an index; returns its length.
fn repair(index: &File, data: u64) -> io::Result<u64> {
    let length = index.metadata()?.len();
    let entry = INDEX_ENTRY as u64;
    let mut good = length - length % entry;
    let stop = good.saturating_sub(TAIL * entry);
    while good > stop {
        let mut bytes = [0; INDEX_ENTRY];
        index.read_exact_at(&mut bytes, good - entry)?;
        if IndexEntry::from_bytes(&bytes).is_some_and(|entry| entry.offset <= data) {
            break;
        }
        good -= entry;
    }
    if good != length {
        index.set_len(good)?;
    }
    Ok(good)
}

fn mark_gap(path: &Path) -> Result<(), Error> {
    let at = |source| Error::Write { path: path.to_owned(), source };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        // The reader has consumed it: nothing was lost before it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(at(source)),
    };
    let mut bytes = [0; INDEX_ENTRY];
    file.read_exact_at(&mut bytes, 0).map_err(at)?;
    if let Some(mut entry) = IndexEntry::from_bytes(&bytes) {
        entry.gap = true;
        file.write_all_at(&entry.to_bytes(), 0).map_err(at)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

    use super::*;

    /// Bytes of both streams in order, and whether any segment is marked with a gap.
    fn read_back(directory: &Path) -> (Vec<u8>, Vec<u8>, bool) {
        let (mut out, mut err, mut gap) = (Vec::new(), Vec::new(), false);
        for number in segments(directory).unwrap() {
            let data = fs::read(spool_data(directory, number)).unwrap();
            let index = fs::read(spool_index(directory, number)).unwrap();
            let entries: Vec<_> =
                index.chunks(INDEX_ENTRY).map(|b| IndexEntry::from_bytes(b).unwrap()).collect();
            for (position, entry) in entries.iter().enumerate() {
                gap |= entry.gap;
                let end = entries.get(position + 1).map_or(data.len() as u64, |next| next.offset);
                let range = usize::try_from(entry.offset).unwrap()..usize::try_from(end).unwrap();
                match entry.stream {
                    Stream::Stdout => out.extend_from_slice(&data[range]),
                    Stream::Stderr => err.extend_from_slice(&data[range]),
                }
            }
        }
        (out, err, gap)
    }

    fn pipe() -> (std::fs::File, std::os::fd::OwnedFd) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        fcntl_setpipe_size(&write, 1 << 20).unwrap();
        (File::from(write), read)
    }

    #[test]
    fn streams_keep_their_bytes_across_rolls_and_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let (mut out_in, out) = pipe();
        let (mut err_in, err) = pipe();
        let (mut want_out, mut want_err) = (Vec::new(), Vec::new());
        let mut spool =
            Spool::open(directory.path().to_owned(), 1 << 20, SpoolFull::Block).unwrap();
        for round in 0..200u32 {
            let line = format!("line {round} {}\n", "x".repeat(1000));
            out_in.write_all(line.as_bytes()).unwrap();
            want_out.extend_from_slice(line.as_bytes());
            err_in.write_all(b"e\n").unwrap();
            want_err.extend_from_slice(b"e\n");
            let now = u64::from(round) * 500_000;
            for (stream, from) in [(Stream::Stdout, &out), (Stream::Stderr, &err)] {
                assert!(matches!(
                    spool.splice(from.as_fd(), stream, now, u64::MAX, false).unwrap(),
                    Taken::Bytes(_)
                ));
            }
            if round % 17 == 0 {
                spool =
                    Spool::open(directory.path().to_owned(), 1 << 20, SpoolFull::Block).unwrap();
            }
        }
        let (got_out, got_err, gap) = read_back(directory.path());
        assert_eq!(got_out, want_out);
        assert_eq!(got_err, want_err);
        assert!(!gap);
        assert_eq!(
            spool.splice(out.as_fd(), Stream::Stdout, 0, u64::MAX, false).unwrap(),
            Taken::Empty
        );
        drop(out_in);
        assert_eq!(
            spool.splice(out.as_fd(), Stream::Stdout, 0, u64::MAX, false).unwrap(),
            Taken::End
        );
    }

    #[test]
    fn a_full_blocking_spool_leaves_bytes_in_the_pipe_until_segments_go() {
        let directory = tempfile::tempdir().unwrap();
        let (mut write, read) = pipe();
        let mut spool = Spool::open(directory.path().to_owned(), 0, SpoolFull::Block).unwrap();
        let mut moved = 0;
        loop {
            write.write_all(&[b'x'; 4096]).unwrap();
            match spool.splice(read.as_fd(), Stream::Stdout, 0, u64::MAX, false).unwrap() {
                Taken::Bytes(count) => moved += count,
                Taken::Full => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(moved >= 60 << 10, "{moved}");
        let numbers = segments(directory.path()).unwrap();
        let (newest, closed) = numbers.split_last().unwrap();
        assert_eq!(fs::metadata(spool_data(directory.path(), *newest)).unwrap().len(), 0);
        for number in closed {
            fs::remove_file(spool_data(directory.path(), *number)).unwrap();
        }
        assert_eq!(
            spool.splice(read.as_fd(), Stream::Stdout, 0, u64::MAX, false).unwrap(),
            Taken::Bytes(4096)
        );
    }

    #[test]
    fn dropping_the_oldest_marks_the_gap_and_keeps_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let (mut write, read) = pipe();
        let mut spool =
            Spool::open(directory.path().to_owned(), 128 << 10, SpoolFull::DropOldest).unwrap();
        let mut all = Vec::new();
        for number in 0..100_000u32 {
            let line = format!("{number}\n");
            all.extend_from_slice(line.as_bytes());
            write.write_all(line.as_bytes()).unwrap();
            if number % 100 == 99 {
                let taken =
                    spool.splice(read.as_fd(), Stream::Stdout, u64::from(number), u64::MAX, false);
                assert!(matches!(taken.unwrap(), Taken::Bytes(_)));
            }
        }
        while spool.splice(read.as_fd(), Stream::Stdout, 0, u64::MAX, false).unwrap()
            != Taken::Empty
        {}
        let (got, _, gap) = read_back(directory.path());
        assert!(gap);
        assert!(all.ends_with(&got));
        assert!(got.len() > 32 << 10 && got.len() <= 192 << 10, "{}", got.len());
    }

    #[test]
    fn a_torn_index_tail_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Spool::open(directory.path().to_owned(), 1 << 20, SpoolFull::Block).unwrap();
        let mut spool = open();
        spool.write(b"one", Stream::Stdout, 1).unwrap();
        let index = spool_index(directory.path(), 0);
        let mut file = OpenOptions::new().append(true).open(&index).unwrap();
        file.write_all(&[7; INDEX_ENTRY + 5]).unwrap();
        let mut spool = open();
        assert_eq!(fs::metadata(&index).unwrap().len(), INDEX_ENTRY as u64);
        spool.write(b"two", Stream::Stderr, 2).unwrap();
        assert_eq!(read_back(directory.path()), (b"one".to_vec(), b"two".to_vec(), false));
    }
}
