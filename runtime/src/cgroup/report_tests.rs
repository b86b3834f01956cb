#![allow(clippy::unwrap_used)]
use super::*;
use crate::cgroup::{Record, RecordedDir};

/// A group of a directory with these files: cgroup v2, or v1 with these controllers.
fn group(controllers: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
    let mount = tempfile::tempdir().unwrap();
    let path = mount.path().join("group");
    std::fs::create_dir(&path).unwrap();
    for (file, text) in files {
        std::fs::write(path.join(file), text).unwrap();
    }
    let dir = RecordedDir { mount: mount.path().to_owned(), controllers: controllers.to_owned() };
    let (v1, v2) = if controllers.is_empty() { (vec![], Some(dir)) } else { (vec![dir], None) };
    let group =
        Cgroup::open(&Record { path: "group".to_owned(), v1, v2, unit: None, permitted: None })
            .unwrap();
    (mount, group)
}

#[test]
fn a_group_of_v2() {
    let (_mount, group) = group(
        "",
        &[
            ("cgroup.controllers", "cpuset cpu io memory pids\n"),
            (
                "cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
            ("cpuset.cpus.effective", "0-1\n"),
            ("cpuset.mems.effective", "0\n"),
            ("memory.stat", "anon 100\nfile 200\nkernel 30\nsock 4\n"),
            ("memory.current", "400\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "500\n"),
            ("memory.swap.current", "6\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 8\noom 1\noom_kill 1\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
        ],
    );
    let report = group.report().unwrap();
    let at = |pointer: &str| report.pointer(pointer).unwrap().clone();
    assert_eq!(at("/cpu/usage"), json!({"total": 30_000, "user": 20_000, "kernel": 10_000}));
    assert_eq!(at("/cpu/throttling/throttledTime"), 7000);
    assert_eq!(at("/cpu/psi/some/total"), 5);
    assert_eq!(at("/cpuset/cpus"), json!([0, 1]));
    assert_eq!(at("/memory/cache"), 200);
    let usage = json!({"limit": u64::MAX, "usage": 400, "max": 500, "failcnt": 8});
    assert_eq!(at("/memory/usage"), usage);
    assert_eq!(at("/memory/swap"), json!({"limit": u64::MAX, "usage": 406, "failcnt": 0}));
    assert_eq!(at("/memory/raw/anon"), 100);
    assert_eq!(at("/memory/event_count/oom_kill"), 1);
    assert_eq!(at("/pids"), json!({"current": 3, "limit": 0}));
    assert_eq!(at("/blkio/ioServicedRecursive/0/value"), 3);
}

#[test]
fn what_is_not_there_is_left_out() {
    let (_mount, bare) = group("", &[("cgroup.controllers", "\n"), ("cpu.stat", "usage_usec 1\n")]);
    let report = bare.report().unwrap();
    assert_eq!(report["memory"], json!({}));
    assert_eq!(report["cpu"]["usage"]["total"], 1000);
    assert!(bare.watch_oom().unwrap().is_none());
    let (_mount, pids) = group("pids", &[("pids.current", "2\n"), ("pids.max", "9\n")]);
    let report = pids.report().unwrap();
    assert_eq!(report["pids"], json!({"current": 2, "limit": 9}));
    assert_eq!((&report["memory"], &report["blkio"]), (&json!({}), &json!({})));
    assert!(pids.watch_oom().unwrap().is_none());
    let (_mount, broken) = group("pids", &[("pids.current", "two\n"), ("pids.max", "9\n")]);
    assert!(broken.report().is_err());
}

#[test]
fn lists_of_processors() {
    assert_eq!(numbers("0-2,7"), [0, 1, 2, 7]);
    assert_eq!(numbers("3"), [3]);
    assert_eq!(numbers(""), [0; 0]);
    assert_eq!(numbers("x,1-,5-4"), [0; 0]);
    assert_eq!(per_processor("cpu user system\n0 5 6\n1 7 8\n"), (vec![5, 7], vec![6, 8]));
}

#[test]
fn pressure_as_the_kernel_writes_it() {
    let text = "some avg10=1.50 avg60=0.00 avg300=0.25 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
    let value = pressure(text);
    assert_eq!(
        value,
        Some(json!({
            "some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.25, "total": 12},
            "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 3},
        }))
    );
    assert_eq!(pressure(""), None);
}

#[test]
fn block_devices_of_both_versions() {
    assert_eq!(
        block_entries("8:0 Read 4096\n8:16 77\nTotal 4096\n8:0 Write x\n"),
        [
            json!({"major": 8, "minor": 0, "op": "Read", "value": 4096}),
            json!({"major": 8, "minor": 16, "op": "", "value": 77}),
        ]
    );
    let (bytes, operations) =
        io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=9\n253:1\n");
    assert_eq!(bytes[2], json!({"major": 8, "minor": 0, "op": "Discard", "value": 5}));
    assert_eq!(operations[1], json!({"major": 8, "minor": 0, "op": "Write", "value": 4}));
    assert_eq!((bytes.len(), operations.len()), (3, 3));
}

#[test]
fn sizes_of_pages() {
    assert_eq!(page_size("hugepages-2048kB").as_deref(), Some("2MB"));
    assert_eq!(page_size("hugepages-1048576kB").as_deref(), Some("1GB"));
    assert_eq!(page_size("hugepages-64kB").as_deref(), Some("64KB"));
    assert_eq!(page_size("other"), None);
}
