//! Logins of registries in AWS Secrets Manager: `secretsmanager:GetSecretValue` of a secret that is the
//! JSON `{"username": …, "password": …}`. Asked for at each pull, so that a rotated secret counts from
//! the next one on. The words are the Amazon agent's.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Login;
use super::aws::{Aws, Caller, Failure};
use crate::backend::Service;

const SIGNING_NAME: &str = "secretsmanager";
const TARGET: &str = "secretsmanager";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "asm resource: unable to find execution role credentials (the control plane has sent none)"
    )]
    NoCredentials,
    #[error("find the region of secret {secret}: name it by its ARN, or set AWS_DEFAULT_REGION")]
    Region { secret: String },
    #[error("asm fetching secret from the service for {secret}{}", source.advice())]
    Call { secret: String, source: Box<Failure> },
    #[error("asm fetching authorization data: empty secrets value ({})", expected(secret))]
    Empty { secret: String },
    #[error(
        "asm fetching authorization data: unable to unmarshal secret value, invalid schema ({})",
        expected(secret)
    )]
    Schema { secret: String },
    #[error(
        "asm fetching {field}: AuthorizationData is malformed, empty field ({})",
        expected(secret)
    )]
    Field { secret: String, field: &'static str },
}

fn expected(secret: &str) -> String {
    format!("secret {secret} must be the JSON {{\"username\": \"…\", \"password\": \"…\"}}")
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    secret_id: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    #[serde(default)]
    secret_string: Option<String>,
}

impl Aws {
    /// The login in a secret, which is named by its ARN, or by its name in `region` (else in the
    /// host's).
    ///
    /// # Errors
    /// If Secrets Manager does not give it, or it is no login.
    pub async fn secret(
        &self,
        caller: Caller,
        secret: &str,
        region: Option<&str>,
    ) -> Result<Login, Error> {
        let caller = self.caller(caller);
        let of_arn = secret.strip_prefix("arn:").and_then(|arn| arn.split(':').nth(2));
        let given = of_arn.or(region).filter(|region| !region.is_empty());
        let region = match given {
            Some(region) => region.to_owned(),
            None => {
                self.region().await.ok_or_else(|| Error::Region { secret: secret.to_owned() })?
            }
        };
        let amazon = amazon(&region);
        let endpoint = self.secrets_manager_endpoint().unwrap_or(&amazon);
        let service = Service { signing_name: SIGNING_NAME, target: TARGET, endpoint };
        let request = Request { secret_id: secret };
        let response: Response =
            self.call(&caller, &region, service, "GetSecretValue", &request).await.map_err(
                |source| Error::Call { secret: secret.to_owned(), source: Box::new(source) },
            )?;
        read(&response.secret_string.unwrap_or_default(), secret)
    }
}

/// Amazon's endpoint in a region.
fn amazon(region: &str) -> String {
    format!("https://secretsmanager.{region}.{}", protocol::partition::domain(region))
}

/// Names of members count in any case, as for the Amazon agent.
pub(super) fn read(value: &str, secret: &str) -> Result<Login, Error> {
    let secret = || secret.to_owned();
    if value.is_empty() {
        return Err(Error::Empty { secret: secret() });
    }
    let members: Map<String, Value> =
        serde_json::from_str(value).map_err(|_secret_text| Error::Schema { secret: secret() })?;
    let text = |field: &'static str| {
        let found = members.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
        match found.map(|(_, value)| value) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            None | Some(Value::Null | Value::String(_)) => {
                Err(Error::Field { secret: secret(), field })
            }
            Some(_) => Err(Error::Schema { secret: secret() }),
        }
    };
    Ok(Login::Password { user: text("username")?, password: text("password")? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::backend::testing::{Answer, Server};

    #[test]
    fn secrets_that_are_logins() {
        let login = Login::Password { user: "u".to_owned(), password: "p".to_owned() };
        for text in [
            r#"{"username":"u","password":"p"}"#,
            r#"{"Password":"p","UserName":"u","more":{"a":1}}"#,
        ] {
            assert_eq!(read(text, "s").unwrap(), login, "{text}");
        }
    }

    #[test]
    fn secrets_that_are_none_are_not_shown() {
        for (text, expected) in [
            ("", "asm fetching authorization data: empty secrets value (secret s must be"),
            ("hunter2", "unable to unmarshal secret value, invalid schema (secret s must be"),
            (r#"["hunter2"]"#, "invalid schema"),
            (r#"{"username":7,"password":"hunter2"}"#, "invalid schema"),
            (r#"{"password":"hunter2"}"#, "asm fetching username: AuthorizationData is malformed"),
            (r#"{"username":"u","password":""}"#, "asm fetching password: AuthorizationData is"),
        ] {
            let error = read(text, "s").unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(expected), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[tokio::test]
    async fn secrets_are_asked_for_where_they_are() {
        let text = json!({"username": "u", "password": "p"}).to_string();
        let good = || Answer::ok(&json!({"SecretString": text}).to_string());
        let number = || Answer::ok(r#"{"SecretString": 7357}"#);
        let server = Server::start(vec![
            good(),
            good(),
            good(),
            Answer::refusal("ResourceNotFoundException"),
            // Tried as often as may help.
            number(),
            number(),
            number(),
        ])
        .await;
        let aws = Aws::testing(&server.endpoint());
        let arn = "arn:aws:secretsmanager:eu-y-1:000000000000:secret:login-a1B2c3";
        for (secret, region, scope) in [
            (arn, Some("eu-z-1"), "eu-y-1"),
            ("login", Some("eu-z-1"), "eu-z-1"),
            ("login", None, "eu-x-1"),
        ] {
            aws.secret(Caller::Host, secret, region).await.unwrap();
            let requests = server.requests();
            let last = requests.last().unwrap();
            assert_eq!(last.body, json!({"SecretId": secret}));
            assert_eq!(last.header("x-amz-target"), Some("secretsmanager.GetSecretValue"));
            let signed = last.header("authorization").unwrap();
            assert!(signed.contains(&format!("/{scope}/secretsmanager/")), "{signed}");
        }
        let error = aws.secret(Caller::Host, "login", None).await.unwrap_err();
        assert_eq!(
            crate::error::chain(&error),
            "asm fetching secret from the service for login: GetSecretValue is refused: \
             ResourceNotFoundException: no"
        );
        let error = aws.secret(Caller::Host, "login", None).await.unwrap_err();
        let shown = crate::error::chain(&error);
        assert!(shown.contains("not as documented at line 1"), "{shown}");
        assert!(!shown.contains("7357"), "{shown}");
    }

    #[test]
    fn endpoints_of_amazon() {
        assert_eq!(amazon("eu-north-1"), "https://secretsmanager.eu-north-1.amazonaws.com");
        assert_eq!(amazon("cn-north-1"), "https://secretsmanager.cn-north-1.amazonaws.com.cn");
    }
}
