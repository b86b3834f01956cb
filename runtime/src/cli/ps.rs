//! `ps`: the host's `ps`, cut down to the processes of a container.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::arguments::{Given, Misuse, Opt};
use super::list::Format;
use super::{Error, print};
use crate::container::Container;

pub(super) const OPTIONS: &[Opt] = &[Opt::value(
    "format",
    "FORMAT",
    "Form of the list: table or json, which has the process ids alone [default: table]",
)
.short('f')];

#[derive(Debug)]
pub(super) struct Arguments {
    format: Format,
    /// The container and options of ps.
    words: Vec<OsString>,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self { format: Format::read(given)?, words: given.words.clone() })
    }
}

/// Why the processes cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("container id {id:?} is not valid: it is no text")]
    Id { id: OsString },
    #[error("run ps to describe the processes; install procps, or use --format json")]
    Run(#[source] io::Error),
    #[error("ps: {status}: {message}")]
    Refused { status: std::process::ExitStatus, message: String },
    #[error("find the column PID in what ps prints: let its options include it")]
    NoColumn,
    #[error("read the process id in this line of ps: {line:?}")]
    NoNumber { line: String },
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    let mut words = arguments.words.into_iter();
    let id = words.next().unwrap_or_default();
    let id = id.into_string().map_err(|id| Failure::Id { id })?;
    let container = Container::load(root, &id)?;
    let pids = container.pids()?;
    if arguments.format == Format::Json {
        let mut text = serde_json::to_string(&pids).map_err(Error::Json)?;
        text.push('\n');
        return print(&text);
    }
    let mut options: Vec<OsString> = words.collect();
    if options.is_empty() {
        options.push("-ef".into());
    }
    print(&select(&ask(&options)?, &pids)?)
}

/// What ps prints, of all processes or of those that the options choose.
fn ask(options: &[OsString]) -> Result<String, Failure> {
    let output =
        Command::new("ps").args(options).stdin(Stdio::null()).output().map_err(Failure::Run)?;
    if !output.status.success() {
        let message = [output.stderr, output.stdout].concat();
        let message = String::from_utf8_lossy(&message).trim().to_owned();
        return Err(Failure::Refused { status: output.status, message });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The header and the lines of these processes.
fn select(text: &str, pids: &[i32]) -> Result<String, Failure> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column =
        header.split_ascii_whitespace().position(|name| name == "PID").ok_or(Failure::NoColumn)?;
    let mut chosen = format!("{header}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid: i32 = line
            .split_ascii_whitespace()
            .nth(column)
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| Failure::NoNumber { line: line.to_owned() })?;
        // In order: the group lists them so.
        if pids.binary_search(&pid).is_ok() {
            chosen.push_str(line);
            chosen.push('\n');
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn picks_lines_by_the_column_pid() {
        let text = "UID   PID CMD\nroot    1 init\nroot   22 sleep 1\n";
        assert_eq!(select(text, &[22]).unwrap(), "UID   PID CMD\nroot   22 sleep 1\n");
        assert_eq!(select(text, &[]).unwrap(), "UID   PID CMD\n");
        assert!(matches!(select("CMD\ninit\n", &[1]), Err(Failure::NoColumn)));
        assert!(matches!(select("", &[1]), Err(Failure::NoColumn)));
        assert!(matches!(select("A PID\nx y\n", &[1]), Err(Failure::NoNumber { .. })));
    }
}
