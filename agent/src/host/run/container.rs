//! `CreateContainer` and `StartContainer`.
//!
//! The order in a creation: everything that can be refused without the kernel (image, user,
//! volumes, configuration), then files, then the monitor's `Create`, then the network and
//! the metadata endpoint of a bridge-mode container, which need its process. The program runs only
//! at `Start`, so it finds its network complete.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::monitor::{
    Call, ContainerFacts, Create, Fact, FailureKind, Overlay, SpoolFull, USER_NAMESPACE,
};
use protocol::taskdef::{ContainerDefinition, NetworkMode};
use tokio_util::task::AbortOnDropHandle;

use super::resources::namespace;
use super::{blocking, efs, private_directory};
use crate::cgroup;
use crate::engine::{self, Task};
use crate::error::chain;
use crate::failpoint;
use crate::host::bundle::{self, Input, Mount};
use crate::host::hands::Hands;
use crate::host::runtime_id;
use crate::image::Image;
use crate::logs::drivers::awslogs::LogStream;
use crate::monitor::Error;
use crate::network::dns::{self, Attachment, HostResolver};
use crate::network::{ContainerLease, PublishedPort, endpoint};
use crate::tmds::environment;
use crate::volume;

/// Output that waits for its log; then the container waits (Docker's default, blocking delivery).
const SPOOL_LIMIT: u64 = 64 << 20;
/// The same with `mode=non-blocking`, where more is dropped (the default of ECS).
const BUFFER_LIMIT: u64 = 10_000_000;

/// How long a creation waits for the log stream.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// Why a container could not be created or started.
#[derive(Debug)]
pub(super) struct Failure {
    text: String,
    /// ECS's word, if it is not that of the step.
    word: Option<&'static str>,
    pub(super) exit_code: Option<i32>,
}

impl Failure {
    pub(super) fn reason(&self, word: &str) -> String {
        format!("{}: {}", self.word.unwrap_or(word), self.text)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, word: None, exit_code: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit_code = match &error {
            Error::Refused(failure) => match failure.kind {
                FailureKind::CommandNotFound => Some(127),
                FailureKind::CommandNotExecutable => Some(126),
                _ => None,
            },
            _ => None,
        };
        Self { text: chain(&error), word: None, exit_code }
    }
}

pub(super) async fn create(
    hands: &Arc<Hands>,
    task: &Arc<Task>,
    index: usize,
) -> Result<ContainerFacts, Failure> {
    let definition = task
        .container_definition(index)
        .ok_or_else(|| Failure::from("no such container".to_owned()))?;
    let held = hands.held(&task.id);
    let (mounted, call) = {
        let _one_at_a_time = held.volumes.lock().await;
        let mounted = efs::mount(hands, task).await.map_err(|text| Failure {
            text,
            word: Some("ResourceInitializationError"),
            exit_code: None,
        })?;
        let (hands, task) = (Arc::clone(hands), Arc::clone(task));
        let call = tokio::task::spawn_blocking(move || prepare(&hands, &task, index))
            .await
            .map_err(|failed| Failure::from(format!("the agent failed internally: {failed}")))??;
        (mounted, call)
    };
    failpoint::hit("create.prepared");
    let stream = hands.log_stream(task, index);
    let stream = AbortOnDropHandle::new(tokio::spawn(make_stream(stream)));
    hands.ship(task, index, false)?;
    let link = hands.link(task).await?;
    let facts = facts(link.call(Call::Create(call)).await?, "create")?;
    failpoint::hit("create.monitor");
    mounted.check(hands, task).await?;
    if let (Some(lease), Some(pid)) = (lease(task, index, definition), facts.pid) {
        let hands = Arc::clone(hands);
        blocking(move || {
            let namespace = namespace(pid)?;
            hands
                .network()
                .attach_container(&lease, namespace.as_fd())
                .map_err(|error| chain(&error))
        })
        .await?;
    }
    if let Some(pid) = facts.pid {
        hands.tmds.open_for_container(task, index, pid).await;
    }
    stream.await.map_err(|failed| format!("the agent failed internally: {failed}"))??;
    Ok(facts)
}

