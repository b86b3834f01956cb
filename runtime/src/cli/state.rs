//! `state`: the state document of the runtime specification, with what runc adds.

use std::path::Path;

use super::list::Entry;
use super::{Error, print};

pub(super) fn run(root: &Path, id: &str) -> Result<u8, Error> {
    let entry = Entry::load(root, id)?;
    let mut text = serde_json::to_string_pretty(&entry).map_err(Error::Json)?;
    text.push('\n');
    print(&text)
}
