//! The way to an agent: the one that serves the root, else one within this process.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::agent::SERVED;
use super::{Error, Failure, configuration};
use crate::api::client::{Client, ClientError};
use crate::api::types::AgentInfo;
use crate::daemon::{self, Agent, Mode};
use crate::layout::Layout;

/// How long an agent that starts or ends may leave the socket without an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at the socket.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Between two attempts to become the agent of a root that another one serves.
const RESTART: Duration = Duration::from_millis(200);

/// How long connections that were closed may count.
const FAREWELL: Duration = Duration::from_millis(100);

/// A client and, where no agent ran, the agent.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// What the agent says of itself.
    pub(super) agent: AgentInfo,
    pub(super) layout: Layout,
    embedded: Option<Agent>,
}

impl Connection {
    /// Connects to the root's agent, or becomes it.
    pub(super) async fn open(layout: Layout) -> Result<Self, Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some((client, agent)) = find(&layout).await? {
                return Ok(Self { client, agent, layout, embedded: None });
            }
            let config = configuration(&layout)?;
            match daemon::serve(layout.clone(), &config, Mode::Embedded).await {
                Ok(agent) => {
                    let embedded = Some(agent);
                    let (client, agent) = Client::connect(&layout.api_socket()).await?;
                    return Ok(Self { client, agent, layout, embedded });
                }
                // It is about to serve, or has just ended.
                Err(daemon::Error::Served { .. }) if Instant::now() < give_up => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to an agent that outlives this process, starting one if need be.
    pub(super) async fn open_lasting(layout: Layout) -> Result<Self, Failure> {
        if find(&layout).await?.is_none() {
            start_background(&layout).await?;
        }
        Self::open(layout).await
    }

    /// [`Self::close`] after what was done with it, whose own failure is the one to tell of.
    pub(super) async fn close_after<T>(self, result: Result<T, Failure>) -> Result<T, Failure> {
        let closed = self.close().await;
        let done = result?;
        closed.map(|()| done)
    }

    /// Ends the agent if it is within this process. If tasks live or others are connected, another
    /// one goes on in the background.
    pub(super) async fn close(self) -> Result<(), Failure> {
        let Some(agent) = self.embedded else { return Ok(()) };
        // Our own connections are not another client's; the agent sees their end a little later.
        drop(self.client);
        let give_up = Instant::now() + FAREWELL;
        while agent.connections() > 0 && Instant::now() < give_up {
            tokio::time::sleep(FAREWELL / 50).await;
        }
        let go_on = agent.live_tasks() > 0 || agent.connections() > 0;
        let left = agent.shutdown().await;
        if go_on {
            start_background(&self.layout).await?;
        }
        left.map_err(|failures| Failure::said(format!("end the agent: {}", failures.join("; "))))
    }
}

/// The root's agent, if one answers.
async fn find(layout: &Layout) -> Result<Option<(Client, AgentInfo)>, Failure> {
    match Client::connect(&layout.api_socket()).await {
        Ok(found) => Ok(Some(found)),
        Err(ClientError::NotRunning { .. }) => Ok(None),
        Err(ClientError::Directory { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the root's agent is about to end: one in the background, which is told to, or one that
/// does not answer any more.
pub(super) async fn give_way(layout: &Layout) -> Result<bool, Failure> {
    let Some((client, _)) = find(layout).await? else { return Ok(true) };
    match client.give_way().await {
        Ok(()) | Err(ClientError::Send { .. } | ClientError::Receive { .. }) => Ok(true),
        Err(ClientError::Refused { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Starts an agent that outlives this process and waits until it answers.
pub(super) async fn start_background(layout: &Layout) -> Result<(), Failure> {
    let log = layout.state().join("agent.log");
    let program = std::env::current_exe()
        .map_err(|source| Error::Background { program: PathBuf::from("/proc/self/exe"), source })?;
    let failed = |source| Error::Background { program: program.clone(), source };
    std::fs::create_dir_all(layout.state())
        .map_err(|source| Error::Write { path: layout.state(), source })?;
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|source| Error::Write { path: log.clone(), source })?;
    let start = || {
        let mut command = Command::new(&program);
        if let Some(root) = layout.root() {
            command.arg("--root").arg(root);
        }
        // It leaves our session by itself.
        command
            .args(["agent", "--detached"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)
    };
    let mut child = start()?;
    let give_up = Instant::now() + PATIENCE;
    while find(layout).await?.is_none() {
        let ended = child.try_wait().map_err(failed)?;
        // One that lost the root to another agent leaves it to that one: it is about to serve, or
        // has just ended.
        let lost = ended.is_some_and(|status| status.code() == Some(SERVED.into()));
        if Instant::now() > give_up || (ended.is_some() && !lost) {
            let seconds = PATIENCE.as_secs();
            return Err(Error::BackgroundSilent { seconds, log }.into());
        }
        tokio::time::sleep(if lost { RESTART } else { PAUSE }).await;
        if lost {
            child = start()?;
        }
    }
    Ok(())
}
