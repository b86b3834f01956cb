//! From a registry into the store: manifest, configuration, layers, commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::Error as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::Registries;
use super::content::{Commit, NewImage, Staging, Store};
use super::download::{Collected, check_digest};
use super::error::told;
use super::layer::digest_of;
use super::manifest::{self, Descriptor, Document, ImageConfig, Manifest, Refusal};
use super::platform::{self, Platform};
use super::reference::Reference;
use super::registry::{self, Access, Found, Session};
use super::signature::{Origin, Policy, Proof};
use super::unpack;
use super::{Error, Image, Lease, Progress, PullRequest};
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
        let lease = self.lease_new();
        progress(PullEvent::Resolving { reference: reference.clone() });
        let result = self.pull_parsed(request, registries, &progress, &lease).await;
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
        lease: &Arc<Lease>,
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
            lease: Arc::clone(lease),
        };
        pull.run(&wanted, platform.is_some()).await
    }
}

pub(super) fn registry_error(text: &str, reference: &Reference, source: registry::Error) -> Error {
    let registry = reference.domain().to_owned();
    Error::Registry { reference: text.to_owned(), registry, source: Box::new(source) }
}

/// Names the image in what a document's parser refused.
pub(super) fn refuse(reference: &str, document: &str, refusal: Refusal) -> Error {
    let (reference, document) = (reference.to_owned(), document.to_owned());
    match refusal {
        Refusal::Json(source) => {
            let source = serde_json::Error::custom(told(&source.to_string()));
            Error::Document { reference, document, source }
        }
        Refusal::MediaType { media_type, hint } => {
            Error::MediaType { reference, document, media_type: told(&media_type), hint }
        }
        Refusal::Inconsistent(reason) => Error::Inconsistent { reference, reason: told(&reason) },
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
        offered: told(&format!("{os}/{}", config.architecture)),
    })
}

fn os(config: &ImageConfig) -> &str {
    if config.os.is_empty() { "linux" } else { &config.os }
}

/// A pull's own directory. It goes off the reactor, because removing many files takes a while:
/// whoever gives the pull up does not wait, and nobody else does either.
struct Own(Option<Arc<Staging>>);

impl Own {
    fn of(staging: Arc<Staging>) -> (Self, Arc<Staging>) {
        (Self(Some(Arc::clone(&staging))), staging)
    }

    async fn close(mut self) -> Result<(), Error> {
        let staging = self.0.take();
        tokio::task::spawn_blocking(move || drop(staging)).await.map_err(Error::Worker)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let (Some(staging), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn_blocking(move || drop(staging));
        }
    }
}

