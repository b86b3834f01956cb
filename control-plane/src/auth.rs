//! Verifies signatures against local keys, and what a key may call.
//!
//! A request is [`recognize`]d first (who claims to have signed it, and for whom), which needs no
//! body; [`authenticate`] proves it. What a caller may do is said by its key's patterns
//! ([`Caller::authorize`]).
//!
//! Keys are looked up by their id, which is no secret; secrets and tokens are compared in constant
//! time. Refusals are those of AWS, so that clients know what to do ([`Refused::json`],
//! [`Refused::query`]).

use jiff::Timestamp;
use protocol::aws_json::ApiError;
use protocol::sigv4::{self, Claim, Request};
use sha2::{Digest, Sha256};

use crate::model::{AccessKey, Entity};
use crate::state::View;

/// Who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub access_key_id: String,
    /// ARN.
    pub principal: String,
    /// Of the credential scope.
    pub region: String,
    allow: Vec<String>,
}

/// Why a request is not answered. The texts are those of AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Signature(sigv4::Error),
    /// No such key, or not with this session token.
    #[error("The security token included in the request is invalid.")]
    Unknown,
    #[error("Credential should be scoped to correct service: '{0}'.")]
    Service(&'static str),
    #[error("The security token included in the request is expired")]
    Expired,
    #[error(
        "User: {principal} is not authorized to perform: {action} on resource: * because no \
         identity-based policy allows the {action} action"
    )]
    Denied { principal: String, action: String },
}

impl Refused {
    /// As services with JSON answer.
    pub fn json(&self) -> ApiError {
        let name = match self {
            Self::Signature(sigv4::Error::Missing) => "MissingAuthenticationTokenException",
            Self::Signature(sigv4::Error::Incomplete(_)) => "IncompleteSignatureException",
            Self::Signature(sigv4::Error::Skewed(_) | sigv4::Error::Mismatch)
            | Self::Service(_) => "InvalidSignatureException",
            Self::Unknown => "UnrecognizedClientException",
            Self::Expired => "ExpiredTokenException",
            Self::Denied { .. } => "AccessDeniedException",
        };
        ApiError::client(name, self.to_string())
    }

    /// As services with forms and XML answer.
    pub fn query(&self) -> ApiError {
        let (status, name) = match self {
            Self::Signature(sigv4::Error::Missing) => (403, "MissingAuthenticationToken"),
            Self::Signature(sigv4::Error::Incomplete(_)) => (400, "IncompleteSignature"),
            Self::Signature(sigv4::Error::Skewed(_) | sigv4::Error::Mismatch)
            | Self::Service(_) => (403, "SignatureDoesNotMatch"),
            Self::Unknown => (403, "InvalidClientTokenId"),
            Self::Expired => (403, "ExpiredToken"),
            Self::Denied { .. } => (403, "AccessDenied"),
        };
        ApiError { status, ..ApiError::client(name, self.to_string()) }
    }
}

/// Who claims to have signed a request to `service`, with the record of the key. Nothing is proved.
///
/// # Errors
/// If the claim cannot be read, is for another service, or names no key that there is.
pub fn recognize<'v>(
    view: &'v View,
    request: &Request<'_>,
    service: &'static str,
) -> Result<(Claim, &'v AccessKey), Refused> {
    let claim = sigv4::parse(request).map_err(Refused::Signature)?;
    if claim.service != service {
        return Err(Refused::Service(service));
    }
    let key = view.keys.get(&format!("{}{}", AccessKey::PREFIX, claim.access_key_id));
    let key = key.map(|stored| &stored.value).ok_or(Refused::Unknown)?;
    let same = match (&key.session_token, &claim.session_token) {
        (None, None) => true,
        (Some(token), Some(given)) => Sha256::digest(token) == Sha256::digest(given),
        _ => false,
    };
    if same { Ok((claim, key)) } else { Err(Refused::Unknown) }
}

/// Proves who signed a request to `service`: `request` has the hash of the body as received.
///
/// # Errors
/// Those of [`recognize`], and a wrong or old signature, and an expired key.
pub fn authenticate(
    view: &View,
    request: &Request<'_>,
    service: &'static str,
    now: Timestamp,
) -> Result<Caller, Refused> {
    let (claim, key) = recognize(view, request, service)?;
    claim.verify(request, &key.secret, now).map_err(Refused::Signature)?;
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(Refused::Expired);
    }
    Ok(Caller {
        access_key_id: claim.access_key_id,
        principal: key.principal.clone(),
        region: claim.region,
        allow: key.allow.clone(),
    })
}

impl Caller {
    /// Whether the caller may do this.
    ///
    /// # Errors
    /// [`Refused::Denied`] if no pattern of its key allows it.
    pub fn authorize(&self, service: &str, operation: &str) -> Result<(), Refused> {
        let action = format!("{service}:{operation}");
        if self.allow.iter().any(|pattern| matches(pattern, &action)) {
            return Ok(());
        }
        Err(Refused::Denied { principal: self.principal.clone(), action })
    }
}

/// Whether a pattern can be one: `*`, or `<service>:<operation>` with `*` for any part.
pub fn is_pattern(pattern: &str) -> bool {
    let part = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"*-".contains(&byte))
    };
    pattern.len() <= 128
        && (pattern == "*"
            || pattern.split_once(':').is_some_and(|(service, name)| part(service) && part(name)))
}

