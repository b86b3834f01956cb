//! What effects are carried out with, and what lives with a task between them: its monitor link
//! and its log shippers.
//!
//! [`Hands`] is shared by all effects. Per task it keeps a [`Held`], made on first use; everything
//! in it can be made again from the task's files, so nothing of it is state.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::ids::TaskId;
use protocol::monitor::Status;
use protocol::taskdef::LogDriver;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use super::bundle::HostFacts;
use super::logins::Logins;
use super::pulls::Pulls;
use super::{Input, run, view};
use crate::cgroup;
use crate::engine::{Action, ContainerEvent, Effect, Event, Task, TaskEvent};
use crate::error::chain;
use crate::image;
use crate::layout::Layout;
use crate::logs::drivers::awslogs::{LogService, LogStream};
use crate::logs::drivers::json_file::Options;
use crate::logs::{
    Shipper, ShipperConfig, ShipperHandle, Source, Uploader, UploaderConfig, Watcher,
};
use crate::monitor::link::{Link, Report, Target};
use crate::monitor::spawn::Program;
use crate::network::Network;
use crate::tmds::Tmds;
use crate::volume::efs;

/// Reports of one task's monitor that wait to be passed on. When full the link waits, and the
/// monitor's socket behind it.
const REPORTS: usize = 64;
/// What `lighter logs` can still read of output that is shipped elsewhere (Docker's local copy).
const LOCAL_COPY: Options = Options { max_size: Some(20_000_000), max_file: 5 };

/// Shared by all effects.
#[derive(Debug)]
pub struct Hands {
    pub(super) layout: Layout,
    pub(super) images: image::Store,
    pulls: Arc<Pulls>,
    logins: Logins,
    pub(super) network: Network,
    pub(super) tmds: Tmds,
    log_service: LogService,
    efs: efs::Servers,
    pub(super) facts: HostFacts,
    pub(super) watcher: Watcher,
    inbox: mpsc::Sender<Input>,
    program: tokio::sync::OnceCell<Arc<Program>>,
    held: Mutex<HashMap<TaskId, Arc<Held>>>,
    /// Resolutions of images that can be cancelled.
    resolving: Mutex<HashMap<(TaskId, usize), AbortHandle>>,
    tracker: TaskTracker,
}

/// What the hands are made with.
#[derive(Debug)]
pub struct Parts {
    pub layout: Layout,
    pub images: image::Store,
    pub pulls: Arc<Pulls>,
    pub logins: Logins,
    pub network: Network,
    pub tmds: Tmds,
    pub log_service: LogService,
    pub efs: efs::Servers,
    pub inbox: mpsc::Sender<Input>,
}

/// What one task has between effects.
#[derive(Debug)]
pub(super) struct Held {
    link: tokio::sync::Mutex<Option<Link>>,
    /// Two containers must not fill one fresh volume at once.
    pub(super) volumes: tokio::sync::Mutex<()>,
    logs: Mutex<BTreeMap<usize, Log>>,
}

