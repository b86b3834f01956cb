//! What registries ask of their clients: certificates, logins, tokens; mirrors before them, and what
//! goes wrong on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent::image::{Auth, Error, Hosts, Image, Login, PullRequest, Registries};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::image::{Image as Made, digest};
use tests::registry::{
    Authority, Options, PASSWORD, Registry, Request, Response, Server, TlsFront, Tokens, USER,
};

use super::pull::{ranged, scripted, with_layer};
use super::{Fixture, chain, sample};

/// Logins of these registries, and the directory `certs.d` of the fixture.
fn registries(fixture: &Fixture, logins: &[(&str, &str)]) -> Registries {
    let data: BTreeMap<&str, _> = logins
        .iter()
        .map(|(registry, password)| (*registry, json!({"username": USER, "password": password})))
        .collect();
    let data = json!(data).to_string();
    let auth = Auth::load(Some("docker"), Some(&data), None).unwrap();
    let hosts = Hosts::at(fixture.dir.path().join("certs.d"));
    Registries { auth, hosts, ..Registries::default() }
}

/// A file of `certs.d`.
fn configure(fixture: &Fixture, registry: &str, name: &str, content: impl AsRef<[u8]>) {
    let directory = fixture.dir.path().join("certs.d").join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(name), content).unwrap();
}

fn copy(fixture: &Fixture, registry: &str, name: &str, from: &Path) {
    configure(fixture, registry, name, std::fs::read(from).unwrap());
}

fn pull(fixture: &Fixture, reference: &str, registries: &Registries) -> Result<Image, String> {
    fixture.pull_with(reference, None, registries).map_err(|error| chain(&error))
}

fn push_sample(fixture: &Fixture, registry: &Registry, name: &str) -> Made {
    let made = sample();
    registry.push(&fixture.in_archive_file(&made.oci_archive("sample:1")), name).unwrap();
    made
}

#[test]
fn certificates_are_configured_per_registry() {
    let (fixture, authority) = (Fixture::new(), Authority::new().unwrap());
    let options = Options { tls: Some(&authority), login: true, ..Options::default() };
    let registry = Registry::with(options).unwrap();
    let made = push_sample(&fixture, &registry, "team/sample:1");
    let (address, reference) = (registry.address(), registry.image("team/sample:1"));
    let all = registries(&fixture, &[(&address, PASSWORD)]);

    configure(&fixture, &address, "hosts.toml", format!("server = \"https://{address}\""));
    let error = pull(&fixture, &reference, &all).unwrap_err();
    assert!(error.contains("certificate is not trusted"), "{error}");
    assert!(error.contains("UnknownIssuer"), "{error}");
    assert!(error.contains("LIGHTER_REGISTRY_CONFIG_DIR"), "{error}");

    configure(&fixture, &address, "hosts.toml", "skip_verify = true");
    assert_eq!(pull(&fixture, &reference, &all).unwrap().id, made.id());
    fixture.store.remove(&reference, true, &super::no_one).unwrap();

    // Docker's plain files.
    std::fs::remove_file(fixture.dir.path().join("certs.d").join(&address).join("hosts.toml"))
        .unwrap();
    copy(&fixture, &address, "ca.crt", &authority.certificate());
    assert_eq!(pull(&fixture, &reference, &all).unwrap().id, made.id());
    configure(&fixture, &address, "ca.crt", "not a certificate");
    let error = pull(&fixture, &reference, &all).unwrap_err();
    assert!(error.contains("holds no certificate"), "{error}");
}

