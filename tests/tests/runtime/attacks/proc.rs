//! `/proc` and `/sys` that are not what they should be, and what is written through them.

use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tests::bundle::{Bundle, is_ours, runtime};

use super::{Swapper, bind, link_in_place, without_dev};

#[test]
fn cve_2019_19921_proc_as_a_link_into_a_volume_is_refused() {
    if !is_ours() {
        return; // runc 1.1.5 mounts at the end of the link, inside the root
    }
    let mut bundle = Bundle::new("true");
    let volume = bundle.beside().join("volume");
    std::fs::create_dir_all(volume.join("proc/self/attr")).unwrap();
    link_in_place(&bundle, "proc", "volume/proc");
    // Before the procfs is mounted, as in the attack.
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.insert(0, bind("/volume", &volume));
    let refusal = bundle.refusal();
    assert!(refusal.contains("/proc"), "{refusal}");
}

#[test]
fn cve_2023_27561_proc_or_sys_as_a_link_is_refused() {
    if !is_ours() {
        return; // runc 1.1.5 refuses only what leads to another place than the link's name
    }
    for name in ["proc", "sys"] {
        for to in ["evil", "/evil", "missing", "tmp/../evil"] {
            let bundle = Bundle::new("true");
            std::fs::create_dir(bundle.root().join("evil")).unwrap();
            link_in_place(&bundle, name, to);
            let refusal = bundle.refusal();
            assert!(refusal.contains(&format!("/{name}")), "{refusal}");
        }
    }
}

#[test]
fn cve_2025_31133_a_link_as_dev_null_is_refused() {
    if !is_ours() {
        return; // runc 1.1 mounts what the link leads to over the masked paths
    }
    for to in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "missing"] {
        let mut bundle = Bundle::new("true");
        without_dev(&mut bundle);
        symlink(to, bundle.root().join("dev/null")).unwrap();
        let text = bundle.refusal();
        assert!(text.contains("/dev/null"), "{text}");
    }
}

/// The attacker swaps `/dev/null` in a volume that is the container's `/dev`: whatever is there, the
/// masked paths are hidden behind the kernel's null device.
#[test]
fn cve_2025_31133_a_swapped_dev_null_does_not_decide_what_masks() {
    if !is_ours() {
        return; // runc 1.1 falls
    }
    let script = "stat -c '%t:%T %n' /proc/keys /proc/cpuinfo; cat /proc/keys /proc/cpuinfo; \
                  ls -A /sys/firmware";
    let mut bundle = Bundle::new(script);
    bundle.set("/linux/maskedPaths", json!(["/proc/keys", "/proc/cpuinfo", "/sys/firmware"]));
    without_dev(&mut bundle);
    let volume = bundle.beside().join("dev");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("null"), "").unwrap();
    symlink("/proc/loadavg", volume.join("link")).unwrap();
    bundle.push("/mounts", bind("/dev", &volume));
    let swapper = Swapper::new(volume.join("null"), volume.join("link"));
    for _ in 0..tests::rounds(20) {
        assert_eq!(bundle.output(), "1:3 /proc/keys\n1:3 /proc/cpuinfo\n");
    }
    drop(swapper);
}

/// Runs commands in a mount namespace of their own, in which `set_up` has mounted things; then the
/// runtime runs the bundle there.
fn run_among(bundle: &Bundle, options: &[&str], set_up: &str) -> Output {
    let command = bundle.command(&[&["run"], options, &[bundle.id.as_str()]].concat());
    let script = format!("set -e; {set_up}; exec \"$@\"");
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script, "sh"]).arg(runtime());
    shell.args(command.get_args()).current_dir(bundle.path()).stdin(Stdio::null());
    shell.output().unwrap()
}

