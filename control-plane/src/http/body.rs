//! Bodies, bounded in size and time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use protocol::aws_json::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::LONGEST_BODY;

/// Bytes that a permit stands for.
pub(super) const PERMIT: usize = 1024;
/// How long a body may take, the waits for places included.
const TIME: Duration = Duration::from_secs(30);
/// How long a part of it may wait for a place. Bodies that wait for each other end with this.
const PLACE_TIME: Duration = Duration::from_secs(5);
/// What is read of a body that is not wanted, so that the peer, which may read no answer before it
/// has sent all, gets one.
const UNWANTED: usize = 16 << 20;
const UNWANTED_TIME: Duration = Duration::from_secs(5);

/// A body with its share of the bound of all.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Reads a body.
///
/// # Errors
/// 413 if it is too long, 408 if it does not come, 503 if too many others are held.
pub(super) async fn read(body: Incoming, bodies: &Arc<Semaphore>) -> Result<Held, ApiError> {
    let announced = body.size_hint().upper();
    let length = match announced.map(usize::try_from) {
        Some(Ok(length)) if length <= LONGEST_BODY => length,
        Some(_) => {
            discard(body).await;
            return Err(too_long());
        }
        None => LONGEST_BODY,
    };
    match timeout(TIME, collect(body, length, bodies)).await {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(Unread::TooLong(rest))) => {
            discard(rest).await;
            Err(too_long())
        }
        Ok(Err(Unread::NoPlace)) => {
            Err(refused(503, "ServiceUnavailable", "too many requests are being read; try again"))
        }
        Ok(Err(Unread::CutOff(error))) => {
            Err(refused(400, "IncompleteBody", &format!("the body was cut off: {error}")))
        }
        Err(_) => Err(refused(408, "RequestTimeout", "the body did not come in time")),
    }
}

enum Unread {
    /// With what is left of it.
    TooLong(Incoming),
    CutOff(hyper::Error),
    /// Too much of others is held.
    NoPlace,
}

/// A body takes its share as it comes, not as it is announced: who sends nothing holds nothing.
async fn collect(mut body: Incoming, most: usize, bodies: &Arc<Semaphore>) -> Result<Held, Unread> {
    let mut collected = BytesMut::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        // Trailers are nothing that a signature covers.
        let Ok(data) = frame.map_err(Unread::CutOff)?.into_data() else { continue };
        let length = collected.len() + data.len();
        if length > most {
            drop(share);
            return Err(Unread::TooLong(body));
        }
        let has = share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(length.div_ceil(PERMIT).saturating_sub(has)).unwrap_or(u32::MAX);
        match timeout(PLACE_TIME, Arc::clone(bodies).acquire_many_owned(more)).await {
            Ok(Ok(more)) => match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            },
            Ok(Err(_)) | Err(_) => return Err(Unread::NoPlace),
        }
        if collected.is_empty() && body.is_end_stream() {
            return Ok(Held { bytes: data, _share: share });
        }
        collected.extend_from_slice(&data);
    }
    Ok(Held { bytes: collected.freeze(), _share: share })
}

/// Reads what the peer still sends, within bounds.
pub(super) async fn discard(mut body: Incoming) {
    let reading = async {
        let mut length = 0;
        while length < UNWANTED {
            let Some(Ok(frame)) = body.frame().await else { return };
            length += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Who takes longer has had the chance.
    let _ = timeout(UNWANTED_TIME, reading).await;
}

fn too_long() -> ApiError {
    refused(413, "RequestEntityTooLarge", &format!("the body is longer than {LONGEST_BODY} bytes"))
}

fn refused(status: u16, name: &str, message: &str) -> ApiError {
    ApiError { status, ..ApiError::client(name, message) }
}
