//! Collection: carries out what [`plan`] decides.
//!
//! Each image is removed by itself, as `image rm` would remove it: asked again under the store's lock
//! whether it may go, its record first, then its names, then its layers. Killed in between, the
//! agent leaves names or layers of no image, which the next start sweeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::Error;
use super::content::Store;
use super::plan::{Candidate, Cause, Excess, Marks, Rules, Usage, plan};
use super::reference::Reference;
use super::usage::spelled_out_all;
use crate::api::types::RemovedImage;
use crate::error::chain;
use crate::failpoint;

/// Between looks at a filesystem that may still give space back, and how many there are at most.
const SETTLING: (Duration, u32) = (Duration::from_millis(250), 40);

/// What stays beside what is leased or marked as kept.
pub struct Spare<'a> {
    /// Whether a task needs the image with this id.
    pub in_use: &'a (dyn Fn(&str) -> bool + Sync),
    /// Names, of `ECS_EXCLUDE_UNTRACKED_IMAGE` and `LIGHTER_IMAGE_PREPULL`.
    pub names: &'a BTreeSet<String>,
}

impl fmt::Debug for Spare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spare").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Why images are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Amazon's cycle is due.
    Cycle,
    /// Is use above the high mark?
    Look(Marks),
    /// A pull found the filesystem full.
    Full(Marks),
}

/// An image as it was when it was looked at, and its names.
type Known = (Candidate, Vec<Reference>);

impl Store {
    /// How full the store's filesystem is.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn disk_usage(&self) -> Result<Usage, Error> {
        let path = self.at("");
        let stat = rustix::fs::statvfs(&path).map_err(|errno| {
            Error::io("ask for the use of the filesystem of", path)(errno.into())
        })?;
        Ok(Usage {
            used: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
            inodes_available: stat.f_favail,
        })
    }

    /// Removes images until there is nothing more to remove for this reason; those that are gone.
    /// Blocks. An image that cannot be removed is logged and left.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn reclaim(
        &self,
        round: Round,
        rules: &Rules,
        spare: &Spare<'_>,
    ) -> Result<Vec<RemovedImage>, Error> {
        let start = self.disk_usage()?;
        let target = match round {
            Round::Cycle => None,
            Round::Look(marks) if marks.excess(&start).is_none() => return Ok(Vec::new()),
            Round::Look(_) => None,
            Round::Full(marks) => Some(marks.room(&start)),
        };
        let missing = |usage: &Usage| match (round, target) {
            (_, Some(target)) => target.missing(usage),
            (Round::Look(marks), None) => marks.rest(usage),
            (Round::Cycle | Round::Full(_), None) => Excess::default(),
        };
        let names = spelled_out_all(spare.names);
        let (mut gone, mut stay) = (Vec::new(), BTreeSet::new());
        loop {
            let mut known = self.known(spare, &names)?;
            for (candidate, _) in known.values_mut() {
                candidate.held |= stay.contains(&candidate.id);
            }
            let cause = match round {
                Round::Cycle => Cause::Cycle,
                Round::Look(_) | Round::Full(_) => {
                    let usage = if gone.is_empty() { start } else { self.settled_usage()? };
                    Cause::Pressure(missing(&usage))
                }
            };
            let candidates: Vec<Candidate> =
                known.values().map(|(candidate, _)| candidate.clone()).collect();
            let chosen = plan(&candidates, cause, rules, Timestamp::now());
            if chosen.is_empty() {
                return Ok(gone);
            }
            for id in chosen {
                let of = known.get(&id).map(|(_, names)| names.as_slice()).unwrap_or_default();
                match self.reclaim_one(&id, of, spare) {
                    Ok(removed) => gone.push(removed),
                    Err(error) => {
                        tracing::warn!(
                            image = id,
                            error = chain(&error),
                            "an image is not collected"
                        );
                        stay.insert(id);
                    }
                }
                failpoint::hit("collect.image");
                // What was foretold is the sum of files; what the filesystem says counts.
                if round != Round::Cycle && missing(&self.disk_usage()?).is_none() {
                    return Ok(gone);
                }
            }
            if round == Round::Cycle {
                return Ok(gone);
            }
        }
    }

    /// [`Store::disk_usage`] once it falls no more: XFS gives back what is unlinked a moment later and
    /// answers at once, and what does not show yet is not to cost another image.
    fn settled_usage(&self) -> Result<Usage, Error> {
        let mut usage = self.disk_usage()?;
        for _ in 0..SETTLING.1 {
            std::thread::sleep(SETTLING.0);
            let now = self.disk_usage()?;
            if now.used >= usage.used && now.inodes_used >= usage.inodes_used {
                return Ok(now);
            }
            usage = now;
        }
        Ok(usage)
    }

    fn reclaim_one(
        &self,
        id: &str,
        names: &[Reference],
        spare: &Spare<'_>,
    ) -> Result<RemovedImage, Error> {
        let in_use = |id: &str| (spare.in_use)(id) || names.iter().any(|name| self.is_kept(name));
        self.remove(id, true, &in_use)
    }

    fn known(
        &self,
        spare: &Spare<'_>,
        excluded: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, Known>, Error> {
        let lock = self.lock()?;
        let images = self.images(&lock)?;
        // What a damaged image needs nobody knows, so nothing that goes would give anything back.
        if images.len() < self.image_ids(&lock)?.len() {
            tracing::warn!("nothing is collected: a record of an image is damaged, see `image ls`");
            return Ok(BTreeMap::new());
        }
        let mut names: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
        for (_, reference, id) in self.names(&lock)? {
            names.entry(id).or_default().push(reference);
        }
        let mut known = BTreeMap::new();
        for record in images {
            let names = names.remove(&record.id).unwrap_or_default();
            let used = self.use_of(&lock, &record.id)?;
            let stays =
                |name: &Reference| excluded.contains(&name.to_string()) || self.is_kept(name);
            let candidate = Candidate {
                layers: record
                    .layers
                    .into_iter()
                    .map(|layer| (layer.diff_id, layer.size))
                    .collect(),
                pulled_at: used.pulled_at,
                last_used_at: used.last_used_at,
                tracked: used.tracked,
                fetched: used.fetched || names.iter().any(|name| name.digest().is_some()),
                held: self.leases().hold(&record.id)
                    || (spare.in_use)(&record.id)
                    || names.iter().any(stays),
                id: record.id.clone(),
            };
            known.insert(record.id, (candidate, names));
        }
        Ok(known)
    }
}
