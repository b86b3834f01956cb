//! A certificate authority, and a server of the tokens that `docker-registry` wants, both made with
//! the `openssl` command.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::registry::{PASSWORD, Request, Response, Server, USER};

pub const SERVICE: &str = "registry.test";
pub const ISSUER: &str = "tokens.test";

const CONFIG: &str = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = test\n";

fn openssl(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start openssl (Debian package openssl)")?;
    child.stdin.take().context("stdin")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// `<name>.crt` and `<name>.key` in a directory.
fn certify(directory: &Path, name: &str, issuer: Option<&str>, extensions: &[&str]) -> Result<()> {
    let at = |name: &str| directory.join(name).display().to_string();
    std::fs::write(at("openssl.cnf"), CONFIG)?;
    let (config, key, certificate) =
        (at("openssl.cnf"), at(&format!("{name}.key")), at(&format!("{name}.crt")));
    let mut arguments = vec![
        "req",
        "-x509",
        "-config",
        &config,
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    let issuer = issuer.map(|issuer| (at(&format!("{issuer}.crt")), at(&format!("{issuer}.key"))));
    if let Some((certificate, key)) = &issuer {
        arguments.extend(["-CA", certificate, "-CAkey", key]);
    }
    for extension in extensions {
        arguments.extend(["-addext", extension]);
    }
    openssl(&arguments, b"").map(|_| ())
}

/// An authority that nobody trusts by default.
#[derive(Debug)]
pub struct Authority {
    directory: tempfile::TempDir,
}

impl Authority {
    /// With a certificate for servers at 127.0.0.1 and one for clients.
    ///
    /// # Errors
    /// If openssl fails.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path();
        certify(path, "ca", None, &["basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign"])?;
        let names = "subjectAltName=IP:127.0.0.1,DNS:localhost";
        let leaf = "basicConstraints=critical,CA:FALSE";
        certify(path, "server", Some("ca"), &[leaf, names, "extendedKeyUsage=serverAuth"])?;
        certify(path, "client", Some("ca"), &[leaf, "extendedKeyUsage=clientAuth"])?;
        Ok(Self { directory })
    }

    /// The authority's own.
    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Certificate and key of a server on loopback.
    pub fn server(&self) -> [PathBuf; 2] {
        ["server.crt", "server.key"].map(|name| self.directory.path().join(name))
    }

    /// Certificate and key of a client.
    pub fn client(&self) -> [PathBuf; 2] {
        ["client.crt", "client.key"].map(|name| self.directory.path().join(name))
    }
}

/// Speaks TLS on loopback and passes requests on to a plain server. Ends with this value.
#[derive(Debug)]
pub struct TlsFront {
    child: Child,
    address: String,
}

const FRONT: &str = r#"
import http.client, http.server, ssl, sys
certificate, key, target = sys.argv[1:]
class Front(http.server.BaseHTTPRequestHandler):
    def forward(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        upstream = http.client.HTTPConnection(target)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.read())
    do_GET = do_HEAD = do_POST = forward
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Front)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

impl TlsFront {
    /// # Errors
    /// If python3 does not start.
    pub fn start(authority: &Authority, target: &str) -> Result<Self> {
        let mut child = Command::new("python3")
            .args(["-c", FRONT])
            .args(authority.server())
            .arg(target)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start python3")?;
        let mut port = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut port)?;
        ensure!(!port.is_empty(), "the front does not start");
        Ok(Self { child, address: format!("127.0.0.1:{}", port.trim()) })
    }

    /// `127.0.0.1:<port>`
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives [`USER`] tokens for what is asked, and others tokens for nothing.
#[derive(Debug)]
pub struct Tokens {
    server: Server,
    front: Option<TlsFront>,
    given: Arc<AtomicUsize>,
    /// What registries trust.
    pub certificate: PathBuf,
    _directory: tempfile::TempDir,
}

impl Tokens {
    /// # Errors
    /// If openssl fails or no port can be bound.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        certify(directory.path(), "tokens", None, &["basicConstraints=critical,CA:TRUE"])?;
        let certificate = directory.path().join("tokens.crt");
        let pem = std::fs::read_to_string(&certificate)?;
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let key = directory.path().join("tokens.key").display().to_string();
        let given = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&given);
        let server = Server::start(move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            answer(request, &der, &key)
                .unwrap_or_else(|error| Response::new(500, format!("{error:#}")))
        })?;
        Ok(Self { server, front: None, given, certificate, _directory: directory })
    }

    /// # Errors
    /// If openssl or python3 fails, or no port can be bound.
    pub fn start_with_tls(authority: &Authority) -> Result<Self> {
        let mut tokens = Self::start()?;
        tokens.front = Some(TlsFront::start(authority, &tokens.server.address())?);
        Ok(tokens)
    }

    /// Where the tokens are.
    pub fn realm(&self) -> String {
        match &self.front {
            Some(front) => format!("https://{}/token", front.address()),
            None => format!("http://{}/token", self.server.address()),
        }
    }

    /// How many requests came.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

fn answer(request: &Request, der: &str, key: &str) -> Result<Response> {
    let known = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let authorization = request.headers.get("authorization");
    if authorization.is_some_and(|shown| *shown != known) {
        return Ok(Response::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}"#,
        ));
    }
    let query = request.path.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let mut access: Vec<Value> = Vec::new();
    for pair in query.split('&').filter(|_| authorization.is_some()) {
        let Some(scope) = pair.strip_prefix("scope=") else { continue };
        let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        if let [kind, name, actions] = scope.split(':').collect::<Vec<_>>().as_slice() {
            let actions: Vec<&str> = actions.split(',').collect();
            access.push(json!({"type": kind, "name": name, "actions": actions}));
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let claims = json!({
        "iss": ISSUER, "aud": SERVICE, "sub": USER, "jti": "1", "access": access,
        "iat": now, "nbf": now - 30, "exp": now + 300,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = openssl(&["dgst", "-sha256", "-sign", key], text.as_bytes())?;
    let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature));
    // Some servers have the one name, some the other.
    let name = if request.path.contains("push") { "token" } else { "access_token" };
    Ok(Response::new(200, json!({name: token, "expires_in": 300}).to_string()))
}
