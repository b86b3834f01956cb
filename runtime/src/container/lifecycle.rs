use std::path::Path;

use super::{Create, Created, State, Stdio};
use crate::{cgroup::Cgroup, spec};

/// Why an operation on a container failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("container {id} does not exist")]
    NotFound { id: String },
}

/// A container that exists.
#[derive(Debug)]
pub struct Container;

impl Container {
    pub fn create(create: Create<'_>) -> Result<(Self, Created), Error> { Err(Error::NotFound { id: create.id.into() }) }
    pub fn load(root: &Path, id: &str) -> Result<Self, Error> { Err(Error::NotFound { id: id.into() }) }
    pub fn start(&mut self) -> Result<(), Error> { Ok(()) }
    pub fn kill(&self, signal: i32, all: bool) -> Result<(), Error> { Ok(()) }
    pub fn delete(self, force: bool) -> Result<(), Error> { Ok(()) }
    pub fn state(&self) -> Result<State, Error> { Err(Error::NotFound { id: String::new() }) }
    pub fn exec(&self, process: &spec::Process, stdio: Stdio) -> Result<Created, Error> { Err(Error::NotFound { id: String::new() }) }
    pub fn cgroup(&self) -> Result<Cgroup, Error> { Err(Error::NotFound { id: String::new() }) }
}
