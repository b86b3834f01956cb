//! Answers of the task endpoint: from request to document.
//!
//! Refusals are JSON strings with Amazon's agent's statuses: an unknown caller is 404 in version 4
//! and 400 before it, what is not there yet 500, an unknown path 404.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use protocol::taskdef::NetworkMode;
use protocol::tmds::Associations;
use tokio::net::TcpListener;

use super::route::{self, Caller, Route, Version};
use super::server::json;
use super::throttle::Bucket;
use super::{Scope, Shared, audit, credentials, documents, lock, protection, server};
use crate::engine::Task;
use crate::host::runtime_id;
use crate::stats::docker;

/// Bytes of a request's body.
const BODY: usize = 4096;

/// Serves one listener until the future is dropped.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, scope: Scope) {
    let all = Arc::clone(&shared.connections);
    let bucket = Arc::new(Mutex::new(Bucket::new(shared.limits, Instant::now())));
    let at_once = match scope {
        Scope::Task(_) => server::OF_A_TASK,
        Scope::Host => server::OF_THE_HOST,
    };
    server::serve(listener, at_once, all, move |peer, request| {
        let (shared, scope, bucket) = (Arc::clone(&shared), scope.clone(), Arc::clone(&bucket));
        async move {
            if lock(&bucket).admit(Instant::now()) {
                answer(&shared, &scope, peer, request).await
            } else {
                said(StatusCode::TOO_MANY_REQUESTS, "You have reached maximum request limit.")
            }
        }
    })
    .await;
}

fn said(status: StatusCode, text: &str) -> Response<Body> {
    json(status, &text)
}

async fn answer(
    shared: &Arc<Shared>,
    scope: &Scope,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    if let Some(clean) = route::cleaned(head.uri.path()) {
        let mut response = said(StatusCode::MOVED_PERMANENTLY, "");
        if let Ok(location) = HeaderValue::from_str(&clean) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        return response;
    }
    let Some(route) = Route::parse(head.uri.path(), head.uri.query()) else {
        return said(StatusCode::NOT_FOUND, "404 page not found");
    };
    let put = head.method == Method::PUT && matches!(route, Route::Protection { .. });
    if !put && head.method != Method::GET && head.method != Method::HEAD {
        return said(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    let asked = Asked { shared, tasks: tasks(shared, scope).await };
    match route {
        Route::Credentials { version, id } => {
            let user_agent = head.headers.get(header::USER_AGENT);
            let user_agent = user_agent.and_then(|value| value.to_str().ok()).unwrap_or_default();
            asked.credentials(version, id, peer, user_agent).await
        }
        Route::Container { version, caller, docker_id } => {
            asked.container(scope, version, caller, docker_id)
        }
        Route::Task { version, caller, tags } => match asked.caller(scope, caller) {
            Some((task, _)) => {
                let identity = shared.identity();
                let facts = shared.facts(identity.as_deref());
                json(StatusCode::OK, &documents::task(&facts, task, version, tags))
            }
            None => unknown(version, "task metadata"),
        },
        Route::ContainerStats { version, caller, docker_id } => {
            asked.container_stats(scope, version, caller, docker_id).await
        }
        Route::TaskStats { version, caller } => match asked.caller(scope, caller) {
            Some((task, _)) => asked.task_stats(task, version).await,
            None => unknown(version, "task stats"),
        },
        // What ECS associated with tasks was elastic inference, which it has ended.
        Route::Associations { version, caller } => match asked.caller(scope, caller) {
            Some(_) => json(StatusCode::OK, &Associations::default()),
            None => unknown(version, "associations"),
        },
        Route::Association { version, caller } => match asked.caller(scope, caller) {
            Some(_) => said(
                if version == Version::V4 {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::BAD_REQUEST
                },
                "the task has no such association",
            ),
            None => unknown(version, "association"),
        },
        Route::Protection { caller } => {
            let (status, document) = match asked.caller(scope, caller) {
                Some((task, _)) => asked.protection(task, put.then_some(body)).await,
                None => protection::refused(
                    404,
                    "ResourceNotFoundException",
                    "failed to find a task for the request",
                ),
            };
            json(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), &document)
        }
    }
}

/// The tasks that a listener speaks for.
async fn tasks(shared: &Shared, scope: &Scope) -> Vec<Arc<Task>> {
    let snapshot = shared.snapshots.wait().await.borrow();
    match scope {
        Scope::Task(id) => snapshot.states.get(id).cloned().into_iter().collect(),
        Scope::Host => {
            let all = snapshot.states.values();
            all.filter(|task| task.definition.network_mode == NetworkMode::Host).cloned().collect()
        }
    }
}

fn unknown(version: Version, what: &str) -> Response<Body> {
    let status =
        if version == Version::V4 { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST };
    said(status, &format!("{version:?} {what} handler: unable to find the caller's task"))
}

/// A request and whom it may concern.
struct Asked<'a> {
    shared: &'a Arc<Shared>,
    tasks: Vec<Arc<Task>>,
}

