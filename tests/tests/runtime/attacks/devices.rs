//! `/dev` of the image, and what is made in it.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use serde_json::json;
use tests::bundle::{Bundle, is_ours};

use super::{Outside, ROUNDS, Swapper, link_in_place, race, without_dev};

/// Nodes, default links and the removal of `ptmx` go through `/dev`.
#[test]
fn cve_2026_41579_a_link_as_dev_stays_inside() {
    if !is_ours() {
        return; // runc 1.1 makes the links outside, and removes ptmx there
    }
    for absolute in [true, false] {
        let mut bundle = Bundle::new("true");
        let outside = Outside::new(&bundle);
        without_dev(&mut bundle);
        let to = if absolute { outside.0.clone() } else { "../../outside".into() };
        link_in_place(&bundle, "dev", to);
        bundle.run();
        outside.assert_untouched();
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// Devices of the configuration, below a directory that is a link; made, or in a user namespace
/// mounted.
#[test]
fn cve_2026_47766_device_nodes_below_a_link_stay_inside() {
    if !is_ours() {
        return; // runc 1.1 makes the links of /dev outside
    }
    for user_namespace in [false, true] {
        let mut bundle = Bundle::new("true");
        let outside = Outside::new(&bundle);
        without_dev(&mut bundle);
        link_in_place(&bundle, "dev", "/real");
        std::fs::create_dir(bundle.root().join("real")).unwrap();
        symlink("../../../outside", bundle.root().join("real/net")).unwrap();
        symlink(&outside.0, bundle.root().join("real/more")).unwrap();
        let device = |path| {
            json!({"type": "c", "path": path, "major": 1, "minor": 3, "fileMode": 0o666,
                "uid": 7, "gid": 8})
        };
        if user_namespace {
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
            bundle.push("/linux/namespaces", json!({"type": "user"}));
        } else {
            bundle.set("/linux/devices", json!([device("/dev/net/x"), device("/dev/more/x")]));
        }
        let (code, _, stderr) = bundle.run();
        assert_eq!(code, 0, "{stderr}");
        outside.assert_untouched();
        assert!(bundle.root().join("real/null").exists(), "not made where the link leads inside");
        if !user_namespace {
            let inside = bundle.root().join("outside/x");
            let info = std::fs::symlink_metadata(inside).unwrap();
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&info), 7);
        }
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// `/dev` is swapped while containers are created on one root.
#[test]
fn cve_2026_41579_a_swapped_dev_stays_inside() {
    if !is_ours() {
        return; // runc 1.1 falls
    }
    let mut bundle = Bundle::new("true");
    let outside = Outside::new(&bundle);
    without_dev(&mut bundle);
    symlink("../../outside", bundle.root().join("link")).unwrap();
    let swapper = Swapper::new(bundle.root().join("dev"), bundle.root().join("link"));
    for _ in 0..tests::rounds(ROUNDS) {
        bundle.run();
        outside.assert_untouched();
    }
    drop(swapper);
    assert_eq!(bundle.left(), [""; 0]);
}

/// A bundle with a terminal, whose image brings its own `/dev` beside a true devpts.
fn with_terminal(bundle: &mut Bundle) -> (UnixListener, Vec<String>) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| {
        let destination = mount["destination"].as_str().unwrap();
        destination == "/dev/pts" || !destination.starts_with("/dev")
    });
    bundle.set("/process/terminal", json!(true));
    let path = bundle.beside().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let words = ["create", "--console-socket", path.to_str().unwrap(), &bundle.id];
    (listener, words.map(str::to_owned).to_vec())
}

#[test]
fn cve_2025_52565_a_link_as_dev_console_is_refused() {
    if !is_ours() {
        return; // runc 1.1 mounts the terminal where the link leads
    }
    for to in ["/proc/sysrq-trigger", "/etc/passwd", "../../../outside/made", "made"] {
        let mut bundle = Bundle::new("true");
        let outside = Outside::new(&bundle);
        let (_listener, words) = with_terminal(&mut bundle);
        symlink(to, bundle.root().join("dev/console")).unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = bundle.call(&words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{to}: {text}");
        assert!(text.contains("/dev/console"), "{text}");
        outside.assert_untouched();
        // Not even an empty file.
        assert!(!bundle.root().join("dev/made").exists());
        assert!(!bundle.root().join("outside").exists());
        assert_eq!(bundle.left(), [""; 0]);
    }
}

/// The attacker swaps `/dev/console` meanwhile.
#[test]
fn cve_2025_52565_a_swapped_dev_console_leads_nowhere() {
    if !is_ours() {
        return; // runc 1.1 falls
    }
    let mut bundle = Bundle::new("true");
    let outside = Outside::new(&bundle);
    let (_listener, words) = with_terminal(&mut bundle);
    let target = bundle.root().join("etc/target");
    std::fs::write(&target, "").unwrap();
    std::fs::write(bundle.root().join("dev/console"), "").unwrap();
    symlink("../etc/target", bundle.root().join("dev/link")).unwrap();
    let swapper = Swapper::new(bundle.root().join("dev/console"), bundle.root().join("dev/link"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    race(|| {
        let created = bundle.call(&words).status.success();
        if created {
            let pid = bundle.state()["pid"].to_string();
            let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            assert!(!mounts.contains(" /etc/target "), "{mounts}");
        }
        bundle.must(&["delete", "--force", &bundle.id]);
        outside.assert_untouched();
        created
    });
    drop(swapper);
}

/// A `ptmx` of the image, or one of the host that is linked to, makes no terminal.
#[test]
fn cve_2025_52565_only_a_devpts_gives_a_terminal() {
    if !is_ours() {
        return; // runc 1.1 opens what is there
    }
    let mut bundle = Bundle::new("true");
    let (_listener, words) = with_terminal(&mut bundle);
    without_dev(&mut bundle);
    std::fs::create_dir(bundle.root().join("dev/pts")).unwrap();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ptmx = bundle.root().join("dev/pts/ptmx");
    for kind in 0..3 {
        match kind {
            0 => std::fs::write(&ptmx, "").unwrap(),
            1 => symlink("/proc/self/fd/0", &ptmx).unwrap(),
            _ => nix::unistd::mkfifo(&ptmx, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        let output = bundle.call(&words);
        assert_eq!(output.status.code(), Some(1), "kind {kind}");
        assert_eq!(bundle.left(), [""; 0]);
        std::fs::remove_file(&ptmx).unwrap();
    }
}
