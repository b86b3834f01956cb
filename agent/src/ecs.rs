//! This host as a member of a cluster: what runs beside the engine once a control plane is
//! configured.
//!
//! ```text
//! start ─▶ registration ──▶ identity (watch) ──▶ metadata, introspection
//!              │ once registered
//!              ├─▶ acs::session ──Input──▶ owner
//!              ├─▶ tcs::session ◀──points── stats
//!              └─▶ reporter ◀──snapshots── owner
//! ```
//!
//! None of it can stop the engine or the local API: a control plane that is away is tried again for
//! ever. Only what no attempt can mend ([`Terminal`]) ends the agent, with exit code 5; its tasks
//! run on. [`Membership`] is there in every mode, so that a host can also leave its cluster when no
//! session runs.

use std::sync::{Arc, Weak};

use protocol::ecs::DeregisterContainerInstanceRequest;
use tokio::sync::{Notify, OnceCell, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::acs;
use crate::acs::manifest::Manifests;
use crate::acs::session;
use crate::attributes::{self, Facts};
use crate::backend::credentials::Source;
use crate::backend::discover::ControlPlane;
use crate::backend::session::Limits;
use crate::backend::{CallError, Client, metadata_service};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::engine::{Reported, Sent, TaskEvent};
use crate::error::chain;
use crate::failpoint;
use crate::host::Input;
use crate::host::view::Snapshot;
use crate::identity::Identity;
use crate::registration::{self, Join, Registered, Terminal, with_store};
use crate::reporter;
use crate::store::{self, Store};
use crate::tcs;
use crate::tmds::Tmds;

/// Errors that say that the control plane has no such instance.
const UNKNOWN_INSTANCE: [&str; 3] =
    ["ClientException", "ClusterNotFoundException", "InvalidParameterException"];

/// The registration and the way to the control plane. Clones share both.
#[derive(Debug, Clone)]
pub struct Membership(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    /// Not held: it closes when the agent ends, also while a connection lingers.
    store: Weak<Store>,
    identity: watch::Sender<Option<Arc<Identity>>>,
    control_plane: OnceCell<ControlPlane>,
}

/// This host cannot leave its cluster.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    #[error("this host is registered in no cluster")]
    NotRegistered,
    #[error("reach the control plane")]
    ControlPlane(#[source] Box<Terminal>),
    #[error("deregister {instance}")]
    Call { instance: String, source: CallError },
    #[error("read or write the registration")]
    Store(#[from] store::Error),
}

impl Membership {
    /// `identity`: told who this host is, as long as it is registered.
    pub fn new(
        config: Config,
        store: &Arc<Store>,
        identity: watch::Sender<Option<Arc<Identity>>>,
    ) -> Self {
        let store = Arc::downgrade(store);
        Self(Arc::new(Shared { config, store, identity, control_plane: OnceCell::new() }))
    }

    /// The cluster to join, as configured; `None`: no cluster is to be joined.
    pub fn cluster(&self) -> Option<&str> {
        let ecs = &self.0.config.ecs;
        ecs.joins().then(|| ecs.cluster.as_deref().unwrap_or("default"))
    }

    /// Who this host is, once it is registered.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        self.0.identity.borrow().clone()
    }

    fn store(&self) -> Result<Arc<Store>, store::Error> {
        self.0.store.upgrade().ok_or(store::Error::Closed)
    }

    /// The control plane as configured, in its region.
    async fn control_plane(&self) -> Result<&ControlPlane, Terminal> {
        let Shared { config, control_plane, .. } = &*self.0;
        control_plane
            .get_or_try_init(async || {
                let config = &config.ecs;
                let arn = config.cluster.as_deref().filter(|cluster| cluster.starts_with("arn:"));
                let region = match (&config.region, arn.and_then(|arn| arn.split(':').nth(3))) {
                    (Some(region), _) => Some(region.clone()),
                    (None, Some(region)) => Some(region.to_owned()),
                    (None, None) => metadata_service::region(config.external).await,
                };
                let region = region.filter(|r| !r.is_empty()).ok_or(Terminal::NoRegion)?;
                let source = Source::new(config.credentials.as_ref(), config.external);
                let client = Client::new(config.ca_bundle.as_deref(), source, &region)?;
                let endpoint = match &config.backend_host {
                    Some(endpoint) => endpoint.clone(),
                    None => amazon(&region),
                };
                Ok(ControlPlane::new(client, &endpoint))
            })
            .await
    }

    /// Takes this host out of its cluster, with whatever runs on it, and forgets the registration.
    /// An instance that the control plane does not know is forgotten, too.
    ///
    /// # Errors
    /// If it is in none, or the control plane cannot be told.
    pub async fn leave(&self) -> Result<Identity, LeaveError> {
        let store = self.store()?;
        let stored = with_store(&store, registration::load).await?;
        let Registered { identity, .. } = stored.ok_or(LeaveError::NotRegistered)?;
        let control_plane = self
            .control_plane()
            .await
            .map_err(|error| LeaveError::ControlPlane(Box::new(error)))?;
        let request = DeregisterContainerInstanceRequest {
            cluster: Some(identity.cluster_arn.clone()),
            container_instance: Some(identity.container_instance_arn.clone()),
            force: Some(true),
        };
        let answer: Result<serde_json::Value, CallError> =
            control_plane.call("DeregisterContainerInstance", &request).await;
        if let Err(source) = answer {
            let unknown =
                source.api().is_some_and(|api| UNKNOWN_INSTANCE.contains(&api.name.as_str()));
            if !unknown {
                let instance = identity.container_instance_arn.clone();
                return Err(LeaveError::Call { instance, source });
            }
            tracing::warn!(
                error = chain(&source),
                "the control plane has no such instance; forgotten"
            );
        }
        with_store(&store, registration::forget).await?;
        self.0.identity.send_replace(None);
        Ok(identity)
    }
}

/// Amazon's endpoint in a region.
fn amazon(region: &str) -> String {
    format!("https://ecs.{region}.{}", protocol::partition::domain(region))
}

/// What membership works with.
#[derive(Debug)]
pub struct Parts {
    pub membership: Membership,
    pub inbox: mpsc::Sender<Input>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub credentials: Credentials,
    /// Told where to ask for task protection; its statistics are published.
    pub tmds: Option<Tmds>,
}

/// The running membership; ends with the value.
#[derive(Debug)]
pub struct Running {
    ended: watch::Receiver<Option<Arc<Terminal>>>,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// Returns when the agent must end. Cancel safe.
    pub async fn ended(&self) -> Arc<Terminal> {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|terminal| terminal.clone()) {
            Ok(Some(terminal)) => terminal,
            // It left its cluster: nothing more happens here.
            _ => std::future::pending().await,
        }
    }
}

