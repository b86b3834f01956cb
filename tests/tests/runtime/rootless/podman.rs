//! Podman as an ordinary user runs it, with our runtime.

use std::process::Command;

use tests::bundle::{Bundle, runtime};

use super::copy;

/// A user with storage of his own, and a root file system.
struct Podman {
    bundle: Bundle,
    program: String,
}

impl Podman {
    fn new() -> Self {
        let bundle = Bundle::of_user("true");
        let home = bundle.beside();
        let configuration = home.join(".config/containers");
        std::fs::create_dir_all(&configuration).unwrap();
        std::fs::write(
            configuration.join("storage.conf"),
            format!(
                "[storage]\ndriver = \"vfs\"\nrunroot = \"{0}/run/storage\"\ngraphroot = \"{0}/storage\"\n",
                home.display()
            ),
        )
        .unwrap();
        std::fs::write(configuration.join("containers.conf"), tests::podman::ENGINE).unwrap();
        bundle.user.as_ref().unwrap().give(&home.join(".config"));
        let program = if tests::bundle::is_ours() {
            copy(&bundle, &runtime()).display().to_string()
        } else {
            let found = Command::new("which").arg(runtime()).output().unwrap();
            String::from_utf8(found.stdout).unwrap().trim().to_owned()
        };
        Self { bundle, program }
    }

    fn call(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new("timeout");
        command.args(["60", "podman", "--cgroup-manager", "cgroupfs", "--runtime", &self.program]);
        command.args(words).current_dir(self.bundle.beside());
        let output = self.bundle.user.as_ref().unwrap().command(&command).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn run(&self, options: &[&str], script: &str) -> (Option<i32>, String, String) {
        let root = self.bundle.root();
        let words = [&["run"], options, &["--rootfs", root.to_str().unwrap(), "sh", "-c", script]];
        self.call(&words.concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What a failed test has left; and the process that holds his user namespace.
        self.call(&["rm", "-f", "-a", "-t", "0"]);
        self.call(&["system", "migrate"]);
    }
}

#[test]
fn podman_of_a_user_runs_containers() {
    let podman = Podman::new();
    let alone = ["--rm", "--network", "none"];
    let (code, output, errors) = podman.run(&alone, "id -u; cat /proc/self/uid_map; exit 4");
    assert_eq!(code, Some(4), "{output}{errors}");
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "4242", "1", "1", "200000", "65536"], "{errors}");
    let user = ["--rm", "--network", "none", "--user", "33:34", "--read-only"];
    let (code, output, errors) = podman.run(&user, "id -u; id -g; touch /x || echo refused");
    assert_eq!((code, output.as_str()), (Some(0), "33\n34\nrefused\n"), "{errors}");
    let host = ["--rm", "--network", "host"];
    let (code, output, errors) = podman.run(&host, "ls /sys/class/net/lo/address");
    assert_eq!((code, output.as_str()), (Some(0), "/sys/class/net/lo/address\n"), "{errors}");
    let (code, _, errors) = podman.call(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--rootfs",
        podman.bundle.root().to_str().unwrap(),
        "missing",
    ]);
    assert_eq!(code, Some(127), "{errors}");
}

#[test]
fn podman_of_a_user_manages_containers() {
    let podman = Podman::new();
    let script = "trap 'exit 3' TERM; sleep 100 & wait";
    let (code, _, errors) = podman.run(&["-d", "--name", "box", "--network", "none"], script);
    assert_eq!(code, Some(0), "{errors}");
    let (code, output, errors) = podman.call(&["exec", "box", "id", "-u"]);
    assert_eq!((code, output.as_str()), (Some(0), "0\n"), "{errors}");
    let (code, _, errors) = podman.call(&["exec", "box", "sh", "-c", "exit 9"]);
    assert_eq!(code, Some(9), "{errors}");
    let (code, output, errors) = podman.call(&["exec", "-t", "box", "tty"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(output.starts_with("/dev/pts/"), "{output}");
    let (code, _, errors) = podman.call(&["kill", "-s", "TERM", "box"]);
    assert_eq!(code, Some(0), "{errors}");
    let (_, output, errors) = podman.call(&["wait", "box"]);
    assert_eq!(output, "3\n", "{errors}");
    let (code, _, errors) = podman.call(&["rm", "box"]);
    assert_eq!(code, Some(0), "{errors}");
}
