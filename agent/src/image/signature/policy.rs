//! The policy file: `containers-policy.json(5)`, the format of Podman, skopeo and CRI-O.
//!
//! ```text
//! default                           what is required of images that no scope names
//! transports.docker.SCOPE           of images from registries; SCOPE is the longest that fits of
//!                                   registry/namespace/repository[:tag|@digest], its prefixes at
//!                                   slashes, *.domain, and ""
//! transports.docker-archive.""      of `image load`; without it, what docker's scopes and the default
//! transports.oci-archive.""         require of the names that the archive gives
//! ```
//!
//! Read as strictly as the peers do: what is unknown, double or missing refuses the whole file.
//! Beyond them, a scope that no image can have is refused, because the images that its author meant
//! would go unchecked; and a registry has one name, however an image writes it. Not supported, and
//! refused where the file has it: `signedBy` (GPG), `signedBaseLayer`, and Fulcio, Rekor and
//! certificates in `sigstoreSigned`. Scopes of other transports are none of ours.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::Error;
use super::identity::SignedIdentity;
use super::key::Key;
use super::strict::{Object, Unique};
use crate::image::hosts::canonical;
use crate::image::reference::Reference;

/// More than any policy of people.
const MAX_FILE: u64 = 4 << 20;

/// What has to hold for an image; all of a list.
#[derive(Debug, Clone)]
pub(super) enum Requirement {
    AcceptAnything,
    Reject,
    /// By one of these keys, for this identity.
    Signed {
        keys: Vec<Key>,
        identity: SignedIdentity,
    },
}

/// A policy, read and checked.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(super) path: PathBuf,
    default: Vec<Requirement>,
    docker: BTreeMap<String, Vec<Requirement>>,
    docker_archive: Option<Vec<Requirement>>,
    oci_archive: Option<Vec<Requirement>>,
}

/// What an archive is, which is its transport in the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::image) enum ArchiveKind {
    Docker,
    Oci,
}

/// Requirements, and where the file has them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule<'a> {
    pub(super) place: Place<'a>,
    pub(super) requirements: &'a [Requirement],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Default,
    Scope { transport: &'static str, scope: &'a str },
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("its default"),
            Self::Scope { transport, scope: "" } => write!(f, "its default for {transport}"),
            Self::Scope { transport, scope } => write!(f, "its scope {transport} {scope}"),
        }
    }
}

impl Policy {
    /// Reads a policy and the keys that it names.
    ///
    /// # Errors
    /// If the file or a key cannot be read, is malformed or asks for what is not supported.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = super::key::read(path, MAX_FILE)?;
        Self::parse(path, &text, &|path| super::key::read(path, super::key::MAX_FILE))
    }

    pub(super) fn parse(
        path: &Path,
        text: &[u8],
        key: &dyn Fn(&Path) -> Result<Vec<u8>, Error>,
    ) -> Result<Self, Error> {
        let Object(raw): Object<RawPolicy> = serde_json::from_slice(text)
            .map_err(|source| Error::Json { path: path.to_owned(), source })?;
        let reader = Reader { path, key };
        let mut transports = raw.transports.unwrap_or_default().0;
        let mut archive = |transport: &'static str| {
            let Some(Unique(mut scopes)) = transports.remove(transport) else { return Ok(None) };
            let all = scopes.remove("");
            if let Some(scope) = scopes.keys().next() {
                let reason = "not supported: this transport has the scope \"\" only";
                return Err(reader.invalid(format!("transports.{transport}.{scope:?}"), reason));
            }
            all.map(|raw| reader.requirements(&format!("transports.{transport}.\"\""), raw))
                .transpose()
        };
        let docker_archive = archive("docker-archive")?;
        let oci_archive = archive("oci-archive")?;
        let mut docker = BTreeMap::new();
        for (scope, raw) in transports.remove("docker").unwrap_or_default().0 {
            let place = format!("transports.docker.{scope:?}");
            if !is_scope(&scope) {
                let reason = "no image has this scope: expected *.domain, or a registry, \
                              namespace, repository or image in full, such as \
                              docker.io/library/busybox, the registry in lower case and \
                              without a port that its scheme implies";
                return Err(reader.invalid(place, reason));
            }
            let requirements = reader.requirements(&place, raw)?;
            docker.insert(scope, requirements);
        }
        let default = reader.requirements("default", raw.default)?;
        Ok(Self { path: path.to_owned(), default, docker, docker_archive, oci_archive })
    }

    /// What is required of an image from a registry.
    pub(super) fn of(&self, reference: &Reference) -> Rule<'_> {
        scopes(reference)
            .iter()
            .find_map(|scope| self.docker.get_key_value(scope))
            .map_or_else(|| self.fallback(), |(scope, list)| rule("docker", scope, list))
    }

    /// What is required of an image in an archive, by the name that the archive gives it.
    pub(super) fn of_archive(&self, kind: ArchiveKind, name: Option<&Reference>) -> Rule<'_> {
        let (transport, own) = match kind {
            ArchiveKind::Docker => ("docker-archive", &self.docker_archive),
            ArchiveKind::Oci => ("oci-archive", &self.oci_archive),
        };
        match (own, name) {
            (Some(list), _) => rule(transport, "", list),
            (None, Some(name)) => self.of(name),
            (None, None) => self.fallback(),
        }
    }

    /// Does the policy have requirements of its own for such archives, which let everything in?
    pub(super) fn lets_in(&self, kind: ArchiveKind) -> bool {
        let own = match kind {
            ArchiveKind::Docker => &self.docker_archive,
            ArchiveKind::Oci => &self.oci_archive,
        };
        own.as_ref().is_some_and(|list| {
            list.iter().all(|requirement| matches!(requirement, Requirement::AcceptAnything))
        })
    }

    pub(super) fn fallback(&self) -> Rule<'_> {
        Rule { place: Place::Default, requirements: &self.default }
    }
}

