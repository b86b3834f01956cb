//! This host's membership in a cluster: RegisterContainerInstance, and what of it is remembered.
//!
//! Owner: the one row [`ROW`] of the store's host table. It is written before the identity is used,
//! and a token of the request ([`ATTEMPT`]) before that, so that a crash at any moment registers
//! again as the same instance and never as a second one. Errors are sorted into three: tried again
//! for ever ([`Reaction::Retry`]); a missing default cluster, which is made once; and [`Terminal`],
//! upon which the agent ends with exit code 5 and is not started again (protocol reference §2, §5.5).

use std::sync::Arc;
use std::time::Duration;

use protocol::aws_json::ApiError;
use protocol::ecs::{
    self, Attribute, ContainerInstance, RegisterContainerInstanceRequest,
    RegisterContainerInstanceResponse, Resource, Tag, VersionInfo,
};
use protocol::sigv4::sha256_hex;
use serde::{Deserialize, Serialize};

use crate::attributes::{self, NoMemory};
use crate::backend::backoff::{self, Schedule};
use crate::backend::discover::ControlPlane;
use crate::backend::metadata_service::{self, IdentityDocument};
use crate::backend::{CallError, SetupError};
use crate::config::Ecs;
use crate::error::chain;
use crate::failpoint;
use crate::identity::Identity;
use crate::store::{self, Batch, Store, Table};

/// Row of the host table with the registration.
const ROW: &str = "registration";
/// Row of the host table with the registration that was begun.
const ATTEMPT: &str = "registration-attempt";
/// The cluster of those who name none.
const DEFAULT_CLUSTER: &str = "default";

const RETRIES: Schedule = Schedule {
    first: Duration::from_secs(3),
    last: Duration::from_secs(192),
    factor: 2.0,
    jitter: 0.2,
};

/// How the agent names itself to control planes.
pub fn version_info() -> VersionInfo {
    VersionInfo {
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        agent_hash: Some(option_env!("LIGHTER_COMMIT").unwrap_or("unknown").to_owned()),
        docker_version: Some(
            concat!("DockerVersion: lighter-", env!("CARGO_PKG_VERSION")).to_owned(),
        ),
    }
}

