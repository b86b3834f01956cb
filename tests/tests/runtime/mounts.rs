//! What mounts can be told: ids, attributes of whole trees, what a tmpfs takes from below it, labels.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use serde_json::{Value, json};
use tests::bundle::{Bundle, is_ours};

fn mount(destination: &str, kind: &str, source: &Path, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": source, "options": options})
}

/// A directory with a file of user 5 and group 6, and one of root.
fn owned(bundle: &Bundle) -> std::path::PathBuf {
    let data = bundle.beside().join("data");
    std::fs::create_dir_all(data.join("sub")).unwrap();
    std::fs::write(data.join("five"), "").unwrap();
    std::fs::write(data.join("root"), "").unwrap();
    chown(data.join("five"), Some(5), Some(6)).unwrap();
    data
}

/// Gives a container a user namespace from 100000 on, and the root that goes with it.
fn in_user_namespace(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
    for path in [bundle.beside().to_owned(), bundle.path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_mount_has_ids_of_its_own() {
    if !is_ours() {
        return; // since runc 1.2
    }
    let mut bundle = Bundle::new(
        "stat -c %u:%g /data/five /data/root /same/five; touch /data/made; chmod 777 /data/root",
    );
    let data = owned(&bundle);
    let mut bind = mount("/data", "bind", &data, &["rbind"]);
    bind["uidMappings"] = json!([
        {"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 5, "hostID": 1005, "size": 1}
    ]);
    bind["gidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 7}]);
    bundle.push("/mounts", bind);
    bundle.push("/mounts", mount("/same", "bind", &data, &["rbind"]));
    assert_eq!(bundle.output(), "1005:6\n0:0\n5:6\n");
    assert_eq!(std::fs::metadata(data.join("made")).unwrap().uid(), 0);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn idmap_alone_takes_the_containers_ids() {
    if !is_ours() {
        return; // since runc 1.2
    }
    for option in ["idmap", "ridmap"] {
        let mut bundle = Bundle::new(
            "stat -c %u:%g /data/five /plain/five; touch /data/made; touch /plain/made",
        );
        in_user_namespace(&mut bundle);
        let data = owned(&bundle);
        bundle.push("/mounts", mount("/data", "bind", &data, &["rbind", option]));
        bundle.push("/mounts", mount("/plain", "bind", &data, &["rbind"]));
        let (_, stdout, stderr) = bundle.run();
        // Without a map the files are nobody's that the container knows.
        assert_eq!(stdout, "5:6\n65534:65534\n", "{stderr}");
        assert_eq!(stderr.matches("/plain/made: Permission denied").count(), 1, "{stderr}");
        assert_eq!(std::fs::metadata(data.join("made")).unwrap().uid(), 0);
    }
}

#[test]
fn only_ridmap_maps_what_lies_below() {
    if !is_ours() {
        return; // since runc 1.2
    }
    for (option, expected) in [("idmap", "1005\n5\n"), ("ridmap", "1005\n1005\n")] {
        let mut bundle = Bundle::new("stat -c %u /data/five /data/sub/five");
        let data = owned(&bundle);
        let sub = data.join("sub");
        let _below = Mounted::bind(&data, &sub);
        let mut bind = mount("/data", "bind", &data, &["rbind", option]);
        let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        bind["uidMappings"] = map.clone();
        bind["gidMappings"] = map;
        bundle.push("/mounts", bind);
        assert_eq!(bundle.output(), expected, "{option}");
    }
}

#[test]
fn what_cannot_be_mapped_is_refused() {
    if !is_ours() {
        return; // since runc 1.2
    }
    let mut bundle = Bundle::new("true");
    let mut bind = mount("/data", "bind", Path::new("/proc"), &["rbind"]);
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    bind["uidMappings"] = map.clone();
    bind["gidMappings"] = map;
    bundle.push("/mounts", bind);
    let message = bundle.refusal();
    assert!(message.contains("map the ids of /proc; does its file system"), "{message}");
}

/// A bind mount on the host that ends with the value.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn bind(source: &Path, target: &Path) -> Self {
        let status =
            std::process::Command::new("mount").arg("--bind").args([source, target]).status();
        assert!(status.unwrap().success());
        Self(target.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The test has said what it had to.
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn recursive_attributes_hold_for_the_whole_tree() {
    let mut bundle = Bundle::new("grep ' /data' /proc/self/mountinfo");
    let data = owned(&bundle);
    let _below = Mounted::bind(&data, &data.join("sub"));
    bundle.push(
        "/mounts",
        mount(
            "/data",
            "bind",
            &data,
            &["rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"],
        ),
    );
    let output = bundle.output();
    assert_eq!(output.lines().count(), 2, "{output}");
    for line in output.lines() {
        let options = line.split(' ').nth(5).unwrap();
        assert_eq!(options, "ro,nosuid,nodev,noexec,noatime", "{line}");
    }
    if !is_ours() {
        return; // in runc what is set stays set
    }
    // Later ones take earlier ones away.
    let last = bundle.config["mounts"].as_array().unwrap().len() - 1;
    bundle.set(
        &format!("/mounts/{last}/options"),
        json!(["rbind", "rro", "rrw", "rnosuid", "rsuid", "rnoexec", "rexec", "rrelatime"]),
    );
    let output = bundle.output();
    for line in output.lines() {
        assert_eq!(line.split(' ').nth(5).unwrap(), "rw,relatime", "{line}");
    }
}

#[test]
fn a_tmpfs_has_the_mode_of_what_it_covers() {
    let mut bundle = Bundle::new("stat -c %a /var/there /var/new /var/given");
    std::fs::create_dir_all(bundle.root().join("var/there")).unwrap();
    std::fs::create_dir_all(bundle.root().join("var/given")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o2750);
    std::fs::set_permissions(bundle.root().join("var/there"), mode).unwrap();
    let tmpfs = Path::new("tmpfs");
    bundle
        .push("/mounts", mount("/var/there", "tmpfs", tmpfs, &["nosuid", "size=1m"]))
        .push("/mounts", mount("/var/new", "tmpfs", tmpfs, &[]))
        .push("/mounts", mount("/var/given", "tmpfs", tmpfs, &["mode=711"]));
    let output = bundle.output();
    // The last is given in both; runc sets the directory's again.
    let expected = if is_ours() { "2750\n1777\n711\n" } else { "2750\n1777\n755\n" };
    assert_eq!(output, expected);
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    let mut bundle = Bundle::new(
        "cd /var/copy; stat -c '%n %a %u:%g %F' . tool sub sub/file link; cat sub/file; \
         /bin/busybox readlink link; touch new; touch /var/fixed/new; ls /var/fixed",
    );
    for name in ["copy", "fixed"] {
        let directory = bundle.root().join("var").join(name);
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        std::fs::write(directory.join("sub/file"), "content\n").unwrap();
        chown(directory.join("sub/file"), Some(5), Some(6)).unwrap();
        std::fs::write(directory.join("tool"), "").unwrap();
        let mode = std::fs::Permissions::from_mode(0o4711);
        std::fs::set_permissions(directory.join("tool"), mode).unwrap();
        symlink("/etc/passwd", directory.join("link")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o751);
        std::fs::set_permissions(&directory, mode).unwrap();
    }
    let tmpfs = Path::new("tmpfs");
    bundle
        .push("/mounts", mount("/var/copy", "tmpfs", tmpfs, &["tmpcopyup"]))
        .push("/mounts", mount("/var/fixed", "tmpfs", tmpfs, &["tmpcopyup", "ro"]));
    let (_, stdout, stderr) = bundle.run();
    assert_eq!(
        stdout,
        ". 751 0:0 directory\ntool 4711 0:0 regular empty file\nsub 755 0:0 directory\n\
         sub/file 644 5:6 regular file\nlink 777 0:0 symbolic link\ncontent\n/etc/passwd\n\
         link\nsub\ntool\n",
        "{stderr}"
    );
    assert!(stderr.contains("/var/fixed/new: Read-only file system"), "{stderr}");
    assert!(!bundle.root().join("var/copy/new").exists());
}

#[test]
fn a_tmpfs_is_filled_in_a_user_namespace() {
    let mut bundle = Bundle::new("stat -c '%a %u' /var /var/file");
    in_user_namespace(&mut bundle);
    let directory = bundle.root().join("var");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "").unwrap();
    for path in [&directory, &directory.join("file")] {
        chown(path, Some(100_005), Some(100_005)).unwrap();
    }
    bundle.push("/mounts", mount("/var", "tmpfs", Path::new("tmpfs"), &["tmpcopyup"]));
    if !is_ours() {
        return; // runc makes its temporary directory on the host, where this user may not
    }
    assert_eq!(bundle.output(), "755 0\n644 5\n");
}

#[test]
fn bind_mounts_take_no_options_of_file_systems() {
    let mut bundle = Bundle::new("true");
    bundle.push("/mounts", mount("/data", "bind", Path::new("/tmp"), &["bind", "size=1m"]));
    if is_ours() {
        let message = bundle.refusal();
        assert!(message.contains("is no option of a bind mount"), "{message}");
    }
}

#[test]
fn a_file_system_is_remounted() {
    let mut bundle = Bundle::new("touch /dev/shm/x; grep ' /dev/shm ' /proc/self/mountinfo");
    let options = ["remount", "ro", "nosuid", "noexec", "nodev"];
    bundle.push("/mounts", mount("/dev/shm", "tmpfs", Path::new("shm"), &options));
    let (_, stdout, stderr) = bundle.run();
    assert!(stderr.contains("Read-only file system"), "{stdout}{stderr}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
}

#[test]
fn a_mount_is_remounted_without_its_file_system() {
    let mut bundle = Bundle::new("touch /dev/shm/x; grep ' /dev/shm ' /proc/self/mountinfo");
    let options = ["bind", "remount", "ro", "nosuid", "noexec", "nodev"];
    bundle.push("/mounts", mount("/dev/shm", "bind", Path::new("/tmp"), &options));
    let (_, stdout, stderr) = bundle.run();
    assert!(stderr.contains("Read-only file system"), "{stdout}{stderr}");
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let (of_mount, of_file_system) = stdout.trim().split_once(" - ").unwrap();
    assert!(of_mount.contains(" ro,nosuid,nodev,noexec"), "{stdout}");
    assert!(of_file_system.contains(" rw,"), "{stdout}");
    // Where nothing is mounted there is nothing to remount.
    let mut bundle = Bundle::new("true");
    bundle.push("/mounts", mount("/tmp", "bind", Path::new("/tmp"), &options));
    bundle.refusal();
}

#[test]
fn labels_without_selinux_are_refused() {
    if !is_ours() || Path::new("/sys/fs/selinux/enforce").exists() {
        return; // runc leaves them out silently
    }
    let mut bundle = Bundle::new("true");
    bundle.set("/linux/mountLabel", json!("system_u:object_r:container_file_t:s0"));
    let message = bundle.refusal();
    assert!(message.contains("linux.mountLabel: this kernel runs without SELinux"), "{message}");
}

#[test]
fn control_groups_are_mounted_under_both_names() {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        return; // one tree, without a directory for each controller
    }
    for kind in ["cgroup", "cgroup2"] {
        if kind == "cgroup2" && !is_ours() {
            continue; // runc mounts the host's whole hierarchy for it
        }
        let mut bundle =
            Bundle::new("ls /sys/fs/cgroup | /bin/busybox wc -l; mkdir /sys/fs/cgroup/memory/x");
        bundle
            .push("/mounts", mount("/sys/fs/cgroup", kind, Path::new("cgroup"), &["ro", "nosuid"]));
        let (_, stdout, stderr) = bundle.run();
        assert!(stdout.trim().parse::<u32>().is_ok_and(|count| count > 5), "{stdout}");
        assert!(stderr.contains("Read-only file system"), "{stderr}");
        assert_eq!(bundle.left(), [""; 0]);
    }
}
