//! Where the driver meets the group: all that is done in other ways, or besides, for a group that systemd has.

use std::collections::BTreeMap;

use super::{Limits, PERIOD};
use crate::cgroup::device_bpf::Policy;
use crate::cgroup::resources::DeviceRule;
use crate::cgroup::write::Write;
use crate::cgroup::{Cgroup, Error, Record};

impl Cgroup {
    /// As `plan`, for a group that systemd is to make. The path is of the form `slice:prefix:name`; without one it is
    /// that of runc, for the container's id.
    ///
    /// # Errors
    /// If systemd does not run here, or the path or an annotation asks for what it cannot do.
    pub fn plan_unit(
        path: Option<&str>,
        id: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Record, Error> {
        let (unit, path) = super::plan(path, id, annotations)?;
        Ok(Record { unit: Some(unit), ..Self::plan(&path)? })
    }

    /// Has systemd make the group, if it is to: `true` if it has. Where that fails the unit is not ours.
    pub(in crate::cgroup) fn start_unit(
        &mut self,
        writes: &[Write],
        devices: &[DeviceRule],
    ) -> Result<bool, Error> {
        let Some(unit) = self.record.unit.take() else { return Ok(false) };
        let policy = self.policy_for_systemd(devices)?;
        self.holder = unit.start(&Limits { writes, period: PERIOD, devices: policy.as_ref() })?;
        self.record.unit = Some(unit);
        Ok(true)
    }

    /// Tells systemd, if it has the group, what is about to be written to files.
    pub(in crate::cgroup) fn tell_systemd(
        &self,
        writes: &[Write],
        devices: &[DeviceRule],
    ) -> Result<(), Error> {
        let Some(unit) = &self.record.unit else { return Ok(()) };
        let policy = self.policy_for_systemd(devices)?;
        Ok(unit.update(&Limits { writes, period: self.period(), devices: policy.as_ref() })?)
    }

    /// Has systemd forget the unit of a group that was removed.
    pub(in crate::cgroup) fn stop_unit(record: &Record) -> Result<(), Error> {
        record.unit.as_ref().map_or(Ok(()), |unit| Ok(unit.stop()?))
    }

    /// To be called when the container's process is in the group: from here on nothing else keeps it.
    pub fn settled(&mut self) {
        self.holder = None;
    }

    /// On cgroup v2 the rules are a program, of which systemd knows nothing.
    fn policy_for_systemd(&self, devices: &[DeviceRule]) -> Result<Option<Policy>, Error> {
        if self.limits_on_v2() || devices.is_empty() {
            return Ok(None);
        }
        Policy::fold(devices).map(Some)
    }

    /// The present period of the CPU quota.
    fn period(&self) -> u64 {
        let file = if self.limits_on_v2() { "cpu.max" } else { "cpu.cfs_period_us" };
        let text = self.dir_of("cpu").and_then(|dir| dir.read(file).ok()).unwrap_or_default();
        let period = text.split_ascii_whitespace().last().and_then(|word| word.parse().ok());
        period.unwrap_or(PERIOD)
    }
}
