//! Pulls from Debian's `docker-registry`, and from registries that misbehave.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent::api::types::PullEvent;
use agent::image::{Auth, PullRequest, Registries, Store};
use serde_json::json;
use tests::image::{Image as Made, Layer, Tar, digest, oci_archive};
use tests::registry::{PASSWORD, Registry, Request, Response, Server, USER};

use super::{Fixture, chain, content, no_one, sample};

const STORE: &str = "LIGHTER_TEST_STORE";
const REFERENCE: &str = "LIGHTER_TEST_REFERENCE";

#[test]
fn an_image_is_pulled_found_and_pulled_again_for_nothing() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let made = sample();
    let archive = fixture.in_archive_file(&made.oci_archive("sample:1"));
    registry.push(&archive, "team/sample:1").unwrap();
    let reference = registry.image("team/sample:1");
    let image = fixture.pull(&reference).unwrap();
    assert_eq!(image.id, made.id());
    assert_eq!(image.digest, digest(&made.manifest()));
    assert_eq!(image.references, std::slice::from_ref(&reference));
    let pinned = registry.image(&format!("team/sample@{}", image.digest));
    assert_eq!(image.repo_digests, std::slice::from_ref(&pinned));
    assert_eq!(image.read_file("/data/new", 9).unwrap().unwrap(), b"new");
    for name in
        [&reference, &pinned, &image.id, &image.id[7..].to_owned(), &image.id[7..20].to_owned()]
    {
        assert_eq!(fixture.store.find(name).unwrap().unwrap().id, image.id, "{name}");
    }
    {
        let events = fixture.events.lock().unwrap();
        assert!(matches!(events.first(), Some(PullEvent::Resolving { .. })));
        assert!(matches!(events.last(), Some(PullEvent::Done { .. })));
        for layer in &made.layers {
            assert!(events.iter().any(|event| matches!(event,
                PullEvent::Layer { layer: name, done, total, .. }
                    if *name == layer.digest && done == total && *total == layer.size)));
        }
    }
    // The layers are there: damage in the registry does not matter any more.
    for layer in &made.layers {
        std::fs::remove_file(registry.blob(&layer.digest)).unwrap();
    }
    assert_eq!(fixture.pull(&pinned).unwrap().layers, image.layers);
    let removed = fixture.store.remove(&reference, false, &no_one).unwrap();
    assert_eq!(removed.untagged, [reference, pinned]);
    assert_eq!(removed.deleted[0], image.id);
    assert_eq!(fixture.content(), Default::default());
}

#[test]
fn the_platform_is_chosen_from_an_index() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let (here, mut there) = (sample(), sample());
    there.architecture = "s390x".to_owned();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [there.descriptor(json!({})), here.descriptor(json!({}))],
    })
    .to_string();
    // An index within the index of the layout: what skopeo pushes as a whole.
    let outer = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json",
                       "digest": digest(index.as_bytes()), "size": index.len()}],
    });
    let mut tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", outer.to_string().as_bytes())
        .file(
            &format!("blobs/{}", digest(index.as_bytes()).replacen(':', "/", 1)),
            index.as_bytes(),
        );
    for (name, blob) in here.blobs().into_iter().chain(there.blobs()) {
        tar = tar.file(&format!("blobs/{}", name.replacen(':', "/", 1)), &blob);
    }
    let archive = fixture.in_archive_file(&tar.finish());
    registry.push(&archive, "multi:1").unwrap();
    let reference = registry.image("multi:1");
    let image = fixture.pull(&reference).unwrap();
    assert_eq!(image.id, here.id());
    assert!(image.repo_digests[0].ends_with(&digest(index.as_bytes())), "{:?}", image.repo_digests);
    let pull = |platform| fixture.pull_with(&reference, Some(platform), &Registries::default());
    assert_eq!(pull("linux/s390x").unwrap().id, there.id());
    let error = chain(&pull("linux/riscv64").unwrap_err());
    assert!(error.contains("no image for platform linux/riscv64; there is linux/"), "{error}");
    assert!(chain(&pull("linux").unwrap_err()).contains("expected os/architecture"));
}

