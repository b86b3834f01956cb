//! Access keys and roles: made, listed and taken away by whoever administers the control plane, from
//! its command line ([`cli`](crate::cli)), never over the API.
//!
//! A [`Request`] is performed on the state by who has the store open: the serving process, which is
//! asked over its socket, or the command itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{AccessKey, Entity, Role};
use crate::state::{self, State};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    CreateKey { account: String, allow: Vec<String>, description: Option<String> },
    ListKeys,
    RevokeKey { id: String },
    CreateRole { name: String, allow: Vec<String> },
    ListRoles,
    DeleteRole { name: String },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// A new key, with its secret, which is told this once.
    Key(AccessKey),
    /// Permanent keys; their secrets are left out.
    Keys(Vec<Listed>),
    Role(Role),
    Roles(Vec<Role>),
    /// It is gone.
    Gone,
    Refused(String),
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    pub access_key_id: String,
    pub principal: String,
    pub allow: Vec<String>,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("draw an access key: the system has no random numbers")]
    Random,
    #[error("there is no access key {0}")]
    NoKey(String),
    #[error("there is no role {0}")]
    NoRole(String),
    #[error("a role {0} exists; delete it first to define it anew")]
    RoleExists(String),
    #[error(transparent)]
    State(#[from] state::Error),
}

/// Does what is asked.
///
/// # Errors
/// If it cannot be done, or the store fails.
pub async fn perform(state: &State, request: Request, now: Timestamp) -> Result<Answer, Error> {
    match request {
        Request::CreateKey { account, allow, description } => {
            let id = AccessKey::id_of("AKIA", &random::<16>()?);
            let key = AccessKey {
                secret: secret()?,
                session_token: None,
                principal: format!("arn:aws:iam::{account}:user/{id}"),
                id,
                allow,
                created_at: now,
                expires_at: None,
                description,
                task: None,
            };
            let create = |_: &_, edit: &mut state::Edit| {
                edit.create(&key);
                Ok::<_, Error>(())
            };
            state.transact(create).await?;
            Ok(Answer::Key(key))
        }
        Request::ListKeys => {
            let view = state.view();
            let keys = view.keys.iter().filter(|key| key.task.is_none());
            Ok(Answer::Keys(keys.map(|key| Listed::of(key)).collect()))
        }
        Request::RevokeKey { id } => {
            let revoke = |view: &state::View, edit: &mut state::Edit| {
                let key = view.keys.get(&format!("{}{id}", AccessKey::PREFIX));
                edit.delete(key.ok_or_else(|| Error::NoKey(id.clone()))?);
                Ok::<_, Error>(())
            };
            state.transact(revoke).await?;
            Ok(Answer::Gone)
        }
        Request::CreateRole { name, allow } => {
            let role = Role { name, allow, created_at: now };
            let create = |view: &state::View, edit: &mut state::Edit| {
                if view.roles.get(&role.key()).is_some() {
                    return Err(Error::RoleExists(role.name.clone()));
                }
                edit.create(&role);
                Ok(())
            };
            state.transact(create).await?;
            Ok(Answer::Role(role))
        }
        Request::ListRoles => {
            let view = state.view();
            Ok(Answer::Roles(view.roles.iter().map(|role| role.value.clone()).collect()))
        }
        Request::DeleteRole { name } => {
            let delete = |view: &state::View, edit: &mut state::Edit| {
                let role = view.roles.get(&format!("{}{name}", Role::PREFIX));
                edit.delete(role.ok_or_else(|| Error::NoRole(name.clone()))?);
                // What tasks hold of the role ends with it.
                let held = format!(":assumed-role/{name}/");
                let keys = view.keys.iter().filter(|key| key.task.is_some());
                keys.filter(|key| key.principal.contains(&held)).for_each(|key| edit.delete(key));
                Ok::<_, Error>(())
            };
            state.transact(delete).await?;
            Ok(Answer::Gone)
        }
    }
}

