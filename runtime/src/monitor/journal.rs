//! The monitor's own few words: one line each on standard error, which is `R/monitor.log`.

use std::error::Error;
use std::io::Write as _;

use protocol::error::chain;

use super::process;

/// Bytes after which a process says no more: a fault that repeats must not fill the disk.
const MOST: u64 = 64 << 10;

/// Writes one line.
pub(super) fn note(text: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static SAID: AtomicU64 = AtomicU64::new(0);

    let now = process::now();
    let line = format!("{}.{:03} {text}\n", now / 1_000_000_000, now / 1_000_000 % 1000);
    if SAID.fetch_add(line.len() as u64, Ordering::Relaxed) < MOST {
        // Nobody is left to tell of a failure here.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Writes one line about a failure of something that goes on regardless.
pub(super) fn failure(what: &str, error: &dyn Error) {
    note(&format!("{what}: {}", chain(error)));
}
