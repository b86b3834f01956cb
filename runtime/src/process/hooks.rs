//! Hooks of the specification: programs that run at set moments, with the state on stdin.

use std::ffi::{CString, NulError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::spec::Hook;
use crate::sys::{
    self, CloneFlags, Errno,
    clone::{Clone, spawn},
    process::{self, CStrings},
};

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("prepare hook {path}")]
    Prepare { path: String, source: std::io::Error },
    #[error("hook {path} has a null byte in its arguments")]
    Nul { path: String, source: NulError },
    #[error("wait for hook {path}")]
    Wait { path: String, source: Errno },
    #[error("hook {path} did not end within {seconds} s and was killed")]
    Timeout { path: String, seconds: i64 },
    #[error("hook {path} {outcome}{output}")]
    Failed { path: String, outcome: String, output: String },
}

/// Most of a failed hook's output that an error carries, in bytes.
const OUTPUT: u64 = 1024;

struct Prepared<'a> {
    program: CString,
    args: CStrings,
    env: CStrings,
    stdin: OwnedFd,
    output: OwnedFd,
    /// The container's init and the kinds of namespaces to join.
    join: Option<(BorrowedFd<'a>, i32)>,
}

/// Runs hooks one after the other, until one fails. With `join` they run in the namespaces of that
/// process, but for its pid namespace, whose numbers mean nothing to what the state tells.
///
/// # Errors
/// The first hook that could not be run, ended with another code than 0, or took too long.
pub fn run(hooks: &[Hook], state: &[u8], join: Option<(BorrowedFd<'_>, i32)>) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| one(hook, state, join))
}

fn one(hook: &Hook, state: &[u8], join: Option<(BorrowedFd<'_>, i32)>) -> Result<(), Error> {
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
    let env = CStrings::new(strings(&hook.env)?);
    let failed = |source| Error::Prepare { path: path(), source };
    // Files in memory: neither side can block the other, and no bytes need pumping.
    let memory = |name| memfd_create(name, MFdFlags::MFD_CLOEXEC).map(std::fs::File::from);
    let mut stdin = memory(c"state").map_err(|errno| failed(errno.into()))?;
    stdin.write_all(state).and_then(|()| stdin.rewind()).map_err(failed)?;
    let output = memory(c"output").map_err(|errno| failed(errno.into()))?;
    let mut kept = output.try_clone().map_err(failed)?;
    let prepared = Prepared {
        program,
        args: CStrings::new(args),
        env,
        stdin: stdin.into(),
        output: output.into(),
        join,
    };
    let (_, pidfd) = spawn(Clone { flags: 0, cgroup: None }, &prepared, child)
        .map_err(|errno| failed(errno.into()))?;
    let wait_failed = |source| Error::Wait { path: path(), source };
    let ended = wait_until(pidfd.as_fd(), hook.timeout).map_err(wait_failed)?;
    if !ended {
        // It may have ended just now; then there is nothing to kill.
        let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
    let status =
        waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).map_err(wait_failed)?;
    if !ended {
        return Err(Error::Timeout { path: path(), seconds: hook.timeout.unwrap_or(0) });
    }
    let outcome = match status {
        WaitStatus::Exited(_, 0) => return Ok(()),
        WaitStatus::Exited(_, code) => format!("ended with code {code}"),
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

/// As the container's child: raw calls only.
fn child(prepared: &Prepared<'_>) -> i32 {
    const NOT_EXECUTED: i32 = 127;
    let set_up = || {
        if let Some((init, kinds)) = prepared.join {
            sys::setns(init, CloneFlags::from_bits_retain(kinds & !libc::CLONE_NEWPID))?;
        }
        sys::fd::onto_standard(prepared.stdin.as_fd(), 0)?;
        sys::fd::onto_standard(prepared.output.as_fd(), 1)?;
        sys::fd::onto_standard(prepared.output.as_fd(), 2)?;
        sys::fd::cloexec_from(3)?;
        process::reset_signals()
    };
    let errno = match set_up() {
        Ok(()) => process::execve(&prepared.program, &prepared.args, &prepared.env),
        Err(errno) => errno,
    };
    for part in ["cannot execute: ", errno.desc()] {
        // There is nothing left to tell a failure to.
        let _ = sys::write(&prepared.output, part.as_bytes());
    }
    NOT_EXECUTED
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script.into()],
            env: vec!["A=b".into()],
            timeout,
        }
    }

    #[test]
    fn gets_the_state_and_its_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("out");
        let script = format!("cat > {0}; echo \"$A\" >> {0}", file.display());
        run(&[shell(&script, None)], b"{\"id\":1}\n", None).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), "{\"id\":1}\nb\n");
    }

    #[test]
    fn failures_tell_code_and_output() {
        let error = run(&[shell("echo oh no >&2; exit 3", Some(60))], b"", None).unwrap_err();
        assert_eq!(error.to_string(), "hook /bin/sh ended with code 3, output: oh no");
        let missing = Hook { path: "/missing".into(), ..shell("", None) };
        let error = run(&[missing], b"", None).unwrap_err().to_string();
        assert!(error.starts_with("hook /missing ended with code 127, output: cannot"), "{error}");
    }

    #[test]
    fn a_hook_that_hangs_is_killed() {
        let error = run(&[shell("exec sleep 60", Some(1))], b"", None).unwrap_err();
        assert!(matches!(error, Error::Timeout { seconds: 1, .. }), "{error}");
    }
}
