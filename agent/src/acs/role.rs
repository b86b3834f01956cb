//! `IAMRoleCredentialsMessage`: credentials that replace those of a task's role before they expire.
//! Source: protocol reference §7.5.

use protocol::acs::{
    AgentMessage, RoleCredentials, RoleCredentialsAck, TASK_APPLICATION, TASK_EXECUTION,
};

use super::Context;
use crate::credentials::RoleType;
use crate::engine::TaskEvent;
use crate::error::chain;

/// Those of an unknown task are kept, since its payload may come yet, and not acknowledged.
pub(super) async fn handle(context: &Context, message: RoleCredentials) -> Vec<AgentMessage> {
    let role = match message.role_type.as_deref() {
        Some(TASK_APPLICATION) => Some(RoleType::Application),
        Some(TASK_EXECUTION) => Some(RoleType::Execution),
        _ => None,
    };
    let named = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (Some(message_id), Some(arn), Some(role), Some(credentials)) = (
        named(message.message_id),
        named(message.task_arn),
        role,
        message.role_credentials.filter(|c| named(c.credentials_id.clone()).is_some()),
    ) else {
        tracing::warn!("credentials without message id, task, role or id; dropped");
        return Vec::new();
    };
    let known = context.find(&arn);
    let acknowledged = |credentials_id, expiration| {
        vec![AgentMessage::IamRoleCredentialsAckRequest(RoleCredentialsAck {
            message_id: Some(message_id),
            credentials_id,
            expiration,
        })]
    };
    if known.as_ref().is_some_and(|task| task.times.stopped.is_some()) {
        // It has ended and keeps none. Whoever sent them before that was known waits for an answer.
        return acknowledged(credentials.credentials_id, credentials.expiration);
    }
    let id = known.as_ref().map(|task| task.id.clone()).or_else(|| super::payload::task_id(&arn));
    let Some(id) = id else { return Vec::new() };
    let credentials_id = credentials.credentials_id.clone();
    let expiration = credentials.expiration.clone();
    context.credentials.put(id.clone(), role, credentials);
    if known.is_none() {
        tracing::info!(task = arn, "credentials of a task that is not known; not acknowledged");
        return Vec::new();
    }
    let event = match role {
        RoleType::Application => {
            TaskEvent::Credentials { task: credentials_id.clone(), execution: None }
        }
        RoleType::Execution => {
            TaskEvent::Credentials { task: None, execution: credentials_id.clone() }
        }
    };
    if let Err(error) = context.ask(id, event).await {
        tracing::warn!(task = arn, error = chain(&error), "cannot store the id of credentials");
        return Vec::new();
    }
    acknowledged(credentials_id, expiration)
}
