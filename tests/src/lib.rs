//! Helpers of the tests: where the binaries are, and a host of a test's own.

pub mod aws;
pub mod bundle;
pub mod cluster;
pub mod host;
pub mod image;
pub mod monitor;
pub mod podman;
pub mod registry;
pub mod tokens;
pub mod user;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The workspace's top directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Whether this is a machine of `tests/vm`, where the processor is mostly software.
pub fn in_vm() -> bool {
    std::env::var_os("LIGHTER_VM_HOST").is_some()
}

/// How long to wait for what takes at most `time` on a machine of its own.
pub fn patience(time: Duration) -> Duration {
    if in_vm() { time * 6 } else { time }
}

/// How often to try what a race decides: natively many times, in a machine to show that it works there.
pub fn rounds(many: usize) -> usize {
    if in_vm() { many.div_ceil(8) } else { many }
}

/// A binary as shipped: from `LIGHTER_DIST` (set by `make test`), else `target/dist`, else the
/// development build.
///
/// # Panics
/// If it is in none of them.
#[expect(clippy::panic, reason = "a test without its subject must fail loudly")]
pub fn binary(name: &str) -> PathBuf {
    let dist = std::env::var_os("LIGHTER_DIST").map(PathBuf::from);
    let candidates =
        [dist, Some(workspace().join("target/dist")), Some(workspace().join("target/debug"))];
    let found = candidates
        .into_iter()
        .flatten()
        .map(|directory| directory.join(name))
        .find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not built: run `make build`"))
}
