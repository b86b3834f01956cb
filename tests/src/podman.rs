//! Podman as a peer, apart from that of the host and of every other test.

use std::path::Path;
use std::process::{Command, Output};

/// The section of containers.conf which every test's Podman has: the locks that it keeps in
/// `/dev/shm` by default have one name for all of a user, and two that make them at once fail.
pub const ENGINE: &str = "[engine]\nlock_type = \"file\"\n";

/// Runs it on storage in a directory of the test's own.
///
/// # Panics
/// If it does not start.
#[expect(clippy::expect_used, reason = "a test without its peer must fail loudly")]
pub fn with_storage(directory: &Path, arguments: &[&str]) -> Output {
    std::fs::create_dir_all(directory).expect("directory");
    let configuration = directory.join("containers.conf");
    std::fs::write(&configuration, ENGINE).expect("configuration");
    let mut command = Command::new("podman");
    for option in ["--root", "--runroot", "--tmpdir"] {
        command.arg(option).arg(directory);
    }
    command.args(["--storage-driver", "vfs"]).args(arguments);
    command.env("CONTAINERS_CONF", configuration).output().expect("podman")
}
