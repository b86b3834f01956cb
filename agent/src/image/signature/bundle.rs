//! What cosign 3 makes by default: a Sigstore bundle, in a manifest that refers to the image (OCI 1.1),
//! whose content is a DSSE envelope around an in-toto statement.
//!
//! ```text
//! {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
//!  "verificationMaterial": …,
//!  "dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": "<base64>",
//!                   "signatures": [{"sig": "<base64>"}]}}
//! payload := {"_type": "https://in-toto.io/Statement/v1", "predicate": …,
//!             "predicateType": "https://sigstore.dev/cosign/sign/v1",
//!             "subject": [{"digest": {"sha256": "<hex>"}}]}
//! ```
//!
//! The statement names a digest and no repository. Attestations have the same form and say something
//! else about the image: only the predicate of a signature counts. Certificates and entries of
//! transparency logs are not looked at, for the policy names keys.
//!
//! A bundle may hold a bare signature of some message instead (`messageSignature`, what `cosign
//! sign-blob` makes). It states nothing: neither an image nor that anybody wanted one to be trusted, and
//! its `messageDigest` is not signed. As by cosign, it is refused for an image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::strict::{Object, Unique};
use super::verify::{Attached, Form};

pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const KINDS: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
/// Signatures of one envelope that are looked at; cosign makes one.
const MAX_SIGNATURES: usize = 8;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    dsse_envelope: Option<Object<Envelope>>,
    message_signature: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Object<Signature>>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Object<Subject>>,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: Unique<String>,
}

/// The signatures of a bundle; none if it is of another kind.
pub(super) fn parse(text: &[u8]) -> Vec<Attached> {
    let Ok(Object(bundle)) = serde_json::from_slice::<Object<Bundle>>(text) else {
        return Vec::new();
    };
    if bundle.media_type != BUNDLE {
        return Vec::new();
    }
    let envelope = match (bundle.dsse_envelope, bundle.message_signature) {
        (Some(Object(envelope)), None) if envelope.payload_type == STATEMENT => envelope,
        // Told of, or people would look for what they have made.
        (None, Some(IgnoredAny)) => {
            let (payload, signature) = (bytes::Bytes::new(), String::new());
            return vec![Attached { form: Form::Message, payload, signature }];
        }
        _ => return Vec::new(),
    };
    let Ok(payload) = STANDARD.decode(&envelope.payload) else { return Vec::new() };
    let payload = bytes::Bytes::from(payload);
    let signatures = envelope.signatures.into_iter().take(MAX_SIGNATURES);
    signatures
        .map(|Object(Signature { sig })| Attached {
            form: Form::Statement,
            payload: payload.clone(),
            signature: sig,
        })
        .collect()
}

/// What is signed: the envelope's pre-authentication encoding (DSSE v1).
pub(super) fn encoded(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {STATEMENT} {} ", STATEMENT.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Does a statement whose signature holds sign one of these digests?
pub(super) fn states(payload: &[u8], digests: &[&str]) -> Result<(), String> {
    let Object(Statement { kind, predicate_type, subject }) = serde_json::from_slice(payload)
        .map_err(|error| format!("one has a malformed statement: {error}"))?;
    if !KINDS.contains(&kind.as_str()) || predicate_type != PREDICATE {
        return Err("one is an attestation and no signature".to_owned());
    }
    let signs = |Object(Subject { digest }): &Object<Subject>| {
        let hex = digest.0.get("sha256").map_or("", String::as_str);
        digests.iter().any(|digest| digest.strip_prefix("sha256:") == Some(hex))
    };
    if subject.iter().any(signs) { Ok(()) } else { Err("one is for another image".to_owned()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        // With its example's body, secure-systems-lab/dsse, protocol.md.
        let text = encoded(b"hello world");
        assert_eq!(text, b"DSSEv1 28 application/vnd.in-toto+json 11 hello world");
    }

    #[test]
    fn only_a_signature_of_the_image_counts() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let statement = |kind: &str, predicate: &str, subject: serde_json::Value| {
            json!({"_type": kind, "predicateType": predicate, "subject": subject, "predicate": {}})
                .to_string()
        };
        let states = |text: String| states(text.as_bytes(), &[&digest]);
        let own = json!([{"digest": {"sha256": "a".repeat(64)}}]);
        let two = json!([{"name": "x"}, {"digest": {"sha256": "a".repeat(64)}}]);
        for kind in KINDS {
            assert_eq!(states(statement(kind, PREDICATE, own.clone())), Ok(()));
        }
        assert_eq!(states(statement(KINDS[0], PREDICATE, two)), Ok(()));
        for (kind, predicate, subject) in [
            (KINDS[0], "https://slsa.dev/provenance/v1", own.clone()),
            ("https://in-toto.io/Statement/v9", PREDICATE, own),
            (KINDS[0], PREDICATE, json!([])),
            (KINDS[0], PREDICATE, json!([{"digest": {"sha256": ""}}])),
            (KINDS[0], PREDICATE, json!([{"digest": {"sha512": "a".repeat(64)}}])),
            (KINDS[0], PREDICATE, json!([{"digest": {"sha256": "b".repeat(64)}}])),
            (KINDS[0], PREDICATE, json!({"digest": {"sha256": "a".repeat(64)}})),
        ] {
            assert!(states(statement(kind, predicate, subject)).is_err());
        }
    }

    #[test]
    fn a_message_signature_is_found_and_states_nothing() {
        let message = json!({
            "mediaType": BUNDLE,
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": "AA=="}, "signature": "AA==",
            },
        });
        let found = parse(message.to_string().as_bytes());
        assert_eq!(found.iter().map(|one| one.form).collect::<Vec<_>>(), [Form::Message]);
        assert!(found.iter().all(|one| one.payload.is_empty() && one.signature.is_empty()));
    }

    #[test]
    fn a_bundle_of_another_kind_holds_no_signature() {
        let envelope = json!({
            "payload": "e30=", "payloadType": STATEMENT, "signatures": [{"sig": "AA=="}],
        });
        let bundle = |kind: &str, field: &str, content: &serde_json::Value| {
            parse(json!({"mediaType": kind, field: content}).to_string().as_bytes()).len()
        };
        assert_eq!(bundle(BUNDLE, "dsseEnvelope", &envelope), 1);
        assert_eq!(bundle("application/json", "dsseEnvelope", &envelope), 0);
        assert_eq!(bundle("application/json", "messageSignature", &json!({})), 0);
        assert_eq!(bundle(BUNDLE, "messageSignature", &json!(null)), 0);
        // The content is one of the two.
        let both = json!({"mediaType": BUNDLE, "dsseEnvelope": envelope, "messageSignature": {}});
        assert!(parse(both.to_string().as_bytes()).is_empty());
        let mut other = envelope.clone();
        other["payloadType"] = json!("text/plain");
        assert_eq!(bundle(BUNDLE, "dsseEnvelope", &other), 0);
        let mut broken = envelope.clone();
        broken["payload"] = json!("%");
        assert_eq!(bundle(BUNDLE, "dsseEnvelope", &broken), 0);
        let mut many = envelope;
        many["signatures"] = json!(vec![json!({"sig": "AA=="}); 100]);
        assert_eq!(bundle(BUNDLE, "dsseEnvelope", &many), MAX_SIGNATURES);
        assert!(parse(b"").is_empty() && parse(b"[]").is_empty());
    }
}
