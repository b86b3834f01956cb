//! Containers in user namespaces (`LIGHTER_USERNS_REMAP`): whose ids they have, inside, on the host
//! and on disk, and what they are not given.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::host::{FIRST_ID as FIRST, TestHost, container, script, stderr, stdout, task};
use tests::image::{Entry, Image, Layer, Tar};

/// A host whose containers have ids from [`FIRST`] on, with the image loaded.
fn mapped() -> TestHost {
    let host = TestHost::empty();
    host.remap_users();
    host.load_image();
    host
}

/// A host with these ranges.
fn configured(ranges: &str, setting: &str) -> TestHost {
    let host = TestHost::empty();
    host.subordinate_ids(ranges);
    host.set_remap(setting);
    host
}

/// Loads an image, by its name.
fn load(host: &TestHost, image: &Image) {
    let archive = host.path("made.tar");
    tests::image::write(&archive, &image.docker_archive(&["localhost/made:1"])).expect("a file");
    host.ok(&["image", "load", "-i", archive.to_str().expect("UTF-8")]);
}

/// busybox, and what else a test wants.
fn image(further: Vec<Layer>) -> Image {
    let busybox = fs::read("/bin/busybox").expect("busybox-static");
    let tar = Tar::new()
        .directory("bin")
        .entry(&Entry { name: "bin/busybox", mode: 0o755, data: &busybox, ..Entry::default() })
        .symlink("bin/sh", "busybox")
        .entry(&Entry { name: "bin/suid", mode: 0o4755, data: &waits(), ..Entry::default() });
    let tar = [
        "id", "stat", "cat", "ls", "sleep", "touch", "mount", "mknod", "chroot", "rm", "cp",
        "chmod",
    ]
    .iter()
    .fold(tar, |tar, name| tar.symlink(&format!("bin/{name}"), "busybox"));
    let tar =
        tar.directory("etc").file("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n");
    let mut layers = vec![Layer::plain(&tar)];
    layers.extend(further);
    Image::new(layers)
}

fn made(name: &str, text: &str) -> Value {
    let mut container = container(name, text);
    container["image"] = json!("localhost/made:1");
    container
}

/// What containers said, without their names.
fn said(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once(" | ").map_or(line, |(_, said)| said));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A program that waits for ever, for this processor: busybox gives up a set-user-id bit by itself.
fn waits() -> Vec<u8> {
    let (machine, code): (u16, Vec<u8>) = if cfg!(target_arch = "aarch64") {
        // ppoll(NULL, 0, NULL, NULL), again and again.
        let words: [u32; 7] = [
            0xd280_0928,
            0xd280_0000,
            0xd280_0001,
            0xd280_0002,
            0xd280_0003,
            0xd400_0001,
            0x17ff_fffa,
        ];
        (183, words.iter().flat_map(|word| word.to_le_bytes()).collect())
    } else {
        // pause(), again and again.
        (62, vec![0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7])
    };
    const BASE: u64 = 0x40_0000;
    const HEAD: u16 = 64 + 56;
    let size = u64::from(HEAD) + code.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| program.extend_from_slice(bytes);
    for half in [2, machine, 1, 0] {
        put(&half.to_le_bytes());
    }
    // Where it begins; the one program header, no section header.
    for word in [BASE + u64::from(HEAD), 64, 0] {
        put(&word.to_le_bytes());
    }
    for half in [0_u16, 0, 64, 56, 1, 0, 0, 0] {
        put(&half.to_le_bytes());
    }
    // All of the file is loaded, to be read and executed.
    for half in [1_u32, 5] {
        put(&half.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        put(&word.to_le_bytes());
    }
    put(&code);
    program
}

/// Every file below a directory: its path, owner, mode and time of change.
fn listing(directory: &Path) -> Vec<(PathBuf, u32, u32, i64, i64)> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).expect("a directory").flatten() {
            let path = entry.path();
            let at = path.symlink_metadata().expect("a file");
            if at.is_dir() {
                todo.push(path.clone());
            }
            found.push((path, at.uid(), at.mode(), at.ctime(), at.ctime_nsec()));
        }
    }
    found.sort();
    found
}