#[test]
fn a_registry_with_a_login_wants_it() {
    let (fixture, registry) = (Fixture::new(), Registry::start_with_login().unwrap());
    let archive = fixture.in_archive_file(&sample().oci_archive("sample:1"));
    registry.push(&archive, "private/sample:1").unwrap();
    let reference = registry.image("private/sample:1");
    let auth = |password: &str| {
        let data = json!({registry.address(): {"username": USER, "password": password}});
        let auth = Auth::load(Some("docker"), Some(&data.to_string()), None).unwrap();
        Registries { auth, ..Registries::default() }
    };
    let error = chain(&fixture.pull(&reference).unwrap_err());
    assert!(error.contains("refuses anonymous access") && error.contains(&reference), "{error}");
    let error = chain(&fixture.pull_with(&reference, None, &auth("wrong")).unwrap_err());
    assert!(error.contains("refuses these credentials"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
    assert_eq!(fixture.content(), Default::default());
    fixture.pull_with(&reference, None, &auth(PASSWORD)).unwrap();
}

#[test]
fn what_cannot_be_pulled_is_named_and_leaves_nothing() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let made = sample();
    let archive = fixture.in_archive_file(&made.oci_archive("sample:1"));
    registry.push(&archive, "sample:1").unwrap();
    let address = registry.address();
    let blob = registry.blob(&made.layers[0].digest);
    let good = std::fs::read(&blob).unwrap();
    let pull = |name: &str| chain(&fixture.pull(name).unwrap_err());

    let error = pull(&registry.image("sample:2"));
    assert!(
        error.contains(&format!("pull {address}/sample:2 from {address}: unknown image")),
        "{error}"
    );
    assert!(pull(&registry.image("nothing")).contains("unknown image"));
    let error = pull("127.0.0.1:1/sample:1");
    assert!(error.contains("from 127.0.0.1:1: registry does not answer"), "{error}");
    assert!(error.contains("onnection refused"), "{error}");
    assert!(pull("Bad").contains("must be lower case"));

    // Same length, so only the digest tells.
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    std::fs::write(&blob, &bad).unwrap();
    let error = pull(&registry.image("sample:1"));
    assert!(
        error.contains(&made.layers[0].digest) && error.contains("content has digest"),
        "{error}"
    );
    std::fs::write(&blob, &good[..good.len() - 5]).unwrap();
    assert!(!pull(&registry.image("sample:1")).is_empty());
    assert_eq!(fixture.content(), Default::default());
    let events = fixture.events.lock().unwrap();
    assert!(matches!(events.last(), Some(PullEvent::Failed { .. })));
}

#[test]
fn hostile_layers_are_refused_through_a_registry_too() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let good = Layer::gzip(&Tar::new().file("good", &vec![1; 3 << 20]));
    let evil = Layer::gzip(&Tar::new().file("../../evil", b"x"));
    let image = Made::new(vec![good, evil.clone()]);
    let archive = fixture.in_archive_file(&oci_archive(&[(&image, json!({}))]));
    registry.push(&archive, "evil:1").unwrap();
    let error = chain(&fixture.pull(&registry.image("evil:1")).unwrap_err());
    assert!(error.contains(&format!("layer {}: entry \"../../evil\"", evil.digest)), "{error}");
    assert_eq!(fixture.content(), Default::default());
}

/// Serves one image; `special` may answer first.
pub(super) fn scripted(
    image: &Made,
    special: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
) -> Server {
    let blobs = image.blobs();
    let manifest = image.manifest();
    Server::start(move |request| {
        if let Some(response) = special(request) {
            return response;
        }
        // A mirror is told more behind it.
        let path = request.path.split('?').next().unwrap_or_default();
        if path == "/v2/" {
            return Response::new(200, "{}");
        }
        if path.contains("/manifests/") {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            return Response::new(200, manifest.clone()).header("content-type", kind);
        }
        match blobs.iter().find(|(name, _)| path.ends_with(name)) {
            Some((_, blob)) => ranged(request, blob),
            None => Response::new(404, "{}"),
        }
    })
    .unwrap()
}

pub(super) fn ranged(request: &Request, blob: &[u8]) -> Response {
    let from = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
            Response::new(206, &blob[from..]).header("content-range", range)
        }
        None => Response::new(200, blob),
    }
}

