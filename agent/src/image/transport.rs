//! HTTP toward one host of a registry, and to where it sends us: redirects of content, servers of
//! tokens, places of uploads.
//!
//! What a registry names is not trusted. We never go from HTTPS to plain HTTP, nor to another
//! address of this host's link (where instance metadata and the credentials of tasks are), nor to
//! this host itself (whose services rely on being out of reach) unless the registry is there; names
//! are judged by what they resolve to, at the moment of the connection. Neither credentials nor
//! configured headers nor our certificate go to another host.
//!
//! Clients, and with them connections and TLS sessions, are shared by all pulls with the same
//! trust. They are made anew every [`LIFETIME`], so that a change of the host's certificates shows.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Body, Client, Response, Url};
use tokio::sync::OnceCell;

use super::hosts::{Host, Trust, authority, is_loopback};
use super::registry::Error;

/// Silence after which a request or transfer counts as broken.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(600);
const NO_TLS: &str = "the server does not speak TLS; a registry of plain HTTP is written http:// in its hosts.toml (LIGHTER_REGISTRY_CONFIG_DIR)";
/// As many as browsers and Go follow.
const REDIRECTS: usize = 10;

/// How far a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    /// Wherever the operator says.
    Configured,
    /// Not to this host's link.
    Here,
    /// Neither to its link nor to this host.
    Outside,
}

#[derive(Clone, PartialEq, Eq, Hash)]
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
    builder = match kind.reach {
        Reach::Configured => builder,
        Reach::Here => builder.dns_resolver(Judged { here: true }),
        Reach::Outside => builder.dns_resolver(Judged { here: false }),
    };
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

/// Resolves names to where a registry may send us.
struct Judged {
    /// The registry is on this host.
    here: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("the name resolves to an address of this host or link")]
struct Inside;

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let here = self.here;
        Box::pin(async move {
            let mut found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // A proxy may be named so; of addresses, `may_go` has judged it.
            if name.as_str() != "localhost" {
                found.retain(|address| !is_inside(address.ip(), here));
                if found.is_empty() {
                    return Err(Inside.into());
                }
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Where a registry must not send us; one that is `here` may, to this host.
fn is_inside(address: IpAddr, here: bool) -> bool {
    let address = plain(address);
    is_of_link(address) || (!here && is_of_host(address))
}

/// The IPv4 address that an IPv6 one stands for.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match (v6.segments(), v6.octets()) {
        // Through a gateway (RFC 6052).
        ([0x64, 0xff9b, 0, 0, 0, 0, ..], [.., a, b, c, d]) => Ipv4Addr::new(a, b, c, d).into(),
        _ => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
    }
}

fn is_of_host(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// Amazon's services of an instance have addresses of IPv6 that look like others.
fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || matches!(v6.segments(), [0xfd00, 0x0ec2, ..])
        }
    }
}

