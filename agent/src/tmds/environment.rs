//! The variables that tell a container where its endpoint is (protocol reference §11.2). Pure.

use std::net::Ipv4Addr;

use crate::engine::Task;

/// What they say, for the container at `index`. They stand above the task's own, as with Amazon's
/// agent; only the region gives way: see [`region`].
pub fn variables(task: &Task, index: usize, address: Ipv4Addr) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    if let Some(id) = task.ecs.as_ref().and_then(|ecs| ecs.task_credentials.as_ref()) {
        variables.push(("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", format!("/v2/credentials/{id}")));
    }
    let endpoint = task.containers.get(index).map(|container| container.endpoint.as_str());
    // Tasks of agents before there was an endpoint have none.
    if let Some(id) = endpoint.filter(|id| !id.is_empty()) {
        for (name, path) in [
            ("ECS_CONTAINER_METADATA_URI", "v3"),
            ("ECS_CONTAINER_METADATA_URI_V4", "v4"),
            ("ECS_AGENT_URI", "api"),
        ] {
            variables.push((name, format!("http://{address}/{path}/{id}")));
        }
    }
    variables
}

/// Values of `AWS_REGION` and `AWS_DEFAULT_REGION`, for containers where neither the definition nor
/// the image sets one of them. `None`: the task was run on this host alone.
pub fn region(task: &Task) -> Option<&str> {
    let arn = &task.ecs.as_ref()?.arn;
    arn.split(':').nth(3).filter(|region| !region.is_empty())
}
