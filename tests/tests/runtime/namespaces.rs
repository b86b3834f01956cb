//! Namespaces: new, joined, user mappings, sysctls, names.

use std::os::unix::fs::MetadataExt as _;

use serde_json::json;
use tests::bundle::Bundle;

fn own(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn each_namespace_is_new_only_where_asked() {
    let script = "for n in pid net ipc uts mnt cgroup user; do readlink /proc/self/ns/$n; done";
    let script = script.replace("readlink", "/bin/busybox readlink");
    let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"];
    let bundle = Bundle::new(&script);
    let output = bundle.output();
    for (line, kind) in output.lines().zip(kinds) {
        assert_eq!(line != own(kind), kind != "user", "{kind}");
    }
    let mut bundle = Bundle::new(&script);
    bundle.set("/linux/namespaces", json!([{"type": "mount"}]));
    bundle.set("/hostname", json!(""));
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/sys");
    let output = bundle.output();
    for (line, kind) in output.lines().zip(kinds) {
        assert_eq!(line == own(kind), kind != "mnt", "{kind}");
    }
}

#[test]
fn loopback_is_up_and_names_are_set() {
    let mut bundle =
        Bundle::new("hostname; cat /proc/sys/kernel/domainname; ip link show lo; echo $$");
    if tests::bundle::is_ours() {
        bundle.set("/domainname", json!("example"));
    }
    let output = bundle.output();
    assert!(output.starts_with("box\n"), "{output}");
    if tests::bundle::is_ours() {
        assert!(output.contains("\nexample\n"), "{output}");
    }
    assert!(output.contains("LOOPBACK,UP"), "{output}");
    assert!(output.ends_with("\n1\n"), "{output}");
}

#[test]
fn namespaces_of_another_container_are_joined() {
    let first = Bundle::new("exec sleep 100");
    first.must(&["run", "-d", &first.id]);
    let pid = first.state()["pid"].to_string();
    let mut second = Bundle::new(
        "for n in net ipc uts pid; do /bin/busybox readlink /proc/self/ns/$n; done; cat /proc/1/cmdline",
    );
    for (index, (kind, file)) in
        [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")].iter().enumerate()
    {
        let namespace = json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
        second.set(&format!("/linux/namespaces/{index}"), namespace);
    }
    second.set("/hostname", json!(""));
    let output = second.output();
    let of = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for (line, kind) in output.lines().zip(["net", "ipc", "uts", "pid"]) {
        assert_eq!(line, of(kind).to_str().unwrap(), "{kind}");
    }
    assert!(output.contains("sleep"), "{output}");
    first.must(&["delete", "-f", &first.id]);
    assert_eq!(second.left(), [""; 0]);
}

#[test]
fn ids_are_mapped_in_a_user_namespace() {
    let mut bundle = Bundle::new(
        "id -u; cat /proc/self/uid_map; touch /made /dev/shm/x; echo x > /dev/null; ls -ln /dev/null; \
         mount | grep ' /proc '",
    );
    std::os::unix::fs::chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    // The bundle's directories belong to root alone.
    for path in [bundle.beside().to_owned(), bundle.path()] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = bundle.output();
    assert!(output.starts_with("0\n"), "{output}");
    assert!(output.contains("100000"), "{output}");
    assert_eq!(std::fs::metadata(bundle.root().join("made")).unwrap().uid(), 100_000);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_user_namespace_is_joined() {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let make = |script: &str| {
        let bundle = Bundle::new(script);
        for path in [bundle.beside().to_owned(), bundle.path()] {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
        bundle
    };
    let mut first = make("exec sleep 100");
    first.push("/linux/namespaces", json!({"type": "user"}));
    first.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    first.must(&["run", "-d", &first.id]);
    let pid = first.state()["pid"].to_string();
    let mut second = make("id -u; /bin/busybox readlink /proc/self/ns/user; echo $$");
    second
        .push("/linux/namespaces", json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    if !tests::bundle::is_ours() {
        return;
    }
    let output = second.output();
    let user = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(output, format!("0\n{}\n1\n", user.display()));
    first.must(&["delete", "-f", &first.id]);
}

#[test]
fn sysctls_of_own_namespaces_are_set() {
    let mut bundle =
        Bundle::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
    let sysctl = json!({"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shmmni": "77"});
    bundle.set("/linux/sysctl", sysctl);
    assert_eq!(bundle.output(), "7\n77\n");
}

#[test]
fn a_time_namespace_has_its_own_clocks() {
    if !tests::bundle::is_ours() {
        return; // since runc 1.2
    }
    let mut bundle = Bundle::new(
        "cat /proc/self/timens_offsets; cat /proc/uptime; exec /bin/busybox readlink /proc/self/ns/time",
    );
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    bundle.set(
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": 7_000_000, "nanosecs": 5}, "boottime": {"secs": 9_000_000}}),
    );
    let output = bundle.output();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words[..6], ["monotonic", "7000000", "5", "boottime", "9000000", "0"], "{output}");
    let uptime: f64 = words[6].parse().unwrap();
    assert!((9_000_000.0..18_000_000.0).contains(&uptime), "{output}");
    assert_ne!(output.lines().last().unwrap(), own("time"));
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn a_time_namespace_goes_with_a_user_namespace_and_without_offsets() {
    if !tests::bundle::is_ours() {
        return; // since runc 1.2
    }
    let mut bundle =
        Bundle::new("/bin/busybox readlink /proc/self/ns/time; cat /proc/self/timens_offsets");
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    let output = bundle.output();
    assert_ne!(output.lines().next().unwrap(), own("time"));
    assert!(!output.contains(" 7 "), "{output}");
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.set("/linux/timeOffsets", json!({"monotonic": {"secs": -7}}));
    std::os::unix::fs::chown(bundle.root(), Some(100_000), Some(100_000)).unwrap();
    for path in [bundle.beside().to_owned(), bundle.path()] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = bundle.output();
    assert_ne!(output.lines().next().unwrap(), own("time"));
    assert!(output.contains("-7"), "{output}");
    bundle.set("/linux/timeOffsets", json!({"monotonic": {"secs": -1_000_000_000_000_i64}}));
    assert!(bundle.refusal().contains("set linux.timeOffsets"));
}

#[test]
fn a_time_namespace_is_joined_and_kept() {
    if !tests::bundle::is_ours() {
        return; // since runc 1.2
    }
    let mut first = Bundle::new("exec sleep 100");
    first.push("/linux/namespaces", json!({"type": "time"}));
    first.set("/linux/timeOffsets", json!({"boottime": {"secs": 1234}}));
    first.must(&["run", "-d", &first.id]);
    let pid = first.state()["pid"].to_string();
    let mut second =
        Bundle::new("/bin/busybox readlink /proc/self/ns/time; cat /proc/self/timens_offsets");
    second
        .push("/linux/namespaces", json!({"type": "time", "path": format!("/proc/{pid}/ns/time")}));
    let output = second.output();
    let time = std::fs::read_link(format!("/proc/{pid}/ns/time")).unwrap();
    assert_eq!(output.lines().next().unwrap(), time.to_str().unwrap());
    assert!(output.contains("1234"), "{output}");
    first.must(&["delete", "-f", &first.id]);
}

/// A process with a mount namespace of its own, until the value ends.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new(flag: &str) -> Self {
        let mut child =
            std::process::Command::new("unshare").args([flag, "sleep", "100"]).spawn().unwrap();
        let name = format!("/proc/{}/comm", child.id());
        let ready = tests::bundle::within(std::time::Duration::from_secs(10), || {
            (std::fs::read_to_string(&name).ok()? == "sleep\n").then_some(())
        });
        if ready.is_none() {
            // Nobody else will.
            let _ = child.kill();
        }
        assert!(ready.is_some(), "unshare does not work");
        Self(child)
    }

    fn namespace(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0.id())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It is ours and not reaped, so its number is its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mounts_are_made_in_a_joined_mount_namespace() {
    let elsewhere = Elsewhere::new("-m");
    let mut bundle = Bundle::new(
        "/bin/busybox readlink /proc/self/ns/mnt; ls /; grep -c ' /dev/pts ' /proc/self/mountinfo",
    );
    let path = elsewhere.namespace("mnt");
    bundle.set("/linux/namespaces/4", json!({"type": "mount", "path": path}));
    let output = bundle.output();
    let expected = std::fs::read_link(elsewhere.namespace("mnt")).unwrap();
    assert_eq!(output, format!("{}\nbin\ndev\netc\nproc\nsys\ntmp\n1\n", expected.display()),);
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn the_hosts_mount_namespace_is_not_joined() {
    if !tests::bundle::is_ours() {
        return; // runc would give the host another root
    }
    for path in ["/proc/self/ns/mnt", "/proc/1/ns/mnt"] {
        if std::fs::read_link(path).is_err() {
            continue; // the tests may be kept from looking at the first process
        }
        let mut bundle = Bundle::new("true");
        bundle.set("/linux/namespaces/4", json!({"type": "mount", "path": path}));
        let message = bundle.refusal();
        assert!(message.contains("is the host's own mount namespace"), "{message}");
    }
}

#[test]
fn a_network_device_moves_in_with_its_addresses() {
    if !tests::bundle::is_ours() {
        return; // since runc 1.4
    }
    let elsewhere = Elsewhere::new("-n");
    let inside = |words: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", elsewhere.namespace("net"))).args(words);
        command
    };
    let ip = |words: &str| {
        let words: Vec<&str> = std::iter::once("ip").chain(words.split(' ')).collect();
        assert!(inside(&words).status().unwrap().success(), "{words:?}");
    };
    ip("link add out0 type veth peer name peer0");
    ip("link set peer0 up");
    ip("link set out0 up");
    ip("addr add 10.77.0.2/24 dev out0");
    ip("addr add 10.77.0.3/32 scope link dev out0");
    ip("addr add fd77::2/64 dev out0 nodad");
    let mut bundle = Bundle::new("ip addr show; ip route");
    bundle.set("/linux/netDevices", json!({"out0": {"name": "eth7"}}));
    let run = |bundle: &Bundle| {
        let command = bundle.command(&["run", &bundle.id]);
        let words: Vec<&str> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_str().unwrap())
            .collect();
        inside(&words).current_dir(bundle.path()).output().unwrap()
    };
    let output = run(&bundle);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" eth7@") && text.contains(",UP"), "{text}");
    assert!(text.contains("inet 10.77.0.2/24"), "{text}");
    assert!(text.contains("inet6 fd77::2/64"), "{text}");
    assert!(!text.contains("10.77.0.3"), "{text}");
    assert!(text.contains("10.77.0.0/24 dev eth7"), "{text}");
    // The pair went with the container's namespace.
    let output = run(&bundle);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("the interface out0 is not on this host"), "{text}");
    assert_eq!(bundle.left(), [""; 0]);
}

#[test]
fn memory_comes_from_the_nodes_of_the_policy() {
    if !tests::bundle::is_ours() || !std::path::Path::new("/proc/self/numa_maps").exists() {
        return; // since runc 1.4; and the kernel may be without
    }
    let mut bundle = Bundle::new("/bin/busybox tail -n 1 /proc/self/numa_maps");
    bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "0"}));
    assert!(bundle.output().contains(" bind:0"), "{}", bundle.output());
    bundle.set(
        "/linux/memoryPolicy",
        json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
    );
    assert!(bundle.output().contains(" interleave=static:0"), "{}", bundle.output());
    bundle.set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "900"}));
    let message = bundle.refusal();
    assert!(message.contains("set linux.memoryPolicy"), "{message}");
}

#[test]
fn shares_of_the_cache_need_resctrl() {
    if !tests::bundle::is_ours() || std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
        return; // runc says the same in other words
    }
    let mut bundle = Bundle::new("true");
    bundle.set("/linux/intelRdt", json!({"l3CacheSchema": "L3:0=f"}));
    let message = bundle.refusal();
    assert!(message.contains("linux.intelRdt: no resctrl is mounted"), "{message}");
}
