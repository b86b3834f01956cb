//! The engine against tables of cases and against a random world that fails and forgets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use protocol::ids::TaskId;
use protocol::monitor::{ContainerFacts, Exit, Status};
use protocol::taskdef::{
    Condition, ContainerDefinition, Dependency, NetworkMode, PortMapping, TaskDefinition,
    TransportProtocol,
};

use super::report::{Due, due};
use super::*;
use crate::api::types::PullPolicy;
use crate::fixtures;

mod report;

fn container(name: &str, essential: bool, depends_on: &[(&str, Condition)]) -> ContainerDefinition {
    let depends_on = depends_on.iter().map(|(container, condition)| Dependency {
        container: (*container).to_owned(),
        condition: *condition,
    });
    ContainerDefinition {
        memory: Some(64),
        essential,
        depends_on: depends_on.collect(),
        ..fixtures::container(name, "busybox")
    }
}

fn definition(network_mode: NetworkMode, containers: Vec<ContainerDefinition>) -> TaskDefinition {
    TaskDefinition::of("test".to_owned(), network_mode, containers)
}

fn id(number: u128) -> TaskId {
    TaskId::from_random(number)
}

fn new_task(number: u128, definition: TaskDefinition) -> NewTask {
    NewTask {
        id: id(number),
        definition,
        pull: PullPolicy::Missing,
        remove: false,
        busy_ports: BTreeSet::new(),
        ecs: None,
        ended: None,
        endpoints: Vec::new(),
    }
}

fn start_of_time() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// A world in which effects succeed when asked to; containers run until told otherwise.
struct World {
    host: Host,
    now: Timestamp,
    pending: Vec<Effect>,
    /// Everything ever issued, for order checks.
    issued: Vec<Action>,
}

impl World {
    fn new() -> Self {
        Self {
            host: Host::new(fixtures::settings()),
            now: start_of_time(),
            pending: vec![],
            issued: vec![],
        }
    }

    fn event(&mut self, event: Event) {
        let outcome = step(&mut self.host, event, self.now);
        self.issued.extend(outcome.effects.iter().map(|effect| effect.action.clone()));
        self.pending.extend(outcome.effects);
    }

    fn run(&mut self, number: u128, definition: TaskDefinition) {
        self.event(Event::Run(Box::new(new_task(number, definition))));
    }

    fn pass(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self.event(Event::Wake);
    }

    fn exit(&mut self, number: u128, container: usize, code: i32) {
        let exit = Exit { code: Some(code), signal: None, oom_killed: false, at: self.stamp() };
        self.facts(number, container, Status::Stopped, Some(exit));
    }

    fn facts(&mut self, number: u128, container: usize, status: Status, exit: Option<Exit>) {
        let facts = self.made(number, container, status, exit);
        let event = ContainerEvent::Observed(facts);
        self.event(Event::Container { task: id(number), container, event });
    }

    fn made(
        &self,
        number: u128,
        container: usize,
        status: Status,
        exit: Option<Exit>,
    ) -> ContainerFacts {
        ContainerFacts {
            container: self.task(number).containers[container].name.clone(),
            status,
            pid: Some(100),
            started_at: (status != Status::Created).then(|| self.stamp()),
            exit,
        }
    }

    fn stamp(&self) -> u64 {
        u64::try_from(self.now.as_nanosecond()).unwrap()
    }

    fn task(&self, number: u128) -> &Task {
        &self.host.tasks[&id(number)]
    }

    /// Lets every effect succeed, but signals, until nothing is left to do.
    fn settle(&mut self, number: u128) {
        while let Some(position) =
            self.pending.iter().position(|effect| !matches!(effect.action, Action::Signal { .. }))
        {
            let effect = self.pending.remove(position);
            self.succeed(number, effect);
        }
    }

