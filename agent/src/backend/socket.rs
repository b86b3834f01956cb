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

/// Where a session is: `<endpoint>/ws?<query>`, in the parts that are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// As the control plane named it, without a slash at the end.
    endpoint: String,
    path: String,
    query: String,
}

impl Address {
    /// `endpoint`: scheme and authority, perhaps with a path of its own.
    pub fn new(endpoint: &str, query: &BTreeMap<&str, String>) -> Self {
        let endpoint = endpoint.trim_end_matches('/');
        let behind = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
        let base = behind.find('/').and_then(|at| behind.get(at..)).unwrap_or_default();
        Self {
            endpoint: endpoint.to_owned(),
            path: format!("{base}/ws"),
            query: percent::encode_query(query.iter().map(|(name, value)| (*name, &**value))),
        }
    }

    /// As it stands in the `Host` header.
    pub fn host(&self) -> &str {
        authority(&self.endpoint)
    }

    /// Signs a `GET` of it with a body. Returned are the headers to add.
    ///
    /// # Errors
    /// If there are no credentials.
    pub async fn sign(
        &self,
        client: &Client,
        body: &[u8],
    ) -> Result<Vec<(&'static str, String)>, credentials::Error> {
        let request = sigv4::Request {
            method: "GET",
            path: &self.path,
            query: &self.query,
            headers: &[("host", self.host())],
            payload_sha256: &sigv4::sha256_hex(body),
        };
        client.sign(protocol::ecs::SIGNING_NAME, &request).await
    }
}

/// Opens a session.
///
/// # Errors
/// If the peer cannot be reached or refuses.
pub async fn connect(client: &Client, address: &Address) -> Result<Socket, Error> {
    tokio::time::timeout(HANDSHAKE_TIMEOUT, upgrade(client, address))
        .await
        .map_err(|_elapsed| Error::Timeout { endpoint: address.endpoint.clone() })?
}

async fn upgrade(client: &Client, address: &Address) -> Result<Socket, Error> {
    let Address { endpoint, query, .. } = address;
    let named = || endpoint.clone();
    let added = address.sign(client, b"").await.map_err(Error::Credentials)?;
    let key = generate_key();
    let mut request = client
        .http(endpoint)
        .get(format!("{endpoint}/ws?{query}"))
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
    fn addresses() {
        let query = BTreeMap::from([("b", "x y/".to_owned()), ("a", "1".to_owned())]);
        for (endpoint, host, path) in [
            ("http://h:1", "h:1", "/ws"),
            ("https://h:443/", "h", "/ws"),
            ("https://h/base/", "h", "/base/ws"),
        ] {
            let address = Address::new(endpoint, &query);
            assert_eq!((address.host(), &*address.path), (host, path), "{endpoint}");
            assert_eq!(address.query, "a=1&b=x%20y%2F");
        }
    }

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
