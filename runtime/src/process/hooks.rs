//! Hooks of the specification: programs that run at set moments, with the state on stdin.
//!
//! Where the specification is silent they find what runc gives them: on the host the bundle as the working
//! directory, and without an `env` of their own ours; `createContainer` the container's root file system.

use std::ffi::{CString, NulError};
use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::pipe2;

use super::status::Status;
use crate::cgroup::{self, Cgroup};
use crate::seccomp::Filter;
use crate::spec::Hook;
use crate::sys::{
    self, CloneFlags, Errno,
    clone::{Clone, spawn},
    cred,
    process::{self, CStrings},
};

/// Why a hook failed.
#[derive(thiserror::Error)]
pub enum Error {
    #[error("prepare hook {path}")]
    Prepare { path: String, source: std::io::Error },
    #[error("hook {path} has a null byte in its arguments")]
    Nul { path: String, source: NulError },
    #[error("wait for hook {path}")]
    Wait { path: String, source: Errno },
    #[error("hook {path} did not end within {seconds} s and was killed")]
    Timeout { path: String, seconds: i64 },
    #[error("join the container's cgroup for its hooks")]
    Cgroup(#[from] Box<cgroup::Error>),
    #[error("read the status of the container's init {pid} for its hooks")]
    Init { pid: i32, source: std::io::Error },
    /// Begins with runc's words.
    #[error("error running hook: {path} {outcome}{output}")]
    Failed { path: String, outcome: String, output: String },
}

debug_is_display!(Error);

/// Most of a failed hook's output that an error carries, in bytes.
const OUTPUT: u64 = 1024;

struct Prepared<'a> {
    program: CString,
    args: CStrings,
    env: CStrings,
    stdin: OwnedFd,
    output: OwnedFd,
    join: Option<&'a Inside<'a>>,
    directory: Option<OwnedFd>,
    /// Takes the number of the real process, where a pid namespace wants one more.
    second: Option<OwnedFd>,
}

/// Where those hooks run that belong into the container: in its cgroup and all its namespaces.
#[derive(Debug)]
pub struct Inside<'a> {
    /// The container's init.
    init: BorrowedFd<'a>,
    /// Kinds of its namespaces.
    kinds: i32,
    cgroup: &'a Cgroup,
    groups: Vec<OwnedFd>,
    /// Working directory.
    directory: OwnedFd,
    /// Privileges to run with: the image's own programs may have no more than it has.
    like: Option<Privileges>,
}

#[derive(Debug)]
struct Privileges {
    status: Status,
    filter: Option<Filter>,
}

impl<'a> Inside<'a> {
    /// With the privileges of the runtime, but in the container's namespaces and at that directory.
    ///
    /// # Errors
    /// If its cgroup cannot be opened.
    pub fn new(
        init: BorrowedFd<'a>,
        kinds: i32,
        cgroup: &'a Cgroup,
        directory: OwnedFd,
    ) -> Result<Self, Error> {
        let groups = cgroup.tasks_files().map_err(Box::new)?;
        Ok(Self { init, kinds, cgroup, groups, directory, like: None })
    }

    /// With the init's own root, which the directory is then, user, capabilities and filter.
    #[must_use]
    pub fn like(self, status: Status, filter: Option<Filter>) -> Self {
        Self { like: Some(Privileges { status, filter }), ..self }
    }
}

/// Where hooks run.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// On the host, in the bundle; if that is gone, where we are.
    Bundle(&'a Path),
    /// In the container.
    Inside(&'a Inside<'a>),
}

/// Runs hooks one after the other, until one fails.
///
/// # Errors
/// The first hook that could not be run, ended with another code than 0, or took too long.
pub fn run(hooks: &[Hook], state: &[u8], place: Place<'_>) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| one(hook, state, place))
}

