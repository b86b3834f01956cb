#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use protocol::ecs;
use protocol::taskdef::TransportProtocol;
use serde_json::{Value, json};

use super::fixtures::{CLUSTER, REGION, at, connection, definition, id, instance, task, view};
use super::{Strategy, *};
use crate::model::{
    Definition, Health, InstanceStatus, LaunchType, Reserved, StopCode, Task, TaskStatus,
};
use crate::state::View;

fn constraint(kind: &str, expression: Option<&str>) -> ecs::PlacementConstraint {
    ecs::PlacementConstraint {
        kind: Some(kind.to_owned()),
        expression: expression.map(str::to_owned),
    }
}

fn strategy(kind: &str, field: Option<&str>) -> ecs::PlacementStrategy {
    ecs::PlacementStrategy { kind: Some(kind.to_owned()), field: field.map(str::to_owned) }
}

/// What is placed, with everything it was asked with.
struct Asked {
    definition: Definition,
    reserved: Reserved,
    launch_type: LaunchType,
    constraints: Constraints,
    strategy: Vec<Strategy>,
}

impl Asked {
    fn new(definition: Definition) -> Self {
        let reserved = reserve(&definition.definition, &ecs::TaskOverride::default());
        let constraints = Constraints::parse(&[], &definition).unwrap();
        Self { definition, reserved, launch_type: LaunchType::Ec2, constraints, strategy: vec![] }
    }

    fn plain() -> Self {
        Self::new(definition("web", json!({}), json!({})))
    }

    fn with(mut self, constraints: &[ecs::PlacementConstraint]) -> Self {
        self.constraints = Constraints::parse(constraints, &self.definition).unwrap();
        self
    }

    fn by(mut self, strategies: &[ecs::PlacementStrategy]) -> Self {
        self.strategy = Strategy::parse(strategies).unwrap();
        self
    }

    fn request(&self) -> Request<'_> {
        Request {
            definition: &self.definition,
            reserved: &self.reserved,
            launch_type: self.launch_type,
            group: "family:web",
            constraints: &self.constraints,
            strategy: &self.strategy,
        }
    }

    /// Numbers of the instances, or the failures.
    fn place(&self, view: &View, count: usize, seed: u64) -> Vec<Result<u32, Failure>> {
        let mut candidates = candidates(view, REGION, CLUSTER);
        place(&self.request(), &mut candidates, count, seed)
            .into_iter()
            .map(|placed| placed.map(|instance| number(&instance.id)))
            .collect()
    }

    fn placed(&self, view: &View, count: usize, seed: u64) -> Vec<u32> {
        self.place(view, count, seed).into_iter().map(Result::unwrap).collect()
    }

    fn failure(&self, view: &View) -> Failure {
        self.place(view, 1, 1).remove(0).unwrap_err()
    }
}

fn number(id: &str) -> u32 {
    u32::from_str_radix(id, 16).unwrap()
}

fn counts<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

#[test]
fn without_a_strategy_tasks_spread_over_zones_then_instances() {
    let view = view(&["a", "a", "a", "b", "c"]);
    let zone = |number: u32| ['a', 'a', 'a', 'b', 'c'][number as usize];
    for seed in 0..20 {
        let placed = Asked::plain().placed(&view, 9, seed);
        assert_eq!(
            counts(placed.iter().map(|number| zone(*number))),
            BTreeMap::from([('a', 3), ('b', 3), ('c', 3)])
        );
        assert_eq!(placed.iter().filter(|n| **n < 3).collect::<BTreeSet<_>>().len(), 3);
    }
}

#[test]
fn spread_counts_the_tasks_that_are_there_but_for_those_that_stop() {
    let mut view = view(&["a", "b"]);
    let web = definition("web", json!({}), json!({}));
    for seed in 1..=2 {
        view.insert(&task(&web, &id(0), "family:web", seed));
    }
    assert_eq!(Asked::plain().placed(&view, 2, 7), [1, 1]);
    let mut stopping = task(&web, &id(0), "family:web", 1);
    stopping.stop(StopCode::UserInitiated, String::new(), at(1));
    view.insert(&stopping);
    assert_eq!(Asked::plain().placed(&view, 1, 7), [1]);
    assert_eq!(counts(Asked::plain().placed(&view, 3, 7)), BTreeMap::from([(0, 1), (1, 2)]));
}

