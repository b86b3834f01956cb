//! Pausing, resuming and changing the limits of a container that exists.
//!
//! Whether it is paused is read off its cgroup, never stored: a container engine may freeze the group itself.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Container, Error, Status, state};
use crate::{cgroup, rdt, spec};

/// Members of `linux.resources` in which callers write 0 for "leave it".
const ZERO_IS_NOTHING: [(&str, &[&str]); 4] = [
    ("memory", &["limit", "reservation", "swap", "kernel", "kernelTCP"]),
    ("cpu", &["shares", "quota", "period", "realtimeRuntime", "realtimePeriod"]),
    ("pids", &["limit"]),
    ("blockIO", &["weight", "leafWeight"]),
];

impl Container {
    /// Stops every process of the container where it is.
    ///
    /// # Errors
    /// If it is neither created nor running, or its processes do not come to a stand; they run on then.
    pub fn pause(&mut self) -> Result<(), Error> {
        let _lock = self.lock()?;
        match self.status() {
            Status::Created | Status::Running => self.cgroup()?.freeze().map_err(self.of_cgroup()),
            status => Err(Error::NotRunning { id: self.record.id.clone(), status }),
        }
    }

    /// Lets every process of a paused container go on.
    ///
    /// # Errors
    /// If it is not paused, or the kernel refuses.
    pub fn resume(&mut self) -> Result<(), Error> {
        let _lock = self.lock()?;
        match self.status() {
            Status::Paused => self.cgroup()?.thaw().map_err(self.of_cgroup()),
            status => Err(Error::NotPaused { id: self.record.id.clone(), status }),
        }
    }

    /// Changes limits, given as the specification's `linux.resources`, and lines of the schema of its
    /// resctrl group; what is not mentioned stays.
    ///
    /// # Errors
    /// If the container has ended, a value is refused, or the kernel cannot apply one: nothing is changed then,
    /// but for the limits when it is the schema that is refused.
    pub fn update(&mut self, mut changes: Value, schemata: &[&str]) -> Result<(), Error> {
        let _lock = self.lock()?;
        match self.status() {
            Status::Created | Status::Running | Status::Paused => {}
            status => return Err(Error::NotRunning { id: self.record.id.clone(), status }),
        }
        if !schemata.is_empty() {
            rdt::mounted(Path::new(rdt::ROOT))?;
        }
        prune(&mut changes);
        // From text, as in a configuration: from a value it is as much code again.
        let raw: spec::Resources = serde_json::to_vec(&changes)
            .and_then(|text| serde_json::from_slice(&text))
            .map_err(Error::ResourcesForm)?;
        let resources = spec::updated_resources(raw).map_err(Error::Resources)?;
        self.cgroup()?.update(&resources).map_err(self.of_cgroup())?;
        let known = self.record.resources.get_or_insert_with(|| Value::Object(Map::new()));
        merge(known, changes);
        self.store()?;
        if schemata.is_empty() {
            return Ok(());
        }
        let id = self.record.id.clone();
        let init = self.record.init.map_or(0, |init| init.pid);
        let processes = self.pids()?;
        rdt::update(Path::new(rdt::ROOT), &id, schemata, init, &processes, |group| {
            self.record.rdt.push(group.to_owned());
            self.store()
        })
    }

    fn store(&self) -> Result<(), Error> {
        self.record.store(&self.directory).map_err(|source| Error::File {
            operation: "write",
            path: self.directory.join(state::FILE),
            source,
        })
    }

    /// Whether the container's processes stand still.
    pub(super) fn is_paused(&self) -> bool {
        let Some(record) = &self.record.cgroup else { return false };
        record.is_frozen().unwrap_or_else(|error| {
            log::warn!("container {}: {error}", self.record.id);
            false
        })
    }

    /// Lets a process that was sent SIGKILL go on to its end: the v1 freezer would hold it.
    pub(super) fn let_die(&self) -> Result<(), Error> {
        if !self.is_paused() {
            return Ok(());
        }
        match self.cgroup()?.thaw() {
            // It went at once, and its group with it.
            Err(cgroup::Error::Missing { .. }) => Ok(()),
            other => other.map_err(self.of_cgroup()),
        }
    }

    pub(super) fn of_cgroup(&self) -> impl FnOnce(cgroup::Error) -> Error + use<> {
        let id = self.record.id.clone();
        move |source| Error::Cgroup { id, source: Box::new(source) }
    }
}

/// Takes out what asks for nothing: nulls, empty strings, and zeros where zero means that.
fn prune(value: &mut Value) {
    let Value::Object(members) = value else { return };
    for (name, fields) in ZERO_IS_NOTHING {
        if let Some(Value::Object(fields_given)) = members.get_mut(name) {
            fields_given.retain(|field, value| {
                let nothing = value.is_null()
                    || value.as_str().is_some_and(str::is_empty)
                    || (value.as_i64() == Some(0) && fields.contains(&field.as_str()));
                !nothing
            });
        }
    }
    members.retain(|_, value| !(value.is_null() || value.as_object().is_some_and(Map::is_empty)));
}

/// Puts changes over what is known: objects member by member, all else as a whole.
fn merge(known: &mut Value, changes: Value) {
    match (known, changes) {
        (Value::Object(known), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(known.entry(name).or_insert(Value::Null), change);
            }
        }
        (known, change) => *known = change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zeros_and_nulls_change_nothing() {
        let mut value = json!({
            "memory": {"limit": 0, "swap": null, "swappiness": 0},
            "cpu": {"quota": 0, "cpus": "", "idle": 0, "period": 5},
            "pids": {"limit": 0},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": null
        });
        prune(&mut value);
        let expected = json!({
            "memory": {"swappiness": 0},
            "cpu": {"idle": 0, "period": 5},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn changes_lie_over_what_is_known() {
        let mut known = json!({"memory": {"limit": 1, "swap": 2}, "devices": [1, 2]});
        merge(&mut known, json!({"memory": {"limit": 3}, "cpu": {"shares": 4}, "devices": [5]}));
        let expected =
            json!({"memory": {"limit": 3, "swap": 2}, "cpu": {"shares": 4}, "devices": [5]});
        assert_eq!(known, expected);
    }
}
