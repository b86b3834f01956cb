//! What is remembered of images beside their content: when they came, when they were used last, by
//! whom, and which are to be kept.
//!
//! ```text
//! usage/<id hex>.json          first pulled at; used by a task (tracked); names this agent pulled it by.
//!                              Its time of modification: when the image was used last
//! kept/<sha256 of name>.json   a name whose image is kept, whatever it is at the moment
//! ```
//!
//! What changes once in an image's life is a record (temporary, fsync, rename). What changes with
//! every start of a container is a file's time: one system call, no fsync. A power failure may lose
//! the last half minute of those, which only puts images that running tasks protect anyway a little
//! too early in the order. A record without its image is swept; an image without a record (from an
//! earlier version, or killed between commit and record) counts as pulled and used when its own
//! record was written, by no task.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use serde::{Deserialize, Serialize};

use super::Error;
use super::content::{Lock, Store, read_record, sync_dir, write_record};
use super::reference::Reference;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Record {
    pulled_at: Option<Timestamp>,
    /// A task of this agent has used it.
    tracked: bool,
    /// The names by which this agent pulled it.
    pulled: BTreeSet<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    reference: String,
}

/// When an image came and was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) pulled_at: Timestamp,
    pub(super) last_used_at: Timestamp,
    pub(super) tracked: bool,
    pub(super) fetched: bool,
}

impl Store {
    /// A task uses the image, from now on.
    ///
    /// # Errors
    /// If the record cannot be read or written.
    pub fn note_use(&self, id: &str) -> Result<(), Error> {
        let path = self.usage_path(id);
        if read_usage(&path)?.is_some_and(|record| record.tracked) {
            return touch(&path);
        }
        self.change_usage(id, |record| record.tracked = true)
    }

    /// The image was pulled by this agent.
    ///
    /// # Errors
    /// If the record cannot be read or written.
    pub fn note_pull(&self, id: &str, reference: &str) -> Result<(), Error> {
        let name = spelled_out(reference)?;
        self.change_usage(id, |record| {
            record.pulled_at.get_or_insert_with(Timestamp::now);
            record.pulled.insert(name.to_string());
        })
    }

    /// Whether this agent pulled the image by this name.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn was_pulled(&self, id: &str, reference: &str) -> Result<bool, Error> {
        let Ok(name) = spelled_out(reference) else { return Ok(false) };
        let record = read_usage(&self.usage_path(id))?;
        Ok(record.is_some_and(|record| record.pulled.contains(&name.to_string())))
    }

    /// Keeps the image of a name from collection, or no longer: whatever the name stands for.
    /// Whether that changed anything.
    ///
    /// # Errors
    /// If the name is none, or the mark cannot be written or removed.
    pub fn keep(&self, reference: &str, keep: bool) -> Result<bool, Error> {
        let name = spelled_out(reference)?;
        let _lock = self.lock()?;
        let path = self.kept_path(&name.to_string());
        if path.exists() == keep {
            return Ok(false);
        }
        if keep {
            let kept = Kept { reference: name.to_string() };
            write_record(&path, &kept).map_err(|error| self.explain(error))?;
        } else {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            sync_dir(&self.at("kept"))?;
        }
        Ok(true)
    }

    /// Whether an image of this name is kept. The mark is one file: it is there or not, also without
    /// the lock.
    pub(super) fn is_kept(&self, name: &Reference) -> bool {
        self.kept_path(&name.to_string()).exists()
    }

    /// Those of an image's names whose image is kept, as people write them.
    pub(super) fn kept_of(&self, names: &[Reference]) -> Vec<String> {
        let kept = names.iter().filter(|name| self.is_kept(name));
        let mut kept: Vec<String> = kept.map(Reference::familiar).collect();
        kept.sort();
        kept
    }

    /// When the image with this record came and was used.
    pub(super) fn use_of(&self, _lock: &Lock, id: &str) -> Result<Use, Error> {
        let (image, path) = (self.image_path(id), self.usage_path(id));
        let came = modified(&image)?;
        let Some(record) = read_usage(&path)? else {
            let (pulled_at, last_used_at) = (came, came);
            return Ok(Use { pulled_at, last_used_at, tracked: false, fetched: false });
        };
        Ok(Use {
            pulled_at: record.pulled_at.unwrap_or(came),
            last_used_at: modified(&path)?,
            tracked: record.tracked,
            fetched: !record.pulled.is_empty(),
        })
    }

    /// An image that was removed meanwhile is left without a record.
    fn change_usage(&self, id: &str, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let _lock = self.lock()?;
        if !self.image_path(id).exists() {
            return Ok(());
        }
        let path = self.usage_path(id);
        let mut record = read_usage(&path)?.unwrap_or_default();
        change(&mut record);
        write_record(&path, &record)
    }

    fn usage_path(&self, id: &str) -> PathBuf {
        self.at("usage").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn kept_path(&self, name: &str) -> PathBuf {
        self.at("kept").join(self.name_path(name).file_name().unwrap_or_default())
    }
}

/// The name as the store has it: with a digest that, else with a tag.
fn spelled_out(reference: &str) -> Result<Reference, Error> {
    let name = Reference::parse(reference)
        .map_err(|source| Error::Reference { reference: reference.to_owned(), source })?;
    Ok(match name.digest() {
        Some(digest) => name.with_digest(digest),
        None => name,
    })
}

/// Names as they are compared with those of images; one that is none is left out.
pub(super) fn spelled_out_all(references: &BTreeSet<String>) -> BTreeSet<String> {
    references
        .iter()
        .filter_map(|reference| spelled_out(reference).ok())
        .map(|name| name.to_string())
        .collect()
}

/// `None`: there is no record, or one that a person damaged; nothing of value is in it.
fn read_usage(path: &Path) -> Result<Option<Record>, Error> {
    match read_record(path) {
        Ok(record) => Ok(Some(record)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(Error::Record { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn touch(path: &Path) -> Result<(), Error> {
    let nsec = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: nsec(UTIME_OMIT), last_modification: nsec(UTIME_NOW) };
    let file = File::open(path).map_err(Error::io("open", path))?;
    rustix::fs::futimens(&file, &times)
        .map_err(|errno| Error::io("note the use in", path)(errno.into()))
}

fn modified(path: &Path) -> Result<Timestamp, Error> {
    let time = fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map_err(Error::io("read the time of", path))?;
    Ok(Timestamp::try_from(time).unwrap_or(Timestamp::MIN))
}
