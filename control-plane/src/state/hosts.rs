//! What placement needs of each instance, kept while records come and go, so that nothing has to be
//! counted anew for every task that is placed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use protocol::taskdef::TransportProtocol;

use crate::model::{Connection, Desired, Instance, Task, TaskStatus};

/// Attribute with the zone of an instance.
pub const ZONE: &str = "ecs.availability-zone";

/// What an instance's tasks take of it, and what else placement asks of it often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// CPU units of its live tasks.
    pub cpu: u64,
    /// MiB of its live tasks.
    pub memory: u64,
    /// Static host ports of its live tasks, in order.
    pub ports: Vec<(TransportProtocol, u16)>,
    /// Groups of the live tasks that are to run, with their numbers.
    pub groups: BTreeMap<String, u32>,
    /// Tasks that have not stopped.
    pub live: u32,
    /// Tasks that run and are to run.
    pub running: u32,
    /// Tasks that do not yet run and are to run.
    pub pending: u32,
    /// Its agent is connected.
    pub connected: bool,
    pub zone: Option<String>,
    /// Names of its attributes. Instances with the same names share the set.
    pub attributes: Arc<BTreeSet<String>>,
}

impl Host {
    /// How many of its tasks are of a group.
    pub fn in_group(&self, group: &str) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }

    fn is_unknown(&self) -> bool {
        self.live == 0 && !self.connected && self.attributes.is_empty() && self.zone.is_none()
    }
}

/// All hosts by the key of their instance.
#[derive(Debug, Default)]
pub struct Hosts {
    hosts: BTreeMap<String, Host>,
    /// The sets that are shared.
    attributes: HashSet<Arc<BTreeSet<String>>>,
}

impl Hosts {
    /// The host of an instance, by its key.
    pub fn get(&self, instance: &str) -> Option<&Host> {
        self.hosts.get(instance)
    }

    /// Those of which the key of the instance begins with `prefix`, in the order of the keys.
    pub fn prefix<'a>(&'a self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a Host)> {
        self.hosts
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, host)| (key.as_str(), host))
    }

    pub(super) fn register(&mut self, key: &str, instance: &Instance) {
        let names: BTreeSet<String> = instance.attributes.keys().cloned().collect();
        let names = match self.attributes.get(&names) {
            Some(shared) => Arc::clone(shared),
            None => {
                let names = Arc::new(names);
                self.attributes.insert(Arc::clone(&names));
                names
            }
        };
        let host = self.hosts.entry(key.to_owned()).or_default();
        host.zone = instance.attributes.get(ZONE).cloned().flatten();
        let before = std::mem::replace(&mut host.attributes, names);
        self.release_attributes(before);
    }

    pub(super) fn forget(&mut self, key: &str) {
        if let Some(host) = self.hosts.get_mut(key) {
            host.zone = None;
            let before = std::mem::take(&mut host.attributes);
            self.release_attributes(before);
            self.prune(key);
        }
    }

    pub(super) fn connect(&mut self, connection: &Connection) {
        self.hosts.entry(key_of_connection(connection)).or_default().connected = true;
    }

    pub(super) fn disconnect(&mut self, connection: &Connection) {
        let key = key_of_connection(connection);
        if let Some(host) = self.hosts.get_mut(&key) {
            host.connected = false;
            self.prune(&key);
        }
    }

    /// Counts a task, as it is.
    pub(super) fn add(&mut self, task: &Task) {
        if !task.is_live() {
            return;
        }
        let host = self.hosts.entry(key_of_task(task)).or_default();
        host.live += 1;
        host.cpu += u64::from(task.reserved.cpu);
        host.memory += u64::from(task.reserved.memory);
        for port in &task.reserved.ports {
            let at = host.ports.partition_point(|taken| taken < port);
            host.ports.insert(at, *port);
        }
        if task.desired == Desired::Running {
            *host.groups.entry(task.group.clone()).or_default() += 1;
            match task.last {
                TaskStatus::Running => host.running += 1,
                TaskStatus::Provisioning | TaskStatus::Pending => host.pending += 1,
                TaskStatus::Stopping | TaskStatus::Deprovisioning | TaskStatus::Stopped => {}
            }
        }
    }

    /// Takes a task out of the count, as it was when it was added.
    pub(super) fn remove(&mut self, task: &Task) {
        let key = key_of_task(task);
        let Some(host) = self.hosts.get_mut(&key).filter(|_| task.is_live()) else { return };
        host.live = host.live.saturating_sub(1);
        host.cpu = host.cpu.saturating_sub(u64::from(task.reserved.cpu));
        host.memory = host.memory.saturating_sub(u64::from(task.reserved.memory));
        for port in &task.reserved.ports {
            if let Ok(at) = host.ports.binary_search(port) {
                host.ports.remove(at);
            }
        }
        if task.desired == Desired::Running {
            if let Some(count) = host.groups.get_mut(&task.group) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    host.groups.remove(&task.group);
                }
            }
            match task.last {
                TaskStatus::Running => host.running = host.running.saturating_sub(1),
                TaskStatus::Provisioning | TaskStatus::Pending => {
                    host.pending = host.pending.saturating_sub(1);
                }
                TaskStatus::Stopping | TaskStatus::Deprovisioning | TaskStatus::Stopped => {}
            }
        }
        self.prune(&key);
    }

    fn prune(&mut self, key: &str) {
        if self.hosts.get(key).is_some_and(Host::is_unknown) {
            self.hosts.remove(key);
        }
    }

    /// Drops a set that only we hold.
    fn release_attributes(&mut self, names: Arc<BTreeSet<String>>) {
        // One here, one in the collection.
        if Arc::strong_count(&names) <= 2 {
            self.attributes.remove(&names);
        }
    }
}

