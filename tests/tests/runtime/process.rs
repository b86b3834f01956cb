//! The program: identity, capabilities, seccomp, limits, environment, descriptors.

use serde_json::json;
use tests::bundle::{Bundle, cgroup_mounts, is_ours};

#[test]
fn user_groups_umask_directory_and_environment() {
    let mut bundle = Bundle::new("id -u; id -g; id -G; umask; pwd; echo $A $HOME");
    bundle
        .set(
            "/process/user",
            json!({"uid": 33, "gid": 34, "additionalGids": [5, 6], "umask": 0o27}),
        )
        .set("/process/cwd", json!("/var/lib/made"))
        .push("/process/env", json!("A=b"));
    assert_eq!(bundle.output(), "33\n34\n34 5 6\n0027\n/var/lib/made\nb /www\n");
}

#[test]
fn capabilities_are_those_that_were_asked_for() {
    let mut bundle = Bundle::new("grep Cap /proc/self/status");
    let kill_and_chown = json!(["CAP_KILL", "CAP_CHOWN"]);
    bundle.set(
        "/process/capabilities",
        json!({
            "bounding": kill_and_chown, "permitted": kill_and_chown, "effective": kill_and_chown,
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        }),
    );
    let set = |output: &str, name: &str| {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap()
    };
    let output = bundle.output();
    for (name, mask) in
        [("CapInh", 0x20), ("CapPrm", 0x21), ("CapEff", 0x21), ("CapBnd", 0x21), ("CapAmb", 0x20)]
    {
        assert_eq!(set(&output, name), mask, "{name}");
    }
    // A user keeps only what is ambient.
    bundle.set("/process/user/uid", json!(33));
    let output = bundle.output();
    assert_eq!(set(&output, "CapEff"), 0x20);
    bundle.set("/process/capabilities", json!(null)).set("/process/user/uid", json!(0));
    let output = bundle.output();
    assert_eq!((set(&output, "CapEff"), set(&output, "CapBnd")), (0, 0));
}

#[test]
fn no_new_privileges_and_seccomp_are_in_force() {
    let mut bundle =
        Bundle::new("grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status; mkdir /x; echo $?");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    bundle.set("/linux/seccomp", profile);
    for no_new_privileges in [true, false] {
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        let (code, stdout, stderr) = bundle.run();
        assert_eq!(code, 0, "{stderr}");
        let flag = u8::from(no_new_privileges);
        assert!(stdout.contains(&format!("NoNewPrivs:\t{flag}")), "{stdout}");
        assert!(stdout.contains("Seccomp:\t2"), "{stdout}");
        assert!(stderr.contains("Operation not permitted"), "{stderr}");
    }
}

#[test]
fn the_default_profile_comes_by_annotation() {
    if !is_ours() {
        return;
    }
    let mut bundle =
        Bundle::new("grep ^Seccomp: /proc/self/status; /bin/busybox unshare -m true; echo $?");
    bundle.set("/annotations", json!({"org.lighter.seccomp": "default"}));
    for no_new_privileges in [true, false] {
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        assert_eq!(bundle.output(), "Seccomp:\t2\n1\n");
    }
}

#[test]
fn resource_limits_are_set() {
    let mut bundle = Bundle::new("/bin/busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c'");
    bundle.set(
        "/process/rlimits",
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]),
    );
    assert_eq!(bundle.output(), "100\n200\n0\n");
}

#[test]
fn cgroup_limits_are_applied() {
    let mut bundle = Bundle::new("exec sleep 100");
    bundle.set(
        "/linux/resources",
        json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 33_554_432}, "pids": {"limit": 20},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
        }),
    );
    bundle.must(&["run", "-d", &bundle.id]);
    let pid = bundle.state()["pid"].to_string();
    let read = |names: [&str; 2]| {
        cgroup_mounts()
            .iter()
            .flat_map(|mount| names.map(|name| mount.join(&bundle.id).join(name)))
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap()
    };
    assert_eq!(read(["memory.limit_in_bytes", "memory.max"]), "33554432\n");
    assert_eq!(read(["pids.max", "pids.max"]), "20\n");
    assert!(
        ["50000\n", "50000 100000\n"].contains(&read(["cpu.cfs_quota_us", "cpu.max"]).as_str())
    );
    for line in std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines() {
        assert!(line.ends_with(&format!("/{}", bundle.id)) || !is_ours(), "{line}");
    }
    bundle.must(&["delete", "-f", &bundle.id]);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn devices_are_denied_unless_allowed() {
    let mut bundle = Bundle::new(
        "cat /dev/zero | /bin/busybox head -c 3 | /bin/busybox wc -c; mknod /tmp/kmsg c 1 11; \
         cat /tmp/kmsg; exit 0",
    );
    bundle.push("/process/capabilities/bounding", json!("CAP_SYSLOG"));
    let (code, stdout, stderr) = bundle.run();
    assert_eq!((code, stdout.as_str()), (0, "3\n"), "{stderr}");
    assert!(stderr.contains("Operation not permitted"), "{stderr}");
}

#[test]
fn a_small_memory_limit_is_enough_to_start() {
    if !is_ours() {
        return;
    }
    let mut bundle = Bundle::new("");
    bundle.set("/process/args", json!(["/bin/true"]));
    bundle.set("/linux/resources/memory", json!({"limit": 1_048_576}));
    bundle.output();
}

#[test]
fn oom_score_is_set() {
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj");
    bundle.set("/process/oomScoreAdj", json!(500));
    assert_eq!(bundle.output(), "500\n");
}

#[test]
fn io_priority_and_personality() {
    if !is_ours() {
        return;
    }
    let mut bundle = Bundle::new("/bin/busybox ionice; /bin/busybox uname -m");
    bundle.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
    let output = bundle.output();
    assert!(output.starts_with("idle"), "{output}");
    assert!(output.ends_with("i686\n"), "{output}");
}

/// CVE-2024-21626, CVE-2016-9962: no descriptor of the runtime reaches the program.
#[test]
fn the_program_has_only_the_standard_streams() {
    let bundle = Bundle::new("ls /proc/self/fd; ls -l /proc/self/fd >&2");
    let (code, stdout, stderr) = bundle.run();
    assert_eq!((code, stdout.as_str()), (0, "0\n1\n2\n3\n"), "{stderr}");
}

#[test]
fn preserved_descriptors_reach_it() {
    use std::os::fd::AsRawFd as _;
    let bundle = Bundle::new("cat <&3; [ -e /proc/self/fd/4 ] || echo none");
    std::fs::write(bundle.beside().join("text"), "kept\n").unwrap();
    let file = std::fs::File::open(bundle.beside().join("text")).unwrap();
    // A shell puts the file at number 3, without the mark that closes it.
    let script = format!(
        "exec 3< /proc/{}/fd/{}; exec {} --root {} run --preserve-fds 1 {}",
        std::process::id(),
        file.as_raw_fd(),
        tests::bundle::runtime().display(),
        bundle.state_root().display(),
        bundle.id
    );
    drop(bundle.command(&[]));
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &script])
        .current_dir(bundle.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "kept\nnone\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
