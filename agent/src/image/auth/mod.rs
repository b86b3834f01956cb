//! Logins of registries. The first place that has one for a registry is taken, else the registry is
//! asked anonymously:
//!
//! 1. `ECS_ENGINE_AUTH_TYPE`/`ECS_ENGINE_AUTH_DATA`, as the Amazon agent reads them (`engine.rs`);
//! 2. the `config.json` of Docker of the user who runs the agent, and the credential helpers that it
//!    names (`docker.rs`, `helper.rs`), looked at anew each time;
//! 3. for private registries of Amazon ECR a token that ECR gives to the host's role (`ecr.rs`).
//!
//! What a task brings goes before all of this, and is looked for by `host/logins.rs`: the secret that
//! its `repositoryCredentials` name (`secret.rs`), a token for its execution role, or what the user of
//! `lighter run` is logged in with.
//!
//! Nothing here shows a secret: `Debug` is redacted, and errors name places only.

mod aws;
mod docker;
mod ecr;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod helper;
mod keys;
mod secret;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::ecr::Registry;
use serde::{Deserialize, Serialize};

pub use aws::{Aws, Caller};
pub use docker::config_path;
pub use ecr::{Error as EcrError, Token};
pub use helper::Error as HelperError;
pub use secret::Error as SecretError;

use keys::Keyring;

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
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{path} is not Docker's configuration (line {line}, column {column})")]
    Config { path: PathBuf, line: usize, column: usize },
    #[error("credentials of registry {0:?} are not base64 of user:password")]
    Encoding(String),
    #[error("ask credential helper {helper:?} for the login of {registry}")]
    Helper { helper: String, registry: String, source: Box<HelperError> },
    /// Of whoever asked for the pull.
    #[error("{0}")]
    Given(String),
    #[error(transparent)]
    Ecr(#[from] EcrError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Error {
    /// The Amazon agent's name for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ecr(_) => "CannotPullECRContainerError",
            Self::Secret(_) => "ResourceInitializationError",
            _ => "CannotPullContainerAuthError",
        }
    }
}

/// Who we are to one registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// The host's logins. Clones share what was found.
#[derive(Clone, Default)]
pub struct Auth {
    engine: Arc<Keyring>,
    docker: Option<PathBuf>,
    aws: Option<Aws>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, docker, aws } = self;
        let mut shown = f.debug_struct("Auth");
        shown.field("engine", engine).field("docker", docker).field("aws", &aws.is_some()).finish()
    }
}

impl Auth {
    /// No credentials: every registry is asked anonymously.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// `kind` and `data` are the values of `ECS_ENGINE_AUTH_TYPE` and `ECS_ENGINE_AUTH_DATA`;
    /// `docker_config` is Docker's `config.json`, which need not exist.
    ///
    /// # Errors
    /// If the values cannot be read.
    pub fn load(
        kind: Option<&str>,
        data: Option<&str>,
        docker_config: Option<&Path>,
    ) -> Result<Self, super::Error> {
        let engine = Arc::new(engine::read(kind, data)?);
        Ok(Self { engine, docker: docker_config.map(Path::to_owned), aws: None })
    }

    /// Only what Docker's `config.json` of this user says.
    pub fn of_docker(docker_config: Option<PathBuf>) -> Self {
        Self { docker: docker_config, ..Self::default() }
    }

    /// With tokens for Amazon ECR.
    #[must_use]
    pub fn with_aws(self, aws: Aws) -> Self {
        Self { aws: Some(aws), ..self }
    }

    /// AWS, if it may be asked.
    pub fn aws(&self) -> Option<&Aws> {
        self.aws.as_ref()
    }

    /// The login for a repository of a registry. `host`: with its port if it has one, `docker.io` for
    /// Docker Hub. `None`: anonymous.
    ///
    /// # Errors
    /// If the place that has it cannot be read.
    pub async fn login(&self, host: &str, repository: &str) -> Result<Option<Login>, Error> {
        if let Some(login) = self.engine.find(host, repository) {
            return Ok(Some(login.clone()));
        }
        if let Some(path) = &self.docker
            && let Some(login) = docker::login(path, host, repository).await?
        {
            return Ok(Some(login));
        }
        let Some((aws, registry)) = self.aws.as_ref().zip(Registry::of_host(host)) else {
            return Ok(None);
        };
        let token = Token::of(&registry);
        Ok(Some(aws.token(Caller::Host, &token, host).await?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    async fn login(auth: &Auth, host: &str, repository: &str) -> Option<Login> {
        auth.login(host, repository).await.unwrap()
    }

    fn pair(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[tokio::test]
    async fn the_agent_configuration_wins_over_dockers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text =
            r#"{"auths":{"a.example":{"auth":"YTpi"},"b.example":{"auth":"YTpi"},"c.example":{}}}"#;
        std::fs::write(&path, text).unwrap();
        let data = r#"{"a.example":{"username":"u","password":"p"}}"#;
        let auth = Auth::load(Some("docker"), Some(data), Some(&path)).unwrap();
        assert_eq!(login(&auth, "a.example", "x").await, pair("u", "p"));
        assert_eq!(login(&auth, "b.example", "x").await, pair("a", "b"));
        assert_eq!(login(&auth, "c.example", "x").await, None);
        // Who logs in to a registry need not restart the agent.
        std::fs::write(&path, r#"{"auths":{"c.example":{"auth":"YTpi"}}}"#).unwrap();
        assert_eq!(login(&auth, "b.example", "x").await, None);
        assert_eq!(login(&auth, "c.example", "x").await, pair("a", "b"));
        let absent = Auth::load(None, None, Some(&dir.path().join("absent"))).unwrap();
        assert_eq!(login(&absent, "a.example", "x").await, None);
    }

    #[tokio::test]
    async fn a_configuration_that_cannot_be_read_is_an_error_without_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let auth = Auth::of_docker(Some(path.clone()));
        for text in [
            r#"{"auths":{"h":"hunter2"}}"#,
            r#"{"auths":{"h":{"auth":"hunter2!"}}}"#,
            "hunter2",
            r#"{"credsStore":7,"x":"hunter2"}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let error = auth.login("h", "x").await.unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(docker::LARGEST + 1).unwrap();
        assert!(matches!(auth.login("h", "x").await, Err(Error::TooLarge { .. })));
    }

    #[test]
    fn logins_are_not_shown() {
        let login = Login::Password { user: "alice".to_owned(), password: "hunter2".to_owned() };
        let shown = format!("{login:?} {:?}", Login::IdentityToken("hunter2".to_owned()));
        assert!(!shown.contains("hunter2") && !shown.contains("alice"), "{shown}");
    }
}
