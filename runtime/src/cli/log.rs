//! Log messages as runc writes them: text or one JSON object per line, in a file or on stderr.
//!
//! Callers such as containerd take the reason of a failure from the last line of the JSON log.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use super::{
    Error,
    args::{Global, LogFormat},
};
use crate::container::timestamp;

/// Target of the command's own failure, which `main` prints on stderr by itself.
pub(super) const RESULT: &str = "result";

struct Logger {
    file: Option<File>,
    format: LogFormat,
}

/// Starts logging.
pub(super) fn install(global: &Global) -> Result<(), Error> {
    let file = match &global.log {
        None => None,
        Some(path) => Some(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| Error::Log { path: path.clone(), source })?,
        ),
    };
    log::set_max_level(if global.debug { LevelFilter::Debug } else { LevelFilter::Info });
    let logger = Logger { file, format: global.log_format };
    // Fails if there is a logger already, which then stays: in tests.
    let _ = log::set_boxed_logger(Box::new(logger));
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if self.file.is_none() && record.target() == RESULT {
            return;
        }
        let level = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug | log::Level::Trace => "debug",
        };
        let time = timestamp(SystemTime::now());
        let message = record.args().to_string();
        let line = match self.format {
            LogFormat::Json => {
                let object = serde_json::json!({"level": level, "msg": message, "time": time});
                format!("{object}\n")
            }
            LogFormat::Text => format!("time={time:?} level={level} msg={message:?}\n"),
        };
        // A log that cannot be written has nobody to complain to.
        let _ = match self.file.as_ref() {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().lock().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}
