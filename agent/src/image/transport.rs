//! HTTP toward one host of a registry, and to where it sends us: redirects of content, servers of
//! tokens, places of uploads.
//!
//! What a registry names is not trusted. We never go from HTTPS to plain HTTP, nor to an address
//! of this host or link (where other services, such as instance metadata, rely on being out of
//! reach) unless the registry is there itself; names are judged by what they resolve to, at the
//! moment of the connection. Neither credentials nor configured headers nor our certificate go to
//! another host.
//!
//! Clients, and with them connections and TLS sessions, are shared by all pulls with the same
//! trust. They are made anew every [`LIFETIME`], so that a change of the host's certificates shows.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Body, Client, Response, Url};
use tokio::sync::OnceCell;

use super::hosts::{Host, Trust, is_loopback};
use super::registry::Error;

/// Silence after which a request or transfer counts as broken.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(600);
/// As many as browsers and Go follow.
const REDIRECTS: usize = 10;

/// How far a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    /// Wherever the operator says.
    Configured,
    /// Not to this host or link.
    Outside,
}

#[derive(PartialEq, Eq, Hash)]
struct Kind {
    trust: Trust,
    dial_timeout: Duration,
    reach: Reach,
    proxies: bool,
}

/// HTTP clients by what they trust. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<Kind, (Instant, Client)>>>);

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl Clients {
    fn of(&self, kind: Kind) -> Result<Client, Error> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|_, (made, _)| made.elapsed() < LIFETIME);
        if let Some((_, client)) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let client = build(&kind)?;
        clients.insert(kind, (Instant::now(), client.clone()));
        Ok(client)
    }
}

fn build(kind: &Kind) -> Result<Client, Error> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // The program installs it at its start; a library user or a test may not have. Losing
        // a race to install the same provider is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("lighter/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(kind.dial_timeout)
        .tcp_keepalive(Duration::from_secs(60));
    builder = if kind.trust.skip_verify {
        let builder = builder.tls_danger_accept_invalid_certs(true);
        match &kind.trust.identity {
            Some(pem) => builder.identity(reqwest::Identity::from_pem(pem).map_err(Error::Client)?),
            None => builder,
        }
    } else {
        builder.tls_backend_preconfigured(tls(&kind.trust)?)
    };
    if !kind.proxies {
        builder = builder.no_proxy();
    }
    if kind.reach == Reach::Outside {
        builder = builder.dns_resolver(Outside);
    }
    builder.build().map_err(Error::Client)
}

