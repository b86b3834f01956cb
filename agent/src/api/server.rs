//! The agent's API socket: HTTP/1.1 and JSON over `<run>/agent.sock`, as [`super::types`] lists.
//!
//! Only root may speak: the socket's directory is root's, and each peer's credentials are asked of
//! the kernel. Handlers read snapshots and send [`Input`]; none decides anything.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path as Captured, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use protocol::ids::TaskId;
use protocol::taskdef::TaskDefinition;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::images;
use super::types::{AgentInfo, Deregistered, Failure, RunTask, StopTask, TaskView};
use crate::ecs::{LeaveError, Membership};
use crate::engine::{NewTask, TaskEvent};
use crate::error::chain;
use crate::host::hands::Hands;
use crate::host::view::Snapshot;
use crate::host::{Input, NotRun, admit};
use crate::logs;

/// How long removing a task may take before the caller is told that it goes on.
const REMOVAL: Duration = Duration::from_secs(30);

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Api {
    pub inbox: mpsc::Sender<Input>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub hands: Arc<Hands>,
    pub embedded: bool,
    /// Connections that are open now.
    pub connections: Arc<AtomicUsize>,
    pub membership: Membership,
    /// It is at work as a member of a cluster, if one is configured.
    pub member: bool,
    /// Ends the agent. `None`: it gives way to nobody.
    pub give_way: Option<Arc<Notify>>,
}

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("listen on {path}")]
pub struct ListenError {
    path: PathBuf,
    source: std::io::Error,
}

/// Binds the socket in place of one that a dead agent left. The caller holds the root's lock.
///
/// # Errors
/// If the kernel refuses; a path over 107 bytes among the reasons.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |source| ListenError { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(fail(source)),
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Serves until the future is dropped.
///
/// # Errors
/// None that ends it; see `axum::serve`.
pub async fn serve(listener: UnixListener, api: Api) -> std::io::Result<()> {
    let connections = Arc::clone(&api.connections);
    let router = Router::new()
        .route("/v1/agent", get(agent))
        .route("/v1/give-way", post(give_way))
        .route("/v1/deregister", post(deregister))
        .route("/v1/tasks", get(list).post(run))
        .route("/v1/tasks/{task}", get(show).delete(remove))
        .route("/v1/tasks/{task}/stop", post(stop))
        .route("/v1/tasks/{task}/watch", get(watch_task))
        .route("/v1/tasks/{task}/logs", get(task_logs))
        .merge(images::routes())
        .fallback(async || Refusal::not_found("no such path"))
        .with_state(api);
    axum::serve(RootOnly { listener, connections }, router).await
}

/// Accepts peers that are root; closes others' connections unread.
#[derive(Debug)]
struct RootOnly {
    listener: UnixListener,
    connections: Arc<AtomicUsize>,
}

impl axum::serve::Listener for RootOnly {
    type Io = Counted;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 => {
                        self.connections.fetch_add(1, Ordering::Relaxed);
                        return (Counted { stream, count: Arc::clone(&self.connections) }, ());
                    }
                    Ok(peer) => {
                        tracing::warn!(uid = peer.uid(), "refused a caller who is not root")
                    }
                    Err(error) => tracing::warn!(%error, "cannot tell who calls"),
                },
                Err(error) => {
                    // Out of descriptors: wait for connections to close.
                    tracing::warn!(%error, "accept on the API socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(())
    }
}

/// A connection that is counted while it is open.
#[derive(Debug)]
struct Counted {
    stream: UnixStream,
    count: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Counted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A failure as the API tells it.
#[derive(Debug)]
pub(super) struct Refusal(StatusCode, String);

impl Refusal {
    pub(super) fn message(self) -> String {
        self.1
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, message.into())
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self(StatusCode::CONFLICT, message.into())
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, message.into())
    }

    pub(super) fn ending() -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending".to_owned())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { message: self.1 })).into_response()
    }
}

/// A body of JSON. One that is none is refused as everything else is.
#[derive(Debug)]
pub(super) struct Given<T>(pub(super) T);

impl<T, S: Send + Sync> FromRequest<S> for Given<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::from_request(request, state).await {
            Ok(Json(given)) => Ok(Self(given)),
            Err(rejection) => Err(Refusal(rejection.status(), rejection.body_text())),
        }
    }
}

