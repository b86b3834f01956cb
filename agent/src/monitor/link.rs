//! A task's connection to its monitor for as long as the monitor can be had.
//!
//! One tokio task owns the connection and is the only one that makes a new one:
//!
//! ```text
//!            launch            worker died: socket closes
//! (nothing) ───────▶ up ─────────────────────────────────▶ connecting ──▶ up
//!            attach   ▲                                       │ nobody of the pair lives
//!                     └── monitor started anew, adopts ◀──────┤
//!                                                             └──▶ lost (after RESTARTS in a row)
//! ```
//!
//! Callers share [`Link`]: a call waits for the connection and is repeated on the next one if the
//! monitor went away under it, which the wire allows. What the containers are is sent whole after
//! every connect, then change by change; so no consumer depends on having seen an event.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::monitor::{Call, Change, ContainerFacts, Fact, UserMaps};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::client::{Client, Hello};
use super::spawn::{Program, Spawn, reap};
use super::{Error, LOG, alive, record};
use crate::error::chain;

/// A monitor answers its first greeting after it has made namespaces and forked.
const GREETING: Duration = Duration::from_secs(10);
/// Starts in a row after which a monitor that dies before it answers is given up.
const RESTARTS: u32 = 5;
/// Between attempts to connect; doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Bytes of the monitor's log that go into an error.
const LAST_WORDS: usize = 2000;

/// What a link needs to start its monitor, also again.
#[derive(Debug, Clone)]
pub struct Target {
    /// T
    pub task: PathBuf,
    /// R
    pub run: PathBuf,
    pub new_network: bool,
    pub user_maps: Option<UserMaps>,
    pub cgroup: Option<String>,
    pub program: Arc<Program>,
}

/// What a link tells the loop.
#[derive(Debug, Clone)]
pub enum Report {
    /// A container as it is now.
    Container(ContainerFacts),
    /// Nobody serves the task, and a new monitor could not be had.
    Lost(String),
}

#[derive(Debug, Clone)]
enum State {
    Connecting,
    Up(Client, Hello),
    Lost(String),
}

/// Handle of a task's connection. The last clone dropped ends it; the monitor lives on.
#[derive(Debug, Clone)]
pub struct Link {
    state: watch::Receiver<State>,
    /// Set once the monitor's end is wanted: then nobody starts another.
    closing: Arc<AtomicBool>,
    _owner: Arc<AbortOnDropHandle<()>>,
}

impl Link {
    /// Starts a monitor and waits for its greeting.
    ///
    /// # Errors
    /// If it cannot be started or ends before it answers; nothing of it is left then but what it
    /// wrote to the run directory.
    pub async fn launch(target: Target, reports: mpsc::Sender<Report>) -> Result<Self, Error> {
        // An agent that was killed right after it had started a monitor leaves one that has not yet
        // told who it is, but whose socket answers. A second one would leave it without a socket.
        if let Ok(connection) = connect(&target.run).await {
            return Ok(Self::own(target, Some(connection), reports));
        }
        start(&target, false)?;
        match connect(&target.run).await {
            Ok(connection) => Ok(Self::own(target, Some(connection), reports)),
            // Its worker died, and the guardian has the next one.
            Err(Error::Gone { .. }) if is_served(&target.run) => Ok(Self::attach(target, reports)),
            Err(error) => Err(with_log(error, &target.run)),
        }
    }

    /// Connects to a monitor that an earlier agent started, or starts one that adopts what is left.
    pub fn attach(target: Target, reports: mpsc::Sender<Report>) -> Self {
        Self::own(target, None, reports)
    }

    fn own(target: Target, first: Option<Connection>, reports: mpsc::Sender<Report>) -> Self {
        let initial = match &first {
            Some(connection) => State::Up(connection.client.clone(), connection.hello.clone()),
            None => State::Connecting,
        };
        let (sender, state) = watch::channel(initial);
        let closing = Arc::new(AtomicBool::new(false));
        let owner = tokio::spawn(run(target, first, Arc::clone(&closing), sender, reports));
        Self { state, closing, _owner: Arc::new(AbortOnDropHandle::new(owner)) }
    }

    /// The monitor's processes, once it answers.
    ///
    /// # Errors
    /// If nobody can serve the task any more.
    pub async fn hello(&self) -> Result<Hello, Error> {
        self.up().await.map(|(_, hello)| hello)
    }

