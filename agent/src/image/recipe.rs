//! How the archive of an unpacked layer is made again, bit for bit.
//!
//! The store keeps a layer's files, not its blob. What an archive has beside the files' content
//! (headers in the order and dialect of whoever wrote them, padding, what follows the last entry)
//! is kept next to the files when the layer is unpacked, as Docker does with tar-split:
//!
//! ```text
//! recipe := zstd( { run } )      run := raw length, raw bytes, data length     (lengths: u64, LE)
//! ```
//!
//! A run's data is the content of the file whose header ends its raw bytes; to find the file the
//! headers are read again by the reader that read them first. What comes out is compared with the
//! diff id, so a file that somebody changed, or that the layer itself replaced, makes an error and
//! never another image.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::entries::{self, Entries, Entry, Input};
use super::layer::digest;
use super::tree::{self, Tree, lossy, normalise, split};

/// Fast: headers repeat themselves so much that more effort gains little.
const LEVEL: i32 = 1;
/// The longest run of raw bytes that is held in memory.
const RUN: usize = 64 << 10;
const BUFFER: usize = 256 << 10;
const AGAIN: &str = "remove the image and pull it again";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("an older version unpacked it and kept nothing to make its archive from; {AGAIN}")]
    Missing,
    #[error("the record of its archive is damaged; {AGAIN}")]
    Damaged(#[source] io::Error),
    #[error("the record of its archive is damaged; {AGAIN}")]
    Headers(#[from] entries::Error),
    #[error("find {name:?}; if the file was changed, {AGAIN}")]
    Path { name: String, source: tree::Error },
    #[error("read {name:?}; if the file was changed, {AGAIN}")]
    File { name: String, source: io::Error },
    #[error(
        "its files make an archive with digest {actual}: they were changed, or the layer holds a file more than once; {AGAIN}"
    )]
    DiffId { actual: String },
    #[error("open the layer's directory")]
    Directory(#[source] io::Error),
    #[error("write the archive")]
    Write(#[source] io::Error),
}

/// Passes an archive on to its reader and writes the recipe of it.
pub(super) struct Recorder<R> {
    inner: R,
    raw: Vec<u8>,
    data: u64,
    recipe: Result<zstd::stream::write::Encoder<'static, File>, io::Error>,
}

impl<R: Input> Recorder<R> {
    /// `recipe` is a new, empty file.
    pub(super) fn new(inner: R, recipe: File) -> Self {
        let recipe = zstd::stream::write::Encoder::new(recipe, LEVEL);
        Self { inner, raw: Vec::new(), data: 0, recipe }
    }

    /// Once all was read; fails if the recipe could not be written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.end_run();
        match &mut self.recipe {
            Ok(recipe) => recipe.do_finish(),
            Err(error) => Err(std::mem::replace(error, io::ErrorKind::Other.into())),
        }
    }

    /// A failure is told at the end: it is none of the archive.
    fn end_run(&mut self) {
        if (self.raw.is_empty() && self.data == 0) || self.recipe.is_err() {
            return;
        }
        if let Ok(recipe) = &mut self.recipe {
            let written = recipe
                .write_all(&(self.raw.len() as u64).to_le_bytes())
                .and_then(|()| recipe.write_all(&self.raw))
                .and_then(|()| recipe.write_all(&self.data.to_le_bytes()));
            if let Err(error) = written {
                self.recipe = Err(error);
            }
        }
        self.raw.clear();
        self.data = 0;
    }
}

impl<R: Input> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if self.data > 0 || self.raw.len() + read > RUN {
            self.end_run();
        }
        self.raw.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

impl<R: Input> Input for Recorder<R> {
    fn data(&mut self) -> io::Result<&[u8]> {
        self.inner.data()
    }

    fn take_data(&mut self, bytes: usize) {
        self.inner.take_data(bytes);
        self.data += bytes as u64;
    }
}

/// Reads a recipe as the reader of the archive did, and lets what it reads out.
struct Replay<I, W> {
    recipe: I,
    raw: u64,
    data: u64,
    ended: bool,
    out: W,
    /// Why a read failed that was not the recipe's fault.
    failed: Option<io::Error>,
}

impl<I: Read, W: Write> Replay<I, W> {
    /// Makes `raw` or `data` other than 0, if the recipe goes on.
    fn next_run(&mut self) -> io::Result<()> {
        while self.raw == 0 && self.data == 0 && !self.ended {
            match self.length()? {
                Some(raw) => self.raw = raw,
                None => self.ended = true,
            }
            if self.raw == 0 && !self.ended {
                self.data = self.length()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            }
        }
        Ok(())
    }

    /// `None` at the end of the recipe.
    fn length(&mut self) -> io::Result<Option<u64>> {
        let mut bytes = [0; 8];
        if self.recipe.read(&mut bytes[..1])? == 0 {
            return Ok(None);
        }
        self.recipe.read_exact(&mut bytes[1..])?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the archive cannot be written")
        })
    }
}

