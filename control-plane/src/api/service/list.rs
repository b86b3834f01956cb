//! ListServices: the ACTIVE services of a cluster.

use protocol::aws_json::ApiError;
use protocol::ecs;

use super::super::lookup::quoted;
use super::super::page::page;
use super::super::task::checks as task_checks;
use super::super::{Context, errors, lookup};
use super::checks;
use crate::model::{Service, ServiceStatus};

/// How many are listed when the request does not say.
const PAGE: usize = 10;

pub(super) async fn list(
    cx: &Context,
    request: ecs::ListServicesRequest,
) -> Result<ecs::ListServicesResponse, ApiError> {
    let scheduling = request.scheduling_strategy.as_deref().filter(|given| !given.is_empty());
    let scheduling = scheduling.map(|given| checks::scheduling(Some(given))).transpose()?;
    let managed = match request.resource_management_type.as_deref() {
        None | Some("" | "CUSTOMER") => false,
        // Resources that ECS itself manages: there are none.
        Some("ECS") => true,
        Some(other) => {
            return Err(errors::invalid(format!(
                "resourceManagementType should be one of [CUSTOMER, ECS], is {}",
                quoted(other)
            )));
        }
    };
    let view = cx.state.view();
    let cluster = lookup::cluster(&view, cx, request.cluster.as_deref())?;
    let launch_type = request.launch_type.as_deref().filter(|given| !given.is_empty());
    let launch_type = launch_type
        .map(|given| task_checks::launch_type(cluster, Some(given), None))
        .transpose()?;
    let prefix = Service::key_of(&cx.region, &cluster.name, "");
    let listed = view
        .services
        .prefix(&prefix)
        .filter(|(_, service)| {
            service.status == ServiceStatus::Active
                && !managed
                && launch_type.is_none_or(|wanted| service.launch_type == wanted)
                && scheduling.is_none_or(|wanted| service.scheduling == wanted)
        })
        .map(|(key, service)| (key.to_owned(), service.arn(cx.account())));
    let token = request.next_token.as_deref();
    let (service_arns, next_token) = page(listed, token, request.max_results, PAGE)?;
    Ok(ecs::ListServicesResponse { service_arns, next_token })
}
