//! A control plane that does what a test says: it answers calls, verifies every signature, and
//! hands sessions to the test. And a host whose containers always start and stop at once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use protocol::monitor::{ContainerFacts, Exit, Status};
use protocol::{sigv4, tcs};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::engine::{self, Action, ContainerEvent, Effect, Event, Host, TaskEvent};
use crate::host::view::{self, Snapshot};
use crate::host::{Input, NotRun};
use crate::layout::Layout;

pub(super) const KEY: &str = "AKIATEST";
pub(super) const SECRET: &str = "very-secret";
pub(super) const INSTANCE: &str = "arn:aws:ecs:eu-x-1:1:container-instance/prod/abc";
pub(super) const CLUSTER: &str = "arn:aws:ecs:eu-x-1:1:cluster/prod";
const PATIENCE: Duration = Duration::from_secs(10);

/// Status and body of an answer.
pub(super) type Answer = (u16, Value);

/// One session as the test holds it.
pub(super) struct Session {
    /// As it was asked for.
    target: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) socket: WebSocketStream<TcpStream>,
}

impl Session {
    pub(super) async fn send(&mut self, kind: &str, message: Value) {
        self.send_text(&json!({"type": kind, "message": message}).to_string()).await;
    }

    pub(super) async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn receive_text(&mut self) -> String {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            if let Message::Text(text) = next.expect("in time").unwrap().unwrap() {
                return text.as_str().to_owned();
            }
        }
    }

    /// The next message: type and content.
    pub(super) async fn receive(&mut self) -> (String, Value) {
        let frame: Value = serde_json::from_str(&self.receive_text().await).unwrap();
        (frame["type"].as_str().unwrap().to_owned(), frame["message"].clone())
    }

    /// The next message of telemetry, whose signature is verified.
    pub(super) async fn receive_signed(&mut self) -> tcs::AgentMessage {
        let frame = self.receive_text().await;
        let (head, body) = tcs::split(&frame);
        let headers: Vec<(&str, &str)> =
            head.lines().map(|line| line.split_once(": ").unwrap()).collect();
        assert!(headers.is_sorted(), "{head}");
        verify("GET", &self.target, &headers, body.as_bytes());
        tcs::AgentMessage::parse(body).unwrap()
    }
}

pub(super) struct ControlPlane {
    pub(super) address: SocketAddr,
    /// Calls as they came: operation and input.
    pub(super) calls: mpsc::UnboundedReceiver<(String, Value)>,
    pub(super) sessions: mpsc::UnboundedReceiver<Session>,
    /// Those of telemetry.
    telemetry: mpsc::UnboundedReceiver<Session>,
    /// Answers that replace the usual one, used up from the front.
    pub(super) answers: Arc<Mutex<HashMap<String, Vec<Answer>>>>,
}

impl ControlPlane {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (call, calls) = mpsc::unbounded_channel();
        let (session, sessions) = mpsc::unbounded_channel();
        let (publisher, telemetry) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<HashMap<String, Vec<Answer>>>> = Arc::default();
        let script = Arc::clone(&answers);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (call, script) = (call.clone(), Arc::clone(&script));
                let (session, publisher) = (session.clone(), publisher.clone());
                tokio::spawn(async move {
                    let mut start = [0; 4];
                    while stream.peek(&mut start).await.is_ok_and(|read| read < 4) {
                        tokio::task::yield_now().await;
                    }
                    if &start == b"GET " {
                        accept(stream, &session, &publisher).await;
                    } else {
                        answer(stream, address, &call, &script).await;
                    }
                });
            }
        });
        Self { address, calls, sessions, telemetry, answers }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn script(&self, operation: &str, answers: Vec<Answer>) {
        self.answers.lock().unwrap().insert(operation.to_owned(), answers);
    }

    /// The input of the next call, which must be of this operation.
    pub(super) async fn call(&mut self, operation: &str) -> Value {
        let next = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        let (found, input) = next.expect("a call in time").unwrap();
        assert_eq!(found, operation, "{input}");
        input
    }

    /// The operation of the next call.
    pub(super) async fn call_any(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        next.expect("a call in time").unwrap().0
    }

    pub(super) async fn session(&mut self) -> Session {
        let next = tokio::time::timeout(PATIENCE, self.sessions.recv()).await;
        next.expect("a session in time").unwrap()
    }

    pub(super) async fn telemetry(&mut self) -> Session {
        let next = tokio::time::timeout(PATIENCE, self.telemetry.recv()).await;
        next.expect("a session in time").unwrap()
    }
}