impl<I: Read, W: Write> Read for Replay<I, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.next_run()?;
        if self.raw == 0 {
            // Data is nothing to read here: the headers were read otherwise than at first.
            return if self.ended { Ok(0) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
        let most = usize::try_from(self.raw).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.recipe.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.raw -= read as u64;
        if self.raw == 0 {
            self.data = self.length()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        self.write(&buffer[..read])?;
        Ok(read)
    }
}

impl<I: Read, W: Write> Input for Replay<I, W> {
    /// Data is had from the files.
    fn data(&mut self) -> io::Result<&[u8]> {
        Err(io::ErrorKind::InvalidData.into())
    }

    fn take_data(&mut self, _: usize) {}
}

/// Hashes what is written.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the archive with the diff id `diff_id` from the files in `fs` and their `recipe`. What
/// was written before an error is not to be used.
pub(super) fn rebuild(
    recipe: &Path,
    fs: &Path,
    diff_id: &str,
    out: impl Write,
) -> Result<(), Error> {
    let recipe = match File::open(recipe) {
        Ok(recipe) => recipe,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing),
        Err(error) => return Err(Error::Damaged(error)),
    };
    let recipe = zstd::stream::read::Decoder::new(recipe).map_err(Error::Damaged)?;
    let tree = Tree::open(fs).map_err(Error::Directory)?;
    let out = Hashing { inner: out, hash: Sha256::new() };
    let replay = Replay { recipe, raw: 0, data: 0, ended: false, out, failed: None };
    let mut entries = Entries::new(replay);
    let result = replay_entries(&mut entries, tree);
    let mut replay = entries.into_inner();
    let result = result.and_then(|()| {
        // What follows the last entry.
        io::copy(&mut replay, &mut io::sink()).map(drop).map_err(Error::Damaged)
    });
    if let Some(error) = replay.failed {
        return Err(Error::Write(error));
    }
    result?;
    replay.out.flush().map_err(Error::Write)?;
    let actual = digest(replay.out.hash);
    if actual == diff_id { Ok(()) } else { Err(Error::DiffId { actual }) }
}

fn replay_entries<I: Read, W: Write>(
    entries: &mut Entries<Replay<I, W>>,
    mut tree: Tree,
) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    while let Some(entry) = entries.next()? {
        let replay = entries.input();
        if replay.raw == 0 && replay.data > 0 {
            let length = std::mem::take(&mut replay.data);
            copy(&mut tree, &entry, length, &mut buffer, replay)?;
            entries.pass_data(length)?;
        }
    }
    Ok(())
}

/// Lets the content of an entry's file out.
fn copy<I: Read, W: Write>(
    tree: &mut Tree,
    entry: &Entry,
    length: u64,
    buffer: &mut [u8],
    replay: &mut Replay<I, W>,
) -> Result<(), Error> {
    let unfound = |source| Error::Path { name: lossy(&entry.path), source };
    let unread = |source| Error::File { name: lossy(&entry.path), source };
    let path = normalise(&entry.path).map_err(unfound)?;
    let (parent, name) = split(&path);
    let at = tree.directory(parent, false).map_err(unfound)?.fd;
    // Looked at before it is opened: a later entry may have put a device in its place, and opening
    // is an order to some (a watchdog starts to count).
    let name = OsStr::from_bytes(name);
    let stat = rustix::fs::statat(&*at, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| unread(errno.into()))?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !is_file || u64::try_from(stat.st_size) != Ok(entry.size) {
        return Err(unread(io::Error::other("its kind or size is not the one it had")));
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&*at, name, flags, Mode::empty())
        .map_err(|errno| unread(errno.into()))?;
    let file = File::from(file);
    let mut left = length;
    for (offset, size) in &entry.segments {
        let (mut at, end) = (*offset, offset.saturating_add(*size));
        while at < end && left > 0 {
            let most = usize::try_from((end - at).min(left)).unwrap_or(buffer.len());
            let most = most.min(buffer.len());
            let read = file.read_at(&mut buffer[..most], at).map_err(unread)?;
            if read == 0 {
                return Err(unread(io::ErrorKind::UnexpectedEof.into()));
            }
            at += read as u64;
            left -= read as u64;
            if replay.write(&buffer[..read]).is_err() {
                let failed = replay.failed.take();
                return Err(Error::Write(failed.unwrap_or_else(|| io::ErrorKind::Other.into())));
            }
        }
    }
    if left > 0 { Err(Error::Damaged(io::ErrorKind::InvalidData.into())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::fetch::unpack_into;
    use super::super::gate::Gate;
    use super::super::layer::digest_of;
    use super::*;
    use crate::image::content::RECIPE;

    fn header(kind: u8, size: u64, device: (u32, u32)) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("a").unwrap();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    /// Unpacks an archive and makes it again.
    fn again(archive: &[u8]) -> Result<Vec<u8>, Error> {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("0");
        let diff_id = digest_of(archive);
        unpack_into(archive, &diff_id, &dir, Gate::default().share("")).unwrap();
        let mut made = Vec::new();
        rebuild(&dir.join(RECIPE), &dir.join("fs"), &diff_id, &mut made).map(|()| made)
    }

    #[test]
    fn an_archive_is_made_again_and_no_device_is_opened_for_it() {
        let mut file = [header(b'0', 4, (0, 0)), b"data".to_vec()].concat();
        file.resize(1024, 0);
        let end = [0; 1024];
        let plain = [file.as_slice(), &end, b"what follows"].concat();
        assert_eq!(again(&plain).unwrap(), plain);
        // Nothing drives this device: to open it fails otherwise.
        let device = header(b'3', 0, (240, 77));
        let error = again(&[file.as_slice(), &device, &end].concat()).unwrap_err();
        let Error::File { source, .. } = error else { panic!("{error:?}") };
        assert!(source.to_string().contains("its kind or size"), "{source}");
        // The later content is not what the first header described.
        let mut first = file.clone();
        first[512..516].copy_from_slice(b"DATA");
        let other = [first.as_slice(), &file, &end].concat();
        assert!(matches!(again(&other), Err(Error::DiffId { .. })));
    }
}
