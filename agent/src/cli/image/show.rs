//! `lighter image inspect` and `lighter image history`.

use jiff::Timestamp;
use serde::Serialize;

use super::super::connect::Connection;
use super::super::listing::Format;
use super::super::template::Template;
use super::super::{Error, Failure, human, output};
use crate::api::types::HistoryView;

#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Inspect {
    /// A Go template instead of JSON
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names, digests or ids
    #[arg(required = true, value_name = "IMAGE")]
    references: Vec<String>,
}

pub(in crate::cli) async fn inspect(
    arguments: Inspect,
    connection: &Connection,
) -> Result<u8, Failure> {
    let format = arguments.format.filter(|format| !format.is_empty());
    // On one line, as Docker has it.
    let compact = format.as_deref() == Some("json");
    let format = format.filter(|_| !compact);
    let template = format.map(|format| Template::parse(&format)).transpose()?;
    let mut images = Vec::new();
    let mut code = 0;
    for reference in &arguments.references {
        match connection.client.image(reference).await {
            Ok(image) => images.push(image),
            Err(error) if error.is_refusal() => {
                code = 1;
                output::tell(&format!("lighter: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let json = |source| Error::Json { source };
    let Some(template) = template else {
        let mut text = Vec::new();
        if compact {
            serde_json::to_writer(&mut text, &images).map_err(json)?;
        } else {
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
            images.serialize(&mut serializer).map_err(json)?;
        }
        text.push(b'\n');
        output::print_bytes(&text)?;
        return Ok(code);
    };
    for image in images {
        let value = serde_json::to_value(image).map_err(json)?;
        output::print(&format!("{}\n", template.execute(&value)?))?;
    }
    Ok(code)
}

#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct History {
    /// Sizes and dates for people; --human=false for bytes and RFC 3339
    #[arg(
        short = 'H',
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    human: bool,
    /// Do not shorten what is long
    #[arg(long)]
    no_trunc: bool,
    /// Only ids of images
    #[arg(short, long)]
    quiet: bool,
    /// `table`, `json`, or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    #[arg(value_name = "IMAGE")]
    reference: String,
}

/// Names of fields and their headings.
const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// As many characters of a step's command are shown.
const COMMAND: usize = 45;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    comment: String,
    created_at: String,
    created_by: String,
    created_since: String,
    #[serde(rename = "ID")]
    id: String,
    size: String,
}

pub(in crate::cli) async fn history(
    arguments: History,
    connection: &Connection,
) -> Result<u8, Failure> {
    let steps = connection.client.image_history(&arguments.reference).await?;
    let now = Timestamp::now();
    let rows: Vec<Row> =
        steps.into_iter().map(|step| row(step, arguments.human, arguments.no_trunc, now)).collect();
    if arguments.quiet {
        output::print(&rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>())?;
        return Ok(0);
    }
    let created = if arguments.human { "CreatedSince" } else { "CreatedAt" };
    let default = ["ID", created, "CreatedBy", "Size", "Comment"];
    output::print(&Format::parse(&arguments.format)?.rows(&rows, HEADINGS, &default)?)?;
    Ok(0)
}

fn row(step: HistoryView, human: bool, whole: bool, now: Timestamp) -> Row {
    let created: Option<Timestamp> = step.created.as_deref().and_then(|time| time.parse().ok());
    let mut command = step.created_by.replace('\t', " ");
    if !whole && command.chars().count() > COMMAND {
        command = command.chars().take(COMMAND - 1).chain(['…']).collect();
    }
    Row {
        comment: step.comment,
        created_at: step.created.unwrap_or_default(),
        created_by: command,
        created_since: created
            .map_or_else(|| "N/A".to_owned(), |time| format!("{} ago", human::since(time, now))),
        id: if whole { step.id } else { human::short(&step.id).to_owned() },
        size: if human { human::size(step.size) } else { step.size.to_string() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn steps_are_shortened_as_docker_shortens_them() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let step = |id: &str| HistoryView {
            id: id.to_owned(),
            created: Some("2026-11-21T09:00:00Z".to_owned()),
            created_by: format!("/bin/sh -c\t{}", "x".repeat(60)),
            tags: Vec::new(),
            size: 1_500_000,
            comment: "c".to_owned(),
        };
        let short = row(step("sha256:0123456789abcdef"), true, false, now);
        assert_eq!(short.created_by.chars().count(), 45);
        assert!(short.created_by.ends_with("x…"), "{}", short.created_by);
        assert_eq!((short.id.as_str(), short.size.as_str()), ("0123456789ab", "1.5MB"));
        assert_eq!(short.created_since, "3 hours ago");
        let long = row(step("<missing>"), false, true, now);
        assert_eq!((long.id.as_str(), long.size.as_str()), ("<missing>", "1500000"));
        assert!(long.created_by.ends_with(&"x".repeat(60)));
    }
}
