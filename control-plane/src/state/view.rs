//! Everything that is stored, typed and indexed, at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Deref};

use super::Error;
use super::hosts::Hosts;
use crate::model::{
    AccessKey, Cluster, Connection, Definition, Entity, Family, Guard, Instance, Role, Service,
    Task, Token,
};
use crate::store::{Change, Changes, KeyValue, Range};

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// Revision of its last change.
    pub modified: u64,
    pub value: T,
}

impl<T> Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Records of one kind by key.
#[derive(Debug)]
pub struct Table<T>(BTreeMap<String, Stored<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    /// The record with this key.
    pub fn get(&self, key: &str) -> Option<&Stored<T>> {
        self.0.get(key)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Stored<T>> {
        self.0.values()
    }

    /// All with their keys that begin with `prefix`, in order.
    pub fn prefix<'a, 'p>(
        &'a self,
        prefix: &'p str,
    ) -> impl Iterator<Item = (&'a str, &'a Stored<T>)> + use<'a, 'p, T> {
        self.0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, stored)| (key.as_str(), stored))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Table<T> {
    fn put(&mut self, key: String, record: Stored<T>) {
        self.0.insert(key, record);
    }

    fn delete(&mut self, key: &str) -> Option<T> {
        self.0.remove(key).map(|stored| stored.value)
    }
}

/// Everything that is stored.
#[derive(Debug, Default)]
pub struct View {
    pub revision: u64,
    pub clusters: Table<Cluster>,
    pub families: Table<Family>,
    pub definitions: Table<Definition>,
    pub instances: Table<Instance>,
    pub guards: Table<Guard>,
    pub connections: Table<Connection>,
    pub tasks: Table<Task>,
    pub services: Table<Service>,
    pub tokens: Table<Token>,
    pub keys: Table<AccessKey>,
    pub roles: Table<Role>,
    /// Keys of tasks by the key of their instance.
    by_instance: BTreeMap<String, BTreeSet<String>>,
    /// Keys of tasks by the key of their service.
    by_service: BTreeMap<String, BTreeSet<String>>,
    hosts: Hosts,
}

impl View {
    /// All records of a kind.
    pub fn table<T: Entity>(&self) -> &Table<T> {
        T::table(self)
    }

    /// What placement needs of the instances.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// All tasks placed on an instance (by its key), stopped ones included.
    pub fn tasks_on<'a>(
        &'a self,
        instance: &str,
    ) -> impl Iterator<Item = &'a Stored<Task>> + use<'a> {
        self.tasks_of(self.by_instance.get(instance))
    }

    /// All tasks of a service (by its key), stopped ones included.
    pub fn tasks_of_service<'a>(
        &'a self,
        service: &str,
    ) -> impl Iterator<Item = &'a Stored<Task>> + use<'a> {
        self.tasks_of(self.by_service.get(service))
    }

    fn tasks_of<'a>(
        &'a self,
        keys: Option<&'a BTreeSet<String>>,
    ) -> impl Iterator<Item = &'a Stored<Task>> + use<'a> {
        keys.into_iter().flatten().filter_map(|key| self.tasks.get(key))
    }

    /// Whether an instance's agent is connected.
    pub fn is_connected(&self, instance: &Instance) -> bool {
        let key = Connection::key_of(&instance.region, &instance.cluster, &instance.id);
        self.connections.get(&key).is_some()
    }

    /// Takes over what has been read.
    pub(super) fn apply(&mut self, read: Read) {
        for step in read.steps {
            step(self);
        }
        self.revision = read.revision;
    }

    /// A view of these records alone.
    #[cfg(test)]
    pub(crate) fn insert<T: Entity>(&mut self, value: &T) {
        let record = KeyValue {
            key: value.key(),
            value: serde_json::to_vec(value).unwrap_or_default(),
            created: 1,
            modified: 1,
            lease: None,
        };
        let step = read_record(&record);
        assert!(step.is_ok(), "{} is no record", record.key);
        if let Ok(Some(step)) = step {
            step(self);
        }
    }

    #[cfg(test)]
    pub(super) fn indexes(&self) -> [&BTreeMap<String, BTreeSet<String>>; 2] {
        [&self.by_instance, &self.by_service]
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, key: &str) {
        self.delete(key);
    }

    fn put_instance(&mut self, key: String, instance: Stored<Instance>) {
        self.hosts.register(&key, &instance);
        self.instances.put(key, instance);
    }

    fn put_connection(&mut self, key: String, connection: Stored<Connection>) {
        self.hosts.connect(&connection);
        self.connections.put(key, connection);
    }

    fn put_task(&mut self, key: String, task: Stored<Task>) {
        let before = self.tasks.delete(&key);
        // Nearly always: a task's instance and service do not change.
        let is_indexed = before.as_ref().is_some_and(|before| {
            before.instance == task.instance && before.service == task.service
        });
        if let Some(before) = before {
            self.hosts.remove(&before);
            if !is_indexed {
                self.forget_owners(&before, &key);
            }
        }
        if !is_indexed {
            let (instance, service) = owners(&task);
            self.by_instance.entry(instance).or_default().insert(key.clone());
            if let Some(service) = service {
                self.by_service.entry(service).or_default().insert(key.clone());
            }
        }
        self.hosts.add(&task);
        self.tasks.put(key, task);
    }

    fn forget_owners(&mut self, task: &Task, key: &str) {
        let (instance, service) = owners(task);
        forget(&mut self.by_instance, &instance, key);
        if let Some(service) = service {
            forget(&mut self.by_service, &service, key);
        }
    }

    fn delete(&mut self, key: &str) {
        match kind(key) {
            Cluster::PREFIX => drop(self.clusters.delete(key)),
            Family::PREFIX => drop(self.families.delete(key)),
            Definition::PREFIX => drop(self.definitions.delete(key)),
            Instance::PREFIX => {
                self.instances.delete(key);
                self.hosts.forget(key);
            }
            Guard::PREFIX => drop(self.guards.delete(key)),
            Connection::PREFIX => {
                if let Some(connection) = self.connections.delete(key) {
                    self.hosts.disconnect(&connection);
                }
            }
            Task::PREFIX => {
                if let Some(task) = self.tasks.delete(key) {
                    self.hosts.remove(&task);
                    self.forget_owners(&task, key);
                }
            }
            Service::PREFIX => drop(self.services.delete(key)),
            Token::PREFIX => drop(self.tokens.delete(key)),
            AccessKey::PREFIX => drop(self.keys.delete(key)),
            Role::PREFIX => drop(self.roles.delete(key)),
            _ => {}
        }
    }
}

