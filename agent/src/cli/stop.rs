//! `lighter stop`: stops tasks and waits until they have.

use super::connect::Connection;
use super::{Failure, output};
use crate::api::types::StopTask;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Seconds between the stop signal and SIGKILL, instead of each container's stopTimeout
    #[arg(short = 't', long = "timeout", visible_alias = "time", value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Ids, or the beginnings of ids
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

pub(super) async fn run(arguments: &Args, connection: &Connection) -> Result<u8, Failure> {
    let stop = StopTask {
        reason: Some("Task stopped by user".to_owned()),
        kill: false,
        timeout: arguments.timeout,
    };
    let mut code = 0;
    let mut stopping = Vec::new();
    // All are asked before any is waited for: their stop timeouts run at the same time.
    for task in &arguments.tasks {
        match connection.client.stop(task, &stop).await {
            Ok(view) => stopping.push((task, view.task_id)),
            Err(error) => {
                code = 1;
                output::tell(&format!("lighter: {}", super::chain(&error)));
            }
        }
    }
    for (given, id) in stopping {
        await_end(connection, &id).await?;
        output::print(&format!("{given}\n"))?;
    }
    Ok(code)
}

/// Returns when the task has stopped, or is gone.
pub(super) async fn await_end(connection: &Connection, task: &str) -> Result<(), Failure> {
    let mut changes = match connection.client.watch(task).await {
        Ok(changes) => changes,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    while let Some(view) = changes.next().await? {
        if view.last_status == "STOPPED" {
            break;
        }
    }
    Ok(())
}
