//! Where the repositories of a registry are: its mirrors and itself, in the order in which they
//! are asked, and what is trusted of each.
//!
//! The configuration is containerd's `certs.d` (its docs/hosts.md): in a directory `host:port`,
//! `host_port_`, `host` or `_default`, the first that exists, a `hosts.toml`, or without one
//! Docker's plain files: `*.crt` are authorities, `*.cert` with `*.key` of the same name is who we
//! are. It is read at each pull, so an edit needs no restart. Unlike containerd we refuse a second
//! client certificate for one host, and accept only one pair.
//!
//! HTTPS, except for registries on loopback without a certificate in their directory, and where a
//! host is written `http://`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;

use super::transport::Clients;

/// As long as containerd waits for a connection where its file says nothing is 30 s; a mirror that
/// is down must not cost that much.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// So slow is no link that anybody pulls images by, and a registry that drips keeps places from others.
const PACE: Pace = Pace { bytes_per_second: 1024, over: Duration::from_secs(60) };
/// Configuration and certificates are small.
const MAX_FILE: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("registry {registry:?} is not a host: {reason}")]
    Address { registry: String, reason: String },
    #[error("registry configuration: read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    // Headers may carry secrets, which the parser's own text would quote.
    #[error("registry configuration: {path}: not TOML at line {line}")]
    Syntax { path: PathBuf, line: usize },
    #[error("registry configuration: {path}: {host}: {reason}")]
    Entry { path: PathBuf, host: String, reason: String },
}

/// How registries are reached. Clones share connections.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    directory: Option<PathBuf>,
    pub(super) clients: Clients,
}

impl Hosts {
    /// Reads `directory`, which need not exist.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), clients: Clients::default() }
    }

    /// Who has the images of a registry, the registry itself last. Never empty.
    pub(super) fn of(&self, registry: &str) -> Result<Vec<Host>, Error> {
        let Some(directory) = self.directory.as_ref().and_then(|all| find(all, registry)) else {
            return Ok(vec![Host::registry(registry, Trust::default())?]);
        };
        let path = directory.join("hosts.toml");
        match read(&path) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let plans = parse(&path, &text, registry)?;
                plans.into_iter().map(|plan| plan.load(&directory, &path)).collect()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Ok(vec![Host::registry(registry, plain_files(&directory)?)?])
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}

/// A place to ask for the images of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// Where the API's paths begin, mostly `/v2`; no slash at the end.
    pub(super) base: Url,
    pub(super) can: Capabilities,
    /// Sent to this host and nobody else.
    pub(super) headers: HeaderMap,
    pub(super) trust: Trust,
    pub(super) dial_timeout: Duration,
    pub(super) pace: Pace,
    /// The registry whose images a mirror has; `None`: this is that registry.
    pub(super) mirror_of: Option<String>,
}

impl Host {
    fn registry(registry: &str, trust: Trust) -> Result<Self, Error> {
        let api = api(registry, trust.is_tls());
        let base = base(&api, false)
            .map_err(|reason| Error::Address { registry: registry.to_owned(), reason })?;
        Ok(Self {
            base,
            can: Capabilities::ALL,
            headers: HeaderMap::new(),
            trust,
            dial_timeout: DIAL_TIMEOUT,
            pace: PACE,
            mirror_of: None,
        })
    }

    /// The name under which people write down credentials: host and port, `docker.io` for Docker's.
    pub(super) fn name(&self) -> String {
        match authority(&self.base) {
            name if name == DOCKER_API => "docker.io".to_owned(),
            name => name,
        }
    }

    /// Scheme, host and port, for errors.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.base.scheme(), authority(&self.base))
    }
}

/// How fast blobs must come from a host, on average over some time of waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// 0: as slowly as it likes.
    pub(super) bytes_per_second: u64,
    pub(super) over: Duration,
}

/// For which requests a host is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Content by digest.
    pub(super) pull: bool,
    /// What a tag stands for.
    pub(super) resolve: bool,
    pub(super) push: bool,
}