#[test]
fn binpack_fills_one_before_the_next() {
    let view = view(&["a", "b", "c"]);
    let asked = Asked::plain().by(&[strategy("binpack", Some("memory"))]);
    let placed = asked.placed(&view, 20, 3);
    assert_eq!(counts(placed).len(), 1);
    // 2048 CPU units hold 20 tasks of 100.
    let placed = asked.placed(&view, 50, 3);
    let full: Vec<usize> = counts(placed).into_values().collect();
    assert_eq!(full.iter().filter(|count| **count == 20).count(), 2, "{full:?}");
}

#[test]
fn strategies_narrow_one_another() {
    let mut view = view(&["a", "a", "b", "b"]);
    let web = definition("web", json!({}), json!({}));
    view.insert(&task(&web, &id(1), "other", 1));
    view.insert(&task(&web, &id(2), "other", 2));
    let asked = Asked::plain().by(&[
        strategy("spread", Some("attribute:ecs.availability-zone")),
        strategy("binpack", Some("cpu")),
    ]);
    for seed in 0..10 {
        let placed = asked.placed(&view, 4, seed);
        assert_eq!(counts(placed), BTreeMap::from([(1, 2), (2, 2)]));
    }
    let random = Asked::plain().by(&[strategy("random", None)]);
    let seen: BTreeSet<u32> = (0..100).flat_map(|seed| random.placed(&view, 1, seed)).collect();
    assert_eq!(seen.len(), 4);
}

#[test]
fn reasons_and_the_closest_instance() {
    let named = |failure: Failure| (failure.reason.name(), failure.instance.as_deref().map(number));
    let none = View::default();
    assert_eq!(
        named(Asked::plain().failure(&none)),
        ("No Container Instances were found in your cluster.", None)
    );
    let mut view = view(&["a", "b"]);

    let huge = Asked::new(definition("web", json!({"memory": 5000}), json!({})));
    assert_eq!(named(huge.failure(&view)).0, "RESOURCE:MEMORY");
    let busy = Asked::new(definition("web", json!({"cpu": 3000}), json!({})));
    assert_eq!(named(busy.failure(&view)).0, "RESOURCE:CPU");

    let ssh = json!({"portMappings": [{"containerPort": 80, "hostPort": 22}]});
    let asked = Asked::new(definition("web", ssh, json!({})));
    assert_eq!(named(asked.failure(&view)).0, "RESOURCE:PORTS");
    let udp = json!({"portMappings": [{"containerPort": 80, "hostPort": 22, "protocol": "udp"}]});
    let asked = Asked::new(definition("web", udp, json!({})));
    assert_eq!(asked.place(&view, 3, 1).iter().filter(|placed| placed.is_ok()).count(), 2);

    let mut gpu = Asked::plain();
    gpu.definition.requires_attributes.insert("gpu".to_owned());
    assert_eq!(named(gpu.failure(&view)).0, "ATTRIBUTE");
    let arm = json!({"runtimePlatform": {"cpuArchitecture": "ARM64"}});
    assert_eq!(named(Asked::new(definition("web", json!({}), arm)).failure(&view)).0, "ATTRIBUTE");

    let member = Asked::plain().with(&[constraint("memberOf", Some("attribute:x exists"))]);
    assert_eq!(named(member.failure(&view)).0, "MemberOf placement constraint unsatisfied.");
    let distinct = Asked::plain().with(&[constraint("distinctInstance", None)]);
    let placed = distinct.place(&view, 3, 1);
    assert_eq!(placed.iter().filter(|placed| placed.is_ok()).count(), 2);
    assert_eq!(
        placed.last().unwrap().as_ref().unwrap_err().reason.name(),
        "DistinctInstance placement constraint unsatisfied."
    );

    // The instance that has the attribute is closer than the one that lacks it.
    let mut with = instance(1, "b");
    with.attributes.insert("gpu".to_owned(), None);
    view.insert(&with);
    gpu.reserved.memory = 5000;
    assert_eq!(named(gpu.failure(&view)), ("RESOURCE:MEMORY", Some(1)));
    assert_eq!(
        gpu.failure(&view).event(),
        format!(
            "The closest matching (container-instance {}) has insufficient memory available.",
            id(1)
        )
    );

    for number in 0..2 {
        view.remove(&crate::model::Connection::key_of(REGION, CLUSTER, &id(number)));
    }
    assert_eq!(named(Asked::plain().failure(&view)).0, "AGENT");
    for number in 0..2 {
        let mut draining = instance(number, "a");
        draining.status = InstanceStatus::Draining;
        view.insert(&draining);
        view.insert(&connection(number));
    }
    assert_eq!(named(Asked::plain().failure(&view)), (Reason::NoInstances.name(), None));
}

