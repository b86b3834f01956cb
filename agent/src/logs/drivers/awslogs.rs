//! The `awslogs` driver's far side: one log stream of CloudWatch Logs, Amazon's or a control plane's
//! own (Docker's options `awslogs-group`, `-region`, `-stream`, `-stream-prefix`, `-create-group`,
//! `-endpoint`).
//!
//! The stream is `<prefix>/<container>/<task id>` as ECS names it, without a prefix the container's
//! id. Who ships owns the retries; here is one attempt.

use std::sync::Arc;

use protocol::aws_json::ApiError;
use protocol::ids::TaskId;
use protocol::logs::{
    CreateLogGroupRequest, CreateLogStreamRequest, InputLogEvent, PutLogEventsRequest,
    PutLogEventsResponse, SIGNING_NAME, TARGET,
};
use protocol::taskdef::LogConfiguration;
use serde::Serialize;
use serde_json::Value;

use crate::backend::credentials::{Keys, Source};
use crate::backend::{CallError, Client, Service, SetupError};
use crate::config::Config;
use crate::credentials::{Credentials, RoleType};
use crate::engine::Task;
use crate::host::runtime_id;

/// Where logs go by default, and with whose credentials. Clones share connections.
#[derive(Debug, Clone)]
pub struct LogService {
    client: Client,
    /// `None`: Amazon's, of the region.
    endpoint: Option<Arc<str>>,
    roles: Credentials,
    /// The host is in a cluster, or the configuration has an endpoint or keys; otherwise logs go
    /// nowhere unless a task says where.
    ships: bool,
}

impl LogService {
    /// As configured. The endpoint is `AWS_ENDPOINT_URL_CLOUDWATCH_LOGS` or `AWS_ENDPOINT_URL`, else
    /// the control plane's own, unless that is Amazon's.
    ///
    /// # Errors
    /// If the client cannot be set up.
    pub fn new(config: &Config, roles: Credentials) -> Result<Self, SetupError> {
        let ecs = &config.ecs;
        let region = ecs.region.as_deref().unwrap_or("us-east-1");
        let source = Source::new(ecs.credentials.as_ref(), ecs.external);
        let client = Client::new(ecs.ca_bundle.as_deref(), source, region)?;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let own = ecs.backend_host.clone().filter(|host| !is_amazon(host));
        let endpoint = variable("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS")
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .map(|endpoint| endpoint.trim_end_matches('/').to_owned())
            .or(own)
            .map(Arc::from);
        let ships = ecs.joins() || endpoint.is_some() || ecs.credentials.is_some();
        Ok(Self { client, endpoint, roles, ships })
    }

    /// Whether logs are shipped of tasks that do not say where to.
    pub fn ships(&self) -> bool {
        self.ships
    }

    /// The stream of a container whose driver is `awslogs`. `None`: neither this host's
    /// configuration nor the task says where its logs go; they stay on the host.
    pub fn stream(&self, task: &Task, index: usize, log: &LogConfiguration) -> Option<LogStream> {
        let option = |name: &str| log.options.get(name).cloned();
        let container = task.container_definition(index)?;
        let given = option("awslogs-endpoint").map(|at| at.trim_end_matches('/').to_owned());
        if given.is_none() && !self.ships {
            return None;
        }
        let region = option("awslogs-region").unwrap_or_else(|| self.client.region().to_owned());
        let endpoint = given
            .map(Arc::from)
            .or_else(|| self.endpoint.clone())
            .unwrap_or_else(|| amazon(&region).into());
        let stream =
            option("awslogs-stream").unwrap_or_else(|| match option("awslogs-stream-prefix") {
                Some(prefix) => format!("{prefix}/{}/{}", container.name, task.id),
                None => runtime_id(&task.id, &container.name),
            });
        let role = task
            .ecs
            .as_ref()
            .filter(|ecs| ecs.logs_by_execution_role.contains(&index))
            .filter(|ecs| ecs.execution_credentials.is_some());
        Some(LogStream {
            client: self.client.in_region(&region),
            endpoint,
            group: option("awslogs-group").unwrap_or_default(),
            stream,
            create_group: option("awslogs-create-group").is_some_and(|create| create == "true"),
            role: role.map(|_| (self.roles.clone(), task.id.clone())),
        })
    }
}

/// Amazon's endpoint in a region.
fn amazon(region: &str) -> String {
    format!("https://logs.{region}.{}", protocol::partition::domain(region))
}

/// Whether an endpoint of the ECS API is Amazon's.
fn is_amazon(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = host.split([':', '/']).next().unwrap_or(host);
    let mut parents = host.match_indices('.').filter_map(|(dot, _)| host.get(dot + 1..));
    parents.any(|parent| parent == "api.aws" || protocol::partition::is_domain(parent))
}

/// Where one container's output goes.
#[derive(Debug, Clone)]
pub struct LogStream {
    client: Client,
    endpoint: Arc<str>,
    group: String,
    stream: String,
    create_group: bool,
    /// The execution role's credentials, newest at each call.
    role: Option<(Credentials, TaskId)>,
}

/// A batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("the credentials of the execution role have not come (again) yet")]
    NoCredentials,
    #[error(transparent)]
    Call(#[from] CallError),
}

impl PutError {
    /// The batch itself is refused: another attempt would be, too.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Call(error)
            if error.api().is_some_and(|api| api.name == "InvalidParameterException"))
    }

    /// The service will not have the stream: its group is not there, say, or not for us.
    pub fn is_refusal(&self) -> bool {
        const REFUSALS: [&str; 3] =
            ["ResourceNotFoundException", "AccessDeniedException", "InvalidParameterException"];
        matches!(self, Self::Call(error)
            if error.api().is_some_and(|api| REFUSALS.contains(&api.name.as_str())))
    }
}

