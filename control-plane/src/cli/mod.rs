//! The command line: `serve`, and the administration of keys and roles.
//!
//! The store can be open in one process only. While `serve` runs, `key` and `role` ask it over a
//! socket in the data directory ([`admin`]); else they open the store themselves.
//!
//! Exit codes: 2 for wrong usage, 1 for what could not be done.

mod admin;
mod keys;
mod output;
mod serve;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use crate::{access, auth, http, logs, state, store};

/// Self-hosted control plane of Lighter: ECS API, scheduler, agent sessions, logs.
#[derive(Debug, Parser)]
#[command(name = "lighter-control-plane", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Where the state is, and whose.
#[derive(Debug, Args)]
struct Place {
    /// Move the default data directory below DIR
    #[arg(long, global = true, env = "LIGHTER_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of state and logs [default: /var/lib/lighter/control-plane]
    #[arg(long, global = true, env = "LIGHTER_CONTROL_PLANE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Account id of every ARN, 12 digits
    #[arg(
        long,
        global = true,
        env = "LIGHTER_CONTROL_PLANE_ACCOUNT",
        default_value = "000000000000",
        value_parser = account
    )]
    account: String,
    /// How much is logged, on standard error
    #[arg(
        long,
        global = true,
        env = "LIGHTER_CONTROL_PLANE_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API
    Serve(serve::Arguments),
    /// Administer access keys
    #[command(subcommand)]
    Key(keys::Key),
    /// Administer the roles that tasks can have
    #[command(subcommand)]
    Role(keys::Role),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("start the program's threads")]
    Threads(#[source] io::Error),
    #[error("make the data directory {path}")]
    Data { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("open the logs")]
    Logs(#[source] logs::Error),
    #[error(transparent)]
    Access(#[from] access::Error),
    #[error("serve the API")]
    Http(#[from] http::Error),
    #[error("the state is not followed or planned on any more; the log says why")]
    Lost,
    #[error("listen on the socket {path}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("ask the control plane at {path}")]
    Ask { path: PathBuf, source: io::Error },
    #[error("the control plane at {path} gave no answer; look whether it was done")]
    NoAnswer { path: PathBuf },
    #[error("{0}")]
    Refused(String),
    #[error("receive signals")]
    Signals(#[source] io::Error),
    #[error("write to standard output")]
    Output(#[source] io::Error),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// If it could not be done.
    pub fn run(self) -> Result<(), Error> {
        self.place.log();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let result = runtime.block_on(async {
            match self.command {
                Command::Serve(arguments) => serve::run(&self.place, arguments).await,
                Command::Key(command) => command.run(&self.place).await,
                Command::Role(command) => command.run(&self.place).await,
            }
        });
        // Sessions of agents are still open; what they do is stored or not done.
        runtime.shutdown_timeout(Duration::ZERO);
        match result {
            // Who closed standard output does not want to know.
            Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

impl Place {
    /// The data directory.
    fn data(&self) -> PathBuf {
        const DEFAULT: &str = "var/lib/lighter/control-plane";
        match (&self.data, &self.root) {
            (Some(data), _) => data.clone(),
            (None, Some(root)) => root.join(DEFAULT),
            (None, None) => Path::new("/").join(DEFAULT),
        }
    }

    /// Makes the data directory, for its owner only.
    fn prepare(&self) -> Result<PathBuf, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let path = self.data();
        let failed = |source| Error::Data { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made.map_err(failed)?,
        }
        // The admin socket keeps its address when the process changes its directory.
        std::fs::canonicalize(&path).map_err(failed)
    }

    fn log(&self) {
        let level = match self.log_level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_target(false)
            // They go to standard error with a panic if it is closed.
            .log_internal_errors(false)
            .init();
    }
}

fn account(text: &str) -> Result<String, String> {
    let good = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if good { Ok(text.to_owned()) } else { Err("an account id has 12 digits".to_owned()) }
}

fn pattern(text: &str) -> Result<String, String> {
    if auth::is_pattern(text) {
        return Ok(text.to_owned());
    }
    Err("a pattern is * or SERVICE:OPERATION, with * for any part, such as ecs:Describe*"
        .to_owned())
}

/// A whole number with its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a number with s, m, h or d behind it, such as 90s".to_owned();
    let split = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u32 = number.parse().map_err(|_malformed| wrong())?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_secs(u64::from(number) * unit))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("10m", 600), ("1h", 3600), ("2d", 172_800)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1.5h", "1w", "99999999999s", "1 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_data_directory() {
        let data = |arguments: &[&str]| {
            let place = [&["x", "key", "list"], arguments].concat();
            Cli::try_parse_from(place).map(|cli| cli.place.data()).ok()
        };
        assert_eq!(data(&["--data", "/d", "--root", "/r"]), Some("/d".into()));
        assert_eq!(data(&["--root", "/r"]), Some("/r/var/lib/lighter/control-plane".into()));
        assert_eq!(data(&[]), Some("/var/lib/lighter/control-plane".into()));
        assert_eq!(data(&["--root", ""]), None);
        assert_eq!(data(&["--account", "1"]), None);
    }
}
