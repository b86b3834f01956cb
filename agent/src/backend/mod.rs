//! Calls to AWS's JSON services, Amazon's or a control plane's own: awsJson1_1 over HTTP/1.1,
//! signed with Signature Version 4 (protocol reference §4.1).
//!
//! [`Client`] makes one attempt per call and classifies its failure; who calls owns the retries.
//! The roots are the host's and those of `LIGHTER_CA_BUNDLE`; proxies come from the environment, but
//! no proxy leads to an address of this host. A service whose clock differs is followed ([`skew`]).
//! With [`Client::with_keys`] the same connections serve calls with a role's credentials.
//!
//! Refuses answers over [`LARGEST_ANSWER`] and redirects.

pub mod backoff;
pub mod credentials;
pub mod discover;
pub mod metadata_service;
pub mod session;
mod skew;
pub mod socket;
#[cfg(test)]
pub(crate) mod testing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use protocol::aws_json::{self, ApiError};
use protocol::sigv4;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::credentials::{Keys, Source};
use self::skew::Skew;

/// What the agent calls itself.
pub const USER_AGENT: &str =
    concat!("Lighter ECS Agent - v", env!("CARGO_PKG_VERSION"), " (linux; LINUX)");

/// Bytes of an answer at most.
pub const LARGEST_ANSWER: usize = 4 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(42);

/// No client can be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("read the certificates in {path}")]
    Bundle { path: PathBuf, source: std::io::Error },
    #[error("read the certificates in {path}: it holds no PEM certificate that can be used")]
    Certificates { path: PathBuf },
    #[error("set up the HTTP client")]
    Http(#[source] reqwest::Error),
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("sign {operation}")]
    Credentials { operation: String, source: credentials::Error },
    #[error("write the request of {operation} as JSON")]
    Encode { operation: String, source: serde_json::Error },
    #[error("call {operation} at {endpoint}")]
    Send { operation: String, endpoint: String, source: reqwest::Error },
    #[error("{operation} is refused")]
    Api { operation: String, source: ApiError },
    #[error("read the answer to {operation}")]
    Decode { operation: String, source: serde_json::Error },
    #[error("the answer to {operation} is larger than {LARGEST_ANSWER} bytes")]
    TooLarge { operation: String },
}

/// Variables that name a proxy.
const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Errors by which services ask for patience.
const THROTTLING: [&str; 6] = [
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

impl CallError {
    /// What the service said, if it answered.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api { source, .. } => Some(source),
            _ => None,
        }
    }

    /// May the same call succeed later, without anybody changing anything?
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Api { source, .. } => {
                source.status >= 500
                    || source.status == 429
                    || THROTTLING.contains(&source.name.as_str())
            }
            Self::Send { .. } | Self::Credentials { .. } | Self::Decode { .. } => true,
            Self::Encode { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// One JSON service.
#[derive(Debug, Clone, Copy)]
pub struct Service<'a> {
    /// In the credential scope, such as `ecs`.
    pub signing_name: &'a str,
    /// Prefix of the `X-Amz-Target` header.
    pub target: &'a str,
    /// Scheme and authority.
    pub endpoint: &'a str,
}

/// Signs and sends. Clones share connections and credentials.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// The same without proxies, for addresses of this host.
    direct: reqwest::Client,
    source: Source,
    region: Arc<str>,
    skew: Skew,
}