fn state(host: &TestHost) -> PathBuf {
    host.root().join("var/lib/lighter")
}

#[test]
fn root_of_a_container_is_nobody_on_the_host() {
    let host = mapped();
    load(&host, &image(Vec::new()));
    let layers = state(&host).join("images/l");
    let before = listing(&layers);
    let inner = "cat /proc/self/uid_map /proc/self/gid_map; id -u; \
                 stat -c '%u %n' / /bin/busybox /etc/hosts /etc/hostname /etc/resolv.conf /dev /dev/shm /sys/kernel; \
                 echo x > /written && stat -c '%u %n' /written; echo y > /dev/stderr; \
                 echo hosts >> /etc/hosts && echo added; cp /bin/busybox /mine && chmod 4755 /mine; sleep 1000";
    let id = host.detach(&task("bridge", vec![made("main", inner)]));
    host.eventually("the container is done", || {
        host.task_directory(&id)
            .join("main/overlay/upper/mine")
            .metadata()
            .is_ok_and(|at| at.mode() & 0o7777 == 0o4755)
    });
    let upper = host.task_directory(&id).join("main/overlay/upper");
    // Of what it wrote nothing is the host's root's, set-user-id programs least of all.
    for name in ["", "written", "mine"] {
        let at = upper.join(name).metadata().expect("a file");
        assert_eq!((at.uid(), at.gid()), (FIRST, FIRST), "{name:?}");
    }
    assert!(listing(&layers) == before, "the layers are as they were");
    // Its processes are nobody's on the host.
    let pid = host.inspect(&id)["containers"][0]["pid"].as_i64().expect("a pid");
    assert_eq!(host.sh(&format!("stat -c %u /proc/{pid}")), FIRST.to_string());
    let output = host.run(&["logs", &id]);
    assert_eq!(said(&stderr(&output)), "y\n");
    let log = said(&stdout(&output));
    let map = format!("0    {FIRST}      65536");
    assert_eq!(log.matches(&map).count(), 2, "{log}");
    for line in [
        "\n0\n",
        "0 /\n",
        "0 /bin/busybox",
        "0 /etc/hosts",
        "0 /etc/hostname",
        "0 /etc/resolv.conf",
        "0 /dev\n",
        "0 /dev/shm",
        "65534 /sys/kernel",
        "0 /written",
        "added",
    ] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    host.ok(&["stop", &id]);
    host.ok(&["rm", &id]);
    assert!(!host.task_directory(&id).exists());
}

