//! `lighter agent`: the daemon.

use super::connect::Connection;
use super::signals::Signals;
use super::{Failure, configuration};
use crate::daemon::{self, Mode};
use crate::layout::Layout;

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
    let daemon = daemon::serve(layout, config, Mode::Service).await?;
    // Nobody to tell unless systemd started us.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    signals.next().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // Tasks live on; the next agent finds them.
    daemon.close().await?;
    Ok(0)
}