    fn succeed(&mut self, number: u128, effect: Effect) {
        let Effect { task, generation, action } = effect;
        match action {
            Action::ResolveImage { container } => {
                let event = ContainerEvent::ImageReady {
                    generation,
                    id: "sha256:1".to_owned(),
                    digest: Some("sha256:2".to_owned()),
                };
                self.event(Event::Container { task, container, event });
            }
            Action::CreateResources => {
                self.event(Event::Task { task, event: TaskEvent::ResourcesReady { generation } })
            }
            Action::CreateContainer { container } => {
                let facts = self.made(number, container, Status::Created, None);
                self.event(Event::Container {
                    task,
                    container,
                    event: ContainerEvent::Created { generation, facts },
                });
            }
            Action::StartContainer { container } => {
                self.facts(number, container, Status::Running, None)
            }
            Action::Release => {
                self.event(Event::Task { task, event: TaskEvent::Released { generation } })
            }
            Action::Remove => self.event(Event::Task { task, event: TaskEvent::Removed }),
            Action::CancelPull { .. } | Action::Signal { .. } => {}
        }
    }

    /// The signals issued and not yet looked at, as (container, kill).
    fn signals(&mut self) -> Vec<(usize, bool)> {
        let (signals, rest): (Vec<Effect>, Vec<Effect>) = self
            .pending
            .drain(..)
            .partition(|effect| matches!(effect.action, Action::Signal { .. }));
        self.pending = rest;
        signals
            .into_iter()
            .filter_map(|effect| match effect.action {
                Action::Signal { container, kill } => Some((container, kill)),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn one_container_runs_and_its_end_ends_the_task() {
    let mut world = World::new();
    world.run(1, definition(NetworkMode::Awsvpc, vec![container("web", true, &[])]));
    assert_eq!(world.task(1).last_status(), "PROVISIONING");
    assert_eq!(world.task(1).address, Some("10.147.0.2".parse().unwrap()));
    world.settle(1);
    assert_eq!(world.task(1).last_status(), "RUNNING");
    world.exit(1, 0, 7);
    assert_eq!(world.task(1).exit_code, Some(7));
    world.settle(1);
    let task = world.task(1);
    assert_eq!(task.last_status(), "STOPPED");
    assert_eq!(task.stop.as_ref().unwrap().code, StopCode::EssentialContainerExited);
    world.pass(3601);
    world.settle(1);
    assert!(world.host.tasks.is_empty());
}

#[test]
fn the_id_of_a_removed_task_is_spent_for_a_while() {
    let web = || definition(NetworkMode::None, vec![container("web", true, &[])]);
    let mut world = World::new();
    let ran = |world: &mut World, number| {
        world.settle(number);
        world.exit(number, 0, 0);
        world.settle(number);
    };
    world.run(1, web());
    ran(&mut world, 1);
    world.pass(3601);
    world.settle(1);
    assert!(world.host.tasks.is_empty());
    // Who lost the answer asks again.
    world.run(1, web());
    assert!(world.host.tasks.is_empty() && world.pending.is_empty());
    // A control plane says itself what is to run.
    let ecs = Some(Box::default());
    world.event(Event::Run(Box::new(NewTask { ecs, ..new_task(2, web()) })));
    ran(&mut world, 2);
    world.pass(72 * 3600 + 1);
    let removed = Event::Task { task: id(2), event: TaskEvent::Removed };
    let outcome = step(&mut world.host, removed, world.now);
    assert_eq!(outcome.changed, [id(1), id(2)].into(), "the first is forgotten");
    assert!(world.host.spent.is_empty());
    world.run(1, web());
    assert!(world.host.tasks.contains_key(&id(1)));
}

#[test]
fn dependents_wait_for_their_condition() {
    for (condition, code, runs) in [
        (Condition::Success, 0, true),
        (Condition::Success, 1, false),
        (Condition::Complete, 0, true),
        (Condition::Complete, 1, true),
    ] {
        let mut world = World::new();
        world.run(
            1,
            definition(
                NetworkMode::None,
                vec![container("init", false, &[]), container("web", true, &[("init", condition)])],
            ),
        );
        world.settle(1);
        assert_eq!(world.task(1).containers[1].life, Life::Waiting, "{condition:?}");
        world.exit(1, 0, code);
        world.settle(1);
        assert_eq!(world.task(1).containers[1].life == Life::Running, runs, "{condition:?} {code}");
        if !runs {
            let task = world.task(1);
            assert_eq!(task.last_status(), "STOPPED");
            assert_eq!(task.exit_code, None);
            assert_eq!(
                task.stop.as_ref().unwrap().reason,
                "TaskDependencyError: container web depends on SUCCESS of init, which exited with code 1"
            );
        }
    }
}

#[test]
fn stop_goes_in_reverse_order_then_kills() {
    let mut world = World::new();
    let mut last = container("c", true, &[("b", Condition::Start)]);
    last.stop_timeout = Some(5);
    world.run(
        1,
        definition(
            NetworkMode::None,
            vec![container("a", true, &[]), container("b", true, &[("a", Condition::Start)]), last],
        ),
    );
    world.settle(1);
    assert_eq!(world.task(1).last_status(), "RUNNING");
    world.event(Event::Task {
        task: id(1),
        event: TaskEvent::Stop { reason: None, kill: false, timeout: None },
    });
    assert_eq!(world.signals(), vec![(2, false)]);
    assert_eq!(
        next_wake(&world.host, world.now),
        world.now.checked_add(SignedDuration::from_secs(5)).ok()
    );
    world.pass(5);
    assert_eq!(world.signals(), vec![(2, true)]);
    world.exit(1, 2, 137);
    assert_eq!(world.signals(), vec![(1, false)]);
    world.exit(1, 1, 0);
    assert_eq!(world.signals(), vec![(0, false)]);
    world.pass(29);
    assert_eq!(world.signals(), vec![]);
    world.pass(1);
    assert_eq!(world.signals(), vec![(0, true)]);
    world.exit(1, 0, 137);
    world.settle(1);
    assert_eq!(world.task(1).last_status(), "STOPPED");
    assert_eq!(world.task(1).exit_code, Some(137));
    assert_eq!(world.task(1).stop.as_ref().unwrap().code, StopCode::UserInitiated);
}

#[test]
fn second_stop_kills_all_at_once() {
    let mut world = World::new();
    world.run(
        1,
        definition(
            NetworkMode::None,
            vec![container("a", true, &[]), container("b", true, &[("a", Condition::Start)])],
        ),
    );
    world.settle(1);
    let stop = |kill| Event::Task {
        task: id(1),
        event: TaskEvent::Stop { reason: None, kill, timeout: None },
    };
    world.event(stop(false));
    assert_eq!(world.signals(), vec![(1, false)]);
    world.event(stop(true));
    assert_eq!(world.signals(), vec![(0, true), (1, true)]);
}

#[test]
fn start_timeout_gives_up_dependents() {
    let mut world = World::new();
    let mut slow = container("slow", false, &[]);
    slow.start_timeout = Some(10);
    world.run(
        1,
        definition(
            NetworkMode::None,
            vec![slow, container("web", true, &[("slow", Condition::Complete)])],
        ),
    );
    world.settle(1);
    world.pass(9);
    assert_eq!(world.task(1).desired, Desired::Running);
    world.pass(1);
    assert_eq!(world.task(1).desired, Desired::Stopped);
    assert_eq!(world.task(1).stop.as_ref().unwrap().code, StopCode::TaskFailedToStart);
    assert_eq!(world.signals(), vec![(0, false)]);
}

#[test]
fn failed_image_stops_the_task_before_anything_ran() {
    let mut world = World::new();
    world.run(1, definition(NetworkMode::Bridge, vec![container("web", true, &[])]));
    let generation = world
        .pending
        .iter()
        .find(|e| matches!(e.action, Action::ResolveImage { .. }))
        .unwrap()
        .generation;
    world.pending.retain(|e| !matches!(e.action, Action::ResolveImage { .. }));
    let reason = "CannotPullContainerError: no such image".to_owned();
    world.event(Event::Container {
        task: id(1),
        container: 0,
        event: ContainerEvent::ImageFailed { generation, reason: reason.clone() },
    });
    world.settle(1);
    let task = world.task(1);
    assert_eq!(task.last_status(), "STOPPED");
    assert_eq!(task.stop.as_ref().unwrap().reason, reason);
    assert!(world.issued.contains(&Action::Release));
    assert!(!world.issued.iter().any(|action| matches!(action, Action::CreateContainer { .. })));
}

#[test]
fn an_image_that_must_be_the_registrys_stops_the_task_whatever_its_container_is_for() {
    for (pull, stops) in [
        (PullPolicy::Refresh, false),
        (PullPolicy::Missing, false),
        (PullPolicy::Once, true),
        (PullPolicy::Always, true),
    ] {
        let mut world = World::new();
        let containers = vec![container("web", true, &[]), container("side", false, &[])];
        world.run(1, definition(NetworkMode::Bridge, containers));
        world.host.tasks.get_mut(&id(1)).unwrap().pull = pull;
        let resolves = Action::ResolveImage { container: 1 };
        let at = world.pending.iter().position(|effect| effect.action == resolves).unwrap();
        let generation = world.pending.remove(at).generation;
        let reason = "CannotPullContainerError: no such image".to_owned();
        world.event(Event::Container {
            task: id(1),
            container: 1,
            event: ContainerEvent::ImageFailed { generation, reason: reason.clone() },
        });
        world.settle(1);
        let task = world.task(1);
        assert_eq!(task.containers[1].reason.as_deref(), Some(reason.as_str()));
        assert_eq!(task.stop.as_ref().map(|stop| stop.reason.as_str()), stops.then_some(&*reason));
        if stops {
            assert_eq!(task.stop.as_ref().unwrap().code, StopCode::TaskFailedToStart);
        }
    }
}

fn publishing(ports: &[(u16, u16)]) -> ContainerDefinition {
    let mut web = container("web", true, &[]);
    web.port_mappings = ports
        .iter()
        .map(|(container_port, host_port)| PortMapping {
            container_port: *container_port,
            host_port: *host_port,
            protocol: TransportProtocol::Tcp,
        })
        .collect();
    web
}

#[test]
fn ports_are_leased_once_and_given_back() {
    let mut world = World::new();
    world.run(1, definition(NetworkMode::Bridge, vec![publishing(&[(80, 8080), (81, 0)])]));
    assert_eq!(
        world.task(1).containers[0].ports.iter().map(|lease| lease.host_port).collect::<Vec<_>>(),
        vec![8080, 50_000]
    );
    world.run(2, definition(NetworkMode::Bridge, vec![publishing(&[(80, 8080)])]));
    assert_eq!(
        world.task(2).stop.as_ref().unwrap().reason,
        format!(
            "ResourceInitializationError: container web: host port 8080/tcp is in use by task {}",
            id(1)
        )
    );
    assert_eq!(world.task(2).last_status(), "STOPPED");
    world.pending.retain(|effect| effect.task == id(1));
    world.settle(1);
    world.exit(1, 0, 0);
    world.settle(1);
    world.run(3, definition(NetworkMode::Bridge, vec![publishing(&[(80, 8080)])]));
    assert_eq!(world.task(3).desired, Desired::Running);

    let mut busy = new_task(4, definition(NetworkMode::Host, vec![publishing(&[(22, 22)])]));
    busy.busy_ports.insert((TransportProtocol::Tcp, 22));
    world.event(Event::Run(Box::new(busy)));
    assert_eq!(
        world.task(4).stop.as_ref().unwrap().reason,
        "ResourceInitializationError: container web: host port 22/tcp is in use on this host"
    );
}

#[test]
fn what_was_freed_rests_longest() {
    let mut world = World::new();
    let mut addresses = Vec::new();
    for number in 1..=4 {
        world.now = world.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        world.run(number, definition(NetworkMode::Awsvpc, vec![container("web", true, &[])]));
        addresses.push(world.task(number).address.unwrap().octets()[3]);
        world.settle(number);
        world.exit(number, 0, 0);
        world.settle(number);
    }
    assert_eq!(addresses, [2, 3, 4, 5]);
}

#[test]
fn lost_tasks_end_with_unknown_exit_codes() {
    let mut world = World::new();
    world.run(1, definition(NetworkMode::None, vec![container("web", true, &[])]));
    world.settle(1);
    world.event(Event::Task {
        task: id(1),
        event: TaskEvent::Lost { reason: "host rebooted".to_owned() },
    });
    world.settle(1);
    let task = world.task(1);
    assert_eq!(task.last_status(), "STOPPED");
    assert_eq!(task.exit_code, None);
    assert_eq!(task.containers[0].reason.as_deref(), Some("host rebooted"));
}

// --- the random world ------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Act {
    /// Complete a pending effect (index modulo the number pending) well.
    Succeed(usize),
    Fail(usize),
    /// A running container ends.
    Exit(usize, i32),
    Stop {
        kill: bool,
    },
    Pass(i64),
    /// What is due is told to the control plane; the mark may get lost.
    Report {
        marked: bool,
    },
    /// The process dies and comes back: pending effects are forgotten, facts observed.
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => any::<usize>().prop_map(Act::Succeed),
        1 => any::<usize>().prop_map(Act::Fail),
        2 => (any::<usize>(), 0..3i32).prop_map(|(c, code)| Act::Exit(c, code)),
        1 => any::<bool>().prop_map(|kill| Act::Stop { kill }),
        2 => (1..40i64).prop_map(Act::Pass),
        2 => any::<bool>().prop_map(|marked| Act::Report { marked }),
        1 => Just(Act::Crash),
    ]
}

fn any_definition() -> impl Strategy<Value = TaskDefinition> {
    let one = (any::<bool>(), any::<[Option<u8>; 4]>(), proptest::option::of(2..20u32));
    proptest::collection::vec(one, 1..5).prop_map(|rows| {
        let mut containers: Vec<ContainerDefinition> = Vec::new();
        for (index, (essential, edges, start_timeout)) in rows.iter().enumerate() {
            let mut made = container(&format!("c{index}"), *essential || index == 0, &[]);
            made.start_timeout = *start_timeout;
            for (target, edge) in edges.iter().enumerate().take(index) {
                let Some(edge) = edge else { continue };
                let condition = match (edge % 3, containers[target].essential) {
                    (_, true) | (0, false) => Condition::Start,
                    (1, false) => Condition::Complete,
                    (_, false) => Condition::Success,
                };
                made.depends_on.push(Dependency { container: format!("c{target}"), condition });
            }
            containers.push(made);
        }
        definition(NetworkMode::Awsvpc, containers)
    })
}

fn rank(life: Life) -> u8 {
    match life {
        Life::Waiting | Life::Creating { .. } => 0,
        Life::Created | Life::Starting { .. } => 1,
        Life::Running => 2,
        Life::Stopped { .. } => 3,
    }
}

/// What the kernel and the monitor would know of the one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Real {
    Nothing,
    Created,
    Running,
    Stopped(Exit),
}

struct Chaos {
    world: World,
    real: Vec<Real>,
    /// What the control plane was told.
    told: Sent,
}

impl Chaos {
    fn check(&self, before: &Task) {
        let Some(task) = self.world.host.tasks.get(&id(1)) else { return };
        for (index, (old, new)) in before.containers.iter().zip(&task.containers).enumerate() {
            assert!(rank(old.life) <= rank(new.life), "container {index} went back");
            if old.life.is_stopped() {
                assert_eq!(old.life, new.life, "stopped is final");
            }
            let starts = !matches!(
                old.life,
                Life::Creating { .. }
                    | Life::Created
                    | Life::Starting { .. }
                    | Life::Running
                    | Life::Stopped { .. }
            ) && matches!(new.life, Life::Creating { .. });
            if starts {
                assert_eq!(task.resources, Resources::Ready);
                for dependency in &task.definition.containers[index].depends_on {
                    let target =
                        task.containers.iter().find(|c| c.name == dependency.container).unwrap();
                    let held = match (dependency.condition, target.life) {
                        (Condition::Start, Life::Running | Life::Stopped { exit: Some(_) }) => true,
                        (Condition::Complete, Life::Stopped { exit: Some(_) }) => true,
                        (Condition::Success, Life::Stopped { exit: Some(exit) }) => {
                            exit.code == Some(0)
                        }
                        _ => false,
                    };
                    assert!(held, "c{index} started before {dependency:?}");
                }
            }
        }
        let essential_ended = task
            .containers
            .iter()
            .zip(&task.definition.containers)
            .any(|(c, d)| d.essential && c.life.is_stopped());
        assert!(
            !essential_ended || task.desired == Desired::Stopped,
            "essential end stops the task"
        );
        if before.desired == Desired::Stopped {
            assert_eq!(task.desired, Desired::Stopped);
        }
        if before.exit_code.is_some() {
            assert_eq!(before.exit_code, task.exit_code);
        }
        // Released only when nothing of it can run.
        if matches!(task.resources, Resources::Releasing { .. } | Resources::Released) {
            assert!(task.all_containers_stopped());
        }
        // No two pending effects with one key, but signals, which escalate.
        let mut keys: Vec<&Action> =
            self.world.pending.iter().map(|effect| &effect.action).collect();
        keys.retain(|action| !matches!(action, Action::Signal { .. } | Action::CancelPull { .. }));
        for (position, key) in keys.iter().enumerate() {
            let cancelled = matches!(key, Action::ResolveImage { .. });
            assert!(cancelled || !keys[position + 1..].contains(key), "{key:?} issued twice");
        }
    }

