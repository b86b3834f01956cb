//! Credentials of a task's role for its containers (protocol reference §11.3). Pure.
//!
//! Only the application role's, and only to the task they are of. An id of another task or of an
//! execution role is answered like one that never was. A container knows only the id that it was
//! created with: by it, it gets the newest set.

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
    let known = |task: &&Task| task.ecs.as_ref().is_some_and(|ecs| ecs.has_told(id));
    let Some(task) = tasks.into_iter().find(known) else {
        return refused("InvalidIdInRequest", 400, "Credentials not found");
    };
    let document = held.of(&task.id, RoleType::Application).and_then(|credentials| {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use protocol::acs;

    use super::super::documents::tests::{ecs, task};
    use super::*;

    fn set(id: &str) -> acs::Credentials {
        acs::Credentials {
            credentials_id: Some(id.to_owned()),
            role_arn: Some("arn:aws:iam::1:role/r".to_owned()),
            access_key_id: Some("AKID".to_owned()),
            secret_access_key: Some("secret".to_owned()),
            session_token: Some("token".to_owned()),
            expiration: Some("2026-11-21T15:00:00Z".to_owned()),
            ..acs::Credentials::default()
        }
    }

    #[test]
    fn a_task_gets_its_own_roles_credentials_and_no_others() {
        let held = Credentials::default();
        let mut own = task(1);
        own.ecs = Some(ecs());
        let mut other = task(2);
        other.ecs = Some(ecs());
        other.ecs.as_mut().unwrap().task_credentials = Some("theirs".to_owned());
        held.put(own.id.clone(), RoleType::Application, set("role"));
        held.put(own.id.clone(), RoleType::Execution, set("execution"));
        held.put(other.id.clone(), RoleType::Application, set("theirs"));
        let code = |id: Option<&str>| match answer(&held, [&own], id, 2) {
            Answer::Credentials(document) => document.access_key_id,
            Answer::Refused(refusal) => format!("{} {}", refusal.http_error_code, refusal.code),
        };
        for (id, expected) in [
            (Some("role"), "AKID"),
            (Some("theirs"), "400 InvalidIdInRequest"),
            (Some("execution"), "400 InvalidIdInRequest"),
            (Some("nothing"), "400 InvalidIdInRequest"),
            (Some(""), "400 NoIdInRequest"),
            (None, "400 NoIdInRequest"),
        ] {
            assert_eq!(code(id), expected, "{id:?}");
        }
        // Newer ones have come under another id.
        let newer = acs::Credentials { access_key_id: Some("NEWER".to_owned()), ..set("renewed") };
        let ecs = own.ecs.as_mut().unwrap();
        ecs.former_task_credentials = vec!["role".to_owned()];
        ecs.task_credentials = Some("renewed".to_owned());
        held.put(own.id.clone(), RoleType::Application, newer);
        let code = |id: Option<&str>| match answer(&held, [&own], id, 2) {
            Answer::Credentials(document) => document.access_key_id,
            Answer::Refused(refusal) => format!("{} {}", refusal.http_error_code, refusal.code),
        };
        assert_eq!([code(Some("role")), code(Some("renewed"))], ["NEWER", "NEWER"]);
        // As after a restart, until the control plane has sent them again.
        held.forget(&own.id);
        assert_eq!(code(Some("role")), "503 CredentialsUninitialized");
    }

    #[test]
    fn the_document_is_what_sdks_read_and_hides_its_secrets_from_logs() {
        let held = Credentials::default();
        let mut own = task(1);
        own.ecs = Some(ecs());
        held.put(own.id.clone(), RoleType::Application, set("role"));
        let Answer::Credentials(document) = answer(&held, [&own], Some("role"), 2) else {
            panic!("refused")
        };
        assert_eq!(
            serde_json::to_value(&document).unwrap(),
            serde_json::json!({
                "RoleArn": "arn:aws:iam::1:role/r", "AccessKeyId": "AKID",
                "SecretAccessKey": "secret", "Token": "token",
                "Expiration": "2026-11-21T15:00:00Z",
            })
        );
        let debug = format!("{document:?}");
        assert!(!debug.contains("secret") && !debug.contains("token"), "{debug}");
    }
}
