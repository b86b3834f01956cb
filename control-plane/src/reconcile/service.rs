//! The planner of REPLICA services: which tasks to start and to stop now.
//!
//! With D desired, floor = ceil(D × minimumHealthyPercent / 100) and ceiling = floor(D ×
//! maximumPercent / 100), tasks are
//! - *kept*: of the PRIMARY deployment, on an instance that keeps tasks, not UNHEALTHY;
//! - *leaving*: the others that are wanted. They are of older deployments, on DRAINING instances, or
//!   UNHEALTHY.
//!
//! Rules, in this order:
//! 1. Kept tasks are started up to D, as long as all that hold resources stay within the ceiling,
//!    the deployment has not failed and does not wait after failures.
//! 2. Leaving tasks that are PENDING stop at once.
//! 3. Leaving tasks that run stop while those that serve stay at the floor; of the kept ones only
//!    healthy ones count as serving.
//! 4. UNHEALTHY ones stop when as many kept ones are healthy instead, or when their room (under the
//!    ceiling, or on the instances) is needed for the replacement.
//! 5. Kept tasks above D stop (scaling in) without regard to the ceiling, and to the floor only
//!    where a protected task has to stay.
//!
//! Promises: no stop of ours takes the serving tasks below the floor, no start of ours takes the
//! tasks above the ceiling. After a failed deployment without rollback nothing is started, and
//! tasks of older deployments stay.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::deployment;
use super::draws::Draws;
use super::events::{self, Message, tell};
use super::member::{Condition, Member, Phase};
use crate::model::{Rollout, Service, ServiceStatus};

/// How many tasks one plan starts, and stops; the next plan does more.
const MOST_STARTS: u32 = 50;
pub(super) const MOST_STOPS: usize = 200;

/// What to do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tasks of the PRIMARY deployment to start: how many.
    pub starts: u32,
    pub stops: Vec<Stop>,
    /// Stops that make room, one for each start that finds none.
    pub spare: Vec<Stop>,
    /// Tasks that were counted and are to be marked.
    pub accounted: Vec<String>,
    /// When time alone changes the plan.
    pub wake_at: Option<Timestamp>,
}

/// A task to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Id of the task.
    pub task: String,
    /// Id of its deployment.
    pub deployment: String,
    /// It was RUNNING.
    pub running: bool,
    pub why: Why,
}

/// Why a task is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The service wants others, or fewer. With the id of the deployment that decides.
    Scaling(String),
    Unhealthy,
}

impl Why {
    /// `stoppedReason`
    pub fn reason(&self) -> String {
        match self {
            Self::Scaling(deployment) => {
                format!("Scaling activity initiated by (deployment {deployment})")
            }
            Self::Unhealthy => "Task failed container health checks".to_owned(),
        }
    }
}

/// Chooses which of these tasks (ids) go first, at most so many.
pub type Order<'a> = dyn FnMut(&[&str], usize) -> Vec<String> + 'a;

/// How many tasks have to serve.
pub fn floor(desired: u32, minimum_percent: u32) -> u32 {
    let floor = (u64::from(desired) * u64::from(minimum_percent)).div_ceil(100);
    u32::try_from(floor).unwrap_or(u32::MAX)
}

/// How many tasks may hold resources.
pub fn ceiling(desired: u32, maximum_percent: u32) -> u32 {
    let ceiling = u64::from(desired) * u64::from(maximum_percent) / 100;
    u32::try_from(ceiling).unwrap_or(u32::MAX)
}

/// Plans for a service with these tasks, stopped ones included. `service` is changed to what is to
/// be stored with what the plan does.
pub fn plan(
    service: &mut Service,
    members: &[Member],
    order: &mut Order<'_>,
    now: Timestamp,
    draws: &mut Draws,
) -> Plan {
    if service.status != ServiceStatus::Active {
        return close(service, members, now);
    }
    let accounted = deployment::account(service, members, now);
    deployment::break_circuit(service, now, draws);
    deployment::retire(service, members);
    let Some(primary) = service.deployments.first().map(|primary| primary.id.clone()) else {
        return Plan { accounted, ..Plan::default() };
    };
    let mut turn = Turn::new(service, &primary, members, now);
    let starts = turn.start(service);
    turn.stop_leaving(order);
    let spare = turn.unhealthy(starts);
    turn.scale_in(order);
    let state = turn.state(starts);
    let Turn { stops, mut wake_at, .. } = turn;

    let complete = matches!(state, Progress::Complete);
    if deployment::is_throttled(service) && !complete {
        tell(service, &Message::Throttled, now, draws);
    }
    match state {
        Progress::Blocked => {
            tell(service, &Message::Blocked, now, draws);
        }
        Progress::Complete => {
            deployment::complete(service, now, draws);
            if service.deployments.first().is_some_and(|p| p.rollout == Rollout::Completed) {
                tell(service, &Message::Steady, now, draws);
            }
            wake_at = earlier(wake_at, events::steady_again(service));
        }
        Progress::Moving => {}
    }
    Plan { starts, stops, spare, accounted, wake_at }
}

