//! `spec`: a starter `config.json`, of the same content as runc's.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Error;
use super::arguments::{Given, Misuse, Opt};
use crate::spec;

pub(super) const OPTIONS: &[Opt] = &[
    Opt::value("bundle", "DIR", "Directory to write to; the current directory by default")
        .short('b'),
    Opt::switch(
        "rootless",
        "For a container in a user namespace of its own, as a user without privileges can run it",
    ),
];

#[derive(Debug)]
pub(super) struct Arguments {
    bundle: Option<PathBuf>,
    rootless: bool,
}

impl Arguments {
    pub(super) fn read(given: &Given) -> Result<Self, Misuse> {
        Ok(Self { bundle: given.path("bundle")?, rootless: given.is_on("rootless") })
    }
}

/// Why there is no new configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("File {} exists. Remove it first", path.display())]
    Exists { path: PathBuf },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// What runc writes; between `@` stands what depends on the host and the options.
const TEMPLATE: &str = include_str!("spec.json");

const LIMITS: &str = r#"		"resources": {
			"devices": [
				{
					"allow": false,
					"access": "rwm"
				}
			]
		},
"#;
const NETWORK: &str = r#"			{
				"type": "network"
			},
"#;

pub(super) fn run(arguments: &Arguments) -> Result<u8, Error> {
    let path = arguments.bundle.as_deref().unwrap_or(Path::new("")).join("config.json");
    let user = arguments
        .rootless
        .then(|| (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
    // The file exists at the root of a cgroup v2 hierarchy only.
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let text = document(user, unified);
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Failure::Exists { path }.into());
        }
        other => other.map_err(|source| Failure::Write { path: path.clone(), source })?,
    };
    file.write_all(text.as_bytes()).map_err(|source| Failure::Write { path, source })?;
    Ok(0)
}

/// The configuration: for root, or for a user and group without privileges, who is root in a user
/// namespace but may neither limit nor make a network; with a cgroup namespace where v2 rules.
pub(super) fn document(user: Option<(u32, u32)>, unified: bool) -> String {
    let mut namespaces = String::new();
    let mut add = |name: &str| {
        namespaces.push_str(&format!(",\n\t\t\t{{\n\t\t\t\t\"type\": \"{name}\"\n\t\t\t}}"))
    };
    if unified {
        add("cgroup");
    }
    if user.is_some() {
        add("user");
    }
    let mappings = |key: &str, id: u32| {
        format!(
            "\t\t\"{key}\": [\n\t\t\t{{\n\t\t\t\t\"containerID\": 0,\n\t\t\t\t\"hostID\": {id},\n\t\t\t\t\"size\": 1\n\t\t\t}}\n\t\t],\n"
        )
    };
    let limits = match user {
        None => LIMITS.to_owned(),
        Some((uid, gid)) => mappings("uidMappings", uid) + &mappings("gidMappings", gid),
    };
    // Who may not mount sysfs, since the network namespace is the host's, binds what is there.
    let (sys, bind, pts, network) = match user {
        None => (["sysfs", "sysfs"], "", ",\n\t\t\t\t\"gid=5\"", NETWORK),
        Some(_) => (["none", "/sys"], "\n\t\t\t\t\"rbind\",", "", ""),
    };
    let [sys_type, sys_source] = sys;
    TEMPLATE
        .replace("@version@", spec::VERSION)
        .replace("@pts@", pts)
        .replace("@sys_type@", sys_type)
        .replace("@sys_source@", sys_source)
        .replace("@sys_bind@", bind)
        .replace("@limits@", &limits)
        .replace("@network@", network)
        .replace("@namespaces@", &namespaces)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_variant_is_json_that_we_take() {
        for user in [None, Some((0, 0)), Some((1000, 1001))] {
            for unified in [false, true] {
                let text = document(user, unified);
                assert!(!text.contains('@'), "{text}");
                let value: Value = serde_json::from_str(&text).unwrap();
                let kinds = value["linux"]["namespaces"].as_array().unwrap();
                let has = |name: &str| kinds.iter().any(|kind| kind["type"] == name);
                assert_eq!(has("user"), user.is_some());
                assert_eq!(has("network"), user.is_none());
                assert_eq!(has("cgroup"), unified);
                if let Some((uid, gid)) = user {
                    assert_eq!(value["linux"]["uidMappings"][0]["hostID"], uid);
                    assert_eq!(value["linux"]["gidMappings"][0]["hostID"], gid);
                    assert!(!text.contains("gid=5"));
                }
                spec::plan(serde_json::from_value(value).unwrap()).unwrap();
            }
        }
    }
}