impl Capabilities {
    const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// What TLS goes by. The content of the files and not their names: an edit is another trust.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Trust {
    /// PEM files of authorities beside the host's.
    pub(super) authorities: Vec<Vec<u8>>,
    /// PEM of our certificate and its key.
    pub(super) identity: Option<Vec<u8>>,
    pub(super) skip_verify: bool,
}

impl Trust {
    fn is_tls(&self) -> bool {
        *self != Self::default()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("authorities", &self.authorities.len())
            .field("identity", &self.identity.is_some())
            .field("skip_verify", &self.skip_verify)
            .finish()
    }
}

/// Where the API of Docker Hub is.
const DOCKER_API: &str = "registry-1.docker.io";

fn api(registry: &str, tls: bool) -> String {
    match registry {
        "docker.io" | "index.docker.io" => format!("https://{DOCKER_API}"),
        _ if is_loopback(registry) && !tls => format!("http://{registry}"),
        _ => format!("https://{registry}"),
    }
}

/// The one name of a registry that people can write in several ways: in lower case, without a port
/// that the scheme implies, Docker Hub as `docker.io`.
pub(super) fn canonical(registry: &str) -> String {
    match Url::parse(&api(registry, false)).map(|url| authority(&url)) {
        Ok(name) if name == DOCKER_API => "docker.io".to_owned(),
        Ok(name) => name,
        Err(_) => registry.to_owned(),
    }
}