fn address(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

fn is_localhost(url: &Url) -> bool {
    let name = url.host_str().unwrap_or_default().trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// May a server at `from`, which is on this host or not, send us to `to`? Names are judged when they
/// are resolved.
fn may_go(from: &Url, to: &Url, here: bool) -> Result<(), &'static str> {
    match (from.scheme(), to.scheme()) {
        ("https", "http") => return Err("which is not HTTPS"),
        (_, "http" | "https") => {}
        _ => return Err("which is not HTTP"),
    }
    let inside = (!here && is_localhost(to)) || address(to).is_some_and(|to| is_inside(to, here));
    if from.host_str() != to.host_str() && inside {
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
    clients: Clients,
    /// For other hosts: without our certificate.
    other: Kind,
    is_here: OnceCell<bool>,
}

impl Transport {
    pub(super) fn new(host: &Host, clients: &Clients) -> Result<Self, Error> {
        let local = is_loopback(&authority(&host.base));
        let own = Kind {
            trust: host.trust.clone(),
            dial_timeout: host.dial_timeout,
            reach: Reach::Configured,
            proxies: !local,
        };
        let client = clients.of(own.clone())?;
        let other = Kind { trust: Trust { identity: None, ..own.trust }, ..own };
        Ok(Self {
            base: host.base.clone(),
            headers: host.headers.clone(),
            client,
            clients: clients.clone(),
            other,
            is_here: OnceCell::new(),
        })
    }

    /// Is the registry itself on this host? A name of which that is only half true is not.
    async fn is_here(&self) -> bool {
        let look = || async {
            if is_localhost(&self.base) {
                return true;
            }
            if let Some(address) = address(&self.base) {
                return is_of_host(plain(address));
            }
            let Some(host) = self.base.host_str() else { return false };
            match tokio::net::lookup_host((host, 0)).await {
                Ok(found) => {
                    let found: Vec<_> = found.collect();
                    !found.is_empty() && found.iter().all(|one| is_of_host(plain(one.ip())))
                }
                Err(_unknown) => false,
            }
        };
        *self.is_here.get_or_init(look).await
    }

    /// What leads to an address that this host has named, if we go there at all.
    pub(super) async fn toward(&self, from: &Url, to: &Url) -> Result<Client, Error> {
        let same = self.base.host_str() == to.host_str();
        let here = !same && self.is_here().await;
        may_go(from, to, here).map_err(|reason| Error::Elsewhere { to: authority(to), reason })?;
        let reach = match (same, here) {
            (true, _) if same_origin(&self.base, to) => return Ok(self.client.clone()),
            (true, _) => Reach::Configured,
            (false, true) => Reach::Here,
            (false, false) => Reach::Outside,
        };
        self.clients.of(Kind { reach, ..self.other.clone() })
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
        let mut headers = HeaderMap::new();
        if own {
            headers = self.headers.clone();
            if let Some(authorization) = call.authorization {
                // Not beside a configured one, which was refused.
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
        }
        let mut request = client.request(call.method.clone(), call.url.clone());
        request = request.headers(headers).headers(call.headers.clone());
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
                return Err(Error::Elsewhere { to: authority(&to), reason });
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
    let (mut cause, mut tls, mut is_inside): (&(dyn std::error::Error + 'static), _, _) =
        (&error, None, false);
    loop {
        tls = cause.downcast_ref::<rustls::Error>().or(tls);
        is_inside |= cause.is::<Inside>();
        // An error within an I/O error is not among its sources.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn std::error::Error + 'static));
        match inner.or_else(|| cause.source()) {
            Some(deeper) => cause = deeper,
            None => break,
        }
    }
    let text = cause.to_string();
    match tls {
        Some(rustls::Error::InvalidCertificate(_)) => {
            return Error::Certificate(std::io::Error::other(text));
        }
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
            if connecting =>
        {
            return Error::Trust(NO_TLS.to_owned());
        }
        _ => {}
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

    fn goes(from: &str, to: &str, here: bool) -> bool {
        may_go(&Url::parse(from).unwrap(), &Url::parse(to).unwrap(), here).is_ok()
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
            "https://[fd00:ec2::23]/",
            "https://[64:ff9b::169.254.169.254]/",
        ] {
            assert!(!goes(registry, to, false), "{to}");
        }
        // What is on this host itself is not let near the credentials of others.
        for to in ["http://169.254.169.254/", "http://169.254.170.2/v2/", "http://[fe80::1]/"] {
            assert!(!goes("http://127.0.0.1:5000/", to, true), "{to}");
        }
        assert!(goes("http://169.254.20.10:5000/", "http://169.254.20.10:80/", false));
        assert!(!goes("http://r.example/", "http://127.0.0.1/", false));
        assert!(goes("http://127.0.0.1:5000/", "http://127.0.0.1:80/", true));
        assert!(goes("http://127.0.0.1:5000/", "http://localhost:80/", true));
        assert!(!goes("https://127.0.0.1:5000/", "http://127.0.0.1:80/", true));
    }

    /// The way to a registry that is configured so.
    fn transport(registry: &str, configuration: &str) -> Transport {
        let all = tempfile::tempdir().unwrap();
        std::fs::create_dir(all.path().join(registry)).unwrap();
        std::fs::write(all.path().join(registry).join("hosts.toml"), configuration).unwrap();
        let hosts = super::super::Hosts::at(all.path());
        Transport::new(&hosts.of(registry).unwrap()[0], &hosts.clients).unwrap()
    }

    fn get(transport: &Transport) -> Call<'static> {
        let url = transport.base.clone();
        Call { method: Method::GET, url, headers: HeaderMap::new(), authorization: None }
    }

    #[tokio::test]
    async fn no_proxy_stands_before_this_host() {
        for (registry, proxies) in
            [("127.0.0.1:1", false), ("[::1]:1", false), ("localhost", false), ("10.0.0.1:1", true)]
        {
            assert_eq!(transport(registry, "").other.proxies, proxies, "{registry}");
        }
    }

    #[tokio::test]
    async fn a_server_without_tls_is_told_from_a_wrong_certificate() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await });
        let transport = transport(&registry, &format!("server = \"https://{registry}\""));
        let error = transport.send(&get(&transport), None).await.unwrap_err();
        assert!(matches!(&error, Error::Trust(text) if text == NO_TLS), "{error:?}");
    }

    #[tokio::test]
    async fn a_login_takes_the_place_of_a_configured_one() {
        let app = axum::Router::new().fallback(|headers: HeaderMap| async move {
            let shown: Vec<_> = headers.get_all("authorization").iter().collect();
            format!("{shown:?}")
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let transport = transport(&registry, "[header]\nauthorization = \"Basic configured\"");
        let ours = HeaderValue::from_static("Basic ours");
        for (ours, expected) in [(None, "configured"), (Some(&ours), "ours")] {
            let call = Call { authorization: ours, ..get(&transport) };
            let shown = transport.send(&call, None).await.unwrap().text().await.unwrap();
            assert_eq!(shown, format!("[\"Basic {expected}\"]"));
        }
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
