//! AWS as the giver of logins: in whose name it is asked, where, and how often.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::ecr::Tokens;
use crate::backend::backoff::{Schedule, random};
use crate::backend::credentials::{Keys, Source};
use crate::backend::{CallError, Client, Service, SetupError, metadata_service};
use crate::config::{AwsCredentials, Config, Ecs};

/// Attempts of a call, each of which may take so long.
const ATTEMPTS: u32 = 3;
const ATTEMPT: Duration = Duration::from_secs(10);
const PAUSES: Schedule = Schedule {
    first: Duration::from_millis(200),
    last: Duration::from_secs(2),
    factor: 3.0,
    jitter: 0.5,
};

/// Advice that goes before the cause, in Amazon's words.
const NETWORK: &str = "The task can’t pull the image. Check your network configuration. ";
/// Refusals of keys that Amazon does not know.
const UNKNOWN_KEYS: [&str; 2] = ["InvalidClientTokenId", "UnrecognizedClientException"];

/// In whose name AWS is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The agent's own, those of its configuration or of the host.
    Host,
    /// A role that a task has.
    Role { arn: String, keys: Keys },
}

/// Why a service did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("set up the client")]
    SetUp(#[from] SetupError),
    #[error(transparent)]
    Call(CallError),
    #[error("no answer within {} s", ATTEMPT.as_secs())]
    Silent,
}

impl Failure {
    /// Words for people that go before what was attempted.
    pub(super) fn preface(&self) -> &'static str {
        match self {
            Self::Silent | Self::Call(CallError::Send { .. }) => NETWORK,
            _ => "",
        }
    }

    /// Words for people that go after it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Self::Call(error)
                if error.api().is_some_and(|api| UNKNOWN_KEYS.contains(&api.name.as_str())) =>
            {
                " (keys and roles of a self-hosted control plane mean nothing to Amazon; if this host \
                 has credentials of AWS, set LIGHTER_AWS_CREDENTIALS=host)"
            }
            _ => "",
        }
    }
}

/// AWS, which gives logins for its own registries and keeps those of others. Clones share connections
/// and tokens.
#[derive(Debug, Clone)]
pub struct Aws(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ecs: Ecs,
    endpoints: Endpoints,
    /// Made when it is needed: most hosts never ask.
    client: OnceCell<Client>,
    tokens: Tokens,
}

/// Where services are, if not where Amazon has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Endpoints {
    ecr: Option<String>,
    secrets_manager: Option<String>,
}

impl Endpoints {
    /// As configured, else what `AWS_ENDPOINT_URL` has for all services.
    fn new(ecs: &Ecs, all: Option<String>) -> Self {
        let all = all.filter(|all| !all.is_empty());
        let all = all.map(|endpoint| endpoint.trim_end_matches('/').to_owned());
        Self {
            ecr: ecs.ecr_endpoint.clone().or_else(|| all.clone()),
            secrets_manager: ecs.secrets_manager_endpoint.clone().or(all),
        }
    }
}

