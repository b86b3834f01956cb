//! `lighter-runtime`: the OCI runtime's command line, and the task monitor under a hidden verb.

use std::process::ExitCode;

use clap::Parser as _;
use runtime::cli::{self, args::Cli};

/// Exit code of every failure of our own, as runc's.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    // Looked at before the parser, whose tables would be a good part of a monitor's memory.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|verb| verb == "monitor") {
        return cli::monitor::main(words);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let failed = error.use_stderr();
            // Broken pipes included: there is nobody to tell.
            let _ = error.print();
            return if failed { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS };
        }
    };
    if cli.version {
        print_line(&format!(
            "lighter-runtime version {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            runtime::spec::VERSION
        ));
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        print_error("no command; see lighter-runtime --help");
        return ExitCode::from(FAILURE);
    };
    match cli::execute(&cli.global, command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print_error(&cli::chain(&error));
            ExitCode::from(FAILURE)
        }
    }
}

#[allow(clippy::print_stdout)] // the one place that prints what was asked for
fn print_line(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr)] // the one place that prints the chain
fn print_error(text: &str) {
    eprintln!("lighter-runtime: {text}");
}
