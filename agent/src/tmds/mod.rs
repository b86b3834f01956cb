//! What containers read at 169.254.170.2: metadata, statistics, credentials of the task's role, and
//! task protection (protocol reference §11); and the introspection API of the host (§13).
//!
//! The promise: a task's credentials and metadata are read by its own containers only. Each
//! listener lives in the network namespace of one task, or of one bridge-mode container
//! (`crate::network::endpoint`), and answers for that task alone, whatever id a request names. Tasks in
//! network mode `host` share the host's namespace and one listener there: an id, which is
//! a random UUID that only its container is told, is all that protects them from other processes of
//! the host; see `docs/threat-model.md`.
//!
//! Owner: [`Tmds`], shared by its clones, holds the listeners. They are opened before the container's
//! program starts, close with the container or the task, and are made again for live tasks when the
//! agent starts; while no agent runs, connections are refused. A listener that cannot be opened is a
//! warning, never a task's failure.
//!
//! Hostile requests: [`server`] bounds connections per listener and in all, the time and size of
//! each, and requests per listener ([`throttle`]), not over all listeners as Amazon's agent does, so
//! that a container starves only itself, or in network mode `host` those that share the mode.
//!
//! Pure: [`documents`], [`credentials`], [`environment`], [`route`], [`throttle`].

mod answer;
mod audit;
pub mod credentials;
pub mod documents;
pub mod environment;
mod introspection;
mod protection;
pub mod route;
mod server;
pub mod throttle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use protocol::ids::TaskId;
use protocol::taskdef::NetworkMode;
use tokio::sync::{Semaphore, SetOnce, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::backend::discover::ControlPlane;
use crate::config;
use crate::credentials::Credentials;
use crate::engine::Task;
use crate::error::chain;
use crate::host::view::Snapshot;
use crate::identity::Identity;
use crate::layout::Layout;
use crate::network::{Subnets, endpoint};
use crate::stats::Stats;

/// What a [`Tmds`] is made with.
#[derive(Debug)]
pub struct Parts<'a> {
    pub layout: &'a Layout,
    pub config: &'a config::Metadata,
    pub subnets: Subnets,
    pub credentials: Credentials,
    pub identity: watch::Receiver<Option<Arc<Identity>>>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Tmds(Arc<Shared>);

/// What runs beside the listeners, until it is dropped.
#[derive(Debug)]
pub struct Serving {
    _sampler: AbortOnDropHandle<()>,
    _introspection: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Directory of the tasks' own directories.
    tasks: PathBuf,
    port: u16,
    introspection_port: u16,
    limits: throttle::Limits,
    subnets: Subnets,
    credentials: Credentials,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    stats: Stats,
    audit: Option<audit::Log>,
    /// Requests wait until there is something to tell.
    snapshots: SetOnce<watch::Receiver<Arc<Snapshot>>>,
    control_plane: OnceLock<ControlPlane>,
    /// One per open connection.
    connections: Arc<Semaphore>,
    /// By task, and container in bridge mode.
    listeners: Mutex<Listeners>,
    host: Mutex<Host>,
}

type Listeners = BTreeMap<(TaskId, Option<usize>), AbortOnDropHandle<()>>;

/// The listener of the tasks in network mode `host`.
#[derive(Debug, Default)]
struct Host {
    tasks: BTreeSet<TaskId>,
    served: Option<(endpoint::Host, AbortOnDropHandle<()>)>,
}

/// For whom a listener answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Task(TaskId),
    /// Every task in network mode `host`.
    Host,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section leaves a whole map, whatever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tmds {
    /// Removes what an agent that died left in the host's namespace; opens nothing. Blocks.
    pub fn new(parts: Parts<'_>) -> Self {
        if let Err(error) = endpoint::sweep() {
            tracing::warn!(error = chain(&error), "cannot remove an earlier metadata endpoint");
        }
        let Parts { layout, config, subnets, credentials, identity } = parts;
        let audit = (!config.audit_log_disabled)
            .then(|| config.audit_log.clone().unwrap_or_else(|| layout.audit_log()))
            .map(audit::Log::new);
        Self(Arc::new(Shared {
            tasks: layout.state().join("tasks"),
            port: config.metadata_port,
            introspection_port: config.introspection_port,
            limits: throttle::Limits { rate: config.steady_rate, burst: config.burst },
            subnets,
            credentials,
            identity,
            stats: Stats::new(layout.cgroup_parent()),
            audit,
            snapshots: SetOnce::new(),
            control_plane: OnceLock::new(),
            connections: Arc::new(Semaphore::new(server::CONNECTIONS)),
            listeners: Mutex::new(BTreeMap::new()),
            host: Mutex::new(Host::default()),
        }))
    }

    /// From now on requests are answered and statistics can be sampled; with `introspect` the
    /// introspection API is served on loopback. Must be called within a tokio runtime.
    pub fn serve(&self, snapshots: &watch::Receiver<Arc<Snapshot>>, introspect: bool) -> Serving {
        // Once set it stays: there is one owner of tasks per agent.
        let _ = self.0.snapshots.set(snapshots.clone());
        Serving {
            _sampler: self.0.stats.start(snapshots.clone()),
            _introspection: if introspect { self.introspect() } else { None },
        }
    }

    /// Statistics of the containers.
    pub fn stats(&self) -> &Stats {
        &self.0.stats
    }

    /// Where to ask for task protection.
    pub fn connect(&self, control_plane: ControlPlane) {
        let _ = self.0.control_plane.set(control_plane);
    }

    /// A port that is taken is a warning.
    fn introspect(&self) -> Option<AbortOnDropHandle<()>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.0.introspection_port));
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        match listener {
            Ok(listener) => {
                let serving = introspection::serve(Arc::clone(&self.0), listener);
                Some(AbortOnDropHandle::new(tokio::spawn(serving)))
            }
            Err(error) => {
                tracing::warn!(%error, %address, "the introspection API is not served");
                None
            }
        }
    }

    /// Opens the endpoint of a task whose containers share a network namespace; in network mode
    /// `host` it is not looked at. Repeating it changes nothing.
    pub async fn open_for_task(&self, task: &Task, namespace: Arc<OwnedFd>) {
        match task.definition.network_mode {
            NetworkMode::Awsvpc | NetworkMode::None => {
                self.open(task, None, move || Ok(namespace)).await;
            }
            NetworkMode::Host => self.open_host(task).await,
            NetworkMode::Bridge => {}
        }
    }

    /// Opens the endpoint of a container that has a network namespace of its own. One without
    /// networking gets none.
    pub async fn open_for_container(&self, task: &Task, index: usize, pid: i32) {
        let disabled = task.container_definition(index).is_none_or(|c| c.disable_networking);
        if task.definition.network_mode == NetworkMode::Bridge && !disabled {
            self.open(task, Some(index), move || namespace(pid)).await;
        }
    }

    async fn open(
        &self,
        task: &Task,
        container: Option<usize>,
        namespace: impl FnOnce() -> Result<Arc<OwnedFd>, Failure> + Send + 'static,
    ) {
        let (shared, task) = (Arc::clone(&self.0), task.id.clone());
        blocking(move || {
            let key = (task, container);
            let opened = namespace().and_then(|namespace| {
                endpoint::listen_in(namespace.as_fd(), shared.port).map_err(Failure::Listen)
            });
            match opened.and_then(|listener| serve(&shared, listener, Scope::Task(key.0.clone()))) {
                Ok(served) => {
                    lock(&shared.listeners).insert(key, served);
                }
                // It is open already: an effect was repeated.
                Err(failure) if failure.in_use() && lock(&shared.listeners).contains_key(&key) => {}
                Err(failure) => warn(&key.0, &failure),
            }
        })
        .await;
    }

    async fn open_host(&self, task: &Task) {
        let (shared, task) = (Arc::clone(&self.0), task.id.clone());
        blocking(move || {
            let mut host = lock(&shared.host);
            host.tasks.insert(task.clone());
            if host.served.is_some() {
                return;
            }
            let opened = endpoint::Host::open(shared.port).map_err(Failure::Listen);
            match opened {
                Ok((claim, listener)) => match serve(&shared, listener, Scope::Host) {
                    Ok(served) => host.served = Some((claim, served)),
                    Err(failure) => {
                        warn(&task, &failure);
                        close_host(claim);
                    }
                },
                Err(failure) => warn(&task, &failure),
            }
        })
        .await;
    }

    /// Closes the endpoints of containers that have stopped, so that their namespaces end.
    pub fn note(&self, task: &Task) {
        if task.definition.network_mode != NetworkMode::Bridge {
            return;
        }
        let mut listeners = lock(&self.0.listeners);
        for (index, container) in task.containers.iter().enumerate() {
            if container.life.is_stopped() {
                listeners.remove(&(task.id.clone(), Some(index)));
            }
        }
    }

    /// Closes everything of a task.
    pub async fn close(&self, task: &Task) {
        lock(&self.0.listeners).retain(|(of, _), _| *of != task.id);
        if task.definition.network_mode != NetworkMode::Host {
            return;
        }
        let (shared, task) = (Arc::clone(&self.0), task.id.clone());
        blocking(move || {
            let mut host = lock(&shared.host);
            host.tasks.remove(&task);
            if host.tasks.is_empty()
                && let Some((claim, _served)) = host.served.take()
            {
                close_host(claim);
            }
        })
        .await;
    }
}

