//! HTTP/1.1 for callers that are not trusted: one request per connection, everything bounded.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Open connections of all listeners together.
pub(super) const CONNECTIONS: usize = 1024;
/// Of one container's or task's listener, a small share of all. More wait in the kernel's queue.
pub(super) const OF_A_TASK: usize = 8;
/// Of a listener of the host's namespace.
pub(super) const OF_THE_HOST: usize = 32;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last: 5 s to read the request, 5 s to answer, 5 s to take the answer.
const WHOLE: Duration = Duration::from_secs(15);
/// Bytes of a request's head, or buffered of an answer.
const BUFFER: usize = 16 << 10;
const HEADERS: usize = 64;
/// After an accept that failed, mostly for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped, and then no connection is left. `handle` answers one request.
pub(super) async fn serve<H, F>(
    listener: TcpListener,
    at_once: usize,
    all: Arc<Semaphore>,
    handle: H,
) where
    H: Fn(SocketAddr, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let own = Arc::new(Semaphore::new(at_once));
    let mut connections = JoinSet::new();
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&own).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (all, handle) = (Arc::clone(&all), handle.clone());
                connections.spawn(async move {
                    let _permit = permit;
                    // A caller that takes too long, or goes away, harms itself only.
                    let _ = tokio::time::timeout(WHOLE, async {
                        let Ok(_shared) = all.acquire().await else { return };
                        converse(stream, peer, handle).await;
                    })
                    .await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection of a task");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse<H, F>(stream: TcpStream, peer: SocketAddr, handle: H)
where
    H: Fn(SocketAddr, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handle(peer, request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a task's request");
    }
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(bytes) => respond(status, "application/json", bytes),
        Err(error) => {
            tracing::error!(%error, "cannot write an answer");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", b"\"\"".to_vec())
        }
    }
}

/// An answer of any type.
pub(super) fn respond(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
