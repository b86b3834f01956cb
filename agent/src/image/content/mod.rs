//! The store on disk. Its owner is whoever holds the lock; several processes may open one store.
//!
//! ```text
//! lock                        flock: exclusive for each change below, except inside tmp/<own>
//! blobs/sha256/<hex>          manifests and configurations
//! images/<id hex>.json        an image: manifest, layers, size
//! usage/, kept/               see `usage.rs`
//! signatures/                 see `signature/record.rs`
//! refs/<sha256 of name>.json  a name (name:tag or name@digest) and the image it stands for
//! l/<26 characters>/fs        an unpacked layer; the name is the head of its diff id in base 32,
//!                   /layer    short because overlayfs takes all names in 4096 bytes; the whole
//!                             diff id stands beside
//!                   /recipe   what makes its archive again
//!                   /pushed   what its archive is when it was compressed for a push
//! tmp/<uuid>/                 a pull or load in progress; its maker holds a flock on it
//! ```
//!
//! A pull builds everything in `tmp/<uuid>` and commits under the lock: layers by rename, then
//! blobs, the image, its names. Layer data is synced (one `syncfs`) before the first rename, records
//! by fsync, so after a power failure a record never speaks of content that is not there. A process
//! killed in between leaves a directory that nobody locks, or layers that no image names; both go
//! at the next [`Store::open`]. Every name is one file, so moving a tag is one rename.
//!
//! A store that somebody damaged works on but for what is damaged: an image whose record,
//! configuration or layers are not as they were written is listed with what is wrong with it, cannot
//! be used, and is mended by pulling or loading it again.
//!
//! ```text
//! commit.rs  a pull's own directory, and making it part of the store
//! names.rs   references and what they stand for, tagging
//! remove.rs  untagging, deleting, pruning    sweep.rs  what nothing names any more
//! files.rs   records and names on disk
//! ```

mod commit;
mod files;
mod names;
mod remove;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::layer::digest_of;
use super::lease::Leases;
use super::manifest::ImageConfig;
use super::reference::{Reference, is_digest};
use super::unpack::OPAQUE_XATTR;
use super::{Error, Image};
use crate::api::types::ImageView;
use crate::error::chain;
pub(in crate::image) use commit::{Commit, NewImage, Staging, seal_layer};
use files::short_name;
pub(in crate::image) use files::{
    files, prepare_record, publish, read_record, sync_dir, write_record,
};
use names::KnownNames;
use sweep::discard;

/// The name of a layer's recipe in its directory.
pub(in crate::image) const RECIPE: &str = "recipe";
/// The name of the record of what was pushed for a layer, in its directory.
const PUSHED: &str = "pushed";

/// The image store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// By registry and diff id.
type LayerLocks = HashMap<(String, String), Weak<tokio::sync::Mutex<()>>>;

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// One pull of a layer at a time; entries are dropped when nobody waits.
    layers: Mutex<LayerLocks>,
    leases: Leases,
    gate: Gate,
    names: Mutex<KnownNames>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::image) struct LayerRecord {
    pub(in crate::image) diff_id: String,
    /// Bytes of the files.
    pub(in crate::image) size: u64,
    /// Bytes of its uncompressed archive; `None` if an older version unpacked it, without a recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::image) archive: Option<u64>,
}
/// A layer's archive as it was compressed for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::image) struct PushedLayer {
    pub(in crate::image) digest: String,
    pub(in crate::image) size: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::image) struct ImageRecord {
    pub(in crate::image) id: String,
    pub(in crate::image) digest: String,
    pub(in crate::image) created: Option<String>,
    /// Lowest first, each once.
    pub(in crate::image) layers: Vec<LayerRecord>,
}

impl ImageRecord {
    /// Bytes of the files of its layers.
    pub(in crate::image) fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    /// Are its digests such that they name places of the store?
    fn is_sound(&self) -> bool {
        is_digest(&self.digest) && self.layers.iter().all(|layer| is_digest(&layer.diff_id))
    }
}

fn damaged(id: &str, reason: &str) -> Error {
    Error::Damaged { id: id.to_owned(), reason: reason.to_owned() }
}

/// Proof that the store's lock is held; let go when dropped.
pub(in crate::image) type Lock = File;

