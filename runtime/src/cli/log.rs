//! Log entries as runc writes them: text or JSON lines, appended to the `--log` file.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use super::Error;
use crate::container;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

/// Where entries go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sink {
    StandardError,
    File,
}

#[derive(Debug)]
struct Logger {
    file: Option<File>,
    format: Format,
}

/// Sends the process's log entries to `file`, or to standard error.
///
/// # Errors
/// If the file cannot be opened for appending.
pub(super) fn install(file: Option<&Path>, format: Format, debug: bool) -> Result<Sink, Error> {
    static LOGGER: OnceLock<Logger> = OnceLock::new();
    let file = file
        .map(|path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| Error::LogFile { path: path.to_owned(), source })
        })
        .transpose()?;
    let sink = if file.is_some() { Sink::File } else { Sink::StandardError };
    // A second logger in one process is refused by `log`; there is none.
    if log::set_logger(LOGGER.get_or_init(|| Logger { file, format })).is_ok() {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
    }
    Ok(sink)
}

/// Writes what is wrong with a command line that could not be parsed into the log that it names, where
/// callers look for it.
pub(super) fn misuse(message: &str) {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(path) = option(&words, "--log") else { return };
    let json = option(&words, "--log-format").is_some_and(|format| format == "json");
    let format = if json { Format::Json } else { Format::Text };
    match install(Some(Path::new(&path)), format, false) {
        Ok(_) => log::error!("{message}"),
        Err(error) => to_standard_error(&super::describe(&error)),
    }
}

/// The value of an option among words that are no command line, both ways of writing it.
fn option(words: &[OsString], name: &str) -> Option<OsString> {
    words.iter().enumerate().find_map(|(index, word)| {
        if word == name {
            return words.get(index + 1).cloned();
        }
        let rest = word.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(OsStr::from_bytes(rest).to_owned())
    })
}

/// Tells the person at the terminal.
pub(super) fn to_standard_error(message: &str) {
    // Nothing better can be done where standard error is closed.
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug | log::Level::Trace => "debug",
        };
        let message = record.args().to_string();
        let time = container::timestamp(SystemTime::now());
        let line = match self.format {
            Format::Json => {
                format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time }))
            }
            Format::Text => format!("time={time:?} level={level} msg={message:?}\n"),
        };
        // A log that cannot be written must not fail the command.
        let _ = match &self.file {
            Some(file) => (&mut &*file).write_all(line.as_bytes()),
            None => std::io::stderr().lock().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_any_command_line() {
        let words = ["--log=/l", "fly", "--log-format", "json", "--log"].map(OsString::from);
        assert_eq!(option(&words, "--log"), Some("/l".into()));
        assert_eq!(option(&words, "--log-format"), Some("json".into()));
        assert_eq!(option(&words, "--root"), None);
        assert_eq!(option(&words[4..], "--log"), None);
    }
}
