//! `start`: the user's program of a created container.

use std::path::Path;

use super::Error;
use crate::container::Container;
use crate::seal;

pub(super) fn run(root: &Path, id: &str) -> Result<u8, Error> {
    let mut container = Container::load(root, id)?;
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