fn key_of_task(task: &Task) -> String {
    Instance::key_of(&task.region, &task.cluster, &task.instance)
}

fn key_of_connection(connection: &Connection) -> String {
    Instance::key_of(&connection.region, &connection.cluster, &connection.instance)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;
    use serde_json::json;

    use crate::model::{Connection, Entity, Instance, StopCode, TaskStatus};
    use crate::scheduler::fixtures::{
        CLUSTER, REGION, at, connection, definition, id, instance, task,
    };
    use crate::state::View;

    #[derive(Debug, Clone)]
    enum Step {
        Register(u32, bool),
        Deregister(u32),
        Connect(u32),
        Disconnect(u32),
        Start(u128, u32),
        Run(u128),
        Stop(u128),
        End(u128),
        Forget(u128),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (hosts, tasks) = (0..3_u32, 0..8_u128);
        prop_oneof![
            (hosts.clone(), any::<bool>()).prop_map(|(host, more)| Step::Register(host, more)),
            hosts.clone().prop_map(Step::Deregister),
            hosts.clone().prop_map(Step::Connect),
            hosts.clone().prop_map(Step::Disconnect),
            (tasks.clone(), hosts).prop_map(|(task, host)| Step::Start(task, host)),
            tasks.clone().prop_map(Step::Run),
            tasks.clone().prop_map(Step::Stop),
            tasks.clone().prop_map(Step::End),
            tasks.prop_map(Step::Forget),
        ]
    }

    fn apply(view: &mut View, step: &Step) {
        let web = definition(
            "web",
            json!({"portMappings": [{"containerPort": 80, "hostPort": 8080}]}),
            json!({}),
        );
        let key = |number: u128| task(&web, &id(0), "", number).key();
        match *step {
            Step::Register(host, more) => {
                let mut instance = instance(host, if more { "b" } else { "a" });
                if more {
                    instance.attributes.insert("more".to_owned(), None);
                }
                view.insert(&instance);
            }
            Step::Deregister(host) => view.remove(&Instance::key_of(REGION, CLUSTER, &id(host))),
            Step::Connect(host) => view.insert(&connection(host)),
            Step::Disconnect(host) => view.remove(&Connection::key_of(REGION, CLUSTER, &id(host))),
            Step::Start(number, host) => {
                if view.tasks.get(&key(number)).is_none() {
                    let group = format!("group-{}", number % 2);
                    view.insert(&task(&web, &id(host), &group, number));
                }
            }
            Step::Run(number) | Step::Stop(number) | Step::End(number) => {
                let Some(mut task) = view.tasks.get(&key(number)).map(|t| t.value.clone()) else {
                    return;
                };
                match step {
                    Step::Run(_) if task.is_live() => task.last = TaskStatus::Running,
                    Step::Stop(_) => task.stop(StopCode::UserInitiated, String::new(), at(1)),
                    _ => task.end(at(2)),
                }
                view.insert(&task);
            }
            Step::Forget(number) => view.remove(&key(number)),
        }
    }

    proptest! {
        /// However the records came about, the hosts are those of the records.
        #[test]
        fn hosts_are_those_of_the_records(steps in prop::collection::vec(step(), 0..60)) {
            let mut view = View::default();
            for step in &steps {
                apply(&mut view, step);
            }
            let mut fresh = View::default();
            view.instances.iter().for_each(|record| fresh.insert(&record.value));
            view.connections.iter().for_each(|record| fresh.insert(&record.value));
            view.tasks.iter().for_each(|record| fresh.insert(&record.value));
            prop_assert_eq!(&view.hosts().hosts, &fresh.hosts().hosts);
            prop_assert_eq!(&view.hosts().attributes, &fresh.hosts().attributes);
        }
    }
}
