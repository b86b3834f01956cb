//! With what the agent signs its own calls: keys of its configuration, else the chain of the AWS
//! SDKs (environment, profile, web identity, container, instance metadata).
//!
//! Found once and kept until shortly before they expire; those that never expire are looked for
//! again each minute, because the file they came from may be rotated. An external instance never
//! asks the instance metadata service.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::meta::credentials::CredentialsProviderChain;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use protocol::{acs, sigv4};
use tokio::sync::Mutex;

use super::metadata_service;
use crate::config::StaticCredentials;

/// How long before their end credentials are replaced.
const MARGIN: Duration = Duration::from_secs(300);
/// How long credentials without an end are kept.
const LASTING: Duration = Duration::from_secs(60);
/// After a look that found none, while the last ones hold: callers do not wait for another.
const PAUSE: Duration = Duration::from_secs(30);
/// Of looking for credentials.
const TIMEOUT: Duration = Duration::from_secs(15);

/// There are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "find credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in ecs.config, or give the host a profile or an instance role"
    )]
    Chain(#[source] CredentialsError),
    #[error("find credentials: no source answered within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub access_key_id: String,
    /// Secret.
    pub secret_access_key: String,
    /// Secret.
    pub session_token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

impl Keys {
    /// As the signer takes them.
    pub fn signing(&self) -> sigv4::Keys<'_> {
        sigv4::Keys {
            access_key_id: &self.access_key_id,
            secret_access_key: &self.secret_access_key,
            session_token: self.session_token.as_deref(),
        }
    }

    /// A role's, as the control plane sent them; `None` if they are not whole.
    pub fn of_role(credentials: &acs::Credentials) -> Option<Self> {
        Some(Self {
            access_key_id: credentials.access_key_id.clone()?,
            secret_access_key: credentials.secret_access_key.clone()?,
            session_token: credentials.session_token.clone().filter(|token| !token.is_empty()),
        })
    }
}

impl From<&Credentials> for Keys {
    fn from(found: &Credentials) -> Self {
        Self {
            access_key_id: found.access_key_id().to_owned(),
            secret_access_key: found.secret_access_key().to_owned(),
            session_token: found.session_token().map(str::to_owned),
        }
    }
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum Source {
    Fixed(Arc<Keys>),
    Chain(Arc<Chain>),
}

impl Source {
    /// As configured.
    pub fn new(configured: Option<&StaticCredentials>, external: bool) -> Self {
        match configured {
            Some(keys) => Self::Fixed(Arc::new(Keys {
                access_key_id: keys.access_key_id.clone(),
                secret_access_key: keys.secret_access_key.clone(),
                session_token: keys.session_token.clone(),
            })),
            None => Self::Chain(Arc::new(Chain::new(external, true))),
        }
    }

    /// Only what the host itself has, not what it was configured with to join a cluster: the chain
    /// without the environment's keys.
    pub fn of_host(external: bool) -> Self {
        Self::Chain(Arc::new(Chain::new(external, false)))
    }

    /// Keys to sign with now.
    ///
    /// # Errors
    /// If no source has any.
    pub async fn keys(&self) -> Result<Arc<Keys>, Error> {
        match self {
            Self::Fixed(keys) => Ok(Arc::clone(keys)),
            Self::Chain(chain) => chain.keys().await,
        }
    }

    /// The service does not take the keys: look for others.
    pub async fn invalidate(&self) {
        if let Self::Chain(chain) = self {
            chain.found.lock().await.take();
        }
    }
}

/// The SDKs' chain with its last answer.
#[derive(Debug)]
pub struct Chain {
    provider: CredentialsProviderChain,
    found: Mutex<Option<Found>>,
}

#[derive(Debug)]
struct Found {
    keys: Arc<Keys>,
    replace_at: SystemTime,
    ends_at: Option<SystemTime>,
}

impl Chain {
    fn new(external: bool, environment: bool) -> Self {
        let conf = metadata_service::provider_config();
        let profile =
            aws_config::profile::ProfileFileCredentialsProvider::builder().configure(&conf).build();
        let first = if environment {
            CredentialsProviderChain::first_try(
                "environment",
                aws_config::environment::EnvironmentVariableCredentialsProvider::new(),
            )
            .or_else("profile", profile)
        } else {
            CredentialsProviderChain::first_try("profile", profile)
        };
        let mut provider = first
            .or_else(
                "web identity",
                aws_config::web_identity_token::WebIdentityTokenCredentialsProvider::builder()
                    .configure(&conf)
                    .build(),
            )
            .or_else(
                "container",
                aws_config::ecs::EcsCredentialsProvider::builder().configure(&conf).build(),
            );
        if !external {
            provider = provider.or_else(
                "instance metadata",
                aws_config::imds::credentials::ImdsCredentialsProvider::builder()
                    .configure(&conf)
                    .imds_client(metadata_service::client(&conf))
                    .build(),
            );
        }
        Self { provider, found: Mutex::new(None) }
    }

    /// Who comes while another looks waits for what that one finds.
    async fn keys(&self) -> Result<Arc<Keys>, Error> {
        let mut found = self.found.lock().await;
        let now = SystemTime::now();
        if let Some(found) = found.as_ref().filter(|found| now < found.replace_at) {
            return Ok(Arc::clone(&found.keys));
        }
        let looked = tokio::time::timeout(TIMEOUT, self.provider.provide_credentials()).await;
        let credentials = match looked.map_err(|_elapsed| Error::Timeout) {
            Ok(Ok(credentials)) => credentials,
            failed => {
                // Better the last ones than none, while they last.
                return match found.as_mut() {
                    Some(last) if last.ends_at.is_none_or(|end| now < end) => {
                        let next = SystemTime::now().checked_add(PAUSE).unwrap_or(now);
                        last.replace_at = last.ends_at.map_or(next, |end| next.min(end));
                        Ok(Arc::clone(&last.keys))
                    }
                    _ => Err(match failed {
                        Ok(Err(source)) => Error::Chain(source),
                        _ => Error::Timeout,
                    }),
                };
            }
        };
        let keys = Arc::new(Keys::from(&credentials));
        let ends_at = credentials.expiry();
        let replace_at = ends_at
            .map_or_else(|| now.checked_add(LASTING), |end| end.checked_sub(MARGIN))
            .unwrap_or(now);
        *found = Some(Found { keys: Arc::clone(&keys), replace_at, ends_at });
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown_and_half_a_role_is_none() {
        let role = acs::Credentials {
            access_key_id: Some("ASIA".to_owned()),
            secret_access_key: Some("hush".to_owned()),
            session_token: Some(String::new()),
            ..acs::Credentials::default()
        };
        let keys = Keys::of_role(&role);
        assert!(keys.as_ref().is_some_and(|keys| keys.session_token.is_none()));
        assert!(!format!("{keys:?}").contains("hush"));
        let half = acs::Credentials { secret_access_key: None, ..role };
        assert_eq!(Keys::of_role(&half), None);
    }
}
