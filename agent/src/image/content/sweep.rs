//! What killed processes left, and what no image names any more.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::files::{all_files, files, is_temporary};
use super::{Lock, Store};
use crate::failpoint;
use crate::image::Error;

impl Store {
    pub(in crate::image) fn sweep(&self, lock: &Lock) -> Result<Vec<PathBuf>, Error> {
        let mut garbage = Vec::new();
        for path in files(&self.at("tmp"))? {
            let owned = match File::open(&path) {
                Ok(file) => {
                    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
                }
                Err(_) => false,
            };
            if !owned {
                garbage.push(path);
            }
        }
        garbage.extend(self.collect(lock)?);
        Ok(garbage)
    }

    /// Takes what no image names out of the store: blobs at once; layers are moved aside, to be
    /// deleted without the lock. Temporary records go, too.
    pub(in crate::image) fn collect(&self, lock: &Lock) -> Result<Vec<PathBuf>, Error> {
        for dir in ["images", "refs", "usage", "signatures", "kept", "blobs/sha256"] {
            for path in all_files(&self.at(dir))?.iter().filter(|path| is_temporary(path)) {
                fs::remove_file(path).map_err(Error::io("remove", path))?;
                failpoint::hit("image.swept");
            }
        }
        self.sweep_names(lock)?;
        for dir in ["usage", "signatures"] {
            self.sweep_records(lock, dir)?;
        }
        let images = self.images(lock)?;
        // What an image with a damaged record needs, nobody knows: nothing goes while there is one.
        if images.len() < self.image_ids(lock)?.len() {
            return Ok(Vec::new());
        }
        let mut blobs = BTreeSet::new();
        let mut layers = BTreeSet::new();
        for image in &images {
            blobs.insert(self.blob_path(&image.id));
            blobs.insert(self.blob_path(&image.digest));
            layers.extend(image.layers.iter().map(|layer| self.layer_path(&layer.diff_id)));
        }
        layers.extend(self.leases().layers().iter().map(|diff_id| self.layer_path(diff_id)));
        for path in files(&self.at("blobs/sha256"))? {
            if !blobs.contains(&path) {
                fs::remove_file(&path).map_err(Error::io("remove", path))?;
                failpoint::hit("image.blob-removed");
            }
        }
        let mut garbage = Vec::new();
        for path in files(&self.at("l"))? {
            if !layers.contains(&path) {
                garbage.push(self.move_aside(&path)?);
            }
        }
        Ok(garbage)
    }

    /// Removes what is recorded beside images that are gone.
    fn sweep_records(&self, _lock: &Lock, dir: &str) -> Result<(), Error> {
        for path in files(&self.at(dir))? {
            let image = path.file_name().map(|name| self.at("images").join(name));
            if image.is_none_or(|image| !image.exists()) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                failpoint::hit("image.swept");
            }
        }
        Ok(())
    }

    /// Removes names that cannot be read, or whose image is gone: a removal that was killed.
    fn sweep_names(&self, lock: &Lock) -> Result<(), Error> {
        let ids: BTreeSet<String> = self.image_ids(lock)?.into_iter().collect();
        let names = self.names(lock)?.into_iter().filter(|(_, _, id)| ids.contains(id));
        let kept: BTreeSet<PathBuf> = names.map(|(path, ..)| path).collect();
        for path in files(&self.at("refs"))?.into_iter().filter(|path| !kept.contains(path)) {
            tracing::info!(path = %path.display(), "a name of no image is removed");
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
            failpoint::hit("image.swept");
        }
        Ok(())
    }

    /// Takes a layer's directory out of the store, to be deleted without the lock.
    pub(super) fn move_aside(&self, path: &Path) -> Result<PathBuf, Error> {
        let aside = self.at("tmp").join(uuid::Uuid::new_v4().to_string());
        fs::rename(path, &aside).map_err(Error::io("move aside", path))?;
        failpoint::hit("image.aside");
        Ok(aside)
    }
}

/// Deletes what was taken out of the store: all that can be, whatever cannot.
pub(super) fn discard(garbage: Vec<PathBuf>) -> Result<(), Error> {
    let mut result = Ok(());
    for path in garbage {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => failpoint::hit("image.discarded"),
            // Another process that opens the store sweeps the same.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => result = Err(Error::io("remove", path)(error)),
        }
    }
    result
}