impl Aws {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let all = std::env::var("AWS_ENDPOINT_URL").ok();
        Self::with(&config.ecs, Endpoints::new(&config.ecs, all))
    }

    fn with(ecs: &Ecs, endpoints: Endpoints) -> Self {
        Self(Arc::new(Shared {
            ecs: ecs.clone(),
            endpoints,
            client: OnceCell::new(),
            tokens: Tokens::default(),
        }))
    }

    /// Who really asks for a caller.
    pub(super) fn caller(&self, caller: Caller) -> Caller {
        if self.asks_for_roles() { caller } else { Caller::Host }
    }

    /// Whether it is asked in the name of roles.
    pub fn asks_for_roles(&self) -> bool {
        self.0.ecs.aws_credentials == AwsCredentials::Task
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Where ECR was said to be.
    pub(super) fn ecr_endpoint(&self) -> Option<&str> {
        self.0.endpoints.ecr.as_deref()
    }

    /// Where Secrets Manager was said to be.
    pub(super) fn secrets_manager_endpoint(&self) -> Option<&str> {
        self.0.endpoints.secrets_manager.as_deref()
    }

    /// The region of this host.
    pub(super) async fn region(&self) -> Option<String> {
        let ecs = &self.0.ecs;
        match &ecs.region {
            Some(region) => Some(region.clone()),
            None => metadata_service::region(ecs.external).await,
        }
    }

    /// Calls an operation, and again where that may help.
    pub(super) async fn call<I: Serialize, O: DeserializeOwned>(
        &self,
        caller: &Caller,
        region: &str,
        service: Service<'_>,
        operation: &str,
        input: &I,
    ) -> Result<O, Failure> {
        let client = self.0.client.get_or_try_init(async || make(&self.0.ecs)).await?;
        let client = client.in_region(region);
        let client = match caller {
            Caller::Host => client,
            Caller::Role { keys, .. } => client.with_keys(keys.clone()),
        };
        let mut failures = 0;
        loop {
            let called = timeout(ATTEMPT, client.call(service, operation, input)).await;
            let failure = match called {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::Call(error),
                Err(_elapsed) => Failure::Silent,
            };
            failures += 1;
            let again = match &failure {
                // To look for credentials has taken its time already.
                Failure::Call(CallError::Credentials { .. }) | Failure::SetUp(_) => false,
                Failure::Call(error) => error.is_retryable(),
                Failure::Silent => true,
            };
            if !again || failures >= ATTEMPTS {
                return Err(failure);
            }
            tokio::time::sleep(PAUSES.pause(failures, random())).await;
        }
    }
}

fn make(ecs: &Ecs) -> Result<Client, SetupError> {
    let source = match ecs.aws_credentials {
        AwsCredentials::Task => Source::new(ecs.credentials.as_ref(), ecs.external),
        AwsCredentials::Host => Source::of_host(ecs.external),
    };
    // Each call sets its region.
    Client::new(ecs.ca_bundle.as_deref(), source, "us-east-1")
}

#[cfg(test)]
fn configured(more: &[(&str, &str)]) -> Ecs {
    let keys = [("AWS_ACCESS_KEY_ID", "AKIAHOST"), ("AWS_SECRET_ACCESS_KEY", "very-secret")];
    let variables = keys.iter().chain(more).map(|(name, value)| (name.into(), value.into()));
    let loaded = Config::load(std::path::Path::new("/nonexistent"), variables);
    #[allow(clippy::unwrap_used)]
    loaded.unwrap().0.ecs
}

#[cfg(test)]
impl Aws {
    /// Whose services a test answers for.
    pub(crate) fn testing(endpoint: &str) -> Self {
        let ecs = configured(&[("AWS_DEFAULT_REGION", "eu-x-1")]);
        Self::with(&ecs, Endpoints::new(&ecs, Some(endpoint.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_services() {
        let of = |given: &[(&str, &str)], all: &str| {
            let found = Endpoints::new(&configured(given), Some(all.to_owned()));
            (found.ecr, found.secrets_manager)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of(&[], ""), (None, None));
        assert_eq!(of(&[], "http://a/"), (some("http://a"), some("http://a")));
        let ecr = [("AWS_ENDPOINT_URL_ECR", "http://b/")];
        assert_eq!(of(&ecr, "http://a"), (some("http://b"), some("http://a")));
        let both = [ecr[0], ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "https://c:1")];
        assert_eq!(of(&both, "http://a"), (some("http://b"), some("https://c:1")));
    }

    #[test]
    fn roles_step_back_where_the_host_is_to_ask() {
        let keys = Keys {
            access_key_id: "ASIA".to_owned(),
            secret_access_key: "very-secret".to_owned(),
            session_token: None,
        };
        let role = || Caller::Role { arn: "arn".to_owned(), keys: keys.clone() };
        for (given, expected) in [("task", role()), ("host", Caller::Host)] {
            let ecs = configured(&[("LIGHTER_AWS_CREDENTIALS", given)]);
            assert_eq!(Aws::with(&ecs, Endpoints::default()).caller(role()), expected);
        }
    }
}
