//! Deployments: how one begins, counts its failures, is throttled, fails, is rolled back, completes
//! and leaves.
//!
//! ```text
//!            begin                 healthy tasks = desired, no older task
//!   (none) ────────▶ IN_PROGRESS ───────────────────────────────────────▶ COMPLETED
//!   PRIMARY               │ failures ≥ threshold, with a circuit breaker
//!                         ▼
//!                      FAILED ──▶ no more starts; with rollback the last completed one is PRIMARY
//!                                 again, or a new one of its definition
//!   ACTIVE: any older one, until none of its tasks is wanted any more
//! ```
//!
//! A task is counted once, as healthy or failed, and then marked ([`Task::accounted`]), in the
//! transaction that changes the count. A rollback's failure is not rolled back, so it ends.
//!
//! Tasks that stop before they are RUNNING are tried again: the first time at once, then after 10
//! seconds, doubled each time up to 15 minutes. Tasks that ran and then died are replaced at once.
//!
//! [`Task::accounted`]: crate::model::Task::accounted

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use protocol::ecs;

use super::draws::Draws;
use super::events::{Message, tell};
use super::member::{End, Member, Phase, later};
use crate::model::{
    CompletedDeployment, DefinitionName, Deployment, DeploymentStatus, Rollout, Service,
};

/// Wait after the second round of starts that failed.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(10);

/// The longest wait.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(15);

/// Least and most failures that trip the circuit breaker.
const THRESHOLD: (u32, u32) = (3, 200);

/// A new deployment becomes PRIMARY.
pub fn begin(
    service: &mut Service,
    definition: DefinitionName,
    network_configuration: Option<ecs::NetworkConfiguration>,
    id: String,
    now: Timestamp,
) {
    for older in &mut service.deployments {
        older.status = DeploymentStatus::Active;
    }
    let primary = Deployment {
        status: DeploymentStatus::Primary,
        definition,
        network_configuration,
        rollout: Rollout::InProgress,
        rollout_reason: in_progress(&id),
        id,
        failed_tasks: 0,
        attempts: 0,
        retry_at: None,
        completed_at: None,
        created_at: now,
        updated_at: now,
    };
    service.deployments.insert(0, primary);
}

fn in_progress(id: &str) -> String {
    format!("ECS deployment {id} in progress.")
}

/// How many failures trip the circuit breaker: half of the desired count, within bounds.
pub fn threshold(desired: u32) -> u32 {
    desired.div_ceil(2).clamp(THRESHOLD.0, THRESHOLD.1)
}

/// How long to wait after so many rounds that failed.
pub fn wait(attempts: u32) -> Option<SignedDuration> {
    let doublings = attempts.checked_sub(2)?;
    let factor = 1_i32.checked_shl(doublings.min(16))?;
    Some(FIRST_WAIT.checked_mul(factor).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT))
}

/// Counts what became of tasks since it was asked last. Returns the tasks to mark.
pub fn account(service: &mut Service, members: &[Member], now: Timestamp) -> Vec<String> {
    let mut marks = Vec::new();
    for deployment in &mut service.deployments {
        let mine = || members.iter().filter(|m| m.deployment == deployment.id && !m.accounted);
        let ends = |wanted: End| mine().filter(move |m| m.phase == Phase::Stopped(wanted));
        let never_ran: Vec<&Member> = ends(End::NeverRan).collect();
        let too_soon: Vec<&Member> = ends(End::BeforeHealthy).collect();
        let nothing_to_reset = deployment.failed_tasks == 0
            && deployment.attempts == 0
            && never_ran.is_empty()
            && too_soon.is_empty();
        if nothing_to_reset {
            // Healthy ones are marked when there is something that they have to be told from.
            continue;
        }
        let well: Vec<&Member> = mine()
            .filter(|m| m.is_healthy() || m.phase == Phase::Stopped(End::AfterHealthy))
            .collect();
        if !well.is_empty() {
            deployment.failed_tasks = 0;
        }
        if !well.is_empty() || !too_soon.is_empty() {
            deployment.attempts = 0;
            deployment.retry_at = None;
        }
        if !never_ran.is_empty() && deployment.retry_at.is_none_or(|at| at <= now) {
            deployment.attempts = deployment.attempts.saturating_add(1);
            deployment.retry_at = wait(deployment.attempts).map(|wait| later(now, wait));
        }
        let mut failed = never_ran.len();
        if deployment.rollout == Rollout::InProgress {
            failed += too_soon.len();
        }
        add_failures(deployment, failed, now);
        marks.extend([never_ran, too_soon, well].concat().into_iter().map(|m| m.id.clone()));
    }
    marks
}

