//! OCI bundles with a busybox root, and the runtime that runs them: ours, or with `RUNTIME=runc`
//! the reference.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::user::{self, User};

/// The runtime under test: `RUNTIME`, else our own as built.
pub fn runtime() -> PathBuf {
    std::env::var_os("RUNTIME").map_or_else(|| crate::binary("lighter-runtime"), PathBuf::from)
}

/// Whether the runtime under test is our own; some tests ask for more than runc does.
pub fn is_ours() -> bool {
    std::env::var_os("RUNTIME").is_none()
}

/// A directory with a state root and a bundle, and a name nobody else has. Dropping it deletes the
/// container and checks nothing.
#[derive(Debug)]
pub struct Bundle {
    directory: tempfile::TempDir,
    /// Container id, and name of its cgroup.
    pub id: String,
    /// `config.json`, written by [`Bundle::command`].
    pub config: Value,
    /// Who runs the runtime; root if there is none.
    pub user: Option<User>,
}

/// What the programs of busybox that the tests use are called.
const APPLETS: [&str; 24] = [
    "cat", "chmod", "echo", "env", "false", "grep", "hostname", "id", "ip", "kill", "ln", "ls",
    "mkdir", "mount", "mknod", "nice", "sh", "sleep", "stat", "stty", "touch", "true", "tty",
    "umask",
];

