//! The planner of DAEMON services: one task on every eligible instance.
//!
//! Eligible is an ACTIVE, connected instance that meets the constraints and has the attributes. On
//! an instance whose agent is away nothing is started, and its task stays. On one that does not meet
//! the constraints any more the task stops; on a DRAINING one when no REPLICA task is left there.
//!
//! The maximum is 100 percent, so a task is stopped before its successor starts on the instance. Of
//! an older deployment as many stop at a time as minimumHealthyPercent allows; UNHEALTHY ones stop
//! at once. The desired count is what was counted.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::deployment;
use super::draws::Draws;
use super::events::{self, Message, tell};
use super::member::{Member, Phase};
use super::service::{MOST_STOPS, Stop, Why, close, earlier, floor, stop};
use crate::model::{Rollout, Service, ServiceStatus};

/// How many tasks one plan starts; the next plan starts more.
const MOST_STARTS: usize = 50;

/// An instance as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Id of the instance.
    pub instance: String,
    pub fit: Fit,
    /// A task could be placed there now.
    pub has_room: bool,
}

/// What an instance is to a DAEMON service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is to have a task.
    Eligible,
    /// It keeps what it has: its agent is away, or it drains and REPLICA tasks are still there.
    Waits,
    /// It is to have none.
    Excluded,
}

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Instances on which to start a task of the PRIMARY deployment.
    pub starts: Vec<String>,
    pub stops: Vec<Stop>,
    /// Tasks that were counted and are to be marked.
    pub accounted: Vec<String>,
    /// When time alone changes the plan.
    pub wake_at: Option<Timestamp>,
}

/// Plans for a service with these tasks, stopped ones included. `sites` are the instances of the
/// cluster, in the order of their ids; one that is missing is as one excluded. `able`: tasks could be
/// started at all. `service` is changed to what is to be stored with what the plan does.
pub fn plan(
    service: &mut Service,
    members: &[Member],
    sites: &[Site],
    able: bool,
    now: Timestamp,
    draws: &mut Draws,
) -> Plan {
    if service.status != ServiceStatus::Active {
        let closed = close(service, members, now);
        return Plan { stops: closed.stops, ..Plan::default() };
    }
    let fit = |instance: &str| {
        sites
            .binary_search_by(|site| site.instance.as_str().cmp(instance))
            .ok()
            .and_then(|at| sites.get(at))
            .map_or(Fit::Excluded, |site| site.fit)
    };
    let taken: BTreeSet<&str> =
        members.iter().filter(|m| m.is_live()).map(|m| m.instance.as_str()).collect();
    let taken = |instance: &str| taken.contains(instance);
    // What waits and has none is not counted.
    let wanted = |site: &&Site| match site.fit {
        Fit::Eligible => true,
        Fit::Waits => taken(&site.instance),
        Fit::Excluded => false,
    };
    let desired = u32::try_from(sites.iter().filter(wanted).count()).unwrap_or(u32::MAX);
    service.desired_count = desired;

    let accounted = deployment::account(service, members, now);
    deployment::break_circuit(service, now, draws);
    deployment::retire(service, members);
    let Some(primary) = service.deployments.first() else {
        return Plan { accounted, ..Plan::default() };
    };
    let failed = primary.rollout == Rollout::Failed;
    let primary = primary.id.clone();
    let mut wake_at = members.iter().filter_map(Member::changes_at).min();

    // Stops: those that are worth nothing first, then what the floor allows.
    let scaling = || Why::Scaling(primary.clone());
    let stays = |m: &Member| m.deployment == primary || failed;
    let healthy = |m: &Member| if stays(m) { m.is_healthy() } else { m.is_serving() };
    let mut stops: Vec<Stop> = Vec::new();
    let mut serving = members.iter().filter(|m| m.is_alive() && healthy(m)).count();
    let floor = floor(desired, service.minimum_healthy_percent);
    let floor = usize::try_from(floor).unwrap_or(usize::MAX);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for member in members.iter().filter(|m| m.is_alive()) {
        let first = !seen.contains(member.instance.as_str());
        let fit = fit(&member.instance);
        let why = if fit == Fit::Excluded {
            Some(scaling())
        } else if member.is_unhealthy() && fit == Fit::Eligible {
            Some(Why::Unhealthy)
        } else if stays(member) && first {
            seen.insert(&member.instance);
            None
        } else if stays(member) || member.phase == Phase::Pending {
            Some(scaling())
        } else {
            (serving > floor && !member.is_protected(now)).then(scaling)
        };
        if let Some(why) = why.filter(|_| stops.len() < MOST_STOPS) {
            serving = serving.saturating_sub(usize::from(healthy(member)));
            stops.push(stop(member, why));
        }
    }
    if members.iter().any(|m| m.is_alive() && !stays(m) && m.is_protected(now)) {
        let protection = members.iter().filter_map(|m| m.protected_until).filter(|at| *at > now);
        wake_at = earlier(wake_at, protection.min());
    }

    // Starts: where nothing is left of an earlier one.
    let free = |site: &&Site| site.fit == Fit::Eligible && !taken(&site.instance);
    let mut starts: Vec<String> = Vec::new();
    if sites.iter().any(|site| free(&site)) {
        match deployment::may_start(service, now) {
            Ok(()) => {
                // Those that are full come last: they only say why, and must not keep the others out.
                let (roomy, full): (Vec<&Site>, Vec<&Site>) =
                    sites.iter().filter(free).partition(|site| site.has_room);
                let free = roomy.into_iter().chain(full).take(MOST_STARTS);
                starts = free.map(|site| site.instance.clone()).collect();
            }
            Err(until) => wake_at = earlier(wake_at, until),
        }
    }

    // Where the service stands.
    let alive = || members.iter().filter(|m| m.is_alive());
    let idle = starts.is_empty() && stops.is_empty();
    let lacking = sites.iter().any(|site| free(&site));
    let in_flight = alive().any(|m| stays(m) && !m.is_healthy())
        || members.iter().any(|m| m.phase == Phase::Stopping && fit(&m.instance) == Fit::Eligible);
    let leaving = alive().any(|m| !stays(m));
    let protected = alive().any(|m| !stays(m) && m.is_protected(now));
    let complete = able && idle && !lacking && !in_flight && !leaving;
    if deployment::is_throttled(service) && !complete {
        tell(service, &Message::Throttled, now, draws);
    }
    if idle && leaving && !in_flight && !lacking && !protected && !failed {
        tell(service, &Message::Blocked, now, draws);
    }
    if complete && !failed {
        deployment::complete(service, now, draws);
        tell(service, &Message::Steady, now, draws);
        wake_at = earlier(wake_at, events::steady_again(service));
    }
    Plan { starts, stops, accounted, wake_at }
}
