//! CloudWatch Logs: groups, streams and events, received and served (API version 2014-03-28).
//!
//! [`Logs`] owns `logs.redb`. An answered PutLogEvents is durable. Events older than a group's
//! retention are deleted by [`Logs::sweep`]. `filterPattern` takes words and quoted phrases; the
//! patterns of JSON and of columns are refused. Not here: metric filters, queries, subscriptions,
//! KMS keys.

mod events;
mod groups;
mod pattern;
mod store;
mod streams;
#[cfg(test)]
mod tests;

use protocol::aws_json::ApiError;

use crate::api::errors::invalid;
use crate::api::{self, Answer, Context};
pub use store::{Error, Logs};

/// Calls an operation of CloudWatch Logs.
///
/// # Errors
/// The documented error of the operation; `UnknownOperationException` for one that is not there.
pub async fn handle(context: &Context, logs: &Logs, operation: &str, body: &[u8]) -> Answer {
    let caller = Caller { context, logs };
    match operation {
        "CreateLogGroup" => api::call(body, |input| groups::create(caller, input)).await,
        "DeleteLogGroup" => api::call(body, |input| groups::delete(caller, input)).await,
        "DescribeLogGroups" => api::call(body, |input| groups::describe(caller, input)).await,
        "PutRetentionPolicy" => api::call(body, |input| groups::put_retention(caller, input)).await,
        "DeleteRetentionPolicy" => {
            api::call(body, |input| groups::delete_retention(caller, input)).await
        }
        "TagLogGroup" => api::call(body, |input| groups::tag_group(caller, input)).await,
        "UntagLogGroup" => api::call(body, |input| groups::untag_group(caller, input)).await,
        "ListTagsLogGroup" => api::call(body, |input| groups::list_group_tags(caller, input)).await,
        "TagResource" => api::call(body, |input| groups::tag(caller, input)).await,
        "UntagResource" => api::call(body, |input| groups::untag(caller, input)).await,
        "ListTagsForResource" => api::call(body, |input| groups::list_tags(caller, input)).await,
        "CreateLogStream" => api::call(body, |input| streams::create(caller, input)).await,
        "DeleteLogStream" => api::call(body, |input| streams::delete(caller, input)).await,
        "DescribeLogStreams" => api::call(body, |input| streams::describe(caller, input)).await,
        "PutLogEvents" => api::call(body, |input| events::put(caller, input)).await,
        "GetLogEvents" => api::call(body, |input| events::get(caller, input)).await,
        "FilterLogEvents" => api::call(body, |input| events::filter(caller, input)).await,
        _ => Err(api::unknown_operation(operation)),
    }
}

/// Who calls, on what.
#[derive(Debug, Clone, Copy)]
struct Caller<'a> {
    context: &'a Context,
    logs: &'a Logs,
}

impl Caller<'_> {
    fn region(&self) -> &str {
        &self.context.region
    }

    /// Milliseconds since the epoch.
    fn now(&self) -> i64 {
        self.context.now.as_millisecond()
    }

    fn group_arn(&self, group: &str) -> String {
        format!("arn:aws:logs:{}:{}:log-group:{group}", self.region(), self.context.account())
    }

    /// The name of the group that is given by name or by identifier (a name or an ARN).
    fn group_name(
        &self,
        name: Option<String>,
        identifier: Option<String>,
    ) -> Result<String, ApiError> {
        match (name, identifier) {
            (Some(name), None) => Ok(name),
            (None, Some(identifier)) => {
                let prefix = self.group_arn("");
                let name = identifier.strip_prefix(&prefix).unwrap_or(&identifier);
                Ok(name.strip_suffix(":*").unwrap_or(name).to_owned())
            }
            (Some(_), Some(_)) => Err(invalid("give logGroupName or logGroupIdentifier, not both")),
            (None, None) => Err(invalid("logGroupName must be given")),
        }
    }
}

fn no_group() -> ApiError {
    ApiError::client("ResourceNotFoundException", "The specified log group does not exist.")
}

fn no_stream() -> ApiError {
    ApiError::client("ResourceNotFoundException", "The specified log stream does not exist.")
}

/// A number within the bounds of its member, in the words of the service.
fn bounded(name: &str, value: Option<i32>, default: usize, most: usize) -> Result<usize, ApiError> {
    let Some(given) = value else { return Ok(default) };
    let refuse = |relation: &str, bound: usize| {
        invalid(format!(
            "1 validation error detected: Value '{given}' at '{name}' failed to satisfy constraint: \
             Member must have value {relation} than or equal to {bound}"
        ))
    };
    match usize::try_from(given) {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        Ok(number) if number > most => Err(refuse("less", most)),
        _ => Err(refuse("greater", 1)),
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "a call of the logs failed");
        Self { name: "ServiceUnavailableException".to_owned(), ..Self::server(error.to_string()) }
    }
}
