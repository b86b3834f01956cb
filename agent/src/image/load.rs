//! From an archive into the store. The same checks as for a pull: digests of manifests,
//! configurations and layers where the archive states them, diff ids always.
//!
//! A docker-archive has no manifest; the one that is stored for it is ours and describes the
//! layers as the archive has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Found, MemberReader};
use super::content::{Commit, LayerRecord, NewImage, Staging, Store};
use super::fetch::unpack_into;
use super::layer;
use super::manifest::{Descriptor, ImageConfig, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use super::platform::Platform;
use super::pull::{chain, check_config, refuse};
use super::reference::Reference;
use super::signature::{Origin, Policy};
use super::unpack;
use super::{Error, Image, Progress, Registries};
use crate::api::types::PullEvent;

impl Store {
    /// Loads the images of an archive that are for this host's platform. Each gets the names that
    /// the archive gives it, beside those that it has here. All or none: what is wrong with one
    /// refuses the archive.
    pub async fn load(
        &self,
        archive: &Path,
        registries: &Registries,
        progress: Progress,
    ) -> Result<Vec<Loaded>, Error> {
        let (store, path) = (self.clone(), archive.to_owned());
        let policy = registries.policy.clone();
        let reference = archive.display().to_string();
        let reports = Arc::clone(&progress);
        let result = tokio::task::spawn_blocking(move || {
            store.load_blocking(&path, policy.as_deref(), &reports)
        })
        .await
        .map_err(Error::Worker)
        .and_then(std::convert::identity)
        .map_err(|error| self.explain(error));
        match &result {
            Ok(all) => {
                for (reference, digest) in all.iter().flat_map(Loaded::told) {
                    progress(PullEvent::Done { reference, digest });
                }
            }
            Err(error) => progress(PullEvent::Failed { reference, message: chain(error) }),
        }
        result
    }

    fn load_blocking(
        &self,
        path: &Path,
        policy: Option<&Policy>,
        progress: &Progress,
    ) -> Result<Vec<Loaded>, Error> {
        let failed = |reason| Error::Archive { archive: path.to_owned(), reason };
        // What is committed is still there when it is told.
        let _lease = self.lease_new();
        let staging = self.stage()?;
        let archive = Archive::open(path, staging.path()).map_err(failed)?;
        let found = archive.images(&Platform::host()).map_err(failed)?;
        if let Some(policy) = policy {
            for image in &found {
                policy.check_archive(archive.kind(), &image.names).map_err(|source| {
                    let reference = path.display().to_string();
                    Error::Signature { reference, source: Box::new(source) }
                })?;
            }
        }
        loop {
            let mut loader = Loader {
                store: self,
                archive: &archive,
                path,
                progress,
                staging: &staging,
                staged: BTreeMap::new(),
                attempt: uuid::Uuid::new_v4().to_string(),
            };
            let images: Vec<NewImage> =
                found.iter().map(|image| loader.image(image)).collect::<Result<_, _>>()?;
            // Where an `image rm` took a layer that was there a moment ago, it is unpacked.
            if let Commit::Done(done) = self.commit(&staging, &images)? {
                let names = |new: &NewImage| new.names.iter().map(Reference::familiar).collect();
                let loaded = |(image, new)| Loaded { image, names: names(new) };
                return Ok(done.into_iter().zip(&images).map(loaded).collect());
            }
        }
    }
}

/// An image of an archive, in the store.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub image: Image,
    /// What the archive calls it, as Docker shows names.
    pub names: Vec<String>,
}

impl Loaded {
    /// What people are told of: each of its names, or its id if it has none; and its digest.
    pub fn told(&self) -> Vec<(String, String)> {
        let Image { id, digest, .. } = &self.image;
        let names = match self.names.as_slice() {
            [] => std::slice::from_ref(id),
            names => names,
        };
        names.iter().map(|name| (name.clone(), digest.clone())).collect()
    }
}

const BUFFER: usize = 128 << 10;

struct Loader<'a> {
    store: &'a Store,
    archive: &'a Archive,
    path: &'a Path,
    progress: &'a Progress,
    staging: &'a Staging,
    /// Layers unpacked for an earlier image of the archive.
    staged: BTreeMap<String, LayerRecord>,
    attempt: String,
}

/// Hashes what passes: a layer is read once, unpacked and verified.
struct Hashing {
    inner: MemberReader,
    hash: Sha256,
}

impl std::io::Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

