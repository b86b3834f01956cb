//! Who we are to one host: the challenge of a registry (RFC 9110 §11.6.1, RFC 6750 §3) and what
//! answers it, as the Distribution project's token specification has it.
//!
//! Nothing is sent before the host asks. To `Basic` the login answers; to `Bearer` a token from the
//! server that the host names, got with the login (GET with basic authentication), with an identity
//! token (POST, OAuth 2.0 refresh), or without. A token is used until it expires or is refused,
//! then another is fetched, once per request and for all requests together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::auth::{Auth, Login};
use super::registry::{Error, check, small_body};
use super::transport::{Transport, within};

/// What the specification has for answers that do not say how long a token lives.
const LIFETIME: Duration = Duration::from_secs(60);
/// Nobody's tokens live longer; a registry's clock and arithmetic are not trusted.
const MAX_LIFETIME: Duration = Duration::from_secs(86_400);
/// A token is not used in its last moments: the request takes time, too.
const MARGIN: Duration = Duration::from_secs(5);
const MAX_ANSWER: usize = 1 << 20;
const MAX_CHALLENGES: usize = 16;
const CLIENT: &str = "lighter";

/// What a host wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenges that we can answer, of every `WWW-Authenticate`.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse)
        .take(MAX_CHALLENGES)
        .collect()
}

/// The challenges of one header that we can answer. What follows something malformed is not read.
pub(super) fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(&str, Vec<(&str, String)>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        // `name = value` belongs to the scheme before; a word without is a scheme.
        match (spaced.strip_prefix('='), found.last_mut()) {
            (Some(after), Some((_, parameters))) => {
                let Some((value, after)) = value(after.trim_start_matches([' ', '\t'])) else {
                    break;
                };
                parameters.push((word, value));
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => {
                found.push((word, Vec::new()));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(|(scheme, parameters)| challenge(scheme, parameters)).collect()
}

fn challenge(scheme: &str, parameters: Vec<(&str, String)>) -> Option<Challenge> {
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let of = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer { realm: of("realm")?, service: of("service"), scope: of("scope") })
}

/// A token of RFC 9110 and what follows it.
fn token(text: &str) -> (&str, &str) {
    let ends = |c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c);
    text.split_at_checked(text.find(ends).unwrap_or(text.len())).unwrap_or((text, ""))
}

/// A token or a quoted string, and what follows it. Addresses are taken unquoted, too.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return Some((value.to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, quoted.get(at + 1..)?)),
            c => value.push(c),
        }
    }
    None
}

/// Where the login of a host comes from.
pub(super) enum Logins {
    /// The request for the image brought it.
    Given(Login),
    /// What we are configured with for this host and repository.
    Of { auth: Auth, host: String, repository: String },
    #[cfg(test)]
    Anonymous,
}

#[derive(Default)]
struct State {
    /// What a request carries, and until when.
    current: Option<(HeaderValue, Option<Instant>)>,
    /// What got the current token.
    challenge: Option<Challenge>,
    /// A later one that the token server gave.
    identity_token: Option<String>,
}

/// Who we are to one host.
pub(super) struct Authenticator {
    logins: Logins,
    /// What we are going to do, as the token specification writes it.
    scopes: Vec<String>,
    has_login: AtomicBool,
    state: Mutex<State>,
}

impl Authenticator {
    pub(super) fn new(logins: Logins, scopes: Vec<String>) -> Self {
        Self { logins, scopes, has_login: AtomicBool::new(false), state: Mutex::default() }
    }

