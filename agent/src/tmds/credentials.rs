//! Credentials of a task's role for its containers (protocol reference §11.3). Pure.
//!
//! Only the application role's, and only to the task they are of. An id of another task or of an
//! execution role is answered like one that never was.

use protocol::tmds::{Credentials as Document, CredentialsError};

use crate::credentials::{Credentials, RoleType};
use crate::engine::Task;

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Credentials(Box<Document>),
    Refused(CredentialsError),
}

impl Answer {
    /// HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Credentials(_) => 200,
            Self::Refused(refusal) => refusal.http_error_code,
        }
    }

    /// The role whose credentials are given.
    pub fn role(&self) -> Option<&str> {
        match self {
            Self::Credentials(document) => Some(&document.role_arn),
            Self::Refused(_) => None,
        }
    }
}

/// Credentials with `id` for whoever speaks for `tasks`. `version` is the request's.
pub fn answer<'a>(
    held: &Credentials,
    tasks: impl IntoIterator<Item = &'a Task>,
    id: Option<&str>,
    version: u8,
) -> Answer {
    let refused = |code: &str, http_error_code, text: &str| {
        Answer::Refused(CredentialsError {
            code: code.to_owned(),
            message: format!("CredentialsV{version}Request: {text}"),
            http_error_code,
        })
    };
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return refused("NoIdInRequest", 400, "No Credential ID in the request");
    };
    let known = |task: &&Task| {
        task.ecs.as_ref().and_then(|ecs| ecs.task_credentials.as_deref()) == Some(id)
    };
    let Some(task) = tasks.into_iter().find(known) else {
        return refused("InvalidIdInRequest", 400, "Credentials not found");
    };
    let entry =
        held.get(id).filter(|entry| entry.task == task.id && entry.role == RoleType::Application);
    let document = entry.and_then(|entry| {
        let credentials = &entry.credentials;
        Some(Document {
            role_arn: credentials.role_arn.clone().unwrap_or_default(),
            access_key_id: credentials.access_key_id.clone().filter(|key| !key.is_empty())?,
            secret_access_key: credentials.secret_access_key.clone()?,
            token: credentials.session_token.clone().unwrap_or_default(),
            expiration: credentials.expiration.clone().unwrap_or_default(),
        })
    });
    match document {
        Some(document) => Answer::Credentials(Box::new(document)),
        None => refused("CredentialsUninitialized", 503, "Credentials uninitialized for ID"),
    }
}
