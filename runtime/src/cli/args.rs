//! The command line's grammar, runc's: global options, a verb, its options and arguments in any order.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// OCI container runtime
#[derive(Debug, Parser)]
#[command(name = "lighter-runtime", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    /// Print the version
    #[arg(long, short = 'v')]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options before the verb.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory for the state of containers
    #[arg(long, default_value = "/run/lighter-runtime", value_name = "DIR")]
    pub root: PathBuf,
    /// File to append log messages to, instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Format of log messages
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Log more
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the cgroups (not supported yet)
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Ignore failures that come from missing privilege: true, false or auto (true is not supported yet)
    #[arg(long, value_name = "BOOL")]
    pub rootless: Option<String>,
}

/// Format of log messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container
    Create(CreateArgs),
    /// Run the program of a created container
    Start { id: String },
    /// Print the state of a container
    State { id: String },
    /// Send a signal to a container's init process
    Kill {
        id: String,
        /// Name or number
        #[arg(default_value = "SIGTERM")]
        signal: String,
        /// To every process of the container
        #[arg(long, short)]
        all: bool,
    },
    /// Remove a container
    Delete {
        id: String,
        /// Kill it first if it runs; it is no error if it does not exist
        #[arg(long, short)]
        force: bool,
    },
    /// Create a container and run its program
    Run(RunArgs),
}

/// Options of `create`, and of `run`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    pub id: String,
    /// Directory with config.json
    #[arg(long, short, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// Unix socket that receives the master of the container's terminal
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// File to write the init process's pid to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Pass on this many descriptors beside the standard ones
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: u32,
    /// Move the root instead of pivoting, for hosts that run from a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Leave the container running
    #[arg(long, short)]
    pub detach: bool,
    /// Do not delete the container when it has ended
    #[arg(long)]
    pub keep: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn the_grammar_holds_together() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn options_may_come_on_either_side_of_the_id() {
        for line in ["r create -b /b --pid-file p x", "r create x --bundle=/b --pid-file p"] {
            let Some(Command::Create(arguments)) = parse(line).command else { panic!("{line}") };
            assert_eq!((arguments.id.as_str(), arguments.bundle.to_str()), ("x", Some("/b")));
        }
        let Some(Command::Kill { signal, all, .. }) = parse("r kill x KILL -a").command else {
            panic!("kill")
        };
        assert!(signal == "KILL" && all);
    }

    #[test]
    fn what_containerd_and_podman_type() {
        let cli = parse(
            "r --root /r --log /l/log.json --log-format json --debug create --bundle /b --pid-file \
             /p/init.pid --console-socket /s --no-pivot --preserve-fds 2 id",
        );
        assert_eq!(cli.global.log_format, LogFormat::Json);
        assert!(matches!(
            parse("r --root=/r delete --force id").command,
            Some(Command::Delete { force: true, .. })
        ));
        assert!(matches!(
            parse("r kill --all id 9").command,
            Some(Command::Kill { all: true, .. })
        ));
        assert!(parse("r --version").version);
    }
}
