//! Scripted agents over real WebSockets, against sessions on a real store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acs;
mod roles;
mod tcs;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use protocol::ecs;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use uuid::Uuid;

use super::*;
use crate::api::testing;
use crate::model::*;
use crate::scheduler::fixtures::{self, ACCOUNT};
use crate::state::{self, State};

const REGION: &str = "local";
const INSTANCE: &str = "00000000000000000000000000000001";
/// Signs for the agent.
const KEY: &str = "AKIAAGENT";
/// Longer than anything takes, on any machine.
const LONG: Duration = Duration::from_secs(20);

/// Nothing happens by itself.
const QUIET: Timing = Timing {
    heartbeat: Duration::from_secs(600),
    patience: Duration::from_secs(600),
    resend: Duration::from_secs(600),
    credentials: Duration::from_secs(600),
    silence: Duration::from_secs(600),
};

struct World {
    _directory: tempfile::TempDir,
    state: Arc<State>,
    address: SocketAddr,
    _server: tokio_util::task::AbortOnDropHandle<()>,
}

fn instance_arn() -> String {
    Instance::arn_of(REGION, ACCOUNT, "default", INSTANCE)
}

fn instance_key() -> String {
    Instance::key_of(REGION, "default", INSTANCE)
}

fn connection_key() -> String {
    Connection::key_of(REGION, "default", INSTANCE)
}

/// A control plane with the cluster `default`, one instance, the family `web` in mode bridge and
/// `own` in mode awsvpc.
async fn world(timing: Timing) -> World {
    let (directory, state) = state::testing::open().await;
    let cluster = Cluster { region: REGION.to_owned(), ..fixtures::cluster() };
    let instance = Instance { region: REGION.to_owned(), ..fixtures::instance(1, "a") };
    let key = fixtures::access_key(KEY);
    change(&state, |edit, _| {
        edit.put(&key);
        edit.put(&cluster);
        edit.put(&instance);
        edit.put(&definition("web", "bridge"));
        edit.put(&definition("own", "awsvpc"));
    })
    .await;
    let context = Context {
        access_key: KEY.to_owned(),
        region: REGION.to_owned(),
        now: Timestamp::now(),
        ..testing::context(&state)
    };
    let acs = {
        let context = context.clone();
        move |Query(query): Query<BTreeMap<String, String>>, upgrade: WebSocketUpgrade| async move {
            begin_acs(&context, &query, upgrade, timing)
        }
    };
    let tcs = move |Query(query): Query<BTreeMap<String, String>>, upgrade: WebSocketUpgrade| async move {
        begin_tcs(&context, &query, upgrade, timing)
    };
    let router = Router::new().route("/acs/ws", get(acs)).route("/tcs/ws", get(tcs));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    World {
        _directory: directory,
        state,
        address,
        _server: tokio_util::task::AbortOnDropHandle::new(server),
    }
}

fn definition(family: &str, mode: &str) -> Definition {
    let registered = json!({
        "networkMode": mode,
        "containerDefinitions": [
            {"name": "app", "image": "app:1", "memory": 64, "portMappings": [{"containerPort": 80}]},
            {"name": "side", "image": "side:1", "memory": 32, "essential": false},
        ],
    });
    Definition { region: REGION.to_owned(), ..fixtures::definition(family, json!({}), registered) }
}

/// Changes records, whatever they are.
async fn change(state: &State, mut change: impl FnMut(&mut state::Edit, &state::View)) {
    state
        .transact(|view, edit| {
            change(edit, view);
            Ok::<_, state::Error>(())
        })
        .await
        .unwrap();
}

