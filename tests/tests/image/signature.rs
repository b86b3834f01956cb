//! Signatures that images must have: made with openssl, kept by a real registry as cosign keeps them
//! and as skopeo carries them, or served by a registry that means harm.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agent::api::types::PullEvent;
use agent::image::{Error, Image, Policy, Registries};
use serde_json::{Value, json};
use tests::host::{TestHost, script, stderr};
use tests::image::{Image as Made, Layer, Tar, digest, oci_archive};
use tests::registry::{Registry, Response, Server};

use super::{Fixture, chain, sample};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// A pair of keys of P-256, as `cosign generate-key-pair` makes it.
pub(super) struct Signer {
    dir: tempfile::TempDir,
}

impl Signer {
    pub(super) fn new() -> Self {
        let signer = Self { dir: tempfile::tempdir().unwrap() };
        signer.openssl(&[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            "key",
        ]);
        signer.openssl(&["pkey", "-in", "key", "-pubout", "-out", "public"]);
        signer
    }

    fn openssl(&self, words: &[&str]) -> Vec<u8> {
        let output = Command::new("openssl").args(words).current_dir(self.dir.path()).output();
        let output = output.expect("start openssl (Debian package openssl)");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub(super) fn public(&self) -> String {
        self.dir.path().join("public").to_str().unwrap().to_owned()
    }

    /// A payload and its signature in base64.
    pub(super) fn sign(&self, digest: &str, name: &str) -> (Vec<u8>, String) {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        self.sign_text(payload.to_string().as_bytes())
    }

    pub(super) fn sign_text(&self, payload: &[u8]) -> (Vec<u8>, String) {
        std::fs::write(self.dir.path().join("payload"), payload).unwrap();
        self.openssl(&["dgst", "-sha256", "-sign", "key", "-out", "signature", "payload"]);
        let signature = self.openssl(&["base64", "-A", "-in", "signature"]);
        (payload.to_vec(), String::from_utf8(signature).unwrap())
    }

    pub(super) fn requirement(&self, identity: &str) -> Value {
        json!([{
            "type": "sigstoreSigned", "keyPath": self.public(), "signedIdentity": {"type": identity},
        }])
    }
}

/// The manifest that holds signatures, and the blobs that it names.
fn attached(signatures: &[(Vec<u8>, String)]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let payloads = signatures.iter().map(|(payload, _)| payload.clone());
    let diff_ids: Vec<String> = payloads.clone().map(|payload| digest(&payload)).collect();
    let config = json!({
        "architecture": "", "os": "", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let layers: Vec<Value> = signatures
        .iter()
        .map(|(payload, signature)| {
            json!({
                "mediaType": PAYLOAD, "digest": digest(payload), "size": payload.len(),
                "annotations": {SIGNATURE: signature},
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": digest(&config), "size": config.len()},
        "layers": layers,
    });
    (manifest.to_string().into_bytes(), payloads.chain([config]).collect())
}

fn tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// Pushes signatures of what has this digest.
pub(super) fn push(
    directory: &Path,
    registry: &Registry,
    name: &str,
    of: &str,
    signatures: &[(Vec<u8>, String)],
) {
    let (manifest, blobs) = attached(signatures);
    let entry = json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(&manifest), "size": manifest.len(),
    });
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let mut tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", index.to_string().as_bytes());
    for blob in blobs.iter().chain([&manifest]) {
        tar = tar.file(&format!("blobs/{}", digest(blob).replacen(':', "/", 1)), blob);
    }
    let archive = directory.join("signatures");
    std::fs::write(&archive, tar.finish()).unwrap();
    registry.push(&archive, &format!("{name}:{}", tag(of))).unwrap();
}

/// Everything is rejected but what the scopes say.
pub(super) fn policy(fixture: &Fixture, scopes: &Value) -> Registries {
    let path = fixture.dir.path().join("policy.json");
    let text = json!({"default": [{"type": "reject"}], "transports": {"docker": scopes}});
    std::fs::write(&path, text.to_string()).unwrap();
    Registries { policy: Some(Arc::new(Policy::load(&path).unwrap())), ..Registries::default() }
}

pub(super) fn refused(fixture: &Fixture, registries: &Registries, reference: &str) -> String {
    let before = fixture.content();
    fixture.events.lock().unwrap().clear();
    let error = fixture.pull_with(reference, None, registries).expect_err(reference);
    assert!(matches!(error, Error::Signature { .. }), "{}", chain(&error));
    assert_eq!(fixture.content(), before, "nothing is kept of a refused image");
    let events = fixture.events.lock().unwrap();
    assert!(!events.iter().any(|event| matches!(event, PullEvent::Layer { .. })), "{events:?}");
    chain(&error)
}

#[test]
fn only_signed_images_are_pulled() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let (alice, mallory) = (Signer::new(), Signer::new());
    let made = sample();
    let of = digest(&made.manifest());
    let archive = fixture.in_archive_file(&made.oci_archive("app:1"));
    for name in ["team/app:1", "team/bare:1", "free/app:1", "other/app:1"] {
        registry.push(&archive, name).unwrap();
    }
    let image = |name: &str| registry.image(name);
    let registries = policy(
        &fixture,
        &json!({
            image("team"): alice.requirement("matchRepoDigestOrExact"),
            image("free"): [{"type": "insecureAcceptAnything"}],
        }),
    );
    let pull = |name: &str| fixture.pull_with(&image(name), None, &registries);

    pull("free/app:1").unwrap();
    let text = refused(&fixture, &registries, &image("other/app:1"));
    assert!(text.contains("rejects it by its default"), "{text}");
    let text = refused(&fixture, &registries, &image("team/app:1"));
    assert!(text.contains("there is none of sha256:") && text.contains("cosign sign"), "{text}");
    assert!(text.contains(&image("team")), "{text}");

    // By another key, for another name, for another image, for nothing: one more each time.
    let other = digest(b"another image");
    let mut signatures = vec![mallory.sign(&of, &image("team/app:1"))];
    push(fixture.dir.path(), &registry, "team/app", &of, &signatures);
    let text = refused(&fixture, &registries, &image("team/app:1"));
    assert!(text.contains("not made with the key") && text.contains(&alice.public()), "{text}");
    signatures.push(alice.sign(&of, &image("team/other:1")));
    push(fixture.dir.path(), &registry, "team/app", &of, &signatures);
    let text = refused(&fixture, &registries, &image("team/app:1"));
    assert!(text.contains("none of the 2 there are"), "{text}");
    assert!(text.contains(&image("team/other:1")), "{text}");
    signatures.push(alice.sign(&other, &image("team/app:1")));
    signatures.push((b"{}".to_vec(), "bm90aGluZw==".to_owned()));
    push(fixture.dir.path(), &registry, "team/app", &of, &signatures);
    let text = refused(&fixture, &registries, &image("team/app:1"));
    assert!(text.contains("none of the 4 there are") && text.contains(&other), "{text}");

    // And a good one among them.
    signatures.insert(1, alice.sign(&of, &image("team/app:1")));
    push(fixture.dir.path(), &registry, "team/app", &of, &signatures);
    let by_tag = pull("team/app:1").unwrap();
    assert_eq!(by_tag.digest, of);
    pull(&format!("team/app@{of}")).unwrap();
    // The same image, all of it here, under a name for which nobody has signed.
    refused(&fixture, &registries, &image("team/bare:1"));
    push(fixture.dir.path(), &registry, "team/bare", &of, &signatures);
    let text = refused(&fixture, &registries, &image("team/bare:1"));
    assert!(text.contains(&format!("does not accept for {}", image("team/bare:1"))), "{text}");
}

#[test]
fn a_moved_tag_is_noticed() {
    let (fixture, registry, alice) = (Fixture::new(), Registry::start().unwrap(), Signer::new());
    let scopes = json!({registry.image("app"): alice.requirement("matchRepoDigestOrExact")});
    let registries = policy(&fixture, &scopes);
    let of = |version: &str| {
        let made = Made::new(vec![Layer::gzip(&Tar::new().file("version", version.as_bytes()))]);
        let archive = fixture.in_archive_file(&made.oci_archive("app"));
        (archive, digest(&made.manifest()))
    };
    let (archive, old) = of("1");
    registry.push(&archive, "app:1").unwrap();
    push(fixture.dir.path(), &registry, "app", &old, &[alice.sign(&old, &registry.image("app:1"))]);
    fixture.pull_with(&registry.image("app:1"), None, &registries).unwrap();
    // An unsigned image under the tag.
    let (archive, _) = of("2");
    registry.push(&archive, "app:1").unwrap();
    refused(&fixture, &registries, &registry.image("app:1"));
    // A signed one under a tag that its signature does not name.
    let (archive, _) = of("1");
    registry.push(&archive, "app:2").unwrap();
    let text = refused(&fixture, &registries, &registry.image("app:2"));
    assert!(text.contains(&registry.image("app:1")), "{text}");
    // cosign names no tag: then only the repository can be asked for.
    push(fixture.dir.path(), &registry, "app", &old, &[alice.sign(&old, &registry.image("app"))]);
    let text = refused(&fixture, &registries, &registry.image("app:2"));
    assert!(text.contains("matchRepoDigestOrExact"), "{text}");
    let scopes = json!({registry.image("app"): alice.requirement("matchRepository")});
    let registries = policy(&fixture, &scopes);
    fixture.pull_with(&registry.image("app:2"), None, &registries).unwrap();
}

#[test]
fn the_index_or_the_platforms_manifest_is_signed() {
    let (fixture, registry, alice) = (Fixture::new(), Registry::start().unwrap(), Signer::new());
    let ours = sample();
    let foreign = Made { architecture: "s390x".to_owned(), ..sample() };
    // skopeo makes the inner index the tag's: an image of two platforms.
    let entries = [ours.descriptor(json!({})), foreign.descriptor(json!({}))];
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let index = index.to_string().into_bytes();
    let outer = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": digest(&index), "size": index.len(),
    }]});
    let mut tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", outer.to_string().as_bytes());
    let blobs = ours.blobs().into_iter().chain(foreign.blobs()).map(|(_, blob)| blob);
    let blobs: std::collections::BTreeSet<Vec<u8>> = blobs.chain([index.clone()]).collect();
    for blob in &blobs {
        tar = tar.file(&format!("blobs/{}", digest(blob).replacen(':', "/", 1)), blob);
    }
    let archive = fixture.in_archive_file(&tar.finish());
    for name in ["a:1", "b:1", "c:1"] {
        registry.push(&archive, name).unwrap();
    }
    let scopes =
        json!({registry.image("").trim_end_matches('/'): alice.requirement("matchRepository")});
    let registries = policy(&fixture, &scopes);
    let (whole, part) = (digest(&index), digest(&ours.manifest()));
    push(fixture.dir.path(), &registry, "a", &whole, &[alice.sign(&whole, &registry.image("a"))]);
    push(fixture.dir.path(), &registry, "b", &part, &[alice.sign(&part, &registry.image("b"))]);
    let of_other = digest(&foreign.manifest());
    push(
        fixture.dir.path(),
        &registry,
        "c",
        &of_other,
        &[alice.sign(&of_other, &registry.image("c"))],
    );
    for name in ["a:1", "b:1"] {
        let image: Image = fixture.pull_with(&registry.image(name), None, &registries).unwrap();
        assert_eq!(image.digest, part, "{name}");
    }
    let text = refused(&fixture, &registries, &registry.image("c:1"));
    assert!(text.contains(&whole) && text.contains(&part), "{text}");
}

