//! `lighter run`: one task, in the foreground or handed to the agent.
//!
//! In the foreground the task's life is bound to the command's: the first signal stops the task,
//! the second kills it, and the command exits as the essential container did that ended first. An
//! agent that goes away meanwhile is replaced, by this process if need be: containers go on.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use jiff::Timestamp;
use protocol::ids::TaskId;
use protocol::taskdef::{ContainerDefinition, LogDriver, TaskDefinition};

use super::agents::{AGENTS, EVERY, ask};
use super::connect::Connection;
use super::printer::{Printer, Style, wants_colour};
use super::progress::Progress;
use super::signals::Signals;
use super::{Error, Failure, OURS, login, output, read_definition};
use crate::api::client::{Client, LogQuery};
use crate::api::types::{LogLine, PullPolicy, RunTask, StopTask, TaskView};
use crate::layout::Layout;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Hand the task to the agent and print its id
    #[arg(short, long)]
    detach: bool,
    /// Remove the task and its logs when it has stopped
    #[arg(long)]
    rm: bool,
    /// When to pull images
    #[arg(long, value_enum, value_name = "WHEN", default_value = "missing")]
    pull: Pull,
    /// No progress of pulls
    #[arg(long)]
    quiet_pull: bool,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// No colours
    #[arg(long)]
    no_color: bool,
    /// Task definition, in the JSON of RegisterTaskDefinition; - reads standard input
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Pull {
    Always,
    Missing,
    Never,
}

pub(super) async fn run(arguments: Args, layout: Layout) -> Result<u8, Failure> {
    start(arguments, layout).await.map_err(|failure| failure.with_code(OURS))
}

async fn start(arguments: Args, layout: Layout) -> Result<u8, Failure> {
    let definition = read_definition(&arguments.file)?;
    let logins = match arguments.pull {
        Pull::Never => BTreeMap::new(),
        Pull::Always | Pull::Missing => login::of_task(&definition).await,
    };
    let task = RunTask {
        id: Some(TaskId::from_random(uuid::Uuid::new_v4().as_u128())),
        definition,
        logins,
        pull: match arguments.pull {
            Pull::Always => PullPolicy::Always,
            Pull::Missing => PullPolicy::Missing,
            Pull::Never => PullPolicy::Never,
        },
        remove: arguments.rm,
    };
    for warning in without_effect(&task.definition) {
        output::tell(&format!("lighter: {warning}"));
    }
    if arguments.detach {
        return detach(&task, layout, arguments.quiet_pull).await;
    }
    let signals = Signals::open()?;
    let open = async || Connection::open(layout.clone()).await;
    let run = async |connection: &Connection| Ok(connection.client.run(&task).await?);
    let (connection, view) = ask(AGENTS, open, run).await?;
    tell_of_local_logs(&task.definition, &connection);
    let style = Style {
        prefix: true,
        colour: wants_colour(arguments.no_color),
        timestamps: arguments.timestamps,
    };
    let names = view.containers.iter().map(|container| container.name.as_str());
    let mut attendance = Attendance {
        printer: Printer::new(style, names),
        progress: Progress::new(arguments.quiet_pull),
        signals,
        signalled: Vec::new(),
        seen: HashMap::new(),
        unread: None,
        view,
    };
    let attended = attendance.attend(connection, layout).await;
    attendance.progress.clear();
    attended?;
    attendance.conclude()
}

/// What of a definition only a control plane acts on, which a task of this command has none of.
fn without_effect(definition: &TaskDefinition) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(role) = &definition.task_role_arn {
        warnings.push(format!(
            "task role {role} is not assumed: credentials of roles come from a control plane, \
             which runs the task by `aws ecs run-task`"
        ));
    }
    if let Some(role) = &definition.execution_role_arn {
        warnings.push(format!(
            "execution role {role} is not assumed: images are pulled and secrets read with the \
             credentials of this host"
        ));
    }
    if !definition.placement_constraints.is_empty() {
        warnings.push(
            "placementConstraints are not checked: the task runs on this host, there is no other \
             to choose"
                .to_owned(),
        );
    }
    warnings
}

