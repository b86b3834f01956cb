//! A bundle: a directory with a configuration, which is read once.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Error, service::Service};
use crate::{plan::Plan, spec};

/// A bundle's place, and what its `config.json` says.
#[derive(Debug)]
pub struct Bundle {
    pub(super) path: PathBuf,
    configuration: PathBuf,
    spec: spec::Spec,
}

impl Bundle {
    /// Reads the configuration of a directory.
    ///
    /// # Errors
    /// If there is none, or it is no configuration.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = fs::canonicalize(directory).map_err(|source| Error::File {
            operation: "find bundle",
            path: directory.to_owned(),
            source,
        })?;
        let configuration = path.join("config.json");
        let bytes = fs::read(&configuration).map_err(|source| Error::File {
            operation: "read",
            path: configuration.clone(),
            source,
        })?;
        let spec = spec::read(&bytes)
            .map_err(|source| Error::Parse { path: configuration.clone(), source })?;
        Ok(Self { path, configuration, spec })
    }

    /// Whether its process wants a terminal (`process.terminal`).
    pub fn wants_terminal(&self) -> bool {
        self.spec.process.as_ref().is_some_and(|process| process.terminal)
    }

    /// What it asks for, and what our own service hands on to the container of that directory.
    pub(super) fn plan(mut self, service: Service, directory: &Path) -> Result<Plan, Error> {
        service.add_to(&mut self.spec, directory);
        let path = self.configuration;
        spec::plan(self.spec).map_err(|source| Error::Spec { path, source })
    }
}
