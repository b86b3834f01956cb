//! Descriptors of the runtime that a container might use, and the runtime's own program.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::json;
use tests::bundle::{Bundle, is_ours, runtime, within};

use super::Outside;

#[test]
fn cve_2019_5736_the_runtime_runs_from_what_nobody_can_write() {
    if !is_ours() {
        return; // runc's goes by other names
    }
    let bundle = Bundle::new("true");
    bundle.must(&["create", &bundle.id]);
    let pid = bundle.state()["pid"].to_string();
    let exe = format!("/proc/{pid}/exe");
    // The root of a mount that is in no namespace, and read-only.
    assert_eq!(std::fs::read_link(&exe).unwrap().as_os_str(), "/");
    let flags = nix::sys::statvfs::statvfs(exe.as_str()).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{flags:?}");
    bundle.must(&["delete", "-f", &bundle.id]);
}

/// The image's program is `/proc/self/exe`, so that the runtime executes itself in the container; a
/// second container with the same processes in sight writes to whatever that is.
#[test]
fn cve_2019_5736_the_runtime_cannot_be_overwritten() {
    let script = r#"
        until [ -e /meet/victim ]; do sleep 0.02; done
        # Until its program is executed it cannot be looked into.
        tries=0
        while [ -z "$found" ] && [ $((tries += 1)) -lt 100 ]; do
          sleep 0.05
          for p in /proc/[0-9]*; do
            exe=$(/bin/busybox readlink $p/exe)
            case "$exe" in *busybox|"") continue;; esac
            exec 3<$p/exe || continue
            found=$exe
            echo found $exe
            cat /meet/log >/dev/null
            for i in 1 2 3 4 5 6 7 8 9 10; do
                (echo evil >/proc/self/fd/3) 2>/dev/null && echo overwritten
                (echo evil >>/proc/self/fd/3) 2>/dev/null && echo appended
                (echo evil 1<>/proc/self/fd/3) 2>/dev/null && echo changed
                (/bin/busybox truncate -s 0 /proc/self/fd/3) 2>/dev/null && echo truncated
                (chmod 777 /proc/self/fd/3) 2>/dev/null && echo opened
                sleep 0.02
            done
          done
        done
        echo done"#;
    let mut attacker = Bundle::new(script);
    let meet = attacker.beside().join("meet");
    std::fs::create_dir(&meet).unwrap();
    // A runtime to lose: never the host's own.
    let program = attacker.beside().join("runtime");
    std::fs::copy(which(), &program).unwrap();
    let before = std::fs::read(&program).unwrap();
    nix::unistd::mkfifo(&meet.join("log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    attacker.push("/mounts", super::bind("/meet", &meet));
    for set in ["bounding", "effective", "permitted"] {
        attacker.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    let out = attacker.beside().join("out");
    let started = attacker
        .command(&["run", "-d", &attacker.id])
        .stdout(File::create(&out).unwrap())
        .stderr(Stdio::inherit())
        .status()
        .unwrap();
    assert!(started.success());

    let mut victim = Bundle::new("");
    let pid = attacker.state()["pid"].clone();
    // It opens its log first, a FIFO: there it waits to be found.
    let args = ["/proc/self/exe", "--root", "/x", "--log", "/meet/log", "state", "x"];
    victim.set("/process/args", json!(args));
    victim
        .set("/linux/namespaces/0", json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
    victim.push("/mounts", super::bind("/meet", &meet));
    super::with_libraries(&mut victim);
    let command = victim.command(&["run", "-d", &victim.id]);
    let ran = Command::new(&program)
        .args(command.get_args())
        .current_dir(victim.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    std::fs::write(meet.join("victim"), "").unwrap();
    let text = || std::fs::read_to_string(&out).unwrap();
    let done = within(Duration::from_secs(20), || text().ends_with("done\n").then_some(()));
    for bundle in [&victim, &attacker] {
        bundle.must(&["delete", "--force", &bundle.id]);
    }
    assert!(ran.success() && done.is_some(), "{}", text());
    assert!(text().contains("found"), "the attack never came to its target: {}", text());
    for word in ["overwritten", "appended", "changed", "truncated", "opened"] {
        assert!(!text().contains(word), "{}", text());
    }
    assert!(std::fs::read(&program).unwrap() == before, "the runtime has another content");
}

/// The image's hook is `/proc/self/exe`: `start`, too, must run from what cannot be overwritten.
#[test]
fn cve_2019_5736_a_hook_does_not_get_at_the_runtime() {
    if !is_ours() {
        return; // runc's hooks are run by the init
    }
    let mut bundle = Bundle::new("true");
    super::with_libraries(&mut bundle);
    let log = bundle.root().join("log");
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/proc/self/exe", bundle.root().join("bin/trap")).unwrap();
    // It waits for a reader of its log.
    let args = ["trap", "--root", "/x", "--log", "/log", "state", "x"];
    bundle.set("/hooks", json!({"startContainer": [{"path": "/bin/trap", "args": args}]}));
    bundle.must(&["create", &bundle.id]);
    let init = bundle.state()["pid"].as_i64();
    let mut start = bundle.command(&["start", &bundle.id]).spawn().unwrap();
    let hook = within(Duration::from_secs(10), || {
        let pids = bundle.must(&["ps", "--format", "json", &bundle.id]);
        let pids: Vec<i64> = serde_json::from_str(&pids).unwrap();
        let hook = pids.into_iter().find(|pid| Some(*pid) != init)?;
        let arguments = std::fs::read(format!("/proc/{hook}/cmdline")).ok()?;
        arguments.starts_with(b"trap\0").then_some(hook)
    });
    let exe = format!("/proc/{}/exe", hook.unwrap());
    let place = std::fs::read_link(&exe).unwrap();
    let flags = nix::sys::statvfs::statvfs(exe.as_str()).unwrap().flags();
    let reader = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_NONBLOCK;
    let reader = nix::fcntl::open(&log, reader, nix::sys::stat::Mode::empty()).unwrap();
    assert!(!start.wait().unwrap().success());
    drop(reader);
    bundle.must(&["delete", "--force", &bundle.id]);
    assert_eq!(place.as_os_str(), "/");
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{flags:?}");
}

/// The runtime's file; a bare name is looked up.
fn which() -> std::path::PathBuf {
    let runtime = runtime();
    if runtime.components().count() > 1 {
        return runtime;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join(&runtime));
    places.find(|place| place.exists()).unwrap()
}

/// Descriptors of a directory of the host, left open to the runtime by whoever calls it.
fn leaked(outside: &Outside) -> Vec<OwnedFd> {
    let open = || {
        let fd = OwnedFd::from(File::open(&outside.0).unwrap());
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        fd
    };
    (0..4).map(|_| open()).collect()
}

/// Numbers at which the runtime, or its caller, may have something open.
fn numbers(leaked: &[OwnedFd]) -> Vec<i32> {
    let last = leaked.iter().map(|fd| fd.as_raw_fd()).max().unwrap_or(0);
    (3..20).chain(20.max(last - 4)..=last).collect()
}

#[test]
fn cve_2024_21626_a_working_directory_outside_is_refused() {
    let bundle = Bundle::new("true");
    let outside = Outside::new(&bundle);
    let leaked = leaked(&outside);
    for number in numbers(&leaked) {
        for by_link in [false, true] {
            let mut bundle = Bundle::new("cat secret ../outside/secret; ls; true");
            let path = format!("/proc/self/fd/{number}");
            if by_link {
                symlink(&path, bundle.root().join("trap")).unwrap();
                bundle.set("/process/cwd", json!("/trap"));
            } else {
                bundle.set("/process/cwd", json!(path));
            }
            let (code, stdout, _) = bundle.run();
            assert_eq!((code, stdout.as_str()), (1, ""), "descriptor {number}, {by_link}");
            assert_eq!(bundle.left(), [""; 0]);
        }
    }
    drop(leaked);
}

/// The program itself by way of a descriptor: the host's, which may then be overwritten.
#[test]
fn cve_2024_21626_a_program_outside_is_not_executed() {
    let bundle = Bundle::new("true");
    let outside = Outside::new(&bundle);
    let evil = outside.0.join("busybox");
    std::fs::copy("/bin/busybox", &evil).unwrap();
    let leaked = leaked(&outside);
    for number in numbers(&leaked) {
        for path in ["busybox", "../outside/busybox", "../../../../../bin/busybox"] {
            let mut bundle = Bundle::new("");
            let path = format!("/proc/self/fd/{number}/{path}");
            bundle.set("/process/args", json!([path, "echo", "escaped"]));
            let (code, stdout, stderr) = bundle.run();
            assert!(code != 0 && stdout.is_empty(), "{path}: {stdout}{stderr}");
        }
    }
    drop(leaked);
}

/// The same of a process that joins, whose program is executed at once.
#[test]
fn cve_2024_21626_exec_of_a_program_outside_is_refused() {
    let bundle = Bundle::new("exec sleep 100");
    let outside = Outside::new(&bundle);
    std::fs::copy("/bin/busybox", outside.0.join("busybox")).unwrap();
    bundle.must(&["run", "-d", &bundle.id]);
    let leaked = leaked(&outside);
    for number in numbers(&leaked) {
        let program = format!("/proc/self/fd/{number}/busybox");
        let output = bundle.call(&["exec", &bundle.id, &program, "echo", "escaped"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        let cwd = format!("/proc/self/fd/{number}");
        let output = bundle.call(&["exec", "--cwd", &cwd, &bundle.id, "cat", "secret"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let output = bundle.call(&["exec", &bundle.id, "echo", "well"]);
    assert_eq!(output.stdout, b"well\n", "{output:?}");
    drop(leaked);
    bundle.must(&["delete", "--force", &bundle.id]);
}

/// Of more numbers than the caller passes on the rest would be the runtime's own.
#[test]
fn cve_2024_21626_what_is_not_there_to_be_preserved_is_refused() {
    let mut bundle = Bundle::new("");
    let outside = Outside::new(&bundle);
    std::fs::copy("/bin/busybox", outside.0.join("busybox")).unwrap();
    bundle.set("/process/args", json!(["/trap/echo", "escaped"]));
    std::fs::create_dir(bundle.root().join("trap")).unwrap();
    for number in 3..20 {
        let path = format!("/proc/self/fd/{number}/../../outside/busybox");
        symlink(path, bundle.root().join("trap/echo")).unwrap();
        let output = bundle.call(&["run", "--preserve-fds", "20", &bundle.id]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{number}: {output:?}");
        assert_eq!(bundle.left(), [""; 0]);
        std::fs::remove_file(bundle.root().join("trap/echo")).unwrap();
    }
}

/// A hook whose program the image has replaced by a link to one of the host's.
#[test]
fn cve_2024_21626_a_hook_outside_is_not_executed() {
    let mut bundle = Bundle::new("true");
    let outside = Outside::new(&bundle);
    std::fs::copy("/bin/busybox", outside.0.join("busybox")).unwrap();
    let args = ["touch", "/escaped"];
    bundle.set("/hooks", json!({"startContainer": [{"path": "/bin/trap", "args": args}]}));
    for number in 3..20 {
        let path = format!("/proc/self/fd/{number}/../../outside/busybox");
        symlink(path, bundle.root().join("bin/trap")).unwrap();
        let (code, _, stderr) = bundle.run();
        assert_ne!(code, 0, "{number}");
        assert!(stderr.contains("hook"), "{stderr}");
        assert!(!bundle.root().join("escaped").exists(), "{number}: {stderr}");
        assert_eq!(bundle.left(), [""; 0]);
        std::fs::remove_file(bundle.root().join("bin/trap")).unwrap();
    }
}

#[test]
fn cve_2024_21626_no_descriptor_is_inherited() {
    let bundle = Bundle::new("ls -l /proc/self/fd | grep -c secret; ls /proc/self/fd");
    let outside = Outside::new(&bundle);
    let leaked = leaked(&outside);
    // 3 is what ls reads the directory with.
    assert_eq!(bundle.output(), "0\n0\n1\n2\n3\n");
    bundle.must(&["create", &bundle.id]);
    let pid = bundle.state()["pid"].to_string();
    // Who waits for start has nothing that leads anywhere either.
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    for entry in open {
        let to = std::fs::read_link(entry.unwrap().path()).unwrap();
        assert!(!to.starts_with(&outside.0), "{}", to.display());
    }
    bundle.must(&["delete", "--force", &bundle.id]);
    drop(leaked);
}
