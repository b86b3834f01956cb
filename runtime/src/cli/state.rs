//! `state`: the state document of the runtime specification, with what runc adds.

use std::path::Path;

use clap::Args;

use super::list::Entry;
use super::{Error, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Name of the container
    #[arg(value_name = "container-id")]
    id: String,
}

pub(super) fn run(root: &Path, arguments: Arguments) -> Result<u8, Error> {
    let entry = Entry::load(root, &arguments.id)?;
    let mut text = serde_json::to_string_pretty(&entry).map_err(Error::Json)?;
    text.push('\n');
    print(&text)
}
