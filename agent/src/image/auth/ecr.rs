//! Tokens of Amazon ECR: `ecr:GetAuthorizationToken`, whose answer is a user and a password for twelve
//! hours.
//!
//! Kept per role, registry and endpoint until half an hour to an hour before their end, at a moment
//! that chance chooses, so that hosts do not ask all at once; a hundred at most. Who comes while a
//! token is asked for waits for that one.
//!
//! A token goes to hosts of Amazon ECR only, or to the one that it names itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use protocol::acs::EcrAuthData;
use protocol::ecr::Registry;
use protocol::partition;
use serde::{Deserialize, Serialize};

use super::aws::{Aws, Caller, Failure};
use super::{Login, keys};
use crate::backend::Service;
use crate::backend::backoff::random;

const SIGNING_NAME: &str = "ecr";
const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921";
/// Least time before a token's end at which another one is asked for, and how much more chance adds.
const MARGIN: SignedDuration = SignedDuration::from_mins(30);
/// Most tokens that are kept.
const MOST: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "engine ecr credentials: not found (the control plane has sent none of the task's execution role)"
    )]
    NoCredentials,
    #[error(
        "{}get a login of Amazon ECR for registry {registry} in {region}{}",
        source.preface(), source.advice()
    )]
    Call { registry: String, region: String, source: Box<Failure> },
    #[error("ecr auth: missing AuthorizationData in ECR response for {host}")]
    Missing { host: String },
    #[error("ecr auth: AuthorizationData is malformed for {host}")]
    Malformed { host: String },
    #[error("ecr auth: the login that ECR gave is for {proxy}, not for {host}")]
    OtherHost { proxy: String, host: String },
    #[error("registryAuthentication of type ecr names no {0}")]
    Incomplete(&'static str),
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    registry: String,
    region: String,
    /// Given for this registry: it goes before what the host's variables say.
    own_endpoint: Option<String>,
    /// Amazon's.
    endpoint: String,
}

impl Token {
    /// For a registry that is known by its host's name.
    pub fn of(registry: &Registry<'_>) -> Self {
        Self {
            registry: registry.account.to_owned(),
            region: registry.region.to_owned(),
            own_endpoint: None,
            endpoint: format!("https://{}", registry.api_host()),
        }
    }

