//! awsJson1_1: how ECS, CloudWatch Logs and others name operations and errors over HTTP.
//!
//! A request is `POST /` with the header `X-Amz-Target: <prefix>.<operation>` and a JSON object as
//! body; an error is a JSON object with `__type` and `message`, and a status.

use serde::{Deserialize, Serialize};

/// Content type of requests and answers.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// Header that names the operation.
pub const TARGET_HEADER: &str = "x-amz-target";
/// Header that repeats the name of an error.
pub const ERROR_HEADER: &str = "x-amzn-errortype";
/// Header with the id of a request.
pub const REQUEST_ID_HEADER: &str = "x-amzn-requestid";

/// Splits the target header into the service's prefix and the operation.
pub fn split_target(target: &str) -> Option<(&str, &str)> {
    target
        .rsplit_once('.')
        .filter(|(prefix, operation)| !prefix.is_empty() && !operation.is_empty())
}

/// An error of an AWS API, as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The exception's name, on which clients branch.
    pub name: String,
    /// For people.
    pub message: String,
    /// Member `resourceIds` of a conflict: what is in the way.
    pub resource_ids: Vec<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "__type")]
    kind: &'a str,
    message: &'a str,
    #[serde(rename = "resourceIds", skip_serializing_if = "<[String]>::is_empty")]
    resource_ids: &'a [String],
}

#[derive(Deserialize)]
struct Read {
    #[serde(rename = "__type")]
    kind: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
    #[serde(rename = "resourceIds", default, deserialize_with = "crate::null_as_default")]
    resource_ids: Vec<String>,
}

impl ApiError {
    /// An error of the client (status 400).
    pub fn client(name: &str, message: impl Into<String>) -> Self {
        Self::new(400, name, message.into())
    }

    /// An error of the server (status 500).
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(500, "ServerException", message.into())
    }

    fn new(status: u16, name: &str, message: String) -> Self {
        Self { status, name: name.to_owned(), message, resource_ids: Vec::new() }
    }

    /// The JSON body.
    pub fn body(&self) -> Vec<u8> {
        // Strings always can be written.
        serde_json::to_vec(&Written {
            kind: &self.name,
            message: &self.message,
            resource_ids: &self.resource_ids,
        })
        .unwrap_or_default()
    }

    /// Reads an answer with an error's status. `header`: the value of [`ERROR_HEADER`], for bodies
    /// that do not name the error. What cannot be read is an `UnknownError` with the body as text.
    pub fn read(status: u16, header: Option<&str>, body: &[u8]) -> Self {
        let read: Option<Read> = serde_json::from_slice(body).ok();
        let (kind, message, resource_ids) = read
            .map_or((None, None, Vec::new()), |read| (read.kind, read.message, read.resource_ids));
        // A name may carry its namespace before a `#`, and the header a URL behind a colon.
        let name = kind.as_deref().or(header).unwrap_or("UnknownError");
        let name = name.rsplit('#').next().unwrap_or(name);
        let name = name.split(':').next().unwrap_or(name);
        let message =
            message.unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(512).collect());
        Self { status, name: name.to_owned(), message, resource_ids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(
            split_target("AmazonEC2ContainerServiceV20141113.RunTask"),
            Some(("AmazonEC2ContainerServiceV20141113", "RunTask"))
        );
        for bad in ["", ".", "RunTask", ".RunTask", "X."] {
            assert_eq!(split_target(bad), None, "{bad}");
        }
    }

    #[test]
    fn errors_there_and_back() {
        let error = ApiError::client("ClusterNotFoundException", "Cluster not found.");
        assert_eq!(ApiError::read(400, None, &error.body()), error);
        let conflict = ApiError { resource_ids: vec!["a".to_owned()], ..error };
        assert_eq!(ApiError::read(400, None, &conflict.body()), conflict);
        let null = br#"{"__type":"ClientException","message":"no","resourceIds":null}"#;
        assert_eq!(ApiError::read(400, None, null), ApiError::client("ClientException", "no"));
        let prefixed = br#"{"__type":"com.amazonaws.ecs#ClientException","Message":"no"}"#;
        assert_eq!(ApiError::read(400, None, prefixed), ApiError::client("ClientException", "no"));
        let bare = ApiError::read(502, Some("ThrottlingException:http://x"), b"gateway");
        assert_eq!((bare.name.as_str(), bare.message.as_str()), ("ThrottlingException", "gateway"));
    }
}
