//! What the host's surroundings say of it: the region, and on EC2 the identity document that
//! Amazon's control plane asks for.
//!
//! The instance metadata service is asked with short timeouts, since most hosts have none, and
//! never for an external instance.

use std::time::Duration;

use aws_config::imds;
use aws_config::meta::region::RegionProviderChain;
use aws_config::provider_config::ProviderConfig;

const TIMEOUT: Duration = Duration::from_secs(1);
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const SIGNATURE: &str = "/latest/dynamic/instance-identity/signature";

/// The instance metadata service does not say who this host is.
#[derive(Debug, thiserror::Error)]
#[error(
    "read the instance identity from the instance metadata service (on a host that is no EC2 instance set ECS_EXTERNAL=true)"
)]
pub struct Error(#[source] Box<imds::client::error::ImdsError>);

/// Proof that this host is an EC2 instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityDocument {
    pub document: String,
    pub signature: String,
}

/// What the SDK's providers need: a client that speaks TLS by ring.
pub(super) fn provider_config() -> ProviderConfig {
    use aws_smithy_http_client::tls;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
        .build_https();
    ProviderConfig::without_region().with_http_client(http)
}

pub(super) fn client(config: &ProviderConfig) -> imds::Client {
    imds::Client::builder()
        .configure(config)
        .connect_timeout(TIMEOUT)
        .read_timeout(TIMEOUT)
        .max_attempts(2)
        .build()
}

/// The region of the SDKs' own configuration: environment, profile, instance metadata.
pub async fn region(external: bool) -> Option<String> {
    let config = provider_config();
    let mut chain = RegionProviderChain::first_try(
        aws_config::environment::EnvironmentVariableRegionProvider::new(),
    )
    .or_else(aws_config::profile::ProfileFileRegionProvider::builder().configure(&config).build());
    if !external {
        chain = chain.or_else(
            imds::region::ImdsRegionProvider::builder()
                .configure(&config)
                .imds_client(client(&config))
                .build(),
        );
    }
    chain.region().await.map(|region| region.as_ref().to_owned())
}

/// The identity document of an EC2 instance.
///
/// # Errors
/// If the instance metadata service does not answer.
pub async fn identity_document() -> Result<IdentityDocument, Error> {
    let client = client(&provider_config());
    let get = async |path| {
        client.get(path).await.map(String::from).map_err(|source| Error(Box::new(source)))
    };
    Ok(IdentityDocument { document: get(DOCUMENT).await?, signature: get(SIGNATURE).await? })
}
