//! Leases: what may not be removed because somebody is about to use it.
//!
//! A pull leases the layers that it found in the store, too. One whose last image goes meanwhile stays
//! until the pull has committed; if that fails, until the next commit, removal or start.
//!
//! A starting task resolves an image some time before the engine's state names it, and a pull commits
//! one before anybody can say that he wants it. For that time a [`Lease`] protects it from
//! collection and from `image rm` and `prune`. Leases are in memory: one process, the agent that has
//! the root's lock, removes images, and what it forgets by dying the next one resolves again.
//!
//! No gap: a lease is taken under the store's lock, in which the image is found
//! ([`Store::lease`]) or committed (a lease from [`Store::lease_new`] takes every image committed
//! while it is open), and removal looks for leases under the same lock. Who gives a lease up makes
//! the image visible as in use first; removal asks for leases before it asks what is in use.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::content::{Lock, Store};
use super::{Error, Image};

/// Protects images while it lives.
#[derive(Debug)]
pub struct Lease {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ids: BTreeSet<String>,
    /// Takes what is committed.
    open: bool,
    /// Layers that a pull relies on.
    layers: BTreeSet<String>,
}

impl Lease {
    /// Protects layers, too, those that are there: a pull need not fetch all again because the last
    /// image that had one of them went meanwhile.
    pub(super) fn want(&self, layers: BTreeSet<String>) {
        lock(&self.held).layers = layers;
    }

    /// Gives up everything but one image.
    pub fn narrow(&self, id: &str) {
        let mut held = lock(&self.held);
        held.open = false;
        held.layers.clear();
        held.ids.retain(|of| of == id);
    }
}

/// The leases of a store.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Vec<Weak<Lease>>>);

impl Leases {
    fn grant(&self, held: Held) -> Arc<Lease> {
        let lease = Arc::new(Lease { held: Mutex::new(held) });
        let mut leases = lock(&self.0);
        leases.retain(|lease| lease.strong_count() > 0);
        leases.push(Arc::downgrade(&lease));
        lease
    }

    /// Whether an image is leased.
    pub(super) fn hold(&self, id: &str) -> bool {
        self.living().iter().any(|lease| lock(&lease.held).ids.contains(id))
    }

    /// Layers that stay although no image may name them.
    pub(super) fn layers(&self) -> BTreeSet<String> {
        self.living().iter().flat_map(|lease| lock(&lease.held).layers.clone()).collect()
    }

    /// An image is being committed.
    pub(super) fn committed(&self, id: &str) {
        for lease in self.living() {
            let mut held = lock(&lease.held);
            if held.open {
                held.ids.insert(id.to_owned());
            }
        }
    }

    fn living(&self) -> Vec<Arc<Lease>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves a whole value, panic or not.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// [`Store::find`], with a lease on what is found.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn lease(&self, reference: &str) -> Result<Option<(Image, Arc<Lease>)>, Error> {
        let lock = self.lock()?;
        let found = self.find_locked(&lock, reference)?;
        Ok(found.map(|image| {
            let held = Held { ids: BTreeSet::from([image.id.clone()]), ..Held::default() };
            (image, self.leases().grant(held))
        }))
    }

    /// A lease on an image of the store.
    pub(super) fn lease_id(&self, _lock: &Lock, id: &str) -> Arc<Lease> {
        self.leases().grant(Held { ids: BTreeSet::from([id.to_owned()]), ..Held::default() })
    }

    /// [`Store::find`] for a pull that finds what it was to fetch: open leases take it, as if it were
    /// committed now.
    pub(super) fn find_new(&self, reference: &str) -> Result<Option<Image>, Error> {
        let lock = self.lock()?;
        let found = self.find_locked(&lock, reference)?;
        if let Some(image) = &found {
            self.leases().committed(&image.id);
        }
        Ok(found)
    }

    /// A lease on every image that is committed from now on, until it is narrowed.
    pub fn lease_new(&self) -> Arc<Lease> {
        self.leases().grant(Held { open: true, ..Held::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_with_its_value() {
        let leases = Leases::default();
        let one = leases.grant(Held { ids: BTreeSet::from(["a".to_owned()]), ..Held::default() });
        let other = leases.grant(Held { ids: BTreeSet::from(["a".to_owned()]), ..Held::default() });
        assert!(leases.hold("a") && !leases.hold("b"));
        drop(one);
        assert!(leases.hold("a"));
        drop(other);
        assert!(!leases.hold("a"));
    }

    #[test]
    fn an_open_lease_takes_what_is_committed_until_it_is_narrowed() {
        let leases = Leases::default();
        leases.committed("before");
        let open = leases.grant(Held { open: true, ..Held::default() });
        leases.committed("a");
        leases.committed("b");
        assert!(leases.hold("a") && leases.hold("b") && !leases.hold("before"));
        open.want(BTreeSet::from(["layer".to_owned()]));
        assert!(leases.layers().contains("layer"));
        open.narrow("b");
        assert!(leases.layers().is_empty());
        leases.committed("c");
        assert!(!leases.hold("a") && leases.hold("b") && !leases.hold("c"));
    }
}
