//! What the Sigstore project's own crate made of an image (sigstore 0.15, by `tests/sigstore`), as it lay
//! in the registry. `make test-sigstore` lets it sign anew.
#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::tests::{digest, parse, reference};
use super::verify::{Attached, Form};
use super::{Reference, listed, tag_of};

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBaSk8BQCcUyUcqXnqaoVMLfIfDxf
xlxKdHsy1Uagl0g0wLUbagF0VBwCaKVSvEq1MnbgUTAHqoVZF62U1EQBUQ==
-----END PUBLIC KEY-----
";
const IMAGE: &str = "sha256:278c3241116cb6148e532403d2c32ae438c293dd8f53c19775f14b7a63481b25";
const MANIFEST: &str = r#"{"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/vnd.oci.image.config.v1+json","size":2},"layers":[{"annotations":{"dev.cosignproject.cosign/signature":"MEQCICuV8+HwfK6jkx6Mf5qaXINrqRzoKTiGbSMsln6ek4YdAiBOrWbT/ZlfcEIj6QmIfEjDeFP973uIViHR6DaLZJFm4A=="},"digest":"sha256:715e3094b9f9eeb0aba84a68018418e9af346d2bf8c7f53c74dc25632e86cdca","mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":241}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}"#;
const PAYLOAD: &str = r#"{"critical":{"identity":{"docker-reference":"127.0.0.1:5917/team/app:1"},"image":{"docker-manifest-digest":"sha256:278c3241116cb6148e532403d2c32ae438c293dd8f53c19775f14b7a63481b25"},"type":"cosign container image signature"},"optional":null}"#;

#[test]
fn what_the_peer_signed_is_accepted() {
    use base64::Engine as _;
    let tag = "sha256-278c3241116cb6148e532403d2c32ae438c293dd8f53c19775f14b7a63481b25.sig";
    assert_eq!(tag_of(IMAGE), tag);
    let (descriptor, signature) = listed(MANIFEST.as_bytes()).unwrap().remove(0);
    assert_eq!(descriptor.digest, crate::image::layer::digest_of(PAYLOAD.as_bytes()));
    assert_eq!(descriptor.size, PAYLOAD.len() as u64);
    let attached =
        [Attached { form: Form::SimpleSigning, payload: PAYLOAD.as_bytes().into(), signature }];
    let key = base64::engine::general_purpose::STANDARD.encode(KEY);
    let policy = parse(&json!({"default": [{"type": "sigstoreSigned", "keyData": key}]})).unwrap();
    let name = reference("127.0.0.1:5917/team/app:1");
    let decide =
        |name: &Reference, of: &str| policy.of(name).decide(name, &[of], &attached).is_ok();
    assert!(decide(&name, IMAGE));
    assert!(
        !decide(&name, &digest('a')) && !decide(&reference("127.0.0.1:5917/team/app:2"), IMAGE)
    );
}
