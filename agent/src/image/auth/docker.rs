//! Docker's `config.json`: `auths`, `credHelpers` and `credsStore`.
//!
//! As for Docker, the helper of a registry goes before the store of all, and either before what stands
//! in the file; unlike for Docker, what stands in the file counts where those have nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::keys::{self, Entry, Keyring};
use super::{Error, Login, helper};

/// Bytes of the file at most.
pub(super) const LARGEST: u64 = 1 << 20;

#[derive(Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default, rename = "credHelpers")]
    helpers: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

/// Where Docker's configuration of the user lies who runs this process.
pub fn config_path() -> Option<PathBuf> {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory =
        given("DOCKER_CONFIG").or_else(|| given("HOME").map(|home| home.join(".docker")))?;
    Some(directory.join("config.json"))
}

pub(super) async fn login(
    path: &Path,
    host: &str,
    repository: &str,
) -> Result<Option<Login>, Error> {
    let Some(config) = read(path).await? else { return Ok(None) };
    let asked = match config.helper(host, repository) {
        None => Ok(None),
        Some(name) => {
            let server = if keys::is_docker_hub(host) { keys::DOCKER_HUB } else { host };
            helper::get(name, server).await.map_err(|source| Error::Helper {
                helper: name.to_owned(),
                registry: host.to_owned(),
                source: Box::new(source),
            })
        }
    };
    if let Ok(Some(login)) = asked {
        return Ok(Some(login));
    }
    match config.login(host, repository)? {
        Some(login) => Ok(Some(login)),
        None => asked,
    }
}

impl Config {
    /// Which helper is to be asked.
    pub(super) fn helper(&self, host: &str, repository: &str) -> Option<&str> {
        let helpers = self.helpers.iter().flatten();
        let helpers = helpers.map(|(name, helper)| (name.as_str(), helper));
        let helper = keys::find(helpers, host, repository).or(self.store.as_ref());
        helper.map(String::as_str).filter(|name| !name.is_empty())
    }

    /// What stands in the file itself.
    pub(super) fn login(self, host: &str, repository: &str) -> Result<Option<Login>, Error> {
        let file = Keyring::read(self.auths.unwrap_or_default())?;
        Ok(file.find(host, repository).cloned())
    }
}

async fn read(path: &Path) -> Result<Option<Config>, Error> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_now(&path)).await;
    // It does not panic, and nobody cancels it.
    read.unwrap_or(Ok(None))
}

fn read_now(path: &Path) -> Result<Option<Config>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        // Also where a file stands in place of the directory.
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(source) => return Err(failed(source)),
    };
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LARGEST {
        return Err(Error::TooLarge { path: path.to_owned(), limit: LARGEST });
    }
    parse(path, &text).map(Some)
}

pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Config, Error> {
    // serde's own messages quote the text, which is secret: only the place is kept.
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error::Config { path: path.to_owned(), line, column }
    })
}
