//! Names of images on disk: one file each, so that moving a tag is one rename.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::files::{files, prepare_record, publish, read_record};
use super::{Lock, Store};
use crate::failpoint;
use crate::image::Error;
use crate::image::reference::{Reference, as_id, is_digest, is_lower_hex};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NameRecord {
    /// The full spelling.
    reference: String,
    id: String,
}

/// All names as they were read last.
#[derive(Debug, Default)]
pub(super) struct KnownNames {
    /// When their directory had changed last; `None`: they are not to be relied on.
    changed: Option<SystemTime>,
    by_image: HashMap<String, Vec<Reference>>,
}

/// So old is a change that no later one has the same time.
const SETTLED: Duration = Duration::from_secs(1);

impl Store {
    pub(in crate::image) fn resolve(
        &self,
        lock: &Lock,
        text: &str,
    ) -> Result<Option<(String, Option<Reference>)>, Error> {
        if let Some(id) = as_id(text) {
            return Ok(self.image_path(&id).exists().then_some((id, None)));
        }
        if let Ok(reference) = Reference::parse(text) {
            // With both, the digest decides, as in Docker.
            let name = match reference.digest() {
                Some(digest) => reference.with_digest(digest),
                None => reference,
            };
            let path = self.name_path(&name.to_string());
            match read_record::<NameRecord>(&path) {
                // A name without an image is what a kill left of a removal.
                Ok(record) if is_digest(&record.id) && self.image_path(&record.id).exists() => {
                    return Ok(Some((record.id, Some(name))));
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        let full = text.strip_prefix("sha256:").unwrap_or(text);
        if full.is_empty() || full.len() > 64 || !is_lower_hex(full) {
            return Ok(None);
        }
        let mut ids = self.image_ids(lock)?;
        ids.retain(|id| id["sha256:".len()..].starts_with(full));
        match ids.len() {
            0 | 1 => Ok(ids.pop().map(|id| (id, None))),
            count => Err(Error::Ambiguous { prefix: text.to_owned(), count }),
        }
    }
    /// Gives an image another name, taking it from the image that has it.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), Error> {
        let failed = |source| Error::Reference { reference: target.to_owned(), source };
        let target = Reference::parse(target).map_err(failed)?;
        if target.digest().is_some() {
            let reference = target.familiar();
            let reason = "a name to give has no digest".to_owned();
            return Err(Error::Inconsistent { reference, reason });
        }
        let lock = self.lock()?;
        let (image, _) = self.whole(&lock, source)?;
        let path = self.prepare_name(&target, &image.id).map_err(|error| self.explain(error))?;
        publish(&path)?;
        failpoint::hit("image.name");
        Ok(())
    }

    /// The image is known to a registry by this digest, if it still is in the store.
    pub(in crate::image) fn note_digest(&self, name: &Reference, id: &str) -> Result<(), Error> {
        let _lock = self.lock()?;
        if !self.image_path(id).exists() {
            return Ok(());
        }
        let path = self.prepare_name(name, id).map_err(|error| self.explain(error))?;
        publish(&path)?;
        failpoint::hit("image.name");
        Ok(())
    }

    /// All that makes `name` stand for the image with this id, but publishing the path.
    pub(super) fn prepare_name(&self, name: &Reference, id: &str) -> Result<PathBuf, Error> {
        let reference = name.to_string();
        let path = self.name_path(&reference);
        prepare_record(&path, &NameRecord { reference, id: id.to_owned() })?;
        Ok(path)
    }

    /// Names that can be read, and the ids of their images.
    pub(in crate::image) fn names(
        &self,
        _lock: &Lock,
    ) -> Result<Vec<(PathBuf, Reference, String)>, Error> {
        let mut names = Vec::new();
        for path in files(&self.at("refs"))? {
            match read_record::<NameRecord>(&path) {
                Ok(record) if is_digest(&record.id) => {
                    if let Ok(reference) = Reference::parse(&record.reference) {
                        names.push((path, reference, record.id));
                    }
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }
    /// Names of an image, for who looks at it; those who change names read them anew. A start of a
    /// container asks twice, and a host may have thousands.
    pub(in crate::image) fn names_of(
        &self,
        lock: &Lock,
        id: &str,
    ) -> Result<Vec<Reference>, Error> {
        let dir = self.at("refs");
        let changed = fs::metadata(&dir)
            .and_then(|metadata| metadata.modified())
            .map_err(Error::io("read the time of", dir))?;
        let mut known = self.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        if known.changed != Some(changed) {
            let mut by_image: HashMap<String, Vec<Reference>> = HashMap::new();
            for (_, reference, id) in self.names(lock)? {
                by_image.entry(id).or_default().push(reference);
            }
            // Another change in the same tick of the clock would not show.
            let settled = changed.elapsed().is_ok_and(|age| age >= SETTLED);
            *known = KnownNames { changed: settled.then_some(changed), by_image };
        }
        Ok(known.by_image.get(id).cloned().unwrap_or_default())
    }

    pub(in crate::image) fn name_path(&self, reference: &str) -> PathBuf {
        let hash = hex::encode(Sha256::digest(reference.as_bytes()));
        self.at("refs").join(format!("{hash}.json"))
    }
}