pub(super) struct Pull {
    pub(super) store: Store,
    pub(super) session: Session,
    policy: Option<Arc<Policy>>,
    reference: Reference,
    /// As the caller wrote it.
    pub(super) text: String,
    pub(super) progress: Progress,
    lease: Arc<Lease>,
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
            let proof = self.trusted(&resolved, &image.digest).await?;
            (self.progress)(known());
            let id = image.id.clone();
            self.blocking(move |store| store.note_proof(&id, proof)).await?;
            return Ok(image);
        }
        let bytes = match found {
            Found::Manifest(bytes, _) => bytes,
            Found::Digest(digest) => self.fetch_manifest(&digest).await?,
        };
        let (text, manifest) = self.manifest(bytes, wanted).await?;
        let proof = self.trusted(&resolved, &digest_of(&text)).await?;
        let origin = Origin::Registry(Arc::new(proof));
        let config_text = self.config(&manifest.config).await?;
        let config = ImageConfig::parse(&config_text)
            .map_err(|refusal| refuse(&self.text, "configuration", refusal))?;
        check_config(&self.text, &manifest, &config, explicit.then_some(wanted))?;
        (self.progress)(known());

        // In one order everywhere, or two pulls could wait for each other. Of layers that are here
        // no pull waits for another: images with a common base would come one by one.
        let diff_ids: BTreeSet<String> = config.rootfs.diff_ids.iter().cloned().collect();
        self.lease.want(diff_ids.clone());
        let missing = self.blocking(move |store| store.without(diff_ids)).await?;
        let locks: Vec<_> = missing
            .iter()
            .map(|diff_id| self.store.layer_lock(self.registry_name(), diff_id))
            .collect();
        let mut guards = Vec::with_capacity(locks.len());
        for lock in &locks {
            guards.push(lock.lock().await);
        }
        let mut names = vec![self.reference.with_digest(&resolved)];
        if self.reference.digest().is_none() {
            names.extend(self.reference.tagged());
        }
        loop {
            // Dropped in the other order: what ends last is the directory's own drop.
            let (own, staging) = Own::of(self.blocking(|store| store.stage()).await?);
            let layers = self.layers(&manifest, &config, &staging).await;
            let result = match layers {
                Ok(layers) => {
                    let new = NewImage {
                        manifest: text.to_vec(),
                        config: config_text.clone(),
                        created: config.created.clone(),
                        layers,
                        names: names.clone(),
                        origin: origin.clone(),
                    };
                    let work =
                        move |store: &Store| store.commit(&staging, std::slice::from_ref(&new));
                    self.blocking(work).await
                }
                Err(error) => {
                    drop(staging);
                    Err(error)
                }
            };
            own.close().await?;
            match result? {
                Commit::Done(images) => {
                    let image = images.into_iter().next();
                    return image.ok_or(Error::Unknown { reference: self.text });
                }
                // An `image rm` came between; what it took is fetched.
                Commit::LayerGone => {}
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(Error::Worker)?
    }

    /// Whom the pull waits for, and who may hold it up.
    pub(super) fn registry_name(&self) -> &str {
        self.reference.domain()
    }

    pub(super) fn registry(&self, source: registry::Error) -> Error {
        registry_error(&self.text, &self.reference, source)
    }

    /// Asks the policy, before anything is fetched that the manifest names.
    async fn trusted(&self, resolved: &str, manifest: &str) -> Result<Proof, Error> {
        let Some(policy) = &self.policy else { return Ok(Proof::default()) };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_a_registry_says_is_repeated_on_a_line_that_ends() {
        let long = "x".repeat(1 << 20);
        for document in [
            format!(r#"{{"config": "{long}"}}"#),
            format!(r#"{{"config": {{"digest": "{long}", "size": 1}}, "layers": []}}"#),
            format!(r#"{{"mediaType": "{long}", "config": {{"digest": "", "size": 1}}}}"#),
        ] {
            let refused = manifest::parse(document.as_bytes()).err();
            let shown = refused.map(|refusal| chain(&refuse("r", "manifest", refusal)));
            assert!(shown.as_ref().is_some_and(|text| text.len() < 1000), "{shown:?}");
        }
        let os = "linux\u{1b}[2J\n".to_owned() + &long;
        let config = ImageConfig::parse(serde_json::json!({"os": os}).to_string().as_bytes());
        let descriptor = Descriptor {
            media_type: String::new(),
            digest: String::new(),
            size: 1,
            platform: None,
            annotations: None,
            artifact_type: None,
            urls: Vec::new(),
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: String::new(),
            config: descriptor,
            layers: Vec::new(),
        };
        let refused = config.ok().and_then(|of| check_config("r", &manifest, &of, None).err());
        let shown = refused.map(|error| chain(&error));
        assert!(
            shown.as_ref().is_some_and(|text| text.len() < 1000 && !text.contains('\u{1b}')),
            "{shown:?}"
        );
    }

    #[tokio::test]
    async fn a_pull_that_is_given_up_leaves_its_directory_to_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (own, staging) = Own::of(store.stage().unwrap());
        let path = staging.path().to_owned();
        drop(own);
        assert!(path.exists());
        let (own, last) = Own::of(staging);
        drop(last);
        drop(own);
        while path.exists() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn only_layers_that_are_missing_are_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let have = dir.path().join("made");
        std::fs::create_dir_all(have.join("fs")).unwrap();
        let record =
            super::super::content::LayerRecord { diff_id: digest("a"), size: 0, archive: Some(0) };
        super::super::content::seal_layer(&have, &record).unwrap();
        std::fs::rename(&have, store.layer_path(&record.diff_id)).unwrap();
        let both = BTreeSet::from([digest("a"), digest("b")]);
        assert_eq!(store.without(both).unwrap(), BTreeSet::from([digest("b")]));
        // One that a pull relies on stays as long as the pull, though no image names it.
        let (lease, lock) = (store.lease_new(), store.lock().unwrap());
        lease.want(BTreeSet::from([digest("a")]));
        assert!(store.collect(&lock).unwrap().is_empty());
        drop(lease);
        assert_eq!(store.collect(&lock).unwrap().len(), 1);
    }
}
