//! A pull or load in its own directory, and how that becomes part of the store.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, IFlags};

use super::files::{prepare_record, publish, sync_dir, write_file};
use super::sweep::discard;
use super::{ImageRecord, LayerRecord, Store};
use crate::error::chain;
use crate::failpoint;
use crate::image::layer::digest_of;
use crate::image::reference::Reference;
use crate::image::signature::Origin;
use crate::image::unpack::make_directory;
use crate::image::{Error, Image};

/// A pull in progress: a directory of its own, removed with the last clone unless committed.
#[derive(Debug)]
pub(in crate::image) struct Staging {
    path: PathBuf,
    lock: File,
}

impl Staging {
    pub(in crate::image) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is swept at the next start.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary directory");
        }
    }
}

/// What a pull or load found, ready to be committed.
#[derive(Debug)]
pub(in crate::image) struct NewImage {
    pub(in crate::image) manifest: Vec<u8>,
    pub(in crate::image) config: Vec<u8>,
    pub(in crate::image) created: Option<String>,
    /// Lowest first, each once; the directory holds `fs` and `layer`, `None` if the store has the layer.
    pub(in crate::image) layers: Vec<(LayerRecord, Option<PathBuf>)>,
    pub(in crate::image) names: Vec<Reference>,
    pub(in crate::image) origin: Origin,
}

/// A commit either succeeds or finds that a layer it relied on was removed meanwhile.
#[derive(Debug)]
pub(in crate::image) enum Commit {
    Done(Vec<Image>),
    LayerGone,
}

/// Has ext4 place what is unpacked in each directory of `dir` by itself, in the emptiest part of the
/// disk (`T` in chattr(1)). Else it lies where the last image was removed from, and without a journal
/// ext4 looks for some minutes at each removed file's inode again whenever it makes a file nearby: a
/// pull after a large image has gone took six times as long.
pub(super) fn spread(dir: &Path) {
    let spread = || {
        let dir = File::open(dir)?;
        let flags = rustix::fs::ioctl_getflags(&dir)?;
        if flags.contains(IFlags::TOPDIR) {
            return Ok(());
        }
        std::io::Result::Ok(rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR)?)
    };
    if let Err(error) = spread() {
        // Other file systems do not know it, nor need it.
        tracing::debug!(path = %dir.display(), %error, "the file system cannot spread directories");
    }
}

impl Store {
    /// A directory of one's own, in the same filesystem.
    pub(in crate::image) fn stage(&self) -> Result<Arc<Staging>, Error> {
        // Under the lock, so that no sweep comes between making the directory and locking it.
        let _lock = self.lock()?;
        let path = self.at("tmp").join(uuid::Uuid::new_v4().to_string());
        make_directory(&path, 0o700).map_err(Error::io("create", &path))?;
        let lock = File::open(&path).map_err(Error::io("open", &path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("lock", &path)(errno.into()))?;
        failpoint::hit("image.staged");
        Ok(Arc::new(Staging { path, lock }))
    }
    /// Makes images and their names part of the store. Who commits holds the directory of their
    /// layers: nobody who gives the pull up meanwhile removes it from under the renames below.
    pub(in crate::image) fn commit(
        &self,
        staging: &Staging,
        images: &[NewImage],
    ) -> Result<Commit, Error> {
        let layers = || images.iter().flat_map(|image| &image.layers);
        let staged: BTreeSet<&str> = layers()
            .filter(|(_, dir)| dir.is_some())
            .map(|(layer, _)| layer.diff_id.as_str())
            .collect();
        if !staged.is_empty() {
            // Through a descriptor from before the first byte of a layer: one that is opened now
            // would not be told of a write that failed if somebody else was told already.
            rustix::fs::syncfs(&staging.lock)
                .map_err(|errno| Error::io("sync", &self.inner.dir)(errno.into()))?;
        }
        failpoint::hit("image.synced");
        let lock = self.lock()?;
        for (layer, _) in layers() {
            if !staged.contains(layer.diff_id.as_str()) && self.layer(&layer.diff_id)?.is_none() {
                return Ok(Commit::LayerGone);
            }
        }
        for image in images {
            self.leases().committed(&digest_of(&image.config));
        }
        let mut garbage = Vec::new();
        // Looked at before the lock is given up: a moment later another process may prune them.
        let result = self
            .commit_layers(layers(), &mut garbage)
            .and_then(|()| self.commit_images(images))
            .and_then(|()| {
                images.iter().map(|new| self.image(&lock, &digest_of(&new.config))).collect()
            });
        // What a moved tag or a failure left; a failure is the error to tell.
        let collected = self.collect(&lock);
        drop(lock);
        let discarded = collected.and_then(|more| {
            garbage.extend(more);
            discard(garbage)
        });
        let images = result?;
        if let Err(error) = discarded {
            tracing::warn!(error = chain(&error), "what the store no longer needs is not removed");
        }
        Ok(Commit::Done(images))
    }

    fn commit_layers<'a>(
        &self,
        layers: impl Iterator<Item = &'a (LayerRecord, Option<PathBuf>)>,
        garbage: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        for (layer, staged) in layers {
            let Some(staged) = staged else { continue };
            // Somebody else may have been faster, with the same verified content.
            if self.layer(&layer.diff_id)?.is_none() {
                let to = self.layer_path(&layer.diff_id);
                if to.exists() {
                    // Damaged; this one is as it should be.
                    garbage.push(self.move_aside(&to)?);
                }
                fs::rename(staged, &to).map_err(Error::io("commit layer", to))?;
                failpoint::hit("image.layer");
            }
        }
        sync_dir(&self.at("l"))
    }

