//! What the monitor itself reads of a bundle's `config.json`: whether there is a terminal, and whose
//! the FIFOs of a container are.

use std::fs;
use std::path::Path;

use protocol::monitor::Failure;
use serde::Deserialize;

use super::held::failed;
use super::serve::invalid;
use super::user::User;
use crate::spec;

/// The parts of `config.json` that decide on stdio.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Configuration {
    #[serde(default)]
    pub(super) process: spec::Process,
    #[serde(default)]
    linux: Mappings,
}

impl Configuration {
    /// Reads that of a bundle.
    pub(super) fn read(bundle: &Path) -> Result<Self, Failure> {
        let path = bundle.join("config.json");
        let bytes =
            fs::read(&path).map_err(|error| failed(format!("read {}", path.display()), &error))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("parse {}: {error}", path.display())))
    }

    /// The host's ids of the container's user: by the task's user namespace, else by one that the
    /// configuration asks for.
    pub(super) fn owner(&self, task: Option<&User>) -> (u32, u32) {
        let spec::User { uid, gid, .. } = self.process.user;
        if let Some(outside) = task.and_then(|task| task.outside(uid, gid)) {
            return outside;
        }
        (on_host(uid, &self.linux.uid_mappings), on_host(gid, &self.linux.gid_mappings))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    #[serde(default)]
    uid_mappings: Vec<Mapping>,
    #[serde(default)]
    gid_mappings: Vec<Mapping>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(rename = "containerID")]
    container_id: u32,
    #[serde(rename = "hostID")]
    host_id: u32,
    size: u32,
}

/// The host's id for one of the container's.
fn on_host(id: u32, mappings: &[Mapping]) -> u32 {
    mappings
        .iter()
        .find_map(|mapping| {
            let within = id.checked_sub(mapping.container_id)?;
            (within < mapping.size).then(|| mapping.host_id.checked_add(within))?
        })
        .unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_to_the_host() {
        let mappings = [
            Mapping { container_id: 0, host_id: 100_000, size: 10 },
            Mapping { container_id: 1000, host_id: u32::MAX, size: 2 },
        ];
        assert_eq!(on_host(0, &mappings), 100_000);
        assert_eq!(on_host(9, &mappings), 100_009);
        assert_eq!(on_host(10, &mappings), 10);
        assert_eq!(on_host(1001, &mappings), 1001);
        assert_eq!(on_host(5, &[]), 5);
    }
}
