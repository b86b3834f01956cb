#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::super::resources::*;
use super::*;

fn lines(resources: &Resources, update: bool) -> Vec<String> {
    writes(resources, update, 1000)
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

#[test]
fn nothing_asked_nothing_written() {
    assert!(lines(&Resources::default(), false).is_empty());
}

#[test]
fn a_new_group_gets_everything() {
    let resources = with(|r| {
        r.cpu = Cpu {
            shares: Some(1024),
            quota: Some(50_000),
            burst: Some(10_000),
            cpus: Some("0-1".into()),
            mems: Some("0".into()),
            ..Cpu::default()
        };
        r.memory = Memory {
            limit: Some(1 << 20),
            swap: Some(3 << 20),
            reservation: Some(1 << 19),
            ..Memory::default()
        };
        r.pids = Some(-1);
        r.hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }];
        r.rdma = vec![RdmaLimit {
            device: "mlx5_0".into(),
            hca_handles: Some(2),
            hca_objects: Some(2000),
        }];
        r.unified =
            vec![("memory.high".into(), "9".into()), ("io.max".into(), "8:0 a\n8:1 b".into())];
    });
    assert_eq!(
        lines(&resources, false),
        [
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
            "cpu.weight=100",
            "cpu.max=50000 100000",
            "cpu.max.burst=10000",
            "memory.swap.max=2097152",
            "memory.max=1048576",
            "memory.low=524288",
            "pids.max=max",
            "hugetlb.2MB.max=4194304",
            "hugetlb.2MB.rsvd.max=4194304",
            "rdma.max=mlx5_0 hca_handle=2 hca_object=2000",
            "memory.high=9",
            "io.max=8:0 a",
            "io.max=8:1 b",
        ]
    );
}

#[test]
fn weights_meet_minimum_default_and_maximum() {
    for (shares, weight) in [
        (0, 1),
        (2, 1),
        (3, 1),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (262_144, 10_000),
        (1 << 40, 10_000),
    ] {
        let got = weight_of_shares(shares);
        // The three fixed points are exact, between them runc's own table allows rounding.
        assert!(
            got.abs_diff(weight) <= u64::from(![0, 2, 1024, 262_144].contains(&shares)),
            "{shares}: {got}"
        );
    }
}

/// runc's formula as runc computes it.
#[test]
fn every_weight_is_that_of_floats() {
    for shares in 2..=262_144u32 {
        let log = f64::from(shares).log2();
        let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
        let weight = 10f64.powf(exponent).ceil();
        let ours = u16::try_from(weight_of_shares(shares.into())).unwrap();
        assert!((f64::from(ours) - weight).abs() < 0.5, "{shares}");
    }
}

proptest! {
    #[test]
    fn weights_rise_with_shares(a in 0u64..300_000, b in 0u64..300_000) {
        let (low, high) = (a.min(b), a.max(b));
        prop_assert!(weight_of_shares(low) <= weight_of_shares(high));
        prop_assert!((1..=10_000).contains(&weight_of_shares(a)));
    }
}

#[test]
fn swap_is_what_exceeds_memory() {
    for (limit, both, swap) in [
        (None, None, Ok(None)),
        (Some(100), None, Ok(None)),
        (Some(100), Some(0), Ok(None)),
        (Some(100), Some(100), Ok(Some(0))),
        (Some(100), Some(250), Ok(Some(150))),
        (Some(100), Some(-1), Ok(Some(-1))),
        (Some(-1), None, Ok(Some(-1))),
        (Some(-1), Some(-1), Ok(Some(-1))),
        (None, Some(-1), Ok(Some(-1))),
        (Some(100), Some(99), Err(())),
        (None, Some(99), Err(())),
        (Some(-1), Some(99), Err(())),
    ] {
        assert_eq!(swap_alone(limit, both).map_err(drop), swap, "{limit:?} {both:?}");
    }
}

#[test]
fn quota_and_period() {
    let max = |quota, period, update| {
        lines(
            &with(|r| {
                r.cpu.quota = quota;
                r.cpu.period = period;
            }),
            update,
        )
    };
    assert_eq!(max(Some(-1), None, false), ["cpu.max=max 100000"]);
    assert_eq!(max(Some(-1), None, true), ["cpu.max=max"]);
    assert_eq!(max(Some(10), None, true), ["cpu.max=10"]);
    assert_eq!(max(None, Some(5000), false), ["cpu.max=max 5000"]);
    assert_eq!(max(Some(10), Some(5000), true), ["cpu.max=10 5000"]);
    assert!(writes(&with(|r| r.cpu.period = Some(1)), true, 0).is_err());
}

#[test]
fn an_update_with_burst_passes_through_zero() {
    let resources = with(|r| {
        r.cpu.quota = Some(1000);
        r.cpu.burst = Some(500);
    });
    assert_eq!(lines(&resources, true), ["cpu.max.burst=0", "cpu.max=1000", "cpu.max.burst=500"]);
}

#[test]
fn block_io_scales_its_weights() {
    let resources = with(|r| {
        r.block_io.weight = Some(1000);
        r.block_io.weight_devices =
            vec![WeightDevice { major: 8, minor: 0, weight: Some(10), leaf_weight: None }];
        r.block_io.write_iops = vec![
            Throttle { major: 8, minor: 0, rate: 5 },
            Throttle { major: 8, minor: 1, rate: 0 },
        ];
    });
    let list = writes(&resources, false, 0).unwrap();
    let other = |value: &str| Fallback::Other { file: "io.weight".into(), value: value.into() };
    assert_eq!(list[0].fallback, other("10000"));
    assert_eq!(list[1].fallback, other("8:0 1"));
    assert_eq!(list[2].value, "8:0 wiops=5");
    assert_eq!(list[3].value, "8:1 wiops=max");
}

#[test]
fn what_only_v1_has_is_refused_by_name() {
    for (resources, field) in [
        (with(|r| r.network.class_id = Some(1)), "network"),
        (with(|r| r.cpu.realtime_runtime = Some(1)), "cpu.realtimeRuntime"),
        (with(|r| r.memory.disable_oom_killer = Some(true)), "memory.disableOOMKiller"),
        (with(|r| r.memory.kernel = Some(1)), "memory.kernel"),
        (with(|r| r.memory.kernel_tcp = Some(1)), "memory.kernelTCP"),
        (with(|r| r.memory.swappiness = Some(0)), "memory.swappiness"),
        (with(|r| r.memory.use_hierarchy = Some(false)), "memory.useHierarchy"),
        (with(|r| r.block_io.leaf_weight = Some(10)), "blockIO.leafWeight"),
        (with(|r| r.unified = vec![("../cgroup.procs".into(), "1".into())]), "unified"),
        (with(|r| r.unified = vec![("nodot".into(), "1".into())]), "unified"),
        (
            with(|r| {
                r.memory.limit = Some(999);
                r.memory.check_before_update = true;
            }),
            "memory.limit",
        ),
    ] {
        match writes(&resources, true, 1000) {
            Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
}
