//! What hostile images, volumes and containers tried on other runtimes. A test that tells of one flaw
//! has its number in its name.
//!
//! Tests that are for our own runtime only say why: the reference of the distribution either falls to
//! the attack, or lacks what is attacked.

mod descriptors;
mod devices;
mod mounts;
mod privileges;
mod proc;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours};

/// A directory of the host that no container is given, with a secret in it.
struct Outside(PathBuf);

impl Outside {
    fn new(bundle: &Bundle) -> Self {
        let path = bundle.beside().join("outside");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("secret"), "secret\n").unwrap();
        std::fs::write(path.join("ptmx"), "").unwrap();
        Self(path)
    }

    /// Nothing was made, changed or removed here.
    fn assert_untouched(&self) {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["ptmx", "secret"]);
        assert_eq!(std::fs::read_to_string(self.0.join("secret")).unwrap(), "secret\n");
    }
}

/// Exchanges two names without a pause, as a container with a shared volume may.
struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn new(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                if renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { stop, count, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let swaps = thread.join().map(|()| self.count.load(Ordering::Relaxed));
            assert!(std::thread::panicking() || swaps.is_ok_and(|swaps| swaps > 100), "no race");
        }
    }
}

/// How many containers to create in a race.
const ROUNDS: usize = 25;

/// Creates containers in a race, and on until one was created; `attempt` is whether it was.
fn race(mut attempt: impl FnMut() -> bool) {
    let created = (0..tests::rounds(ROUNDS)).filter(|_| attempt()).count();
    let attacked = created > 0 || (0..20 * ROUNDS).any(|_| attempt());
    assert!(attacked, "not one container was created: nothing was attacked");
}

fn bind(destination: &str, source: &Path) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind"]})
}

/// Gives the container what programs of the host need that are not static.
fn with_libraries(bundle: &mut Bundle) {
    for name in ["/usr", "/lib", "/lib64"] {
        let mut mount = bind(name, Path::new(name));
        mount["options"] = json!(["rbind", "ro"]);
        bundle.push("/mounts", mount);
    }
}

/// Leaves `/dev` to the image.
fn without_dev(bundle: &mut Bundle) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

/// Replaces a directory of the image by a link.
fn link_in_place(bundle: &Bundle, name: &str, to: impl AsRef<Path>) {
    std::fs::remove_dir(bundle.root().join(name)).unwrap();
    symlink(to, bundle.root().join(name)).unwrap();
}

/// Has the mounts of the container be looked at from the host before its root changes: what lies
/// outside of the root goes to the file that is returned.
fn watch_mounts(bundle: &mut Bundle, outside: &Outside) -> PathBuf {
    let leak = bundle.beside().join("leak");
    std::fs::write(&leak, "").unwrap();
    let script = format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); grep -F ' {}' /proc/$pid/mountinfo >> {}; \
         test -r /proc/$pid/mountinfo",
        outside.0.display(),
        leak.display()
    );
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script],
        "env": ["PATH=/bin:/usr/bin"]}]);
    bundle.set("/hooks", json!({"createRuntime": hook}));
    leak
}

/// A passwd that never ends must not hang the creation.
#[test]
fn a_fifo_as_passwd_hangs_nothing() {
    let bundle = Bundle::new("echo $HOME");
    let passwd = bundle.root().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    if is_ours() {
        // runc 1.1 waits for a writer.
        assert_eq!(bundle.output(), "/\n");
    }
}
