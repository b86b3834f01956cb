//! One blob of a layer on its way to a directory: decompress, hash, unpack, compare.
//!
//! Memory per layer: the transfer's queue, the blocks of the pipeline, and what the decompressor
//! needs (gzip: 64 KiB; zstd: its window, out of the budget of `gate.rs`).

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::decompress::decompress;
use super::entries::Entries;
use super::gate::Share;
use super::pipeline::{self, Stream};
use super::recipe::Recorder;
use super::unpack::{self, Error, Limits};

/// `sha256:<hex>` of what was fed.
pub(super) fn digest(hash: Sha256) -> String {
    format!("sha256:{}", hex::encode(hash.finalize()))
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    digest(Sha256::new_with_prefix(bytes))
}

/// Counts what is read of the blob.
pub(super) struct Counted<'a, R> {
    pub(super) inner: R,
    pub(super) read: &'a AtomicU64,
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Ends what is decompressed at the limits.
pub(super) struct Bounded<'a, R> {
    pub(super) inner: R,
    pub(super) limits: Limits,
    pub(super) compressed: &'a AtomicU64,
    pub(super) made: u64,
    pub(super) exceeded: Option<Error>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.made += read as u64;
        let exceeded = self.limits.check(self.made, self.compressed.load(Ordering::Relaxed));
        if let Err(error) = exceeded {
            self.exceeded = Some(error);
            return Err(io::Error::other("a limit is exceeded"));
        }
        Ok(read)
    }
}

/// What a layer turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unpacked {
    /// Bytes of the files.
    pub(super) bytes: u64,
    /// Bytes of the uncompressed archive.
    pub(super) archive: u64,
}

/// Unpacks `blob` (tar, plain or compressed by gzip or zstd) into the empty directory `dir`, reads
/// it to its end and compares the digest of the uncompressed archive with `diff_id`. The new file
/// `recipe` takes what the archive has beside the files' content.
pub(super) fn unpack(
    mut blob: impl BufRead + Send,
    diff_id: &str,
    dir: &Path,
    recipe: File,
    limits: Limits,
    gate: Share<'_>,
) -> Result<Unpacked, Error> {
    let compressed = AtomicU64::new(0);
    let (result, hash, archive) = {
        let counted = Counted { inner: &mut blob, read: &compressed };
        let inner = decompress(counted, gate.windows())
            .map_err(|source| Error::Io { operation: "decompress", source })?;
        let mut source =
            Bounded { inner, limits, compressed: &compressed, made: 0, exceeded: None };
        let run = pipeline::run(&mut source, |stream| fill(stream, dir, recipe, limits, gate));
        if let Some(error) = source.exceeded {
            return Err(error);
        }
        let failed = |source| Error::Io { operation: "start threads", source };
        let (result, hash) = run.map_err(failed)?;
        (result, hash, source.made)
    };
    let bytes = result?;
    io::copy(&mut blob, &mut io::sink())
        .map_err(|source| Error::Io { operation: "read", source })?;
    let actual = digest(hash);
    if actual != diff_id {
        return Err(Error::DiffId { expected: diff_id.to_owned(), actual });
    }
    Ok(Unpacked { bytes, archive })
}

/// Applies an archive and reads what follows it, which belongs to the digest.
fn fill(
    stream: Stream,
    dir: &Path,
    recipe: File,
    limits: Limits,
    gate: Share<'_>,
) -> Result<u64, Error> {
    let mut entries = Entries::new(Recorder::new(stream, recipe));
    let bytes = unpack::apply(&mut entries, dir, limits, gate.writeback())?;
    let mut rest = entries.into_inner();
    io::copy(&mut rest, &mut io::sink())
        .map_err(|source| Error::Io { operation: "decompress", source })?;
    rest.finish().map_err(|source| Error::Io { operation: "write the layer's recipe", source })?;
    Ok(bytes)
}

/// A chunk of a transfer and its share of the queue.
pub(super) type Chunk = (Bytes, OwnedSemaphorePermit);

/// Bytes on their way from an async download to a blocking worker.
pub(super) struct Channel {
    receiver: mpsc::Receiver<Chunk>,
    current: Option<Chunk>,
}

impl Channel {
    pub(super) fn new(receiver: mpsc::Receiver<Chunk>) -> Self {
        Self { receiver, current: None }
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let most = bytes.len().min(buffer.len());
        buffer[..most].copy_from_slice(&bytes[..most]);
        self.consume(most);
        Ok(most)
    }
}

impl BufRead for Channel {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.as_ref().is_none_or(|(bytes, _)| bytes.is_empty()) {
            // Its share of the queue is free before the next is waited for.
            self.current = None;
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = Some(chunk),
                None => return Ok(&[]),
            }
        }
        Ok(self.current.as_ref().map_or(&[], |(bytes, _)| bytes))
    }

    fn consume(&mut self, bytes: usize) {
        if let Some((chunk, _)) = &mut self.current {
            chunk.advance(bytes.min(chunk.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write as _;

    use super::super::gate::Gate;
    use super::*;

    /// A hundredth of the default ones, which a test build would take minutes to reach.
    const LIMITS: Limits = Limits {
        entries: Limits::DEFAULT.entries / 100,
        expansion_from: Limits::DEFAULT.expansion_from / 100,
        ..Limits::DEFAULT
    };

    fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// `head` and then `block` so many times, as members of a gzip: made without being large.
    fn bomb(head: &[u8], block: &[u8], times: usize) -> Vec<u8> {
        let member = |bytes: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        [member(head), member(block).repeat(times)].concat()
    }

    fn refusal(blob: &[u8], limits: Limits) -> String {
        let directory = tempfile::tempdir().unwrap();
        let fs = directory.path().join("fs");
        std::fs::create_dir(&fs).unwrap();
        let recipe = File::create_new(directory.path().join("recipe")).unwrap();
        unpack(blob, "", &fs, recipe, limits, Gate::default().share("")).unwrap_err().to_string()
    }

    #[test]
    fn ten_gigabytes_of_zeros_in_ten_megabytes_are_refused() {
        let blob = bomb(&header("zeros", b'0', 10 << 30), &[0; 1 << 20], 10 << 10);
        assert!(blob.len() < 16 << 20, "{}", blob.len());
        let refusal = refusal(&blob, LIMITS);
        assert!(refusal.contains("over 200 times as many: a decompression bomb"), "{refusal}");
    }

    #[test]
    fn ten_million_entries_are_refused() {
        let blob = bomb(&[], &header("./", b'5', 0).repeat(2000), 5000);
        // Headers that are all the same make a bomb, too.
        let limits = Limits { expansion_from: Limits::DEFAULT.expansion_from, ..LIMITS };
        assert_eq!(refusal(&blob, limits), "more than 20000 entries");
    }

    #[test]
    fn defaults_allow_what_programs_and_text_compress_to() {
        let limits = Limits::DEFAULT;
        assert!(limits.check(1 << 30, 1).is_ok());
        assert!(limits.check(10 << 30, 100 << 20).is_ok());
        assert!(matches!(limits.check(10 << 30, 10 << 20), Err(Error::Expansion { .. })));
        assert!(matches!(limits.check((64 << 30) + 1, 64 << 30), Err(Error::TooManyBytes(_))));
    }
}
