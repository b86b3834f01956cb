//! `resume`: every process of a paused container goes on.

use std::path::Path;

use clap::Args;

use super::Error;
use crate::container::Container;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "container-id")]
    id: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    Container::load(root, &arguments.id)?.resume()?;
    Ok(0)
}
