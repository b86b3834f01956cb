#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::super::resources::*;
use super::*;

const FRESH: Option<Current> = None;

fn lines(resources: &Resources, current: Option<Current>) -> Vec<String> {
    writes(resources, current)
        .unwrap()
        .into_iter()
        .map(|write| format!("{}={}", write.file, write.value))
        .collect()
}

fn with(change: impl FnOnce(&mut Resources)) -> Resources {
    let mut resources = Resources::default();
    change(&mut resources);
    resources
}

fn now(memory_limit: u64) -> Option<Current> {
    Some(Current { memory_limit, memory_usage: 1000 })
}

#[test]
fn nothing_asked_nothing_written() {
    assert!(lines(&Resources::default(), FRESH).is_empty());
    assert!(lines(&Resources::default(), now(1)).is_empty());
}

#[test]
fn a_new_group_gets_everything_in_the_kernel_s_order() {
    let resources = with(|r| {
        r.cpu = Cpu {
            shares: Some(512),
            quota: Some(50_000),
            period: Some(100_000),
            burst: Some(10_000),
            realtime_period: Some(1_000_000),
            realtime_runtime: Some(950_000),
            cpus: Some("0-1".into()),
            mems: Some("0".into()),
            idle: None,
        };
        r.memory = Memory {
            limit: Some(1 << 20),
            swap: Some(2 << 20),
            reservation: Some(1 << 19),
            kernel_tcp: Some(4096),
            swappiness: Some(10),
            disable_oom_killer: Some(true),
            ..Memory::default()
        };
        r.pids = Some(7);
        r.network = Network { class_id: Some(1), priorities: vec![("eth0".into(), 3)] };
        r.hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }];
    });
    assert_eq!(
        lines(&resources, FRESH),
        [
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "cpu.shares=512",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpu.cfs_burst_us=10000",
            "cpu.rt_period_us=1000000",
            "cpu.rt_runtime_us=950000",
            "memory.limit_in_bytes=1048576",
            "memory.memsw.limit_in_bytes=2097152",
            "memory.soft_limit_in_bytes=524288",
            "memory.kmem.tcp.limit_in_bytes=4096",
            "memory.oom_control=1",
            "memory.swappiness=10",
            "pids.max=7",
            "hugetlb.2MB.limit_in_bytes=4194304",
            "hugetlb.2MB.rsvd.limit_in_bytes=4194304",
            "net_cls.classid=1",
            "net_prio.ifpriomap=eth0 3",
        ]
    );
}

#[test]
fn memory_and_swap_go_by_direction() {
    let memory = |limit: i64, swap: i64| {
        with(|r| {
            r.memory.limit = Some(limit);
            r.memory.swap = Some(swap);
        })
    };
    let (limit, swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
    for (current, wanted, first) in [
        (FRESH, (100, 200), limit),
        (FRESH, (100, -1), limit),
        (now(1000), (2000, 2000), swap),
        (now(1000), (500, 1000), limit),
        (now(1000), (500, 1500), swap),
        (now(1000), (500, -1), swap),
        (now(1000), (-1, -1), swap),
    ] {
        let lines = lines(&memory(wanted.0, wanted.1), current);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with(first), "{current:?} {wanted:?} {lines:?}");
    }
}

#[test]
fn unlimited_memory_lifts_swap_too() {
    let resources = with(|r| r.memory.limit = Some(-1));
    assert_eq!(
        lines(&resources, now(1000)),
        ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]
    );
}

#[test]
fn a_kernel_without_swap_accounting_serves_a_limit_without_swap() {
    let fallback = |limit, swap| {
        let resources = with(|r| {
            r.memory.limit = Some(limit);
            r.memory.swap = Some(swap);
        });
        writes(&resources, FRESH).unwrap().pop().unwrap().fallback
    };
    assert_eq!(fallback(100, 100), Fallback::Skip);
    assert_eq!(fallback(100, -1), Fallback::Skip);
    assert_eq!(fallback(100, 150), Fallback::Fail);
}

#[test]
fn an_update_lifts_the_quota_before_it_changes_the_period() {
    let resources = with(|r| {
        r.cpu.quota = Some(1000);
        r.cpu.period = Some(2000);
        r.cpu.burst = Some(500);
    });
    assert_eq!(
        lines(&resources, now(0)),
        [
            "cpu.cfs_burst_us=0",
            "cpu.cfs_quota_us=-1",
            "cpu.cfs_period_us=2000",
            "cpu.cfs_quota_us=1000",
            "cpu.cfs_burst_us=500"
        ]
    );
    assert_eq!(lines(&with(|r| r.cpu.quota = Some(0)), now(0)), ["cpu.cfs_quota_us=-1"]);
}

#[test]
fn an_idle_group_gets_no_weight() {
    let idle = |idle| {
        lines(
            &with(|r| {
                r.cpu.idle = Some(idle);
                r.cpu.shares = Some(100);
            }),
            now(0),
        )
    };
    assert_eq!(idle(1), ["cpu.idle=1"]);
    assert_eq!(idle(0), ["cpu.idle=0", "cpu.shares=100"]);
}

#[test]
fn block_io_has_both_schedulers_names() {
    let resources = with(|r| {
        r.block_io.weight = Some(500);
        r.block_io.weight_devices =
            vec![WeightDevice { major: 8, minor: 0, weight: Some(300), leaf_weight: Some(20) }];
        r.block_io.read_bps = vec![Throttle { major: 8, minor: 16, rate: 1024 }];
    });
    let list = writes(&resources, FRESH).unwrap();
    assert_eq!(
        list[0].fallback,
        Fallback::Other { file: "blkio.bfq.weight".into(), value: "500".into() }
    );
    assert_eq!(list[1].value, "8:0 300");
    assert_eq!(list[2].file, "blkio.leaf_weight_device");
    assert_eq!(
        (list[3].file.as_ref(), list[3].value.as_str()),
        ("blkio.throttle.read_bps_device", "8:16 1024")
    );
}

#[test]
fn impossible_values_are_refused_by_name() {
    for (resources, field) in [
        (with(|r| r.cpu.shares = Some(1)), "cpu.shares"),
        (with(|r| r.cpu.shares = Some(262_145)), "cpu.shares"),
        (
            with(|r| {
                r.memory.limit = Some(100);
                r.memory.swap = Some(99);
            }),
            "memory.swap",
        ),
        (with(|r| r.memory.swappiness = Some(101)), "memory.swappiness"),
        (with(|r| r.memory.kernel = Some(1)), "memory.kernel"),
        (with(|r| r.unified = vec![("memory.high".into(), "1".into())]), "unified"),
        (
            with(|r| {
                r.memory.limit = Some(999);
                r.memory.check_before_update = true;
            }),
            "memory.limit",
        ),
    ] {
        match writes(&resources, now(5000)) {
            Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}
