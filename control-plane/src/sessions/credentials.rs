//! Temporary credentials of tasks' roles.
//!
//! A set is an [`AccessKey`] with the role's rights, stored before it is sent. Each task has two
//! places per kind of role, whose ids follow from the task: so a set is found without a search, a
//! renewal is written into the place that is not in use, and a session that begins finds the sets
//! of the last one. A set lasts six hours and is renewed when less than two are left; sets of tasks
//! that have ended are deleted within half a minute.
//!
//! The id by which containers fetch a set follows from its secret: who has the one cannot guess
//! another, and it is the same after a restart.

use jiff::{SignedDuration, Timestamp};
use protocol::acs;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::failpoint;
use crate::model::{AccessKey, Entity, Role, Task};
use crate::state::{self, State, Stored, View};

const LIFETIME: SignedDuration = SignedDuration::from_hours(6);
const RENEW: SignedDuration = SignedDuration::from_hours(2);
/// Most deletions of one transaction.
const BATCH: usize = 200;

/// For whom a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The task's containers.
    Application,
    /// The agent, on the task's behalf.
    Execution,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Application, Self::Execution];

    /// `roleType`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Application => acs::TASK_APPLICATION,
            Self::Execution => acs::TASK_EXECUTION,
        }
    }

    /// The role that the task has.
    pub(super) fn role(self, task: &Task) -> Option<&str> {
        match self {
            Self::Application => task.task_role_arn.as_deref(),
            Self::Execution => task.execution_role_arn.as_deref(),
        }
    }
}

/// A task's role is not there (any more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    /// Key of the task.
    pub(super) task: String,
    pub(super) role_arn: String,
}

/// The task as access keys name it.
fn owner(task: &Task) -> String {
    format!("{}/{}/{}", task.region, task.cluster, task.id)
}

/// The access key id of a place.
fn place(owner: &str, kind: Kind, number: u8) -> String {
    let digest = Sha256::new()
        .chain_update(owner)
        .chain_update("/")
        .chain_update(kind.name())
        .chain_update([number])
        .finalize();
    AccessKey::id_of("ASIA", digest.iter().take(16))
}

/// The records of both places.
fn places<'v>(view: &'v View, owner: &str, kind: Kind) -> [Option<&'v Stored<AccessKey>>; 2] {
    [0, 1].map(|number| {
        let key = format!("{}{}", AccessKey::PREFIX, place(owner, kind, number));
        view.keys.get(&key).filter(|key| key.task.as_deref() == Some(owner))
    })
}

/// The task's set that lasts longest, if it lasts at all.
pub(super) fn current<'v>(
    view: &'v View,
    task: &Task,
    kind: Kind,
    now: Timestamp,
) -> Option<&'v Stored<AccessKey>> {
    let sets = places(view, &owner(task), kind).into_iter().flatten();
    sets.filter(|key| key.expires_at > Some(now)).max_by_key(|key| key.expires_at)
}

/// The set as it goes to the agent. `role` is the task's: an ARN or a name.
pub(super) fn wire(key: &AccessKey, kind: Kind, role: &str, account: &str) -> acs::Credentials {
    let whole =
        key.expires_at.map(|at| Timestamp::from_second(at.as_second()).unwrap_or(at).to_string());
    acs::Credentials {
        credentials_id: Some(credentials_id(key, kind)),
        role_arn: Some(Role::arn_of(account, role)),
        access_key_id: Some(key.id.clone()),
        secret_access_key: Some(key.secret.clone()),
        session_token: key.session_token.clone(),
        expiration: whole,
        credential_scope: None,
    }
}

fn credentials_id(key: &AccessKey, kind: Kind) -> String {
    let digest = Sha256::new()
        .chain_update("credentials id/")
        .chain_update(kind.name())
        .chain_update("/")
        .chain_update(&key.secret)
        .finalize();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest.iter()).for_each(|(byte, digit)| *byte = *digit);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Random texts of a new set.
#[derive(Debug, Clone)]
struct Fresh {
    secret: String,
    token: String,
}

