//! The command line of runc: `lighter-runtime [global options] COMMAND [options] <container-id>`.
//!
//! Options may follow the container id. Our own failures go to standard error, and to the `--log` file
//! as the last entry, where containerd's shim and dockerd look for it; they end with exit code 1, and
//! with 3 for a command that is none.

mod checkpoint;
mod console;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod lazy;
mod list;
mod log;
pub mod monitor;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod update;

use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::lazy::Lazy;
use crate::rootless::{self, Rootless};
use crate::{container, seal};

/// OCI container runtime.
#[derive(Debug, Parser)]
#[command(name = "lighter-runtime", disable_version_flag = true, arg_required_else_help = true)]
struct Arguments {
    /// Log at level debug
    #[arg(long, global = true)]
    debug: bool,
    /// File to append log entries to; standard error by default
    #[arg(long, global = true, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Form of the log entries
    #[arg(long, global = true, value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    /// Directory for the state of containers; should be on a tmpfs
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Have systemd make the cgroup of a new container; cgroupsPath is slice:prefix:name then
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Whether cgroups are done without where they are not permitted and no limit is asked for: true,
    /// false, or auto, which is for all but the root of the host
    // Not global, as the others: `spec` has an option of that name.
    #[arg(long, value_name = "BOOL", default_value = "auto")]
    rootless: Rootless,
    /// Name or path of the criu program, for checkpoint and restore
    #[arg(long, global = true, value_name = "FILE", default_value = "criu")]
    criu: PathBuf,
    /// Print the version
    #[arg(long, short)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Save the state of a running container
    Checkpoint(Box<Lazy<checkpoint::Arguments>>),
    /// Create a container
    Create(Lazy<create::Arguments>),
    /// Delete any resources held by the container
    Delete(Lazy<delete::Arguments>),
    /// Display events of the container: OOM notifications and usage statistics
    Events(Lazy<events::Arguments>),
    /// Execute a further process in a container
    Exec(Lazy<exec::Arguments>),
    /// Show the enabled features as JSON
    Features,
    /// Send a signal to the container's init process
    Kill(Lazy<kill::Arguments>),
    /// Suspend all processes of a container
    Pause(Lazy<pause::Arguments>),
    /// Restore a container from a checkpoint
    Restore(Box<Lazy<restore::Arguments>>),
    /// Resume all processes of a paused container
    Resume(Lazy<resume::Arguments>),
    /// List the containers below the state root
    List(Lazy<list::Arguments>),
    /// Display the processes inside a container
    Ps(Lazy<ps::Arguments>),
    /// Create and run a container
    Run(Lazy<run::Arguments>),
    /// Create a starter config.json
    Spec(Lazy<spec::Arguments>),
    /// Execute the user defined process in a created container
    Start(Lazy<start::Arguments>),
    /// Output the state of a container
    State(Lazy<state::Arguments>),
    /// Update the resource limits of a container
    Update(Box<Lazy<update::Arguments>>),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Container(#[from] container::Error),
    #[error(transparent)]
    Seal(#[from] seal::Error),
    #[error(transparent)]
    Console(#[from] console::Error),
    #[error(transparent)]
    Events(#[from] events::Failure),
    #[error(transparent)]
    List(#[from] list::Unreadable),
    #[error(transparent)]
    Ps(#[from] ps::Failure),
    #[error(transparent)]
    Spec(#[from] spec::Failure),
    #[error("exec failed")]
    Exec(#[source] Box<Error>),
    #[error(transparent)]
    Process(#[from] exec::Invalid),
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Invalid),
    #[error(
        "descriptor {number} is not open, or marked close-on-exec; --preserve-fds and LISTEN_FDS \
         pass {count} on from 3"
    )]
    Descriptor { number: u32, count: u32 },
    #[error("find the current directory; give --bundle")]
    CurrentDirectory(#[source] std::io::Error),
    #[error("write the pid file {}", path.display())]
    PidFile { path: PathBuf, source: std::io::Error },
    #[error("open the log file {}", path.display())]
    LogFile { path: PathBuf, source: std::io::Error },
    #[error("make {}; XDG_RUNTIME_DIR must be writable by the user, or give --root", path.display())]
    StateRoot { path: PathBuf, source: std::io::Error },
    #[error("write the answer as JSON")]
    Json(#[source] serde_json::Error),
    #[error("write to standard output")]
    Output(#[source] std::io::Error),
    #[error(
        "{signal:?} is no signal: give a number from 0 to 64 or a name such as TERM or SIGKILL"
    )]
    Signal { signal: String },
    #[error("wait for the container's process")]
    Wait(#[source] nix::errno::Errno),
    #[error(transparent)]
    Update(#[from] update::Error),
    #[error("become a process that cannot be dumped")]
    Dumpable(#[source] nix::errno::Errno),
}

impl Error {
    /// The exit code: 1, and as runc 255 where 1 may be the process's own.
    fn code(&self) -> u8 {
        if matches!(self, Self::Exec(_)) { 255 } else { 1 }
    }
}

/// Runs the command that the process's arguments name; the code to end with.
pub fn main() -> u8 {
    let code = dispatch();
    // What lacks the end of its line; there is nobody to tell a failure to.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    code
}

fn dispatch() -> u8 {
    // The monitor's verb is hidden, and its process small: it does without the parser.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "monitor") {
        return monitor::main(words);
    }
    // A verb that clones a process seals us first, which executes us anew: now, before the arguments
    // are parsed for nothing. A word that only looks like the verb costs a copy; and a failure is
    // reported by the verb, which tries again.
    if std::env::args_os()
        .skip(1)
        .any(|word| ["create", "exec", "restore", "run"].iter().any(|verb| word == *verb))
    {
        let _ = seal::ensure();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                return help().unwrap_or(1);
            }
            if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
                return unknown(&error);
            }
            let asked_for_help = !error.use_stderr();
            // Nothing better can be done where even this cannot be printed.
            let _ = error.print();
            if !asked_for_help {
                log::misuse(&error.to_string());
            }
            return u8::from(!asked_for_help);
        }
    };
    let sink = match log::install(arguments.log.as_deref(), arguments.log_format, arguments.debug) {
        Ok(sink) => sink,
        Err(error) => {
            log::to_standard_error(&describe(&error));
            return 1;
        }
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let message = describe(&error);
            ::log::error!("{message}");
            // As runc: once into the log, once for the person.
            if sink == log::Sink::File {
                log::to_standard_error(&message);
            }
            error.code()
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, Error> {
    if arguments.version {
        return print(&version());
    }
    let own = if arguments.root.is_none() { rootless::state_root() } else { None };
    let begins = matches!(arguments.command, Some(Command::Create(_) | Command::Run(_)));
    if let Some(own) = own.as_ref().filter(|_| begins) {
        make_state_root(own)?;
    }
    let root = arguments.root.or(own).unwrap_or_else(|| PathBuf::from("/run/lighter-runtime"));
    // Not the arguments: an environment may hold secrets.
    ::log::debug!("lighter-runtime {}, state root {}", env!("CARGO_PKG_VERSION"), root.display());
    let systemd = arguments.systemd_cgroup;
    match arguments.command {
        Some(Command::Checkpoint(checkpoint)) => {
            checkpoint::run(&root, &arguments.criu, &checkpoint.0)
        }
        Some(Command::Create(Lazy(mut create))) => {
            create.common.rootless = arguments.rootless;
            create::run(&root, systemd, create)
        }
        Some(Command::Delete(Lazy(delete))) => delete::run(&root, delete),
        Some(Command::Events(Lazy(events))) => events::run(&root, &events),
        Some(Command::Exec(Lazy(exec))) => exec::run(&root, &exec),
        Some(Command::Features) => features::run(),
        Some(Command::Kill(Lazy(kill))) => kill::run(&root, kill),
        Some(Command::Pause(Lazy(pause))) => pause::run(&root, pause),
        Some(Command::Restore(restore)) => {
            restore::run(&root, systemd, &arguments.criu, (*restore).0)
        }
        Some(Command::Resume(Lazy(resume))) => resume::run(&root, resume),
        Some(Command::List(Lazy(list))) => list::run(&root, &list),
        Some(Command::Ps(Lazy(ps))) => ps::run(&root, ps),
        Some(Command::Run(Lazy(mut run))) => {
            run.common.rootless = arguments.rootless;
            run::run(&root, systemd, run)
        }
        Some(Command::Spec(Lazy(spec))) => spec::run(&spec),
        Some(Command::Start(Lazy(start))) => start::run(&root, start),
        Some(Command::State(Lazy(state))) => state::run(&root, state),
        Some(Command::Update(update)) => update::run(&root, (*update).0),
        None => help(),
    }
}

/// In the lines of runc's, which containerd, dockerd and Podman read.
fn version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    // dockerd shows the commit; packagers of runc, who have none, put their version there.
    let commit = option_env!("LIGHTER_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.unwrap_or(version);
    let spec = crate::spec::VERSION;
    format!("lighter-runtime version {version}\ncommit: {commit}\nspec: {spec}\n")
}

/// Refuses a command that is none, in runc's words and with its code.
fn unknown(error: &clap::Error) -> u8 {
    let word = error.get(clap::error::ContextKind::InvalidSubcommand);
    let word = word.map(ToString::to_string).unwrap_or_default();
    let message = format!("No help topic for '{word}'");
    log::to_standard_error(&message);
    log::misuse(&message);
    3
}

/// In a user's runtime directory with the sticky bit, without which it might be cleaned away.
fn make_state_root(root: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.and_then(|()| std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1700)))
        .map_err(|source| Error::StateRoot { path: root.to_owned(), source })
}

/// What runc says when it is given nothing to do.
fn help() -> Result<u8, Error> {
    print(&Arguments::command().render_help().to_string())
}

fn print(text: &str) -> Result<u8, Error> {
    use std::io::Write as _;
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(Error::Output)?;
    Ok(0)
}

/// The error and its causes, colon-separated.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["lighter-runtime"].iter().chain(words))
    }

    #[test]
    fn accepts_what_callers_of_runc_write() {
        for words in [
            &[
                "--root",
                "/r",
                "--log",
                "/l",
                "--log-format",
                "json",
                "create",
                "--bundle",
                "/b",
                "--pid-file",
                "/p",
                "id",
            ][..],
            &["create", "id", "--bundle", "/b"],
            &[
                "create",
                "-b",
                "/b",
                "--console-socket",
                "/s",
                "--preserve-fds",
                "2",
                "--no-pivot",
                "--no-new-keyring",
                "id",
            ],
            &["run", "-d", "--keep", "--no-subreaper", "id"],
            &["start", "id"],
            &["state", "id"],
            &["kill", "id", "KILL"],
            &["kill", "--all", "id", "9"],
            &["kill", "-a", "id"],
            &["delete", "--force", "id"],
            &["exec", "--process", "/p", "--detach", "--pid-file", "/f", "id"],
            &["exec", "-t", "-u", "1:2", "id", "sh", "-c", "--unknown"],
            &["delete", "id", "-f"],
            &["kill", "id", "KILL", "--all"],
            &["run", "id", "--detach", "--bundle", "/b"],
            &["--systemd-cgroup=false", "state", "id"][1..],
            &["pause", "id"],
            &["resume", "id"],
            &["update", "--memory", "64m", "--memory-swap", "-1", "--cpu-quota", "-1", "id"],
            &["update", "id", "-r", "-"],
            &[
                "update",
                "--resources",
                "/f",
                "--blkio-weight",
                "500",
                "--cpu-rt-runtime",
                "-1",
                "id",
            ],
            &["update", "--pids-limit", "-1", "--cpuset-cpus", "0-1", "--cpu-idle", "1", "id"],
            &["list", "-q", "--format", "json"],
            &["ps", "-f", "json", "id"],
            &["ps", "id", "-o", "pid", "--format"],
            &["events", "id", "--stats"],
            &["events", "--interval", "1s", "id"],
            &["features"],
            &["spec", "-b", "/b", "--rootless"],
            &["--rootless=false", "spec"],
            &["checkpoint", "--image-path", "/i", "--manage-cgroups-mode", "soft", "id"],
            &["--criu", "/c", "restore", "-d", "-b", "/b", "--pid-file", "/p", "id"],
            &["--rootless", "true", "create", "id"],
            &["--version"],
            &["-v"],
        ] {
            assert!(parse(words).is_ok(), "{words:?}: {:?}", parse(words));
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for words in
            [&["fly", "id"][..], &["state"], &["state", "a", "b"], &["create", "--colour", "id"]]
        {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
