//! One blob of a layer on its way to a directory: decompress, hash, unpack, compare.
//!
//! Memory per layer: the transfer's queue, one read buffer on each side of the decompressor, and
//! what the decompressor needs (zstd: at most 128 MiB, its own limit for untrusted input).

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::entries::Entries;
use super::recipe::Recorder;
use super::unpack::{self, Error, Limits};

const BUFFER: usize = 128 << 10;

/// `sha256:<hex>` of what was fed.
pub(super) fn digest(hash: Sha256) -> String {
    format!("sha256:{}", hex::encode(hash.finalize()))
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    digest(Sha256::new_with_prefix(bytes))
}

/// Counts and hashes what passes, and ends it at a limit.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read as u64 > self.left {
            self.exceeded = true;
            return Err(io::Error::other("the limit of uncompressed bytes is reached"));
        }
        self.left -= read as u64;
        self.hash.update(&buffer[..read]);
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
    blob: impl Read,
    diff_id: &str,
    dir: &Path,
    recipe: File,
    limits: Limits,
) -> Result<Unpacked, Error> {
    let mut blob = BufReader::with_capacity(BUFFER, blob);
    let (unpacked, actual) = unpack_stream(decompress(&mut blob)?, dir, recipe, limits)?;
    io::copy(&mut blob, &mut io::sink())
        .map_err(|source| Error::Io { operation: "read", source })?;
    if actual != diff_id {
        return Err(Error::DiffId { expected: diff_id.to_owned(), actual });
    }
    Ok(unpacked)
}

fn unpack_stream(
    inner: Box<dyn Read + '_>,
    dir: &Path,
    recipe: File,
    limits: Limits,
) -> Result<(Unpacked, String), Error> {
    let hashing = Hashing { inner, hash: Sha256::new(), left: limits.bytes, exceeded: false };
    let input = BufReader::with_capacity(BUFFER, hashing);
    let mut entries = Entries::new(Recorder::new(input, recipe));
    let applied = unpack::apply(&mut entries, dir, limits);
    let mut rest = entries.into_inner();
    // What follows the archive belongs to the digest.
    let drained = match &applied {
        Ok(_) => io::copy(&mut rest, &mut io::sink()),
        Err(_) => Ok(0),
    };
    let recorded = rest.finish();
    let hashing = rest.into_inner().into_inner();
    if hashing.exceeded {
        return Err(Error::TooManyBytes(limits.bytes));
    }
    let bytes = applied?;
    drained.map_err(|source| Error::Io { operation: "decompress", source })?;
    recorded.map_err(|source| Error::Io { operation: "write the layer's recipe", source })?;
    let archive = limits.bytes - hashing.left;
    Ok((Unpacked { bytes, archive }, digest(hashing.hash)))
}

/// The content of `blob`, whose compression is known by its first bytes.
pub(super) fn decompress<'a, R: Read>(
    blob: &'a mut BufReader<R>,
) -> Result<Box<dyn Read + 'a>, Error> {
    let failed = |operation| move |source| Error::Io { operation, source };
    // A reader may give a byte at a time; the longest magic has four.
    let mut magic = [0; 4];
    let mut have = 0;
    while have < magic.len() {
        match blob.read(&mut magic[have..]).map_err(failed("read"))? {
            0 => break,
            read => have += read,
        }
    }
    let head = io::Cursor::new(magic).take(have as u64);
    let gzip = magic.starts_with(&[0x1f, 0x8b]);
    let zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let input = BufReader::with_capacity(BUFFER, head.chain(blob));
    Ok(if gzip {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if zstd {
        Box::new(zstd::stream::read::Decoder::with_buffer(input).map_err(failed("decompress"))?)
    } else {
        Box::new(input)
    })
}

/// Bytes on their way from an async download to a blocking worker.
pub(super) struct Channel {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Channel {
    pub(super) fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, current: Bytes::new() }
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let most = self.current.len().min(buffer.len());
        buffer[..most].copy_from_slice(&self.current.split_to(most));
        Ok(most)
    }
}
