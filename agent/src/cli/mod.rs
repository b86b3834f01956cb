//! The command line: clients of the agent of one root, one file per verb.
//!
//! Where a command has a counterpart in Docker, its flags, output and exit codes are Docker's.
//! Commands speak to the agent's socket; where no agent runs they embed one for as long as they
//! last ([`connect`]). What people read goes to standard error, what programs read to standard
//! output. A reader that goes away (`| head`) is no failure.

mod agent;
mod agents;
mod connect;
mod deregister;
mod exec;
mod human;
mod image;
mod inspect;
mod listing;
mod login;
mod logs;
mod output;
mod printer;
mod progress;
mod ps;
mod rm;
mod run;
mod signals;
mod stop;
mod template;
mod up;
mod users;
mod validate;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use protocol::taskdef::{Problems, TaskDefinition};

use crate::api::client::ClientError;
use crate::config::{Config, ConfigError, LogLevel};
pub use crate::error::chain;
use crate::layout::Layout;

use agents::{AGENTS, ask};
use connect::Connection;

/// Exit code of errors of ours where a container's code is awaited, and of wrong usage.
const OURS: u8 = 125;

/// Run ECS task definitions on this host.
#[derive(Debug, Parser)]
#[command(
    name = "lighter",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Keep configuration, state and sockets below DIR
    #[arg(long, global = true, env = "LIGHTER_ROOT", value_name = "DIR", hide_env_values = true)]
    root: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the task that FILE defines
    Run(run::Args),
    /// Run the host agent
    Agent(agent::Args),
    /// Run a control plane and an agent on this host, and print how the aws CLI reaches them
    Up(up::Args),
    /// End what `up` started: the control plane, the tasks of this host, the agent
    Down,
    /// Show whether the control plane and the agent are up
    Status,
    /// List containers
    Ps(ps::Args),
    /// Show the output of a task
    Logs(logs::Args),
    /// Stop tasks
    Stop(stop::Args),
    /// Run a command in a running container
    Exec(exec::Args),
    /// Show all that is known of tasks, as JSON
    Inspect(inspect::Args),
    /// Remove stopped tasks and their logs
    Rm(rm::Args),
    /// Manage images
    #[command(subcommand, arg_required_else_help = true)]
    Image(image::Verb),
    /// Take this host out of its cluster
    Deregister,
    /// Check task definitions
    Validate(validate::Args),
    /// Print the version
    Version,
    /// Print an example of ecs.config
    #[command(hide = true)]
    ConfigExample,
}

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("use root directory {path}")]
    Root { path: PathBuf, source: io::Error },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("write to standard output")]
    Output { source: io::Error },
    #[error("{file} is refused:\n{problems}")]
    Definition { file: String, problems: Problems },
    #[error("start the threads of this program")]
    Threads { source: io::Error },
    #[error("watch for signals")]
    Signals { source: io::Error },
    #[error("start the agent in the background from {program}")]
    Background { program: PathBuf, source: io::Error },
    #[error("the agent in the background did not answer within {seconds} s: see {log}")]
    BackgroundSilent { seconds: u64, log: PathBuf },
    #[error("run the agent")]
    Daemon(#[source] Box<crate::daemon::Error>),
    /// It can be no member of its cluster.
    #[error(transparent)]
    Expelled(std::sync::Arc<crate::registration::Terminal>),
    #[error(transparent)]
    Exec(Box<exec::ExecError>),
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    #[error("print as JSON")]
    Json { source: serde_json::Error },
    /// It closed its answer in order before all was said.
    #[error("{what}: the agent ended meanwhile")]
    Ended { what: String },
    /// A whole sentence of a verb.
    #[error("{0}")]
    Said(String),
}

impl From<crate::daemon::Error> for Error {
    fn from(error: crate::daemon::Error) -> Self {
        Self::Daemon(Box::new(error))
    }
}

impl From<exec::ExecError> for Error {
    fn from(error: exec::ExecError) -> Self {
        Self::Exec(Box::new(error))
    }
}

/// An error and what the process exits with.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub error: Error,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: 1, error: error.into() }
    }
}

impl Failure {
    fn said(text: impl Into<String>) -> Self {
        Self::from(Error::Said(text.into()))
    }

    fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    fn ended(what: impl Into<String>) -> Self {
        Self::from(Error::Ended { what: what.into() })
    }

    /// The agent ended before it had answered.
    fn is_lost_agent(&self) -> bool {
        match &self.error {
            Error::Client(error) => error.is_lost(),
            error => matches!(error, Error::Ended { .. }),
        }
    }

    /// Nobody reads our output any more.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(&self.error, Error::Output { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Cli {
    /// Parses the arguments. The error holds what to print, where (standard error?), and the exit
    /// code.
    ///
    /// # Errors
    /// For wrong usage, and when help or the version was asked for.
    pub fn from_arguments(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, (String, bool, u8)> {
        Self::try_parse_from(unfold(arguments)).map_err(|error| {
            let text = error.render().to_string();
            if error.use_stderr() {
                let text = text
                    .strip_prefix("error: ")
                    .map_or(text.clone(), |text| format!("lighter: {text}"));
                (text, true, OURS)
            } else {
                (text, false, 0)
            }
        })
    }

    /// What the program says about itself on standard error: an agent as it is configured, another
    /// command as its environment says, else only warnings.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn log_level(&self) -> Result<LogLevel, Failure> {
        match &self.verb {
            Verb::Agent(arguments) if arguments.is_daemon() => {
                Ok(configuration(&self.layout()?)?.log_level)
            }
            _ if std::env::var_os("ECS_LOGLEVEL").is_some_and(|level| !level.is_empty()) => {
                // Without the file, which this command may not be able to read.
                Ok(Config::load(Path::new("/nonexistent"), std::env::vars_os())?.0.log_level)
            }
            _ => Ok(LogLevel::Warn),
        }
    }

