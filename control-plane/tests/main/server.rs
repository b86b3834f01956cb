//! A control plane in the test's process, and a client that signs or does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_plane::access::{self, Answer, Request};
use control_plane::config::Config;
use control_plane::http::Server;
use control_plane::logs::Logs;
use control_plane::model::AccessKey;
use control_plane::state::{Edit, State};
use control_plane::store::Redb;
use jiff::Timestamp;
use protocol::sigv4::{self, Keys, Scope, sha256_hex};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const REGION: &str = "eu-north-1";
pub(crate) const ECS: &str = "AmazonEC2ContainerServiceV20141113";

pub(crate) struct Running {
    pub(crate) state: Arc<State>,
    pub(crate) address: SocketAddr,
    /// May do everything.
    pub(crate) key: AccessKey,
    pub(crate) directory: tempfile::TempDir,
    end: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config {
            account: "123456789012".to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            advertise: None,
            data: directory.path().to_owned(),
            lost_after: None,
            settle: Duration::ZERO,
            keep_stopped: Duration::from_secs(3600),
        };
        change(&mut config);
        let store = Redb::open(&directory.path().join("state.redb")).unwrap();
        let state = State::open(Arc::new(store)).await.unwrap();
        let logs = Arc::new(Logs::open(directory.path()).unwrap());
        let key = create_key(&state, &["*"]).await;
        let server = Server::bind(Arc::clone(&state), logs, Arc::new(config)).await.unwrap();
        let address = server.address().unwrap();
        let (end, ended) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async { drop(ended.await) }));
        Self { state, address, key, directory, end: Some(end), serving }
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(&mut self) {
        drop(self.end.take());
        (&mut self.serving).await.unwrap();
    }

    /// Changes a key's record.
    pub(crate) async fn put(&self, key: &AccessKey) {
        let mut edit = Edit::default();
        edit.put(key);
        self.state.commit(edit).await.unwrap().unwrap();
    }

    pub(crate) async fn create_key(&self, allow: &[&str]) -> AccessKey {
        create_key(&self.state, allow).await
    }

    /// Runs Python with boto3: `client(service, **more)`.
    pub(crate) async fn python(&self, script: &str) -> String {
        let prelude = format!(
            "import boto3, json\n\
             from botocore.config import Config\n\
             from botocore.exceptions import ClientError\n\
             def client(service, **more):\n\
             \x20   more = {{'aws_access_key_id': '{}', 'aws_secret_access_key': '{}', **more}}\n\
             \x20   endpoint = more.pop('endpoint_url', 'http://{}')\n\
             \x20   return boto3.client(service, region_name='{REGION}', endpoint_url=endpoint,\n\
             \x20       config=Config(retries={{'max_attempts': 0}}), **more)\n\
             def code(call, **members):\n\
             \x20   try: call(**members)\n\
             \x20   except ClientError as error: return error.response['Error']['Code']\n\
             \x20   return None\n",
            self.key.id, self.key.secret, self.address
        );
        let mut command = tokio_command("python3");
        command.arg("-c").arg(prelude + script);
        run(command).await
    }

    /// Runs the `aws` CLI.
    pub(crate) async fn aws(&self, arguments: &[&str]) -> String {
        let mut command = tokio_command("aws");
        command
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", &self.key.id)
            .env("AWS_SECRET_ACCESS_KEY", &self.key.secret)
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_DEFAULT_REGION", REGION)
            .env("HOME", self.directory.path());
        run(command).await
    }

    /// Signs nothing.
    pub(crate) fn call<'a>(&'a self, body: &'a [u8]) -> Call<'a> {
        Call {
            running: self,
            method: "POST",
            path: "/",
            headers: vec![("content-type", "application/x-amz-json-1.1".to_owned())],
            body,
            now: Timestamp::now(),
            tampered: None,
        }
    }

    /// A JSON call, signed.
    pub(crate) async fn json(&self, key: &AccessKey, target: &str, body: &[u8]) -> (u16, Value) {
        let answer = self.call(body).target(target).signed(key, "ecs").send().await;
        (answer.status, answer.json())
    }
}

async fn create_key(state: &State, allow: &[&str]) -> AccessKey {
    let request = Request::CreateKey {
        account: "123456789012".to_owned(),
        allow: allow.iter().map(|pattern| (*pattern).to_owned()).collect(),
        description: None,
    };
    match access::perform(state, request, Timestamp::now()).await.unwrap() {
        Answer::Key(key) => key,
        other => panic!("{other:?}"),
    }
}

fn tokio_command(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.stdin(std::process::Stdio::null());
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

async fn run(mut command: std::process::Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A request.
pub(crate) struct Call<'a> {
    running: &'a Running,
    pub(crate) method: &'static str,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(&'static str, String)>,
    body: &'a [u8],
    pub(crate) now: Timestamp,
    /// Sent in place of the body that is signed.
    pub(crate) tampered: Option<&'a [u8]>,
}

pub(crate) struct Answered {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Name of the error of a JSON service.
    pub(crate) fn error(&self) -> String {
        let name = self.json()["__type"].as_str().unwrap_or_default().to_owned();
        assert!(
            self.head.contains(&format!("x-amzn-errortype: {}\r\n", name.to_lowercase())),
            "{}",
            self.head
        );
        name
    }

    pub(crate) fn read(answer: &[u8]) -> Self {
        let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..split + 2].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: answer[split + 4..].to_vec() }
    }
}

impl<'a> Call<'a> {
    pub(crate) fn target(mut self, target: &str) -> Self {
        self.headers.push(("x-amz-target", target.to_owned()));
        self
    }

    pub(crate) fn form(mut self) -> Self {
        self.headers[0].1 = "application/x-www-form-urlencoded; charset=utf-8".to_owned();
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Signs what has been said so far.
    pub(crate) fn signed(mut self, key: &AccessKey, service: &str) -> Self {
        self.headers.push(("host", self.running.address.to_string()));
        let (path, query) = self.path.split_once('?').unwrap_or((self.path, ""));
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let request = sigv4::Request {
            method: self.method,
            path,
            query,
            headers: &headers,
            payload_sha256: &sha256_hex(self.body),
        };
        let keys = Keys {
            access_key_id: &key.id,
            secret_access_key: &key.secret,
            session_token: key.session_token.as_deref(),
        };
        let added = sigv4::sign(&keys, &Scope { region: REGION, service }, &request, self.now);
        self.headers.extend(added);
        self
    }

    /// Sends it on a connection of its own.
    pub(crate) async fn send(mut self) -> Answered {
        let mut stream = TcpStream::connect(self.running.address).await.unwrap();
        let body = self.tampered.unwrap_or(self.body);
        if !self.headers.iter().any(|(name, _)| *name == "host") {
            self.headers.push(("host", self.running.address.to_string()));
        }
        if !self.headers.iter().any(|(name, _)| *name == "transfer-encoding") {
            self.headers.push(("content-length", body.len().to_string()));
        }
        if !self.headers.iter().any(|(name, _)| *name == "connection") {
            self.headers.push(("connection", "close".to_owned()));
        }
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        Answered::read(&answer)
    }
}

/// A certificate for `localhost` and its key, as files.
pub(crate) fn certificate(directory: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    let mut command = std::process::Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    let made = command.arg("-out").arg(&certificate).arg("-keyout").arg(&key).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}
