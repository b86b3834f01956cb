//! Who goes on and who waits, where pulls share something scarce: places for pulls and layers, memory
//! for zstd windows.
//!
//! In the order of asking, but a registry that sends so slowly that it is just not given up must not
//! hold up the pulls of others: beside the units that are open to all, some are kept for registries
//! that hold nothing. Who has some of these and gets more has them counted as open ones first, so
//! that one registry never has all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Units of something scarce.
#[derive(Debug)]
pub(crate) struct Places {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What nobody has.
    free: Units,
    /// The most that anybody gets.
    most: u64,
    /// Registries that hold something.
    holders: BTreeMap<Arc<str>, Units>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Units {
    open: u64,
    kept: u64,
}

/// Where units come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Open,
    Kept,
}

#[derive(Debug)]
struct Waiting {
    registry: Arc<str>,
    units: u64,
    sender: oneshot::Sender<Place>,
}

/// Units, given back with this value.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Places>,
    registry: Arc<str>,
    units: u64,
}

impl Place {
    pub(crate) fn units(&self) -> u64 {
        self.units
    }
}

/// Who of those that wait, in the order of asking, gets what of which pool.
///
/// The first is never passed over for open units, however many it wants. Kept ones go to the first
/// whose registry holds nothing and whom they suffice.
fn next<'a>(
    free: Units,
    held: impl Fn(&str) -> Units,
    waiting: impl IntoIterator<Item = (&'a str, u64)>,
) -> Option<(usize, Pool)> {
    waiting.into_iter().enumerate().find_map(|(at, (registry, units))| {
        let held = held(registry);
        if at == 0 && units <= free.open && held.kept == 0 {
            Some((at, Pool::Open))
        } else if units <= free.kept && held == Units::default() {
            Some((at, Pool::Kept))
        } else {
            None
        }
    })
}

impl Places {
    /// `open` units for all, and `kept` more for registries that hold none.
    pub(crate) fn new(open: u64, kept: u64) -> Self {
        let free = Units { open, kept };
        let (holders, waiting) = (BTreeMap::new(), VecDeque::new());
        Self { state: Mutex::new(State { free, most: open, holders, waiting }) }
    }

    /// Waits for units, at most all that are open. `None` never comes: places are not closed.
    pub(crate) async fn take(self: &Arc<Self>, registry: &str, units: u64) -> Option<Place> {
        self.ask(registry, units).await.ok()
    }

    /// As [`Places::take`], on a thread that may wait. Who asks holds no other part.
    pub(crate) fn take_blocking(self: &Arc<Self>, registry: &str, units: u64) -> Option<Place> {
        self.ask(registry, units).blocking_recv().ok()
    }

