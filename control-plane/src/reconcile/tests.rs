//! The planners on a fake world, in which tasks start, settle, die, fall ill and are drained.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::daemon::{self, Fit, Site};
use super::deployment;
use super::drain::Place;
use super::draws::Draws;
use super::events::{self, Message, tell};
use super::member::{Condition, End, Member, Phase};
use super::service::{self, Stop, ceiling, floor};
use super::testing::{at, breaker, definition, service};
use crate::model::{DeploymentStatus, Rollout, Service, ServiceStatus};

const SETTLE: i64 = 5;
const START: i64 = 3;
const STOP: i64 = 2;

/// What runs, and what becomes of it.
struct World {
    service: Service,
    members: BTreeMap<String, Member>,
    /// When a task changes next.
    next: BTreeMap<String, Timestamp>,
    /// Revisions of which no task comes to run.
    bad: BTreeSet<u32>,
    now: Timestamp,
    seed: u8,
    made: u32,
    starts: u32,
    sites: Vec<Site>,
}

impl World {
    fn new(service: Service) -> Self {
        Self {
            service,
            members: BTreeMap::new(),
            next: BTreeMap::new(),
            bad: BTreeSet::new(),
            now: at(0),
            seed: 0,
            made: 0,
            starts: 0,
            sites: Vec::new(),
        }
    }

    fn draws(&mut self) -> Draws {
        self.seed = self.seed.wrapping_add(1);
        Draws::new([self.seed; 32])
    }

    fn after(&self, seconds: i64) -> Timestamp {
        self.now + SignedDuration::from_secs(seconds)
    }

    fn count(&self, of: impl Fn(&Member) -> bool) -> u32 {
        u32::try_from(self.members.values().filter(|m| of(m)).count()).unwrap()
    }

    /// Running, and not known to be ill.
    fn up(&self) -> u32 {
        self.count(|m| m.is_serving())
    }

    fn start(&mut self, instance: &str) {
        self.made += 1;
        self.starts += 1;
        let id = format!("t{:05}", self.made);
        let deployment = self.service.deployments.first().unwrap().id.clone();
        self.next.insert(id.clone(), self.after(START));
        self.members.insert(
            id.clone(),
            Member {
                id,
                deployment,
                instance: instance.to_owned(),
                phase: Phase::Pending,
                place: Place::Here,
                protected_until: None,
                accounted: false,
            },
        );
    }

    fn stop(&mut self, stops: &[Stop]) {
        for stop in stops {
            let until = self.after(STOP);
            let member = self.members.get_mut(&stop.task).unwrap();
            assert!(member.is_alive(), "{} is stopped twice", stop.task);
            member.phase = Phase::Stopping;
            self.next.insert(stop.task.clone(), until);
        }
    }

    /// Plans until nothing is left to do, and returns when to plan again.
    fn settle(&mut self) -> Option<Timestamp> {
        for _ in 0..50 {
            let before = self.service.clone();
            let (did, wake_at) = if self.sites.is_empty() { self.replica() } else { self.daemon() };
            if !did && before == self.service {
                return wake_at;
            }
        }
        panic!("the planner never rests: {:#?}", self.service);
    }

