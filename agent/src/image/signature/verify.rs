//! The decision: does an image satisfy what the policy requires of it? Pure.
//!
//! A signature is a payload (simple signing) and, in base64, what a key made of it:
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
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::key::Key;
use super::policy::{Requirement, Rule};
use super::strict::Object;
use crate::image::reference::Reference;

const TYPE: &str = "cosign container image signature";
/// Reasons that an error tells, at most.
const REASONS: usize = 3;

/// A signature as a registry has it.
#[derive(Debug, Clone)]
pub(super) struct Attached {
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

    pub(super) fn rejects(&self) -> bool {
        self.requirements.iter().any(|one| matches!(one, Requirement::Reject))
    }

    /// Does the image that is pulled as `pulled` satisfy every requirement? `digests` are those of
    /// the documents that are about to be used: the image's manifest, and the index that named it.
    pub(super) fn decide(
        &self,
        pulled: &Reference,
        digests: &[&str],
        signatures: &[Attached],
    ) -> Result<(), Verdict> {
        if self.rejects() {
            return Err(Verdict::Rejected);
        }
        for requirement in self.requirements {
            let mut reasons: Vec<String> = Vec::new();
            let mut accepted = false;
            for signature in signatures {
                match requirement.satisfied_by(pulled, digests, signature) {
                    Ok(()) => {
                        accepted = true;
                        break;
                    }
                    Err(reason) if reasons.contains(&reason) => {}
                    Err(reason) => reasons.push(reason),
                }
            }
            if !accepted && matches!(requirement, Requirement::Signed { .. }) {
                if reasons.len() > REASONS {
                    let more = reasons.len() - REASONS;
                    reasons.truncate(REASONS);
                    reasons.push(format!("and {more} more"));
                }
                return Err(Verdict::Unsigned(reasons));
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn satisfied_by(
        &self,
        pulled: &Reference,
        digests: &[&str],
        attached: &Attached,
    ) -> Result<(), String> {
        let (keys, identity) = match self {
            Self::AcceptAnything => return Ok(()),
            Self::Reject => return Err("everything is rejected".to_owned()),
            Self::Signed { keys, identity } => (keys, identity),
        };
        if !keys.iter().any(|key| key.verifies(&attached.payload, &attached.signature)) {
            let names: Vec<&str> = keys.iter().map(Key::name).collect();
            return Err(format!("one was not made with the key {}", names.join(" or ")));
        }
        let Object(payload): Object<Payload> = serde_json::from_slice(&attached.payload)
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
}

/// A registry says it: not without end.
fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}
