//! From the store to a registry, as `docker push` does.
//!
//! The store keeps no compressed layers. Where the registry has all that the image came with (in
//! this repository, or in another one that they can be mounted from), the manifest goes as it came
//! and the digest stays. Otherwise what is missing is made again from the layer's files, compared
//! with its diff id, compressed in the same way each time and put under a new manifest; the
//! configuration, and with it the image's id, is the same. What a layer was compressed to is kept, so
//! that nothing is made again for a registry that has it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::content::{ImageRecord, LayerRecord, PushedLayer, Staging, Store};
use super::layer::{digest, digest_of};
use super::lease::Lease;
use super::manifest::{
    self, Descriptor, Document, ImageConfig, Manifest, OCI_CONFIG, OCI_MANIFEST,
};
use super::pull::refuse;
use super::push::{Content, Pushed};
use super::reference::Reference;
use super::registry::{self, Access, Session};
use super::{Error, Image, Login, Registries};
use crate::api::types::PushEvent;
use crate::error::chain;
use crate::failpoint;

/// Layers on their way at the same time.
const PARALLEL: usize = 3;
const BUFFER: usize = 256 << 10;
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Receives the progress of a push; a full channel holds the push up.
pub type PushProgress = tokio::sync::mpsc::Sender<PushEvent>;

impl Store {
    /// Pushes the image that has this name, or all images of the repository, to the registry that
    /// the name says. `login` goes before what is configured for it. The last event of each is
    /// `Done`; the failure is the caller's to tell.
    pub async fn push(
        &self,
        text: &str,
        all_tags: bool,
        login: Option<Login>,
        registries: &Registries,
        progress: PushProgress,
    ) -> Result<(), Error> {
        let reference = Reference::parse(text)
            .map_err(|source| Error::Reference { reference: text.to_owned(), source })?;
        let store = self.clone();
        let found = {
            let reference = reference.clone();
            blocking(move || store.to_push(&reference, all_tags)).await?
        };
        let session = Session::open(&reference, login, registries, Access::Push)
            .map_err(|source| failure(&reference, source))?;
        for source in found {
            let push = Push { store: self, session: &session, progress: &progress, source };
            push.run().await.map_err(|error| self.explain(error))?;
        }
        Ok(())
    }

    /// The images to push, with the names that they get in the registry.
    fn to_push(&self, reference: &Reference, all_tags: bool) -> Result<Vec<Source>, Error> {
        let lock = self.lock()?;
        let mut sources = Vec::new();
        for (_, name, id) in self.names(&lock)? {
            let wanted = name == *reference
                || all_tags && name.tag().is_some() && name.same_repository(reference);
            if wanted && name.tag().is_some() {
                let (image, record) = self.whole_by_id(&lock, &id)?;
                let lease = self.lease_id(&lock, &id);
                sources.push(Source { name, image, record, _lease: lease });
            }
        }
        if sources.is_empty() {
            return Err(Error::NoTag { reference: reference.familiar() });
        }
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sources)
    }
}

fn failure(reference: &Reference, source: registry::Error) -> Error {
    let (reference, registry) = (reference.familiar(), reference.domain().to_owned());
    Error::Push { reference, registry, source: Box::new(source) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Worker)?
}

/// An image to push, and the name that it gets.
struct Source {
    name: Reference,
    image: Image,
    record: ImageRecord,
    /// It stays while it is read.
    _lease: Arc<Lease>,
}

struct Push<'a> {
    store: &'a Store,
    session: &'a Session,
    progress: &'a PushProgress,
    source: Source,
}

