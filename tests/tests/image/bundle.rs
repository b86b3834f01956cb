//! Signatures as cosign 3 makes them by default: bundles that refer to the image. Of the form that
//! cosign's specification of bundles has; signed with openssl. And registries that tell in pages what
//! refers to an image, and of some types only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agent::image::Registries;
use base64::Engine as _;
use serde_json::{Value, json};
use tests::image::{Image as Made, digest};
use tests::registry::{Request, Response, Server};

use super::signature::{Signer, policy, refused};
use super::{Fixture, sample};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
pub(super) const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

pub(super) fn bundle(signer: &Signer, of: &str, predicate: &str) -> Vec<u8> {
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

/// A signature of the image's manifest, as `cosign sign-blob` makes it.
fn message(signer: &Signer, manifest: &[u8]) -> Vec<u8> {
    let (_, signature) = signer.sign_text(manifest);
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": "AA=="}, "signature": signature,
        },
    });
    bundle.to_string().into_bytes()
}

/// How a registry tells what refers to an image.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Api,
    /// So many at once, and only those of the type that is asked for.
    Pages(usize),
    Tag,
}

/// A page of what refers to an image.
fn page(entries: &[Value], size: usize, path: &str) -> Response {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
        value.map(|value| value.replace("%2F", "/").replace("%2B", "+"))
    };
    let kind = value("artifactType");
    let of_kind = |entry: &&Value| kind.as_ref().is_none_or(|kind| entry["artifactType"] == **kind);
    let entries: Vec<&Value> = entries.iter().filter(of_kind).collect();
    let from: usize = value("from").map_or(0, |from| from.parse().unwrap());
    let to = entries.len().min(from + size);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries[from..to]});
    let mut response = Response::new(200, index.to_string()).header("content-type", INDEX);
    if kind.is_some() {
        response = response.header("oci-filters-applied", "artifactType");
    }
    if to < entries.len() {
        let kind = kind.map_or_else(String::new, |kind| format!("&artifactType={kind}"));
        let kind = kind.replace('+', "%2B");
        let path = path.split('?').next().unwrap_or_default();
        let link = format!("<{path}?from={to}{kind}>; rel=\"next\"");
        response = response.header("link", link);
    }
    response
}

/// What a registry has where bundles refer to an image.
pub(super) struct Shelf {
    pub(super) manifests: BTreeMap<String, Vec<u8>>,
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    /// Of the index that names the bundles' manifests.
    pub(super) entries: Vec<Value>,
}

impl Shelf {
    pub(super) fn new(image: &Made, bundles: &[Vec<u8>], kind: &Value) -> Self {
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
        Self { manifests, blobs, entries }
    }
}

/// A registry that has an image and these bundles; and how many manifests that refer to it it gave.
fn registry(
    image: &Made,
    bundles: &[Vec<u8>],
    told: Told,
    kind: Value,
) -> (Server, Arc<AtomicUsize>) {
    let of = digest(&image.manifest());
    let Shelf { manifests, blobs, entries } = Shelf::new(image, bundles, &kind);
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
        if path.contains("/referrers/") && name == of {
            match told {
                Told::Api => return index(),
                Told::Pages(size) => return page(&entries, size, &request.path),
                Told::Tag => {}
            }
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

pub(super) fn requires(fixture: &Fixture, signer: &Signer, identity: &str) -> Registries {
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
        (Told::Pages(1), json!(BUNDLE)),
        (Told::Pages(3), json!(BUNDLE)),
        // Of the type that is asked for it has none.
        (Told::Pages(2), json!("application/vnd.oci.empty.v1+json")),
        (Told::Pages(2), json!(null)),
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

#[test]
fn a_message_signature_is_refused_with_its_reason() {
    let (fixture, alice) = (Fixture::new(), Signer::new());
    let made = sample();
    let (server, _) =
        registry(&made, &[message(&alice, &made.manifest())], Told::Api, json!(BUNDLE));
    let registries = requires(&fixture, &alice, "matchDigest");
    let text = refused(&fixture, &registries, &format!("{}/app:1", server.address()));
    assert!(text.contains("which states no image; `cosign sign` makes one"), "{text}");
}

/// An image that refers to nothing but what this handler says, by the path that is asked for.
fn telling(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> (Made, Server) {
    let made = sample();
    let (own, of) = (made.manifest(), digest(&made.manifest()));
    let server = Server::start(move |request| {
        let path = request.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        match name {
            _ if path.contains("/referrers/") => answer(request),
            "1" => Response::new(200, own.clone()).header("content-type", MANIFEST),
            _ if name == of => Response::new(200, own.clone()).header("content-type", MANIFEST),
            _ => Response::new(404, "{}"),
        }
    });
    (made, server.unwrap())
}

fn linked(entries: &Value, link: &str) -> Response {
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    Response::new(200, index).header("content-type", INDEX).header("link", link)
}

#[test]
fn pages_are_followed_at_the_same_host_and_not_for_ever() {
    let (fixture, alice) = (Fixture::new(), Signer::new());
    let registries = requires(&fixture, &alice, "matchDigest");
    let fail = |server: &Server| {
        let image = format!("{}/app:1", server.address());
        let error = fixture.pull_with(&image, None, &registries).unwrap_err();
        super::chain(&error)
    };

    // To another host, and to another port of this one.
    let visited = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visited);
    let other = Server::start(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        linked(&json!([]), "<x>; rel=prev")
    });
    let address = other.unwrap().address();
    for target in [
        format!("http://{address}/v2/app/referrers/x"),
        format!("//{address}/x"),
        "https://registry.example/x".to_owned(),
        "ftp://127.0.0.1/x".to_owned(),
    ] {
        let (_, server) = telling(move |_| linked(&json!([]), &format!("<{target}>; rel=next")));
        let text = fail(&server);
        assert!(text.contains("another host, for the next page"), "{text}");
    }
    assert_eq!(visited.load(Ordering::Relaxed), 0);

    // What comes after the first is no answer.
    let (_, server) = telling(|request| match request.path.contains("second") {
        true => Response::new(404, "{}"),
        false => linked(&json!([]), "<?second>; rel=next"),
    });
    assert!(fail(&server).contains("no next page"), "{}", fail(&server));
    let (_, server) = telling(|_| linked(&json!([]), "<http://[>; rel=next"));
    assert!(fail(&server).contains("its next page has no address"), "{}", fail(&server));

    // Without an end, and in a circle.
    for link in ["<?again>; rel=next", "<?artifactType=x>; rel=next"] {
        let asked = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&asked);
        let (_, server) = telling(move |_| {
            *counter.lock().unwrap() += 1;
            linked(&json!([]), link)
        });
        let text = fail(&server);
        assert!(text.contains("there is none of sha256:"), "{text}");
        assert_eq!(*asked.lock().unwrap(), 64);
    }

    // Large ones: all together are not larger than a document may be.
    let entry = json!([{"mediaType": "x", "digest": "x", "size": 1, "pad": "x".repeat(3 << 20)}]);
    let asked = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&asked);
    let (_, server) = telling(move |_| {
        *counter.lock().unwrap() += 1;
        linked(&entry, "<?again>; rel=next")
    });
    let text = fail(&server);
    assert!(text.contains("more than 4194304 bytes"), "{text}");
    assert!(*asked.lock().unwrap() <= 2, "{text}");
}
