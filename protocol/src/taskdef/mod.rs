//! Task definitions: the RegisterTaskDefinition shape, parsed strictly, validated whole, typed.
//!
//! [`TaskDefinition`] is what the rest of the system sees: it cannot break a rule, and its
//! defaults are filled in.

mod types;

pub use types::*;
