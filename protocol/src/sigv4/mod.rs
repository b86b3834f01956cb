//! AWS Signature Version 4: signs requests and verifies them. Pure: the clock is a parameter.
//!
//! - [`sign`] yields the headers that sign a request: an HTTP call, the upgrade of a WebSocket, or a
//!   frame of the telemetry session, which looks like a request (protocol reference §6, §10.2).
//! - [`parse`] reads who claims to have signed (header or presigned query), so that the key can be
//!   looked up; [`Claim::verify`] then proves it.
//!
//! Paths are normalised and encoded once more over their form on the wire, as every service but S3
//! wants it. In queries a `+` is a blank: Amazon's agent sends it so and signs `%20`.
//!
//! Refuses: algorithms other than `AWS4-HMAC-SHA256`; a request whose `host`, or any of whose
//! `x-amz-*` headers, is not signed (an unsigned `X-Amz-Target` would let others choose the
//! operation); a `Date` header in place of `X-Amz-Date`; clocks more than [`SKEW`] apart; a body
//! other than the signed one, unless the signed header `x-amz-content-sha256` says that the body is
//! not part of the signature.

mod canonical;
mod claim;
#[cfg(test)]
mod tests;

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use self::canonical::{Canonical, NOT_SIGNED};
pub use self::claim::{Claim, Error, SKEW, parse};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
/// Value of `x-amz-content-sha256` that leaves the body out.
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const DATE_HEADER: &str = "x-amz-date";
const TOKEN_HEADER: &str = "x-amz-security-token";
const PAYLOAD_HEADER: &str = "x-amz-content-sha256";
/// `X-Amz-Date`, in UTC.
const DATE_FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// With what is signed.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    /// Of temporary keys.
    pub session_token: Option<&'a str>,
}

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// For whom is signed.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub region: &'a str,
    /// The service's signing name, such as `ecs`.
    pub service: &'a str,
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub method: &'a str,
    /// As on the wire.
    pub path: &'a str,
    /// As on the wire, without the `?`.
    pub query: &'a str,
    /// Names in any case. To sign, `host` must be among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// [`sha256_hex`] of the body.
    pub payload_sha256: &'a str,
}

impl<'a> Request<'a> {
    /// Values of a header, in order.
    fn values(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

/// SHA-256 of a body, as lower-case hex.
pub fn sha256_hex(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// The headers to add to a request: `x-amz-date`, `x-amz-security-token` (with a session token) and
/// `authorization`. All given headers are signed, but those that proxies and clients change on the
/// way (`user-agent`, `connection` and the like), and those that are added here.
pub fn sign(
    keys: &Keys<'_>,
    scope: &Scope<'_>,
    request: &Request<'_>,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let date = now.strftime(DATE_FORMAT).to_string();
    let added =
        [Some((DATE_HEADER, &*date)), keys.session_token.map(|token| (TOKEN_HEADER, token))];
    let mut headers: Vec<(&str, &str)> = request
        .headers
        .iter()
        .copied()
        .filter(|(name, _)| !NOT_SIGNED.iter().any(|not| name.eq_ignore_ascii_case(not)))
        .collect();
    headers.extend(added.into_iter().flatten());
    let mut names: Vec<String> =
        headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    names.dedup();

    let request = Request { headers: &headers, ..*request };
    let payload = canonical::payload(&request, &names);
    let day = date.get(..8).unwrap_or_default();
    let credential = format!("{day}/{}/{}/{TERMINATOR}", scope.region, scope.service);
    let canonical = Canonical { request: &request, signed: &names, payload, presigned: false };
    let text = string_to_sign(&date, &credential, &canonical);
    let key = signing_key(keys.secret_access_key, day, scope);
    let authorization = format!(
        "{ALGORITHM} Credential={}/{credential}, SignedHeaders={}, Signature={}",
        keys.access_key_id,
        names.join(";"),
        hex::encode(hmac(&key, text.as_bytes())),
    );
    let mut result = vec![(DATE_HEADER, date.clone())];
    result.extend(keys.session_token.map(|token| (TOKEN_HEADER, token.to_owned())));
    result.push(("authorization", authorization));
    result
}

/// `credential`: the scope with date and terminator.
fn string_to_sign(date: &str, credential: &str, canonical: &Canonical<'_>) -> String {
    let digest = sha256_hex(canonical.to_string().as_bytes());
    format!("{ALGORITHM}\n{date}\n{credential}\n{digest}")
}

fn signing_key(secret: &str, day: &str, scope: &Scope<'_>) -> [u8; 32] {
    let key = hmac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    let key = hmac(&key, scope.region.as_bytes());
    let key = hmac(&key, scope.service.as_bytes());
    hmac(&key, TERMINATOR.as_bytes())
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    #[allow(clippy::expect_used, reason = "HMAC is defined for keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}
