//! What is told and run of a container while it is set up and started: hooks in its namespaces, the
//! agent of its seccomp filter, the reason of an early end.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use super::{Error, Status, lifecycle::document, state::Record};
use crate::{
    cgroup::Cgroup,
    launch::prepare,
    process::{
        hooks::{self, Inside, Place},
        listener::Handover,
        status,
    },
    seccomp,
};

/// The hooks that the runtime brings into the container's namespaces, whose numbers they see.
pub(super) fn create_hooks(
    record: &Record,
    cgroup: &Cgroup,
    init: &OwnedFd,
    pid: i32,
) -> Result<(), hooks::Error> {
    let list = &record.hooks.create_container;
    if list.is_empty() {
        return Ok(());
    }
    let status = process_status(pid)?;
    // Through the init, in whose mount namespace the mounts are.
    let mut path = PathBuf::from(format!("/proc/{pid}/root"));
    path.extend(record.rootfs.components().filter(|part| *part != Component::RootDir));
    let root = hooks::open_directory(&path).map_err(|source| hooks::Error::Init { pid, source })?;
    let inside = Inside::new(init.as_fd(), kinds(record), cgroup, root)?;
    hooks::run(list, &state(record, Status::Creating, &status), Place::Inside(&inside))
}

/// The hooks whose programs are the container's own: they run as its process will.
pub(super) fn start_hooks(record: &Record, cgroup: &Cgroup, init: &OwnedFd) -> Result<(), Error> {
    let id = || record.id.clone();
    let filter = record
        .seccomp
        .as_ref()
        .map(|profile| seccomp::compile(profile, seccomp::Arch::NATIVE))
        .transpose()
        .map_err(|source| Error::Prepare {
            id: id(),
            source: Box::new(prepare::Error::Seccomp(source)),
        })?;
    let run = || {
        let pid = record.init.map_or(0, |init| init.pid);
        let mut status = process_status(pid)?;
        let root = hooks::open_directory(Path::new(&format!("/proc/{pid}/root")))
            .map_err(|source| hooks::Error::Init { pid, source })?;
        status.no_new_privileges |= record.no_new_privileges;
        let state = state(record, Status::Created, &status);
        let inside = Inside::new(init.as_fd(), kinds(record), cgroup, root)?.like(status, filter);
        hooks::run(&record.hooks.start_container, &state, Place::Inside(&inside))
    };
    run().map_err(|source| Error::Hooks { id: id(), source: Box::new(source) })
}

fn kinds(record: &Record) -> i32 {
    i32::try_from(record.namespaces).unwrap_or(0)
}

fn process_status(pid: i32) -> Result<status::Status, hooks::Error> {
    status::Status::read(pid).map_err(|source| hooks::Error::Init { pid, source })
}

fn state(record: &Record, status: Status, init: &status::Status) -> Vec<u8> {
    // Strings and numbers only: there is nothing JSON could refuse.
    serde_json::to_vec(&document(record, status, init.own_pid)).unwrap_or_default()
}

/// What an agent is told that gets a seccomp listener.
pub(super) fn handover(record: &Record) -> Handover {
    Handover {
        oci_version: record.oci_version.clone(),
        id: record.id.clone(),
        status: if record.init.is_some() { Status::Running } else { Status::Creating },
        init: record.init.map(|init| init.pid),
        bundle: record.bundle.clone(),
        annotations: record.annotations.clone(),
    }
}

/// The likely reason of a failed launch, as runc tells it: whatever the process was doing, it was
/// killed for lack of memory.
pub(super) fn if_out_of_memory(cgroup: &Cgroup, error: Error) -> Error {
    match cgroup.oom_killed() {
        Ok(0) => error,
        Ok(_) => {
            log::debug!("before the init was OOM-killed: {}", crate::cli::describe(&error));
            Error::OutOfMemory
        }
        Err(other) => {
            log::debug!("count OOM kills: {other}");
            error
        }
    }
}