#[derive(Debug)]
struct Log {
    shipping: Shipping,
    /// Turns true when the log is complete.
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
enum Shipping {
    NotStarted,
    /// The uploader is that of a container whose log driver is `awslogs`.
    Running {
        shipper: ShipperHandle,
        uploader: Option<ShipperHandle>,
    },
    /// All of the log has been shipped. Tasks are kept for hours, their handles are not.
    Complete,
}

impl Default for Log {
    fn default() -> Self {
        Self { shipping: Shipping::NotStarted, ended: watch::channel(false).0 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each critical section is one insertion or removal: what a panic left is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hands {
    /// Whether `awslogs` ships logs of tasks that do not say where to.
    pub fn ships_logs(&self) -> bool {
        self.log_service.ships()
    }

    /// Must be called within a tokio runtime.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { layout, images, pulls, logins, network, tmds, log_service, efs, inbox } = parts;
        Arc::new(Self {
            layout,
            images,
            pulls,
            logins,
            network,
            tmds,
            log_service,
            efs,
            facts: HostFacts::read(),
            watcher: Watcher::start(),
            inbox,
            program: tokio::sync::OnceCell::new(),
            held: Mutex::new(HashMap::new()),
            resolving: Mutex::new(HashMap::new()),
            tracker: TaskTracker::new(),
        })
    }

    /// Where EFS file systems are found.
    pub(super) fn efs(&self) -> &efs::Servers {
        &self.efs
    }

    /// Where everything lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The image store.
    pub fn images(&self) -> &image::Store {
        &self.images
    }

    /// Pulls of images.
    pub fn pulls(&self) -> &Pulls {
        &self.pulls
    }

    /// What tasks bring to log in to registries.
    pub fn logins(&self) -> &Logins {
        &self.logins
    }

    /// The host's networks.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where log readers get their wake-ups.
    pub fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// Carries out an effect of `task`, which is as it was when the effect was decided.
    pub(super) fn start(hands: &Arc<Self>, effect: Effect, task: Arc<Task>) {
        if let Action::CancelPull { container } = effect.action {
            if let Some(pull) = lock(&hands.resolving).remove(&(effect.task, container)) {
                pull.abort();
            }
            return;
        }
        let (hands_of_task, action, id) =
            (Arc::clone(hands), effect.action.clone(), effect.task.clone());
        let work = hands.tracker.spawn(run::effect(hands_of_task, effect.clone(), task));
        if let Action::ResolveImage { container } = action {
            lock(&hands.resolving).insert((id, container), work.abort_handle());
        }
        let hands = Arc::clone(hands);
        hands.tracker.clone().spawn(async move {
            let result = match work.await {
                Ok(event) => event,
                // A panic was printed where it happened.
                Err(failed) if failed.is_panic() => {
                    run::panicked(&effect).map(|event| (event, None))
                }
                Err(_cancelled) => None,
            };
            if let Action::ResolveImage { container } = effect.action {
                lock(&hands.resolving).remove(&(effect.task.clone(), container));
            }
            match result {
                Some((event, Some(lease))) => {
                    let _ = hands.inbox.send(Input::Resolved { event, lease }).await;
                }
                Some((event, None)) => hands.tell(event).await,
                None => {}
            }
        });
    }

    pub(super) async fn tell(&self, event: Event) {
        // The owner has ended: the next one observes by itself.
        let _ = self.inbox.send(Input::Event(event)).await;
    }

    /// Sends without waiting; what does not fit is dropped, as the next one says more.
    pub(super) fn progress(
        &self,
        task: &TaskId,
        container: usize,
        event: crate::api::types::PullEvent,
    ) {
        let _ = self.inbox.try_send(Input::Progress { task: task.clone(), container, event });
    }

    /// Ends pulls at once and waits for other effects to come to their end, for shippers to finish
    /// the batch at hand and links to close. Monitors and containers live on.
    pub async fn close(&self, patience: std::time::Duration) {
        for (_, pull) in lock(&self.resolving).drain() {
            pull.abort();
        }
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            tracing::warn!("effects are still under way; the next agent issues them again");
        }
        let held: Vec<Arc<Held>> = lock(&self.held).drain().map(|(_, held)| held).collect();
        for held in held {
            held.close_logs().await;
        }
    }

    async fn program(&self) -> Result<Arc<Program>, crate::monitor::Error> {
        self.program
            .get_or_try_init(|| async {
                match tokio::task::spawn_blocking(Program::load).await {
                    Ok(program) => program.map(Arc::new),
                    Err(_panic) => {
                        Err(crate::monitor::Error::Gone { log: "loading it panicked".to_owned() })
                    }
                }
            })
            .await
            .cloned()
    }

    pub(super) fn held(&self, task: &TaskId) -> Arc<Held> {
        let mut held = lock(&self.held);
        Arc::clone(held.entry(task.clone()).or_insert_with(|| {
            Arc::new(Held {
                link: tokio::sync::Mutex::new(None),
                volumes: tokio::sync::Mutex::new(()),
                logs: Mutex::new(BTreeMap::new()),
            })
        }))
    }

    /// The task's link; made if there is none: to the monitor that lives, else to a new one.
    pub(super) async fn link(self: &Arc<Self>, task: &Task) -> Result<Link, crate::monitor::Error> {
        let held = self.held(&task.id);
        let mut slot = held.link.lock().await;
        if let Some(link) = &*slot {
            return Ok(link.clone());
        }
        let run = self.layout.task_run(&task.id);
        let target = Target {
            task: self.layout.task(&task.id),
            run: run.clone(),
            new_network: run::has_own_network(task),
            user_maps: task.user_maps.clone(),
            cgroup: Some(cgroup::monitors_path(&self.layout.cgroup_parent())),
            program: self.program().await?,
        };
        let (sender, reports) = mpsc::channel(REPORTS);
        tokio::spawn(pass_on(Arc::clone(self), task.id.clone(), names(task), reports));
        let link = match crate::monitor::record(&run)? {
            Some(_) => Link::attach(target, sender),
            None => Link::launch(target, sender).await?,
        };
        *slot = Some(link.clone());
        Ok(link)
    }

    pub(super) async fn drop_link(&self, task: &TaskId) {
        self.held(task).link.lock().await.take();
    }

    /// Where a container's output goes besides this host.
    pub(super) fn log_stream(&self, task: &Task, index: usize) -> Option<LogStream> {
        let log = &task.container_definition(index)?.log;
        match log.driver {
            LogDriver::JsonFile => None,
            LogDriver::AwsLogs => self.log_service.stream(task, index, log),
        }
    }

    /// Starts the container's shipper if it has none.
    pub(super) fn ship(&self, task: &Task, index: usize, stopped: bool) -> Result<(), String> {
        let Some(definition) = task.container_definition(index) else { return Ok(()) };
        let held = self.held(&task.id);
        let mut logs = lock(&held.logs);
        let log = logs.entry(index).or_default();
        if !matches!(log.shipping, Shipping::NotStarted) {
            return Ok(());
        }
        let options = match definition.log.driver {
            LogDriver::JsonFile => {
                Options::parse(&definition.log.options).map_err(|error| chain(&error))?
            }
            LogDriver::AwsLogs => LOCAL_COPY,
        };
        let path = view::log(&self.layout, &task.id, &definition.name);
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)
                .map_err(|error| format!("create {}: {error}", directory.display()))?;
        }
        let name = format!("{}/{}", task.id, definition.name);
        let spool = self.layout.task(&task.id).join(&definition.name).join("spool");
        let destination = self.log_stream(task, index);
        let keep_spool = destination.is_some();
        let uploader = destination.map(|destination| {
            Uploader::spawn(UploaderConfig {
                name: name.clone(),
                spool: spool.clone(),
                cursor: path.with_file_name("awslogs.cursor"),
                destination,
                stopped,
                watcher: self.watcher.clone(),
            })
        });
        let shipper = Shipper::spawn(ShipperConfig {
            name,
            spool,
            log: path,
            options,
            keep_spool,
            stopped,
            watcher: self.watcher.clone(),
        });
        let (mut shipped, ended) = (shipper.ended(), log.ended.clone());
        let uploaded = uploader.as_ref().map(ShipperHandle::ended);
        log.shipping = Shipping::Running { shipper, uploader };
        drop(logs);
        tokio::spawn(async move {
            if shipped.wait_for(|shipped| *shipped).await.is_err() {
                return;
            }
            ended.send_replace(true);
            if let Some(mut uploaded) = uploaded
                && uploaded.wait_for(|uploaded| *uploaded).await.is_err()
            {
                return;
            }
            if let Some(log) = lock(&held.logs).get_mut(&index) {
                log.shipping = Shipping::Complete;
            }
        });
        Ok(())
    }