/// 127.0.0.0/8, ::1, localhost; with or without a port.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split(':').next().unwrap_or(registry),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Host and port, the port of the scheme left out.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Where the API begins at a server as it is written in the file.
fn base(server: &str, override_path: bool) -> Result<Url, String> {
    let text = match server.contains("://") {
        true => server.to_owned(),
        false if is_loopback(server) => format!("http://{server}"),
        false => format!("https://{server}"),
    };
    let mut url = Url::parse(&text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("must be http(s)://host[:port][/path]".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into the address".to_owned());
    }
    // As people write it; a website is there.
    if matches!(url.host_str(), Some("docker.io" | "index.docker.io")) {
        url.set_host(Some(DOCKER_API)).map_err(|error| error.to_string())?;
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") });
    Ok(url)
}

/// The directory for a registry.
fn find(all: &Path, registry: &str) -> Option<PathBuf> {
    let spelled = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let host = registry.rsplit_once(':').map(|(host, _)| host.to_owned());
    [spelled, Some(registry.to_owned()), host, Some("_default".to_owned())]
        .into_iter()
        .flatten()
        .map(|name| all.join(name))
        .find(|path| path.is_dir())
}

/// Docker's files.
fn plain_files(directory: &Path) -> Result<Trust, Error> {
    let failed = |source| Error::Read { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.path());
    }
    names.sort();
    let with = |extension: &str| {
        let mut paths = names.clone();
        paths.retain(|path| path.extension().is_some_and(|found| found == extension));
        paths
    };
    let refuse = |reason: String| Error::Entry {
        path: directory.to_owned(),
        host: "client certificate".to_owned(),
        reason,
    };
    let pairs: Vec<(PathBuf, Option<PathBuf>)> = with("cert")
        .into_iter()
        .map(|cert| (cert.clone(), Some(cert.with_extension("key"))))
        .collect();
    if let Some((cert, Some(key))) =
        pairs.iter().find(|(_, key)| !key.as_ref().is_some_and(|key| key.exists()))
    {
        return Err(refuse(format!(
            "{} has no key {}; authorities end in .crt",
            cert.display(),
            key.display()
        )));
    }
    if pairs.len() > 1 {
        return Err(refuse("more than one".to_owned()));
    }
    load_trust(&with("crt"), pairs.first(), false)
}

fn load_trust(
    authorities: &[PathBuf],
    client: Option<&(PathBuf, Option<PathBuf>)>,
    skip_verify: bool,
) -> Result<Trust, Error> {
    let load =
        |path: &PathBuf| read(path).map_err(|source| Error::Read { path: path.clone(), source });
    let identity = match client {
        None => None,
        Some((certificate, key)) => {
            let mut pem = load(certificate)?;
            if let Some(key) = key {
                pem.push(b'\n');
                pem.extend(load(key)?);
            }
            Some(pem)
        }
    };
    let authorities = authorities.iter().map(load).collect::<Result<_, _>>()?;
    Ok(Trust { authorities, identity, skip_verify })
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// What a `hosts.toml` says of one host, its files not yet read.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    host: Host,
    authorities: Vec<PathBuf>,
    client: Option<(PathBuf, Option<PathBuf>)>,
    /// The file says `http://`.
    in_the_clear: bool,
}

impl Plan {
    fn load(self, directory: &Path, path: &Path) -> Result<Host, Error> {
        let mut host = self.host;
        let authorities: Vec<PathBuf> =
            self.authorities.iter().map(|path| directory.join(path)).collect();
        let client = self.client.map(|(certificate, key)| {
            (directory.join(certificate), key.map(|key| directory.join(key)))
        });
        host.trust = load_trust(&authorities, client.as_ref(), host.trust.skip_verify)?;
        // A registry on loopback with certificates speaks TLS.
        let guessed = !self.in_the_clear && host.base.scheme() == "http";
        if guessed && host.mirror_of.is_none() && host.trust.is_tls() {
            host.base.set_scheme("https").map_err(|()| Error::Entry {
                path: path.to_owned(),
                host: host.origin(),
                reason: "has certificates and no TLS".to_owned(),
            })?;
        }
        Ok(host)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    /// Each with certificate and key.
    Files(Texts),
    /// Certificate and key, which may be empty.
    Pairs(Vec<Vec<String>>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<Texts>,
    client: Option<ClientFiles>,
    skip_verify: bool,
    header: BTreeMap<String, Texts>,
    override_path: bool,
    dial_timeout: Option<String>,
    low_speed_limit: Option<u64>,
    low_speed_time: Option<String>,
}

const KEYS: [&str; 9] = [
    "capabilities",
    "ca",
    "client",
    "skip_verify",
    "header",
    "override_path",
    "dial_timeout",
    "low_speed_limit",
    "low_speed_time",
];

/// The hosts of a `hosts.toml`, in order, the server last. `path` is for errors.
fn parse(path: &Path, text: &str, registry: &str) -> Result<Vec<Plan>, Error> {
    let mut root: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.bytes().take(before).filter(|byte| *byte == b'\n').count() + 1;
        Error::Syntax { path: path.to_owned(), line }
    })?;
    let refuse = |host: &str, reason: String| Error::Entry {
        path: path.to_owned(),
        host: host.to_owned(),
        reason,
    };
    let server = match root.remove("server") {
        None => None,
        Some(toml::Value::String(server)) => Some(server).filter(|server| !server.is_empty()),
        Some(_) => return Err(refuse("server", "must be a text".to_owned())),
    };
    let hosts = match root.remove("host") {
        None => toml::Table::new(),
        Some(toml::Value::Table(hosts)) => hosts,
        Some(_) => return Err(refuse("host", "must be a table".to_owned())),
    };
    let own = authority(&base(&api(registry, true), false).map_err(|e| refuse(registry, e))?);
    let mut plans = Vec::new();
    for (name, entry) in hosts {
        let toml::Value::Table(entry) = entry else {
            return Err(refuse(without_login(&name), "must be a table".to_owned()));
        };
        plans.push((name.clone(), plan(path, &name, entry, registry, &own)?));
    }
    let last = match server {
        Some(server) => plan(path, &server, root, registry, &own)?,
        None => {
            let guess = plan(path, &api(registry, false), root, registry, &own)?;
            Plan { in_the_clear: false, ..guess }
        }
    };
    // The server may be among the hosts, with settings of its own.
    let repeated = plans.iter().any(|(_, plan)| plan.host.base == last.host.base);
    let mut plans: Vec<Plan> = plans.into_iter().map(|(_, plan)| plan).collect();
    if !repeated {
        plans.push(last);
    }
    Ok(plans)
}

fn plan(
    path: &Path,
    name: &str,
    entry: toml::Table,
    registry: &str,
    own: &str,
) -> Result<Plan, Error> {
    let shown = without_login(name);
    let refuse =
        |reason: String| Error::Entry { path: path.to_owned(), host: shown.to_owned(), reason };
    for key in entry.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        tracing::warn!(path = %path.display(), host = shown, key, "the registry configuration has a key without effect");
    }
    // The error would quote the value, which may be a secret header.
    let entry: Entry = entry.try_into().map_err(|_secret: toml::de::Error| {
        refuse(format!("a value is of the wrong type; known are {}", KEYS.join(", ")))
    })?;
    let can = match &entry.capabilities {
        None => Capabilities::ALL,
        Some(words) => {
            let mut can = Capabilities { pull: false, resolve: false, push: false };
            for word in words {
                match word.as_str() {
                    "pull" => can.pull = true,
                    "resolve" => can.resolve = true,
                    "push" => can.push = true,
                    other => return Err(refuse(format!("unknown capability {other:?}"))),
                }
            }
            can
        }
    };
    let mut headers = HeaderMap::new();
    for (key, values) in entry.header {
        let key = HeaderName::try_from(&key)
            .map_err(|_secret| refuse(format!("{key:?} is not the name of a header")))?;
        for value in values.into_vec() {
            let mut value = HeaderValue::try_from(value).map_err(|_secret| {
                refuse(format!("header {key} has a value that no header can have"))
            })?;
            value.set_sensitive(true);
            headers.append(&key, value);
        }
    }
    let mut clients: Vec<(PathBuf, Option<PathBuf>)> = match entry.client {
        None => Vec::new(),
        Some(ClientFiles::Files(files)) => {
            files.into_vec().into_iter().map(|file| (file.into(), None)).collect()
        }
        Some(ClientFiles::Pairs(pairs)) => pairs
            .into_iter()
            .map(|pair| match pair.as_slice() {
                [file] => Ok((file.into(), None)),
                [certificate, key] => Ok((
                    certificate.into(),
                    Some(key).filter(|key| !key.is_empty()).map(Into::into),
                )),
                _ => Err(refuse("client: expected pairs of certificate and key".to_owned())),
            })
            .collect::<Result<_, _>>()?,
    };
    if clients.len() > 1 {
        return Err(refuse("client: more than one certificate".to_owned()));
    }
    let time = |key: &str, text: &Option<String>, default| match text {
        None => Ok(default),
        Some(text) => {
            seconds(text).ok_or_else(|| refuse(format!("{key} {text:?}: expected 5s or 500ms")))
        }
    };
    let dial_timeout = time("dial_timeout", &entry.dial_timeout, DIAL_TIMEOUT)?;
    let pace = Pace {
        bytes_per_second: entry.low_speed_limit.unwrap_or(PACE.bytes_per_second),
        over: time("low_speed_time", &entry.low_speed_time, PACE.over)?,
    };
    let base = base(name, entry.override_path).map_err(refuse)?;
    let mirror_of = (authority(&base) != own).then(|| registry.to_owned());
    let trust = Trust { skip_verify: entry.skip_verify, ..Trust::default() };
    Ok(Plan {
        host: Host { base, can, headers, trust, dial_timeout, pace, mirror_of },
        authorities: entry
            .ca
            .map(Texts::into_vec)
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect(),
        client: clients.pop(),
        in_the_clear: name.starts_with("http://"),
    })
}

