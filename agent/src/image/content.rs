//! The store on disk. Its owner is whoever holds the lock; several processes may open one store.
//!
//! ```text
//! lock                        flock: exclusive for each change below, except inside tmp/<own>
//! blobs/sha256/<hex>          manifests and configurations
//! images/<id hex>.json        an image: manifest, layers, size
//! refs/<sha256 of name>.json  a name (name:tag or name@digest) and the image it stands for
//! l/<26 characters>/fs        an unpacked layer; the name is the head of its diff id in base 32,
//!                   /layer    short because overlayfs takes all names in 4096 bytes; the whole
//!                             diff id stands beside
//! tmp/<uuid>/                 a pull or load in progress; its maker holds a flock on it
//! ```
//!
//! A pull builds everything in `tmp/<uuid>` and commits under the lock: layers by rename, then
//! blobs, the image, its names. Layer data is synced (one `syncfs`) before the first rename, records
//! by fsync, so after a power failure a record never speaks of content that is not there. A process
//! killed in between leaves a directory that nobody locks, or layers that no image names; both go
//! at the next [`Store::open`]. Every name is one file, so moving a tag is one rename.
//!
//! The directory has mode 0700: set-id programs and device nodes of images are out of reach of the
//! host's users.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::gate::Gate;
use super::layer::digest_of;
use super::manifest::ImageConfig;
use super::reference::{Reference, is_digest, is_lower_hex};
use super::unpack::make_directory;
use super::{Error, Image};
use crate::api::types::{ImageView, RemovedImage};

/// The image store. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// One pull of a layer at a time; entries are dropped when nobody waits.
    layers: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    gate: Gate,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) diff_id: String,
    /// Bytes of the files.
    pub(super) size: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageRecord {
    id: String,
    digest: String,
    created: Option<String>,
    /// Lowest first, each once.
    layers: Vec<LayerRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NameRecord {
    /// The full spelling.
    reference: String,
    id: String,
}

/// A pull in progress: a directory of its own, removed with the last clone unless committed.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    _lock: File,
}

