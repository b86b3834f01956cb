//! The agent as a whole: opens the stores, starts the host loop and serves the API socket.

use crate::config::Config;
use crate::layout::Layout;

/// For whom it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Until it is told to end.
    Service,
    /// As long as the command that embeds it.
    Embedded,
}

/// Starting or ending the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent holds the root's lock.
    #[error("another agent serves this root")]
    Busy,
}

/// A running agent.
#[derive(Debug)]
pub struct Daemon;

/// Starts the agent; its socket answers when this returns.
///
/// # Errors
/// [`Error::Busy`] if another one serves the root.
pub async fn serve(_layout: Layout, _config: Config, _mode: Mode) -> Result<Daemon, Error> {
    Err(Error::Busy)
}

impl Daemon {
    /// Ends the agent; tasks live on. True if one should go on in the background: tasks are not at
    /// their end, or another client is connected.
    ///
    /// # Errors
    /// If the state cannot be stored.
    pub async fn close(self) -> Result<bool, Error> {
        Ok(false)
    }
}