    fn ask(self: &Arc<Self>, registry: &str, units: u64) -> oneshot::Receiver<Place> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let units = units.clamp(1, state.most.max(1));
        state.waiting.push_back(Waiting { registry: registry.into(), units, sender });
        drop(state);
        self.serve();
        receiver
    }

    fn serve(self: &Arc<Self>) {
        let mut state = self.lock();
        // Who has given up waiting is not in the way of others.
        state.waiting.retain(|waiting| !waiting.sender.is_closed());
        let mut unwanted = Vec::new();
        while let Some(Waiting { registry, units, sender }) = state.admit() {
            let place = Place { of: Arc::clone(self), registry, units };
            if let Err(place) = sender.send(place) {
                unwanted.push(place);
            }
        }
        // Giving a place back locks.
        drop(state);
        drop(unwanted);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves a whole value, panic or not.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn admit(&mut self) -> Option<Waiting> {
        let first = self.waiting.front()?;
        if let Some(held) = self.holders.get_mut(&first.registry)
            && held.kept <= self.free.open
        {
            self.free.open -= held.kept;
            held.open += held.kept;
            self.free.kept += std::mem::take(&mut held.kept);
        }
        let waiting = self.waiting.iter().map(|waiting| (&*waiting.registry, waiting.units));
        let held = |name: &str| self.holders.get(name).copied().unwrap_or_default();
        let (at, pool) = next(self.free, held, waiting)?;
        let waiting = self.waiting.remove(at)?;
        let held = self.holders.entry(Arc::clone(&waiting.registry)).or_default();
        let (from, to) = match pool {
            Pool::Open => (&mut self.free.open, &mut held.open),
            Pool::Kept => (&mut self.free.kept, &mut held.kept),
        };
        *from -= waiting.units;
        *to += waiting.units;
        Some(waiting)
    }

    /// Kept ones first, whichever these were: what remains counts as open.
    fn give_back(&mut self, place: &Place) {
        let Some(held) = self.holders.get_mut(&place.registry) else { return };
        let kept = place.units.min(held.kept);
        held.kept -= kept;
        held.open -= place.units - kept;
        self.free.kept += kept;
        self.free.open += place.units - kept;
        if *held == Units::default() {
            self.holders.remove(&place.registry);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().give_back(self);
        self.of.serve();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_first_goes_first_and_kept_units_are_for_who_has_none() {
        let next = |open, kept, holders: &[(&str, u64, u64)], waiting: &[(&'static str, u64)]| {
            let held = |name: &str| {
                let found = holders.iter().find(|(holder, ..)| *holder == name);
                let units = |&(_, open, kept): &(&str, u64, u64)| Units { open, kept };
                found.map_or_else(Units::default, units)
            };
            next(Units { open, kept }, held, waiting.iter().copied())
        };
        let (open, kept) = (|at| Some((at, Pool::Open)), |at| Some((at, Pool::Kept)));
        let a = [("a", 1, 0)];
        assert_eq!(next(9, 9, &[], &[]), None);
        assert_eq!(next(1, 1, &a, &[("a", 1), ("b", 1)]), open(0));
        // All is taken but what is kept.
        assert_eq!(next(0, 1, &a, &[("a", 1)]), None);
        assert_eq!(next(0, 1, &a, &[("a", 1), ("a", 1), ("b", 1)]), kept(2));
        let both = [("a", 1, 0), ("b", 0, 1)];
        assert_eq!(next(0, 1, &both, &[("a", 1), ("b", 1)]), None);
        assert_eq!(next(0, 1, &both, &[("a", 1), ("b", 1), ("c", 1)]), kept(2));
        assert_eq!(next(0, 0, &a, &[("b", 1)]), None);
        // What it has of the kept units is to be counted as open first.
        assert_eq!(next(1, 0, &both, &[("b", 1), ("c", 1)]), None);
        // Who wants much waits, and is not passed over for what is open.
        assert_eq!(next(3, 0, &a, &[("b", 4), ("c", 1)]), None);
        assert_eq!(next(3, 1, &a, &[("b", 4), ("c", 2), ("d", 1)]), kept(2));
        assert_eq!(next(4, 0, &a, &[("b", 4), ("c", 1)]), open(0));
    }

    /// Every order in which three registries ask eight times, for one unit or, `b`, two.
    #[test]
    fn nobody_waits_for_ever_for_one_who_never_ends() {
        let registries = [("a", 1), ("b", 2), ("c", 1)];
        for asked in 0..3_usize.pow(8) {
            let places = Arc::new(Places::new(2, 2));
            let mut waiting = Vec::new();
            let mut rest = asked;
            for _ in 0..8 {
                let (name, units) = registries[rest % 3];
                waiting.push((name, places.ask(name, units)));
                rest /= 3;
            }
            // `a` keeps what it gets for good; the others give back at once.
            let mut stuck = Vec::new();
            loop {
                let before = waiting.len();
                waiting.retain_mut(|(name, receiver)| match receiver.try_recv() {
                    Ok(place) if *name == "a" => {
                        stuck.push(place);
                        false
                    }
                    Ok(_) => false,
                    Err(_) => true,
                });
                if waiting.len() == before {
                    break;
                }
            }
            assert!(waiting.iter().all(|(name, _)| *name == "a"), "{asked}: {waiting:?}");
            assert!(stuck.len() <= 2, "{asked}: {stuck:?}");
            drop(waiting);
            drop(stuck);
            let state = places.lock();
            assert_eq!(state.free, Units { open: 2, kept: 2 });
            assert!(state.holders.is_empty());
        }
    }

    #[test]
    fn units_are_never_given_twice_and_who_gives_up_is_passed_over() {
        let places = Arc::new(Places::new(4, 2));
        std::thread::scope(|scope| {
            for at in 0..64_u64 {
                let places = &places;
                scope.spawn(move || {
                    let registry = (at % 7).to_string();
                    let place = places.take_blocking(&registry, at % 5 + 1).unwrap();
                    assert!((1..=4).contains(&place.units()));
                    let free = places.lock().free;
                    assert!(free.open <= 4 && free.kept <= 2, "{free:?}");
                });
            }
        });
        let all = places.take_blocking("a", 9).unwrap();
        assert_eq!((all.units(), places.lock().free), (4, Units { open: 0, kept: 2 }));
        drop(places.ask("a", 4));
        let waiting = places.ask("a", 1);
        drop(all);
        assert_eq!(waiting.blocking_recv().unwrap().units(), 1);
        assert_eq!(places.lock().free, Units { open: 4, kept: 2 });
    }
}
