//! Removing images and names as Docker does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::files::{read_record, sync_dir};
use super::sweep::discard;
use super::{ImageRecord, Store};
use crate::api::types::{PruneImages, PrunedImages, RemovedImage};
use crate::failpoint;
use crate::image::Error;
use crate::image::manifest::ImageConfig;
use crate::image::reference::Reference;

impl Store {
    /// `docker rmi`: a name is untagged; with its last name, or by id, the image goes. `in_use`
    /// tells whether a container needs the image with this id; a leased one is in use, too.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<RemovedImage, Error> {
        let lock = self.lock()?;
        // In this order: who gives a lease up makes the image visible as in use first.
        let in_use = |id: &str| self.leases().hold(id) || in_use(id);
        let unknown = || Error::Unknown { reference: reference.to_owned() };
        let (id, name) = self.resolve(&lock, reference)?.ok_or_else(unknown)?;
        let mine: Vec<(PathBuf, Reference)> = self
            .names(&lock)?
            .into_iter()
            .filter(|(_, _, owner)| *owner == id)
            .map(|(path, reference, _)| (path, reference))
            .collect();
        let mut removed = RemovedImage { untagged: Vec::new(), deleted: Vec::new() };
        let (untag, delete) = match &name {
            Some(name) => {
                // A repository's last tag takes the repository's digests with it.
                let others = |(_, other): &&(PathBuf, Reference)| {
                    other != name && (other.tag().is_some() || !other.same_repository(name))
                };
                let last = !mine.iter().any(|entry| others(&entry));
                let last_of_repository = !mine.iter().any(|(_, other)| {
                    other != name && other.same_repository(name) && other.tag().is_some()
                });
                if last && in_use(&id) && !force {
                    let reference = name.familiar();
                    return Err(Error::ReferenceInUse { reference, id });
                }
                let untag: Vec<&(PathBuf, Reference)> = mine
                    .iter()
                    .filter(|(_, other)| {
                        other == name
                            || (last_of_repository
                                && name.tag().is_some()
                                && other.same_repository(name))
                    })
                    .collect();
                let delete = untag.len() == mine.len() && !in_use(&id);
                (untag, delete)
            }
            None => {
                if in_use(&id) {
                    return Err(Error::InUse { id });
                }
                let repositories: BTreeSet<String> =
                    mine.iter().map(|(_, reference)| reference.familiar_name()).collect();
                let tags = mine.iter().filter(|(_, reference)| reference.tag().is_some()).count();
                if (repositories.len() > 1 || tags > 1) && !force {
                    return Err(Error::SeveralReferences { id });
                }
                (mine.iter().collect(), true)
            }
        };
        if delete {
            // First, so that a kill leaves no image that has lost its names.
            let mut owners = Owners::of(&self.images(&lock)?);
            removed.deleted = self.delete(&id, &mut owners)?.0;
        }
        for (path, name) in untag {
            unlink(path)?;
            failpoint::hit("image.untagged");
            removed.untagged.push(name.familiar());
        }
        removed.untagged.sort();
        sync_dir(&self.at("refs"))?;
        let garbage = if delete { self.collect(&lock)? } else { Vec::new() };
        drop(lock);
        discard(garbage)?;
        Ok(removed)
    }

    /// `docker image prune`: images without a tag, or all with `request.all`, that no container
    /// needs, that are not to be kept and that the filters let pass.
    pub fn prune(
        &self,
        request: &PruneImages,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<PrunedImages, Error> {
        let until = match &request.until {
            Some(text) => Some(
                text.parse::<Timestamp>()
                    .map_err(|source| Error::Time { time: text.clone(), source })?,
            ),
            None => None,
        };
        let lock = self.lock()?;
        let mut names: BTreeMap<String, Vec<(PathBuf, Reference)>> = BTreeMap::new();
        for (path, name, id) in self.names(&lock)? {
            names.entry(id).or_default().push((path, name));
        }
        let mut pruned = PrunedImages::default();
        let images = self.images(&lock)?;
        let mut owners = Owners::of(&images);
        for record in images {
            let mine = names.remove(&record.id).unwrap_or_default();
            let labels = self
                .configuration(&record.id)
                .ok()
                .and_then(|text| ImageConfig::parse(&text).ok())
                .map(|config| config.into_config().labels)
                .unwrap_or_default();
            let candidate = Candidate {
                tagged: mine.iter().any(|(_, name)| name.tag().is_some()),
                created: record.created.as_deref().and_then(|time| time.parse().ok()),
                labels: &labels,
            };
            let stays = self.leases().hold(&record.id)
                || in_use(&record.id)
                || mine.iter().any(|(_, name)| self.is_kept(name));
            if stays || !candidate.goes(request, until) {
                continue;
            }
            let (deleted, bytes) = self.delete(&record.id, &mut owners)?;
            let mut removed = RemovedImage { untagged: Vec::new(), deleted };
            for (path, name) in &mine {
                unlink(path)?;
                failpoint::hit("image.untagged");
                removed.untagged.push(name.familiar());
            }
            removed.untagged.sort();
            pruned.reclaimed += bytes;
            pruned.removed.push(removed);
        }
        sync_dir(&self.at("refs"))?;
        let garbage = self.collect(&lock)?;
        drop(lock);
        discard(garbage)?;
        Ok(pruned)
    }

    /// Takes an image without names out of the store. Tells ids of what goes with it, and the bytes
    /// of the layers among that.
    fn delete(&self, id: &str, owners: &mut Owners) -> Result<(Vec<String>, u64), Error> {
        let path = self.image_path(id);
        let layers = match read_record::<ImageRecord>(&path) {
            Ok(record) => record.layers,
            Err(error) if error.is_damage() => Vec::new(),
            Err(error) => return Err(error),
        };
        unlink(&path)?;
        failpoint::hit("image.deleted");
        sync_dir(&self.at("images"))?;
        let (mut deleted, mut bytes) = (vec![id.to_owned()], 0);
        for layer in layers.into_iter().rev().filter(|layer| owners.leave(&layer.diff_id)) {
            bytes += layer.size;
            deleted.push(layer.diff_id);
        }
        Ok((deleted, bytes))
    }
}

