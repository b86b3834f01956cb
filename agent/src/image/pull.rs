//! From a registry into the store: manifest, configuration, layers, commit.
//!
//! At most [`PARALLEL`] layers are in transit. Each is hashed by the async task as it arrives and
//! goes through a bounded queue to a blocking worker that unpacks it; when the queue is full the
//! task stops reading and TCP slows the registry down. The first failure cancels the others, and
//! all workers have ended before the error is returned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::content::{Commit, LayerRecord, NewImage, Staging, Store, seal_layer};
use super::layer::{self, Channel};
use super::manifest::{self, Descriptor, Document, ImageConfig, Manifest, Refusal};
use super::platform::{self, Platform};
use super::reference::Reference;
use super::registry::{self, ATTEMPTS, Session};
use super::unpack::{self, Limits, make_directory};
use super::{Error, Image, Progress};
use crate::api::types::PullEvent;
pub(super) use crate::error::chain;

const PARALLEL: usize = 3;
/// Chunks between a download and its worker; a chunk is what a read of the socket gave, at most
/// some 100 KiB.
const QUEUE: usize = 32;
const REPORT_EVERY: u64 = 1 << 20;
/// Damaged content is read on to tell a wrong digest from a layer that was made wrong, up to here.
const READ_ON: u64 = 64 << 20;

impl Store {
    /// Fetches an image. `platform` is `os/architecture[/variant]`, the host's if absent. A tag is
    /// asked for anew each time; layers that the store has are not fetched. The last event is
    /// `Done` or `Failed`.
    pub async fn pull(
        &self,
        reference: &str,
        platform: Option<&str>,
        auth: &Auth,
        progress: Progress,
    ) -> Result<Image, Error> {
        progress(PullEvent::Resolving { reference: reference.to_owned() });
        let result = self.pull_parsed(reference, platform, auth, &progress).await;
        progress(match &result {
            Ok(image) => {
                PullEvent::Done { reference: reference.to_owned(), digest: image.digest.clone() }
            }
            Err(error) => {
                PullEvent::Failed { reference: reference.to_owned(), message: chain(error) }
            }
        });
        result
    }

    async fn pull_parsed(
        &self,
        text: &str,
        platform: Option<&str>,
        auth: &Auth,
        progress: &Progress,
    ) -> Result<Image, Error> {
        let reference = Reference::parse(text)
            .map_err(|source| Error::Reference { reference: text.to_owned(), source })?;
        let wanted = match platform {
            Some(text) => Platform::parse(text)
                .ok_or_else(|| Error::PlatformSyntax { platform: text.to_owned() })?,
            None => Platform::host(),
        };
        let session = retry(|| Session::open(&reference, auth.of(&reference)))
            .await
            .map_err(|source| registry_error(text, &reference, source))?;
        let pull = Pull {
            store: self.clone(),
            session,
            reference,
            text: text.to_owned(),
            progress: Arc::clone(progress),
        };
        pull.run(&wanted, platform.is_some()).await
    }
}

fn registry_error(text: &str, reference: &Reference, source: registry::Error) -> Error {
    let registry = reference.domain().to_owned();
    Error::Registry { reference: text.to_owned(), registry, source: Box::new(source) }
}

/// Names the image in what a document's parser refused.
pub(super) fn refuse(reference: &str, document: &str, refusal: Refusal) -> Error {
    let (reference, document) = (reference.to_owned(), document.to_owned());
    match refusal {
        Refusal::Json(source) => Error::Document { reference, document, source },
        Refusal::MediaType { media_type, hint } => {
            Error::MediaType { reference, document, media_type, hint }
        }
        Refusal::Inconsistent(reason) => Error::Inconsistent { reference, reason },
    }
}

