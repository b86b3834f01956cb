//! Every pull of this host: at most so many at once (and one more of a registry that none of them is
//! of, because a slow one is not to hold up the others), one at a time of one name (who comes second
//! finds what the first one fetched), within Amazon's timeouts, and with room made for it.
//!
//! What has been pulled is leased until its user lets go, and its record says that this agent pulled
//! it, which is what `ECS_IMAGE_PULL_BEHAVIOR=once` asks.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::collect::Collector;
use crate::api::types::{PullEvent, PullPolicy};
use crate::backend::backoff::{self, Schedule};
use crate::config::{Limits, shown};
use crate::error::chain;
use crate::image::places::Places;
use crate::image::{self, Image, Lease, Progress, PullRequest, Registries, Store};

/// Between attempts to pull what is to be there from the start.
const PREPULL: Schedule = Schedule {
    first: Duration::from_secs(5),
    last: Duration::from_secs(300),
    factor: 2.0,
    jitter: 0.2,
};

/// Why there is no image; the text in the words of Amazon's agent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error("inactivity time exceeded timeout while pulling image")]
    Inactive,
    #[error("Could not transition to {to}; timed out after waiting {}", shown(*.after))]
    Timeout { to: &'static str, after: Duration },
    #[error("the agent failed internally: {0}")]
    Internal(String),
}

/// A pull that failed.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// The registry had said what the image is.
    pub resolved: bool,
}

/// An image, protected while this value lives.
#[derive(Debug)]
pub struct Leased {
    pub image: Image,
    /// What its registry calls it, if it came from there: digest of its manifest or index.
    pub digest: Option<String>,
    pub lease: Arc<Lease>,
}

/// What is here of an image.
#[derive(Debug, Default)]
pub struct AtHand {
    /// The image, if it may be used as it is.
    pub image: Option<Leased>,
    /// Whether it will do without asking its registry.
    pub enough: bool,
    /// Why the image that is here may not be used before its registry has been asked: the signature
    /// policy.
    pub doubt: Option<image::Error>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Pulls {
    images: Store,
    registries: Registries,
    limits: Limits,
    places: Arc<Places>,
    /// Entries are dropped when nobody waits.
    names: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// `None`: no image is ever removed to make room.
    collector: Option<Arc<Collector>>,
}

impl Pulls {
    pub fn new(
        images: Store,
        registries: Registries,
        limits: Limits,
        collector: Option<Arc<Collector>>,
    ) -> Self {
        let places = Arc::new(Places::new(limits.parallel.max(1) as u64, 1));
        Self { images, registries, limits, places, names: Mutex::default(), collector }
    }

    /// Credentials of registries.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    /// The image that is here, and whether it will do without asking its registry.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn at_hand(&self, policy: PullPolicy, reference: &str) -> Result<AtHand, Error> {
        let (images, reference) = (self.images.clone(), reference.to_owned());
        let signatures = self.registries.policy.clone();
        let found = tokio::task::spawn_blocking(move || {
            let Some((image, lease)) = images.lease(&reference)? else {
                return Ok(AtHand::default());
            };
            if let Some(signatures) = signatures {
                match images.permits(&signatures, &image, &reference) {
                    Ok(()) => {}
                    Err(error) if error.is_untrusted() => {
                        return Ok(AtHand { doubt: Some(error), ..AtHand::default() });
                    }
                    Err(error) => return Err(error),
                }
            }
            // A digest names one image for ever.
            let certain = reference.contains('@');
            let enough = match policy {
                PullPolicy::Always => false,
                PullPolicy::Missing | PullPolicy::Never => true,
                PullPolicy::Refresh => certain,
                PullPolicy::Once => certain || images.was_pulled(&image.id, &reference)?,
            };
            let digest = reported_digest(&image, &reference);
            let image = Some(Leased { image, digest, lease });
            Ok::<_, image::Error>(AtHand { image, enough, doubt: None })
        });
        Ok(found.await.map_err(|failed| Error::Internal(failed.to_string()))??)
    }

