//! Helpers of the tests.

pub mod monitor;
