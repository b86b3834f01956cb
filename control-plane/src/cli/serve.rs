//! `serve`: opens the store, puts the parts together and serves until it is told to end.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::{Error, Place, admin, duration};
use crate::config::Config;
use crate::http::Server;
use crate::logs::Logs;
use crate::reconcile::drive;
use crate::state::State;

/// Between deletions of log events past their retention.
const SWEEP: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the API listens
    #[arg(
        long,
        env = "LIGHTER_CONTROL_PLANE_LISTEN",
        default_value = "127.0.0.1:4780",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Certificate chain (PEM): serve HTTPS
    #[arg(long, env = "LIGHTER_CONTROL_PLANE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate (PEM)
    #[arg(long, env = "LIGHTER_CONTROL_PLANE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Base URL that agents are told [default: as they reached us]
    #[arg(long, env = "LIGHTER_CONTROL_PLANE_ADVERTISE", value_name = "URL", value_parser = url)]
    advertise: Option<String>,
    /// Stop the tasks of an instance whose agent is away for longer (off: never)
    #[arg(
        long,
        env = "LIGHTER_CONTROL_PLANE_LOST_AFTER",
        default_value = "10m",
        value_name = "DURATION",
        value_parser = lost_after
    )]
    lost_after: LostAfter,
    /// Without health checks, a task that ran so long counts as healthy in a deployment
    #[arg(
        long,
        env = "LIGHTER_CONTROL_PLANE_SETTLE",
        default_value = "40s",
        value_name = "DURATION",
        value_parser = duration
    )]
    settle: Duration,
    /// How long stopped tasks and inactive services stay describable
    #[arg(
        long,
        env = "LIGHTER_CONTROL_PLANE_KEEP_STOPPED",
        default_value = "1h",
        value_name = "DURATION",
        value_parser = duration
    )]
    keep_stopped: Duration,
}

/// `None`: never. (An `Option` here would be an optional argument to clap.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LostAfter(Option<Duration>);

fn lost_after(text: &str) -> Result<LostAfter, String> {
    if text == "off" {
        return Ok(LostAfter(None));
    }
    let after = duration(text).map_err(|error| format!("{error}, or off"))?;
    Ok(LostAfter(Some(after)))
}

fn url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let good = |host: &&str| {
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]/".contains(&byte))
    };
    let url = host.map(|host| host.trim_end_matches('/')).filter(good);
    url.ok_or("a URL begins with http:// or https:// and names a host")?;
    Ok(text.trim_end_matches('/').to_owned())
}

impl Arguments {
    fn config(self, place: &Place, data: PathBuf) -> Config {
        Config {
            account: place.account.clone(),
            listen: self.listen,
            tls: self.tls_cert.zip(self.tls_key),
            advertise: self.advertise,
            data,
            lost_after: self.lost_after.0,
            settle: self.settle,
            keep_stopped: self.keep_stopped,
        }
    }
}

pub(super) async fn run(place: &Place, arguments: Arguments) -> Result<(), Error> {
    let end = signals()?;
    raise_descriptors();
    let data = place.prepare()?;
    let config = Arc::new(arguments.config(place, data.clone()));
    let store = admin::open_store(&data).await?;
    let state = State::open(Arc::new(store)).await?;
    let logs = Arc::new(Logs::open(&data).map_err(Error::Logs)?);
    let server = Server::bind(Arc::clone(&state), Arc::clone(&logs), Arc::clone(&config)).await?;
    let (listener, socket) = admin::bind(&data)?;
    // Ends only with the view, or by a mistake of ours: then another process must take over.
    let mut planners =
        AbortOnDropHandle::new(tokio::spawn(drive::run(Arc::clone(&state), Arc::clone(&config))));
    let hands = [
        AbortOnDropHandle::new(tokio::spawn(admin::serve(listener, Arc::clone(&state)))),
        AbortOnDropHandle::new(tokio::spawn(sweep(logs))),
    ];
    let address = server.address().unwrap_or(config.listen);
    tracing::info!(%address, data = %data.display(), "serving");
    // Nobody to tell unless systemd started us.
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    let mut lost = false;
    server
        .serve(async {
            lost = tokio::select! {
                () = end => false,
                () = lost_view(&state) => true,
                _ = &mut planners => true,
            };
            let _ = sd_notify::notify(&[NotifyState::Stopping]);
            tracing::info!("ending");
        })
        .await;
    drop(hands);
    // The next one would replace it; that it is gone only spares others a look.
    let _ = std::fs::remove_file(socket);
    if lost { Err(Error::Lost) } else { Ok(()) }
}

/// Each agent holds two connections, and the soft limit, for programs that still use select(2), is
/// usually 1024.
fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the limit of open descriptors stays as it is"
        );
    }
}

/// Returns when the process is asked to end.
fn signals() -> Result<impl Future<Output = ()>, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Returns when the view follows the store no more.
async fn lost_view(state: &State) {
    let mut changes = state.changes();
    while changes.changed().await.is_ok() {}
}

async fn sweep(logs: Arc<Logs>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        if let Err(error) = logs.sweep(jiff::Timestamp::now()).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "log events past their retention were not deleted"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn urls() {
        assert_eq!(url("https://cp.example.com:4780/").unwrap(), "https://cp.example.com:4780");
        for bad in ["", "cp.example.com", "ftp://x", "http://", "http:///", "http://a b"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn never_lost() {
        assert_eq!(lost_after("off"), Ok(LostAfter(None)));
        assert_eq!(lost_after("10m"), Ok(LostAfter(Some(Duration::from_secs(600)))));
        assert!(lost_after("never").is_err());
    }
}
