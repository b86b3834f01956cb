//! What nobody needs any more: stopped tasks, INACTIVE services and INACTIVE clusters that were
//! describable long enough, deregistered instances without tasks, keys that have expired, tokens older
//! than a day (than an hour if they are very many), and deleted definitions that no task and no service
//! names.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::member::later;
use crate::model::{
    Cluster, DefinitionName, DefinitionStatus, Entity, Guard, Instance, InstanceStatus, Service,
    ServiceStatus, Task,
};
use crate::state::{Edit, Stored, View};

/// How long a token is remembered: SDKs draw one for each RunTask, and repeat it for minutes.
const TOKENS: SignedDuration = SignedDuration::from_hours(24);
/// How long if there are more than [`MANY_TOKENS`].
const TOKENS_AT_LEAST: SignedDuration = SignedDuration::from_hours(1);
const MANY_TOKENS: usize = 100_000;

fn token_life(tokens: usize) -> SignedDuration {
    if tokens > MANY_TOKENS { TOKENS_AT_LEAST } else { TOKENS }
}

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
    sweep.delete(view.clusters.iter().filter(|cluster| {
        !cluster.active
            && past(cluster.inactive_at.or(Some(cluster.created_at)), keep_stopped)
            && has_no_records(view, cluster)
    }));
    sweep.delete(view.keys.iter().filter(|key| past(key.expires_at, SignedDuration::ZERO)));
    let life = token_life(view.tokens.len());
    sweep.delete(view.tokens.iter().filter(|token| past(Some(token.created_at), life)));
    let deleted =
        || view.definitions.iter().filter(|d| d.status == DefinitionStatus::DeleteInProgress);
    if sweep.left > 0 && deleted().next().is_some() {
        let used = used(view);
        sweep.delete(deleted().filter(|d| !used.contains(&(d.region.as_str(), d.name()))));
    }
    most - sweep.left
}

/// Whether nothing of what was in the cluster is left.
fn has_no_records(view: &View, cluster: &Cluster) -> bool {
    let prefix = |kind: &str| format!("{kind}{}/{}/", cluster.region, cluster.name);
    view.instances.prefix(&prefix(Instance::PREFIX)).next().is_none()
        && view.services.prefix(&prefix(Service::PREFIX)).next().is_none()
        && view.tasks.prefix(&prefix(Task::PREFIX)).next().is_none()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::model::{AccessKey, Definition, Token};
    use crate::reconcile::testing::{at, service};
    use crate::scheduler::fixtures::{
        REGION, access_key, cluster, definition, guard, id, instance, task, view,
    };

    fn swept(view: &View, now: Timestamp) -> usize {
        sweep(view, &mut Edit::default(), SignedDuration::from_secs(60), 100, now)
    }

    #[test]
    fn only_what_is_old_and_over_goes() {
        let now = at(100_000);
        let (recent, old) = (at(99_950), at(99_940));
        let web = definition("web", json!({}), json!({}));
        let mut all = view(&["a"]);
        let live = task(&web, &id(0), "g", 1);
        all.insert(&live);
        for (seed, stopped) in [(2, recent), (3, old)] {
            let mut task = task(&web, &id(0), "g", seed);
            task.end(stopped);
            all.insert(&task);
        }
        assert_eq!(swept(&all, now), 1, "the task that stopped a minute ago");

        let mut all = view(&[]);
        for (name, inactive_at) in [("recent", Some(recent)), ("old", Some(old)), ("active", None)]
        {
            let status =
                if inactive_at.is_some() { ServiceStatus::Inactive } else { ServiceStatus::Active };
            let name = name.to_owned();
            all.insert(&Service { name, status, inactive_at, ..service(1, 100, 200) });
        }
        assert_eq!(swept(&all, now), 1, "the service that is INACTIVE for a minute");

        let mut all = view(&[]);
        for (id, expires_at) in [("a", None), ("b", Some(now)), ("c", Some(at(100_001)))] {
            all.insert(&AccessKey { expires_at, ..access_key(id) });
        }
        assert_eq!(swept(&all, now), 1, "the key that has expired");

        let mut all = view(&[]);
        for (token, created_at) in [("a", at(100_000 - 86_400)), ("b", at(100_001 - 86_400))] {
            all.insert(&Token {
                region: REGION.to_owned(),
                operation: "RunTask".to_owned(),
                token: token.to_owned(),
                request: String::new(),
                made: Vec::new(),
                created_at,
            });
        }
        assert_eq!(swept(&all, now), 1, "the token of yesterday");

        let mut all = view(&[]);
        for (number, status) in [(0, InstanceStatus::Inactive), (1, InstanceStatus::Inactive)] {
            let gone = instance(number, "a");
            all.insert(&Instance { status, deregistered_at: Some(old), ..gone });
            all.insert(&guard(number));
        }
        let mut left = task(&web, &id(1), "g", 1);
        left.end(recent);
        all.insert(&left);
        assert_eq!(swept(&all, now), 2, "the instance without tasks, and its guard");
    }

    #[test]
    fn an_inactive_cluster_goes_when_it_is_old_and_nothing_of_it_is_left() {
        let now = at(100_000);
        let deleted = |name: &str, seconds| Cluster {
            name: name.to_owned(),
            active: false,
            inactive_at: Some(at(seconds)),
            ..cluster()
        };
        let mut all = view(&[]);
        all.insert(&Cluster { name: "active".to_owned(), ..cluster() });
        all.insert(&deleted("recent", 99_950));
        all.insert(&deleted("default", 99_940));
        all.insert(&deleted("default-2", 99_940));
        let mut left = task(&definition("web", json!({}), json!({})), &id(0), "g", 1);
        left.end(at(99_990));
        all.insert(&left);
        assert_eq!(swept(&all, now), 1, "the one that has no tasks");
        all.remove(&left.key());
        assert_eq!(swept(&all, now), 2);
    }

    #[test]
    fn a_deleted_definition_stays_while_something_names_it() {
        let deleting = |revision| Definition {
            revision,
            family: "f".to_owned(),
            status: DefinitionStatus::DeleteInProgress,
            ..definition("f", json!({}), json!({}))
        };
        let mut all = view(&[]);
        for revision in 1..=4 {
            all.insert(&deleting(revision));
        }
        let mut user = service(1, 100, 200);
        user.region = REGION.to_owned();
        user.last_completed = Some(crate::model::CompletedDeployment {
            id: String::new(),
            definition: deleting(2).name(),
            network_configuration: None,
        });
        all.insert(&user);
        all.insert(&task(&deleting(3), &id(0), "g", 1));
        assert_eq!(swept(&all, at(0)), 1, "all but those of a service, its rollback and a task");
    }

    #[test]
    fn very_many_tokens_are_remembered_for_less_long() {
        assert_eq!(token_life(MANY_TOKENS), TOKENS);
        assert_eq!(token_life(MANY_TOKENS + 1), TOKENS_AT_LEAST);
    }

    #[test]
    fn a_sweep_is_bounded() {
        let web = definition("web", json!({}), json!({}));
        let mut all = view(&[]);
        for seed in 0..20 {
            let mut task = task(&web, &id(0), "g", seed);
            task.end(at(0));
            all.insert(&task);
        }
        let keep = SignedDuration::ZERO;
        assert_eq!(sweep(&all, &mut Edit::default(), keep, 7, at(1)), 7);
    }
}