/// The agent must not be started again as it is.
#[derive(Debug, thiserror::Error)]
pub enum Terminal {
    #[error(
        "this host is registered in the cluster {stored}, and ECS_CLUSTER names {configured}: set it back, or run `lighter deregister` first"
    )]
    Cluster { stored: String, configured: String },
    #[error(
        "this host is registered in the region {stored}, and {configured} is configured: set it back, or run `lighter deregister` first"
    )]
    Region { stored: String, configured: String },
    #[error("no region is known: set AWS_DEFAULT_REGION in ecs.config")]
    NoRegion,
    #[error(transparent)]
    Memory(#[from] NoMemory),
    #[error("register this host (if its registration is gone, `lighter deregister` forgets it)")]
    Refused(#[source] CallError),
    #[error("register this host: AttributeError: the control plane did not take {names}")]
    Attributes { names: String },
    #[error("register this host: the control plane answers without the ARN of its instance")]
    Answer,
    #[error("set up calls to the control plane")]
    Setup(#[from] SetupError),
    #[error("remember the registration")]
    Store(#[from] store::Error),
}

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub identity: Identity,
    /// Which host it was ([`host_id`]).
    pub host: String,
}

/// A first registration that was begun, written before the call: killed before the answer is
/// remembered, the agent asks for the same instance again.
#[derive(Debug, Serialize, Deserialize)]
struct Attempt {
    token: String,
    /// Digest of the request; another one needs another token.
    request: String,
}

/// How this host joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    /// For the first time.
    New,
    /// As the instance that it is.
    Again(String),
    /// For the first time: what is remembered is of another host, of which this one is a copy.
    Copy,
}

/// The identity rules. `cluster`: as configured, `host`: this one's id.
///
/// # Errors
/// If what is remembered contradicts the configuration.
pub fn join(
    stored: Option<&Registered>,
    cluster: Option<&str>,
    region: &str,
    host: &str,
) -> Result<Join, Terminal> {
    let Some(Registered { identity, host: stored_host }) = stored else { return Ok(Join::New) };
    if let Some(configured) = cluster.filter(|name| !same_cluster(identity, name)) {
        return Err(Terminal::Cluster {
            stored: identity.cluster.clone(),
            configured: configured.to_owned(),
        });
    }
    if identity.region != region {
        return Err(Terminal::Region {
            stored: identity.region.clone(),
            configured: region.to_owned(),
        });
    }
    if stored_host != host {
        return Ok(Join::Copy);
    }
    Ok(Join::Again(identity.container_instance_arn.clone()))
}

fn same_cluster(identity: &Identity, configured: &str) -> bool {
    if configured.starts_with("arn:") {
        configured == identity.cluster_arn
    } else {
        configured == last(&identity.cluster_arn)
    }
}

/// The part of an ARN behind its last slash.
pub fn last(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// What to do about a refused registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    Retry,
    /// The default cluster is not there yet.
    CreateCluster,
    End,
}

/// `defaulted`: nobody named the cluster.
pub fn reaction(error: &ApiError, defaulted: bool) -> Reaction {
    let no_cluster = error.name == "ClusterNotFoundException"
        || (error.name == "ClientException" && error.message.contains("Cluster not found."));
    match error.name.as_str() {
        _ if no_cluster && defaulted => Reaction::CreateCluster,
        // Somebody may create it.
        _ if no_cluster => Reaction::Retry,
        "ClientException" | "InvalidParameterException" => Reaction::End,
        _ if error.message.contains("Container instance type changes are not supported.") => {
            Reaction::End
        }
        _ => Reaction::Retry,
    }
}

/// What the answer makes of this host.
pub fn identity(
    instance: &ContainerInstance,
    cluster: &str,
    region: &str,
) -> Result<Identity, Terminal> {
    let arn = instance.container_instance_arn.clone().filter(|arn| !arn.is_empty());
    let arn = arn.ok_or(Terminal::Answer)?;
    let find = |name: &str| {
        instance.attributes.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    };
    Ok(Identity {
        cluster: cluster.to_owned(),
        cluster_arn: cluster_arn(&arn, cluster),
        region: region.to_owned(),
        availability_zone: find("ecs.availability-zone").and_then(|found| found.value.clone()),
        reports_task_network: find(ecs::TASK_NETWORK_OFFER).is_some(),
        container_instance_arn: arn,
    })
}

/// The cluster's ARN: as configured, else made of the instance's, which names the cluster since
/// the long format.
fn cluster_arn(instance: &str, cluster: &str) -> String {
    if cluster.starts_with("arn:") {
        return cluster.to_owned();
    }
    let mut parts = instance.rsplitn(2, ':');
    let (resource, prefix) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let named = match resource.split('/').collect::<Vec<_>>().as_slice() {
        [_, name, _] => name,
        _ => cluster,
    };
    format!("{prefix}:cluster/{named}")
}

/// What tells this host from its copies: its machine id, else its name.
pub fn host_id() -> String {
    ["/etc/machine-id", "/proc/sys/kernel/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// What is remembered. Blocks.
///
/// # Errors
/// If the store cannot be read.
pub fn load(store: &Store) -> Result<Option<Registered>, store::Error> {
    // Other rows of the table are of other types, which is told per row.
    let rows: store::Rows<Registered> = store.load(Table::Host)?;
    rows.into_iter().find(|(key, _)| key == ROW).map(|(_, row)| row).transpose()
}

/// Remembers. Blocks.
///
/// # Errors
/// If it could not be made durable.
pub fn save(store: &Store, registered: &Registered) -> Result<(), store::Error> {
    let mut batch = Batch::default();
    batch.put(Table::Host, ROW, registered)?;
    batch.remove(Table::Host, ATTEMPT);
    store.commit(batch)
}

/// Forgets. Blocks.
///
/// # Errors
/// If it could not be made durable.
pub fn forget(store: &Store) -> Result<(), store::Error> {
    let mut batch = Batch::default();
    batch.remove(Table::Host, ROW);
    batch.remove(Table::Host, ATTEMPT);
    store.commit(batch)
}

/// The token of the attempt at this request, which is remembered. Blocks.
fn attempt(store: &Store, request: String) -> Result<String, store::Error> {
    let rows: store::Rows<Attempt> = store.load(Table::Host)?;
    let begun = rows.into_iter().find(|(key, _)| key == ATTEMPT).map(|(_, row)| row).transpose()?;
    if let Some(attempt) = begun.filter(|attempt| attempt.request == request) {
        return Ok(attempt.token);
    }
    let attempt = Attempt { token: uuid::Uuid::new_v4().to_string(), request };
    let mut batch = Batch::default();
    batch.put(Table::Host, ATTEMPT, &attempt)?;
    store.commit(batch)?;
    Ok(attempt.token)
}

fn digest(request: &RegisterContainerInstanceRequest) -> String {
    let request = RegisterContainerInstanceRequest { client_token: None, ..request.clone() };
    sha256_hex(&serde_json::to_vec(&request).unwrap_or_default())
}

/// One registration.
#[derive(Debug)]
pub struct Request<'a> {
    pub ecs: &'a Ecs,
    pub region: &'a str,
    pub join: &'a Join,
    /// Of what is remembered, where it stays: `default` may stand for what nobody named.
    pub stored_cluster: Option<&'a str>,
    pub attributes: Vec<Attribute>,
    pub resources: Vec<Resource>,
}

/// Registers, for as long as it takes.
///
/// # Errors
/// If trying again cannot help.
pub async fn register(
    control_plane: &ControlPlane,
    store: &Arc<Store>,
    request: Request<'_>,
) -> Result<Identity, Terminal> {
    let Request { ecs: config, region, join, stored_cluster, attributes, resources } = request;
    let named = config.cluster.as_deref().or(stored_cluster);
    let cluster = named.unwrap_or(DEFAULT_CLUSTER).to_owned();
    let arn = match join {
        Join::Again(arn) => Some(arn.clone()),
        Join::New | Join::Copy => None,
    };
    let mut body = RegisterContainerInstanceRequest {
        cluster: Some(cluster.clone()),
        instance_identity_document: Some(String::new()),
        instance_identity_document_signature: Some(String::new()),
        total_resources: Some(resources),
        version_info: Some(version_info()),
        container_instance_arn: arn,
        attributes: Some(attributes),
        platform_devices: None,
        tags: Some(tags(config)).filter(|tags| !tags.is_empty()),
        client_token: None,
    };
    let mut failures = 0;
    // Amazon asks for proof; it is asked for until it is there.
    let mut proof_missing = config.backend_host.is_none() && !config.external;
    loop {
        if proof_missing {
            match metadata_service::identity_document().await {
                Ok(IdentityDocument { document, signature }) => {
                    body.instance_identity_document = Some(document);
                    body.instance_identity_document_signature = Some(signature);
                    proof_missing = false;
                }
                Err(error) => {
                    wait(&mut failures, &error).await;
                    continue;
                }
            }
        }
        if body.container_instance_arn.is_none() {
            let request = digest(&body);
            body.client_token = Some(with_store(store, |store| attempt(store, request)).await?);
        }
        failpoint::hit("register.before");
        let answer: Result<RegisterContainerInstanceResponse, CallError> =
            control_plane.call("RegisterContainerInstance", &body).await;
        let error = match answer {
            Ok(answer) => {
                let instance = answer.container_instance.ok_or(Terminal::Answer)?;
                let sent = body.attributes.as_deref().unwrap_or_default();
                let missing = attributes::not_echoed(sent, &instance.attributes);
                if !missing.is_empty() {
                    return Err(Terminal::Attributes { names: missing.join(", ") });
                }
                return identity(&instance, &cluster, region);
            }
            Err(error) => error,
        };
        let reaction = error
            .api()
            .map_or(Reaction::Retry, |api| reaction(api, named.is_none() && failures == 0));
        match reaction {
            Reaction::End => return Err(Terminal::Refused(error)),
            Reaction::Retry => wait(&mut failures, &error).await,
            Reaction::CreateCluster => {
                failures += 1;
                let request = ecs::CreateClusterRequest {
                    cluster_name: Some(cluster.clone()),
                    ..ecs::CreateClusterRequest::default()
                };
                let created: Result<serde_json::Value, _> =
                    control_plane.call("CreateCluster", &request).await;
                if let Err(error) = created {
                    wait(&mut failures, &error).await;
                }
            }
        }
    }
}

async fn wait(failures: &mut u32, error: &(dyn std::error::Error + Send + Sync)) {
    *failures = failures.saturating_add(1);
    let pause = RETRIES.pause(*failures, backoff::random());
    tracing::warn!(
        error = chain(error),
        seconds = pause.as_secs(),
        "not registered yet; will try again"
    );
    tokio::time::sleep(pause).await;
}

fn tags(config: &Ecs) -> Vec<Tag> {
    config
        .instance_tags
        .iter()
        .map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) })
        .collect()
}