impl Fresh {
    fn draw() -> Self {
        Self {
            // 40 characters, as those of AWS.
            secret: encode(&random()[..30]),
            token: encode(&[random(), random()].concat()),
        }
    }
}

/// From 366 bits of the system's randomness.
fn random() -> [u8; 32] {
    let digest = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()]
        .iter()
        .fold(Sha256::new(), |digest, uuid| digest.chain_update(uuid.as_bytes()));
    digest.finalize().into()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The last part of a role's ARN.
fn role_name(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// Mints sets for those of the tasks (by their keys) that have a role and no set which still lasts
/// long enough. Returns the roles that are not there.
pub(super) async fn ensure(
    state: &State,
    account: &str,
    tasks: &[String],
    now: Timestamp,
) -> Result<Vec<Missing>, state::Error> {
    let wanted = {
        let view = state.view();
        let sets = |key: &String| {
            let task = view.tasks.get(key)?;
            Some(Kind::ALL.into_iter().filter(|kind| is_due(&view, task, *kind, now)).count())
        };
        tasks.iter().filter_map(sets).sum::<usize>()
    };
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let fresh: Vec<_> = std::iter::repeat_with(Fresh::draw).take(tasks.len() * 2).collect();
    failpoint::hit("credentials.before");
    let minted = state
        .transact(|view, edit| {
            let mut fresh = fresh.iter();
            let mut missing = Vec::new();
            for task in tasks.iter().filter_map(|key| view.tasks.get(key)) {
                let owner = owner(task);
                for kind in Kind::ALL.into_iter().filter(|kind| is_due(view, task, *kind, now)) {
                    let Some(role_arn) = kind.role(task) else { continue };
                    let name = role_name(role_arn);
                    let Some(role) = view.roles.get(&format!("{}{name}", Role::PREFIX)) else {
                        let role_arn = role_arn.to_owned();
                        missing.push(Missing { task: task.key(), role_arn });
                        continue;
                    };
                    // As many were drawn as there can be kinds of tasks.
                    let Some(fresh) = fresh.next() else { continue };
                    let places = places(view, &owner, kind);
                    let [first, second] = places.map(|key| key.and_then(|key| key.expires_at));
                    // Of an empty place and a used one the empty one, else the older set's.
                    let number = u8::from(second < first);
                    let key = AccessKey {
                        id: place(&owner, kind, number),
                        secret: fresh.secret.clone(),
                        session_token: Some(fresh.token.clone()),
                        principal: format!(
                            "arn:aws:sts::{account}:assumed-role/{}/{}",
                            role.name, task.id
                        ),
                        allow: role.allow.clone(),
                        created_at: now,
                        expires_at: Some(now + LIFETIME),
                        description: Some(kind.name().to_owned()),
                        task: Some(owner.clone()),
                    };
                    match places.get(usize::from(number)).copied().flatten() {
                        Some(before) => edit.update(before, &key),
                        None => edit.create(&key),
                    }
                }
            }
            Ok(missing)
        })
        .await;
    failpoint::hit("credentials.stored");
    minted
}

fn is_due(view: &View, task: &Task, kind: Kind, now: Timestamp) -> bool {
    kind.role(task).is_some()
        && current(view, task, kind, now).is_none_or(|key| key.expires_at <= Some(now + RENEW))
}

/// Deletes sets that have expired, and those of tasks that have ended.
pub(super) async fn sweep(state: &State) -> Result<(), state::Error> {
    loop {
        let now = Timestamp::now();
        let deleted = state
            .transact(|view, edit| {
                let over = view.keys.iter().filter(|key| is_over(view, key, now));
                let over = over.take(BATCH).map(|key| edit.delete(key)).count();
                Ok::<_, state::Error>(over)
            })
            .await?;
        if deleted < BATCH {
            return Ok(());
        }
    }
}

fn is_over(view: &View, key: &AccessKey, now: Timestamp) -> bool {
    let Some(owner) = &key.task else { return false };
    let task = view.tasks.get(&format!("{}{owner}", Task::PREFIX));
    key.expires_at.is_some_and(|at| at <= now) || task.is_none_or(|task| !task.is_live())
}
