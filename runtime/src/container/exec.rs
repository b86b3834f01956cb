//! Further processes of a container.
//!
//! The process enters as the init's clone would: by the init's pidfd into all its namespaces at once,
//! and into its cgroup, before it runs anything. No lock is held: what a container's file systems
//! make of a working directory may take for ever, and must not keep `kill` and `delete` waiting. What
//! a concurrent `delete` must not miss is checked instead, see [`Attendance::init`].

use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Container, Created, Error, Status, Stdio, inside, lifecycle::c_path};
use crate::{
    cgroup::{Cgroup, SubGroup},
    launch::{self, Attendance, prepare},
    ns::Kind,
    plan::{self, Plan},
    process::affinity::Affinity,
    rdt, spec,
    sys::{cred::CapSets, mount, sched::Attributes},
};

/// How to add a process.
#[derive(Debug)]
pub struct Exec<'a> {
    /// Where its standard streams go.
    pub stdio: Stdio,
    /// Descriptors from 3 on that it inherits.
    pub preserve_fds: u32,
    /// Groups below the container's own that it begins in.
    pub cgroups: &'a [SubGroup],
    /// Add it to a paused container too: it then waits until that is resumed.
    pub ignore_paused: bool,
}

impl Exec<'_> {
    /// Nothing special.
    pub fn new(stdio: Stdio) -> Self {
        Self { stdio, preserve_fds: 0, cgroups: &[], ignore_paused: false }
    }
}

/// What a process that is added takes over from the container where it says nothing itself, as in
/// runc; limits are not among it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Inherited {
    pub capabilities: CapSets,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor_profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux_label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Attributes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The callers keep their session keyrings.
    pub keep_keyring: bool,
    /// The container only has another root directory: joining its namespaces does not lead there.
    pub chroot: bool,
}

impl Inherited {
    /// Of a new container.
    pub(super) fn of(plan: &Plan, keep_keyring: bool) -> Self {
        let process = &plan.process;
        let text = |text: &CString| text.to_string_lossy().into_owned();
        Self {
            capabilities: process.capabilities,
            apparmor_profile: process.apparmor_profile.as_ref().map(text),
            selinux_label: process.selinux_label.as_ref().map(text),
            oom_score_adj: process.oom_score_adj,
            io_priority: process.io_priority,
            scheduler: process.scheduler,
            umask: process.umask,
            affinity: process.affinity,
            keep_keyring,
            chroot: !plan.namespaces.is_new(Kind::Mount) && !plan.namespaces.is_joined(Kind::Mount),
        }
    }

    /// Fills what the process leaves open.
    fn complete(&self, raw: &spec::Process, process: &mut plan::Process) {
        if raw.capabilities.is_none() {
            process.capabilities = self.capabilities;
        }
        // They came from C strings, so none has a null byte.
        let text = |text: &Option<String>| text.clone().and_then(|text| CString::new(text).ok());
        if process.apparmor_profile.is_none() {
            process.apparmor_profile = text(&self.apparmor_profile);
        }
        if process.selinux_label.is_none() {
            process.selinux_label = text(&self.selinux_label);
        }
        process.oom_score_adj = process.oom_score_adj.or(self.oom_score_adj);
        process.io_priority = process.io_priority.or(self.io_priority);
        process.scheduler = process.scheduler.or(self.scheduler);
        process.umask = process.umask.or(self.umask);
        let own = process.affinity.filter(|affinity| !affinity.is_empty());
        process.affinity = own.or(self.affinity);
    }
}

impl Container {
    /// The bundle it was made from.
    pub fn bundle(&self) -> &Path {
        &self.record.bundle
    }

