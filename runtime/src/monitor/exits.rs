//! `T/exits`: how containers ended, appended and durable before anyone is told or a zombie reaped.
//!
//! One `write` and one `fsync` per record ([`ExitRecord::to_line`]). A record that could not be
//! written whole is cut off again, and a line that a crash tore is closed by the next one, so that
//! damage never spreads to a neighbour.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::monitor::{Exit, ExitRecord};

/// Why a record could not be read or written.
#[derive(thiserror::Error)]
pub(crate) enum Error {
    #[error("read exit records {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write exit record of {container} to {path}")]
    Append { container: String, path: PathBuf, source: io::Error },
}

debug_is_display!(Error);

/// The exit records of one task.
#[derive(Debug)]
pub(crate) struct Exits {
    path: PathBuf,
}

impl Exits {
    pub(crate) fn new(task: &Path) -> Self {
        Self { path: task.join("exits") }
    }

    /// All records, oldest first.
    pub(crate) fn read(&self) -> Result<Vec<ExitRecord>, Error> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(ExitRecord::parse_all(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(Error::Read { path: self.path.clone(), source }),
        }
    }

    /// Adds a record; durable on return.
    pub(crate) fn append(&self, container: &str, id: &str, exit: Exit) -> Result<(), Error> {
        let record = ExitRecord { container: container.to_owned(), id: id.to_owned(), exit };
        self.store(&record).map_err(|source| Error::Append {
            container: container.to_owned(),
            path: self.path.clone(),
            source,
        })
    }

    fn store(&self, record: &ExitRecord) -> io::Result<()> {
        let mut line = record.to_line()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?;
        let length = file.metadata()?.len();
        if length > 0 {
            let mut last = [0];
            file.read_exact_at(&mut last, length - 1)?;
            if last != *b"\n" {
                line.insert(0, '\n');
            }
        }
        let written = file.write_at(line.as_bytes(), length);
        match written {
            Ok(count) if count == line.len() => {}
            Ok(_) => {
                file.set_len(length)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = file.sync_data() {
            file.set_len(length)?;
            return Err(error);
        }
        if length == 0
            && let Some(task) = self.path.parent()
        {
            File::open(task)?.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_record_after_a_torn_line_survives() {
        let directory = tempfile::tempdir().unwrap();
        let exits = Exits::new(directory.path());
        assert_eq!(exits.read().unwrap(), []);
        let exit = Exit { code: Some(3), signal: None, oom_killed: false, at: 5 };
        exits.append("a", "1", exit).unwrap();
        let path = directory.path().join("exits");
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        exits.append("b", "2", exit).unwrap();
        let names: Vec<_> = exits.read().unwrap().into_iter().map(|r| r.container).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