    fn replica(&mut self) -> (bool, Option<Timestamp>) {
        let mut draws = self.draws();
        let members: Vec<Member> = self.members.values().cloned().collect();
        let mut order =
            |ids: &[&str], most: usize| ids.iter().take(most).map(|id| (*id).to_owned()).collect();
        let (up, live) = (self.up(), self.count(|m| m.is_live()));
        let active = self.service.status == ServiceStatus::Active;
        let plan = service::plan(&mut self.service, &members, &mut order, self.now, &mut draws);
        self.stop(&plan.stops);
        let desired = self.service.desired_count;
        if active {
            let floor = floor(desired, self.service.minimum_healthy_percent);
            assert!(self.up() >= floor.min(up), "{} of {up} are up, floor {floor}", self.up());
            let ceiling = ceiling(desired, self.service.maximum_percent);
            assert!(plan.starts == 0 || live + plan.starts <= ceiling, "{live} + {}", plan.starts);
        }
        for id in &plan.accounted {
            let member = self.members.get_mut(id).unwrap();
            assert!(!member.accounted, "{id} is counted twice");
            member.accounted = true;
        }
        let started = (0..plan.starts).map(|number| format!("new{number}")).collect();
        for number in 0..plan.starts {
            self.start(&format!("i{number}"));
        }
        service::applied(&mut self.service, started, &plan.stops, None, self.now, &mut draws);
        let did = plan.starts > 0 || !plan.stops.is_empty() || !plan.accounted.is_empty();
        (did, plan.wake_at)
    }

    fn daemon(&mut self) -> (bool, Option<Timestamp>) {
        let mut draws = self.draws();
        let members: Vec<Member> = self.members.values().cloned().collect();
        let up = self.up();
        let plan =
            daemon::plan(&mut self.service, &members, &self.sites, true, self.now, &mut draws);
        // What runs where nothing is to run does not count.
        let excluded = |id: &String| {
            let on = &self.members.get(id).unwrap().instance;
            self.sites.iter().any(|site| site.instance == *on && site.fit == Fit::Excluded)
        };
        let forced = plan.stops.iter().any(|stop| excluded(&stop.task));
        self.stop(&plan.stops);
        let floor = floor(self.service.desired_count, self.service.minimum_healthy_percent);
        assert!(forced || self.up() >= floor.min(up), "{} of {up}, floor {floor}", self.up());
        for id in &plan.accounted {
            self.members.get_mut(id).unwrap().accounted = true;
        }
        for instance in &plan.starts {
            assert_eq!(self.count(|m| m.is_live() && m.instance == *instance), 0);
            self.start(instance);
        }
        service::applied(
            &mut self.service,
            plan.starts.clone(),
            &plan.stops,
            None,
            self.now,
            &mut draws,
        );
        let did = !plan.starts.is_empty() || !plan.stops.is_empty() || !plan.accounted.is_empty();
        (did, plan.wake_at)
    }

    /// Lets a second pass.
    fn tick(&mut self) {
        self.now = self.after(1);
        let due: Vec<String> =
            self.next.iter().filter(|(_, at)| **at <= self.now).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.next.remove(&id);
            let until = self.after(SETTLE);
            let member = self.members.get_mut(&id).unwrap();
            let revision = self
                .service
                .deployments
                .iter()
                .find(|d| d.id == member.deployment)
                .map_or(0, |d| d.definition.revision);
            member.phase = match member.phase {
                Phase::Pending if self.bad.contains(&revision) => Phase::Stopped(End::NeverRan),
                Phase::Pending => {
                    self.next.insert(id, until);
                    Phase::Running(Condition::Settling { until: Some(until) })
                }
                Phase::Running(Condition::Settling { .. }) => Phase::Running(Condition::Healthy),
                Phase::Stopping => Phase::Stopped(End::Excused),
                other => other,
            };
        }
        self.settle();
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.tick();
        }
    }

    fn pick(&self, number: usize, of: impl Fn(&Member) -> bool) -> Option<String> {
        let found: Vec<&Member> = self.members.values().filter(|m| of(m)).collect();
        found.get(number.checked_rem(found.len())?).map(|m| m.id.clone())
    }

    fn act(&mut self, action: &Action) {
        let alive = |number: usize| self.pick(number, Member::is_alive);
        match *action {
            Action::Pass(seconds) => self.pass(seconds.into()),
            Action::Die(number) => {
                if let Some(id) = alive(number) {
                    let member = self.members.get_mut(&id).unwrap();
                    member.phase = Phase::Stopped(match member.phase {
                        Phase::Pending => End::NeverRan,
                        Phase::Running(Condition::Settling { .. }) => End::BeforeHealthy,
                        _ => End::AfterHealthy,
                    });
                    self.next.remove(&id);
                }
            }
            Action::Sicken(number) => {
                if let Some(id) = self.pick(number, Member::is_serving) {
                    self.members.get_mut(&id).unwrap().phase = Phase::Running(Condition::Unhealthy);
                    self.next.remove(&id);
                }
            }
            Action::Drain(number) => {
                if let Some(id) = alive(number) {
                    self.members.get_mut(&id).unwrap().place = Place::Draining;
                }
            }
            Action::Protect(number) => {
                if let Some(id) = self.pick(number, Member::is_serving) {
                    let until = self.after(30);
                    self.members.get_mut(&id).unwrap().protected_until = Some(until);
                }
            }
            Action::Deploy { bad } => {
                let newest = self.service.deployments.first().unwrap().definition.revision;
                let revision = newest.max(self.bad.iter().max().copied().unwrap_or(0)) + 1;
                if bad {
                    self.bad.insert(revision);
                }
                let id = self.draws().deployment();
                deployment::begin(&mut self.service, definition(revision), None, id, self.now);
            }
            Action::Scale(desired) => self.service.desired_count = desired.into(),
        }
        self.settle();
    }

    fn is_at_rest(&self) -> bool {
        let desired = self.service.desired_count;
        let primary = self.service.deployments.first().unwrap();
        self.service.deployments.len() == 1
            && primary.rollout == Rollout::Completed
            && self.count(|m| m.is_alive()) == desired
            && self.count(|m| m.is_healthy() && m.deployment == primary.id) == desired
    }
}

