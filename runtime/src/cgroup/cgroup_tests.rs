//! On the kernel's own cgroup file systems, as root, each in a group of its own name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A name that no other test has.
fn unique() -> String {
    let mut bytes = [0u8; 8];
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    format!("lighter-test-{:016x}", u64::from_ne_bytes(bytes))
}

/// Removes what a test made, however it ends.
struct Group(Cgroup);

impl Group {
    fn new(path: &str, resources: &Resources) -> Self {
        Self(Cgroup::create(path, resources).unwrap())
    }

    /// A process in the group, which ends with it.
    fn sleeper(&self) -> Child {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        self.0.add_process(i32::try_from(child.id()).unwrap()).unwrap();
        child
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.0.dirs().map(|dir| dir.path.clone()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill_all(libc::SIGKILL);
        let _ = self.0.destroy();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn read(group: &Group, controller: &str, v1: &str, v2: &str) -> String {
    let file = if group.0.limits_on_v2() { v2 } else { v1 };
    group.0.dir_of(controller).unwrap().read(file).unwrap().trim().to_owned()
}

#[test]
fn limits_are_in_force_and_removal_leaves_nothing() {
    let top = unique();
    let resources = Resources {
        cpu: Cpu { shares: Some(512), quota: Some(20_000), ..Cpu::default() },
        memory: Memory { limit: Some(64 << 20), ..Memory::default() },
        pids: Some(9),
        devices: default_device_rules(),
        ..Resources::default()
    };
    let group = Group::new(&format!("/{top}/task/./container/"), &resources);
    let paths = group.paths();
    let hierarchies = Hierarchies::discover().unwrap();
    assert_eq!(paths.len(), hierarchies.v1.len() + usize::from(hierarchies.v2.is_some()));
    assert!(paths.iter().all(|path| path.ends_with(format!("{top}/task/container"))));
    assert_eq!(read(&group, "memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    assert_eq!(read(&group, "pids", "pids.max", "pids.max"), "9");
    let quota = read(&group, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "20000" || quota == "20000 100000", "{quota}");
    let again = Cgroup::open(&group.0.record()).unwrap();
    assert_eq!(again.record(), group.0.record());
    again.destroy().unwrap();
    again.destroy().unwrap();
    for path in paths {
        let top = path.ancestors().nth(2).unwrap();
        assert!(!top.exists(), "{} is left", top.display());
    }
}

#[test]
fn parents_of_others_stay() {
    let top = unique();
    let first = Group::new(&format!("{top}/a"), &Resources::default());
    let second = Group::new(&format!("{top}/b"), &Resources::default());
    let parents: Vec<PathBuf> =
        first.paths().iter().map(|path| path.parent().unwrap().to_owned()).collect();
    first.0.destroy().unwrap();
    assert!(parents.iter().all(|path| path.exists()));
    second.0.destroy().unwrap();
    assert!(parents.iter().all(|path| !path.exists()));

    // One that we did not make: not even when it is empty.
    let foreign = parents.first().unwrap();
    std::fs::create_dir(foreign).unwrap();
    let third = Group::new(&format!("{top}/c"), &Resources::default());
    third.0.destroy().unwrap();
    assert!(foreign.exists());
    std::fs::remove_dir(foreign).unwrap();
}

#[test]
fn processes_join_every_hierarchy_and_are_killed() {
    let group = Group::new(&unique(), &Resources::default());
    let mut children = [group.sleeper(), group.sleeper()];
    let mut pids: Vec<i32> = children.iter().map(|c| i32::try_from(c.id()).unwrap()).collect();
    pids.sort_unstable();
    assert_eq!(group.0.pids().unwrap(), pids);
    let membership = std::fs::read_to_string(format!("/proc/{}/cgroup", pids[0])).unwrap();
    for line in membership.lines() {
        assert!(line.ends_with(&group.0.record.path), "{line}");
    }
    assert!(matches!(group.0.dirs().next().unwrap().pids(), Ok(found) if found == pids));
    group.0.kill_all(libc::SIGKILL).unwrap();
    for child in &mut children {
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
    group.0.destroy().unwrap();
    assert!(matches!(Cgroup::open(&group.0.record()).unwrap().pids(), Err(Error::Missing { .. })));
    Cgroup::open(&group.0.record()).unwrap().kill_all(libc::SIGKILL).unwrap();
}

#[test]
fn other_signals_reach_every_process_once() {
    let group = Group::new(&unique(), &Resources::default());
    let mut child = group.sleeper();
    group.0.kill_all(libc::SIGTERM).unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn frozen_processes_stand_still_and_can_be_killed() {
    let group = Group::new(&unique(), &Resources::default());
    let mut child = group.sleeper();
    assert!(!group.0.is_frozen().unwrap());
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    group.0.freeze().unwrap();
    group.0.kill_all(libc::SIGKILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn processes_that_left_the_v2_group_are_killed_too() {
    let group = Group::new(&unique(), &Resources::default());
    let Some(v2) = group.0.v2.as_ref().filter(|_| !group.0.v1.is_empty()) else { return };
    let mut child = group.sleeper();
    std::fs::write(v2.mount.join("cgroup.procs"), child.id().to_string()).unwrap();
    group.0.kill_all(libc::SIGKILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_populated_group_is_refused_and_left_as_it_is() {
    let path = unique();
    let group = Group::new(&path, &Resources::default());
    let mut child = group.sleeper();
    assert!(matches!(Cgroup::create(&path, &Resources::default()), Err(Error::InUse { .. })));
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(group.0.pids().unwrap().len(), 1);
    assert!(group.paths().iter().all(|path| path.exists()));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_leftover_group_loses_its_old_limits() {
    let path = unique();
    let limited = Resources { pids: Some(3), ..Resources::default() };
    let old = Group::new(&path, &limited);
    let new = Group::new(&path, &Resources::default());
    assert_eq!(read(&new, "pids", "pids.max", "pids.max"), "max");
    drop(old);
}

#[test]
fn a_limit_that_cannot_be_applied_is_an_error_and_leaves_nothing() {
    let hierarchies = Hierarchies::discover().unwrap();
    let path = unique();
    let impossible = Resources {
        cpu: Cpu { cpus: Some("4000".into()), ..Cpu::default() },
        ..Resources::default()
    };
    if hierarchies.v1.iter().any(|hierarchy| hierarchy.controllers == "cpuset") {
        let error = Cgroup::create(&path, &impossible).unwrap_err();
        assert!(matches!(error, Error::Write { ref value, .. } if value == "4000"), "{error}");
        let no_rdma = Resources {
            rdma: vec![RdmaLimit { device: "x".into(), hca_handles: Some(1), hca_objects: None }],
            ..Resources::default()
        };
        if !hierarchies.v1.iter().any(|hierarchy| hierarchy.controllers == "rdma") {
            let error = Cgroup::create(&path, &no_rdma).unwrap_err();
            assert!(matches!(error, Error::NoController { .. }), "{error}");
            assert!(error.to_string().contains("controller rdma"), "{error}");
        }
    }
    let everywhere = hierarchies.v1.iter().chain(&hierarchies.v2);
    for hierarchy in everywhere {
        assert!(!hierarchy.mount.join(&path).exists());
    }
}

#[test]
fn updates_go_up_and_down() {
    let limit = |bytes: i64| Resources {
        memory: Memory { limit: Some(bytes), swap: Some(bytes), ..Memory::default() },
        cpu: Cpu { quota: Some(bytes >> 10), period: Some(50_000), ..Cpu::default() },
        ..Resources::default()
    };
    let group = Group::new(&unique(), &limit(32 << 20));
    for bytes in [64 << 20, 16 << 20, 128 << 20] {
        group.0.update(&limit(bytes)).unwrap();
        let got = read(&group, "memory", "memory.limit_in_bytes", "memory.max");
        assert_eq!(got, bytes.to_string());
    }
    group.0.update(&Resources { pids: Some(5), ..Resources::default() }).unwrap();
    assert_eq!(read(&group, "pids", "pids.max", "pids.max"), "5");
    // A program that is started within the group is charged to it.
    let mut child = Command::new("sh")
        .args(["-c", "read go; exec sleep 1000"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    group.0.add_process(i32::try_from(child.id()).unwrap()).unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let check = Resources {
        memory: Memory { limit: Some(4096), check_before_update: true, ..Memory::default() },
        ..Resources::default()
    };
    eventually("the process uses memory", || {
        group.0.stats().unwrap().memory.is_some_and(|memory| memory.usage > 4096)
    });
    assert!(matches!(group.0.update(&check), Err(Error::Invalid { field: "memory.limit", .. })));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn devices_are_refused_and_opened_by_update() {
    let rules = |extra: &[(u32, u32)]| Resources {
        devices: default_device_rules()
            .into_iter()
            .chain(extra.iter().map(|&(major, minor)| DeviceRule {
                allow: true,
                kind: DeviceKind::Char,
                major: Some(major),
                minor: Some(minor),
                access: DeviceAccess::ALL,
            }))
            .collect(),
        ..Resources::default()
    };
    let group = Group::new(&unique(), &rules(&[]));
    let list = || group.0.dir_of("devices").unwrap().read("devices.list").unwrap();
    if group.0.limits_on_v2() {
        return;
    }
    assert!(list().contains("c 1:3 rwm\n") && !list().contains("a *:*"), "{}", list());
    group.0.update(&rules(&[(10, 229)])).unwrap();
    assert!(list().contains("c 10:229 rwm\n"), "{}", list());
    group.0.update(&rules(&[])).unwrap();
    assert!(!list().contains("10:229"), "{}", list());
}

#[test]
fn the_kernel_takes_device_programs_and_replaces_them() {
    let group = Group::new(&unique(), &Resources::default());
    let Some(dir) = &group.0.v2 else { return };
    let policy = Policy::fold(&default_device_rules()).unwrap();
    match attach_program(dir, &policy) {
        Ok(()) => {}
        // A kernel without CONFIG_CGROUP_BPF; with v2 alone it could not run containers.
        Err(Error::Devices { source, .. })
            if !group.0.limits_on_v2() && source.raw_os_error() == Some(libc::EINVAL) =>
        {
            return;
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
    let first = bpf::query_device_programs(dir.fd().unwrap()).unwrap();
    assert_eq!(first.len(), 1);
    attach_program(dir, &Policy::fold(&[]).unwrap()).unwrap();
    let second = bpf::query_device_programs(dir.fd().unwrap()).unwrap();
    assert_eq!(second.len(), 1);
    assert_ne!(first, second);
}

#[test]
fn oom_kills_are_counted() {
    let limit = Resources {
        memory: Memory { limit: Some(8 << 20), swap: Some(8 << 20), ..Memory::default() },
        ..Resources::default()
    };
    let group = Group::new(&unique(), &limit);
    assert_eq!(group.0.oom_killed().unwrap(), 0);
    // Waits for a line, so that it allocates only after it has joined.
    let mut child = Command::new("sh")
        .args(["-c", "read go; x=$(head -c 64m /dev/zero | tr '\\0' a); echo ${#x}"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    group.0.add_process(i32::try_from(child.id()).unwrap()).unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child.wait().unwrap();
    assert!(group.0.oom_killed().unwrap() >= 1);
    assert!(group.0.stats().unwrap().memory.unwrap().oom_kills >= 1);
}

#[test]
fn nested_groups_are_removed_and_their_processes_listed() {
    let group = Group::new(&unique(), &Resources::default());
    for path in group.paths() {
        std::fs::create_dir_all(path.join("inner/most")).unwrap();
    }
    let listing = group.0.listing().unwrap().path.join("inner/most/cgroup.procs");
    let mut child = group.sleeper();
    let pid = child.id().to_string();
    if group.0.v1.is_empty() {
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    std::fs::write(listing, &pid).unwrap();
    assert_eq!(group.0.pids().unwrap(), [child.id() as i32]);
    group.0.kill_all(libc::SIGKILL).unwrap();
    child.wait().unwrap();
    group.0.destroy().unwrap();
    assert!(group.paths().iter().all(|path| !path.exists()));
}

#[test]
fn a_group_that_stays_busy_is_an_error_that_names_its_processes() {
    let group = Group::new(&unique(), &Resources::default());
    let child = group.sleeper();
    let pid = i32::try_from(child.id()).unwrap();
    let before = Instant::now();
    let error = group.0.destroy_until(before + Duration::from_millis(100)).unwrap_err();
    // One deadline for all hierarchies together.
    assert!(before.elapsed() < Duration::from_millis(600), "{:?}", before.elapsed());
    assert!(error.to_string().contains(&pid.to_string()), "{error}");
    let reaper = std::thread::spawn(move || {
        let mut child = child;
        child.wait().unwrap();
    });
    group.0.kill_and_destroy().unwrap();
    reaper.join().unwrap();
    assert!(group.paths().iter().all(|path| !path.exists()));
}

/// The v2 hierarchy of a hybrid host has no controllers, but all of the core.
#[test]
fn groups_on_v2_alone_are_frozen_killed_and_removed() {
    let path = unique();
    let mut record = Cgroup::plan(&path).unwrap();
    if record.v2.is_none() {
        return;
    }
    record.v1.clear();
    let group = Group(Cgroup::create_planned(record.clone(), &Resources::default()).unwrap());
    assert!(group.0.limits_on_v2());
    let mut child = group.sleeper();
    assert!(!record.is_frozen().unwrap());
    group.0.freeze().unwrap();
    assert!(record.is_frozen().unwrap() && group.0.is_frozen().unwrap());
    group.0.thaw().unwrap();
    assert!(!record.is_frozen().unwrap());
    let dir = group.paths().remove(0);
    if !std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap().contains("pids") {
        let limit = Resources { pids: Some(5), ..Resources::default() };
        assert!(matches!(group.0.update(&limit), Err(Error::NoController { .. })));
    }
    let threads = |value: &str| Resources {
        unified: vec![("cgroup.max.depth".into(), value.into())],
        ..Resources::default()
    };
    group.0.update(&threads("3")).unwrap();
    let depth = || std::fs::read_to_string(dir.join("cgroup.max.depth")).unwrap();
    assert_eq!(depth(), "3\n");
    let mut bad = threads("4");
    bad.unified.push(("cgroup.max.descendants".into(), "many".into()));
    assert!(matches!(group.0.update(&bad), Err(Error::Write { .. })));
    assert_eq!(depth(), "3\n");
    bad.unified = vec![("cgroup.of.none".into(), "1".into())];
    assert!(matches!(group.0.update(&bad), Err(Error::NoFile { .. })));
    group.0.freeze().unwrap();
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    group.0.kill_and_destroy().unwrap();
    reaper.join().unwrap();
    assert!(!dir.exists());
}

#[test]
fn an_update_is_undone_where_the_kernel_refuses_a_part() {
    let group = Group::new(&unique(), &Resources { pids: Some(9), ..Resources::default() });
    if group.0.limits_on_v2() {
        return;
    }
    let read = |controller: &str, file: &str| {
        group.0.dir_of(controller).unwrap().read(file).unwrap().trim().to_owned()
    };
    let files = [
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("pids", "pids.max"),
    ];
    let before = files.map(|(controller, file)| read(controller, file));
    // All but the last is fine: there is no device with these numbers.
    let changes = Resources {
        cpu: Cpu { shares: Some(99), quota: Some(5000), period: Some(50_000), ..Cpu::default() },
        memory: Memory { limit: Some(32 << 20), swap: Some(48 << 20), ..Memory::default() },
        pids: Some(5),
        block_io: BlockIo {
            read_bps: vec![Throttle { major: 4000, minor: 77, rate: 5 }],
            ..BlockIo::default()
        },
        ..Resources::default()
    };
    let error = group.0.update(&changes).unwrap_err();
    assert!(matches!(error, Error::Write { ref value, .. } if value == "4000:77 5"), "{error}");
    assert_eq!(files.map(|(controller, file)| read(controller, file)), before);
}

#[test]
fn paths_are_checked() {
    for (path, plain) in [("/a/b", "a/b"), ("a//b/./", "a/b"), ("x", "x")] {
        assert_eq!(normalize(path).unwrap(), plain);
    }
    for path in ["", "/", "/..", "a/../b", "../a", "a/b\0c", "."] {
        assert!(matches!(normalize(path), Err(Error::Path { .. })), "{path:?}");
    }
}

#[test]
fn records_survive_json() {
    let group = Group::new(&unique(), &Resources::default());
    let text = serde_json::to_string(&group.0.record()).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), group.0.record());
    assert_eq!(group.0.tasks_files().unwrap().len(), group.0.v1.len());
    assert_eq!(group.0.v2_dir().is_some(), group.0.v2.is_some());
}

/// Not an assertion: `strace -c` of this test counts the system calls of one creation and removal.
#[test]
#[ignore = "for measuring"]
fn one_creation_and_removal() {
    let resources = Resources {
        cpu: Cpu { shares: Some(512), quota: Some(20_000), ..Cpu::default() },
        memory: Memory { limit: Some(64 << 20), swap: Some(64 << 20), ..Memory::default() },
        pids: Some(9),
        devices: default_device_rules(),
        ..Resources::default()
    };
    let path = unique();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o22));
    let group = Cgroup::create(&path, &resources).unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o22));
    group.destroy().unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o22));
}
