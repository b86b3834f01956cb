//! The embedded store: redb.

/// A store in one file.
#[derive(Debug)]
pub struct Redb;
