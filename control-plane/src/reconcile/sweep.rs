//! What nobody needs any more: stopped tasks and INACTIVE services that were describable long
//! enough, deregistered instances without tasks, keys that have expired, tokens older than a day, and deleted definitions that no task
//! and no service names.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::member::later;
use crate::model::{
    DefinitionName, DefinitionStatus, Entity, Guard, InstanceStatus, ServiceStatus,
};
use crate::state::{Edit, Stored, View};

/// How long a token is remembered.
const TOKENS: SignedDuration = SignedDuration::from_hours(24);

/// Puts the deletion of at most `most` records into the edit. Returns how many there were.
pub fn sweep(
    view: &View,
    edit: &mut Edit,
    keep_stopped: SignedDuration,
    most: usize,
    now: Timestamp,
) -> usize {
    let mut sweep = Sweep { edit, left: most };
    let past = |at: Option<Timestamp>, keep| at.is_some_and(|at| later(at, keep) <= now);
    sweep.delete(view.tasks.iter().filter(|task| {
        !task.is_live() && past(task.stopped_at.or(Some(task.created_at)), keep_stopped)
    }));
    sweep.delete(view.services.iter().filter(|service| {
        service.status == ServiceStatus::Inactive && past(service.inactive_at, keep_stopped)
    }));
    for instance in view.instances.iter().filter(|instance| {
        instance.status == InstanceStatus::Inactive
            && past(instance.deregistered_at, keep_stopped)
            && view.tasks_on(&instance.key()).next().is_none()
    }) {
        let key = Guard::key_of(&instance.region, &instance.cluster, &instance.id);
        // Together, or neither: an instance has its guard.
        if sweep.left < 2 {
            break;
        }
        sweep.delete(view.guards.get(&key).into_iter());
        sweep.delete(std::iter::once(instance));
    }
    sweep.delete(view.keys.iter().filter(|key| past(key.expires_at, SignedDuration::ZERO)));
    sweep.delete(view.tokens.iter().filter(|token| past(Some(token.created_at), TOKENS)));
    let deleted =
        || view.definitions.iter().filter(|d| d.status == DefinitionStatus::DeleteInProgress);
    if sweep.left > 0 && deleted().next().is_some() {
        let used = used(view);
        sweep.delete(deleted().filter(|d| !used.contains(&(d.region.as_str(), d.name()))));
    }
    most - sweep.left
}

/// The definitions that tasks, which may still be described, and services name.
fn used(view: &View) -> BTreeSet<(&str, DefinitionName)> {
    let tasks = view.tasks.iter().map(|task| (task.region.as_str(), task.definition.clone()));
    let services = view.services.iter().flat_map(|service| {
        let back = service.last_completed.iter().map(|completed| &completed.definition);
        let names = service.deployments.iter().map(|d| &d.definition).chain(back);
        names.map(|name| (service.region.as_str(), name.clone()))
    });
    tasks.chain(services).collect()
}

struct Sweep<'a> {
    edit: &'a mut Edit,
    left: usize,
}

impl Sweep<'_> {
    fn delete<'v, T: Entity>(&mut self, records: impl Iterator<Item = &'v Stored<T>>) {
        for record in records.take(self.left) {
            self.edit.delete(record);
            self.left -= 1;
        }
    }
}
