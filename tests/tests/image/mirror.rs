//! Signatures where a registry has mirrors: what one has not, or has as it was a while ago, the
//! registry is asked for.

use std::sync::{Arc, Mutex};

use agent::image::{Hosts, Registries};
use serde_json::{Value, json};
use tests::image::{Image as Made, digest};
use tests::registry::{Registry, Response, Server};

use super::bundle::{BUNDLE, INDEX, MANIFEST, SIGN, Shelf, bundle, requires};
use super::signature::{Signer, policy, push, refused};
use super::{Fixture, sample};

/// What a host says of what refers to an image.
enum Told {
    /// It has no such API.
    Nothing,
    None,
    Bundles,
    Failure,
}

/// A host of an image, and what it was asked for.
struct Host {
    server: Server,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Host {
    fn start(image: &Made, bundles: &[Vec<u8>], told: Told) -> Self {
        let Shelf { mut manifests, blobs, entries } = Shelf::new(image, bundles, &json!(BUNDLE));
        manifests.insert("1".to_owned(), image.manifest());
        manifests.insert(digest(&image.manifest()), image.manifest());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let server = Server::start(move |request| {
            let path = request.path.split('?').next().unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            let index = |entries: &[Value]| {
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
                Response::new(200, index.to_string()).header("content-type", INDEX)
            };
            heard.lock().unwrap().push(path.to_owned());
            if path.contains("/referrers/") {
                return match told {
                    Told::Nothing => Response::new(404, "{}"),
                    Told::None => index(&[]),
                    Told::Bundles => index(&entries),
                    Told::Failure => Response::new(503, "{}"),
                };
            }
            let found = if path.contains("/manifests/") { &manifests } else { &blobs };
            match found.get(name) {
                Some(text) => Response::new(200, text.clone()).header("content-type", MANIFEST),
                None => Response::new(404, "{}"),
            }
        });
        Self { server: server.unwrap(), asked }
    }

    /// Whether it was asked for what contains this.
    fn heard(&self, part: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|path| path.contains(part))
    }
}

/// The registry at `origin` has a mirror.
fn mirrored(fixture: &Fixture, registries: Registries, origin: &str, mirror: &str) -> Registries {
    let hosts = fixture.dir.path().join("certs.d");
    let directory = hosts.join(origin);
    std::fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "server = \"http://{origin}\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
    Registries { hosts: Hosts::at(hosts), ..registries }
}

#[test]
fn bundles_that_a_mirror_has_not_are_asked_of_the_registry() {
    let (alice, mallory) = (Signer::new(), Signer::new());
    let made = sample();
    let of = digest(&made.manifest());
    let good = bundle(&alice, &of, SIGN);
    let old = bundle(&mallory, &of, SIGN);
    for (told, has) in [
        (Told::Nothing, vec![]),
        (Told::None, vec![]),
        // It was asked before the image was signed again.
        (Told::Bundles, vec![old]),
        (Told::Failure, vec![]),
    ] {
        let fixture = Fixture::new();
        let mirror = Host::start(&made, &has, told);
        let origin = Host::start(&made, std::slice::from_ref(&good), Told::Bundles);
        let address = origin.server.address();
        let registries = requires(&fixture, &alice, "matchDigest");
        let registries = mirrored(&fixture, registries, &address, &mirror.server.address());
        let image = fixture.pull_with(&format!("{address}/app:1"), None, &registries).unwrap();
        assert_eq!(image.id, made.id());
        assert!(mirror.heard("/referrers/") && origin.heard("/referrers/"));
        // That it has no signature is no reason to leave the mirror for the rest.
        for layer in &made.layers {
            let blob = format!("/blobs/{}", layer.digest);
            assert!(mirror.heard(&blob) && !origin.heard(&blob), "{:?}", origin.asked);
        }
    }
}

#[test]
fn a_registry_is_spared_whose_mirror_has_the_signature() {
    let (fixture, alice) = (Fixture::new(), Signer::new());
    let made = sample();
    let good = bundle(&alice, &digest(&made.manifest()), SIGN);
    let mirror = Host::start(&made, std::slice::from_ref(&good), Told::Bundles);
    let origin = Host::start(&made, &[], Told::Failure);
    let address = origin.server.address();
    let registries = requires(&fixture, &alice, "matchDigest");
    let registries = mirrored(&fixture, registries, &address, &mirror.server.address());
    fixture.pull_with(&format!("{address}/app:1"), None, &registries).unwrap();
    assert!(!origin.heard("/"), "{:?}", origin.asked);
}

#[test]
fn that_there_is_no_signature_only_the_registry_says() {
    let (fixture, alice) = (Fixture::new(), Signer::new());
    let made = sample();
    let mirror = Host::start(&made, &[], Told::None);
    let registries = requires(&fixture, &alice, "matchDigest");
    for (told, expected) in
        [(Told::None, "there is none of sha256:"), (Told::Failure, "read what refers to sha256:")]
    {
        let origin = Host::start(&made, &[], told);
        let address = origin.server.address();
        let mirror = mirror.server.address();
        let registries = mirrored(&fixture, registries.clone(), &address, &mirror);
        let text = refused(&fixture, &registries, &format!("{address}/app:1"));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn signatures_under_a_tag_are_those_of_mirror_and_registry() {
    let (fixture, alice, bob) = (Fixture::new(), Signer::new(), Signer::new());
    let (mirror, origin) = (Registry::start().unwrap(), Registry::start().unwrap());
    let made = sample();
    let of = digest(&made.manifest());
    let archive = fixture.in_archive_file(&made.oci_archive("app:1"));
    for registry in [&mirror, &origin] {
        registry.push(&archive, "app:1").unwrap();
    }
    let (image, name) = (origin.image("app:1"), origin.image("app"));
    let both =
        json!([alice.requirement("matchRepository")[0], bob.requirement("matchRepository")[0],]);
    let registries = policy(&fixture, &json!({"": both}));
    let registries = mirrored(&fixture, registries, &origin.address(), &mirror.address());
    let sign = |registry: &Registry, by: &Signer| {
        push(fixture.dir.path(), registry, "app", &of, &[by.sign(&of, &name)]);
    };

    let text = refused(&fixture, &registries, &image);
    assert!(text.contains("there is none of sha256:"), "{text}");
    sign(&mirror, &bob);
    let text = refused(&fixture, &registries, &image);
    assert!(text.contains("none of the 1 there are"), "{text}");
    // One requirement each: neither host has enough alone.
    sign(&origin, &alice);
    fixture.pull_with(&image, None, &registries).unwrap();
}