fn verify(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let sha256 = sigv4::sha256_hex(body);
    let request = sigv4::Request { method, path, query, headers, payload_sha256: &sha256 };
    let claim = sigv4::parse(&request).unwrap();
    assert_eq!((claim.access_key_id.as_str(), claim.region.as_str()), (KEY, "eu-x-1"));
    assert_eq!(claim.service, "ecs");
    claim.verify(&request, SECRET, Timestamp::now()).unwrap();
}

#[allow(clippy::result_large_err, reason = "the library's own signature")]
async fn accept(
    stream: TcpStream,
    sessions: &mpsc::UnboundedSender<Session>,
    telemetry: &mpsc::UnboundedSender<Session>,
) {
    let mut query = BTreeMap::new();
    let mut asked = String::new();
    let read = |request: &Request, response: Response| {
        let headers: Vec<(&str, &str)> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let target = request.uri().path_and_query().unwrap().as_str();
        verify("GET", target, &headers, b"");
        assert!(["/ws", "/tcs/ws"].contains(&request.uri().path()), "{target}");
        target.clone_into(&mut asked);
        let url = reqwest::Url::parse(&format!("http://x{target}")).unwrap();
        query
            .extend(url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())));
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, read).await.unwrap();
    let list = if asked.starts_with("/tcs") { telemetry } else { sessions };
    let _ = list.send(Session { target: asked, query, socket });
}

async fn answer(
    mut stream: TcpStream,
    address: SocketAddr,
    calls: &mpsc::UnboundedSender<(String, Value)>,
    script: &Mutex<HashMap<String, Vec<Answer>>>,
) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 8192];
        let read = stream.read(&mut chunk).await.unwrap();
        if read == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if bytes.len() >= end + 4 + length {
            break (head, bytes[end + 4..].to_vec());
        }
    };
    let headers: Vec<(&str, &str)> =
        head.lines().skip(1).filter_map(|line| line.split_once(": ")).collect();
    verify("POST", "/", &headers, &body);
    let target = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-amz-target"));
    let operation = target.unwrap().1.rsplit('.').next().unwrap().to_owned();
    let input: Value = serde_json::from_slice(&body).unwrap();
    let scripted = {
        let mut script = script.lock().unwrap();
        script.get_mut(&operation).filter(|list| !list.is_empty()).map(|list| list.remove(0))
    };
    let (status, body) = scripted.unwrap_or_else(|| (200, usual(&operation, &input, address)));
    let _ = calls.send((operation, input));
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
}

fn usual(operation: &str, input: &Value, address: SocketAddr) -> Value {
    match operation {
        "RegisterContainerInstance" => {
            let mut attributes = input["attributes"].as_array().unwrap().clone();
            attributes.push(json!({"name": protocol::ecs::TASK_NETWORK_OFFER}));
            attributes.push(json!({"name": "ecs.availability-zone", "value": "eu-x-1a"}));
            json!({"containerInstance": {
                "containerInstanceArn": INSTANCE, "attributes": attributes,
            }})
        }
        "DiscoverPollEndpoint" => json!({
            "endpoint": format!("http://{address}/"),
            "telemetryEndpoint": format!("http://{address}/tcs"),
        }),
        "SubmitTaskStateChange" => json!({"acknowledgment": "ok"}),
        _ => json!({}),
    }
}