fn rule<'a>(transport: &'static str, scope: &'a str, requirements: &'a [Requirement]) -> Rule<'a> {
    Rule { place: Place::Scope { transport, scope }, requirements }
}

/// The scopes that an image has, the most particular first. With a digest its tag says nothing. How
/// its registry is written makes no difference, or it would be for who names the image to choose.
fn scopes(reference: &Reference) -> Vec<String> {
    let domain = canonical(reference.domain());
    let mut name = format!("{domain}/{}", reference.path());
    let mut scopes = Vec::new();
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => scopes.push(format!("{name}@{digest}")),
        (None, Some(tag)) => scopes.push(format!("{name}:{tag}")),
        (None, None) => {}
    }
    scopes.push(name.clone());
    while let Some(slash) = name.rfind('/') {
        name.truncate(slash);
        scopes.push(name.clone());
    }
    let host = domain.split(':').next().unwrap_or_default();
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        scopes.push(format!("*.{parent}"));
        rest = parent;
    }
    scopes.push(String::new());
    scopes
}

/// Whether there may be an image with this scope.
fn is_scope(scope: &str) -> bool {
    let has = |text: String| {
        Reference::parse(&text)
            .is_ok_and(|reference| scopes(&reference).iter().any(|known| known == scope))
    };
    // As an image, as a repository or namespace or registry, and as the parent of a domain.
    scope.is_empty()
        || has(scope.to_owned())
        || has(format!("{scope}/x"))
        || scope.strip_prefix("*.").is_some_and(|domain| has(format!("x.{domain}/x")))
}

struct Reader<'a> {
    path: &'a Path,
    key: &'a dyn Fn(&Path) -> Result<Vec<u8>, Error>,
}

