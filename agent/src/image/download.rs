//! A blob from a registry, to its end: a broken transfer goes on where it stopped.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::layer;
use super::manifest::Descriptor;
use super::registry::{self, ATTEMPTS, Session};
use super::unpack;

/// Repeats what may work a moment later. A registry that refuses connections is not asked again:
/// the caller knows better how long to wait for it.
pub(super) async fn retry<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, registry::Error>
where
    // Not an async closure: its futures cannot be promised to be `Send` for every lifetime.
    F: Future<Output = Result<T, registry::Error>>,
{
    let mut tries = 0;
    loop {
        match attempt().await {
            Err(error)
                if error.is_transient()
                    && !matches!(error, registry::Error::Down(_))
                    && tries + 1 < ATTEMPTS =>
            {
                tokio::time::sleep(backoff(tries)).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

fn backoff(tries: u32) -> Duration {
    Duration::from_millis(200 << tries.min(5))
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
        let (mut done, mut tries) = (0_u64, 0_u32);
        let size = |actual: String| unpack::Error::Size { expected: descriptor.size, actual };
        loop {
            let before = done;
            let failure = 'transfer: {
                let opened = tokio::select! {
                    () = cancel.cancelled() => return Err(unpack::Error::Cancelled),
                    opened = self.blob(&descriptor.digest, done) => opened,
                };
                let (mut stream, resumed) = match opened {
                    Ok(opened) => opened,
                    Err(error) => break 'transfer error,
                };
                let mut skip = if resumed { 0 } else { done };
                loop {
                    let chunk = tokio::select! {
                        () = cancel.cancelled() => return Err(unpack::Error::Cancelled),
                        chunk = stream.next() => chunk,
                    };
                    let mut chunk = match chunk {
                        None if done == descriptor.size => return Ok(()),
                        None => return Err(size(done.to_string())),
                        Some(Ok(chunk)) => chunk,
                        Some(Err(error)) if registry::is_digest_error(&error) => {
                            // The client noticed what our own comparison is about to tell.
                            return Ok(());
                        }
                        Some(Err(error)) => {
                            break 'transfer registry::Error::Broken(error);
                        }
                    };
                    if skip > 0 {
                        let over = skip.min(chunk.len() as u64);
                        chunk = chunk.split_off(usize::try_from(over).unwrap_or(chunk.len()));
                        skip -= over;
                    }
                    done += chunk.len() as u64;
                    if done > descriptor.size {
                        return Err(size(format!("more than {}", descriptor.size)));
                    }
                    hash.update(&chunk);
                    if !chunk.is_empty() && !sink.take(chunk).await {
                        return Ok(());
                    }
                }
            };
            tries = if done > before { 0 } else { tries + 1 };
            if !failure.is_transient() || tries >= ATTEMPTS {
                return Err(unpack::Error::Transfer(failure));
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(unpack::Error::Cancelled),
                () = tokio::time::sleep(backoff(tries)) => {}
            }
        }
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
