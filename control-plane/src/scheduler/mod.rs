//! Placement: which container instance a task goes to. Pure: who calls has the view, the seed and
//! the time.

pub mod query;
