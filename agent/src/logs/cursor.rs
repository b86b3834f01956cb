//! Where the reading of a container's output stands: one small file beside its log.
//!
//! It is replaced, never changed in place, and carries a checksum, so that a reader which is
//! killed leaves the old or the new one. Everything that happened after it was written is undone
//! and done again, with the same result: the spool is still there, and framing is deterministic.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::monitor::{Stream, crc32};
use serde::{Deserialize, Serialize};

use super::crash;
use super::drivers::json_file::Mark;
use super::lines::Framer;
use super::spool::Position;

/// The contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The first byte that is neither in the log nor in a framer.
    pub(super) position: Position,
    pub(super) stdout: Framer,
    pub(super) stderr: Framer,
    /// The log as of `position`.
    pub(super) log: Option<Mark>,
    /// The container has ended and its output is in the log to the last byte.
    pub(super) finished: bool,
}

/// The cursor could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    #[error("read log cursor {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write log cursor {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// `<log>.cursor`
pub(super) fn path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".cursor");
    PathBuf::from(name)
}

impl Cursor {
    pub(super) fn framer(&mut self, stream: Stream) -> &mut Framer {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// `None` if there is none yet, or a power failure damaged it: the spool's remainder is then
    /// appended to the log, perhaps a second time.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, CursorError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(source) => Err(CursorError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (sum, json) = text.trim_end().split_once(' ')?;
        let sum = u32::from_str_radix(sum, 16).ok()?;
        if sum == crc32(json.as_bytes()) { serde_json::from_str(json).ok() } else { None }
    }

    /// Survives the process; with `durable` also a power failure.
    pub(super) fn store(&mut self, path: &Path, durable: bool) -> Result<(), CursorError> {
        self.stdout.forget_given();
        self.stderr.forget_given();
        self.write(path, durable)
            .map_err(|source| CursorError::Write { path: path.to_owned(), source })
    }

    fn write(&self, path: &Path, durable: bool) -> io::Result<()> {
        crash::point()?;
        let json = serde_json::to_string(self)?;
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(format!("{:08x} {json}\n", crc32(json.as_bytes())).as_bytes())?;
        if durable {
            file.sync_data()?;
        }
        crash::point()?;
        std::fs::rename(&temporary, path)?;
        crash::point()?;
        if durable && let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}
