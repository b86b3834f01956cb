//! `lighter inspect`: everything about tasks, as JSON.

use super::connect::Connection;
use super::{Error, Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ids, or the beginnings of ids
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<String>,
}

pub(super) async fn run(arguments: &Args, connection: &Connection) -> Result<u8, Failure> {
    let mut views = Vec::new();
    let mut code = 0;
    for task in &arguments.tasks {
        match connection.client.task(task).await {
            Ok(view) => views.push(view),
            Err(error) if error.is_not_found() => {
                code = 1;
                output::tell(&format!("lighter: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let text = serde_json::to_string_pretty(&views).map_err(|source| Error::Json { source })?;
    output::print(&format!("{text}\n"))?;
    Ok(code)
}
