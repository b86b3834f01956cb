//! `state`: the state document of the runtime specification.

use std::path::Path;

use clap::Args;

use super::{Error, print};
use crate::container::Container;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "container-id")]
    id: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    let state = Container::load(root, &arguments.id)?.state()?;
    let mut text = serde_json::to_string_pretty(&state).map_err(Error::Json)?;
    text.push('\n');
    print(&text)
}
