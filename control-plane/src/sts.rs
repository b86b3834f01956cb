//! STS: who the caller is. GetCallerIdentity needs no permission, as in AWS.

use protocol::aws_json::ApiError;
use protocol::query::{self, Element, Form};

use crate::auth::Caller;

/// In credential scopes.
pub const SIGNING_NAME: &str = "sts";

/// Answers a form.
///
/// # Errors
/// `InvalidAction` for an operation or a version that is not there, and what [`Form::action`] says.
pub fn handle(
    account: &str,
    caller: &Caller,
    form: &Form,
    request_id: &str,
) -> Result<Vec<u8>, ApiError> {
    let action = form.action()?;
    let version = form.version().unwrap_or_default();
    if version != query::STS_VERSION || action != "GetCallerIdentity" {
        return Err(ApiError::client(
            "InvalidAction",
            format!("Could not find operation {action} for version {version}"),
        ));
    }
    let result = [
        Element::Text("Arn", &caller.principal),
        Element::Text("UserId", &caller.access_key_id),
        Element::Text("Account", account),
    ];
    Ok(query::answer(action, query::STS_NAMESPACE, &result, request_id))
}