impl Loader<'_> {
    fn image(&mut self, found: &Found) -> Result<NewImage, Error> {
        let name = self.path.display().to_string();
        let config = ImageConfig::parse(&found.config)
            .map_err(|refusal| refuse(&name, "configuration", refusal))?;
        let diff_ids = &config.rootfs.diff_ids;
        if found.layers.len() != diff_ids.len() {
            let reason = format!(
                "an image has {} layers, its configuration {} diff ids",
                found.layers.len(),
                diff_ids.len()
            );
            return Err(Error::Archive { archive: self.path.to_owned(), reason });
        }
        let mut layers = BTreeMap::new();
        let mut descriptors = Vec::new();
        for (at, (member, diff_id)) in found.layers.iter().zip(diff_ids).enumerate() {
            let expected =
                found.manifest.as_ref().and_then(|(_, manifest)| manifest.layers.get(at));
            let (record, dir, descriptor) = self.layer(member, diff_id, expected)?;
            let dir = layers.remove(diff_id).and_then(|(_, dir)| dir).or(dir);
            layers.insert(diff_id.clone(), (record, dir));
            descriptors.push(descriptor);
        }
        let manifest = match &found.manifest {
            Some((text, manifest)) => {
                check_config(&name, manifest, &config, None)?;
                text.clone()
            }
            None => {
                let manifest = Manifest {
                    schema_version: 2,
                    media_type: OCI_MANIFEST.to_owned(),
                    config: Descriptor {
                        media_type: OCI_CONFIG.to_owned(),
                        digest: layer::digest_of(&found.config),
                        size: found.config.len() as u64,
                        platform: None,
                        annotations: None,
                        artifact_type: None,
                        urls: Vec::new(),
                    },
                    layers: descriptors,
                };
                check_config(&name, &manifest, &config, None)?;
                serde_json::to_vec(&manifest).map_err(|source| Error::Document {
                    reference: name.clone(),
                    document: "manifest".to_owned(),
                    source,
                })?
            }
        };
        let stack = config.stack();
        Ok(NewImage {
            manifest,
            config: found.config.clone(),
            created: config.created.clone(),
            layers: stack.iter().filter_map(|diff_id| layers.remove(diff_id)).collect(),
            names: found.names.clone(),
            origin: Origin::Archive(self.archive.kind()),
        })
    }

    /// Unpacks a layer that neither the store nor this load has; verifies it in any case.
    fn layer(
        &mut self,
        member: &str,
        diff_id: &str,
        expected: Option<&Descriptor>,
    ) -> Result<(LayerRecord, Option<PathBuf>, Descriptor), Error> {
        let broken = |reason| Error::Archive { archive: self.path.to_owned(), reason };
        let failed = |source| Error::Layer {
            reference: self.path.display().to_string(),
            layer: expected.map_or_else(|| member.to_owned(), |layer| layer.digest.clone()),
            source: Box::new(source),
        };
        let (size, inner) = self.archive.read(member).map_err(broken)?;
        if let Some(layer) = expected
            && layer.size != size
        {
            let (expected, actual) = (layer.size, size.to_string());
            return Err(failed(unpack::Error::Size { expected, actual }));
        }
        let mut hashing = Hashing { inner, hash: Sha256::new() };
        let known = match self.staged.get(diff_id) {
            Some(record) => Some(record.clone()),
            None => self.store.layer(diff_id)?,
        };
        // As in most archives, where layers are not compressed; what it is else, is known at its end.
        let name = expected.map_or(diff_id, |layer| layer.digest.as_str());
        let report = |done| {
            (self.progress)(PullEvent::Layer {
                reference: self.path.display().to_string(),
                layer: name.to_owned(),
                done,
                total: size,
            });
        };
        if known.is_none() {
            report(0);
        }
        let drain = |hashing: &mut Hashing| {
            std::io::copy(hashing, &mut std::io::sink())
                .map_err(|source| unpack::Error::Io { operation: "read", source })
        };
        let (unpacked, dir) = match known {
            Some(record) => (drain(&mut hashing).map(|_| record), None),
            None => {
                let name = format!("{}-{}", self.attempt, self.staged.len());
                let dir = self.staging.path().join(name);
                let blob = std::io::BufReader::with_capacity(BUFFER, &mut hashing);
                let unpacked = unpack_into(blob, diff_id, &dir, self.store.gate().share(""));
                if unpacked.is_err() {
                    // A wrong digest explains more than where the reader stumbled over it.
                    drain(&mut hashing).map_err(failed)?;
                }
                (unpacked, Some(dir))
            }
        };
        let actual = layer::digest(hashing.hash);
        if let Some(layer) = expected
            && layer.digest != actual
            && unpacked.as_ref().err().is_none_or(unpack::Error::is_damage)
        {
            let expected = layer.digest.clone();
            return Err(failed(unpack::Error::Digest { expected, actual }));
        }
        let record = unpacked.map_err(failed)?;
        report(size);
        let descriptor = Descriptor {
            media_type: OCI_LAYER.to_owned(),
            digest: actual,
            size,
            platform: None,
            annotations: None,
            artifact_type: None,
            urls: Vec::new(),
        };
        self.staged.insert(diff_id.to_owned(), record.clone());
        Ok((record, dir, descriptor))
    }
}
