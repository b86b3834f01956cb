//! Which images must be signed, and whether they are: before anything of an image is fetched but its
//! manifest, the policy is asked, and where it requires signatures, they are looked for.
//!
//! ```text
//! policy.rs    the policy file: containers-policy.json(5)
//! identity.rs  whose name a signature has to state
//! key.rs       public keys            verify.rs  the decision
//! bundle.rs    what cosign 3 makes    record.rs  what is known of images that are here
//! strict.rs    JSON, read to the letter
//! ```
//!
//! Signatures are those of `cosign` and of `sigstoreSigned` in Podman and skopeo: a manifest in the
//! image's repository under the tag `sha256-<digest>.sig`, whose layers are payloads with their
//! signatures in an annotation. One for the index that the reference stands for will do, and so
//! will one for the manifest of the platform, which the index names by its digest. (The peers look
//! at the latter alone; `cosign sign` makes the former unless told to sign recursively.)
//! The bundles of cosign 3 refer to the image instead (the referrers API, or the index under the tag
//! `sha256-<digest>` where a registry has none). They name no repository, so they are looked for only
//! where the policy says that none needs to be named.
//!
//! Checked at every pull, also where all layers are here already, and at every load: an archive has
//! no signatures, so that an image that must have one is refused. And checked where an image that is
//! here is to be used without its registry being asked: signatures that were accepted once are kept,
//! and what they do not prove to the policy of today has to be pulled again.
//!
//! Of a registry with mirrors each is asked, the registry last, until there is enough: a mirror may have the
//! image and not, or not yet, what was signed of it.
//!
//! A registry can hold back signatures, and so keep an image from being pulled; it cannot make one.
//! What it says is bounded: the newest signatures of a manifest, each of a few kilobytes.

mod bundle;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod identity;
mod key;
#[cfg(test)]
mod peer;
mod policy;
mod record;
mod strict;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

pub(super) use policy::ArchiveKind;
pub use policy::Policy;
use policy::Rule;
use record::Record;
pub(super) use record::{Origin, Proof};
use strict::Object;
use verify::{Attached, Form, Verdict};

use super::download::{Collected, check_digest};
use super::error::told;
use super::manifest::{Descriptor, MAX_DOCUMENT, OCI_MANIFEST};
use super::reference::{Reference, is_digest};
use super::registry::{self, Session, Witness};
use super::rounds::{ATTEMPTS, in_rounds};
use super::unpack;
use crate::error::chain;

const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Bytes of a payload; usual ones have some 250.
const MAX_PAYLOAD: u64 = 64 << 10;
/// Different payloads that are fetched for a manifest.
const MAX_PAYLOADS: usize = 128;
/// Bytes of a bundle; with a certificate and an entry of a log it has some 10 kB.
const MAX_BUNDLE: u64 = 256 << 10;
/// Manifests that refer to a manifest and are fetched.
const MAX_BUNDLES: usize = 32;
/// What some give as the type of a manifest without one.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Signatures that are looked at for a manifest; one payload may have many.
const MAX_SIGNATURES: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("signature policy: read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("signature policy {path}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("signature policy {path}: {place}: {reason}")]
    Policy { path: PathBuf, place: String, reason: String },
    #[error("{policy} rejects it by {place}")]
    Rejected { policy: PathBuf, place: String },
    #[error(
        "{policy} requires a signature by {place}, and there is none of {digest} in its repository; sign the image, with `cosign sign --key` for one, and pull again"
    )]
    Unsigned { policy: PathBuf, place: String, digest: String },
    #[error(
        "{policy} requires a signature by {place}, and none of the {count} there are will do: {reasons}"
    )]
    Unaccepted { policy: PathBuf, place: String, count: usize, reasons: String },
    #[error(
        "{policy} requires a signature by {place}, and an archive has none; pull the image from its registry"
    )]
    Archive { policy: PathBuf, place: String },
    #[error(
        "{policy} requires a signature by {place}, and {what}; ask its registry by pulling it again"
    )]
    Unproven { policy: PathBuf, place: String, what: String },
    #[error("read the signatures ({tag})")]
    Fetch { tag: String, source: Box<registry::Error> },
    #[error("read what refers to {digest}")]
    Referrers { digest: String, source: Box<registry::Error> },
    #[error("read the signature {digest}")]
    Payload { digest: String, source: Box<unpack::Error> },
    #[error("the signatures ({tag}) are malformed")]
    Malformed { tag: String, source: serde_json::Error },
}

