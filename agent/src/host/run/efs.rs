//! EFS volumes of a task: mounted in its monitor's mount namespace, where containers bind them.
//! Nothing gives them back: they go with the namespace.

use std::sync::Arc;

use super::blocking;
use crate::engine::Task;
use crate::error::chain;
use crate::host::hands::Hands;
use crate::tmds::environment;
use crate::volume::{self, Error, efs, nfs};

/// The monitor in whose namespace a task's EFS volumes are mounted.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Of the guardian; `None` if the task has no EFS volume.
    monitor: Option<i32>,
}

/// Mounts those that are not mounted yet, in the namespace of the task's monitor. Repeated before
/// each container, because a monitor that took over after another has none of its mounts.
pub(super) async fn mount(hands: &Arc<Hands>, task: &Task) -> Result<Mounted, String> {
    let directory = volume::task::directory(&hands.layout().task(&task.id));
    let volumes = efs::volumes(&task.definition, &directory);
    if volumes.is_empty() {
        return Ok(Mounted { monitor: None });
    }
    let monitor = monitor(hands, task).await?;
    for volume in volumes {
        let file_system = volume.file_system_id.clone();
        let planned = efs::Mount::plan(&volume, environment::region(task), hands.efs())
            .map_err(|source| chain(&Error::PlanEfs { file_system, source }))?;
        let failed = |source| {
            let (file_system, place) = (volume.file_system_id.clone(), planned.source.clone());
            chain(&Error::MountEfs { file_system, place, source })
        };
        let (directory, path) = (directory.clone(), volume.path.clone());
        let place = blocking(move || {
            volume::task::make_place(&directory, &path).map_err(|error| chain(&error))
        })
        .await?;
        let point = place.clone();
        let attached = blocking(move || Ok(nfs::is_attached(monitor, &point))).await?;
        if attached.map_err(failed)? {
            continue;
        }
        let made = nfs::open(&planned).await.map_err(failed)?;
        blocking(move || Ok(nfs::attach(&made, monitor, &place))).await?.map_err(failed)?;
    }
    Ok(Mounted { monitor: Some(monitor) })
}

impl Mounted {
    /// That a container that was created meanwhile has the file systems, and not the directories
    /// below them of a namespace without: that the monitor is the same.
    pub(super) async fn check(&self, hands: &Arc<Hands>, task: &Task) -> Result<(), String> {
        match self.monitor {
            Some(before) if monitor(hands, task).await? != before => {
                Err("the task's monitor ended while the container was created, and its EFS mounts \
                 with it"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }
}

async fn monitor(hands: &Arc<Hands>, task: &Task) -> Result<i32, String> {
    let link = hands.link(task).await.map_err(|error| chain(&error))?;
    Ok(link.hello().await.map_err(|error| chain(&error))?.guardian.pid)
}
