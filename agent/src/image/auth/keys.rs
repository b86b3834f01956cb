//! Which of the logins that stand under registries' names fits a repository. Pure.
//!
//! Names are those that people and `docker login` write: with or without scheme, with a path or
//! none. The Amazon agent's rule: a name with a path that begins the repository's goes before the bare
//! host, the longest first; the host alone, or with a path of another meaning (`/v1/`), is for all of
//! its repositories. Docker Hub has one login, under any of its names.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use serde::Deserialize;

use super::{Error, Login};

/// As Docker names its Hub to credential stores and in `config.json`.
pub(super) const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Logins by the names they stand under. The names are no secret.
#[derive(Clone, Default)]
pub(super) struct Keyring(BTreeMap<String, Login>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A login as both documents have it.
#[derive(Default, Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<String>,
}

impl Entry {
    /// `None`: there is no login in it. Docker leaves such an entry where a store has the login.
    fn login(self) -> Result<Option<Login>, ()> {
        let there = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = there(self.identity_token) {
            return Ok(Some(Login::IdentityToken(token)));
        }
        if let Some(user) = there(self.username) {
            let password = self.password.unwrap_or_default();
            return Ok(Some(Login::Password { user, password }));
        }
        there(self.auth).map(|auth| decode(&auth).ok_or(())).transpose()
    }
}

impl Keyring {
    pub(super) fn read(entries: BTreeMap<String, Entry>) -> Result<Self, Error> {
        let mut logins = BTreeMap::new();
        for (name, entry) in entries {
            if let Some(login) = entry.login().map_err(|()| Error::Encoding(name.clone()))? {
                logins.insert(name, login);
            }
        }
        Ok(Self(logins))
    }

    pub(super) fn find(&self, host: &str, repository: &str) -> Option<&Login> {
        find(self.0.iter().map(|(name, login)| (name.as_str(), login)), host, repository)
    }
}

/// What stands under the name that fits best.
pub(super) fn find<'a, T>(
    named: impl Iterator<Item = (&'a str, T)>,
    host: &str,
    repository: &str,
) -> Option<T> {
    let image = format!("{repository}/");
    // Best first: a path that begins the repository's, by its length; the bare host; any other path.
    named
        .filter_map(|(name, value)| {
            let (of, path) = split(name);
            if !same_host(of, host) {
                return None;
            }
            let begins = !path.is_empty() && image.starts_with(&format!("{path}/"));
            let rank = if is_docker_hub(host) || path.is_empty() { 1 } else { 0 };
            Some((if begins { 1 + path.len() } else { rank }, std::cmp::Reverse(name), value))
        })
        .max_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)))
        .map(|(.., value)| value)
}

/// Host and path of a name.
fn split(name: &str) -> (&str, &str) {
    let name = name.trim();
    let rest =
        name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (host, path.trim_matches('/'))
}

fn same_host(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (is_docker_hub(a) && is_docker_hub(b))
}

pub(super) fn is_docker_hub(host: &str) -> bool {
    ["docker.io", "index.docker.io", "registry-1.docker.io"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(host))
}

/// `user:password` in base64, which may be broken into lines.
pub(super) fn decode(auth: &str) -> Option<Login> {
    let auth: String = auth.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker once padded passwords.
    let password = password.trim_end_matches('\0').to_owned();
    Some(Login::Password { user: user.to_owned(), password })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_name_that_fits_best() {
        let table: &[(&[&str], &str, &str, Option<usize>)] = &[
            (&["r.example"], "r.example", "app", Some(0)),
            (&["https://r.example/"], "r.example", "app", Some(0)),
            (&[" http://R.example/v1/ "], "r.example", "app", Some(0)),
            (&["r.example:5000"], "r.example", "app", None),
            (&["r.example"], "r.example:5000", "app", None),
            (&["r.example"], "docker.io", "library/app", None),
            (&["r.example.org"], "r.example", "app", None),
            // The longest path wins, in whole components.
            (&["r.example", "r.example/team", "r.example/team/a"], "r.example", "team/a", Some(2)),
            (&["r.example", "r.example/team", "r.example/team/a"], "r.example", "team/b", Some(1)),
            (&["r.example", "r.example/team"], "r.example", "team-b/x", Some(0)),
            (&["r.example", "https://r.example/team/"], "r.example", "team/x", Some(1)),
            (&["r.example/v2/", "r.example"], "r.example", "x", Some(1)),
            // As the Amazon agent: better another repository's login than none.
            (&["r.example/b", "r.example/a"], "r.example", "x", Some(1)),
            (&["https://index.docker.io/v1/"], "docker.io", "library/nginx", Some(0)),
            (&["docker.io"], "docker.io", "me/app", Some(0)),
            (&["registry-1.docker.io"], "docker.io", "me/app", Some(0)),
            (&["https://index.docker.io/v1/"], "index.docker.io", "me/app", Some(0)),
            (&["index.docker.io.example"], "docker.io", "me/app", None),
        ];
        for (names, host, repository, expected) in table {
            let named = names.iter().enumerate().map(|(index, name)| (*name, index));
            assert_eq!(find(named, host, repository), *expected, "{names:?} {host}/{repository}");
        }
    }

    #[test]
    fn logins_of_entries() {
        let login = |text: &str| serde_json::from_str::<Entry>(text).unwrap().login();
        let pair = |user: &str, password: &str| {
            let (user, password) = (user.to_owned(), password.to_owned());
            Ok(Some(Login::Password { user, password }))
        };
        assert_eq!(login(r#"{"auth":"bWU6c2VjcjpldA==","email":"m@e"}"#), pair("me", "secr:et"));
        assert_eq!(login("{\"auth\":\"bWU6\\nc2VjcjpldA==\\n\"}"), pair("me", "secr:et"));
        assert_eq!(login(r#"{"username":"u","password":"p","email":"e"}"#), pair("u", "p"));
        assert_eq!(login(r#"{"username":"u","auth":null}"#), pair("u", ""));
        assert_eq!(login("{}"), Ok(None));
        assert_eq!(login(r#"{"auth":""}"#), Ok(None));
        for bad in ["!", "bWU=", "/w=="] {
            assert_eq!(login(&format!("{{\"auth\":\"{bad}\"}}")), Err(()), "{bad}");
        }
        let token = r#"{"auth":"MDAwMDo=","identitytoken":"t"}"#;
        assert_eq!(login(token), Ok(Some(Login::IdentityToken("t".to_owned()))));
    }
}
