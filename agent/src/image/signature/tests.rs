#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use base64::Engine as _;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::policy::{Place, Policy};
use super::verify::{Attached, Form, Verdict};
use super::*;

// Made by `openssl genpkey` and `openssl pkey -pubout`, for these tests only.
pub(super) const ALICE: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgFxt0uQrtQoFRBaFC
nNL0UGwrtRhbkbM0Gfnv+q2zgRChRANCAARez8DYk6NDdavgqulwRswCW79oWx3M
njm5vq111HFlN8aqaFX2vfVQIrQsxS9ezRTHHU4Hv+LeHs4h0C+H6PSy
-----END PRIVATE KEY-----
";
const ALICE_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEXs/A2JOjQ3Wr4KrpcEbMAlu/aFsd
zJ45ub6tddRxZTfGqmhV9r31UCK0LMUvXs0Uxx1OB7/i3h7OIdAvh+j0sg==
-----END PUBLIC KEY-----
";
pub(super) const BOB: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4WZ8QFy7kPaEjeKh
1LTcNbSejVvf0kDMpQstriEbiWihRANCAASm2Tyt8bgRwUEMnlqy4L65AJ8GDuLB
tECMLDHh1b7Qcpdmv4pcdSa7lSy6avd9LZzUECtScgsoxlrqPIXxXzrO
-----END PRIVATE KEY-----
";
const P384: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE5zx6k2jnX2Q4N86zGcXCCzNuCTPajvvv
lBHkgMxBwNjSR3rh1W/FfoeH6nCOcRpznjgC+F51yrcOWXBI99IjusEB29WVLcUT
7osOToUXOgH6kT49vfpRHqAcCB03mnaG";
const P521: &str = "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBpvXoPx0yF25TMLr9+mNzxPkSrRng
LZGpkcO3GYKmPmNj3zM8rzNiu1AbGGY5Y6NcDBBSip/h1/Y72LILuCiYDx8BWoT+
g+YpNQsqFFDpWpWwVeOvz+EPl6G27gN1MBFIR5OhWbiYLPUxcORiJMkVtYMR96Kz
lgsOGBcj6pj0DUoAJPU=";
const ED25519: &str = "MCowBQYDK2VwAyEALmp48yv9OHZ4rYCuK+2aabrEJ9AyxcrUppLszHR6IIU=";
const RSA: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAz4zt0bC0eEyr2lxbwIZg
qAG6Cr3irvUSoZfInTD0vbY4KHYdTP/mpwmDcFPRxYB+8+16b47xQADQNRYHoAFh
Bs9iQA8tclHjZUIm6MlGC323MZTZhpkAZZU2BchSF44GccahfUy8gQKr1YkRMOiu
G9GYSHKrQHfbB/pq8LzgoVFl/CrqcBmJSc6Pm46Oq3sekKcDDG/8YiD9/au9FigP
SrwZfXToOzIO9FPFLo2pIwbC3hkfckQZsjbAhN3YSTkWERBH+0OpU6OAEIP8T7fv
eLa8TADb5ZaHrHbONtx6MRgAB3qvB/9PJCMppeWMJOuG+j+7CnqEXUAGSVx6Rq8t
zQIDAQAB";
// Of `message` over SHA-256, by `openssl dgst -sign` and `openssl pkeyutl -sign`.
const BY_P384: &str = "MGUCMGcLCEBqLaBRlxjXkrD56xKfIb7ybRxO2v6ASiuDvq3XIjfVfvYsrMxLyfe3UbjyDQIxAKJYVgUIlKlSYhPYP/u9EWFlccmBt6WN2lcn9pVI1qNFOE5N+1wWqIE/r2JuYdf06w==";
const BY_ED25519: &str =
    "s5SdYPmnSLrtyC5777aW73djXxiBgAzqWN2Efz2lfSJhEAbFmkxV3lK6myPbXVaFtnG3n+snDQo7/mCiEW7MCQ==";
