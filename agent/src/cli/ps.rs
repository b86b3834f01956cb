//! `lighter ps`: a row per container.

use jiff::Timestamp;
use serde::Serialize;

use super::connect::Connection;
use super::{Error, Failure, human, output};
use crate::api::types::{ContainerView, NetworkBinding, TaskView};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also show what has stopped
    #[arg(short, long)]
    all: bool,
    /// Only ids of tasks
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    /// One object per line
    Json,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    task: String,
    family: String,
    container: String,
    image: String,
    state: String,
    status: String,
    ports: String,
}

pub(super) async fn run(arguments: &Args, connection: &Connection) -> Result<u8, Failure> {
    let tasks = connection.client.tasks(arguments.all).await?;
    let shorten = |id: &str| {
        if arguments.no_trunc { id.to_owned() } else { human::short(id).to_owned() }
    };
    if arguments.quiet {
        let ids: String =
            tasks.iter().map(|task| format!("{}\n", shorten(&task.task_id))).collect();
        output::print(&ids)?;
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows = tasks.iter().flat_map(|task| {
        let shown = move |c: &&ContainerView| arguments.all || c.last_status != "STOPPED";
        task.containers.iter().filter(shown).map(move |container| row(task, container, now))
    });
    let mut text = String::new();
    match arguments.format {
        Format::Json => {
            for row in rows {
                let row = serde_json::to_string(&row).map_err(|source| Error::Json { source })?;
                text.push_str(&row);
                text.push('\n');
            }
        }
        Format::Table => {
            let head = ["TASK", "CONTAINER", "IMAGE", "STATUS", "PORTS"];
            let mut cells = vec![head.map(str::to_owned).to_vec()];
            cells.extend(rows.map(|row| {
                vec![shorten(&row.task), row.container, row.image, row.status, row.ports]
            }));
            text = output::table(&cells);
        }
    }
    output::print(&text)?;
    Ok(0)
}

fn row(task: &TaskView, container: &ContainerView, now: Timestamp) -> Row {
    Row {
        task: task.task_id.clone(),
        family: task.family.clone(),
        container: container.name.clone(),
        image: container.image.clone(),
        state: container.last_status.to_lowercase(),
        status: status(container, now),
        ports: ports(task, container),
    }
}

/// `Up 5 seconds`, `Exited (0) 3 seconds ago`
fn status(container: &ContainerView, now: Timestamp) -> String {
    let age = |time: &Option<String>| {
        let time = time.as_deref()?.parse().ok()?;
        Some(human::since(time, now))
    };
    match container.last_status.as_str() {
        "RUNNING" => match age(&container.started_at) {
            Some(age) => format!("Up {age}"),
            None => "Up".to_owned(),
        },
        "STOPPED" => {
            let code = container.exit_code.map_or("unknown".to_owned(), |code| code.to_string());
            // One that never ran has no code either.
            let what = match (&container.started_at, container.exit_code) {
                (None, None) => "Not started".to_owned(),
                _ => format!("Exited ({code})"),
            };
            match age(&container.stopped_at) {
                Some(age) => format!("{what} {age} ago"),
                None => what,
            }
        }
        "CREATED" => "Created".to_owned(),
        "PULLED" => "Pulled".to_owned(),
        _ => "Pending".to_owned(),
    }
}

/// Published ports as `docker ps` shows them, else the address at which the container is reached.
fn ports(task: &TaskView, container: &ContainerView) -> String {
    let binding = |binding: &NetworkBinding| {
        let NetworkBinding { bind_ip, container_port, host_port, protocol } = binding;
        match task.network_mode.as_str() {
            "bridge" => format!("{bind_ip}:{host_port}->{container_port}/{protocol}"),
            _ => format!("{container_port}/{protocol}"),
        }
    };
    let ports: Vec<String> = container.network_bindings.iter().map(binding).collect();
    let address = container.address.as_ref().or(task.address.as_ref());
    match (task.network_mode.as_str(), address) {
        ("awsvpc", Some(address)) if ports.is_empty() => address.clone(),
        ("awsvpc", Some(address)) => {
            ports.iter().map(|port| format!("{address}:{port}")).collect::<Vec<_>>().join(", ")
        }
        _ => ports.join(", "),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(value: serde_json::Value) -> ContainerView {
        let mut all = json!({
            "name": "web", "image": "nginx", "imageDigest": null, "essential": true,
            "runtimeId": "x", "lastStatus": "PENDING", "pid": null, "exitCode": null,
            "reason": null, "startedAt": null, "stoppedAt": null, "networkBindings": [],
            "address": null, "pseudoTerminal": false, "labels": {}, "logPath": "/x"
        });
        for (key, value) in value.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn statuses() {
        let now = "2026-11-21T10:01:00Z".parse().unwrap();
        let at = "2026-11-21T10:00:55Z";
        for (value, expected) in [
            (json!({}), "Pending"),
            (json!({"lastStatus": "PULLED"}), "Pulled"),
            (json!({"lastStatus": "CREATED"}), "Created"),
            (json!({"lastStatus": "RUNNING", "startedAt": at}), "Up 5 seconds"),
            (
                json!({"lastStatus": "STOPPED", "startedAt": at, "stoppedAt": at, "exitCode": 0}),
                "Exited (0) 5 seconds ago",
            ),
            (
                json!({"lastStatus": "STOPPED", "startedAt": at, "stoppedAt": at}),
                "Exited (unknown) 5 seconds ago",
            ),
            (json!({"lastStatus": "STOPPED", "stoppedAt": at}), "Not started 5 seconds ago"),
            (
                json!({"lastStatus": "STOPPED", "stoppedAt": at, "exitCode": 127}),
                "Exited (127) 5 seconds ago",
            ),
        ] {
            assert_eq!(status(&container(value.clone()), now), expected, "{value}");
        }
    }
}