/// A registry that has an image, and signatures as `signatures` answers for their manifest; and how
/// often it was asked for a blob.
fn hostile(
    image: &Made,
    signatures: impl Fn() -> Response + Send + Sync + 'static,
    payload: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> (Server, Arc<AtomicUsize>) {
    let (manifest, blobs) = (image.manifest(), image.blobs());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = Server::start(move |request| {
        let path = request.path.as_str();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        if path == "/v2/" {
            return Response::new(200, "{}");
        }
        if path.ends_with(".sig") {
            return signatures().header("content-type", kind);
        }
        if path.contains("/manifests/") {
            return Response::new(200, manifest.clone()).header("content-type", kind);
        }
        counter.fetch_add(1, Ordering::Relaxed);
        let own = blobs.iter().find(|(name, _)| path.ends_with(name));
        match own.map(|(_, blob)| blob.clone()).or_else(|| payload(path)) {
            Some(blob) => Response::new(200, blob),
            None => Response::new(404, "{}"),
        }
    });
    (server.unwrap(), asked)
}

#[test]
fn a_registry_gains_nothing_by_strange_signatures() {
    let fixture = Fixture::new();
    let alice = Signer::new();
    let made = sample();
    let scopes = json!({"": alice.requirement("matchRepository")});
    let registries = policy(&fixture, &scopes);
    let check =
        |server: &Server| refused(&fixture, &registries, &format!("{}/app:1", server.address()));

    for (answer, told) in [
        ("", "are malformed"),
        ("garbage", "are malformed"),
        ("[]", "are malformed"),
        ("{\"layers\":{}}", "are malformed"),
        ("{\"layers\":[{}]}", "are malformed"),
        ("{}", "there is none of"),
        ("{\"layers\":[]}", "there is none of"),
    ] {
        let (server, asked) = hostile(&made, move || Response::new(200, answer), |_| None);
        let text = check(&server);
        assert!(text.contains(told), "{answer:?}: {text}");
        assert_eq!(asked.load(Ordering::Relaxed), 0, "{answer:?}");
    }
    let (server, _) = hostile(&made, || Response::new(200, vec![b' '; 5 << 20]), |_| None);
    check(&server);
    let (server, _) = hostile(&made, || Response::new(403, "{}"), |_| None);
    let text = check(&server);
    assert!(text.contains("read the signatures"), "{text}");

    // Thousands of them, every payload another: the newest are looked at.
    let many: Vec<(Vec<u8>, String)> =
        (0..5000).map(|number| (format!("{number}").into_bytes(), "AAAA".to_owned())).collect();
    let (manifest, blobs) = attached(&many);
    let find = move |path: &str| blobs.iter().find(|blob| path.ends_with(&digest(blob))).cloned();
    let (server, asked) = hostile(&made, move || Response::new(200, manifest.clone()), find);
    let text = check(&server);
    assert!(text.contains("none of the 128 there are"), "{text}");
    assert_eq!(asked.load(Ordering::Relaxed), 128);

    // A payload that is not what its digest says, one that never ends, one that is not there.
    let server_of = |signed: (Vec<u8>, String), payload: Option<Vec<u8>>| {
        let (manifest, _) = attached(&[signed]);
        hostile(&made, move || Response::new(200, manifest.clone()), move |_| payload.clone()).0
    };
    let of = digest(&made.manifest());
    let good = || alice.sign(&of, "127.0.0.1:1/app");
    let text = check(&server_of(good(), Some(vec![b'x'; good().0.len()])));
    assert!(text.contains("read the signature sha256:"), "{text}");
    check(&server_of(good(), Some(vec![b'x'; 1 << 20])));
    check(&server_of(good(), None));
    let text = check(&server_of((vec![b'x'; 1 << 20], "AAAA".to_owned()), None));
    assert!(text.contains("there is none of"), "{text}");
}

#[test]
fn an_archive_is_refused_where_a_signature_is_required() {
    let fixture = Fixture::new();
    let alice = Signer::new();
    let registries = policy(
        &fixture,
        &json!({
            "docker.io/library/app": alice.requirement("matchRepository"),
            "docker.io/library/free": [{"type": "insecureAcceptAnything"}],
        }),
    );
    let load = |archive: &[u8]| {
        let path = fixture.in_archive_file(archive);
        fixture.runtime.block_on(fixture.store.load(&path, &registries, fixture.progress()))
    };
    let made = sample();
    for archive in [made.oci_archive("app:1"), made.docker_archive(&["free:1", "app:1"])] {
        let text = chain(&load(&archive).unwrap_err());
        assert!(text.contains("an archive has none; pull the image"), "{text}");
        assert!(fixture.content().is_empty());
    }
    let text = chain(&load(&made.oci_archive("other:1")).unwrap_err());
    assert!(text.contains("rejects it by its default"), "{text}");
    let two = oci_archive(&[
        (&made, json!({"io.containerd.image.name": "docker.io/library/free:1"})),
        (&made, json!({"io.containerd.image.name": "docker.io/library/app:1"})),
    ]);
    load(&two).unwrap_err();
    assert!(fixture.content().is_empty());
    load(&made.docker_archive(&["free:1"])).unwrap();
}

/// Does skopeo take the image by the policy? Debian's cannot look at signatures, at scopes it can.
fn skopeo_takes(policy: &Path, image: &str) -> bool {
    let target = tempfile::tempdir().unwrap();
    let output = Command::new("skopeo")
        .arg("--policy")
        .arg(policy)
        .args(["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{image}")])
        .arg(format!("dir:{}", target.path().join("image").display()))
        .output()
        .expect("start skopeo (Debian package skopeo)");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || text.contains("rejected"), "{image}: {text}");
    output.status.success()
}

