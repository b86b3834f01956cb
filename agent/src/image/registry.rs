//! The OCI distribution API: manifests and blobs of one repository. The only module that knows
//! `oci-client`.
//!
//! HTTPS with the roots of the host (`rustls-native-certs`: the system's CA bundle, or
//! `SSL_CERT_FILE`/`SSL_CERT_DIR`), except for registries on loopback, which are spoken to in plain
//! HTTP. Proxies come from the environment. Credentials go to the registry and to the token server
//! that it names, never to where it redirects to.
//!
//! Blobs are asked for as a range from their first byte on: `oci-client` then leaves the hashing
//! to us, who hash anyway, and an interrupted transfer continues where it stopped.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

use super::auth::Login;
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::reference::Reference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a transfer counts as broken.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers in a row without a byte of progress after which we give up.
pub(super) const ATTEMPTS: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("set up HTTPS (are CA certificates installed?)")]
    Client(#[source] OciDistributionError),
    #[error("registry does not answer")]
    Down(#[source] std::io::Error),
    #[error("unauthorized: the registry refuses {login}")]
    Unauthorized { login: &'static str },
    #[error("unknown image: the registry has no {0}")]
    Unknown(&'static str),
    #[error("registry limits the rate of requests; log in or try later")]
    RateLimit,
    #[error("registry answers {code}: {message}")]
    Status { code: u16, message: String },
    #[error("registry serves content of another digest than was asked for")]
    Digest(#[source] OciDistributionError),
    #[error("registry protocol")]
    Protocol(#[source] OciDistributionError),
    #[error("transfer broken")]
    Broken(#[source] std::io::Error),
}

impl Error {
    fn from(error: OciDistributionError, what: &'static str, has_login: bool) -> Self {
        let login = if has_login { "these credentials" } else { "anonymous access" };
        match error {
            OciDistributionError::RequestError(error) if error.is_builder() => {
                Self::Client(error.into())
            }
            OciDistributionError::RequestError(error) => {
                Self::Down(std::io::Error::other(error.without_url()))
            }
            OciDistributionError::IoError(error) => Self::Broken(error),
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => Self::Unauthorized { login },
            OciDistributionError::ImageManifestNotFoundError(_) => Self::Unknown(what),
            OciDistributionError::DigestError(_) => Self::Digest(error),
            OciDistributionError::ServerError { code: 404, .. } => Self::Unknown(what),
            OciDistributionError::ServerError { code: 403, .. } => Self::Unauthorized { login },
            OciDistributionError::ServerError { code: 429, .. } => Self::RateLimit,
            OciDistributionError::ServerError { code, message, .. } => {
                Self::Status { code, message: message.chars().take(200).collect() }
            }
            OciDistributionError::RegistryError { ref envelope, .. } => {
                match envelope.errors.first().map(|error| &error.code) {
                    Some(
                        OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestBlobUnknown,
                    ) => Self::Unknown(what),
                    Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => {
                        Self::Unauthorized { login }
                    }
                    Some(OciErrorCode::Toomanyrequests) => Self::RateLimit,
                    _ => Self::Protocol(error),
                }
            }
            other => Self::Protocol(other),
        }
    }

    /// May the same request work a moment later?
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Down(_) | Self::Broken(_) | Self::RateLimit => true,
            Self::Status { code, .. } => *code >= 500,
            _ => false,
        }
    }
}

/// One repository, with the login for it.
#[derive(Clone)]
pub(super) struct Session {
    client: Client,
    image: oci_client::Reference,
    has_login: bool,
}

impl Session {
    /// Finds out how the registry authenticates and logs in.
    pub(super) async fn open(reference: &Reference, login: Option<&Login>) -> Result<Self, Error> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // The program installs it at its start; a library user or a test may not have. Losing
            // a race to install the same provider is fine.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let image = image(reference);
        let registry = image.resolve_registry().to_owned();
        let protocol = if is_loopback(&registry) {
            ClientProtocol::HttpsExcept(vec![registry])
        } else {
            ClientProtocol::Https
        };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("lighter/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(Error::Client)?;
        let auth = match login {
            Some(login) => RegistryAuth::Basic(login.user.clone(), login.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        let has_login = login.is_some();
        client
            .auth(&image, &auth, RegistryOperation::Pull)
            .await
            .map_err(|error| Error::from(error, "such repository", has_login))?;
        Ok(Self { client, image, has_login })
    }

    /// The manifest or index of the reference, or the one with this digest; verified against the
    /// digest that was asked for. Returns its digest, too.
    pub(super) async fn manifest(&self, digest: Option<&str>) -> Result<(Bytes, String), Error> {
        let image = match digest {
            Some(digest) => self.image.clone_with_digest(digest.to_owned()),
            None => self.image.clone(),
        };
        let types = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];
        let (bytes, _) = self
            .client
            .pull_manifest_raw(&image, &RegistryAuth::Anonymous, &types)
            .await
            .map_err(|error| Error::from(error, "such tag or digest", self.has_login))?;
        let actual = super::layer::digest_of(&bytes);
        Ok((bytes, actual))
    }

    /// The manifest of another tag of the repository.
    pub(super) async fn tagged(&self, tag: &str) -> Result<Bytes, Error> {
        let (registry, repository) = (self.image.registry(), self.image.repository());
        let image = oci_client::Reference::with_tag(
            registry.to_owned(),
            repository.to_owned(),
            tag.to_owned(),
        );
        let (bytes, _) = self
            .client
            .pull_manifest_raw(&image, &RegistryAuth::Anonymous, &[OCI_MANIFEST, DOCKER_MANIFEST])
            .await
            .map_err(|error| Error::from(error, "such tag", self.has_login))?;
        Ok(bytes)
    }

    /// A blob from byte `offset` on, and whether the registry honoured the offset.
    pub(super) async fn blob(
        &self,
        digest: &str,
        offset: u64,
    ) -> Result<(BoxStream<'static, std::io::Result<Bytes>>, bool), Error> {
        let response = self
            .client
            .pull_blob_stream_partial(&self.image, digest, offset, None)
            .await
            .map_err(|error| Error::from(error, "such blob", self.has_login))?;
        Ok(match response {
            BlobResponse::Partial(stream) => (stream.stream, true),
            BlobResponse::Full(stream) => (stream.stream, offset == 0),
        })
    }
}

/// Did the client find content of another digest than asked for? It looks only where a registry
/// does not serve ranges.
pub(super) fn is_digest_error(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<oci_client::errors::DigestError>())
}

fn image(reference: &Reference) -> oci_client::Reference {
    let (registry, repository) = (reference.domain().to_owned(), reference.path().to_owned());
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => {
            oci_client::Reference::with_digest(registry, repository, digest.to_owned())
        }
        (None, tag) => {
            let tag = tag.unwrap_or("latest").to_owned();
            oci_client::Reference::with_tag(registry, repository, tag)
        }
    }
}

/// 127.0.0.0/8, ::1, localhost; with or without a port.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
        }
        for registry in
            ["docker.io", "10.0.0.1:5000", "localhost.example", "127.0.0.1.example", "[::2]:1"]
        {
            assert!(!is_loopback(registry), "{registry}");
        }
    }
}
