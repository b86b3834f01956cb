//! What is known of the images that are here: by which signatures they were accepted, and from what
//! archives they came. So the policy can be asked without the registry, and also a policy that is
//! newer than the image.
//!
//! ```text
//! signatures/<id hex>.json   the signatures that a policy accepted at a pull, the oldest first, and
//!                            what they sign; the kinds of archives that the image was loaded from
//! ```
//!
//! Not the verdict is kept but what it was founded on: a signature is verified anew each time, by the
//! keys and for the identity that the policy names then. A record is committed with the image it
//! belongs to, just before it; an image whose record is missing or damaged, because it is from an
//! earlier version or was pulled without a policy, has no signatures, and its registry is asked.
//! Records of images that are gone are swept.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::verify::{Attached, Form};
use super::{ArchiveKind, Policy};
use crate::image::content::{Store, prepare_record, publish, read_record};
use crate::image::reference::{Reference, as_id};
use crate::image::{Error, Image};

/// Signatures that are kept of an image; those of the names that were pulled last.
const MAX_KEPT: usize = 16;

/// The signatures that an image was accepted by.
#[derive(Debug, Default)]
pub(in crate::image) struct Proof {
    /// What they sign: the manifest, and the index that named it.
    pub(super) digests: Vec<String>,
    pub(super) signatures: Vec<Attached>,
}

/// Where an image comes from, and what speaks for it.
#[derive(Debug, Clone)]
pub(in crate::image) enum Origin {
    Registry(Arc<Proof>),
    Archive(ArchiveKind),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Record {
    archives: BTreeSet<ArchiveKind>,
    signatures: Vec<Kept>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    digests: Vec<String>,
    #[serde(default)]
    form: Form,
    /// In base64, as the signature.
    payload: String,
    signature: String,
}

impl Record {
    pub(super) fn archives(&self) -> &BTreeSet<ArchiveKind> {
        &self.archives
    }

    /// Under what digests the image was accepted.
    pub(super) fn digests(&self) -> Vec<&str> {
        let digests = self.signatures.iter().flat_map(|kept| &kept.digests);
        digests.map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn signatures(&self) -> Vec<Attached> {
        let attached = |kept: &Kept| {
            let payload = STANDARD.decode(&kept.payload).ok()?;
            let signature = kept.signature.clone();
            Some(Attached { form: kept.form, payload: payload.into(), signature })
        };
        self.signatures.iter().filter_map(attached).collect()
    }

    pub(super) fn add(&mut self, proof: &Proof) {
        for attached in &proof.signatures {
            let kept = Kept {
                digests: proof.digests.clone(),
                form: attached.form,
                payload: STANDARD.encode(&attached.payload),
                signature: attached.signature.clone(),
            };
            self.signatures
                .retain(|old| (&old.payload, &old.signature) != (&kept.payload, &kept.signature));
            self.signatures.push(kept);
        }
        let surplus = self.signatures.len().saturating_sub(MAX_KEPT);
        self.signatures.drain(..surplus);
    }
}

impl Store {
    /// May an image that is here be used as `reference`, its registry not being asked?
    ///
    /// # Errors
    /// Why not: the policy rejects it, or requires a signature that is not known of it.
    pub fn permits(&self, policy: &Policy, image: &Image, reference: &str) -> Result<(), Error> {
        let record = self.signature_record(&image.id)?;
        let judge = |name: Option<&Reference>| policy.check_known(name, &record);
        // The beginning of an id may be a name, too: then it is judged as that, whatever it has found here,
        // or who makes an image with such an id would have it run in the other's place.
        let asked = match as_id(reference) {
            Some(_) => None,
            None => Reference::parse(reference).ok(),
        };
        let verdict = match asked {
            Some(name) => judge(Some(&name)),
            // By its id: any of its names will do.
            None => {
                let names = image.references.iter().chain(&image.repo_digests);
                let names: Vec<Reference> =
                    names.filter_map(|name| Reference::parse(name).ok()).collect();
                let verdicts = names.iter().map(|name| judge(Some(name)));
                verdicts.reduce(Result::or).unwrap_or_else(|| judge(None))
            }
        };
        verdict.map_err(|source| Error::Signature {
            reference: reference.to_owned(),
            source: Box::new(source),
        })
    }

    /// The image with this id, which is here, was accepted by these signatures.
    pub(in crate::image) fn note_proof(&self, id: &str, proof: Proof) -> Result<(), Error> {
        if proof.signatures.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if !self.image_path(id).exists() {
            return Ok(());
        }
        let path = self
            .prepare_origin(id, &Origin::Registry(Arc::new(proof)))
            .map_err(|error| self.explain(error))?;
        path.map_or(Ok(()), |path| publish(&path))
    }

    /// All that records where the image with this id comes from, but publishing the path; `None` if
    /// that is known.
    pub(in crate::image) fn prepare_origin(
        &self,
        id: &str,
        origin: &Origin,
    ) -> Result<Option<PathBuf>, Error> {
        let old = self.signature_record(id)?;
        let mut record = old.clone();
        match origin {
            Origin::Registry(proof) => record.add(proof),
            Origin::Archive(kind) => drop(record.archives.insert(*kind)),
        }
        if record == old {
            return Ok(None);
        }
        let path = self.signature_path(id);
        prepare_record(&path, &record)?;
        Ok(Some(path))
    }

