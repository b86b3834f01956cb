//! Why an image could not be had, read or removed. The reference, the entry of the layer or the
//! path is in the text; what the other side or the kernel said is the source.

use std::path::{Path, PathBuf};

use super::{auth, recipe, reference, registry, signature, unpack};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("image reference {reference:?}")]
    Reference { reference: String, source: reference::Error },
    #[error("registry credentials")]
    Auth(#[source] Box<auth::Error>),
    #[error(
        "platform {platform:?}: expected os/architecture[/variant] such as linux/amd64, or an architecture"
    )]
    PlatformSyntax { platform: String },
    #[error("pull {reference} from {registry}")]
    Registry { reference: String, registry: String, source: Box<registry::Error> },
    #[error("{reference}: no image for platform {wanted}; there is {offered}")]
    NoPlatform { reference: String, wanted: String, offered: String },
    #[error("{reference}: {document} is of type {media_type:?}, which is not supported{hint}")]
    MediaType { reference: String, document: String, media_type: String, hint: &'static str },
    #[error("{reference}: {document} is malformed")]
    Document { reference: String, document: String, source: serde_json::Error },
    #[error("{reference}: {reason}")]
    Inconsistent { reference: String, reason: String },
    #[error("{reference}: signature policy")]
    Signature { reference: String, source: Box<signature::Error> },
    #[error("{reference}: layer {layer}")]
    Layer { reference: String, layer: String, source: Box<unpack::Error> },
    #[error(
        "{reference}: layer {layer} is foreign: its registry need not have it, and {url:?}, where it is said to be, is not asked; push the image with all its layers"
    )]
    Foreign { reference: String, layer: String, url: String, source: Box<registry::Error> },
    #[error("{reference}: cancelled")]
    Cancelled { reference: String },
    #[error("load {archive}: {reason}")]
    Archive { archive: PathBuf, reason: String },
    #[error("image store: {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("image store: record {path} is damaged")]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("image {id} is damaged in the store: {reason}; pull or load it again, or remove it")]
    Damaged { id: String, reason: String },
    #[error(
        "the disk of the image store {store} is full: make room, for instance by `lighter image prune --all`, and try again"
    )]
    Full { store: PathBuf, source: Box<Error> },
    #[error("image {id}: make the archive of layer {layer} again")]
    Rebuild { id: String, layer: String, source: Box<recipe::Error> },
    #[error(
        "image store: layer directory {path} holds {found}, not {wanted}: two layers with the same short name"
    )]
    ShortName { path: PathBuf, found: String, wanted: String },
    #[error("time {time:?}")]
    Time { time: String, source: jiff::Error },
    #[error("push {reference} to {registry}")]
    Push { reference: String, registry: String, source: Box<registry::Error> },
    #[error("an image does not exist locally with the tag: {reference}")]
    NoTag { reference: String },
    #[error("no such image: {reference}")]
    Unknown { reference: String },
    #[error("image id {prefix} is ambiguous: it begins {count} images")]
    Ambiguous { prefix: String, count: usize },
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - a container is using its referenced image {id}"
    )]
    ReferenceInUse { reference: String, id: String },
    #[error(
        "conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories"
    )]
    SeveralReferences { id: String },
    #[error(
        "conflict: unable to delete {id} (cannot be forced) - image is being used by a container"
    )]
    InUse { id: String },
    #[error("image {id}: path {path}")]
    Path { id: String, path: String, source: std::io::Error },
    #[error("image {id}: {path} is larger than {limit} bytes")]
    TooLarge { id: String, path: String, limit: u64 },
    #[error("image {id}: user {user:?}: {reason}")]
    User { id: String, user: String, reason: String },
    #[error("the image worker ended early")]
    Worker(#[source] tokio::task::JoinError),
}

/// Words of an untrusted document as an error may repeat them: on one line, and not without end.
pub(super) fn told(text: &str) -> String {
    const LONGEST: usize = 500;
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut told: String = chars.by_ref().take(LONGEST).collect();
    if chars.next().is_some() {
        told.push('…');
    }
    told
}

impl From<auth::Error> for Error {
    fn from(error: auth::Error) -> Self {
        Self::Auth(Box::new(error))
    }
}

impl Error {
    /// Whether it may go better a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry { source, .. } => source.is_transient(),
            Self::Signature { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Does the signature policy not want the image?
    pub fn is_untrusted(&self) -> bool {
        matches!(self, Self::Signature { source, .. } if source.is_verdict())
    }

    /// Is a record of the store missing or not what the store wrote?
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Record { .. } => true,
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Says what to do where the disk of `store` is full.
    pub(super) fn or_full(self, store: &Path) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if matches!(
                kind,
                Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            ) {
                return Self::Full { store: store.to_owned(), source: Box::new(self) };
            }
            cause = error.source();
        }
        self
    }

    /// The login that could not be had, if that is why.
    pub fn login(&self) -> Option<&auth::Error> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let boxed = error.downcast_ref::<Box<auth::Error>>().map(Box::as_ref);
            if let Some(found) = boxed.or_else(|| error.downcast_ref()) {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }

    /// The registry knows no such image, or not for us.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Registry { source, .. } if source.is_refusal())
    }

    /// The manifest is here, or would be if it were not for what it says: the registry has done its part.
    pub fn is_of_manifest(&self) -> bool {
        matches!(
            self,
            Self::Signature { .. }
                | Self::NoPlatform { .. }
                | Self::MediaType { .. }
                | Self::Document { .. }
                | Self::Inconsistent { .. }
        )
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