async fn poll<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let polled = async {
        loop {
            if let Some(value) = ready() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(LONG, polled).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}

impl World {
    /// Places a task on the instance; `set` changes the record before it is stored.
    async fn place(&self, family: &str, set: impl Fn(&mut Task)) -> Task {
        let definition = definition(family, "bridge");
        let seed = Uuid::new_v4().as_u128() >> 64;
        let mut task = fixtures::task(&definition, INSTANCE, "family:web", seed);
        task.created_at = Timestamp::now();
        set(&mut task);
        change(&self.state, |edit, _| edit.put(&task)).await;
        task
    }

    async fn change_task(&self, task: &Task, set: impl Fn(&mut Task)) {
        change(&self.state, |edit, view| {
            let before = view.tasks.get(&task.key()).unwrap();
            let mut task = before.value.clone();
            set(&mut task);
            edit.update(before, &task);
        })
        .await;
    }

    async fn deregister(&self) {
        change(&self.state, |edit, view| {
            let before = view.instances.get(&instance_key()).unwrap();
            let mut instance = before.value.clone();
            instance.status = InstanceStatus::Inactive;
            edit.update(before, &instance);
        })
        .await;
    }

    fn task(&self, task: &Task) -> Task {
        self.state.view().tasks.get(&task.key()).unwrap().value.clone()
    }

    fn key(&self) -> AccessKey {
        let key = format!("{}{KEY}", AccessKey::PREFIX);
        self.state.view().keys.get(&key).unwrap().value.clone()
    }

    fn session(&self) -> Option<String> {
        let view = self.state.view();
        view.connections.get(&connection_key()).map(|connection| connection.session.clone())
    }

    async fn connect_to(&self, path: &str) -> Result<Agent, tungstenite::Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let url = format!("ws://{}{path}", self.address);
        stream.set_nodelay(true).unwrap();
        let small = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(url, stream, Some(small)).await?;
        Ok(Agent { socket })
    }

    /// An agent that has read its manifest.
    async fn connect(&self) -> (Agent, Value) {
        let path = format!(
            "/acs/ws?agentHash=1&agentVersion=1.0.0&clusterArn=default&containerInstanceArn={}\
             &protocolVersion=2&sendCredentials=true&seqNum=1",
            instance_arn()
        );
        let mut agent = self.connect_to(&path).await.unwrap();
        let manifest = agent.expect("TaskManifestMessage").await;
        (agent, manifest)
    }
}

struct Agent {
    socket: WebSocketStream<TcpStream>,
}

impl Agent {
    /// The next frame's type and message; `None` when the server closes.
    async fn receive(&mut self) -> Option<(String, Value)> {
        loop {
            let message = timeout(LONG, self.socket.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let mut frame: Value = serde_json::from_str(&text).unwrap();
                    let message = frame["message"].take();
                    return Some((frame["type"].as_str().unwrap().to_owned(), message));
                }
                None | Some(Ok(Message::Close(_)) | Err(_)) => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// The message of the next frame, which must be of this type.
    async fn expect(&mut self, kind: &str) -> Value {
        let (found, message) = self.receive().await.expect("a frame");
        assert_eq!(found, kind, "{message:#}");
        message
    }

    async fn send_text(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }

    async fn send(&mut self, kind: &str, message: Value) {
        self.send_text(json!({"type": kind, "message": message}).to_string()).await;
    }

    async fn ack(&mut self, payload: &Value) {
        let ack = json!({
            "cluster": payload["clusterArn"],
            "containerInstance": payload["containerInstanceArn"],
            "messageId": payload["messageId"],
        });
        self.send("AckRequest", ack).await;
    }

    /// Proves that the session lives: an answer to a question without candidates.
    async fn lives(&mut self) {
        let id = Uuid::new_v4().to_string();
        self.send("TaskStopVerificationMessage", json!({"messageId": id})).await;
        let answer = self.expect("TaskStopVerificationAck").await;
        assert_eq!(answer["messageId"], json!(id));
    }

    async fn closed(&mut self) {
        assert_eq!(self.receive().await, None);
    }
}

fn arns(tasks: &Value) -> Vec<String> {
    let tasks = tasks.as_array().unwrap().iter();
    tasks
        .map(|task| task["arn"].as_str().or(task["taskArn"].as_str()).unwrap().to_owned())
        .collect()
}