/// A service that is deleted stops everything, and is INACTIVE when nothing is wanted any more.
pub fn close(service: &mut Service, members: &[Member], now: Timestamp) -> Plan {
    let Some(primary) = service.deployments.first().map(|primary| primary.id.clone()) else {
        return Plan::default();
    };
    if service.status != ServiceStatus::Draining {
        return Plan::default();
    }
    let alive = members.iter().filter(|m| m.is_alive());
    let stops: Vec<Stop> =
        alive.take(MOST_STOPS).map(|m| stop(m, Why::Scaling(primary.clone()))).collect();
    if stops.is_empty() {
        service.status = ServiceStatus::Inactive;
        service.inactive_at = Some(now);
        service.deployments.truncate(1);
    }
    Plan { stops, ..Plan::default() }
}

pub(super) fn stop(member: &Member, why: Why) -> Stop {
    Stop {
        task: member.id.clone(),
        deployment: member.deployment.clone(),
        running: member.phase != Phase::Pending,
        why,
    }
}

/// Tells what has become of a plan's starts and stops, and counts UNHEALTHY tasks that were stopped
/// as failures of their deployment. `stops`: those of the plan, and those spared ones that had to
/// go.
pub fn applied(
    service: &mut Service,
    started: Vec<String>,
    stops: &[Stop],
    failure: Option<Message>,
    now: Timestamp,
    draws: &mut Draws,
) {
    for stop in stops.iter().filter(|stop| stop.why == Why::Unhealthy) {
        let task = stop.task.clone();
        tell(service, &Message::FailedHealthChecks { task }, now, draws);
        let of = service.deployments.iter_mut().find(|d| d.id == stop.deployment);
        if let Some(of) = of.filter(|of| of.rollout == Rollout::InProgress) {
            deployment::add_failures(of, 1, now);
        }
    }
    let of = |running: bool| stops.iter().filter(move |stop| stop.running == running);
    let pending = of(false).count();
    if pending > 0 {
        tell(service, &Message::StoppedPending { count: pending }, now, draws);
    }
    let running: Vec<String> = of(true).map(|stop| stop.task.clone()).collect();
    if !running.is_empty() {
        tell(service, &Message::StoppedRunning { tasks: running }, now, draws);
    }
    if !started.is_empty() {
        tell(service, &Message::Started { tasks: started }, now, draws);
    }
    if let Some(failure) = failure {
        tell(service, &failure, now, draws);
    }
}

/// The earlier of two moments that may not be.
pub(super) fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Where the service stands.
enum Progress {
    /// Everything is as desired.
    Complete,
    /// Nothing is under way, and the percentages allow nothing.
    Blocked,
    Moving,
}

/// One plan in the making.
struct Turn<'a> {
    now: Timestamp,
    primary: &'a str,
    desired: u32,
    floor: u32,
    ceiling: u32,
    /// The PRIMARY deployment has failed: leaving tasks stay, nothing comes.
    failed: bool,
    kept: Vec<&'a Member>,
    kept_ids: BTreeSet<&'a str>,
    leaving: Vec<&'a Member>,
    /// Holding resources.
    live: u32,
    /// On their way out already.
    stopping: u32,
    /// Tasks that serve now, less those stopped in this plan.
    serving: u32,
    /// Kept and healthy.
    healthy: u32,
    /// Kept tasks that should be started, and may not be for want of room.
    short: u32,
    stopped: BTreeSet<&'a str>,
    stops: Vec<Stop>,
    wake_at: Option<Timestamp>,
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

impl<'a> Turn<'a> {
    fn new(service: &Service, primary: &'a str, members: &'a [Member], now: Timestamp) -> Self {
        let failed = service.deployments.first().is_some_and(|p| p.rollout == Rollout::Failed);
        let stays = |m: &Member| {
            m.place.keeps_tasks() && !m.is_unhealthy() && (m.deployment == primary || failed)
        };
        let (kept, leaving): (Vec<&Member>, Vec<&Member>) =
            members.iter().filter(|m| m.is_alive()).partition(|m| stays(m));
        let healthy = count(kept.iter().filter(|m| m.is_healthy()));
        let desired = service.desired_count;
        Self {
            now,
            primary,
            desired,
            floor: floor(desired, service.minimum_healthy_percent),
            ceiling: ceiling(desired, service.maximum_percent),
            failed,
            live: count(members.iter().filter(|m| m.is_live())),
            stopping: count(members.iter().filter(|m| m.phase == Phase::Stopping)),
            serving: healthy + count(leaving.iter().filter(|m| m.is_serving())),
            healthy,
            short: 0,
            stopped: BTreeSet::new(),
            stops: Vec::new(),
            wake_at: members.iter().filter_map(Member::changes_at).min(),
            kept_ids: kept.iter().map(|m| m.id.as_str()).collect(),
            kept,
            leaving,
        }
    }

    fn kept_count(&self) -> u32 {
        count(self.kept.iter())
    }

    /// Rule 1.
    fn start(&mut self, service: &Service) -> u32 {
        let needed = self.desired.saturating_sub(self.kept_count());
        if needed == 0 {
            return 0;
        }
        if let Err(until) = deployment::may_start(service, self.now) {
            self.wake_at = earlier(self.wake_at, until);
            return 0;
        }
        let starts = needed.min(self.ceiling.saturating_sub(self.live));
        self.short = needed - starts;
        starts.min(MOST_STARTS)
    }