const BY_RSA: &str = "TVot6GTV85Bl7bF0twaccTOshwQ9jEmw81cflYQFIxKfqw4ygB5f//ghw2A64HeOM9U5W+hKVz9ZfYxuv8jfkgmA6o3KiaDA0I2qlzN6vQcsOJ9ymLIQJ4xOPqHdg51YymfwVuPGH9TpWnGRnk6njhCOKoVxiNuzjBv+rgn3iDOzVce3ntEP5oscq7lrcrsb1ytbHhNxvfKKsFR/IUIZdQVt+UOUJCv949NrsCCO6Yz8tVF07ZJ+GBTN2ijxwx9T7M3eLXrMNbTtiQN04Gq65A84B5gJE/KExhhTz46xtTo/QT4H0c/+uwddG/NVIz7A20CKBL0SDtcmGJ1b7LA8UA==";

const FILE: &str = "/etc/containers/policy.json";

fn pem(base64: &str) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub(super) fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

fn sign(private: &str, payload: &[u8]) -> Attached {
    let key = PrivateKeyDer::from_pem_slice(private.as_bytes()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    let signature = base64(&signer.sign(payload).unwrap());
    Attached { form: Form::SimpleSigning, payload: payload.to_vec().into(), signature }
}

fn payload(digest: &str, name: &str) -> Value {
    json!({
        "critical": {
            "type": "cosign container image signature",
            "image": {"docker-manifest-digest": digest},
            "identity": {"docker-reference": name},
        },
        "optional": null,
    })
}

pub(super) fn signed(private: &str, digest: &str, name: &str) -> Attached {
    sign(private, payload(digest, name).to_string().as_bytes())
}

pub(super) fn parse(policy: &Value) -> Result<Policy, Error> {
    parse_text(&policy.to_string())
}

fn parse_text(policy: &str) -> Result<Policy, Error> {
    Policy::parse(Path::new(FILE), policy.as_bytes(), &|path| match path.to_str() {
        Some("/keys/alice.pub") => Ok(ALICE_PUBLIC.into()),
        Some("/keys/ed25519.pub") => Ok(pem(ED25519).into_bytes()),
        _ => {
            Err(Error::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() })
        }
    })
}

/// The policy that requires Alice's signature of everything.
pub(super) fn alice(identity: Option<Value>) -> Policy {
    let mut requirement = json!({"type": "sigstoreSigned", "keyPath": "/keys/alice.pub"});
    if let Some(identity) = identity {
        requirement["signedIdentity"] = identity;
    }
    parse(&json!({"default": [requirement]})).unwrap()
}

pub(super) fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn refused(policy: &Policy, pulled: &str, signatures: &[Attached]) -> String {
    let pulled = reference(pulled);
    match policy.of(&pulled).decide(&pulled, &[&digest('a'), &digest('b')], signatures) {
        Ok(_) => panic!("accepted"),
        Err(Verdict::Rejected) => "rejected".to_owned(),
        Err(Verdict::Unsigned(reasons)) => reasons.join("; "),
    }
}

fn accepted(policy: &Policy, pulled: &str, signatures: &[Attached]) {
    let pulled = reference(pulled);
    let (rule, digests) = (policy.of(&pulled), [digest('a'), digest('b')]);
    let verdict = rule.decide(&pulled, &[&digests[0], &digests[1]], signatures);
    assert!(verdict.is_ok(), "{pulled}: {verdict:?}");
}

