//! `delete`: everything that a container holds.

use std::path::Path;

use super::Error;
use super::arguments::{Given, Misuse, Opt};
use crate::container::{self, Container};

pub(super) const OPTIONS: &[Opt] =
    &[Opt::switch("force", "Kill a container that still runs; a missing one is no error")
        .short('f')];

#[derive(Debug)]
pub(super) struct Arguments {
    force: bool,
    id: String,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self { force: given.is_on("force"), id: given.id()? })
    }
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