/// An owner without hands: every effect succeeds at once, and nothing is stored.
pub(super) fn host() -> (mpsc::Sender<Input>, watch::Receiver<Arc<Snapshot>>) {
    let (inbox, mut inputs) = mpsc::channel(64);
    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    tokio::spawn(async move {
        let mut host = Host::new(engine::Settings {
            stop_timeout: 30,
            cleanup_after: 3600,
            awsvpc_subnet: "10.147.0.0/24".parse().unwrap(),
            bridge_subnet: "10.148.0.0/24".parse().unwrap(),
            dynamic_ports: (50_000, 50_100),
            user_maps: None,
        });
        while let Some(input) = inputs.recv().await {
            let (events, reply) = match input {
                Input::Event(event) | Input::Resolved { event, .. } => (event, None),
                Input::Run { new, reply } => {
                    let id = new.id.clone();
                    (Event::Run(new), Some((id, Err(reply))))
                }
                Input::Ask { task, event, reply } => {
                    let event = Event::Task { task: task.clone(), event };
                    (event, Some((task, Ok(reply))))
                }
                Input::Progress { .. } => continue,
                Input::Ping { reply } => {
                    let _ = reply.send(Ok(()));
                    continue;
                }
                Input::Shutdown => return,
            };
            let mut open = vec![events];
            while let Some(event) = open.pop() {
                let outcome = engine::step(&mut host, event, Timestamp::now());
                open.extend(outcome.effects.iter().filter_map(|effect| succeed(&host, effect)));
            }
            publish.send_modify(|snapshot| {
                let snapshot = Arc::make_mut(snapshot);
                snapshot.states = host
                    .tasks
                    .iter()
                    .map(|(id, task)| (id.clone(), Arc::new(task.clone())))
                    .collect();
            });
            let Some((id, reply)) = reply else { continue };
            let layout = Layout::new(None);
            let task = host.tasks.get(&id).map(|task| view::task(task, &layout, Vec::new()));
            match reply {
                Ok(reply) => drop(reply.send(Ok(task))),
                Err(reply) => drop(reply.send(task.ok_or(NotRun::Spent(id)))),
            }
        }
    });
    (inbox, snapshots)
}

fn succeed(host: &Host, effect: &Effect) -> Option<Event> {
    let Effect { task, generation, action } = effect.clone();
    let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap();
    let facts = |container: usize, status: Status| ContainerFacts {
        container: host.tasks[&task].containers[container].name.clone(),
        status,
        pid: Some(1),
        started_at: (status != Status::Created).then_some(now),
        exit: (status == Status::Stopped).then_some(Exit {
            code: Some(143),
            signal: Some(15),
            oom_killed: false,
            at: now,
        }),
    };
    let container_event =
        |container, event| Event::Container { task: task.clone(), container, event };
    Some(match action {
        Action::ResolveImage { container } => container_event(
            container,
            ContainerEvent::ImageReady {
                generation,
                id: "sha256:1".to_owned(),
                digest: Some("sha256:2".to_owned()),
            },
        ),
        Action::CreateResources => {
            Event::Task { task, event: TaskEvent::ResourcesReady { generation } }
        }
        Action::CreateContainer { container } => {
            let facts = facts(container, Status::Created);
            container_event(container, ContainerEvent::Created { generation, facts })
        }
        Action::StartContainer { container } => {
            container_event(container, ContainerEvent::Observed(facts(container, Status::Running)))
        }
        Action::Signal { container, .. } => {
            container_event(container, ContainerEvent::Observed(facts(container, Status::Stopped)))
        }
        Action::Release => Event::Task { task, event: TaskEvent::Released { generation } },
        Action::Remove => Event::Task { task, event: TaskEvent::Removed },
        Action::CancelPull { .. } => return None,
    })
}