    /// Writes blobs and whatever else takes room, then makes it all visible: a full disk leaves no
    /// image without its names.
    fn commit_images(&self, images: &[NewImage]) -> Result<(), Error> {
        // Two images of an archive may be one, or have one name: the last one stands.
        let (mut records, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut origins = BTreeSet::new();
        for new in images {
            let (id, digest) = (digest_of(&new.config), digest_of(&new.manifest));
            for (name, bytes) in [(&id, &new.config), (&digest, &new.manifest)] {
                if self.blob(name).is_none() {
                    write_file(&self.blob_path(name), bytes)?;
                    failpoint::hit("image.blob");
                }
            }
            for name in &new.names {
                names.insert(self.prepare_name(name, &id)?);
            }
            origins.extend(self.prepare_origin(&id, &new.origin)?);
            let layers = new.layers.iter().map(|(layer, _)| layer.clone()).collect();
            let path = self.image_path(&id);
            let created = new.created.clone();
            prepare_record(&path, &ImageRecord { id, digest, created, layers })?;
            records.insert(path);
        }
        // Without its image it is swept.
        for origin in &origins {
            publish(origin)?;
            failpoint::hit("image.origin");
        }
        for record in &records {
            publish(record)?;
            failpoint::hit("image.record");
        }
        for name in &names {
            publish(name)?;
            failpoint::hit("image.name");
        }
        Ok(())
    }
}

/// Writes the record that makes a directory a layer.
pub(in crate::image) fn seal_layer(dir: &Path, record: &LayerRecord) -> Result<(), Error> {
    let path = dir.join("layer");
    let text = serde_json::to_vec(record)
        .map_err(|source| Error::Record { path: path.clone(), source })?;
    failpoint::hit("image.unpacked");
    // Synced with the layer's content by the commit.
    fs::write(&path, text).map_err(Error::io("write", path))?;
    failpoint::hit("image.sealed");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn directories_are_spread_where_the_file_system_can() {
        let flags = |dir: &Path| rustix::fs::ioctl_getflags(File::open(dir).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let before = flags(dir.path());
        spread(dir.path());
        // Twice changes nothing.
        spread(dir.path());
        // Other flags stay; a file system without any, or without this one, is left as it is.
        let after = flags(dir.path());
        assert_eq!(after.is_ok(), before.is_ok());
        if let (Ok(before), Ok(after)) = (before, after) {
            assert_eq!(after - IFlags::TOPDIR, before);
            let is_ext = rustix::fs::statfs(dir.path()).unwrap().f_type == 0xef53;
            assert!(!is_ext || after.contains(IFlags::TOPDIR));
        }
    }
}
