//! Which host port a mapping gets; pure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// The lowest port of `range` that is free.
pub fn allocate(mut range: RangeInclusive<u16>, used: &BTreeSet<u16>) -> Option<u16> {
    range.find(|port| !used.contains(port))
}
