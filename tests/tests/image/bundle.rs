//! Signatures as cosign 3 makes them by default: bundles that refer to the image. Of the form that
//! cosign's specification of bundles has; signed with openssl.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::image::Registries;
use base64::Engine as _;
use serde_json::{Value, json};
use tests::image::{Image as Made, digest};
use tests::registry::{Response, Server};

use super::signature::{Signer, policy, refused};
use super::{Fixture, sample};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

fn bundle(signer: &Signer, of: &str, predicate: &str) -> Vec<u8> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
        "subject": [{"digest": {"sha256": of.trim_start_matches("sha256:")}}],
    });
    let statement = statement.to_string();
    let signed = format!("DSSEv1 28 {STATEMENT} {} {statement}", statement.len());
    let (_, signature) = signer.sign_text(signed.as_bytes());
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64::engine::general_purpose::STANDARD.encode(&statement),
            "payloadType": STATEMENT, "signatures": [{"sig": signature, "keyid": ""}],
        },
    });
    bundle.to_string().into_bytes()
}

/// How a registry tells what refers to an image.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Api,
    Tag,
}

/// A registry that has an image and these bundles; and how many manifests that refer to it it gave.
fn registry(
    image: &Made,
    bundles: &[Vec<u8>],
    told: Told,
    kind: Value,
) -> (Server, Arc<AtomicUsize>) {
    let of = digest(&image.manifest());
    let mut blobs: BTreeMap<String, Vec<u8>> = image.blobs().into_iter().collect();
    let (mut manifests, mut entries) = (BTreeMap::new(), Vec::new());
    for bundle in bundles {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json",
                       "digest": digest(b"{}"), "size": 2},
            "layers": [{"mediaType": BUNDLE, "digest": digest(bundle), "size": bundle.len()}],
            "subject": {"mediaType": MANIFEST, "digest": of, "size": image.manifest().len()},
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = json!({
            "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
        });
        if kind.is_string() {
            entry["artifactType"] = kind.clone();
        }
        entries.push(entry);
        blobs.insert(digest(bundle), bundle.clone());
        manifests.insert(digest(&manifest), manifest);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let own = image.manifest();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let index = || Response::new(200, index.clone()).header("content-type", INDEX);
        let manifest =
            |text: &[u8]| Response::new(200, text.to_vec()).header("content-type", MANIFEST);
        if path == "/v2/" {
            return Response::new(200, "{}");
        }
        if path.contains("/referrers/") && told == Told::Api && name == of {
            return index();
        }
        if path.contains("/manifests/") {
            if name == of || name == "1" {
                return manifest(&own);
            }
            if name == of.replace(':', "-") && told == Told::Tag {
                return index();
            }
            if let Some(text) = manifests.get(name) {
                counter.fetch_add(1, Ordering::Relaxed);
                return manifest(text);
            }
        }
        match blobs.get(name) {
            Some(blob) if path.contains("/blobs/") => Response::new(200, blob.clone()),
            _ => Response::new(404, "{}"),
        }
    });
    (server.unwrap(), asked)
}

fn requires(fixture: &Fixture, signer: &Signer, identity: &str) -> Registries {
    policy(fixture, &json!({"": signer.requirement(identity)}))
}

#[test]
fn a_bundle_is_found_and_kept_where_no_repository_need_be_named() {
    let (alice, mallory) = (Signer::new(), Signer::new());
    let made = sample();
    let of = digest(&made.manifest());
    let good = bundle(&alice, &of, SIGN);
    for (told, kind) in [
        (Told::Api, json!(BUNDLE)),
        (Told::Tag, json!(BUNDLE)),
        (Told::Tag, json!("application/vnd.oci.empty.v1+json")),
        (Told::Tag, json!(null)),
    ] {
        let fixture = Fixture::new();
        let others = [
            bundle(&mallory, &of, SIGN),
            bundle(&alice, &of, "https://slsa.dev/provenance/v1"),
            bundle(&alice, &digest(b"another image"), SIGN),
            b"{}".to_vec(),
        ];
        let registries = requires(&fixture, &alice, "matchDigest");
        let (server, _) = registry(&made, &others, told, kind.clone());
        let text = refused(&fixture, &registries, &format!("{}/app:1", server.address()));
        for part in ["none of the 3 there are", "not made with the key", "an attestation"] {
            assert!(text.contains(part), "{text}");
        }
        let all: Vec<Vec<u8>> = others.iter().cloned().chain([good.clone()]).collect();
        let (server, _) = registry(&made, &all, told, kind);
        let name = format!("{}/app:1", server.address());
        let image = fixture.pull_with(&name, None, &registries).unwrap();
        // And by what was kept, which asks nobody.
        let permits = |registries: &Registries| {
            let policy = registries.policy.as_deref().unwrap();
            fixture.store.permits(policy, &image, &name).map_err(|error| super::chain(&error))
        };
        assert_eq!(permits(&registries), Ok(()));
        let text = permits(&requires(&fixture, &alice, "matchRepository")).unwrap_err();
        assert!(text.contains("names no repository"), "{text}");
        let text = permits(&requires(&fixture, &mallory, "matchDigest")).unwrap_err();
        assert!(text.contains("not made with the key"), "{text}");
    }
}

#[test]
fn bundles_are_bounded_and_not_looked_for_where_they_would_not_do() {
    let (fixture, alice) = (Fixture::new(), Signer::new());
    let made = sample();
    let of = digest(&made.manifest());
    let good = bundle(&alice, &of, SIGN);
    let (server, asked) = registry(&made, std::slice::from_ref(&good), Told::Api, json!(BUNDLE));
    let image = format!("{}/app:1", server.address());
    let registries = requires(&fixture, &alice, "matchRepository");
    let text = refused(&fixture, &registries, &image);
    assert!(text.contains("there is none of"), "{text}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);

    let registries = requires(&fixture, &alice, "matchDigest");
    let refuse = |bundles: &[Vec<u8>], kind: &str| {
        let (server, asked) = registry(&made, bundles, Told::Api, json!(kind));
        let text = refused(&fixture, &registries, &format!("{}/app:1", server.address()));
        (text, asked.load(Ordering::Relaxed))
    };
    // The newest of too many; the good one is the oldest.
    let many = (0..200).map(|at| format!("{{\"{at}\":1}}").into_bytes());
    let many: Vec<Vec<u8>> = [good.clone()].into_iter().chain(many).collect();
    assert_eq!(refuse(&many, BUNDLE).1, 32);
    // Something else refers to it: nothing is fetched.
    assert_eq!(refuse(std::slice::from_ref(&good), "application/spdx+json").1, 0);
    // Larger than a bundle is.
    let (text, asked) = refuse(&[[good, vec![b' '; 300 << 10]].concat()], BUNDLE);
    assert!(text.contains("there is none of") && asked == 1, "{text}");
}