/// As in IAM, case does not count, and `*` stands for any text. Each `*` is tried at one place only,
/// the first that fits: more would find nothing more.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jiff::SignedDuration;
    use proptest::prelude::*;
    use protocol::sigv4::{Keys, Scope, sha256_hex};

    use super::*;
    use crate::scheduler::fixtures::access_key;
    use crate::state::{Edit, State, testing};

    const SECRET: &str = "secret";

    fn key(id: &str, token: Option<&str>, expires_at: Option<Timestamp>) -> AccessKey {
        AccessKey {
            secret: SECRET.to_owned(),
            session_token: token.map(str::to_owned),
            principal: format!("arn:aws:iam::1:user/{id}"),
            allow: vec!["ecs:Describe*".to_owned()],
            expires_at,
            ..access_key(id)
        }
    }

    async fn put(state: &State, key: &AccessKey) {
        let mut edit = Edit::default();
        edit.put(key);
        state.commit(edit).await.unwrap().unwrap();
    }

    /// Signs and authenticates a call of `ecs`.
    fn call(
        view: &View,
        keys: &Keys<'_>,
        service: &str,
        now: Timestamp,
    ) -> Result<Caller, Refused> {
        let payload = sha256_hex(b"{}");
        let given = [("host", "h")];
        let unsigned = Request {
            method: "POST",
            path: "/",
            query: "",
            headers: &given,
            payload_sha256: &payload,
        };
        let added = sigv4::sign(keys, &Scope { region: "eu-north-1", service }, &unsigned, now);
        let mut headers = given.to_vec();
        headers.extend(added.iter().map(|(name, value)| (*name, &**value)));
        authenticate(view, &Request { headers: &headers, ..unsigned }, "ecs", now)
    }

    #[tokio::test]
    async fn keys_and_tokens() {
        let (_directory, state) = testing::open().await;
        let now = Timestamp::now();
        put(&state, &key("AKIA", None, None)).await;
        let later = now + SignedDuration::from_secs(60);
        put(&state, &key("ASIA", Some("token"), Some(later))).await;
        let keys = |access_key_id, secret_access_key, session_token| Keys {
            access_key_id,
            secret_access_key,
            session_token,
        };
        let view = state.view();
        let caller = call(&view, &keys("AKIA", SECRET, None), "ecs", now).unwrap();
        assert_eq!(caller.principal, "arn:aws:iam::1:user/AKIA");
        assert_eq!(caller.region, "eu-north-1");
        call(&view, &keys("ASIA", SECRET, Some("token")), "ecs", now).unwrap();

        for (keys, service, at, name) in [
            (keys("AKIB", SECRET, None), "ecs", now, "UnrecognizedClientException"),
            (keys("AKIA", SECRET, Some("token")), "ecs", now, "UnrecognizedClientException"),
            (keys("ASIA", SECRET, Some("tokem")), "ecs", now, "UnrecognizedClientException"),
            (keys("ASIA", SECRET, None), "ecs", now, "UnrecognizedClientException"),
            (keys("AKIA", "other", None), "ecs", now, "InvalidSignatureException"),
            (keys("AKIA", SECRET, None), "logs", now, "InvalidSignatureException"),
            (keys("ASIA", SECRET, Some("token")), "ecs", later, "ExpiredTokenException"),
            // Who does not know the secret does not learn that the key has expired.
            (keys("ASIA", "other", Some("token")), "ecs", later, "InvalidSignatureException"),
        ] {
            let refused = call(&view, &keys, service, at).unwrap_err();
            assert_eq!(refused.json().name, name, "{keys:?} {service}");
            assert_eq!(refused.json().status, 400);
            assert!(refused.query().status >= 400);
        }
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let caller = Caller {
            access_key_id: "AKIA".to_owned(),
            principal: "arn:aws:iam::1:user/x".to_owned(),
            region: "eu-north-1".to_owned(),
            allow: vec!["ecs:Describe*".to_owned(), "logs:*".to_owned()],
        };
        assert_eq!(caller.authorize("ecs", "DescribeTasks"), Ok(()));
        assert_eq!(caller.authorize("logs", "PutLogEvents"), Ok(()));
        let denied = caller.authorize("ecs", "RunTask").unwrap_err();
        assert_eq!(denied.json().name, "AccessDeniedException");
        assert!(
            denied.to_string().starts_with(
                "User: arn:aws:iam::1:user/x is not authorized to perform: ecs:RunTask"
            ),
            "{denied}"
        );
    }

    #[test]
    fn patterns() {
        for (pattern, action, expected) in [
            ("*", "ecs:RunTask", true),
            ("ecs:*", "ecs:RunTask", true),
            ("ecs:*", "logs:PutLogEvents", false),
            ("ECS:runtask", "ecs:RunTask", true),
            ("ecs:RunTask", "ecs:RunTasks", false),
            ("ecs:Run", "ecs:RunTask", false),
            ("*:Describe*", "logs:DescribeLogGroups", true),
            ("ecs:*Task", "ecs:RunTask", true),
            ("ecs:*Task", "ecs:ListTasks", false),
            ("ecs:*s*Task*", "ecs:ListTasks", true),
            ("ecs:a*a", "ecs:a", false),
            ("", "ecs:RunTask", false),
        ] {
            assert_eq!(matches(pattern, action), expected, "{pattern} {action}");
        }
        for fine in ["*", "ecs:*", "*:*", "logs:Put*", "application-autoscaling:X"] {
            assert!(is_pattern(fine), "{fine}");
        }
        for bad in ["", "ecs", "ecs:", ":x", "ecs:Run Task", "ecs:a:b", "écs:*", "**"] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    /// The definition, without speed.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                (0..=text.len()).any(|from| slow(rest, text.get(from..).unwrap_or_default()))
            }
            ([p, pattern @ ..], [t, text @ ..]) => p == t && slow(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(pattern in "[ab*]{0,6}", text in "[ab]{0,6}") {
            prop_assert_eq!(matches(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
