//! Signatures by the Sigstore project's own crate, which signs and verifies as cosign does, and ours
//! before it. `make test-sigstore` builds it (tests/sigstore) and says where it is; without it
//! these tests have nothing to do.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::json;
use tests::image::digest;
use tests::registry::Registry;

use super::signature::{Signer, policy, push, refused};
use super::{Fixture, sample};

/// The peer, if there is one.
struct Peer {
    program: PathBuf,
    /// `private`, `public`
    keys: tempfile::TempDir,
}

impl Peer {
    fn find() -> Option<Self> {
        let program = std::env::var_os("LIGHTER_SIGSTORE")?.into();
        let peer = Self { program, keys: tempfile::tempdir().unwrap() };
        peer.ok(&["keys", peer.keys.path().to_str().unwrap()]);
        Some(peer)
    }

    fn key(&self, name: &str) -> String {
        self.keys.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, words: &[&str]) -> Output {
        Command::new(&self.program).args(words).output().expect("start LIGHTER_SIGSTORE")
    }

    fn ok(&self, words: &[&str]) {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_the_peer_signs_is_accepted() {
    let Some(peer) = Peer::find() else { return };
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let archive = fixture.in_archive_file(&sample().oci_archive("app:1"));
    registry.push(&archive, "app:1").unwrap();
    registry.push(&archive, "app:2").unwrap();
    let by =
        |key: String| json!({registry.image("app"): [{"type": "sigstoreSigned", "keyPath": key}]});
    let theirs = policy(&fixture, &by(peer.key("public")));
    let image = registry.image("app:1");
    refused(&fixture, &theirs, &image);
    peer.ok(&["sign", &peer.key("private"), &image]);
    let ours = policy(&fixture, &by(Signer::new().public()));
    assert!(refused(&fixture, &ours, &image).contains("not made with the key"));
    // It names the tag that it was told.
    assert!(refused(&fixture, &theirs, &registry.image("app:2")).contains(&image));
    fixture.pull_with(&image, None, &theirs).unwrap();
}

#[test]
fn what_is_signed_for_these_tests_is_accepted_by_the_peer() {
    let Some(peer) = Peer::find() else { return };
    let (fixture, registry, alice) = (Fixture::new(), Registry::start().unwrap(), Signer::new());
    let made = sample();
    let of = digest(&made.manifest());
    let archive = fixture.in_archive_file(&made.oci_archive("app:1"));
    registry.push(&archive, "app:1").unwrap();
    let image = registry.image("app:1");
    assert!(!peer.run(&["verify", &alice.public(), &image]).status.success());
    push(fixture.dir.path(), &registry, "app", &of, &[alice.sign(&of, &image)]);
    peer.ok(&["verify", &alice.public(), &image]);
    assert!(!peer.run(&["verify", &peer.key("public"), &image]).status.success());
}