/// Makes the container's log stream, as Docker's driver does before a start. Only a refusal fails:
/// while the service is away, output waits for it.
async fn make_stream(stream: Option<LogStream>) -> Result<(), Failure> {
    let Some(stream) = stream else { return Ok(()) };
    match tokio::time::timeout(STREAM_PATIENCE, stream.create()).await {
        Ok(Err(error)) if error.is_refusal() => Err(Failure {
            text: format!(
                "failed to validate logger args: create the log stream {}: {}",
                stream.name(),
                chain(&error)
            ),
            word: Some("ResourceInitializationError"),
            exit_code: None,
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

pub(super) async fn start(
    hands: &Arc<Hands>,
    task: &Task,
    index: usize,
) -> Result<ContainerFacts, Failure> {
    let container = task
        .container_definition(index)
        .ok_or_else(|| Failure::from("no such container".to_owned()))?
        .name
        .clone();
    let link = hands.link(task).await?;
    facts(link.call(Call::Start { container }).await?, "start")
}

fn facts(fact: Fact, call: &'static str) -> Result<ContainerFacts, Failure> {
    match fact {
        Fact::Container(facts) => Ok(facts),
        _ => Err(Error::Answer { call }.into()),
    }
}

/// The bridge-mode container's place in the network.
pub(super) fn lease(
    task: &Task,
    index: usize,
    definition: &ContainerDefinition,
) -> Option<ContainerLease> {
    let container = task.containers.get(index)?;
    if task.definition.network_mode != NetworkMode::Bridge {
        return None;
    }
    Some(ContainerLease {
        task: task.id.clone(),
        container: definition.name.clone(),
        address: container.address?,
        ports: container
            .ports
            .iter()
            .map(|port| PublishedPort {
                protocol: port.protocol,
                host_port: port.host_port,
                container_port: port.container_port,
            })
            .collect(),
    })
}

/// Everything on disk that the monitor's `Create` needs.
fn prepare(hands: &Hands, task: &Task, index: usize) -> Result<Create, Failure> {
    let definition = task
        .container_definition(index)
        .ok_or_else(|| Failure::from("no such container".to_owned()))?;
    let image = image(hands, task, index)?;
    let user = definition.user.as_deref().filter(|user| !user.is_empty());
    let user =
        image.resolve_user(user.unwrap_or(&image.config.user)).map_err(|error| chain(&error))?;

    let directory = hands.layout().task(&task.id).join(&definition.name);
    let bundle = directory.join("bundle");
    let overlay = directory.join("overlay");
    for path in [bundle.join("rootfs"), overlay.join("upper"), overlay.join("work")]
        .iter()
        .chain([&directory.join("spool")])
    {
        private_directory(path)?;
    }
    open_root(&overlay.join("upper"))?;
    let mut mounts = volumes(hands, task, definition, &image)?;
    let hostname = hostname(task, index, definition);
    mounts.extend(host_files(task, index, definition, hostname.as_deref(), &directory)?);
    let cgroup =
        cgroup::container_path(&hands.layout().cgroup_parent(), &task.id, &definition.name);
    let namespace = hands.layout().task_run(&task.id).join(USER_NAMESPACE);
    let config = bundle::config(&Input {
        definition: &task.definition,
        container: definition,
        image: &image.config,
        user: &user,
        hostname: hostname.as_deref(),
        endpoint: &environment::variables(task, index, endpoint::ADDRESS),
        region: environment::region(task),
        cgroup: &cgroup,
        mounts: &mounts,
        user_namespace: task
            .user_maps
            .as_ref()
            .map(|maps| bundle::Mapped { maps, path: &namespace }),
        host: hands.facts,
    })
    .map_err(|error| chain(&error))?;
    let path = bundle.join("config.json");
    let bytes = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    let (spool_limit, spool_full) = if definition.log.non_blocking() {
        (definition.log.max_buffer_size().unwrap_or(BUFFER_LIMIT), SpoolFull::DropOldest)
    } else {
        (SPOOL_LIMIT, SpoolFull::Block)
    };
    // Not synced: whoever finds it after a crash writes it again before using it.
    std::fs::write(&path, bytes).map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(Create {
        container: definition.name.clone(),
        id: runtime_id(&task.id, &definition.name),
        bundle,
        overlay: Some(Overlay {
            lower: image.layers,
            upper: overlay.join("upper"),
            work: overlay.join("work"),
        }),
        stdin: definition.interactive,
        spool_limit,
        spool_full,
    })
}

/// The upper directory is the container's `/`, which every user may enter.
fn open_root(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("open {} to all users: {error}", path.display()))
}

fn image(hands: &Hands, task: &Task, index: usize) -> Result<Image, String> {
    let Some(engine::Image::Ready { id, .. }) = task.containers.get(index).map(|c| &c.image) else {
        return Err("its image is not resolved".to_owned());
    };
    hands
        .images()
        .find(id)
        .map_err(|error| chain(&error))?
        .ok_or_else(|| format!("image {id} was removed from this host meanwhile"))
}

fn volumes(
    hands: &Hands,
    task: &Task,
    definition: &ContainerDefinition,
    image: &Image,
) -> Result<Vec<Mount>, Failure> {
    let invalid =
        |text: String| Failure { text, word: Some("InvalidVolumeError"), exit_code: None };
    let directory = volume::task::directory(&hands.layout().task(&task.id));
    let mut images = volume::ImageVolumes::new();
    for (index, other) in task.definition.containers.iter().enumerate() {
        // A container whose image is not there yet has no volumes to give.
        if other.name == definition.name {
            images.insert(other.name.clone(), image.config.volumes.clone());
        } else if definition.volumes_from.iter().any(|from| from.source_container == other.name)
            && let Ok(image) = self::image(hands, task, index)
        {
            images.insert(other.name.clone(), image.config.volumes);
        }
    }
    let planned = volume::plan(&task.definition, &definition.name, &directory, &images)
        .map_err(|error| invalid(chain(&error)))?;
    volume::host::check(&planned).map_err(|error| invalid(chain(&error)))?;
    let fresh =
        volume::task::create(&directory, &planned).map_err(|error| invalid(chain(&error)))?;
    for mount in fresh {
        if let volume::Source::Task(path) = &mount.source {
            let inside = mount.destination.to_string_lossy();
            image.copy_directory(&inside, path).map_err(|error| invalid(chain(&error)))?;
        }
    }
    Ok(planned
        .into_iter()
        .map(|mount| {
            let (kind, source, ours) = match mount.source {
                volume::Source::Host(path) | volume::Source::Efs(path) => ("bind", path, false),
                volume::Source::Task(path) => ("bind", path, true),
                volume::Source::Tmpfs => ("tmpfs", "tmpfs".into(), false),
            };
            Mount { destination: mount.destination, kind, source, options: mount.options, ours }
        })
        .collect())
}

/// `None`: the host's.
fn hostname(task: &Task, index: usize, definition: &ContainerDefinition) -> Option<String> {
    if let Some(hostname) = &definition.hostname {
        return Some(hostname.clone());
    }
    match task.definition.network_mode {
        NetworkMode::Host => None,
        NetworkMode::Awsvpc if task.address.is_some() => task.address.map(dns::default_hostname),
        NetworkMode::Bridge | NetworkMode::Awsvpc | NetworkMode::None => {
            // As Docker does: twelve digits that no other container has.
            let id = runtime_id(&task.id, &definition.name);
            let sum = protocol::monitor::crc32(id.as_bytes());
            Some(format!("{}{index:01x}{:03x}", task.id.as_str().get(..8)?, sum & 0xfff))
        }
    }
}

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, unless a volume brings them.
fn host_files(
    task: &Task,
    index: usize,
    definition: &ContainerDefinition,
    hostname: Option<&str>,
    directory: &Path,
) -> Result<Vec<Mount>, String> {
    let attachment = if definition.disable_networking {
        Attachment::None
    } else {
        let container = task.containers.get(index).and_then(|container| container.address);
        match task.definition.network_mode {
            NetworkMode::Host => Attachment::Host,
            NetworkMode::None => Attachment::None,
            NetworkMode::Awsvpc => task.address.map_or(Attachment::None, Attachment::Own),
            NetworkMode::Bridge => container.map_or(Attachment::None, Attachment::Own),
        }
    };
    let own = rustix::system::uname();
    let files = dns::contents(&dns::Request {
        host: &HostResolver::read().map_err(|error| chain(&error))?,
        attachment,
        hostname: hostname.unwrap_or(&own.nodename().to_string_lossy()),
        servers: &definition.dns_servers,
        search: &definition.dns_search_domains,
        extra_hosts: &definition.extra_hosts,
    });
    let paths = dns::write(&directory.join("etc"), &files).map_err(|error| chain(&error))?;
    let read_only = definition.readonly_root_filesystem;
    Ok([
        (paths.resolv_conf, "/etc/resolv.conf"),
        (paths.hosts, "/etc/hosts"),
        (paths.hostname, "/etc/hostname"),
    ]
    .into_iter()
    .filter(|(_, inside)| {
        !definition.mount_points.iter().any(|point| point.container_path == *inside)
    })
    .map(|(source, inside)| Mount::ours(source, inside, read_only))
    .collect())
}
