//! The child does not allocate: it runs under a filter that kills it when it asks for memory or waits
//! for a lock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::OnceLock;

use serde_json::json;

use super::*;
use crate::{container::Stdio, seccomp, spec, sys};

/// Made before the clone; the child only reads it.
static FILTER: OnceLock<seccomp::Filter> = OnceLock::new();

fn guarded(prepared: &Prepared) -> i32 {
    if let Some(filter) = FILTER.get()
        && sys::seccomp::load(&filter.instructions, filter.flags).is_err()
    {
        return 99;
    }
    child::first(prepared)
}

/// The guard itself: an allocation that the heap has no room for.
fn allocating(prepared: &Prepared) -> i32 {
    let filter = FILTER.get().unwrap();
    sys::seccomp::load(&filter.instructions, filter.flags).unwrap();
    std::hint::black_box(vec![1_u8; 4 << 20]);
    child::first(prepared)
}

fn filter() -> seccomp::Filter {
    let profile = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["brk", "mmap", "mremap", "munmap", "futex"],
            "action": "SCMP_ACT_KILL_PROCESS",
        }],
    }));
    seccomp::compile(&profile.unwrap(), seccomp::Arch::NATIVE).unwrap()
}

/// Everything that a configuration can ask for, at once.
fn configuration(user_namespace: bool) -> serde_json::Value {
    let names = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
    let mut namespaces: Vec<_> = names.map(|name| json!({"type": name})).into();
    if user_namespace {
        namespaces.push(json!({"type": "user"}));
        namespaces.push(json!({"type": "time"}));
    }
    let offsets = if user_namespace { json!({"boottime": {"secs": 1}}) } else { json!({}) };
    let map = if user_namespace {
        json!([{"containerID": 0, "hostID": 100_000, "size": 65536}])
    } else {
        json!([])
    };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true,
            "consoleSize": {"height": 3, "width": 4},
            "user": {"uid": 3, "gid": 4, "additionalGids": [5], "umask": 7},
            "args": ["program"], "env": ["PATH=/none:/bin"], "cwd": "/a/b",
            "capabilities": {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"],
                "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "a", "domainname": "b",
        "mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/dev", "type": "tmpfs", "options": ["mode=755", "ro", "rslave"]},
            {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=666"]},
            {"destination": "/sys", "type": "sysfs", "options": ["ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
            {"destination": "/var", "type": "tmpfs", "options": ["tmpcopyup", "ro"]},
            {"destination": "/link/x/file", "type": "bind", "source": "config.json",
                "options": ["bind", "ro"]},
        ],
        "annotations": {"org.lighter.seccomp": "default"},
        "linux": {
            "namespaces": namespaces, "uidMappings": map, "gidMappings": map,
            "timeOffsets": offsets,
            "sysctl": {"kernel.shmmni": "77"},
            "devices": [{"type": "p", "path": "/dev/pipe"}],
            "maskedPaths": ["/proc/keys", "/proc/acpi", "/proc/none"],
            "readonlyPaths": ["/proc/sys", "/proc/none"],
            "rootfsPropagation": "rprivate",
            "personality": {"domain": "LINUX"},
        },
    })
}

/// Launches under guard; the program is no program, so that its exec fails and says so.
fn launch_guarded(user_namespace: bool, by_child: bool, first: fn(&Prepared) -> i32) -> Error {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path();
    let root = bundle.join("rootfs");
    for name in ["bin", "dev", "proc", "sys"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::create_dir_all(root.join("var/sub")).unwrap();
    std::fs::write(root.join("var/sub/file"), "text").unwrap();
    std::os::unix::fs::symlink("sub/file", root.join("var/link")).unwrap();
    std::os::unix::fs::symlink("../missing", root.join("link")).unwrap();
    let program = root.join("bin/program");
    std::fs::write(&program, "no program").unwrap();
    for path in [bundle, &root, &root.join("bin"), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    if user_namespace {
        std::os::unix::fs::chown(&root, Some(100_000), Some(100_000)).unwrap();
    }
    let configuration = configuration(user_namespace);
    std::fs::write(bundle.join("config.json"), configuration.to_string()).unwrap();
    let plan = spec::plan(serde_json::from_value(configuration).unwrap()).unwrap();
    let name = format!("/lighter-test-launch-{}", std::process::id());
    let cgroup = Cgroup::create(&name, &plan.resources).unwrap();
    let groups = cgroup.record();
    let place = prepare::Place { bundle, groups: &groups, no_pivot: false, by_child };
    let setup = prepare::setup(&plan, &place).unwrap();
    let root = std::fs::File::open(&root).unwrap();
    let around = prepare::Surroundings {
        root: root.as_fd(),
        seccomp: plan.seccomp.as_ref(),
        personality: plan.personality,
        user_namespace,
        new_keyring: true,
        preserve_fds: 0,
    };
    let program = prepare::program(&plan.process, Stdio::Terminal, &around).unwrap();
    let (ours, theirs) = conversation().unwrap();
    let prepared = Prepared {
        socket: theirs,
        start: None,
        groups: Vec::new(),
        intermediate: user_namespace,
        clone_flags: plan.namespaces.new & !crate::ns::Kind::Cgroup.flag(),
        join: Vec::new(),
        user_namespace,
        ordinary: by_child.then(|| prepare::Ordinary {
            oom_score_adj: Some(c"200".to_owned()),
            mapped: true,
            open: true,
        }),
        setup: Some(setup),
        root: None,
        program,
    };
    let attendance =
        Attendance { cgroup: &cgroup, plan: Some(&plan), oom_score_adj: Some(100), init: None };
    FILTER.get_or_init(filter);
    let launched = launch_as(prepared, ours, &attendance, &mut |_, _| Ok(()), first);
    let error = launched.and_then(Launched::execute).expect_err("an exec that fails");
    cgroup.destroy().unwrap();
    error
}

#[test]
fn the_child_neither_allocates_nor_waits_for_locks() {
    for (user_namespace, by_child) in [(false, false), (true, false), (true, true)] {
        match launch_guarded(user_namespace, by_child, guarded) {
            Error::Program { errno: Errno::ENOEXEC, .. } => {}
            // SIGSYS shows as a child that died.
            other => panic!("{}", crate::cli::describe(&other)),
        }
    }
    assert!(matches!(launch_guarded(false, false, allocating), Error::Died));
}
