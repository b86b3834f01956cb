//! `lighter-control-plane`: the self-hosted ECS control plane.
//!
//! It has no service yet; it tells its version, and refuses everything else.

use clap::Parser;

/// Self-hosted control plane of Lighter: ECS API, scheduler, agent sessions.
#[derive(Debug, Parser)]
#[command(name = "lighter-control-plane", version, arg_required_else_help = true)]
struct Arguments {}

fn main() {
    let Arguments {} = Arguments::parse();
}