impl Error {
    /// May the same pull work a moment later?
    pub(super) fn is_transient(&self) -> bool {
        self.transfer().is_some_and(registry::Error::is_transient)
    }

    /// What a registry has against it.
    fn transfer(&self) -> Option<&registry::Error> {
        match self {
            Self::Fetch { source, .. } | Self::Referrers { source, .. } => Some(source),
            Self::Payload { source, .. } => match &**source {
                unpack::Error::Transfer(source) => Some(source),
                _ => None,
            },
            _ => None,
        }
    }

    /// Has the policy been asked, and said no?
    pub(super) fn is_verdict(&self) -> bool {
        matches!(
            self,
            Self::Rejected { .. }
                | Self::Unsigned { .. }
                | Self::Unaccepted { .. }
                | Self::Archive { .. }
                | Self::Unproven { .. }
        )
    }
}

/// The index of what refers to an image, or a page of it.
#[derive(Deserialize)]
struct Referrers {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// The manifest that holds signatures.
#[derive(Deserialize)]
struct Signatures {
    #[serde(default)]
    layers: Vec<Descriptor>,
}

impl Policy {
    /// May the image be pulled under this name? `digests` are those of its index, if it has one,
    /// and of the manifest of the platform. Returns what speaks for it.
    pub(super) async fn check(
        &self,
        session: &Session,
        pulled: &Reference,
        digests: &[&str],
    ) -> Result<Proof, Error> {
        let rule = self.of(pulled);
        let digests: BTreeSet<&str> = digests.iter().copied().collect();
        let digests: Vec<&str> = digests.into_iter().collect();
        let signatures = match rule.needs_signatures() && !rule.rejects() {
            true => gather(session, &rule, pulled, &digests).await?,
            false => Vec::new(),
        };
        let accepted = rule.decide(pulled, &digests, &signatures).map_err(|verdict| {
            let (policy, place) = self.named(&rule);
            match verdict {
                Verdict::Rejected => Error::Rejected { policy, place },
                Verdict::Unsigned(_) if signatures.is_empty() => {
                    let digest = digests.join(" or ");
                    Error::Unsigned { policy, place, digest }
                }
                Verdict::Unsigned(reasons) => Error::Unaccepted {
                    policy,
                    place,
                    count: signatures.len(),
                    reasons: reasons.join("; "),
                },
            }
        })?;
        let signatures = accepted.into_iter().cloned().collect();
        Ok(Proof { digests: digests.into_iter().map(str::to_owned).collect(), signatures })
    }

    /// May an image that is here be used under this name, by what is known of it? What no name leads
    /// to has `None`.
    fn check_known(&self, name: Option<&Reference>, record: &Record) -> Result<(), Error> {
        // As for Podman, an archive's own requirements stand for those of the names in it.
        if record.archives().iter().any(|kind| self.lets_in(*kind)) {
            return Ok(());
        }
        let rule = name.map_or_else(|| self.fallback(), |name| self.of(name));
        let signatures = record.signatures();
        let verdict = match name {
            Some(name) => rule.decide(name, &record.digests(), &signatures).map(drop),
            None if rule.rejects() => Err(Verdict::Rejected),
            None if rule.needs_signatures() => Err(Verdict::Unsigned(Vec::new())),
            None => Ok(()),
        };
        verdict.map_err(|verdict| {
            let (policy, place) = self.named(&rule);
            match verdict {
                Verdict::Rejected => Error::Rejected { policy, place },
                Verdict::Unsigned(reasons) => {
                    let what = match reasons.is_empty() {
                        true => "none is known of the image that is on this host".to_owned(),
                        false => format!(
                            "none that is known of the image on this host will do: {}",
                            reasons.join("; ")
                        ),
                    };
                    Error::Unproven { policy, place, what }
                }
            }
        })
    }

