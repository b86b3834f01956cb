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
