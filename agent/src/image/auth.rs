//! Credentials of registries: `ECS_ENGINE_AUTH_TYPE`/`ECS_ENGINE_AUTH_DATA` as the Amazon agent
//! reads them, and the `auths` of Docker's `config.json`. The former win.
//!
//! Credential helpers (`credsStore`, `credHelpers`) are not run: a registry whose credentials only
//! they hold is asked anonymously.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ECS_ENGINE_AUTH_TYPE is {0:?}: expected \"dockercfg\" or \"docker\"")]
    Kind(String),
    #[error("ECS_ENGINE_AUTH_DATA is set and ECS_ENGINE_AUTH_TYPE is not")]
    KindMissing,
    #[error("ECS_ENGINE_AUTH_DATA is not the JSON of type {kind:?} (line {line}, column {column})")]
    Data { kind: &'static str, line: usize, column: usize },
    #[error("read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not Docker's configuration (line {line}, column {column})")]
    Config { path: PathBuf, line: usize, column: usize },
    #[error("credentials of registry {0:?} are not base64 of user:password")]
    Encoding(String),
}

/// Who we are to one registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    Password {
        user: String,
        password: String,
    },
    /// What a token server takes in place of a password (OAuth 2's refresh token).
    IdentityToken(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(<redacted>)",
            Self::IdentityToken(_) => "IdentityToken(<redacted>)",
        })
    }
}

/// Which user and password go to which registry.
#[derive(Clone, Default)]
pub struct Auth {
    logins: BTreeMap<String, Login>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redacted = self.logins.keys().map(|registry| (registry, "<redacted>"));
        f.debug_map().entries(redacted).finish()
    }
}

// Both documents are secret; serde's own messages quote the text, so only the place is kept.
#[derive(Deserialize)]
struct Encoded {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Encoded>,
}

impl Auth {
    /// No credentials: every registry is asked anonymously.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// `kind` and `data` are the values of `ECS_ENGINE_AUTH_TYPE` and `ECS_ENGINE_AUTH_DATA`;
    /// `docker_config` is Docker's `config.json`, which need not exist.
    pub fn load(
        kind: Option<&str>,
        data: Option<&str>,
        docker_config: Option<&Path>,
    ) -> Result<Self, super::Error> {
        Ok(Self::read(kind, data, docker_config)?)
    }

    fn read(
        kind: Option<&str>,
        data: Option<&str>,
        docker_config: Option<&Path>,
    ) -> Result<Self, Error> {
        let mut auth = Self::default();
        if let Some(path) = docker_config {
            match std::fs::read(path) {
                Ok(text) => {
                    let config: DockerConfig = serde_json::from_slice(&text).map_err(|error| {
                        let path = path.to_owned();
                        Error::Config { path, line: error.line(), column: error.column() }
                    })?;
                    auth.add_all(config.auths)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
            }
        }
        let data = data.filter(|data| !data.trim().is_empty());
        let kind = match kind.filter(|kind| !kind.is_empty()) {
            None if data.is_some() => return Err(Error::KindMissing),
            None => return Ok(auth),
            Some("dockercfg") => "dockercfg",
            Some("docker") => "docker",
            Some(other) => return Err(Error::Kind(other.to_owned())),
        };
        if let Some(data) = data {
            let logins = serde_json::from_str(data).map_err(|error| Error::Data {
                kind,
                line: error.line(),
                column: error.column(),
            })?;
            auth.add_all(logins)?;
        }
        Ok(auth)
    }

    fn add_all(&mut self, logins: BTreeMap<String, Encoded>) -> Result<(), Error> {
        for (registry, entry) in logins {
            let login = if !entry.username.is_empty() {
                Login::Password { user: entry.username, password: entry.password }
            } else if !entry.auth.is_empty() {
                decode(&entry.auth).ok_or_else(|| Error::Encoding(registry.clone()))?
            } else {
                // Docker leaves an empty entry for a registry whose login a helper holds.
                continue;
            };
            self.logins.insert(host(&registry), login);
        }
        Ok(())
    }

    /// The login for a repository of a registry. `host`: with its port if it has one, `docker.io`
    /// for Docker Hub. `None`: anonymous.
    pub async fn login(&self, host: &str, _repository: &str) -> Result<Option<Login>, Error> {
        Ok(self.logins.get(host).cloned())
    }
}

fn decode(auth: &str) -> Option<Login> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    let (user, password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
    Some(Login::Password { user, password })
}

/// `https://index.docker.io/v1/` and `docker.io` are one registry; others are their host and port.
fn host(key: &str) -> String {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match rest.split('/').next().unwrap_or(rest) {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn login(auth: &Auth, image: &str) -> Option<(String, String)> {
        match auth.logins.get(super::super::Reference::parse(image).unwrap().domain())? {
            Login::Password { user, password } => Some((user.clone(), password.clone())),
            Login::IdentityToken(_) => None,
        }
    }

    fn pair(user: &str, password: &str) -> Option<(String, String)> {
        Some((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn both_forms_of_the_agent_configuration_are_read() {
        let auth = Auth::load(
            Some("dockercfg"),
            Some(r#"{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcjpldA==","email":"m@e"}}"#),
            None,
        )
        .unwrap();
        assert_eq!(login(&auth, "me/app"), pair("me", "secr:et"));
        assert_eq!(login(&auth, "other.example/app"), None);

        let auth = Auth::load(
            Some("docker"),
            Some(r#"{"https://r.example:5000/v1":{"username":"u","password":"p","email":"e"}}"#),
            None,
        )
        .unwrap();
        assert_eq!(login(&auth, "r.example:5000/app"), pair("u", "p"));
        assert_eq!(login(&auth, "r.example/app"), None);
    }

    #[test]
    fn the_agent_configuration_wins_over_dockers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text = r#"{"auths":{"a.example":{"auth":"YTpi"},"b.example":{"auth":"YTpi"},"c.example":{}},
            "credsStore":"x"}"#;
        std::fs::write(&path, text).unwrap();
        let data = r#"{"a.example":{"username":"u","password":"p"}}"#;
        let auth = Auth::load(Some("docker"), Some(data), Some(&path)).unwrap();
        assert_eq!(login(&auth, "a.example/x"), pair("u", "p"));
        assert_eq!(login(&auth, "b.example/x"), pair("a", "b"));
        assert_eq!(login(&auth, "c.example/x"), None);
        assert!(Auth::load(None, None, Some(&dir.path().join("absent"))).is_ok());
    }

    #[test]
    fn secrets_are_neither_shown_nor_quoted_in_errors() {
        let auth = Auth::load(
            Some("docker"),
            Some(r#"{"h":{"username":"user1","password":"pass1"}}"#),
            None,
        );
        let shown = format!("{:?}", auth.unwrap());
        assert!(!shown.contains("pass1") && !shown.contains("user1"), "{shown}");
        for (kind, data) in [
            (Some("docker"), Some(r#"{"h":"hunter2"}"#)),
            (Some("dockercfg"), Some(r#"{"h":{"auth":"hunter2!"}}"#)),
            (None, Some("hunter2")),
            (Some("ecr"), None),
        ] {
            let error = Auth::load(kind, data, None).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
