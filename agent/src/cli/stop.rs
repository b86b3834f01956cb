//! `lighter stop`: stops tasks and waits until they have.

use std::collections::VecDeque;

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

/// How far the command has come, for when it goes on with another agent.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    asked: usize,
    refused: bool,
    /// Those that were asked and have not been seen to end: as given, and the id.
    left: VecDeque<(String, String)>,
}

pub(super) async fn run(
    arguments: &Args,
    stopping: &mut Stopping,
    connection: &Connection,
) -> Result<u8, Failure> {
    let stop = StopTask {
        reason: Some("Task stopped by user".to_owned()),
        kill: false,
        timeout: arguments.timeout,
    };
    // All are asked before any is waited for: their stop timeouts run at the same time.
    while let Some(task) = arguments.tasks.get(stopping.asked) {
        match connection.client.stop(task, &stop).await {
            Ok(view) => stopping.left.push_back((task.clone(), view.task_id)),
            Err(error) if error.is_lost() => return Err(error.into()),
            Err(error) => {
                stopping.refused = true;
                output::tell(&format!("lighter: {}", super::chain(&error)));
            }
        }
        stopping.asked += 1;
    }
    while let Some((given, id)) = stopping.left.front() {
        await_end(connection, id).await?;
        output::print(&format!("{given}\n"))?;
        stopping.left.pop_front();
    }
    Ok(stopping.refused.into())
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
            return Ok(());
        }
    }
    // Its record is gone, or the agent ends.
    match connection.client.task(task).await {
        Ok(view) if view.last_status == "STOPPED" => Ok(()),
        Ok(_) => Err(Failure::ended(format!("stop task {task}"))),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}
