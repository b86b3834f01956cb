//! Lost hosts: instances whose agent is away for so long that their tasks are given up.
//!
//! When an agent's connection ends and it leaves tasks behind, the moment is stored with the
//! instance; its return takes it away. After the configured time the tasks are ended with
//! InfrastructureHealth, and services replace them. The instance stays, ACTIVE and disconnected;
//! what its agent still runs when it returns is stopped by its session.
//!
//! The moment is stored so that a restart of the control plane does not give a dead host the whole
//! time again. But while the control plane was away no agent could return: after a restart each has
//! a grace period first.
//!
//! Tasks on an instance that was deregistered, or that there is no record of, are ended at once: it
//! will never report.

use jiff::{SignedDuration, Timestamp};

use super::member::later;
use crate::model::Instance;

/// How long after the start of the control plane agents have to return, at least.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// `stoppedReason` of tasks of a lost host.
pub const LOST: &str = "Container instance lost";
/// `stoppedReason` of tasks of a deregistered instance.
pub const DEREGISTERED: &str = "Container instance deregistration forced by user";

/// What to do about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until this moment if there is one.
    Wait(Option<Timestamp>),
    /// Remember that its agent is away, or that it is back.
    Mark(Option<Timestamp>),
    /// End its tasks, with this reason.
    End(&'static str),
}

/// What is known of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub instance: Option<&'a Instance>,
    pub connected: bool,
    /// It has tasks that have not stopped.
    pub has_tasks: bool,
}

/// Decides for an instance. `lost_after`: `None` is never; `up_since`: when this process began to
/// serve.
pub fn step(
    sight: Sight<'_>,
    lost_after: Option<SignedDuration>,
    up_since: Timestamp,
    now: Timestamp,
) -> Step {
    let Some(instance) = sight.instance.filter(|i| i.is_registered()) else {
        return if sight.has_tasks { Step::End(DEREGISTERED) } else { Step::Wait(None) };
    };
    match (sight.connected || !sight.has_tasks, instance.disconnected_at) {
        (true, None) => Step::Wait(None),
        (true, Some(_)) => Step::Mark(None),
        (false, None) => Step::Mark(Some(now)),
        (false, Some(since)) => {
            let Some(lost_after) = lost_after else {
                return Step::Wait(None);
            };
            let lost = later(since, lost_after).max(later(up_since, lost_after.min(GRACE)));
            if lost <= now { Step::End(LOST) } else { Step::Wait(Some(lost)) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::InstanceStatus;
    use crate::reconcile::testing::{at, instance};

    const AFTER: Option<SignedDuration> = Some(SignedDuration::from_mins(5));

    #[test]
    fn steps() {
        let sight = |away: Option<i64>, connected, has_tasks| {
            let instance = Instance { disconnected_at: away.map(at), ..instance("a") };
            step(Sight { instance: Some(&instance), connected, has_tasks }, AFTER, at(0), at(1000))
        };
        for (away, connected, has_tasks, expected) in [
            (None, true, true, Step::Wait(None)),
            (None, false, false, Step::Wait(None)),
            (None, false, true, Step::Mark(Some(at(1000)))),
            (Some(990), true, true, Step::Mark(None)),
            (Some(990), false, false, Step::Mark(None)),
            (Some(990), false, true, Step::Wait(Some(at(1290)))),
            (Some(700), false, true, Step::End(LOST)),
        ] {
            assert_eq!(sight(away, connected, has_tasks), expected, "{away:?} {connected}");
        }
    }

    #[test]
    fn a_restart_gives_time_to_return_but_not_all_of_it() {
        let away = Instance { disconnected_at: Some(at(0)), ..instance("a") };
        let sight = Sight { instance: Some(&away), connected: false, has_tasks: true };
        assert_eq!(step(sight, AFTER, at(1000), at(1001)), Step::Wait(Some(at(1060))));
        assert_eq!(step(sight, AFTER, at(1000), at(1060)), Step::End(LOST));
        let quick = Some(SignedDuration::from_secs(2));
        assert_eq!(step(sight, quick, at(1000), at(1002)), Step::End(LOST));
        assert_eq!(step(sight, None, at(1000), at(1_000_000)), Step::Wait(None));
    }

    #[test]
    fn tasks_of_a_deregistered_instance_end_at_once() {
        let gone = Instance { status: InstanceStatus::Inactive, ..instance("a") };
        for instance in [Some(&gone), None] {
            let sight = Sight { instance, connected: true, has_tasks: true };
            assert_eq!(step(sight, None, at(0), at(1)), Step::End(DEREGISTERED));
        }
    }
}
