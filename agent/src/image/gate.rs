//! How much of a host's memory layers may take while they are unpacked, however many images are
//! pulled at once.
//!
//! A layer in work costs its queue of transferred chunks, the blocks of its pipeline and the
//! buffers of its connection, some 2 MiB; [`LAYERS`] are in work at a time, the others have not
//! begun their transfer. What zstd needs beyond that is known only when a frame begins, and comes
//! out of a budget that all layers share; who does not get it waits for others to end.
//!
//! Also when their files go to the disk: a commit waits until all is there, and would wait as long
//! again as unpacking took, if nothing were on its way by then.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Layers in work at a time.
const LAYERS: usize = 6;
/// The largest window of a zstd frame, and of all that are decompressed at a time. Encoders of
/// images stay at 8 MiB (`zstd -19`, buildkit, skopeo), older ones went to 32 at their slowest level.
pub(super) const MAX_WINDOW: u64 = 32 << 20;

/// Bytes of files after which what is written so far is sent to the disk.
const WRITEBACK: u64 = 32 << 20;

/// Shared by all pulls of a store.
#[derive(Debug)]
pub(super) struct Gate {
    layers: Arc<Semaphore>,
    windows: Arc<Windows>,
    writeback: Arc<Writeback>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            layers: Arc::new(Semaphore::new(LAYERS)),
            windows: Arc::default(),
            writeback: Arc::default(),
        }
    }
}

impl Gate {
    /// Waits until one more layer may begin, in the order of asking.
    pub(super) async fn layer(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.layers).acquire_owned().await.ok()
    }

    pub(super) fn windows(&self) -> &Arc<Windows> {
        &self.windows
    }

    pub(super) fn writeback(&self) -> &Arc<Writeback> {
        &self.writeback
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

/// The budget of zstd windows.
#[derive(Debug, Default)]
pub(super) struct Windows {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Tickets given and served: in the order of asking, so that nobody is passed over for good.
    given: u64,
    served: u64,
}

/// A part of the budget, given back with this value.
#[derive(Debug)]
pub(super) struct Window {
    of: Arc<Windows>,
    bytes: u64,
}

impl Window {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Windows {
    /// Blocks until `bytes`, at most [`MAX_WINDOW`], are free. Who asks holds no other part.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Window {
        let bytes = bytes.min(MAX_WINDOW);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = state.given;
        state.given += 1;
        while state.served != ticket || state.used + bytes > MAX_WINDOW {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.used += bytes;
        state.served += 1;
        drop(state);
        self.changed.notify_all();
        Window { of: Arc::clone(self), bytes }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut state = self.of.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used = state.used.saturating_sub(self.bytes);
        drop(state);
        self.of.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_served_in_order_and_never_exceed_the_budget() {
        let windows = Arc::new(Windows::default());
        let sizes: Vec<u64> = (0..64).map(|at| (at % 5 + 1) * (8 << 20)).collect();
        std::thread::scope(|scope| {
            for size in sizes {
                let windows = &windows;
                scope.spawn(move || {
                    let held = windows.take(size);
                    assert!(held.bytes() <= MAX_WINDOW);
                    let used = windows.state.lock().map(|state| state.used);
                    assert!(used.is_ok_and(|used| (held.bytes()..=MAX_WINDOW).contains(&used)));
                });
            }
        });
        assert!(windows.state.lock().is_ok_and(|state| state.used == 0 && state.served == 64));
    }
}
