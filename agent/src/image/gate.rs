//! How much of a host's memory layers may take while they are unpacked, however many images are
//! pulled at once.
//!
//! A layer in work costs its queue of transferred chunks, the blocks of its pipeline and the
//! buffers of its connection, some 2 MiB; [`LAYERS`] are in work at a time, the others have not
//! begun their transfer. What zstd needs beyond that is known only when a frame begins, and comes
//! out of a budget that all layers share; who does not get it waits for others to end. Of both, some
//! is kept for registries that have none, as `places.rs` says.
//!
//! Also when their files go to the disk: a commit waits until all is there, and would wait as long
//! again as unpacking took, if nothing were on its way by then.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::places::{Place, Places};

/// Layers in work at a time, and how many more if each is the only one of its registry.
const LAYERS: (u64, u64) = (6, 2);
/// The largest window of a zstd frame, and of all that are decompressed at a time. Encoders of
/// images stay at 8 MiB (`zstd -19`, buildkit, skopeo), older ones went to 32 at their slowest level.
pub(super) const MAX_WINDOW: u64 = 32 << 20;
/// Taken for each layer, that frames of different small windows need no second one.
pub(super) const USUAL_WINDOW: u64 = 8 << 20;

/// Bytes of files after which what is written so far is sent to the disk.
const WRITEBACK: u64 = 32 << 20;

/// Shared by all pulls of a store.
#[derive(Debug)]
pub(super) struct Gate {
    layers: Arc<Places>,
    windows: Arc<Places>,
    writeback: Arc<Writeback>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            layers: Arc::new(Places::new(LAYERS.0, LAYERS.1)),
            windows: Arc::new(Places::new(MAX_WINDOW, USUAL_WINDOW)),
            writeback: Arc::default(),
        }
    }
}

impl Gate {
    /// Waits until one more layer of this registry may begin.
    pub(super) async fn layer(&self, registry: &str) -> Option<Place> {
        self.layers.take(registry, 1).await
    }

    /// For a layer of this registry.
    pub(super) fn share<'a>(&'a self, registry: &'a str) -> Share<'a> {
        Share { gate: self, registry }
    }
}

/// What a layer in work has of the gate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a> {
    gate: &'a Gate,
    registry: &'a str,
}

impl Share<'_> {
    pub(super) fn windows(self) -> Windows {
        let registry = self.registry.to_owned();
        Windows { places: Arc::clone(&self.gate.windows), registry }
    }

    pub(super) fn writeback(&self) -> &Arc<Writeback> {
        &self.gate.writeback
    }
}

/// The budget of zstd windows, for layers of one registry.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    places: Arc<Places>,
    registry: String,
}

impl Default for Windows {
    /// A budget of its own.
    fn default() -> Self {
        Gate::default().share("").windows()
    }
}

impl Windows {
    /// Blocks until `bytes`, at most [`MAX_WINDOW`], are free. Who asks holds no other part.
    pub(super) fn take(&self, bytes: u64) -> Option<Place> {
        self.places.take_blocking(&self.registry, bytes)
    }
}

/// Sends what layers have written to the disk while more is unpacked; one thread at a time.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    written: AtomicU64,
    running: AtomicBool,
}

impl Writeback {
    /// So many bytes more were written, on the file system of `directory`.
    pub(super) fn wrote(self: &Arc<Self>, bytes: u64, directory: &OwnedFd) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if written < WRITEBACK || self.running.swap(true, Ordering::AcqRel) {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let this = Arc::clone(self);
        let started = directory.try_clone().and_then(|directory| {
            std::thread::Builder::new().name("layer-sync".to_owned()).spawn(move || {
                // Only a head start: the commit's own call tells what went wrong.
                let _ = rustix::fs::syncfs(&directory);
                this.running.store(false, Ordering::Release);
            })
        });
        if started.is_err() {
            self.running.store(false, Ordering::Release);
        }
    }
}
