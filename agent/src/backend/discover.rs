//! Where this instance's sessions go: DiscoverPollEndpoint with a cache.
//!
//! An answer is good for 12 hours and better than none for ever after: a control plane whose API
//! fails may still hold sessions. An endpoint that could not be reached is asked for again.

use std::sync::Arc;
use std::time::Duration;

use protocol::ecs::{
    DiscoverPollEndpointRequest, DiscoverPollEndpointResponse, SIGNING_NAME, TARGET,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{CallError, Client, Service};
use crate::error::chain;
use crate::identity::Identity;

const FRESH: Duration = Duration::from_secs(12 * 3600);

/// Endpoints of the sessions, as scheme and authority with perhaps a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    pub acs: String,
    pub tcs: Option<String>,
}

/// An endpoint cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("find the endpoint of the session")]
    Call(#[source] Box<CallError>),
    #[error(
        "find the endpoint of the session: the control plane named {found:?}, which is no http or https address"
    )]
    Endpoint { found: Option<String> },
}

/// The ECS API of one control plane, and the endpoints that it names. Clones share the cache.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    client: Client,
    endpoint: Arc<str>,
    found: Arc<Mutex<Option<Found>>>,
}

#[derive(Debug)]
struct Found {
    instance: String,
    endpoints: Endpoints,
    good_until: Instant,
}

impl ControlPlane {
    /// `endpoint`: scheme and authority of the API.
    pub fn new(client: Client, endpoint: &str) -> Self {
        Self { client, endpoint: endpoint.into(), found: Arc::default() }
    }

    /// The client, for other services of the same side.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Scheme and authority of the API.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Calls an operation of the ECS API, once.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call<I: serde::Serialize, O: serde::de::DeserializeOwned>(
        &self,
        operation: &str,
        input: &I,
    ) -> Result<O, CallError> {
        let service =
            Service { signing_name: SIGNING_NAME, target: TARGET, endpoint: &self.endpoint };
        self.client.call(service, operation, input).await
    }

    /// The endpoints for an instance.
    ///
    /// # Errors
    /// If the call fails or answers nonsense, and no answer of before is kept.
    pub async fn endpoints(&self, identity: &Identity) -> Result<Endpoints, Error> {
        let mut found = self.found.lock().await;
        let kept = found.as_ref().filter(|f| f.instance == identity.container_instance_arn);
        if let Some(kept) = kept.filter(|kept| Instant::now() < kept.good_until) {
            return Ok(kept.endpoints.clone());
        }
        let request = DiscoverPollEndpointRequest {
            container_instance: Some(identity.container_instance_arn.clone()),
            cluster: Some(identity.cluster.clone()),
            zone_id: None,
        };
        let answer: Result<DiscoverPollEndpointResponse, _> =
            self.call("DiscoverPollEndpoint", &request).await;
        let asked = answer.map_err(|source| Error::Call(Box::new(source))).and_then(endpoints);
        match (asked, kept) {
            (Ok(endpoints), _) => {
                *found = Some(Found {
                    instance: identity.container_instance_arn.clone(),
                    endpoints: endpoints.clone(),
                    good_until: Instant::now() + FRESH,
                });
                Ok(endpoints)
            }
            (Err(error), Some(kept)) => {
                tracing::warn!(error = chain(&error), "go on with the endpoints of before");
                Ok(kept.endpoints.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The endpoints do not work: ask again next time.
    pub async fn doubt_endpoints(&self) {
        if let Some(found) = self.found.lock().await.as_mut() {
            found.good_until = Instant::now();
        }
    }
}

fn endpoints(answer: DiscoverPollEndpointResponse) -> Result<Endpoints, Error> {
    let usable = |url: &String| url.starts_with("http://") || url.starts_with("https://");
    match answer.endpoint {
        Some(acs) if usable(&acs) => {
            Ok(Endpoints { acs, tcs: answer.telemetry_endpoint.filter(usable) })
        }
        found => Err(Error::Endpoint { found }),
    }
}