/// Joins the configured cluster, if there is one.
pub fn start(parts: Parts) -> Option<Running> {
    if !parts.membership.0.config.ecs.joins() {
        return None;
    }
    let (sender, ended) = watch::channel(None);
    let task = tokio::spawn(async move {
        if let Err(terminal) = run(parts).await {
            sender.send_replace(Some(Arc::new(terminal)));
        }
    });
    Some(Running { ended, _task: AbortOnDropHandle::new(task) })
}

/// Until this host leaves its cluster.
async fn run(parts: Parts) -> Result<(), Terminal> {
    let Parts { membership, inbox, snapshots, credentials, tmds } = parts;
    let control_plane = membership.control_plane().await?.clone();
    let Shared { config, identity: publish, .. } = &*membership.0;
    let store = &membership.store()?;
    if let Some(tmds) = &tmds {
        tmds.connect(control_plane.clone());
    }
    let identity = register(&control_plane, config, store, &inbox, &snapshots).await?;
    tracing::info!(
        instance = identity.container_instance_arn,
        cluster = identity.cluster_arn,
        "this host is registered"
    );
    let identity = Arc::new(identity);
    publish.send_replace(Some(Arc::clone(&identity)));
    let mut left = publish.subscribe();
    let arn = identity.container_instance_arn.clone();
    let manifests = with_store(store, move |store| Manifests::load(store, &arn)).await?;
    let heartbeat = Arc::new(Notify::new());
    let telemetry = tcs::Parts {
        control_plane: control_plane.clone(),
        identity: Arc::clone(&identity),
        snapshots: snapshots.clone(),
        stats: tmds.filter(|_| !config.ecs.disable_metrics).map(|tmds| tmds.stats().clone()),
        inbox: inbox.clone(),
        heartbeat: Arc::clone(&heartbeat),
        limits: Limits::default(),
        interval: tcs::INTERVAL,
    };
    let context = acs::Context {
        identity,
        inbox: inbox.clone(),
        snapshots: snapshots.clone(),
        credentials: credentials.clone(),
        store: Arc::clone(store),
        pull: config.ecs.image_pull,
        heartbeat,
    };
    let reporter = reporter::run(reporter::Parts {
        control_plane: control_plane.clone(),
        identity: publish.subscribe(),
        snapshots,
        inbox,
        credentials,
    });
    // Each on its own, so that neither waits for the other.
    let _reporter = AbortOnDropHandle::new(tokio::spawn(reporter));
    let session = session::run(control_plane, context, manifests, Limits::default());
    let _session = AbortOnDropHandle::new(tokio::spawn(session));
    let _telemetry = tcs::start(telemetry);
    let _ = left.wait_for(Option::is_none).await;
    tracing::info!("this host has left its cluster; a restart of the agent joins it again");
    Ok(())
}

