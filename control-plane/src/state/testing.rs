//! A state for tests.

#![allow(clippy::expect_used)]

use std::sync::Arc;

use super::State;
use crate::store::Redb;

/// A new state in a directory of its own.
pub(crate) async fn open() -> (tempfile::TempDir, Arc<State>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Redb::open(&directory.path().join("store.redb")).expect("a new store");
    let state = State::open(Arc::new(store)).await.expect("a new state");
    (directory, state)
}
