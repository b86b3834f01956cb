//! The collector: when images that nobody needs go.
//!
//! Two rhythms: Amazon's cycle (`ECS_IMAGE_CLEANUP_INTERVAL`), and a look at the disk each [`LOOK`],
//! before each pull, and after one that found the disk full. What goes is decided by
//! `image::plan`; what a known task has is not taken, running or stopped, until its record goes.
//!
//! Only the agent of a service collects (`lighter agent`). The one that `lighter run` brings along
//! removes no image by itself, as Docker does not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::view::Snapshot;
use crate::config::Cleanup;
use crate::error::chain;
use crate::image::{Round, Spare, Store};

/// Between looks at the disk.
const LOOK: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub struct Collector {
    images: Store,
    cleanup: Cleanup,
    /// Names whose images stay.
    spared: Arc<BTreeSet<String>>,
    tasks: watch::Receiver<Arc<Snapshot>>,
    /// One round at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Collector {
    /// `kept`: names whose images stay beside those that the cleanup excludes.
    pub fn new(
        images: Store,
        cleanup: Cleanup,
        kept: &BTreeSet<String>,
        tasks: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        let spared = Arc::new(cleanup.excluded.union(kept).cloned().collect());
        Self { images, cleanup, spared, tasks, turn: tokio::sync::Mutex::new(()) }
    }

    /// Collects for as long as it is polled.
    pub async fn run(&self) {
        let start = Instant::now();
        let mut cycle =
            tokio::time::interval_at(start + self.cleanup.interval, self.cleanup.interval);
        let mut look = tokio::time::interval_at(start, LOOK);
        cycle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = cycle.tick() => {
                    self.round(Round::Cycle).await;
                }
                _ = look.tick() => self.look().await,
            }
        }
    }

    /// Removes images if the disk is too full.
    pub async fn look(&self) {
        if let Some(marks) = self.cleanup.marks {
            self.round(Round::Look(marks)).await;
        }
    }

    /// Removes images so that what found the disk full can be tried again. Whether any went.
    pub async fn make_room(&self) -> bool {
        match self.cleanup.marks {
            Some(marks) => self.round(Round::Full(marks)).await > 0,
            None => false,
        }
    }

    async fn round(&self, round: Round) -> usize {
        let _turn = self.turn.lock().await;
        let (images, rules) = (self.images.clone(), self.cleanup.rules.clone());
        let (tasks, spared) = (self.tasks.clone(), Arc::clone(&self.spared));
        let worked = tokio::task::spawn_blocking(move || {
            let in_use = |id: &str| tasks.borrow().known_images.contains(id);
            images.reclaim(round, &rules, &Spare { in_use: &in_use, names: &spared })
        });
        match worked.await {
            Ok(Ok(gone)) => {
                for image in &gone {
                    tracing::info!(
                        names = image.untagged.join(", "),
                        id = image.deleted.first().map_or("", String::as_str),
                        cause = if round == Round::Cycle { "age" } else { "disk" },
                        "removed an image that nothing needs"
                    );
                }
                gone.len()
            }
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "cannot clean up images");
                0
            }
            Err(failed) => {
                tracing::error!(error = %failed, "the agent failed internally at cleaning up images");
                0
            }
        }
    }
}