/// Repeats what may work a moment later. A registry that refuses connections is not asked again:
/// the caller knows better how long to wait for it.
async fn retry<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, registry::Error>
where
    // Not an async closure: its futures cannot be promised to be `Send` for every lifetime.
    F: Future<Output = Result<T, registry::Error>>,
{
    let mut tries = 0;
    loop {
        match attempt().await {
            Err(error)
                if error.is_transient()
                    && !matches!(error, registry::Error::Down(_))
                    && tries + 1 < ATTEMPTS =>
            {
                tokio::time::sleep(backoff(tries)).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

fn backoff(tries: u32) -> Duration {
    Duration::from_millis(200 << tries.min(5))
}

/// Checks what a manifest and a configuration say of each other and of the platform.
pub(super) fn check_config(
    reference: &str,
    manifest: &Manifest,
    config: &ImageConfig,
    wanted: Option<&Platform>,
) -> Result<(), Error> {
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        let reason =
            format!("the manifest has {layers} layers, the configuration {diff_ids} diff ids");
        return Err(Error::Inconsistent { reference: reference.to_owned(), reason });
    }
    let os = if config.os.is_empty() { "linux" } else { config.os.as_str() };
    let fits = match wanted {
        Some(wanted) => wanted.fits(os, &config.architecture, Some(&config.variant)),
        None => os == "linux",
    };
    if fits {
        return Ok(());
    }
    Err(Error::NoPlatform {
        reference: reference.to_owned(),
        wanted: wanted.map_or_else(|| "linux".to_owned(), ToString::to_string),
        offered: format!("{os}/{}", config.architecture),
    })
}

struct Pull {
    store: Store,
    session: Session,
    reference: Reference,
    text: String,
    progress: Progress,
}

/// A layer to fetch, and where it goes.
struct Fetch {
    descriptor: Descriptor,
    diff_id: String,
    dir: PathBuf,
}

impl Pull {
    async fn run(self, wanted: &Platform, explicit: bool) -> Result<Image, Error> {
        let (text, resolved, manifest) = self.manifest(wanted).await?;
        let config_text = self.config(&manifest.config).await?;
        let config = ImageConfig::parse(&config_text)
            .map_err(|refusal| refuse(&self.text, "configuration", refusal))?;
        check_config(&self.text, &manifest, &config, explicit.then_some(wanted))?;

        // In one order everywhere, or two pulls could wait for each other.
        let diff_ids: BTreeSet<&String> = config.rootfs.diff_ids.iter().collect();
        let locks: Vec<_> = diff_ids.iter().map(|diff_id| self.store.layer_lock(diff_id)).collect();
        let mut guards = Vec::with_capacity(locks.len());
        for lock in &locks {
            guards.push(lock.lock().await);
        }
        let mut names = vec![self.reference.with_digest(&resolved)];
        if self.reference.digest().is_none() {
            names.extend(self.reference.tagged());
        }
        loop {
            let staging = self.blocking(|store| store.stage()).await?;
            let layers = self.layers(&manifest, &config, &staging).await;
            let result = match layers {
                Ok(layers) => {
                    let new = NewImage {
                        manifest: text.to_vec(),
                        config: config_text.clone(),
                        created: config.created.clone(),
                        layers,
                        names: names.clone(),
                    };
                    self.blocking(move |store| store.commit(std::slice::from_ref(&new))).await
                }
                Err(error) => Err(error),
            };
            // Here and not in an async drop: removing many files takes a while.
            tokio::task::spawn_blocking(move || drop(staging)).await.map_err(Error::Worker)?;
            match result? {
                Commit::Done => break,
                // An `image rm` came between; what it took is fetched.
                Commit::LayerGone => {}
            }
        }
        let id = layer::digest_of(&config_text);
        self.blocking(move |store| store.image_by_id(&id)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(Error::Worker)?
    }

    fn registry(&self, source: registry::Error) -> Error {
        registry_error(&self.text, &self.reference, source)
    }

    /// The manifest for the platform, and the digest that the reference stands for.
    async fn manifest(&self, wanted: &Platform) -> Result<(Bytes, String, Manifest), Error> {
        let (bytes, resolved) =
            retry(|| self.session.manifest(None)).await.map_err(|error| self.registry(error))?;
        let entries = match self.document(&bytes, "manifest")? {
            Document::Manifest(manifest) => return Ok((bytes, resolved, manifest)),
            Document::Index(entries) => entries,
        };
        let Some(entry) = wanted.choose(&entries) else {
            let (reference, wanted) = (self.text.clone(), wanted.to_string());
            return Err(Error::NoPlatform {
                reference,
                wanted,
                offered: platform::offered(&entries),
            });
        };
        let (bytes, actual) = retry(|| self.session.manifest(Some(&entry.digest)))
            .await
            .map_err(|error| self.registry(error))?;
        if actual != entry.digest {
            let reason =
                format!("the manifest has digest {actual}, the index says {}", entry.digest);
            return Err(Error::Inconsistent { reference: self.text.clone(), reason });
        }
        match self.document(&bytes, "manifest of the platform")? {
            Document::Manifest(manifest) => Ok((bytes, resolved, manifest)),
            Document::Index(_) => {
                let reason = "the index names another index for this platform".to_owned();
                Err(Error::Inconsistent { reference: self.text.clone(), reason })
            }
        }
    }

    fn document(&self, bytes: &[u8], name: &str) -> Result<Document, Error> {
        if bytes.len() as u64 > manifest::MAX_DOCUMENT {
            let reason = format!("the {name} is larger than {} bytes", manifest::MAX_DOCUMENT);
            return Err(Error::Inconsistent { reference: self.text.clone(), reason });
        }
        manifest::parse(bytes).map_err(|refusal| refuse(&self.text, name, refusal))
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if let Some(known) = self.store.blob(&descriptor.digest) {
            return Ok(known);
        }
        let mut text = Collected(Vec::new());
        let cancel = CancellationToken::new();
        let mut hash = Sha256::new();
        let result = self
            .download(descriptor, &mut hash, &cancel, &mut text)
            .await
            .and_then(|()| check_digest(&descriptor.digest, hash));
        match result {
            Ok(()) => Ok(text.0),
            Err(unpack::Error::Transfer(source)) => Err(self.registry(source)),
            Err(source) => Err(Error::Layer {
                reference: self.text.clone(),
                layer: format!("configuration {}", descriptor.digest),
                source: Box::new(source),
            }),
        }
    }

    async fn layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        staging: &Arc<Staging>,
    ) -> Result<Vec<(LayerRecord, Option<PathBuf>)>, Error> {
        let mut known = BTreeMap::new();
        let mut missing: BTreeMap<&str, Fetch> = BTreeMap::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            match self.store.layer(diff_id)? {
                Some(record) => {
                    self.report(descriptor, descriptor.size);
                    known.insert(diff_id.clone(), (record, None));
                }
                None => {
                    let count = missing.len();
                    missing.entry(diff_id).or_insert_with(|| Fetch {
                        descriptor: descriptor.clone(),
                        diff_id: diff_id.clone(),
                        dir: staging.path().join(count.to_string()),
                    });
                }
            }
        }
        let cancel = CancellationToken::new();
        let results: Vec<_> = futures_util::stream::iter(missing.into_values())
            .map(|fetch| {
                let (cancel, staging) = (cancel.clone(), Arc::clone(staging));
                async move {
                    let result = self.fetch(&fetch, staging, &cancel).await;
                    if result.is_err() {
                        cancel.cancel();
                    }
                    (fetch, result)
                }
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut failure = None;
        for (fetch, result) in results {
            match result {
                Ok(record) => {
                    known.insert(fetch.diff_id, (record, Some(fetch.dir)));
                }
                Err(error) => {
                    let cancelled = matches!(&error, Error::Layer { source, .. }
                        if matches!(**source, unpack::Error::Cancelled));
                    if failure.is_none() || !cancelled {
                        failure = Some(error);
                    }
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let stack = config.stack();
        Ok(stack.iter().filter_map(|diff_id| known.remove(diff_id.as_str())).collect())
    }

    fn report(&self, descriptor: &Descriptor, done: u64) {
        (self.progress)(PullEvent::Layer {
            reference: self.text.clone(),
            layer: descriptor.digest.clone(),
            done,
            total: descriptor.size,
        });
    }

    async fn fetch(
        &self,
        fetch: &Fetch,
        staging: Arc<Staging>,
        cancel: &CancellationToken,
    ) -> Result<LayerRecord, Error> {
        let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
        let (dir, diff_id) = (fetch.dir.clone(), fetch.diff_id.clone());
        let worker = tokio::task::spawn_blocking(move || {
            let result = unpack_into(Channel::new(receiver), &diff_id, &dir);
            drop(staging);
            result
        });
        let descriptor = &fetch.descriptor;
        let mut hash = Sha256::new();
        let mut piped = Piped {
            pull: self,
            descriptor,
            worker: Some(sender),
            done: 0,
            reported: 0,
            after_end: 0,
        };
        let downloaded = self.download(descriptor, &mut hash, cancel, &mut piped).await;
        let after_end = piped.after_end;
        drop(piped);
        let unpacked = worker.await.map_err(Error::Worker)?;
        let result = match (downloaded, unpacked) {
            (Err(error), _) => Err(error),
            (Ok(()), Ok(record)) => check_digest(&descriptor.digest, hash).map(|()| record),
            (Ok(()), Err(error)) if error.is_damage() && after_end <= READ_ON => {
                check_digest(&descriptor.digest, hash).and(Err(error))
            }
            (Ok(()), Err(error)) => Err(error),
        };
        match result {
            Ok(record) => {
                self.report(descriptor, descriptor.size);
                Ok(record)
            }
            Err(unpack::Error::Transfer(source)) => Err(self.registry(source)),
            Err(source) => Err(Error::Layer {
                reference: self.text.clone(),
                layer: descriptor.digest.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// Streams a blob through `sink`, hashes it and checks its size; goes on where a broken
    /// transfer stopped. `sink` returns whether it wants more.
    async fn download(
        &self,
        descriptor: &Descriptor,
        hash: &mut Sha256,
        cancel: &CancellationToken,
        sink: &mut impl Sink,
    ) -> Result<(), unpack::Error> {
        let (mut done, mut tries) = (0_u64, 0_u32);
        let size = |actual: String| unpack::Error::Size { expected: descriptor.size, actual };
        loop {
            let before = done;
            let failure = 'transfer: {
                let opened = tokio::select! {
                    () = cancel.cancelled() => return Err(unpack::Error::Cancelled),
                    opened = self.session.blob(&descriptor.digest, done) => opened,
                };
                let (mut stream, resumed) = match opened {
                    Ok(opened) => opened,
                    Err(error) => break 'transfer error,
                };
                let mut skip = if resumed { 0 } else { done };
                loop {
                    let chunk = tokio::select! {
                        () = cancel.cancelled() => return Err(unpack::Error::Cancelled),
                        chunk = stream.next() => chunk,
                    };
                    let mut chunk = match chunk {
                        None if done == descriptor.size => return Ok(()),
                        None => return Err(size(done.to_string())),
                        Some(Ok(chunk)) => chunk,
                        Some(Err(error)) if registry::is_digest_error(&error) => {
                            // The client noticed what our own comparison is about to tell.
                            return Ok(());
                        }
                        Some(Err(error)) => {
                            break 'transfer registry::Error::Broken(error);
                        }
                    };
                    if skip > 0 {
                        let over = skip.min(chunk.len() as u64);
                        chunk = chunk.split_off(usize::try_from(over).unwrap_or(chunk.len()));
                        skip -= over;
                    }
                    done += chunk.len() as u64;
                    if done > descriptor.size {
                        return Err(size(format!("more than {}", descriptor.size)));
                    }
                    hash.update(&chunk);
                    if !chunk.is_empty() && !sink.take(chunk).await {
                        return Ok(());
                    }
                }
            };
            tries = if done > before { 0 } else { tries + 1 };
            if !failure.is_transient() || tries >= ATTEMPTS {
                return Err(unpack::Error::Transfer(failure));
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(unpack::Error::Cancelled),
                () = tokio::time::sleep(backoff(tries)) => {}
            }
        }
    }
}

/// Where a download goes. A trait and not an async closure, whose futures cannot be promised to be
/// `Send` for every lifetime.
trait Sink: Send {
    /// Whether it wants more.
    fn take(&mut self, chunk: Bytes) -> impl Future<Output = bool> + Send;
}

/// A small document.
struct Collected(Vec<u8>);

impl Sink for Collected {
    async fn take(&mut self, chunk: Bytes) -> bool {
        self.0.extend_from_slice(&chunk);
        true
    }
}

/// A layer, to the worker that unpacks it.
struct Piped<'a> {
    pull: &'a Pull,
    descriptor: &'a Descriptor,
    /// `None` once the worker wants no more.
    worker: Option<mpsc::Sender<Bytes>>,
    done: u64,
    reported: u64,
    after_end: u64,
}

impl Sink for Piped<'_> {
    async fn take(&mut self, chunk: Bytes) -> bool {
        self.done += chunk.len() as u64;
        if self.done - self.reported >= REPORT_EVERY {
            self.reported = self.done;
            // The last byte counts when it is unpacked.
            self.pull
                .report(self.descriptor, self.done.min(self.descriptor.size.saturating_sub(1)));
        }
        let Some(worker) = &self.worker else {
            self.after_end += chunk.len() as u64;
            return self.after_end <= READ_ON;
        };
        if worker.send(chunk).await.is_err() {
            self.worker = None;
        }
        true
    }
}

fn check_digest(expected: &str, hash: Sha256) -> Result<(), unpack::Error> {
    let actual = layer::digest(hash);
    if actual == expected {
        return Ok(());
    }
    Err(unpack::Error::Digest { expected: expected.to_owned(), actual })
}

/// Unpacks a layer into the new directory `dir` and makes it a layer of the store, but for its
/// place.
pub(super) fn unpack_into(
    blob: impl std::io::Read,
    diff_id: &str,
    dir: &std::path::Path,
) -> Result<LayerRecord, unpack::Error> {
    let failed = |operation| move |source| unpack::Error::Io { operation, source };
    let fs = dir.join("fs");
    make_directory(dir, 0o755).map_err(failed("make the layer's directory"))?;
    make_directory(&fs, 0o755).map_err(failed("make the layer's directory"))?;
    let size = layer::unpack(blob, diff_id, &fs, Limits::DEFAULT)?;
    let record = LayerRecord { diff_id: diff_id.to_owned(), size };
    seal_layer(dir, &record).map_err(|error| unpack::Error::Io {
        operation: "record the layer",
        source: std::io::Error::other(error),
    })?;
    Ok(record)
}
