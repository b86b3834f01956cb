//! An ordinary user for a test: with an entry in `/etc/passwd` and ranges of ids, in a mount namespace in which every
//! command of his begins, so that the host keeps its files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// His number, and that of his group.
pub const ID: u32 = 4242;
/// First of the ids that `/etc/subuid` and `/etc/subgid` give him.
pub const RANGE: u32 = 200_000;
/// How many they are.
pub const COUNT: u32 = 65536;

/// The user, who owns a directory.
#[derive(Debug, Clone)]
pub struct User {
    directory: PathBuf,
    /// Shell commands that root runs in the namespace first.
    pub before: String,
    /// The user is gone through `unshare --map-root-user`: he is root in a user namespace.
    pub root_inside: bool,
}

impl User {
    /// Gives a directory to the user, with what is in it.
    ///
    /// # Panics
    /// If that cannot be done.
    #[expect(clippy::expect_used, reason = "a test without its user must fail loudly")]
    pub fn owning(directory: &Path) -> Self {
        let etc = directory.join("user-etc");
        std::fs::create_dir(&etc).expect("directory");
        for (file, line) in [
            ("passwd", format!("tester:x:{ID}:{ID}::{}:/bin/sh\n", directory.display())),
            ("group", format!("tester:x:{ID}:\n")),
            ("subuid", format!("tester:{RANGE}:{COUNT}\n")),
            ("subgid", format!("tester:{RANGE}:{COUNT}\n")),
        ] {
            let mut text =
                std::fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
            text.push_str(&line);
            std::fs::write(etc.join(file), text).expect("file");
        }
        std::fs::create_dir(directory.join("run")).expect("directory");
        let user =
            Self { directory: directory.to_owned(), before: String::new(), root_inside: false };
        user.give(directory);
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        std::fs::set_permissions(directory, mode).expect("mode");
        user
    }

    /// Makes a file or a directory, with all that is in it, his.
    ///
    /// # Panics
    /// If that cannot be done.
    #[expect(clippy::expect_used, reason = "a test without its user must fail loudly")]
    pub fn give(&self, path: &Path) {
        let mut command = Command::new("chown");
        command.arg("-R").arg(format!("{ID}:{ID}")).arg(path);
        assert!(command.status().expect("chown").success(), "{command:?}");
    }

    /// His `XDG_RUNTIME_DIR`.
    pub fn runtime_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The command as he runs it, in the same directory and with the same additions to the environment.
    pub fn command(&self, inner: &Command) -> Command {
        const BEGIN: &str = r#"
            mount --make-rprivate /
            for f in passwd group subuid subgid; do mount --bind "$0/user-etc/$f" /etc/$f || exit 99; done
            eval "$1"; shift
            exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", BEGIN]).arg(&self.directory).arg(&self.before);
        command.arg("setpriv");
        command.args([format!("--reuid={ID}"), format!("--regid={ID}")]);
        command.args(["--clear-groups", "--inh-caps=-all"]);
        if self.root_inside {
            command.args(["unshare", "--map-root-user", "--mount"]);
        }
        command.arg(inner.get_program()).args(inner.get_args());
        command.env("HOME", &self.directory).env("USER", "tester");
        command.env("XDG_RUNTIME_DIR", self.runtime_directory());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = inner.get_current_dir() {
            command.current_dir(directory);
        }
        command
    }

    /// A command of his.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        &self,
        program: &Path,
        words: I,
    ) -> Command {
        let mut inner = Command::new(program);
        inner.args(words);
        self.command(&inner)
    }
}
