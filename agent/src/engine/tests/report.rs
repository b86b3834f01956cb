//! What a control plane is told, case by case.

use super::super::report::Report;
use super::*;

fn ecs_world(containers: Vec<ContainerDefinition>) -> World {
    let mut world = World::new();
    let new = NewTask {
        ecs: Some(Box::default()),
        ..new_task(1, definition(NetworkMode::Bridge, containers))
    };
    world.event(Event::Run(Box::new(new)));
    world
}

fn now(world: &World) -> Report {
    match due(world.task(1), world.now) {
        Due::Now(report) => report,
        other => panic!("{other:?}"),
    }
}

fn tell(world: &mut World) -> Report {
    let report = now(world);
    world.event(Event::Task { task: id(1), event: TaskEvent::Sent(report.sent()) });
    report
}

fn later(world: &World, seconds: i64) -> Timestamp {
    world.now.checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

use Reported::{Pending, Running, Stopped};

#[test]
fn a_task_of_this_host_alone_is_told_to_nobody() {
    let mut world = World::new();
    world.run(1, definition(NetworkMode::None, vec![container("a", true, &[])]));
    world.settle(1);
    assert_eq!(due(world.task(1), world.now), Due::Nothing);
}

#[test]
fn running_and_stopped_are_due_at_once() {
    let mut world = ecs_world(vec![container("a", true, &[]), container("b", false, &[])]);
    assert_eq!(due(world.task(1), world.now), Due::Nothing);
    world.settle(1);
    let report = tell(&mut world);
    assert_eq!((report.status, report.reason), (Running, None));
    assert_eq!(report.containers, [(0, Running), (1, Running)]);
    assert_eq!(due(world.task(1), world.now), Due::Nothing);
    world.exit(1, 0, 3);
    world.signals();
    world.exit(1, 1, 0);
    world.settle(1);
    let report = tell(&mut world);
    assert_eq!((report.status, report.reason), (Stopped, None), "the control plane derives it");
    assert_eq!(report.containers, [(0, Stopped), (1, Stopped)]);
    assert_eq!(report.execution_stopped_at, Some(world.now));
    assert_eq!(due(world.task(1), world.now), Due::Nothing);
}

#[test]
fn pending_is_told_only_where_a_task_takes_its_time() {
    let mut world = ecs_world(vec![
        container("a", true, &[]),
        container("b", true, &[("a", Condition::Start)]),
    ]);
    let resolve = world
        .pending
        .iter()
        .position(|effect| effect.action == Action::ResolveImage { container: 1 });
    let effect = world.pending.remove(resolve.unwrap());
    world.succeed(1, effect);
    assert_eq!(due(world.task(1), world.now), Due::At(later(&world, 1)));
    world.pass(1);
    let report = tell(&mut world);
    assert_eq!((report.status, report.containers), (Pending, vec![(1, Pending)]));
    assert_eq!(due(world.task(1), world.now), Due::Nothing);
    world.settle(1);
    assert_eq!(tell(&mut world).containers, [(0, Running), (1, Running)]);
}

#[test]
fn a_sidecar_that_ends_is_told_after_a_moment() {
    let mut world = ecs_world(vec![container("a", true, &[]), container("b", false, &[])]);
    world.settle(1);
    tell(&mut world);
    world.exit(1, 1, 1);
    assert_eq!(due(world.task(1), world.now), Due::At(later(&world, 2)));
    world.pass(2);
    let report = tell(&mut world);
    assert_eq!((report.status, report.containers), (Running, vec![(1, Stopped)]));
}

#[test]
fn a_task_that_ran_unseen_is_told_to_have_started() {
    let mut world = ecs_world(vec![container("a", true, &[])]);
    world.settle(1);
    world.exit(1, 0, 0);
    world.settle(1);
    let report = tell(&mut world);
    assert_eq!((report.status, report.containers), (Running, vec![(0, Running)]));
    let report = tell(&mut world);
    assert_eq!((report.status, report.containers), (Stopped, vec![(0, Stopped)]));
}

#[test]
fn reasons_that_the_control_plane_cannot_know() {
    // It could not start.
    let mut world = ecs_world(vec![container("a", true, &[])]);
    let generation = world.pending[0].generation;
    let reason = "CannotPullContainerError: no".to_owned();
    let event = ContainerEvent::ImageFailed { generation, reason: reason.clone() };
    world.event(Event::Container { task: id(1), container: 0, event });
    world.settle(1);
    assert_eq!(now(&world).reason, Some(reason));
    // Stopped by the control plane, and by somebody here.
    for (event, expected) in [
        (TaskEvent::StopRequested, None),
        (
            TaskEvent::Stop { reason: Some("because".to_owned()), kill: false, timeout: None },
            Some("because".to_owned()),
        ),
    ] {
        let mut world = ecs_world(vec![container("a", true, &[])]);
        world.settle(1);
        tell(&mut world);
        world.event(Event::Task { task: id(1), event });
        world.signals();
        world.exit(1, 0, 143);
        world.settle(1);
        assert_eq!(now(&world).reason, expected);
    }
}

#[test]
fn a_task_is_kept_until_its_end_was_told() {
    let mut world = ecs_world(vec![container("a", true, &[])]);
    world.settle(1);
    tell(&mut world);
    world.exit(1, 0, 0);
    world.settle(1);
    world.event(Event::Task { task: id(1), event: TaskEvent::Remove });
    world.pass(4 * 3600);
    world.settle(1);
    assert_eq!(world.host.tasks.len(), 1);
    tell(&mut world);
    world.settle(1);
    assert!(world.host.tasks.is_empty());
    // Not for ever.
    let mut world = ecs_world(vec![container("a", true, &[])]);
    world.event(Event::Task { task: id(1), event: TaskEvent::StopRequested });
    world.settle(1);
    world.pass(72 * 3600 - 1);
    world.settle(1);
    assert_eq!(world.host.tasks.len(), 1);
    world.pass(1);
    world.settle(1);
    assert!(world.host.tasks.is_empty());
}

#[test]
fn a_task_that_cannot_be_used_only_ends() {
    let mut world = World::new();
    let reason = "UnrecogniedTaskError: Error loading task - no".to_owned();
    let new = NewTask {
        ecs: Some(Box::default()),
        ended: Some((StopCode::TaskFailedToStart, reason.clone())),
        ..new_task(1, definition(NetworkMode::None, vec![]))
    };
    world.event(Event::Run(Box::new(new)));
    assert!(world.issued.is_empty());
    let report = tell(&mut world);
    assert_eq!((report.status, report.reason), (Stopped, Some(reason)));
    // One that was to be stopped before it came, with its containers; nothing of it was leased.
    let new = NewTask {
        ecs: Some(Box::new(EcsTask { stop_requested: true, ..EcsTask::default() })),
        ended: Some((StopCode::UserInitiated, "stopped".to_owned())),
        ..new_task(2, definition(NetworkMode::Awsvpc, vec![container("a", true, &[])]))
    };
    world.event(Event::Run(Box::new(new)));
    assert!(world.issued.is_empty());
    let Due::Now(report) = due(world.task(2), world.now) else { panic!("nothing due") };
    assert_eq!((report.status, report.reason), (Stopped, None));
    assert_eq!(report.containers, [(0, Stopped)]);
    assert_eq!(world.task(2).address, None);
}

#[test]
fn newer_credentials_replace_the_ids() {
    let mut world = ecs_world(vec![container("a", true, &[])]);
    for (task, execution) in [(Some("1"), Some("2")), (None, Some("3"))] {
        let event = TaskEvent::Credentials {
            task: task.map(str::to_owned),
            execution: execution.map(str::to_owned),
        };
        world.event(Event::Task { task: id(1), event });
    }
    let ecs = world.task(1).ecs.as_ref().unwrap();
    assert_eq!(ecs.task_credentials.as_deref(), Some("1"));
    assert_eq!(ecs.execution_credentials.as_deref(), Some("3"));
}

#[test]
fn ids_that_containers_were_told_stay_known_and_no_others() {
    let mut ecs = EcsTask { task_credentials: Some("unused".to_owned()), ..EcsTask::default() };
    let renew = |ecs: &mut EcsTask, id: &str, created| {
        ecs.renew(Some(id.to_owned()), None, created);
    };
    renew(&mut ecs, "first", 0);
    assert!(!ecs.has_told("unused"), "no container was told it");
    for n in 0..1000 {
        renew(&mut ecs, &format!("{n}"), 1);
        renew(&mut ecs, &format!("{n}"), 1);
    }
    assert!(ecs.has_told("first") && ecs.has_told("999"));
    assert!(ecs.former_task_credentials.len() <= 2, "bounded by the containers");
    renew(&mut ecs, "next", 2);
    assert!(ecs.has_told("999"), "the second container was told it");
    let stored = serde_json::to_value(&ecs).unwrap();
    assert_eq!(serde_json::from_value::<EcsTask>(stored).unwrap(), ecs);
}