/// What a view is to take over: records that have been read, so that applying cannot fail half way
/// and readers wait for no parser.
pub(super) struct Read {
    revision: u64,
    steps: Vec<Step>,
}

/// One change of a view.
type Step = Box<dyn FnOnce(&mut View) + Send>;

impl Read {
    /// Reads all records, for an empty view.
    pub(super) fn range(range: &Range) -> Result<Self, Error> {
        let steps = range.keys.iter().map(read_record).filter_map(Result::transpose);
        Ok(Self { revision: range.revision, steps: steps.collect::<Result<_, _>>()? })
    }

    /// Reads the changes of a revision.
    pub(super) fn changes(changes: Changes) -> Result<Self, Error> {
        let steps = changes.changes.into_iter().filter_map(|change| match change {
            Change::Put(record) => read_record(&record).transpose(),
            Change::Delete { key } => {
                Some(Ok(Box::new(move |view: &mut View| view.delete(&key)) as Step))
            }
        });
        Ok(Self { revision: changes.revision, steps: steps.collect::<Result<_, _>>()? })
    }
}

/// Reads a record. Kinds of a newer version, which this one does not know, are left alone.
fn read_record(record: &KeyValue) -> Result<Option<Step>, Error> {
    match kind(&record.key) {
        Cluster::PREFIX => read(record, |view, key, value| view.clusters.put(key, value)),
        Family::PREFIX => read(record, |view, key, value| view.families.put(key, value)),
        Definition::PREFIX => read(record, |view, key, value| view.definitions.put(key, value)),
        Instance::PREFIX => read(record, View::put_instance),
        Guard::PREFIX => read(record, |view, key, value| view.guards.put(key, value)),
        Connection::PREFIX => read(record, View::put_connection),
        Task::PREFIX => read(record, View::put_task),
        Service::PREFIX => read(record, |view, key, value| view.services.put(key, value)),
        Token::PREFIX => read(record, |view, key, value| view.tokens.put(key, value)),
        AccessKey::PREFIX => read(record, |view, key, value| view.keys.put(key, value)),
        Role::PREFIX => read(record, |view, key, value| view.roles.put(key, value)),
        _ => Ok(None),
    }
}

fn read<T: Entity>(
    record: &KeyValue,
    put: fn(&mut View, String, Stored<T>),
) -> Result<Option<Step>, Error> {
    let value: T = serde_json::from_slice(&record.value)
        .map_err(|source| Error::Record { key: record.key.clone(), source })?;
    let (key, modified) = (record.key.clone(), record.modified);
    Ok(Some(Box::new(move |view| put(view, key, Stored { modified, value }))))
}

/// The first part of a key, with its `/`.
fn kind(key: &str) -> &str {
    key.split_inclusive('/').next().unwrap_or("")
}

fn owners(task: &Task) -> (String, Option<String>) {
    let instance = Instance::key_of(&task.region, &task.cluster, &task.instance);
    let service =
        task.service.as_ref().map(|name| Service::key_of(&task.region, &task.cluster, name));
    (instance, service)
}

fn forget(index: &mut BTreeMap<String, BTreeSet<String>>, owner: &str, key: &str) {
    if let Some(keys) = index.get_mut(owner) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(owner);
        }
    }
}
