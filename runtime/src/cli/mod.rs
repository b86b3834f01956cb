//! cli
pub mod monitor;