#[test]
fn set_user_id_programs_give_the_containers_root_and_no_other() {
    let host = mapped();
    load(&host, &image(Vec::new()));
    let mut main = made("main", "exec /bin/suid");
    main["user"] = json!("web");
    let id = host.detach(&task("none", vec![main]));
    let pid = || host.inspect(&id)["containers"][0]["pid"].as_i64();
    host.eventually("it sleeps", || {
        pid().is_some_and(|pid| host.sh(&format!("cat /proc/{pid}/cmdline")).contains("suid"))
    });
    let pid = pid().expect("a pid");
    // Real, effective and saved: the user of the image, the container's root, never the host's.
    let status = host.sh(&format!("grep ^Uid: /proc/{pid}/status"));
    let web = FIRST + 33;
    assert_eq!(status, format!("Uid:\t{web}\t{FIRST}\t{FIRST}\t{FIRST}"));
    host.ok(&["stop", &id]);
    // In the layer it is as in the image, and so set-user-id of the host's root: no user of the
    // host may come there.
    let layers =
        host.sh(&format!("find {} -name suid -user 0 -perm -4000", state(&host).display()));
    assert_eq!(layers.lines().count(), 1, "{layers}");
    let tried = host.sh(&format!(
        "chmod 755 {} {}; setpriv --reuid=4242 --regid=4242 --clear-groups sh -c {layers}",
        host.root().parent().expect("a parent").display(),
        host.root().display()
    ));
    assert!(tried.contains("Permission denied"), "{tried}");
    let mode = state(&host).metadata().expect("it").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_hostile_container_gets_nothing_more() {
    let host = mapped();
    let attack = "mknod /disk b 254 0 2>&1; mknod /kmsg c 1 11 2>&1; mount -t tmpfs none /mnt 2>&1; \
                  mount -o remount,rw /sys 2>&1; mount -o remount,rw /proc/sys 2>&1; \
                  echo owned > /proc/sys/kernel/core_pattern; chroot /proc/1/root true; \
                  cat /proc/kcore 2>&1 | head -c 1 | wc -c; echo b > /proc/sysrq-trigger; \
                  ls /var/lib/lighter 2>&1; date -s 2000-01-01 2>&1; \
                  mkdir -p /c && mount -t cgroup2 none /c 2>&1; unshare -U true 2>&1; echo end";
    let mut main = container("main", attack);
    main["linuxParameters"] = json!({"capabilities": {"add": ["SYS_ADMIN", "SYS_TIME", "MKNOD"]}});
    let output = host.run_task(&task("bridge", vec![main]));
    let text = stdout(&output);
    assert!(text.contains("end"), "{text}{}", stderr(&output));
    let mut denied = container(
        "main",
        "mknod /disk b 254 0; echo $?; mount -o remount,rw /sys; echo $?; \
                  (echo owned > /proc/sys/kernel/core_pattern); echo $?; \
                  date -s 2000-01-01 2>&1 | grep -c permitted | grep -v 1; \
                  mkdir /d; mount -t ext4 /dev/vda /d; echo $?; ls /disk",
    );
    denied["linuxParameters"] = json!({"capabilities": {"add": ["SYS_ADMIN", "SYS_TIME"]}});
    let output = host.run_task(&task("bridge", vec![denied]));
    let text = said(&stdout(&output));
    assert!(!text.lines().any(|line| line == "0" || line == "/disk"), "{text}{}", stderr(&output));
    assert_ne!(host.sh("cat /proc/sys/kernel/core_pattern"), "owned");
}

#[test]
fn a_volume_of_the_task_has_the_same_owners_for_all() {
    let host = mapped();
    let mut fill = container(
        "fill",
        "echo content > /data/file; touch /data/web; chown 33:33 /data/web; stat -c %u /data",
    );
    fill["essential"] = json!(false);
    fill["mountPoints"] = json!([{"sourceVolume": "shared", "containerPath": "/data"}, {"sourceVolume": "bound", "containerPath": "/bound"}]);
    let mut read = container(
        "read",
        "cat /in/file; stat -c '%u:%g %n' /in /in/file /in/web /bound; echo mine > /in/mine; \
        (echo x > /bound/x) 2>&1; sleep 1000",
    );
    read["user"] = json!("0:0");
    read["dependsOn"] = json!([{"containerName": "fill", "condition": "SUCCESS"}]);
    read["mountPoints"] = json!([{"sourceVolume": "shared", "containerPath": "/in"}, {"sourceVolume": "bound", "containerPath": "/bound"}]);
    let source = host.path("source");
    fs::create_dir(&source).expect("a directory");
    let mut definition = task("none", vec![fill, read]);
    definition["volumes"] = json!([{"name": "shared", "host": {}}, {"name": "bound", "host": {"sourcePath": source.to_str()}}]);
    let id = host.detach(&definition);
    let volume = host.task_directory(&id).join("volumes/shared");
    let log = || said(&host.ok(&["logs", &id]));
    host.eventually("all is read", || log().contains("can't create /bound/x"));
    let log = log();
    for line in [
        "content",
        "0:0 /in\n",
        "0:0 /in/file",
        "33:33 /in/web",
        "65534:65534 /bound",
        "Permission denied",
    ] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    // On disk as without the setting.
    for (name, owner) in [("", 0), ("file", 0), ("mine", 0), ("web", 33)] {
        assert_eq!(volume.join(name).metadata().expect("a file").uid(), owner, "{name:?}");
    }
    host.ok(&["stop", &id]);
}

#[test]
fn a_task_with_a_network_of_its_own_rules_it() {
    let host = mapped();
    let mut main = container(
        "main",
        "ip addr show eth0 | grep -c 'inet '; ip link set lo down && ip link set lo up && echo ruled; \
        cd /proc/sys/net/ipv4; echo has $(cat ip_unprivileged_port_start tcp_syncookies); ls /sys/class/net; \
        wget -qO- http://169.254.170.2/v2/metadata | head -c 1; echo; sleep 1000",
    );
    main["linuxParameters"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
    main["systemControls"] = json!([{"namespace": "net.ipv4.tcp_syncookies", "value": "2"}]);
    let second =
        container("second", "readlink /proc/self/ns/net; readlink /proc/self/ns/user; sleep 1000");
    let id = host.detach(&task("awsvpc", vec![main, second]));
    let log = || said(&host.ok(&["logs", &id]));
    host.eventually("both have said what they see", || {
        log().contains("\n{") && log().contains("user:[")
    });
    let log = log();
    for line in ["ruled\n", "has 0 2\n", "eth0\n"] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    // One namespace for both containers, and not the host's.
    let pids: Vec<i64> = (0..2)
        .map(|n| host.inspect(&id)["containers"][n]["pid"].as_i64().expect("a pid"))
        .collect();
    let of = |pid: i64, kind: &str| host.sh(&format!("readlink /proc/{pid}/ns/{kind}"));
    for kind in ["user", "net"] {
        assert_eq!(of(pids[0], kind), of(pids[1], kind));
        assert_ne!(of(pids[0], kind), host.sh(&format!("readlink /proc/$$/ns/{kind}")));
    }
    host.ok(&["stop", &id]);
}

#[test]
fn exec_health_and_terminals_are_the_containers_users() {
    let host = mapped();
    let mut main = container("main", "tty; stat -c '%u %n' /dev/console $(tty); sleep 1000");
    main["pseudoTerminal"] = json!(true);
    let id = host.detach(&task("bridge", vec![main]));
    let log = || said(&host.ok(&["logs", &id]));
    host.eventually("the terminal is seen", || log().contains("0 /dev/console"));
    let executed = host.ok(&["exec", &id, "sh", "-c", "id -u; cat /proc/self/uid_map; echo out > /dev/stdout; (readlink /proc/self/ns/user; readlink /proc/1/ns/user) | uniq | wc -l"]);
    let words: Vec<&str> = executed.split_whitespace().collect();
    assert_eq!(words, ["0", "0", &FIRST.to_string(), "65536", "out", "1"], "{executed}");
    host.ok(&["stop", &id]);
}

#[test]
fn as_many_layers_as_overlayfs_stacks() {
    let host = mapped();
    let layers = (0..140)
        .map(|n| {
            Layer::plain(
                &Tar::new().file(&format!("layer-{n}"), b"").file("last", n.to_string().as_bytes()),
            )
        })
        .collect();
    load(&host, &image(layers));
    let output = host.run_task(&task("none", vec![made("main", "ls -d /layer-* | grep -c . ; cat /last; stat -c ' %u' /layer-7; grep -c layers /proc/self/mountinfo")]));
    let text = stdout(&output);
    assert!(text.contains("140") && text.contains("139 0"), "{text}{}", stderr(&output));
    // Nothing of the layers' mounts stays anywhere.
    assert_eq!(host.sh("grep -c overlay/layers /proc/*/mountinfo | grep -v ':0$' | wc -l"), "0");
}

#[test]
fn an_agent_that_comes_later_finds_the_task_as_it_was() {
    let host = mapped();
    let main = container("main", "sleep 1000");
    let mut late = container("late", "cat /proc/self/uid_map; stat -c 'root %u' /; sleep 1000");
    late["dependsOn"] = json!([{"containerName": "main", "condition": "START"}]);
    let id = host.detach(&task("bridge", vec![main, late]));
    host.eventually("it runs", || host.inspect(&id)["lastStatus"] == "RUNNING");
    let pid = host.agent_pid().expect("an agent");
    host.kill(pid, "KILL");
    host.eventually("the agent is gone", || !host.is_alive(pid));
    // With another setting, which is for tasks to come.
    host.set_remap("");
    host.start_agent();
    assert_eq!(host.inspect(&id)["lastStatus"], "RUNNING");
    let map = host.ok(&["exec", &id, "--container", "main", "cat", "/proc/self/uid_map"]);
    assert!(map.contains(&FIRST.to_string()), "{map}");
    let other = host.run_task(&script("none", "cat /proc/self/uid_map"));
    assert!(!stdout(&other).contains(&FIRST.to_string()), "{}", stdout(&other));
    // A monitor that is killed whole is replaced by one in the same namespaces.
    let record = host.monitor(&id);
    for process in ["guardian", "worker"] {
        host.kill(record[process]["pid"].as_i64().expect("a pid"), "KILL");
    }
    host.eventually("another monitor serves", || {
        let now = host.monitor(&id);
        now["worker"]["pid"] != record["worker"]["pid"]
            && host.run(&["exec", &id, "--container", "main", "true"]).status.success()
    });
    let map = host.ok(&["exec", &id, "--container", "late", "cat", "/proc/self/uid_map"]);
    assert!(map.contains(&FIRST.to_string()), "{map}");
    host.ok(&["stop", &id]);
}

#[test]
fn what_needs_the_hosts_ids_is_refused_in_dockers_words() {
    let host = mapped();
    let mut privileged = container("main", "true");
    privileged["privileged"] = json!(true);
    let mut of_host = task("bridge", vec![container("main", "true")]);
    of_host["pidMode"] = json!("host");
    let mut beyond = container("main", "true");
    beyond["user"] = json!("70000");
    for (definition, words) in [
        (task("bridge", vec![privileged]), "privileged mode is incompatible with user namespaces"),
        (
            script("host", "true"),
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (of_host, "cannot share the host PID namespace when user namespaces are enabled"),
        (task("bridge", vec![beyond]), "has no user 70000"),
    ] {
        let output = host.run_task(&definition);
        let text = format!("{}{}", stdout(&output), stderr(&output));
        assert!(!output.status.success());
        assert!(text.contains("CannotCreateContainerError") && text.contains(words), "{text}");
    }
}

#[test]
fn without_ranges_the_agent_says_how_to_make_them() {
    let host = configured("somebody:100000:65536", "");
    host.load_image();
    host.stop_agent();
    host.set_remap("default");
    let output = host.run_task(&script("none", "true"));
    let text = stderr(&output);
    assert!(!output.status.success());
    assert!(
        text.contains("LIGHTER_USERNS_REMAP")
            && text.contains("/etc/subuid has no range for lighter"),
        "{text}"
    );
    assert!(text.contains("usermod --add-subuids"), "{text}");
}

#[test]
fn a_file_system_without_mapped_mounts_is_named() {
    let host = configured(&format!("nobody:{FIRST}:65536"), "nobody");
    // An overlay takes no maps itself, on any kernel.
    let mounted = host.sh(&format!(
        "cd {} && mkdir -p low up work root/var/lib/lighter && \
         mount -t overlay overlay -o lowerdir=low,upperdir=up,workdir=work root/var/lib/lighter",
        host.path("").display()
    ));
    assert_eq!(mounted, "");
    host.load_image();
    let output = host.run_task(&script("none", "true"));
    let text = format!("{}{}", stdout(&output), stderr(&output));
    assert!(text.contains("map the ids of overlay layer") && text.contains("ext4"), "{text}");
    assert!(text.contains("LIGHTER_USERNS_REMAP"), "{text}");
    host.stop_agent();
    host.sh(&format!("umount -l {}", state(&host).display()));
}