#[derive(Debug, Clone)]
enum Action {
    Pass(u8),
    Die(usize),
    Sicken(usize),
    Drain(usize),
    Protect(usize),
    Deploy { bad: bool },
    Scale(u8),
}

fn site(number: usize, fit: Fit) -> Site {
    Site { instance: format!("i{number}"), fit, has_room: true }
}

fn actions(bad: bool) -> impl Strategy<Value = Vec<Action>> {
    let one = prop_oneof![
        4 => (1..12_u8).prop_map(Action::Pass),
        2 => any::<usize>().prop_map(Action::Die),
        1 => any::<usize>().prop_map(Action::Sicken),
        1 => any::<usize>().prop_map(Action::Drain),
        1 => any::<usize>().prop_map(Action::Protect),
        1 => any::<bool>().prop_map(move |is| Action::Deploy { bad: is && bad }),
        // At 0 a bad deployment is as good as any.
        1 => (u8::from(bad)..8).prop_map(Action::Scale),
    ];
    prop::collection::vec(one, 0..40)
}

/// Percentages that always allow something.
fn percentages() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![Just((100, 200)), Just((50, 200)), Just((0, 100)), Just((0, 150)), Just((75, 200))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn a_service_comes_to_rest((minimum, maximum) in percentages(), actions in actions(false)) {
        let mut world = World::new(service(3, minimum, maximum));
        world.settle();
        for action in &actions {
            world.act(action);
        }
        world.pass(400);
        prop_assert!(world.is_at_rest(), "{:#?} {:#?}", world.service, world.members);
        let told = world.service.events.clone();
        prop_assert!(told.len() <= events::KEPT);
        world.pass(300);
        prop_assert_eq!(&told, &world.service.events);
    }

    #[test]
    fn a_service_with_a_breaker_goes_back_to_what_worked_or_gives_up(
        (minimum, maximum) in percentages(),
        actions in actions(true),
    ) {
        let mut first = service(3, minimum, maximum);
        first.circuit_breaker = breaker(true);
        let mut world = World::new(first);
        world.settle();
        world.pass(60);
        prop_assert!(world.is_at_rest());
        for action in &actions {
            world.act(action);
        }
        world.pass(1000);
        // Too many of what it went back to died, too: that is the end.
        let gave_up = world.service.deployments.first().unwrap().rollout == Rollout::Failed;
        let rests = world.is_at_rest();
        prop_assert!(rests || gave_up, "{:#?} {:#?}", world.service, world.members);
        let starts = world.starts;
        world.pass(200);
        prop_assert_eq!(world.starts, starts);
    }

    #[test]
    fn a_daemon_comes_to_rest(
        minimum in prop::sample::select(vec![0_u32, 50]),
        fits in prop::collection::vec((0..4_usize, 0..3_u8), 0..20),
        deployments in 0..3_u32,
    ) {
        let mut world = World::new(service(0, minimum, 100));
        world.sites = (0..4)
            .map(|number| site(number, Fit::Eligible))
            .collect();
        world.settle();
        for (number, fit) in fits {
            world.sites[number].fit = match fit {
                0 => Fit::Eligible,
                1 => Fit::Waits,
                _ => Fit::Excluded,
            };
            world.settle();
            world.pass(2);
        }
        for _ in 0..deployments {
            world.act(&Action::Deploy { bad: false });
            world.pass(4);
        }
        for site in &mut world.sites {
            if site.fit == Fit::Waits {
                site.fit = Fit::Eligible;
            }
        }
        world.pass(200);
        for site in &world.sites {
            let there = world.count(|m| m.is_healthy() && m.instance == site.instance);
            prop_assert_eq!(there, u32::from(site.fit == Fit::Eligible));
        }
        // Of one task, half is one.
        let blocked = Message::Blocked.text("web");
        let is_blocked = minimum > 0 && messages(&world).contains(&blocked.as_str());
        prop_assert!(world.is_at_rest() || is_blocked, "{:#?}", world.service);
    }
}

