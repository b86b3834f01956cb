//! Waking up when files change: one inotify instance for the whole agent.
//!
//! One, because a user may hold 128 of them by default and a host runs more containers than that.
//! Where inotify is not to be had, every watch polls at [`POLL`] instead.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Interval at which watches look for changes when the kernel does not tell of them.
pub const POLL: Duration = Duration::from_millis(100);

/// Hands out watches; clones share the inotify instance.
#[derive(Debug, Clone)]
pub struct Watcher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inotify: Option<Arc<AsyncFd<OwnedFd>>>,
    watches: Arc<Mutex<Watches>>,
    task: Option<JoinHandle<()>>,
}

/// By watch descriptor. Two watches of one directory share the descriptor.
#[derive(Debug, Default)]
struct Watches(HashMap<i32, Vec<Arc<Notify>>>);

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Watcher {
    /// Must be called within a tokio runtime.
    pub fn start() -> Self {
        let watches = Arc::new(Mutex::new(Watches::default()));
        let inotify = match open() {
            Ok(inotify) => Some(Arc::new(inotify)),
            Err(error) => {
                tracing::warn!(%error, "cannot use inotify, container output is polled");
                None
            }
        };
        let task =
            inotify.clone().map(|inotify| tokio::spawn(dispatch(inotify, Arc::clone(&watches))));
        Self { shared: Arc::new(Shared { inotify, watches, task }) }
    }

    /// Watches the entries of a directory. It need not exist yet: until it does, the watch polls.
    pub fn watch(&self, directory: &Path) -> Watch {
        let mut watch = Watch {
            shared: Arc::clone(&self.shared),
            directory: directory.to_owned(),
            notify: Arc::new(Notify::new()),
            descriptor: None,
        };
        watch.register();
        watch
    }
}

fn open() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    crate::sys::register(inotify::init(flags)?)
}

/// Wakes its owner up after changes in a directory.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    directory: PathBuf,
    notify: Arc<Notify>,
    descriptor: Option<i32>,
}

impl Watch {
    /// Returns after a change since the last return, or sooner.
    pub async fn changed(&mut self) {
        if self.descriptor.is_some() {
            self.notify.notified().await;
            return;
        }
        tokio::time::sleep(POLL).await;
        self.register();
    }

    fn register(&mut self) {
        let Some(inotify) = &self.shared.inotify else { return };
        let flags = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ONLYDIR;
        // Locked first: an event must not arrive between the descriptor and its entry.
        let mut watches = lock(&self.shared.watches);
        if let Ok(descriptor) = inotify::add_watch(inotify.get_ref(), &self.directory, flags) {
            watches.0.entry(descriptor).or_default().push(Arc::clone(&self.notify));
            self.descriptor = Some(descriptor);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (Some(descriptor), Some(inotify)) = (self.descriptor, &self.shared.inotify) else {
            return;
        };
        let mut watches = lock(&self.shared.watches);
        let Some(others) = watches.0.get_mut(&descriptor) else { return };
        others.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
        if others.is_empty() {
            watches.0.remove(&descriptor);
            // Fails if the directory is gone, and with it the watch.
            let _ = inotify::remove_watch(inotify.get_ref(), descriptor);
        }
    }
}

/// A panic elsewhere cannot leave the table half changed.
fn lock(watches: &Mutex<Watches>) -> MutexGuard<'_, Watches> {
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dispatch(inotify: Arc<AsyncFd<OwnedFd>>, watches: Arc<Mutex<Watches>>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        let Ok(mut ready) = inotify.readable().await else { return };
        let mut reader = inotify::Reader::new(inotify.get_ref(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let watches = lock(&watches);
                    // After an overflow anything may have changed.
                    if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                        watches.0.values().flatten().for_each(|notify| notify.notify_one());
                    } else if let Some(notifies) = watches.0.get(&event.wd()) {
                        notifies.iter().for_each(|notify| notify.notify_one());
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_wakes_every_watch_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let watcher = Watcher::start();
        let mut one = watcher.watch(directory.path());
        let mut two = watcher.watch(directory.path());
        std::fs::write(directory.path().join("file"), b"x").unwrap();
        one.changed().await;
        two.changed().await;
        drop(one);
        std::fs::write(directory.path().join("other"), b"x").unwrap();
        two.changed().await;
    }

    #[tokio::test]
    async fn a_directory_that_comes_later_is_polled() {
        let directory = tempfile::tempdir().unwrap();
        let later = directory.path().join("later");
        let mut watch = Watcher::start().watch(&later);
        watch.changed().await;
        std::fs::create_dir(&later).unwrap();
        watch.changed().await;
        assert!(watch.descriptor.is_some());
    }
}
