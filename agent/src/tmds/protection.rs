//! `GET|PUT /api/<id>/task-protection/v1/state`: a container asks ECS to keep its task from being
//! scaled in (protocol reference §11.7). The call is signed with the task role's credentials, so a
//! task can do only what its role may.

use std::sync::Arc;
use std::time::Duration;

use protocol::aws_json::ApiError;
use protocol::ecs;
use protocol::tmds::{
    Protection, ProtectionAnswer, ProtectionError, ProtectionFailure, ProtectionRequest,
};

use super::documents;
use crate::backend::credentials::Keys;
use crate::backend::discover::ControlPlane;
use crate::backend::{CallError, Service};
use crate::credentials::{Credentials, RoleType};
use crate::engine::Task;
use crate::error::chain;

/// How long ECS may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Status and body.
pub(super) type Answer = (u16, ProtectionAnswer);

pub(super) fn refused(status: u16, code: &str, message: impl Into<String>) -> Answer {
    let error = ProtectionError { arn: None, code: code.to_owned(), message: message.into() };
    (status, ProtectionAnswer { error: Some(error), ..ProtectionAnswer::default() })
}

/// Asks ECS. `change`: the body of a PUT; `None`: a GET.
pub(super) async fn ask(
    control_plane: Option<&ControlPlane>,
    held: &Credentials,
    task: &Arc<Task>,
    change: Option<&[u8]>,
) -> Answer {
    let (status, mut answer) = attempt(control_plane, held, task, change).await;
    if let Some(error) = &mut answer.error {
        error.arn = Some(documents::task_arn(task));
    }
    (status, answer)
}

async fn attempt(
    control_plane: Option<&ControlPlane>,
    held: &Credentials,
    task: &Arc<Task>,
    change: Option<&[u8]>,
) -> Answer {
    let change: Option<ProtectionRequest> = match change.map(serde_json::from_slice).transpose() {
        Ok(change) => change,
        Err(error) => {
            return refused(400, "InvalidParameterException", format!("read the body: {error}"));
        }
    };
    let Some(ecs) = &task.ecs else {
        return refused(
            400,
            "InvalidParameterException",
            "this task was run on its host alone: no control plane can protect it",
        );
    };
    if ecs.task_credentials.is_none() {
        return refused(
            403,
            "AccessDeniedException",
            "the task has no task role: give its definition a taskRoleArn that may call ecs:GetTaskProtection and ecs:UpdateTaskProtection",
        );
    };
    let found = held.of(&task.id, RoleType::Application);
    let Some(keys) = found.and_then(|credentials| Keys::of_role(&credentials)) else {
        return refused(
            403,
            "AccessDeniedException",
            "the task role's credentials have not come from the control plane yet",
        );
    };
    let Some(control_plane) = control_plane else {
        return refused(500, "ServerException", "the agent is not connected to a control plane");
    };
    let client = control_plane.client().with_keys(keys);
    let service = Service {
        signing_name: ecs::SIGNING_NAME,
        target: ecs::TARGET,
        endpoint: control_plane.endpoint(),
    };
    let (cluster, tasks) = (Some(ecs.cluster_arn.clone()), Some(vec![ecs.arn.clone()]));
    let call = async {
        match change {
            None => {
                let request = ecs::GetTaskProtectionRequest { cluster, tasks };
                let response: ecs::GetTaskProtectionResponse =
                    client.call(service, "GetTaskProtection", &request).await?;
                Ok((response.protected_tasks, response.failures))
            }
            Some(change) => {
                let request = ecs::UpdateTaskProtectionRequest {
                    cluster,
                    tasks,
                    protection_enabled: Some(change.protection_enabled),
                    expires_in_minutes: change.expires_in_minutes,
                };
                let response: ecs::UpdateTaskProtectionResponse =
                    client.call(service, "UpdateTaskProtection", &request).await?;
                Ok((response.protected_tasks, response.failures))
            }
        }
    };
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok((protected, failures))) => told(protected, failures),
        Ok(Err(error)) => failed(&error),
        Err(_elapsed) => refused(504, "RequestCanceled", "ECS did not answer in time"),
    }
}

fn told(protected: Vec<ecs::ProtectedTask>, failures: Vec<ecs::Failure>) -> Answer {
    let mut answer = ProtectionAnswer::default();
    if let Some(failure) = failures.into_iter().next() {
        let ecs::Failure { arn, reason, detail } = failure;
        answer.failure = Some(ProtectionFailure { arn, detail, reason });
    } else if let Some(task) = protected.into_iter().next() {
        answer.protection = Some(Protection {
            protection_enabled: task.protection_enabled.unwrap_or_default(),
            expiration_date: task.expiration_date.map(|at| at.0),
            task_arn: task.task_arn.unwrap_or_default(),
        });
    } else {
        return refused(500, "ServerException", "ECS named neither a protection nor a failure");
    }
    (200, answer)
}

fn failed(error: &CallError) -> Answer {
    match error.api() {
        Some(ApiError { status, name, message, .. }) if *status < 500 => {
            refused((*status).max(400), name, message.clone())
        }
        Some(ApiError { message, .. }) => refused(500, "ServerException", message.clone()),
        // The text of anything else could tell a container about the host's network.
        None => {
            tracing::warn!(error = chain(error), "cannot ask ECS for a task's protection");
            refused(500, "ServerException", "the agent could not ask ECS; its log says why")
        }
    }
}
