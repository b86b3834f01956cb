//! What the store promises: damage stays where it is, many may use it at once; and pushing from it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use agent::api::types::{PruneImages, PushEvent};
use agent::image::{PullRequest, Registries, Store};
use serde_json::Value;
use tests::image::{Image as Made, Layer, Tar};
use tests::podman;
use tests::registry::Registry;

use super::{Fixture, chain, content, no_one, sample};

fn push(
    fixture: &Fixture,
    reference: &str,
    all: bool,
) -> Result<Vec<PushEvent>, agent::image::Error> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1000);
    let registries = Registries::default();
    fixture.runtime.block_on(fixture.store.push(reference, all, None, &registries, sender))?;
    let mut events = Vec::new();
    while let Ok(event) = receiver.try_recv() {
        events.push(event);
    }
    Ok(events)
}

fn statuses(events: &[PushEvent]) -> Vec<&str> {
    let mut statuses = Vec::new();
    for event in events {
        if let PushEvent::Layer { status, .. } = event
            && status != "Preparing"
        {
            statuses.push(status.as_str());
        }
    }
    statuses
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_pushed_is_the_image_and_goes_once() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    let made = sample();
    fixture.load(&made.docker_archive(&["sample:1"])).unwrap();
    let (first, second) = (registry.image("team/app:1"), registry.image("team/app:2"));
    fixture.store.tag("sample:1", &first).unwrap();
    fixture.store.tag("sample:1", &second).unwrap();
    let events = push(&fixture, &first, false).unwrap();
    let pushed = statuses(&events).iter().filter(|status| **status == "Pushed").count();
    assert_eq!(pushed, 2, "{events:?}");
    let Some(PushEvent::Done { digest, tag, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(tag, "1");
    let source = format!("docker://{first}");
    let seen = skopeo(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &source]);
    assert_eq!(seen.trim(), digest);
    let config = skopeo(&["inspect", "--tls-verify=false", "--config", "--raw", &source]);
    assert_eq!(config.as_bytes(), made.config_blob());
    // Fetched by others, the layers are what was loaded.
    let layout = fixture.dir.path().join("layout");
    let target = format!("dir:{}", layout.display());
    skopeo(&["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &source, &target]);
    let again = Fixture::new();
    let image = again.pull(&first).unwrap();
    assert_eq!((&image.id, &image.digest), (&made.id(), digest));

    // The second tag needs nothing, and is the same manifest.
    let events = push(&fixture, &second, false).unwrap();
    assert!(statuses(&events).iter().all(|s| matches!(*s, "Pushing" | "Layer already exists")));
    assert!(matches!(events.last(), Some(PushEvent::Done { digest: same, .. }) if same == digest));
    let shown = fixture.store.inspect(&first).unwrap();
    assert!(shown.repo_digests.iter().any(|name| name.ends_with(digest.as_str())), "{shown:?}");

    let events = push(&fixture, &registry.image("team/app"), true).unwrap();
    let done = events.iter().filter(|event| matches!(event, PushEvent::Done { .. })).count();
    assert_eq!(done, 2);
    let absent = chain(&push(&fixture, &registry.image("team/app:3"), false).unwrap_err());
    assert!(absent.contains("does not exist locally"), "{absent}");
}

#[test]
fn what_the_registry_has_is_not_made_again() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    let image = fixture.load(&sample().docker_archive(&["sample:1"])).unwrap().remove(0);
    let name = registry.image("team/app:1");
    fixture.store.tag("sample:1", &name).unwrap();
    let pushed = push(&fixture, &name, false).unwrap();
    assert_eq!(statuses(&pushed).iter().filter(|status| **status == "Pushed").count(), 2);
    // Without these no layer can be made again.
    let layers: Vec<PathBuf> =
        image.layers.iter().map(|fs| fs.parent().unwrap().to_owned()).collect();
    let away = |away: bool| {
        for layer in &layers {
            let (recipe, other) = (layer.join("recipe"), layer.join("away"));
            let (from, to) = if away { (recipe, other) } else { (other, recipe) };
            fs::rename(from, to).unwrap();
        }
    };
    away(true);
    let again = push(&fixture, &name, false).unwrap();
    assert_eq!(statuses(&again), ["Layer already exists"; 2]);
    assert_eq!(pushed.last(), again.last(), "the same manifest");
    let second = registry.image("team/other:1");
    fixture.store.tag("sample:1", &second).unwrap();
    let mounted = push(&fixture, &second, false).unwrap();
    assert_eq!(statuses(&mounted), ["Mounted from team/app"; 2]);
    let elsewhere = Registry::start().unwrap();
    let third = elsewhere.image("app:1");
    fixture.store.tag("sample:1", &third).unwrap();
    let refused = chain(&push(&fixture, &third, false).unwrap_err());
    assert!(refused.contains("kept nothing to make its archive from"), "{refused}");
    // What a killed push left of a record is none.
    away(false);
    for layer in &layers {
        fs::write(layer.join("pushed"), "{\"digest\":\"sha256:00").unwrap();
    }
    let sent = push(&fixture, &third, false).unwrap();
    assert_eq!(statuses(&sent).iter().filter(|status| **status == "Pushed").count(), 2);
    assert_eq!(Fixture::new().pull(&third).unwrap().id, image.id);
    // A registry that has forgotten the layers gets them again.
    for layer in &layers {
        let record: Value =
            serde_json::from_slice(&fs::read(layer.join("pushed")).unwrap()).unwrap();
        fs::remove_file(elsewhere.blob(record["digest"].as_str().unwrap())).unwrap();
    }
    push(&fixture, &third, false).unwrap();
    assert_eq!(Fixture::new().pull(&third).unwrap().id, image.id);
}

#[test]
fn an_image_that_was_pulled_goes_on_as_it_came() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    let made = sample();
    registry.push(&fixture.in_archive_file(&made.oci_archive("a/one:1")), "a/one:1").unwrap();
    let pulled = fixture.pull(&registry.image("a/one:1")).unwrap();
    let other = registry.image("b/two:1");
    fixture.store.tag(&registry.image("a/one:1"), &other).unwrap();
    let events = push(&fixture, &other, false).unwrap();
    assert_eq!(statuses(&events), ["Mounted from a/one"; 2]);
    let Some(PushEvent::Done { digest, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(*digest, pulled.digest);
    assert_eq!(Fixture::new().pull(&other).unwrap().digest, pulled.digest);
}

/// Two images that share a layer; the first one is damaged by each of these.
#[test]
fn damage_is_told_of_stays_where_it_is_and_is_mended_by_a_pull() {
    let fixture = Fixture::new();
    let registry = Registry::start().unwrap();
    let shared = Layer::gzip(&Tar::new().file("shared", b"s"));
    let made =
        |name: &str| Made::new(vec![shared.clone(), Layer::gzip(&Tar::new().file(name, b"own"))]);
    for name in ["one:1", "two:1"] {
        let archive = fixture.in_archive_file(&made(name).oci_archive(name));
        registry.push(&archive, name).unwrap();
    }
    let (one, two) = (registry.image("one:1"), registry.image("two:1"));
    fixture.pull(&two).unwrap();
    let root = fixture.dir.path().join("images");
    let top = |fixture: &Fixture| {
        let fs = fixture.pull(&one).unwrap().layers[0].clone();
        fs.parent().unwrap().to_owned()
    };
    let id = made("one:1").id();
    let record = root.join("images").join(format!("{}.json", &id["sha256:".len()..]));
    let config = root.join("blobs/sha256").join(&id["sha256:".len()..]);
    type Damage<'a> = (&'a str, Box<dyn Fn(PathBuf) + 'a>);
    let damages: Vec<Damage<'_>> = vec![
        ("record", Box::new(|_| fs::write(&record, "{\"id\":\"sha2").unwrap())),
        ("configuration", Box::new(|_| fs::write(&config, "{}").unwrap())),
        ("configuration", Box::new(|_| fs::remove_file(&config).unwrap())),
        ("layer", Box::new(|layer| fs::remove_dir_all(layer).unwrap())),
        ("layer", Box::new(|layer| fs::write(layer.join("layer"), "{").unwrap())),
        ("layer", Box::new(|layer| fs::remove_file(layer.join("layer")).unwrap())),
        ("layer", Box::new(|layer| fs::remove_dir_all(layer.join("fs")).unwrap())),
    ];
    for (at, (text, damage)) in damages.iter().enumerate() {
        let layer = top(&fixture);
        damage(layer);
        // A start on it, and all that looks at it.
        let store = Store::open(&root).unwrap();
        let list = store.list().unwrap();
        assert_eq!(list.len(), 2, "{at}");
        for image in list {
            let damaged = image.damage.unwrap_or_default();
            assert_eq!(damaged.contains(text), image.id == id, "{at}: {damaged:?}");
            assert_eq!(damaged.contains("pull or load it again"), image.id == id, "{at}");
        }
        assert!(store.find(&one).unwrap().is_none(), "{at}");
        assert!(chain(&store.inspect(&one).unwrap_err()).contains(&id), "{at}");
        assert!(store.find(&two).unwrap().is_some(), "{at}");
        store.save(std::slice::from_ref(&two), &new_file(&fixture), &|| false).unwrap();
        fixture.pull(&one).unwrap();
        assert!(store.list().unwrap().iter().all(|image| image.damage.is_none()), "{at}");
        store.save(std::slice::from_ref(&one), &new_file(&fixture), &|| false).unwrap();
    }
    // A name is lost, not the store; a damaged image can be removed.
    for entry in fs::read_dir(root.join("refs")).unwrap() {
        fs::write(entry.unwrap().path(), "").unwrap();
    }
    fs::write(&record, "").unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.list().unwrap().iter().all(|image| image.references.is_empty()));
    assert_eq!(store.remove(&id, false, &no_one).unwrap().deleted[0], id);
    assert_eq!(store.list().unwrap().len(), 1);
    fixture.pull(&two).unwrap();
    assert!(store.find(&two).unwrap().is_some());
    let left: Vec<String> = names(&root, "l");
    assert_eq!(left.len(), 2, "the removed image's own layer is gone");
}

fn new_file(fixture: &Fixture) -> PathBuf {
    let path = fixture.dir.path().join("saved");
    fs::write(&path, b"").unwrap();
    path
}

fn names(root: &std::path::Path, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Twenty images of three shared layers and one of their own.
fn twenty() -> Vec<Made> {
    let layer = |name: String| {
        let data: Vec<u8> =
            (0..100_000_usize).map(|at| u8::try_from(at * at % 249).unwrap()).collect();
        Layer::gzip(&Tar::new().file(&name, &data))
    };
    let shared: Vec<Layer> = (0..3).map(|at| layer(format!("shared{at}"))).collect();
    let image = |at| Made::new([&shared[..], &[layer(format!("own{at}"))]].concat());
    (0..20).map(image).collect()
}

#[test]
fn twenty_pulls_at_once_fetch_each_layer_once() {
    let fixture = Fixture::new();
    let images = twenty();
    let blobs: std::collections::BTreeMap<String, Vec<u8>> =
        images.iter().flat_map(Made::blobs).collect();
    let manifests: Vec<Vec<u8>> = images.iter().map(Made::manifest).collect();
    let fetched = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&fetched);
    let server = tests::registry::Server::start(move |request| {
        use tests::registry::Response;
        let path = request.path.as_str();
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        if let Some((_, digest)) = path.split_once("/blobs/") {
            seen.lock().unwrap().push(digest.to_owned());
            return Response::new(200, blobs[digest].clone());
        }
        match path.split_once("/manifests/") {
            Some((_, at)) if at.starts_with('v') => {
                let text = manifests[at[1..].parse::<usize>().unwrap()].clone();
                Response::new(200, text).header("content-type", manifest)
            }
            Some((_, digest)) => {
                Response::new(200, blobs[digest].clone()).header("content-type", manifest)
            }
            None => Response::new(200, ""),
        }
    })
    .unwrap();
    let pulls = (0..20).map(|at| {
        let request = PullRequest::of(format!("{}/many:v{at}", server.address()));
        let (store, progress) = (fixture.store.clone(), fixture.progress());
        async move { store.pull(request, &Registries::default(), progress).await }
    });
    let tasks: Vec<_> = pulls.map(|pull| fixture.runtime.spawn(pull)).collect();
    for task in tasks {
        fixture.runtime.block_on(task).unwrap().unwrap();
    }
    assert_eq!(fixture.store.list().unwrap().len(), 20);
    let mut fetched = fetched.lock().unwrap().clone();
    let count = fetched.len();
    fetched.sort();
    fetched.dedup();
    assert_eq!((count, fetched.len()), (43, 43), "23 layers and 20 configurations, each once");
}

/// Pulls, removals and prunings of two stores on one directory, as of two processes.
#[test]
fn pulls_removals_and_prunings_of_two_processes_leave_a_whole_store() {
    let fixture = Fixture::new();
    let root = fixture.dir.path().join("images");
    let images = twenty();
    let archives: Vec<PathBuf> = images
        .iter()
        .take(4)
        .enumerate()
        .map(|(at, made)| {
            let path = fixture.dir.path().join(format!("{at}.tar"));
            fs::write(&path, made.oci_archive(&format!("many:v{at}"))).unwrap();
            path
        })
        .collect();
    std::thread::scope(|scope| {
        for (at, archive) in archives.iter().enumerate() {
            let (root, fixture) = (&root, &fixture);
            scope.spawn(move || {
                let store = Store::open(root).unwrap();
                for round in 0..6 {
                    let registries = Registries::default();
                    let load = store.load(archive, &registries, std::sync::Arc::new(|_| {}));
                    fixture.runtime.block_on(load).unwrap();
                    match (at + round) % 3 {
                        // Somebody else may have taken it meanwhile.
                        0 => drop(store.remove(&format!("many:v{at}"), true, &no_one)),
                        1 => {
                            let all = PruneImages { all: true, ..PruneImages::default() };
                            store.prune(&all, &no_one).unwrap();
                        }
                        _ => drop(Store::open(root).unwrap()),
                    }
                }
            });
        }
    });
    for (at, archive) in archives.iter().enumerate() {
        let registries = Registries::default();
        let load = fixture.store.load(archive, &registries, fixture.progress());
        fixture.runtime.block_on(load).unwrap();
        let name = format!("many:v{at}");
        fixture.store.save(&[name], &new_file(&fixture), &|| false).unwrap();
    }
    drop(Store::open(&root).unwrap());
    assert!(fixture.store.list().unwrap().iter().all(|image| image.damage.is_none()));
    assert_eq!(names(&root, "l").len(), 7, "{:?}", content(&root));
    assert_eq!(names(&root, "tmp"), Vec::<String>::new());
}

#[test]
fn inspect_and_history_tell_what_docker_tells() {
    let fixture = Fixture::new();
    let made = sample();
    fixture.load(&made.docker_archive(&["sample:1"])).unwrap();
    let shown = serde_json::to_value(fixture.store.inspect("sample:1").unwrap()).unwrap();
    // The same by Docker's own words, where podman repeats them.
    let place = fixture.dir.path().join("podman");
    let archive = fixture.in_archive_file(&made.docker_archive(&["sample:1"]));
    let podman = |arguments: &[&str]| {
        let output = podman::with_storage(&place, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    podman(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let theirs: Value =
        serde_json::from_str(&podman(&["image", "inspect", "localhost/sample:1"])).unwrap();
    let theirs = &theirs[0];
    assert_eq!(shown["Id"].as_str().unwrap()["sha256:".len()..], *theirs["Id"].as_str().unwrap());
    for field in ["Created", "Architecture", "Os", "RootFS", "Author"] {
        assert_eq!(shown[field], theirs[field], "{field}");
    }
    for field in
        ["Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Volumes", "Labels", "StopSignal"]
    {
        assert_eq!(shown["Config"][field], theirs["Config"][field], "{field}");
    }
    assert_eq!(shown["RepoTags"], serde_json::json!(["sample:1"]));
    assert!(fixture.store.history("sample:1").unwrap().is_empty());
}
