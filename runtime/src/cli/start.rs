//! `start`: the user's program of a created container.

use std::path::Path;

use super::Error;
use crate::container::Container;

pub(super) fn run(root: &Path, id: &str) -> Result<u8, Error> {
    let mut container = Container::load(root, id)?;
    let listener = container.listener()?;
    container.start()?;
    if let Some(listener) = listener {
        container.until_ready(&listener);
    }
    Ok(0)
}