    /// Runs the command; the number is the process's exit code.
    ///
    /// # Errors
    /// What to print, and the exit code.
    pub async fn run(self) -> Result<u8, Failure> {
        match &self.verb {
            Verb::Version => {
                output::print(&format!("lighter {}\n", env!("CARGO_PKG_VERSION")))?;
                return Ok(0);
            }
            Verb::ConfigExample => {
                output::print(&crate::config::example())?;
                return Ok(0);
            }
            Verb::Validate(arguments) => return validate::run(arguments),
            _ => {}
        }
        let layout = self.layout().map_err(|failure| match self.verb {
            Verb::Run(_) | Verb::Exec(_) => failure.with_code(OURS),
            _ => failure,
        })?;
        match self.verb {
            Verb::Run(arguments) => run::run(arguments, layout).await,
            Verb::Agent(arguments) => agent::run(arguments, layout).await,
            Verb::Up(arguments) => up::run(arguments, layout).await,
            Verb::Down => up::down(layout).await,
            Verb::Status => up::status(layout).await,
            Verb::Exec(arguments) => exec::run(arguments, layout).await,
            Verb::Ps(a) => with_agent(AGENTS, layout, async |c| ps::run(&a, c).await).await,
            Verb::Logs(a) => with_agent(1, layout, async |c| logs::run(&a, c).await).await,
            Verb::Stop(a) => {
                let mut stopping = stop::Stopping::default();
                let run = async |c: &Connection| stop::run(&a, &mut stopping, c).await;
                with_agent(AGENTS, layout, run).await
            }
            Verb::Inspect(a) => {
                with_agent(AGENTS, layout, async |c| inspect::run(&a, c).await).await
            }
            Verb::Rm(a) => {
                let mut removing = rm::Removing::default();
                let run = async |c: &Connection| rm::run(&a, &mut removing, c).await;
                with_agent(AGENTS, layout, run).await
            }
            Verb::Deregister => with_agent(1, layout, deregister::run).await,
            Verb::Image(a) => {
                let most = if a.can_be_repeated() { AGENTS } else { 1 };
                let asked = image::Asked::default();
                with_agent(most, layout, async |c| image::run(a.clone(), &asked, c).await).await
            }
            Verb::Version | Verb::ConfigExample | Verb::Validate(_) => Ok(0),
        }
    }

    fn layout(&self) -> Result<Layout, Failure> {
        let Some(root) = self.root.as_ref().filter(|root| !root.as_os_str().is_empty()) else {
            return Ok(Layout::new(None));
        };
        let root = std::fs::create_dir_all(root)
            .and_then(|()| std::fs::canonicalize(root))
            .map_err(|source| Error::Root { path: root.clone(), source })?;
        Ok(Layout::new(Some(root)))
    }
}

/// Docker's short forms of `image` verbs.
const SHORT: &[(&str, &str)] = &[
    ("history", "history"),
    ("images", "ls"),
    ("load", "load"),
    ("pull", "pull"),
    ("push", "push"),
    ("rmi", "rm"),
    ("save", "save"),
    ("tag", "tag"),
];

/// `lighter pull …` is `lighter image pull …`.
fn unfold(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut at = 1;
    while let Some(argument) =
        arguments.get(at).filter(|argument| argument.as_encoded_bytes().starts_with(b"-"))
    {
        at += if argument == "--root" { 2 } else { 1 };
    }
    let short = arguments.get(at).and_then(|verb| SHORT.iter().find(|(short, _)| verb == short));
    if let Some((_, verb)) = short {
        arguments.splice(at..=at, ["image".into(), (*verb).into()]);
    }
    arguments
}

/// Runs a command that ends by itself or with the first signal; up to `most` times, each time with
/// another agent.
async fn with_agent(
    most: u32,
    layout: Layout,
    mut command: impl AsyncFnMut(&Connection) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let mut signals = signals::Signals::open()?;
    let open = async || Connection::open(layout.clone()).await;
    let (connection, code) = ask(most, open, async |connection| {
        tokio::select! {
            result = command(connection) => result,
            signal = signals.next() => Ok(128 + signal),
        }
    })
    .await?;
    connection.close_after(Ok(code)).await
}

/// The configuration of an agent in this process. What has no effect is said in its log.
fn configuration(layout: &Layout) -> Result<Config, Failure> {
    let (config, warnings) = Config::load(&layout.config(), std::env::vars_os())?;
    for warning in warnings {
        tracing::info!("{warning}");
    }
    Ok(config)
}

/// Reads and validates a definition; `-` is standard input.
fn read_definition(file: &Path) -> Result<TaskDefinition, Error> {
    let (text, name) = if file == Path::new("-") {
        (io::read_to_string(io::stdin().lock()), "standard input".to_owned())
    } else {
        (std::fs::read_to_string(file), file.display().to_string())
    };
    let text = text.map_err(|source| Error::Read { path: PathBuf::from(&name), source })?;
    protocol::taskdef::parse(&text).map_err(|problems| Error::Definition { file: name, problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_unfold() {
        for (short, long) in [
            ("lighter pull a", "lighter image pull a"),
            ("lighter --root /x images -q", "lighter --root /x image ls -q"),
            ("lighter --root=/x rmi -f a", "lighter --root=/x image rm -f a"),
            ("lighter image pull a", "lighter image pull a"),
            ("lighter run pull", "lighter run pull"),
            ("lighter", "lighter"),
            ("lighter --root", "lighter --root"),
        ] {
            let words = unfold(short.split(' ').map(OsString::from));
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            assert_eq!(words.join(" "), long);
        }
    }
}
