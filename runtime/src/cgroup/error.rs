//! Why an operation on control groups failed.

use std::io;
use std::path::PathBuf;

use super::systemd::Error as SystemdError;

/// What failed; the variant is the operation.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading `/proc`.
    #[error("look for control groups in {path}")]
    Discover {
        /// File below `/proc`.
        path: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// There is no cgroup file system.
    #[error("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NoHierarchy,
    /// The group that a process is to run in is not there; in runc's words.
    #[error("error adding pid of the process to {path}/cgroup.procs: no such file or directory")]
    NoSubGroup {
        /// Directory.
        path: PathBuf,
    },
    /// A controller that the container's group does not have.
    #[error(
        "unknown controller {controller}: the container's cgroup is in no hierarchy that has it"
    )]
    UnknownController {
        /// As given.
        controller: String,
    },
    /// The group that a process is to run in is not one of its container's.
    #[error("{path} is not a sub cgroup path")]
    NotBelow {
        /// As given.
        path: String,
    },
    /// `cgroupsPath` is unusable.
    #[error("cgroup path {path:?} {reason}")]
    Path {
        /// As given.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A value that no kernel would apply as asked.
    #[error("resource {field}: {reason}")]
    Invalid {
        /// Field of `linux.resources`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A limit whose controller this host does not offer here.
    #[error("set {file} to {value:?}: cgroup controller {controller} is not available at {path}")]
    NoController {
        /// Controller.
        controller: String,
        /// File that could not be written.
        file: String,
        /// Value that was asked for.
        value: String,
        /// Group.
        path: PathBuf,
    },
    /// A limit of somebody who may not make the group.
    #[error(
        "set {file} to {value:?}: user {user} may not make a control group in {path}; have one delegated (a systemd user \
         session, or a directory that is the user's with its cgroup.procs and cgroup.subtree_control), or leave the limit \
         out"
    )]
    NotDelegated {
        /// File that could not be written.
        file: String,
        /// Value that was asked for.
        value: String,
        /// Who asks.
        user: u32,
        /// Directory in which it is not permitted.
        path: PathBuf,
    },
    /// There is no group, for lack of permission when the container was created.
    #[error(
        "the container has no control group, because user {user} could make none in {path}; create it where one is \
         delegated"
    )]
    Refused {
        /// Who asks.
        user: u32,
        /// Directory in which it is not permitted.
        path: PathBuf,
    },
    /// Lack of permission that was to be expected.
    #[error(
        "user {user} may not use this control group; have it delegated, or leave linux.cgroupsPath and limits out"
    )]
    NotPermitted {
        /// Who asks.
        user: u32,
        /// What was attempted.
        #[source]
        source: Box<Error>,
    },
    /// A limit that this kernel does not have, though it has the controller.
    #[error("set {file} to {value:?}: the kernel has no such file in {path}; leave that limit out")]
    NoFile {
        /// File that could not be written.
        file: String,
        /// Value that was asked for.
        value: String,
        /// Group.
        path: PathBuf,
    },
    /// Somebody froze the group before.
    #[error(
        "container's cgroup unexpectedly frozen: {path}; thaw it, or choose another cgroupsPath"
    )]
    Frozen {
        /// Group.
        path: PathBuf,
    },
    /// The group has processes of somebody else.
    #[error("cgroup {path} is in use by other processes; choose another cgroupsPath")]
    InUse {
        /// Directory.
        path: PathBuf,
    },
    /// The group is not there (any more).
    #[error("cgroup {path} does not exist")]
    Missing {
        /// As in `cgroupsPath`.
        path: String,
    },
    /// `mkdir`.
    #[error("create cgroup {path}")]
    Create {
        /// Directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// `open` of a directory.
    #[error("open cgroup {path}")]
    Open {
        /// Directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Reading a control file.
    #[error("read {path}")]
    Read {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Writing a control file.
    #[error("write {value:?} to {path}")]
    Write {
        /// File.
        path: PathBuf,
        /// Value.
        value: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A control file with contents that this version does not understand.
    #[error("parse {path}: {reason}")]
    Parse {
        /// File.
        path: PathBuf,
        /// What was missing.
        reason: &'static str,
    },
    /// Loading or attaching the device program.
    #[error("{operation} device program of cgroup {path}")]
    Devices {
        /// What was attempted.
        operation: &'static str,
        /// Directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The processes did not stop in time.
    #[error("freeze cgroup {path}: still {state:?} after {seconds} s")]
    Freeze {
        /// Directory.
        path: PathBuf,
        /// What the kernel says.
        state: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A signal could not be sent.
    #[error("send signal {signal} to process {pid}")]
    Kill {
        /// Signal number.
        signal: i32,
        /// Process.
        pid: i32,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// `rmdir`.
    #[error("remove cgroup {path}")]
    Remove {
        /// Directory.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// `rmdir`, until the deadline.
    #[error(
        "remove cgroup {path}: processes {pids:?} in it do not end; delete again when they have"
    )]
    Stuck {
        /// Directory.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<i32>,
    },
    /// What systemd was asked for.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Several removals failed; the others were done.
    #[error("remove {} cgroup directories: {}", .0.len(), list(.0))]
    RemoveMany(Vec<Error>),
}

debug_is_display!(Error);

fn list(errors: &[Error]) -> String {
    let mut text = String::new();
    for error in errors {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&error.to_string());
        if let Some(source) = std::error::Error::source(error) {
            text.push_str(": ");
            text.push_str(&source.to_string());
        }
    }
    text
}
