//! A blob from a registry, to its end: a broken transfer goes on where it stopped, at the same host
//! or the next.
//!
//! A host that ignores `Range` is read from the start again, and what we have is skipped; one that
//! answers another range than was asked is asked again without. One that sends less than its
//! [`Pace`] is left as if it had fallen silent: a layer in transit has a place that others wait for.
//! Whoever served what turns out to be
//! wrong is not asked for it again ([`Session::distrust`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Response;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::hosts::Pace;
use super::layer;
use super::manifest::Descriptor;
use super::registry::{self, Endpoint, Session, check, chunk, put};
use super::rounds::{ATTEMPTS, Patience};
use super::unpack;

/// Less than this in an attempt is no progress.
const PROGRESS: u64 = 64 << 10;

/// Where the body of an answer begins in a blob of `size` bytes, asked for from `offset` on. `None`:
/// not where it may.
pub(super) fn begins(
    status: StatusCode,
    range: Option<&str>,
    offset: u64,
    size: u64,
) -> Option<u64> {
    if status != StatusCode::PARTIAL_CONTENT {
        return Some(0);
    }
    let (place, total) = range?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = place.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let fits = total == "*" || total.parse() == Ok(size);
    (fits && first == offset && first <= last && last < size).then_some(first)
}

/// How fast a host sends.
struct Speed {
    pace: Pace,
    bytes: u64,
    /// For the host, and nothing else: who takes the content may have other things to wait for.
    waited: Duration,
}

impl Speed {
    fn new(pace: Pace) -> Self {
        Self { pace, bytes: 0, waited: Duration::ZERO }
    }

    /// So much came after so long. Judged each time that the pace's time is over, then anew.
    fn came(&mut self, bytes: usize, waited: Duration) -> Result<(), registry::Error> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < self.pace.over {
            return Ok(());
        }
        let Self { pace, bytes, waited } = *self;
        *self = Self::new(pace);
        let least = pace.bytes_per_second;
        if u128::from(bytes) * 1000 >= u128::from(least) * waited.as_millis() {
            return Ok(());
        }
        Err(registry::Error::Slow { bytes, waited, least })
    }
}

/// Why a transfer ended early.
enum Stop {
    /// Whatever others say.
    Final(unpack::Error),
    /// Another attempt or host may do.
    Host(registry::Error),
}

impl From<registry::Error> for Stop {
    fn from(error: registry::Error) -> Self {
        Self::Host(error)
    }
}

impl Endpoint {
    /// The answer with a blob from some byte on, and which that is.
    async fn blob(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<(Response, u64), registry::Error> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        if offset > 0 {
            let mut headers = HeaderMap::new();
            let range = HeaderValue::try_from(format!("bytes={offset}-"))
                .map_err(|error| registry::Error::Protocol(error.to_string()))?;
            headers.insert(header::RANGE, range);
            let response = self.request(Method::GET, url.clone(), headers).await?;
            if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
                let response = check(response, "such blob", self.who()).await?;
                if let Some(first) = self.first(&response, offset, blob.size) {
                    return Ok((response, first));
                }
            }
        }
        let response = self.request(Method::GET, url, HeaderMap::new()).await?;
        let response = check(response, "such blob", self.who()).await?;
        match self.first(&response, 0, blob.size) {
            Some(first) => Ok((response, first)),
            None => {
                Err(registry::Error::Protocol("a part of a blob where all was asked".to_owned()))
            }
        }
    }

    fn first(&self, response: &Response, offset: u64, size: u64) -> Option<u64> {
        let range = response.headers().get(header::CONTENT_RANGE);
        begins(response.status(), range.and_then(|range| range.to_str().ok()), offset, size)
    }
}

/// A download in progress.
struct Transfer<'a, S> {
    session: &'a Session,
    descriptor: &'a Descriptor,
    hash: &'a mut Sha256,
    cancel: &'a CancellationToken,
    sink: &'a mut S,
    /// Bytes that the sink has.
    done: u64,
}

impl<S: Sink> Transfer<'_, S> {
    /// One answer of one host, to its end.
    async fn attempt(&mut self, endpoint: &Endpoint) -> Result<(), Stop> {
        let cancelled = || Stop::Final(unpack::Error::Cancelled);
        let size = self.descriptor.size;
        let wrong = |actual: String| Stop::Final(unpack::Error::Size { expected: size, actual });
        let (mut response, first) = tokio::select! {
            () = self.cancel.cancelled() => return Err(cancelled()),
            opened = endpoint.blob(self.descriptor, self.done) => opened?,
        };
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        self.session.served(&self.descriptor.digest, endpoint);
        if let Some(length) = response.content_length()
            && !partial
            && length != size
        {
            return Err(wrong(length.to_string()));
        }
        let mut skip = self.done - first;
        let mut speed = Speed::new(endpoint.host.pace);
        loop {
            let asked = Instant::now();
            let next = tokio::select! {
                () = self.cancel.cancelled() => return Err(cancelled()),
                next = chunk(&mut response) => next?,
            };
            if let Some(chunk) = &next {
                speed.came(chunk.len(), asked.elapsed())?;
            }
            let Some(mut chunk) = next else {
                return match self.done {
                    done if done == size => Ok(()),
                    // Not all of what is left was in the range.
                    _ if partial => Err(Stop::Host(registry::Error::Broken(
                        std::io::Error::other("the registry sent a part of what was asked"),
                    ))),
                    done => Err(wrong(done.to_string())),
                };
            };
            if skip > 0 {
                let over = skip.min(chunk.len() as u64);
                chunk = chunk.split_off(usize::try_from(over).unwrap_or(chunk.len()));
                skip -= over;
            }
            if self.done + chunk.len() as u64 > size {
                return Err(wrong(format!("more than {size}")));
            }
            self.done += chunk.len() as u64;
            self.hash.update(&chunk);
            if !chunk.is_empty() && !self.sink.take(chunk).await {
                return Ok(());
            }
        }
    }

    async fn sleep(&self, pause: std::time::Duration) -> Result<(), unpack::Error> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(unpack::Error::Cancelled),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

