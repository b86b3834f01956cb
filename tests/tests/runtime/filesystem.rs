//! Mounts, devices, masked and read-only paths, propagation.

use serde_json::json;
use tests::bundle::{Bundle, is_ours};

#[test]
fn the_root_is_the_bundles_and_the_old_one_is_gone() {
    let bundle = Bundle::new("ls /; cat /proc/self/mountinfo");
    let output = bundle.output();
    assert!(output.starts_with("bin\ndev\netc\nproc\nsys\ntmp\n"), "{output}");
    let here = bundle.beside().display().to_string();
    let outside = output.lines().skip(6).filter(|line| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        point.starts_with(&here)
    });
    assert_eq!(outside.count(), 0, "{output}");
}

#[test]
fn default_devices_and_links() {
    let bundle = Bundle::new(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; \
         for l in fd stdin stdout stderr ptmx; do /bin/busybox readlink /dev/$l; done",
    );
    assert_eq!(
        bundle.output(),
        "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n\
         /dev/urandom 1:9 666\n/dev/tty 5:0 666\n/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n\
         /proc/self/fd/2\npts/ptmx\n"
    );
}

#[test]
fn devices_of_the_configuration() {
    if !is_ours() {
        return; // runc 1.1 refuses a /dev/null of the configuration's own
    }
    let mut bundle =
        Bundle::new("stat -c '%F %t:%T %a %u:%g' /dev/net/tun /dev/pipe; stat -c %a /dev/null");
    bundle.set(
        "/linux/devices",
        json!([
            {"type": "c", "path": "/dev/net/tun", "major": 10, "minor": 200, "fileMode": 0o640,
                "uid": 7, "gid": 8},
            {"type": "p", "path": "/dev/pipe", "fileMode": 0o600},
            {"type": "c", "path": "/dev/null", "major": 1, "minor": 3, "fileMode": 0o644},
        ]),
    );
    let output = bundle.output();
    assert!(
        output.starts_with("character special file a:c8 640 7:8\nfifo 0:0 600 0:0\n"),
        "{output}"
    );
    if is_ours() {
        assert!(output.ends_with("\n644\n"), "{output}");
    }
}

#[test]
fn binds_with_their_options() {
    let mut bundle = Bundle::new(
        "cat /data/file /etc/resolv.conf; touch /ro/x; touch /data/new; \
         grep -E ' /(data|ro) ' /proc/self/mountinfo",
    );
    let data = bundle.beside().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("file"), "data\n").unwrap();
    // A dangling link of the image: the file is made where it leads, inside.
    std::os::unix::fs::symlink("../run/resolv/stub", bundle.root().join("etc/resolv.conf"))
        .unwrap();
    let bind = |destination: &str, source: &std::path::Path, options: &[&str]| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    bundle
        .push("/mounts", bind("/data", &data, &["rbind", "nosuid", "rw"]))
        .push("/mounts", bind("/ro", &data, &["rbind", "ro", "rprivate"]))
        .push("/mounts", bind("/etc/resolv.conf", &data.join("file"), &["bind", "ro"]));
    let (code, stdout, stderr) = bundle.run();
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("data\ndata\n"), "{stdout}");
    assert!(stderr.contains("Read-only file system"), "{stderr}");
    assert!(data.join("new").exists() && !data.join("x").exists());
    let line = |name: &str| stdout.lines().find(|line| line.contains(name)).unwrap();
    assert!(line(" /data ").contains("nosuid"), "{stdout}");
    assert!(line(" /ro ").contains(" ro,"), "{stdout}");
    assert!(!line(" /ro ").contains("shared:"), "{stdout}");
    assert!(bundle.root().join("run/resolv/stub").exists());
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn recursive_read_only() {
    let mut bundle = Bundle::new("touch /data/x; touch /data/sub/x; exit 0");
    let data = bundle.beside().join("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    bundle.push(
        "/mounts",
        json!({"destination": "/data", "type": "bind", "source": data,
        "options": ["rbind", "rro"]}),
    );
    bundle.run();
    assert!(!data.join("x").exists() && !data.join("sub/x").exists());
}

#[test]
fn read_only_root_masked_and_read_only_paths() {
    let mut bundle = Bundle::new(
        "touch /x; cat /proc/keys /proc/kcore; ls /proc/acpi /sys/firmware; echo 1 > /proc/sys/kernel/shmmni; \
         touch /dev/shm/x && echo writable",
    );
    bundle.set("/root/readonly", json!(true));
    let (_, stdout, stderr) = bundle.run();
    assert!(stdout.ends_with("writable\n"), "{stdout}");
    assert!(!stdout.contains("perm"), "{stdout}");
    assert_eq!(stderr.matches("Read-only file system").count(), 2, "{stderr}");
    assert!(!bundle.root().join("x").exists());
}

#[test]
fn a_read_only_dev_still_gets_its_devices() {
    let mut bundle = Bundle::new("ls /dev/null; touch /dev/x");
    bundle.push("/mounts/1/options", json!("ro"));
    let (_, stdout, stderr) = bundle.run();
    assert_eq!(stdout, "/dev/null\n", "{stderr}");
    assert!(stderr.contains("Read-only"), "{stderr}");
}

#[test]
fn control_groups_are_mounted_as_the_hosts_are() {
    let mut bundle = Bundle::new("ls /sys/fs/cgroup; cat /proc/self/cgroup; mount | grep cgroup");
    bundle.push(
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
        "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    );
    let output = bundle.output();
    assert!(output.contains(":/\n"), "{output}");
    assert!(
        !output.contains(&format!("/{}\n", bundle.id)),
        "the namespace does not hide it: {output}"
    );
    if std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        assert!(output.contains("\nmemory\n"), "{output}");
        assert!(output.contains("/sys/fs/cgroup/memory type cgroup (ro,"), "{output}");
    }
}

#[test]
fn propagation_of_the_root() {
    if !is_ours() {
        return; // in runc 1.1 a root below a private mount stays private
    }
    for (propagation, has) in [("shared", "shared:"), ("private", ""), ("rslave", "master:")] {
        let mut bundle = Bundle::new("grep ' / / \\| / ' /proc/self/mountinfo");
        bundle.set("/linux/rootfsPropagation", json!(propagation));
        let output = bundle.output();
        let line = output.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        if has.is_empty() {
            assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
        } else if has == "shared:" {
            assert!(line.contains(has), "{line}");
        }
    }
}

#[test]
fn a_bound_dev_gets_nothing_made_in_it() {
    if !is_ours() {
        return; // runc 1.1 needs a /dev/null
    }
    let mut bundle = Bundle::new("ls /dev");
    let dev = bundle.beside().join("dev");
    std::fs::create_dir(&dev).unwrap();
    std::fs::write(dev.join("only"), "").unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    bundle.push(
        "/mounts",
        json!({"destination": "/dev", "type": "bind", "source": dev,
        "options": ["bind"]}),
    );
    assert_eq!(bundle.output(), "only\n");
}

#[test]
fn no_pivot_also_hides_the_host() {
    let bundle = Bundle::new("ls /; ls /proc/1/root/");
    let output = bundle.must(&["run", "--no-pivot", &bundle.id]);
    assert!(output.starts_with("bin\ndev\n"), "{output}");
}
