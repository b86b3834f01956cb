//! A service's task as the planners see it: what it is worth to the service now, and what its end
//! says of its deployment.
//!
//! *Healthy* is, without load balancers: HEALTHY where an essential container has a health check;
//! else RUNNING for a settling time. UNHEALTHY counts after the service's grace period.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::drain::Place;
use crate::model::{Definition, Desired, Health, Service, StopCode, Task, TaskStatus};

/// A task of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    /// Id of its deployment.
    pub deployment: String,
    /// Id of its instance.
    pub instance: String,
    pub phase: Phase,
    /// What is true of its instance.
    pub place: Place,
    pub protected_until: Option<Timestamp>,
    /// Its deployment has counted it.
    pub accounted: bool,
}

/// Where a task is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Wanted, not RUNNING yet.
    Pending,
    /// Wanted and RUNNING.
    Running(Condition),
    /// On its way to STOPPED, by whomever.
    Stopping,
    Stopped(End),
}

/// How a running task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Failed its health checks.
    Unhealthy,
    /// Not long enough RUNNING to be judged; `None`: its health checks have not answered.
    Settling {
        until: Option<Timestamp>,
    },
    Healthy,
}

/// What a task's end says of its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It stopped by itself before it was RUNNING.
    NeverRan,
    /// It was RUNNING and stopped by itself before it was healthy.
    BeforeHealthy,
    /// It was healthy and stopped by itself.
    AfterHealthy,
    /// It was stopped by a user, by the service or by its host's loss.
    Excused,
}

/// What holds for all tasks of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// An essential container has a health check.
    pub checked: bool,
    /// How long a task without health checks has to run.
    pub settle: SignedDuration,
    /// How long failed health checks are ignored.
    pub grace: SignedDuration,
}

impl Rules {
    /// The rules for tasks of a definition. Without it (it was deleted) as for one without health
    /// checks.
    pub fn new(service: &Service, definition: Option<&Definition>, settle: SignedDuration) -> Self {
        let grace = service.health_check_grace_period.unwrap_or(0);
        Self {
            checked: definition.is_some_and(|found| has_health_check(&found.registered)),
            settle,
            grace: SignedDuration::from_secs(grace.into()),
        }
    }
}

fn has_health_check(registered: &Value) -> bool {
    let containers = registered.get("containerDefinitions").and_then(Value::as_array);
    containers.into_iter().flatten().any(|container| {
        // ECS's default of `essential` is true.
        let essential = container.get("essential").and_then(Value::as_bool).unwrap_or(true);
        essential && container.get("healthCheck").is_some_and(Value::is_object)
    })
}

impl Member {
    /// The view of a task at `now`.
    pub fn new(task: &Task, rules: Rules, place: Place, now: Timestamp) -> Self {
        let phase = match (task.last, task.desired) {
            (TaskStatus::Stopped, _) => Phase::Stopped(end(task, rules)),
            (TaskStatus::Stopping | TaskStatus::Deprovisioning, _) | (_, Desired::Stopped) => {
                Phase::Stopping
            }
            (TaskStatus::Provisioning | TaskStatus::Pending, Desired::Running) => Phase::Pending,
            (TaskStatus::Running, Desired::Running) => Phase::Running(condition(task, rules, now)),
        };
        Self {
            id: task.id.clone(),
            deployment: task.deployment.clone().unwrap_or_default(),
            instance: task.instance.clone(),
            phase,
            place,
            protected_until: task.protected_until,
            accounted: task.accounted,
        }
    }

    /// Wanted and not stopped.
    pub fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Pending | Phase::Running(_))
    }

    /// It holds resources.
    pub fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Stopped(_))
    }

    pub fn is_healthy(&self) -> bool {
        self.phase == Phase::Running(Condition::Healthy)
    }

    pub fn is_unhealthy(&self) -> bool {
        self.phase == Phase::Running(Condition::Unhealthy)
    }

    /// It runs and nothing bad is known of it: users may depend on it.
    pub fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Running(Condition::Healthy | Condition::Settling { .. }))
    }

    pub fn is_protected(&self, now: Timestamp) -> bool {
        self.protected_until.is_some_and(|until| until > now)
    }

    /// When the passing of time changes what it is worth.
    pub fn changes_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Running(Condition::Settling { until }) => until,
            Phase::Running(Condition::Healthy | Condition::Unhealthy)
            | Phase::Pending
            | Phase::Stopping
            | Phase::Stopped(_) => None,
        }
    }
}

fn condition(task: &Task, rules: Rules, now: Timestamp) -> Condition {
    let running_since = task.started_at.unwrap_or(task.created_at);
    let settled = later(running_since, rules.settle);
    match task.health {
        Health::Healthy => Condition::Healthy,
        Health::Unhealthy => {
            let graced = later(running_since, rules.grace);
            if graced > now {
                Condition::Settling { until: Some(graced) }
            } else {
                Condition::Unhealthy
            }
        }
        Health::Unknown if rules.checked => Condition::Settling { until: None },
        Health::Unknown if settled > now => Condition::Settling { until: Some(settled) },
        Health::Unknown => Condition::Healthy,
    }
}