    /// Fetches an image. If the disk is full, room is made and the pull tried once more.
    ///
    /// # Errors
    /// Why not, in ECS's words.
    pub async fn pull(&self, request: PullRequest, progress: Progress) -> Result<Leased, Failure> {
        let name = self.name_lock(&request.reference);
        let _first = name.lock().await;
        let registry = image::Reference::parse(&request.reference);
        let registry = registry.as_ref().map_or("", image::Reference::domain);
        let _place = self.places.take(registry, 1).await;
        if let Some(collector) = &self.collector {
            collector.look().await;
        }
        match self.attempt(request.clone(), &progress).await {
            Err(failure) if matches!(failure.error, Error::Image(image::Error::Full { .. })) => {
                let Some(collector) = &self.collector else { return Err(failure) };
                if !collector.make_room().await {
                    return Err(failure);
                }
                tracing::info!(
                    image = request.reference,
                    "the disk was full; a pull is tried again with room made for it"
                );
                self.attempt(request, &progress).await
            }
            result => result,
        }
    }

    async fn attempt(&self, request: PullRequest, progress: &Progress) -> Result<Leased, Failure> {
        let reference = request.reference.clone();
        let course = Arc::new(Mutex::new(Course::new(Instant::now())));
        let (watched, shown) = (Arc::clone(&course), Arc::clone(progress));
        let watching: Progress = Arc::new(move |event: PullEvent| {
            lock(&watched).note(&event, Instant::now());
            shown(event);
        });
        let lease = self.images.lease_new();
        let work = self.images.pull(request, &self.registries, watching);
        tokio::pin!(work);
        let result = loop {
            let due = lock(&course).due(&self.limits, Instant::now());
            let due = match due {
                Ok(due) => due,
                Err(error) => {
                    let message = error.to_string();
                    progress(PullEvent::Failed { reference: reference.clone(), message });
                    break Err(error);
                }
            };
            tokio::select! {
                result = &mut work => break result.map_err(Error::Image),
                () = tokio::time::sleep_until(due) => {}
            }
        };
        let resolved = lock(&course).resolved.take();
        let failed = |error| Failure { error, resolved: resolved.is_some() };
        let image = result.map_err(failed)?;
        lease.narrow(&image.id);
        let (images, id, name) = (self.images.clone(), image.id.clone(), reference.clone());
        match tokio::task::spawn_blocking(move || images.note_pull(&id, &name)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(image = reference, error = chain(&error), "a pull is not recorded");
            }
            Err(panicked) => return Err(failed(Error::Internal(panicked.to_string()))),
        }
        let digest = resolved.or_else(|| reported_digest(&image, &reference));
        Ok(Leased { image, digest, lease })
    }

    /// Pulls what is to be here from the agent's start on, until all of it is.
    pub async fn prepull(&self, names: BTreeSet<String>, policy: PullPolicy) {
        let mut left: Vec<String> = names.into_iter().collect();
        let mut rounds = 0;
        while !left.is_empty() {
            let mut failed = Vec::new();
            for name in left {
                if let Ok(AtHand { enough: true, .. }) = self.at_hand(policy, &name).await {
                    continue;
                }
                match self.pull(PullRequest::of(&name), Arc::new(|_| {})).await {
                    Ok(pulled) => {
                        tracing::info!(image = name, digest = pulled.digest, "pulled in advance");
                    }
                    Err(Failure { error, .. }) => {
                        tracing::warn!(
                            image = name,
                            error = chain(&error),
                            "cannot pull in advance yet"
                        );
                        failed.push(name);
                    }
                }
            }
            left = failed;
            if !left.is_empty() {
                rounds += 1;
                tokio::time::sleep(PREPULL.pause(rounds, backoff::random())).await;
            }
        }
    }

    fn name_lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut names = lock(&self.names);
        names.retain(|_, waiting| waiting.strong_count() > 0);
        if let Some(waiting) = names.get(name).and_then(Weak::upgrade) {
            return waiting;
        }
        let waiting = Arc::default();
        names.insert(name.to_owned(), Arc::downgrade(&waiting));
        waiting
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves a whole value, panic or not.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a pull has come.
#[derive(Debug)]
struct Course {
    begun: Instant,
    resolved: Option<String>,
    /// Layers that have begun and not ended.
    pending: BTreeSet<String>,
    moved: Instant,
}

impl Course {
    fn new(now: Instant) -> Self {
        Self { begun: now, resolved: None, pending: BTreeSet::new(), moved: now }
    }

    fn note(&mut self, event: &PullEvent, now: Instant) {
        self.moved = now;
        match event {
            PullEvent::Resolved { digest, .. } => self.resolved = Some(digest.clone()),
            PullEvent::Layer { layer, done, total, .. } if done < total => {
                self.pending.insert(layer.clone());
            }
            PullEvent::Layer { layer, .. } => {
                self.pending.remove(layer);
            }
            PullEvent::Resolving { .. } | PullEvent::Done { .. } | PullEvent::Failed { .. } => {}
        }
    }

