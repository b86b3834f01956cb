//! `delete`: everything that a container holds.

use std::path::Path;

use clap::Args;

use super::Error;
use crate::container::{self, Container};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Kill a container that still runs; a missing one is no error
    #[arg(long, short)]
    force: bool,
    /// Name of the container
    #[arg(value_name = "container-id")]
    id: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    let deleted =
        Container::load(root, &arguments.id).and_then(|mut one| one.delete(arguments.force));
    match deleted {
        // Never there, or another delete was faster.
        Err(container::Error::NotFound { .. }) if arguments.force => Ok(0),
        other => Ok(other.map(|()| 0)?),
    }
}
