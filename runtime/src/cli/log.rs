//! Log entries as runc writes them: text or JSON lines, appended to the `--log` file.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum;
use log::{LevelFilter, Log, Metadata, Record};

use super::Error;

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
        let time = rfc3339(SystemTime::now());
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

/// RFC 3339 in UTC, whole seconds. Civil date from days by Howard Hinnant's algorithm.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_civil() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_257_336, "2026-11-21T10:35:36Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
