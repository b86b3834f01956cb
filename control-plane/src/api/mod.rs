//! The operations. Each resource's file has a `handle` that knows its own; what nobody knows is
//! answered with AWS's error for an unknown operation.
//!
//! A handler reads the view, decides, commits and answers; it never waits for an agent and never
//! calls out. Changes go through [`State::transact`], so that an acknowledged call is durable and a
//! decision never rests on what has changed meanwhile.

mod agent;
mod cluster;
mod container_instance;
pub(crate) mod lookup;
pub(crate) mod page;
mod service;
mod tag;
mod task;
mod task_definition;
mod token;

use std::sync::Arc;

use jiff::Timestamp;
use protocol::aws_json::ApiError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::state::{self, Edit, State, View};

/// Who calls, for what, and on what.
#[derive(Debug, Clone)]
pub struct Context {
    pub state: Arc<State>,
    pub config: Arc<Config>,
    /// Id of the key that signed.
    pub access_key: String,
    /// ARN of the caller.
    pub principal: String,
    /// Of the credential scope.
    pub region: String,
    /// `http://host:port` or `https://…`, as the caller reached us.
    pub origin: String,
    pub now: Timestamp,
}

impl Context {
    /// The account of every ARN.
    pub fn account(&self) -> &str {
        &self.config.account
    }

    /// [`State::transact`], with a failure of the state told as the caller of an API may hear it.
    async fn transact<T>(
        &self,
        decide: impl FnMut(&View, &mut Edit) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        self.state.transact(decide).await
    }
}

/// The JSON of an answer.
pub type Answer = Result<Vec<u8>, ApiError>;

/// Calls an operation of the ECS API.
///
/// # Errors
/// The documented error of the operation; `UnknownOperationException` for one that is not there.
pub async fn ecs(context: &Context, operation: &str, body: &[u8]) -> Answer {
    if let Some(answer) = cluster::handle(context, operation, body).await {
        return answer;
    }
    if let Some(answer) = task_definition::handle(context, operation, body).await {
        return answer;
    }
    if let Some(answer) = task::handle(context, operation, body).await {
        return answer;
    }
    if let Some(answer) = container_instance::handle(context, operation, body).await {
        return answer;
    }
    if let Some(answer) = service::handle(context, operation, body).await {
        return answer;
    }
    if let Some(answer) = tag::handle(context, operation, body).await {
        return answer;
    }
    if let Some(answer) = agent::handle(context, operation, body).await {
        return answer;
    }
    Err(unknown_operation(operation))
}

/// What AWS answers to an operation that it does not have.
pub fn unknown_operation(operation: &str) -> ApiError {
    ApiError::client("UnknownOperationException", format!("Unknown operation: {operation}"))
}

/// Reads a request; an empty body is an empty object.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let refused = |message: String| ApiError::client("SerializationException", message);
    let body = if body.is_empty() { b"{}" } else { body };
    // Otherwise an array would be taken for the members in their order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(refused("a request is a JSON object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| refused(error.to_string()))
}

/// Reads the request, calls, and writes the answer.
pub(crate) async fn call<I, O, F>(body: &[u8], handler: impl FnOnce(I) -> F) -> Answer
where
    I: DeserializeOwned,
    O: Serialize,
    F: Future<Output = Result<O, ApiError>>,
{
    let output = handler(read(body)?).await?;
    serde_json::to_vec(&output).map_err(|error| ApiError::server(error.to_string()))
}

/// Errors that several resources use, in ECS's words.
pub(crate) mod errors {
    use super::ApiError;

    pub(crate) fn client(message: impl Into<String>) -> ApiError {
        ApiError::client("ClientException", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::client("InvalidParameterException", message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> ApiError {
        ApiError::client("UnsupportedFeatureException", message)
    }

    pub(crate) fn cluster_not_found() -> ApiError {
        ApiError::client("ClusterNotFoundException", "Cluster not found.")
    }
}

impl From<state::Error> for ApiError {
    fn from(error: state::Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a call failed");
        Self::server("the control plane's state cannot be changed now")
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
