//! Limits of pulls: how long they may take, and how many go on at once.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent::config::Limits;
use agent::host::pulls::Pulls;
use tests::registry::{Request, Response, Server};

use super::*;

fn limits() -> Limits {
    let long = Duration::from_secs(120);
    Limits { manifest: long, whole: long, inactivity: long, parallel: 4 }
}

/// A registry with one image, whose answers `change` may change.
fn serve(
    image: &Made,
    change: impl Fn(&Request, Response) -> Response + Send + Sync + 'static,
) -> Server {
    let (blobs, manifest) = (image.blobs(), image.manifest());
    Server::start(move |request| {
        let path = request.path.as_str();
        let response = if path.contains("/manifests/") {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            Response::new(200, manifest.clone()).header("content-type", kind)
        } else if let Some((_, blob)) = blobs.iter().find(|(name, _)| path.ends_with(name)) {
            Response::new(200, blob.clone())
        } else {
            Response::new(200, "{}")
        };
        change(request, response)
    })
    .unwrap()
}

fn stall(response: Response, after: usize) -> Response {
    Response { cut: Some(after), stall: true, ..response }
}

fn noise() -> Made {
    let bytes: Vec<u8> =
        (0..2_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    Made::new(vec![Layer::plain(&Tar::new().file("noise", &bytes))])
}

fn failure(limits: Limits, server: &Server) -> (String, bool) {
    let fixture = Fixture::new();
    let pulls = Pulls::new(fixture.store.clone(), Registries::default(), limits, None);
    let request = PullRequest::of(format!("{}/x:1", server.address()));
    let failure =
        fixture.runtime.block_on(pulls.pull(request, fixture.progress())).map(|_| ()).unwrap_err();
    let last = fixture.events.lock().unwrap().last().cloned();
    assert!(matches!(last, Some(PullEvent::Failed { .. })), "{last:?}");
    (chain(&failure.error), failure.resolved)
}

#[test]
fn a_registry_that_does_not_say_what_an_image_is() {
    let server = serve(&noise(), |request, response| {
        if request.path.contains("/manifests/") { stall(response, 10) } else { response }
    });
    let short = Limits { manifest: Duration::from_secs(1), ..limits() };
    let expected = "Could not transition to MANIFEST_PULLED; timed out after waiting 1s";
    assert_eq!(failure(short, &server), (expected.to_owned(), false));
}

#[test]
fn a_registry_that_stops_in_the_middle_of_a_layer() {
    let large = |request: &Request, response: Response| {
        if request.path.contains("/blobs/") && response.body.len() > 1_000_000 {
            stall(response, 1_500_000)
        } else {
            response
        }
    };
    let server = serve(&noise(), large);
    let idle =
        Limits { inactivity: Duration::from_secs(1), whole: Duration::from_secs(20), ..limits() };
    let expected = "inactivity time exceeded timeout while pulling image";
    assert_eq!(failure(idle, &server), (expected.to_owned(), true));
    let short = Limits { whole: Duration::from_secs(2), ..limits() };
    let expected = "Could not transition to pulled; timed out after waiting 2s";
    assert_eq!(failure(short, &server), (expected.to_owned(), true));
}

#[test]
fn pulls_wait_for_their_place() {
    let now = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let counted = Arc::clone(&now);
    let image = sample();
    let server = serve(&image, move |request, response| {
        // Each pull asks for its manifest once and is in the middle of it for a while.
        if request.path.contains("/manifests/") {
            let (inside, most) = (&counted.0, &counted.1);
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            inside.fetch_sub(1, Ordering::SeqCst);
        }
        response
    });
    let fixture = Fixture::new();
    let two = Limits { parallel: 2, ..limits() };
    let pulls = Arc::new(Pulls::new(fixture.store.clone(), Registries::default(), two, None));
    let pulled = fixture.runtime.block_on(async {
        let mut tasks = Vec::new();
        for number in 0..8 {
            let request = PullRequest::of(format!("{}/x{}:1", server.address(), number % 6));
            let (pulls, progress) = (Arc::clone(&pulls), fixture.progress());
            tasks.push(tokio::spawn(async move { pulls.pull(request, progress).await }));
        }
        let mut pulled = Vec::new();
        for task in tasks {
            let result = task.await.unwrap();
            pulled.push(result.unwrap_or_else(|failure| panic!("{}", chain(&failure.error))));
        }
        pulled
    });
    assert!(pulled.iter().all(|pulled| pulled.image.id == image.id()));
    assert!(now.1.load(Ordering::SeqCst) <= 2, "{now:?}");
    // Leases last as long as what was pulled.
    assert!(fixture.store.remove(&image.id(), true, &no_one).is_err());
    drop(pulled);
    fixture.store.remove(&image.id(), true, &no_one).unwrap();
}

#[test]
fn a_pull_that_is_given_up_while_it_is_committed_ends_whole() {
    let fixture = Fixture::new();
    let root = fixture.dir.path().join("images");
    let lock = Arc::new(File::options().write(true).open(root.join("lock")).unwrap());
    let inode = format!(":{} ", lock.metadata().unwrap().ino());
    let image = noise();
    let taken = Arc::clone(&lock);
    let server = serve(&image, move |request, response| {
        // From here on nobody commits.
        if request.path.contains("/blobs/") && response.body.len() > 1_000_000 {
            taken.lock().unwrap();
        }
        response
    });
    let commits = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&inode))
    };
    let reference = format!("{}/x:1", server.address());
    let registries = Registries::default();
    fixture.runtime.block_on(async {
        let request = PullRequest::of(&reference);
        tokio::select! {
            result = fixture.store.pull(request, &registries, fixture.progress()) => panic!("{result:?}"),
            () = async {
                while !commits() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } => {}
        }
    });
    let layers = || {
        let made = std::fs::read_dir(root.join("tmp")).unwrap();
        made.map(|entry| entry.unwrap().path().join("0/fs/noise"))
            .filter(|file| file.exists())
            .count()
    };
    assert_eq!(layers(), 1, "the commit still needs its layer");
    lock.unlock().unwrap();
    let found = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(10));
        fixture.store.find(&reference).unwrap()
    });
    let found = found.take(3000).flatten().next().expect("the commit ends");
    assert!(found.layers[0].join("noise").exists());
}

