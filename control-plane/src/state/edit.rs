//! Changes to commit, with what they were decided on.

use crate::model::Entity;
use crate::store::{Compare, LeaseId, Operation, Transaction};

use super::Stored;

/// Something the edit was decided on has changed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict;

/// Changes, all or nothing. A record is named once.
#[derive(Debug, Default)]
pub struct Edit {
    transaction: Transaction,
}

impl Edit {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.transaction.operations.is_empty()
    }

    /// A record that must not exist yet.
    pub fn create<T: Entity>(&mut self, value: &T) {
        self.compare(value.key(), 0);
        self.write(value, None);
    }

    /// A new value of a record that must be as it was read.
    pub fn update<T: Entity>(&mut self, before: &Stored<T>, value: &T) {
        self.compare(value.key(), before.modified);
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
        self.compare(key.clone(), before.modified);
        self.transaction.operations.push(Operation::Delete { key });
    }

    /// The decision holds only if this record is as it was read.
    pub fn depend<T: Entity>(&mut self, read: &Stored<T>) {
        self.compare(read.value.key(), read.modified);
    }

    /// The decision holds only if there is no record with this key.
    pub fn depend_on_absence(&mut self, key: String) {
        self.compare(key, 0);
    }

    fn compare(&mut self, key: String, modified: u64) {
        let compare = Compare { key, modified };
        if !self.transaction.compares.contains(&compare) {
            self.transaction.compares.push(compare);
        }
    }

    fn write<T: Entity>(&mut self, value: &T, lease: Option<LeaseId>) {
        // Records are structs of strings, numbers, lists and maps with string keys: writable.
        let value_json = serde_json::to_vec(value).unwrap_or_default();
        debug_assert!(!value_json.is_empty(), "a record could not be written");
        self.transaction.operations.push(Operation::Put {
            key: value.key(),
            value: value_json,
            lease,
        });
    }

    pub(super) fn into_transaction(self) -> Transaction {
        self.transaction
    }
}