pub(super) fn lines<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    let body = items.map(|item| {
        let mut line = serde_json::to_vec(&item).unwrap_or_default();
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

impl Api {
    fn find(&self, text: &str) -> Result<TaskId, Refusal> {
        let snapshot = self.snapshots.borrow();
        let mut found = snapshot.tasks.keys().filter(|id| id.as_str().starts_with(text));
        match (found.next(), found.next()) {
            (Some(id), None) if !text.is_empty() => Ok(id.clone()),
            (Some(_), Some(_)) => {
                Err(Refusal::conflict(format!("{text:?} is the beginning of several tasks' ids")))
            }
            _ => Err(Refusal::not_found(format!("no task {text:?}"))),
        }
    }

    async fn ask(&self, task: TaskId, event: TaskEvent) -> Result<TaskView, Refusal> {
        let (reply, answer) = oneshot::channel();
        let missing = format!("no task {task}");
        self.inbox
            .send(Input::Ask { task, event, reply })
            .await
            .map_err(|_closed| Refusal::ending())?;
        answer
            .await
            .map_err(|_closed| Refusal::ending())?
            .map_err(Refusal::internal)?
            .ok_or_else(|| Refusal::not_found(missing))
    }
}

async fn agent(State(api): State<Api>) -> Json<AgentInfo> {
    Json(AgentInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        embedded: api.embedded,
        cluster: api.member.then(|| api.membership.cluster().map(str::to_owned)).flatten(),
        container_instance: api
            .membership
            .identity()
            .map(|identity| identity.container_instance_arn.clone()),
        ships_logs: api.hands.ships_logs(),
    })
}

async fn give_way(State(api): State<Api>) -> Result<Json<()>, Refusal> {
    match api.give_way {
        Some(give_way) => {
            give_way.notify_one();
            Ok(Json(()))
        }
        None => Err(Refusal::conflict("this agent does not serve in the background")),
    }
}

async fn deregister(State(api): State<Api>) -> Result<Json<Deregistered>, Refusal> {
    match api.membership.leave().await {
        Ok(identity) => Ok(Json(Deregistered {
            container_instance_arn: identity.container_instance_arn,
            cluster_arn: identity.cluster_arn,
        })),
        Err(error @ LeaveError::NotRegistered) => Err(Refusal::not_found(error.to_string())),
        Err(error) => Err(Refusal::internal(chain(&error))),
    }
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    all: bool,
}

async fn list(State(api): State<Api>, Query(query): Query<ListQuery>) -> Json<Vec<TaskView>> {
    let snapshot = Arc::clone(&api.snapshots.borrow());
    let mut tasks: Vec<TaskView> = snapshot
        .tasks
        .values()
        .filter(|task| query.all || task.stopped_at.is_none())
        .map(|task| (**task).clone())
        .collect();
    tasks.sort_by(|a, b| a.created_at.cmp(&b.created_at));
    Json(tasks)
}

async fn run(
    State(api): State<Api>,
    Given(request): Given<RunTask>,
) -> Result<(StatusCode, Json<TaskView>), Refusal> {
    let RunTask { id, definition, pull, remove, logins } = request;
    let id = id.unwrap_or_else(|| TaskId::from_random(uuid::Uuid::new_v4().as_u128()));
    if let Some(known) = known(&api.snapshots.borrow(), &id, &definition)? {
        return Ok((StatusCode::OK, Json(known)));
    }
    for (index, container) in definition.containers.iter().enumerate() {
        if let Some(login) = logins.get(&container.name) {
            api.hands.logins().give(&id, index, login.clone());
        }
    }
    let busy_ports = admit::busy_ports(&definition).await;
    let endpoints =
        definition.containers.iter().map(|_| uuid::Uuid::new_v4().to_string()).collect();
    let new = Box::new(NewTask {
        id: id.clone(),
        definition,
        pull,
        remove,
        ecs: None,
        ended: None,
        endpoints,
        busy_ports,
    });
    let (reply, answer) = oneshot::channel();
    api.inbox.send(Input::Run { new, reply }).await.map_err(|_closed| Refusal::ending())?;
    let admitted = answer.await.map_err(|_closed| Refusal::ending())?;
    if admitted.is_err() {
        api.hands.logins().forget(&id);
    }
    let refused = |error| match error {
        NotRun::Spent(_) => Refusal::conflict(chain(&error)),
        NotRun::Unstored(_) => Refusal::internal(chain(&error)),
    };
    Ok((StatusCode::CREATED, Json(admitted.map_err(refused)?)))
}

/// The task of an id that was asked for before, by one who lost the answer.
fn known(
    snapshot: &Snapshot,
    id: &TaskId,
    definition: &TaskDefinition,
) -> Result<Option<TaskView>, Refusal> {
    match (snapshot.tasks.get(id), snapshot.states.get(id)) {
        (Some(view), Some(task)) if task.ecs.is_none() && task.definition == *definition => {
            Ok(Some((**view).clone()))
        }
        (None, None) => Ok(None),
        _ => Err(Refusal::conflict(format!(
            "task {id} is there already and is another: draw a new id"
        ))),
    }
}

async fn show(
    State(api): State<Api>,
    Captured(task): Captured<String>,
) -> Result<Json<TaskView>, Refusal> {
    let id = api.find(&task)?;
    let view = api.snapshots.borrow().tasks.get(&id).map(|view| (**view).clone());
    view.map(Json).ok_or_else(|| Refusal::not_found(format!("no task {id}")))
}

async fn stop(
    State(api): State<Api>,
    Captured(task): Captured<String>,
    Given(StopTask { reason, kill, timeout }): Given<StopTask>,
) -> Result<Json<TaskView>, Refusal> {
    let id = api.find(&task)?;
    api.ask(id, TaskEvent::Stop { reason, kill, timeout }).await.map(Json)
}

async fn remove(
    State(api): State<Api>,
    Captured(task): Captured<String>,
) -> Result<StatusCode, Refusal> {
    let id = api.find(&task)?;
    let view = api.ask(id.clone(), TaskEvent::Remove).await?;
    if view.stopped_at.is_none() {
        let status = view.last_status;
        return Err(Refusal::conflict(format!("task {id} is {status}; stop it first")));
    }
    let mut snapshots = api.snapshots.clone();
    let gone = snapshots.wait_for(|snapshot| !snapshot.tasks.contains_key(&id));
    match tokio::time::timeout(REMOVAL, gone).await {
        Ok(Ok(_)) => Ok(StatusCode::NO_CONTENT),
        Ok(Err(_closed)) => Err(Refusal::ending()),
        Err(_elapsed) => Err(Refusal::internal(format!(
            "the files of task {id} are not removed yet; the agent goes on trying, see its log"
        ))),
    }
}

async fn watch_task(
    State(api): State<Api>,
    Captured(task): Captured<String>,
) -> Result<Response, Refusal> {
    let id = api.find(&task)?;
    let mut snapshots = api.snapshots.clone();
    snapshots.mark_changed();
    let state = (snapshots, id, None::<Arc<TaskView>>);
    Ok(lines(stream::unfold(state, |(mut snapshots, id, last)| async move {
        if last.as_ref().is_some_and(|last| last.stopped_at.is_some()) {
            return None;
        }
        loop {
            snapshots.changed().await.ok()?;
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let view = Arc::clone(snapshot.tasks.get(&id)?);
            if last.as_ref() != Some(&view) {
                return Some(((*view).clone(), (snapshots, id, Some(view))));
            }
            if snapshot.ended {
                return None;
            }
        }
    })))
}

#[derive(Debug, Deserialize)]
struct LogsQuery {
    #[serde(default)]
    follow: Option<String>,
    /// Comma-separated names.
    container: Option<String>,
    since: Option<jiff::Timestamp>,
    tail: Option<usize>,
}

async fn task_logs(
    State(api): State<Api>,
    Captured(task): Captured<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Refusal> {
    let id = api.find(&task)?;
    let snapshot = Arc::clone(&api.snapshots.borrow());
    let view = snapshot.tasks.get(&id).ok_or_else(|| Refusal::not_found("no such task"))?;
    let names: Vec<String> = view.containers.iter().map(|c| c.name.clone()).collect();
    let wanted: Vec<String> = query
        .container
        .iter()
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(Refusal::not_found(format!("task {id} has no container {unknown:?}")));
    }
    let sources = api.hands.log_sources(&id, &names);
    let query = logs::Query {
        // `?follow` and `?follow=true`.
        follow: query.follow.is_some_and(|value| value != "false"),
        since: query.since,
        tail: query.tail,
        containers: wanted,
    };
    let stream = logs::stream(sources, query, api.hands.watcher().clone());
    Ok(lines(stream.filter_map(async |line| match line {
        Ok(line) => Some(line),
        Err(error) => {
            tracing::warn!(error = chain(&error), "a log reader failed");
            None
        }
    })))
}

pub(super) async fn off_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|failed| Refusal::internal(failed.to_string()))?
        .map_err(Refusal::internal)
}
