//! Privileges that a process should not come to have.

use std::process::Command;

use serde_json::json;
use tests::bundle::{Bundle, is_ours};

/// Processes have no inheritable capabilities that nobody asked for, so a file with inheritable ones
/// gives none to a user who is not root.
#[test]
fn cve_2022_29162_no_capability_is_inherited_through_a_file() {
    let mut bundle = Bundle::new("");
    let trap = bundle.root().join("bin/busybox-trap");
    std::fs::copy("/bin/busybox", &trap).unwrap();
    let set = Command::new("setcap").arg("cap_net_raw,cap_sys_chroot=ei").arg(&trap).status();
    assert!(set.unwrap().success(), "setcap of the package libcap2-bin");
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle.set("/process/user", json!({"uid": 33, "gid": 33}));
    bundle.set("/process/args", json!(["/bin/busybox-trap", "grep", "Cap", "/proc/self/status"]));
    let output = bundle.output();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(output.contains(&format!("{set}:\t0000000000000000")), "{output}");
    }
    assert!(!output.contains("CapBnd:\t0000000000000000"), "nothing was to be had: {output}");
}

#[test]
fn cve_2022_29162_root_has_no_inheritable_capabilities_either() {
    let bundle = Bundle::new("grep Cap /proc/self/status");
    let output = bundle.output();
    assert!(output.contains("CapInh:\t0000000000000000"), "{output}");
    assert!(!output.contains("CapEff:\t0000000000000000"), "{output}");
}

/// A process that joins gets what it is given and nothing to hand on.
#[test]
fn cve_2022_29162_exec_gives_no_inheritable_capabilities() {
    let bundle = Bundle::new("exec sleep 100");
    bundle.must(&["run", "-d", &bundle.id]);
    let plain = bundle.call(&["exec", &bundle.id, "grep", "CapInh", "/proc/self/status"]);
    let cap = ["exec", "--cap", "CAP_NET_ADMIN", &bundle.id, "grep", "CapInh", "/proc/self/status"];
    let given = bundle.call(&cap);
    bundle.must(&["delete", "--force", &bundle.id]);
    for output in [plain, given] {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(text, "CapInh:\t0000000000000000\n", "{error}");
    }
}

/// The crypto sockets of the kernel, by which unprivileged programs reached its page cache.
#[test]
fn af_alg_is_denied_by_the_default_profile() {
    // AF_ALG, SOCK_SEQPACKET; then AF_UNIX and AF_INET, which must go on.
    let script = "for (38, 40, 1, 2) { print socket(my $s, $_, $_ == 38 ? 5 : 1, 0) ? 'open' : $! + 0, qq(\\n) }";
    let run = |profile: bool| {
        let mut bundle = Bundle::new("");
        super::with_libraries(&mut bundle);
        bundle.set("/process/args", json!(["/usr/bin/perl", "-e", script]));
        if profile {
            bundle.set("/annotations", json!({"org.lighter.seccomp": "default"}));
        }
        bundle.output()
    };
    // EPERM where there is a profile, whatever the kernel has; EAFNOSUPPORT where it lacks the family.
    let without = run(false);
    assert!(!without.starts_with("1\n"), "denied without a profile: {without}");
    if is_ours() {
        // runc has no default profile: it is its callers'.
        assert_eq!(run(true), "1\n1\nopen\nopen\n");
    }
}