#[test]
fn the_bounds() {
    // (desired, minimum, maximum, floor, ceiling)
    for (desired, minimum, maximum, low, high) in [
        (4, 50, 200, 2, 8),
        (2, 75, 200, 2, 4),
        (3, 100, 125, 3, 3),
        (1, 50, 150, 1, 1),
        (0, 100, 200, 0, 0),
        (u32::MAX, 100, 200, u32::MAX, u32::MAX),
    ] {
        assert_eq!((floor(desired, minimum), ceiling(desired, maximum)), (low, high));
    }
}

fn messages(world: &World) -> Vec<&str> {
    world.service.events.iter().map(|event| event.message.as_str()).collect()
}

/// A service at rest.
fn rested(service: Service) -> World {
    let mut world = World::new(service);
    world.settle();
    world.pass(30);
    assert!(world.is_at_rest(), "{:#?}", world.service);
    world
}

#[test]
fn the_first_deployment_tells_its_steps() {
    let world = rested(service(2, 100, 200));
    assert_eq!(
        messages(&world),
        [
            "(service web) has reached a steady state.",
            "(service web) (deployment first) deployment completed.",
            "(service web) has started 2 tasks: (task new0) (task new1).",
        ]
    );
    let primary = world.service.deployments.first().unwrap();
    assert_eq!(primary.rollout_reason, "ECS deployment first completed.");
}

#[test]
fn deployments_start_and_stop_first_what_the_percentages_allow() {
    // (desired, minimum, maximum, old stopped at once, new started at once)
    for (desired, minimum, maximum, stopped, started) in
        [(4, 50, 200, 2, 4), (2, 75, 200, 0, 2), (3, 100, 200, 0, 3), (4, 0, 100, 4, 0)]
    {
        let mut world = rested(service(desired, minimum, maximum));
        world.act(&Action::Deploy { bad: false });
        let old = world.count(|m| m.phase == Phase::Stopping);
        let new = world.count(|m| m.phase == Phase::Pending);
        assert_eq!((old, new), (stopped, started), "{desired} {minimum}/{maximum}");
        world.pass(60);
        assert!(world.is_at_rest());
    }
}

