//! Which images collection takes: one pure function, [`plan`].
//!
//! Two causes. *The cycle* is Amazon's: images that a task of this agent has used go when they are
//! old enough, least recently used first, so many at a time; where it is asked for, images that no
//! task has used go behind them, the smallest first, in what is left of the number. *Pressure* is
//! ours: as long as the filesystem is too full, images go until enough is free. First those that the
//! cycle would come to take, then those of no task, young ones last; each time the least recently
//! used first, and none whose layers all stay because others have them, too.
//!
//! Neither takes an image that is held: of a task that is known, leased, kept or excluded. Pressure
//! takes an image that was loaded from an archive, which no registry can bring back, only if a task
//! has used it or images of no task are to be cleaned up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

/// An image as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub id: String,
    /// Layers, each once, with the bytes of their files.
    pub layers: BTreeMap<String, u64>,
    pub pulled_at: Timestamp,
    pub last_used_at: Timestamp,
    /// A task of this agent has used it.
    pub tracked: bool,
    /// It came from a registry.
    pub fetched: bool,
    /// It must stay.
    pub held: bool,
}

impl Candidate {
    fn size(&self) -> u64 {
        self.layers.values().sum()
    }
}

/// How the cycle and pressure tell images apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `ECS_IMAGE_MINIMUM_CLEANUP_AGE`: since the image was pulled.
    pub minimum_age: Duration,
    /// `NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE`: since an image of no task was pulled, loaded or used.
    pub untracked_minimum_age: Duration,
    /// `ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP`
    pub untracked: bool,
    /// `ECS_NUM_IMAGES_DELETE_PER_CYCLE`
    pub per_cycle: usize,
}

/// Why images are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is time.
    Cycle,
    /// The filesystem is too full.
    Pressure(Excess),
}

/// What is to be given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Excess {
    pub bytes: u64,
    /// Inodes, too; how many a layer has is not known before it is gone.
    pub inodes: bool,
}

impl Excess {
    /// Whether there is enough.
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// How full a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    /// What root may still write; less than what is free where the filesystem reserves some.
    pub available: u64,
    pub inodes_used: u64,
    pub inodes_available: u64,
}

/// `85%`, `40GB`: how much of a filesystem is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Of the bytes, and of the inodes.
    Percent(u8),
    Bytes(u64),
}

impl Mark {
    /// Reads `85%` or a number of bytes: `40GB` and `40GiB` by the names of the units, `40g` as
    /// Docker's options mean it (of 1024). A number alone is bytes, too, unless it may be meant as a
    /// percentage: with 85 bytes every image would go.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            return percent.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = unit.trim_start().to_ascii_lowercase();
        let (base, exponent) = match unit.as_str() {
            "" if number <= 100 => return None,
            "" | "b" => (1, 0),
            "k" | "kib" => (1024, 1),
            "m" | "mib" => (1024, 2),
            "g" | "gib" => (1024, 3),
            "t" | "tib" => (1024, 4),
            "kb" => (1000, 1),
            "mb" => (1000, 2),
            "gb" => (1000, 3),
            "tb" => (1000, 4),
            _ => return None,
        };
        number.checked_mul(u64::pow(base, exponent)).map(Self::Bytes)
    }

    /// Used bytes beyond the mark, and whether there are inodes beyond it.
    pub(super) fn beyond(self, usage: &Usage) -> Excess {
        match self {
            Self::Bytes(mark) => Excess { bytes: usage.used.saturating_sub(mark), inodes: false },
            Self::Percent(percent) => {
                let part = |total: u64| {
                    let part = u128::from(total) * u128::from(percent) / 100;
                    u64::try_from(part).unwrap_or(u64::MAX)
                };
                let total = usage.used.saturating_add(usage.available);
                let inodes = usage.inodes_used.saturating_add(usage.inodes_available);
                Excess {
                    bytes: usage.used.saturating_sub(part(total)),
                    inodes: usage.inodes_used > part(inodes),
                }
            }
        }
    }
}

/// `LIGHTER_IMAGE_DISK_HIGH` and `LIGHTER_IMAGE_DISK_LOW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    pub high: Mark,
    pub low: Mark,
}

impl Marks {
    /// What is to be given back if use is above the high mark.
    pub(super) fn excess(&self, usage: &Usage) -> Excess {
        if self.high.beyond(usage).is_none() { Excess::default() } else { self.rest(usage) }
    }

    /// What is to be given back down to the low mark, or to the high one where that is lower: of an
    /// amount and a percentage only the disk tells.
    pub(super) fn rest(&self, usage: &Usage) -> Excess {
        let (high, low) = (self.high.beyond(usage), self.low.beyond(usage));
        Excess { bytes: high.bytes.max(low.bytes), inodes: high.inodes || low.inodes }
    }