impl Client {
    /// `region`: the scope of the signatures.
    ///
    /// # Errors
    /// If the bundle cannot be read, or TLS not be set up.
    pub fn new(ca_bundle: Option<&Path>, source: Source, region: &str) -> Result<Self, SetupError> {
        let tls = tls(ca_bundle)?;
        let builder = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .http1_only()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_keepalive(Duration::from_secs(60))
        };
        let http = builder().build().map_err(SetupError::Http)?;
        let proxied = PROXIES.iter().any(|name| std::env::var_os(name).is_some());
        let direct = if proxied {
            builder().no_proxy().build().map_err(SetupError::Http)?
        } else {
            http.clone()
        };
        Ok(Self { http, direct, source, region: region.into(), skew: Skew::default() })
    }

    /// What leads to an endpoint.
    fn http(&self, endpoint: &str) -> &reqwest::Client {
        if is_of_this_host(endpoint) { &self.direct } else { &self.http }
    }

    /// The same client with other credentials, those of a role.
    #[must_use]
    pub fn with_keys(&self, keys: Keys) -> Self {
        Self { source: Source::Fixed(Arc::new(keys)), ..self.clone() }
    }

    /// The same client for a service of another region, which may have another clock.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Self {
        Self { region: region.into(), skew: Skew::default(), ..self.clone() }
    }

    /// The region of its signatures.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Signs a request as it is sent now; returns the headers to add.
    async fn sign(
        &self,
        service: &str,
        request: &sigv4::Request<'_>,
    ) -> Result<Vec<(&'static str, String)>, credentials::Error> {
        let keys = self.source.keys().await?;
        let scope = sigv4::Scope { region: &self.region, service };
        Ok(sigv4::sign(&keys.signing(), &scope, request, self.skew.now()))
    }

    /// Calls an operation, once.
    ///
    /// # Errors
    /// If there are no credentials, the service cannot be reached, or it refuses.
    pub async fn call<I: Serialize + ?Sized, O: DeserializeOwned>(
        &self,
        service: Service<'_>,
        operation: &str,
        input: &I,
    ) -> Result<O, CallError> {
        let named = || operation.to_owned();
        let body = serde_json::to_vec(input)
            .map_err(|source| CallError::Encode { operation: named(), source })?;
        let host = authority(service.endpoint);
        let target = format!("{}.{operation}", service.target);
        let signed_headers = [
            ("host", host),
            ("content-type", aws_json::CONTENT_TYPE),
            (aws_json::TARGET_HEADER, target.as_str()),
        ];
        let request = sigv4::Request {
            method: "POST",
            path: "/",
            query: "",
            headers: &signed_headers,
            payload_sha256: &sigv4::sha256_hex(&body),
        };
        let added = self
            .sign(service.signing_name, &request)
            .await
            .map_err(|source| CallError::Credentials { operation: named(), source })?;
        let http = self.http(service.endpoint);
        let mut request = http.post(format!("{}/", service.endpoint)).timeout(CALL_TIMEOUT);
        // The client writes the host itself, from the same address.
        for (name, value) in signed_headers.iter().skip(1) {
            request = request.header(*name, *value);
        }
        for (name, value) in added {
            request = request.header(name, value);
        }
        let failed = |source: reqwest::Error| CallError::Send {
            operation: named(),
            endpoint: service.endpoint.to_owned(),
            source: source.without_url(),
        };
        let mut response = request.body(body).send().await.map_err(failed)?;
        let status = response.status();
        let kind = response.headers().get(aws_json::ERROR_HEADER).cloned();
        let date = response.headers().get(http::header::DATE).cloned();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > LARGEST_ANSWER {
                return Err(CallError::TooLarge { operation: named() });
            }
            answer.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let kind = kind.as_ref().and_then(|kind| kind.to_str().ok());
            let source = ApiError::read(status.as_u16(), kind, &answer);
            if ["ExpiredTokenException", "UnrecognizedClientException"]
                .contains(&source.name.as_str())
            {
                self.source.invalidate().await;
            }
            self.skew.learn(&source.name, date.as_ref().and_then(|date| date.to_str().ok()));
            return Err(CallError::Api { operation: named(), source });
        }
        let answer: &[u8] = if answer.is_empty() { b"{}" } else { &answer };
        serde_json::from_slice(answer)
            .map_err(|source| CallError::Decode { operation: named(), source })
    }
}

/// Host and port of `scheme://host[:port]`, without a port that the scheme implies: as it stands in
/// the `Host` header.
fn authority(endpoint: &str) -> &str {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let implied = match scheme {
        "https" | "wss" => ":443",
        _ => ":80",
    };
    authority.strip_suffix(implied).unwrap_or(authority)
}