    /// Rules 2 and 3.
    fn stop_leaving(&mut self, order: &mut Order<'_>) {
        let now = self.now;
        for member in self.leaving.clone() {
            if member.phase == Phase::Pending && !member.is_protected(now) {
                self.stop(member, Why::Scaling(self.primary.to_owned()));
            }
        }
        let settling = |m: &Member| matches!(m.phase, Phase::Running(Condition::Settling { .. }));
        let serving: Vec<&Member> =
            self.leaving.iter().copied().filter(|m| m.is_serving()).collect();
        for class in [true, false] {
            let free: Vec<&Member> = serving
                .iter()
                .copied()
                .filter(|m| settling(m) == class && !m.is_protected(now))
                .collect();
            let most = self.serving.saturating_sub(self.floor);
            self.stop_first(&free, most, order);
        }
        self.wake_at = earlier(self.wake_at, self.protection(&serving));
    }

    /// Rule 4. Returns what may be stopped to make room.
    fn unhealthy(&mut self, starts: u32) -> Vec<Stop> {
        let unhealthy: Vec<&Member> =
            self.leaving.iter().copied().filter(|m| m.is_unhealthy()).collect();
        let all = count(unhealthy.iter());
        // Each healthy task above those that are needed replaces one.
        let replaced = (self.healthy + all).saturating_sub(self.desired);
        let leaving_now = self.stopping + count(self.stops.iter());
        let most = replaced.max(self.short.saturating_sub(leaving_now)).min(all);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        for member in unhealthy.iter().take(most) {
            self.stop(member, Why::Unhealthy);
        }
        let rest = unhealthy.iter().skip(most);
        let spare = rest.take(usize::try_from(starts).unwrap_or(usize::MAX));
        spare.map(|m| stop(m, Why::Unhealthy)).collect()
    }

    /// Rule 5.
    fn scale_in(&mut self, order: &mut Order<'_>) {
        let mut surplus = self.kept_count().saturating_sub(self.desired);
        if surplus == 0 {
            return;
        }
        let now = self.now;
        let kept = self.kept.clone();
        let class = |m: &Member| match m.phase {
            Phase::Running(Condition::Healthy) => 2,
            Phase::Running(_) => 1,
            Phase::Pending | Phase::Stopping | Phase::Stopped(_) => 0,
        };
        for wanted in 0..3 {
            let free: Vec<&Member> = kept
                .iter()
                .copied()
                .filter(|m| class(m) == wanted && !m.is_protected(now))
                .collect();
            let most = if wanted == 2 {
                surplus.min(self.serving.saturating_sub(self.floor))
            } else {
                surplus
            };
            surplus -= self.stop_first(&free, most, order).min(surplus);
        }
        self.wake_at = earlier(self.wake_at, self.protection(&kept));
    }

    /// When the first of these is no longer protected.
    fn protection(&self, members: &[&Member]) -> Option<Timestamp> {
        let protected = members.iter().filter(|m| m.is_protected(self.now));
        protected.filter_map(|m| m.protected_until).min()
    }

    /// Stops at most so many of these, and returns how many.
    fn stop_first(&mut self, free: &[&'a Member], most: u32, order: &mut Order<'_>) -> u32 {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(free.len());
        if most == 0 {
            return 0;
        }
        let chosen = if most == free.len() {
            free.iter().map(|m| m.id.clone()).collect()
        } else {
            let ids: Vec<&str> = free.iter().map(|m| m.id.as_str()).collect();
            order(&ids, most)
        };
        let before = self.stops.len();
        let chosen: BTreeSet<String> = chosen.into_iter().take(most).collect();
        for member in free.iter().copied().filter(|m| chosen.contains(&m.id)) {
            self.stop(member, Why::Scaling(self.primary.to_owned()));
        }
        count(self.stops.iter().skip(before))
    }

    fn stop(&mut self, member: &'a Member, why: Why) {
        if self.stops.len() == MOST_STOPS || !self.stopped.insert(&member.id) {
            return;
        }
        let kept = self.kept_ids.contains(member.id.as_str());
        let served = if kept { member.is_healthy() } else { member.is_serving() };
        self.serving = self.serving.saturating_sub(u32::from(served));
        self.stops.push(stop(member, why));
    }

    /// Where the service stands with these starts and the stops so far.
    fn state(&self, starts: u32) -> Progress {
        let idle = starts == 0 && self.stops.is_empty();
        let leaves = !self.leaving.is_empty();
        if idle && !leaves && self.kept_count() == self.desired && self.healthy == self.desired {
            return Progress::Complete;
        }
        let settled = self.kept.iter().all(|m| m.is_healthy()) && self.stopping == 0;
        let protected = self.leaving.iter().any(|m| m.is_protected(self.now));
        if idle && leaves && settled && self.short > 0 && !protected && !self.failed {
            return Progress::Blocked;
        }
        Progress::Moving
    }
}