/// Something lies over the file of a sysctl: it must not be written instead.
#[test]
fn cve_2025_52881_a_sysctl_is_not_written_to_what_is_mounted_over_it() {
    if !is_ours() {
        return; // runc 1.1 writes to whatever is there
    }
    for over in ["sys/kernel/shmmni", "sys/kernel", "sys"] {
        let mut bundle = Bundle::new("cat /proc/sys/kernel/shmmni");
        bundle.set("/linux/sysctl", json!({"kernel.shmmni": "77"}));
        let fake = bundle.beside().join("fake");
        let file = fake.join("sys/kernel/shmmni");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::create_dir_all(fake.join("sys/kernel/random")).unwrap();
        std::fs::write(fake.join("sys/kernel/cap_last_cap"), "40\n").unwrap();
        std::fs::copy("/proc/sys/kernel/random/boot_id", fake.join("sys/kernel/random/boot_id"))
            .unwrap();
        std::fs::write(&file, "untouched").unwrap();
        let mount = format!("mount --bind {}/{over} /proc/{over}", fake.display());
        let output = run_among(&bundle, &[], &mount);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        // The file of another ipc namespace may be another file to the kernel, not mounted over.
        let written = output.status.success() && output.stdout == b"77\n";
        let refused = text.contains("write /proc/sys/kernel/shmmni");
        assert!(written || refused, "{over}: {text}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// The container joins a mount namespace in which its owner has put a file in the place of the
/// sysctl, or a link to a dangerous one.
#[test]
fn cve_2025_52881_a_joined_mount_namespace_does_not_redirect_a_sysctl() {
    if !is_ours() {
        return; // runc 1.1 writes to what the joined namespace has there
    }
    let mut bundle = Bundle::new("true");
    let fake = bundle.beside().join("sys");
    let file = fake.join("kernel/shmmni");
    std::fs::create_dir_all(fake.join("kernel")).unwrap();
    std::fs::write(&file, "untouched").unwrap();
    let script =
        format!("mount --bind {} /proc/sys && echo ready && exec sleep 100", fake.display());
    let mut attacker = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(attacker.stdout.as_mut().unwrap(), &mut ready).unwrap();
    bundle.set("/mounts", json!([]));
    bundle.set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
    bundle.set("/linux/sysctl", json!({"kernel.shmmni": "77"}));
    bundle.set(
        "/linux/namespaces",
        json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
        {"type": "mount", "path": format!("/proc/{}/ns/mnt", attacker.id())}]),
    );
    bundle.run();
    let text = std::fs::read_to_string(&file).unwrap();
    attacker.kill().unwrap();
    attacker.wait().unwrap();
    assert_eq!(text, "untouched");
    assert_eq!(bundle.left(), [""; 0]);
}

/// A whole other `/proc`: a label would be written into it, and the program run without one.
#[test]
fn cve_2025_52881_a_proc_that_is_none_is_refused() {
    if !is_ours() {
        return; // runc 1.1 has no such check before it writes
    }
    let mut bundle = Bundle::new("true");
    bundle.set("/process/selinuxLabel", json!("a:b:c"));
    let fake = bundle.beside().join("fake");
    std::fs::create_dir_all(&fake).unwrap();
    // All that the runtime reads is really there; only the root is another.
    let links = "for name in /proc/*; do ln -s /real/${name#/proc/} FAKE/${name#/proc/}; done";
    let links = links.replace("FAKE", &fake.display().to_string());
    let set_up = format!(
        "{links}; mount -t tmpfs x /sys/fs; mkdir -p /sys/fs/selinux; touch /sys/fs/selinux/enforce; \
         mkdir -p {0}/upper; mount --rbind /proc {0}/upper; mount --bind {0} /proc",
        fake.display()
    );
    let output = run_among(&bundle, &[], &set_up);
    assert!(!output.status.success());
    assert_eq!(bundle.left(), [""; 0]);
}

/// Without pivot_root the host's mounts stay below the container's. With a procfs among them, even one below another, the
/// kernel would let a user namespace of the container mount its own, without masks.
#[test]
fn no_procfs_of_the_host_is_left_without_a_pivot() {
    let script = "/bin/busybox unshare -mrpf sh -c 'mount -t proc none /tmp && echo bare'";
    let bundle = Bundle::new(script);
    let other = bundle.beside().join("other proc");
    std::fs::create_dir(&other).unwrap();
    let set_up = format!("mount -t proc proc '{}'; mount -t proc proc /proc", other.display());
    let output = run_among(&bundle, &["--no-pivot"], &set_up);
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(stdout, "", "{stderr}");
    assert!(stderr.contains("permission denied"), "{stderr}");
}