    /// Where use is to come down to so that a pull that found the filesystem full can be tried
    /// again: all above the low mark goes, and of what it ran out of (the one of which less is left,
    /// by share) at least as much as was free for it.
    pub(super) fn room(&self, usage: &Usage) -> Target {
        let Excess { bytes, .. } = self.rest(usage);
        let total = |used: u64, available: u64| u128::from(used) + u128::from(available);
        let left = |available: u64, of: u128| u128::from(available).saturating_mul(of);
        let inodes = total(usage.inodes_used, usage.inodes_available);
        let all = total(usage.used, usage.available);
        if left(usage.inodes_available, all) < left(usage.available, inodes) {
            let wanted = usage.inodes_available.max(1);
            return Target {
                used: usage.used.saturating_sub(bytes),
                inodes_used: usage.inodes_used.saturating_sub(wanted),
            };
        }
        let wanted = bytes.max(usage.available).max(1);
        Target { used: usage.used.saturating_sub(wanted), inodes_used: u64::MAX }
    }
}

/// What use is to come down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub used: u64,
    pub inodes_used: u64,
}

impl Target {
    pub(super) fn missing(&self, usage: &Usage) -> Excess {
        Excess {
            bytes: usage.used.saturating_sub(self.used),
            inodes: usage.inodes_used > self.inodes_used,
        }
    }
}

/// The images to remove, in this order.
pub(super) fn plan(
    images: &[Candidate],
    cause: Cause,
    rules: &Rules,
    now: Timestamp,
) -> Vec<String> {
    let chosen = match cause {
        Cause::Cycle => cycle(images, rules, now),
        Cause::Pressure(excess) => pressure(images, excess, rules, now),
    };
    chosen.into_iter().map(|image| image.id.clone()).collect()
}

fn older(at: Timestamp, age: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(at)).is_ok_and(|since| since >= age)
}

fn is_old(image: &Candidate, rules: &Rules, now: Timestamp) -> bool {
    if image.tracked {
        older(image.pulled_at, rules.minimum_age, now)
    } else {
        older(image.pulled_at.max(image.last_used_at), rules.untracked_minimum_age, now)
    }
}

fn cycle<'a>(images: &'a [Candidate], rules: &Rules, now: Timestamp) -> Vec<&'a Candidate> {
    let free = |tracked: bool| {
        images.iter().filter(move |image| {
            image.tracked == tracked && !image.held && is_old(image, rules, now)
        })
    };
    let mut chosen: Vec<&Candidate> = free(true).collect();
    chosen.sort_by_key(|image| (image.last_used_at, &image.id));
    if rules.untracked {
        let mut others: Vec<&Candidate> = free(false).collect();
        others.sort_by_key(|image| (image.size(), &image.id));
        chosen.extend(others);
    }
    chosen.truncate(rules.per_cycle);
    chosen
}

fn pressure<'a>(
    images: &'a [Candidate],
    excess: Excess,
    rules: &Rules,
    now: Timestamp,
) -> Vec<&'a Candidate> {
    if excess.is_none() {
        return Vec::new();
    }
    let mut free: Vec<&Candidate> = images
        .iter()
        .filter(|image| !image.held && (image.tracked || image.fetched || rules.untracked))
        .collect();
    free.sort_by_key(|image| {
        let rank = match (is_old(image, rules, now), image.tracked) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        (rank, image.last_used_at, &image.id)
    });
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for layer in images.iter().flat_map(|image| image.layers.keys()) {
        *owners.entry(layer).or_default() += 1;
    }
    let mut chosen = Vec::new();
    let mut freed = 0_u64;
    for image in free {
        if freed >= excess.bytes && !excess.inodes {
            break;
        }
        chosen.push(image);
        for (layer, size) in &image.layers {
            let Some(count) = owners.get_mut(layer.as_str()) else { continue };
            *count -= 1;
            if *count == 0 {
                freed = freed.saturating_add(*size);
            }
        }
    }
    without_the_vain(chosen, &owners)
}

/// Leaves out images none of whose layers goes.
fn without_the_vain<'a>(
    chosen: Vec<&'a Candidate>,
    owners: &BTreeMap<&str, usize>,
) -> Vec<&'a Candidate> {
    let going: BTreeSet<&str> =
        owners.iter().filter(|(_, count)| **count == 0).map(|(layer, _)| *layer).collect();
    chosen
        .into_iter()
        .filter(|image| image.layers.keys().any(|layer| going.contains(layer.as_str())))
        .collect()
}

#[cfg(test)]
mod tests;