/// The host's authorities and the configured ones, with HTTP/2 offered.
fn tls(trust: &Trust) -> Result<rustls::ClientConfig, Error> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    // A host without certificates still speaks to a registry with one of its own; what cannot be
    // read shows when a server's certificate is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for pem in &trust.authorities {
        let (added, _) =
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        if added == 0 {
            return Err(Error::Trust("a file of authorities holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: &dyn fmt::Display| Error::Trust(format!("client certificate: {error}"));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Trust(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
            let key = PrivateKeyDer::from_pem_slice(pem)
                .map_err(|error| unusable(&format!("no key: {error}")))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Resolves names to what is neither this host nor its link.
struct Outside;

#[derive(Debug, thiserror::Error)]
#[error("the name resolves to an address of this host or link")]
struct Inside;

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let mut found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // A proxy may be named so; of addresses, `may_go` has judged it.
            if name.as_str() != "localhost" {
                found.retain(|address| !is_inside(address.ip()));
                if found.is_empty() {
                    return Err(Inside.into());
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Loopback, link-local (instance metadata and credentials are there), unspecified.
fn is_inside(address: IpAddr) -> bool {
    /// Amazon's instance metadata by IPv6.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_inside(v4.into()),
            None => {
                v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_unicast_link_local()
                    || v6 == METADATA
            }
        },
    }
}

fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

fn is_inside_by_name(url: &Url) -> bool {
    let name = url.host_str().unwrap_or_default().trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost") || address(url).is_some_and(is_inside)
}

/// May a server at `from` send us to `to`? Names are judged when they are resolved.
fn may_go(from: &Url, to: &Url, is_inside: bool) -> Result<(), &'static str> {
    match (from.scheme(), to.scheme()) {
        ("https", "http") => return Err("which is not HTTPS"),
        (_, "http" | "https") => {}
        _ => return Err("which is not HTTP"),
    }
    if from.host_str() != to.host_str() && !is_inside && is_inside_by_name(to) {
        return Err("which is this host or its link");
    }
    Ok(())
}

pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// A request that may be repeated elsewhere.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// For the host itself only.
    pub(super) authorization: Option<&'a HeaderValue>,
}

/// The way to one host.
pub(super) struct Transport {
    pub(super) base: Url,
    headers: HeaderMap,
    client: Client,
    /// For other hosts: without our certificate.
    outside: Client,
    elsewhere: Client,
    is_inside: OnceCell<bool>,
}

impl Transport {
    pub(super) fn new(host: &Host, clients: &Clients) -> Result<Self, Error> {
        let local = is_loopback(host.base.host_str().unwrap_or_default().trim_matches(['[', ']']));
        let kind = |reach, identity: Option<Vec<u8>>| Kind {
            trust: Trust { identity, ..host.trust.clone() },
            dial_timeout: host.dial_timeout,
            reach,
            proxies: !local,
        };
        Ok(Self {
            base: host.base.clone(),
            headers: host.headers.clone(),
            client: clients.of(kind(Reach::Configured, host.trust.identity.clone()))?,
            outside: clients.of(kind(Reach::Outside, None))?,
            elsewhere: clients.of(kind(Reach::Configured, None))?,
            is_inside: OnceCell::new(),
        })
    }

    /// Is the registry itself on this host or link?
    async fn is_inside(&self) -> bool {
        let look = || async {
            if is_inside_by_name(&self.base) {
                return true;
            }
            let (Some(host), port) = (self.base.host_str(), self.base.port().unwrap_or(443)) else {
                return false;
            };
            match tokio::net::lookup_host((host, port)).await {
                Ok(mut found) => found.any(|address| is_inside(address.ip())),
                Err(_unknown) => false,
            }
        };
        *self.is_inside.get_or_init(look).await
    }

    /// What leads to an address that this host has named, if we go there at all.
    pub(super) async fn toward(&self, from: &Url, to: &Url) -> Result<&Client, Error> {
        let same = self.base.host_str() == to.host_str();
        let inside = same || self.is_inside().await;
        may_go(from, to, inside)
            .map_err(|reason| Error::Elsewhere { to: super::hosts::authority(to), reason })?;
        Ok(match (same_origin(&self.base, to), inside) {
            (true, _) => &self.client,
            (false, true) => &self.elsewhere,
            (false, false) => &self.outside,
        })
    }

    /// Where an answer from `from` points to.
    pub(super) fn location(from: &Url, response: &Response) -> Result<Url, Error> {
        let text = response.headers().get(header::LOCATION).and_then(|text| text.to_str().ok());
        let mut to = text
            .and_then(|text| from.join(text).ok())
            .ok_or_else(|| Error::Protocol("answer without a usable Location".to_owned()))?;
        // They would become credentials.
        let _ = (to.set_username(""), to.set_password(None));
        to.set_fragment(None);
        Ok(to)
    }

    /// Sends once, without following.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        body: Option<Body>,
    ) -> Result<Response, Error> {
        let own = same_origin(&self.base, &call.url);
        let client = self.toward(&self.base, &call.url).await?;
        let mut request = client.request(call.method.clone(), call.url.clone());
        if own {
            request = request.headers(self.headers.clone());
            if let Some(authorization) = call.authorization {
                request = request.header(header::AUTHORIZATION, authorization);
            }
        }
        request = request.headers(call.headers.clone());
        if let Some(body) = body {
            // As long as it takes; who gives the body watches its progress.
            return request.body(body).send().await.map_err(failure);
        }
        within(request.send()).await
    }

    /// Sends and follows redirects. Whether the last answer is this host's own.
    pub(super) async fn follow(&self, mut call: Call<'_>) -> Result<(Response, bool), Error> {
        for _ in 0..=REDIRECTS {
            let response = self.send(&call, None).await?;
            let redirected = matches!(
                response.status(),
                StatusCode::MOVED_PERMANENTLY
                    | StatusCode::FOUND
                    | StatusCode::SEE_OTHER
                    | StatusCode::TEMPORARY_REDIRECT
                    | StatusCode::PERMANENT_REDIRECT
            );
            if !redirected {
                let own = same_origin(&self.base, &call.url);
                return Ok((response, own));
            }
            let to = Self::location(&call.url, &response)?;
            if call.url.scheme() == "https" && to.scheme() == "http" {
                let reason = "which is not HTTPS";
                return Err(Error::Elsewhere { to: super::hosts::authority(&to), reason });
            }
            call.url = to;
        }
        Err(Error::Protocol(format!("more than {REDIRECTS} redirects")))
    }
}