/// Where the agent knows no logs service, what the driver `awslogs` was to ship stays here.
fn tell_of_local_logs(definition: &TaskDefinition, connection: &Connection) {
    let stays = |container: &ContainerDefinition| {
        let log = &container.log;
        log.driver == LogDriver::AwsLogs && !log.options.contains_key("awslogs-endpoint")
    };
    if !connection.agent.ships_logs && definition.containers.iter().any(stays) {
        output::tell(
            "lighter: logs of the driver awslogs stay on this host, which is in no cluster and has \
             neither an endpoint nor keys configured: `lighter logs` shows them",
        );
    }
}

/// Hands the task to an agent that outlives this process, and returns once it runs, as `docker run
/// --detach` does: what keeps it from starting is this command's failure.
async fn detach(task: &RunTask, layout: Layout, quiet: bool) -> Result<u8, Failure> {
    let mut progress = Progress::new(quiet);
    let open = async || Connection::open_lasting(layout.clone()).await;
    let begun = ask(AGENTS, open, async |connection| begin(connection, task, &mut progress).await);
    let begun = begun.await;
    progress.clear();
    let (connection, view) = begun?;
    tell_of_local_logs(&task.definition, &connection);
    let result = if view.started_at.is_some() {
        output::print(&format!("{}\n", view.task_id)).map(|()| 0).map_err(Failure::from)
    } else {
        forget_unstarted(&connection.client, &view).await;
        outcome(&view, &[])
    };
    connection.close_after(result).await
}

/// Has the agent run the task, if none has yet, and waits until it runs, or never will.
async fn begin(
    connection: &Connection,
    task: &RunTask,
    progress: &mut Progress,
) -> Result<TaskView, Failure> {
    let mut view = connection.client.run(task).await?;
    let mut changes = connection.client.watch(&view.task_id).await?;
    while view.started_at.is_none() && view.last_status != STOPPED {
        let Some(next) = changes.next().await? else {
            return Err(Failure::ended(format!("start task {}", view.task_id)));
        };
        next.progress.iter().for_each(|event| progress.show(event));
        view = next;
    }
    Ok(view)
}

/// A task of which nothing ever ran leaves nothing, not even its record.
async fn forget_unstarted(client: &Client, view: &TaskView) {
    let ran = view.containers.iter().any(|container| container.started_at.is_some());
    if view.last_status == STOPPED
        && !ran
        && let Err(error) = client.remove(&view.task_id).await
        && !error.is_not_found()
    {
        output::tell(&format!("lighter: remove task {}: {}", view.task_id, super::chain(&error)));
    }
}

/// What the command exits with after the task's end, having told why.
fn outcome(view: &TaskView, signalled: &[u8]) -> Result<u8, Failure> {
    for container in &view.containers {
        if let Some(reason) = &container.reason {
            output::tell(&format!("lighter: container {}: {reason}", container.name));
        }
    }
    if view.last_status == STOPPED
        && let Some(code) = view.exit_code
    {
        // As a shell sees it.
        return Ok(u8::try_from(code & 0xff).unwrap_or(OURS));
    }
    if let Some(signal) = signalled.first() {
        return Ok(128 + signal);
    }
    let reason = view.stopped_reason.as_deref().unwrap_or("the reason is not known");
    Err(Failure::said(format!("run task {}: {reason}", view.family)))
}

/// The last of the task's states.
const STOPPED: &str = "STOPPED";

/// How watching a task came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    /// The task has stopped and all of its output was shown.
    Stopped,
    /// The person does not want to wait.
    Left,
}

/// A foreground task and what was shown of it.
#[derive(Debug)]
struct Attendance {
    printer: Printer,
    progress: Progress,
    signals: Signals,
    signalled: Vec<u8>,
    /// Per container: the time of its last line that was shown, and how many lines have that time.
    seen: HashMap<String, (Timestamp, usize)>,
    /// Why output is no longer shown.
    unread: Option<Error>,
    view: TaskView,
}