    /// How errors speak of us.
    pub(super) fn who(&self) -> &'static str {
        match self.has_login.load(Ordering::Relaxed) {
            true => "these credentials",
            false => "anonymous access",
        }
    }

    async fn login(&self) -> Result<Option<Login>, Error> {
        let login = match &self.logins {
            Logins::Given(login) => Some(login.clone()),
            Logins::Of { auth, host, repository } => auth
                .login(host, repository)
                .await
                .map_err(|source| Error::Login(Box::new(source)))?,
            #[cfg(test)]
            Logins::Anonymous => None,
        };
        self.has_login.store(login.is_some(), Ordering::Relaxed);
        Ok(login)
    }

    /// What a request carries now; a token about to expire is renewed before.
    pub(super) async fn authorization(
        &self,
        transport: &Transport,
    ) -> Result<Option<HeaderValue>, Error> {
        let mut state = self.state.lock().await;
        match &state.current {
            None => return Ok(None),
            Some((header, expires)) => {
                if expires.is_none_or(|at| Instant::now() + MARGIN < at) {
                    return Ok(Some(header.clone()));
                }
            }
        }
        if let Some(challenge) = state.challenge.clone() {
            self.answer(transport, &challenge, &mut state).await?;
        }
        Ok(state.current.as_ref().map(|(header, _)| header.clone()))
    }

    /// After a request that carried `used` was refused: is there something else to try? A refusal
    /// without a challenge may mean that what answered the last one has expired (so Amazon ECR).
    pub(super) async fn renew(
        &self,
        transport: &Transport,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<bool, Error> {
        let mut state = self.state.lock().await;
        if state.current.as_ref().map(|(header, _)| header) != used && state.current.is_some() {
            // Another request was refused before and has done it.
            return Ok(true);
        }
        let offered = challenges(headers);
        let bearer = offered.iter().find(|offer| matches!(offer, Challenge::Bearer { .. }));
        let challenge = match bearer.or_else(|| offered.first()) {
            Some(challenge) => challenge.clone(),
            None if state.challenge == Some(Challenge::Basic) => Challenge::Basic,
            None => return Ok(false),
        };
        self.answer(transport, &challenge, &mut state).await?;
        Ok(state.current.as_ref().is_some_and(|(header, _)| Some(header) != used))
    }

    async fn answer(
        &self,
        transport: &Transport,
        challenge: &Challenge,
        state: &mut State,
    ) -> Result<(), Error> {
        let login = self.login().await?;
        state.current = match challenge {
            Challenge::Basic => match &login {
                Some(Login::Password { user, password }) => Some((basic(user, password)?, None)),
                // A host that has no tokens takes none.
                Some(Login::IdentityToken(_)) | None => None,
            },
            Challenge::Bearer { realm, service, scope } => {
                let service = service.as_deref();
                let asked = self.asked(scope.as_deref());
                let token = self
                    .fetch(transport, realm, service, &asked, login.as_ref(), state)
                    .await
                    .map_err(|source| Error::Token {
                        server: server(realm),
                        source: Box::new(source),
                    })?;
                Some((token.0, Some(Instant::now() + token.1)))
            }
        };
        state.challenge = Some(challenge.clone());
        Ok(())
    }

    /// Our scopes and those of the challenge.
    fn asked(&self, challenge: Option<&str>) -> Vec<String> {
        let mut asked = self.scopes.clone();
        for scope in challenge.unwrap_or_default().split(' ').filter(|scope| !scope.is_empty()) {
            if !asked.iter().any(|own| covers(own, scope)) {
                asked.push(scope.to_owned());
            }
        }
        asked
    }

    async fn fetch(
        &self,
        transport: &Transport,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        login: Option<&Login>,
        state: &mut State,
    ) -> Result<(HeaderValue, Duration), Error> {
        let mut url = Url::parse(realm)
            .map_err(|error| Error::Protocol(format!("the realm is no address: {error}")))?;
        // They would become credentials.
        let _ = (url.set_username(""), url.set_password(None));
        let client = transport.toward(&transport.base, &url).await?;
        let latest = state.identity_token.clone();
        let request = match (latest.as_ref(), login) {
            (Some(identity), _) | (None, Some(Login::IdentityToken(identity))) => {
                let mut form = vec![
                    ("grant_type", "refresh_token"),
                    ("client_id", CLIENT),
                    ("refresh_token", identity),
                ];
                let scope = scopes.join(" ");
                form.push(("scope", &scope));
                form.extend(service.map(|service| ("service", service)));
                let mut body = Url::parse("form:").map_err(|e| Error::Protocol(e.to_string()))?;
                body.query_pairs_mut().extend_pairs(form);
                client
                    .request(Method::POST, url)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(body.query().unwrap_or_default().to_owned())
            }
            (None, login) => {
                let password = match login {
                    Some(Login::Password { user, password }) => Some((user, password)),
                    _ => None,
                };
                {
                    let mut query = url.query_pairs_mut();
                    query.extend_pairs(service.map(|service| ("service", service)));
                    query.extend_pairs(scopes.iter().map(|scope| ("scope", scope)));
                    query.extend_pairs(password.map(|(user, _)| ("account", user)));
                }
                let request = client.request(Method::GET, url);
                match password {
                    Some((user, password)) => {
                        request.header(header::AUTHORIZATION, basic(user, password)?)
                    }
                    None => request,
                }
            }
        };
        let response = check(within(request.send()).await?, "such token", self.who()).await?;
        let body = small_body(response, MAX_ANSWER).await?;
        let unusable = |what: &str| Error::Protocol(format!("the answer {what}"));
        // The parser's own error would quote the answer, which is a secret.
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_secret| unusable("is not JSON of a token"))?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .ok_or_else(|| unusable("holds no token"))?;
        if let Some(later) = answer.refresh_token.filter(|later| !later.is_empty())
            && matches!(login, Some(Login::IdentityToken(_)))
        {
            state.identity_token = Some(later);
        }
        let lifetime = answer.expires_in.map_or(LIFETIME, Duration::from_secs);
        Ok((secret(&format!("Bearer {token}"))?, lifetime.clamp(LIFETIME, MAX_LIFETIME)))
    }
}