#[test]
fn percentages_that_allow_nothing_are_told_once() {
    for (desired, minimum, maximum) in [(2, 100, 100), (3, 100, 125), (2, 75, 100)] {
        let mut world = rested(service(desired, minimum, maximum));
        let before = world.starts;
        world.act(&Action::Deploy { bad: false });
        world.pass(60);
        assert_eq!(world.starts, before);
        let blocked = Message::Blocked.text("web");
        assert_eq!(messages(&world).iter().filter(|text| **text == blocked).count(), 1);
        // A change of the percentages lets it go on.
        world.service.maximum_percent = 200;
        world.pass(60);
        assert!(world.is_at_rest());
    }
}

#[test]
fn draining_replaces_what_runs_first_and_stops_what_is_pending() {
    let mut world = rested(service(2, 100, 200));
    world.act(&Action::Drain(0));
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 0);
    assert_eq!(world.count(|m| m.phase == Phase::Pending), 1);
    world.pass(START.try_into().unwrap());
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 0, "its successor is not settled");
    world.pass(30);
    assert!(world.is_at_rest());

    let mut world = World::new(service(2, 100, 200));
    world.settle();
    world.act(&Action::Drain(0));
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 1);
    assert_eq!(world.count(|m| m.phase == Phase::Pending), 2);
}

#[test]
fn an_unhealthy_task_is_replaced_before_it_stops_if_there_is_room() {
    let mut world = rested(service(2, 50, 200));
    world.act(&Action::Sicken(0));
    assert_eq!(world.count(|m| m.phase == Phase::Pending), 1);
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 0);
    world.pass(30);
    assert!(world.is_at_rest());

    let mut world = rested(service(2, 50, 100));
    world.act(&Action::Sicken(0));
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 1);
    assert!(
        messages(&world).contains(&"(service web) (task t00001) failed container health checks.")
    );
    world.pass(30);
    assert!(world.is_at_rest());
}

#[test]
fn protected_tasks_outlive_scaling_in_until_their_protection_ends() {
    let mut world = rested(service(3, 100, 200));
    for number in 0..3 {
        world.act(&Action::Protect(number));
    }
    world.act(&Action::Scale(1));
    assert_eq!(world.count(|m| m.is_alive()), 3);
    assert!(world.settle().is_some(), "the end of the protection is waited for");
    world.pass(40);
    assert_eq!(world.count(|m| m.is_alive()), 1);
}

#[test]
fn failed_starts_wait_longer_and_longer() {
    let waits: Vec<Option<i64>> =
        (0..12).map(|n| deployment::wait(n).map(|wait| wait.as_secs())).collect();
    let of = |seconds: &[i64]| seconds.iter().map(|s| Some(*s)).collect::<Vec<_>>();
    assert_eq!(waits[..2], [None, None]);
    assert_eq!(waits[2..], of(&[10, 20, 40, 80, 160, 320, 640, 900, 900, 900]));
    assert_eq!(deployment::wait(u32::MAX).unwrap().as_secs(), 900);

    let mut world = World::new(service(1, 100, 200));
    world.bad.insert(1);
    world.settle();
    world.pass(3600);
    assert!((5..12).contains(&world.starts), "{} starts in an hour", world.starts);
    let throttled = Message::Throttled.text("web");
    assert_eq!(messages(&world).iter().filter(|text| **text == throttled).count(), 1);
    assert_eq!(world.service.deployments[0].rollout, Rollout::InProgress);
    // Another definition starts at once.
    world.act(&Action::Deploy { bad: false });
    assert_eq!(world.count(|m| m.phase == Phase::Pending), 1);
    world.pass(30);
    assert!(world.is_at_rest());
}

#[test]
fn what_ran_and_died_is_replaced_at_once() {
    let mut world = rested(service(1, 100, 200));
    for _ in 0..10 {
        world.act(&Action::Die(0));
        assert_eq!(world.count(|m| m.phase == Phase::Pending), 1);
        world.pass(4);
    }
    assert_eq!(world.service.deployments[0].failed_tasks, 0, "it was complete before");
}