/// Counts failures that the planner itself has seen (tasks that it stops as UNHEALTHY).
pub fn add_failures(deployment: &mut Deployment, failed: usize, now: Timestamp) {
    if failed > 0 {
        let failed = u32::try_from(failed).unwrap_or(u32::MAX);
        deployment.failed_tasks = deployment.failed_tasks.saturating_add(failed);
        deployment.updated_at = now;
    }
}

/// Trips the circuit breaker if it is time, and rolls back.
pub fn break_circuit(service: &mut Service, now: Timestamp, draws: &mut Draws) {
    let Some(breaker) = service.circuit_breaker.filter(|breaker| breaker.enable) else {
        return;
    };
    let threshold = threshold(service.desired_count);
    let Some(primary) = service.deployments.first_mut() else {
        return;
    };
    if primary.rollout != Rollout::InProgress || primary.failed_tasks < threshold {
        return;
    }
    primary.rollout = Rollout::Failed;
    primary.rollout_reason = "ECS deployment circuit breaker: tasks failed to start.".to_owned();
    primary.updated_at = now;
    let failed = primary.id.clone();
    tell(service, &Message::Failed { deployment: failed.clone() }, now, draws);
    let target = service.last_completed.clone().filter(|target| target.id != failed);
    let Some(target) = target.filter(|_| breaker.rollback) else {
        return;
    };
    let to = roll_back(service, target, now, draws);
    if let Some(failed) = service.deployments.iter_mut().find(|d| d.id == failed) {
        failed.rollout_reason =
            format!("ECS deployment circuit breaker: rolling back to deploymentId {to}.");
    }
    tell(service, &Message::RollingBack { to }, now, draws);
}

/// Makes the last completed deployment PRIMARY again, so that its tasks stay; if it is gone, a new
/// one of its definition. Returns the id of the PRIMARY.
fn roll_back(
    service: &mut Service,
    target: CompletedDeployment,
    now: Timestamp,
    draws: &mut Draws,
) -> String {
    if let Some(at) = service.deployments.iter().position(|d| d.id == target.id) {
        let mut primary = service.deployments.remove(at);
        for older in &mut service.deployments {
            older.status = DeploymentStatus::Active;
        }
        primary.status = DeploymentStatus::Primary;
        primary.rollout = Rollout::InProgress;
        primary.rollout_reason = in_progress(&primary.id);
        primary.failed_tasks = 0;
        primary.attempts = 0;
        primary.retry_at = None;
        primary.updated_at = now;
        service.deployments.insert(0, primary);
        return target.id;
    }
    let id = draws.deployment();
    begin(
        service,
        target.definition.clone(),
        target.network_configuration.clone(),
        id.clone(),
        now,
    );
    // It is what it goes back to: if it fails, too, there is nothing else to go back to.
    service.last_completed = Some(CompletedDeployment { id: id.clone(), ..target });
    id
}

/// The PRIMARY deployment has what it is to have.
pub fn complete(service: &mut Service, now: Timestamp, draws: &mut Draws) {
    let Some(primary) =
        service.deployments.first_mut().filter(|primary| primary.rollout == Rollout::InProgress)
    else {
        return;
    };
    primary.rollout = Rollout::Completed;
    primary.rollout_reason = format!("ECS deployment {} completed.", primary.id);
    primary.completed_at = Some(now);
    primary.updated_at = now;
    let deployment = primary.id.clone();
    service.last_completed = Some(CompletedDeployment {
        id: primary.id.clone(),
        definition: primary.definition.clone(),
        network_configuration: primary.network_configuration.clone(),
    });
    tell(service, &Message::Completed { deployment }, now, draws);
}

/// Older deployments of which no task is wanted leave.
pub fn retire(service: &mut Service, members: &[Member]) {
    let wanted: BTreeSet<&str> =
        members.iter().filter(|m| m.is_alive()).map(|m| m.deployment.as_str()).collect();
    service.deployments.retain(|deployment| {
        deployment.status == DeploymentStatus::Primary || wanted.contains(deployment.id.as_str())
    });
}

/// Whether the PRIMARY deployment may start tasks, and if it waits, until when.
pub fn may_start(service: &Service, now: Timestamp) -> Result<(), Option<Timestamp>> {
    let Some(primary) = service.deployments.first() else {
        return Err(None);
    };
    if primary.rollout == Rollout::Failed {
        return Err(None);
    }
    match primary.retry_at.filter(|at| *at > now) {
        Some(at) => Err(Some(at)),
        None => Ok(()),
    }
}

/// Whether the PRIMARY deployment waits longer and longer.
pub fn is_throttled(service: &Service) -> bool {
    service.deployments.first().is_some_and(|primary| primary.attempts >= 2)
}
