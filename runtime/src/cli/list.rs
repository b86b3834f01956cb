//! `list`: the containers below the state root; and who owns a container, for `state` too.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::arguments::{Given, Misuse, Opt, choice};
use super::{Error, print};
use crate::container::{self, Container, State};

pub(super) const OPTIONS: &[Opt] = &[
    Opt::value("format", "FORMAT", "Form of the list: table or json [default: table]").short('f'),
    Opt::switch("quiet", "Print the names of the containers and nothing else").short('q'),
];

#[derive(Debug)]
pub(super) struct Arguments {
    format: Format,
    quiet: bool,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self { format: Format::read(given)?, quiet: given.is_on("quiet") })
    }
}

/// How a verb shows what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Json,
}

impl Format {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        let choices = [("table", Self::Table), ("json", Self::Json)];
        let chosen = given.parsed("format", |text| choice(&choices, text))?;
        Ok(chosen.unwrap_or(Self::Table))
    }
}

/// Why the containers cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("list the containers in {}", path.display())]
pub(crate) struct Unreadable {
    path: PathBuf,
    source: io::Error,
}

/// A container's state, and the name of the user who created it.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) state: State,
    pub(super) owner: String,
}

pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<u8, Error> {
    let entries = entries(root)?;
    if arguments.quiet {
        return print(
            &entries.iter().map(|entry| format!("{}\n", entry.state.id)).collect::<String>(),
        );
    }
    match arguments.format {
        Format::Table => print(&table(&entries)),
        // As runc, whose empty list is Go's nil.
        Format::Json if entries.is_empty() => print("null"),
        Format::Json => print(&serde_json::to_string(&entries).map_err(Error::Json)?),
    }
}

impl Entry {
    /// Looks at one container.
    ///
    /// # Errors
    /// If it does not exist, or its state cannot be read.
    pub(super) fn load(root: &Path, id: &str) -> Result<Self, container::Error> {
        let state = Container::load(root, id)?.state()?;
        let directory = root.join(id);
        let uid = std::fs::metadata(&directory)
            .map_err(|source| container::Error::File {
                operation: "find the owner of",
                path: directory,
                source,
            })?
            .uid();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        Ok(Self { state, owner: user(&users, uid) })
    }
}

/// Every container, by name. One that vanishes meanwhile is none; one whose state is damaged is told
/// of, and does not hide the others.
fn entries(root: &Path) -> Result<Vec<Entry>, Unreadable> {
    let failed = |source| Unreadable { path: root.to_owned(), source };
    let directory = match std::fs::read_dir(root) {
        // The first container makes it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in directory {
        let entry = entry.map_err(failed)?;
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let (true, Ok(name)) = (is_directory, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    let mut entries = Vec::with_capacity(names.len());
    for name in names {
        match Entry::load(root, &name) {
            Ok(entry) => entries.push(entry),
            // Not a directory of ours, or deleted since it was listed.
            Err(container::Error::Id(_) | container::Error::NotFound { .. }) => {}
            Err(_) if !root.join(&name).exists() => {}
            Err(error) => log::error!("load container {name}: {}", super::describe(&error)),
        }
    }
    Ok(entries)
}

/// Name of a user as the host's `passwd` has it; `#` and the number where it has none.
///
/// Read by hand: the C library's search would drag its service switch into a static program.
fn user(passwd: &str, uid: u32) -> String {
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    named.map_or_else(|| format!("#{uid}"), str::to_owned)
}

fn table(entries: &[Entry]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = entries.iter().map(|Entry { state, owner }| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.name().to_owned(),
            state.bundle.display().to_string(),
            state.created.clone(),
            owner.clone(),
        ]
    });
    align(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// Columns of at least 12 characters, three of them blank, as runc's; the last is not filled up.
fn align(rows: &[[String; 6]]) -> String {
    let mut widths = [12; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + 3);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_names_or_numbers() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nweb:x:33:33::/www:/bin/sh\n";
        assert_eq!(user(passwd, 0), "root");
        assert_eq!(user(passwd, 33), "web");
        assert_eq!(user(passwd, 1000), "#1000");
        assert_eq!(user("", 0), "#0");
    }

    #[test]
    fn an_empty_table_is_runcs() {
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }
}