#[test]
fn thresholds() {
    for (desired, expected) in [(1, 3), (25, 13), (400, 200), (800, 200), (0, 3)] {
        assert_eq!(deployment::threshold(desired), expected);
    }
}

#[test]
fn the_breaker_goes_back_and_keeps_the_old_tasks() {
    let mut first = service(2, 100, 200);
    first.circuit_breaker = breaker(true);
    let mut world = rested(first);
    let old: Vec<String> = world.members.keys().cloned().collect();
    world.act(&Action::Deploy { bad: true });
    let failed = world.service.deployments[0].id.clone();
    world.pass(120);
    assert!(world.is_at_rest(), "{:#?}", world.service);
    assert_eq!(world.service.deployments[0].id, "first");
    assert!(old.iter().all(|id| world.members[id].is_healthy()));
    let told = messages(&world);
    for expected in [
        format!("(service web) (deployment {failed}) deployment failed: tasks failed to start."),
        "(service web) rolling back to deployment first.".to_owned(),
    ] {
        assert!(told.contains(&expected.as_str()), "{told:?}");
    }
}

#[test]
fn the_breaker_goes_back_to_a_deployment_that_left() {
    let mut first = service(2, 0, 100);
    first.circuit_breaker = breaker(true);
    let mut world = rested(first);
    world.act(&Action::Deploy { bad: true });
    world.pass(120);
    assert!(world.is_at_rest(), "{:#?}", world.service);
    assert_eq!(world.service.deployments[0].definition, definition(1));
    assert_ne!(world.service.deployments[0].id, "first");
}

#[test]
fn a_rollback_that_fails_is_the_end() {
    for minimum in [0, 100] {
        let mut first = service(2, minimum, 200);
        first.circuit_breaker = breaker(true);
        let mut world = rested(first);
        world.act(&Action::Deploy { bad: true });
        // What worked before does not work any more, and what ran of it dies.
        world.bad.insert(1);
        for _ in 0..2 {
            world.act(&Action::Die(0));
        }
        world.pass(600);
        let primary = world.service.deployments[0].clone();
        assert_eq!((primary.rollout, primary.definition), (Rollout::Failed, definition(1)));
        let before = world.starts;
        world.pass(600);
        assert_eq!(world.starts, before);
        assert!(world.service.deployments.len() <= 2);
    }
}

#[test]
fn without_rollback_a_failed_deployment_stays_and_spares_the_old_tasks() {
    let mut first = service(2, 100, 200);
    first.circuit_breaker = breaker(false);
    let mut world = rested(first);
    world.act(&Action::Deploy { bad: true });
    world.pass(300);
    assert_eq!(world.service.deployments[0].rollout, Rollout::Failed);
    assert_eq!(
        world.service.deployments[0].rollout_reason,
        "ECS deployment circuit breaker: tasks failed to start."
    );
    assert_eq!(world.service.deployments[1].status, DeploymentStatus::Active);
    assert_eq!(world.up(), 2);
    world.act(&Action::Deploy { bad: false });
    world.pass(60);
    assert!(world.is_at_rest());
}

#[test]
fn crashes_before_tasks_are_healthy_trip_the_breaker() {
    let mut first = service(1, 100, 200);
    first.circuit_breaker = breaker(false);
    let mut world = World::new(first);
    world.settle();
    for _ in 0..3 {
        world.pass(4);
        world.act(&Action::Die(0));
    }
    assert_eq!(world.service.deployments[0].rollout, Rollout::Failed);
    assert_eq!(world.service.deployments[0].failed_tasks, 3);
}

#[test]
fn a_deleted_service_stops_everything_and_ends() {
    let mut world = rested(service(2, 100, 200));
    world.service.status = ServiceStatus::Draining;
    world.service.desired_count = 0;
    world.settle();
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 2);
    assert_eq!(world.service.status, ServiceStatus::Inactive);
    assert!(messages(&world)[0].starts_with("(service web) has stopped 2 running tasks: (task "));
}

