//! `lighter logs`: the output of a task's containers.

use jiff::Timestamp;

use super::connect::Connection;
use super::printer::{Printer, Style, wants_colour};
use super::{Failure, human};
use crate::api::client::LogQuery;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on until the task has stopped
    #[arg(short, long)]
    follow: bool,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines since a time (2026-11-21T10:00:00Z) or for so long (42m)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only the last N lines of each container, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// No colours
    #[arg(long)]
    no_color: bool,
    /// No names of containers before the lines
    #[arg(long)]
    no_log_prefix: bool,
    /// The task's id, or its beginning
    task: String,
    /// Only this container
    container: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Tail {
    All,
    Last(usize),
}

fn tail(text: &str) -> Result<Tail, String> {
    // As Docker: a negative number is all.
    if text == "all" || text.parse::<i64>().is_ok_and(|number| number < 0) {
        return Ok(Tail::All);
    }
    text.parse().map(Tail::Last).map_err(|_not_a_number| "must be a number or all".to_owned())
}

fn since(text: &str) -> Result<Timestamp, String> {
    let rule = "must be a time such as 2026-11-21T10:00:00Z, seconds since the epoch, or 10m";
    human::moment(text, Timestamp::now()).ok_or_else(|| rule.to_owned())
}

pub(super) async fn run(arguments: &Args, connection: &Connection) -> Result<u8, Failure> {
    let view = connection.client.task(&arguments.task).await?;
    let names = view.containers.iter().map(|container| container.name.as_str());
    if let Some(container) = &arguments.container
        && !names.clone().any(|name| name == container)
    {
        let known = names.collect::<Vec<_>>().join(", ");
        return Err(Failure::said(format!(
            "no container {container:?} in task {}: it has {known}",
            arguments.task
        )));
    }
    let style = Style {
        prefix: arguments.container.is_none()
            && view.containers.len() > 1
            && !arguments.no_log_prefix,
        colour: wants_colour(arguments.no_color),
        timestamps: arguments.timestamps,
    };
    let mut printer = Printer::new(style, names);
    let query = LogQuery {
        follow: arguments.follow,
        containers: arguments.container.iter().cloned().collect(),
        since: arguments.since,
        tail: match arguments.tail {
            Tail::All => None,
            Tail::Last(lines) => Some(lines),
        },
    };
    let mut lines = connection.client.logs(&view.task_id, &query).await?;
    while let Some(line) = lines.next().await? {
        printer.print(&line)?;
    }
    Ok(0)
}