#[test]
fn the_longest_scope_decides() {
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let scopes = [
        "",
        "*.com",
        "*.example.com",
        "reg.example.com:5000",
        "reg.example.com:5000/team",
        "reg.example.com:5000/team/app",
        "reg.example.com:5000/team/app:1",
        "docker.io",
        "docker.io/library",
        "docker.io/library/busybox",
        "docker.io/library/busybox:latest",
    ];
    let digest = digest('c');
    let mut docker = serde_json::Map::new();
    for scope in scopes {
        docker.insert(scope.to_owned(), accept.clone());
    }
    docker.insert(format!("docker.io/library/busybox@{digest}"), accept.clone());
    let policy = parse(&json!({"default": accept, "transports": {"docker": docker}})).unwrap();
    for (image, scope) in [
        ("reg.example.com:5000/team/app:1", "reg.example.com:5000/team/app:1"),
        ("reg.example.com:5000/team/app:2", "reg.example.com:5000/team/app"),
        ("reg.example.com:5000/team/app/part", "reg.example.com:5000/team/app"),
        ("reg.example.com:5000/team/application", "reg.example.com:5000/team"),
        ("reg.example.com:5000/teams/app", "reg.example.com:5000"),
        ("reg.example.com/team/app:1", "*.example.com"),
        ("reg.example.com:5001/team/app:1", "*.example.com"),
        ("a.b.example.com/app", "*.example.com"),
        ("example.com/app", "*.com"),
        ("notexample.com/app", "*.com"),
        ("example.org/app", ""),
        ("localhost:5000/app", ""),
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1", "docker.io/library/busybox"),
        ("index.docker.io/library/busybox:1", "docker.io/library/busybox"),
        ("alpine", "docker.io/library"),
        ("team/alpine", "docker.io"),
        ("registry-1.docker.io/library/busybox:1", "docker.io/library/busybox"),
        ("REG.example.com:05000/team/app:2", "reg.example.com:5000/team/app"),
        ("reg.example.com:443/team/app", "*.example.com"),
    ] {
        let place = Place::Scope { transport: "docker", scope };
        assert_eq!(policy.of(&reference(image)).place, place, "{image}");
    }
    // A digest is more than the tag beside it.
    for name in ["busybox", "busybox:latest", "busybox:other"] {
        let pinned = reference(&format!("{name}@{digest}"));
        let scope = format!("docker.io/library/busybox@{digest}");
        assert_eq!(
            policy.of(&pinned).place,
            Place::Scope { transport: "docker", scope: &scope },
            "{name}"
        );
    }
    let other = reference(&format!("busybox:latest@{}", self::digest('d')));
    let repository = Place::Scope { transport: "docker", scope: "docker.io/library/busybox" };
    assert_eq!(policy.of(&other).place, repository);

    let bare = parse(&json!({"default": accept})).unwrap();
    assert_eq!(bare.of(&reference("busybox")).place, Place::Default);
}