/// The answer to a request that has no body to speak of.
pub(super) async fn within(
    sending: impl Future<Output = reqwest::Result<Response>>,
) -> Result<Response, Error> {
    match tokio::time::timeout(SILENCE, sending).await {
        Ok(result) => result.map_err(failure),
        Err(_elapsed) => Err(Error::Broken(silence())),
    }
}

pub(super) fn silence() -> std::io::Error {
    let text = format!("no data for {} s", SILENCE.as_secs());
    std::io::Error::new(std::io::ErrorKind::TimedOut, text)
}

/// What became of a request or a transfer: the innermost cause says it in the clearest words.
pub(super) fn failure(error: reqwest::Error) -> Error {
    if error.is_builder() {
        return Error::Client(error.without_url());
    }
    let connecting = error.is_connect();
    let (mut cause, mut is_tls, mut is_inside): (&dyn std::error::Error, _, _) =
        (&error, false, false);
    loop {
        is_tls |= cause.is::<rustls::Error>();
        is_inside |= cause.is::<Inside>();
        // An error within an I/O error is not among its sources.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inner.map(|inner| inner as &dyn std::error::Error).or_else(|| cause.source()) {
            Some(deeper) => cause = deeper,
            None => break,
        }
    }
    let text = cause.to_string();
    if is_tls {
        return Error::Certificate(std::io::Error::other(text));
    }
    if is_inside {
        return Error::Elsewhere {
            to: "a host".to_owned(),
            reason: "which is this host or its link",
        };
    }
    let text = std::io::Error::other(text);
    if connecting { Error::Down(text) } else { Error::Broken(text) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn goes(from: &str, to: &str, is_inside: bool) -> bool {
        may_go(&Url::parse(from).unwrap(), &Url::parse(to).unwrap(), is_inside).is_ok()
    }

    #[test]
    fn a_registry_sends_us_neither_inside_nor_into_the_clear() {
        let registry = "https://r.example/v2/";
        for to in ["https://s3.example/blob", "https://10.0.0.1/blob", "https://r.example:8443/x"] {
            assert!(goes(registry, to, false), "{to}");
        }
        for to in [
            "http://s3.example/blob",
            "ftp://s3.example/blob",
            "file:///etc/passwd",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://localhost/",
            "https://a.localhost./",
            "https://169.254.169.254/latest",
            "https://169.254.170.2/v2/credentials",
            "https://0.0.0.0/",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[fd00:ec2::254]/",
        ] {
            assert!(!goes(registry, to, false), "{to}");
        }
        assert!(!goes("http://r.example/", "http://127.0.0.1/", false));
        assert!(goes("http://127.0.0.1:5000/", "http://127.0.0.1:80/", true));
        assert!(goes("http://127.0.0.1:5000/", "http://localhost:80/", true));
        assert!(!goes("https://127.0.0.1:5000/", "http://127.0.0.1:80/", true));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |a: &str, b: &str| same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap());
        assert!(same("https://a.example/x", "https://A.example:443/y"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://a.example/", "http://a.example:443/"));
        assert!(!same("https://a.example/", "https://b.example/"));
    }
}