    /// Empty if there is none, or one that is damaged.
    fn signature_record(&self, id: &str) -> Result<Record, Error> {
        match read_record(&self.signature_path(id)) {
            Ok(record) => Ok(record),
            Err(error) if error.is_damage() => Ok(Record::default()),
            Err(error) => Err(error),
        }
    }

    fn signature_path(&self, id: &str) -> PathBuf {
        self.at("signatures").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::super::tests::{ALICE, BOB, alice, digest, parse, reference, signed};
    use super::*;

    fn record(proof: &[(&str, Attached)]) -> Record {
        let mut record = Record::default();
        for (digest, attached) in proof {
            let digests = vec![(*digest).to_owned()];
            record.add(&Proof { digests, signatures: vec![attached.clone()] });
        }
        let text = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&text).unwrap(), record);
        record
    }

    fn refused(policy: &Policy, name: Option<&str>, record: &Record) -> String {
        let name = name.map(reference);
        policy.check_known(name.as_ref(), record).unwrap_err().to_string()
    }

    #[test]
    fn an_image_of_which_nothing_is_known_is_used_where_nothing_is_required() {
        let policy = parse(&json!({
            "default": [{"type": "sigstoreSigned", "keyPath": "/keys/alice.pub"}],
            "transports": {"docker": {
                "docker.io/library/free": [{"type": "insecureAcceptAnything"}],
                "docker.io/library/bad": [{"type": "reject"}],
            }},
        }))
        .unwrap();
        let nothing = Record::default();
        assert!(policy.check_known(Some(&reference("free:1")), &nothing).is_ok());
        assert!(refused(&policy, Some("bad:1"), &nothing).contains("rejects it by its scope"));
        let text = refused(&policy, Some("app:1"), &nothing);
        assert!(text.contains("none is known") && text.contains("pulling it again"), "{text}");
        assert!(refused(&policy, None, &nothing).contains("by its default"));
        let open = parse(&json!({"default": [{"type": "insecureAcceptAnything"}]})).unwrap();
        assert!(open.check_known(None, &nothing).is_ok());
        let closed = parse(&json!({"default": [{"type": "reject"}]})).unwrap();
        assert!(refused(&closed, None, &nothing).contains("rejects it by its default"));
    }

    #[test]
    fn what_was_accepted_is_judged_by_the_policy_of_today() {
        let of = digest('a');
        let record = record(&[(&of, signed(ALICE, &of, "app:1"))]);
        assert!(alice(None).check_known(Some(&reference("app:1")), &record).is_ok());
        // Another name for it, given here.
        let text = refused(&alice(None), Some("app:2"), &record);
        assert!(text.contains("does not accept for docker.io/library/app:2"), "{text}");
        let repository = alice(Some(json!({"type": "matchRepository"})));
        assert!(repository.check_known(Some(&reference("app:2")), &record).is_ok());
        let ed25519 = parse(&json!({
            "default": [{"type": "sigstoreSigned", "keyPath": "/keys/ed25519.pub"}],
        }))
        .unwrap();
        let text = refused(&ed25519, Some("app:1"), &record);
        assert!(text.contains("not made with the key /keys/ed25519.pub"), "{text}");
        // Never accepted, whoever wrote it there.
        let by_bob = self::record(&[(&of, signed(BOB, &of, "app:1"))]);
        assert!(refused(&alice(None), Some("app:1"), &by_bob).contains("not made with the key"));
        let of_other = self::record(&[(&of, signed(ALICE, &digest('b'), "app:1"))]);
        assert!(refused(&alice(None), Some("app:1"), &of_other).contains("one is for"));
    }

    #[test]
    fn an_archive_is_let_in_by_its_own_requirements() {
        let policy = parse(&json!({
            "default": [{"type": "reject"}],
            "transports": {"docker-archive": {"": [{"type": "insecureAcceptAnything"}]}},
        }))
        .unwrap();
        let from = |kind| Record { archives: BTreeSet::from([kind]), ..Record::default() };
        let app = reference("app:1");
        assert!(policy.check_known(Some(&app), &from(ArchiveKind::Docker)).is_ok());
        assert!(policy.check_known(None, &from(ArchiveKind::Docker)).is_ok());
        assert!(policy.check_known(Some(&app), &from(ArchiveKind::Oci)).is_err());
        let plain = alice(None);
        assert!(plain.check_known(Some(&app), &from(ArchiveKind::Docker)).is_err());
    }

    #[test]
    fn the_latest_signatures_are_kept_once() {
        let of = digest('a');
        let signatures: Vec<(&str, Attached)> = (0..MAX_KEPT + 4)
            .map(|at| (of.as_str(), signed(ALICE, &of, &format!("app:{at}"))))
            .collect();
        let mut record = record(&signatures);
        let kept: Vec<Attached> = signatures.into_iter().map(|(_, attached)| attached).collect();
        assert_eq!(record.signatures(), kept[4..]);
        record.add(&Proof { digests: vec![digest('b')], signatures: vec![kept[4].clone()] });
        assert_eq!(record.signatures.len(), MAX_KEPT);
        assert_eq!(record.signatures().last(), Some(&kept[4]));
        assert_eq!(record.digests(), [of, digest('b')]);
    }
}
