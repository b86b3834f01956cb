//! A WebSocket to a control plane, upgraded by a signed request (protocol reference §6).
//!
//! The upgrade goes through the HTTP client, so that TLS, roots and proxies are those of the calls.
//! Frames are text of at most [`LARGEST_FRAME`] bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use protocol::{percent, sigv4};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Client, authority, credentials};

/// Bytes of a message at most: a payload of hundreds of tasks.
pub const LARGEST_FRAME: usize = 8 << 20;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are read of a refusal.
const LARGEST_REFUSAL: usize = 64 << 10;

/// An open session.
pub type Socket = WebSocketStream<reqwest::Upgraded>;

/// No session was opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("sign the session's request")]
    Credentials(#[source] credentials::Error),
    #[error("connect to {endpoint}")]
    Connect { endpoint: String, source: reqwest::Error },
    #[error("connect to {endpoint}: no answer within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout { endpoint: String },
    /// `kind`: the exception's name, where the answer has one.
    #[error("{endpoint} refuses the session with status {status}: {kind}: {message}")]
    Refused { endpoint: String, status: u16, kind: String, message: String },
    #[error("{endpoint} does not speak WebSocket: its answer lacks the accepted key")]
    Accept { endpoint: String },
}

/// Opens a session at `<endpoint>/ws?<query>`.
///
/// # Errors
/// If the peer cannot be reached or refuses.
pub async fn connect(
    client: &Client,
    endpoint: &str,
    query: &BTreeMap<&str, String>,
) -> Result<Socket, Error> {
    let named = || endpoint.to_owned();
    tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrade(client, endpoint, query))
        .await
        .map_err(|_elapsed| Error::Timeout { endpoint: named() })?
}

async fn upgrade(
    client: &Client,
    endpoint: &str,
    query: &BTreeMap<&str, String>,
) -> Result<Socket, Error> {
    let named = || endpoint.to_owned();
    let base = endpoint.trim_end_matches('/');
    let query: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", percent::encode(name), percent::encode(value)))
        .collect();
    let query = query.join("&");
    // A base may have a path of its own.
    let behind = base.split_once("://").map_or(base, |(_, rest)| rest);
    let path = behind.find('/').and_then(|at| behind.get(at..)).unwrap_or_default();
    let path = format!("{path}/ws");
    let keys = client.source.keys().await.map_err(Error::Credentials)?;
    let added = sigv4::sign(
        &keys.signing(),
        &sigv4::Scope { region: &client.region, service: protocol::ecs::SIGNING_NAME },
        &sigv4::Request {
            method: "GET",
            path: &path,
            query: &query,
            headers: &[("host", authority(base))],
            payload_sha256: &sigv4::sha256_hex(b""),
        },
        jiff::Timestamp::now(),
    );
    let key = generate_key();
    let mut request = client
        .http
        .get(format!("{base}/ws?{query}"))
        .header(CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(UPGRADE, HeaderValue::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", &key);
    for (name, value) in added {
        request = request.header(name, value);
    }
    let failed =
        |source: reqwest::Error| Error::Connect { endpoint: named(), source: source.without_url() };
    let mut response = request.send().await.map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > LARGEST_REFUSAL {
                break;
            }
        }
        let (kind, message) = refusal(&body);
        return Err(Error::Refused { endpoint: named(), status, kind, message });
    }
    let accepted = response.headers().get("sec-websocket-accept").map(HeaderValue::as_bytes);
    if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(Error::Accept { endpoint: named() });
    }
    let upgraded = response.upgrade().await.map_err(failed)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_message_size(Some(LARGEST_FRAME))
        .max_frame_size(Some(LARGEST_FRAME));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
}

/// Name and text of a refusal: `{"<Type>":"<message>"}`, a frame, or an error of the API.
fn refusal(body: &[u8]) -> (String, String) {
    use protocol::acs::ServerMessage;
    let text = String::from_utf8_lossy(body);
    if let Ok(ServerMessage::Exception { kind, message }) = ServerMessage::parse(&text) {
        return (kind, message.message.unwrap_or_default());
    }
    if let Ok(object) = serde_json::from_str::<BTreeMap<String, String>>(&text)
        && object.len() == 1
        && let Some((kind, message)) = object.into_iter().next()
        && kind != "message"
        && kind != "__type"
    {
        return (kind, message);
    }
    let error = protocol::aws_json::ApiError::read(0, None, body);
    (error.name, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        for (body, kind, message) in [
            (r#"{"InactiveInstanceException":"gone"}"#, "InactiveInstanceException", "gone"),
            (
                r#"{"type":"InactiveInstanceException","message":{"message":"gone"}}"#,
                "InactiveInstanceException",
                "gone",
            ),
            (
                r#"{"__type":"x#AccessDeniedException","message":"no"}"#,
                "AccessDeniedException",
                "no",
            ),
            ("bad gateway", "UnknownError", "bad gateway"),
        ] {
            assert_eq!(refusal(body.as_bytes()), (kind.to_owned(), message.to_owned()), "{body}");
        }
    }
}
