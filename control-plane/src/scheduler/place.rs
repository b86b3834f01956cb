//! Placing tasks one after another, and choosing which to stop.

use std::collections::{BTreeMap, HashMap};

use super::filter::{Failure, Filter, Reason, Request};
use super::rank::{Random, Ranking, Strategy};
use super::view::Candidate;
use crate::model::{Health, Instance, InstanceStatus, Task, TaskStatus};
use crate::state::Stored;

/// Places `count` tasks that are alike. Each takes of its candidate, so that the next sees it. The
/// same seed gives the same answer.
pub fn place<'a>(
    request: &Request<'_>,
    candidates: &mut [Candidate<'a>],
    count: usize,
    seed: u64,
) -> Vec<Result<&'a Stored<Instance>, Failure>> {
    let mut filter = Filter::new(*request);
    let mut fitting: Vec<usize> = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.iter().enumerate() {
        if filter.check(candidate) == Some(Ok(())) {
            fitting.push(index);
        }
    }
    let mut ranking =
        Ranking::new(request.strategy, candidates, |candidate| candidate.in_group(request.group));
    let mut random = Random::new(seed);
    let mut among = Vec::with_capacity(fitting.len());
    let mut placed = Vec::with_capacity(count);
    while placed.len() < count {
        among.clone_from(&fitting);
        let best = ranking.best(candidates, &mut among, &mut random);
        let Some((index, candidate)) =
            best.and_then(|index| Some((index, candidates.get_mut(index)?)))
        else {
            // Nothing changes before the next: all that are left fail alike.
            let failure = closest(&mut filter, candidates);
            placed.resize(count, Err(failure));
            break;
        };
        candidate.take(request.reserved, request.group);
        ranking.added(index);
        if request.check_placed(candidate).is_err() {
            fitting.retain(|other| *other != index);
        }
        placed.push(Ok(candidate.instance));
    }
    placed
}

/// Why nothing fits: the reason of the instance that failed last, of several the one with the most
/// room.
fn closest(filter: &mut Filter<'_>, candidates: &[Candidate<'_>]) -> Failure {
    let mut closest: Option<(Reason, u64, &Candidate<'_>)> = None;
    let mut is_any_active = false;
    for candidate in candidates {
        let Some(checked) = filter.check(candidate) else { continue };
        is_any_active |= candidate.instance.status == InstanceStatus::Active;
        let Err(reason) = checked else { continue };
        let room = if reason == Reason::Cpu { candidate.cpu } else { candidate.memory };
        if closest.is_none_or(|(other, most, _)| (other, most) < (reason, room)) {
            closest = Some((reason, room, candidate));
        }
    }
    match closest {
        Some((reason, _, candidate)) if is_any_active => {
            Failure { reason, instance: Some(candidate.instance.id.clone()) }
        }
        _ => Failure { reason: Reason::NoInstances, instance: None },
    }
}

/// Which `count` of a service's `tasks` are stopped best, in that order: those that do not run or are
/// unhealthy first, then the mirror of the strategies, of several the youngest.
pub fn stop_order<'a>(
    tasks: &[&'a Task],
    candidates: &[Candidate<'_>],
    strategy: &[Strategy],
    count: usize,
    seed: u64,
) -> Vec<&'a Task> {
    let index_of: HashMap<&str, usize> = candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| (candidate.instance.id.as_str(), index))
        .collect();
    let mut per_instance: HashMap<&str, u32> = HashMap::new();
    for task in tasks {
        *per_instance.entry(task.instance.as_str()).or_default() += 1;
    }
    let mut ranking = Ranking::new(strategy, candidates, |candidate| {
        per_instance.get(candidate.instance.id.as_str()).copied().unwrap_or(0)
    });
    let mut random = Random::new(seed);
    let mut order = Vec::with_capacity(count.min(tasks.len()));
    // On instances that are gone, then such that do not serve, then the others.
    let mut classes: BTreeMap<u8, HashMap<usize, Vec<&'a Task>>> = BTreeMap::new();
    let mut gone = Vec::new();
    for task in tasks {
        match index_of.get(task.instance.as_str()) {
            None => gone.push(*task),
            Some(index) => {
                let class = classes.entry(u8::from(serves(task))).or_default();
                class.entry(*index).or_default().push(task);
            }
        }
    }
    order.extend(gone.into_iter().take(count));
    let mut candidates = candidates.to_vec();
    for mut on in classes.into_values() {
        for tasks in on.values_mut() {
            tasks.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        }
        let mut indexes: Vec<usize> = on.keys().copied().collect();
        indexes.sort_unstable();
        while order.len() < count {
            let mut among = indexes.clone();
            let Some(index) = ranking.worst(&candidates, &mut among, &mut random) else { break };
            let task = on.get_mut(&index).and_then(Vec::pop);
            match task {
                Some(task) => {
                    ranking.removed(index);
                    if let Some(candidate) = candidates.get_mut(index) {
                        candidate.cpu += u64::from(task.reserved.cpu);
                        candidate.memory += u64::from(task.reserved.memory);
                    }
                    order.push(task);
                }
                None => indexes.retain(|other| *other != index),
            }
        }
    }
    order
}

fn serves(task: &Task) -> bool {
    task.last == TaskStatus::Running && task.health != Health::Unhealthy
}
