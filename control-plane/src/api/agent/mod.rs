//! What only agents call (ECS agent protocol, sections 4.2 and 9).
//!
//! Agents repeat a report until it is acknowledged, and drop it on `InvalidParameterException`. So
//! what comes late, twice or out of order is acknowledged and changes nothing, and so is a report of
//! a task that is not known any more; what can never be right is refused by that error.

mod apply;

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::lookup;
use super::{Answer, Context, call, errors};
use crate::model::Task;

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "DiscoverPollEndpoint" => call(body, |request| discover(cx, request)).await,
        "SubmitTaskStateChange" => call(body, |request| submit_task(cx, request)).await,
        "SubmitContainerStateChange" => call(body, |request| submit_container(cx, request)).await,
        "SubmitAttachmentStateChanges" => {
            call(body, |request| submit_attachments(cx, request)).await
        }
        _ => return None,
    })
}

/// What a report is answered with.
const ACKNOWLEDGED: &str = "ACK";
/// The most containers of a report: those of a task.
const MOST_CONTAINERS: usize = 10;

async fn discover(
    cx: &Context,
    request: ecs::DiscoverPollEndpointRequest,
) -> Result<ecs::DiscoverPollEndpointResponse, ApiError> {
    lookup::cluster(&cx.state.view(), cx, request.cluster.as_deref())?;
    let base = cx.config.advertise.as_deref().unwrap_or(&cx.origin).trim_end_matches('/');
    Ok(ecs::DiscoverPollEndpointResponse {
        endpoint: Some(format!("{base}/acs/")),
        telemetry_endpoint: Some(format!("{base}/tcs/")),
        ..ecs::DiscoverPollEndpointResponse::default()
    })
}

async fn submit_task(
    cx: &Context,
    request: ecs::SubmitTaskStateChangeRequest,
) -> Result<ecs::SubmitTaskStateChangeResponse, ApiError> {
    report(cx, &request).await?;
    Ok(ecs::SubmitTaskStateChangeResponse { acknowledgment: Some(ACKNOWLEDGED.to_owned()) })
}

async fn submit_container(
    cx: &Context,
    request: ecs::SubmitContainerStateChangeRequest,
) -> Result<ecs::SubmitContainerStateChangeResponse, ApiError> {
    let container = ecs::ContainerStateChange {
        container_name: request.container_name,
        runtime_id: request.runtime_id,
        exit_code: request.exit_code,
        network_bindings: request.network_bindings,
        reason: request.reason,
        status: request.status,
        ..ecs::ContainerStateChange::default()
    };
    let change = ecs::SubmitTaskStateChangeRequest {
        cluster: request.cluster,
        task: request.task,
        containers: Some(vec![container]),
        ..ecs::SubmitTaskStateChangeRequest::default()
    };
    report(cx, &change).await?;
    Ok(ecs::SubmitContainerStateChangeResponse { acknowledgment: Some(ACKNOWLEDGED.to_owned()) })
}

/// Attachments have no state of their own here: an interface is there when its address is.
async fn submit_attachments(
    cx: &Context,
    request: ecs::SubmitAttachmentStateChangesRequest,
) -> Result<ecs::SubmitAttachmentStateChangesResponse, ApiError> {
    cluster(cx, request.cluster.as_deref())?;
    Ok(ecs::SubmitAttachmentStateChangesResponse { acknowledgment: Some(ACKNOWLEDGED.to_owned()) })
}

/// The name of the cluster that a report is of. There is no use in repeating one of no cluster.
fn cluster(cx: &Context, given: Option<&str>) -> Result<String, ApiError> {
    lookup::cluster_name(cx, given).map_err(|error| errors::invalid(error.message))
}

async fn report(cx: &Context, change: &ecs::SubmitTaskStateChangeRequest) -> Result<(), ApiError> {
    let cluster = cluster(cx, change.cluster.as_deref())?;
    let id = lookup::task_id(cx, &cluster, change.task.as_deref().unwrap_or_default())?;
    if change.containers.as_ref().is_some_and(|containers| containers.len() > MOST_CONTAINERS) {
        return Err(errors::invalid(format!(
            "containers can not have more than {MOST_CONTAINERS} elements."
        )));
    }
    let key = Task::key_of(&cx.region, &cluster, &id);
    cx.transact(|view, edit| {
        if let Some(before) = view.tasks.get(&key) {
            let definition = view.definitions.get(&before.definition.key(&before.region));
            let definition = definition.map(|stored| &stored.definition);
            if let Some(after) = apply::apply(before, definition, change, cx.now) {
                edit.update(before, &after);
            }
        }
        Ok(())
    })
    .await
}
