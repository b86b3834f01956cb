//! `lighter rm`: removes stopped tasks, their files and logs.

use super::connect::Connection;
use super::stop::await_end;
use super::{Failure, output};
use crate::api::client::ClientError;
use crate::api::types::StopTask;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Kill the task first if it runs; a task that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Ids, or the beginnings of ids
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

/// How far the command has come, for when it goes on with another agent.
#[derive(Debug, Default)]
pub(super) struct Removing {
    done: usize,
    failed: bool,
    /// Id of the task that is being removed.
    found: Option<String>,
}

pub(super) async fn run(
    arguments: &Args,
    removing: &mut Removing,
    connection: &Connection,
) -> Result<u8, Failure> {
    while let Some(task) = arguments.tasks.get(removing.done) {
        match remove(connection, task, arguments.force, &mut removing.found).await {
            Ok(()) => output::print(&format!("{task}\n"))?,
            Err(failure) if failure.is_lost_agent() => return Err(failure),
            Err(error) => {
                let gone = matches!(&error.error,
                    super::Error::Client(error) if error.is_not_found());
                output::tell(&format!("lighter: {}", super::chain(&error.error)));
                removing.failed |= !(gone && arguments.force);
            }
        }
        removing.done += 1;
        removing.found = None;
    }
    Ok(removing.failed.into())
}

async fn remove(
    connection: &Connection,
    task: &str,
    force: bool,
    found: &mut Option<String>,
) -> Result<(), Failure> {
    let view = match connection.client.task(found.as_deref().unwrap_or(task)).await {
        // The agent that was asked before has done it.
        Err(error) if error.is_not_found() && found.is_some() => return Ok(()),
        view => view?,
    };
    *found = Some(view.task_id.clone());
    if view.last_status != "STOPPED" {
        if !force {
            let status = view.last_status.to_lowercase();
            return Err(Failure::said(format!(
                "remove task {task}: it is {status}; stop it first, or use --force"
            )));
        }
        let reason = Some("Task removed by user".to_owned());
        let kill = StopTask { reason, kill: true, timeout: None };
        connection.client.stop(&view.task_id, &kill).await?;
        await_end(connection, &view.task_id).await?;
    }
    match connection.client.remove(&view.task_id).await {
        // Run with --rm, and faster.
        Err(error @ ClientError::Refused { .. }) if !error.is_not_found() => Err(error.into()),
        Err(ClientError::Refused { .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
