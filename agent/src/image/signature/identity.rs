//! Whose name a signature has to state: `signedIdentity` of the policy.
//!
//! A signature binds a digest to a name, so that a signed image cannot be passed off as another.
//! Signatures by `cosign` state the repository without a tag; those by skopeo and Podman the
//! reference that was pushed.

use std::fmt;

use serde::Deserialize;

use crate::image::reference::Reference;

/// How the stated name must relate to the name that is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SignedIdentity {
    /// The same; pulled by digest, the same repository with any tag.
    MatchRepoDigestOrExact,
    /// The same to the letter.
    MatchExact,
    MatchRepository,
    ExactReference(Reference),
    ExactRepository(Reference),
    /// None: a signature of the digest will do, as `cosign verify` has it. Ours.
    MatchDigest,
    /// As the first, after the prefix of the pulled name was replaced.
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Raw {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

impl SignedIdentity {
    pub(super) fn new(raw: Raw) -> Result<Self, String> {
        let parse = |field: &str, text: &str| {
            Reference::parse(text).map_err(|error| format!("{field} {text:?}: {error}"))
        };
        let prefix = |field: &str, text: String| match is_prefix(&text) {
            true => Ok(text),
            false => Err(format!(
                "{field} {text:?} is not a registry, namespace or repository in full, such as \
                 docker.io/library"
            )),
        };
        let Raw { kind, docker_reference, docker_repository, prefix: from, signed_prefix } = raw;
        match (kind.as_str(), docker_reference, docker_repository, from, signed_prefix) {
            ("matchRepoDigestOrExact", None, None, None, None) => Ok(Self::MatchRepoDigestOrExact),
            ("matchExact", None, None, None, None) => Ok(Self::MatchExact),
            ("matchRepository", None, None, None, None) => Ok(Self::MatchRepository),
            ("matchDigest", None, None, None, None) => Ok(Self::MatchDigest),
            ("exactReference", Some(text), None, None, None) => {
                let reference = parse("dockerReference", &text)?;
                match is_bare(&text, &reference) {
                    true => Err(format!("dockerReference {text:?} has neither tag nor digest")),
                    false => Ok(Self::ExactReference(reference)),
                }
            }
            ("exactRepository", None, Some(text), None, None) => {
                parse("dockerRepository", &text).map(Self::ExactRepository)
            }
            ("remapIdentity", None, None, Some(from), Some(to)) => Ok(Self::Remap {
                prefix: prefix("prefix", from)?,
                signed_prefix: prefix("signedPrefix", to)?,
            }),
            (
                "matchRepoDigestOrExact"
                | "matchExact"
                | "matchRepository"
                | "matchDigest"
                | "exactReference"
                | "exactRepository"
                | "remapIdentity",
                ..,
            ) => Err(format!(
                "wrong fields for {kind}: exactReference has dockerReference, exactRepository \
                 dockerRepository, remapIdentity prefix and signedPrefix, the others none"
            )),
            _ => Err(format!("unknown type {kind:?}")),
        }
    }

    /// Does a signature that states `stated` speak of the image that is pulled as `pulled`?
    pub(super) fn accepts(&self, pulled: &Reference, stated: &str) -> bool {
        let Ok(signed) = Reference::parse(stated) else { return false };
        let bare = is_bare(stated, &signed);
        match self {
            Self::MatchRepoDigestOrExact => repo_digest_or_exact(pulled, &signed, bare),
            Self::MatchExact => !bare && signed == without_idle_tag(pulled),
            Self::MatchRepository => signed.same_repository(pulled),
            Self::MatchDigest => true,
            Self::ExactReference(expected) => !bare && signed == *expected,
            Self::ExactRepository(expected) => signed.same_repository(expected),
            Self::Remap { prefix, signed_prefix } => {
                let pulled = without_idle_tag(pulled);
                let full = pulled.to_string();
                let name = format!("{}/{}", pulled.domain(), pulled.path());
                let fits = name
                    .strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                let expected = match full.get(prefix.len()..).filter(|_| fits) {
                    Some(rest) => Reference::parse(&format!("{signed_prefix}{rest}")),
                    None => Ok(pulled),
                };
                expected.is_ok_and(|expected| repo_digest_or_exact(&expected, &signed, bare))
            }
        }
    }
}

impl fmt::Display for SignedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MatchRepoDigestOrExact => f.write_str("matchRepoDigestOrExact"),
            Self::MatchExact => f.write_str("matchExact"),
            Self::MatchRepository => f.write_str("matchRepository"),
            Self::MatchDigest => f.write_str("matchDigest"),
            Self::ExactReference(reference) => write!(f, "exactReference {reference}"),
            Self::ExactRepository(reference) => {
                write!(f, "exactRepository {}/{}", reference.domain(), reference.path())
            }
            Self::Remap { prefix, signed_prefix } => {
                write!(f, "remapIdentity {prefix} to {signed_prefix}")
            }
        }
    }
}

fn repo_digest_or_exact(pulled: &Reference, signed: &Reference, bare: bool) -> bool {
    if bare {
        return false;
    }
    match pulled.digest() {
        Some(_) => signed.same_repository(pulled),
        None => signed == pulled,
    }
}

/// Of a reference with tag and digest the tag says nothing.
fn without_idle_tag(reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest),
        None => reference.clone(),
    }
}

/// Has the text neither tag nor digest? The parsed reference has a tag always.
fn is_bare(text: &str, reference: &Reference) -> bool {
    reference.digest().is_none()
        && reference.tag().is_none_or(|tag| !text.ends_with(&format!(":{tag}")))
}

fn is_prefix(text: &str) -> bool {
    Reference::parse(&format!("{text}/x")).is_ok_and(|reference| {
        format!("{}/{}", reference.domain(), reference.path()) == format!("{text}/x")
            || (reference.domain() == text)
    })
}
