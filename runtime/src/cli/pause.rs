//! `pause`: every process of a container stands still.

use std::path::Path;

use super::Error;
use crate::container::Container;

pub(super) fn run(root: &Path, id: &str) -> Result<u8, Error> {
    Container::load(root, id)?.pause()?;
    Ok(0)
}
