//! From a registry into the store: manifest, configuration, layers, commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::Registries;
use super::content::{Commit, NewImage, Store};
use super::download::{Collected, check_digest};
use super::layer;
use super::manifest::{self, Descriptor, Document, ImageConfig, Manifest, Refusal};
use super::platform::{self, Platform};
use super::reference::Reference;
use super::registry::{self, Access, Found, Session};
use super::signature::Policy;
use super::unpack;
use super::{Error, Image, Progress, PullRequest};
use crate::api::types::PullEvent;
pub(super) use crate::error::chain;

impl Store {
    /// Fetches an image. A tag is asked for anew each time; layers that the store has are not
    /// fetched. The last event is `Done` or `Failed`.
    pub async fn pull(
        &self,
        request: PullRequest,
        registries: &Registries,
        progress: Progress,
    ) -> Result<Image, Error> {
        let reference = request.reference.clone();
        // What is committed is still there when it is told.
        let _lease = self.lease_new();
        progress(PullEvent::Resolving { reference: reference.clone() });
        let result = self.pull_parsed(request, registries, &progress).await;
        let result = result.map_err(|error| self.explain(error));
        progress(match &result {
            Ok(image) => PullEvent::Done { reference, digest: image.digest.clone() },
            Err(error) => PullEvent::Failed { reference, message: chain(error) },
        });
        result
    }

