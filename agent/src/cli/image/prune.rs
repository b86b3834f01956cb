//! `lighter image prune`.

use std::io::{self, Write as _};

use jiff::Timestamp;

use super::super::connect::Connection;
use super::super::{Error, Failure, human, output};
use super::parse_filter;
use crate::api::types::PruneImages;

#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Args {
    /// Remove all images that no container needs, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only images that fit: until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = parse_filter)]
    filters: Vec<(String, String)>,
}

pub(in crate::cli) async fn run(arguments: Args, connection: &Connection) -> Result<u8, Failure> {
    let request = request(&arguments, Timestamp::now())?;
    if !arguments.force && !confirmed(&arguments).await? {
        output::print("Total reclaimed space: 0B\n")?;
        return Ok(0);
    }
    let pruned = connection.client.prune_images(&request).await?;
    let mut text = String::new();
    for removed in &pruned.removed {
        text.extend(removed.untagged.iter().map(|name| format!("untagged: {name}\n")));
        text.extend(removed.deleted.iter().map(|id| format!("deleted: {id}\n")));
    }
    if !text.is_empty() {
        text = format!("Deleted Images:\n{text}\n");
    }
    let reclaimed = human::size(pruned.reclaimed);
    output::print(&format!("{text}Total reclaimed space: {reclaimed}\n"))?;
    Ok(0)
}

fn request(arguments: &Args, now: Timestamp) -> Result<PruneImages, Failure> {
    let mut request = PruneImages { all: arguments.all, ..PruneImages::default() };
    for (key, value) in &arguments.filters {
        let invalid = || Failure::said(format!("prune images: invalid filter '{key}={value}'"));
        match key.as_str() {
            "until" => {
                let until = human::moment(value, now).ok_or_else(invalid)?;
                request.until = Some(until.to_string());
            }
            "label" => request.labels.push(value.clone()),
            "label!" => request.without_labels.push(value.clone()),
            "dangling" => match value.as_str() {
                "true" | "1" => request.all = false,
                "false" | "0" => request.all = true,
                _ => return Err(invalid()),
            },
            _ => return Err(invalid()),
        }
    }
    Ok(request)
}

/// Docker's words and answers.
async fn confirmed(arguments: &Args) -> Result<bool, Failure> {
    let what = if arguments.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let mut text = format!("WARNING! This will remove {what}.\n");
    if !arguments.filters.is_empty() {
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        for (key, value) in &arguments.filters {
            text.push_str(&format!("  - {key}={value}\n"));
        }
        text.push('\n');
    }
    text.push_str("Are you sure you want to continue? [y/N] ");
    output::print(&text)?;
    // In a thread, because signals must not wait for people.
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    })
    .await
    .map_err(|error| Failure::said(format!("read standard input: {error}")))?
    .map_err(|source| Error::Read { path: "standard input".into(), source })?;
    io::stdout().flush().map_err(|source| Error::Output { source })?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn filters_become_a_request() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let arguments = |filters: &[&str]| Args {
            all: true,
            force: true,
            filters: filters.iter().map(|text| parse_filter(text).unwrap()).collect(),
        };
        let read = request(&arguments(&["until=24h", "label=a=b", "label!=c"]), now).unwrap();
        assert!(read.all);
        assert_eq!(read.until.as_deref(), Some("2026-11-20T12:00:00Z"));
        assert_eq!((read.labels, read.without_labels), (vec!["a=b".into()], vec!["c".into()]));
        assert!(request(&arguments(&["until=yesterday"]), now).is_err());
        assert!(request(&arguments(&["size=1"]), now).is_err());
        assert!(!request(&arguments(&["dangling=true"]), now).unwrap().all);
        assert!(parse_filter("until").is_err() && parse_filter("=x").is_err());
    }
}
