//! The introspection API, for people and tools on the host (protocol reference §13).
//!
//! On loopback only: Amazon's agent listens on all interfaces and leaves it to its supervisor's
//! firewall to keep other hosts out.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode, Uri};
use protocol::tmds::introspection::{Commands, Metadata, Task, Tasks};
use tokio::net::TcpListener;

use super::server::{json, respond};
use super::{Shared, documents, server};
use crate::engine;

const VERSION: &str = concat!("Lighter ECS Agent - v", env!("CARGO_PKG_VERSION"));
const LICENSE: &str = include_str!("../../../LICENSE");
/// A Docker id up to this length is a prefix.
const SHORT: usize = 12;

/// Serves until the future is dropped.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let all = Arc::clone(&shared.connections);
    server::serve(listener, server::OF_THE_HOST, all, move |_peer, request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request.uri()).await }
    })
    .await;
}

async fn answer(shared: &Shared, uri: &Uri) -> Response<Body> {
    let identity = shared.identity();
    match uri.path() {
        "/v1/metadata" => json(
            StatusCode::OK,
            &Metadata {
                cluster: identity
                    .as_ref()
                    .map_or_else(|| "default".to_owned(), |identity| identity.cluster.clone()),
                container_instance_arn: identity
                    .as_ref()
                    .map(|identity| identity.container_instance_arn.clone()),
                version: VERSION.to_owned(),
            },
        ),
        "/v1/tasks" => {
            let states = shared.snapshots.wait().await.borrow().states.clone();
            let tasks: Vec<&engine::Task> = states.values().map(AsRef::as_ref).collect();
            let facts = shared.facts(identity.as_deref());
            let document = |task: &engine::Task| documents::introspected(&facts, task);
            match select(&tasks, uri.query().unwrap_or_default()) {
                Selection::All => {
                    let tasks = tasks.into_iter().map(document).collect();
                    json(StatusCode::OK, &Tasks { tasks })
                }
                Selection::One(task) => json(StatusCode::OK, &document(task)),
                Selection::None => json(StatusCode::NOT_FOUND, &Task::default()),
                Selection::Unclear => json(StatusCode::BAD_REQUEST, &Task::default()),
            }
        }
        "/license" => respond(StatusCode::OK, "text/plain", LICENSE),
        _ => json(
            StatusCode::OK,
            &Commands {
                available_commands: ["/v1/metadata", "/v1/tasks", "/license"]
                    .map(str::to_owned)
                    .to_vec(),
            },
        ),
    }
}

#[derive(Debug, PartialEq)]
enum Selection<'a> {
    All,
    One(&'a engine::Task),
    None,
    Unclear,
}

/// Which task the query of `/v1/tasks` means.
fn select<'a>(tasks: &[&'a engine::Task], query: &str) -> Selection<'a> {
    let value = |name: &str| {
        query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
    };
    let decoded = |text: &str| text.replace("%3A", ":").replace("%3a", ":").replace("%2F", "/");
    let matching: Vec<&engine::Task> = match (value("taskarn"), value("dockerid")) {
        (None, None) => return Selection::All,
        (Some(_), Some(_)) => return Selection::Unclear,
        (Some((_, arn)), None) => {
            let arn = decoded(arn);
            tasks.iter().copied().filter(|task| documents::task_arn(task) == arn).collect()
        }
        (None, Some((_, id))) => {
            let of_task = |task: &&&'a engine::Task| {
                task.definition.containers.iter().any(|container| {
                    let own = crate::host::runtime_id(&task.id, &container.name);
                    own == id || (!id.is_empty() && id.len() <= SHORT && own.starts_with(id))
                })
            };
            tasks.iter().filter(of_task).copied().collect()
        }
    };
    match matching.as_slice() {
        [] => Selection::None,
        [task] => Selection::One(task),
        _ => Selection::Unclear,
    }
}