    /// Tells the control plane what is due. False: nothing is.
    fn report(&mut self, marked: bool) -> bool {
        let Some(task) = self.world.host.tasks.get(&id(1)) else { return false };
        let Due::Now(report) = due(task, self.world.now) else { return false };
        let sent = report.sent();
        assert!(sent.task >= task.ecs.as_ref().unwrap().sent.task, "the task went back");
        self.told.raise(&sent);
        if marked {
            self.world.event(Event::Task { task: id(1), event: TaskEvent::Sent(sent) });
        }
        true
    }

    fn perform(&mut self, effect: Effect, well: bool) {
        let Effect { task, generation, action } = effect.clone();
        match action {
            Action::ResolveImage { container } if !well => {
                let event = ContainerEvent::ImageFailed { generation, reason: "no".to_owned() };
                self.world.event(Event::Container { task, container, event });
            }
            Action::CreateResources if !well => {
                let event = TaskEvent::ResourcesFailed { generation, reason: "no".to_owned() };
                self.world.event(Event::Task { task, event });
            }
            Action::CreateContainer { container } => {
                if self.real[container] == Real::Nothing && !well {
                    let event = ContainerEvent::CreateFailed {
                        generation,
                        reason: "no".to_owned(),
                        exit_code: Some(127),
                    };
                    self.world.event(Event::Container { task, container, event });
                } else {
                    if self.real[container] == Real::Nothing {
                        self.real[container] = Real::Created;
                    }
                    let facts = self.facts(container).unwrap();
                    self.world.event(Event::Container {
                        task,
                        container,
                        event: ContainerEvent::Created { generation, facts },
                    });
                }
            }
            Action::StartContainer { container } => {
                if self.real[container] == Real::Created {
                    self.real[container] = Real::Running;
                }
                self.observe(container);
            }
            Action::Signal { container, .. } => {
                if matches!(self.real[container], Real::Created | Real::Running) {
                    self.real[container] = Real::Stopped(Exit {
                        code: Some(137),
                        signal: Some(9),
                        oom_killed: false,
                        at: self.world.stamp(),
                    });
                    self.observe(container);
                }
            }
            Action::Release => {
                assert!(
                    self.real.iter().all(|real| !matches!(real, Real::Running | Real::Created)),
                    "released while something runs: {:?}",
                    self.real
                );
                self.world.succeed(1, effect);
            }
            _ => self.world.succeed(1, effect),
        }
    }

