//! Layers that the store has not: at most [`PARALLEL`] of an image in transit, and of all images
//! as many as `gate.rs` lets in, each hashed by the async task as it arrives and sent through a
//! bounded queue to a blocking worker that unpacks it; when the queue is full the task stops
//! reading and TCP slows the registry down. The first failure cancels the others, and all workers
//! have ended before the error is returned.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::Error;
use super::content::{LayerRecord, RECIPE, Staging, seal_layer};
use super::download::{Sink, check_digest};
use super::gate::Share;
use super::layer::{self, Channel, Chunk};
use super::manifest::{Descriptor, ImageConfig, Manifest};
use super::pull::Pull;
use super::unpack::{self, Limits, make_directory};
use crate::api::types::PullEvent;
use crate::error::chain;

const PARALLEL: usize = 3;
/// Bytes between a download and its worker. A chunk is what a read of the socket gave, at most
/// some 400 KiB.
const QUEUE: usize = 1 << 20;
/// Chunks, which may be small.
const CHUNKS: usize = 256;
const REPORT_EVERY: u64 = 1 << 20;
/// A slow transfer is told from none.
const REPORT_AT_LEAST: Duration = Duration::from_secs(1);
/// Between reports of a layer that waits for this host; less than any timeout of a pull.
const HELD_UP: Duration = Duration::from_secs(10);
/// Damaged content is read on to tell a wrong digest from a layer that was made wrong, up to here.
const READ_ON: u64 = 64 << 20;

/// A layer to fetch, and where it goes.
struct Fetch {
    descriptor: Descriptor,
    diff_id: String,
    dir: PathBuf,
}

impl Pull {
    pub(super) async fn layers(
        &self,
        manifest: &Manifest,
        config: &ImageConfig,
        staging: &Arc<Staging>,
    ) -> Result<Vec<(LayerRecord, Option<PathBuf>)>, Error> {
        let mut known = BTreeMap::new();
        let mut missing: BTreeMap<&str, Fetch> = BTreeMap::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            match self.store.layer(diff_id)? {
                Some(record) => {
                    self.report(descriptor, descriptor.size);
                    known.insert(diff_id.clone(), (record, None));
                }
                None => {
                    self.report(descriptor, 0);
                    let count = missing.len();
                    missing.entry(diff_id).or_insert_with(|| Fetch {
                        descriptor: descriptor.clone(),
                        diff_id: diff_id.clone(),
                        dir: staging.path().join(count.to_string()),
                    });
                }
            }
        }
        let cancel = CancellationToken::new();
        let results: Vec<_> = futures_util::stream::iter(missing.into_values())
            .map(|fetch| {
                let (cancel, staging) = (cancel.clone(), Arc::clone(staging));
                async move {
                    let result = self.fetch(&fetch, staging, &cancel).await;
                    if result.is_err() {
                        cancel.cancel();
                    }
                    (fetch, result)
                }
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut failure = None;
        for (fetch, result) in results {
            match result {
                Ok(record) => {
                    known.insert(fetch.diff_id, (record, Some(fetch.dir)));
                }
                Err(error) => {
                    let cancelled = matches!(&error, Error::Layer { source, .. }
                        if matches!(**source, unpack::Error::Cancelled));
                    if failure.is_none() || !cancelled {
                        failure = Some(error);
                    }
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let stack = config.stack();
        Ok(stack.iter().filter_map(|diff_id| known.remove(diff_id.as_str())).collect())
    }

    fn report(&self, descriptor: &Descriptor, done: u64) {
        (self.progress)(PullEvent::Layer {
            reference: self.text.clone(),
            layer: descriptor.digest.clone(),
            done,
            total: descriptor.size,
        });
    }

    /// Fetches a layer; if what came is wrong, from the next host.
    async fn fetch(
        &self,
        fetch: &Fetch,
        staging: Arc<Staging>,
        cancel: &CancellationToken,
    ) -> Result<LayerRecord, Error> {
        loop {
            let error = match self.fetch_once(fetch, Arc::clone(&staging), cancel).await {
                Err(Error::Layer { reference, layer, source })
                    if source.is_of_content()
                        && self.session.distrust(&fetch.descriptor.digest) =>
                {
                    Error::Layer { reference, layer, source }
                }
                result => return result,
            };
            tracing::warn!(error = chain(&error), "a host served a wrong layer; asking the next");
            let dir = fetch.dir.clone();
            tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("remove", dir)(error))
                }
                _ => Ok(()),
            })
            .await
            .map_err(Error::Worker)??;
        }
    }