    /// When to look again; or what has taken too long. A pull that waits for layers that another one
    /// fetches, or for the disk at its end, is not idle: it is held up, and the whole time counts.
    fn due(&self, limits: &Limits, now: Instant) -> Result<Instant, Error> {
        let whole = self.begun + limits.whole;
        if whole <= now {
            return Err(Error::Timeout { to: "pulled", after: limits.whole });
        }
        // Looked at again at the latest when what begins now could have been idle for too long.
        let manifest = self.begun + limits.manifest;
        if self.resolved.is_none() {
            let late = Error::Timeout { to: "MANIFEST_PULLED", after: limits.manifest };
            let soon = whole.min(manifest).min(now + limits.inactivity);
            return if manifest <= now { Err(late) } else { Ok(soon) };
        }
        let from = if self.pending.is_empty() { now } else { self.moved };
        let idle = from + limits.inactivity;
        if idle <= now { Err(Error::Inactive) } else { Ok(whole.min(idle)) }
    }
}

/// What ECS is told: the digest by which the reference's repository knows the image, if it came from
/// there. Of one that was loaded no registry knows the manifest.
fn reported_digest(image: &Image, reference: &str) -> Option<String> {
    let reference = image::Reference::parse(reference).ok()?;
    if let Some(digest) = reference.digest() {
        return Some(digest.to_owned());
    }
    let name = reference.familiar_name();
    let of_repository = image
        .repo_digests
        .iter()
        .find_map(|known| known.split_once('@').filter(|(repository, _)| *repository == name));
    of_repository.map(|(_, digest)| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        manifest: Duration::from_secs(60),
        whole: Duration::from_secs(7200),
        inactivity: Duration::from_secs(90),
        parallel: 1,
    };

    #[test]
    fn a_digest_is_one_that_the_repository_knows() {
        let [one, two] = ["1", "2"].map(|digit| format!("sha256:{}", digit.repeat(64)));
        let image = Image {
            id: "sha256:0".to_owned(),
            digest: two.clone(),
            references: vec!["app:1".to_owned(), "other:1".to_owned()],
            repo_digests: vec![format!("app@{one}")],
            layers: Vec::new(),
            config: image::Config::default(),
            created: None,
            size: 0,
        };
        assert_eq!(reported_digest(&image, "app:1"), Some(one.clone()));
        assert_eq!(reported_digest(&image, "docker.io/library/app"), Some(one));
        assert_eq!(reported_digest(&image, &format!("x@{two}")), Some(two));
        // Given another name here, or loaded.
        assert_eq!(reported_digest(&image, "other:1"), None);
        let loaded = Image { repo_digests: Vec::new(), ..image };
        assert_eq!(reported_digest(&loaded, "app:1"), None);
    }

    fn layer(done: u64) -> PullEvent {
        PullEvent::Layer { reference: String::new(), layer: "l".to_owned(), done, total: 10 }
    }

    #[test]
    fn a_pull_is_judged_by_what_it_waits_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut course = Course::new(start);
        let due = |course: &Course, seconds| {
            course.due(&LIMITS, at(seconds)).map_err(|error| error.to_string())
        };
        assert_eq!(due(&course, 0), Ok(at(60)));
        assert_eq!(
            due(&course, 60),
            Err("Could not transition to MANIFEST_PULLED; timed out after waiting 1m0s".to_owned())
        );
        let (reference, digest) = (String::new(), "sha256:1".to_owned());
        course.note(&PullEvent::Resolved { reference, digest }, at(10));
        // Another pull fetches the layers: that is no silence of this one's registry.
        assert_eq!(due(&course, 1000), Ok(at(1090)));
        course.note(&layer(1), at(1000));
        assert_eq!(due(&course, 1050), Ok(at(1090)));
        course.note(&layer(2), at(1080));
        assert_eq!(due(&course, 1100), Ok(at(1170)));
        let idle = "inactivity time exceeded timeout while pulling image";
        assert_eq!(due(&course, 1170), Err(idle.to_owned()));
        // All is fetched; what remains is to write it to the disk.
        course.note(&layer(10), at(1160));
        assert_eq!(due(&course, 7000), Ok(at(7090)));
        let whole = "Could not transition to pulled; timed out after waiting 2h0m0s";
        assert_eq!(due(&course, 7200), Err(whole.to_owned()));
    }
}
