//! The one HTTP port: connections, TLS, and the way of a request to its service (`route`).
//!
//! Promises: every answer has a request id; a body is read only for someone who names a key that
//! there is, and never more than [`LONGEST_BODY`]; what a handler's panic leaves is an answer 500.
//!
//! Hostile peers: connections are counted ([`CONNECTIONS`], upgraded ones not, which are signed), a
//! head or a body that comes too slowly ends its connection, and so does an answer that is not
//! taken (`TCP_USER_TIMEOUT`). All bodies together are bounded ([`BODIES`]).

mod answer;
mod body;
mod route;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::logs::Logs;
use crate::state::State;

use self::tls::Tls;

/// Longest body, in bytes: PutLogEvents may carry 1 MiB of events, and JSON around it.
pub const LONGEST_BODY: usize = 2 << 20;
/// Bytes of all bodies that are held at once; further calls wait.
const BODIES: usize = 64 << 20;
/// Connections at once, without those that became WebSockets; further ones wait to be accepted.
const CONNECTIONS: usize = 4096;
/// Bytes of a request's head.
const HEAD: usize = 64 << 10;
/// How long a head may take, and a connection be idle.
const HEAD_TIME: Duration = Duration::from_secs(60);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long an answer may not be taken.
const UNTAKEN_TIME_MS: u32 = 60_000;
/// How long calls may go on after the end was asked for.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("read {path}")]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("no certificate is in {path}")]
    NoCertificate { path: PathBuf },
    #[error("use the certificate {certificate} with the key {key}")]
    Certificate { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// What requests need.
#[derive(Debug)]
struct Front {
    state: Arc<State>,
    logs: Arc<Logs>,
    config: Arc<Config>,
    /// `http` or `https`
    scheme: &'static str,
    /// Permits are KiB of bodies.
    bodies: Arc<Semaphore>,
}

/// The bound port.
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    front: Arc<Front>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the port and reads the certificate.
    ///
    /// # Errors
    /// If either cannot be had.
    pub async fn bind(
        state: Arc<State>,
        logs: Arc<Logs>,
        config: Arc<Config>,
    ) -> Result<Self, Error> {
        let tls = config.tls.clone().map(|(certificate, key)| Tls::read(certificate, key));
        let tls = tls.transpose()?;
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let bodies = Arc::new(Semaphore::new(BODIES / body::PERMIT));
        let front = Arc::new(Front { state, logs, config, scheme, bodies });
        Ok(Self { listener, tls, front })
    }

    /// Where it listens; the port is never 0.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `end`; then no connection is accepted, and calls that are under way have
    /// [`FAREWELL`] to be answered.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let Self { listener, tls, front } = self;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let (connections, ending) = (TaskTracker::new(), CancellationToken::new());
        let accepting = async {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "a connection was not accepted"
                        );
                        // Of no descriptors, the most likely cause, there are more in a moment.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let acceptor = tls.as_ref().map(Tls::acceptor);
                let (front, ending) = (Arc::clone(&front), ending.clone());
                connections.spawn(async move {
                    connection(front, stream, acceptor, ending).await;
                    drop(place);
                });
            }
        };
        let renewing = async {
            match &tls {
                Some(tls) => tls.follow().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = accepting => {}
            () = renewing => {}
            () = end => {}
        }
        drop(listener);
        ending.cancel();
        connections.close();
        if tokio::time::timeout(FAREWELL, connections.wait()).await.is_err() {
            tracing::warn!("calls were cut off: they took longer than the end may");
        }
    }
}

/// Serves one connection to its end.
async fn connection(
    front: Arc<Front>,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    ending: CancellationToken,
) {
    // Both make things better only; a socket that is gone already is found by the first read.
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &UNTAKEN_TIME_MS);
    let Some(tls) = tls else { return requests(front, stream, ending).await };
    match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => requests(front, stream, ending).await,
        Ok(Err(error)) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed");
        }
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn requests<S>(front: Arc<Front>, stream: S, ending: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let front = Arc::clone(&front);
        async move {
            Ok::<hyper::Response<Body>, std::convert::Infallible>(front.respond(request).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD)
        .max_header_size(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
    }
}