    /// Tells logs and the metadata endpoint what the owner decided: a container that stopped without
    /// ever having had a shipper has a complete log, an empty one.
    pub(super) fn note(&self, task: &Task) {
        self.tmds.note(task);
        let held = self.held(&task.id);
        let mut logs = lock(&held.logs);
        for (index, container) in task.containers.iter().enumerate() {
            if container.life.is_stopped() {
                let log = logs.entry(index).or_default();
                match &log.shipping {
                    Shipping::Running { shipper, uploader } => {
                        for hand in [Some(shipper), uploader.as_ref()].into_iter().flatten() {
                            hand.stopped();
                        }
                    }
                    Shipping::NotStarted => {
                        log.ended.send_replace(true);
                    }
                    Shipping::Complete => {}
                }
            }
        }
    }

    /// The task's logs, for readers.
    pub fn log_sources(&self, task: &TaskId, containers: &[String]) -> Vec<Source> {
        let held = self.held(task);
        let mut logs = lock(&held.logs);
        containers
            .iter()
            .enumerate()
            .map(|(index, name)| Source {
                container: name.clone(),
                log: view::log(&self.layout, task, name),
                ended: logs.entry(index).or_default().ended.subscribe(),
            })
            .collect()
    }

    /// Forgets the task: its shippers end, whoever reads its logs sees their end.
    pub(super) async fn forget(&self, task: &TaskId) {
        let held = lock(&self.held).remove(task);
        if let Some(held) = held {
            held.close_logs().await;
        }
    }
}

impl Held {
    async fn close_logs(&self) {
        let logs = std::mem::take(&mut *lock(&self.logs));
        for (_, log) in logs {
            if let Shipping::Running { shipper, uploader } = log.shipping {
                for hand in [Some(shipper), uploader].into_iter().flatten() {
                    hand.close().await;
                }
            }
        }
    }
}

fn names(task: &Task) -> Vec<String> {
    task.definition.containers.iter().map(|container| container.name.clone()).collect()
}

/// From a link to the owner.
async fn pass_on(
    hands: Arc<Hands>,
    task: TaskId,
    names: Vec<String>,
    mut reports: mpsc::Receiver<Report>,
) {
    while let Some(report) = reports.recv().await {
        let event = match report {
            Report::Container(facts) => {
                let Some(container) = names.iter().position(|name| *name == facts.container) else {
                    continue;
                };
                // What is only created says nothing the answer to its creation does not say.
                if facts.status == Status::Created {
                    continue;
                }
                Event::Container {
                    task: task.clone(),
                    container,
                    event: ContainerEvent::Observed(facts),
                }
            }
            Report::Lost(reason) => {
                let reason = format!("the task's monitor was lost: {reason}");
                Event::Task { task: task.clone(), event: TaskEvent::Lost { reason } }
            }
        };
        hands.tell(event).await;
    }
}