    /// Runs a further process in the container.
    ///
    /// # Errors
    /// If the container has ended or is paused, the process is refused, or it cannot be executed.
    pub fn exec(&self, raw: &spec::Process, exec: Exec<'_>) -> Result<Created, Error> {
        let id = || self.record.id.clone();
        let stopped =
            || Error::WrongStatus { operation: "exec in", id: id(), status: Status::Stopped };
        let init = self.init_pidfd().ok_or_else(stopped)?;
        let init_pid = self.record.init.map_or(0, |init| init.pid);
        let cgroup_failed = |source| Error::Cgroup { id: id(), source: Box::new(source) };
        let cgroup = self.cgroup()?;
        // The process would stand still in the cgroup before it could say anything.
        if !exec.ignore_paused && self.is_paused() {
            return Err(Error::Paused { id: id() });
        }
        let inherited = &self.record.inherited;
        let mut process = spec::process("process", raw).map_err(Error::Process)?;
        inherited.complete(raw, &mut process);
        let failed = |source| Error::Prepare { id: id(), source: Box::new(source) };
        let root_path = PathBuf::from(format!("/proc/{init_pid}/root"));
        let root = mount::open(&c_path(&root_path)?, libc::O_PATH | libc::O_DIRECTORY)
            .map_err(|source| failed(prepare::Error::Root { path: root_path, source }))?;
        let cgroup = entrance(cgroup, exec.cgroups, init_pid).map_err(cgroup_failed)?;
        // The paths went by number; they were the container's if its init lives still.
        self.live_init().ok_or_else(stopped)?;
        let user_namespace = self.record.namespaces & Kind::User.flag() != 0;
        let around = prepare::Surroundings {
            root: root.as_fd(),
            seccomp: self.record.seccomp.as_ref(),
            personality: self.record.personality,
            user_namespace,
            new_keyring: !inherited.keep_keyring,
            preserve_fds: exec.preserve_fds,
        };
        let mut program = prepare::program(&process, exec.stdio, &around).map_err(failed)?;
        program.handover = program.has_listener().then(|| inside::handover(&self.record));
        program.memory_policy.clone_from(&self.record.memory_policy);
        let launch_failed = |source| Error::Exec(Box::new(source));
        let (ours, theirs) = launch::conversation().map_err(launch_failed)?;
        let kinds = i32::try_from(self.record.namespaces).unwrap_or(0);
        let witness = init.try_clone().map_err(|source| Error::File {
            operation: "duplicate a descriptor of the init of",
            path: self.record.bundle.clone(),
            source,
        })?;
        let join = if kinds == 0 { Vec::new() } else { vec![(init, kinds)] };
        let prepared = prepare::Prepared {
            socket: theirs,
            start: None,
            groups: Vec::new(),
            intermediate: !join.is_empty(),
            clone_flags: 0,
            join,
            user_namespace,
            ordinary: prepare::Ordinary::new(None, process.oom_score_adj),
            setup: None,
            root: inherited.chroot.then_some(root),
            program,
        };
        let attendance = Attendance {
            cgroup: &cgroup,
            plan: None,
            oom_score_adj: process.oom_score_adj,
            init: Some(witness.as_fd()),
        };
        let launched = launch::launch(prepared, ours, &attendance, &mut |_, _| Ok(()))
            .map_err(launch_failed)?;
        rdt::follow(Path::new(rdt::ROOT), init_pid, launched.pid)?;
        let (pid, pidfd, terminal) = launched.execute().map_err(launch_failed)?;
        Ok(Created { pid, pidfd, terminal })
    }
}

/// The groups that the process begins in.
fn entrance(cgroup: Cgroup, below: &[SubGroup], init: i32) -> Result<Cgroup, crate::cgroup::Error> {
    if below.is_empty() { cgroup.entrance(init) } else { cgroup.below(below) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::process::affinity::parse;

    fn process(json: serde_json::Value) -> (spec::Process, plan::Process) {
        let raw: spec::Process = serde_json::from_value(json).unwrap();
        let plan = spec::process("process", &raw).unwrap();
        (raw, plan)
    }

    #[test]
    fn what_a_process_leaves_open_is_the_containers() {
        let inherited = Inherited {
            capabilities: CapSets { bounding: 7, ..CapSets::default() },
            apparmor_profile: Some("web".to_owned()),
            oom_score_adj: Some(5),
            scheduler: Some(Attributes { policy: 3, nice: 7, ..Attributes::default() }),
            umask: Some(0o77),
            affinity: Some(Affinity { initial: None, end: parse("0").ok() }),
            ..Inherited::default()
        };
        // As it comes back from the state file.
        let text = serde_json::to_string(&inherited).unwrap();
        let inherited: Inherited = serde_json::from_str(&text).unwrap();
        let (raw, mut plan) = process(serde_json::json!({"args": ["a"], "cwd": "/"}));
        inherited.complete(&raw, &mut plan);
        assert_eq!(plan.capabilities.bounding, 7);
        assert_eq!(plan.apparmor_profile.as_deref(), Some(c"web"));
        assert_eq!((plan.oom_score_adj, plan.umask), (Some(5), Some(0o77)));
        assert_eq!((plan.affinity, plan.scheduler), (inherited.affinity, inherited.scheduler));
        let (raw, mut plan) = process(serde_json::json!({
            "args": ["a"], "cwd": "/", "capabilities": {}, "oomScoreAdj": 0,
            "user": {"umask": 2}, "apparmorProfile": "own",
            "execCPUAffinity": {"initial": "1"}, "scheduler": {"policy": "SCHED_IDLE"},
        }));
        inherited.complete(&raw, &mut plan);
        assert_eq!(plan.capabilities, CapSets::default());
        assert_eq!(plan.apparmor_profile.as_deref(), Some(c"own"));
        assert_eq!((plan.oom_score_adj, plan.umask), (Some(0), Some(2)));
        assert_eq!(plan.scheduler.map(|scheduler| scheduler.policy), Some(5));
        assert_eq!(plan.affinity, Some(Affinity { initial: parse("1").ok(), end: None }));
    }
}
