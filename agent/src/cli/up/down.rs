//! `lighter down`

use std::collections::BTreeSet;
use std::time::Duration;

use super::control_plane;
use super::settings::{Lock, Settings};
use super::start::{agent, end_agent};
use crate::api::types::StopTask;
use crate::cli::agents::{AGENTS, ask};
use crate::cli::connect::Connection;
use crate::cli::{Failure, output};
use crate::layout::Layout;

/// How long the control plane may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::cli) async fn run(layout: Layout) -> Result<u8, Failure> {
    let lock = Lock::take(&layout)?;
    bring_down(&layout, &lock).await
}

/// Ends the control plane first, so that services replace nothing while the tasks stop; the agent
/// reports their ends when both are up again.
pub(super) async fn bring_down(layout: &Layout, _lock: &Lock) -> Result<u8, Failure> {
    if let Some(process) = control_plane::find(layout)? {
        let pid = process.pid;
        let ended = process
            .end(PATIENCE)
            .await
            .map_err(|error| Failure::said(format!("end the control plane: {error}")))?;
        if !ended {
            return Err(Failure::said(format!(
                "the control plane (process {pid}) did not end within {} s",
                PATIENCE.as_secs()
            )));
        }
        output::tell("lighter: the control plane has ended");
    }
    let joined = agent(layout).await?.is_some_and(|info| info.cluster.is_some());
    if !joined && Settings::load(layout)?.is_none() {
        return Ok(0);
    }
    // Also where the agent is gone and its tasks live: the connection then embeds one.
    let mut stopping = BTreeSet::new();
    let open = async || Connection::open(layout.clone()).await;
    let stop = async |connection: &Connection| stop_tasks(connection, &mut stopping).await;
    let (connection, ()) = ask(AGENTS, open, stop).await?;
    connection.close().await?;
    let stopped = stopping.len();
    if stopped > 0 {
        let what = if stopped == 1 { "task has" } else { "tasks have" };
        output::tell(&format!("lighter: {stopped} {what} stopped"));
    }
    end_agent(layout).await?;
    Ok(0)
}

async fn stop_tasks(
    connection: &Connection,
    stopping: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let stop = StopTask { reason: Some("Host taken down".to_owned()), kill: false, timeout: None };
    for task in connection.client.tasks(false).await? {
        match connection.client.stop(&task.task_id, &stop).await {
            Ok(view) => drop(stopping.insert(view.task_id)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    for task in stopping.iter() {
        crate::cli::stop::await_end(connection, task).await?;
    }
    Ok(())
}