#[test]
fn full_instances_do_not_keep_a_daemon_from_the_others() {
    let mut service = service(0, 0, 100);
    let mut sites: Vec<Site> =
        (100..160).map(|number| Site { has_room: false, ..site(number, Fit::Eligible) }).collect();
    sites.extend((160..163).map(|number| site(number, Fit::Eligible)));
    let mut draws = Draws::new([1; 32]);
    let plan = daemon::plan(&mut service, &[], &sites, true, at(0), &mut draws);
    assert_eq!(plan.starts.iter().take(4).collect::<Vec<_>>(), ["i160", "i161", "i162", "i100"]);
}

#[test]
fn a_daemon_replaces_a_task_only_after_it_has_stopped() {
    let mut world = World::new(service(0, 0, 100));
    world.sites = vec![site(0, Fit::Eligible), site(1, Fit::Waits)];
    world.settle();
    assert_eq!((world.service.desired_count, world.made), (1, 1), "the one that is away waits");
    world.pass(30);
    world.act(&Action::Deploy { bad: false });
    assert_eq!(world.count(|m| m.phase == Phase::Stopping), 1);
    assert_eq!(world.made, 1);
    world.pass(30);
    assert_eq!(world.made, 2);
    world.sites[1].fit = Fit::Eligible;
    world.pass(30);
    assert_eq!(world.service.desired_count, 2);
    // Its agent leaves: the task stays. It drains: the task stops.
    world.sites[1].fit = Fit::Waits;
    world.pass(5);
    assert_eq!(world.count(|m| m.is_alive() && m.instance == "i1"), 1);
    world.sites[1].fit = Fit::Excluded;
    world.pass(5);
    assert_eq!(world.count(|m| m.is_live() && m.instance == "i1"), 0);
    assert_eq!(world.service.desired_count, 1);
}

#[test]
fn lasting_states_are_told_every_six_hours() {
    let mut service = service(1, 100, 200);
    let mut draws = Draws::new([1; 32]);
    let none = Message::NoRoom { reason: "No room.".to_owned() };
    let hour = 3600;
    for (hours, message, expected) in [
        (0, &none, true),
        (1, &none, false),
        (5, &none, false),
        (6, &none, true),
        (7, &Message::Steady, true),
        (8, &none, true),
        (9, &Message::Steady, true),
        (10, &Message::Steady, false),
        (15, &Message::Steady, true),
    ] {
        let told = tell(&mut service, message, at(hours * hour), &mut draws);
        assert_eq!(told, expected, "after {hours} hours: {message:?}");
    }
    assert_eq!(events::steady_again(&service), Some(at(21 * hour)));
    for number in 0..200 {
        let message = Message::StoppedPending { count: number };
        assert!(tell(&mut service, &message, at(0), &mut draws));
    }
    assert_eq!(service.events.len(), events::KEPT);
}

#[test]
fn another_closest_instance_is_nothing_new() {
    let mut service = service(1, 100, 200);
    let mut draws = Draws::new([1; 32]);
    for (instance, lack, expected) in
        [("a", "CPU units", true), ("b", "CPU units", false), ("b", "memory", true)]
    {
        let reason = format!("The closest matching (container-instance {instance}) has no {lack}.");
        let told = tell(&mut service, &Message::NoRoom { reason }, at(0), &mut draws);
        assert_eq!(told, expected, "{instance} {lack}");
    }
}

#[test]
fn long_lists_of_tasks_are_cut() {
    let tasks: Vec<String> = (0..50).map(|number| format!("{number:032x}")).collect();
    let text = Message::Started { tasks }.text("web");
    assert!(text.starts_with("(service web) has started 50 tasks: (task 0000"), "{text}");
    assert!(text.ends_with(" and 30 more."), "{text}");
    assert!(text.len() < 1000);
}