    /// May an image of an archive be loaded under the names that the archive gives it?
    pub(super) fn check_archive(
        &self,
        kind: ArchiveKind,
        names: &[Reference],
    ) -> Result<(), Error> {
        let rules = match names.is_empty() {
            true => vec![self.of_archive(kind, None)],
            false => names.iter().map(|name| self.of_archive(kind, Some(name))).collect(),
        };
        for rule in rules {
            let (policy, place) = self.named(&rule);
            if rule.rejects() {
                return Err(Error::Rejected { policy, place });
            }
            if rule.needs_signatures() {
                return Err(Error::Archive { policy, place });
            }
        }
        Ok(())
    }

    fn named(&self, rule: &Rule<'_>) -> (PathBuf, String) {
        (self.path.clone(), rule.place.to_string())
    }
}

/// Where the signatures of what has this digest are.
fn tag_of(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// What a manifest of signatures has to fetch: payload and signature, the newest first.
fn listed(text: &[u8]) -> Result<Vec<(Descriptor, String)>, serde_json::Error> {
    let Object(Signatures { layers }) = serde_json::from_slice(text)?;
    let mut payloads = BTreeSet::new();
    let mut seen = BTreeSet::new();
    Ok(layers
        .into_iter()
        .rev()
        .filter(|layer| {
            layer.media_type == PAYLOAD && layer.size <= MAX_PAYLOAD && is_digest(&layer.digest)
        })
        .filter_map(|mut layer| {
            let signature = layer.annotations.take()?.remove(ANNOTATION)?;
            Some((layer, signature))
        })
        .filter(|(layer, signature)| seen.insert((layer.digest.clone(), signature.clone())))
        .filter(|(layer, _)| {
            payloads.contains(&layer.digest)
                || (payloads.len() < MAX_PAYLOADS && payloads.insert(layer.digest.clone()))
        })
        .take(MAX_SIGNATURES)
        .collect())
}

/// What the hosts of the registry have, one after the other until it is enough: a mirror may have
/// none, or old ones, of an image whose registry has others.
async fn gather(
    session: &Session,
    rule: &Rule<'_>,
    pulled: &Reference,
    digests: &[&str],
) -> Result<Vec<Attached>, Error> {
    let found = Mutex::new(Vec::new());
    let mut failure = None;
    let ask = |witness: Arc<Witness>| {
        let found = &found;
        async move {
            let told = told_by(&witness, rule, digests).await.map_err(Some)?;
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            for attached in told {
                if !found.contains(&attached) {
                    found.push(attached);
                }
            }
            // `None`: it has not enough.
            rule.decide(pulled, digests, &found).map(drop).map_err(|_verdict| None)
        }
    };
    let pause = |error: &Option<Error>, tries| error.as_ref()?.transfer()?.again(tries);
    let failed = |witness: Arc<Witness>, error: Option<Error>| match error {
        // Others may have them, too, but that there are none only the registry can say.
        error if witness.is_registry => failure = error,
        Some(error) => tracing::warn!(
            image = %pulled, host = witness.host, error = chain(&error),
            "a mirror does not tell the signatures of an image"
        ),
        None => {}
    };
    let enough = in_rounds(session.witnesses(), ATTEMPTS, ask, pause, failed).await;
    match failure {
        Some(error) if enough.is_none() => Err(error),
        _ => Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

async fn told_by(
    witness: &Witness,
    rule: &Rule<'_>,
    digests: &[&str],
) -> Result<Vec<Attached>, Error> {
    let mut signatures = Vec::new();
    for digest in digests {
        signatures.extend(signatures_of(witness, digest).await?);
        if rule.takes_bundles() {
            signatures.extend(bundles_of(witness, digest).await?);
        }
    }
    Ok(signatures)
}

async fn signatures_of(witness: &Witness, digest: &str) -> Result<Vec<Attached>, Error> {
    let tag = tag_of(digest);
    let text = match witness.lists.manifest(&tag).await {
        Ok((text, _)) => text,
        Err(error) if error.is_unknown() => return Ok(Vec::new()),
        Err(source) => return Err(Error::Fetch { tag, source: Box::new(source) }),
    };
    if text.len() as u64 > MAX_DOCUMENT {
        let source = serde::de::Error::custom(format!("larger than {MAX_DOCUMENT} bytes"));
        return Err(Error::Malformed { tag, source });
    }
    let listed = listed(&text).map_err(|error| {
        let source = serde::de::Error::custom(told(&error.to_string()));
        Error::Malformed { tag, source }
    })?;
    let mut payloads: BTreeMap<String, Bytes> = BTreeMap::new();
    let mut signatures = Vec::with_capacity(listed.len());
    for (descriptor, signature) in listed {
        let payload = match payloads.get(&descriptor.digest) {
            Some(payload) => payload.clone(),
            None => {
                let payload = fetch(&witness.content, &descriptor).await?;
                payloads.insert(descriptor.digest, payload.clone());
                payload
            }
        };
        signatures.push(Attached { form: Form::SimpleSigning, payload, signature });
    }
    Ok(signatures)
}

/// What refers to an image and may be a bundle. Registries and their clients disagree on the type
/// that an index gives to such a manifest; what it is, it says itself.
fn referring(pages: &[Bytes]) -> Result<Vec<Descriptor>, serde_json::Error> {
    let mut manifests = Vec::new();
    for page in pages {
        let Object(Referrers { manifests: more }) = serde_json::from_slice(page)?;
        manifests.extend(more);
    }
    let mut seen = BTreeSet::new();
    Ok(manifests
        .into_iter()
        .rev()
        .filter(|entry| {
            let kind = entry.artifact_type.as_deref();
            entry.media_type == OCI_MANIFEST
                && kind.is_none_or(|kind| kind == bundle::BUNDLE || kind == EMPTY)
                && is_digest(&entry.digest)
        })
        .filter(|entry| seen.insert(entry.digest.clone()))
        .take(MAX_BUNDLES)
        .collect())
}

async fn bundles_of(witness: &Witness, digest: &str) -> Result<Vec<Attached>, Error> {
    let failed = |source| Error::Referrers { digest: digest.to_owned(), source: Box::new(source) };
    let pages = match witness.lists.referrers(digest, bundle::BUNDLE).await {
        Ok(pages) => pages,
        // As the specification has it for registries without that API.
        Err(error) if error.is_unknown() => {
            match witness.lists.manifest(&digest.replace(':', "-")).await {
                Ok((text, _)) => vec![text],
                Err(error) if error.is_unknown() => return Ok(Vec::new()),
                Err(source) => return Err(failed(source)),
            }
        }
        Err(source) => return Err(failed(source)),
    };
    let malformed = |error: serde_json::Error| {
        let source = serde::de::Error::custom(told(&error.to_string()));
        Error::Malformed { tag: digest.to_owned(), source }
    };
    let mut signatures = Vec::new();
    for entry in referring(&pages).map_err(malformed)? {
        let (text, _) = witness.content.manifest(&entry.digest).await.map_err(failed)?;
        let Object(Signatures { layers }) = serde_json::from_slice(&text).map_err(malformed)?;
        let bundle = layers.into_iter().find(|layer| {
            layer.media_type == bundle::BUNDLE
                && layer.size <= MAX_BUNDLE
                && is_digest(&layer.digest)
        });
        if let Some(bundle) = bundle {
            signatures.extend(bundle::parse(&fetch(&witness.content, &bundle).await?));
        }
    }
    Ok(signatures)
}

async fn fetch(session: &Session, descriptor: &Descriptor) -> Result<Bytes, Error> {
    let failed = |source| {
        let digest = descriptor.digest.clone();
        Error::Payload { digest, source: Box::new(source) }
    };
    let (mut payload, mut hash) = (Collected(Vec::new()), Sha256::new());
    let cancel = CancellationToken::new();
    session.download(descriptor, &mut hash, &cancel, &mut payload).await.map_err(failed)?;
    check_digest(&descriptor.digest, hash).map_err(failed)?;
    Ok(payload.0.into())
}
