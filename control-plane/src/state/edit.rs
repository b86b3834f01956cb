//! Changes to commit, with what they were decided on.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Entity;
use crate::store::{Compare, LeaseId, Operation, Transaction};

use super::{Error, Stored};

/// Something the edit was decided on has changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict;

/// Changes, all or nothing. What is done last to a record counts.
#[derive(Debug, Default)]
pub struct Edit {
    /// Keys with the revision of their last change, 0 if there was none.
    compares: BTreeSet<(String, u64)>,
    /// By the key.
    operations: BTreeMap<String, Operation>,
    /// A record without a JSON form.
    unwritable: Option<Error>,
}

impl Edit {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.unwritable.is_none()
    }

    /// A record that must not exist yet, unless this edit deletes it.
    pub fn create<T: Entity>(&mut self, value: &T) {
        let key = value.key();
        if !matches!(self.operations.get(&key), Some(Operation::Delete { .. })) {
            self.compares.insert((key, 0));
        }
        self.write(value, None);
    }

    /// A new value of a record that must be as it was read. It is under no lease afterwards.
    pub fn update<T: Entity>(&mut self, before: &Stored<T>, value: &T) {
        self.compares.insert((value.key(), before.modified));
        self.write(value, None);
    }

    /// A record, whatever stood there.
    pub fn put<T: Entity>(&mut self, value: &T) {
        self.write(value, None);
    }

    /// A record that vanishes with a lease, whatever stood there.
    pub fn put_leased<T: Entity>(&mut self, value: &T, lease: LeaseId) {
        self.write(value, Some(lease));
    }

    /// Deletes a record that must be as it was read.
    pub fn delete<T: Entity>(&mut self, before: &Stored<T>) {
        let key = before.value.key();
        self.compares.insert((key.clone(), before.modified));
        self.operations.insert(key.clone(), Operation::Delete { key });
    }

    /// The decision holds only if this record is as it was read.
    pub fn depend<T: Entity>(&mut self, read: &Stored<T>) {
        self.compares.insert((read.value.key(), read.modified));
    }

    /// The decision holds only if there is no record with this key.
    pub fn depend_on_absence(&mut self, key: String) {
        self.compares.insert((key, 0));
    }

    fn write<T: Entity>(&mut self, value: &T, lease: Option<LeaseId>) {
        let key = value.key();
        match serde_json::to_vec(value) {
            Ok(value) => {
                self.operations.insert(key.clone(), Operation::Put { key, value, lease });
            }
            Err(source) => self.unwritable = Some(Error::Unwritable { key, source }),
        }
    }

    pub(super) fn into_transaction(self) -> Result<Transaction, Error> {
        if let Some(error) = self.unwritable {
            return Err(error);
        }
        let compares =
            self.compares.into_iter().map(|(key, modified)| Compare { key, modified }).collect();
        Ok(Transaction { compares, operations: self.operations.into_values().collect() })
    }
}
