//! Answers in the three forms that clients know.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use protocol::aws_json::{self, ApiError};
use protocol::query;

/// How a client wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// awsJson1_1.
    Json,
    /// The query protocol's XML.
    Xml,
    /// A refused session: an object with one member, the error's name.
    Session,
}

/// An answer with status 200.
pub(super) fn ok(content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Longest message of an error, in characters: many quote the request, which may be large.
const LONGEST_MESSAGE: usize = 4096;

/// An error.
pub(super) fn error(dialect: Dialect, error: &ApiError, request_id: &str) -> Response {
    let shortened;
    let error = match error.message.char_indices().nth(LONGEST_MESSAGE) {
        None => error,
        Some((end, _)) => {
            let message = error.message.get(..end).unwrap_or_default();
            shortened = ApiError { message: format!("{message}…"), ..error.clone() };
            &shortened
        }
    };
    let mut response = match dialect {
        Dialect::Json => ok(aws_json::CONTENT_TYPE, error.body()),
        Dialect::Xml => {
            ok(query::CONTENT_TYPE, query::error(error, query::STS_NAMESPACE, request_id))
        }
        Dialect::Session => {
            let mut member = serde_json::Map::new();
            member.insert(error.name.clone(), error.message.clone().into());
            ok("application/json", serde_json::Value::Object(member).to_string().into_bytes())
        }
    };
    *response.status_mut() =
        StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(name) = HeaderValue::from_str(&error.name) {
        response.headers_mut().insert(aws_json::ERROR_HEADER, name);
    }
    // What is left of the body of such a request is not worth the reading.
    if matches!(error.status, 408 | 413) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