#[test]
fn a_registry_may_want_a_client_certificate() {
    let (fixture, authority) = (Fixture::new(), Authority::new().unwrap());
    let options =
        Options { tls: Some(&authority), client_certificates: true, ..Options::default() };
    let registry = Registry::with(options).unwrap();
    let address = registry.address();
    let reference = registry.image("team/nothing:1");
    let all = registries(&fixture, &[]);
    copy(&fixture, &address, "ca.crt", &authority.certificate());
    let error = pull(&fixture, &reference, &all).unwrap_err();
    assert!(!error.contains("unknown image"), "{error}");
    let [certificate, key] = authority.client();
    copy(&fixture, &address, "client.cert", &certificate);
    let error = pull(&fixture, &reference, &all).unwrap_err();
    assert!(error.contains("has no key") && error.contains("client.key"), "{error}");
    copy(&fixture, &address, "client.key", &key);
    let error = pull(&fixture, &reference, &all).unwrap_err();
    assert!(error.contains("unknown image"), "{error}");
    // The same in containerd's words.
    let text = format!(
        "server = \"https://{address}\"\nca = \"ca.crt\"\nclient = [[\"client.cert\", \"client.key\"]]"
    );
    configure(&fixture, &address, "hosts.toml", text);
    assert!(pull(&fixture, &reference, &all).unwrap_err().contains("unknown image"));
}

#[test]
fn tokens_are_got_with_the_login() {
    let (fixture, tokens) = (Fixture::new(), Tokens::start().unwrap());
    let registry = Registry::with(Options { tokens: Some(&tokens), ..Options::default() }).unwrap();
    let made = push_sample(&fixture, &registry, "team/sample:1");
    let (address, reference) = (registry.address(), registry.image("team/sample:1"));

    let error = pull(&fixture, &reference, &registries(&fixture, &[])).unwrap_err();
    assert!(error.contains("refuses anonymous access"), "{error}");
    let error =
        pull(&fixture, &reference, &registries(&fixture, &[(&address, "wrong")])).unwrap_err();
    assert!(error.contains(&format!("token server {}", tokens.realm())), "{error}");
    assert!(error.contains("refuses these credentials: wrong password"), "{error}");

    let before = tokens.given();
    let all = registries(&fixture, &[(&address, PASSWORD)]);
    assert_eq!(pull(&fixture, &reference, &all).unwrap().id, made.id());
    assert_eq!(tokens.given() - before, 1, "one token for the whole pull");
    // What the task brings goes before what the host is configured with.
    fixture.store.remove(&reference, true, &super::no_one).unwrap();
    let wrong = registries(&fixture, &[(&address, "wrong")]);
    let login = Login::Password { user: USER.to_owned(), password: PASSWORD.to_owned() };
    let request = PullRequest { login: Some(login), ..PullRequest::of(&reference) };
    fixture.runtime.block_on(fixture.store.pull(request, &wrong, fixture.progress())).unwrap();
}

#[test]
fn a_digest_comes_through_a_mirror_with_tls_and_tokens() {
    let (fixture, authority) = (Fixture::new(), Authority::new().unwrap());
    let tokens = Tokens::start_with_tls(&authority).unwrap();
    let options = Options { tls: Some(&authority), tokens: Some(&tokens), ..Options::default() };
    let mut origin = Registry::with(options).unwrap();
    let mirror = Registry::with(Options { mirror_of: Some(&origin), ..options }).unwrap();
    let made = push_sample(&fixture, &origin, "team/sample:1");
    let (registry, other) = (origin.address(), mirror.address());
    let reference = origin.image(&format!("team/sample@{}", digest(&made.manifest())));
    copy(&fixture, &registry, "ca.pem", &authority.certificate());
    let text = format!(
        "server = \"https://{registry}\"\nca = \"ca.pem\"\n\
         [host.\"https://{other}\"]\ncapabilities = [\"pull\"]\nca = \"ca.pem\"\n"
    );
    configure(&fixture, &registry, "hosts.toml", text);

    // The mirror's login is its own.
    let all = registries(&fixture, &[(&other, PASSWORD)]);
    let image = pull(&fixture, &reference, &all).unwrap();
    assert_eq!((image.id, image.digest), (made.id(), digest(&made.manifest())));
    for layer in &made.layers {
        assert!(mirror.blob(&layer.digest).exists(), "the mirror has not served {}", layer.digest);
    }
    // It has it now even if the registry is gone; the registry's tags it does not know.
    fixture.store.remove(&reference, true, &super::no_one).unwrap();
    origin.stop().unwrap();
    assert_eq!(pull(&fixture, &reference, &all).unwrap().id, made.id());
    let error = pull(&fixture, &origin.image("team/sample:1"), &all).unwrap_err();
    assert!(error.contains(&format!("https://{registry}: registry does not answer")), "{error}");
    assert!(!error.contains(&other), "{error}");
}

