//! Terminals: the console socket, sizes, and the foreground.

use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;
use tests::bundle::{Bundle, is_ours, within};

/// Takes the terminal's master from a console socket.
pub(super) fn master(listener: &UnixListener) -> std::fs::File {
    let (connection, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut vectors = [IoSliceMut::new(&mut name)];
    let message = recvmsg::<()>(
        connection.as_raw_fd(),
        &mut vectors,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .unwrap();
    let mut rights = message.cmsgs().unwrap();
    let Some(ControlMessageOwned::ScmRights(numbers)) = rights.next() else {
        panic!("no descriptor")
    };
    // SAFETY: the number has just been received and nobody else owns it.
    #[allow(unsafe_code)]
    let fd = unsafe { OwnedFd::from_raw_fd(numbers[0]) };
    fd.into()
}

#[test]
fn the_pidfd_socket_gets_the_process() {
    if !is_ours() {
        return; // runc has it from 1.2 on
    }
    let bundle = Bundle::new("exec sleep 100");
    let path = bundle.beside().join("pidfd");
    let listener = UnixListener::bind(&path).unwrap();
    let of = |words: &[&str]| {
        let [verb, rest @ ..] = words else { panic!("no verb") };
        bundle.must(&[&[*verb, "--pidfd-socket", path.to_str().unwrap()], rest].concat());
        let pidfd = master(&listener);
        let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let info = std::fs::read_to_string(info).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:\t")).unwrap().to_owned()
    };
    assert_eq!(of(&["create", &bundle.id]), bundle.state()["pid"].to_string());
    bundle.must(&["start", &bundle.id]);
    let file = bundle.beside().join("pid");
    let added = of(&["exec", "-d", "--pid-file", file.to_str().unwrap(), &bundle.id, "sleep", "9"]);
    assert_eq!(added, std::fs::read_to_string(&file).unwrap());
    bundle.must(&["delete", "-f", &bundle.id]);
}

#[test]
fn the_console_socket_gets_the_master() {
    let mut bundle = Bundle::new("tty; stty size; read line; echo got $line; ls -l /dev/console");
    bundle
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 33, "width": 77}));
    let path = bundle.beside().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.must(&["create", "--console-socket", path.to_str().unwrap(), &bundle.id]);
    let mut terminal = master(&listener);
    bundle.must(&["start", &bundle.id]);
    terminal.write_all(b"hello\n").unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    // The end is an error on Linux: the last process has closed its side.
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert!(text.contains("33 77"), "{text}");
    // As a client whose terminal is raw needs it.
    assert!(text.contains("got hello\r\n"), "{text}");
    bundle.wait_for("stopped");
    bundle.must(&["delete", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_detached_terminal_without_a_socket_is_refused() {
    let mut bundle = Bundle::new("true");
    bundle.set("/process/terminal", json!(true));
    assert_eq!(bundle.call(&["run", "-d", &bundle.id]).status.code(), Some(1));
    assert_eq!(bundle.call(&["create", &bundle.id]).status.code(), Some(1));
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn the_foreground_copies_the_terminal() {
    if !is_ours() {
        return; // runc insists on a terminal of its own
    }
    let mut bundle = Bundle::new("tty; [ -t 0 ] && [ -t 1 ] && echo is a terminal; exit 3");
    bundle.set("/process/terminal", json!(true));
    let (code, stdout, stderr) = bundle.run();
    assert_eq!(code, 3, "{stdout}{stderr}");
    assert!(stdout.contains("is a terminal"), "{stdout}");
}

#[test]
fn a_user_may_open_its_terminal_and_streams() {
    if !is_ours() {
        return; // runc insists on a terminal of its own
    }
    let mut bundle = Bundle::new("echo through >> /dev/stdout; echo tty > /dev/tty");
    bundle.set("/process/terminal", json!(true)).set("/process/user/uid", json!(33));
    let (code, stdout, stderr) = bundle.run();
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("through") && stdout.contains("tty"), "{stdout}");
}

#[test]
fn a_terminal_needs_a_devpts() {
    let mut bundle = Bundle::new("true");
    bundle.set("/process/terminal", json!(true));
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/dev/pts");
    if is_ours() {
        let text = bundle.refusal();
        assert!(text.contains("/dev/pts/ptmx"), "{text}");
    }
    let gone = within(Duration::from_secs(5), || bundle.left().is_empty().then_some(()));
    assert!(gone.is_some());
}