impl Shared {
    fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.borrow().clone()
    }

    fn facts<'a>(&'a self, identity: Option<&'a Identity>) -> documents::Facts<'a> {
        documents::Facts { identity, subnets: &self.subnets, tasks: &self.tasks }
    }
}

/// Why an endpoint is not open.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("open {path}")]
    Namespace { path: String, source: std::io::Error },
    #[error(transparent)]
    Listen(endpoint::Error),
    #[error("register the listener")]
    Register(#[source] std::io::Error),
}

impl Failure {
    fn in_use(&self) -> bool {
        matches!(self, Self::Listen(endpoint::Error::Listen { source, .. })
            if source.kind() == std::io::ErrorKind::AddrInUse)
    }
}

fn warn(task: &TaskId, failure: &Failure) {
    tracing::warn!(
        %task,
        error = chain(failure),
        "the task runs without metadata and credentials at 169.254.170.2"
    );
}

fn close_host(claim: endpoint::Host) {
    if let Err(error) = claim.close() {
        let error = chain(&error);
        tracing::warn!(error, "cannot remove the host's metadata endpoint; the next start will");
    }
}

/// Within a tokio runtime.
fn serve(
    shared: &Arc<Shared>,
    listener: TcpListener,
    scope: Scope,
) -> Result<AbortOnDropHandle<()>, Failure> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Failure::Register)?;
    let serving = answer::serve(Arc::clone(shared), listener, scope);
    Ok(AbortOnDropHandle::new(tokio::spawn(serving)))
}

fn namespace(pid: i32) -> Result<Arc<OwnedFd>, Failure> {
    let path = format!("/proc/{pid}/ns/net");
    match std::fs::File::open(&path) {
        Ok(file) => Ok(Arc::new(file.into())),
        Err(source) => Err(Failure::Namespace { path, source }),
    }
}

async fn blocking(work: impl FnOnce() + Send + 'static) {
    if let Err(failed) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%failed, "the metadata endpoint failed internally");
    }
}