/// As zstd, with a window of 8 MiB and nothing compressed.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let header = u32::try_from(bytes.len()).unwrap() << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0x68], &header.to_le_bytes()[..3], bytes].concat()
}

/// A zstd frame with the largest window that is accepted, and nothing of its content.
fn endless(number: usize) -> Layer {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x78];
    frame.resize(256 << 10, u8::try_from(number).unwrap());
    Layer::new(frame, "tar+zstd", &number.to_be_bytes())
}

#[test]
fn a_registry_that_drips_holds_up_no_other() {
    let tar = Tar::new().file("good", b"good");
    let bytes = tar.finish();
    let honest = Layer::new(zstd(&bytes), "tar+zstd", &bytes);
    let good = Made::new(vec![Layer::gzip(&Tar::new().file("base", b"")), honest.clone()]);
    // Each has more layers than are in transit of one image; one claims to have the honest layer, too.
    let images: Vec<Made> = (0..6)
        .map(|image| {
            let mut layers: Vec<Layer> = (0..4).map(|at| endless(image * 4 + at)).collect();
            if image == 0 {
                layers[0].diff_id.clone_from(&honest.diff_id);
            }
            Made::new(layers)
        })
        .collect();
    let dripping = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dripping);
    let hostile = Server::start(move |request| {
        let path = request.path.as_str();
        let image = images.iter().enumerate().find(|(at, image)| {
            path.contains(&format!("/x{at}/manifests/"))
                || image.blobs().iter().any(|(name, _)| path.ends_with(name))
        });
        let Some((_, image)) = image else { return Response::new(200, "{}") };
        if path.contains("/manifests/") {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            return Response::new(200, image.manifest()).header("content-type", kind);
        }
        let blobs = image.blobs();
        let blob = blobs.iter().find(|(name, _)| path.ends_with(name)).unwrap().1.clone();
        if blob.len() < 256 << 10 {
            return Response::new(200, blob);
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Response { cut: Some(6), drip: Some(Duration::from_millis(1)), ..Response::new(200, blob) }
    })
    .unwrap();
    let honest = serve(&good, |_, response| response);
    let fixture = Fixture::new();
    let pulls = Arc::new(Pulls::new(fixture.store.clone(), Registries::default(), limits(), None));
    let pulled = fixture.runtime.block_on(async {
        let mut tasks = Vec::new();
        for image in 0..6 {
            let request = PullRequest::of(format!("{}/x{image}:1", hostile.address()));
            let (pulls, progress) = (Arc::clone(&pulls), fixture.progress());
            tasks.push(tokio::spawn(async move { pulls.pull(request, progress).await.is_ok() }));
        }
        // All that layers of one registry may have.
        while dripping.load(Ordering::SeqCst) < 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let request = PullRequest::of(format!("{}/good:1", honest.address()));
        let pulled = pulls.pull(request, fixture.progress()).await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        pulled
    });
    let pulled = pulled.unwrap_or_else(|failure| panic!("{}", chain(&failure.error)));
    assert_eq!(pulled.image.id, good.id());
    assert_eq!(dripping.load(Ordering::SeqCst), 6);
}