#[test]
fn a_policy_that_is_not_understood_is_refused() {
    let signed = json!({"type": "sigstoreSigned", "keyPath": "/keys/alice.pub"});
    let with = |field: &str, value: Value| {
        let mut requirement = signed.clone();
        requirement[field] = value;
        json!({"default": [requirement]})
    };
    let scope = |scope: &str| {
        json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {scope: [{"type": "reject"}]}},
        })
    };
    for (policy, told) in [
        (json!({}), "missing field `default`"),
        (json!({"default": []}), "default: the list of requirements must not be empty"),
        (json!({"default": [{"type": "reject"}], "Default": []}), "unknown field `Default`"),
        (json!({"default": [{"type": "accept"}]}), "default[0]: unknown type \"accept\""),
        (json!({"default": [{"keyPath": "/x"}]}), "missing field `type`"),
        (json!({"default": [{"type": "reject", "keyPath": "/x"}]}), "has no other fields"),
        (
            json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"}]}),
            "not supported: signedBy",
        ),
        (
            json!({"default": [{"type": "signedBaseLayer", "baseLayerIdentity": {}}]}),
            "not supported: signedBaseLayer",
        ),
        (json!({"default": [{"type": "sigstoreSigned"}]}), "exactly one of keyPath"),
        (json!({"default": [{"type": "sigstoreSigned", "fulcio": {}}]}), "not supported: fulcio"),
        (with("rekorPublicKeyPath", json!("/x")), "not supported: rekorPublicKeyPath"),
        (with("rekorPublicKeyDatas", json!([])), "not supported: rekorPublicKeyDatas"),
        (with("pki", json!({})), "not supported: pki"),
        (with("keyType", json!("GPGKeys")), "no field keyType"),
        (with("keyData", json!("")), "exactly one of keyPath"),
        (with("keyPath", json!("alice.pub")), "is not absolute"),
        (with("keyPath", json!("/keys/nobody.pub")), "read /keys/nobody.pub"),
        (with("signedidentity", json!({})), "unknown field `signedidentity`"),
        (with("signedIdentity", json!({"type": "matchAll"})), "signedIdentity: unknown type"),
        (
            with("signedIdentity", json!({"type": "matchExact", "prefix": "x"})),
            "wrong fields for matchExact",
        ),
        (
            with("signedIdentity", json!({"type": "exactReference", "dockerReference": "app"})),
            "neither tag nor digest",
        ),
        (
            with("signedIdentity", json!({"type": "exactRepository"})),
            "wrong fields for exactRepository",
        ),
        (
            with(
                "signedIdentity",
                json!({"type": "remapIdentity", "prefix": "app", "signedPrefix": "docker.io"}),
            ),
            "prefix \"app\" is not",
        ),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyPaths": []}]}),
            "keys must not be empty",
        ),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyDatas": []}]}),
            "keys must not be empty",
        ),
        (json!({"default": [{"type": "sigstoreSigned", "keyData": "%"}]}), "keyData: not base64"),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyData": base64(b"key")}]}),
            "holds 0 public keys",
        ),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyData": base64(ALICE.as_bytes())}]}),
            "holds 0 public keys",
        ),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyData": base64(ALICE_PUBLIC.repeat(2).as_bytes())}]}),
            "holds 2 public keys",
        ),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyData": base64(pem(P521).as_bytes())}]}),
            "not a kind of key",
        ),
        (
            json!({"default": [{"type": "sigstoreSigned", "keyData": base64(pem("AAAA").as_bytes())}]}),
            "malformed public key",
        ),
        (scope("busybox"), "no image has this scope"),
        (scope("docker.io/library/"), "no image has this scope"),
        (scope("index.docker.io/library/busybox"), "no image has this scope"),
        (scope("https://reg.example.com"), "no image has this scope"),
        (scope("example*.com"), "no image has this scope"),
        (scope("*.example.com/app"), "no image has this scope"),
        (scope("*.example.com:5000"), "no image has this scope"),
        (scope("*"), "no image has this scope"),
        (scope("docker.io/library/busybox:"), "no image has this scope"),
        (scope("docker.io/library/busybox@sha256:12"), "no image has this scope"),
        (scope("reg.example.com/App"), "no image has this scope"),
        (scope("Reg.example.com"), "no image has this scope"),
        (scope("reg.example.com:443/app"), "no image has this scope"),
        (scope("registry-1.docker.io"), "no image has this scope"),
        (
            json!({"default": [{"type": "reject"}], "transports": {"oci-archive": {"/srv": [{"type": "reject"}]}}}),
            "has the scope \"\" only",
        ),
    ] {
        let error = crate::error::chain(&parse(&policy).expect_err(&policy.to_string()));
        assert!(error.contains(told), "{policy}: {error}");
        assert!(error.contains(FILE) || error.contains("/keys/"), "{error}");
    }
    for text in [
        r#"{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}"#,
        r#"{"default": [{"type": "reject", "type": "insecureAcceptAnything"}]}"#,
        r#"{"default": [{"type": "reject"}], "transports": {"docker": {}, "docker": {}}}"#,
        r#"{"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "reject"}], "": [{"type": "reject"}]}}}"#,
    ] {
        let error = crate::error::chain(&parse_text(text).expect_err(text));
        assert!(error.contains("duplicate"), "{text}: {error}");
    }
    for text in [
        r#"[[{"type": "insecureAcceptAnything"}], null]"#,
        r#"{"default": [["insecureAcceptAnything"]]}"#,
        r#"{"default": {"type": "insecureAcceptAnything"}}"#,
    ] {
        parse_text(text).expect_err(text);
    }
    assert!(parse_text("").is_err() && parse_text("[]").is_err() && parse_text("{").is_err());
    // Of transports that are none of ours the scopes do not matter.
    let foreign = json!({
        "default": [{"type": "reject"}],
        "transports": {"dir": {"/srv": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/x"}]}},
    });
    parse(&foreign).unwrap();
}

#[test]
fn keys_of_the_usual_kinds_verify() {
    use super::key::Key;

    for (public, signature) in [(P384, BY_P384), (ED25519, BY_ED25519), (RSA, BY_RSA)] {
        let key = Key::parse("key", pem(public).as_bytes()).unwrap();
        assert!(key.verifies(b"message", signature), "{public}");
        assert!(!key.verifies(b"massage", signature), "{public}");
        assert!(!key.verifies(b"message", ""), "{public}");
        assert!(!key.verifies(b"message", "%"), "{public}");
    }
    let alice = Key::parse("key", ALICE_PUBLIC.as_bytes()).unwrap();
    let signed = sign(ALICE, b"message");
    assert!(alice.verifies(b"message", &signed.signature));
    assert!(!alice.verifies(b"message", &sign(BOB, b"message").signature));
    assert!(!alice.verifies(b"message", BY_P384));
    // Text before and after the key is allowed, as openssl allows it.
    let commented = format!("the release key\n{ALICE_PUBLIC}\n");
    assert!(Key::parse("key", commented.as_bytes()).is_ok());
}

#[test]
fn one_good_signature_among_others_will_do() {
    let policy = alice(None);
    let (a, b) = (digest('a'), digest('b'));
    let good = signed(ALICE, &a, "docker.io/library/app:1");
    accepted(&policy, "app:1", std::slice::from_ref(&good));
    accepted(&policy, "app:1", &[signed(ALICE, &b, "docker.io/library/app:1")]);
    let bad = signed(BOB, &a, "docker.io/library/app:1");
    let garbage = Attached {
        form: Form::SimpleSigning,
        payload: vec![0; 9].into(),
        signature: "no".to_owned(),
    };
    accepted(&policy, "app:1", &[bad.clone(), garbage.clone(), good]);

    assert_eq!(refused(&policy, "app:1", &[]), "");
    let told = refused(&policy, "app:1", &[bad, garbage]);
    assert_eq!(told, "one was not made with the key /keys/alice.pub");
    let told = refused(&policy, "app:1", &[signed(ALICE, &digest('c'), "docker.io/library/app:1")]);
    assert!(told.contains(&digest('c')), "{told}");
    let told = refused(&policy, "app:1", &[signed(ALICE, &a, "docker.io/library/other:1")]);
    assert!(told.contains("docker.io/library/other:1"), "{told}");
    assert!(told.contains("matchRepoDigestOrExact"), "{told}");
    // A tag that was moved to another signed image, and back to an old one.
    assert!(!refused(&policy, "app:1", &[signed(ALICE, &a, "docker.io/library/app:2")]).is_empty());
}

#[test]
fn a_signature_is_of_its_very_payload() {
    let policy = alice(Some(json!({"type": "matchRepository"})));
    let a = digest('a');
    let signed_other = signed(ALICE, &digest('c'), "app");
    // The payload of another image with the signature of this one's, and the other way round.
    let swapped = Attached {
        form: Form::SimpleSigning,
        payload: payload(&a, "app").to_string().into_bytes().into(),
        signature: signed_other.signature,
    };
    assert!(refused(&policy, "app", &[swapped]).contains("not made with the key"));
    let mut longer = signed(ALICE, &a, "app");
    longer.payload = [longer.payload.as_ref(), b" "].concat().into();
    assert!(refused(&policy, "app", &[longer]).contains("not made with the key"));

    // Signed, but not what cosign signs.
    let whole = payload(&a, "app");
    let mut kind = whole.clone();
    kind["critical"]["type"] = json!("atomic container signature");
    let mut more = whole.clone();
    more["critical"]["also"] = json!(1);
    let mut inner = whole.clone();
    inner["critical"]["image"]["other"] = json!(a);
    let mut less = whole.clone();
    less["critical"]["identity"] = json!({});
    let mut top = whole.clone();
    top["extra"] = json!(true);
    for wrong in [kind, more, inner, less, top, json!([]), json!("text"), json!({})] {
        let text = wrong.to_string();
        assert!(!refused(&policy, "app", &[sign(ALICE, text.as_bytes())]).is_empty(), "{text}");
    }
    let text = whole.to_string();
    for wrong in [
        text.replace(
            "\"image\"",
            &format!("\"image\":{{\"docker-manifest-digest\":\"{a}\"}},\"image\""),
        ),
        format!("{text}{text}"),
        "[".repeat(100_000),
        // Positions instead of names.
        format!("[[\"cosign container image signature\",[\"{a}\"],[\"app\"]],null]"),
        String::new(),
    ] {
        assert!(!refused(&policy, "app", &[sign(ALICE, wrong.as_bytes())]).is_empty());
    }
    let mut annotated = whole;
    annotated["optional"] = json!({"creator": "x", "timestamp": 1, "nested": {"a": []}});
    accepted(&policy, "app", &[sign(ALICE, annotated.to_string().as_bytes())]);
}

#[test]
fn identities_match_as_the_peers_match_them() {
    let pinned = format!("app@{}", digest('a'));
    let both = format!("app:1@{}", digest('a'));
    let signed_pin = format!("docker.io/library/app@{}", digest('a'));
    let exact_repository =
        json!({"type": "exactRepository", "dockerRepository": "vendor.example/app"});
    let exact_reference =
        json!({"type": "exactReference", "dockerReference": "vendor.example/app:1"});
    let remap = json!({
        "type": "remapIdentity", "prefix": "mirror.example:5000/hub", "signedPrefix": "docker.io",
    });
    let cases: &[(Option<Value>, &str, &str, bool)] = &[
        (None, "app:1", "app:1", true),
        (None, "app:1", "docker.io/library/app:1", true),
        (None, "app", "app:latest", true),
        (None, "app", "app", false),
        (None, "app:1", "app", false),
        (None, "app:1", "app:2", false),
        (None, "app:1", "App:1", false),
        (None, "app:1", "", false),
        (None, "app:1", &signed_pin, false),
        (None, &pinned, "app:2", true),
        (None, &pinned, &signed_pin, true),
        (None, &pinned, "app", false),
        (None, &pinned, "other:1", false),
        (None, &both, "app:2", true),
        (Some(json!({"type": "matchExact"})), "app:1", "app:1", true),
        (Some(json!({"type": "matchExact"})), &pinned, "app:1", false),
        (Some(json!({"type": "matchExact"})), &pinned, &signed_pin, true),
        (Some(json!({"type": "matchExact"})), &both, &signed_pin, true),
        (Some(json!({"type": "matchExact"})), "app", "app", false),
        (Some(json!({"type": "matchRepository"})), "app:1", "app", true),
        (Some(json!({"type": "matchRepository"})), "app:1", "app:2", true),
        (Some(json!({"type": "matchRepository"})), "app:1", "other", false),
        (Some(json!({"type": "matchRepository"})), "app:1", "reg.example/library/app", false),
        (Some(exact_repository.clone()), "app:1", "vendor.example/app:9", true),
        (Some(exact_repository), "app:1", "app:1", false),
        (Some(exact_reference.clone()), "app:3", "vendor.example/app:1", true),
        (Some(exact_reference.clone()), "app:1", "vendor.example/app:3", false),
        (Some(exact_reference), "app:1", "vendor.example/app", false),
        (Some(remap.clone()), "mirror.example:5000/hub/library/app:1", "app:1", true),
        (Some(remap.clone()), "mirror.example:5000/hub/library/app:1", "app:2", false),
        (Some(remap.clone()), "mirror.example:5000/hubs/app:1", "docker.io/s/app:1", false),
        (
            Some(remap.clone()),
            "mirror.example:5000/hubs/app:1",
            "mirror.example:5000/hubs/app:1",
            true,
        ),
        (
            Some(remap),
            "mirror.example:5000/hub/library/app:1",
            "mirror.example:5000/hub/library/app:1",
            false,
        ),
    ];
    for (identity, pulled, stated, fits) in cases {
        let policy = alice(identity.clone());
        let signature = signed(ALICE, &digest('a'), stated);
        if *fits {
            accepted(&policy, pulled, &[signature]);
        } else {
            let told = refused(&policy, pulled, &[signature]);
            assert!(told.contains("does not accept"), "{identity:?} {pulled} {stated}: {told}");
        }
    }
}

#[test]
fn a_signature_may_be_broken_into_lines() {
    let mut signature = signed(ALICE, &digest('a'), "app:1");
    signature.signature.insert_str(40, "\r\n");
    signature.signature.push('\n');
    accepted(&alice(None), "app:1", std::slice::from_ref(&signature));
    signature.signature.push(' ');
    refused(&alice(None), "app:1", &[signature]);
}

#[test]
fn every_requirement_of_a_list_counts() {
    let bob = {
        let key = PrivateKeyDer::from_pem_slice(BOB.as_bytes()).unwrap();
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let public = key.public_key().unwrap();
        base64(pem(&base64(public.as_ref())).as_bytes())
    };
    let both = parse(&json!({"default": [
        {"type": "insecureAcceptAnything"},
        {"type": "sigstoreSigned", "keyPath": "/keys/alice.pub"},
        {"type": "sigstoreSigned", "keyData": bob},
    ]}))
    .unwrap();
    let by = |who| signed(who, &digest('a'), "app:1");
    accepted(&both, "app:1", &[by(BOB), by(ALICE)]);
    assert!(refused(&both, "app:1", &[by(ALICE)]).contains(FILE));
    assert!(refused(&both, "app:1", &[by(BOB)]).contains("/keys/alice.pub"));

    let either = parse(&json!({"default": [
        {"type": "sigstoreSigned", "keyPaths": ["/keys/ed25519.pub", "/keys/alice.pub"]},
    ]}))
    .unwrap();
    accepted(&either, "app:1", &[by(ALICE)]);
    assert!(refused(&either, "app:1", &[by(BOB)]).contains("ed25519.pub or /keys/alice.pub"));

    let never = parse(&json!({"default": [
        {"type": "insecureAcceptAnything"}, {"type": "reject"},
    ]}))
    .unwrap();
    assert_eq!(refused(&never, "app:1", &[by(ALICE)]), "rejected");
    let any = parse(&json!({"default": [{"type": "insecureAcceptAnything"}]})).unwrap();
    accepted(&any, "app:1", &[]);
    assert!(!any.of(&reference("app")).needs_signatures());
}

#[test]
fn archives_have_no_signatures() {
    let policy = parse(&json!({
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {
            "docker": {
                "docker.io/library/app": [{"type": "sigstoreSigned", "keyPath": "/keys/alice.pub"}],
                "docker.io/library/bad": [{"type": "reject"}],
            },
            "oci-archive": {"": [{"type": "insecureAcceptAnything"}]},
        },
    }))
    .unwrap();
    let check = |kind, names: &[&str]| {
        let names: Vec<Reference> = names.iter().map(|name| reference(name)).collect();
        policy.check_archive(kind, &names)
    };
    assert!(check(ArchiveKind::Docker, &[]).is_ok());
    assert!(check(ArchiveKind::Docker, &["other:1"]).is_ok());
    let one = check(ArchiveKind::Docker, &["other:1", "app:1"]);
    assert!(matches!(one, Err(Error::Archive { .. })), "{one:?}");
    assert!(matches!(check(ArchiveKind::Docker, &["bad"]), Err(Error::Rejected { .. })));
    assert!(check(ArchiveKind::Oci, &["app:1"]).is_ok());
}

#[test]
fn signatures_are_listed_newest_first_and_bounded() {
    let layer = |payload: usize, signature: usize| {
        json!({
            "mediaType": PAYLOAD, "digest": format!("sha256:{payload:064x}"), "size": 250,
            "annotations": {ANNOTATION: format!("{signature}")},
        })
    };
    let list = |layers: Vec<Value>| {
        listed(json!({"schemaVersion": 2, "layers": layers}).to_string().as_bytes()).unwrap()
    };
    let found = list(vec![layer(1, 1), layer(1, 1), layer(1, 2), layer(2, 3)]);
    let signatures: Vec<&str> = found.iter().map(|(_, signature)| signature.as_str()).collect();
    assert_eq!(signatures, ["3", "2", "1"]);

    let found = list((0..5000).map(|number| layer(number, number)).collect());
    assert_eq!(found.len(), MAX_PAYLOADS);
    assert_eq!(found[0].1, "4999");
    let found = list((0..5000).map(|number| layer(7, number)).collect());
    assert_eq!(found.len(), MAX_SIGNATURES);

    let mut strange = layer(1, 1);
    strange["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    let mut large = layer(1, 1);
    large["size"] = json!(MAX_PAYLOAD + 1);
    let mut bare = layer(1, 1);
    bare["annotations"] = json!({"other": "x"});
    let mut path = layer(1, 1);
    path["digest"] = json!("sha256:../../x");
    let without = json!({"mediaType": PAYLOAD, "digest": digest('a'), "size": 1});
    assert!(list(vec![strange, large, bare, path, without]).is_empty());
    assert!(listed(b"{}").unwrap().is_empty());
    assert!(listed(br#"{"layers": 1}"#).is_err() && listed(b"[[]]").is_err());
}
