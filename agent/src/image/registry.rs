//! The OCI distribution API 1.1: manifests and blobs of one repository, from whichever host has
//! them.
//!
//! ```text
//! hosts.rs      who is asked, in which order, and what is trusted
//! transport.rs  HTTP to a host and to where it sends us
//! token.rs      who we are to it
//! download.rs   blobs, resumed and from the next host     push.rs  the other direction
//! referrers.rs  what refers to a manifest            rounds.rs  in which order and how often
//! ```
//!
//! A session tries the hosts in order, those last that have failed it already. What may work a
//! moment later is tried again, with growing pauses or as long as the host asks (`Retry-After`, up
//! to [`MAX_WAIT`] in all); a host that refuses connections is not, for the caller knows better how long
//! to wait for it. Content is verified wherever it comes from, so a host that serves something
//! else is one that failed.
//!
//! A tag is asked for by HEAD, which registries do not count as a pull, and its manifest then by
//! the digest that they answered with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use reqwest::{Response, Url};
use serde::Deserialize;

use super::Registries;
use super::auth::{self, Login};
use super::hosts::{self, Capabilities, Host};
use super::layer::digest_of;
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST};
use super::reference::{Reference, is_digest};
use super::rounds::{ATTEMPTS, MAX_WAIT, in_rounds};
use super::token::{Authenticator, Logins};
use super::transport::{Call, SILENCE, Transport, failure, silence};
use crate::error::chain;

const MAX_ERROR: usize = 64 << 10;
const CONTENT_DIGEST: &str = "docker-content-digest";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Hosts(#[from] hosts::Error),
    #[error("find the login")]
    Login(#[source] Box<auth::Error>),
    #[error("set up HTTPS (are CA certificates installed?)")]
    Client(#[source] reqwest::Error),
    #[error("set up HTTPS: {0}")]
    Trust(String),
    #[error("registry does not answer")]
    Down(#[source] std::io::Error),
    #[error(
        "the certificate is not trusted (its authority belongs into the host's directory of LIGHTER_REGISTRY_CONFIG_DIR)"
    )]
    Certificate(#[source] std::io::Error),
    #[error("unauthorized: the registry refuses {login}{message}")]
    Unauthorized { login: &'static str, message: String },
    #[error("token server {server}")]
    Token { server: String, source: Box<Error> },
    #[error("unknown image: the registry has no {0}")]
    Unknown(&'static str),
    #[error("registry limits the rate of requests; log in or try {}", when(*after))]
    RateLimit { after: Option<Duration> },
    #[error("registry answers {code}{message}")]
    Status { code: u16, message: String, after: Option<Duration> },
    #[error("registry serves content of another digest than was asked for: {served} for {asked}")]
    Digest { asked: String, served: String },
    #[error("registry serves a document of more than {0} bytes")]
    Oversized(usize),
    #[error("registry sends us to {to}, {reason}")]
    Elsewhere { to: String, reason: &'static str },
    #[error("registry protocol: {0}")]
    Protocol(String),
    #[error("transfer broken")]
    Broken(#[source] std::io::Error),
    #[error(
        "transfer too slow: {bytes} bytes in {} s, less than {least} a second (low_speed_limit in hosts.toml)",
        waited.as_secs_f64().round()
    )]
    Slow { bytes: u64, waited: Duration, least: u64 },
    #[error("no host of this registry is configured for this (capabilities in hosts.toml)")]
    Nobody,
    #[error("every host failed: {0}")]
    Everywhere(Failures),
}

fn when(after: Option<Duration>) -> String {
    after.map_or_else(|| "later".to_owned(), |after| format!("in {} s", after.as_secs()))
}

/// What each host of a registry answered, in the order in which they were asked.
#[derive(Debug)]
pub struct Failures(Vec<(String, Error)>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (host, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{host}: {}", chain(error))?;
        }
        Ok(())
    }
}

impl Error {
    /// May the same request work a moment later?
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Down(_) | Self::Broken(_) | Self::Slow { .. } => true,
            Self::RateLimit { after } => after.is_none_or(|after| after <= MAX_WAIT),
            Self::Status { code, after, .. } => {
                (*code >= 500 || *code == 408) && after.is_none_or(|after| after <= MAX_WAIT)
            }
            Self::Token { source, .. } => source.is_transient(),
            Self::Everywhere(Failures(all)) => all.iter().any(|(_, error)| error.is_transient()),
            _ => false,
        }
    }

    /// Has a host said that there is no such thing, and none had it? A mirror that is down says
    /// nothing.
    pub(super) fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Everywhere(Failures(all)) => all.iter().any(|(_, error)| error.is_unknown()),
            _ => false,
        }
    }

    /// Has a host said that there is no such thing, or not for us?
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Unauthorized { .. } | Self::Unknown(_) => true,
            Self::Everywhere(Failures(all)) => all.iter().any(|(_, error)| error.is_refusal()),
            _ => false,
        }
    }

    /// How long the host asks us to wait.
    fn after(&self) -> Option<Duration> {
        match self {
            Self::RateLimit { after } | Self::Status { after, .. } => *after,
            Self::Token { source, .. } => source.after(),
            _ => None,
        }
    }

    /// The pause after which the same host is worth another attempt. One that is down is not.
    pub(super) fn again(&self, tries: u32) -> Option<Duration> {
        let worth = self.is_transient() && !matches!(self, Self::Down(_));
        worth.then(|| self.pause(tries))
    }

    /// The pause before the next attempt.
    pub(super) fn pause(&self, tries: u32) -> Duration {
        let own = Duration::from_millis(200 << tries.min(5));
        self.after().map_or(own, |after| after.max(own)).min(MAX_WAIT)
    }
}