#[test]
fn launch_types_have_their_instances() {
    let mut view = view(&["a", "a"]);
    let mut external = instance(1, "a");
    external.attributes.insert(EXTERNAL.to_owned(), None);
    view.insert(&external);
    for (launch_type, expected) in
        [(LaunchType::Ec2, 0), (LaunchType::Fargate, 0), (LaunchType::External, 1)]
    {
        let asked = Asked { launch_type, ..Asked::plain() };
        assert_eq!(asked.placed(&view, 2, 5), [expected, expected], "{launch_type:?}");
    }
}

#[test]
fn expressions_see_what_was_placed() {
    let view = view(&["a"]);
    let expression = Some("not(task:group == family:web)");
    let asked = Asked::plain().with(&[constraint("memberOf", expression)]);
    let placed = asked.place(&view, 2, 1);
    assert!(placed[0].is_ok());
    assert_eq!(placed[1].as_ref().unwrap_err().reason, Reason::MemberOf);
}

#[test]
fn constraints_and_strategies_that_are_none() {
    let web = definition("web", json!({}), json!({}));
    for bad in [
        constraint("distinctInstance", Some("attribute:x exists")),
        constraint("memberOf", None),
        constraint("memberOf", Some("attribute:x ==")),
        constraint("affinity", None),
        ecs::PlacementConstraint::default(),
    ] {
        assert!(Constraints::parse(std::slice::from_ref(&bad), &web).is_err(), "{bad:?}");
    }
    let member = constraint("memberOf", Some("attribute:x exists"));
    assert!(Constraints::parse(&vec![member.clone(); 10], &web).is_ok());
    assert!(Constraints::parse(&vec![member; 11], &web).is_err());
    let dear = constraint("memberOf", Some("attribute:x =~ '(.?){40}'"));
    assert!(Constraints::parse(std::slice::from_ref(&dear), &web).is_ok());
    assert!(Constraints::parse(&vec![dear; 10], &web).is_err());
    for bad in [
        strategy("random", Some("cpu")),
        strategy("spread", None),
        strategy("spread", Some("zone")),
        strategy("spread", Some("attribute:")),
        strategy("binpack", None),
        strategy("binpack", Some("disk")),
        strategy("fill", None),
    ] {
        assert!(Strategy::parse(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
    }
    assert!(Strategy::parse(&vec![strategy("random", None); 6]).is_err());
    assert_eq!(
        Strategy::parse(&[strategy("spread", Some("host")), strategy("binpack", Some("MEMORY"))]),
        Ok(vec![Strategy::SpreadHosts, Strategy::BinpackMemory])
    );
}

fn overrides(value: Value) -> ecs::TaskOverride {
    serde_json::from_value(value).unwrap()
}

#[test]
fn reservations() {
    let two = json!({"containerDefinitions": [
        {"name": "a", "image": "i", "cpu": 10, "memory": 100, "memoryReservation": 50},
        {"name": "b", "image": "i", "memory": 30,
         "portMappings": [{"containerPort": 1, "hostPort": 9000}, {"containerPort": 2}]},
    ]});
    let bridge = definition("web", json!({}), two.clone()).definition;
    let sized = json!({"cpu": "512", "memory": "1024", "networkMode": "host",
        "containerDefinitions": [{"name": "a", "image": "i", "portMappings": [{"containerPort": 80}]}]});
    let host = definition("web", json!({}), sized).definition;
    let tcp = |port| vec![(TransportProtocol::Tcp, port)];
    let table = [
        (&bridge, json!({}), (10, 80, tcp(9000))),
        (
            &bridge,
            json!({"containerOverrides": [{"name": "a", "cpu": 20, "memoryReservation": 60}]}),
            (20, 90, tcp(9000)),
        ),
        (
            &bridge,
            json!({"containerOverrides": [{"name": "a", "memory": 200}, {"name": "b", "memory": 40}]}),
            (10, 90, tcp(9000)),
        ),
        (&bridge, json!({"cpu": ".5 vCPU", "memory": "1 GB"}), (512, 1024, tcp(9000))),
        (&host, json!({}), (512, 1024, tcp(80))),
        (&host, json!({"cpu": "256"}), (256, 1024, tcp(80))),
    ];
    for (definition, given, (cpu, memory, ports)) in table {
        let expected = Reserved { cpu, memory, ports };
        assert_eq!(reserve(definition, &overrides(given.clone())), expected, "{given}");
    }
    let vpc = json!({"networkMode": "awsvpc", "containerDefinitions": [
        {"name": "a", "image": "i", "memory": 30, "portMappings": [{"containerPort": 80}]}]});
    let vpc = definition("web", json!({}), vpc);
    assert_eq!(reserve(&vpc.definition, &overrides(json!({}))).ports, []);
    let task = task(&vpc, &id(0), "g", 1);
    assert_eq!(task.last, TaskStatus::Provisioning);
    assert!(task.interface.is_some());
}

#[test]
fn tags_of_a_task() {
    let tag = |key: &str, value: &str| ecs::Tag {
        key: Some(key.to_owned()),
        value: Some(value.to_owned()),
    };
    assert_eq!(
        tags(&[tag("a", "1")], &[tag("a", "2"), tag("b", "2")], Some(("c", Some("s")))),
        [
            tag("a", "1"),
            tag("b", "2"),
            tag("aws:ecs:clusterName", "c"),
            tag("aws:ecs:serviceName", "s")
        ]
    );
    assert_eq!(tags(&[], &[], None), []);
}

fn running(definition: &Definition, on: u32, seed: u128) -> Task {
    let mut task = task(definition, &id(on), "service:web", seed);
    task.last = TaskStatus::Running;
    task
}

#[test]
fn stopping_mirrors_placing() {
    let mut view = view(&["a", "a", "b", "c"]);
    let web = definition("web", json!({}), json!({}));
    let mut tasks: Vec<Task> = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (9, 6)]
        .into_iter()
        .map(|(on, seed)| running(&web, on, seed))
        .collect();
    tasks[4].health = Health::Unhealthy;
    tasks[3].last = TaskStatus::Pending;
    tasks.iter().for_each(|task| view.insert(task));
    let all: Vec<&Task> = tasks.iter().collect();
    let candidates = candidates(&view, REGION, CLUSTER);
    let order: Vec<usize> = stop_order(&all, &candidates, &[], 10, 1)
        .into_iter()
        .map(|task| tasks.iter().position(|other| other.id == task.id).unwrap())
        .collect();
    // On an instance that is gone; not serving (either); the fullest zone's fullest instance, its
    // youngest; then what is left.
    assert_eq!(order[0], 5);
    assert_eq!(order[1..3].iter().copied().collect::<BTreeSet<_>>(), [3, 4].into());
    assert_eq!(order[3], 1);
    assert_eq!(order.len(), 6);
    let binpack = Strategy::parse(&[strategy("binpack", Some("memory"))]).unwrap();
    let serving: Vec<&Task> = tasks[..3].iter().collect();
    let order = stop_order(&serving, &candidates, &binpack, 1, 1);
    assert_eq!(order[0].id, tasks[2].id, "where most is left free");
}

prop_compose! {
    fn any_view()(
        hosts in prop::collection::vec((0..3_usize, any::<bool>(), 0..5_u8, 0..20_u32), 0..8),
    ) -> View {
        let mut view = View::default();
        let web = definition("web", json!({}), json!({}));
        for (host, (zone, connected, state, tasks)) in (0..).zip(hosts) {
            let mut instance = instance(host, ["a", "b", "c"][zone]);
            match state {
                0 => instance.status = InstanceStatus::Draining,
                1 => drop(instance.attributes.insert("stack".to_owned(), Some("prod".to_owned()))),
                2 => drop(instance.attributes.insert("required".to_owned(), None)),
                _ => {}
            }
            view.insert(&instance);
            if connected || state > 1 {
                view.insert(&connection(host));
            }
            for number in 0..tasks {
                let group = if number % 3 == 0 { "family:web" } else { "other" };
                view.insert(&task(&web, &id(host), group, u128::from(host * 100 + number + 1)));
            }
        }
        view
    }
}

fn any_asked() -> impl proptest::strategy::Strategy<Value = Asked> {
    let strategies = prop::sample::subsequence(
        vec![
            strategy("spread", Some("attribute:ecs.availability-zone")),
            strategy("spread", Some("instanceId")),
            strategy("spread", Some("attribute:stack")),
            strategy("binpack", Some("cpu")),
            strategy("random", None),
        ],
        0..3,
    );
    let constraints = prop::sample::subsequence(
        vec![
            constraint("distinctInstance", None),
            constraint("memberOf", Some("attribute:stack == prod or agentConnected == true")),
            constraint("memberOf", Some("attribute:ecs.availability-zone != a")),
        ],
        0..3,
    );
    (strategies, constraints, 0..900_u32, 4..1200_u32, any::<bool>(), any::<bool>()).prop_map(
        |(strategies, constraints, cpu, memory, port, required)| {
            let mut container = json!({"cpu": cpu, "memory": memory.max(6)});
            if port {
                container["portMappings"] = json!([{"containerPort": 80, "hostPort": 8080}]);
            }
            let mut asked = Asked::new(definition("web", container, json!({})))
                .with(&constraints)
                .by(&strategies);
            if required {
                asked.definition.requires_attributes.insert("required".to_owned());
            }
            asked
        },
    )
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.reserved, self.constraints, self.strategy)
    }
}

