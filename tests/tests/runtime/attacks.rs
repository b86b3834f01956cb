//! What hostile images tried on other runtimes.

use std::os::unix::fs::symlink;

use serde_json::json;
use tests::bundle::{Bundle, is_ours};

/// CVE-2019-5736: the program that enters the container is no file of the host.
#[test]
fn cve_2019_5736_the_runtime_runs_from_a_sealed_copy() {
    if !is_ours() {
        return;
    }
    let bundle = Bundle::new("true");
    bundle.must(&["create", &bundle.id]);
    let pid = bundle.state()["pid"].to_string();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    assert!(exe.to_string_lossy().starts_with("/memfd:"), "{}", exe.display());
    bundle.must(&["delete", "-f", &bundle.id]);
}

/// CVE-2021-30465 and its like: a destination that leads out of the root by links.
#[test]
fn cve_2021_30465_links_in_destinations_stay_inside() {
    let mut bundle = Bundle::new("ls /trap/");
    let outside = bundle.beside().join("outside");
    let data = bundle.beside().join("data");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("mine"), "").unwrap();
    symlink(&outside, bundle.root().join("trap")).unwrap();
    bundle.push(
        "/mounts",
        json!({"destination": "/trap", "type": "bind", "source": data,
        "options": ["bind"]}),
    );
    assert_eq!(bundle.output(), "mine\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(bundle.left(), [""; 0]);
}

/// CVE-2019-16884, CVE-2019-19921: `/proc` must be a procfs at its own place.
#[test]
fn cve_2019_19921_proc_as_a_link_is_refused() {
    if !is_ours() {
        return; // runc 1.1 follows the link
    }
    for name in ["proc", "sys"] {
        let bundle = Bundle::new("true");
        std::fs::remove_dir(bundle.root().join(name)).unwrap();
        std::fs::create_dir(bundle.root().join("evil")).unwrap();
        symlink("evil", bundle.root().join(name)).unwrap();
        bundle.refusal();
    }
    let mut bundle = Bundle::new("true");
    let data = bundle.beside().to_owned();
    bundle.push(
        "/mounts",
        json!({"destination": "/proc", "type": "bind", "source": data,
        "options": ["bind"]}),
    );
    bundle.refusal();
    let mut bundle = Bundle::new("true");
    bundle
        .push("/mounts", json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "x"}));
    bundle.refusal();
}

/// CVE-2025-31133: `/dev/null` of the image as a link must not decide what masks a path.
#[test]
fn cve_2025_31133_a_link_as_dev_null_neither_masks_nor_survives() {
    let mut bundle = Bundle::new("cat /proc/keys; exit 0");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/proc/sysrq-trigger", bundle.root().join("dev/null")).unwrap();
    if is_ours() {
        let text = bundle.refusal();
        assert!(text.contains("/dev/null"), "{text}");
    }
}

/// CVE-2026-41579, CVE-2026-47766: `/dev` of the image as a link.
#[test]
fn a_link_as_dev_stays_inside() {
    if !is_ours() {
        return; // runc 1.1 makes the links of /dev outside
    }
    let mut bundle = Bundle::new("true");
    let outside = bundle.beside().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    std::fs::remove_dir(bundle.root().join("dev")).unwrap();
    symlink(&outside, bundle.root().join("dev")).unwrap();
    bundle.run();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

/// CVE-2024-21626: a working directory through a descriptor that leads outside.
#[test]
fn cve_2024_21626_a_working_directory_outside_is_refused() {
    for number in 3..12 {
        let mut bundle = Bundle::new("true");
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let (code, stdout, _) = bundle.run();
        assert_eq!((code, stdout.as_str()), (1, ""), "descriptor {number}");
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// A passwd that never ends must not hang the creation.
#[test]
fn a_fifo_as_passwd_hangs_nothing() {
    let bundle = Bundle::new("echo $HOME");
    let passwd = bundle.root().join("etc/passwd");
    std::fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    if is_ours() {
        assert_eq!(bundle.output(), "/\n");
    }
}
