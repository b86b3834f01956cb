//! The agent as a whole: lock, store, recovery, loop, API; for `lighter agent` and for commands
//! that embed it.
//!
//! Start, in this order: the root's lock (one agent per root), the store, load, network (which
//! makes the kernel agree with the leases), sweep, observe, loop, API socket, cluster, readiness. End: the
//! loop stops deciding, effects under way come to their end, and if no task is left the host is as
//! it was before the first one.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::monitor::UserMaps;
use rustix::fs::FlockOperation;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::api::server::{self, Api};
use crate::backend::SetupError;
use crate::cgroup;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::ecs::{self, Membership};
use crate::engine::{self, Event};
use crate::error::chain;
use crate::host::collect::Collector;
use crate::host::hands::{Hands, Parts};
use crate::host::logins::Logins;
use crate::host::owner::Owner;
use crate::host::pulls::Pulls;
use crate::host::view::Snapshot;
use crate::host::{INBOX, Input, recover};
use crate::identity::Identity;
use crate::image;
use crate::image::auth::Aws;
use crate::layout::Layout;
use crate::logs::drivers::awslogs::LogService;
use crate::network::{self, Network, Subnets, ports};
use crate::registration::Terminal;
use crate::store::{self, Batch, Store, Table};
use crate::tmds::{self, Tmds};
use crate::userns::{self, Remap};
use crate::volume::efs;

/// How long the end waits for effects under way.
const PATIENCE: Duration = Duration::from_secs(20);
/// A background agent without tasks and callers ends after this long.
const IDLE: Duration = Duration::from_secs(5);
/// Row of the host table with the subnets of this root.
const SUBNETS: &str = "subnets";

