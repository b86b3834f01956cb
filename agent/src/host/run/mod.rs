//! Effects. One file per kind; each may be repeated at any time and completes what an earlier
//! attempt left. Failures become ECS's words here and nowhere else.

mod container;
mod efs;
mod image;
mod release;
mod resources;
mod signal;

use std::path::Path;
use std::sync::Arc;

use protocol::taskdef::NetworkMode;

use super::hands::Hands;
use crate::engine::{Action, ContainerEvent, Effect, Event, Task, TaskEvent};
use crate::failpoint;
use crate::image::Lease;

pub(super) use release::{end_processes, leases, remove_files};
pub(super) use resources::namespace;

/// How an effect ended, and a lease on the image that it found. `None`: nobody waits for it.
type Done = Option<(Event, Option<Arc<Lease>>)>;

/// Carries out one effect.
pub(super) async fn effect(hands: Arc<Hands>, effect: Effect, task: Arc<Task>) -> Done {
    let generation = effect.generation;
    let of_task = |event| Some(Event::Task { task: effect.task.clone(), event });
    let of_container =
        |container, event| Some(Event::Container { task: effect.task.clone(), container, event });
    let (before, after) = points(&effect.action);
    failpoint::hit(before);
    let mut lease = None;
    let event = match effect.action {
        Action::ResolveImage { container } => {
            let resolved = image::resolve(&hands, &task, container).await;
            hands.logins().forget_container(&task.id, container);
            let event = match resolved {
                Ok(found) => {
                    lease = Some(found.lease);
                    let (id, digest) = (found.image.id, found.digest);
                    ContainerEvent::ImageReady { generation, id, digest }
                }
                Err(reason) => ContainerEvent::ImageFailed { generation, reason },
            };
            of_container(container, event)
        }
        Action::CancelPull { .. } => None,
        Action::CreateResources => of_task(match resources::create(&hands, &task).await {
            Ok(()) => TaskEvent::ResourcesReady { generation },
            Err(error) => {
                let reason = format!("ResourceInitializationError: {error}");
                TaskEvent::ResourcesFailed { generation, reason }
            }
        }),
        Action::CreateContainer { container } => {
            let event = match container::create(&hands, &task, container).await {
                Ok(facts) => ContainerEvent::Created { generation, facts },
                Err(failure) => ContainerEvent::CreateFailed {
                    generation,
                    reason: failure.reason("CannotCreateContainerError"),
                    exit_code: failure.exit_code,
                },
            };
            of_container(container, event)
        }
        Action::StartContainer { container } => {
            let event = match container::start(&hands, &task, container).await {
                Ok(facts) => ContainerEvent::Observed(facts),
                Err(failure) => ContainerEvent::StartFailed {
                    generation,
                    reason: failure.reason("CannotStartContainerError"),
                    exit_code: failure.exit_code,
                },
            };
            of_container(container, event)
        }
        Action::Signal { container, kill } => {
            signal::send(&hands, &task, container, kill).await;
            None
        }
        Action::Release => {
            release::release(&hands, &task).await;
            of_task(TaskEvent::Released { generation })
        }
        Action::Remove => {
            release::remove(&hands, &task).await;
            of_task(TaskEvent::Removed)
        }
    };
    failpoint::hit(after);
    event.map(|event| (event, lease))
}

/// Fail points before and after an effect.
fn points(action: &Action) -> (&'static str, &'static str) {
    match action {
        Action::ResolveImage { .. } | Action::CancelPull { .. } => ("pull.before", "pull.after"),
        Action::CreateResources => ("resources.before", "resources.after"),
        Action::CreateContainer { .. } => ("create.before", "create.after"),
        Action::StartContainer { .. } => ("start.before", "start.after"),
        Action::Signal { .. } => ("signal.before", "signal.after"),
        Action::Release => ("release.before", "release.after"),
        Action::Remove => ("remove.before", "remove.after"),
    }
}

/// The event in whose place an effect panicked.
pub(super) fn panicked(effect: &Effect) -> Option<Event> {
    let generation = effect.generation;
    let reason = || format!("the agent failed internally at {:?}; see its log", effect.action);
    let of_container =
        |container, event| Some(Event::Container { task: effect.task.clone(), container, event });
    match effect.action {
        Action::ResolveImage { container } => of_container(
            container,
            ContainerEvent::ImageFailed {
                generation,
                reason: format!("CannotPullContainerError: {}", reason()),
            },
        ),
        Action::CreateContainer { container } => of_container(
            container,
            ContainerEvent::CreateFailed {
                generation,
                reason: format!("CannotCreateContainerError: {}", reason()),
                exit_code: None,
            },
        ),
        Action::StartContainer { container } => of_container(
            container,
            ContainerEvent::StartFailed {
                generation,
                reason: format!("CannotStartContainerError: {}", reason()),
                exit_code: None,
            },
        ),
        Action::CreateResources => Some(Event::Task {
            task: effect.task.clone(),
            event: TaskEvent::ResourcesFailed {
                generation,
                reason: format!("ResourceInitializationError: {}", reason()),
            },
        }),
        Action::CancelPull { .. } | Action::Signal { .. } | Action::Release | Action::Remove => {
            None
        }
    }
}

/// Whether the task's monitor has a network namespace of its own.
pub(super) fn has_own_network(task: &Task) -> bool {
    matches!(task.definition.network_mode, NetworkMode::Awsvpc | NetworkMode::None)
}

/// Runs what blocks on files or netlink off the reactor.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => Err(format!("the agent failed internally: {failed}")),
    }
}

/// Makes a directory that only root may look into, and its parents.
fn private_directory(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| format!("create {}: {error}", path.display()))
}
