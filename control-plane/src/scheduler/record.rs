//! Writing placements: the tasks, and the guards of their instances.

use std::collections::BTreeMap;

use crate::model::{Guard, Instance, Task};
use crate::state::{Edit, View};

/// Adds new tasks to an edit that was decided on this view. It holds only if no instance of theirs
/// has changed or was placed on meanwhile.
pub fn record<'a>(view: &View, edit: &mut Edit, tasks: impl IntoIterator<Item = &'a Task>) {
    let mut placements: BTreeMap<String, (&Task, u64)> = BTreeMap::new();
    for task in tasks {
        edit.create(task);
        let guard = Guard::key_of(&task.region, &task.cluster, &task.instance);
        placements.entry(guard).or_insert((task, 0)).1 += 1;
    }
    for (key, (task, count)) in placements {
        if let Some(instance) =
            view.instances.get(&Instance::key_of(&task.region, &task.cluster, &task.instance))
        {
            edit.depend(instance);
        }
        let guard = |placements| Guard {
            region: task.region.clone(),
            cluster: task.cluster.clone(),
            instance: task.instance.clone(),
            placements,
        };
        match view.guards.get(&key) {
            Some(before) => edit.update(before, &guard(before.placements.wrapping_add(count))),
            None => edit.create(&guard(count)),
        }
    }
}