/// An address without the password that somebody may have put there.
fn without_login(address: &str) -> &str {
    address.rsplit('@').next().unwrap_or(address)
}

/// `5s`, `1m`, `500ms`, at most an hour.
fn seconds(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(at)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return None,
    };
    let milliseconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (1..=3_600_000).contains(&milliseconds).then(|| Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn bases(text: &str, registry: &str) -> Vec<String> {
        let plans = parse(Path::new("hosts.toml"), text, registry).unwrap();
        plans.iter().map(|plan| plan.host.base.to_string()).collect()
    }

    fn refusal(text: &str) -> String {
        parse(Path::new("hosts.toml"), text, "r.example").unwrap_err().to_string()
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        for registry in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(registry), "{registry}");
            let hosts = Hosts::default().of(registry).unwrap();
            assert_eq!(hosts[0].base.as_str(), format!("http://{registry}/v2"));
        }
        for registry in
            ["docker.io", "10.0.0.1:5000", "localhost.example", "127.0.0.1.example", "[::2]:1"]
        {
            assert!(!is_loopback(registry), "{registry}");
            assert_eq!(Hosts::default().of(registry).unwrap()[0].base.scheme(), "https");
        }
        let docker = &Hosts::default().of("docker.io").unwrap()[0];
        assert_eq!(docker.origin(), "https://registry-1.docker.io");
        assert_eq!(docker.name(), "docker.io");
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_registry_last() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://zeta.example"]
              capabilities = ["pull"]
            [host."http://alpha.example:5000/proxy"]
              capabilities = ["pull", "resolve"]
            [host."https://beta.example/api/docker"]
              override_path = true
        "#;
        assert_eq!(
            bases(text, "docker.io"),
            [
                "https://zeta.example/v2",
                "http://alpha.example:5000/proxy/v2",
                "https://beta.example/api/docker",
                "https://registry-1.docker.io/v2",
            ]
        );
        let plans = parse(Path::new("x"), text, "docker.io").unwrap();
        let can: Vec<_> =
            plans.iter().map(|plan| (plan.host.can.resolve, plan.host.can.push)).collect();
        assert_eq!(can, [(false, false), (true, false), (true, true), (true, true)]);
        let mirrors: Vec<_> = plans.iter().map(|plan| plan.host.mirror_of.is_some()).collect();
        assert_eq!(mirrors, [true, true, true, false]);
    }

    #[test]
    fn a_file_without_a_server_ends_at_the_registry() {
        assert_eq!(bases("", "r.example:5000"), ["https://r.example:5000/v2"]);
        assert_eq!(bases("server = \"\"", "docker.io"), ["https://registry-1.docker.io/v2"]);
        assert_eq!(bases("server = \"other.example\"", "r.example"), ["https://other.example/v2"]);
        for docker in ["docker.io", "https://docker.io", "https://index.docker.io/v2/"] {
            let plans =
                parse(Path::new("x"), &format!("server = {docker:?}"), "docker.io").unwrap();
            let host = &plans[0].host;
            assert_eq!(host.base.as_str(), "https://registry-1.docker.io/v2");
            assert_eq!(host.mirror_of, None);
        }
        assert_eq!(
            bases("server=\"https://r.example\"\n[host.\"https://r.example/v2/\"]", "r.example"),
            ["https://r.example/v2"]
        );
    }

    #[test]
    fn everything_of_an_entry_is_read() {
        let text = r#"
            [host."https://m.example"]
              ca = ["ca.pem", "/abs/ca.pem"]
              client = [["client.cert", "client.key"]]
              skip_verify = true
              dial_timeout = "500ms"
              low_speed_limit = 4096
              low_speed_time = "2m"
              [host."https://m.example".header]
                x-one = "1"
                x-two = ["2", "3"]
        "#;
        let plans = parse(Path::new("x"), text, "r.example").unwrap();
        let plan = &plans[0];
        assert_eq!(plan.authorities, [PathBuf::from("ca.pem"), "/abs/ca.pem".into()]);
        assert_eq!(plan.client, Some(("client.cert".into(), Some("client.key".into()))));
        assert!(plan.host.trust.skip_verify);
        assert_eq!(plan.host.dial_timeout, Duration::from_millis(500));
        let over = Duration::from_secs(120);
        assert_eq!(plan.host.pace, Pace { bytes_per_second: 4096, over });
        assert_eq!(plans[1].host.pace, PACE);
        assert_eq!(plan.host.headers.get_all("x-two").iter().count(), 2);
        for client in ["\"both.pem\"", "[\"both.pem\"]", "[[\"both.pem\", \"\"]]"] {
            let plans = parse(Path::new("x"), &format!("client = {client}"), "r.example").unwrap();
            assert_eq!(plans[0].client, Some(("both.pem".into(), None)), "{client}");
        }
    }

    #[test]
    fn what_is_written_as_plain_http_stays_so() {
        let scheme = |text: &str, registry: &str| {
            let plan = parse(Path::new("x"), text, registry).unwrap().remove(0);
            let host = plan.load(Path::new("/nonexistent"), Path::new("x")).unwrap();
            host.base.scheme().to_owned()
        };
        for text in [
            "server = \"http://r.example:5000\"\nskip_verify = true",
            "[host.\"http://r.example:5000\"]\nskip_verify = true",
        ] {
            assert_eq!(scheme(text, "r.example:5000"), "http", "{text}");
        }
        // Nothing says how a registry on loopback is reached but that there is TLS to see to.
        for text in ["skip_verify = true", "server = \"127.0.0.1:1\"\nskip_verify = true"] {
            assert_eq!(scheme(text, "127.0.0.1:1"), "https", "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_header_quoted() {
        assert!(refusal("a = 1\n= 2").contains("line 2"), "{}", refusal("a = 1\n= 2"));
        assert!(refusal("capabilities = [\"fly\"]").contains("\"fly\""));
        assert!(refusal("dial_timeout = \"soon\"").contains("soon"));
        assert!(refusal("low_speed_time = \"never\"").contains("low_speed_time \"never\""));
        assert!(refusal("low_speed_limit = -1").contains("wrong type"));
        assert!(refusal("[host.\"ftp://x\"]").contains("ftp://x"));
        assert!(refusal("[host.\"https://u:p@x\"]").contains("credentials"));
        assert!(refusal("client = [\"a\", \"b\"]").contains("more than one"));
        let wrong = refusal("[host]\n\"https://u:hunter2@x\" = 7");
        assert!(wrong.contains("a table") && !wrong.contains("hunter2"), "{wrong}");
        let wrong = refusal("[host.\"https://x\".header]\nauthorization = {k = \"hunter2\"}");
        assert!(wrong.contains("https://x") && !wrong.contains("hunter2"), "{wrong}");
    }

    #[test]
    fn the_directory_is_found_as_containerd_finds_it() {
        let all = tempfile::tempdir().unwrap();
        let found = |registry: &str| {
            find(all.path(), registry).map(|path| path.file_name().unwrap().to_owned())
        };
        assert_eq!(found("r.example:5000"), None);
        for name in ["_default", "r.example", "r.example:5000", "r.example_5000_"] {
            std::fs::create_dir(all.path().join(name)).unwrap();
            assert_eq!(found("r.example:5000").unwrap(), name);
        }
        assert_eq!(found("other.example").unwrap(), "_default");
    }

    #[test]
    fn dockers_plain_files_are_read() {
        let all = tempfile::tempdir().unwrap();
        let directory = all.path().join("127.0.0.1:5000");
        std::fs::create_dir(&directory).unwrap();
        let hosts = Hosts::at(all.path());
        assert_eq!(hosts.of("127.0.0.1:5000").unwrap()[0].base.scheme(), "http");
        std::fs::write(directory.join("ca.crt"), "ca").unwrap();
        let host = hosts.of("127.0.0.1:5000").unwrap().remove(0);
        assert_eq!((host.base.scheme(), host.trust.authorities.len()), ("https", 1));
        std::fs::write(directory.join("client.cert"), "cert").unwrap();
        let error = hosts.of("127.0.0.1:5000").unwrap_err().to_string();
        assert!(error.contains("client.key"), "{error}");
        std::fs::write(directory.join("client.key"), "key").unwrap();
        let host = hosts.of("127.0.0.1:5000").unwrap().remove(0);
        assert_eq!(host.trust.identity.as_deref(), Some(b"cert\nkey".as_slice()));
        assert!(!format!("{host:?}").contains("key\""));
    }
}
