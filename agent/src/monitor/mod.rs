//! The agent's side of a task's monitor: starting it, talking to it, finding it again.
//!
//! Wire and files are `protocol::monitor`. [`spawn::Program`] is the sealed copy of
//! `lighter-runtime` from which every monitor of this agent is executed; [`client::Client`] is one
//! connection; [`link::Link`] keeps a task's connection up for as long as somebody serves it.
//!
//! Nothing here trusts a pid alone: a process is the monitor only if its start time and the boot
//! are the recorded ones.

pub mod client;
pub mod link;
pub mod spawn;

use std::path::{Path, PathBuf};

use protocol::monitor::{MonitorRecord, ProcessId};

/// `R/monitor.sock`
pub const SOCKET: &str = "monitor.sock";
/// `R/monitor.json`
pub const RECORD: &str = "monitor.json";
/// `R/monitor.log`: what the monitor writes to its stderr.
pub const LOG: &str = "monitor.log";

/// What went wrong between agent and monitor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open the run directory {path}")]
    RunDirectory { path: PathBuf, source: std::io::Error },
    #[error("bind the monitor's socket {path}")]
    Bind { path: PathBuf, source: std::io::Error },
    #[error("connect to the monitor at {path}")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error(
        "find lighter-runtime: neither LIGHTER_RUNTIME nor {beside} nor PATH has it; install it beside lighter"
    )]
    NoRuntime { beside: PathBuf },
    #[error("copy {path} into sealed memory")]
    Seal { path: PathBuf, source: std::io::Error },
    #[error("start the monitor of {path}")]
    Spawn { path: PathBuf, source: std::io::Error },
    #[error("the monitor did not answer {call} within {seconds} s")]
    Timeout { call: &'static str, seconds: u64 },
    #[error("the monitor is gone{}", detail(.log))]
    Gone { log: String },
    #[error("send {call} to the monitor")]
    Send { call: &'static str, source: std::io::Error },
    #[error("{call} does not fit into one datagram")]
    TooLarge { call: &'static str },
    #[error("write {call} as JSON")]
    Encode { call: &'static str, source: serde_json::Error },
    #[error("the monitor's answer to {call} is of another kind")]
    Answer { call: &'static str },
    #[error("{}", .0.message)]
    Refused(protocol::monitor::Failure),
    #[error("read {path}")]
    Record { path: PathBuf, source: std::io::Error },
}

fn detail(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; its last words: {log}") }
}

/// Reads `R/monitor.json`; `None` if there is none or it is not whole.
///
/// # Errors
/// If the file exists and cannot be read.
pub fn record(run: &Path) -> Result<Option<MonitorRecord>, Error> {
    let path = run.join(RECORD);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Record { path, source }),
    }
}

/// Whether any process of the record still lives in this boot.
pub fn alive(record: &MonitorRecord) -> bool {
    let this_boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .is_ok_and(|id| id.trim() == record.boot_id.trim());
    this_boot && (process_alive(record.guardian) || process_alive(record.worker))
}

/// SIGKILL to the monitor's processes, if they are still those of the record. Its containers live.
pub fn kill(record: &MonitorRecord) {
    if !alive(record) {
        return;
    }
    // The guardian first, so that it starts no other worker.
    for process in [record.guardian, record.worker] {
        if process_alive(process)
            && let Some(pid) = rustix::process::Pid::from_raw(process.pid)
        {
            // It has ended meanwhile, which is what was wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Whether exactly this process, not a later one with its number, lives. A zombie does not.
pub fn process_alive(id: ProcessId) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", id.pid)) else { return false };
    let Some((state, start)) = state_and_start(&stat) else { return false };
    start == id.start_time && state != 'Z' && state != 'X'
}

/// Fields 3 and 22 of `/proc/<pid>/stat`. The second field may hold spaces and parentheses, so
/// counting begins after the last one.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_command_name() {
        let stat = "42 (a) Z 1 (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(state_and_start(stat), Some(('S', 98765)));
        assert_eq!(state_and_start("42 (a"), None);
        assert_eq!(state_and_start("42 (a) S 1 2"), None);
    }

    #[test]
    fn this_process_lives_and_one_with_another_start_does_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, start_time) = state_and_start(&stat).unwrap();
        assert!(process_alive(ProcessId { pid, start_time }));
        assert!(!process_alive(ProcessId { pid, start_time: start_time + 1 }));
    }
}