async fn register(
    control_plane: &ControlPlane,
    config: &Config,
    store: &Arc<Store>,
    inbox: &mpsc::Sender<Input>,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
) -> Result<Identity, Terminal> {
    let stored = with_store(store, registration::load).await?;
    let region = control_plane.client().region();
    let host = registration::host_id();
    let join = registration::join(stored.as_ref(), config.ecs.cluster.as_deref(), region, &host)?;
    if join == Join::Copy {
        tracing::warn!("this host is a copy of a registered one; it registers as a new instance");
        disown(inbox, snapshots).await;
    }
    let facts = Facts {
        ecs: &config.ecs,
        metadata: &config.metadata,
        nfs_client: crate::volume::nfs::has_client(),
        first: !matches!(join, Join::Again(_)),
        architecture: std::env::consts::ARCH,
    };
    let own_ports = [config.metadata.introspection_port, config.metadata.metadata_port];
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let request = registration::Request {
        ecs: &config.ecs,
        region,
        join: &join,
        stored_cluster: stored.as_ref().map(|stored| stored.identity.cluster.as_str()),
        attributes: attributes::attributes(&facts),
        resources: attributes::resources(&config.ecs, cpus, memory_mib(), &own_ports)?,
    };
    let identity = registration::register(control_plane, store, request).await?;
    failpoint::hit("register.answered");
    let registered = Registered { identity: identity.clone(), host };
    if stored.as_ref() != Some(&registered) {
        with_store(store, move |store| registration::save(store, &registered)).await?;
    }
    failpoint::hit("register.saved");
    Ok(identity)
}

/// Tasks of another host's instance, of which this one has copies: they end, and nothing is said of
/// them, for the control plane would take it as said of the originals.
async fn disown(inbox: &mpsc::Sender<Input>, snapshots: &watch::Receiver<Arc<Snapshot>>) {
    let snapshot = Arc::clone(&snapshots.borrow());
    let sent = || Sent { task: Some(Reported::Stopped), containers: Vec::new() };
    let reason = "the task belongs to the host of which this one is a copy";
    for id in snapshot.states.iter().filter(|(_, task)| task.ecs.is_some()).map(|(id, _)| id) {
        let stop = TaskEvent::Stop { reason: Some(reason.to_owned()), kill: true, timeout: None };
        for event in [TaskEvent::Sent(sent()), stop] {
            let (reply, answer) = oneshot::channel();
            let asked = Input::Ask { task: id.clone(), event, reply };
            if inbox.send(asked).await.is_ok() {
                let _ = answer.await;
            }
        }
    }
}

/// The host's memory in MiB; 0 where the kernel does not say.
fn memory_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests;
