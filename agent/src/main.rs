//! `lighter`: the host agent and the tool people type.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program's own words")]

use std::process::ExitCode;
use std::time::Duration;

use agent::cli::{Cli, Failure, chain};
use agent::config::LogLevel;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let cli = match Cli::from_arguments(std::env::args_os()) {
        Ok(cli) => cli,
        Err((text, to_stderr, code)) => {
            if to_stderr {
                eprint!("{text}");
            } else {
                print!("{text}");
            }
            return code.into();
        }
    };
    match run(cli) {
        Ok(code) => code.into(),
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lighter: {}", chain(&failure.error));
            failure.code.into()
        }
    }
}

fn run(cli: Cli) -> Result<u8, Failure> {
    agent::sys::return_large_blocks();
    log(cli.log_level()?);
    // Installed once, before anything speaks TLS; fails only if that was done.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| agent::cli::Error::Threads { source })?;
    let result = runtime.block_on(cli.run());
    // What still blocks then is a read of standard input.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

fn log(level: LogLevel) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::None => LevelFilter::OFF,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
}