#[test]
fn scopes_are_chosen_as_skopeo_chooses_them() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let made = sample();
    let of = digest(&made.manifest());
    let archive = fixture.in_archive_file(&made.oci_archive("app:1"));
    let names = ["app:1", "app:2", "team/app:1", "team/app:2", "team/deep/app:1", "teams/app:1"];
    for name in names {
        registry.push(&archive, name).unwrap();
    }
    let (accept, reject) =
        (json!([{"type": "insecureAcceptAnything"}]), json!([{"type": "reject"}]));
    let image = |name: &str| registry.image(name);
    let host = registry.address();
    let policies = [
        json!({"default": accept}),
        json!({"default": reject}),
        json!({"default": reject, "transports": {"docker": {"": accept}}}),
        json!({"default": accept, "transports": {"docker": {host.clone(): reject, image("team"): accept}}}),
        json!({"default": reject, "transports": {"docker": {host.clone(): accept, image("team"): reject, image("team/app"): accept}}}),
        json!({"default": reject, "transports": {"docker": {image("team/app"): reject, image("team/app:1"): accept}}}),
        json!({"default": reject, "transports": {"docker": {image(&format!("team/app@{of}")): accept}}}),
        json!({"default": reject, "transports": {"docker": {"127.0.0.1": accept, "*.0.0.1": accept}}}),
        json!({"default": reject, "transports": {"docker": {"*.0.1": accept, host: reject}}}),
        json!({"default": reject, "transports": {"docker-archive": {"": accept}}}),
        json!({"default": [{"type": "insecureAcceptAnything"}, {"type": "reject"}]}),
    ];
    let path = fixture.dir.path().join("policy.json");
    for policy in policies {
        std::fs::write(&path, policy.to_string()).unwrap();
        let loaded = Policy::load(&path).unwrap();
        let registries = Registries { policy: Some(Arc::new(loaded)), ..Registries::default() };
        let pinned = format!("team/app@{of}");
        for name in names.into_iter().chain([pinned.as_str()]) {
            let pulled = fixture.pull_with(&image(name), None, &registries).is_ok();
            assert_eq!(pulled, skopeo_takes(&path, &image(name)), "{name}: {policy}");
        }
    }
}