    /// Makes a request, on as many connections as it takes.
    ///
    /// # Errors
    /// The monitor's refusal, or that nobody can serve the task any more.
    pub async fn call(&self, call: Call) -> Result<Fact, Error> {
        let mut state = self.state.clone();
        loop {
            let (client, _) = self.up().await?;
            state.mark_unchanged();
            match client.call(call.clone(), &[]).await {
                Ok((fact, _)) => return Ok(fact),
                Err(Error::Gone { .. }) => {
                    // The owner sees the same end and publishes what comes of it. It may have done
                    // so already, between `up` and here.
                    let same = matches!(&*state.borrow(), State::Up(now, _) if now.is(&client));
                    if same && state.changed().await.is_err() {
                        return Err(Error::Gone { log: String::new() });
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the monitor, and with it the link. That it is gone already is no error.
    ///
    /// # Errors
    /// If the monitor refuses, because a container exists.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.closing.store(true, Ordering::Release);
        match self.call(Call::Shutdown).await {
            Ok(_) | Err(Error::Gone { .. }) => Ok(()),
            Err(error) => {
                self.closing.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    async fn up(&self) -> Result<(Client, Hello), Error> {
        let mut state = self.state.clone();
        let up = state
            .wait_for(|state| !matches!(state, State::Connecting))
            .await
            .map_err(|_ended| Error::Gone { log: String::new() })?;
        match &*up {
            State::Up(client, hello) => Ok((client.clone(), hello.clone())),
            State::Lost(log) => Err(Error::Gone { log: log.clone() }),
            State::Connecting => Err(Error::Gone { log: String::new() }),
        }
    }
}

/// An answered greeting and subscription.
struct Connection {
    client: Client,
    hello: Hello,
    containers: Vec<ContainerFacts>,
    events: mpsc::Receiver<Change>,
}

fn start(target: &Target, adopt: bool) -> Result<(), Error> {
    let child = target.program.spawn(Spawn {
        task: &target.task,
        run: &target.run,
        new_network: target.new_network,
        user_maps: target.user_maps.as_ref(),
        cgroup: target.cgroup.as_deref(),
        adopt,
    })?;
    reap(child);
    Ok(())
}

/// Whether a process of the task's monitor lives.
fn is_served(run: &Path) -> bool {
    record(run).ok().flatten().is_some_and(|found| alive(&found))
}

async fn connect(run: &Path) -> Result<Connection, Error> {
    let (client, events) = Client::connect(run)?;
    let hello = client.hello(GREETING).await?;
    let containers = client.subscribe().await?;
    Ok(Connection { client, hello, containers, events })
}

async fn run(
    target: Target,
    mut first: Option<Connection>,
    closing: Arc<AtomicBool>,
    state: watch::Sender<State>,
    reports: mpsc::Sender<Report>,
) {
    let mut restarts = 0;
    let mut pause = PAUSE.0;
    loop {
        let connected = match first.take() {
            Some(connection) => Ok(connection),
            None => connect(&target.run).await,
        };
        match connected {
            Ok(connection) => {
                (restarts, pause) = (0, PAUSE.0);
                state.send_replace(State::Up(connection.client.clone(), connection.hello.clone()));
                if !forward(connection, &reports).await {
                    return;
                }
                if closing.load(Ordering::Acquire) {
                    return;
                }
                state.send_replace(State::Connecting);
            }
            Err(_) if closing.load(Ordering::Acquire) => return,
            Err(error) => {
                tracing::debug!(task = %target.task.display(), %error, "connect to a monitor");
                if !is_served(&target.run) {
                    if restarts == RESTARTS {
                        let words = last_words(&target.run);
                        let lost = if words.is_empty() { chain(&error) } else { words };
                        state.send_replace(State::Lost(lost.clone()));
                        let _ = reports.send(Report::Lost(lost)).await;
                        return;
                    }
                    restarts += 1;
                    tracing::warn!(task = %target.task.display(), "no monitor serves the task, start one");
                    if let Err(error) = start(&target, true) {
                        tracing::warn!(task = %target.task.display(), error = %chain(&error), "start a monitor");
                    }
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Passes facts on until the connection ends. False if nobody listens any more.
async fn forward(mut connection: Connection, reports: &mpsc::Sender<Report>) -> bool {
    for facts in connection.containers.drain(..) {
        if reports.send(Report::Container(facts)).await.is_err() {
            return false;
        }
    }
    while let Some(change) = connection.events.recv().await {
        // An exec's end concerns who asked for it, on a connection of its own.
        if let Change::Container(facts) = change
            && reports.send(Report::Container(facts)).await.is_err()
        {
            return false;
        }
    }
    true
}

fn with_log(error: Error, run: &Path) -> Error {
    match error {
        Error::Gone { .. } | Error::Connect { .. } => Error::Gone { log: last_words(run) },
        other => other,
    }
}

fn last_words(run: &Path) -> String {
    let bytes = std::fs::read(run.join(LOG)).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LAST_WORDS)..];
    String::from_utf8_lossy(tail).trim().replace('\n', "; ")
}
