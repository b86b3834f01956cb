//! The command line of runc: its verbs, flags, exit codes and log formats.
//!
//! One file per verb. `main` parses, dispatches and maps the result to an exit code; nothing below
//! ends the process.

pub mod args;
mod create;
mod log;
pub mod monitor;
pub mod run;
mod signal;
mod terminal;

use std::error::Error as StdError;
use std::io::Write as _;
use std::path::Path;

use args::{Command, Global};

use crate::container::{self, Container};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open log {}", path.display())]
    Log { path: std::path::PathBuf, source: std::io::Error },
    #[error("{option} is not supported yet")]
    Unsupported { option: &'static str },
    #[error("protect the runtime's program")]
    Seal(#[source] crate::seal::Error),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Container(#[from] container::Error),
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("{operation}")]
    System { operation: &'static str, source: nix::errno::Errno },
    #[error("write the state")]
    Output(#[source] std::io::Error),
}

/// An error with its causes, colon-separated.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Runs a command; the result is the exit code.
///
/// # Errors
/// If the command failed; it has been logged if there is a log.
pub fn execute(global: &Global, command: Command) -> Result<u8, Error> {
    log::install(global)?;
    let result = dispatch(global, command);
    if let Err(error) = &result {
        ::log::error!(target: log::RESULT, "{}", chain(error));
    }
    result
}

fn dispatch(global: &Global, command: Command) -> Result<u8, Error> {
    if global.systemd_cgroup {
        return Err(Error::Unsupported { option: "--systemd-cgroup" });
    }
    if global.rootless.as_deref() == Some("true") {
        return Err(Error::Unsupported { option: "--rootless=true" });
    }
    let root: &Path = &global.root;
    match command {
        Command::Create(arguments) => create::create(root, &arguments).map(|()| 0),
        Command::Run(arguments) => run::run(root, &arguments),
        Command::Start { id } => {
            Container::load(root, &id)?.start()?;
            Ok(0)
        }
        Command::State { id } => {
            let state = Container::load(root, &id)?.state()?;
            let mut text =
                serde_json::to_vec_pretty(&state).map_err(|error| Error::Output(error.into()))?;
            text.push(b'\n');
            std::io::stdout().lock().write_all(&text).map_err(Error::Output)?;
            Ok(0)
        }
        Command::Kill { id, signal, all } => {
            let number = signal::parse(&signal)
                .ok_or_else(|| Error::Usage(format!("unknown signal {signal:?}")))?;
            Container::load(root, &id)?.kill(number, all)?;
            Ok(0)
        }
        Command::Delete { id, force } => {
            match Container::load(root, &id) {
                Ok(container) => container.delete(force)?,
                // What is not there needs no force; but whoever says force wants it gone.
                Err(container::Error::NotFound { .. }) if force => {}
                Err(error) => return Err(error.into()),
            }
            Ok(0)
        }
    }
}