impl Listed {
    fn of(key: &AccessKey) -> Self {
        Self {
            access_key_id: key.id.clone(),
            principal: key.principal.clone(),
            allow: key.allow.clone(),
            created_at: key.created_at,
            description: key.description.clone(),
        }
    }
}

/// Whether a role can have this name, as IAM has it.
pub fn is_role_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte))
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_unspecified| Error::Random)?;
    Ok(bytes)
}

/// 40 characters of base 64 as AWS's are, 240 random bits.
fn secret() -> Result<String, Error> {
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::STANDARD.encode(random::<30>()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::state::testing;

    fn create_key() -> Request {
        Request::CreateKey {
            account: "000000000000".to_owned(),
            allow: vec!["*".to_owned()],
            description: Some("mine".to_owned()),
        }
    }

    #[tokio::test]
    async fn keys() {
        let (_directory, state) = testing::open().await;
        let now = Timestamp::now();
        let Answer::Key(key) = perform(&state, create_key(), now).await.unwrap() else { panic!() };
        let Answer::Key(other) = perform(&state, create_key(), now).await.unwrap() else {
            panic!()
        };
        assert!(key.id != other.id && key.secret != other.secret);
        assert_eq!((key.id.len(), key.secret.len()), (20, 40));
        let mut minted = key.clone();
        minted.id = "ASIA".to_owned();
        minted.task = Some("task".to_owned());
        let put = |_: &_, edit: &mut state::Edit| {
            edit.put(&minted);
            Ok::<_, Error>(())
        };
        state.transact(put).await.unwrap();

        let revoke = Request::RevokeKey { id: other.id.clone() };
        assert_eq!(perform(&state, revoke.clone(), now).await.unwrap(), Answer::Gone);
        assert!(
            matches!(perform(&state, revoke, now).await, Err(Error::NoKey(id)) if id == other.id)
        );
        let listed = perform(&state, Request::ListKeys, now).await.unwrap();
        assert_eq!(listed, Answer::Keys(vec![Listed::of(&key)]));
        assert!(!serde_json::to_string(&listed).unwrap().contains(&key.secret));
    }

    #[tokio::test]
    async fn a_role_ends_with_its_credentials() {
        let (_directory, state) = testing::open().await;
        let now = Timestamp::now();
        let create = |name: &str| Request::CreateRole { name: name.to_owned(), allow: Vec::new() };
        perform(&state, create("web"), now).await.unwrap();
        perform(&state, create("webber"), now).await.unwrap();
        let again = perform(&state, create("web"), now).await;
        assert!(matches!(again, Err(Error::RoleExists(_))));
        let Answer::Key(key) = perform(&state, create_key(), now).await.unwrap() else { panic!() };
        let minted = |id: &str, role: &str| AccessKey {
            id: id.to_owned(),
            principal: format!("arn:aws:sts::000000000000:assumed-role/{role}/task"),
            task: Some("task".to_owned()),
            ..key.clone()
        };
        let put = |_: &_, edit: &mut state::Edit| {
            edit.put(&minted("ASIA1", "web"));
            edit.put(&minted("ASIA2", "webber"));
            Ok::<_, Error>(())
        };
        state.transact(put).await.unwrap();

        let delete = Request::DeleteRole { name: "web".to_owned() };
        assert_eq!(perform(&state, delete.clone(), now).await.unwrap(), Answer::Gone);
        assert!(matches!(perform(&state, delete, now).await, Err(Error::NoRole(_))));
        let left: Vec<String> = state.view().keys.iter().map(|key| key.id.clone()).collect();
        assert_eq!(left, [key.id.as_str(), "ASIA2"]);
        let Answer::Roles(roles) = perform(&state, Request::ListRoles, now).await.unwrap() else {
            panic!()
        };
        assert_eq!(roles.iter().map(|role| role.name.as_str()).collect::<Vec<_>>(), ["webber"]);
    }

    #[test]
    fn role_names() {
        assert!(is_role_name("ecsTaskRole-1_+=,.@"));
        for bad in ["", "a/b", "a b", "é", &"a".repeat(65)] {
            assert!(!is_role_name(bad), "{bad}");
        }
    }
}