fn end(task: &Task, rules: Rules) -> End {
    let by_itself = match task.stop_code {
        None | Some(StopCode::TaskFailedToStart | StopCode::EssentialContainerExited) => true,
        Some(
            StopCode::UserInitiated
            | StopCode::ServiceSchedulerInitiated
            | StopCode::InfrastructureHealth,
        ) => false,
    };
    match (by_itself, task.started_at) {
        (false, _) => End::Excused,
        (true, None) => End::NeverRan,
        (true, Some(started)) => {
            let stopped = task.stopped_at.unwrap_or(started);
            let healthy = match task.health {
                Health::Healthy => true,
                Health::Unhealthy => false,
                Health::Unknown => !rules.checked && stopped >= later(started, rules.settle),
            };
            if healthy { End::AfterHealthy } else { End::BeforeHealthy }
        }
    }
}

/// A moment after another; the end of time if that is none.
pub(super) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reconcile::testing::{at, service};
    use crate::scheduler::fixtures::{definition, id, task};

    fn rules(checked: bool, grace: u32) -> Rules {
        let mut web = definition("web", json!({}), json!({}));
        if checked {
            web.registered = json!({"containerDefinitions": [
                {"name": "a", "essential": false, "healthCheck": {"command": ["x"]}},
                {"name": "b", "healthCheck": {"command": ["x"]}},
            ]});
        }
        let mut service = service(1, 100, 200);
        service.health_check_grace_period = Some(grace);
        Rules::new(&service, Some(&web), SignedDuration::from_secs(40))
    }

    fn phase(rules: Rules, now: i64, change: impl FnOnce(&mut Task)) -> Phase {
        let mut task = task(&definition("web", json!({}), json!({})), &id(0), "service:web", 1);
        change(&mut task);
        Member::new(&task, rules, Place::Here, at(now)).phase
    }

    #[test]
    fn running_tasks_settle_unless_they_are_checked() {
        let settling = |until| Phase::Running(Condition::Settling { until });
        for (checked, grace, health, now, expected) in [
            (false, 0, Health::Unknown, 139, settling(Some(at(140)))),
            (false, 0, Health::Unknown, 140, Phase::Running(Condition::Healthy)),
            (true, 0, Health::Unknown, 1000, settling(None)),
            (true, 0, Health::Healthy, 100, Phase::Running(Condition::Healthy)),
            (true, 0, Health::Unhealthy, 100, Phase::Running(Condition::Unhealthy)),
            (true, 30, Health::Unhealthy, 129, settling(Some(at(130)))),
            (true, 30, Health::Unhealthy, 130, Phase::Running(Condition::Unhealthy)),
        ] {
            let found = phase(rules(checked, grace), now, |task| {
                task.last = TaskStatus::Running;
                task.started_at = Some(at(100));
                task.health = health;
            });
            assert_eq!(found, expected, "{health:?} at {now}, checked {checked}");
        }
    }

    #[test]
    fn ways_to_stop() {
        for (last, desired, expected) in [
            (TaskStatus::Provisioning, Desired::Running, Phase::Pending),
            (TaskStatus::Pending, Desired::Running, Phase::Pending),
            (TaskStatus::Pending, Desired::Stopped, Phase::Stopping),
            (TaskStatus::Running, Desired::Stopped, Phase::Stopping),
            (TaskStatus::Stopping, Desired::Running, Phase::Stopping),
            (TaskStatus::Deprovisioning, Desired::Running, Phase::Stopping),
        ] {
            let found = phase(rules(false, 0), 0, |task| {
                task.last = last;
                task.desired = desired;
            });
            assert_eq!(found, expected, "{last:?} {desired:?}");
        }
    }

    #[test]
    fn what_an_end_says_of_the_deployment() {
        for (code, started, stopped, expected) in [
            (Some(StopCode::TaskFailedToStart), None, 10, End::NeverRan),
            (None, None, 10, End::NeverRan),
            (Some(StopCode::EssentialContainerExited), Some(0), 39, End::BeforeHealthy),
            (Some(StopCode::EssentialContainerExited), Some(0), 40, End::AfterHealthy),
            (Some(StopCode::UserInitiated), None, 10, End::Excused),
            (Some(StopCode::ServiceSchedulerInitiated), Some(0), 10, End::Excused),
            (Some(StopCode::InfrastructureHealth), None, 10, End::Excused),
        ] {
            let found = phase(rules(false, 0), 100, |task| {
                task.last = TaskStatus::Stopped;
                task.stop_code = code;
                task.started_at = started.map(at);
                task.stopped_at = Some(at(stopped));
            });
            assert_eq!(found, Phase::Stopped(expected), "{code:?} {started:?} {stopped}");
        }
    }
}