impl Session {
    /// Streams a blob through `sink`, hashes it and checks its size; goes on where a broken
    /// transfer stopped. `sink` returns whether it wants more.
    pub(super) async fn download(
        &self,
        descriptor: &Descriptor,
        hash: &mut Sha256,
        cancel: &CancellationToken,
        sink: &mut impl Sink,
    ) -> Result<(), unpack::Error> {
        let mut open = self.sources(&descriptor.digest);
        let mut failures = Vec::new();
        let mut transfer = Transfer { session: self, descriptor, hash, cancel, sink, done: 0 };
        let (mut tries, mut patience) = (0, Patience::default());
        while tries < ATTEMPTS {
            let mut pause = None;
            let mut again = Vec::new();
            for endpoint in open {
                let error = loop {
                    let before = transfer.done;
                    let error = match transfer.attempt(&endpoint).await {
                        Ok(()) => return Ok(()),
                        Err(Stop::Final(error)) => return Err(error),
                        Err(Stop::Host(error)) => error,
                    };
                    if !error.is_transient() || transfer.done - before < PROGRESS {
                        break error;
                    }
                    (tries, patience) = (0, Patience::default());
                    if matches!(error, registry::Error::Slow { .. }) {
                        break error;
                    }
                    // It broke after a good while: the same host goes on.
                    transfer.sleep(error.pause(0)).await?;
                };
                if matches!(error, registry::Error::Down(_) | registry::Error::Slow { .. }) {
                    self.put_last(&endpoint);
                }
                if error.is_transient() {
                    let wanted = error.pause(tries);
                    pause = Some(pause.map_or(wanted, |pause| wanted.min(pause)));
                    again.push(Arc::clone(&endpoint));
                }
                put(&mut failures, endpoint, error);
            }
            open = again;
            tries += 1;
            match pause {
                Some(pause) if tries < ATTEMPTS && patience.lasts(pause) => {
                    transfer.sleep(pause).await?;
                }
                _ => break,
            }
        }
        Err(unpack::Error::Transfer(self.failed(failures)))
    }
}

/// Where a download goes. A trait and not an async closure, whose futures cannot be promised to be
/// `Send` for every lifetime.
pub(super) trait Sink: Send {
    /// Whether it wants more.
    fn take(&mut self, chunk: Bytes) -> impl Future<Output = bool> + Send;
}

/// A small document.
pub(super) struct Collected(pub(super) Vec<u8>);

impl Sink for Collected {
    async fn take(&mut self, chunk: Bytes) -> bool {
        self.0.extend_from_slice(&chunk);
        true
    }
}

pub(super) fn check_digest(expected: &str, hash: Sha256) -> Result<(), unpack::Error> {
    let actual = layer::digest(hash);
    if actual == expected {
        return Ok(());
    }
    Err(unpack::Error::Digest { expected: expected.to_owned(), actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(bytes_per_second: u64) -> Speed {
        Speed::new(Pace { bytes_per_second, over: Duration::from_secs(60) })
    }

    #[test]
    fn a_host_that_drips_is_too_slow() {
        let mut speed = at(1024);
        for _ in 0..59 {
            assert!(speed.came(1, SECOND).is_ok());
        }
        let refused = speed.came(1, SECOND).map_err(|error| error.to_string());
        let text = "transfer too slow: 60 bytes in 60 s, less than 1024 a second (low_speed_limit in hosts.toml)";
        assert_eq!(refused, Err(text.to_owned()));
        let mut speed = at(0);
        assert!((0..1000).all(|_| speed.came(0, SECOND).is_ok()), "whoever allows that");
    }

    #[test]
    fn a_slow_link_is_not_too_slow() {
        let mut speed = at(1024);
        assert!((0..3600).all(|_| speed.came(1024, SECOND).is_ok()), "steady");
        let mut speed = at(1024);
        assert!((0..100).all(|_| speed.came(40_000, 29 * SECOND).is_ok()), "in bursts");
        // What came while nobody looked has not been waited for.
        let mut speed = at(1024);
        assert!((0..1000).all(|_| speed.came(1, SECOND / 1000).is_ok()), "held up by the disk");
        // A good start is no excuse for ever.
        let mut speed = at(1024);
        assert!(speed.came(1 << 30, 60 * SECOND).is_ok());
        assert!((0..60).any(|_| speed.came(1, SECOND).is_err()));
    }

    #[test]
    fn only_the_range_that_was_asked_is_taken() {
        let part = |range| begins(StatusCode::PARTIAL_CONTENT, range, 10, 100);
        assert_eq!(part(Some("bytes 10-99/100")), Some(10));
        assert_eq!(part(Some("bytes 10-49/100")), Some(10));
        assert_eq!(part(Some("bytes 10-99/*")), Some(10));
        for wrong in [
            "bytes 0-99/100",
            "bytes 11-99/100",
            "bytes 10-100/100",
            "bytes 10-99/101",
            "bytes 10-9/100",
            "bytes 10-/100",
            "bytes */100",
            "items 10-99/100",
            "bytes 10-99",
            "",
        ] {
            assert_eq!(part(Some(wrong)), None, "{wrong}");
        }
        assert_eq!(part(None), None);
        assert_eq!(begins(StatusCode::OK, Some("bytes 5-6/7"), 10, 100), Some(0));
    }
}