impl Attendance {
    /// Shows the task until it has stopped, whichever agent it has.
    async fn attend(&mut self, connection: Connection, layout: Layout) -> Result<(), Failure> {
        let mut first = Some(connection);
        let open = async || match first.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(layout.clone()).await,
        };
        let (connection, watched) =
            ask(EVERY, open, async |connection| self.follow(&connection.client).await).await?;
        if watched == Watched::Stopped {
            forget_unstarted(&connection.client, &self.view).await;
        }
        connection.close().await
    }

    async fn follow(&mut self, client: &Client) -> Result<Watched, Failure> {
        let id = self.view.task_id.clone();
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let opened = match client.watch(&id).await {
            Ok(changes) => client.logs(&id, &query).await.map(|lines| (changes, lines)),
            Err(error) => Err(error),
        };
        let (mut changes, mut lines) = match opened {
            Ok(opened) => opened,
            // Ended and, with --rm, removed while the connection was lost.
            Err(error) if error.is_not_found() && !self.seen.is_empty() => {
                return Ok(Watched::Stopped);
            }
            Err(error) => return Err(error.into()),
        };
        // An agent that went away may not have heard of it.
        if self.unread.is_some() || !self.signalled.is_empty() {
            self.stop(client, self.signalled.len() > 1);
        }
        let mut shown = self.seen.clone();
        let (mut changing, mut writing) = (true, true);
        // Lines are read to their end even after the task's end is known.
        while changing || writing {
            tokio::select! {
                view = changes.next(), if changing => match view? {
                    Some(view) => {
                        view.progress.iter().for_each(|event| self.progress.show(event));
                        self.view = view;
                    }
                    None => changing = false,
                },
                line = lines.next(), if writing => match line? {
                    Some(line) => self.show(&line, &mut shown, client),
                    None => writing = false,
                },
                signal = self.signals.next() => {
                    self.signalled.push(signal);
                    match self.signalled.len() {
                        1 => {
                            output::tell("Stopping the task… (again to kill it)");
                            self.stop(client, false);
                        }
                        2 => {
                            output::tell("Killing the task… (again to leave it to the agent)");
                            self.stop(client, true);
                        }
                        _ => return Ok(Watched::Left),
                    }
                }
            }
        }
        if self.view.last_status == STOPPED {
            return Ok(Watched::Stopped);
        }
        // An agent that ends closes its streams in order.
        Err(Failure::ended(format!("watch task {id}")))
    }

    /// Prints a line, unless that was done before the connection was lost.
    fn show(
        &mut self,
        line: &LogLine,
        shown: &mut HashMap<String, (Timestamp, usize)>,
        client: &Client,
    ) {
        let Ok(time) = line.time.parse::<Timestamp>() else { return };
        if let Some((until, left)) = shown.get_mut(&line.container) {
            if time < *until {
                return;
            }
            if time == *until && *left > 0 {
                *left -= 1;
                return;
            }
            shown.remove(&line.container);
        }
        match self.seen.get_mut(&line.container) {
            Some((at, count)) if *at == time => *count += 1,
            Some(last) => *last = (time, 1),
            None => drop(self.seen.insert(line.container.clone(), (time, 1))),
        }
        if self.unread.is_some() {
            return;
        }
        let Self { progress, printer, .. } = self;
        if let Err(error) = progress.suspend(|| printer.print(line)) {
            // Nobody reads: the task has nobody to run for.
            self.unread = Some(error);
            self.stop(client, false);
        }
    }

    /// Asks for the stop without waiting: the end shows in the view.
    fn stop(&self, client: &Client, kill: bool) {
        let (client, id) = (client.clone(), self.view.task_id.clone());
        let reason = Some("Task stopped by user".to_owned());
        tokio::spawn(async move {
            let stop = StopTask { reason, kill, timeout: None };
            // The next agent is asked again.
            if let Err(error) = client.stop(&id, &stop).await
                && !error.is_lost()
            {
                output::tell(&format!("lighter: {}", super::chain(&error)));
            }
        });
    }

    /// The command's end after the task's.
    fn conclude(self) -> Result<u8, Failure> {
        let ended = outcome(&self.view, &self.signalled);
        match self.unread {
            Some(error) => Err(error.into()),
            None => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_control_plane_is_told() {
        let container = serde_json::json!({"name": "c", "image": "i", "memory": 8});
        let mut definition =
            serde_json::json!({"family": "f", "containerDefinitions": [container]});
        let warnings = |definition: &serde_json::Value| {
            without_effect(&protocol::taskdef::from_value(definition).unwrap())
        };
        assert!(warnings(&definition).is_empty());
        definition["taskRoleArn"] = "reader".into();
        definition["executionRoleArn"] = "puller".into();
        definition["placementConstraints"] =
            serde_json::json!([{"type": "memberOf", "expression": "x == 1"}]);
        let told = warnings(&definition);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("task role reader is not assumed"), "{told:?}");
    }
}