fn noise() -> Vec<u8> {
    (0..400_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

/// An image of one layer that is not compressible, and a server that treats the layer specially.
pub(super) fn with_layer(
    special: impl Fn(&Request, &[u8], usize) -> Response + Send + Sync + 'static,
) -> (Server, Arc<AtomicUsize>) {
    let noise = noise();
    let image = Made::new(vec![Layer::plain(&Tar::new().file("noise", &noise))]);
    let (name, blob) = (image.layers[0].digest.clone(), image.layers[0].blob.clone());
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let server = scripted(&image, move |request| {
        request
            .path
            .contains(&name)
            .then(|| special(request, &blob, counter.fetch_add(1, Ordering::SeqCst)))
    });
    (server, asked)
}

#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let fixture = Fixture::new();
    let image = sample();
    let tokens = Server::start(|request| {
        let asked = request.path.contains("scope=repository%3Asample%3Apull")
            && request.path.contains("service=test");
        if asked { Response::new(200, r#"{"token":"t0k3n"}"#) } else { Response::new(400, "") }
    })
    .unwrap();
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", tokens.address());
    let server = scripted(&image, move |request| {
        let authorized = request.headers.get("authorization").map(String::as_str);
        (authorized != Some("Bearer t0k3n"))
            .then(|| Response::new(401, "{}").header("www-authenticate", realm.clone()))
    });
    fixture.pull(&format!("{}/sample:1", server.address())).unwrap();
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let fixture = Fixture::new();
    let (server, asked) = with_layer(|request, blob, count| {
        let cut = (count < 3).then_some(100_000);
        Response { cut, ..ranged(request, blob) }
    });
    let pulled = fixture.pull(&format!("{}/noise:1", server.address())).unwrap();
    assert_eq!(pulled.read_file("noise", 1 << 20).unwrap().unwrap(), noise());
    assert_eq!(asked.load(Ordering::SeqCst), 4);
}

#[test]
fn a_registry_without_ranges_is_served_too_and_its_lies_found() {
    let image = Made::new(vec![Layer::gzip(&Tar::new().file("f", &vec![3; 100_000]))]);
    let (name, blob) = (image.layers[0].digest.clone(), image.layers[0].blob.clone());
    for lie in [false, true] {
        let fixture = Fixture::new();
        let (name, mut blob) = (name.clone(), blob.clone());
        if lie {
            let last = blob.len() - 1;
            blob[last] ^= 1;
        }
        let server = scripted(&image, move |request| {
            request.path.ends_with(&name).then(|| Response::new(200, blob.clone()))
        });
        let result = fixture.pull(&format!("{}/f:1", server.address()));
        if lie {
            let error = chain(&result.unwrap_err());
            assert!(error.contains("content has digest"), "{error}");
            assert_eq!(fixture.content(), Default::default());
        } else {
            result.unwrap();
        }
    }
}

#[test]
fn the_tags_of_a_repository_are_listed_page_by_page() {
    let fixture = Fixture::new();
    let ask = |answer: fn(&str) -> (&'static str, &'static str)| {
        let server = Server::start(move |request| {
            let query = request.path.strip_prefix("/v2/x/app/tags/list").unwrap_or("wrong");
            let (body, link) = answer(query);
            Response::new(200, body).header("link", link)
        });
        let server = server.unwrap();
        let name = format!("{}/x/app", server.address());
        let registries = Registries::default();
        let asked = Store::tags_at_registry(&name, None, &registries);
        let tags = fixture.runtime.block_on(asked).map_err(|error| chain(&error));
        tags.map(|tags| tags.join(" ").replace(&name, ""))
    };
    let paged = ask(|query| match query {
        "" => {
            (r#"{"name":"x/app","tags":["b","a"]}"#, "</v2/x/app/tags/list?last=b>; rel=\"next\"")
        }
        "?last=b" => (r#"{"name":"x/app","tags":["c","a"]}"#, ""),
        _ => ("", ""),
    });
    assert_eq!(paged.unwrap(), ":a :b :c");
    assert_eq!(ask(|_| (r#"{"tags":null}"#, "")).unwrap(), "");
    // Signatures and the like are no images.
    let signed = ask(|_| {
        let tags = concat!(
            r#"{"tags":["a","sha256-1","#,
            r#""sha256-0123456789012345678901234567890123456789012345678901234567890123.sig"]}"#
        );
        (tags, "")
    });
    assert_eq!(signed.unwrap(), ":a :sha256-1");
    for (refused, part) in [
        (ask(|_| (r#"{"tags":["../x"]}"#, "")), "is not a tag"),
        (ask(|_| (r#"{"tags":["a@sha256:0"]}"#, "")), "is not a tag"),
        (ask(|_| (r#"{"tags":"a"}"#, "")), "list of tags is malformed"),
        (ask(|_| (r#"{"tags":[]}"#, "<?again>; rel=next")), "does not end"),
        (ask(|_| ("{}", "<http://elsewhere.example/>; rel=next")), "another host"),
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn schema_1_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let server = scripted(&sample(), |request| {
        request.path.contains("/manifests/").then(|| {
            Response::new(200, r#"{"schemaVersion":1,"name":"old","fsLayers":[]}"#)
                .header("content-type", "application/vnd.docker.distribution.manifest.v1+json")
        })
    });
    let error = chain(&fixture.pull(&format!("{}/old:1", server.address())).unwrap_err());
    assert!(
        error.contains("schema 1") && error.contains("push the image again with a current one"),
        "{error}"
    );
}

#[test]
fn concurrent_pulls_share_layers_and_stores() {
    let (fixture, registry) = (Fixture::new(), Registry::start().unwrap());
    let shared = Layer::gzip(&Tar::new().file("shared", &vec![9; 1 << 20]));
    for name in ["a", "b"] {
        let own = Layer::gzip(&Tar::new().file(name, b"x"));
        let image = Made::new(vec![shared.clone(), own]);
        let archive = fixture.in_archive_file(&image.oci_archive("x:1"));
        registry.push(&archive, &format!("{name}:1")).unwrap();
    }
    // Another handle stands for another process: it shares nothing in memory.
    let other = Store::open(&fixture.dir.path().join("images")).unwrap();
    let images = fixture.runtime.block_on(async {
        let mut tasks = Vec::new();
        for store in [&fixture.store, &other] {
            for name in ["a:1", "b:1", "a:1"] {
                let (store, request) = (store.clone(), PullRequest::of(registry.image(name)));
                let progress = fixture.progress();
                tasks.push(tokio::spawn(async move {
                    store.pull(request, &Registries::default(), progress).await
                }));
            }
        }
        let mut images = Vec::new();
        for task in tasks {
            images.push(task.await.unwrap().unwrap_or_else(|error| panic!("{}", chain(&error))));
        }
        images
    });
    assert!(images.iter().all(|image| image.layers[1] == images[0].layers[1]));
    assert_eq!(fixture.store.list().unwrap().len(), 2);
    let left = fixture.content();
    assert_eq!(left.iter().filter(|path| path.parent().unwrap().ends_with("l")).count(), 3);
    assert!(!left.iter().any(|path| path.parent().unwrap().ends_with("tmp")));
}

#[test]
fn a_cancelled_pull_leaves_nothing() {
    let fixture = Fixture::new();
    let (_server, reference) = stalling();
    fixture.runtime.block_on(async {
        let registries = Registries::default();
        let pull = fixture.store.pull(PullRequest::of(&reference), &registries, fixture.progress());
        assert!(tokio::time::timeout(Duration::from_millis(500), pull).await.is_err());
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while !fixture.content().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", fixture.content());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A registry that stops in the middle of a layer, and an image on it.
fn stalling() -> (Server, String) {
    let noise: Vec<u8> =
        (0..4_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let small = Layer::gzip(&Tar::new().file("small", b"small"));
    let tar = Tar::new().file("first", b"first").file("noise", &noise);
    let image = Made::new(vec![small, Layer::plain(&tar)]);
    let (name, blob) = (image.layers[1].digest.clone(), image.layers[1].blob.clone());
    let server = scripted(&image, move |request| {
        request.path.ends_with(&name).then(|| Response {
            cut: Some(1_000_000),
            stall: true,
            ..ranged(request, &blob)
        })
    });
    let reference = format!("{}/stalling:1", server.address());
    (server, reference)
}

#[test]
fn a_pull_that_is_killed_is_swept_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images");
    let (_server, reference) = stalling();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "image::pull::child_that_pulls", "--ignored"])
        .env(STORE, &path)
        .env(REFERENCE, &reference)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let unpacking = || {
        let tmp = std::fs::read_dir(path.join("tmp")).ok()?.next()?.ok()?.path();
        std::fs::read_dir(tmp)
            .ok()?
            .flatten()
            .any(|layer| layer.path().join("fs/noise").exists())
            .then_some(())
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while unpacking().is_none() {
        assert!(Instant::now() < deadline, "the child does not unpack");
        std::thread::sleep(Duration::from_millis(10));
    }
    // While its maker lives, nobody takes the directory away.
    Store::open(&path).unwrap();
    assert!(unpacking().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!content(&path).is_empty());
    let store = Store::open(&path).unwrap();
    assert_eq!(content(&path), Default::default());
    assert!(store.list().unwrap().is_empty());
}

/// Run by the test above, in a process of its own.
#[test]
#[ignore = "a part of another test"]
fn child_that_pulls() {
    let (Some(path), Ok(reference)) = (std::env::var_os(STORE), std::env::var(REFERENCE)) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Store::open(&PathBuf::from(path)).unwrap();
    let registries = Registries::default();
    let _ =
        runtime.block_on(store.pull(PullRequest::of(&reference), &registries, Arc::new(|_| {})));
}

#[test]
fn a_commit_that_was_cut_short_is_undone() {
    let fixture = Fixture::new();
    let images = fixture.dir.path().join("images");
    fixture.load(&sample().oci_archive("kept:1")).unwrap();
    let before = fixture.content();
    std::fs::create_dir_all(images.join("l/orphan/fs")).unwrap();
    std::fs::write(images.join("blobs/sha256").join("0".repeat(64)), "x").unwrap();
    std::fs::write(images.join("refs/half.tmp"), "{").unwrap();
    std::fs::write(images.join("images/half.tmp"), "{").unwrap();
    let store = Store::open(&images).unwrap();
    assert_eq!(content(&images), before);
    assert!(store.find("kept:1").unwrap().is_some());
}