/// Does `own`, such as `repository:a:pull,push`, hold what `other` asks?
fn covers(own: &str, other: &str) -> bool {
    let (Some((ours, can)), Some((theirs, wanted))) =
        (own.rsplit_once(':'), other.rsplit_once(':'))
    else {
        return own == other;
    };
    ours == theirs && wanted.split(',').all(|action| can.split(',').any(|own| own == action))
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, Error> {
    let pair = format!("{user}:{password}");
    secret(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn secret(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_secret| {
        Error::Protocol("the token is not one that a header can carry".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The realm without its query, for errors.
fn server(realm: &str) -> String {
    realm.split(['?', '#']).next().unwrap_or(realm).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_in_every_spelling() {
        let docker = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        let want = bearer(
            "https://auth.example/token",
            Some("r.example"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(parse(docker), [want]);
        assert_eq!(parse("Basic realm=\"x\""), [Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(
            parse("Negotiate, BEARER Realm = \"https://t/\\\"q\" , error=\"x\", Basic realm=a"),
            [bearer("https://t/\"q", None, None), Challenge::Basic]
        );
        assert_eq!(
            parse("Bearer realm=https://t/x?y,service=s"),
            [bearer("https://t/x?y", Some("s"), None)]
        );
    }

    #[test]
    fn what_is_malformed_is_no_challenge() {
        for text in
            ["", ",", "=", "Bearer", "Bearer realm=\"", "Bearer service=\"s\"", "\"", "realm=x"]
        {
            assert_eq!(parse(text), [], "{text}");
        }
        assert_eq!(parse("Basic realm=\"x"), [Challenge::Basic]);
    }

    #[test]
    fn scopes_of_the_challenge_are_added_once() {
        let own = Authenticator::new(Logins::Anonymous, vec!["repository:a:pull,push".to_owned()]);
        assert_eq!(own.asked(Some("repository:a:pull")).len(), 1);
        assert_eq!(own.asked(Some("repository:a:push,pull")).len(), 1);
        assert_eq!(own.asked(Some("repository:a:delete repository:b:pull")).len(), 3);
        assert_eq!(own.asked(None).len(), 1);
    }

    proptest! {
        #[test]
        fn no_header_breaks_the_parser(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_texts_survive(text in "[ -~]{1,40}") {
            let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{quoted}\"");
            prop_assert_eq!(parse(&header), [bearer(&text, None, None)]);
        }
    }
}
