//! Client tokens: a request that comes again with its token is answered with what it made.

use protocol::aws_json::ApiError;
use protocol::sigv4::sha256_hex;
use serde::Serialize;

use super::{Context, errors};
use crate::model::Token;

const LONGEST: usize = 64;

/// The token of a request, with nothing made yet. `request` has it no more.
pub(super) fn read(
    cx: &Context,
    operation: &str,
    given: Option<String>,
    request: &impl Serialize,
) -> Result<Option<Token>, ApiError> {
    let Some(token) = given.filter(|token| !token.is_empty()) else { return Ok(None) };
    if token.len() > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(errors::invalid(format!(
            "clientToken should be at most {LONGEST} visible ASCII characters."
        )));
    }
    Ok(Some(Token {
        region: cx.region.clone(),
        operation: operation.to_owned(),
        token,
        request: fingerprint(request)?,
        made: Vec::new(),
        created_at: cx.now,
    }))
}

/// Names a request: the same for the same one.
pub(super) fn fingerprint(request: &impl Serialize) -> Result<String, ApiError> {
    let json = serde_json::to_vec(request).map_err(|error| ApiError::server(error.to_string()))?;
    Ok(sha256_hex(&json))
}