/// The seconds or the date of `Retry-After`.
pub(super) fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    let seconds = date.timestamp().as_second() - now.as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The error document of the specification.
#[derive(Deserialize)]
struct Refusals {
    errors: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    message: Option<String>,
}

/// What an answer other than success says.
pub(super) fn refusal(
    status: StatusCode,
    after: Option<Duration>,
    body: &[u8],
    what: &'static str,
    login: &'static str,
) -> Error {
    let first = serde_json::from_slice::<Refusals>(body)
        .ok()
        .and_then(|refusals| refusals.errors.into_iter().next());
    let (code, message) = match first {
        Some(Refusal { code, message }) => {
            let shown = message.filter(|text| !text.is_empty()).unwrap_or_else(|| code.clone());
            (code, shown)
        }
        None => (String::new(), String::new()),
    };
    let message = match message.is_empty() {
        true => String::new(),
        false => {
            let clean = message.chars().map(|c| if c.is_control() { ' ' } else { c });
            format!(": {}", clean.take(300).collect::<String>().trim())
        }
    };
    match (status.as_u16(), code.as_str()) {
        (429, _) | (_, "TOOMANYREQUESTS") => Error::RateLimit { after },
        (401 | 403, _) => Error::Unauthorized { login, message },
        (404, "UNAUTHORIZED" | "DENIED") => Error::Unauthorized { login, message },
        // Of something that was sent.
        (404, "MANIFEST_BLOB_UNKNOWN" | "BLOB_UPLOAD_UNKNOWN") => {
            Error::Status { code: 404, message, after }
        }
        (404, _) => Error::Unknown(what),
        (code, _) => Error::Status { code, message, after },
    }
}

/// Success, or what the host has against it.
pub(super) async fn check(
    response: Response,
    what: &'static str,
    login: &'static str,
) -> Result<Response, Error> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response.headers().get(header::RETRY_AFTER).and_then(|text| text.to_str().ok());
    let after = after.and_then(|text| retry_after(text, Timestamp::now()));
    let body = small_body(response, MAX_ERROR).await.unwrap_or_default();
    Err(refusal(status, after, &body, what, login))
}

