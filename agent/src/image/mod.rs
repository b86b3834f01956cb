//! Images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::types::{ImageView, PullEvent, RemovedImage};

/// Receives the progress of a pull or load, on any thread, in order per layer.
pub type Progress = Arc<dyn Fn(PullEvent) + Send + Sync>;

/// An image of the store. The directories stay as long as the image is not removed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration (Docker's image id).
    pub id: String,
    /// Digest of the manifest of this platform.
    pub digest: String,
    /// `name:tag` forms as Docker shows them (`alpine:3.20`, not `docker.io/library/alpine:3.20`).
    pub references: Vec<String>,
    /// `name@digest` forms; the digest is what the registry answered with, maybe an index.
    pub repo_digests: Vec<String>,
    /// Unpacked layers, topmost first: lower directories of an overlay.
    pub layers: Vec<PathBuf>,
    pub config: Config,
    /// RFC 3339, as the image says.
    pub created: Option<String>,
    /// Bytes unpacked.
    pub size: u64,
}

/// What the image says about its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    /// Empty: `/`.
    pub working_dir: String,
    /// Docker's `user[:group]`; empty: root.
    pub user: String,
    /// Name or number; `None`: SIGTERM.
    pub stop_signal: Option<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    pub os: String,
}

#[derive(Debug, thiserror::Error)]
#[error("image {0}")]
pub struct Error(String);

/// A user of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    pub home: String,
}

/// Credentials of registries.
#[derive(Debug, Clone, Default)]
pub struct Auth;

impl Auth {
    pub fn anonymous() -> Self {
        Self
    }
    /// `kind` and `data` are ECS_ENGINE_AUTH_TYPE and ECS_ENGINE_AUTH_DATA; `docker_config` is
    /// Docker's `config.json`, which need not exist.
    pub fn load(
        _kind: Option<&str>,
        _data: Option<&str>,
        _docker_config: Option<&Path>,
    ) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// The image store.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self { dir: dir.to_owned() })
    }
    pub async fn pull(
        &self,
        reference: &str,
        _platform: Option<&str>,
        _auth: &Auth,
        _progress: Progress,
    ) -> Result<Image, Error> {
        Err(Error(format!("{reference} {:?}", self.dir)))
    }
    pub async fn load(&self, archive: &Path, _progress: Progress) -> Result<Vec<Image>, Error> {
        Err(Error(format!("{archive:?}")))
    }
    pub fn find(&self, _reference: &str) -> Result<Option<Image>, Error> {
        Ok(None)
    }
    pub fn list(&self) -> Result<Vec<ImageView>, Error> {
        Ok(Vec::new())
    }
    pub fn remove(
        &self,
        reference: &str,
        _force: bool,
        _in_use: &dyn Fn(&str) -> bool,
    ) -> Result<RemovedImage, Error> {
        Err(Error(reference.to_owned()))
    }
}

impl Image {
    pub fn read_file(&self, _path: &str, _limit: u64) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }
    pub fn resolve_user(&self, user: &str) -> Result<User, Error> {
        Err(Error(user.to_owned()))
    }
    pub fn copy_directory(&self, _path: &str, _into: &Path) -> Result<bool, Error> {
        Ok(false)
    }
}
