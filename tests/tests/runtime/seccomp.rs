//! seccomp: every action that shows, the filter's flags, the agent that is asked.

use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours};

/// One connection of the runtime: the container process state and the descriptor beside it.
fn accept(listener: &UnixListener) -> (Value, OwnedFd) {
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = vec![0; 1 << 16];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut vectors = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received =
        recvmsg::<()>(stream.as_raw_fd(), &mut vectors, Some(&mut space), flags).unwrap();
    let message = received.cmsgs().unwrap().next();
    let Some(ControlMessageOwned::ScmRights(numbers)) = message else {
        panic!("no descriptor came with the state");
    };
    // SAFETY: the kernel made it for this message, and nobody else has seen its number.
    #[allow(unsafe_code)]
    let descriptor = unsafe { OwnedFd::from_raw_fd(numbers[0]) };
    let length = received.bytes;
    (serde_json::from_slice(&bytes[..length]).unwrap(), descriptor)
}

/// An agent that waits for one question and then goes away, by which the call fails with `ENOSYS`.
fn agent(listener: UnixListener) -> thread::JoinHandle<(Value, bool)> {
    thread::spawn(move || {
        let (state, descriptor) = accept(&listener);
        let mut watched = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
        let asked = poll(&mut watched, PollTimeout::from(10_000_u16)).unwrap() == 1;
        (state, asked)
    })
}

fn notifying(bundle: &Bundle, names: &[&str]) -> (Value, UnixListener) {
    let path = bundle.beside().join("agent");
    let _ = std::fs::remove_file(&path);
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": path,
        "listenerMetadata": "say no",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    });
    (profile, UnixListener::bind(path).unwrap())
}

#[test]
fn an_agent_is_asked() {
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::new("mkdir /tmp/x; echo $?");
        let (profile, listener) = notifying(&bundle, &["mkdir", "mkdirat"]);
        bundle
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/annotations", json!({"k": "v"}))
            .set("/linux/seccomp", profile);
        let agent = agent(listener);
        let (code, stdout, stderr) = bundle.run();
        assert_eq!((code, stdout.as_str()), (0, "1\n"), "{stderr}");
        assert!(stderr.contains("Function not implemented"), "{stderr}");
        let (state, asked) = agent.join().unwrap();
        assert!(asked, "the listener never had a question");
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "say no");
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(state["state"]["annotations"]["k"], "v");
        assert_eq!(state["pid"], state["state"]["pid"]);
        assert!(state["pid"].as_i64().unwrap() > 1, "{state}");
        assert!(state["ociVersion"].is_string() && state["state"]["ociVersion"].is_string());
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// The listener is there from `create` on, as in runc, so that an agent is ready before `start`.
#[test]
fn the_listener_comes_at_create() {
    let mut bundle = Bundle::new("true");
    let (profile, listener) = notifying(&bundle, &["mkdir"]);
    bundle.set("/linux/seccomp", profile);
    let agent = thread::spawn(move || accept(&listener));
    bundle.must(&["create", &bundle.id]);
    let (state, _descriptor) = agent.join().unwrap();
    assert_eq!(state["pid"], bundle.state()["pid"]);
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_profile_that_nobody_answers_for_is_refused() {
    let mut bundle = Bundle::new("true");
    let (mut profile, listener) = notifying(&bundle, &["mkdir"]);
    drop(listener);
    bundle.set("/linux/seccomp", profile.clone());
    let text = bundle.refusal();
    assert!(text.contains("connect"), "{text}");
    profile.as_object_mut().unwrap().remove("listenerPath");
    bundle.set("/linux/seccomp", profile.clone());
    assert!(bundle.refusal().contains("listenerPath"));
    // What the runtime itself calls while the agent has no listener yet.
    profile["listenerPath"] = json!("/run/agent");
    profile["syscalls"][0]["names"] = json!(["write"]);
    bundle.set("/linux/seccomp", profile.clone());
    assert!(bundle.refusal().contains("SCMP_ACT_NOTIFY cannot be used"));
    profile["defaultAction"] = json!("SCMP_ACT_NOTIFY");
    bundle.set("/linux/seccomp", profile);
    let text = bundle.refusal();
    assert!(text.contains("SCMP_ACT_NOTIFY"), "{text}");
}

#[test]
fn all_flags_are_taken() {
    if !is_ours() {
        return; // Debian's runc 1.1 knows no flag
    }
    for flags in [
        json!([]),
        json!(["SECCOMP_FILTER_FLAG_TSYNC"]),
        json!(["SECCOMP_FILTER_FLAG_LOG"]),
        json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]),
        json!([
            "SECCOMP_FILTER_FLAG_TSYNC",
            "SECCOMP_FILTER_FLAG_LOG",
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
        ]),
    ] {
        let mut bundle = Bundle::new("mkdir /tmp/x 2>/dev/null; echo $?");
        let mut profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
        profile["flags"] = flags.clone();
        bundle.set("/linux/seccomp", profile);
        assert_eq!(bundle.output(), "1\n", "{flags}");
    }
    let mut bundle = Bundle::new("mkdir /tmp/x; echo $?");
    let (mut profile, listener) = notifying(&bundle, &["mkdir", "mkdirat"]);
    profile["flags"] =
        json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"]);
    bundle.set("/linux/seccomp", profile);
    let agent = agent(listener);
    assert_eq!(bundle.output(), "1\n");
    assert!(agent.join().unwrap().1);
    let mut bundle = Bundle::new("true");
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]});
    bundle.set("/linux/seccomp", profile);
    assert!(bundle.refusal().contains("SECCOMP_FILTER_FLAG_X"));
}

#[test]
fn every_action_does_what_its_name_says() {
    for (action, code, text) in [
        ("SCMP_ACT_ALLOW", 0, ""),
        ("SCMP_ACT_LOG", 0, ""),
        ("SCMP_ACT_ERRNO", 1, "Operation not permitted"),
        // Without a tracer.
        ("SCMP_ACT_TRACE", 1, "Function not implemented"),
        ("SCMP_ACT_TRAP", 159, "Bad system call"),
        ("SCMP_ACT_KILL", 159, "Bad system call"),
        ("SCMP_ACT_KILL_THREAD", 159, "Bad system call"),
        ("SCMP_ACT_KILL_PROCESS", 159, "Bad system call"),
    ] {
        let mut bundle = Bundle::new("mkdir /tmp/x; exit $?");
        bundle.set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
            }),
        );
        let (got, stdout, stderr) = bundle.run();
        assert_eq!(got, code, "{action}: {stdout}{stderr}");
        assert!(stderr.contains(text), "{action}: {stderr}");
    }
}
