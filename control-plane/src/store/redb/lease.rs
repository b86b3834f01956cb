//! When leases end.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The leases of an open store, by their end.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Time to live, and the end: none if it is beyond the clock.
    by_id: HashMap<u64, (Duration, Option<Instant>)>,
    by_end: BTreeSet<(Instant, u64)>,
}

impl Leases {
    /// A lease that was granted, or read from the file.
    pub(super) fn insert(&mut self, id: u64, ttl: Duration, now: Instant) {
        self.remove(id);
        self.by_id.insert(id, (ttl, None));
        self.keep(id, now);
    }

    /// Begins a lease's time anew. Whether there is such a lease.
    pub(super) fn keep(&mut self, id: u64, now: Instant) -> bool {
        let Some((ttl, end)) = self.by_id.get_mut(&id) else {
            return false;
        };
        let until = now.checked_add(*ttl);
        if let Some(end) = end.take() {
            self.by_end.remove(&(end, id));
        }
        if let Some(until) = until {
            *end = Some(until);
            self.by_end.insert((until, id));
        }
        true
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some((_, Some(end))) = self.by_id.remove(&id) {
            self.by_end.remove(&(end, id));
        }
    }

    /// Takes a lease's end to a later time, because its keys could not be deleted now.
    pub(super) fn postpone(&mut self, id: u64, until: Instant) {
        if let Some((_, end)) = self.by_id.get_mut(&id) {
            if let Some(end) = end.replace(until) {
                self.by_end.remove(&(end, id));
            }
            self.by_end.insert((until, id));
        }
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// Those whose time is over.
    pub(super) fn ended(&self, now: Instant) -> Vec<u64> {
        self.by_end.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| *id).collect()
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.by_id.keys().copied().collect()
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.by_id.contains_key(&id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_after_it_was_kept_last() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.insert(1, SECOND * 10, start);
        leases.insert(2, SECOND * 5, start);
        assert_eq!(leases.next_end(), Some(start + SECOND * 5));
        assert_eq!(leases.ended(start + SECOND * 5), [2]);
        assert!(leases.keep(2, start + SECOND * 7));
        assert_eq!(leases.ended(start + SECOND * 11), [1]);
        assert_eq!(leases.ended(start + SECOND * 12), [1, 2]);
        leases.remove(1);
        assert_eq!(leases.next_end(), Some(start + SECOND * 12));
        assert!(!leases.keep(1, start));
    }

    #[test]
    fn a_postponed_lease_can_still_be_kept() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.insert(1, SECOND, start);
        leases.postpone(1, start + SECOND * 3);
        assert!(leases.ended(start + SECOND * 2).is_empty());
        assert!(leases.keep(1, start + SECOND * 5));
        assert_eq!(leases.next_end(), Some(start + SECOND * 6));
        assert_eq!(leases.by_end.len(), 1);
    }

    #[test]
    fn a_time_beyond_the_clock_never_ends() {
        let start = Instant::now();
        let mut leases = Leases::default();
        leases.insert(1, Duration::MAX, start);
        assert_eq!(leases.next_end(), None);
        assert!(leases.contains(1));
    }
}
