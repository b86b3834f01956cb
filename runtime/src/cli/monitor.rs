//! `lighter-runtime monitor`: the hidden verb that the agent starts a task's monitor with.
//!
//! ```text
//! monitor --task-dir DIR --run-dir DIR --listen-fd N [--new-network] [--user-namespace MAPS]
//!         [--cgroup PATH] [--adopt]
//! ```
//!
//! No parser but this one: its tables would be a good part of the monitor's memory.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use protocol::monitor::UserMaps;

use crate::monitor::{self, Options};
use crate::{seal, userns};

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
enum Usage {
    #[error("monitor: {option} is missing")]
    Missing { option: &'static str },
    #[error("monitor: {option:?} lacks its value")]
    NoValue { option: OsString },
    #[error("monitor: {value:?} is not a value of {option}")]
    BadValue { option: &'static str, value: OsString },
    #[error("monitor: unknown option {word:?}")]
    Unknown { word: OsString },
    #[error("monitor: {option} must be an absolute path")]
    Relative { option: &'static str },
}

/// Runs the monitor that the words after the verb describe, until it is shut down.
pub(super) fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let result = match parse(words) {
        // An agent executes monitors from a sealed copy already, and then this does nothing.
        Ok(options) => seal::ensure()
            .map_err(|error| super::describe(&error))
            .and_then(|()| monitor::run(&options).map_err(|error| super::describe(&error))),
        Err(usage) => Err(usage.to_string()),
    };
    match result {
        Ok(()) => 0,
        Err(message) => {
            // There is nowhere else to say it.
            let _ = writeln!(std::io::stderr(), "{message}");
            1
        }
    }
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Options, Usage> {
    let (mut task, mut run, mut listen, mut cgroup, mut maps) = (None, None, None, None, None);
    let (mut new_network, mut adopt) = (false, false);
    while let Some(word) = words.next() {
        let target = match word.to_str() {
            Some("--task-dir") => &mut task,
            Some("--run-dir") => &mut run,
            Some("--listen-fd") => &mut listen,
            Some("--cgroup") => &mut cgroup,
            Some("--user-namespace") => &mut maps,
            Some("--new-network") => {
                new_network = true;
                continue;
            }
            Some("--adopt") => {
                adopt = true;
                continue;
            }
            _ => return Err(Usage::Unknown { word }),
        };
        *target = Some(words.next().ok_or(Usage::NoValue { option: word })?);
    }
    let directory = |option, value: Option<OsString>| {
        let path = PathBuf::from(value.ok_or(Usage::Missing { option })?);
        if path.is_absolute() { Ok(path) } else { Err(Usage::Relative { option }) }
    };
    let text = |option, value: &OsStr| {
        value.to_str().ok_or(Usage::BadValue { option, value: value.to_owned() }).map(str::to_owned)
    };
    let listen = listen.ok_or(Usage::Missing { option: "--listen-fd" })?;
    let number = text("--listen-fd", &listen)?;
    Ok(Options {
        task: directory("--task-dir", task)?,
        run: directory("--run-dir", run)?,
        listen: number
            .parse()
            .ok()
            .filter(|number| *number >= 0)
            .ok_or(Usage::BadValue { option: "--listen-fd", value: listen })?,
        new_network,
        user: maps.map(user_maps).transpose()?,
        cgroup: cgroup.map(|cgroup| text("--cgroup", &cgroup)).transpose()?,
        adopt,
    })
}

fn user_maps(value: OsString) -> Result<UserMaps, Usage> {
    let maps = serde_json::from_slice::<UserMaps>(value.as_bytes()).ok().filter(|maps| {
        [&maps.uids, &maps.gids]
            .into_iter()
            .all(|ranges| !ranges.is_empty() && userns::check(&monitor::mappings(ranges)).is_ok())
    });
    maps.ok_or(Usage::BadValue { option: "--user-namespace", value })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|usage| usage.to_string())
    }

    #[test]
    fn reads_every_option() {
        let options = read(
            "--task-dir /t --run-dir /r --listen-fd 7 --new-network --cgroup /l/monitors --adopt \
             --user-namespace {\"uids\":[{\"inside\":0,\"outside\":9,\"size\":5}],\"gids\":[{\"inside\":0,\"outside\":7,\"size\":5}]}",
        )
        .unwrap();
        assert_eq!(options.task, PathBuf::from("/t"));
        assert_eq!(options.run, PathBuf::from("/r"));
        assert_eq!((options.listen, options.new_network, options.adopt), (7, true, true));
        assert_eq!(options.cgroup.as_deref(), Some("/l/monitors"));
        let maps = options.user.unwrap();
        assert_eq!((maps.uids[0].outside, maps.gids[0].outside), (9, 7));
        let options = read("--listen-fd 3 --run-dir /r --task-dir /t").unwrap();
        assert_eq!((options.cgroup, options.new_network, options.adopt), (None, false, false));
        assert_eq!(options.user, None);
    }

    #[test]
    fn refuses_the_rest_by_name() {
        for (line, named) in [
            ("", "--listen-fd"),
            ("--run-dir /r --listen-fd 3", "--task-dir"),
            ("--task-dir t --run-dir /r --listen-fd 3", "--task-dir"),
            ("--task-dir /t --run-dir /r --listen-fd -1", "--listen-fd"),
            ("--task-dir /t --run-dir /r --listen-fd x", "--listen-fd"),
            ("--task-dir", "--task-dir"),
            ("--fly", "--fly"),
            (
                "--task-dir /t --run-dir /r --listen-fd 3 --user-namespace {\"uids\":[],\"gids\":[]}",
                "--user-namespace",
            ),
        ] {
            let message = read(line).unwrap_err();
            assert!(message.contains(named), "{line}: {message}");
        }
    }
}