/// A body that must not be larger than `limit`.
pub(super) async fn small_body(mut response: Response, limit: usize) -> Result<Bytes, Error> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(Error::Oversized(limit));
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = chunk(&mut response).await? {
        if body.len() + chunk.len() > limit {
            return Err(Error::Oversized(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The next piece of a body, if it comes in time.
pub(super) async fn chunk(response: &mut Response) -> Result<Option<Bytes>, Error> {
    match tokio::time::timeout(SILENCE, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => match failure(error) {
            Error::Down(source) => Err(Error::Broken(source)),
            error => Err(error),
        },
        Err(_elapsed) => Err(Error::Broken(silence())),
    }
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// One host, in one session.
pub(super) struct Endpoint {
    pub(super) host: Host,
    repository: String,
    pub(super) transport: Transport,
    authenticator: Authenticator,
    place: usize,
}

impl Endpoint {
    /// An address of the repository.
    pub(super) fn url(&self, rest: &str) -> Url {
        let mut url = self.host.base.clone();
        let path = format!("{}/{}/{rest}", url.path().trim_end_matches('/'), self.repository);
        url.set_path(&path);
        if let Some(registry) = &self.host.mirror_of {
            // As containerd tells a mirror of several registries which one is meant.
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }

    pub(super) fn who(&self) -> &'static str {
        self.authenticator.who()
    }

    /// Sends a request without a body, logs in if asked to, and follows redirects.
    pub(super) async fn request(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
    ) -> Result<Response, Error> {
        let mut renewed = false;
        loop {
            let authorization = self.authenticator.authorization(&self.transport).await?;
            let call = Call {
                method: method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                authorization: authorization.as_ref(),
            };
            let (response, own) = self.transport.follow(call).await?;
            if renewed || !own || !self.renew(&response, authorization.as_ref()).await? {
                return Ok(response);
            }
            renewed = true;
            // Read to its end, the connection can be used again.
            let _ = small_body(response, MAX_ERROR).await;
        }
    }

    /// Whether a refused request is worth repeating with what [`Self::authorization`] now gives.
    pub(super) async fn renew(
        &self,
        response: &Response,
        used: Option<&HeaderValue>,
    ) -> Result<bool, Error> {
        match response.status() {
            StatusCode::UNAUTHORIZED => {}
            StatusCode::FORBIDDEN if used.is_some() => {}
            _ => return Ok(false),
        }
        self.authenticator.renew(&self.transport, response.headers(), used).await
    }

    pub(super) async fn authorization(&self) -> Result<Option<HeaderValue>, Error> {
        self.authenticator.authorization(&self.transport).await
    }

    async fn resolve(&self, target: &str) -> Result<Found, Error> {
        let url = self.url(&format!("manifests/{target}"));
        let response = self.request(Method::HEAD, url, accept()).await?;
        let status = response.status();
        // Without a body they do not say why, and some registries have no HEAD.
        if matches!(status.as_u16(), 400 | 403 | 404 | 405 | 501) {
            return self.manifest(target).await;
        }
        let response = check(response, MANIFEST, self.who()).await?;
        let digest = response.headers().get(CONTENT_DIGEST).and_then(|text| text.to_str().ok());
        match digest.filter(|digest| is_digest(digest)) {
            Some(digest) if is_digest(target) && digest != target => {
                Err(Error::Digest { asked: target.to_owned(), served: digest.to_owned() })
            }
            Some(digest) => Ok(Found::Digest(digest.to_owned())),
            None => self.manifest(target).await,
        }
    }

    async fn manifest(&self, target: &str) -> Result<Found, Error> {
        let url = self.url(&format!("manifests/{target}"));
        let response = self.request(Method::GET, url, accept()).await?;
        let response = check(response, MANIFEST, self.who()).await?;
        let limit = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
        let bytes = small_body(response, limit).await?;
        let digest = digest_of(&bytes);
        if is_digest(target) && digest != target {
            return Err(Error::Digest { asked: target.to_owned(), served: digest });
        }
        Ok(Found::Manifest(bytes, digest))
    }
}

pub(super) const MANIFEST: &str = "such tag or digest";

pub(super) fn accept() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for kind in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST] {
        headers.append(header::ACCEPT, HeaderValue::from_static(kind));
    }
    headers
}

/// What a tag or digest stands for.
pub(super) enum Found {
    /// As the registry says; the content is not here yet.
    Digest(String),
    /// Verified where a digest was asked for, and the digest of the content.
    Manifest(Bytes, String),
}

/// Who served a blob, and whom we do not ask for it again.
#[derive(Default)]
struct Blob {
    served: BTreeSet<usize>,
    distrusted: BTreeSet<usize>,
}

/// What a session has learned of its hosts.
#[derive(Default)]
struct Experience {
    /// Who has failed already; others are asked before.
    failed: BTreeSet<usize>,
    blobs: BTreeMap<String, Blob>,
}

struct Inner {
    endpoints: Vec<Arc<Endpoint>>,
    /// How often a host is asked again that may answer later.
    attempts: u32,
    experience: Mutex<Experience>,
}

/// One repository, at all its hosts. Clones share connections, tokens and experience.
#[derive(Clone)]
pub(super) struct Session {
    inner: Arc<Inner>,
}

impl Session {
    /// Reads the configuration; nobody is asked yet. `login` is for the registry itself and goes
    /// before what is configured for it.
    pub(super) fn open(
        reference: &Reference,
        login: Option<Login>,
        registries: &Registries,
        access: Access,
    ) -> Result<Self, Error> {
        let repository = reference.path().to_owned();
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let mut endpoints = Vec::new();
        for (place, host) in registries.hosts.of(reference.domain())?.into_iter().enumerate() {
            let logins = match &login {
                Some(login) if host.mirror_of.is_none() => Logins::Given(login.clone()),
                _ => Logins::Of {
                    auth: registries.auth.clone(),
                    // As people have logged in to it, with a port that needs not be written.
                    host: match host.mirror_of {
                        None => reference.domain().to_owned(),
                        Some(_) => host.name(),
                    },
                    repository: repository.clone(),
                },
            };
            let scopes = vec![format!("repository:{repository}:{actions}")];
            endpoints.push(Arc::new(Endpoint {
                transport: Transport::new(&host, &registries.hosts.clients)?,
                authenticator: Authenticator::new(logins, scopes),
                repository: repository.clone(),
                host,
                place,
            }));
        }
        Ok(Self::of(endpoints, ATTEMPTS))
    }

    fn of(endpoints: Vec<Arc<Endpoint>>, attempts: u32) -> Self {
        Self { inner: Arc::new(Inner { endpoints, attempts, experience: Mutex::default() }) }
    }

    fn experience(&self) -> MutexGuard<'_, Experience> {
        self.inner.experience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who can say what a tag stands for, one by one, in the order in which they are asked. Who
    /// has nothing to say may have the image all the same: what is learned of them does not count in
    /// this session.
    pub(super) fn witnesses(&self) -> Vec<Arc<Witness>> {
        let asked = self.candidates(|can| can.resolve);
        let last = asked.iter().map(|endpoint| endpoint.place).max();
        let witness = |endpoint: &Arc<Endpoint>| {
            let others = self.inner.endpoints.iter().filter(|other| other.place != endpoint.place);
            let all = [endpoint].into_iter().chain(others).cloned().collect();
            Arc::new(Witness {
                lists: Self::of(vec![Arc::clone(endpoint)], 1),
                content: Self::of(all, ATTEMPTS),
                is_registry: Some(endpoint.place) == last,
                host: endpoint.host.origin(),
            })
        };
        asked.iter().map(witness).collect()
    }

    /// What a tag or digest stands for, without fetching it where the registry can say so.
    pub(super) async fn resolve(&self, target: &str) -> Result<Found, Error> {
        let tag = !is_digest(target);
        let can = |can: &Capabilities| if tag { can.resolve } else { can.pull };
        self.ask(can, |endpoint| {
            let target = target.to_owned();
            async move { endpoint.resolve(&target).await }
        })
        .await
    }

    /// The manifest or index of a tag or digest, verified if it is a digest; and its digest.
    pub(super) async fn manifest(&self, target: &str) -> Result<(Bytes, String), Error> {
        let tag = !is_digest(target);
        let can = |can: &Capabilities| if tag { can.resolve } else { can.pull };
        let found = self
            .ask(can, |endpoint| {
                let target = target.to_owned();
                async move { endpoint.manifest(&target).await }
            })
            .await?;
        match found {
            Found::Manifest(bytes, digest) => Ok((bytes, digest)),
            Found::Digest(_) => Err(Error::Protocol("a manifest without content".to_owned())),
        }
    }

    /// Tries the hosts that can.
    pub(super) async fn ask<T, F>(
        &self,
        can: impl Fn(&Capabilities) -> bool,
        attempt: impl Fn(Arc<Endpoint>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut failures = Vec::new();
        let failed = |endpoint: Arc<Endpoint>, error| {
            self.put_last(&endpoint);
            put(&mut failures, endpoint, error);
        };
        let open = self.candidates(can);
        let answer = in_rounds(open, self.inner.attempts, attempt, Error::again, failed).await;
        answer.ok_or_else(|| self.failed(failures))
    }

    fn candidates(&self, can: impl Fn(&Capabilities) -> bool) -> Vec<Arc<Endpoint>> {
        let mut found: Vec<_> = self
            .inner
            .endpoints
            .iter()
            .filter(|endpoint| can(&endpoint.host.can))
            .cloned()
            .collect();
        // Stable: among equals the order of the session.
        let experience = self.experience();
        found.sort_by_key(|endpoint| experience.failed.contains(&endpoint.place));
        found
    }

    /// Asks others before this host from now on.
    pub(super) fn put_last(&self, endpoint: &Endpoint) {
        self.experience().failed.insert(endpoint.place);
    }

    /// One error of what all hosts said.
    pub(super) fn failed(&self, mut failures: Vec<(Arc<Endpoint>, Error)>) -> Error {
        if failures.is_empty() {
            return Error::Nobody;
        }
        if self.inner.endpoints.len() == 1 && failures.len() == 1 {
            return failures.remove(0).1;
        }
        let all = failures.into_iter().map(|(endpoint, error)| (endpoint.host.origin(), error));
        Error::Everywhere(Failures(all.collect()))
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.inner.endpoints
    }

    // --- blobs: who is believed ------------------------------------------------------------------

    /// Whom to ask for a blob.
    pub(super) fn sources(&self, digest: &str) -> Vec<Arc<Endpoint>> {
        let mut sources = self.candidates(|can| can.pull);
        if let Some(blob) = self.experience().blobs.get(digest) {
            sources.retain(|endpoint| !blob.distrusted.contains(&endpoint.place));
        }
        sources
    }

    pub(super) fn served(&self, digest: &str, endpoint: &Endpoint) {
        let mut experience = self.experience();
        experience.blobs.entry(digest.to_owned()).or_default().served.insert(endpoint.place);
    }

    /// After a blob turned out wrong: does not ask the first host that served a part of it again.
    /// Whether another is left to ask, from the first byte on.
    pub(super) fn distrust(&self, digest: &str) -> bool {
        {
            let mut experience = self.experience();
            let blob = experience.blobs.entry(digest.to_owned()).or_default();
            let Some(first) = blob.served.pop_first() else { return false };
            blob.served.clear();
            blob.distrusted.insert(first);
        }
        !self.sources(digest).is_empty()
    }
}

/// One host, asked about an image beside what it serves of it.
pub(super) struct Witness {
    /// What it says, and nobody else; once.
    pub(super) lists: Session,
    /// What its lists name by digest, wherever that is, from it first.
    pub(super) content: Session,
    /// Nobody knows better than it: the others are its mirrors.
    pub(super) is_registry: bool,
    pub(super) host: String,
}

/// The latest failure of each host.
pub(super) fn put(
    failures: &mut Vec<(Arc<Endpoint>, Error)>,
    endpoint: Arc<Endpoint>,
    error: Error,
) {
    match failures.iter_mut().find(|(known, _)| known.place == endpoint.place) {
        Some((_, old)) => *old = error,
        None => failures.push((endpoint, error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let of = |text: &str| retry_after(text, now).map(|after| after.as_secs());
        assert_eq!(of("120"), Some(120));
        assert_eq!(of(" 0 "), Some(0));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(37));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(of("-1"), None);
        assert_eq!(of("soon"), None);
        assert_eq!(of("99999999999999999999"), None);
    }

    #[test]
    fn a_host_is_waited_for_as_long_as_it_asks_but_not_for_ever() {
        let limited = |seconds| Error::RateLimit { after: Some(Duration::from_secs(seconds)) };
        assert_eq!(limited(7).pause(0), Duration::from_secs(7));
        assert_eq!(limited(0).pause(2), Duration::from_millis(800));
        assert!(limited(45).is_transient());
        assert!(!limited(46).is_transient());
        assert!(limited(46).to_string().ends_with("try in 46 s"));
        assert!(Error::RateLimit { after: None }.is_transient());
        let status = |code| Error::Status { code, message: String::new(), after: None };
        assert!(
            status(503).is_transient() && status(500).is_transient() && status(408).is_transient()
        );
        assert!(!status(400).is_transient());
        let token = Error::Token { server: "t".to_owned(), source: Box::new(limited(9)) };
        assert_eq!(token.pause(0), Duration::from_secs(9));
        let all = |errors: Vec<Error>| {
            let named = errors.into_iter().map(|error| ("https://h".to_owned(), error));
            Error::Everywhere(Failures(named.collect()))
        };
        assert!(all(vec![Error::Unknown("such blob"), status(503)]).is_transient());
        assert!(!all(vec![Error::Unknown("such blob"), limited(3600)]).is_transient());
        assert!(all(vec![status(503), Error::Unknown("such blob")]).is_unknown());
        assert!(!all(vec![status(503), status(403)]).is_unknown());
        assert!(all(vec![status(503), Error::Unknown("such blob")]).is_refusal());
        assert!(!all(vec![status(503), limited(1)]).is_refusal());
    }

    #[test]
    fn refusals_are_told_in_the_registrys_words() {
        let say = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            refusal(status, None, body.as_bytes(), "such blob", "anonymous access").to_string()
        };
        let body = r#"{"errors":[{"code":"DENIED","message":"no\u001b[1m way","detail":null}]}"#;
        assert_eq!(
            say(403, body),
            "unauthorized: the registry refuses anonymous access: no [1m way"
        );
        assert_eq!(say(401, "<html>"), "unauthorized: the registry refuses anonymous access");
        assert_eq!(say(404, "{}"), "unknown image: the registry has no such blob");
        assert_eq!(
            say(404, r#"{"errors":[{"code":"DENIED"}]}"#),
            "unauthorized: the registry refuses anonymous access: DENIED"
        );
        assert!(say(429, "").contains("limits the rate"));
        assert!(say(400, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#).contains("limits the rate"));
        assert_eq!(say(500, "{\"errors\":[]}"), "registry answers 500");
        let long = format!("{{\"errors\":[{{\"message\":\"{}\"}}]}}", "x".repeat(9000));
        assert!(say(500, &long).len() < 400);
    }
}
