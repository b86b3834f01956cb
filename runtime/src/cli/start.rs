//! `start`: the user's program of a created container.

use std::path::Path;

use clap::Args;

use super::Error;
use crate::container::Container;
use crate::seal;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "container-id")]
    id: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    let mut container = Container::load(root, &arguments.id)?;
    if container.has_start_hooks() {
        seal::ensure()?;
    }
    let listener = container.listener()?;
    container.start()?;
    if let Some(listener) = listener {
        container.until_ready(&listener);
    }
    Ok(0)
}
