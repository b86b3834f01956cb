//! `lighter run`: one task, in the foreground or handed to the agent.
//!
//! In the foreground the task's life is bound to the command's: the first signal stops the task,
//! the second kills it, and the command exits as the essential container did that ended first. An
//! agent that goes away meanwhile is replaced, by this process if need be: containers go on.

use std::collections::HashMap;
use std::path::PathBuf;

use jiff::Timestamp;

use super::connect::Connection;
use super::printer::{Printer, Style, wants_colour};
use super::progress::Progress;
use super::signals::Signals;
use super::{Error, Failure, OURS, output, read_definition};
use crate::api::client::{Client, ClientError, LogQuery};
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
    let task = RunTask {
        definition: read_definition(&arguments.file)?,
        pull: match arguments.pull {
            Pull::Always => PullPolicy::Always,
            Pull::Missing => PullPolicy::Missing,
            Pull::Never => PullPolicy::Never,
        },
        remove: arguments.rm,
    };
    if arguments.detach {
        let connection = Connection::open_lasting(layout).await?;
        let view = connection.client.run(&task).await?;
        output::print(&format!("{}\n", view.task_id))?;
        connection.close().await?;
        return Ok(0);
    }
    let signals = Signals::open()?;
    let connection = Connection::open(layout.clone()).await?;
    let view = match connection.client.run(&task).await {
        Ok(view) => view,
        Err(error) => {
            connection.close().await?;
            return Err(error.into());
        }
    };
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
    /// Shows the task until it has stopped.
    async fn attend(&mut self, connection: Connection, layout: Layout) -> Result<(), Failure> {
        let mut connection = connection;
        loop {
            let error = match self.follow(&connection.client).await {
                Ok(()) => return connection.close().await,
                Err(error) => error,
            };
            let lost = matches!(
                error.error,
                Error::Client(
                    ClientError::Send { .. }
                        | ClientError::Receive { .. }
                        | ClientError::NotRunning { .. }
                )
            );
            connection.close().await?;
            if !lost {
                return Err(error);
            }
            tracing::debug!(error = super::chain(&error.error), "look for another agent");
            connection = Connection::open(layout.clone()).await?;
        }
    }

    async fn follow(&mut self, client: &Client) -> Result<(), Failure> {
        let id = self.view.task_id.clone();
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let opened = match client.watch(&id).await {
            Ok(changes) => client.logs(&id, &query).await.map(|lines| (changes, lines)),
            Err(error) => Err(error),
        };
        let (mut changes, mut lines) = match opened {
            Ok(opened) => opened,
            // Ended and, with --rm, removed while the connection was lost.
            Err(error) if error.is_not_found() && !self.seen.is_empty() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
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
                        _ => return Ok(()),
                    }
                }
            }
        }
        Ok(())
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
            if let Err(error) = client.stop(&id, &stop).await {
                output::tell(&format!("lighter: {}", super::chain(&error)));
            }
        });
    }

    /// The command's end after the task's.
    fn conclude(self) -> Result<u8, Failure> {
        for container in &self.view.containers {
            if let Some(reason) = &container.reason {
                output::tell(&format!("lighter: container {}: {reason}", container.name));
            }
        }
        if let Some(error) = self.unread {
            return Err(error.into());
        }
        if self.view.last_status == "STOPPED"
            && let Some(code) = self.view.exit_code
        {
            // As a shell sees it.
            return Ok(u8::try_from(code & 0xff).unwrap_or(OURS));
        }
        if let Some(signal) = self.signalled.first() {
            return Ok(128 + signal);
        }
        let reason = self.view.stopped_reason.as_deref().unwrap_or("the reason is not known");
        Err(Failure::said(format!("run task {}: {reason}", self.view.family)))
    }
}