    async fn fetch_once(
        &self,
        fetch: &Fetch,
        staging: Arc<Staging>,
        cancel: &CancellationToken,
    ) -> Result<LayerRecord, Error> {
        let _place = tokio::select! {
            place = self.store.gate().layer(self.registry_name()) => place,
            () = cancel.cancelled() => None,
        };
        let (sender, receiver) = mpsc::channel::<Chunk>(CHUNKS);
        let (dir, diff_id) = (fetch.dir.clone(), fetch.diff_id.clone());
        let (store, registry) = (self.store.clone(), self.registry_name().to_owned());
        let worker = tokio::task::spawn_blocking(move || {
            let result =
                unpack_into(Channel::new(receiver), &diff_id, &dir, store.gate().share(&registry));
            drop(staging);
            result
        });
        let descriptor = &fetch.descriptor;
        self.report(descriptor, 0);
        let mut hash = Sha256::new();
        let mut piped = Piped {
            pull: self,
            descriptor,
            worker: Some(sender),
            queue: Arc::new(Semaphore::new(QUEUE)),
            done: 0,
            reported: 0,
            reported_at: Instant::now(),
            after_end: 0,
        };
        let downloaded = self.session.download(descriptor, &mut hash, cancel, &mut piped).await;
        let after_end = piped.after_end;
        drop(piped);
        let nearly = descriptor.size.saturating_sub(1);
        let unpacked = held_up(worker, || self.report(descriptor, nearly)).await;
        let unpacked = unpacked.map_err(Error::Worker)?;
        let result = match (downloaded, unpacked) {
            (Err(error), _) => Err(error),
            (Ok(()), Ok(record)) => check_digest(&descriptor.digest, hash).map(|()| record),
            (Ok(()), Err(error)) if error.is_damage() && after_end <= READ_ON => {
                check_digest(&descriptor.digest, hash).and(Err(error))
            }
            (Ok(()), Err(error)) => Err(error),
        };
        match result {
            Ok(record) => {
                self.report(descriptor, descriptor.size);
                Ok(record)
            }
            Err(unpack::Error::Transfer(source)) => Err(match descriptor.urls.first() {
                Some(url) => Error::Foreign {
                    reference: self.text.clone(),
                    layer: descriptor.digest.clone(),
                    url: url.clone(),
                    source: Box::new(source),
                },
                None => self.registry(source),
            }),
            Err(source) => Err(Error::Layer {
                reference: self.text.clone(),
                layer: descriptor.digest.clone(),
                source: Box::new(source),
            }),
        }
    }
}

/// A layer, to the worker that unpacks it.
struct Piped<'a> {
    pull: &'a Pull,
    descriptor: &'a Descriptor,
    /// `None` once the worker wants no more.
    worker: Option<mpsc::Sender<Chunk>>,
    queue: Arc<Semaphore>,
    done: u64,
    reported: u64,
    reported_at: Instant,
    after_end: u64,
}

impl Sink for Piped<'_> {
    async fn take(&mut self, chunk: Bytes) -> bool {
        self.done += chunk.len() as u64;
        let due = self.reported_at.elapsed() >= REPORT_AT_LEAST;
        if due || self.done - self.reported >= REPORT_EVERY {
            self.reported = self.done;
            self.reported_at = Instant::now();
            // The last byte counts when it is unpacked.
            self.pull
                .report(self.descriptor, self.done.min(self.descriptor.size.saturating_sub(1)));
        }
        let Some(worker) = &self.worker else {
            self.after_end += chunk.len() as u64;
            return self.after_end <= READ_ON;
        };
        let share = u32::try_from(chunk.len().min(QUEUE)).unwrap_or(u32::MAX);
        let send = async {
            tokio::select! {
                // Chunks that a worker leaves behind give their shares back with its end.
                share = Arc::clone(&self.queue).acquire_many_owned(share) => match share {
                    Ok(share) => worker.send((chunk, share)).await.is_ok(),
                    Err(_) => false,
                },
                () = worker.closed() => false,
            }
        };
        let done = self.done.min(self.descriptor.size.saturating_sub(1));
        let sent = held_up(send, || self.pull.report(self.descriptor, done)).await;
        if !sent {
            self.worker = None;
        }
        true
    }
}

/// Waits for this host: its disk, or the memory that other layers have. Reports at times, for that is
/// no silence of the registry's.
async fn held_up<T>(work: impl Future<Output = T>, report: impl Fn()) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(HELD_UP) => report(),
        }
    }
}

/// Unpacks a layer into the new directory `dir` and makes it a layer of the store, but for its
/// place.
pub(super) fn unpack_into(
    blob: impl std::io::BufRead + Send,
    diff_id: &str,
    dir: &std::path::Path,
    gate: Share<'_>,
) -> Result<LayerRecord, unpack::Error> {
    let failed = |operation| move |source| unpack::Error::Io { operation, source };
    let fs = dir.join("fs");
    make_directory(dir, 0o755).map_err(failed("make the layer's directory"))?;
    make_directory(&fs, 0o755).map_err(failed("make the layer's directory"))?;
    let recipe =
        std::fs::File::create_new(dir.join(RECIPE)).map_err(failed("make the layer's recipe"))?;
    let unpacked = layer::unpack(blob, diff_id, &fs, recipe, Limits::DEFAULT, gate)?;
    let record = LayerRecord {
        diff_id: diff_id.to_owned(),
        size: unpacked.bytes,
        archive: Some(unpacked.archive),
    };
    seal_layer(dir, &record).map_err(|error| unpack::Error::Io {
        operation: "record the layer",
        source: std::io::Error::other(error),
    })?;
    Ok(record)
}
