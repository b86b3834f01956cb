//! The decision: does an image satisfy what the policy requires of it? Pure.
//!
//! A signature is a payload and, in base64, what a key made of it. The payload is an in-toto statement
//! (`bundle.rs`) or, usually, this (simple signing):
//!
//! ```text
//! {"critical": {"type": "cosign container image signature",
//!               "image": {"docker-manifest-digest": "sha256:…"},
//!               "identity": {"docker-reference": "registry/repository[:tag]"}},
//!  "optional": …}
//! ```
//!
//! Nothing of a payload is believed before its signature holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::bundle;
use super::identity::SignedIdentity;
use super::key::Key;
use super::policy::{Requirement, Rule};
use super::strict::Object;
use crate::image::reference::Reference;

const TYPE: &str = "cosign container image signature";
/// Reasons that an error tells, at most.
const REASONS: usize = 3;

/// What a signature's payload is, and so what is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Form {
    #[default]
    SimpleSigning,
    /// In a DSSE envelope.
    Statement,
    /// Whatever somebody signed. Speaks for no image.
    Message,
}

/// A signature as a registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) form: Form,
    pub(super) payload: Bytes,
    /// In base64.
    pub(super) signature: String,
}

/// Why an image is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Rejected,
    /// None of the signatures satisfies a requirement; why not, maybe shortened.
    Unsigned(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Object<Critical>,
    #[serde(default, rename = "optional")]
    _optional: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Object<Signed>,
    identity: Object<Identity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

impl Rule<'_> {
    /// Whether signatures have to be looked at.
    pub(super) fn needs_signatures(&self) -> bool {
        self.requirements.iter().any(|one| matches!(one, Requirement::Signed { .. }))
    }

    /// Whether bundles may do, which name no repository.
    pub(super) fn takes_bundles(&self) -> bool {
        let takes = |one: &Requirement| {
            matches!(one, Requirement::Signed { identity: SignedIdentity::MatchDigest, .. })
        };
        self.requirements.iter().any(takes)
    }

    pub(super) fn rejects(&self) -> bool {
        self.requirements.iter().any(|one| matches!(one, Requirement::Reject))
    }

    /// Does the image that is pulled as `pulled` satisfy every requirement? `digests` are those of
    /// the documents that are about to be used: the image's manifest, and the index that named it.
    /// Returns the signatures that speak for it, one for each requirement of one.
    pub(super) fn decide<'a>(
        &self,
        pulled: &Reference,
        digests: &[&str],
        signatures: &'a [Attached],
    ) -> Result<Vec<&'a Attached>, Verdict> {
        if self.rejects() {
            return Err(Verdict::Rejected);
        }
        let mut proof = Vec::new();
        for requirement in self.requirements {
            let Requirement::Signed { keys, identity } = requirement else { continue };
            let mut reasons: Vec<String> = Vec::new();
            let accepted = signatures.iter().find(|signature| {
                match signature.speaks_for(keys, identity, pulled, digests) {
                    Ok(()) => return true,
                    Err(reason) if reasons.contains(&reason) => {}
                    Err(reason) => reasons.push(reason),
                }
                false
            });
            let Some(accepted) = accepted else {
                if reasons.len() > REASONS {
                    let more = reasons.len() - REASONS;
                    reasons.truncate(REASONS);
                    reasons.push(format!("and {more} more"));
                }
                return Err(Verdict::Unsigned(reasons));
            };
            proof.push(accepted);
        }
        Ok(proof)
    }
}

impl Attached {
    fn speaks_for(
        &self,
        keys: &[Key],
        identity: &SignedIdentity,
        pulled: &Reference,
        digests: &[&str],
    ) -> Result<(), String> {
        let signed = match self.form {
            Form::SimpleSigning => self.payload.clone(),
            Form::Statement => bundle::encoded(&self.payload).into(),
            Form::Message => {
                return Err("one is a bundle with a message signature, as of `cosign sign-blob`, \
                            which states no image; `cosign sign` makes one that does"
                    .to_owned());
            }
        };
        if !keys.iter().any(|key| key.verifies(&signed, &self.signature)) {
            let names: Vec<&str> = keys.iter().map(Key::name).collect();
            return Err(format!("one was not made with the key {}", names.join(" or ")));
        }
        match (self.form, identity) {
            (Form::SimpleSigning, _) => states(&self.payload, identity, pulled, digests),
            (Form::Statement | Form::Message, SignedIdentity::MatchDigest) => {
                bundle::states(&self.payload, digests)
            }
            (Form::Statement | Form::Message, _) => Err(format!(
                "one is a bundle, which names no repository for signedIdentity {identity}"
            )),
        }
    }
}

/// Is a payload whose signature holds about this image?
pub(super) fn states(
    payload: &[u8],
    identity: &SignedIdentity,
    pulled: &Reference,
    digests: &[&str],
) -> Result<(), String> {
    let Object(payload): Object<Payload> = serde_json::from_slice(payload)
        .map_err(|error| format!("one has a malformed payload: {error}"))?;
    let Object(critical) = payload.critical;
    let (Object(image), Object(stated)) = (critical.image, critical.identity);
    if critical.kind != TYPE {
        return Err(format!("one is of type {:?}", shortened(&critical.kind)));
    }
    if !digests.contains(&image.digest.as_str()) {
        return Err(format!("one is for {:?}", shortened(&image.digest)));
    }
    let stated = &stated.reference;
    if !identity.accepts(pulled, stated) {
        let stated = shortened(stated);
        return Err(format!(
            "one names {stated:?}, which signedIdentity {identity} does not accept for {pulled}"
        ));
    }
    Ok(())
}

/// A registry says it: not without end.
fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}
