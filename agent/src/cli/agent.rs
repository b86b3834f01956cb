//! `lighter agent`: the daemon.

use std::time::Instant;

use super::connect::{self, Connection, PATIENCE};
use super::signals::Signals;
use super::{Error, Failure, configuration};
use crate::config::Config;
use crate::daemon::{self, Agent, Mode};
use crate::layout::Layout;

/// What the process exits with when another agent serves the root (`EX_TEMPFAIL`, sysexits.h).
pub(super) const SERVED: u8 = 75;
/// What it exits with when starting it again cannot help, as the Amazon agent does; the unit's
/// `RestartPreventExitStatus` names it.
const TERMINAL: u8 = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Start it in the background, unless one runs, and return once it answers
    #[arg(long)]
    background: bool,
    /// Leave the terminal's session (for the agent that other commands start)
    #[arg(long, hide = true, conflicts_with = "background")]
    detached: bool,
}

impl Args {
    /// This process will be the agent.
    pub(super) fn is_daemon(&self) -> bool {
        !self.background
    }
}

pub(super) async fn run(arguments: Args, layout: Layout) -> Result<u8, Failure> {
    if arguments.background {
        Connection::open_lasting(layout).await?.close().await?;
        return Ok(0);
    }
    if arguments.detached {
        // Fails only for the leader of a process group, which then has no terminal to lose.
        let _ = nix::unistd::setsid();
    }
    let mut signals = Signals::open()?;
    let config = configuration(&layout)?;
    let mode = if arguments.detached { Mode::Background } else { Mode::Foreground };
    let agent = serve(&layout, &config, mode).await?;
    let expelled = tokio::select! {
        _ = signals.next() => None,
        terminal = agent.expelled() => Some(terminal),
        () = agent.dismissed() => None,
    };
    // Nobody to tell unless systemd started us.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // Tasks live on; the next agent finds them.
    let left = agent.shutdown().await;
    if let Some(terminal) = expelled {
        for failure in left.err().into_iter().flatten() {
            tracing::warn!(failure, "cannot give something back to the host");
        }
        return Err(Failure::from(Error::Expelled(terminal)).with_code(TERMINAL));
    }
    left.map_err(|failures| Failure::said(format!("end the agent: {}", failures.join("; "))))?;
    Ok(0)
}

/// Becomes the root's agent. One that commands started in the background gives way to a daemon.
async fn serve(layout: &Layout, config: &Config, mode: Mode) -> Result<Agent, Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match daemon::serve(layout.clone(), config, mode).await {
            // Told apart by its code, so that who started this one waits for the other.
            Err(error @ daemon::Error::Served { .. }) => {
                let ends = mode == Mode::Foreground
                    && Instant::now() < give_up
                    && connect::give_way(layout).await?;
                if !ends {
                    return Err(Failure::from(error).with_code(SERVED));
                }
                tokio::time::sleep(connect::PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}
