#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::plan::MountKind;

fn minimal() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/true"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [
            {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}
        ]},
    })
}

fn convert(value: &Value) -> Result<Plan> {
    plan(serde_json::from_value(value.clone()).expect("shape"))
}

/// `minimal` with one value put in.
fn with(pointer: &str, value: Value) -> Value {
    let mut whole = minimal();
    let mut at = &mut whole;
    let mut parts = pointer.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            at[part] = value;
            break;
        }
        at = &mut at[part];
    }
    whole
}

#[test]
fn a_null_is_nothing() {
    let document = json!({
        "ociVersion": "1.0.2", "mounts": null, "hooks": null, "annotations": null,
        "process": {"args": ["/bin/true"], "cwd": "/", "env": null},
        "root": {"path": "rootfs"},
        "linux": {"devices": null, "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": null}],
        }},
    });
    let read = super::super::read::<Spec>;
    let plan = plan(read(document.to_string().as_bytes()).unwrap()).unwrap();
    assert!(plan.mounts.is_empty() && plan.seccomp.is_some());
    // What is wrong besides is told; and where, if there is no null.
    for (wrong, text) in [
        (json!({"mounts": null, "annotations": 5}), "integer `5`"),
        (json!({"annotations": 5}), "line 1"),
        (json!({"mounts": [null]}), "null"),
    ] {
        let error = read(wrong.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn the_minimum_is_enough() {
    let plan = convert(&minimal()).unwrap();
    assert_eq!(plan.process.uid, 0);
    assert_eq!(plan.process.capabilities, crate::sys::cred::CapSets::default());
    assert!(plan.seccomp.is_none() && plan.mounts.is_empty());
}

#[test]
fn refusals_name_the_path() {
    for (pointer, value, text) in [
        (
            "ociVersion",
            json!("2.0"),
            "ociVersion: \"2.0\" is not a version 1.x.y, which this runtime serves",
        ),
        ("root", Value::Null, "root: required"),
        ("root.path", json!(""), "root.path: required"),
        ("process", Value::Null, "process: required"),
        ("process.args", json!([]), "process.args: required"),
        ("process.args", json!(["a\0b"]), "process.args[0]: \"a\\0b\" contains a null byte"),
        ("process.cwd", json!("tmp"), "process.cwd: \"tmp\" must be an absolute path"),
        ("process.cwd", json!("/a/../b"), "process.cwd: \"/a/../b\" must not contain \"..\""),
        (
            "process.scheduler",
            json!({"policy": "SCHED_ODD"}),
            "process.scheduler.policy: \"SCHED_ODD\" is not a scheduling policy",
        ),
        (
            "process.execCPUAffinity",
            json!({"initial": "3-1"}),
            "process.execCPUAffinity.initial: \"3-1\" has a range that runs backwards: 3-1",
        ),
        (
            "process.oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: \"1001\" is not between -1000 and 1000",
        ),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type: \"RLIMIT_X\" is not a resource limit",
        ),
        (
            "process.rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "process.rlimits[0].soft: \"2\" is greater than the hard limit",
        ),
        (
            "process.ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority: \"8\" is not between 0 and 7",
        ),
        (
            "linux.rootfsPropagation",
            json!("x"),
            "linux.rootfsPropagation: \"x\" is not a propagation type",
        ),
        (
            "linux.timeOffsets",
            json!({"monotonic": {"secs": 1}}),
            "linux.timeOffsets.monotonic: \"monotonic\" needs a new time namespace in linux.namespaces",
        ),
        (
            "linux.timeOffsets",
            json!({"realtime": {}}),
            "linux.timeOffsets.realtime: \"realtime\" is neither monotonic nor boottime",
        ),
        ("linux.memoryPolicy", json!({}), "linux.memoryPolicy.mode: required"),
        (
            "linux.memoryPolicy",
            json!({"mode": "MPOL_X"}),
            "linux.memoryPolicy.mode: \"MPOL_X\" is not a memory policy",
        ),
        (
            "linux.netDevices",
            json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            "linux.netDevices.b.name: \"x\" is the name of another interface",
        ),
        (
            "linux.netDevices",
            json!({"a/b": {}}),
            "linux.netDevices.a/b: \"a/b\" is not the name of a network interface",
        ),
        ("linux.mountLabel", json!("a\"b"), "linux.mountLabel: \"a\\\"b\" is not an SELinux label"),
        (
            "linux.personality",
            json!({"domain": "LINUX", "flags": ["X"]}),
            "linux.personality.flags: \"X\" is none: the specification has no flags",
        ),
        (
            "linux.namespaces",
            json!([{"type": "x"}]),
            "linux.namespaces[0].type: \"x\" is not a namespace",
        ),
        (
            "linux.namespaces",
            json!([{"type": "pid"}, {"type": "pid", "path": "/p"}]),
            "linux.namespaces[1].type: \"pid\" occurs twice",
        ),
        ("linux.namespaces", json!([{"type": "user"}]), "linux.uidMappings: required"),
        (
            "linux.uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            "linux.uidMappings: \"mappings\" need a new user namespace",
        ),
        (
            "linux.maskedPaths",
            json!(["proc"]),
            "linux.maskedPaths[0]: \"proc\" must be an absolute path",
        ),
        (
            "linux.sysctl",
            json!({"kernel.panic": "1"}),
            "linux.sysctl.kernel.panic: \"kernel.panic\" is not in a namespace of its own",
        ),
        (
            "linux.sysctl",
            json!({"net/../kernel.panic": "1"}),
            "linux.sysctl.net/../kernel.panic: \"net/../kernel.panic\" is not the name of a sysctl",
        ),
        (
            "linux.devices",
            json!([{"type": "x", "path": "/dev/x"}]),
            "linux.devices[0].type: \"x\" is not one of c, u, b, p",
        ),
        (
            "linux.resources",
            json!({"devices": [{"allow": true, "access": "x"}]}),
            "linux.resources.devices[0].access: \"x\" has none of the letters r, w, m",
        ),
        ("mounts", json!([{"destination": "/x"}]), "mounts[0].type: required"),
        ("mounts", json!([{"destination": "/x", "type": "bind"}]), "mounts[0].source: required"),
        (
            "mounts",
            json!([{"destination": "/x", "type": "bind", "source": "/", "options": ["fly"]}]),
            "mounts[0].options: \"fly\" is no option of a bind mount",
        ),
        (
            "mounts",
            json!([{"destination": "/proc/self", "type": "tmpfs"}]),
            "mounts[0].destination: \"/proc/self\" is inside /proc",
        ),
        (
            "mounts",
            json!([{"destination": "//proc/./self/", "type": "bind", "source": "/"}]),
            "mounts[0].destination: \"/proc/self\" is inside /proc",
        ),
        (
            "mounts",
            json!([{"destination": "/proc/", "type": "tmpfs"}]),
            "mounts[0].destination: \"/proc\" takes a mount of type proc only",
        ),
        (
            "mounts",
            json!([{"destination": "proc", "type": "cgroup"}]),
            "mounts[0].destination: \"/proc\" takes a mount of type proc only",
        ),
        (
            "mounts",
            json!([{"destination": "/x", "type": "ramfs", "options": ["tmpcopyup"]}]),
            "mounts[0].options: \"tmpcopyup\" is for a tmpfs only",
        ),
        (
            "mounts",
            json!([{"destination": "/x", "type": "bind", "source": "/", "options": ["idmap"]}]),
            "mounts[0].options: \"idmap\" needs uidMappings and gidMappings, or a user namespace of the container",
        ),
        (
            "mounts",
            json!([{"destination": "/x", "type": "bind", "source": "/",
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}]),
            "mounts[0].gidMappings: required",
        ),
        (
            "mounts",
            json!([{"destination": "/x", "type": "tmpfs",
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}]),
            "mounts[0]: \"an id map\" is for bind mounts only",
        ),
        (
            "hooks",
            json!({"poststop": [{"path": "x"}]}),
            "hooks.poststop[0].path: \"x\" must be an absolute path",
        ),
        (
            "hooks",
            json!({"prestart": [{"path": "/x", "timeout": 0}]}),
            "hooks.prestart[0].timeout: \"0\" is not greater than zero",
        ),
        ("vm", json!({}), "vm: \"vm\" is not for this platform, which is linux"),
        (
            "annotations",
            json!({"org.lighter.seccomp": "x"}),
            "annotations.org.lighter.seccomp: \"x\" is not \"default\"",
        ),
    ] {
        let error = convert(&with(pointer, value.clone())).expect_err(pointer);
        assert_eq!(error.to_string(), text, "{pointer} = {value}");
    }
}

#[test]
fn without_a_mount_namespace_the_hosts_mounts_are_left_alone() {
    for (pointer, value) in [
        ("mounts", json!([{"destination": "/x", "type": "tmpfs"}])),
        ("linux.maskedPaths", json!(["/proc/keys"])),
        ("root", json!({"path": "rootfs", "readonly": true})),
    ] {
        let mut spec = with(pointer, value);
        spec["linux"]["namespaces"] = json!([{"type": "pid"}]);
        let error = convert(&spec).unwrap_err().to_string();
        assert!(error.contains("needs a mount namespace"), "{error}");
    }
}

#[test]
fn mounts_are_told_apart() {
    let plan = convert(&with(
        "mounts",
        json!([
            {"destination": "/a", "source": "/s", "options": ["rbind", "ro"]},
            {"destination": "b", "type": "tmpfs", "options": ["size=1m"]},
            {"destination": "/proc/cpuinfo", "type": "bind", "source": "/x"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup"},
        ]),
    ))
    .unwrap();
    let bind = |source: &str, recursive| MountKind::Bind { source: source.into(), recursive };
    assert_eq!(plan.mounts[0].kind, bind("/s", true));
    assert_eq!(plan.mounts[1].destination.as_c_str(), c"/b");
    assert_eq!(plan.mounts[2].kind, bind("/x", false));
    assert_eq!(plan.mounts[3].kind, MountKind::Cgroup);
}

#[test]
fn standard_devices_stay_allowed_after_a_denial_of_all() {
    let rules = json!({"devices": [{"allow": false, "access": "rwm"}]});
    let plan = convert(&with("linux.resources", rules)).unwrap();
    let last = plan.resources.devices.last().unwrap();
    assert!(last.allow);
}

#[test]
fn the_annotation_asks_for_the_default_profile() {
    let spec = with("annotations", json!({"org.lighter.seccomp": "default"}));
    assert!(convert(&spec).unwrap().seccomp.is_some());
}

#[test]
fn sysctls_become_files() {
    let sysctl = json!({"net.ipv4.conf.eth0/1.forwarding": "1", "net/ipv4/ip_forward": "1"});
    let plan = convert(&with("linux.sysctl", sysctl)).unwrap();
    let files: Vec<&std::ffi::CStr> = plan.sysctl.iter().map(|(file, _)| &**file).collect();
    assert_eq!(
        files,
        [c"/proc/sys/net/ipv4/conf/eth0.1/forwarding", c"/proc/sys/net/ipv4/ip_forward"]
    );
}

/// Any JSON, with the keys of the configuration more often than others.
fn any_json() -> impl Strategy<Value = Value> {
    const KEYS: &[&str] = &[
        "ociVersion",
        "process",
        "root",
        "linux",
        "mounts",
        "hooks",
        "args",
        "cwd",
        "path",
        "type",
        "namespaces",
        "options",
        "destination",
        "source",
        "devices",
        "resources",
        "sysctl",
        "memory",
        "rlimits",
        "soft",
        "hard",
        "user",
        "uid",
        "capabilities",
        "uidMappings",
        "size",
        "hostID",
        "containerID",
        "prestart",
        "seccomp",
        "maskedPaths",
        "annotations",
        "personality",
        "domain",
    ];
    let text = prop_oneof![
        "[ -~]{0,12}",
        Just("1.0.2".to_owned()),
        Just("/x".to_owned()),
        Just("bind".to_owned()),
        Just("pid".to_owned()),
        "\\PC{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(KEYS), inner, 0..8).prop_map(|map| {
                Value::Object(map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn never_panics(value in any_json()) {
        if let Ok(spec) = serde_json::from_value::<Spec>(value) {
            let _ = plan(spec);
        }
    }

    #[test]
    fn never_panics_near_the_real_thing(
        pointer in prop::sample::select(vec![
            "process", "process.user", "process.rlimits", "process.capabilities", "mounts", "hooks",
            "linux.namespaces", "linux.uidMappings", "linux.sysctl", "linux.timeOffsets",
            "linux.memoryPolicy", "linux.netDevices", "linux.devices",
            "linux.resources", "linux.maskedPaths", "linux.seccomp", "annotations",
        ]),
        value in any_json(),
    ) {
        if let Ok(spec) = serde_json::from_value::<Spec>(with(pointer, value)) {
            let _ = plan(spec);
        }
    }
}