    fn facts(&self, container: usize) -> Option<ContainerFacts> {
        let (status, exit) = match self.real[container] {
            Real::Nothing => return None,
            Real::Created => (Status::Created, None),
            Real::Running => (Status::Running, None),
            Real::Stopped(exit) => (Status::Stopped, Some(exit)),
        };
        Some(self.world.made(1, container, status, exit))
    }

    fn observe(&mut self, container: usize) {
        if let Some(facts) = self.facts(container) {
            let event = ContainerEvent::Observed(facts);
            self.world.event(Event::Container { task: id(1), container, event });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_world_keeps_the_laws_and_every_task_ends(
        definition in any_definition(),
        acts in proptest::collection::vec(act(), 0..60),
    ) {
        let count = definition.containers.len();
        let mut chaos =
            Chaos { world: World::new(), real: vec![Real::Nothing; count], told: Sent::default() };
        let ecs = Some(Box::default());
        let new = NewTask { ecs, ..new_task(1, definition) };
        chaos.world.event(Event::Run(Box::new(new)));
        for act in acts {
            let Some(before) = chaos.world.host.tasks.get(&id(1)).cloned() else { break };
            match act {
                Act::Succeed(at) | Act::Fail(at) if !chaos.world.pending.is_empty() => {
                    let at = at % chaos.world.pending.len();
                    let effect = chaos.world.pending.remove(at);
                    chaos.perform(effect, matches!(act, Act::Succeed(_)));
                }
                Act::Exit(at, code) => {
                    let at = at % count;
                    if chaos.real[at] == Real::Running {
                        chaos.real[at] = Real::Stopped(Exit { code: Some(code), signal: None, oom_killed: false, at: chaos.world.stamp() });
                        chaos.observe(at);
                    }
                }
                Act::Stop { kill } => chaos.world.event(Event::Task {
                    task: id(1),
                    event: TaskEvent::Stop { reason: None, kill, timeout: None },
                }),
                Act::Pass(seconds) => chaos.world.pass(seconds),
                Act::Report { marked } => {
                    chaos.report(marked);
                }
                Act::Crash => {
                    chaos.world.pending.clear();
                    let stored = serde_json::to_string(&before).unwrap();
                    let loaded: Task = serde_json::from_str(&stored).unwrap();
                    prop_assert_eq!(&loaded, &before);
                    chaos.world.host.tasks.insert(id(1), loaded);
                    for container in 0..count {
                        chaos.observe(container);
                    }
                    chaos.world.event(Event::Recovered);
                    continue;
                }
                Act::Succeed(_) | Act::Fail(_) => {}
            }
            chaos.check(&before);
        }
        // From any state, a stop and a world that does its work end the task, and its end is told
        // before it is forgotten.
        chaos.world.event(Event::Task { task: id(1), event: TaskEvent::Stop { reason: None, kill: false, timeout: None } });
        for _ in 0..200 {
            if chaos.world.host.tasks.is_empty() { break; }
            match chaos.world.pending.pop() {
                Some(effect) => chaos.perform(effect, true),
                None if chaos.report(true) => {}
                None => {
                    let wake = next_wake(&chaos.world.host, chaos.world.now);
                    let wake = wake.expect("nothing pending and nothing to wait for, yet not ended");
                    chaos.world.now = chaos.world.now.max(wake);
                    chaos.world.event(Event::Wake);
                }
            }
        }
        prop_assert!(chaos.world.host.tasks.is_empty(), "not ended: {:?}", chaos.world.host.tasks);
        prop_assert_eq!(chaos.told.task, Some(Reported::Stopped));
        prop_assert_eq!(&chaos.told.containers, &vec![Some(Reported::Stopped); count]);
    }
}