proptest! {
    #[test]
    fn placing_keeps_every_promise(
        view in any_view(), asked in any_asked(), count in 0..30_usize, seed in any::<u64>(),
    ) {
        let mut after = candidates(&view, REGION, CLUSTER);
        let placed = place(&asked.request(), &mut after, count, seed);
        prop_assert_eq!(placed.len(), count);
        prop_assert_eq!(
            placed.iter().map(|p| p.as_ref().map(|i| &i.id).ok()).collect::<Vec<_>>(),
            place(&asked.request(), &mut candidates(&view, REGION, CLUSTER), count, seed)
                .iter().map(|p| p.as_ref().map(|i| &i.id).ok()).collect::<Vec<_>>(),
            "the same seed, the same placements"
        );

        // Replayed one by one: each fits where it goes, and what was taken adds up.
        let mut replayed = candidates(&view, REGION, CLUSTER);
        for placed in placed.iter().flatten() {
            let candidate =
                replayed.iter_mut().find(|c| c.instance.id == placed.id).unwrap();
            prop_assert_eq!(asked.request().check(candidate), Ok(()));
            let (cpu, memory) = (candidate.cpu, candidate.memory);
            candidate.take(&asked.reserved, "family:web");
            prop_assert_eq!(cpu - candidate.cpu, u64::from(asked.reserved.cpu));
            prop_assert_eq!(memory - candidate.memory, u64::from(asked.reserved.memory));
        }
        for (one, other) in after.iter().zip(&replayed) {
            prop_assert_eq!((one.cpu, one.memory), (other.cpu, other.memory));
        }
        // Failures are the rest, and only when nothing fits any more.
        let first = placed.iter().position(Result::is_err);
        prop_assert!(placed.iter().skip(first.unwrap_or(count)).all(Result::is_err));
        let fits = replayed.iter().any(|candidate| asked.request().check(candidate).is_ok());
        prop_assert!(first.is_none() || !fits);
    }

    #[test]
    fn spread_is_balanced(
        hosts in prop::collection::vec(0..3_usize, 1..10), count in 1..15_usize, seed in any::<u64>(),
    ) {
        let zones: Vec<&str> = hosts.iter().map(|zone| ["a", "b", "c"][*zone]).collect();
        let view = view(&zones);
        let placed = Asked::plain().placed(&view, count, seed);
        let mut per_zone: BTreeMap<&str, usize> = zones.iter().map(|zone| (*zone, 0)).collect();
        let mut per_host = vec![0_usize; zones.len()];
        for number in placed {
            *per_zone.get_mut(zones[number as usize]).unwrap() += 1;
            per_host[number as usize] += 1;
        }
        let spread = |counts: Vec<usize>| {
            counts.iter().max().unwrap() - counts.iter().min().unwrap()
        };
        prop_assert!(spread(per_zone.values().copied().collect()) <= 1);
        for zone in per_zone.keys() {
            let hosts = zones.iter().zip(&per_host).filter(|(z, _)| *z == zone);
            prop_assert!(spread(hosts.map(|(_, count)| *count).collect()) <= 1);
        }
    }

    #[test]
    fn stopping_takes_each_task_once_and_leaves_balance(
        on in prop::collection::vec(0..4_u32, 0..20), count in 0..25_usize, seed in any::<u64>(),
    ) {
        let view = view(&["a", "a", "b", "c"]);
        let web = definition("web", json!({}), json!({}));
        let tasks: Vec<Task> = (1..)
            .zip(&on)
            .map(|(seed, on)| running(&web, *on, seed))
            .collect();
        let all: Vec<&Task> = tasks.iter().collect();
        let candidates = candidates(&view, REGION, CLUSTER);
        let order = stop_order(&all, &candidates, &[], count, seed);
        prop_assert_eq!(order.len(), count.min(tasks.len()));
        let ids: BTreeSet<&str> = order.iter().map(|task| task.id.as_str()).collect();
        prop_assert_eq!(ids.len(), order.len());
        // No zone is left with more tasks than the fullest had, and the last taken was of a fullest.
        let zone = |task: &Task| ["a", "a", "b", "c"][number(&task.instance) as usize];
        let mut left = counts(tasks.iter().map(zone));
        for task in order {
            let most = left.values().copied().max().unwrap();
            let count = left.get_mut(zone(task)).unwrap();
            prop_assert_eq!(*count, most);
            *count -= 1;
        }
    }
}