impl Store {
    /// Creates the store or opens it, and removes what killed processes left.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_dir(dir).map_err(|error| error.or_full(dir))
    }

    fn open_dir(dir: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io("create", dir))?;
        for name in ["blobs/sha256", "images", "refs", "usage", "signatures", "kept", "l", "tmp"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create", path))?;
        }
        commit::spread(&dir.join("tmp"));
        let inner = Inner {
            dir: dir.to_owned(),
            layers: Mutex::default(),
            leases: Leases::default(),
            gate: Gate::default(),
            names: Mutex::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        let lock = store.lock()?;
        let garbage = store.sweep(&lock)?;
        drop(lock);
        // What cannot be removed is in nobody's way: no reason not to start.
        if let Err(error) = discard(garbage) {
            tracing::warn!(error = chain(&error), "what a killed process left is not removed");
        }
        Ok(store)
    }

    /// Looks an image up as Docker does: `name[:tag]`, `name@digest`, an id (`sha256:` or bare) or
    /// an unambiguous beginning of one. One that is damaged is as good as none: a pull mends it.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, Error> {
        self.find_locked(&self.lock()?, reference)
    }

    pub(in crate::image) fn find_locked(
        &self,
        lock: &Lock,
        reference: &str,
    ) -> Result<Option<Image>, Error> {
        match self.whole(lock, reference) {
            Ok((image, _)) => Ok(Some(image)),
            Err(Error::Unknown { .. }) => Ok(None),
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(reference, error = chain(&error), "an image cannot be used");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Every image, the newest first; those that are damaged say so.
    pub fn list(&self) -> Result<Vec<ImageView>, Error> {
        let lock = self.lock()?;
        let mut names: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
        for (_, reference, id) in self.names(&lock)? {
            names.entry(id).or_default().push(reference);
        }
        let mut views = Vec::new();
        for id in self.image_ids(&lock)? {
            let (mut references, mut repo_digests) = (Vec::new(), Vec::new());
            let names = names.remove(&id).unwrap_or_default();
            let kept = self.kept_of(&names);
            for reference in names {
                let list =
                    if reference.tag().is_some() { &mut references } else { &mut repo_digests };
                list.push(reference.familiar());
            }
            references.sort();
            repo_digests.sort();
            let mut view = ImageView {
                references,
                repo_digests,
                id,
                digest: String::new(),
                created: None,
                size: 0,
                labels: BTreeMap::new(),
                kept,
                damage: None,
            };
            match self.examine(&view.id) {
                Ok((record, config)) => {
                    view.size = record.size();
                    view.digest = record.digest;
                    view.created = record.created;
                    view.labels = config.into_config().labels;
                }
                Err(error) => view.damage = Some(chain(&error)),
            }
            views.push(view);
        }
        let made = |view: &ImageView| view.created.as_deref()?.parse::<jiff::Timestamp>().ok();
        views.sort_by(|a, b| {
            made(b).cmp(&made(a)).then_with(|| (&a.references, &a.id).cmp(&(&b.references, &b.id)))
        });
        Ok(views)
    }

    /// How many layers are unpacked at a time.
    pub(in crate::image) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// Held while a layer is fetched, so that two pulls in this process share the work. To be
    /// taken in the order of diff ids. Per registry: anybody may claim to have a layer, and be slow.
    pub(in crate::image) fn layer_lock(
        &self,
        registry: &str,
        diff_id: &str,
    ) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.inner.layers.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let name = (registry.to_owned(), diff_id.to_owned());
        if let Some(lock) = locks.get(&name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(name, Arc::downgrade(&lock));
        lock
    }

    /// A document by its digest, if the store has it undamaged.
    pub(in crate::image) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)).ok()?;
        (digest_of(&bytes) == digest).then_some(bytes)
    }

    /// The configuration of an image, undamaged.
    pub(in crate::image) fn configuration(&self, id: &str) -> Result<Vec<u8>, Error> {
        self.blob(id).ok_or_else(|| damaged(id, "its configuration is missing or was changed"))
    }

    /// The layer with this diff id, if the store has it undamaged.
    pub(in crate::image) fn layer(&self, diff_id: &str) -> Result<Option<LayerRecord>, Error> {
        let dir = self.layer_path(diff_id);
        if !dir.join("fs").is_dir() {
            return Ok(None);
        }
        let record: LayerRecord = match read_record(&dir.join("layer")) {
            Ok(record) => record,
            Err(error) if error.is_damage() => {
                tracing::warn!(layer = diff_id, error = chain(&error), "a layer cannot be used");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if record.diff_id == diff_id {
            return Ok(Some(record));
        }
        if is_digest(&record.diff_id) && self.layer_path(&record.diff_id) == dir {
            let (found, wanted) = (record.diff_id, diff_id.to_owned());
            return Err(Error::ShortName { path: dir, found, wanted });
        }
        tracing::warn!(layer = diff_id, found = record.diff_id, "a layer's record is another's");
        Ok(None)
    }

    /// What a layer was compressed to when it was last pushed; `None` if it never was.
    pub(in crate::image) fn pushed_layer(&self, diff_id: &str) -> Option<PushedLayer> {
        let record: PushedLayer = read_record(&self.layer_path(diff_id).join(PUSHED)).ok()?;
        is_digest(&record.digest).then_some(record)
    }

    /// Half a record is as good as none, so it is written in place.
    pub(in crate::image) fn note_pushed_layer(
        &self,
        diff_id: &str,
        pushed: &PushedLayer,
    ) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.pushed_layer(diff_id).as_ref() == Some(pushed) {
            return Ok(());
        }
        let path = self.layer_path(diff_id).join(PUSHED);
        let text = serde_json::to_vec(pushed)
            .map_err(|source| Error::Record { path: path.clone(), source })?;
        fs::write(&path, text).map_err(|error| {
            // On a full disk its room is wanted.
            let _ = fs::remove_file(&path);
            Error::io("write", path)(error)
        })
    }

    /// Those of the layers that the store has not.
    pub(in crate::image) fn without(
        &self,
        mut diff_ids: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, Error> {
        let mut failure = None;
        diff_ids.retain(|diff_id| match self.layer(diff_id) {
            Ok(known) => known.is_none(),
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        failure.map_or(Ok(diff_ids), Err)
    }

    pub(in crate::image) fn image(&self, lock: &Lock, id: &str) -> Result<Image, Error> {
        self.whole_by_id(lock, id).map(|(image, _)| image)
    }

    /// An image that can be used.
    pub(in crate::image) fn whole(
        &self,
        lock: &Lock,
        reference: &str,
    ) -> Result<(Image, ImageRecord), Error> {
        match self.resolve(lock, reference)? {
            Some((id, _)) => self.whole_by_id(lock, &id),
            None => Err(Error::Unknown { reference: reference.to_owned() }),
        }
    }

    pub(in crate::image) fn whole_by_id(
        &self,
        lock: &Lock,
        id: &str,
    ) -> Result<(Image, ImageRecord), Error> {
        let (record, config) = self.examine(id)?;
        let (mut references, mut repo_digests) = (Vec::new(), Vec::new());
        for reference in self.names_of(lock, id)? {
            let list = if reference.tag().is_some() { &mut references } else { &mut repo_digests };
            list.push(reference.familiar());
        }
        references.sort();
        repo_digests.sort();
        let layers = record.layers.iter().rev();
        let mut hidden = false;
        let shown =
            layers.map(|layer| self.layer_path(&layer.diff_id).join("fs")).take_while(|fs| {
                // The kernel asks directories whether they hide what is below, but not a layer's root.
                let mut value = [0; 2];
                let opaque = rustix::fs::getxattr(fs, OPAQUE_XATTR, &mut value);
                let take = !hidden;
                hidden |= opaque == Ok(1) && value[0] == b'y';
                take
            });
        let layers = shown.collect();
        let image = Image {
            references,
            repo_digests,
            layers,
            size: record.size(),
            config: config.into_config(),
            created: record.created.clone(),
            digest: record.digest.clone(),
            id: record.id.clone(),
        };
        Ok((image, record))
    }

    /// Reads an image's record and configuration and sees that its layers are there.
    fn examine(&self, id: &str) -> Result<(ImageRecord, ImageConfig), Error> {
        let record: ImageRecord = match read_record(&self.image_path(id)) {
            Ok(record) => record,
            Err(error) if error.is_damage() => return Err(damaged(id, &chain(&error))),
            Err(error) => return Err(error),
        };
        if record.id != id || !is_digest(&record.digest) {
            return Err(damaged(id, "its record is another image's"));
        }
        let text = self.configuration(id)?;
        let config: ImageConfig = serde_json::from_slice(&text)
            .map_err(|error| damaged(id, &format!("its configuration: {error}")))?;
        for layer in &record.layers {
            if !is_digest(&layer.diff_id) || self.layer(&layer.diff_id)?.is_none() {
                return Err(damaged(id, &format!("layer {} is missing", layer.diff_id)));
            }
        }
        Ok((record, config))
    }

    /// Ids of all images, whatever their state.
    pub(in crate::image) fn image_ids(&self, _lock: &Lock) -> Result<Vec<String>, Error> {
        let ids = files(&self.at("images"))?.into_iter().filter_map(|path| {
            let id = format!("sha256:{}", path.file_stem()?.to_str()?);
            is_digest(&id).then_some(id)
        });
        Ok(ids.collect())
    }

    /// The records of images that can be read.
    pub(in crate::image) fn images(&self, lock: &Lock) -> Result<Vec<ImageRecord>, Error> {
        let mut images = Vec::new();
        for id in self.image_ids(lock)? {
            match read_record::<ImageRecord>(&self.image_path(&id)) {
                Ok(record) if record.id == id && record.is_sound() => images.push(record),
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(images)
    }

    pub(in crate::image) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    /// Says what to do where the store's disk is full.
    pub(in crate::image) fn explain(&self, error: Error) -> Error {
        error.or_full(&self.inner.dir)
    }

    pub(in crate::image) fn at(&self, name: &str) -> PathBuf {
        self.inner.dir.join(name)
    }

    pub(in crate::image) fn lock(&self) -> Result<Lock, Error> {
        let path = self.at("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock", path)(errno.into())),
            }
        }
    }

    pub(in crate::image) fn blob_path(&self, digest: &str) -> PathBuf {
        debug_assert!(is_digest(digest));
        self.at("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    pub(in crate::image) fn image_path(&self, id: &str) -> PathBuf {
        debug_assert!(is_digest(id));
        self.at("images").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }
    pub(in crate::image) fn layer_path(&self, diff_id: &str) -> PathBuf {
        debug_assert!(is_digest(diff_id));
        self.at("l").join(short_name(diff_id))
    }
}