#[test]
fn what_a_mirror_has_not_or_has_wrong_comes_from_the_next() {
    let (fixture, origin) = (Fixture::new(), Registry::start_with_login().unwrap());
    let made = push_sample(&fixture, &origin, "team/sample:1");
    let (empty, damaged) = (Registry::start().unwrap(), Registry::start().unwrap());
    push_sample(&fixture, &damaged, "team/sample:1");
    for blob in [&made.layers[0].digest, &digest(&made.config_blob())] {
        let path = damaged.blob(blob);
        let mut content = std::fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        std::fs::write(&path, content).unwrap();
    }
    // Listens no more.
    let mut down = Registry::start().unwrap();
    down.stop().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let spy = Arc::clone(&seen);
    let curious = Server::start(move |request| {
        let shown = ["authorization", "x-key"].map(|name| request.headers.get(name).cloned());
        spy.lock().unwrap().push((request.path.clone(), shown));
        Response::new(401, "{}").header("www-authenticate", "Basic realm=\"give\"")
    })
    .unwrap();

    let registry = origin.address();
    let mirrors = [down.url(), empty.url(), format!("http://{}", curious.address()), damaged.url()];
    let mut text = format!("server = \"http://{registry}\"\n[header]\nx-key = \"secret\"\n");
    for mirror in &mirrors {
        text.push_str(&format!("[host.\"{mirror}\"]\n"));
    }
    configure(&fixture, &registry, "hosts.toml", text);
    let all = registries(&fixture, &[(&registry, PASSWORD)]);
    let reference = origin.image("team/sample:1");
    let image = pull(&fixture, &reference, &all).unwrap();
    assert_eq!(image.id, made.id());
    assert_eq!(image.read_file("/data/new", 9).unwrap().unwrap(), b"new");
    {
        let seen = seen.lock().unwrap();
        assert!(!seen.is_empty());
        for (path, shown) in seen.iter() {
            assert!(path.ends_with(&format!("?ns={}", registry.replace(':', "%3A"))), "{path}");
            assert_eq!(shown, &[None, None], "{path}");
        }
    }

    let error = pull(&fixture, &origin.image("team/other:1"), &all).unwrap_err();
    for (host, why) in [
        (mirrors[0].as_str(), "registry does not answer"),
        (&mirrors[1], "unknown image"),
        (&mirrors[2], "unauthorized: the registry refuses anonymous access"),
        (&mirrors[3], "unknown image"),
        (&format!("http://{registry}"), "unknown image"),
    ] {
        assert!(error.contains(&format!("{host}: {why}")), "{host}: {why} is not in: {error}");
    }
}

/// Counts what is asked of one image.
#[derive(Default)]
struct Asked(Mutex<BTreeMap<String, usize>>);

impl Asked {
    fn count(&self, request: &Request) -> usize {
        let kind = request.path.split('/').rev().nth(1).unwrap_or_default();
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(format!("{} {kind}", request.method)).or_default();
        *count += 1;
        *count
    }

