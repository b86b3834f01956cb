//! Registries on loopback: Debian's `docker-registry` with TLS, logins, tokens and as a mirror, and a
//! scripted HTTP server for what a good registry does not do.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use crate::tokens::{Authority, ISSUER, SERVICE, TlsFront, Tokens};

/// The login of a registry with authentication.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "s3cret";
/// `USER` and `PASSWORD` as `htpasswd -B` writes them.
const HTPASSWD: &str = "alice:$2y$05$SaTQDtN3Pybr3nLZ0iBu3u7oORfysI4nx/VFhwlS8QmnphzkyWrgW\n";

/// How a registry is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Basic authentication as [`USER`].
    pub login: bool,
    /// TLS with a certificate of this authority.
    pub tls: Option<&'a Authority>,
    /// And with certificates of it on the other side, too.
    pub client_certificates: bool,
    /// Tokens of this server.
    pub tokens: Option<&'a Tokens>,
    /// Serves and keeps what this registry has; asks it as [`USER`].
    pub mirror_of: Option<&'a Registry>,
}

/// A running `docker-registry` with a directory of its own; ends with this value.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    child: Child,
    directory: tempfile::TempDir,
    login: bool,
    tls: bool,
}

impl Registry {
    /// Without authentication.
    ///
    /// # Errors
    /// If `docker-registry` does not start.
    pub fn start() -> Result<Self> {
        Self::with(Options::default())
    }

    /// With basic authentication as [`USER`].
    ///
    /// # Errors
    /// If `docker-registry` does not start.
    pub fn start_with_login() -> Result<Self> {
        Self::with(Options { login: true, ..Options::default() })
    }

    /// # Errors
    /// If `docker-registry` does not start.
    pub fn with(options: Options<'_>) -> Result<Self> {
        // The port is free a moment before the registry binds it; if another takes it, the
        // registry ends and the next port is tried.
        for _ in 0..5 {
            let directory = tempfile::tempdir()?;
            let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let path = directory.path();
            std::fs::write(path.join("htpasswd"), HTPASSWD)?;
            let file = path.join("config.yml");
            std::fs::write(&file, config(&options, path, address))?;
            let log = std::fs::File::create(path.join("log"))?;
            let mut command = Command::new("docker-registry");
            if let Some(authority) = options.tls {
                // For what it mirrors.
                command.env("SSL_CERT_FILE", authority.certificate());
            }
            let mut child = command
                .arg("serve")
                .arg(&file)
                .env("OTEL_TRACES_EXPORTER", "none")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("start docker-registry (Debian package docker-registry)")?;
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && child.try_wait()?.is_none() {
                if TcpStream::connect(address).is_ok() {
                    let login = options.login || options.tokens.is_some();
                    let tls = options.tls.is_some();
                    return Ok(Self { address, child, directory, login, tls });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            child.wait()?;
        }
        bail!("docker-registry does not listen")
    }

    /// Ends it; its address answers no more.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `http(s)://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `127.0.0.1:<port>/<name>`
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The file that holds a blob, for tests that damage it.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.directory.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(hex.get(..2).unwrap_or(hex)).join(hex).join("data")
    }

    /// Pushes an OCI archive with skopeo.
    ///
    /// # Errors
    /// If skopeo fails.
    pub fn push(&self, archive: &Path, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"]);
        command.arg("--preserve-digests");
        if self.login {
            command.arg("--dest-creds").arg(format!("{USER}:{PASSWORD}"));
        }
        command.arg(format!("oci-archive:{}", archive.display()));
        command.arg(format!("docker://{}", self.image(name)));
        let output = command.output().context("start skopeo (Debian package skopeo)")?;
        if !output.status.success() {
            bail!("skopeo: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

fn config(options: &Options<'_>, path: &Path, address: SocketAddr) -> String {
    let data = path.join("data");
    let mut config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         delete:\n    enabled: true\nhttp:\n  addr: {address}\n",
        data.display()
    );
    if let Some(authority) = options.tls {
        let [certificate, key] = authority.server();
        config.push_str(&format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        ));
        if options.client_certificates {
            let certificate = authority.certificate();
            config.push_str(&format!("    clientcas:\n      - {}\n", certificate.display()));
        }
    }
    if options.login {
        let file = path.join("htpasswd");
        config.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        ));
    }
    if let Some(tokens) = options.tokens {
        config.push_str(&format!(
            "auth:\n  token:\n    realm: {}\n    service: {SERVICE}\n    issuer: {ISSUER}\n    \
             rootcertbundle: {}\n",
            tokens.realm(),
            tokens.certificate.display()
        ));
    }
    if let Some(origin) = options.mirror_of {
        config.push_str(&format!(
            "proxy:\n  remoteurl: {}\n  username: {USER}\n  password: {PASSWORD}\n",
            origin.url()
        ));
    }
    config
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request to a [`Server`].
#[derive(Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What a [`Server`] answers.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection, or stall for good, after so many bytes of the body.
    pub cut: Option<usize>,
    pub stall: bool,
    /// Send what was cut one byte at a time, with such pauses.
    pub drip: Option<Duration>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, stall: false, drip: None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Response + Send + Sync;

/// HTTP/1.1 on loopback, one connection per request. Its threads end with the process, which
/// nextest gives each test.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
}

impl Server {
    /// # Errors
    /// If no port can be bound.
    pub fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let handler: Arc<Handler> = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let handler = Arc::clone(&handler);
                std::thread::spawn(move || {
                    // A client that went away is part of what is tested.
                    let _ = serve(stream, &handler);
                });
            }
        });
        Ok(Self { address })
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

fn serve(mut stream: TcpStream, handler: &Arc<Handler>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = reader.by_ref().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for line in lines.by_ref() {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let head_only = method == "HEAD";
    let response = handler(&Request { method, path, headers, body });
    let mut head = format!(
        "HTTP/1.1 {} scripted\r\ncontent-length: {}\r\nconnection: close\r\n",
        response.status,
        response.body.len()
    );
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if head_only {
        return Ok(());
    }
    let cut = response.cut.unwrap_or(response.body.len()).min(response.body.len());
    stream.write_all(&response.body[..cut])?;
    stream.flush()?;
    if let Some(pause) = response.drip {
        for byte in &response.body[cut..] {
            std::thread::sleep(pause);
            stream.write_all(&[*byte])?;
        }
    }
    if response.stall {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}