impl Push<'_> {
    async fn run(&self) -> Result<(), Error> {
        let Source { name, image, record, .. } = &self.source;
        let config = self.store.configuration(&image.id)?;
        let original = self.store.blob(&image.digest).and_then(|text| {
            let Ok(Document::Manifest(manifest)) = manifest::parse(&text) else { return None };
            Some((text, manifest))
        });
        let diff_ids = ImageConfig::parse(&config)
            .map_err(|refusal| refuse(&image.id, "configuration", refusal))?
            .rootfs
            .diff_ids;
        let known = |at: usize| original.as_ref().and_then(|(_, manifest)| manifest.layers.get(at));
        let staging = {
            let store = self.store.clone();
            blocking(move || store.stage()).await?
        };
        let mut distinct = BTreeSet::new();
        let mut jobs = Vec::new();
        for (at, diff_id) in diff_ids.iter().enumerate() {
            if distinct.insert(diff_id.clone()) {
                let layer = record.layers.iter().find(|layer| layer.diff_id == *diff_id).cloned();
                let layer = layer.ok_or_else(|| Error::Damaged {
                    id: image.id.clone(),
                    reason: format!("its record lacks layer {diff_id}"),
                })?;
                jobs.push(self.layer(layer, known(at).cloned(), at, Arc::clone(&staging)));
            }
        }
        let pushed: Vec<Result<(String, Descriptor), Error>> =
            futures_util::stream::iter(jobs).buffer_unordered(PARALLEL).collect().await;
        tokio::task::spawn_blocking(move || drop(staging)).await.map_err(Error::Worker)?;
        let mut descriptors = std::collections::BTreeMap::new();
        for result in pushed {
            let (diff_id, descriptor) = result?;
            descriptors.insert(diff_id, descriptor);
        }
        let layers: Vec<Descriptor> =
            diff_ids.iter().filter_map(|diff_id| descriptors.get(diff_id).cloned()).collect();
        let content = Content::Bytes(Bytes::from(config.clone()));
        self.blob(&image.id, &content, None).await?;

        let same = original.filter(|(_, manifest)| {
            let mut pairs = manifest.layers.iter().zip(&layers);
            manifest.layers.len() == layers.len() && pairs.all(|(a, b)| a.digest == b.digest)
        });
        let (media_type, text) = match same {
            Some((text, manifest)) => (manifest.media_type, text),
            None => {
                let manifest = Manifest {
                    schema_version: 2,
                    media_type: OCI_MANIFEST.to_owned(),
                    config: descriptor(OCI_CONFIG, image.id.clone(), config.len() as u64),
                    layers,
                };
                let text = serde_json::to_vec(&manifest).map_err(|source| Error::Document {
                    reference: name.familiar(),
                    document: "manifest".to_owned(),
                    source,
                })?;
                (OCI_MANIFEST.to_owned(), text)
            }
        };
        let (digest, size) = (digest_of(&text), text.len() as u64);
        let tag = name.tag().unwrap_or_default();
        self.session
            .push_manifest(tag, &media_type, Bytes::from(text))
            .await
            .map_err(|source| failure(name, source))?;
        failpoint::hit("image.manifest-sent");
        let (store, by_digest, id) =
            (self.store.clone(), name.with_digest(&digest), image.id.clone());
        blocking(move || store.note_digest(&by_digest, &id)).await?;
        let reference = name.familiar();
        self.report(PushEvent::Done { reference, tag: tag.to_owned(), digest, size }).await;
        Ok(())
    }

    /// Makes the registry have a layer; tells how the manifest is to name it.
    async fn layer(
        &self,
        layer: LayerRecord,
        known: Option<Descriptor>,
        at: usize,
        staging: Arc<Staging>,
    ) -> Result<(String, Descriptor), Error> {
        let report = |status: String| {
            let (reference, layer) = (self.source.name.familiar(), layer.diff_id.clone());
            self.report(PushEvent::Layer { reference, layer, status })
        };
        report("Preparing".to_owned()).await;
        // As the image came, and as it was made for an earlier push.
        let pushed = self.store.pushed_layer(&layer.diff_id);
        let pushed = pushed.map(|PushedLayer { digest, size }| descriptor(GZIP, digest, size));
        for candidate in known.iter().chain(&pushed) {
            let from = self.other_repository();
            let there = self
                .session
                .has_blob(&candidate.digest, from.as_deref())
                .await
                .map_err(|source| failure(&self.source.name, source))?;
            let status = match there {
                Some(Pushed::Mounted) => format!("Mounted from {}", from.unwrap_or_default()),
                Some(_) => "Layer already exists".to_owned(),
                None => continue,
            };
            report(status).await;
            return Ok((layer.diff_id, oci(candidate)));
        }
        let (store, id, wanted) = (self.store.clone(), self.source.image.id.clone(), layer.clone());
        let (path, held) = (staging.path().join(format!("{at}.gz")), staging);
        let (file, descriptor) = blocking(move || {
            let made = compress(&store, &id, &wanted, &path);
            drop(held);
            made
        })
        .await?;
        let content = Content::File { file: Arc::new(file), size: descriptor.size };
        report("Pushing".to_owned()).await;
        let status = match self.blob(&descriptor.digest, &content, None).await? {
            Pushed::Existed => "Layer already exists",
            Pushed::Mounted | Pushed::Uploaded => "Pushed",
        };
        report(status.to_owned()).await;
        let pushed = PushedLayer { digest: descriptor.digest.clone(), size: descriptor.size };
        let (store, diff_id) = (self.store.clone(), layer.diff_id.clone());
        let noted = blocking(move || store.note_pushed_layer(&diff_id, &pushed)).await;
        if let Err(error) = noted {
            let (layer, error) = (&layer.diff_id, chain(&error));
            tracing::warn!(layer, error, "a pushed layer is not recorded: it will be made again");
        }
        Ok((layer.diff_id, descriptor))
    }

    async fn report(&self, event: PushEvent) {
        // Nobody listens any more: the push ends with them.
        let _ = self.progress.send(event).await;
    }

    async fn blob(
        &self,
        digest: &str,
        content: &Content,
        mount_from: Option<&str>,
    ) -> Result<Pushed, Error> {
        self.session
            .push_blob(digest, content, mount_from, &Arc::default())
            .await
            .inspect(|_| failpoint::hit("image.sent"))
            .map_err(|source| failure(&self.source.name, source))
    }

    /// Another repository of the same registry that the image came from.
    fn other_repository(&self) -> Option<String> {
        let name = &self.source.name;
        let others = self.source.image.repo_digests.iter();
        let mut others = others.filter_map(|other| Reference::parse(other).ok());
        let other =
            others.find(|other| other.domain() == name.domain() && !other.same_repository(name))?;
        Some(other.path().to_owned())
    }
}

/// A layer's archive, made again and compressed, in a file.
fn compress(
    store: &Store,
    id: &str,
    layer: &LayerRecord,
    path: &Path,
) -> Result<(File, Descriptor), Error> {
    let failed = |source| Error::Io { operation: "write", path: path.to_owned(), source };
    let file =
        File::options().read(true).write(true).create_new(true).open(path).map_err(failed)?;
    let out =
        Counted { inner: BufWriter::with_capacity(BUFFER, file), hash: Sha256::new(), bytes: 0 };
    // Without a time and a name: the same archive makes the same bytes.
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    store.rebuild(id, layer, &mut encoder)?;
    let counted = encoder.finish().map_err(failed)?;
    let file = counted.inner.into_inner().map_err(|error| failed(error.into_error()))?;
    failpoint::hit("image.compressed");
    Ok((file, descriptor(GZIP, digest(counted.hash), counted.bytes)))
}

/// Hashes and counts what is written.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn descriptor(media_type: &str, digest: String, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
        artifact_type: None,
        urls: Vec::new(),
    }
}

/// Docker's types of layers by their names in OCI manifests.
fn oci(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        other => other,
    };
    Descriptor { media_type: media_type.to_owned(), ..layer.clone() }
}