impl LogStream {
    /// For messages.
    pub fn name(&self) -> String {
        format!("{} of {} at {}", self.stream, self.group, self.endpoint)
    }

    /// Adds events in time order; makes what is missing (the group only if the task says so). How
    /// many were refused for their age is answered.
    ///
    /// # Errors
    /// If they could not be added.
    pub async fn put(&self, events: &[InputLogEvent]) -> Result<usize, PutError> {
        let request = PutLogEventsRequest {
            log_group_name: Some(self.group.clone()),
            log_stream_name: Some(self.stream.clone()),
            log_events: Some(events.to_vec()),
            ..PutLogEventsRequest::default()
        };
        let answer: PutLogEventsResponse = match self.call("PutLogEvents", &request).await {
            Err(PutError::Call(error)) if named(&error, "ResourceNotFoundException") => {
                self.create().await?;
                self.call("PutLogEvents", &request).await?
            }
            other => other?,
        };
        let Some(rejected) = answer.rejected_log_events_info else { return Ok(0) };
        let index = |at: Option<i32>| at.and_then(|at| usize::try_from(at).ok());
        let front = index(rejected.too_old_log_event_end_index)
            .max(index(rejected.expired_log_event_end_index))
            .unwrap_or(0);
        let back = index(rejected.too_new_log_event_start_index).unwrap_or(events.len());
        Ok(front + events.len().saturating_sub(back))
    }

    /// Makes the stream if it is not there, and the group if the task says so.
    ///
    /// # Errors
    /// If they could not be made.
    pub async fn create(&self) -> Result<(), PutError> {
        let stream = CreateLogStreamRequest {
            log_group_name: Some(self.group.clone()),
            log_stream_name: Some(self.stream.clone()),
        };
        let made = self.make("CreateLogStream", &stream).await;
        match made {
            Err(PutError::Call(error))
                if self.create_group && named(&error, "ResourceNotFoundException") =>
            {
                let group = CreateLogGroupRequest {
                    log_group_name: Some(self.group.clone()),
                    ..CreateLogGroupRequest::default()
                };
                self.make("CreateLogGroup", &group).await?;
                self.make("CreateLogStream", &stream).await
            }
            other => other,
        }
    }

    /// Something that may be there already.
    async fn make<I: Serialize>(&self, operation: &str, input: &I) -> Result<(), PutError> {
        match self.call::<_, Value>(operation, input).await {
            Err(PutError::Call(error)) if named(&error, "ResourceAlreadyExistsException") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn call<I: Serialize, O: serde::de::DeserializeOwned>(
        &self,
        operation: &str,
        input: &I,
    ) -> Result<O, PutError> {
        let service =
            Service { signing_name: SIGNING_NAME, target: TARGET, endpoint: &self.endpoint };
        let client = match &self.role {
            None => self.client.clone(),
            Some((roles, task)) => {
                let found = roles.of(task, RoleType::Execution).ok_or(PutError::NoCredentials)?;
                let keys = Keys::of_role(&found).ok_or(PutError::NoCredentials)?;
                self.client.with_keys(keys)
            }
        };
        Ok(client.call(service, operation, input).await?)
    }
}

fn named(error: &CallError, name: &str) -> bool {
    error.api().is_some_and(|api: &ApiError| api.name == name)
}

#[cfg(test)]
impl LogStream {
    /// Of a service that a test answers for.
    pub(in crate::logs) fn testing(client: Client, endpoint: &str) -> Self {
        Self {
            client,
            endpoint: endpoint.into(),
            group: "g".to_owned(),
            stream: "s".to_owned(),
            create_group: false,
            role: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::testing;

    #[tokio::test]
    async fn renewed_credentials_are_used_from_the_next_call_on() {
        let server = testing::Server::start(Vec::new()).await;
        let (roles, task) = (Credentials::default(), TaskId::from_random(7));
        let stream = LogStream {
            role: Some((roles.clone(), task.clone())),
            ..LogStream::testing(testing::client(), &server.endpoint())
        };
        assert!(matches!(stream.put(&[]).await, Err(PutError::NoCredentials)));
        for key in ["ASIAONE", "ASIATWO"] {
            let set = protocol::acs::Credentials {
                credentials_id: Some(key.to_lowercase()),
                access_key_id: Some(key.to_owned()),
                secret_access_key: Some("hush".to_owned()),
                ..protocol::acs::Credentials::default()
            };
            roles.put(task.clone(), RoleType::Execution, set);
            stream.put(&[]).await.unwrap();
            let requests = server.requests();
            let signed = requests.last().unwrap().header("authorization").unwrap();
            assert!(signed.contains(key), "{signed}");
        }
    }

    #[test]
    fn endpoints_of_amazon() {
        assert_eq!(amazon("eu-north-1"), "https://logs.eu-north-1.amazonaws.com");
        assert_eq!(amazon("cn-north-1"), "https://logs.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn whose_endpoint_it_is() {
        for (endpoint, amazon) in [
            ("https://ecs.eu-north-1.amazonaws.com", true),
            ("https://ecs.cn-north-1.amazonaws.com.cn:443", true),
            ("https://ecs.eu-north-1.api.aws", true),
            ("https://ecs.us-iso-east-1.c2s.ic.gov", true),
            ("https://amazonaws.com", false),
            ("http://127.0.0.1:4780", false),
            ("https://amazonaws.com.example.org", false),
        ] {
            assert_eq!(is_amazon(endpoint), amazon, "{endpoint}");
        }
    }
}
