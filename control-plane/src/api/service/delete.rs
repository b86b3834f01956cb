//! DeleteService: the service drains, and is INACTIVE when none of its tasks is wanted any more.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::{Context, errors};
use super::describe::describe;
use super::find;
use crate::model::{Scheduling, Service, ServiceStatus};
use crate::state::{Edit, View};

pub(super) async fn delete(
    cx: &Context,
    request: ecs::DeleteServiceRequest,
) -> Result<ecs::DeleteServiceResponse, ApiError> {
    let service = cx.transact(|view, edit| decide(view, cx, edit, &request)).await?;
    Ok(ecs::DeleteServiceResponse { service: Some(service) })
}

fn decide(
    view: &View,
    cx: &Context,
    edit: &mut Edit,
    request: &ecs::DeleteServiceRequest,
) -> Result<ecs::Service, ApiError> {
    let before = find(view, cx, request.cluster.as_deref(), request.service.as_deref())?;
    match before.status {
        ServiceStatus::Active => {}
        ServiceStatus::Draining => return Ok(describe(before, cx, view, true)),
        ServiceStatus::Inactive => {
            return Err(ApiError::client("ServiceNotFoundException", "Service not found."));
        }
    }
    let scaled = before.scheduling == Scheduling::Replica && before.desired_count > 0;
    if scaled && request.force != Some(true) {
        return Err(errors::invalid("The service cannot be stopped while it is scaled above 0."));
    }
    let service =
        Service { status: ServiceStatus::Draining, desired_count: 0, ..before.value.clone() };
    edit.update(before, &service);
    Ok(describe(&service, cx, view, true))
}