impl Staging {
    pub(super) fn path(&self) -> &Path {
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
pub(super) struct NewImage {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) created: Option<String>,
    /// Lowest first, each once; the directory holds `fs` and `layer`, `None` if the store has the layer.
    pub(super) layers: Vec<(LayerRecord, Option<PathBuf>)>,
    pub(super) names: Vec<Reference>,
}

/// A commit either succeeds or finds that a layer it relied on was removed meanwhile.
#[derive(Debug)]
pub(super) enum Commit {
    Done,
    LayerGone,
}

type Lock = File;

impl Store {
    /// Creates the store or opens it, and removes what killed processes left.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(Error::io("create", dir))?;
        for name in ["blobs/sha256", "images", "refs", "l", "tmp"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(Error::io("create", path))?;
        }
        let store = Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                layers: Mutex::default(),
                gate: Gate::default(),
            }),
        };
        let lock = store.lock()?;
        let garbage = store.sweep(&lock)?;
        drop(lock);
        discard(garbage)?;
        Ok(store)
    }

    /// Looks an image up as Docker does: `name[:tag]`, `name@digest`, an id (`sha256:` or bare) or
    /// an unambiguous beginning of one.
    pub fn find(&self, reference: &str) -> Result<Option<Image>, Error> {
        let lock = self.lock()?;
        let Some((id, _)) = self.resolve(&lock, reference)? else { return Ok(None) };
        self.image(&lock, &id).map(Some)
    }

    /// Every image, the newest name last.
    pub fn list(&self) -> Result<Vec<ImageView>, Error> {
        let lock = self.lock()?;
        let names = self.names(&lock)?;
        let mut views = Vec::new();
        for record in self.images(&lock)? {
            let mut references = Vec::new();
            for (_, reference, id) in &names {
                if *id == record.id && reference.tag().is_some() {
                    references.push(reference.familiar());
                }
            }
            references.sort();
            views.push(ImageView {
                references,
                size: record.layers.iter().map(|layer| layer.size).sum(),
                id: record.id,
                digest: record.digest,
                created: record.created,
            });
        }
        views.sort_by(|a, b| (&a.references, &a.id).cmp(&(&b.references, &b.id)));
        Ok(views)
    }

    /// `docker rmi`: a name is untagged; with its last name, or by id, the image goes. `in_use`
    /// tells whether a container needs the image with this id.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<RemovedImage, Error> {
        let lock = self.lock()?;
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
        for (path, name) in untag {
            fs::remove_file(path).map_err(Error::io("remove", path))?;
            removed.untagged.push(name.familiar());
        }
        removed.untagged.sort();
        sync_dir(&self.at("refs"))?;
        let mut garbage = Vec::new();
        if delete {
            let record: ImageRecord = read_record(&self.image_path(&id))?;
            let path = self.image_path(&id);
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
            sync_dir(&self.at("images"))?;
            let kept: BTreeSet<String> = self.diff_ids(&lock)?;
            removed.deleted.push(id);
            removed.deleted.extend(
                record
                    .layers
                    .into_iter()
                    .rev()
                    .map(|layer| layer.diff_id)
                    .filter(|id| !kept.contains(id)),
            );
            garbage = self.collect(&lock)?;
        }
        drop(lock);
        discard(garbage)?;
        Ok(removed)
    }

    // --- for pull and load -----------------------------------------------------------------------

    /// A directory of one's own, in the same filesystem.
    pub(super) fn stage(&self) -> Result<Arc<Staging>, Error> {
        // Under the lock, so that no sweep comes between making the directory and locking it.
        let _lock = self.lock()?;
        let path = self.at("tmp").join(uuid::Uuid::new_v4().to_string());
        make_directory(&path, 0o700).map_err(Error::io("create", &path))?;
        let lock = File::open(&path).map_err(Error::io("open", &path))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("lock", &path)(errno.into()))?;
        Ok(Arc::new(Staging { path, _lock: lock }))
    }

    /// How many layers are unpacked at a time.
    pub(super) fn gate(&self) -> &Gate {
        &self.inner.gate
    }

    /// Held while a layer is fetched, so that two pulls in this process share the work. To be
    /// taken in the order of diff ids.
    pub(super) fn layer_lock(&self, diff_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.inner.layers.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(diff_id).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(diff_id.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// A document by its digest, if the store has it undamaged.
    pub(super) fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        let bytes = fs::read(self.blob_path(digest)).ok()?;
        (digest_of(&bytes) == digest).then_some(bytes)
    }

    /// The layer with this diff id, if the store has it.
    pub(super) fn layer(&self, diff_id: &str) -> Result<Option<LayerRecord>, Error> {
        let dir = self.layer_path(diff_id);
        if !dir.exists() {
            return Ok(None);
        }
        let record: LayerRecord = read_record(&dir.join("layer"))?;
        if record.diff_id != diff_id {
            let (found, wanted) = (record.diff_id, diff_id.to_owned());
            return Err(Error::ShortName { path: dir, found, wanted });
        }
        Ok(Some(record))
    }

    /// Makes images and their names part of the store.
    pub(super) fn commit(&self, images: &[NewImage]) -> Result<Commit, Error> {
        let layers = || images.iter().flat_map(|image| &image.layers);
        let staged: BTreeSet<&str> = layers()
            .filter(|(_, dir)| dir.is_some())
            .map(|(layer, _)| layer.diff_id.as_str())
            .collect();
        if !staged.is_empty() {
            let dir = File::open(&self.inner.dir).map_err(Error::io("open", &self.inner.dir))?;
            rustix::fs::syncfs(&dir)
                .map_err(|errno| Error::io("sync", &self.inner.dir)(errno.into()))?;
        }
        let lock = self.lock()?;
        for (layer, _) in layers() {
            if !staged.contains(layer.diff_id.as_str()) && self.layer(&layer.diff_id)?.is_none() {
                return Ok(Commit::LayerGone);
            }
        }
        let result = self
            .commit_layers(layers())
            .and_then(|()| images.iter().try_for_each(|image| self.commit_image(image)));
        // What a moved tag or a failure left; a failure is the error to tell.
        let collected = self.collect(&lock);
        drop(lock);
        let collected = collected.and_then(discard);
        result.and(collected).map(|()| Commit::Done)
    }

    fn commit_layers<'a>(
        &self,
        layers: impl Iterator<Item = &'a (LayerRecord, Option<PathBuf>)>,
    ) -> Result<(), Error> {
        for (layer, staged) in layers {
            let Some(staged) = staged else { continue };
            // Somebody else may have been faster, with the same verified content.
            if self.layer(&layer.diff_id)?.is_none() {
                let to = self.layer_path(&layer.diff_id);
                fs::rename(staged, &to).map_err(Error::io("commit layer", to))?;
            }
        }
        sync_dir(&self.at("l"))
    }

    fn commit_image(&self, new: &NewImage) -> Result<(), Error> {
        let (id, digest) = (digest_of(&new.config), digest_of(&new.manifest));
        for (name, bytes) in [(&id, &new.config), (&digest, &new.manifest)] {
            if self.blob(name).is_none() {
                write_file(&self.blob_path(name), bytes)?;
            }
        }
        let layers = new.layers.iter().map(|(layer, _)| layer.clone()).collect();
        let record = ImageRecord { id: id.clone(), digest, created: new.created.clone(), layers };
        write_record(&self.image_path(&id), &record)?;
        for name in &new.names {
            let reference = name.to_string();
            let path = self.name_path(&reference);
            write_record(&path, &NameRecord { reference, id: id.clone() })?;
        }
        Ok(())
    }

    // --- lookup ----------------------------------------------------------------------------------

    fn resolve(
        &self,
        lock: &Lock,
        text: &str,
    ) -> Result<Option<(String, Option<Reference>)>, Error> {
        let full = text.strip_prefix("sha256:").unwrap_or(text);
        if full.len() == 64 && is_lower_hex(full) {
            let id = format!("sha256:{full}");
            return Ok(self.image_path(&id).exists().then_some((id, None)));
        }
        if let Ok(reference) = Reference::parse(text) {
            // With both, the digest decides, as in Docker.
            let name = match reference.digest() {
                Some(digest) => reference.with_digest(digest),
                None => reference,
            };
            let path = self.name_path(&name.to_string());
            if path.exists() {
                let record: NameRecord = read_record(&path)?;
                return Ok(Some((record.id, Some(name))));
            }
        }
        if full.is_empty() || full.len() > 64 || !is_lower_hex(full) {
            return Ok(None);
        }
        let mut ids: Vec<String> = self
            .images(lock)?
            .into_iter()
            .map(|record| record.id)
            .filter(|id| id["sha256:".len()..].starts_with(full))
            .collect();
        match ids.len() {
            0 | 1 => Ok(ids.pop().map(|id| (id, None))),
            count => Err(Error::Ambiguous { prefix: text.to_owned(), count }),
        }
    }

    pub(super) fn image_by_id(&self, id: &str) -> Result<Image, Error> {
        self.image(&self.lock()?, id)
    }

    fn image(&self, lock: &Lock, id: &str) -> Result<Image, Error> {
        let record: ImageRecord = read_record(&self.image_path(id))?;
        let path = self.blob_path(id);
        let text = self.blob(id).ok_or_else(|| {
            let reason = "the content does not have the digest of its name";
            Error::io("read configuration", &path)(std::io::Error::other(reason))
        })?;
        let config: ImageConfig = serde_json::from_slice(&text)
            .map_err(|source| Error::Record { path: path.clone(), source })?;
        let (mut references, mut repo_digests) = (Vec::new(), Vec::new());
        for (_, reference, owner) in self.names(lock)? {
            if owner == id {
                let list =
                    if reference.tag().is_some() { &mut references } else { &mut repo_digests };
                list.push(reference.familiar());
            }
        }
        references.sort();
        repo_digests.sort();
        Ok(Image {
            references,
            repo_digests,
            layers: record
                .layers
                .iter()
                .rev()
                .map(|layer| self.layer_path(&layer.diff_id).join("fs"))
                .collect(),
            size: record.layers.iter().map(|layer| layer.size).sum(),
            config: config.into_config(),
            created: record.created,
            digest: record.digest,
            id: record.id,
        })
    }

    fn images(&self, _lock: &Lock) -> Result<Vec<ImageRecord>, Error> {
        files(&self.at("images"))?.iter().map(|path| read_record(path)).collect()
    }

    fn names(&self, _lock: &Lock) -> Result<Vec<(PathBuf, Reference, String)>, Error> {
        let mut names = Vec::new();
        for path in files(&self.at("refs"))? {
            let record: NameRecord = read_record(&path)?;
            let reference = Reference::parse(&record.reference).map_err(|source| {
                Error::Reference { reference: record.reference.clone(), source }
            })?;
            names.push((path, reference, record.id));
        }
        Ok(names)
    }

    fn diff_ids(&self, lock: &Lock) -> Result<BTreeSet<String>, Error> {
        let images = self.images(lock)?;
        Ok(images.into_iter().flat_map(|image| image.layers).map(|layer| layer.diff_id).collect())
    }

    // --- garbage ---------------------------------------------------------------------------------

    fn sweep(&self, lock: &Lock) -> Result<Vec<PathBuf>, Error> {
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
    fn collect(&self, lock: &Lock) -> Result<Vec<PathBuf>, Error> {
        for dir in ["images", "refs", "blobs/sha256"] {
            for path in all_files(&self.at(dir))?.iter().filter(|path| is_temporary(path)) {
                fs::remove_file(path).map_err(Error::io("remove", path))?;
            }
        }
        let images = self.images(lock)?;
        let mut blobs = BTreeSet::new();
        let mut layers = BTreeMap::new();
        for image in &images {
            blobs.insert(self.blob_path(&image.id));
            blobs.insert(self.blob_path(&image.digest));
            for layer in &image.layers {
                layers.insert(self.layer_path(&layer.diff_id), ());
            }
        }
        for path in files(&self.at("blobs/sha256"))? {
            if !blobs.contains(&path) {
                fs::remove_file(&path).map_err(Error::io("remove", path))?;
            }
        }
        let mut garbage = Vec::new();
        for path in files(&self.at("l"))? {
            if !layers.contains_key(&path) {
                let aside = self.at("tmp").join(uuid::Uuid::new_v4().to_string());
                fs::rename(&path, &aside).map_err(Error::io("move aside", path))?;
                garbage.push(aside);
            }
        }
        Ok(garbage)
    }

    // --- places ----------------------------------------------------------------------------------

    fn at(&self, name: &str) -> PathBuf {
        self.inner.dir.join(name)
    }

    fn lock(&self) -> Result<Lock, Error> {
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

    fn blob_path(&self, digest: &str) -> PathBuf {
        debug_assert!(is_digest(digest));
        self.at("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn image_path(&self, id: &str) -> PathBuf {
        debug_assert!(is_digest(id));
        self.at("images").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn name_path(&self, reference: &str) -> PathBuf {
        let hash = hex::encode(Sha256::digest(reference.as_bytes()));
        self.at("refs").join(format!("{hash}.json"))
    }

    fn layer_path(&self, diff_id: &str) -> PathBuf {
        debug_assert!(is_digest(diff_id));
        self.at("l").join(short_name(diff_id))
    }
}

/// The first 130 bits of a digest in base 32.
fn short_name(digest: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digits = digest.trim_start_matches("sha256:").bytes();
    let (mut bits, mut have, mut name) = (0_usize, 0_u32, String::with_capacity(26));
    for digit in digits.map(|byte| char::from(byte).to_digit(16).unwrap_or(0)) {
        bits = (bits << 4 | digit as usize) & 0xff;
        have += 4;
        if have >= 5 && name.len() < 26 {
            have -= 5;
            name.push(char::from(ALPHABET[bits >> have & 31]));
        }
    }
    name
}

fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

fn all_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        paths.push(entry.map_err(Error::io("list", dir))?.path());
    }
    paths.sort();
    Ok(paths)
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = all_files(dir)?;
    paths.retain(|path| !is_temporary(path));
    Ok(paths)
}

fn read_record<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Record { path: path.to_owned(), source })
}

fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), Error> {
    let text = serde_json::to_vec(record)
        .map_err(|source| Error::Record { path: path.to_owned(), source })?;
    write_file(path, &text)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(Error::io("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io("sync", dir))
}

fn discard(garbage: Vec<PathBuf>) -> Result<(), Error> {
    for path in garbage {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Ok(()) => {}
            // Another process that opens the store sweeps the same.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", path)(error)),
        }
    }
    Ok(())
}

/// Writes the record that makes a directory a layer.
pub(super) fn seal_layer(dir: &Path, record: &LayerRecord) -> Result<(), Error> {
    let path = dir.join("layer");
    let text = serde_json::to_vec(record)
        .map_err(|source| Error::Record { path: path.clone(), source })?;
    // Synced with the layer's content by the commit.
    fs::write(&path, text).map_err(Error::io("write", path))
}