/// Opens a directory to work in.
///
/// # Errors
/// If it is none, or cannot be opened.
pub fn open_directory(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    Ok(OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

fn one(hook: &Hook, state: &[u8], place: Place<'_>) -> Result<(), Error> {
    let path = || hook.path.display().to_string();
    let strings = |list: &[String]| {
        list.iter()
            .map(|text| CString::new(text.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| Error::Nul { path: path(), source })
    };
    let program = CString::new(hook.path.as_os_str().as_encoded_bytes())
        .map_err(|source| Error::Nul { path: path(), source })?;
    let mut args = strings(&hook.args)?;
    if args.is_empty() {
        args.push(program.clone());
    }
    let (join, directory) = match place {
        Place::Bundle(bundle) => (None, open_directory(bundle).ok()),
        Place::Inside(inside) => (Some(inside), None),
    };
    let env = match &hook.env {
        Some(list) => strings(list)?,
        None if join.is_some() => Vec::new(),
        None => std::env::vars_os()
            .filter_map(|(name, value)| {
                let (name, value) = (name.as_encoded_bytes(), value.as_encoded_bytes());
                CString::new([name, b"=", value].concat()).ok()
            })
            .collect(),
    };
    let env = CStrings::new(env);
    let failed = |source| Error::Prepare { path: path(), source };
    // Files in memory: neither side can block the other, and no bytes need pumping.
    let memory = |name| memfd_create(name, MFdFlags::MFD_CLOEXEC).map(std::fs::File::from);
    let mut stdin = memory(c"state").map_err(|errno| failed(errno.into()))?;
    stdin.write_all(state).and_then(|()| stdin.rewind()).map_err(failed)?;
    let output = memory(c"output").map_err(|errno| failed(errno.into()))?;
    let mut kept = output.try_clone().map_err(failed)?;
    let own_pids = join.is_some_and(|inside| inside.kinds & libc::CLONE_NEWPID != 0);
    let (number, second) = if own_pids {
        let (number, second) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
        (Some(number), Some(second))
    } else {
        (None, None)
    };
    let prepared = Prepared {
        program,
        args: CStrings::new(args),
        env,
        stdin: stdin.into(),
        output: output.into(),
        join,
        directory,
        second,
    };
    let pidfd = begin(&prepared, number).map_err(|errno| failed(errno.into()))?;
    drop(prepared);
    let wait_failed = |source| Error::Wait { path: path(), source };
    let ended = wait_until(pidfd.as_fd(), hook.timeout).map_err(wait_failed)?;
    if !ended {
        // It may have ended just now; then there is nothing to kill.
        let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
    let status = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).map_err(wait_failed)?;
    if !ended {
        return Err(Error::Timeout { path: path(), seconds: hook.timeout.unwrap_or(0) });
    }
    let outcome = match status {
        WaitStatus::Exited(_, 0) => return Ok(()),
        WaitStatus::Exited(_, code) => format!("ended with code {code}"),
        WaitStatus::Signaled(_, Signal::SIGSYS, _) => {
            "was killed by SIGSYS: bad system call".into()
        }
        WaitStatus::Signaled(_, signal, _) => format!("was killed by {signal}"),
        other => format!("ended: {other:?}"),
    };
    let mut bytes = Vec::new();
    let read = kept.rewind().and_then(|()| kept.take(OUTPUT).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let output = match read {
        Ok(_) if !text.trim().is_empty() => format!(", output: {}", text.trim()),
        _ => String::new(),
    };
    Err(Error::Failed { path: path(), outcome, output })
}

/// Whether a process ended before the timeout, in seconds; none is for ever.
fn wait_until(pidfd: BorrowedFd<'_>, timeout: Option<i64>) -> Result<bool, Errno> {
    let seconds = timeout.and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        let left = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], left) {
            Ok(0) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                return Ok(false);
            }
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
}

/// Clones the hook's process; with `number`, from which its own comes, in two steps.
fn begin(prepared: &Prepared<'_>, number: Option<OwnedFd>) -> Result<OwnedFd, Errno> {
    let cgroup = prepared.join.and_then(|inside| inside.cgroup.v2_dir());
    let clone = Clone { flags: 0, cgroup, withheld: None };
    let (_, first) = match spawn(clone, prepared, child) {
        // As for the container's own process: not into every group.
        Err(_) if cgroup.is_some() => spawn(Clone { cgroup: None, ..clone }, prepared, child),
        other => other,
    }?;
    let Some(number) = number else { return Ok(first) };
    let mut bytes = [0; 4];
    // What it writes is smaller than a pipe's unit.
    let read = loop {
        let mut watched = [
            PollFd::new(number.as_fd(), PollFlags::POLLIN),
            PollFd::new(first.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) if watched[0].any() == Some(true) => break sys::read(&number, &mut bytes)?,
            // It ended without a number: what it said tells why.
            Ok(_) => break 0,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    if read != bytes.len() {
        return Ok(first);
    }
    // A child of ours that nobody has reaped, so the number is still its own.
    let real = process::pidfd_open(i32::from_ne_bytes(bytes))?;
    while waitid(Id::PIDFd(first.as_fd()), WaitPidFlag::WEXITED) == Err(Errno::EINTR) {}
    Ok(real)
}

const NOT_EXECUTED: i32 = 127;

/// As the container's child: raw calls only.
fn child(prepared: &Prepared<'_>) -> i32 {
    let enter = || -> sys::Result<()> {
        let Some(inside) = prepared.join else {
            return prepared.directory.as_ref().map_or(Ok(()), sys::fchdir);
        };
        // The container's processes are not to look into what has our privileges and descriptors.
        sys::set_dumpable(false)?;
        for tasks in &inside.groups {
            sys::write(tasks, b"0")?;
        }
        sys::setns(inside.init, CloneFlags::from_bits_retain(inside.kinds))?;
        if inside.kinds & libc::CLONE_NEWUSER != 0 {
            cred::setresgid(0)?;
            cred::setresuid(0)?;
        }
        // A joined mount namespace has its own root as the working directory.
        sys::fchdir(&inside.directory)?;
        // What the init may have without a mount namespace.
        if inside.like.is_some() && inside.kinds & libc::CLONE_NEWNS == 0 {
            sys::chroot(c".")?;
        }
        Ok(())
    };
    if let Err(errno) = enter() {
        return complain(prepared.output.as_fd(), errno);
    }
    let Some(second) = &prepared.second else { return program(prepared) };
    // The pid namespace holds for children only.
    let flags = libc::CLONE_PARENT as u64;
    match spawn(Clone { flags, cgroup: None, withheld: None }, prepared, program) {
        Ok((pid, _)) => i32::from(sys::write(second, &pid.to_ne_bytes()).is_err()),
        Err(errno) => complain(prepared.output.as_fd(), errno),
    }
}

fn complain(output: BorrowedFd<'_>, errno: Errno) -> i32 {
    for part in ["cannot execute: ", errno.desc()] {
        // There is nothing left to tell a failure to.
        let _ = sys::write(output, part.as_bytes());
    }
    NOT_EXECUTED
}

fn program(prepared: &Prepared<'_>) -> i32 {
    let set_up = || {
        sys::fd::onto_standard(prepared.stdin.as_fd(), 0)?;
        sys::fd::onto_standard(prepared.output.as_fd(), 1)?;
        sys::fd::onto_standard(prepared.output.as_fd(), 2)?;
        // Closed, not only marked: the path of the program may be a link of the image's into what the
        // runtime has open (CVE-2024-21626).
        sys::fd::close_from(3, [])?;
        process::reset_signals()?;
        match prepared.join.and_then(|inside| inside.like.as_ref()) {
            Some(privileges) => become_like(privileges),
            None => Ok(()),
        }
    };
    let errno = match set_up() {
        Ok(()) => process::execve(&prepared.program, &prepared.args, &prepared.env),
        Err(errno) => errno,
    };
    let [_, _, stderr] = sys::fd::standard();
    complain(stderr, errno)
}

/// As the container's own process does it, and for the reasons told there.
fn become_like(privileges: &Privileges) -> sys::Result<()> {
    let Privileges { status, filter } = privileges;
    let load = || match filter {
        // A listener has nobody behind it here: what it would be asked fails with ENOSYS.
        Some(filter) => sys::seccomp::load(&filter.instructions, filter.flags)
            .map(drop)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))),
        None => Ok(()),
    };
    if !status.no_new_privileges {
        load()?;
    }
    for number in 0..64 {
        if status.capabilities.bounding & 1 << number == 0 {
            match cred::drop_bounding(number) {
                // Above what the kernel knows.
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    sys::set_keepcaps(true)?;
    match cred::setgroups(&status.groups) {
        Err(Errno::EPERM) if status.groups.is_empty() => {}
        other => other?,
    }
    cred::setresgid(status.gid)?;
    cred::setresuid(status.uid)?;
    cred::capset(&status.capabilities)?;
    cred::clear_ambient()?;
    for number in 0..64 {
        if status.capabilities.ambient & 1 << number != 0 {
            cred::raise_ambient(number)?;
        }
    }
    sys::set_keepcaps(false)?;
    if status.no_new_privileges {
        sys::set_no_new_privs()?;
        load()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn here() -> Place<'static> {
        Place::Bundle(Path::new("/tmp"))
    }

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: Some(vec!["A=b".into()]),
            timeout,
        }
    }

    #[test]
    fn gets_the_state_and_its_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("out");
        let script = format!("cat > {0}; echo \"$A\" >> {0}", file.display());
        run(&[shell(&script, None)], b"{\"id\":1}\n", here()).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "{\"id\":1}\nb\n");
    }

    #[test]
    fn without_an_environment_it_has_ours_and_the_bundle_around_it() {
        let bundle = tempfile::tempdir().unwrap();
        let script = "pwd > out; test -n \"$PATH\" && env | grep ^CARGO_ >> out";
        let hook = Hook { env: None, ..shell(script, None) };
        run(&[hook], b"", Place::Bundle(bundle.path())).unwrap();
        let out = std::fs::read_to_string(bundle.path().join("out")).unwrap();
        assert!(out.starts_with(&format!("{}\nCARGO_", bundle.path().display())), "{out}");
        let gone = bundle.path().join("gone");
        run(&[shell("true", None)], b"", Place::Bundle(&gone)).unwrap();
    }

    #[test]
    fn failures_tell_code_and_output() {
        let error = run(&[shell("echo oh no >&2; exit 3", Some(60))], b"", here()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error running hook: /bin/sh ended with code 3, output: oh no"
        );
        let missing = Hook { path: "/missing".into(), ..shell("", None) };
        let error = run(&[missing], b"", here()).unwrap_err().to_string();
        assert!(
            error.starts_with("error running hook: /missing ended with code 127, output: cannot"),
            "{error}"
        );
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let error = run(&[shell("exec sleep 60", Some(1))], b"", here()).unwrap_err();
        assert!(matches!(error, Error::Timeout { seconds: 1, .. }), "{error}");
    }
}