impl Bundle {
    /// A bundle that runs a shell script.
    ///
    /// # Panics
    /// If the directory cannot be made.
    #[expect(clippy::expect_used, reason = "a test without its bundle must fail loudly")]
    pub fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().join("bundle/rootfs");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            std::fs::create_dir_all(root.join(name)).expect("root file system");
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("/bin/busybox of the package busybox-static");
        for name in APPLETS {
            symlink("busybox", root.join("bin").join(name)).expect("applet");
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/www:/bin/sh\n",
        )
        .expect("passwd");
        let random = directory.path().file_name().and_then(|name| name.to_str()).unwrap_or("x");
        let id = format!("lighter-test-{}", random.trim_start_matches('.'));
        let config = config(&id, script);
        Self { directory, id, config, user: None }
    }

    /// A bundle that an ordinary user runs, mapped to root in a user namespace, without a cgroup.
    ///
    /// # Panics
    /// If the directory cannot be made.
    pub fn of_user(script: &str) -> Self {
        let mut bundle = Self::new(script);
        for (list, id) in [("uidMappings", user::ID), ("gidMappings", user::ID)] {
            let map = json!([{"containerID": 0, "hostID": id, "size": 1}]);
            bundle.set(&format!("/linux/{list}"), map);
        }
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        bundle.set("/linux/cgroupsPath", json!(""));
        if let Some(options) = bundle.config["mounts"][2]["options"].as_array_mut() {
            // Not among his.
            options.retain(|option| option != "gid=5");
        }
        bundle.user = Some(User::owning(bundle.beside()));
        bundle
    }

    /// Gives the container the user's whole range of ids.
    pub fn map_ranges(&mut self) -> &mut Self {
        for list in ["uidMappings", "gidMappings"] {
            let map = json!([
                {"containerID": 0, "hostID": user::ID, "size": 1},
                {"containerID": 1, "hostID": user::RANGE, "size": user::COUNT},
            ]);
            self.set(&format!("/linux/{list}"), map);
        }
        self
    }

    /// The bundle's root file system.
    pub fn root(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// The bundle.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("bundle")
    }

    /// The state root.
    pub fn state_root(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A directory beside the bundle.
    pub fn beside(&self) -> &Path {
        self.directory.path()
    }

    /// The value at a JSON pointer, made if it is missing in an object.
    ///
    /// # Panics
    /// If an array on the way has no such element.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut at = &mut self.config;
        for part in pointer.trim_start_matches('/').split('/') {
            at = match part.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[part],
            };
        }
        *at = value;
        self
    }

    /// Appends to the array at a pointer.
    ///
    /// # Panics
    /// If there is no array.
    #[expect(clippy::expect_used, reason = "a test that is wrong must fail loudly")]
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        let array = self.config.pointer_mut(pointer).and_then(Value::as_array_mut);
        array.expect("an array").push(value);
        self
    }

    /// A command of the runtime, after writing the configuration.
    ///
    /// # Panics
    /// If the configuration cannot be written.
    #[expect(clippy::expect_used, reason = "a test without its bundle must fail loudly")]
    pub fn command(&self, words: &[&str]) -> Command {
        std::fs::write(self.path().join("config.json"), self.config.to_string())
            .expect("config.json");
        let words = words.iter().map(OsStr::new);
        let state_root = self.state_root();
        let root = [OsStr::new("--root"), state_root.as_os_str()];
        self.command_of(&runtime(), root.into_iter().chain(words))
    }

    /// A command of a runtime with nothing but these words; the configuration is written already.
    ///
    /// # Panics
    /// If the program cannot be copied to where the user may execute it.
    #[expect(clippy::expect_used, reason = "a test without its runtime must fail loudly")]
    pub fn command_of<'a>(
        &self,
        program: &Path,
        words: impl IntoIterator<Item = &'a OsStr>,
    ) -> Command {
        let mut program = program.to_owned();
        if self.user.is_some() && program.components().count() > 1 {
            let size = std::fs::metadata(&program).expect("the runtime").len();
            let copy = self.directory.path().join(format!("runtime-{size}"));
            if !copy.exists() {
                std::fs::copy(&program, &copy).expect("copy of the runtime");
            }
            program = copy;
        }
        let mut command = Command::new(program);
        command.args(words).current_dir(self.path());
        if let Some(user) = &self.user {
            command = user.command(&command);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. Output goes through files, so that a container that inherits it
    /// does not keep us waiting.
    ///
    /// # Panics
    /// If it cannot be run, or takes longer than 30 s.
    #[expect(clippy::expect_used, clippy::panic, reason = "failing loudly is the point")]
    pub fn call(&self, words: &[&str]) -> Output {
        let mut files = [0; 2].map(|_| tempfile::tempfile().expect("file"));
        let [stdout, stderr] = &files;
        let mut child = self
            .command(words)
            .stdout(stdout.try_clone().expect("file"))
            .stderr(stderr.try_clone().expect("file"))
            .spawn()
            .expect("runtime");
        let status = within(Duration::from_secs(30), || child.try_wait().expect("wait"));
        let status = status.unwrap_or_else(|| {
            kill(&mut child);
            panic!("{words:?} hangs")
        });
        let [stdout, stderr] = files.each_mut().map(|file| {
            use std::io::Seek as _;
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("output");
            bytes
        });
        Output { status, stdout, stderr }
    }

    /// Runs the container in the foreground: exit code, output and errors.
    ///
    /// # Panics
    /// As [`Bundle::call`], and if it was ended by a signal.
    #[expect(clippy::expect_used, reason = "failing loudly is the point")]
    pub fn run(&self) -> (i32, String, String) {
        let output = self.call(&["run", &self.id]);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().expect("exit code"), text(output.stdout), text(output.stderr))
    }

    /// Runs the container, which must succeed: its output.
    ///
    /// # Panics
    /// As [`Bundle::run`], and if it fails.
    pub fn output(&self) -> String {
        let (code, stdout, stderr) = self.run();
        assert_eq!(code, 0, "{stdout}{stderr}");
        stdout
    }

    /// Runs the container, which must be refused by the runtime: the message.
    ///
    /// # Panics
    /// If it is not refused, or leaves something behind.
    pub fn refusal(&self) -> String {
        let (code, stdout, stderr) = self.run();
        assert_eq!(code, 1, "{stdout}{stderr}");
        assert!(self.left().is_empty(), "left behind: {:?}", self.left());
        stderr
    }

    /// Calls the runtime, which must succeed.
    ///
    /// # Panics
    /// If it fails.
    pub fn must(&self, words: &[&str]) -> String {
        let output = self.call(words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The container's state document.
    ///
    /// # Panics
    /// If there is none.
    #[expect(clippy::expect_used, reason = "failing loudly is the point")]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.must(&["state", &self.id])).expect("state")
    }

    /// Waits for a status.
    ///
    /// # Panics
    /// If it does not come within 10 s.
    pub fn wait_for(&self, status: &str) {
        let reached =
            within(Duration::from_secs(10), || (self.state()["status"] == status).then_some(()));
        assert!(reached.is_some(), "never {status}: {}", self.state());
    }

    /// Waits until a container that is being created runs.
    ///
    /// # Panics
    /// If that does not come within 10 s.
    pub fn wait_until_running(&self) {
        let running = || {
            let state = self.call(&["state", &self.id]).stdout;
            String::from_utf8_lossy(&state).contains("\"running\"").then_some(())
        };
        assert!(within(Duration::from_secs(10), running).is_some(), "never running");
    }

    /// What is left of the container on the host: state, cgroups, mounts.
    pub fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let state = self.state_root().join(&self.id);
        if state.exists() {
            left.push(state.display().to_string());
        }
        for mount in cgroup_mounts() {
            let group = mount.join(&self.id);
            if group.exists() {
                left.push(group.display().to_string());
            }
        }
        let here = self.directory.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned));
        left
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.state_root().join(&self.id).exists() {
            // The test has failed already, or has said all it had to.
            let _ = self.command(&["delete", "--force", &self.id]).output();
        }
    }
}

/// Mount points of all cgroup hierarchies.
pub fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let row = |line: &str| {
        let mut fields = line.split(' ');
        let point = fields.nth(1)?.to_owned();
        fields.next()?.starts_with("cgroup").then(|| PathBuf::from(point))
    };
    mounts.lines().filter_map(row).collect()
}

/// Asks until there is an answer or the time is over.
pub fn within<T>(time: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + crate::patience(time);
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(child: &mut Child) {
    // It may have ended just now.
    let _ = child.kill();
    let _ = child.wait();
}

/// What `runc spec` writes, with a shell script and Docker's capabilities.
fn config(id: &str, script: &str) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            }
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/missing", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
