//! Everything that is stored, typed and indexed, at one revision.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Deref};

use serde::de::DeserializeOwned;

use super::Error;
use super::hosts::Hosts;
use crate::model::{
    AccessKey, Cluster, Connection, Definition, Entity, Family, Guard, Instance, Role, Service,
    Task, Token,
};
use crate::store::{Change, Changes, KeyValue};

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

impl<T: DeserializeOwned> Table<T> {
    /// Returns what stood there.
    fn put(&mut self, record: &KeyValue) -> Result<Option<T>, Error> {
        let value = serde_json::from_slice(&record.value)
            .map_err(|source| Error::Record { key: record.key.clone(), source })?;
        let before = self.0.insert(record.key.clone(), Stored { modified: record.modified, value });
        Ok(before.map(|stored| stored.value))
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

    pub(super) fn apply(&mut self, changes: &Changes) -> Result<(), Error> {
        for change in &changes.changes {
            match change {
                Change::Put(record) => self.put(record)?,
                Change::Delete { key } => self.delete(key),
            }
        }
        self.revision = changes.revision;
        Ok(())
    }

    /// A view of these records alone.
    #[cfg(test)]
    pub(crate) fn insert<T: Entity>(&mut self, value: &T) {
        let value = KeyValue {
            key: value.key(),
            value: serde_json::to_vec(value).unwrap_or_default(),
            created: 1,
            modified: 1,
            lease: None,
        };
        assert!(self.put(&value).is_ok(), "{} is no record", value.key);
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, key: &str) {
        self.delete(key);
    }

    /// Kinds of a newer version, which this one does not know, are left alone.
    pub(super) fn put(&mut self, record: &KeyValue) -> Result<(), Error> {
        match kind(&record.key) {
            Cluster::PREFIX => self.clusters.put(record).map(drop),
            Family::PREFIX => self.families.put(record).map(drop),
            Definition::PREFIX => self.definitions.put(record).map(drop),
            Instance::PREFIX => {
                self.instances.put(record)?;
                if let Some(instance) = self.instances.get(&record.key) {
                    self.hosts.register(&record.key, instance);
                }
                Ok(())
            }
            Guard::PREFIX => self.guards.put(record).map(drop),
            Connection::PREFIX => {
                self.connections.put(record)?;
                if let Some(connection) = self.connections.get(&record.key) {
                    self.hosts.connect(connection);
                }
                Ok(())
            }
            Task::PREFIX => {
                // A task's instance and service never change.
                if let Some(before) = self.tasks.put(record)? {
                    self.hosts.remove(&before);
                }
                if let Some(task) = self.tasks.get(&record.key) {
                    self.hosts.add(task);
                    let (instance, service) = owners(task);
                    self.by_instance.entry(instance).or_default().insert(record.key.clone());
                    if let Some(service) = service {
                        self.by_service.entry(service).or_default().insert(record.key.clone());
                    }
                }
                Ok(())
            }
            Service::PREFIX => self.services.put(record).map(drop),
            Token::PREFIX => self.tokens.put(record).map(drop),
            AccessKey::PREFIX => self.keys.put(record).map(drop),
            Role::PREFIX => self.roles.put(record).map(drop),
            _ => Ok(()),
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
                    let (instance, service) = owners(&task);
                    forget(&mut self.by_instance, &instance, key);
                    if let Some(service) = service {
                        forget(&mut self.by_service, &service, key);
                    }
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