impl Asked<'_> {
    /// The task of the caller, and the container if it said which it is.
    fn caller(&self, scope: &Scope, caller: Caller<'_>) -> Option<(&Arc<Task>, Option<usize>)> {
        match (caller, scope) {
            (Caller::Listener, Scope::Task(_)) => self.tasks.first().map(|task| (task, None)),
            // Who on the host it is nobody can tell.
            (Caller::Listener, Scope::Host) => None,
            (Caller::Endpoint(id), _) => self.tasks.iter().find_map(|task| {
                let index = documents::by_endpoint(task, id)?;
                Some((task, Some(index)))
            }),
        }
    }

    /// The container that a path means: the caller, or in version 2 the one it names.
    fn of_path(
        &self,
        scope: &Scope,
        caller: Caller<'_>,
        docker_id: Option<&str>,
    ) -> Option<(&Arc<Task>, usize)> {
        let (task, index) = self.caller(scope, caller)?;
        let index = match docker_id {
            Some(id) => documents::by_docker_id(task, id),
            None => index,
        };
        Some((task, index?))
    }

    fn container(
        &self,
        scope: &Scope,
        version: Version,
        caller: Caller<'_>,
        docker_id: Option<&str>,
    ) -> Response<Body> {
        let Some((task, index)) = self.of_path(scope, caller, docker_id) else {
            return unknown(version, "container metadata");
        };
        let identity = self.shared.identity();
        let facts = self.shared.facts(identity.as_deref());
        match documents::container(&facts, task, index, version) {
            Some(document) => json(StatusCode::OK, &document),
            None => unknown(version, "container metadata"),
        }
    }

    async fn container_stats(
        &self,
        scope: &Scope,
        version: Version,
        caller: Caller<'_>,
        docker_id: Option<&str>,
    ) -> Response<Body> {
        let Some((task, index)) = self.of_path(scope, caller, docker_id) else {
            return unknown(version, "container stats");
        };
        match self.stats(task, index, version).await {
            Some((_, document)) => json(StatusCode::OK, &document),
            None => said(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("{version:?} container stats handler: the container has no statistics"),
            ),
        }
    }

    /// Docker id and document.
    async fn stats(
        &self,
        task: &Task,
        index: usize,
        version: Version,
    ) -> Option<(String, protocol::tmds::Stats)> {
        let id = runtime_id(&task.id, &task.container_definition(index)?.name);
        let (latest, previous) = self.shared.stats.latest(task, index).await?;
        let v4 = version == Version::V4;
        let document = docker::document(&id, &latest, previous.as_deref(), v4);
        Some((id, document))
    }

    async fn task_stats(&self, task: &Task, version: Version) -> Response<Body> {
        let mut all = BTreeMap::new();
        for (index, definition) in task.definition.containers.iter().enumerate() {
            let document = self.stats(task, index, version).await.map(|(_, document)| document);
            all.insert(runtime_id(&task.id, &definition.name), document);
        }
        json(StatusCode::OK, &all)
    }

    async fn credentials(
        &self,
        version: u8,
        id: Option<&str>,
        peer: SocketAddr,
        user_agent: &str,
    ) -> Response<Body> {
        let tasks = self.tasks.iter().map(AsRef::as_ref);
        let answer = credentials::answer(&self.shared.credentials, tasks, id, version);
        let status = answer.status();
        self.audit(version, &answer, peer, user_agent).await;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match &answer {
            credentials::Answer::Credentials(document) => json(status, document),
            credentials::Answer::Refused(refusal) => json(status, refusal),
        }
    }

    async fn audit(
        &self,
        version: u8,
        answer: &credentials::Answer,
        peer: SocketAddr,
        user_agent: &str,
    ) {
        if self.shared.audit.is_none() {
            return;
        }
        let (status, role) = (answer.status(), answer.role().map(str::to_owned));
        let (shared, user_agent) = (Arc::clone(self.shared), user_agent.to_owned());
        let written = tokio::task::spawn_blocking(move || {
            let Some(log) = &shared.audit else { return };
            let identity = shared.identity();
            let entry = audit::Entry {
                at: jiff::Timestamp::now(),
                status,
                source: &peer.ip().to_string(),
                path: if version == 1 { "/v1/credentials" } else { "/v2/credentials" },
                user_agent: &user_agent,
                role_arn: role.as_deref(),
                version,
                cluster: identity.as_ref().map(|identity| identity.cluster.as_str()),
                container_instance_arn: identity
                    .as_ref()
                    .map(|identity| identity.container_instance_arn.as_str()),
            };
            if let Err(error) = log.write(&entry) {
                let path = log.path().display();
                tracing::warn!(%error, %path, "cannot write to the audit log");
            }
        });
        if let Err(failed) = written.await {
            tracing::error!(%failed, "the audit log failed internally");
        }
    }

    async fn protection(&self, task: &Arc<Task>, body: Option<Incoming>) -> protection::Answer {
        let change = match body {
            None => None,
            Some(body) => match axum::body::to_bytes(Body::new(body), BODY).await {
                Ok(bytes) => Some(bytes),
                Err(error) => {
                    let text = format!("read the body of at most {BODY} bytes: {error}");
                    return protection::refused(400, "InvalidParameterException", text);
                }
            },
        };
        let control_plane = self.shared.control_plane.get();
        protection::ask(control_plane, &self.shared.credentials, task, change.as_deref()).await
    }
}
