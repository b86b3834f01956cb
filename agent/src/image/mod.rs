//! Images: from a registry or an archive into a content-addressed store, and from there, as
//! unpacked layers, under the overlay of a container.
//!
//! ```text
//! reference.rs  what people write: name[:tag][@digest], Docker's grammar and defaults
//! auth/         logins of registries
//! platform.rs   which entry of an index fits
//! manifest.rs, bounded.rs  the documents of the OCI image specification and their Docker twins
//! registry.rs   OCI distribution API: a repository at all its hosts
//! hosts.rs      which hosts, in which order, and what is trusted
//! transport.rs  HTTP to a host                  token.rs  who we are to it
//! push.rs       blobs and manifests to a registry
//! referrers.rs  what refers to a manifest there  rounds.rs  in which order hosts are asked, how often
//! tags.rs       what tags a repository has there
//! signature/    which images must be signed, and whether they are
//! archive.rs    OCI layouts and docker-archives in a tar
//! pull.rs       registry → store          load.rs  archive → store
//! publish.rs    store → registry
//! save.rs       store → archive           inspect.rs  an image as people see it
//! download.rs   one blob, resumed         fetch.rs the missing layers of an image
//! layer.rs      one blob, all its way to a directory
//! gate.rs       how many layers at once   places.rs  who goes on, who waits
//! decompress.rs gzip, zstd                pipeline.rs  its stages, each on a thread
//! entries.rs    tar format                pax.rs, sparse.rs  its extensions
//! unpack.rs     entry → directory         metadata.rs  owner, mode, times, attributes
//! recipe.rs     the archive of an unpacked layer, made again
//! tree.rs       the only way to a path below a layer's directory
//! whiteout.rs   names with `.wh.`
//! content/      the store on disk: commit, find, remove, sweep
//! lease.rs      what a starting task needs usage.rs   when images came, were used, are kept
//! plan.rs       which images go, decided  reclaim.rs carried out
//! snapshot.rs   reading an image's files as a container would see them
//! passwd.rs     the image's users
//! error.rs      why any of it failed   fuzzing.rs  ways in for fuzz targets
//! ```
//!
//! Everything that comes from a registry or an archive is hostile: sizes, counts and memory are
//! bounded, digests verified before anything is committed, and no entry of a layer can name, link
//! or write what is not in the layer's own directory. A pull that fails leaves nothing.

mod archive;
pub mod auth;
mod bounded;
mod content;
mod decompress;
mod download;
mod entries;
mod error;
mod fetch;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod hosts;
mod inspect;
mod layer;
mod lease;
mod load;
mod manifest;
mod metadata;
pub(crate) mod passwd;
mod pax;
mod pipeline;
pub(crate) mod places;
mod plan;
mod platform;
mod publish;
mod pull;
mod push;
mod recipe;
mod reclaim;
mod reference;
mod referrers;
mod registry;
mod rounds;
mod save;
mod signature;
mod snapshot;
mod sparse;
mod tags;
mod token;
mod transport;
mod tree;
mod unpack;
mod usage;
mod whiteout;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use auth::{Auth, Login};
pub use content::Store;
pub use error::Error;
pub use hosts::Hosts;
pub use lease::Lease;
pub use load::Loaded;
pub use passwd::User;
pub use plan::{Mark, Marks, Rules, Usage};
pub use publish::PushProgress;
pub use reclaim::{Round, Spare};
pub use reference::Reference;
pub use signature::{Error as PolicyError, Policy};

use crate::api::types::PullEvent;

/// How registries are reached, and what of them is trusted.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    pub auth: Auth,
    pub hosts: Hosts,
    /// Which images must be signed; `None`: none.
    pub policy: Option<Arc<Policy>>,
}

/// What is to be pulled, and how.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// As people write it; errors repeat it.
    pub reference: String,
    /// `os/architecture[/variant]`; `None`: the host's.
    pub platform: Option<String>,
    /// What the task itself brings for the registry; it goes before what [`Registries`] has.
    pub login: Option<Login>,
}

impl PullRequest {
    /// For this host's platform, with the host's credentials.
    pub fn of(reference: impl Into<String>) -> Self {
        Self { reference: reference.into(), ..Self::default() }
    }
}

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