#[test]
fn the_agent_asks_the_policy_that_its_configuration_names() {
    let host = TestHost::empty();
    let registry = Registry::start().unwrap();
    let alice = Signer::new();
    let made = sample();
    let of = digest(&made.manifest());
    let archive = host.path("archive");
    std::fs::write(&archive, made.oci_archive("app:1")).unwrap();
    registry.push(&archive, "app:1").unwrap();
    let configure = |policy: &Value| {
        let path = host.path("policy.json");
        std::fs::write(&path, policy.to_string()).unwrap();
        let directory = host.root().join("etc/ecs");
        std::fs::create_dir_all(&directory).unwrap();
        let text = format!("LIGHTER_SIGNATURE_POLICY={}\n", path.display());
        std::fs::write(directory.join("ecs.config"), text).unwrap();
    };
    // What is not understood is not taken for permission.
    configure(&json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]}));
    let text = stderr(&host.run(&["agent"]));
    for part in ["LIGHTER_SIGNATURE_POLICY", "policy.json", "not supported: signedBy"] {
        assert!(text.contains(part), "{text}");
    }
    configure(&json!({"default": alice.requirement("matchRepository")}));
    host.start_agent();
    let image = registry.image("app:1");
    let mut definition = script("none", "true");
    definition["containerDefinitions"][0]["image"] = json!(image);
    let text = stderr(&host.run_task(&definition));
    assert!(text.contains("CannotPullContainerError") && text.contains("signature"), "{text}");
    let text = stderr(&host.run(&["image", "load", "-i", archive.to_str().unwrap()]));
    assert!(text.contains("an archive has none"), "{text}");
    push(&host.path(""), &registry, "app", &of, &[alice.sign(&of, &registry.image("app"))]);
    host.ok(&["image", "pull", "--quiet", &image]);
    host.stop_agent();
}
