//! Log entries as runc writes them: text or JSON lines, appended to the `--log` file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum;
use log::{LevelFilter, Log, Metadata, Record};

use super::Error;
use crate::container;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
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
