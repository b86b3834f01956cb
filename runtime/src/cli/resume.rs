//! `resume`: every process of a paused container goes on.

use std::path::Path;

use super::Error;
use crate::container::Container;

pub(super) fn run(root: &Path, id: &str) -> Result<u8, Error> {
    Container::load(root, id)?.resume()?;
    Ok(0)
}