/// For whom the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `lighter agent`, by a service manager or a person.
    Foreground,
    /// Started by a command for the tasks it left; ends by itself when none is left.
    Background,
    /// Inside a command, for as long as it lasts.
    Embedded,
}

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("create {path}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("open the lock {path}")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("another agent serves this root: {path} is locked")]
    Served { path: PathBuf },
    #[error("open the state")]
    Store(#[from] store::Error),
    #[error("open the image store")]
    Images(#[source] image::Error),
    #[error("read the registries' credentials")]
    Auth(#[source] image::Error),
    #[error("LIGHTER_SIGNATURE_POLICY")]
    Policy(#[source] image::PolicyError),
    #[error("LIGHTER_USERNS_REMAP")]
    Remap(#[source] userns::Error),
    #[error("prepare the shipping of logs")]
    Logs(#[from] SetupError),
    #[error("open the network")]
    Network(#[from] network::Error),
    #[error("serve the API")]
    Listen(#[from] server::ListenError),
    #[error("the agent failed internally: {0}")]
    Internal(String),
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    layout: Layout,
    inbox: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    hands: Arc<Hands>,
    owner: JoinHandle<()>,
    server: AbortOnDropHandle<()>,
    /// Collection and pulls in advance; they end with the agent.
    _background: Vec<AbortOnDropHandle<()>>,
    /// Ends with the agent.
    _serving: tmds::Serving,
    connections: Arc<AtomicUsize>,
    give_way: Arc<Notify>,
    mode: Mode,
    /// In a cluster; `None` on none.
    member: Option<ecs::Running>,
    store: Arc<Store>,
    /// Held until the end.
    _lock: File,
}

/// Starts the agent of a root. It serves when this returns.
///
/// # Errors
/// If another agent serves the root ([`Error::Served`]), or something of it cannot be opened; then
/// nothing was changed but what a crash had left.
pub async fn serve(layout: Layout, config: &Config, mode: Mode) -> Result<Agent, Error> {
    let lock = lock(&layout)?;
    let credentials = Credentials::default();
    let (registration, identity) = watch::channel(None);
    let aws = Aws::new(config);
    let opened = {
        let aws = aws.clone();
        let (layout, config) = (layout.clone(), config.clone());
        let credentials = credentials.clone();
        tokio::task::spawn_blocking(move || open(&layout, &config, &credentials, aws, identity))
            .await
            .map_err(|failed| Error::Internal(failed.to_string()))??
    };
    let Opened { store, images, registries, network, tmds, loaded } = opened;
    let (sender, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let collector = collector(config, mode, &loaded, &images, &snapshots);
    let pulls = Pulls::new(images.clone(), registries, config.images.pulls, collector.clone());
    let pulls = Arc::new(pulls);
    // The last thing that can fail. Who connects now waits until there is something to show.
    let listener = server::listen(&layout.api_socket())?;
    let (inbox, receiver) = mpsc::channel(INBOX);
    let hands = Hands::new(Parts {
        layout: layout.clone(),
        images,
        pulls: Arc::clone(&pulls),
        logins: Logins::new(aws, credentials.clone()),
        network,
        tmds: tmds.clone(),
        log_service: LogService::new(config, credentials.clone())?,
        efs: efs::Servers {
            endpoint: config.ecs.efs_endpoint.clone(),
            region: config.ecs.region.clone(),
        },
        inbox: inbox.clone(),
    });

    for task in loaded.host.tasks.values() {
        recover::resume_logs(&hands, task);
    }
    let mut observations = Vec::new();
    for task in loaded.host.tasks.values() {
        let (hands, task) = (Arc::clone(&hands), task.clone());
        observations.push(tokio::spawn(async move { recover::observe(&hands, &task).await }));
    }
    let store = Arc::new(store);
    let owner = Owner::new(loaded.host, Arc::clone(&store), Arc::clone(&hands), sender);
    let serving = tmds.serve(&snapshots, mode == Mode::Foreground);
    let owner = tokio::spawn(owner.run(receiver));
    for observation in observations {
        let events = observation.await.map_err(|failed| Error::Internal(failed.to_string()))?;
        for event in events {
            let _ = inbox.send(Input::Event(event)).await;
        }
    }
    let _ = inbox.send(Input::Event(Event::Recovered)).await;

    let mut background = Vec::new();
    if let Some(collector) = collector {
        let collect = async move { collector.run().await };
        background.push(AbortOnDropHandle::new(tokio::spawn(collect)));
    }
    if mode == Mode::Foreground && !config.images.prepull.is_empty() {
        let (names, policy) = (config.images.prepull.clone(), config.ecs.image_pull);
        let prepull = async move { pulls.prepull(names, policy).await };
        background.push(AbortOnDropHandle::new(tokio::spawn(prepull)));
    }
    let membership = Membership::new(config.clone(), &store, registration);
    let connections = Arc::new(AtomicUsize::new(0));
    let give_way = Arc::new(Notify::new());
    let api = Api {
        inbox: inbox.clone(),
        snapshots: snapshots.clone(),
        hands: Arc::clone(&hands),
        embedded: mode == Mode::Embedded,
        connections: Arc::clone(&connections),
        membership: membership.clone(),
        member: mode == Mode::Foreground,
        give_way: (mode == Mode::Background).then(|| Arc::clone(&give_way)),
    };
    let server = AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = server::serve(listener, api).await {
            tracing::error!(%error, "the API ended");
        }
    }));
    let member = (mode == Mode::Foreground)
        .then(|| {
            ecs::start(ecs::Parts {
                membership,
                inbox: inbox.clone(),
                snapshots: snapshots.clone(),
                credentials,
                tmds: Some(tmds),
            })
        })
        .flatten();
    if mode == Mode::Foreground
        && let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready])
    {
        tracing::warn!(%error, "cannot tell the service manager that the agent is ready");
    }
    Ok(Agent {
        layout,
        inbox,
        snapshots,
        hands,
        owner,
        server,
        _background: background,
        _serving: serving,
        connections,
        give_way,
        mode,
        member,
        store,
        _lock: lock,
    })
}

/// `None`: no image is ever removed by itself.
fn collector(
    config: &Config,
    mode: Mode,
    loaded: &recover::Loaded,
    images: &image::Store,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
) -> Option<Arc<Collector>> {
    let cleanup = config.images.cleanup.clone().filter(|_| mode == Mode::Foreground)?;
    if !loaded.unreadable.is_empty() {
        tracing::warn!(
            "no image is cleaned up: it is not known which ones the tasks need that cannot be read"
        );
        return None;
    }
    let prepull = &config.images.prepull;
    Some(Arc::new(Collector::new(images.clone(), cleanup, prepull, snapshots.clone())))
}

impl Agent {
    /// Tasks that have not stopped.
    pub fn live_tasks(&self) -> usize {
        self.snapshots.borrow().live
    }

    /// Connections to the API, ended ones perhaps for a moment longer.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns when this host can be no member of its cluster, and the agent must end.
    pub async fn expelled(&self) -> Arc<Terminal> {
        match &self.member {
            Some(member) => member.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Returns when a background agent has had nothing to do for a while, or is to give way to
    /// another; never in other modes.
    pub async fn dismissed(&self) {
        if self.mode != Mode::Background {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            () = self.idle() => {}
            () = self.give_way.notified() => {}
        }
    }

    async fn idle(&self) {
        let busy = || self.live_tasks() > 0 || self.connections() > 0;
        let mut since = tokio::time::Instant::now();
        while since.elapsed() < IDLE {
            tokio::time::sleep(IDLE / 10).await;
            if busy() {
                since = tokio::time::Instant::now();
            }
        }
    }

    /// Ends the agent. Tasks live on; without any, the host is left as it was found.
    ///
    /// # Errors
    /// What could not be given back to the host, all of it.
    pub async fn shutdown(self) -> Result<(), Vec<String>> {
        drop(self.member);
        drop(self.server);
        let _ = self.inbox.send(Input::Shutdown).await;
        let mut failures = Vec::new();
        if let Err(failed) = self.owner.await {
            failures.push(format!("the loop failed: {failed}"));
        }
        self.hands.close(PATIENCE).await;
        let live = self.snapshots.borrow().live;
        let (layout, hands) = (self.layout, self.hands);
        let left = tokio::task::spawn_blocking(move || leave(&layout, &hands, live)).await;
        failures.extend(left.unwrap_or_else(|failed| vec![failed.to_string()]));
        // Who takes the lock next opens the store at once.
        let give_up = tokio::time::Instant::now() + PATIENCE;
        while Arc::strong_count(&self.store) > 1 && tokio::time::Instant::now() < give_up {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

/// Removes what the agent has on the host beside its state. With live tasks only the API's socket.
fn leave(layout: &Layout, hands: &Hands, live: usize) -> Vec<String> {
    let mut failures = Vec::new();
    let socket = layout.api_socket();
    if let Err(error) = std::fs::remove_file(&socket)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        failures.push(format!("remove {}: {error}", socket.display()));
    }
    if live > 0 {
        return failures;
    }
    if let Err(error) = hands.network().close() {
        failures.push(chain(&error));
    }
    if let Err(errors) = cgroup::remove(&layout.cgroup_parent()) {
        failures.extend(errors.iter().map(|error| chain(error)));
    }
    for path in [layout.run().join("tasks"), layout.run()] {
        // Others may keep files there, whose directory stays.
        let _ = std::fs::remove_dir(path);
    }
    failures
}

fn lock(layout: &Layout) -> Result<File, Error> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    for path in [layout.state(), layout.run()] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            // Whoever made it, such as a control plane whose data is below, let others look in.
            .and_then(|()| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)))
            .map_err(|source| Error::Directory { path, source })?;
    }
    let path = layout.state().join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| Error::Lock { path: path.clone(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Served { path }),
        Err(source) => Err(Error::Lock { path, source: source.into() }),
    }
}

struct Opened {
    store: Store,
    images: image::Store,
    registries: image::Registries,
    network: Network,
    tmds: Tmds,
    loaded: recover::Loaded,
}

fn open(
    layout: &Layout,
    config: &Config,
    credentials: &Credentials,
    aws: Aws,
    identity: watch::Receiver<Option<Arc<Identity>>>,
) -> Result<Opened, Error> {
    let store = Store::open(&layout.database())?;
    let images = image::Store::open(&layout.images()).map_err(Error::Images)?;
    let auth = image::Auth::load(
        config.registry_auth.kind.as_deref(),
        config.registry_auth.data.as_deref(),
        image::auth::config_path().as_deref(),
    )
    .map_err(Error::Auth)?
    .with_aws(aws);
    let hosts = config.registry_config_dir.clone().unwrap_or_else(|| layout.registry_config());
    let policy = config
        .signature_policy
        .as_deref()
        .map(|path| image::Policy::load(path).map(Arc::new))
        .transpose()
        .map_err(Error::Policy)?;
    let registries = image::Registries { auth, hosts: image::Hosts::at(hosts), policy };
    let before: Option<Subnets> = store
        .load(Table::Host)?
        .into_iter()
        .find(|(key, _)| key == SUBNETS)
        .map(|(_, row)| row)
        .transpose()?;
    // Addresses are leased from the subnets, so the tasks must be known before the network, and
    // the settings with the subnets after it.
    let user_maps =
        config.userns_remap.as_ref().map(Remap::maps).transpose().map_err(Error::Remap)?;
    let mut loaded = recover::load(&store, settings(config, UNSET, None))?;
    let leases = recover::leases(&loaded.host);
    let network = Network::open(
        network::Settings {
            suffix: layout.suffix(),
            awsvpc_subnet: config.awsvpc_subnet.or(before.map(|subnets| subnets.awsvpc)),
            bridge_subnet: config.bridge_subnet.or(before.map(|subnets| subnets.bridge)),
        },
        &leases,
    )?;
    let subnets = network.subnets();
    loaded.host.settings = settings(config, subnets, user_maps);
    if before != Some(subnets) {
        let mut batch = Batch::default();
        batch.put(Table::Host, SUBNETS, &subnets)?;
        store.commit(batch)?;
    }
    recover::sweep(layout, &loaded);
    let tmds = Tmds::new(tmds::Parts {
        layout,
        config: &config.metadata,
        subnets,
        credentials: credentials.clone(),
        identity,
    });
    Ok(Opened { store, images, registries, network, tmds, loaded })
}

/// Stands where no address is leased yet.
const UNSET: Subnets = {
    let net = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 32);
    Subnets { awsvpc: net, bridge: net }
};

fn settings(config: &Config, subnets: Subnets, user_maps: Option<UserMaps>) -> engine::Settings {
    let range = config.dynamic_host_ports.clone().unwrap_or_else(ports::dynamic_range);
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    engine::Settings {
        stop_timeout: seconds(config.stop_timeout),
        cleanup_after: seconds(config.task_cleanup_wait),
        awsvpc_subnet: subnets.awsvpc,
        bridge_subnet: subnets.bridge,
        dynamic_ports: (*range.start(), *range.end()),
        user_maps,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn directories_that_others_made_are_closed() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(Some(root.path().to_owned()));
        std::fs::create_dir_all(layout.state()).unwrap();
        std::fs::set_permissions(layout.state(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let _lock = lock(&layout).unwrap();
        for path in [layout.state(), layout.run()] {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", path.display());
        }
    }
}