/// How many images have a layer.
struct Owners(BTreeMap<String, usize>);

impl Owners {
    fn of(images: &[ImageRecord]) -> Self {
        let mut owners = BTreeMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            *owners.entry(layer.diff_id.clone()).or_default() += 1;
        }
        Self(owners)
    }

    /// An image that has the layer goes; whether it was the last one.
    fn leave(&mut self, diff_id: &str) -> bool {
        let Some(count) = self.0.get_mut(diff_id) else { return true };
        *count = count.saturating_sub(1);
        *count == 0
    }
}

/// Another process may have been faster.
fn unlink(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// An image, as pruning sees it.
struct Candidate<'a> {
    tagged: bool,
    created: Option<Timestamp>,
    labels: &'a BTreeMap<String, String>,
}

impl Candidate<'_> {
    /// Does it go, if no container needs it? `until` is the request's, read.
    fn goes(&self, request: &PruneImages, until: Option<Timestamp>) -> bool {
        // Docker takes an image that does not say when it was made as made at the epoch.
        let created = self.created.unwrap_or(Timestamp::UNIX_EPOCH);
        (request.all || !self.tagged)
            && until.is_none_or(|until| created <= until)
            && request.labels.iter().all(|label| has_label(self.labels, label))
            && !request.without_labels.iter().any(|label| has_label(self.labels, label))
    }
}

/// `key` or `key=value`
fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pruning_takes_what_docker_would_take() {
        let labels = BTreeMap::from([("stage".to_owned(), "test".to_owned())]);
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let (old, new) = (time("2026-01-01T00:00:00Z"), time("2026-06-01T00:00:00Z"));
        let request = |all, labels: &[&str], without: &[&str]| PruneImages {
            all,
            until: None,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            without_labels: without.iter().map(|label| (*label).to_owned()).collect(),
        };
        for (tagged, created, request, until, goes) in [
            (false, Some(old), request(false, &[], &[]), None, true),
            (true, Some(old), request(false, &[], &[]), None, false),
            (true, Some(old), request(true, &[], &[]), None, true),
            (false, Some(old), request(false, &[], &[]), Some(new), true),
            (false, Some(new), request(false, &[], &[]), Some(old), false),
            (false, Some(new), request(false, &[], &[]), Some(new), true),
            (false, None, request(false, &[], &[]), Some(old), true),
            (true, Some(old), request(true, &["stage"], &[]), None, true),
            (true, Some(old), request(true, &["stage=test"], &[]), None, true),
            (true, Some(old), request(true, &["stage=live"], &[]), None, false),
            (true, Some(old), request(true, &["stage", "other"], &[]), None, false),
            (true, Some(old), request(true, &[], &["stage"]), None, false),
            (true, Some(old), request(true, &[], &["stage=live"]), None, true),
        ] {
            let candidate = Candidate { tagged, created, labels: &labels };
            assert_eq!(candidate.goes(&request, until), goes, "{request:?} {until:?}");
        }
    }
}
