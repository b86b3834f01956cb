//! The command line of runc: `lighter-runtime [global options] COMMAND [options] <container-id>`.
//!
//! Options may follow the container id. Our own failures go to standard error, and to the `--log` file
//! as the last entry, where containerd's shim and dockerd look for it; they end with exit code 1, and
//! with 3 for a command that is none.

mod arguments;
mod checkpoint;
mod console;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod help;
mod kill;
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
mod verbs;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use self::arguments::{Line, Misuse, Verb, choice};
use crate::rootless::{self, Rootless};
use crate::{container, seal};

/// A command line as its author meant it.
#[derive(Debug)]
struct Arguments {
    debug: bool,
    log: Option<PathBuf>,
    log_format: log::Format,
    root: Option<PathBuf>,
    systemd_cgroup: bool,
    rootless: Rootless,
    criu: PathBuf,
    command: Command,
}

#[derive(Debug)]
enum Command {
    Checkpoint(Box<checkpoint::Arguments>),
    Create(create::Common),
    Delete(delete::Arguments),
    Events(events::Arguments),
    Exec(exec::Arguments),
    Features,
    Help(Option<&'static Verb>),
    Kill(kill::Arguments),
    List(list::Arguments),
    Pause(String),
    Ps(ps::Arguments),
    Restore(Box<restore::Arguments>),
    Resume(String),
    Run(run::Arguments),
    Spec(spec::Arguments),
    Start(String),
    State(String),
    Update(Box<update::Arguments>),
    Version,
}

/// A command line that cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{}{misuse}", verb.map(|verb| format!("{verb}: ")).unwrap_or_default())]
struct Unusable {
    verb: Option<&'static str>,
    misuse: Misuse,
}

/// Reads the words after the program's name.
fn parse(words: impl Iterator<Item = OsString>) -> Result<Arguments, Unusable> {
    let mut line = Line::default();
    let read = line.sort(words).and_then(|()| Arguments::read(&line));
    read.map_err(|misuse| Unusable { verb: line.verb.map(|verb| verb.name), misuse })
}

impl Arguments {
    fn read(line: &Line) -> Result<Self, Misuse> {
        let Line { global, verb, own, asks_for_help } = line;
        let command = match verb {
            _ if *asks_for_help => Command::Help(*verb),
            _ if global.is_on("version") => Command::Version,
            Some(verb) => (verb.read)(own)?,
            None => Command::Help(None),
        };
        let formats = [("text", log::Format::Text), ("json", log::Format::Json)];
        let format = global.parsed("log-format", |text| choice(&formats, text))?;
        Ok(Self {
            debug: global.is_on("debug"),
            log: global.path("log")?,
            log_format: format.unwrap_or(log::Format::Text),
            root: global.path("root")?,
            systemd_cgroup: global.is_on("systemd-cgroup"),
            rootless: global.parsed("rootless", str::parse)?.unwrap_or_default(),
            criu: global.path("criu")?.unwrap_or_else(|| "criu".into()),
            command,
        })
    }
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
    let arguments = match parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(unusable) => return refuse(&unusable),
    };
    // Help is given even where a log cannot be written.
    let file = arguments.log.as_deref();
    let file = file.filter(|_| !matches!(arguments.command, Command::Help(_)));
    let sink = match log::install(file, arguments.log_format, arguments.debug) {
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
    let own = if arguments.root.is_none() { rootless::state_root() } else { None };
    let begins = matches!(arguments.command, Command::Create(_) | Command::Run(_));
    if let Some(own) = own.as_ref().filter(|_| begins) {
        make_state_root(own)?;
    }
    let root = arguments.root.or(own).unwrap_or_else(|| PathBuf::from("/run/lighter-runtime"));
    // Not the arguments: an environment may hold secrets.
    ::log::debug!("lighter-runtime {}, state root {}", env!("CARGO_PKG_VERSION"), root.display());
    let systemd = arguments.systemd_cgroup;
    match arguments.command {
        Command::Checkpoint(checkpoint) => checkpoint::run(&root, &arguments.criu, &checkpoint),
        Command::Create(mut create) => {
            create.rootless = arguments.rootless;
            create::run(&root, systemd, create)
        }
        Command::Delete(delete) => delete::run(&root, delete),
        Command::Events(events) => events::run(&root, &events),
        Command::Exec(exec) => exec::run(&root, &exec),
        Command::Features => features::run(),
        Command::Help(verb) => print(&help::text(verb)),
        Command::Kill(kill) => kill::run(&root, kill),
        Command::List(list) => list::run(&root, &list),
        Command::Pause(id) => pause::run(&root, &id),
        Command::Ps(ps) => ps::run(&root, ps),
        Command::Restore(restore) => restore::run(&root, systemd, &arguments.criu, *restore),
        Command::Resume(id) => resume::run(&root, &id),
        Command::Run(mut run) => {
            run.common.rootless = arguments.rootless;
            run::run(&root, systemd, run)
        }
        Command::Spec(spec) => spec::run(&spec),
        Command::Start(id) => start::run(&root, &id),
        Command::State(id) => state::run(&root, &id),
        Command::Update(update) => update::run(&root, *update),
        Command::Version => print(&version()),
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

/// Says what is wrong with the command line; the code to end with, which is runc's.
fn refuse(unusable: &Unusable) -> u8 {
    let message = unusable.to_string();
    let verb = unusable.verb.map(|verb| format!(" {verb}")).unwrap_or_default();
    log::to_standard_error(&format!("{message}\nTry 'lighter-runtime{verb} --help'."));
    log::misuse(&message);
    if matches!(unusable.misuse, Misuse::NoVerb { .. }) { 3 } else { 1 }
}

/// In a user's runtime directory with the sticky bit, without which it might be cleaned away.
fn make_state_root(root: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.and_then(|()| std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1700)))
        .map_err(|source| Error::StateRoot { path: root.to_owned(), source })
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Unusable> {
        super::parse(words.iter().map(Into::into))
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

    #[test]
    fn says_what_is_wrong_and_where() {
        for (words, message) in [
            (&["fly", "id"][..], "No help topic for 'fly'"),
            (&["help", "fly"], "No help topic for 'fly'"),
            (&["--nope"], "unknown option --nope"),
            (&["--log-format", "xml"], "\"xml\" is not a value of --log-format: give text or json"),
            (&["--version=x"], "\"x\" is not a value of --version: give true or false"),
            (&["state"], "state: <container-id> is missing"),
            (&["state", "a", "b"], "state: unexpected argument \"b\""),
            (&["state", "-x", "a"], "state: unknown option -x"),
            (&["create", "id", "--bundle"], "create: --bundle lacks its value"),
            (&["create", "id", "--bundle="], "create: --bundle lacks its value"),
            (&["create", "--rootless", "true", "id"], "create: unknown option --rootless"),
            (
                &["run", "--preserve-fds", "-1", "id"],
                "run: \"-1\" is not a value of --preserve-fds: invalid digit found in string",
            ),
            (
                &["ps", "-f", "xml", "id"],
                "ps: \"xml\" is not a value of --format: give table or json",
            ),
        ] {
            assert_eq!(parse(words).unwrap_err().to_string(), message, "{words:?}");
        }
    }

    #[test]
    fn words_that_are_no_text_are_paths_only() {
        use std::os::unix::ffi::OsStringExt as _;
        let odd = OsString::from_vec(vec![b'-', 0xff]);
        let parse = |words: &[&str]| {
            super::parse(words.iter().map(Into::into).chain([odd.clone()])).map(|_| ())
        };
        assert!(parse(&["create", "id", "--bundle"]).is_ok());
        assert!(parse(&["ps", "id"]).is_ok());
        for words in
            [&["exec", "id"][..], &["state", "--"], &["update", "--memory"], &["state"], &[]]
        {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_last_of_an_option_counts() {
        let arguments =
            parse(&["--root", "/a", "--debug", "state", "id", "--debug=0", "--root=/b"]);
        let arguments = arguments.unwrap();
        assert_eq!((arguments.root, arguments.debug), (Some("/b".into()), false));
        let arguments = parse(&["--rootless=false", "spec", "--rootless"]).unwrap();
        assert_eq!(arguments.rootless, Rootless::False);
    }

    /// A name that is in no table would never be found.
    #[test]
    fn verbs_ask_for_options_that_they_have() {
        for verb in &verbs::VERBS {
            let words: Vec<&str> = [verb.name, "id"][..1 + verb.words.len().min(1)].to_vec();
            assert!(parse(&words).is_ok(), "{words:?}");
            assert!(help::text(Some(verb)).contains(verb.about));
        }
        assert!(matches!(parse(&["help", "ps"]).unwrap().command, Command::Help(Some(_))));
        assert!(matches!(parse(&["ps", "-h"]).unwrap().command, Command::Help(Some(_))));
        assert!(matches!(parse(&["--debug"]).unwrap().command, Command::Help(None)));
    }
}
