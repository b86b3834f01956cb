//! `lighter-control-plane`: the self-hosted ECS control plane.

#![allow(clippy::print_stderr, reason = "the program's own words")]

use std::process::ExitCode;

use clap::Parser;
use control_plane::cli::Cli;
use protocol::error::chain;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lighter-control-plane: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