impl Reader<'_> {
    fn invalid(&self, place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Policy { path: self.path.to_owned(), place: place.into(), reason: reason.into() }
    }

    fn requirements(
        &self,
        place: &str,
        raw: Vec<Object<RawRequirement>>,
    ) -> Result<Vec<Requirement>, Error> {
        if raw.is_empty() {
            let reason = "the list of requirements must not be empty";
            return Err(self.invalid(place, reason));
        }
        let numbered = raw.into_iter().enumerate();
        numbered.map(|(at, Object(raw))| self.requirement(&format!("{place}[{at}]"), raw)).collect()
    }

    fn requirement(&self, place: &str, raw: RawRequirement) -> Result<Requirement, Error> {
        match raw.kind.as_str() {
            "insecureAcceptAnything" | "reject" if raw.has_fields() => {
                let reason = format!("{} has no other fields", raw.kind);
                Err(self.invalid(place, reason))
            }
            "insecureAcceptAnything" => Ok(Requirement::AcceptAnything),
            "reject" => Ok(Requirement::Reject),
            "sigstoreSigned" => self.signed(place, raw),
            "signedBy" | "signedBaseLayer" => {
                let reason = format!(
                    "not supported: {}, signatures of GPG; use sigstoreSigned with a public key, \
                     or reject",
                    raw.kind
                );
                Err(self.invalid(place, reason))
            }
            kind => {
                let reason = format!(
                    "unknown type {kind:?}: expected insecureAcceptAnything, reject or \
                     sigstoreSigned"
                );
                Err(self.invalid(place, reason))
            }
        }
    }

    fn signed(&self, place: &str, raw: RawRequirement) -> Result<Requirement, Error> {
        let foreign = [
            ("fulcio", raw.fulcio.is_some()),
            ("pki", raw.pki.is_some()),
            ("rekorPublicKeyPath", raw.rekor_public_key_path.is_some()),
            ("rekorPublicKeyPaths", raw.rekor_public_key_paths.is_some()),
            ("rekorPublicKeyData", raw.rekor_public_key_data.is_some()),
            ("rekorPublicKeyDatas", raw.rekor_public_key_datas.is_some()),
        ];
        if let Some((field, _)) = foreign.iter().find(|(_, given)| *given) {
            let reason = format!(
                "not supported: {field}; sign with a key and give its public half by keyPath"
            );
            return Err(self.invalid(place, reason));
        }
        let stray = [
            ("keyType", raw.key_type.is_some()),
            ("baseLayerIdentity", raw.base_layer_identity.is_some()),
        ];
        if let Some((field, _)) = stray.iter().find(|(_, given)| *given) {
            let reason = format!("sigstoreSigned has no field {field}");
            return Err(self.invalid(place, reason));
        }
        let keys = match (raw.key_path, raw.key_paths, raw.key_data, raw.key_datas) {
            (Some(path), None, None, None) => vec![self.key_at(place, &path)?],
            (None, Some(paths), None, None) => {
                paths.iter().map(|path| self.key_at(place, path)).collect::<Result<_, _>>()?
            }
            (None, None, Some(data), None) => vec![self.key_in(place, "keyData", &data)?],
            (None, None, None, Some(datas)) => datas
                .iter()
                .enumerate()
                .map(|(at, data)| self.key_in(place, &format!("keyDatas[{at}]"), data))
                .collect::<Result<_, _>>()?,
            _ => {
                let reason = "exactly one of keyPath, keyPaths, keyData and keyDatas must be given";
                return Err(self.invalid(place, reason));
            }
        };
        if keys.is_empty() {
            return Err(self.invalid(place, "the list of keys must not be empty"));
        }
        let identity = match raw.signed_identity {
            None => SignedIdentity::MatchRepoDigestOrExact,
            Some(Object(raw)) => SignedIdentity::new(raw)
                .map_err(|reason| self.invalid(format!("{place}.signedIdentity"), reason))?,
        };
        Ok(Requirement::Signed { keys, identity })
    }

    fn key_at(&self, place: &str, path: &str) -> Result<Key, Error> {
        let file = Path::new(path);
        if !file.is_absolute() {
            return Err(self.invalid(place, format!("the key's path {path:?} is not absolute")));
        }
        let text = (self.key)(file)?;
        Key::parse(path, &text).map_err(|reason| self.invalid(place, format!("{path}: {reason}")))
    }

    fn key_in(&self, place: &str, field: &str, data: &str) -> Result<Key, Error> {
        let name = format!("{} {place}.{field}", self.path.display());
        base64::engine::general_purpose::STANDARD
            .decode(data)
            .map_err(|error| format!("not base64: {error}"))
            .and_then(|text| Key::parse(&name, &text))
            .map_err(|reason| self.invalid(place, format!("{field}: {reason}")))
    }
}

// --- the file as it is written ------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Vec<Object<RawRequirement>>,
    transports: Option<Unique<Unique<Vec<Object<RawRequirement>>>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawRequirement {
    #[serde(rename = "type")]
    kind: String,
    key_type: Option<IgnoredAny>,
    key_path: Option<String>,
    key_paths: Option<Vec<String>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    fulcio: Option<IgnoredAny>,
    pki: Option<IgnoredAny>,
    rekor_public_key_path: Option<IgnoredAny>,
    rekor_public_key_paths: Option<IgnoredAny>,
    rekor_public_key_data: Option<IgnoredAny>,
    rekor_public_key_datas: Option<IgnoredAny>,
    base_layer_identity: Option<IgnoredAny>,
    signed_identity: Option<Object<super::identity::Raw>>,
}

impl RawRequirement {
    /// Beside its type.
    fn has_fields(&self) -> bool {
        self.key_path.is_some()
            || self.key_paths.is_some()
            || self.key_data.is_some()
            || self.key_datas.is_some()
            || self.signed_identity.is_some()
            || [
                &self.key_type,
                &self.fulcio,
                &self.pki,
                &self.rekor_public_key_path,
                &self.rekor_public_key_paths,
                &self.rekor_public_key_data,
                &self.rekor_public_key_datas,
                &self.base_layer_identity,
            ]
            .iter()
            .any(|field| field.is_some())
    }
}
