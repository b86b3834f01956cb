//! The runtime as a service of systemd: activated sockets and readiness are handed on.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::bundle::{Bundle, is_ours, runtime, within};

const TIMEOUT: Duration = Duration::from_secs(20);
const SCRIPT: &str = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4";

/// Calls the runtime with descriptors 3 and 4, the first of which is said to be activated for a process.
fn activated(bundle: &Bundle, words: &[&str], process: &str) -> String {
    for (name, text) in [("socket", "activated\n"), ("other", "preserved\n")] {
        std::fs::write(bundle.beside().join(name), text).unwrap();
    }
    let shell = "export LISTEN_FDS=1 LISTEN_PID=%; exec \"$@\" 3<../socket 4<../other";
    let output = Command::new("sh")
        .args(["-c", &shell.replace('%', process), "sh"])
        .arg(runtime())
        .args(bundle.command(words).get_args())
        .current_dir(bundle.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn activated_sockets_are_the_programs_first_descriptors() {
    let bundle = Bundle::new(SCRIPT);
    let run = ["run", "--preserve-fds", "1", &bundle.id];
    assert_eq!(activated(&bundle, &run, "$$"), "1 1\nactivated\npreserved\n");
    // What was meant for another process is an ordinary descriptor.
    let other = activated(&bundle, &run, "1");
    assert!(other.starts_with("\nactivated\n") && !other.contains("preserved"), "{other}");
}

/// A container that is started waits until its program says that it is ready; systemd is told with the
/// number of that program as its own.
#[test]
fn readiness_is_passed_on() {
    for (detached, words) in [(true, &["run", "-d"][..]), (true, &["start"]), (false, &["run"])] {
        let bundle = Bundle::new("test -S $NOTIFY_SOCKET && echo $NOTIFY_SOCKET; exec sleep 100");
        let path = bundle.beside().join("systemd");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(TIMEOUT)).unwrap();
        let output = bundle.beside().join("output");
        let command = |words: &[&str]| {
            let mut command = bundle.command(&[words, &[&bundle.id]].concat());
            let file = std::fs::File::options().create(true).append(true).open(&output).unwrap();
            command.env("NOTIFY_SOCKET", &path).stdout(file);
            command
        };
        if words == ["start"] {
            assert!(command(&["create"]).status().unwrap().success());
        }
        let mut runtime = command(words).spawn().unwrap();
        let socket = bundle.state_root().join(&bundle.id).join("notify/notify.sock");
        let ours = UnixDatagram::unbound().unwrap();
        let sent = within(TIMEOUT, || ours.send_to(b"READY=1\nSTATUS=up", &socket).ok());
        assert!(sent.is_some(), "{words:?}");
        assert!(runtime.try_wait().unwrap().is_none(), "{words:?} did not wait");
        bundle.wait_until_running();
        let mut buffer = [0; 256];
        let mut heard = || {
            let length = systemd.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(heard(), "READY=1\n", "{words:?}");
        let main = heard();
        if detached {
            assert_eq!(main, format!("MAINPID={}\n", bundle.state()["pid"]), "{words:?}");
        } else {
            assert_eq!(main, format!("MAINPID={}\n", runtime.id()), "{words:?}");
        }
        if is_ours() {
            // runc has this since 1.2.
            assert_eq!(heard(), "BARRIER=1", "{words:?}");
        }
        if detached {
            assert!(runtime.wait().unwrap().success(), "{words:?}");
        }
        let inside = within(TIMEOUT, || {
            let text = std::fs::read_to_string(&output).unwrap();
            (!text.is_empty()).then_some(text)
        });
        assert_eq!(inside.unwrap(), "/run/notify/notify.sock\n", "{words:?}");
        bundle.must(&["delete", "--force", &bundle.id]);
        // In the foreground it ends with its container.
        runtime.wait().unwrap();
        assert_eq!(bundle.left(), [""; 0]);
    }
}

#[test]
fn a_program_that_ends_before_it_is_ready_keeps_nobody_waiting() {
    if !is_ours() {
        return; // runc 1.1.5 takes the dead process, which nobody reaps, for a living one
    }
    let bundle = Bundle::new("true");
    let path = bundle.beside().join("systemd");
    let _systemd = UnixDatagram::bind(&path).unwrap();
    let mut command = bundle.command(&["run", "-d", &bundle.id]);
    assert!(command.env("NOTIFY_SOCKET", &path).status().unwrap().success());
    bundle.wait_for("stopped");
}
