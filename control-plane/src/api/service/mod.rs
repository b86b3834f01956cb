//! Operations on services (ECS API, "Services"): CreateService, UpdateService, DeleteService,
//! DescribeServices and ListServices.
//!
//! Handlers store what is wanted; starting and stopping tasks is the planners' work (`reconcile`).
//! What is not there yet (load balancers, service discovery, capacity providers, other deployment
//! controllers and strategies, alarms) is refused by name in `checks`.

mod checks;
mod create;
mod delete;
mod describe;
mod list;
mod update;

#[cfg(test)]
mod tests;

use protocol::aws_json::ApiError;

use super::{Answer, Context, call, errors, lookup};
use crate::model::Service;
use crate::reconcile::drive;
use crate::state::{Stored, View};

pub(super) async fn handle(cx: &Context, operation: &str, body: &[u8]) -> Option<Answer> {
    Some(match operation {
        "CreateService" => call(body, |request| create::create(cx, request)).await,
        "UpdateService" => call(body, |request| update::update(cx, request)).await,
        "DeleteService" => call(body, |request| delete::delete(cx, request)).await,
        "DescribeServices" => call(body, |request| describe::services(cx, request)).await,
        "ListServices" => call(body, |request| list::list(cx, request)).await,
        _ => return None,
    })
}

/// The service that a request names, of whatever status.
///
/// # Errors
/// `ServiceNotFoundException`, or those of the identifiers.
fn find<'v>(
    view: &'v View,
    cx: &Context,
    cluster: Option<&str>,
    given: Option<&str>,
) -> Result<&'v Stored<Service>, ApiError> {
    let cluster = lookup::cluster(view, cx, cluster)?;
    let given = given.filter(|given| !given.is_empty());
    let given = given.ok_or_else(|| errors::invalid("Service cannot be empty."))?;
    let name = lookup::service_name(cx, &cluster.name, given)?;
    view.services
        .get(&Service::key_of(&cx.region, &cluster.name, &name))
        .ok_or_else(|| ApiError::client("ServiceNotFoundException", "Service not found."))
}

/// An id for a new deployment.
fn draw_deployment() -> String {
    drive::draws().deployment()
}
