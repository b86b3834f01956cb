//! The monitor's OOM score: as low as it may be, without handing it on to containers.

use std::fs::{self, OpenOptions};
use std::io::Write;

const PATH: &str = "/proc/self/oom_score_adj";
/// The lowest score that still lets the kernel kill a runaway monitor at the very last.
const LOWEST: &str = "-999";

/// The score before, if it could be lowered. It takes `CAP_SYS_RESOURCE` to go below what the
/// process was started with; without it the score stays, and there is nothing to restore.
#[derive(Debug, Clone)]
pub(super) struct Score(Option<String>);

impl Score {
    /// Lowers our own score.
    pub(super) fn lower() -> Self {
        let before = fs::read_to_string(PATH).ok().map(|text| text.trim().to_owned());
        Self(before.filter(|before| before != LOWEST && write(LOWEST)))
    }

    /// Runs `work` with the score that we were started with: what it clones inherits that one,
    /// unless its configuration names another.
    pub(super) fn restored<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(before) = &self.0 else { return work() };
        write(before);
        let result = work();
        write(LOWEST);
        result
    }
}

fn write(score: &str) -> bool {
    OpenOptions::new()
        .write(true)
        .open(PATH)
        .and_then(|mut file| file.write_all(score.as_bytes()))
        .is_ok()
}