    fn take(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[test]
fn an_unchanged_tag_costs_one_head() {
    let (fixture, image) = (Fixture::new(), sample());
    let asked = Arc::new(Asked::default());
    let (counter, manifest) = (Arc::clone(&asked), image.manifest());
    let server = scripted(&image, move |request| {
        counter.count(request);
        request.path.contains("/manifests/").then(|| {
            Response::new(200, manifest.clone()).header("docker-content-digest", digest(&manifest))
        })
    });
    let reference = format!("{}/sample:1", server.address());
    fixture.pull(&reference).unwrap();
    let first = counts([("HEAD manifests", 1), ("GET manifests", 1), ("GET blobs", 3)]);
    assert_eq!(asked.take(), first);
    for reference in
        [&reference, &format!("{}/sample@{}", server.address(), digest(&image.manifest()))]
    {
        fixture.pull(reference).unwrap();
        assert_eq!(asked.take(), counts([("HEAD manifests", 1)]), "{reference}");
    }
    // Another name of the same: the manifest is here, too.
    fixture.pull(&format!("{}/sample:2", server.address())).unwrap();
    assert_eq!(asked.take(), counts([("HEAD manifests", 1)]));
}

#[test]
fn registries_without_head_or_digest_are_asked_by_get() {
    for without_head in [true, false] {
        let (fixture, image) = (Fixture::new(), sample());
        let asked = Arc::new(Asked::default());
        let counter = Arc::clone(&asked);
        let server = scripted(&image, move |request| {
            counter.count(request);
            (without_head && request.method == "HEAD").then(|| Response::new(405, ""))
        });
        let reference = format!("{}/sample:1", server.address());
        for _ in 0..2 {
            asked.take();
            fixture.pull(&reference).unwrap();
        }
        let expected = counts([("HEAD manifests", 1), ("GET manifests", 1)]);
        assert_eq!(asked.take(), expected, "{without_head}");
    }
}

#[test]
fn a_rate_limit_is_waited_for_if_it_is_short() {
    for (after, waits) in [("1", true), ("Sun, 06 Nov 1994 08:49:37 GMT", true), ("3600", false)] {
        let (fixture, image) = (Fixture::new(), sample());
        let (count, times) = (AtomicUsize::new(0), Arc::new(Mutex::new(Vec::new())));
        let clock = Arc::clone(&times);
        let server = scripted(&image, move |request| {
            if !request.path.contains("/manifests/") {
                return None;
            }
            clock.lock().unwrap().push(Instant::now());
            (count.fetch_add(1, Ordering::SeqCst) < 2)
                .then(|| Response::new(429, "{}").header("retry-after", after))
        });
        let result = fixture.pull(&format!("{}/sample:1", server.address()));
        let times = times.lock().unwrap();
        if waits {
            result.unwrap();
            let pause = times[1].duration_since(times[0]).as_millis();
            assert!(after != "1" || pause >= 1000, "asked again after {pause} ms");
        } else {
            let error = chain(&result.unwrap_err());
            assert!(error.contains("limits the rate") && error.contains("in 3600 s"), "{error}");
            assert_eq!(times.len(), 1);
        }
    }
}

#[test]
fn a_mirror_that_limits_is_not_waited_for() {
    let (fixture, image) = (Fixture::new(), sample());
    let origin = scripted(&image, |_| None);
    let limited = Server::start(|_| Response::new(429, "{}").header("retry-after", "60")).unwrap();
    let text = format!("[host.\"http://{}\"]", limited.address());
    configure(&fixture, &origin.address(), "hosts.toml", text);
    let all = registries(&fixture, &[]);
    pull(&fixture, &format!("{}/sample:1", origin.address()), &all).unwrap();
}

#[test]
fn a_token_that_ends_during_a_pull_is_renewed_once() {
    let fixture = Fixture::new();
    let image = sample();
    let given = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&given);
    let tokens = Server::start(move |_| {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        Response::new(200, format!("{{\"token\":\"t{number}\",\"expires_in\":3600}}"))
    })
    .unwrap();
    let realm = format!("Bearer realm=\"http://{}/token\"", tokens.address());
    let server = scripted(&image, move |request| {
        // The first token opens manifests only.
        let enough = if request.path.contains("/manifests/") { "Bearer t" } else { "Bearer t1" };
        let shown = request.headers.get("authorization").cloned().unwrap_or_default();
        (!shown.starts_with(enough))
            .then(|| Response::new(401, "{}").header("www-authenticate", realm.clone()))
    });
    fixture.pull(&format!("{}/sample:1", server.address())).unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

/// As Amazon ECR answers after twelve hours: 403, and no challenge.
#[test]
fn a_login_that_ends_during_a_pull_is_looked_up_again() {
    let (fixture, image) = (Fixture::new(), sample());
    let config = fixture.dir.path().join("config.json");
    let shown = |password: &str| STANDARD.encode(format!("{USER}:{password}"));
    let (old, new) = (shown("old"), shown("new"));
    let log_in = |path: &Path, server: &str, auth: &str| {
        std::fs::write(path, json!({"auths": {server: {"auth": auth}}}).to_string()).unwrap();
    };
    let (path, first) = (config.clone(), old.clone());
    let server = scripted(&image, move |request| {
        let Some(shown) = request.headers.get("authorization") else {
            return Some(Response::new(401, "{}").header("www-authenticate", "Basic realm=x"));
        };
        if *shown == format!("Basic {first}") && request.path.contains("/blobs/") {
            log_in(&path, request.headers.get("host").unwrap(), &new);
            return Some(Response::new(
                403,
                r#"{"errors":[{"code":"DENIED","message":"expired"}]}"#,
            ));
        }
        None
    });
    log_in(&config, &server.address(), &old);
    let all = Registries { auth: Auth::of_docker(Some(config)), ..Registries::default() };
    pull(&fixture, &format!("{}/sample:1", server.address()), &all).unwrap();
}

#[test]
fn an_identity_token_is_exchanged_by_post() {
    let (fixture, image) = (Fixture::new(), sample());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let tokens = Server::start(move |request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        log.lock().unwrap().push(format!("{} {} {body}", request.method, request.path));
        Response::new(200, r#"{"access_token":"ok","refresh_token":"later"}"#)
    })
    .unwrap();
    let realm = format!("Bearer realm=\"http://{}/oauth2/token\",service=\"s\"", tokens.address());
    let server = scripted(&image, move |request| {
        (request.headers.get("authorization").map(String::as_str) != Some("Bearer ok"))
            .then(|| Response::new(401, "{}").header("www-authenticate", realm.clone()))
    });
    let login = Some(Login::IdentityToken("id/ent+ity".to_owned()));
    let reference = format!("{}/sample:1", server.address());
    let request = PullRequest { login, ..PullRequest::of(reference) };
    let none = Registries::default();
    fixture.runtime.block_on(fixture.store.pull(request, &none, fixture.progress())).unwrap();
    let expected = "POST /oauth2/token grant_type=refresh_token&client_id=lighter\
        &refresh_token=id%2Fent%2Bity&scope=repository%3Asample%3Apull&service=s";
    assert_eq!(*asked.lock().unwrap(), [expected]);
}

#[test]
fn a_redirect_takes_no_credentials_along() {
    let (fixture, image) = (Fixture::new(), sample());
    let blobs = image.blobs();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let spy = Arc::clone(&seen);
    let storage = Server::start(move |request| {
        spy.lock().unwrap().push(request.headers.keys().cloned().collect::<Vec<_>>());
        match blobs.iter().find(|(name, _)| request.path.ends_with(name)) {
            Some((_, blob)) => ranged(request, blob),
            None => Response::new(404, ""),
        }
    })
    .unwrap();
    let place = storage.address();
    let server = scripted(&image, move |request| {
        if !request.headers.contains_key("authorization") {
            return Some(Response::new(401, "{}").header("www-authenticate", "Basic realm=x"));
        }
        let blob = request.path.strip_prefix("/v2/sample/blobs/")?;
        Some(Response::new(307, "").header("location", format!("http://{place}/{blob}")))
    });
    let address = server.address();
    configure(&fixture, &address, "hosts.toml", "[header]\nx-key = \"secret\"");
    let all = registries(&fixture, &[(&address, PASSWORD)]);
    pull(&fixture, &format!("{address}/sample:1"), &all).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    for headers in seen.iter() {
        assert!(
            !headers.iter().any(|name| name == "authorization" || name == "x-key"),
            "{headers:?}"
        );
    }
}

#[test]
fn no_redirect_leaves_https() {
    let (fixture, authority) = (Fixture::new(), Authority::new().unwrap());
    let server = scripted(&sample(), |request| {
        let blob = request.path.contains("/blobs/");
        blob.then(|| Response::new(307, "").header("location", "http://127.0.0.1:1/blob"))
    });
    let front = TlsFront::start(&authority, &server.address()).unwrap();
    copy(&fixture, front.address(), "ca.crt", &authority.certificate());
    let all = registries(&fixture, &[]);
    let error = pull(&fixture, &format!("{}/sample:1", front.address()), &all).unwrap_err();
    assert!(error.contains("sends us to 127.0.0.1:1, which is not HTTPS"), "{error}");
}

#[test]
fn an_answer_to_another_range_is_not_believed() {
    for lie in ["bytes 0-9/10", "bytes 100001-400999/401000", "", "pages 1-2/3"] {
        let fixture = Fixture::new();
        let (server, asked) = with_layer(move |request, blob, count| match count {
            0 => Response { cut: Some(100_000), ..ranged(request, blob) },
            1 => Response::new(206, &blob[100_001..]).header("content-range", lie),
            _ => ranged(request, blob),
        });
        fixture.pull(&format!("{}/noise:1", server.address())).unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3, "{lie:?}");
    }
}

#[test]
fn a_registry_that_knows_no_range_any_more_is_read_from_the_start() {
    let fixture = Fixture::new();
    let (server, _) = with_layer(|request, blob, count| match count {
        0 => Response { cut: Some(100_000), ..ranged(request, blob) },
        1 => Response::new(416, ""),
        _ => Response::new(200, blob),
    });
    fixture.pull(&format!("{}/noise:1", server.address())).unwrap();
}

#[test]
fn a_registry_that_stalls_is_asked_again() {
    let fixture = Fixture::new();
    let (server, asked) = with_layer(|request, blob, count| Response {
        cut: Some(200_000),
        stall: count == 0,
        ..ranged(request, blob)
    });
    let before = Instant::now();
    fixture.pull(&format!("{}/noise:1", server.address())).unwrap();
    assert!(before.elapsed().as_secs() >= 29, "it was not given its time");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn a_mirror_that_drips_is_left_for_the_next_host() {
    let fixture = Fixture::new();
    let (mirror, dripped) = with_layer(|request, blob, _| Response {
        cut: Some(100_000),
        drip: Some(Duration::from_millis(20)),
        ..ranged(request, blob)
    });
    let (server, asked) = with_layer(|request, blob, _| match request.headers.get("range") {
        Some(_) => ranged(request, blob),
        None => Response::new(500, "what has come is asked for again"),
    });
    let (registry, mirror) = (server.address(), mirror.address());
    let text = format!(
        "server = \"http://{registry}\"\n[host.\"http://{mirror}\"]\n\
         low_speed_limit = 10000\nlow_speed_time = \"400ms\"\n"
    );
    configure(&fixture, &registry, "hosts.toml", text);
    let all = registries(&fixture, &[]);
    pull(&fixture, &format!("{registry}/noise:1"), &all).unwrap();
    assert_eq!((dripped.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (1, 1));
}

#[test]
fn garbage_is_refused_in_bounded_memory() {
    let big = vec![b' '; 5 << 20];
    type Special = Box<dyn Fn(&Request) -> Option<Response> + Send + Sync>;
    let manifests = |answer: Response| -> Special {
        Box::new(move |request| request.path.contains("/manifests/").then(|| answer.clone()))
    };
    let cases: [(Special, &str); 6] = [
        (manifests(Response::new(200, "<html>hello</html>")), "malformed"),
        (manifests(Response::new(200, big.clone())), "more than 4194304 bytes"),
        (manifests(Response::new(400, big)), "registry answers 400"),
        (
            manifests(
                Response::new(200, "{}")
                    .header("docker-content-digest", format!("sha256:{}", "0".repeat(64))),
            ),
            "another digest than was asked for",
        ),
        (
            manifests(Response::new(302, "").header("location", "http://")),
            "without a usable Location",
        ),
        (
            manifests(Response::new(401, "").header("www-authenticate", "Bearer realm=\"/token\"")),
            "the realm is no address",
        ),
    ];
    for (special, expected) in cases {
        let fixture = Fixture::new();
        let server = scripted(&sample(), special);
        let error = chain(&fixture.pull(&format!("{}/sample:1", server.address())).unwrap_err());
        assert!(error.contains(expected), "{expected:?} is not in: {error}");
        assert_eq!(fixture.content(), Default::default());
    }
    let fixture = Fixture::new();
    let around = |request: &Request| {
        Some(Response::new(302, "").header("location", format!("{}x", request.path)))
    };
    let server = scripted(&sample(), around);
    let error: Error = fixture.pull(&format!("{}/sample:1", server.address())).unwrap_err();
    assert!(chain(&error).contains("more than 10 redirects"), "{}", chain(&error));
}