    async fn pull_parsed(
        &self,
        request: PullRequest,
        registries: &Registries,
        progress: &Progress,
    ) -> Result<Image, Error> {
        let PullRequest { reference: text, platform, login } = request;
        let reference = Reference::parse(&text)
            .map_err(|source| Error::Reference { reference: text.clone(), source })?;
        let wanted = match &platform {
            Some(text) => Platform::parse(text)
                .ok_or_else(|| Error::PlatformSyntax { platform: text.clone() })?,
            None => Platform::host(),
        };
        let session = Session::open(&reference, login, registries, Access::Pull)
            .map_err(|source| registry_error(&text, &reference, source))?;
        let pull = Pull {
            store: self.clone(),
            session,
            policy: registries.policy.clone(),
            reference,
            text,
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
    let os = os(config);
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

fn os(config: &ImageConfig) -> &str {
    if config.os.is_empty() { "linux" } else { &config.os }
}

pub(super) struct Pull {
    pub(super) store: Store,
    pub(super) session: Session,
    policy: Option<Arc<Policy>>,
    reference: Reference,
    /// As the caller wrote it.
    pub(super) text: String,
    pub(super) progress: Progress,
}

impl Pull {
    async fn run(self, wanted: &Platform, explicit: bool) -> Result<Image, Error> {
        let found = self.find(wanted).await?;
        let resolved = match &found {
            Found::Digest(digest) | Found::Manifest(_, digest) => digest.clone(),
        };
        let known =
            || PullEvent::Resolved { reference: self.text.clone(), digest: resolved.clone() };
        if let Some(image) = self.unchanged(&resolved, wanted).await? {
            // The policy may be newer than the image.
            self.trusted(&resolved, &image.digest).await?;
            (self.progress)(known());
            return Ok(image);
        }
        let bytes = match found {
            Found::Manifest(bytes, _) => bytes,
            Found::Digest(digest) => self.fetch_manifest(&digest).await?,
        };
        let (text, manifest) = self.manifest(bytes, wanted).await?;
        self.trusted(&resolved, &layer::digest_of(&text)).await?;
        let config_text = self.config(&manifest.config).await?;
        let config = ImageConfig::parse(&config_text)
            .map_err(|refusal| refuse(&self.text, "configuration", refusal))?;
        check_config(&self.text, &manifest, &config, explicit.then_some(wanted))?;
        (self.progress)(known());

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

    pub(super) fn registry(&self, source: registry::Error) -> Error {
        registry_error(&self.text, &self.reference, source)
    }

    /// Asks the policy, before anything is fetched that the manifest names.
    async fn trusted(&self, resolved: &str, manifest: &str) -> Result<(), Error> {
        let Some(policy) = &self.policy else { return Ok(()) };
        policy.check(&self.session, &self.reference, &[resolved, manifest]).await.map_err(
            |source| Error::Signature { reference: self.text.clone(), source: Box::new(source) },
        )
    }

    /// Asks the registry. Of a digest that is not here only the content is of interest; all else is
    /// asked for by HEAD.
    async fn find(&self, wanted: &Platform) -> Result<Found, Error> {
        let found = match self.reference.digest() {
            Some(digest) if self.unchanged(digest, wanted).await?.is_none() => {
                let manifest = self.session.manifest(digest).await;
                manifest.map(|(bytes, digest)| Found::Manifest(bytes, digest))
            }
            Some(digest) => self.session.resolve(digest).await,
            None => self.session.resolve(self.reference.tag().unwrap_or("latest")).await,
        };
        found.map_err(|source| self.registry(source))
    }

    /// The image, if the reference stands already for what it stands for at the registry, and runs
    /// where it is wanted.
    async fn unchanged(&self, digest: &str, wanted: &Platform) -> Result<Option<Image>, Error> {
        let pinned = self.reference.with_digest(digest).to_string();
        let tagged = match self.reference.digest() {
            Some(_) => None,
            None => self.reference.tagged().map(|tagged| tagged.to_string()),
        };
        let wanted = wanted.clone();
        self.blocking(move |store| {
            let Some(image) = store.find_new(&pinned)? else { return Ok(None) };
            if let Some(tagged) = tagged
                && store.find(&tagged)?.is_none_or(|tagged| tagged.id != image.id)
            {
                return Ok(None);
            }
            let Some(config) = store.blob(&image.id) else { return Ok(None) };
            let Ok(config) = ImageConfig::parse(&config) else { return Ok(None) };
            let fits = wanted.fits(os(&config), &config.architecture, Some(&config.variant));
            Ok(fits.then_some(image))
        })
        .await
    }

    /// A manifest by its digest, from the store if it is there.
    async fn fetch_manifest(&self, digest: &str) -> Result<Bytes, Error> {
        if let Some(known) = self.store.blob(digest) {
            return Ok(known.into());
        }
        let fetched = self.session.manifest(digest).await;
        fetched.map(|(bytes, _)| bytes).map_err(|source| self.registry(source))
    }

    /// The manifest for the platform, of what the reference stands for.
    async fn manifest(
        &self,
        mut bytes: Bytes,
        wanted: &Platform,
    ) -> Result<(Bytes, Manifest), Error> {
        let mut name = "manifest";
        for _ in 0..=platform::MAX_NESTING {
            let entries = match self.document(&bytes, name)? {
                Document::Manifest(manifest) => return Ok((bytes, manifest)),
                Document::Index(entries) => entries,
            };
            let Some(entry) = wanted.choose(&entries) else {
                let (reference, wanted) = (self.text.clone(), wanted.to_string());
                let offered = platform::offered(&entries);
                return Err(Error::NoPlatform { reference, wanted, offered });
            };
            (bytes, name) = (self.fetch_manifest(&entry.digest).await?, "manifest of the platform");
        }
        let reason = platform::NESTED.to_owned();
        Err(Error::Inconsistent { reference: self.text.clone(), reason })
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
        let cancel = CancellationToken::new();
        let mut text;
        let result = loop {
            text = Collected(Vec::new());
            let mut hash = Sha256::new();
            let result = self
                .session
                .download(descriptor, &mut hash, &cancel, &mut text)
                .await
                .and_then(|()| check_digest(&descriptor.digest, hash));
            match &result {
                Err(error)
                    if error.is_of_content() && self.session.distrust(&descriptor.digest) => {}
                _ => break result,
            }
        };
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
}