/// Runs something on the store that blocks.
pub(crate) async fn with_store<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
) -> Result<T, store::Error> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => result,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INSTANCE: &str = "arn:aws:ecs:eu-x-1:1:container-instance/prod/abc";

    fn registered() -> Registered {
        let instance = ContainerInstance {
            container_instance_arn: Some(INSTANCE.to_owned()),
            ..ContainerInstance::default()
        };
        Registered {
            identity: identity(&instance, "prod", "eu-x-1").unwrap(),
            host: "one".to_owned(),
        }
    }

    #[test]
    fn identity_rules() {
        let stored = registered();
        let again = || Join::Again(INSTANCE.to_owned());
        let arn = "arn:aws:ecs:eu-x-1:1:cluster/prod";
        assert_eq!(stored.identity.cluster_arn, arn);
        for (cluster, host, expected) in [
            (None, "one", again()),
            (Some("prod"), "one", again()),
            (Some(arn), "one", again()),
            (Some("prod"), "two", Join::Copy),
        ] {
            assert_eq!(join(Some(&stored), cluster, "eu-x-1", host).unwrap(), expected);
        }
        assert_eq!(join(None, Some("x"), "eu-x-1", "one").unwrap(), Join::New);
        for cluster in ["test", "arn:aws:ecs:eu-x-1:2:cluster/prod"] {
            let error = join(Some(&stored), Some(cluster), "eu-x-1", "two").unwrap_err();
            assert!(matches!(error, Terminal::Cluster { .. }), "{error}");
        }
        let error = join(Some(&stored), None, "us-x-1", "one").unwrap_err();
        assert!(matches!(error, Terminal::Region { .. }), "{error}");
    }

    #[test]
    fn clusters_of_instances() {
        for (instance, cluster, expected) in [
            (INSTANCE, "prod", "arn:aws:ecs:eu-x-1:1:cluster/prod"),
            ("arn:aws:ecs:r:1:container-instance/abc", "old", "arn:aws:ecs:r:1:cluster/old"),
            (INSTANCE, "arn:aws:ecs:eu-x-1:1:cluster/p", "arn:aws:ecs:eu-x-1:1:cluster/p"),
        ] {
            assert_eq!(cluster_arn(instance, cluster), expected);
        }
    }

    #[test]
    fn reactions_to_refusals() {
        let error = ApiError::client;
        for (error, defaulted, expected) in [
            (error("ClientException", "Cluster not found."), true, Reaction::CreateCluster),
            (error("ClusterNotFoundException", "x"), true, Reaction::CreateCluster),
            (error("ClientException", "Cluster not found."), false, Reaction::Retry),
            (error("ClientException", "no"), true, Reaction::End),
            (error("InvalidParameterException", "no"), false, Reaction::End),
            (
                error("X", "Container instance type changes are not supported."),
                false,
                Reaction::End,
            ),
            (error("ThrottlingException", "slow down"), false, Reaction::Retry),
            (error("LimitExceededException", ""), false, Reaction::Retry),
            (error("AccessDeniedException", "no"), false, Reaction::Retry),
            (ApiError::server("x"), false, Reaction::Retry),
        ] {
            assert_eq!(reaction(&error, defaulted), expected, "{error}");
        }
    }

    #[test]
    fn the_answer_is_remembered_and_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("state.redb")).unwrap();
        assert_eq!(load(&store).unwrap(), None);
        save(&store, &registered()).unwrap();
        assert_eq!(load(&store).unwrap(), Some(registered()));
        forget(&store).unwrap();
        assert_eq!(load(&store).unwrap(), None);
    }

    #[test]
    fn an_answer_without_arn_is_no_identity() {
        let instance = ContainerInstance {
            attributes: vec![Attribute {
                name: Some(ecs::TASK_NETWORK_OFFER.to_owned()),
                ..Attribute::default()
            }],
            ..ContainerInstance::default()
        };
        assert!(matches!(identity(&instance, "c", "r"), Err(Terminal::Answer)));
        let instance =
            ContainerInstance { container_instance_arn: Some(INSTANCE.to_owned()), ..instance };
        assert!(identity(&instance, "c", "r").unwrap().reports_task_network);
    }
}
