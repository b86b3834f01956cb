//! The image store against real registries and hand-made images.

mod bundle;
mod collect;
mod commands;
mod crash;
mod formats;
mod full;
mod hostile;
mod limits;
mod load;
mod mirror;
mod progress;
mod pull;
mod race;
mod registry;
mod save;
mod signature;
mod sigstore;
mod store;
mod trust;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use agent::api::types::PullEvent;
use agent::image::{Error, Image, Progress, PullRequest, Registries, Store};
use serde_json::json;
use tempfile::TempDir;
use tests::image::{Image as Made, Layer, Tar};

/// A store in a directory of its own.
struct Fixture {
    dir: TempDir,
    store: Store,
    runtime: tokio::runtime::Runtime,
    events: Arc<Mutex<Vec<PullEvent>>>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("images")).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self { dir, store, runtime: runtime.unwrap(), events: Arc::default() }
    }

    fn progress(&self) -> Progress {
        let events = Arc::clone(&self.events);
        Arc::new(move |event| events.lock().unwrap().push(event))
    }

    fn pull(&self, reference: &str) -> Result<Image, Error> {
        self.pull_with(reference, None, &Registries::default())
    }

    fn pull_with(
        &self,
        reference: &str,
        platform: Option<&str>,
        registries: &Registries,
    ) -> Result<Image, Error> {
        let platform = platform.map(str::to_owned);
        let request = PullRequest { platform, ..PullRequest::of(reference) };
        self.runtime.block_on(self.store.pull(request, registries, self.progress()))
    }

    fn load(&self, archive: &[u8]) -> Result<Vec<Image>, Error> {
        let path = self.dir.path().join("archive");
        std::fs::write(&path, archive).unwrap();
        let registries = Registries::default();
        let loaded = self.store.load(&path, &registries, self.progress());
        let loaded = self.runtime.block_on(loaded)?;
        Ok(loaded.into_iter().map(|loaded| loaded.image).collect())
    }

    /// Everything in the store but its lock and its fixed directories.
    fn content(&self) -> BTreeSet<PathBuf> {
        content(&self.dir.path().join("images"))
    }

    fn in_archive_file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("pushed");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn content(store: &Path) -> BTreeSet<PathBuf> {
    ["blobs/sha256", "images", "refs", "kept", "l", "tmp"]
        .iter()
        .flat_map(|name| std::fs::read_dir(store.join(name)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// The whole chain, colon-separated.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn no_one(_: &str) -> bool {
    false
}

/// Two layers; the upper one hides files of the lower one.
fn sample() -> Made {
    let lower = Tar::new()
        .directory("etc/")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:10:20::/srv:/bin/sh\n")
        .file("etc/group", b"app:x:20:\nextra:x:30:app\n")
        .file("etc/gone", b"gone")
        .directory("data")
        .file("data/old", b"old");
    let upper = Tar::new()
        .file("etc/.wh.gone", b"")
        .file("data/new", b"new")
        .file("data/.wh..wh..opq", b"");
    let mut image = Made::new(vec![Layer::gzip(&lower), Layer::plain(&upper)]);
    image.config = json!({
        "Entrypoint": ["/init"], "Cmd": ["serve"], "Env": ["A=b"], "User": "app",
        "WorkingDir": "/srv", "Volumes": {"/data": {}}, "StopSignal": "SIGINT",
        "Labels": {"k": "v"},
    });
    image
}
