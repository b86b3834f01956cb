//! Who may have a session: an agent whose instance is registered and not deregistered.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::ids::TaskId;
use uuid::Uuid;

use crate::api::Context;
use crate::model::{AccessKey, Cluster, Entity, Instance, Task};
use crate::state::{State, Stored, View};

/// The agent of a session, by the instance it runs on.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) state: Arc<State>,
    pub(super) account: String,
    pub(super) region: String,
    pub(super) cluster: String,
    /// Id of the instance.
    pub(super) instance: String,
    /// Key of the instance's record.
    pub(super) key: String,
    pub(super) cluster_arn: String,
    pub(super) instance_arn: String,
    /// Of this session alone.
    pub(super) session: String,
    /// Key of the record of the access key that signed.
    access_key: String,
}

impl Peer {
    /// Whether the access key that opened the session is still there: one that was taken away opens
    /// nothing, and keeps nothing open.
    pub(super) fn has_key(&self, view: &View) -> bool {
        view.keys.get(&self.access_key).is_some()
    }

    /// The instance, until it is deregistered.
    pub(super) fn instance<'v>(&self, view: &'v View) -> Option<&'v Stored<Instance>> {
        view.instances.get(&self.key).filter(|instance| instance.is_registered())
    }

    /// The task of the instance that the agent means. Others are not the agent's to speak of.
    pub(super) fn task<'v>(&self, view: &'v View, arn: Option<&str>) -> Option<&'v Stored<Task>> {
        let key = Task::key_of(&self.region, &self.cluster, self.task_id(arn?)?);
        view.tasks.get(&key).filter(|task| task.instance == self.instance)
    }

    /// The id in the ARN of a task of this cluster.
    fn task_id<'a>(&self, arn: &'a str) -> Option<&'a str> {
        let id = arn.strip_prefix("arn:aws:ecs:")?;
        let id = id.strip_prefix(self.region.as_str())?.strip_prefix(':')?;
        let id = id.strip_prefix(self.account.as_str())?.strip_prefix(":task/")?;
        let id = id.strip_prefix(self.cluster.as_str())?.strip_prefix('/')?;
        id.parse::<TaskId>().is_ok().then_some(id)
    }
}

/// Why there is no session: one of the types that agents know, and a text.
#[derive(Debug)]
pub(super) struct Refusal {
    kind: &'static str,
    text: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // Exactly one member, which the agent finds its error by.
        let body = serde_json::json!({ self.kind: self.text });
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

/// The type of refusal and of frame for a deregistered instance.
pub(super) const INACTIVE: &str = "InactiveInstanceException";

fn refuse<T>(kind: &'static str, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { kind, text: text.into() })
}

/// Reads who connects from the query of either service.
pub(super) fn admit(context: &Context, query: &BTreeMap<String, String>) -> Result<Peer, Refusal> {
    let member = |names: [&str; 2]| {
        names.iter().find_map(|name| query.get(*name)).map_or("", String::as_str)
    };
    let given_instance = member(["containerInstanceArn", "containerInstance"]);
    let given_cluster = member(["clusterArn", "cluster"]);
    let Some((in_cluster, id)) = instance(context, given_instance) else {
        return refuse(
            "InvalidInstanceException",
            "containerInstanceArn names no container instance of this region and account",
        );
    };
    // Without a cluster the instance's is meant.
    let cluster = match (cluster(context, given_cluster), in_cluster) {
        (Some("") | None, _) if !given_cluster.is_empty() => {
            return refuse(
                "InvalidClusterException",
                "clusterArn names no cluster of this region and account",
            );
        }
        (Some(cluster), Some(other)) if !cluster.is_empty() && cluster != other => {
            return refuse(
                "InvalidInstanceException",
                "the container instance belongs to another cluster",
            );
        }
        (Some(cluster), _) if !cluster.is_empty() => cluster,
        (_, other) => other.unwrap_or("default"),
    };
    let view = context.state.view();
    let key = Cluster::key_of(&context.region, cluster);
    if view.clusters.get(&key).is_none_or(|cluster| !cluster.active) {
        return refuse("InvalidClusterException", "Cluster not found.");
    }
    let key = Instance::key_of(&context.region, cluster, id);
    let Some(instance) = view.instances.get(&key) else {
        return refuse("InvalidInstanceException", "Container instance not found.");
    };
    if !instance.is_registered() {
        return refuse(INACTIVE, "The container instance has been deregistered.");
    }
    let account = context.account().to_owned();
    Ok(Peer {
        cluster_arn: Cluster::arn_of(&context.region, &account, cluster),
        instance_arn: instance.arn(&account),
        state: Arc::clone(&context.state),
        region: context.region.clone(),
        cluster: cluster.to_owned(),
        instance: id.to_owned(),
        session: Uuid::new_v4().to_string(),
        access_key: format!("{}{}", AccessKey::PREFIX, context.access_key),
        key,
        account,
    })
}

/// What follows `arn:aws:ecs:<region>:<account>:`, or the whole of what is no ARN.
fn resource<'a>(context: &Context, text: &'a str) -> Option<&'a str> {
    if !text.starts_with("arn:") {
        return Some(text);
    }
    let prefix = format!("arn:aws:ecs:{}:{}:", context.region, context.account());
    text.strip_prefix(prefix.as_str())
}

/// The cluster (if it is named) and the id of an instance.
fn instance<'a>(context: &Context, text: &'a str) -> Option<(Option<&'a str>, &'a str)> {
    let name = resource(context, text)?;
    let name = name.strip_prefix("container-instance/").unwrap_or(name);
    let (cluster, id) = match name.split_once('/') {
        Some((cluster, id)) => (Some(cluster), id),
        None => (None, name),
    };
    // Ids of instances are formed as those of tasks.
    id.parse::<TaskId>().is_ok().then_some((cluster, id))
}

/// The name of a cluster; empty if none is given.
fn cluster<'a>(context: &Context, text: &'a str) -> Option<&'a str> {
    let name = resource(context, text)?;
    Some(name.strip_prefix("cluster/").unwrap_or(name)).filter(|name| !name.contains('/'))
}
