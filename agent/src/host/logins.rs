//! What tasks bring to log in to their images' registries, looked for when an image is pulled: the
//! secret of `repositoryCredentials`, a token of Amazon ECR for the execution role, or what the user of
//! `lighter run` is logged in with. A task without any is pulled for with the host's own logins.
//!
//! Owner: [`Logins`]. What a user gave lives in memory only, until the image is resolved or the task is
//! released; after a restart of the agent the host's own logins stand in. A task of a control plane whose
//! execution role's credentials are not there, as after a restart, waits a minute for them. Source:
//! protocol reference §8.3, §14.4.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::ecr::Registry;
use protocol::ids::TaskId;

use crate::api::types::GivenLogin;
use crate::backend::credentials::Keys;
use crate::credentials::{Credentials, RoleType};
use crate::engine::Task;
use crate::image::auth::{Aws, Caller, EcrError, Error, SecretError, Token};
use crate::image::{Login, Reference};

/// How long the credentials of an execution role may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module's documentation.
#[derive(Debug)]
pub struct Logins {
    aws: Aws,
    roles: Credentials,
    /// By the container's index.
    given: Mutex<BTreeMap<(TaskId, usize), GivenLogin>>,
}

impl Logins {
    /// `roles`: where the control plane's session puts the credentials of tasks' roles.
    pub fn new(aws: Aws, roles: Credentials) -> Self {
        Self { aws, roles, given: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(TaskId, usize), GivenLogin>> {
        // Each critical section is one map operation: what a panic left is whole.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a user is logged in with to the registry of a container's image.
    pub fn give(&self, task: &TaskId, container: usize, login: GivenLogin) {
        self.lock().insert((task.clone(), container), login);
    }

    /// The container's image is resolved.
    pub(super) fn forget_container(&self, task: &TaskId, container: usize) {
        self.lock().remove(&(task.clone(), container));
    }

    /// Drops all that was given for a task.
    pub fn forget(&self, task: &TaskId) {
        self.lock().retain(|(of, _), _| of != task);
    }

    /// The login that a container's task brings. `None`: none of its own.
    ///
    /// # Errors
    /// If there should be one and it cannot be had.
    pub async fn of(&self, task: &Task, container: usize) -> Result<Option<Login>, Error> {
        let Some(definition) = task.container_definition(container) else { return Ok(None) };
        let told = task.ecs.as_ref().and_then(|ecs| ecs.registry_authentication.get(container));
        let told = told.and_then(Option::as_ref);
        if let Some(secret) = &definition.repository_credentials {
            let region = told
                .and_then(|told| told.asm_auth_data.as_ref())
                .and_then(|data| data.region.as_deref());
            // Without a control plane nobody assumes a role.
            let caller = match &task.ecs {
                Some(_) => self.role(task).await.ok_or(SecretError::NoCredentials)?,
                None => Caller::Host,
            };
            return Ok(Some(self.aws.secret(caller, secret, region).await?));
        }
        let told = told.filter(|told| told.kind.as_deref() == Some("ecr"));
        if let Some(data) = told.and_then(|told| told.ecr_auth_data.as_ref())
            // Why another name is refused, the pull tells.
            && let Ok(reference) = Reference::parse(&definition.image)
        {
            let token = Token::as_told(data, reference.domain())?;
            let caller = if data.use_execution_role == Some(true) {
                self.role(task).await.ok_or(EcrError::NoCredentials)?
            } else {
                Caller::Host
            };
            return Ok(Some(self.aws.token(caller, &token, reference.domain()).await?));
        }
        let given = self.lock().get(&(task.id.clone(), container)).cloned();
        given.map(GivenLogin::into_login).transpose()
    }

    /// What goes before a registry's refusal of a container's image, in the words of the Amazon agent:
    /// a registry of Amazon ECR does not tell an image that is missing from one that may not be pulled.
    pub fn advice(&self, task: &Task, image: &str) -> String {
        if Registry::of_image(image).is_none() {
            return String::new();
        }
        let role = self.roles.of(&task.id, RoleType::Execution);
        let name = role.as_ref().and_then(|role| role.role_arn.as_deref()?.rsplit('/').next());
        let name = name.map(|name| format!("'{name}' ")).unwrap_or_default();
        format!(
            "Check if image exists and role {name}has permissions to pull images from Amazon ECR. "
        )
    }

    /// The task's execution role; `None` if its credentials do not come.
    async fn role(&self, task: &Task) -> Option<Caller> {
        if !self.aws.asks_for_roles() {
            return Some(Caller::Host);
        }
        task.ecs.as_ref()?.execution_credentials.as_ref()?;
        let newest = self.roles.wait(&task.id, RoleType::Execution, PATIENCE).await?;
        let keys = Keys::of_role(&newest)?;
        Some(Caller::Role { arn: newest.role_arn.clone().unwrap_or_default(), keys })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use protocol::acs::{self, AsmAuthData, EcrAuthData, RegistryAuthentication};
    use protocol::taskdef::{ContainerDefinition, NetworkMode, TaskDefinition};
    use serde_json::json;

    use super::*;
    use crate::api::types::PullPolicy;
    use crate::backend::testing::{Answer, Server};
    use crate::engine::{self, EcsTask, Event, Host, NewTask};
    use crate::fixtures;

    fn task(container: ContainerDefinition, ecs: Option<EcsTask>) -> Task {
        let id = TaskId::from_random(7);
        let new = NewTask {
            id: id.clone(),
            definition: TaskDefinition::of("f".to_owned(), NetworkMode::Host, vec![container]),
            pull: PullPolicy::Missing,
            remove: false,
            ecs: ecs.map(Box::new),
            ended: None,
            endpoints: Vec::new(),
            busy_ports: Default::default(),
        };
        let mut host = Host::new(fixtures::settings());
        engine::step(&mut host, Event::Run(Box::new(new)), jiff::Timestamp::UNIX_EPOCH);
        host.tasks.remove(&id).unwrap()
    }

    fn of_secret(secret: &str) -> ContainerDefinition {
        ContainerDefinition {
            repository_credentials: Some(secret.to_owned()),
            ..fixtures::container("c", "r.example/app")
        }
    }

    fn secret(password: &str) -> Answer {
        let secret = json!({"username": "u", "password": password}).to_string();
        Answer::ok(&json!({"SecretString": secret}).to_string())
    }

    fn pair(user: &str, password: &str) -> Option<Login> {
        Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
    }

    fn told(authentication: RegistryAuthentication, execution: bool) -> Option<EcsTask> {
        Some(EcsTask {
            registry_authentication: vec![Some(authentication)],
            execution_credentials: execution.then(|| "id".to_owned()),
            ..EcsTask::default()
        })
    }

    fn asm() -> RegistryAuthentication {
        RegistryAuthentication {
            kind: Some("asm".to_owned()),
            asm_auth_data: Some(AsmAuthData {
                credentials_parameter: Some("login".to_owned()),
                region: Some("eu-y-1".to_owned()),
            }),
            ..RegistryAuthentication::default()
        }
    }

    fn set() -> acs::Credentials {
        acs::Credentials {
            credentials_id: Some("id".to_owned()),
            role_arn: Some("arn:aws:iam::1:role/puller".to_owned()),
            access_key_id: Some("ASIAROLE".to_owned()),
            secret_access_key: Some("very-secret".to_owned()),
            ..acs::Credentials::default()
        }
    }

    #[tokio::test]
    async fn a_secret_is_read_anew_and_in_the_roles_name() {
        let server = Server::start(vec![secret("one"), secret("two"), secret("three")]).await;
        let roles = Credentials::default();
        let logins = Logins::new(Aws::testing(&server.endpoint()), roles.clone());
        let alone = task(of_secret("login"), None);
        assert_eq!(logins.of(&alone, 0).await.unwrap(), pair("u", "one"));
        assert_eq!(logins.of(&alone, 0).await.unwrap(), pair("u", "two"));
        let told = task(of_secret("login"), told(asm(), true));
        // The credentials come while it waits.
        let put = async {
            tokio::task::yield_now().await;
            roles.put(told.id.clone(), RoleType::Execution, set());
        };
        let (found, ()) = tokio::join!(logins.of(&told, 0), put);
        assert_eq!(found.unwrap(), pair("u", "three"));
        let requests = server.requests();
        let signed: Vec<_> = requests.iter().map(|r| r.header("authorization").unwrap()).collect();
        assert!(signed[0].contains("Credential=AKIAHOST/") && signed[0].contains("/eu-x-1/"));
        assert!(signed[2].contains("Credential=ASIAROLE/") && signed[2].contains("/eu-y-1/"));
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_named_as_the_amazon_agent_does() {
        let server = Server::start(vec![Answer::refusal("ResourceNotFoundException")]).await;
        let logins = Logins::new(Aws::testing(&server.endpoint()), Credentials::default());
        let of = async |task: Task| {
            let error = logins.of(&task, 0).await.unwrap_err();
            format!("{}: {}", error.name(), crate::error::chain(&error))
        };
        assert_eq!(
            of(task(of_secret("login"), None)).await,
            "ResourceInitializationError: asm fetching secret from the service for login: \
             GetSecretValue is refused: ResourceNotFoundException: no"
        );
        assert_eq!(
            of(task(of_secret("login"), told(asm(), false))).await,
            "ResourceInitializationError: asm resource: unable to find execution role credentials \
             (the control plane has sent none)"
        );
        let ecr = |role| RegistryAuthentication {
            kind: Some("ecr".to_owned()),
            ecr_auth_data: Some(EcrAuthData {
                registry_id: Some("123456789012".to_owned()),
                region: Some("eu-x-1".to_owned()),
                endpoint_override: None,
                use_execution_role: Some(role),
            }),
            ..RegistryAuthentication::default()
        };
        let image = "123456789012.dkr.ecr.eu-x-1.amazonaws.com/app";
        let container = || fixtures::container("c", image);
        let error = of(task(container(), told(ecr(true), false))).await;
        assert!(
            error.starts_with("CannotPullECRContainerError: engine ecr credentials: not found"),
            "{error}"
        );
        let error = of(task(container(), told(ecr(false), false))).await;
        assert!(error.starts_with("CannotPullECRContainerError: ecr auth: missing"), "{error}");
        let given = task(fixtures::container("c", "r.example/app"), None);
        logins.give(&given.id, 0, GivenLogin::Failed("no helper".to_owned()));
        assert_eq!(of(given).await, "CannotPullContainerAuthError: no helper");
    }

    #[test]
    fn advice_is_given_for_amazon_ecr_only() {
        let roles = Credentials::default();
        let logins = Logins::new(Aws::testing("http://127.0.0.1:1"), roles.clone());
        let task = task(fixtures::container("c", "r.example/app"), None);
        let image = "123456789012.dkr.ecr.eu-x-1.amazonaws.com/app";
        assert_eq!(logins.advice(&task, "r.example/app"), "");
        assert_eq!(
            logins.advice(&task, image),
            "Check if image exists and role has permissions to pull images from Amazon ECR. "
        );
        roles.put(task.id.clone(), RoleType::Execution, set());
        assert_eq!(
            logins.advice(&task, image),
            "Check if image exists and role 'puller' has permissions to pull images from Amazon ECR. "
        );
    }

    #[tokio::test]
    async fn what_a_user_gave_is_for_one_container_until_it_is_forgotten() {
        let logins = Logins::new(Aws::testing("http://127.0.0.1:1"), Credentials::default());
        let task = task(fixtures::container("c", "r.example/app"), None);
        let login = pair("u", "p").unwrap();
        assert_eq!(logins.of(&task, 0).await.unwrap(), None);
        logins.give(&task.id, 0, GivenLogin::Login(login.clone()));
        logins.give(&task.id, 1, GivenLogin::Login(login.clone()));
        assert_eq!(logins.of(&task, 0).await.unwrap(), Some(login.clone()));
        logins.forget_container(&task.id, 0);
        assert_eq!(logins.of(&task, 0).await.unwrap(), None);
        logins.give(&task.id, 0, GivenLogin::Login(login));
        logins.forget(&task.id);
        assert!(logins.lock().is_empty());
    }
}