    /// As a control plane says it of an image on `host`.
    ///
    /// # Errors
    /// If registry or region are missing.
    pub fn as_told(data: &EcrAuthData, host: &str) -> Result<Self, Error> {
        let there = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let registry = there(&data.registry_id).ok_or(Error::Incomplete("registryId"))?;
        let region = there(&data.region).ok_or(Error::Incomplete("region"))?;
        let own_endpoint = there(&data.endpoint_override).map(|given| {
            let given = given.trim_end_matches('/');
            if given.contains("://") { given.to_owned() } else { format!("https://{given}") }
        });
        let known = Registry::of_host(host).filter(|registry| registry.region == region);
        let api = known.map_or_else(
            || format!("api.ecr.{region}.{}", partition::domain(&region)),
            |registry| registry.api_host(),
        );
        Ok(Self { registry, region, own_endpoint, endpoint: format!("https://{api}") })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// `None`: the host's own.
    role: Option<String>,
    registry: String,
    region: String,
    endpoint: String,
}

#[derive(Debug, Clone)]
struct Kept {
    login: Login,
    proxy: String,
    renew_at: Timestamp,
}

type Slot = Arc<tokio::sync::Mutex<Option<Kept>>>;

/// Tokens that are kept.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<BTreeMap<Key, Slot>>);

impl Tokens {
    fn slot(&self, key: Key, now: Timestamp) -> Slot {
        // Each critical section leaves the map whole.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !slots.contains_key(&key) && slots.len() >= MOST {
            // One that is being asked for is locked, and stays.
            let end = |slot: &Slot| match slot.try_lock() {
                Ok(kept) => Some(kept.as_ref().map_or(now, |kept| kept.renew_at)),
                Err(_locked) => None,
            };
            let oldest = slots
                .iter()
                .filter_map(|(key, slot)| Some((end(slot)?, key)))
                .min()
                .map(|(_, key)| key.clone());
            if let Some(oldest) = oldest {
                slots.remove(&oldest);
            }
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    registry_ids: [&'a str; 1],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    authorization_data: Option<Vec<Data>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    authorization_token: Option<String>,
    /// Seconds.
    expires_at: Option<f64>,
    proxy_endpoint: Option<String>,
}

impl Aws {
    /// The login of a private registry of ECR, for an image on `host`.
    ///
    /// # Errors
    /// If ECR does not give one, or gives another host's.
    pub async fn token(&self, caller: Caller, token: &Token, host: &str) -> Result<Login, Error> {
        let caller = self.caller(caller);
        let endpoint =
            token.own_endpoint.as_deref().or(self.ecr_endpoint()).unwrap_or(&token.endpoint);
        let key = Key {
            role: match &caller {
                Caller::Host => None,
                // Whom a control plane does not name is known by his keys.
                Caller::Role { arn, keys } if arn.is_empty() => Some(keys.access_key_id.clone()),
                Caller::Role { arn, .. } => Some(arn.clone()),
            },
            registry: token.registry.clone(),
            region: token.region.clone(),
            endpoint: endpoint.to_owned(),
        };
        let slot = self.tokens().slot(key, Timestamp::now());
        let mut kept = slot.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| Timestamp::now() < kept.renew_at) {
            return for_host(kept, host);
        }
        *kept = None;
        let service = Service { signing_name: SIGNING_NAME, target: TARGET, endpoint };
        let request = Request { registry_ids: [&token.registry] };
        let response: Response = self
            .call(&caller, &token.region, service, "GetAuthorizationToken", &request)
            .await
            .map_err(|source| Error::Call {
                registry: token.registry.clone(),
                region: token.region.clone(),
                source: Box::new(source),
            })?;
        let found = read(response, host, Timestamp::now(), random())?;
        let login = for_host(&found, host)?;
        *kept = Some(found);
        Ok(login)
    }
}

fn for_host(kept: &Kept, host: &str) -> Result<Login, Error> {
    let proxy = kept.proxy.split_once("://").map_or(kept.proxy.as_str(), |(_, rest)| rest);
    let proxy = proxy.split('/').next().unwrap_or(proxy);
    if Registry::of_host(host).is_some() || proxy.eq_ignore_ascii_case(host) {
        return Ok(kept.login.clone());
    }
    Err(Error::OtherHost { proxy: kept.proxy.clone(), host: host.to_owned() })
}

/// `random` is in 0.0..1.0.
fn read(response: Response, host: &str, now: Timestamp, random: f64) -> Result<Kept, Error> {
    let mut data = response.authorization_data.unwrap_or_default();
    let (Some(found), true) = (data.pop(), data.is_empty()) else {
        return Err(Error::Missing { host: host.to_owned() });
    };
    let malformed = || Error::Malformed { host: host.to_owned() };
    let login = found.authorization_token.as_deref().and_then(keys::decode);
    Ok(Kept {
        login: login.ok_or_else(malformed)?,
        proxy: found.proxy_endpoint.ok_or_else(malformed)?,
        renew_at: renew_at(found.expires_at, now, random),
    })
}

/// Without an end a token is for one use.
fn renew_at(expires_at: Option<f64>, now: Timestamp, random: f64) -> Timestamp {
    let early = MARGIN.mul_f64(1.0 + random);
    expires_at
        .and_then(|seconds| SignedDuration::try_from_secs_f64(seconds).ok())
        .and_then(|since| Timestamp::from_duration(since).ok())
        .and_then(|end| end.checked_sub(early).ok())
        .unwrap_or(now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use serde_json::json;

    use super::*;
    use crate::backend::credentials::Keys;
    use crate::backend::testing::{Answer, Server};

    const HOST: &str = "123456789012.dkr.ecr.eu-x-1.amazonaws.com";

    fn answer(password: &str, end: Timestamp) -> Answer {
        use base64::Engine as _;
        let token = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{password}"));
        let data = json!({
            "authorizationToken": token,
            "expiresAt": end.as_second(),
            "proxyEndpoint": format!("https://{HOST}"),
        });
        Answer::ok(&json!({"authorizationData": [data]}).to_string())
    }

    fn after(hours: i64) -> Timestamp {
        Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap()
    }

    fn password(login: Login) -> String {
        match login {
            Login::Password { user, password } => {
                assert_eq!(user, "AWS");
                password
            }
            Login::IdentityToken(_) => panic!("a token"),
        }
    }

    fn role(name: &str) -> Caller {
        let keys = Keys {
            access_key_id: format!("ASIA{name}"),
            secret_access_key: "very-secret".to_owned(),
            session_token: Some("token".to_owned()),
        };
        Caller::Role { arn: format!("arn:aws:iam::1:role/{name}"), keys }
    }

    #[tokio::test]
    async fn a_token_is_kept_for_its_role_until_it_is_about_to_end() {
        let server = Server::start(vec![
            answer("one", after(12)),
            answer("two", after(12)),
            // It ends within the margin: for one use.
            answer("three", Timestamp::now().checked_add(MARGIN).unwrap()),
            answer("four", after(12)),
        ])
        .await;
        let aws = Aws::testing(&server.endpoint());
        let token = Token::of(&Registry::of_host(HOST).unwrap());
        let get = async |caller| password(aws.token(caller, &token, HOST).await.unwrap());
        assert_eq!(get(Caller::Host).await, "one");
        assert_eq!(get(role("A")).await, "two");
        assert_eq!(get(role("B")).await, "three");
        assert_eq!(get(role("B")).await, "four");
        for (caller, expected) in [(Caller::Host, "one"), (role("A"), "two"), (role("B"), "four")] {
            assert_eq!(get(caller).await, expected);
        }
        let requests = server.requests();
        let signed: Vec<_> = requests.iter().map(|r| r.header("authorization").unwrap()).collect();
        for (signed, id) in signed.iter().zip(["AKIAHOST", "ASIAA", "ASIAB", "ASIAB"]) {
            assert!(signed.contains(&format!("Credential={id}/")), "{signed}");
            assert!(signed.contains("/eu-x-1/ecr/aws4_request"), "{signed}");
        }
        assert_eq!(signed.len(), 4);
        assert_eq!(requests[0].body, json!({"registryIds": ["123456789012"]}));
        assert_eq!(
            requests[0].header("x-amz-target"),
            Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
        );
    }

    #[tokio::test]
    async fn a_role_without_a_name_gets_nobody_elses_token() {
        let server = Server::start(vec![
            answer("of the host", after(12)),
            answer("of A", after(12)),
            answer("of B", after(12)),
        ])
        .await;
        let aws = Aws::testing(&server.endpoint());
        let token = Token::of(&Registry::of_host(HOST).unwrap());
        let nameless = |name: &str| match role(name) {
            Caller::Role { keys, .. } => Caller::Role { arn: String::new(), keys },
            Caller::Host => Caller::Host,
        };
        for (caller, expected) in [
            (Caller::Host, "of the host"),
            (nameless("A"), "of A"),
            (nameless("B"), "of B"),
            (nameless("A"), "of A"),
        ] {
            assert_eq!(password(aws.token(caller, &token, HOST).await.unwrap()), expected);
        }
    }

    #[tokio::test]
    async fn pulls_at_once_share_one_call() {
        let server = Server::start(vec![answer("one", after(12))]).await;
        let aws = Aws::testing(&server.endpoint());
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let aws = aws.clone();
                tokio::spawn(async move {
                    let token = Token::of(&Registry::of_host(HOST).unwrap());
                    aws.token(Caller::Host, &token, HOST).await.map(password)
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), "one");
        }
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn refusals_are_told() {
        let server = Server::start(vec![
            Answer::refusal("AccessDeniedException"),
            Answer::refusal("UnrecognizedClientException"),
            Answer::ok("{}"),
            Answer::ok(r#"{"authorizationData":[{"authorizationToken":"!","proxyEndpoint":"x"}]}"#),
            answer("secret", after(12)),
        ])
        .await;
        let aws = Aws::testing(&server.endpoint());
        let token = Token::of(&Registry::of_host(HOST).unwrap());
        let get = async |host: &str| {
            let error = aws.token(role("A"), &token, host).await.unwrap_err();
            crate::error::chain(&error)
        };
        assert_eq!(
            get(HOST).await,
            "get a login of Amazon ECR for registry 123456789012 in eu-x-1: \
             GetAuthorizationToken is refused: AccessDeniedException: no"
        );
        assert!(get(HOST).await.contains("LIGHTER_AWS_CREDENTIALS=host"));
        assert!(get(HOST).await.starts_with("ecr auth: missing AuthorizationData"));
        assert!(get(HOST).await.starts_with("ecr auth: AuthorizationData is malformed"));
        // The token of Amazon's registry goes nowhere else.
        let told = get("registry.example").await;
        assert!(
            told.ends_with(&format!("is for https://{HOST}, not for registry.example")),
            "{told}"
        );
        assert!(!told.contains("secret"));
        let nowhere = Aws::testing("http://127.0.0.1:1");
        let error = nowhere.token(Caller::Host, &token, HOST).await.unwrap_err();
        assert!(error.to_string().starts_with("The task can’t pull the image. Check your network"));
    }

    #[test]
    fn what_a_control_plane_tells() {
        let data = |endpoint: &str| EcrAuthData {
            registry_id: Some("123456789012".to_owned()),
            region: Some("eu-x-1".to_owned()),
            endpoint_override: Some(endpoint.to_owned()),
            use_execution_role: None,
        };
        let of_host = Token::of(&Registry::of_host(HOST).unwrap());
        assert_eq!(Token::as_told(&data(""), HOST).unwrap(), of_host);
        assert_eq!(Token::as_told(&data(""), "r.example").unwrap(), of_host);
        for (given, endpoint) in [
            ("ecr-fips.eu-x-1.amazonaws.com", "https://ecr-fips.eu-x-1.amazonaws.com"),
            ("http://127.0.0.1:5/", "http://127.0.0.1:5"),
        ] {
            let token = Token::as_told(&data(given), HOST).unwrap();
            assert_eq!(token.own_endpoint.as_deref(), Some(endpoint));
        }
        for (region, endpoint) in [
            ("cn-north-1", "https://api.ecr.cn-north-1.amazonaws.com.cn"),
            ("us-gov-west-1", "https://api.ecr.us-gov-west-1.amazonaws.com"),
            ("us-isob-east-1", "https://api.ecr.us-isob-east-1.sc2s.sgov.gov"),
        ] {
            let other = EcrAuthData { region: Some(region.to_owned()), ..data("") };
            assert_eq!(Token::as_told(&other, "r.example").unwrap().endpoint, endpoint);
        }
        let none = EcrAuthData::default();
        assert!(matches!(Token::as_told(&none, HOST), Err(Error::Incomplete("registryId"))));
    }

    #[test]
    fn the_moment_of_renewal() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let end = now.checked_add(SignedDuration::from_hours(12)).unwrap();
        #[allow(clippy::cast_precision_loss)]
        let seconds = Some(end.as_second() as f64);
        let early = |random| end.duration_since(renew_at(seconds, now, random)).as_mins();
        assert_eq!((early(0.0), early(0.5)), (30, 45));
        for none in [None, Some(f64::NAN), Some(f64::INFINITY), Some(1e300), Some(-1e300)] {
            assert_eq!(renew_at(none, now, 0.5), now, "{none:?}");
        }
    }

    #[test]
    fn a_hundred_tokens_are_kept() {
        let tokens = Tokens::default();
        let key = |number: usize| Key {
            role: Some(number.to_string()),
            registry: String::new(),
            region: String::new(),
            endpoint: String::new(),
        };
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for number in 0..MOST + 20 {
            let slot = tokens.slot(key(number), now);
            let renew_at = now.checked_add(SignedDuration::from_secs(number as i64)).unwrap();
            let login = Login::IdentityToken(String::new());
            *slot.try_lock().unwrap() = Some(Kept { login, proxy: String::new(), renew_at });
        }
        let kept = tokens.0.lock().unwrap();
        assert_eq!(kept.len(), MOST);
        assert!(!kept.contains_key(&key(19)) && kept.contains_key(&key(20)));
    }
}