/// Tasks placed in a second, in calls of 1 and of 10. `benches/run.sh scheduler` runs it as shipped.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn measure_placements() {
    const ROUNDS: u32 = 200;
    let zones: Vec<&str> = (0..5_000).map(|number| ["a", "b", "c"][number % 3]).collect();
    let mut view = view(&zones);
    let web = definition("web", json!({}), json!({}));
    for number in 0..50_000_u32 {
        let group = format!("family:{}", number % 100);
        view.insert(&task(&web, &id(number % 5_000), &group, u128::from(number) + 1));
    }
    let asked = || {
        let mut asked = Asked::plain();
        asked.definition.requires_attributes =
            (0..8).map(|number| format!("com.amazonaws.ecs.capability.{number}")).collect();
        asked
    };
    let expression =
        "attribute:ecs.availability-zone in [a, b] and attribute:ecs.cpu-architecture =~ x.*";
    let cases = [
        ("spread over zones, then instances", asked()),
        ("spread over instances", asked().by(&[strategy("spread", Some("instanceId"))])),
        ("binpack by memory", asked().by(&[strategy("binpack", Some("memory"))])),
        (
            "memberOf with a pattern, spread",
            asked().with(&[constraint("memberOf", Some(expression))]),
        ),
    ];
    println!("\ntasks placed a second, 5000 instances with 50000 tasks     calls of 1    of 10");
    for (what, asked) in cases {
        let rate = |count: u32| {
            let start = Instant::now();
            for seed in 0..ROUNDS {
                let placed = asked.placed(&view, count as usize, seed.into());
                assert_eq!(placed.len(), count as usize);
            }
            f64::from(ROUNDS * count) / start.elapsed().as_secs_f64()
        };
        println!("  {what:54} {:12.0} {:8.0}", rate(1), rate(10));
    }
    let start = Instant::now();
    let listed = (0..ROUNDS).map(|_| candidates(&view, REGION, CLUSTER).len()).sum::<usize>();
    assert_eq!(listed, 5_000 * ROUNDS as usize);
    let call = start.elapsed().as_secs_f64() * 1000.0 / f64::from(ROUNDS);
    println!("  of each call, listing the candidates: {call:.2} ms");
}