/// Whether an endpoint is an address of this host, which means another host to a proxy.
fn is_of_this_host(endpoint: &str) -> bool {
    let authority = authority(endpoint);
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or(authority),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// TLS with the host's roots and those of the bundle.
fn tls(ca_bundle: Option<&Path>) -> Result<rustls::ClientConfig, SetupError> {
    let mut roots = rustls::RootCertStore::empty();
    // A host without certificates still speaks to a control plane with one of its own, or in
    // plain HTTP; what cannot be read shows when a server's certificate is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_bundle {
        let read = |source| SetupError::Bundle { path: path.to_owned(), source };
        let pem = std::fs::read(path).map_err(read)?;
        let (added, _) = roots.add_parsable_certificates(certificates(&pem));
        if added == 0 {
            return Err(SetupError::Certificates { path: path.to_owned() });
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SetupError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a PEM file; what is none is skipped.
fn certificates(pem: &[u8]) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::pem_slice_iter(pem).flatten().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_host_header_of_an_endpoint() {
        for (endpoint, host) in [
            ("http://127.0.0.1:4780", "127.0.0.1:4780"),
            ("http://a:80", "a"),
            ("https://a:443/", "a"),
            ("https://a:80", "a:80"),
            ("https://ecs.eu-x-1.amazonaws.com", "ecs.eu-x-1.amazonaws.com"),
        ] {
            assert_eq!(authority(endpoint), host);
        }
    }

    #[test]
    fn no_proxy_leads_to_this_host() {
        for (endpoint, own) in [
            ("http://127.0.0.1:4780", true),
            ("http://[::1]:4780", true),
            ("http://localhost/", true),
            ("http://[2001:db8::1]:80", false),
            ("https://ecs.eu-x-1.amazonaws.com", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            assert_eq!(is_of_this_host(endpoint), own, "{endpoint}");
        }
    }

    #[tokio::test]
    async fn a_service_whose_clock_differs_is_followed() {
        let ahead = jiff::SignedDuration::from_hours(2);
        let then = jiff::Timestamp::now().checked_add(ahead).unwrap();
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&then);
        let refusal = r#"{"__type":"InvalidSignatureException","message":"Signature expired"}"#;
        let server = testing::Server::start(vec![
            testing::Answer { status: 403, date: Some(date.unwrap()), body: refusal.to_owned() },
            testing::Answer::ok("{}"),
        ])
        .await;
        let client = testing::client();
        let endpoint = server.endpoint();
        let service = Service { signing_name: "ecs", target: "T", endpoint: &endpoint };
        let refused: Result<serde_json::Value, _> = client.call(service, "A", &()).await;
        assert!(refused.is_err());
        let _: serde_json::Value = client.call(service, "A", &()).await.unwrap();
        let signed: Vec<jiff::Timestamp> = server
            .requests()
            .iter()
            .map(|request| {
                let date = request.header("x-amz-date").unwrap();
                jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date)
                    .and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC))
                    .unwrap()
                    .timestamp()
            })
            .collect();
        let passed = signed[1].duration_since(signed[0]).as_secs();
        assert!((7190..7260).contains(&passed), "{passed}");
    }

    #[test]
    fn what_may_be_tried_again() {
        let api = |status, name: &str| CallError::Api {
            operation: "X".to_owned(),
            source: ApiError { status, ..ApiError::client(name, "") },
        };
        assert!(api(400, "ThrottlingException").is_retryable());
        assert!(api(500, "ServerException").is_retryable());
        assert!(api(429, "Anything").is_retryable());
        assert!(!api(400, "ClientException").is_retryable());
        assert!(!api(400, "InvalidParameterException").is_retryable());
    }

    #[test]
    fn a_bundle_without_certificates_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        assert!(matches!(tls(Some(&path)), Err(SetupError::Bundle { .. })));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(matches!(tls(Some(&path)), Err(SetupError::Certificates { .. })));
    }
}
